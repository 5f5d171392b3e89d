"""Time histogram standardisation by torchio and intensity-normalization; runs in the environment of `matching-peers`.

Prints one line of JSON: CPU milliseconds per volume, the best of five after a first one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def best(call: Callable[[], Any]) -> float:
    spent = []
    for _ in range(6):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return 1000 * min(spent[1:])


def main() -> None:
    import torch
    import torchio
    from intensity_normalization.adapters.images import create_image
    from intensity_normalization.normalizers.population.nyul import NyulNormalizer

    torch.set_num_threads(1)
    arrays = np.load(sys.argv[1])
    image, original = arrays["image"], arrays["original"]
    landmarks = np.percentile(original[original > 0], [1, 10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 99])
    standard = torchio.HistogramStandardization(
        {"t2": 100 * (landmarks - landmarks[0]) / (landmarks[-1] - landmarks[0])}, masking_method=lambda x: x > x.mean()
    )
    subject = torchio.Subject(t2=torchio.ScalarImage(tensor=torch.from_numpy(image[None])))
    nyul = NyulNormalizer()
    other = create_image(image)
    nyul.fit_population([create_image(original), other])
    found = {
        "torchio": best(lambda: standard(subject)),
        "intensity-normalization": best(lambda: nyul.transform(other)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

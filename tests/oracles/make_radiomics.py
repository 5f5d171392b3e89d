"""Compute radiomic features with PyRadiomics, in an environment of its own.

    python tests/oracles/make_radiomics.py --data DIR --fixture tests/fixtures/oracle_radiomics.json

`make oracles` builds the environment and calls this. First-order, GLCM and GLRLM features of `radiomic_slices`, with
PyRadiomics' defaults (bin width 25, distance 1, symmetric, mean over angles) except that masks of one dimension are
allowed; a slice is a volume of one slice. Only numbers, versions and hashes are stored. `count` has the same textures
with 32 bins. The features of every case are in the order of `names`.

    python tests/oracles/make_radiomics.py --serve

reads lines of JSON {"image": path of .npy, "mask": path of .npy or null} and answers each with a line of features.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import radiomic_slices

PACKAGES = ("pyradiomics-bhklab", "numpy", "SimpleITK")
CLASSES = ("firstorder", "glcm", "glrlm")
BIN_COUNT = 32
# Digits that a double needs at most are 17; 12 are far below what is compared.
DIGITS = 12


class Extractor:
    """PyRadiomics on numpy arrays."""

    def __init__(self, **settings: Any) -> None:
        import SimpleITK
        from radiomics import featureextractor

        self._sitk = SimpleITK
        logging.getLogger("radiomics").setLevel(logging.ERROR)
        self._extractor = featureextractor.RadiomicsFeatureExtractor(
            minimumROIDimensions=1, additionalInfo=False, **settings
        )
        self._extractor.disableAllFeatures()
        for name in CLASSES:
            self._extractor.enableFeatureClassByName(name)

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
        """Return the features of an image (Y, X) or (Z, Y, X) inside a mask."""
        if image.ndim == 2:
            image, mask = image[None], mask[None]
        # PyRadiomics in double precision: what it sees of the image is exactly float32.
        arrays = image.astype(np.float64), mask.astype(np.uint8)
        found = self._extractor.execute(*(self._sitk.GetImageFromArray(array) for array in arrays))
        return {name.removeprefix("original_"): float(value) for name, value in found.items()}


def rounded(value: float) -> float | str:
    """JSON has no NaN and no infinity: words instead."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)


def case(image: np.ndarray, mask: np.ndarray, extractors: dict[str, Extractor], names: list[str]) -> dict[str, Any]:
    """Return the row of one case; `names` is filled by the first."""
    found = extractors["width"](image, mask)
    names.extend(found if not names else ())
    counted = extractors["count"](image, mask)
    return {
        "sha256": radiomic_slices.digest(image, mask),
        "width": [rounded(found[name]) for name in names],
        "count": [rounded(counted[name]) for name in names if not name.startswith("firstorder")],
    }


def serve() -> None:
    """Answer requests until the input ends."""
    extractor = Extractor()
    for line in sys.stdin:
        request = json.loads(line)
        image = np.load(request["image"])
        mask = np.load(request["mask"]) if request.get("mask") else np.ones(image.shape, bool)
        sys.stdout.write(json.dumps(extractor(image, mask)) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real images (NNUNET_SPINE_TEST_DATA); left out without it")
    parser.add_argument("--fixture", type=Path)
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    if args.fixture is None:
        parser.error("--fixture or --serve is needed")

    extractors = {"width": Extractor(), "count": Extractor(binCount=BIN_COUNT)}
    names: list[str] = []
    content: dict[str, Any] = {
        "command": "python tests/oracles/make_radiomics.py",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "bin_width": 25.0,
        "bin_count": BIN_COUNT,
        "names": names,
        "synthetic": [],
        "sparse": [],
        "real": [],
    }
    for name in radiomic_slices.SYNTHETIC:
        image, mask = radiomic_slices.synthetic(name)
        content["synthetic"].append({"name": name, **case(image, mask, extractors, names)})
    for seed in range(len(radiomic_slices.SPARSE_SHAPES)):
        content["sparse"].append({"seed": seed, **case(*radiomic_slices.sparse(seed), extractors, names)})
    for row in radiomic_slices.REAL if args.data else ():
        image = radiomic_slices.real_slice(row, args.data)
        for region in radiomic_slices.REGIONS:
            mask = radiomic_slices.region(region, image)
            content["real"].append({**row, "region": region, **case(image, mask, extractors, names)})
    if not content["real"] and args.fixture.exists():
        content["real"] = json.loads(args.fixture.read_text())["real"]
    # One line per case.
    lists = {key: content.pop(key) for key in ("synthetic", "sparse", "real")}
    text = json.dumps(content, indent=1)[:-2]
    for key, rows in lists.items():
        text += f',\n "{key}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]"
    args.fixture.write_text(text + "\n}\n")


if __name__ == "__main__":
    main()

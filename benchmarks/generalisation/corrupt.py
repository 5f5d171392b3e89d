"""Corrupt images with torchio, in the environment that has it.

    python corrupt.py CORRUPTIONS.yaml IMAGES OUT

Writes OUT/<corruption>/<image> for every image file in IMAGES; masks stay valid, because nothing is moved.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torchio
import yaml


def corrupted(image: np.ndarray, affine: np.ndarray, settings: dict[str, Any], seed: int) -> np.ndarray:
    """Return the image (X, Y, Z) after one corruption, on its grid."""
    options = dict(settings)
    transform = getattr(torchio, options.pop("transform"))
    scaled = options.pop("after_zscore", False)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(seed)
    mean, sd = (float(image.mean()), float(image.std())) if scaled else (0.0, 1.0)
    volume = torchio.ScalarImage(tensor=torch.from_numpy((image - mean) / sd)[None], affine=affine)
    result: np.ndarray = transform(**options)(volume).numpy()[0]
    return (result * sd + mean).astype(np.float32)


def main() -> None:
    source, images, out = (Path(a) for a in sys.argv[1:4])
    config = yaml.safe_load(source.read_text())
    for name, settings in config["corruptions"].items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(sorted(images.glob("*.nii.gz"))):
            loaded = nib.load(file)
            array = np.asarray(loaded.dataobj, dtype=np.float32)
            result = corrupted(array, loaded.affine, settings, config["seed"] + number)
            if result.shape != array.shape or not np.isfinite(result).all():
                sys.exit(f"{name} of {file.name} gave shape {result.shape} or values that are not finite")
            nib.save(nib.Nifti1Image(result, loaded.affine), folder / file.name)


if __name__ == "__main__":
    main()

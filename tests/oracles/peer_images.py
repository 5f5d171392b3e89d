"""What SmaugLab makes of one small image, where nothing is random: 150 voxels per entry, to compare ours with.

    .oracles/smauglab/bin/python -W ignore tests/oracles/peer_images.py --fixture tests/fixtures/peer_images.json

`make peers` builds that environment. Only numbers and versions are stored.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (20, 36, 32)
FIXED = {"scale": [1.3, 1.3], "degrees": [0, 0], "translate": [0, 0, 0], "shears": [0, 0]}
# Name, section, entry and its keys; probabilities are 1.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "affine": ("GPU", "RandomAffineGPU", FIXED),
    "brightness": ("GPU", "RandomBrightnessGPU", {"brightness_range": [1.25, 1.25]}),
    "contrast": ("GPU", "RandomContrastGPU", {"contrast_range": [1.2, 1.2]}),
    "equalise": ("GPU", "RandomHistogramEqualizationGPU", {"retain_stats": True}),
    "exp": ("GPU", "RandomExpGPU", {"retain_stats": True}),
    "flip": ("GPU", "RandomFlipTransformGPU", {"flip_axis": [0]}),
    "gamma": ("GPU", "RandomGammaGPU", {"gamma_range": [1.4, 1.4]}),
    "gamma inside": ("GPU", "RandomGammaGPU", {"gamma_range": [1.4, 1.4], "in_seg": 1.0}),
    "gamma outside": ("GPU", "RandomGammaGPU", {"gamma_range": [1.4, 1.4], "out_seg": 1.0}),
    "gamma with statistics": ("GPU", "RandomGammaGPU", {"gamma_range": [0.7, 0.7], "retain_stats": True}),
    "inverse": ("GPU", "RandomInverseGPU", {"retain_stats": True}),
    "inverse gamma": ("GPU", "RandomInvGammaGPU", {"gamma_range": [1.4, 1.4]}),
    "laplace": ("GPU", "RandomLaplaceGPU", {"retain_stats": True}),
    "log1p": ("GPU", "RandomLog1pGPU", {"retain_stats": True}),
    "low resolution": ("GPU", "RandomLowResTransformGPU", {"scale": [0.5, 0.5]}),
    "scharr": ("GPU", "RandomScharrGPU", {"retain_stats": True}),
    "sigmoid": ("GPU", "RandomSigmoidGPU", {"retain_stats": True}),
    "sin": ("GPU", "RandomSinGPU", {"retain_stats": True}),
    "sqrt": ("GPU", "RandomSqrtGPU", {"retain_stats": True}),
    "z-score": ("GPU", "ZscoreNormalizationGPU", {}),
    "CPU blur": ("CPU", "GaussianBlurTransform", {"blur_sigma": [1.0, 1.0]}),
    "CPU contrast": (
        "CPU",
        "ContrastTransform",
        {"contrast_range": [1.2, 1.2], "preserve_range": True, "synchronize_channels": False},
    ),
    "CPU equalise": ("CPU", "HistogramEqualTransform", {"retain_stats": True}),
    "CPU inverted gamma": ("CPU", "InvertedGammaTransform", {"gamma": [1.4, 1.4]}),
    "CPU laplace": ("CPU", "LaplaceConvTransform", {"retain_stats": True}),
    "CPU scaling": (
        "CPU",
        "SpatialTransform",
        {
            "patch_center_dist_from_border": 0,
            "random_crop": False,
            "p_scaling": 1.0,
            "scaling": [0.75, 0.75],
            "p_synchronize_scaling_across_axes": 1,
        },
    ),
    "CPU sin": ("CPU", "SinTransform", {"retain_stats": True}),
}


def image() -> tuple[np.ndarray, np.ndarray]:
    """Return a z-scored image of a body with two structures in air, (Z, Y, X), and its labels."""
    rng = np.random.default_rng(7)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    labels = np.zeros(SHAPE, np.int16)
    labels[4 * (z - 10) ** 2 + (y - 15) ** 2 + (x - 16) ** 2 < 90] = 1
    labels[5:15, 24:30, 8:24] = 2
    texture = np.sin(x / 3.0) * np.cos(y / 4.0) * np.sin(z / 2.5 + 1)
    signal = 0.4 + 0.6 * (labels == 1) + 1.2 * (labels == 2) + 0.12 * texture
    signal = signal * ((y - 18) ** 2 + (x - 16) ** 2 < 15.5**2) + 0.01 * rng.standard_normal(SHAPE)
    signal = np.abs(signal)
    return ((signal - signal.mean()) / signal.std()).astype(np.float32), labels


def places() -> np.ndarray:
    """Return the voxels that are stored, as positions in the flattened image."""
    return np.sort(np.random.default_rng(1).choice(int(np.prod(SHAPE)), 150, replace=False))


def settings(name: str, *, given: bool = False) -> dict[str, Any]:
    """Return the configuration of a case; `given`: with the probability where the entry has one."""
    section, entry, keys = CASES[name]
    chance = {} if entry == "SpatialTransform" or not given else {"p": 1.0}
    return {section: {entry: {**keys, **chance}}, "pipeline": {"same_on_batch": False}}


def compute(name: str, folder: Path) -> list[float]:
    """Run one case in SmaugLab and return the stored voxels."""
    import torch
    from smauglab.transforms.cpu.transforms import AugTransforms
    from smauglab.transforms.gpu.transforms import AugTransformsGPU

    values, labels = image()
    config = folder / f"{len(list(folder.iterdir()))}.json"
    config.write_text(json.dumps(settings(name, given=True)), encoding="utf-8")
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, nnU-Net draws from it
    tensor = torch.from_numpy(values)[None, None]
    if CASES[name][0] == "GPU":
        mask = torch.stack([torch.from_numpy(labels == k).float() for k in (1, 2)])[None]
        result = AugTransformsGPU(str(config))(tensor, mask)[0][0, 0]
    else:
        chain = AugTransforms(str(config), False, SHAPE, (0.0, 0.0), None)
        result = chain(image=tensor[0], segmentation=torch.from_numpy(labels)[None])["image"][0]
    return [round(float(v), 4) for v in result.numpy().ravel()[places()]]


def main() -> None:
    """Write the values of every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixture", type=Path, required=True)
    fixture = parser.parse_args().fixture
    with tempfile.TemporaryDirectory() as folder:
        values = {name: compute(name, Path(folder)) for name in CASES}
    record = {
        "command": ".oracles/smauglab/bin/python -W ignore tests/oracles/peer_images.py --fixture " + str(fixture),
        "versions": {name: version(name) for name in ("smauglab", "torch", "kornia", "batchgeneratorsv2")},
        "values": values,
    }
    lines = (
        json.dumps(record, indent=1, sort_keys=True)
        .replace(",\n   ", ", ")
        .replace("[\n   ", "[")
        .replace("\n  ]", "]")
    )
    fixture.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Contact sheets of every transform of the augmentation, to look at: original, low, medium and high strength.

Example: ``python benchmarks/augmentation_sheets.py -i phantom_0000.nii.gz --seg phantom.nii.gz -o sheets`` writes
``sheets/<stage>_<number>.png``. High is the far end of every default range, low and medium the same at a strength of
0.25 and 0.6; settings that a strength does not scale go from the lower to the upper end.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.ranges import Range, is_range
from nnunet_spine_ext.augment.transform import STAGES, Transform, registry
from nnunet_spine_ext.core.io import write_bytes
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.png import encode_png
from nnunet_spine_ext.render.sheet import contact_sheet
from nnunet_spine_ext.render.window import window
from nnunet_spine_ext.training.augment_sheet import Look, best_plane, best_position, cell, describe
from nnunet_spine_ext.training.network_input import NetworkInput, network_input
from nnunet_spine_ext.training.on_device import DeviceAugmentation
from nnunet_spine_ext.training.targets import Targets

LEVELS = {"low": 0.25, "medium": 0.6, "high": 1.0}
# Drawn anew for every label or class: one number for all of them would show nothing.
DRAWN = {
    "gaussian_mixture": {"mean", "sd"},
    "palette": {"value"},
    "redistribute": {"shift", "gain"},
    "region_palette": {"value"},
}
SQUARE = ("rot90", "transpose")
# Makes a transform of rare draws show itself.
ALWAYS: dict[str, dict[str, Any]] = {"flip": {"axis_p": 1.0}}


def at_level(cls: type[Transform], share: float) -> dict[str, Any]:
    """Return settings: what a strength scales is at the far end of its range, the rest `share` of the way."""
    settings: dict[str, Any] = {"name": cls.name, "p": 1.0}
    default = cls()
    for item in dataclasses.fields(cls):
        value = getattr(default, item.name)
        if is_range(item) and value.kind not in ("constant", "normal") and item.name not in DRAWN.get(cls.name, ()):
            settings[item.name] = _value(value, item.metadata.get("neutral"), share)
    return settings | ALWAYS.get(cls.name, {})


def _value(given: Range, neutral: float | None, share: float) -> float:
    if given.kind == "choice":
        ordered = sorted(given.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    low, high = given.values
    if neutral is not None:
        far = (lambda v: abs(math.log(v / neutral))) if given.kind == "log" else (lambda v: abs(v - neutral))
        return max((high, low), key=far)
    return low * (high / low) ** share if given.kind == "log" else low + share * (high - low)


def augmented(
    case: NetworkInput, settings: dict[str, Any], strength: float = 1.0, draw: int = 0
) -> tuple[Array, Array, str]:
    """Return images (C, …), labels and the caption of one sample."""
    config = AugmentConfig.from_dict({"transforms": [settings]})
    # What has no weaker form would only be rarer.
    graded = all(transform.graded for _, transform in config.flat())
    pipeline = Pipeline(config, case.context.at_strength(strength if graded else 1.0))
    plan = pipeline.plan([SampleKey(0, case.name, 0, draw)])
    labels = np.zeros(case.images.shape[1:], np.int16) if case.labels is None else case.labels
    device = DeviceAugmentation(pipeline, Targets(), highest=max(case.context.labels))
    images, target = device.apply(torch.from_numpy(case.images)[None], torch.from_numpy(labels)[None, None], plan)
    assert isinstance(target, torch.Tensor)
    return images[0].numpy(), target[0, 0].numpy().astype(np.int16), describe(plan.samples[0])


def squared(case: NetworkInput) -> NetworkInput:
    """Return the middle of a case with as many voxels along the two longest axes: some transforms need that."""
    shape = case.context.shape
    side = sorted(shape)[-2]
    cuts = [slice((n - side) // 2, (n - side) // 2 + side) if n > side else slice(None) for n in shape]
    ras = case.grid.to("RAS")
    # The axes of RAS, from the last one: one slice has none in the array.
    order = [axis for axis in (2, 1, 0) if ras.shape[axis] > 1]
    box = [slice(None)] * 3
    for axis, cut in zip(order, cuts, strict=True):
        box[axis] = cut
    images = np.ascontiguousarray(case.images[(slice(None), *cuts)])
    labels = None if case.labels is None else np.ascontiguousarray(case.labels[tuple(cuts)])
    grid = ras.crop((box[0], box[1], box[2]))
    context = dataclasses.replace(case.context, shape=images.shape[1:], source_shape=None)
    return dataclasses.replace(case, images=images, labels=labels, grid=grid, context=context)


def row(case: NetworkInput, cls: type[Transform], planes: Sequence[str], size: int) -> list[Array]:
    """Return original, low, medium and high; label contours where the warp moves them; several planes side by side."""
    case = squared(case) if cls.name in SQUARE else case
    limits = [window(channel) for channel in case.images]
    samples = [(case.images, case.labels, "original")]
    for level, share in LEVELS.items():
        images, labels, caption = augmented(case, at_level(cls, share), share)
        samples.append((images, labels, f"{level}: {caption}"))
    cells = []
    for images, labels, caption in samples:
        mask = None if labels is None else case.volume(labels)
        volumes = [case.volume(channel) for channel in images]
        start = None if case.labels is None else case.volume(case.labels)
        views = []
        for plane in planes:
            position = best_position(case.grid, start, plane, case.facts["scheme"])
            look = Look(plane, position, size, contours=cls.stage == "warp")
            views.append(cell(volumes, mask, caption if plane == planes[0] else "", look, limits))
        height = max(v.shape[0] for v in views)
        padded = [np.pad(v, ((0, height - v.shape[0]), (0, 0), (0, 0))) for v in views]
        cells.append(np.concatenate(padded, axis=1))
    return cells


def main() -> None:
    """Read the command line and write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-i", required=True, nargs="+")
    parser.add_argument("--seg")
    parser.add_argument("-o", required=True)
    parser.add_argument("--only", nargs="+", help="names of transforms or stages")
    parser.add_argument("--planes", nargs="+")
    parser.add_argument("--size", type=int, default=420)
    parser.add_argument("--rows", type=int, default=3, help="transforms per page")
    args = parser.parse_args()
    case = network_input(args.i, args.seg)
    planes = args.planes or [best_plane(case.grid)]
    for stage in STAGES:
        chosen = [
            cls
            for cls in registry().values()
            if cls.stage == stage and (not args.only or {cls.name, stage} & set(args.only))
        ]
        for number in range(0, len(chosen), args.rows):
            rows = [row(case, cls, planes, args.size) for cls in chosen[number : number + args.rows]]
            path = Path(args.o) / f"{stage}_{number // args.rows + 1:02d}.png"
            write_bytes(path, encode_png(contact_sheet(rows)))
            print(path, ", ".join(cls.name for cls in chosen[number : number + args.rows]))


if __name__ == "__main__":
    main()

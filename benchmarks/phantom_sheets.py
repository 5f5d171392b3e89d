"""Contact sheets of digital spines, to look at: labels, instances and a T2-like rendering in three planes.

Example: ``python benchmarks/phantom_sheets.py --seed 3 --region lumbar --spacing 1 0.7 0.7 -o /tmp/phantom_lumbar``
writes ``…_sagittal.png``, ``…_axial.png`` and ``…_coronal.png``.
"""

from __future__ import annotations

import argparse
import ast
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from nnunet_spine_ext.phantom.paint import Painted, paint
from nnunet_spine_ext.phantom.parameters import sample_parameters
from nnunet_spine_ext.phantom.spine import Spine, build_spine
from nnunet_spine_ext.phantom.tissues import TISSUES

BRIGHTNESS = {
    "skin": 0.25, "fat": 0.8, "muscle": 0.15, "cortical": 0.02, "marrow": 0.38, "endplate": 0.03, "annulus_outer": 0.08,
    "annulus_inner": 0.25, "nucleus": 0.75, "nucleus_degenerated": 0.4, "nucleus_dark": 0.15, "csf": 1.0,
    "cord_wm": 0.42, "cord_gm": 0.5, "roots": 0.45, "ligament": 0.05, "epidural_fat": 0.85, "blood_flow": 0.03,
    "vein": 0.6, "lung": 0.04, "organ": 0.3, "bowel": 0.45, "brain": 0.5, "cartilage": 0.12, "oedema": 0.6,
    "haemangioma": 0.8, "modic_fat": 0.7, "sclerosis": 0.05, "disc_fissure": 0.8,
}  # fmt: skip
"""Rough T2-weighted brightness, for looking only."""


SHOWN = ("C1", "C2", "C2/C3", "C4", "C5", "T1", "T4", "T8", "T12", "L1", "L3", "L3/L4", "L4/L5", "S1")


def _colours(semantic: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours of labels and of instances."""
    labels = np.zeros((256, 3))
    labels[1:15] = plt.get_cmap("tab20")(np.arange(14))[:, :3]
    owners = np.zeros((256, 3))
    owners[1:] = plt.get_cmap("hsv")(np.random.default_rng(0).random(255))[:, :3]
    return labels[semantic], owners[instances]


def _panel(axes: np.ndarray, images: list[np.ndarray], aspect: float, title: str) -> None:
    for axis, image in zip(axes, images, strict=True):
        shown = image.transpose(1, 0, 2) if image.ndim == 3 else image.T
        axis.imshow(shown, origin="lower", cmap="gray", vmin=0, vmax=1, aspect=aspect)
        axis.set_title(title, fontsize=18)
        axis.axis("off")


def sheets(spine: Spine, painted: Painted, affine: np.ndarray, factor: list[int], out: str) -> None:
    """Write the three sheets."""
    spacing, shape = np.diag(affine)[:3], painted.semantic.shape
    fine = np.array([BRIGHTNESS.get(name, 0.0) for name in TISSUES])[painted.tissue]
    blocks = [n for pair in zip(shape, factor, strict=True) for n in pair]
    image = fine.reshape(blocks).mean((1, 3, 5))
    labels, owners = _colours(painted.semantic, painted.instances)
    layers = (labels, owners, image)

    def index(axis: int, mm: float) -> int:
        return int(np.clip(round((mm - affine[axis, 3]) / spacing[axis]), 0, shape[axis] - 1))

    high = affine[2, 3] + spacing[2] * shape[2]
    names = [n for n in spine.marks if "_" not in n and affine[2, 3] < spine.landmark(n)[2] < high]
    middle = spine.landmark(names[len(names) // 2])
    offsets = (0.0, 8.0, 14.0, -14.0, 22.0)
    figure, axes = plt.subplots(3, len(offsets), figsize=(30, 30))
    for column, offset in enumerate(offsets):
        i = index(0, middle[0] + offset)
        _panel(axes[:, column], [layer[i][::-1] for layer in layers], spacing[2] / spacing[1], f"x {offset:+.0f}")
    figure.tight_layout(pad=0.3)
    figure.savefig(f"{out}_sagittal.png", dpi=40)
    picked = [name for name in SHOWN if name in names]
    figure, axes = plt.subplots(3, len(picked), figsize=(5 * len(picked), 15), squeeze=False)
    for column, name in enumerate(picked):
        x, y, z = spine.landmark(name)
        view = slice(index(0, x - 55), index(0, x + 55) + 1), slice(index(1, y - 75), index(1, y + 45) + 1)
        k = index(2, z)
        _panel(axes[:, column], [layer[:, :, k][view] for layer in layers], spacing[1] / spacing[0], name)
    figure.tight_layout(pad=0.3)
    figure.savefig(f"{out}_axial.png", dpi=45)
    depths = (0.0, -15.0, -25.0, -32.0, -40.0, -48.0)
    figure, axes = plt.subplots(3, len(depths), figsize=(5 * len(depths), 30))
    for column, offset in enumerate(depths):
        j = index(1, middle[1] + offset)
        _panel(axes[:, column], [layer[:, j] for layer in layers], spacing[2] / spacing[0], f"y {offset:+.0f}")
    figure.tight_layout(pad=0.3)
    figure.savefig(f"{out}_coronal.png", dpi=40)
    plt.close("all")


def main() -> None:
    """Read the command line, paint one spine, write its sheets and print its volumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", default="phantom")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--region", default="lumbar")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 0.8, 0.8))
    parser.add_argument("--supersample", type=int, nargs=3, default=(1, 1, 1))
    parser.add_argument("--half-width", type=float)
    parser.add_argument("--set", default="{}", help="overrides as a Python dictionary, e.g. \"{'scoliosis': 30}\"")
    args = parser.parse_args()
    parameters = sample_parameters(args.seed, **ast.literal_eval(args.set))
    spine = build_spine(parameters)
    view = spine.field_of_view(args.region, half_width=args.half_width)
    affine = np.diag([*args.spacing, 1.0])
    affine[:3, 3] = view[0] + 0.5 * np.array(args.spacing)
    shape = np.ceil((view[1] - view[0]) / args.spacing).astype(int).tolist()
    start = time.perf_counter()
    painted = paint(spine, affine, shape, args.supersample)
    print(f"{shape} x {args.supersample}: {time.perf_counter() - start:.1f} s")
    print([f"{f.kind} {f.level}" for f in parameters.pathologies])
    millilitres = float(np.prod(args.spacing)) / 1000.0
    for name, array in (("labels", painted.semantic), ("instances", painted.instances)):
        values, counts = np.unique(array, return_counts=True)
        print(name, {int(v): round(float(c) * millilitres, 1) for v, c in zip(values, counts, strict=True) if v})
    sheets(spine, painted, affine, list(args.supersample), args.o)


if __name__ == "__main__":
    main()

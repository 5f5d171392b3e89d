"""One subject in several contrasts: the same anatomy and tissues, moved a little between scans, with the exact truth.

The subject's header says that it did not move: as on a real scanner, the shift between two contrasts is in the image,
not in the affine. What is known: the fraction of each voxel that is cord, and the area of the cord at each slice.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.phantom.acquisition import draw_settings, form_image
from nnunet_spine_ext.phantom.cord import Tube
from nnunet_spine_ext.phantom.paint import paint
from nnunet_spine_ext.phantom.parameters import sample_parameters
from nnunet_spine_ext.phantom.scan import scan_grid
from nnunet_spine_ext.phantom.shapes import Grid
from nnunet_spine_ext.phantom.signal import Texture, signal_table
from nnunet_spine_ext.phantom.spine import Spine, build_spine
from nnunet_spine_ext.phantom.tissues import TISSUE_ID, marrow_fat_fraction, tissue_properties
from softness.contrasts import Contrast

SHIFT = (1.2, 1.2, 1.5)
"""Standard deviation of the movement between two scans in mm (right, front, up), cut at two of them."""
KINDS = ("healthy", "compressed", "lesioned")


@dataclass(frozen=True)
class Shot:
    """One image with its truth.

    `image`: int16. `cord`: fraction of each voxel that is cord, float32. `slices`: of `truth.slice_areas`, with
    `area_mm2` perpendicular to the cord and its `level`. `shift`: of the subject against the header, mm RAS.
    """

    contrast: str
    image: Volume
    cord: Volume
    slices: list[dict[str, float]]
    shift: tuple[float, float, float]


def shoot(seed: int, contrasts: Sequence[Contrast], kind: str = "healthy") -> list[Shot]:
    """Scan subject `seed` once per contrast; equal arguments give equal images, whatever else is scanned."""
    torch.set_num_threads(1)
    findings = {"findings": "stenosis:C4:0.9,protrusion:C4:0.8"} if kind == "compressed" else {}
    # C1 to L5 in all: without anomalies, levels mean the same in every subject.
    parameters = sample_parameters(seed, anomalies="none", pathologies=False, **findings)
    spine = build_spine(parameters)
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    if kind == "compressed":
        spine = compressed(spine, level=4.5, depth=float(rng.uniform(0.3, 0.45)))
    return [_shot(spine, seed, contrast, kind) for contrast in contrasts]


def compressed(spine: Spine, level: float, depth: float, reach: float = 0.35) -> Spine:
    """Return the spine with its cord flattened from in front: half depth times 1 - `depth`, a little wider.

    The bell over levels has the standard deviation `reach`. The sac follows the cord; areas stay exact, because both
    remain tubes.
    """

    def bell(tube: Tube) -> Array:
        return np.exp(-0.5 * ((tube.level - level) / reach) ** 2)

    cord, sac = spine.cord, spine.sac
    flat = replace(
        cord,
        half_front=cord.half_front * (1 - depth * bell(cord)),
        half_right=cord.half_right * (1 + 0.06 * bell(cord)),
    )
    close = np.interp(sac.level, flat.level, flat.half_front) + 0.5
    narrow = sac.half_front + (np.minimum(close, sac.half_front) - sac.half_front) * bell(sac)
    return replace(spine, cord=flat, sac=replace(sac, half_front=narrow))


def _shot(spine: Spine, seed: int, contrast: Contrast, kind: str) -> Shot:
    code = zlib.crc32(contrast.name.encode())
    rng = np.random.default_rng((seed, code))
    shift = np.clip(rng.normal(size=3), -2, 2) * np.array(SHIFT)
    grid = scan_grid(_box(spine, contrast), contrast.protocol, np.zeros(3))
    moved = grid.affine.copy()
    # What the scanner calls a place is elsewhere in the subject.
    moved[:3, 3] -= shift
    painted = paint(spine, moved, grid.shape, grid.supersample)
    tissue = painted.tissue
    if kind == "lesioned":
        _lesions(spine, Grid(moved, grid.shape).refined(grid.supersample), tissue, seed, rng)
    person = np.random.default_rng((seed, 1))
    parameters, protocol = spine.parameters, contrast.protocol
    fat = marrow_fat_fraction(parameters.age, parameters.sex, person)
    properties = tissue_properties(protocol.field_strength, rng=person, marrow_fat=fat)
    fibres = torch.Generator().manual_seed(seed)
    semantic = Volume(painted.semantic, moved)
    vertical = int(np.argmax(np.abs(moved[2, :3])))
    extent = (np.asarray(grid.shape) * np.asarray(semantic.spacing)).tolist()
    flow = float(rng.uniform(0.1, 0.6)) if protocol.contrast == "T2w" else 0.0
    texture = Texture(extent, vertical, fibres, muscle_fat=parameters.body.muscle_fat, flow=flow)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    image = form_image(
        tissue, semantic, protocol, signal_table(protocol, properties), texture, draw_settings(protocol, rng), generator
    )
    slices = painted.levels["cord"]["slices"]
    return Shot(
        contrast.name, Volume(image.array, grid.affine), Volume(painted.cord_fraction, grid.affine), slices,
        tuple(float(value) for value in shift),
    )  # fmt: skip


def _box(spine: Spine, contrast: Contrast) -> Array:
    """Return the scanned box, (2, 3) in RAS+ mm, round the cord, or round the sac where there is no cord."""
    sac = spine.sac
    part = (sac.level >= contrast.levels[0]) & (sac.level <= contrast.levels[1])
    low, high = sac.points[part].min(axis=0), sac.points[part].max(axis=0)
    margin = np.array([contrast.half[0], contrast.half[1], 0.0])
    return np.stack([low - margin, high + margin])


def _lesions(spine: Spine, fine: Grid, tissue: Array, seed: int, rng: np.random.Generator) -> None:
    """Paint two or three ellipsoids with more free water into the cord: part of their sub-voxels become fluid.

    Where they are belongs to the subject (`seed`), which sub-voxels to the scan.
    """
    own = np.random.default_rng((seed, 7))
    cord_tissue = [TISSUE_ID["cord_wm"], TISSUE_ID["cord_gm"]]
    for _ in range(int(own.integers(2, 4))):
        level, half, share = own.uniform(1.8, 6.0), own.uniform((2.0, 1.5, 4.0), (3.5, 2.5, 9.0)), own.uniform(0.3, 0.5)
        where = int(np.argmin(np.abs(spine.cord.level - level)))
        side, front = own.uniform(-0.5, 0.5, 2)
        centre = spine.cord.points[where] + side * spine.cord.half_right[where] * spine.cord.right[where]
        centre = centre + front * spine.cord.half_front[where] * spine.cord.front[where]
        corners = np.array([fine.inverse[:3, :3] @ (centre + sign * half) + fine.inverse[:3, 3] for sign in (-1, 1)])
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, fine.shape)
        if (low >= high).any():
            continue
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        index = np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1)
        world = index @ fine.affine[:3, :3].T + fine.affine[:3, 3]
        inside = (((world - centre) / half) ** 2).sum(axis=-1) < 1
        wet = inside & np.isin(tissue[box], cord_tissue) & (rng.random(inside.shape) < share)
        tissue[box][wet] = TISSUE_ID["csf"]


def noise_only(shot: Shot, seed: int) -> Volume:
    """Return an image without anything in it: Rician noise on the grid of a shot, as strong as its own air would be."""
    rng = np.random.default_rng(seed)
    sigma = 0.05 * float(np.percentile(shot.image.array, 95))
    real, imaginary = rng.normal(0, sigma, (2, *shot.image.shape))
    return shot.image.with_array(np.hypot(real, imaginary).astype(np.int16))


def facts(shot: Shot) -> dict[str, Any]:
    """Return the truth of a shot as JSON."""
    return {"contrast": shot.contrast, "shift": [round(v, 4) for v in shot.shift], "slices": shot.slices}

"""Changes of a painted spine that no parameter of the phantom makes: missing bodies, clefts, bridges, noise, borders.

Masks are arrays along P, I, R with a voxel size in mm along these. An edit takes and returns the semantic mask with ids
of nnunet14 and the instances with spineps ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from nnunet_spine_ext.core.volume import Array

SACRUM, CORPUS, CORD, CANAL, ENDPLATE, DISC = 1, 10, 11, 12, 13, 14
COSTAL = (4, 5)
POSTERIOR = tuple(range(2, 10))
SACRUM_ID = 26

Spacing = tuple[float, float, float]
Masks = tuple[Array, Array]
Edit = Callable[[Array, Array, Spacing], Masks]


def box_of(mask: Array, margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the slices round the set voxels, widened by a margin and cut at the edges."""
    slices = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        slices.append(slice(max(0, int(used[0]) - margin), min(mask.shape[axis], int(used[-1]) + 1 + margin)))
    return slices[0], slices[1], slices[2]


def without_c1(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
    """Take C1 out, and what of cord and canal lies more than a centimetre above C2: the 14 classes have no atlas."""
    semantic = np.where(instances == 1, 0, semantic)
    top = int(np.flatnonzero((instances == 2).any(axis=(0, 2)))[0]) - round(10 / spacing[1])
    semantic[:, : max(0, top)] = 0
    return semantic, np.where(instances == 1, 0, instances)


def missing_bodies(*ids: int) -> Edit:
    """Turn the bodies of some vertebrae into background; their posterior elements stay."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        gone = (semantic == CORPUS) & np.isin(instances, ids)
        return np.where(gone, 0, semantic), np.where(gone, 0, instances)

    return edit


def missing_discs(*above: int) -> Edit:
    """Turn the discs below some vertebrae into background; the endplates stay."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        gone = np.isin(instances, [100 + k for k in above])
        return np.where(gone, 0, semantic), np.where(gone, 0, instances)

    return edit


def cleft(vertebra: int) -> Edit:
    """Divide a body by a sagittal gap of one slice (butterfly vertebra)."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        body = (semantic == CORPUS) & (instances == vertebra)
        weight = body.sum(axis=(0, 1))
        middle = round(float(np.average(np.arange(len(weight)), weights=weight)))
        gone = np.zeros_like(body)
        gone[:, :, middle] = body[:, :, middle]
        return np.where(gone, 0, semantic), np.where(gone, 0, instances)

    return edit


def bridged(*above: int, share: float = 0.3) -> Edit:
    """Turn the front of some discs and endplates into bone that joins the bodies (syndesmophytes).

    Each voxel of the bridge belongs to the nearer body.
    """

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        semantic, instances = semantic.copy(), instances.copy()
        for vertebra in above:
            gap = np.isin(instances, (100 + vertebra, 200 + vertebra))
            front = np.quantile(np.flatnonzero(gap.any(axis=(1, 2))), share)
            box = box_of(gap, 9)
            bridge = gap[box].copy()
            bridge[max(0, int(front) - box[0].start) :] = False
            far = [
                distance_transform_edt(~((semantic[box] == CORPUS) & (instances[box] == k)), sampling=spacing)
                for k in (vertebra, vertebra + 1)
            ]
            semantic[box][bridge] = CORPUS
            instances[box][bridge] = np.where(far[0] <= far[1], vertebra, vertebra + 1)[bridge]
        return semantic, instances

    return edit


def sacralised(vertebra: int = 24, reach_mm: float = 14.0) -> Edit:
    """Join the transverse processes of the last vertebra with the sacrum by bone (costal label)."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        semantic, instances = semantic.copy(), instances.copy()
        sacrum = semantic == SACRUM
        for label in COSTAL:
            process = (semantic == label) & (instances == vertebra)
            box = box_of(process, round(reach_mm / spacing[0]))
            near = distance_transform_edt(~process[box], sampling=spacing)
            ala = distance_transform_edt(~sacrum[box], sampling=spacing)
            joined = (near + ala <= max(reach_mm, float((near + ala).min()) + 2.0)) & (semantic[box] == 0)
            semantic[box][joined] = label
            instances[box][joined] = vertebra
        return semantic, instances

    return edit


def without_posterior(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
    """Leave bodies, discs, endplates, canal and sacrum only."""
    gone = np.isin(semantic, POSTERIOR)
    return np.where(gone, 0, semantic), np.where(gone, 0, instances)


def only(vertebrae: Sequence[int]) -> Edit:
    """Leave some vertebrae with the discs and endplates between them, and the canal at their height."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        kept = [*vertebrae, *(k + offset for k in vertebrae[:-1] for offset in (100, 200))]
        own = np.isin(instances, kept)
        height = box_of(np.isin(instances, vertebrae))[1]
        canal = np.isin(semantic, (CORD, CANAL))
        canal[:, : height.start] = canal[:, height.stop :] = False
        return np.where(own | canal, semantic, 0), np.where(own, instances, 0)

    return edit


def cut_through(top: int | None, bottom: int | None) -> Edit:
    """End the picture in the middle of the bodies of two vertebrae (None: do not cut there)."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        first = 0 if top is None else _middle(semantic, instances, top)
        last = semantic.shape[1] if bottom is None else _middle(semantic, instances, bottom)
        return semantic[:, first:last].copy(), instances[:, first:last].copy()

    return edit


def noise(share: float, seed: int, *, everywhere: bool) -> Edit:
    """Give a share of all voxels a random label, or of those that have one; the true instances stay what they are."""

    def edit(semantic: Array, instances: Array, spacing: Spacing) -> Masks:
        rng = np.random.default_rng(seed)
        semantic = semantic.copy()
        hit = rng.random(semantic.shape, dtype=np.float32) < share
        if not everywhere:
            hit &= semantic > 0
        semantic[hit] = rng.integers(0, DISC + 1, int(hit.sum()), dtype=np.uint8)
        return semantic, instances

    return edit


def _middle(semantic: Array, instances: Array, vertebra: int) -> int:
    rows = np.flatnonzero(((semantic == CORPUS) & (instances == vertebra)).any(axis=(0, 2)))
    return int(rows[0] + rows[-1]) // 2

"""What happens to the signal before it is sampled: voids at metal, fat that is recorded beside its place.

Both act on the magnitude, which is what exceeds air. Everything but the voxels is known on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.augment.axis_matrices import AxisWork, axis_matrix, shift_matrix
from nnunet_spine_ext.augment.axis_products import PackedBand, pack_band
from nnunet_spine_ext.augment.batch import voxelwise
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot

# In units of the ellipsoid's radius: signal is gone up to the first and back at the second; the rim lies about the
# third with this width.
_GONE, _BACK = 0.75, 1.0
_RIM, _RIM_WIDTH = 1.12, 0.1
_REACH = 1.45
# Fat fractions of labels are blurred by so many voxels along axes up to so much coarser than the finest.
_SOFT, _THIN = 1.0, 1.5
# Bright voxels are taken for fat: from this part of the span to that.
_FAT_FROM, _FAT_TO = 0.25, 0.5


@dataclass(frozen=True)
class Void:
    """An ellipsoid without signal, and the signal piled up at its rim towards one end of the axis `read`.

    `low`, `high`: the box of voxels that is touched. `centre`: in voxels. `rows`: millimetres of each axis to radii.
    `rim`: height of the rim in units of the signal there.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    centre: tuple[float, ...]
    spacing: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    read: int
    rim: float


@dataclass(frozen=True)
class FatShift:
    """Fat moved along one axis. `fractions`: packed, of fat, by label id, and one more for ids beyond.

    `matrices`: of each axis what its image changes by, None for the axes along which it does not move. `smooth`: blur
    of each axis, None for none: labels end between voxels, fat does not end in steps.
    """

    matrices: tuple[PackedBand | None, ...]
    smooth: tuple[PackedBand | None, ...]
    fractions: Slot


def make_void(
    context: Context, centre: Sequence[float], rows: Sequence[Sequence[float]], read: int, rim: float
) -> Void | None:
    """Return the void about `centre` (mm from the middle of the patch), or None where it lies outside."""
    spacing, shape = np.asarray(context.spacing), np.asarray(context.shape)
    middle = (shape - 1) / 2 + np.asarray(centre) / spacing
    # The box about the ellipsoid |rows x| <= reach: row norms of the inverse.
    extent = _REACH * np.linalg.norm(np.linalg.inv(np.asarray(rows)), axis=1) / spacing
    low = np.clip(np.floor(middle - extent), 0, shape).astype(int)
    high = np.clip(np.ceil(middle + extent) + 1, 0, shape).astype(int)
    if (high <= low).any():
        return None
    matrix = tuple(tuple(float(v) for v in row) for row in rows)
    box = tuple(int(v) for v in low), tuple(int(v) for v in high)
    return Void(*box, tuple(float(v) for v in middle), context.spacing, matrix, read, rim)


def pack_fat(packer: Packer, context: Context, axis: int, voxels: float, fractions: Mapping[int, float]) -> FatShift:
    """Pack a shift by `voxels`; labels not in `fractions` have no fat."""
    size = context.shape[axis]
    blurs = [
        axis_matrix(AxisWork(sigma=_SOFT * s), n, s) if s <= _THIN * min(context.spacing) else None
        for n, s in zip(context.shape, context.spacing, strict=True)
    ]
    ids = (*range(max(context.labels) + 1), 0)
    change = pack_band(packer, shift_matrix(size, voxels) - np.eye(size))
    return FatShift(
        tuple(change if a == axis else None for a in range(context.dim)),
        tuple(None if blur is None else pack_band(packer, blur) for blur in blurs),
        packer.floats([fractions.get(label, 0.0) for label in ids]),
    )


def apply_void(image: Tensor, air: Tensor, void: Void) -> Tensor:
    """Return an image (Z, Y, X) or (Y, X) with a void; the image given is not changed."""
    dim = image.dim()
    offsets = []
    for axis, (low, high, centre, spacing) in enumerate(
        zip(void.low, void.high, void.centre, void.spacing, strict=True)
    ):
        place = (torch.arange(low, high, device=image.device, dtype=torch.float32) - centre) * spacing
        offsets.append(place.view([-1 if a == axis else 1 for a in range(dim)]))
    radii = [sum(w * o for w, o in zip(row, offsets, strict=True)) for row in void.rows]
    radius = sum(r * r for r in radii).sqrt()  # type: ignore[union-attr]
    distance = sum(o * o for o in offsets).sqrt()  # type: ignore[union-attr]
    signal = ((radius - _GONE) / (_BACK - _GONE)).clamp(0, 1)
    signal = signal * signal * (3 - 2 * signal)
    side = (0.5 + 0.5 * offsets[void.read] / distance.clamp_min(1e-3)).square()
    signal = signal + void.rim * side * torch.exp(-(((radius - _RIM) / _RIM_WIDTH) ** 2))
    result = image.clone()
    box = result[tuple(map(slice, void.low, void.high))]
    box.copy_(torch.addcmul(air, box - air, signal))
    return result


def fat_component(image: Tensor, share: Tensor, air: Tensor, span: Tensor) -> Tensor:
    """Return the signal of fat in an image (Z, Y, X) or (Y, X): its share, a volume or one number, of what is bright.

    `air`, `span`: level of air and range of the signal, scalars.
    """
    rise = 1 / (span * (_FAT_TO - _FAT_FROM))
    if share.dim() == 0:
        return voxelwise(_fat_everywhere, (image[None],), (air[None], rise[None], share[None]))[0]
    return voxelwise(_fat, (image[None], share[None]), (air[None], rise[None]))[0]


def fat_share(shift: FatShift, labels: Tensor | None, buffers: Buffers) -> Tensor:
    """Return the fat fraction of each voxel by its label, not smoothed; without labels one number.

    Outside (-1) and ids that nobody announced, such as the ignore label, are background.
    """
    fractions = buffers.floats(shift.fractions)
    if labels is None:
        return fractions[0]
    index = labels.to(torch.int32).clamp(0, len(fractions) - 1).flatten()
    return fractions.index_select(0, index).view(labels.shape)


def _fat(image: Tensor, share: Tensor, air: Tensor, rise: Tensor, out: Tensor | None = None) -> Tensor:
    signal = image - air
    ramp = (signal * rise).sub_(_FAT_FROM / (_FAT_TO - _FAT_FROM)).clamp_(0, 1)
    return torch.mul(signal * ramp, share, out=out)


def _fat_everywhere(image: Tensor, air: Tensor, rise: Tensor, share: Tensor, out: Tensor | None = None) -> Tensor:
    return _fat(image, share, air, rise, out)


def rotated_rows(radii: Sequence[float], turn: np.ndarray) -> list[list[float]]:
    """Return the matrix of an ellipsoid of given radii in mm, turned: |rows x| = 1 on its surface."""
    return [[float(v) for v in row] for row in np.diag(1 / np.asarray(radii)) @ turn]


def random_turn(rng: np.random.Generator, dim: int) -> np.ndarray:
    """Draw a rotation of `dim` axes, uniform."""
    basis, upper = np.linalg.qr(rng.standard_normal((dim, dim)))
    return basis * np.where(np.diag(upper) < 0, -1.0, 1.0)

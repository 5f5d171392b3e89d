"""One table per region of space: cells around random places, each with its own repainting of the image's classes.

Host: `cell_lines`, the squared distances to the places, which are sums over the axes. Device: `paint_regions`; which
cell a voxel is in is the smallest sum, and near the border of two cells it has a share of both. Loops run over places,
never over samples, and nothing is read back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.batch import CHUNK, SAMPLE_VOXELS, measure_levels, thin
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.table_axis import LARGEST, NODES, axis_on, pieces, positions
from nnunet_spine_ext.augment.table_classes import centres, paint
from nnunet_spine_ext.augment.table_lookup import Tables, apply_tables
from nnunet_spine_ext.augment.table_mixture import fit
from nnunet_spine_ext.augment.table_ops import Distribution, histogram

Array = NDArray[np.float64]


def cell_lines(context: Context, places: Sequence[Sequence[float]]) -> tuple[Array, ...]:
    """Return, per axis, (places, n) squared distances of its voxels to places in mm from the middle of the patch."""
    lines = []
    for axis, (size, spacing) in enumerate(zip(context.shape, context.spacing, strict=True)):
        voxels = (np.arange(size) - (size - 1) / 2) * spacing
        lines.append((voxels - np.asarray(places)[:, axis, None]) ** 2)
    return tuple(lines)


def nearest_place(lines: Sequence[Tensor]) -> Tensor:
    """Return the number of the nearest place of every voxel, (K, V) int32, from (K, S, n) distances per axis."""
    rest = lines[0]
    for line in lines[1:-1]:
        rest = (rest[..., None] + line[:, :, None]).flatten(2)
    last = lines[-1]
    count, number, height = rest.shape
    result = torch.zeros((count, height, last.shape[2]), dtype=torch.int32, device=rest.device)
    step = height if rest.device.type != "cpu" else max(1, CHUNK // last.shape[2])
    for start in range(0, height, step):
        part = slice(start, start + step)
        least = rest[:, 0, part, None] + last[:, 0, None]
        for place in range(1, number):
            distance = rest[:, place, part, None] + last[:, place, None]
            result[:, part].masked_fill_(distance < least, place)
            least = torch.minimum(least, distance)
    return result.flatten(1)


def apply_blended(images: Tensor, lines: Sequence[Tensor], tables: Tables, border: Tensor) -> Tensor:
    """Return images (K, V) seen through the tables of the places around, in shares that change evenly.

    A place has a share where it is farther than the nearest one by less than `border` (K,) mm, both distances to the
    voxel: `border` is how wide the passage from cell to cell is. See `nearest_place` for the lines.
    """
    rest = lines[0]
    for line in lines[1:-1]:
        rest = (rest[..., None] + line[:, :, None]).flatten(2)
    last = lines[-1]
    (count, places, height), width = rest.shape, last.shape[2]
    step = height if images.device.type != "cpu" else max(1, CHUNK // width)
    parts = []
    for start in range(0, height, step):
        part = slice(start, start + step)
        image = images[:, start * width : (start + step) * width]
        position = torch.addcmul(tables.offset[:, None], image.detach(), tables.scale[:, None])
        index = position.to(torch.int64).clamp_(0, tables.pieces.shape[2] - 1)
        near = rest[:, 0, part, None] + last[:, 0, None]
        for place in range(1, places):
            near = torch.minimum(near, rest[:, place, part, None] + last[:, place, None])
        limit = near.sqrt_().add_(border[:, None, None])
        total, summed = torch.zeros_like(image), torch.zeros_like(image)
        for place in range(places):
            distance = (rest[:, place, part, None] + last[:, place, None]).sqrt_()
            share = (limit - distance).clamp_min_(0).square_().view(count, -1)
            piece = torch.view_as_real(tables.pieces[:, place].gather(1, index))
            total = total + share
            summed = torch.addcmul(summed, share, torch.addcmul(piece[..., 0], piece[..., 1], image))
        parts.append(summed / total)
    return torch.cat(parts, dim=1)


def paint_regions(
    planes: Tensor,
    lines: Sequence[Tensor],
    values: Tensor,
    texture: Tensor,
    sharpness: Tensor,
    border: Tensor | None = None,
    *,
    mixture: bool = False,
) -> Tensor:
    """Give every intensity class of every region a new mean.

    Parameters
    ----------
    planes: (K, …). lines: see `nearest_place`. values: (K, S, C) means in units of the signal, darkest class first.
    texture: (K, S) part of the differences inside a class that stays. sharpness: (K,), see `table_classes.repaint`.
    border: (K,) mm, see `apply_blended`; None: cells end where they end. mixture: classes are the components of a
        Gaussian mixture, not those of k-means.
    """
    count, number, classes = values.shape
    sample = thin(planes.detach()[:, None], SAMPLE_VOXELS)
    levels = measure_levels(sample)
    air, span = levels.air[:, 0], levels.span[:, 0]
    scale, offset = positions(air, span)
    counts = histogram(torch.addcmul(offset[:, None], sample[:, 0], scale[:, None]), None, 1)

    def each(tensor: Tensor) -> Tensor:
        """Repeat (K, …) for every region: (K * S, …)."""
        return tensor[:, None].expand(count, number, *tensor.shape[1:]).flatten(0, 1)

    axis = axis_on(planes.device).expand(count * number, 1, NODES)
    means = values.flatten(0, 1)
    kept = texture.flatten()[:, None].expand(-1, classes)
    numbers = torch.full_like(means[:, 0], classes)
    distribution = Distribution(axis, each(counts))
    found = fit(distribution, numbers, classes) if mixture else (centres(distribution, numbers, classes), None)
    painted, _ = paint(axis, distribution, found, numbers, means, kept, each(sharpness), torch.zeros_like(means))
    change = (painted - axis)[:, 0].clamp(-LARGEST, LARGEST)
    tables = Tables(pieces(change, each(air), each(span)).view(count, number, -1), scale, offset)
    flat = planes.flatten(1)
    if border is None:
        return apply_tables(flat, nearest_place(lines), tables, None).view(planes.shape)
    return apply_blended(flat, lines, tables, border).view(planes.shape)

"""Tables applied to volumes: one gather and one multiplication per voxel, whatever the tables were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_spine_ext.augment.batch import CHUNK
from nnunet_spine_ext.augment.table_axis import SEGMENTS


@dataclass(frozen=True)
class Tables:
    """K tables on the device.

    `pieces`: (K, R, SEGMENTS) complex; where labels matter, the last row repeats the first (see `Rows`). `scale`,
    `offset`: (K,) position of an intensity. `noise`: (K, R, SEGMENTS) level in intensities, or None.
    """

    pieces: Tensor
    scale: Tensor
    offset: Tensor
    noise: Tensor | None = None


class Rows:
    """Which row of a table a label takes; -1 for outside and unknown ids take row 0.

    Ids beyond the known ones (nnU-Net's ignore label) may take the row after the last instead: it has to be a copy of
    row 0.
    """

    def __init__(self, labels: Sequence[int], lookup: Callable[[], Tensor]) -> None:
        self._last = max(labels)
        # nnU-Net's labels are consecutive: then the id is the row.
        self._lookup = None if self._last == len(labels) - 1 else lookup().to(torch.int32)

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the rows of labels, whole numbers of any type."""
        if labels.is_floating_point() or labels.dtype == torch.bool:
            labels = labels.to(torch.int16 if self._last < torch.iinfo(torch.int16).max else torch.int32)
        known = labels.clamp(0, self._last + 1)
        if self._lookup is None:
            return known
        return self._lookup.index_select(0, known.to(torch.int32).flatten()).view(labels.shape)


def apply_tables(
    images: Tensor, rows: Tensor | None, tables: Tables, noise: Tensor | None, into: Tensor | None = None
) -> Tensor:
    """Return images (K, V) seen through their tables.

    Parameters
    ----------
    rows: (K, V) or None. noise: (K, V) standard normal, or None. into: (K, …) where the result is put; may be the
        images.
    """
    place = None if into is None else into.view(into.shape[0], -1)
    if images.device.type == "cpu" and not (images.requires_grad and torch.is_grad_enabled()):
        return _in_chunks(images, rows, tables, noise, torch.empty_like(images) if place is None else place)
    count, height = tables.pieces.shape[:2]
    index = torch.addcmul(tables.offset[:, None], images.detach(), tables.scale[:, None]).to(torch.int32)
    index = index.clamp_(0, SEGMENTS - 1)
    if count > 1:
        first = torch.arange(count, dtype=torch.int32, device=images.device)[:, None] * height
        rows = first if rows is None else first + rows
    if rows is not None:
        index.add_(rows, alpha=SEGMENTS)
    flat = index.flatten()
    piece = torch.view_as_real(tables.pieces.flatten().index_select(0, flat)).view(*images.shape, 2)
    result = torch.addcmul(piece[..., 0], piece[..., 1], images, out=place)
    if tables.noise is not None and noise is not None:
        result = torch.addcmul(result, tables.noise.flatten().index_select(0, flat).view_as(noise), noise, out=place)
    return result


def _in_chunks(images: Tensor, rows: Tensor | None, tables: Tables, noise: Tensor | None, result: Tensor) -> Tensor:
    for k in range(images.shape[0]):
        table, scale, offset = tables.pieces[k].flatten(), tables.scale[k], tables.offset[k]
        levels = None if tables.noise is None or noise is None else tables.noise[k].flatten()
        for start in range(0, images.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            image = images[k, part]
            index = torch.addcmul(offset, image, scale).to(torch.int32).clamp_(0, SEGMENTS - 1)
            if rows is not None:
                index.add_(rows[k, part], alpha=SEGMENTS)
            piece = torch.view_as_real(table.index_select(0, index))
            out = torch.addcmul(piece[:, 0], piece[:, 1], image, out=result[k, part])
            if levels is not None and noise is not None:
                out.addcmul_(levels.index_select(0, index), noise[k, part])
    return result

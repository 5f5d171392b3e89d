"""Tables applied to volumes: one look-up and one multiplication per voxel, whatever the tables were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.augment.batch import CHUNK, Volume, in_pieces


@dataclass(frozen=True)
class Tables:
    """K tables on the device, of S segments per row.

    `pieces`: (K, R, S) complex; where labels matter, the last row repeats the first (see `Rows`). `scale`, `offset`:
    (K,) position of an intensity. `noise`: (K, R, S) level in intensities, or None.
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

    def unbounded(self, labels: Tensor) -> Tensor:
        """Return the rows for a table that takes its first and last row for all that lie before and beyond them."""
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        return labels if self._lookup is None and whole else self(labels)


def apply_tables(
    images: Tensor, rows: Tensor | None, tables: Tables, noise: Volume | None, into: Tensor | None = None
) -> Tensor:
    """Return images (K, V) seen through their tables.

    Parameters
    ----------
    rows: (K, V) or None; those before the first and beyond the last are taken for these. noise: (K, V) standard
        normal, or K of (V,), or None. into: (K, …) where the result is put; may be the images.
    """
    place = None if into is None else into.view(into.shape[0], -1)
    if in_pieces(images):
        return _in_chunks(images, rows, tables, noise, torch.empty_like(images) if place is None else place)
    found = _sampled(images.detach(), rows, tables)
    result = torch.addcmul(found[:, 0], found[:, 1], images, out=place)
    for k, own in enumerate(noise if tables.noise is not None and noise is not None else ()):
        result[k].addcmul_(found[k, 2], own)
    return result


def _sampled(images: Tensor, rows: Tensor | None, tables: Tables) -> Tensor:
    """Return intercept, slope and noise level of every voxel, (K, 2 or 3, V).

    A table is taken for an image with a line per row and a pixel per segment, so that the sampling that accelerators
    have for images finds the segment, keeps to the ends of the axis and reads all numbers in one go.
    """
    height, width = tables.pieces.shape[1:]
    channels = torch.view_as_real(tables.pieces).permute(0, 3, 1, 2)
    if tables.noise is not None:
        channels = torch.cat((channels, tables.noise[:, None]), dim=1)
    # The middle of pixel s lies at (2 s + 1) / width - 1, that of segment s at s + 0.5.
    scale, offset = tables.scale[:, None] * (2 / width), tables.offset[:, None] * (2 / width) - 1
    if rows is None:
        grid = torch.addcmul(offset, images, scale)[..., None].expand(-1, -1, 2)
    else:
        grid = images.new_empty((*images.shape, 2))
        torch.addcmul(offset, images, scale, out=grid[..., 0])
        first = torch.full((), 1 / height - 1, device=images.device)
        torch.add(first, rows, alpha=2 / height, out=grid[..., 1])
    found = functional.grid_sample(channels, grid[:, None], mode="nearest", padding_mode="border", align_corners=False)
    return found[:, :, 0]


def _in_chunks(images: Tensor, rows: Tensor | None, tables: Tables, noise: Volume | None, result: Tensor) -> Tensor:
    segments = tables.pieces.shape[-1]
    for k in range(images.shape[0]):
        table, scale, offset = tables.pieces[k].flatten(), tables.scale[k], tables.offset[k]
        levels = None if tables.noise is None or noise is None else tables.noise[k].flatten()
        for start in range(0, images.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            image = images[k, part]
            index = torch.addcmul(offset, image, scale).to(torch.int32).clamp_(0, segments - 1)
            if rows is not None:
                index.add_(rows[k, part].clamp(0, len(tables.pieces[k]) - 1), alpha=segments)
            piece = torch.view_as_real(table.index_select(0, index))
            out = torch.addcmul(piece[:, 0], piece[:, 1], image, out=result[k, part])
            if levels is not None and noise is not None:
                out.addcmul_(levels.index_select(0, index), noise[k][part])
    return result

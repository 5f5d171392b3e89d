"""From label ids to palette entries and RGB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.labels import SCHEMES, Colour, colours_for
from nnunet_spine_ext.core.volume import Array, Volume

_MAX_ENTRIES = 255
_DENSE_LIMIT = 1 << 16


@dataclass(frozen=True)
class Palette:
    """Colours of the label ids of one picture; entry 0 is background.

    `ids[n]` is shown by palette entry n + 1 in `colours[n]`.
    """

    ids: tuple[int, ...]
    colours: tuple[Colour, ...]

    def index(self, labels: Array) -> Array:
        """Return labels (any integer array) as palette entries, uint8; ids without an entry become background."""
        if not self.ids:
            return np.zeros(labels.shape, dtype=np.uint8)
        ids = np.asarray(self.ids)
        order = np.argsort(ids)
        place = np.clip(np.searchsorted(ids[order], labels), 0, len(ids) - 1)
        found = ids[order][place] == labels
        entries: Array = np.where(found, order[place] + 1, 0).astype(np.uint8)
        return entries

    def rgb(self, entries: Array) -> Array:
        """Return palette entries (H, W) as colours (H, W, 3) uint8; background is black."""
        table = np.array([(0, 0, 0), *self.colours], dtype=np.uint8)
        coloured: Array = table[entries]
        return coloured


def palette(ids: Iterable[int], colours: Mapping[int, Colour] | None = None) -> Palette:
    """Choose a colour per id: the given one, else one that depends on the id alone.

    More than 255 ids share entries no longer: the largest ids are left out (a picture of one slice never has so many).
    """
    chosen = tuple(sorted({int(n) for n in ids} - {0}))[:_MAX_ENTRIES]
    given = colours or {}
    spread = tuple(colours_for({n: str(n) for n in range(64)}).values())
    return Palette(chosen, tuple(given.get(n, spread[n % len(spread)]) for n in chosen))


def default_colours(ids: Iterable[int]) -> Mapping[int, Colour]:
    """Return the colours of the first scheme that knows all ids: the 14 classes, SPINEPS, instances; else none."""
    wanted = {int(n) for n in ids} - {0}
    for name in ("nnunet14", "spineps", "instances"):
        if wanted <= set(SCHEMES[name].labels):
            return SCHEMES[name].colours
    return {}


def whole_labels(volume: Volume) -> Volume:
    """Return label ids as integers: floating-point masks are rounded, not finite values are background."""
    if volume.array.dtype.kind in "iu":
        return volume
    if volume.array.dtype.kind == "b":
        return volume.with_array(volume.array.astype(np.uint8))
    return volume.with_array(np.rint(np.nan_to_num(volume.array, nan=0.0, posinf=0.0, neginf=0.0)).astype(np.int32))


def present_ids(labels: Array) -> dict[int, int]:
    """Return the ids other than 0 in an integer array with their voxel counts."""
    flat = labels.reshape(-1)
    if flat.size and int(flat.min()) >= 0 and int(flat.max()) < _DENSE_LIMIT:
        counts = np.bincount(flat)
        return {int(n): int(counts[n]) for n in np.flatnonzero(counts) if n != 0}
    ids, numbers = np.unique(flat, return_counts=True)
    return {int(n): int(c) for n, c in zip(ids, numbers, strict=True) if n != 0}

"""Label pictures that the page paints itself: class by class, in any opacity, as areas or outlines."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnunet_spine_ext.core.labels import Colour
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.colours import palette, present_ids
from nnunet_spine_ext.render.slices import View


@dataclass(frozen=True)
class Layer:
    """The ids of one slice, packed: entry n + 1 of the picture stands for ``ids[n]``, 0 is background.

    `data` is the base64 text of the zlib stream of (height, width) bytes, each the exclusive or with the byte above it.
    """

    width: int
    height: int
    ids: tuple[int, ...]
    data: str


def layer_of(laid_out: View, volume: Volume, colours: Mapping[int, Colour]) -> Layer:
    """Cut a label volume (on the view's grid) and pack it, at voxel resolution where the picture is finer."""
    cut = laid_out.cut(volume)
    size = (min(cut.shape[0], laid_out.size[0]), min(cut.shape[1], laid_out.size[1]))
    labels = replace(laid_out, size=size).labels(volume)
    chosen = palette(present_ids(labels), colours)
    return Layer(size[1], size[0], chosen.ids, pack(chosen.index(labels)))


def pack(entries: Array) -> str:
    """Return palette entries (H, W) uint8 as text; equal rows cost next to nothing."""
    above = np.zeros_like(entries)
    above[1:] = entries[:-1]
    return b64encode(zlib.compress(np.ascontiguousarray(entries ^ above).tobytes(), 9)).decode("ascii")


def unpack(layer: Layer) -> Array:
    """Return the ids (H, W) of a layer: what the page's script does."""
    from base64 import b64decode

    rows = np.frombuffer(zlib.decompress(b64decode(layer.data)), np.uint8).reshape(layer.height, layer.width)
    entries = np.bitwise_xor.accumulate(rows, axis=0)
    return np.array([0, *layer.ids])[entries]

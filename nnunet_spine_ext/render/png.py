"""Pictures to bytes: equal arrays give equal bytes (no time stamps, no text chunks)."""

from __future__ import annotations

import io

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.colours import Palette


def encode_png(rgb: Array) -> bytes:
    """Encode (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey, uint8; raises ValueError for anything else."""
    from PIL import Image

    if rgb.dtype != np.uint8 or not (rgb.ndim == 2 or (rgb.ndim == 3 and rgb.shape[2] in (3, 4))):
        msg = f"a picture is uint8 (H, W), (H, W, 3) or (H, W, 4), got {rgb.dtype} {rgb.shape}"
        raise ValueError(msg)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def encode_layer(entries: Array, colours: Palette) -> bytes:
    """Encode palette entries (H, W) uint8 as an indexed PNG whose entry 0 is transparent."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(entries))
    image.putpalette([0, 0, 0, *(value for colour in colours.colours for value in colour)])
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True, transparency=0)
    return stream.getvalue()


def encode_jpeg(picture: Array, quality: int = 80) -> bytes:
    """Encode (H, W) grey or (H, W, 3) RGB, uint8, as JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()

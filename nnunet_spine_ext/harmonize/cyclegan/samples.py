"""One picture per epoch: slices of the sources, the same harmonized, what changed, and the way back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.render.sheet import contact_sheet

_MIDDLE = 128
# Differences are shown twice as large as they are.
_GAIN = 2.0


def sample_sheet(x: Tensor, fake: Tensor, back: Tensor, y: Tensor, vendors: Sequence[str]) -> Array:
    """Return a picture (H, W, 3) uint8 with a row per slice.

    Parameters
    ----------
    x, fake, back: (N, 1, Y, X), 0 to 255: slices of the sources, harmonized, and made sources again.
    y: (N, 1, Y, X): slices of the target, to compare with.
    vendors: of x.
    """
    rows, captions = [], []
    for k, vendor in enumerate(vendors):
        change = (fake[k] - x[k]) * (_GAIN / 2) + _MIDDLE
        rows.append([_grey(part) for part in (x[k], fake[k], change, back[k], y[k])])
        captions.append([vendor, "harmonized", f"change x{_GAIN:g}", "back again", "a target slice"])
    return contact_sheet(rows, captions=captions)


def _grey(image: Tensor) -> Array:
    pixels = image[0].detach().float().cpu().numpy().round().clip(0, 255).astype(np.uint8)
    result: Array = np.repeat(pixels[:, :, None], 3, axis=2)
    return result

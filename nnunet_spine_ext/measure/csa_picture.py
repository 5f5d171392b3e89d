"""A picture of the area along the cord, to see at a glance what went wrong."""

from __future__ import annotations

import numpy as np

from nnunet_spine_ext.core.labels import VERTEBRAE
from nnunet_spine_ext.measure.cross_section import CrossSection
from nnunet_spine_ext.render.drawing import png
from nnunet_spine_ext.render.profile import Band, profile

_SCALE = 2.0


def section_picture(section: CrossSection, title: str) -> bytes:
    """Return the area along the cord as PNG: levels with their means, slices of several objects marked."""
    drawing = profile(
        section.slice.tolist(),
        section.area.tolist(),
        title=f"{title}: cord area ({section.mode})",
        unit="mm²",
        along="slice, 0 is the lowest",
        bands=_bands(section),
        marked=section.slice[section.objects > 1].tolist(),
    )
    return png(drawing, scale=_SCALE)


def _bands(section: CrossSection) -> list[Band]:
    bands = []
    for level in np.unique(section.level[np.isfinite(section.level)]):
        inside = section.slice[section.level == level]
        # A level that occurs twice (an error in a labelled cord) is drawn at its longest run.
        runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
        longest = max(runs, key=len)
        bands.append(Band(VERTEBRAE.get(int(level), f"{level:g}"), float(longest[0]), float(longest[-1])))
    return bands

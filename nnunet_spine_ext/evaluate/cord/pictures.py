"""The pictures of an evaluation of areas: violins, contrast against contrast, prediction against reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.io import write_bytes, write_text
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.evaluate.agreement import Limits
from nnunet_spine_ext.evaluate.cord.analysis import ALL, ImageRow, PairRow, RangeAnalysis
from nnunet_spine_ext.render.agreement import Bands, Fitted, Points, bland_altman, scatter, violins
from nnunet_spine_ext.render.drawing import Drawing, png, svg
from nnunet_spine_ext.render.plots import Group
from nnunet_spine_ext.render.scales import Axis

FOLDER = "plots"
_AREA = Axis("cross-sectional area", "mm²")
_UNIT = "mm²"


def write(folder: Path, found: Sequence[RangeAnalysis], rows: Sequence[ImageRow]) -> list[str]:
    """Write every picture as SVG and PNG; return their names. Pictures of an earlier run are removed."""
    drawings: dict[str, Drawing] = {}
    for one in found:
        name = slug(one.name)
        mine = [row for row in rows if row.range == one.name]
        drawings[f"csa_{name}"] = violin_of(mine, one)
        if one.pairs and any(pair.paired.n for pair in one.pairs):
            drawings[f"contrasts_{name}"] = contrasts_of(one)
        if any(against.limits.n for against in one.against):
            drawings[f"reference_{name}"] = references_of(mine, one)
    return save(folder, drawings)


def save(folder: Path, drawings: dict[str, Drawing]) -> list[str]:
    """Write drawings as SVG and PNG after removing those of an earlier run; return the names of the files."""
    for old in sorted(folder.glob("*.*")) if folder.is_dir() else ():
        if old.suffix in (".svg", ".png"):
            old.unlink()
    names = []
    for name, drawing in drawings.items():
        write_text(folder / f"{name}.svg", svg(drawing))
        write_bytes(folder / f"{name}.png", png(drawing, scale=2.0))
        names += [f"{name}.svg", f"{name}.png"]
    return names


def slug(name: str) -> str:
    """Return the name of a range as every file system takes it; spans and lists of the same levels stay apart."""
    return name.replace(":", "-").replace(" ", "-").replace(",", "_")


def violin_of(rows: Sequence[ImageRow], one: RangeAnalysis) -> Drawing:
    """Areas by contrast; references, where there are any, in a row of their own."""
    number = {case: k for k, case in enumerate(sorted({row.case for row in rows}))}
    groups = []
    for contrast in one.contrasts or ("",):
        mine = [row for row in rows if row.contrast == contrast or not one.contrasts]
        groups.append(Group(contrast or ALL, tuple((number[row.case], row.area) for row in mine)))
    true = tuple((number[row.case], row.reference) for row in rows if math.isfinite(row.reference))
    if true:
        groups.append(Group("references", true))
    return violins(groups, _AREA, f"Cord area by contrast, {one.name}")


def contrasts_of(one: RangeAnalysis) -> Drawing:
    """Each pair of contrasts against each other, one dot per subject."""
    panels = []
    for pair in one.pairs:
        a, b = (one.table[:, one.contrasts.index(name)] for name in (pair.a, pair.b))
        panels.append((_points(a, b, pair), _fitted(pair)))
    return scatter(panels, _UNIT, f"Contrast against contrast, {one.name}")


def _points(a: Array, b: Array, pair: PairRow) -> Points:
    both = np.isfinite(a) & np.isfinite(b)
    return Points(f"{pair.b} over {pair.a}", tuple(a[both].tolist()), tuple(b[both].tolist()), pair.a, "")


def _fitted(pair: PairRow) -> Fitted:
    fit = pair.fit
    if not math.isfinite(fit.slope):
        return Fitted(note=f"n {fit.n}")
    return Fitted(fit.slope, fit.intercept, f"{fit.slope:.2f} x {fit.intercept:+.2f}, r² {fit.r_squared:.3f}")


def references_of(rows: Sequence[ImageRow], one: RangeAnalysis) -> Drawing:
    """Differences from the reference over the mean of both, for all images and for each contrast."""
    panels = []
    for against in one.against:
        if against.contrast == ALL and len(one.contrasts) == 1:
            continue
        mine = [r for r in rows if against.contrast in (ALL, r.contrast) and math.isfinite(r.error)]
        means = tuple((row.area + row.reference) / 2 for row in mine)
        points = Points(against.contrast, means, tuple(row.error for row in mine), "mean of both", "error")
        panels.append((points, bands_of(against.limits)))
    return bland_altman(panels, _UNIT, f"Prediction minus reference, {one.name}")


def bands_of(found: Limits) -> Bands:
    """Limits of agreement as a picture has them."""
    note = f"bias {found.bias:+.2f}" if math.isfinite(found.bias) else "no pair"
    if math.isfinite(found.low):
        note += f", limits {found.low:.2f} to {found.high:.2f}"
    return Bands(found.bias, found.low, found.high, found.bias_interval, found.low_interval, found.high_interval, note)

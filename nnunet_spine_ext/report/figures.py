"""The plots of a report: per level, per class, over cases; on the page and as files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from nnunet_spine_ext.core.labels import DISC_OFFSET, instance_name
from nnunet_spine_ext.evaluate.regions import REGIONS
from nnunet_spine_ext.evaluate.scoring import level_order
from nnunet_spine_ext.render.drawing import Drawing, png, svg
from nnunet_spine_ext.render.plots import Axis, Group, histogram, strips
from nnunet_spine_ext.report.files import write_output
from nnunet_spine_ext.report.measures import Measure, Shown
from nnunet_spine_ext.report.naming import FIRST_SACRAL, Naming
from nnunet_spine_ext.report.scores import Scores, better, head, is_share, leading

_KINDS = (("vertebra", "Vertebrae"), ("disc", "Discs"))
# Below this many cases a distribution says less than the table.
_FEWEST = 3


@dataclass(frozen=True)
class Figure:
    """One plot: the name of its file, its title, and how it is drawn (with its title inside or not)."""

    slug: str
    title: str
    draw: Callable[[bool], Drawing]

    def on_page(self) -> str:
        """Return it as inline SVG without a title."""
        return svg(self.draw(False), standalone=False)


@dataclass(frozen=True)
class Section:
    """Plots that belong together."""

    title: str
    figures: tuple[Figure, ...]


def sections(shown: Sequence[Shown], scores: Scores | None, found: Sequence[Measure], naming: Naming) -> list[Section]:
    """Return the plots that there are values for, vertebrae first."""
    made = [Section(title, tuple(_level_figures(shown, scores, kind, title))) for kind, title in _KINDS]
    made.append(Section("Classes", tuple(_class_figures(shown, scores, naming))))
    made.append(Section("Regions", tuple(_region_figures(shown, scores))))
    made.append(Section("Cases", tuple(_case_figures(found))))
    return [section for section in made if section.figures]


def _level_figures(shown: Sequence[Shown], scores: Scores | None, kind: str, title: str) -> Iterable[Figure]:
    offset = DISC_OFFSET if kind == "disc" else 0
    if scores is not None:
        rows = [
            (number, row)
            for number, one in enumerate(shown)
            for row in scores.by_case.get(one.case.name, ())
            if row.scope == "level" and row.label_id is not None and row.label_id // DISC_OFFSET * DISC_OFFSET == offset
        ]
        for metric in leading(dict.fromkeys(row.metric for _, row in rows)):
            table: dict[int, list[tuple[int, float]]] = {}
            for number, row in rows:
                if row.metric == metric and row.label_id is not None:
                    table.setdefault(row.label_id, []).append((number, row.value))
            names = {row.label_id: row.label for _, row in rows if row.label_id is not None}
            groups = [Group(names[n], tuple(table[n])) for n in sorted(table, key=level_order)]
            yield from _strips(f"{kind}_{metric}", f"{head(metric).title} per {kind}", groups, _axis(metric))
    volumes: dict[int, list[tuple[int, float]]] = {}
    for number, one in enumerate(shown):
        for n, value in one.drawn.instances_ml.items() if one.case.numbered else ():
            # The sacrum is several times as large as any vertebra.
            if n // DISC_OFFSET * DISC_OFFSET == offset and n != FIRST_SACRAL:
                volumes.setdefault(n, []).append((number, value))
    groups = [Group(instance_name(n), tuple(volumes[n])) for n in sorted(volumes, key=level_order)]
    yield from _strips(f"{kind}_volume", f"Volume per {kind}", groups, Axis("Volume", "mL", 0.0))


def _strips(slug: str, title: str, groups: list[Group], axis: Axis) -> Iterable[Figure]:
    if groups:
        yield Figure(slug, title, lambda titled: strips(groups, Axis(*_titled(axis, title, titled)), titled=titled))


def _titled(axis: Axis, title: str, titled: bool) -> tuple[str, str, float | None, float | None]:
    return title if titled else axis.title, axis.unit, axis.lowest, axis.highest


def _axis(metric: str) -> Axis:
    row = head(metric)
    highest = 1.0 if is_share(metric) else None
    return Axis(row.title, row.unit, 0.0 if better(metric) in ("higher", "lower") else None, highest)


def _class_figures(shown: Sequence[Shown], scores: Scores | None, naming: Naming) -> Iterable[Figure]:
    table = next((t for t in scores.tables if t.scope == "class"), None) if scores else None
    if scores is not None and table is not None:
        for metric in leading(h.name for h in table.heads):
            values: dict[str, list[tuple[int, float]]] = {}
            for number, one in enumerate(shown):
                for row in scores.by_case.get(one.case.name, ()):
                    if row.scope == "class" and row.metric == metric and not math.isnan(row.value):
                        values.setdefault(row.label, []).append((number, row.value))
            groups = [Group(row.label, tuple(values[row.label])) for row in table.rows if row.label in values]
            yield from _strips(f"class_{metric}", f"{head(metric).title} per class", groups, _axis(metric))
    relative: dict[int, list[tuple[int, float]]] = {}
    for number, one in enumerate(shown):
        for n, value in one.drawn.volumes_ml.items():
            relative.setdefault(n, []).append((number, value))
    groups = [_to_median(naming.name(n), relative[n]) for n in sorted(relative) if len(relative[n]) >= _FEWEST]
    yield from _strips("class_volume", "Volume per class", groups, Axis("Volume, % of the median case", "", 0.0))


def _region_figures(shown: Sequence[Shown], scores: Scores | None) -> Iterable[Figure]:
    """Mean over the classes of each region, one dot per case."""
    if scores is None:
        return
    for metric in leading(scores.overall):
        values: dict[str, dict[int, list[float]]] = {}
        for number, one in enumerate(shown):
            for row in scores.by_case.get(one.case.name, ()):
                if row.region and row.label_id is not None and row.metric == metric and math.isfinite(row.value):
                    values.setdefault(row.region, {}).setdefault(number, []).append(row.value)
        groups = [Group(r, tuple((n, fmean(v)) for n, v in values[r].items())) for r in REGIONS if r in values]
        yield from _strips(f"region_{metric}", f"{head(metric).title} per region", groups, _axis(metric))


def _to_median(label: str, values: Sequence[tuple[int, float]]) -> Group:
    middle = median(value for _, value in values)
    return Group(label, tuple((number, 100.0 * value / middle) for number, value in values if middle > 0))


def _case_figures(found: Sequence[Measure]) -> Iterable[Figure]:
    for one in found:
        values = [value for value in one.values if value is not None and math.isfinite(value)]
        if not one.column or one.key == "vertebrae" or len(values) < _FEWEST:
            continue
        share = one.better == "higher" and max(values) <= 1.0
        axis = Axis(one.title, one.unit, 0.0 if min(values) >= 0 else None, 1.0 if share else None)
        slug = re.sub(r"\W+", "_", one.key)
        yield Figure(f"cases_{slug}", f"{one.title} over cases", _histogram(values, axis))


def _histogram(values: Sequence[float], axis: Axis) -> Callable[[bool], Drawing]:
    return lambda titled: histogram(values, axis, titled=titled)


def write_figures(folder: str | Path, made: Sequence[Section]) -> int:
    """Write every plot as SVG and PNG; returns the number of files.

    Raises
    ------
    SetupError: the folder cannot be written.
    """
    drawn = [(figure.slug, figure.draw(True)) for section in made for figure in section.figures]
    for slug, drawing in drawn:
        write_output(Path(folder) / f"{slug}.svg", svg(drawing), "--figures")
        write_output(Path(folder) / f"{slug}.png", png(drawing), "--figures")
    return 2 * len(drawn)

"""What stands in the tables of Moeller et al. 2024 (SPINEPS): rows, columns, values, tests, best values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from nnunet_spine_ext.evaluate import latex
from nnunet_spine_ext.evaluate.cohort import Cohort
from nnunet_spine_ext.evaluate.paired import Correction, Paired, correct
from nnunet_spine_ext.evaluate.pairing import Pairing, Unit
from nnunet_spine_ext.evaluate.scored import Key, Scored
from nnunet_spine_ext.evaluate.statistic import Statistic, statistic

# The sacrum has no column in the published table.
REGIONS = ("cervical", "thoracic", "lumbar")
GLOBAL, INSTANCES, PARTS, OTHERS = (
    "Global structure-wise", "Instance-wise", "Vertebra substructures", "Other structures"
)  # fmt: skip
TITLES = {
    "vertebra": "Vertebra",
    "disc": "IVD",
    "canal": "Spinal canal",
    "cord": "Spinal cord",
    "arcus": "Arcus vertebrae",
    "spinous process": "Spinous process",
    "inferior articular process": "Articularis inferior",
    "superior articular process": "Articularis superior",
    "costal process": "Costal process",
    "corpus": "Vertebra corpus",
}
_WHOLE = ("vertebra", "disc", "canal", "cord")
SHORT = {
    "dice": "DSC", "instance_dice": "DSC", "rq": "RQ", "sq": "SQ", "pq": "PQ", "assd": "ASSD", "assd_voxel": "ASSD",
    "assd_in_voxels": "ASSD", "instance_assd": "ASSD", "instance_assd_voxel": "ASSD",
    "instance_assd_in_voxels": "ASSD",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One row: a structure (or all instances of a kind) and a metric from the registry, under a heading."""

    section: str
    structure: str
    metric: str

    @property
    def title(self) -> str:
        """Name of the structure in the table."""
        return TITLES.get(self.structure, self.structure[:1].upper() + self.structure[1:])

    @property
    def of_instances(self) -> bool:
        """Whether it is about instances."""
        return self.section == INSTANCES

    def key(self, region: str | None) -> Key:
        """Return the key of its values in an evaluation."""
        if region is not None:
            return Key("region", None, f"{region} {self.structure}", region, self.metric)
        return Key("group" if self.of_instances else "class", None, self.structure, None, self.metric)


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    `found` is the distribution over the cases that have a value; `best`: no other column has a better mean; `tested`
    compares with the same row of the first folder, `p` is corrected; both only where a test was meant.
    """

    found: Statistic
    best: bool = False
    tested: Paired | None = None
    p: float = math.nan


@dataclass(frozen=True)
class Column:
    """One folder, and one region where the table is about regions."""

    name: str
    scored: Scored
    region: str | None = None

    def values(self, line: Line) -> Mapping[str, float]:
        """Return the values by case."""
        return self.scored.values.get(line.key(self.region), {})


@dataclass(frozen=True)
class Part:
    """Rows and columns that stand together; `title` tells the parts of a table apart (table 5: one for each folder)."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Line, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Table:
    """One table: number in the paper, parts, number of tests made, what was left out."""

    number: int
    parts: tuple[Part, ...]
    tests: int = 0
    remarks: tuple[str, ...] = ()

    def cells(self) -> Iterator[tuple[Part, Line, Column, Cell]]:
        """Yield every cell with where it stands."""
        for part in self.parts:
            for line, cells in part.rows:
                for column, cell in zip(part.columns, cells, strict=True):
                    yield part, line, column, cell


@dataclass(frozen=True)
class Rules:
    """How tests are made, and which ASSD is meant."""

    cohort: Cohort
    unit: Unit
    correction: Correction
    assd: str


def lines_of_table2(rules: Rules, structures: Sequence[str]) -> list[Line]:
    """Return the rows of table 2: whole structures, then vertebrae and discs one by one."""
    metrics = ("instance_dice", "rq", "sq", "pq", f"instance_{rules.assd}")
    lines = [Line(GLOBAL, name, "dice") for name in _WHOLE[:3] if name in structures]
    return lines + [Line(INSTANCES, name, metric) for name in _WHOLE[:2] for metric in metrics]


def lines_of_table3(rules: Rules, structures: Sequence[str]) -> list[Line]:
    """Return the rows of tables 3 and 5: whole structures, parts of vertebrae, then those that the paper has not."""
    lines = [Line(GLOBAL, name, "dice") for name in _WHOLE if name in structures]
    parts = [name for name in TITLES if name not in _WHOLE and name in structures]
    others = [name for name in structures if name not in TITLES]
    for section, names in ((PARTS, parts), (OTHERS, others)):
        lines += [Line(section, name, metric) for name in names for metric in ("dice", rules.assd)]
    return lines


def side_by_side(number: int, lines: Sequence[Line], columns: Sequence[Column], rules: Rules) -> Table:
    """Return a table with a column for each folder; the best mean is that over the cases that all of them have."""
    shown, remarks = _present(lines, columns)
    rows = []
    for line in shown:
        best = _best_of_common(line, columns)
        tests = [None, *(_test(line, columns[0], other, rules) for other in columns[1:])]
        cells = [_cell(line, column, best, test) for column, test in zip(columns, tests, strict=True)]
        rows.append((line, tuple(cells)))
    return _finished(number, [Part("", tuple(columns), tuple(rows))], rules, remarks)


def by_region(number: int, lines: Sequence[Line], columns: Sequence[Column], rules: Rules) -> Table:
    """Return a table with a part for each folder and a column for each region; the best mean is that of a region."""
    every = [replace(column, region=region) for column in columns for region in REGIONS]
    shown, remarks = _present(lines, every, "In none of these regions")
    regions = [r for r in REGIONS if any(c.values(line) for c in every if c.region == r for line in shown)]
    gone = ", ".join(region for region in REGIONS if region not in regions)
    remarks += (f"No case has a {gone.replace(', ', ' or ')} part: no column for it.",) if gone and shown else ()
    parts = []
    for column in columns:
        own = tuple(replace(column, region=region) for region in regions)
        rows = []
        for line in shown:
            best = _best(line, {str(c.region): statistic(c.values(line).values()).mean for c in own})
            tests = [
                None if column is columns[0] else _test(line, replace(columns[0], region=c.region), c, rules)
                for c in own
            ]
            rows.append((line, tuple(_cell(line, c, best, test) for c, test in zip(own, tests, strict=True))))
        parts.append(Part(column.name, own, tuple(rows)))
    return _finished(number, parts, rules, remarks)


def _present(
    lines: Sequence[Line], columns: Sequence[Column], where: str = "In no reference and in no prediction"
) -> tuple[list[Line], tuple[str, ...]]:
    """Return the rows that any column has something for, and a remark on the others."""

    def there(line: Line) -> bool:
        return any(not math.isnan(value) for column in columns for value in column.values(line).values())

    shown = [line for line in lines if there(line)]
    kept = {(line.section, line.structure) for line in shown}
    gone = dict.fromkeys(line.title for line in lines if (line.section, line.structure) not in kept)
    return shown, (f"{where}: {', '.join(gone)}.",) if gone and shown else ()


def _cell(line: Line, column: Column, best: set[str], tested: Paired | None) -> Cell:
    return Cell(statistic(column.values(line).values()), (column.region or column.name) in best, tested)


def _best_of_common(line: Line, columns: Sequence[Column]) -> set[str]:
    """Return the columns with the best mean over the cases that all columns with a value have one for."""
    values = {
        column.name: {case: value for case, value in column.values(line).items() if math.isfinite(value)}
        for column in columns
    }
    values = {name: found for name, found in values.items() if found}
    common = sorted(set.intersection(*map(set, values.values()))) if values else []
    if not common:
        return set()
    return _best(line, {name: fmean(found[case] for case in common) for name, found in values.items()})


def _best(line: Line, means: Mapping[str, float | None]) -> set[str]:
    """Return the best columns; none where all are equal. Differences in the last bits are none."""
    rounded = {name: round(mean, 9) for name, mean in means.items() if mean is not None}
    return latex.best(line.metric, rounded) if len(set(rounded.values())) > 1 else set()


def _test(line: Line, first: Column, other: Column, rules: Rules) -> Paired | None:
    key = line.key(other.region)
    if key not in first.scored.values or key not in other.scored.values:
        return None
    pairing = Pairing([first.scored, other.scored], rules.cohort, rules.unit, "exclude", 0, 0)
    return pairing.row(key, None, sorted(first.scored.cases & other.scored.cases)).tests[0]


def _finished(number: int, parts: Sequence[Part], rules: Rules, remarks: tuple[str, ...]) -> Table:
    """Correct the p-values of all tests of a table together."""
    tests = [cell.tested for *_, cell in Table(number, tuple(parts)).cells() if cell.tested is not None]
    p = iter(correct([test.p for test in tests], rules.correction))
    made = tuple(
        replace(part, rows=tuple((line, tuple(map(partial(_with_p, p), cells))) for line, cells in part.rows))
        for part in parts
    )
    return Table(number, made, sum(not math.isnan(test.p) for test in tests), remarks)


def _with_p(p: Iterator[float], cell: Cell) -> Cell:
    return cell if cell.tested is None else replace(cell, p=next(p))

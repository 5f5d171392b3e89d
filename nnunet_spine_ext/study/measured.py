"""Reading what a study measured: one row per case, per vertebra and per gap, from the CSV files of its folder."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.study.records import CASE_COLUMNS
from nnunet_spine_ext.study.records import KEYS as RECORDED_KEYS

DEFAULT_SOURCE = "nako-siemens-3t"
SCANNER, COMPONENT, PAIR, SAMPLES = "scanner", "component", "pair", "samples"
KEYS = ("seed", "strategy", "scanner", "factor", "components", "severity", "n", "case", "subject")
CASE_VALUES = tuple(name for name in CASE_COLUMNS if name not in RECORDED_KEYS)
# Studies of earlier versions do not have these.
_LATER = frozenset({"noise_reduced", "matched"})
VERTEBRA_VALUES = ("dice", "msd_mm", "detected", "identified")
GAP_VALUES = ("quantile_distance", "snr_ratio", "resolution_ratio", "feature_distance", "ceiling_dice")
_WORDS = {"": math.nan, "none": math.nan, "true": 1.0, "false": 0.0}


class Condition(NamedTuple):
    """What was done to the images and to the model; `n` is the number of target samples, None where there is none."""

    strategy: str
    scanner: str
    factor: str = SCANNER
    components: str = ""
    severity: str = ""
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file; `values` are in the order of the file's value columns, NaN where there is none."""

    condition: Condition
    seed: str
    case: str
    subject: str
    values: tuple[float, ...]
    level: str = ""
    region: str = ""


@dataclass(frozen=True)
class Study:
    """Everything a study folder holds.

    `cases`, `vertebrae` and `gaps` have the values `CASE_VALUES`, `VERTEBRA_VALUES` and `GAP_VALUES`. `targets` are the
    scanners (or domains) other than `source`, those asked for first; `strategies` and `samples` are what was asked for.
    `failures` are the cases of failures.csv: (strategy, n, seed, case); they may have a row in cases.csv, as empty
    masks. `unavailable` says why a strategy could not be run.
    """

    folder: Path
    facts: Mapping[str, Any]
    cases: tuple[Row, ...]
    vertebrae: tuple[Row, ...]
    gaps: tuple[Row, ...]
    source: str
    targets: tuple[str, ...]
    strategies: tuple[str, ...]
    samples: tuple[int, ...]
    failures: frozenset[tuple[str, int | None, str, str]] = frozenset()
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_vertebrae(self) -> bool:
        """Whether Dice is that of vertebrae; without instance masks it is that of classes."""
        return bool(self.vertebrae) or asked_for(self.facts, "vertebrae") is not False

    @property
    def seeds(self) -> tuple[str, ...]:
        """Return the seeds, sorted."""
        return tuple(sorted({row.seed for row in self.cases}, key=_by_number))

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return the subjects that were scored, sorted."""
        return tuple(sorted({row.subject for row in self.cases}))


def read_study(folder: str | Path) -> Study:
    """Read study.json, cases.csv and, where they exist, vertebrae.csv and gaps.csv.

    Raises
    ------
    NoInputError: no such folder, no cases.csv or no row in it. CaseError: a column is missing, or a value is no number.
    UsageError: it cannot be told which scanner is the source.
    """
    folder = Path(folder)
    cases = tuple(_rows(folder / "cases.csv", CASE_VALUES)) if (folder / "cases.csv").is_file() else ()
    if not cases:
        raise NoInputError(
            "E-STUDY-RESULTS",
            file=folder,
            found="no cases.csv with a row",
            expected="the folder that a study wrote",
            fix="run nnUNetv2_spine_study first, or name its output folder",
        )
    facts = read_json(folder / "study.json") if (folder / "study.json").is_file() else {}
    facts = facts if isinstance(facts, Mapping) else {}
    vertebrae = _optional(folder / "vertebrae.csv", VERTEBRA_VALUES)
    gaps = _optional(folder / "gaps.csv", GAP_VALUES)
    asked = _words(asked_for(facts, "scanners"))
    seen = dict.fromkeys(row.condition.scanner for row in cases if row.condition.factor == SCANNER)
    source = _source(folder, facts, (*asked, *seen))
    strategies = dict.fromkeys(
        ("none", *_words(asked_for(facts, "strategies")), *(row.condition.strategy for row in cases))
    )
    sizes = asked_for(facts, "samples")
    sizes = sizes.get("counts") if isinstance(sizes, Mapping) else sizes
    listed = [int(n) for n in sizes if str(n).isdigit()] if isinstance(sizes, list | tuple) else []
    unavailable = asked_for(facts, "unavailable")
    measured = [row.condition.n for row in cases if row.condition.factor == SAMPLES]
    return Study(
        folder,
        facts,
        cases,
        vertebrae,
        gaps,
        source,
        tuple(name for name in dict.fromkeys((*asked, *seen)) if name != source),
        tuple(strategies),
        tuple(sorted({*listed, *(n for n in measured if n is not None)})),
        _failures(folder / "failures.csv"),
        {str(name): str(why) for name, why in unavailable.items()} if isinstance(unavailable, Mapping) else {},
    )


def _failures(path: Path) -> frozenset[tuple[str, int | None, str, str]]:
    """Failed predictions; rows about whole steps name no case."""
    if not path.is_file():
        return frozenset()
    rows = _rows(path, ())
    return frozenset((r.condition.strategy, r.condition.n, r.seed, r.case) for r in rows if r.case)


def asked_for(facts: Mapping[str, Any], key: str) -> Any:
    """Return a fact of study.json, looked for in its top level and in its ``config``; None: it does not say."""
    config = facts.get("config")
    inner = config.get(key) if isinstance(config, Mapping) else None
    return facts.get(key, inner)


def _words(value: Any) -> tuple[str, ...]:
    """Names in a list, or the keys of a mapping; entries that are no names count as none."""
    return tuple(str(v) for v in value if isinstance(v, str)) if isinstance(value, list | tuple | Mapping) else ()


def _source(folder: Path, facts: Mapping[str, Any], scanners: Iterable[str]) -> str:
    names = list(dict.fromkeys(scanners))
    named = asked_for(facts, "source")
    given = asked_for(facts, "given")
    if named is None and isinstance(given, Mapping):
        named = given.get("source")
    if isinstance(named, str) and named:
        return named
    if DEFAULT_SOURCE in names or len(names) == 1:
        return DEFAULT_SOURCE if DEFAULT_SOURCE in names else names[0]
    raise UsageError(
        "E-STUDY-SOURCE",
        file=folder / "study.json",
        found=f"no source among {', '.join(names) or 'no scanners'}",
        expected="the scanner or domain that the model was trained on",
        fix='name it in study.json as "source"',
    )


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def _optional(path: Path, values: tuple[str, ...]) -> tuple[Row, ...]:
    return tuple(_rows(path, values)) if path.is_file() else ()


def _rows(path: Path, values: tuple[str, ...]) -> Iterator[Row]:
    needed: tuple[str, ...] = ("seed", "scanner", "case")
    if values in (CASE_VALUES, VERTEBRA_VALUES):
        needed = KEYS + (("level", "region") if values == VERTEBRA_VALUES else ())
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            missing = [name for name in (*needed, *values) if name not in header and name not in _LATER]
            if missing:
                raise _bad(path, f"no column {', '.join(missing)}", f"the columns {', '.join((*needed, *values))}")
            read = _Reader(path, header, values)
            for line, cells in enumerate(reader, start=2):
                if cells and len(cells) != len(header):
                    raise _bad(path, f"{len(cells)} values in line {line}", f"{len(header)}, as in its header")
                if cells:
                    yield read.row(line, cells)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, f"cannot be read ({error})", "a CSV file in UTF-8") from error


class _Reader:
    """Makes rows of cells; large studies have hundreds of thousands, of few conditions."""

    def __init__(self, path: Path, header: list[str], values: tuple[str, ...]) -> None:
        self._path = path
        # Where a file lacks a column, its cells are those of one that is always empty.
        at = {name: place for place, name in enumerate(header)}
        self._condition_at = [at.get(name, -1) for name in KEYS[1:7]]
        self._text_at = [at.get(name, -1) for name in ("seed", "case", "subject", "level", "region")]
        self._values = [(at.get(name, -1), name) for name in values]
        self._conditions: dict[tuple[str, ...], Condition] = {}

    def row(self, line: int, cells: list[str]) -> Row:
        """Return the row of a line."""
        cells = [*(cell.strip() for cell in cells), ""]
        key = tuple(cells[place] for place in self._condition_at)
        if key not in self._conditions:
            self._conditions[key] = self._condition(line, *key)
        seed, case, subject, level, region = (cells[place] for place in self._text_at)
        values = tuple(self._number(line, name, cells[place]) for place, name in self._values)
        # A case without a subject is a subject of its own, as in evaluations.
        return Row(self._conditions[key], seed, case, subject or case, values, level, region.lower())

    def _condition(
        self, line: int, strategy: str, scanner: str, factor: str, components: str, severity: str, size: str
    ) -> Condition:
        n = self._number(line, "n", size)
        factor = factor or SCANNER
        # The severity of a whole scanner is no condition of its own: 0 is the source, 1 a target.
        parts = (components, _plain(severity)) if factor in (COMPONENT, PAIR) else ("", "")
        return Condition(strategy or "none", scanner, factor, *parts, None if math.isnan(n) else int(n))

    def _number(self, line: int, name: str, word: str) -> float:
        try:
            return float(word)
        except ValueError as error:
            if word.lower() in _WORDS:
                return _WORDS[word.lower()]
            raise _bad(self._path, f"{name} {word!r} in line {line}", "a number or nothing") from error


def _plain(severity: str) -> str:
    """1, 1.0 and 1.00 are one severity."""
    try:
        return f"{float(severity):g}"
    except ValueError:
        return severity


def _bad(path: Path, found: str, expected: str) -> CaseError:
    return CaseError(
        "E-STUDY-TABLE", file=path, found=found, expected=expected, fix="restore the file, or run the study again"
    )

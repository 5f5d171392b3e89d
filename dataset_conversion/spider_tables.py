"""The tables of SPIDER: who was scanned and how (overview), what a radiologist saw (gradings), who has which levels."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.spider import LOWEST, SPIDER_DISC_OFFSET, USUAL_THORACIC, levels_upwards
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.dataset_conversion.spider_files import SeriesKey, parse_series, patient_name

Value = str | int | float
_NOTHING = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "-"})


@dataclass(frozen=True)
class Column:
    """A spine by its counts: name of the lowest vertebra of the mask, thoracic and lumbar vertebrae."""

    lowest: str = LOWEST
    thoracic: int = USUAL_THORACIC
    lumbar: int | None = None

    def upwards(self) -> list[int]:
        """Return vertebra ids from the lowest one upwards; raises UsageError for a spine that cannot be."""
        return levels_upwards(self.lowest, thoracic=self.thoracic, lumbar=self.lumbar)

    def facts(self) -> dict[str, Any]:
        """Return what is not usual about it, for cases.json; the lowest vertebra always."""
        counts = {"thoracic_vertebrae": self.thoracic} if self.thoracic != USUAL_THORACIC else {}
        return {"lowest_vertebra": self.lowest, **counts} | ({"lumbar_vertebrae": self.lumbar} if self.lumbar else {})


@dataclass
class Overview:
    """Facts for cases.json by series, and what was wrong with the table."""

    facts: dict[SeriesKey, dict[str, Value]] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)

    def subset_of(self, key: SeriesKey) -> str:
        """Return the published subset of a series in lower case; empty if it is not known."""
        return str(self.facts.get(key, {}).get("subset", "")).lower()


@dataclass
class Gradings:
    """Gradings by patient, one entry per disc, and what was wrong with the table."""

    discs: dict[str, list[dict[str, Value]]] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)

    def of(self, patient: str, column: Column) -> list[dict[str, Any]]:
        """Return the gradings of a patient, each with the name of the vertebra above its disc."""
        from nnunet_spine_ext.core.labels import VERTEBRAE

        upwards = column.upwards()
        rows = sorted(self.discs.get(patient, []), key=lambda row: row["disc"])
        named = dict(enumerate(upwards, start=1))
        return [
            {"disc": row["disc"], "below": VERTEBRAE.get(named.get(int(row["disc"]), 0)), **_without(row, "disc")}
            for row in rows
        ]


def _text(value: str) -> str:
    return value


def _number(value: str) -> int | float:
    number = float(re.sub(r"(?<=\d),(?=\d)", ".", value))
    if not math.isfinite(number):
        msg = "not finite"
        raise ValueError(msg)
    return int(number) if number == int(number) else number


def _age(value: str) -> int | float:
    return _number(re.sub(r"^0*(\d+)Y$", r"\1", value, flags=re.IGNORECASE))


def _year(value: str) -> int:
    # The date of birth itself stays behind: it would tell who somebody is.
    found = re.search(r"(?<!\d)(1[89]|20)\d\d", value)
    if found is None:
        msg = "no year"
        raise ValueError(msg)
    return int(found[0])


def _sex(value: str) -> str:
    return {"m": "M", "male": "M", "f": "F", "female": "F", "w": "F"}.get(value.lower(), value)


# Key of cases.json to the spellings of its column (letters and digits only) and how to read it. Serial numbers, dates
# and free text are left behind on purpose.
_OVERVIEW: dict[str, tuple[tuple[str, ...], Callable[[str], Value]]] = {
    "sex": (("sex", "gender", "patientsex"), _sex),
    "age": (("age", "patientage"), _age),
    "birth_year": (("birthdate", "patientbirthdate", "birthyear"), _year),
    "subset": (("subset", "origsubset"), _text),
    "manufacturer": (("manufacturer",), _text),
    "model": (("manufacturermodelname", "manufacturersmodelname", "model"), _text),
    "field_strength": (("magneticfieldstrength", "fieldstrength"), _number),
    "TR": (("repetitiontime", "tr"), _number),
    "TE": (("echotime", "te"), _number),
    "flip_angle": (("flipangle",), _number),
    "echo_train_length": (("echotrainlength",), _number),
    "slice_thickness": (("slicethickness",), _number),
    "acquisition": (("mracquisitiontype",), _text),
    "scanning_sequence": (("scanningsequence",), _text),
    "num_vertebrae": (("numvertebrae",), _number),
    "num_discs": (("numdiscs",), _number),
}
_GRADINGS: dict[str, tuple[tuple[str, ...], Callable[[str], Value]]] = {
    "pfirrmann": (("pfirrmangrade", "pfirrmanngrade", "pfirrman", "pfirrmann"), _number),
    "modic": (("modic", "modicchanges"), _number),
    "upper_endplate": (("upendplate", "upperendplate"), _number),
    "lower_endplate": (("lowendplate", "lowerendplate"), _number),
    "spondylolisthesis": (("spondylolisthesis",), _number),
    "herniation": (("discherniation", "herniation"), _number),
    "narrowing": (("discnarrowing", "narrowing"), _number),
    "bulging": (("discbulging", "bulging"), _number),
}
_SERIES = ("newfilename", "filename", "file", "series", "name")
_PATIENT = ("patient", "patientid", "case", "subject", "id")
_DISC = ("ivdlabel", "ivdlevel", "ivd", "disclabel", "disclevel", "disc", "level")


def read_overview(path: Path) -> Overview:
    """Read the overview table; what cannot be read is left out and named in `warnings`.

    Raises UsageError when it is no table or has no column with file names.
    """
    overview = Overview()
    columns, rows = _read(path)
    name = _column(columns, _SERIES, path, "the file names (new_file_name)")
    for line, row in rows:
        key = parse_series(row[name])
        if key is None:
            overview.warnings.append(_warning(path, f"line {line}: the file name {row[name]!r}", "a series' name"))
        elif key in overview.facts:
            overview.warnings.append(_warning(path, f"line {line}: {key.case_id} again", "one row per series"))
        else:
            overview.facts[key] = _values(row, columns, _OVERVIEW, path, line, overview.warnings)
    return overview


def read_gradings(path: Path) -> Gradings:
    """Read the table of gradings; what cannot be read is left out and named in `warnings`.

    Raises UsageError when it is no table or has no columns with patients and discs.
    """
    gradings = Gradings()
    columns, rows = _read(path)
    patient_column = _column(columns, _PATIENT, path, "the patients (Patient)")
    disc_column = _column(columns, _DISC, path, "the discs (IVD label)")
    for line, row in rows:
        patient = patient_name(row[patient_column])
        try:
            disc = int(_number(row[disc_column]))
        except ValueError:
            found = f"line {line}: the disc {row[disc_column]!r}"
            gradings.warnings.append(_warning(path, found, "a number from below"))
            continue
        disc -= SPIDER_DISC_OFFSET if disc > SPIDER_DISC_OFFSET else 0
        known = gradings.discs.setdefault(patient, [])
        if any(entry["disc"] == disc for entry in known):
            found = f"line {line}: disc {disc} of patient {patient} again"
            gradings.warnings.append(_warning(path, found, "one row per disc"))
        else:
            known.append({"disc": disc, **_values(row, columns, _GRADINGS, path, line, gradings.warnings)})
    return gradings


def read_columns(path: str | Path, usual: Column) -> dict[str, Column]:
    """Read who has another lowest vertebra or other counts: columns ``patient``, ``lowest``, ``thoracic``, ``lumbar``.

    Empty cells mean what is usual.

    Raises UsageError for an unreadable table, an unknown vertebra or count, or a patient with two different rows.
    """
    found: dict[str, Column] = {}
    where = Path(path).expanduser()
    columns, rows = _read(where)
    patient_column = _column(columns, _PATIENT, where, "the patients (patient)")
    _column(columns, ("lowest", "thoracic", "lumbar"), where, "the lowest vertebra (lowest)")
    for line, row in rows:
        cells = {key: row[columns[key]] for key in ("lowest", "thoracic", "lumbar") if key in columns}
        given = {key: text for key, text in cells.items() if text.lower() not in _NOTHING}
        lowest = given.get("lowest", usual.lowest).upper()
        try:
            thoracic = int(given.get("thoracic", usual.thoracic))
            lumbar = int(given["lumbar"]) if "lumbar" in given else usual.lumbar if lowest == usual.lowest else None
        except ValueError as error:
            raise _wrong(where, f"line {line}: {given}", "whole numbers of vertebrae", "correct the line") from error
        column = Column(lowest, thoracic, lumbar)
        try:
            column.upwards()
        except UsageError as error:
            raise UsageError(
                error.code, file=where, found=f"line {line}: {error.found}", expected=error.expected, fix=error.fix
            ) from error
        patient = patient_name(row[patient_column])
        if found.setdefault(patient, column) != column:
            raise _wrong(where, f"line {line}: patient {patient} again, with another spine", "one row", "remove one")
    return found


def read_names(words: list[str]) -> list[str]:
    """Return the patients of an option: each word is a name, or a file with one per line (``#`` starts a comment).

    Of a line with several cells, as in a CSV file, the first one counts; a first line that is a column's title is
    left out. Raises UsageError for a file that cannot be read or names nobody.
    """
    names: list[str] = []
    for word in words:
        path = Path(word).expanduser()
        if not path.is_file():
            names.append(patient_name(word))
            continue
        lines = [re.split(r"[,;\t]", line.partition("#")[0])[0].strip().strip('"') for line in _content(path)]
        listed = [line for line in lines if line]
        if listed and _key(listed[0]) in _PATIENT:
            del listed[0]
        if not listed:
            raise _wrong(path, "no name", "one patient per line", "correct the file")
        names += [patient_name(line) for line in listed]
    return list(dict.fromkeys(names))


def unmatched(path: Path, names: list[str], what: str) -> list[Problem]:
    """Return one warning for all rows of a table that belong to nothing that was found."""
    if not names:
        return []
    found = f"rows for {len(names)} {what} without files: {shorten(names)}"
    return [_warning(path, found, "rows for what is there")]


def _content(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror or error})", "a table", "check the path") from error
    if b"\0" in raw:
        raise _wrong(path, "no text", "a CSV file", "save the table as CSV")
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return raw.decode("latin-1").splitlines()


def _read(path: Path) -> tuple[dict[str, str], Iterator[tuple[int, dict[str, str]]]]:
    """Return columns (spelling without case and signs to the title in the file) and the rows with their lines."""
    lines = [line for line in _content(path) if line.strip()]
    if not lines:
        raise _wrong(path, "an empty file", "a CSV file with titles in its first line", "copy it again")
    delimiter = max(",;\t", key=lines[0].count)
    titles = next(csv.reader(lines[:1], delimiter=delimiter))
    columns: dict[str, str] = {}
    for title in titles:
        columns.setdefault(_key(title), title)
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=delimiter, restval="")

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for row in reader:
            cells = {title: (cell or "").strip() for title, cell in row.items() if isinstance(title, str)}
            if any(cells.values()):
                yield reader.line_num, cells

    return columns, rows()


def _key(title: str) -> str:
    return re.sub(r"[^a-z0-9]", "", title.lower())


def _column(columns: Mapping[str, str], spellings: tuple[str, ...], path: Path, what: str) -> str:
    found = next((columns[spelling] for spelling in spellings if spelling in columns), None)
    if found is None:
        raise _wrong(path, f"the columns {', '.join(columns.values())}", f"one with {what}", "correct the first line")
    return found


def _values(
    row: Mapping[str, str],
    columns: Mapping[str, str],
    wanted: Mapping[str, tuple[tuple[str, ...], Callable[[str], Value]]],
    path: Path,
    line: int,
    warnings: list[Problem],
) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, (spellings, read) in wanted.items():
        title = next((columns[spelling] for spelling in spellings if spelling in columns), None)
        text = row.get(title, "") if title is not None else ""
        if text.lower() in _NOTHING:
            continue
        try:
            values[key] = read(text)
        except ValueError:
            warnings.append(_warning(path, f"line {line}: {title} is {text!r}", "a value that means something"))
    return values


def _without(row: Mapping[str, Value], key: str) -> dict[str, Value]:
    return {name: value for name, value in row.items() if name != key}


def _warning(path: Path, found: str, expected: str) -> Problem:
    return Problem("warning", "W-SPIDER-TABLE", str(path), found, expected, "it was left out")


def _wrong(path: Path, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-SPIDER-TABLE", file=path, found=found, expected=expected, fix=fix)

"""The CSV files of an evaluation: one row per slice, per feature of a slice, per training, per failure."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError, NoInputError
from nnunet_spine_ext.core.io import read_json

TARGET, SOURCE, UNSEEN = "target", "source", "unseen"
KEYS = ("seed", "arm", "vendor", "role", "case", "subject", "slice")
OVERLAP_VALUES = ("dice", "iou", "f1", "precision", "recall", "reference_pixels", "predicted_pixels")
RADIOMIC_VALUES = ("value", "reference", "error")
GEOMETRY_VALUES = ("edge_correlation", "volume_change", "agreement", "passed")
SEGMENTATION_COLUMNS = (*KEYS, "segmenter", *OVERLAP_VALUES)
RADIOMICS_COLUMNS = (*KEYS, "reference_case", "reference_slice", "feature", *RADIOMIC_VALUES)
GEOMETRY_COLUMNS = (*KEYS, *GEOMETRY_VALUES, "why")
TRAINING_COLUMNS = ("seed", "kind", "name", "parameters", "epochs", "minutes")
FAILURE_COLUMNS = ("seed", "arm", "step", "reason")
FACTS_FILE = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row; `values` in the order of the file's value columns, NaN where there is none. `detail` is the segmenter or
    the feature, if the file has one.
    """

    seed: str
    arm: str
    vendor: str
    role: str
    case: str
    subject: str
    values: tuple[float, ...]
    detail: str = ""


@dataclass(frozen=True)
class Measured:
    """Everything that an evaluation folder holds; `facts` are those of evaluation.json."""

    folder: Path
    facts: Mapping[str, Any]
    segmentation: tuple[Entry, ...]
    radiomics: tuple[Entry, ...]
    geometry: tuple[Entry, ...]
    trainings: tuple[Mapping[str, str], ...]


def read_measured(folder: str | Path) -> Measured:
    """Read the CSV files of an evaluation.

    Raises
    ------
    NoInputError: there is no segmentation.csv, or it has no row. CaseError: a file is not what it should be.
    """
    folder = Path(folder).resolve()
    facts: Any = read_json(folder / FACTS_FILE) if (folder / FACTS_FILE).is_file() else {}
    path = folder / "segmentation.csv"
    rows = _entries(path, OVERLAP_VALUES, "segmenter") if path.is_file() else ()
    if not rows:
        raise NoInputError(
            "E-STUDY-RESULTS",
            file=path,
            found="no scored slice",
            expected="the folder of an evaluation that scored something",
            fix="read failures.csv and log.txt there",
        )
    return Measured(
        folder,
        facts if isinstance(facts, Mapping) else {},
        rows,
        _entries(folder / "radiomics.csv", RADIOMIC_VALUES, "feature"),
        _entries(folder / "geometry.csv", GEOMETRY_VALUES, ""),
        tuple(_dicts(folder / "trainings.csv", TRAINING_COLUMNS)),
    )


def _entries(path: Path, values: Sequence[str], detail: str) -> tuple[Entry, ...]:
    needed = (*KEYS, *values, *([detail] if detail else []))
    found = []
    for line, row in enumerate(_dicts(path, needed), start=2):
        numbers = tuple(_number(path, line, name, row[name]) for name in values)
        # Subjects of two vendors may have one name: only cases.json could tell, and it says they are one person.
        subject = row["subject"] or row["case"]
        words = (row["seed"], row["arm"], row["vendor"], row["role"], row["case"], subject)
        found.append(Entry(*words, numbers, row[detail] if detail else ""))
    return tuple(found)


def _dicts(path: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, f"cannot be read ({error})", "a CSV file in UTF-8") from error
    if missing:
        raise _bad(path, f"no column {', '.join(missing)}", "the columns that an evaluation writes")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise _bad(path, f"another number of values in line {line}", "as many as in its header")
    return rows


def _number(path: Path, line: int, name: str, word: str) -> float:
    try:
        return float(word) if word else math.nan
    except ValueError as error:
        raise _bad(path, f"{name} {word!r} in line {line}", "a number or nothing") from error


def _bad(path: Path, found: str, expected: str) -> CaseError:
    return CaseError(
        "E-STUDY-TABLE",
        file=path,
        found=found,
        expected=expected,
        fix="restore the file, or do the evaluation again",
    )


def broken_slices(path: Path, error: Exception) -> CaseError:
    """Return what to raise for a file of slices that cannot be read."""
    return CaseError(
        "E-STUDY-TABLE",
        file=path,
        found=f"no slices ({type(error).__name__})",
        expected="what an evaluation writes",
        fix="delete the file, and do the evaluation again with --resume",
    )

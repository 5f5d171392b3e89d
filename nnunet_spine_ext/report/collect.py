"""Reading a prediction folder: the cases, what happened to them, what the run was.

Works on the folders of `nnUNetv2_spine_predict` and, with less to tell, on those of nnU-Net's own command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, is_image, read_json, strip_suffix
from nnunet_spine_ext.measure.numbered import is_numbered

STATUSES = ("failed", "done", "skipped")
# What the journal says of intensities, views and test-time training; the QC of a case says it too.
CROSSING = ("intensity", "harmonization", "views", "adaptation")
_CHANNEL = "_0000"


@dataclass(frozen=True)
class Case:
    """One case of a prediction folder.

    `status` is ``done``, ``failed`` or ``skipped``; `seconds` is None when no journal tells; `inputs` are the
    journal's ``{"file", "sha256"}``; paths are None when there is no such file. `crossing` is what the journal says of
    intensities, views and test-time training (see `crossing`).
    """

    name: str
    status: str
    seconds: float | None = None
    warnings: tuple[Problem, ...] = ()
    error: Problem | None = None
    inputs: tuple[Mapping[str, Any], ...] = ()
    prediction: Path | None = None
    instances: Path | None = None
    qc: Mapping[str, Any] = field(default_factory=dict)
    numbered: bool = True
    crossing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Folder:
    """A prediction folder: cases with the failed ones first, and run.json (empty when there is none)."""

    path: Path
    cases: tuple[Case, ...]
    run: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def collect(out: str | Path) -> Folder:
    """Read run.json, cases.jsonl and the masks of a prediction folder.

    Raises
    ------
    NoInputError: no such folder, neither a mask nor a journal in it, or harmonized images in place of masks.
    """
    out = Path(out)
    if not out.is_dir():
        raise NoInputError(
            "E-REPORT-FOLDER",
            file=out,
            found="no such folder",
            expected="the output folder of nnUNetv2_spine_predict or nnUNetv2_predict",
            fix="check the path",
        )
    notes: list[str] = []
    journal = _journal(out / "cases.jsonl", notes)
    masks = {strip_suffix(path): path for path in sorted(out.iterdir()) if path.is_file() and is_image(path)}
    if not journal and not masks:
        raise NoInputError(
            "E-REPORT-EMPTY",
            file=out,
            found="no predicted mask and no journal (cases.jsonl)",
            expected=f"masks ({', '.join(IMAGE_SUFFIXES)}) directly in the folder",
            fix="run nnUNetv2_spine_predict with -o this folder first, or name the folder it wrote to",
        )
    run = _optional_json(out / "run.json", notes)
    if "harmonizer" in run:
        raise NoInputError(
            "E-REPORT-IMAGES",
            file=out,
            found="images that nnUNetv2_spine_harmonize apply wrote",
            expected="masks",
            fix="predict them, or their originals with --match cyclegan, and report that folder; qc/ and snapshots/ of "
            "this one say what became of slices",
        )
    names = [*journal, *(name for name in masks if name not in journal)]
    cases = [_case(out, name, journal.get(name), masks.get(name)) for name in names]
    return Folder(out, tuple(sorted(cases, key=_order)), run, tuple(notes))


def _order(case: Case) -> tuple[int, int, str]:
    return STATUSES.index(case.status) if case.status == "failed" else 1, 0 if case.warnings else 1, case.name


def _journal(path: Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return the last line of each case; a line that is no JSON (a run was killed while writing) is noted."""
    if not path.is_file():
        return {}
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            entries[str(entry["case"])] = entry
        except (json.JSONDecodeError, KeyError, TypeError):
            notes.append(f"line {number} of cases.jsonl cannot be read and is left out")
    return entries


def _optional_json(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except CaseError as error:
        notes.append(f"{path.name} {error.found}")
        return {}
    return content if isinstance(content, dict) else {}


def _case(out: Path, name: str, entry: Mapping[str, Any] | None, mask: Path | None) -> Case:
    instances = next((p for s in IMAGE_SUFFIXES if (p := out / "instances" / f"{name}{s}").is_file()), None)
    facts = entry or {}
    status = str(facts.get("status", "done"))
    error = _problem(facts.get("error"), "error", name)
    if status not in STATUSES:
        status = "failed" if error else "done"
    if mask is None and status != "failed":
        status = "failed"
        error = error or Problem(
            "error",
            "E-REPORT-NOMASK",
            name,
            "the journal says it is done, but there is no mask in the folder",
            "a mask beside cases.jsonl",
            "predict this case again (--resume does it)",
        )
    inputs = facts.get("input") or []
    seconds = facts.get("seconds")
    ignored: list[str] = []
    qc = _optional_json(out / "qc" / f"{name}.json", ignored)
    return Case(
        name,
        status,
        float(seconds) if isinstance(seconds, (int, float)) else None,
        tuple(w for w in (_problem(item, "warning", name) for item in facts.get("warnings") or []) if w),
        error,
        tuple(item for item in inputs if isinstance(item, dict)),
        mask,
        instances,
        qc,
        is_numbered(out, name),
        {key: facts[key] for key in CROSSING if isinstance(facts.get(key), dict)},
    )


def _problem(item: Any, severity: str, name: str) -> Problem | None:
    """Return a Problem from a journal entry, whatever of it is there."""
    if not item:
        return None
    if not isinstance(item, dict):
        return Problem("error" if severity == "error" else "warning", "", name, str(item), "", "")
    texts = {key: str(item.get(key) or "") for key in ("code", "file", "found", "expected", "fix")}
    return Problem("error" if item.get("severity", severity) == "error" else "warning", **texts)


def find_image(case: Case, run: Mapping[str, Any], images: Path | None) -> Path | None:
    """Return the (first channel of the) image of a case: in the given place, else where the run found it."""
    places = [Path(images)] if images is not None else _recorded_inputs(run)
    # Post-processing of masks records them among its inputs.
    for entry in [row for row in case.inputs if row.get("role") in (None, "image")][:1]:
        recorded = Path(str(entry.get("file", "")))
        candidates = [] if images is not None else [recorded]
        candidates += [place / recorded.name for place in places]
        candidates += [place for place in places if place.name == recorded.name]
        for path in candidates:
            if path.is_file() and is_image(path):
                return path
    for place in places:
        if place.is_file() and strip_suffix(place).removesuffix(_CHANNEL) == case.name:
            return place
        for suffix in IMAGE_SUFFIXES:
            for path in (place / f"{case.name}{_CHANNEL}{suffix}", place / f"{case.name}{suffix}"):
                if path.is_file():
                    return path
    return None


def _recorded_inputs(run: Mapping[str, Any]) -> list[Path]:
    found: list[Path] = []
    for table in (run, run.get("options"), run.get("inputs")):
        if isinstance(table, Mapping):
            for key in ("input", "i", "images"):
                value = table.get(key)
                found += [
                    Path(text) for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
                ]
    return found

"""`nnUNetv2_spine_report`: a prediction folder becomes one HTML file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, CaseError, Problem, SetupError, UsageError
from nnunet_spine_ext.core.io import sha256, write_text
from nnunet_spine_ext.report.collect import Case, Folder, collect, find_image
from nnunet_spine_ext.report.facts import qc_rows, run_date, run_facts, sequence_problem
from nnunet_spine_ext.report.naming import Naming, naming_of
from nnunet_spine_ext.report.page import render_page
from nnunet_spine_ext.report.pictures import CasePictures, draw_case
from nnunet_spine_ext.report.privacy import Redactor
from nnunet_spine_ext.report.scores import Head, Scores, case_cells, head, leading, matrix, number, read_scores

DEFAULT_NAME = "report.html"
DEFAULT_TITLE = "Spine segmentation report"
DEFAULT_MAX_SIZE = 60.0
# Bytes of pictures per case before base64, when the whole report is small enough.
CASE_BUDGET = 150_000
# What a case costs besides its pictures: thumbnail, names, tables.
_CASE_TEXT = 16_000
_PAGE_TEXT = 60_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportResult:
    """Where the report is and what it shows; `unreadable` are cases whose mask could not be read."""

    path: Path
    cases: int
    failed: int
    size: int
    unreadable: tuple[str, ...] = ()
    without_image: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0: every predicted mask is shown; 3: some could not be read."""
        return EXIT_SOME_FAILED if self.unreadable else EXIT_OK

    def render(self) -> str:
        """Return one line per fact for the console."""
        lines = [f"{self.path}: {self.cases} cases ({self.failed} failed in the run), {self.size / 1e6:.1f} MB"]
        if self.without_image:
            lines.append(f"{len(self.without_image)} without their image (labels only); -i names the image folder")
        lines += [f"cannot be read: {name}" for name in self.unreadable]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "report": str(self.path),
            "cases": self.cases,
            "failed": self.failed,
            "bytes": self.size,
            "unreadable": list(self.unreadable),
            "without_image": list(self.without_image),
            "exit_code": self.exit_code,
        }


def report(
    out: str | Path,
    *,
    i: str | Path | None = None,
    evaluation: str | Path | None = None,
    title: str | None = None,
    o: str | Path | None = None,
    max_size: float = DEFAULT_MAX_SIZE,
    show_paths: bool = False,
) -> ReportResult:
    """Write one self-contained HTML file about a prediction folder; equal input gives equal bytes.

    Parameters
    ----------
    out: folder with predicted masks, of `nnUNetv2_spine_predict` or of nnU-Net.
    i: folder (or file) with the images; None: where run.json and the journal say they were.
    evaluation: output folder of `nnUNetv2_spine_evaluate`; None: no scores.
    title: heading of the page.
    o: the file to write; None: ``report.html`` in `out`.
    max_size: largest size of the file in MB; pictures become smaller, then are left out, to keep to it.
    show_paths: show absolute paths and names of machine and user; by default only file names are shown.

    Raises
    ------
    NoInputError: no folder or no predictions in it. UsageError: a wrong option, unreadable evaluation folder.
    SetupError: the file cannot be written.
    """
    if not max_size > 0:
        raise UsageError(
            "E-REPORT-SIZE", found=f"--max-size {max_size}", expected="more than 0 MB", fix="correct the option"
        )
    folder = collect(out)
    if i is not None and not Path(i).exists():
        raise UsageError(
            "E-REPORT-IMAGES", file=i, found="no such place", expected="the folder of the images", fix="correct -i"
        )
    scores = read_scores(evaluation) if evaluation is not None else None
    redactor = _redactor(folder, i, evaluation, show_paths=show_paths)
    naming = naming_of(folder.path, folder.run)
    budget = _budget(max_size, len(folder.cases))
    cards: list[dict[str, Any]] = []
    unreadable, without = [], []
    for case in tqdm(folder.cases, desc="report", unit="case", disable=None):
        image = find_image(case, folder.run, Path(i) if i is not None else None)
        if image is None and case.prediction is not None:
            without.append(case.name)
        drawn, case = _drawn(case, image, naming, budget)
        if case.error is not None and case.error.code == "E-REPORT-MASK":
            unreadable.append(case.name)
        cards.append(_card(len(cards), case, drawn, scores, naming, redactor))
    shown = next((card for card in cards if card["pictures"]), None)
    if shown is not None:
        shown["open"] = True
    text = render_page(_context(folder, cards, scores, naming, redactor, title))
    path = Path(o) if o is not None else folder.path / DEFAULT_NAME
    _write(path, text)
    failed = sum(card["status"] == "failed" for card in cards)
    size = len(text.encode("utf-8"))
    return ReportResult(path, len(cards), failed, size, tuple(unreadable), tuple(without))


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise SetupError(
            "E-REPORT-WRITE",
            file=path,
            found=f"cannot be written ({error.strerror})",
            expected="a folder that can be written",
            fix="name another file with -o",
        ) from error


def _budget(max_size: float, cases: int) -> int:
    """Bytes of pictures per case: base64 makes 4 of 3."""
    room = (max_size * 1e6 - _PAGE_TEXT) / max(cases, 1) - _CASE_TEXT
    return max(0, min(CASE_BUDGET, int(room * 3 / 4)))


def _redactor(folder: Folder, *places: str | Path | None, show_paths: bool) -> Redactor:
    known = [Path(place).resolve() for place in (folder.path, *places) if place is not None]
    known += [Path.home()]
    redactor = Redactor(show_paths=show_paths, known=[*known, *(place for place in places if place is not None)])
    for case in folder.cases:
        redactor.add(str(entry.get("file", "")) for entry in case.inputs)
        redactor.add(p.file for p in (*case.warnings, case.error) if p is not None)
    redactor.add(_strings(folder.run))
    return redactor


def _strings(table: Any) -> list[str]:
    if isinstance(table, str):
        return [table]
    if isinstance(table, Mapping):
        return [text for value in table.values() for text in _strings(value)]
    return [text for value in table for text in _strings(value)] if isinstance(table, list) else []


def _drawn(case: Case, image: Path | None, naming: Naming, budget: int) -> tuple[CasePictures, Case]:
    """Draw a case; a mask that cannot be read makes it a failed one."""
    try:
        drawn = draw_case(case, image, naming, budget=budget)
    except (CaseError, ValueError) as error:
        logger.warning("%s", error)
        found = error.found if isinstance(error, CaseError) else str(error)
        file = str(case.prediction.name if case.prediction else case.name)
        problem = Problem("error", "E-REPORT-MASK", file, found, "a readable mask", "predict this case again")
        return CasePictures(), replace(case, status="failed", error=problem)
    notes = list(drawn.notes)
    if image is not None and _other_content(case, image):
        notes.append("the image is not the file that was predicted: its SHA-256 differs from the journal's")
    return replace(drawn, notes=tuple(notes)), case


def _other_content(case: Case, image: Path) -> bool:
    recorded = str(case.inputs[0].get("sha256") or "") if case.inputs else ""
    return bool(recorded) and sha256(image) != recorded


def _card(
    number_: int, case: Case, drawn: CasePictures, scores: Scores | None, naming: Naming, redactor: Redactor
) -> dict[str, Any]:
    order = sequence_problem(drawn.vertebrae, case.name) if case.numbered else None
    warnings = list(case.warnings)
    if order is not None and not any(w.code == order.code for w in warnings):
        warnings.append(order)
    means = scores.means.get(case.name, {}) if scores else {}
    volumes = [
        {
            "name": naming.name(n),
            "colour": _hex(naming.colour(n)),
            "ml": f"{value:.1f}" if value >= 0.1 else f"{value:.2f}",
        }
        for n, value in drawn.volumes_ml.items()
    ]
    return {
        "id": f"case-{number_ + 1}",
        "open": case.status == "failed",
        "name": case.name,
        "status": case.status,
        "seconds": None if case.seconds is None else f"{case.seconds:.1f} s",
        "error": _problem(case.error, redactor) if case.error else None,
        "warnings": [_problem(w, redactor) for w in warnings],
        "red": any(w.code == "W-LABEL-ORDER" for w in warnings),
        "notes": [redactor.text(note) for note in drawn.notes],
        "pictures": drawn.pictures,
        "thumbnail": drawn.thumbnail,
        "facts": list(drawn.facts.items()),
        "counts": dict(drawn.instance_counts),
        "numbered": case.numbered,
        "inputs": [redactor.path(str(entry.get("file", ""))) for entry in case.inputs],
        "volumes": volumes,
        "qc": qc_rows(case.qc, redactor),
        "scores": case_cells(scores, case.name) if scores else (),
        "means": [(head(name), number(name, means[name])) for name in leading(means)],
        "scored": scores is not None and case.name in scores.by_case,
    }


def _problem(problem: Problem, redactor: Redactor) -> dict[str, str]:
    return {
        "severity": problem.severity,
        "code": problem.code,
        "file": redactor.path(problem.file),
        "found": redactor.text(problem.found),
        "expected": redactor.text(problem.expected),
        "fix": redactor.text(problem.fix),
    }


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _context(
    folder: Folder,
    cards: list[dict[str, Any]],
    scores: Scores | None,
    naming: Naming,
    redactor: Redactor,
    title: str | None,
) -> dict[str, Any]:
    counts = {status: sum(card["status"] == status for card in cards) for status in ("done", "failed", "skipped")}
    warned = [card for card in cards if card["warnings"]]
    present = {row["name"] for card in cards for row in card["volumes"]}
    legend = [(naming.name(n), _hex(naming.colour(n))) for n in naming.labels if naming.name(n) in present]
    excused = {name for name, _ in scores.failed} if scores else set()
    unscored = [c["name"] for c in cards if not c["scored"] and c["status"] != "failed" and c["name"] not in excused]
    missing = [name for name, status in scores.status.items() if status == "missing"] if scores else []
    grid = matrix(scores) if scores else None
    return {
        "title": title or DEFAULT_TITLE,
        "date": run_date(folder.run),
        "facts": run_facts(folder.run, redactor),
        "has_run": bool(folder.run),
        "folder_notes": [redactor.text(note) for note in folder.notes],
        "counts": counts,
        "warnings": sum(len(card["warnings"]) for card in cards),
        "warned": len(warned),
        "cards": cards,
        "ids": {card["name"]: card["id"] for card in cards},
        "legend": legend,
        "tables": scores.tables if scores else (),
        "overall": _tiles(scores) if scores else [],
        "quality": _group_means(scores) if scores else [],
        "matrix": grid,
        "scored": scores is not None,
        "unscored": unscored if scores else [],
        "missing": missing,
        "not_compared": [(name, redactor.text(found)) for name, found in scores.failed] if scores else [],
        "remarks": [redactor.text(remark) for remark in scores.remarks] if scores else [],
        "any_instances": any(card["counts"] for card in cards),
        "colour_of": {naming.name(n): _hex(naming.colour(n)) for n in naming.labels},
    }


def _tiles(scores: Scores) -> list[tuple[Head, str, str]]:
    """Mean over classes, then over cases, of the leading metrics: (metric, mean, spread)."""
    tiles = []
    for name in leading(scores.overall):
        found = scores.overall[name]
        spread = "" if found.sd is None else f"± {number(name, found.sd)}"
        tiles.append((head(name), number(name, found.mean), spread))
    return tiles


def _group_means(scores: Scores) -> list[tuple[str, str]]:
    """Mean panoptic quality per kind of instance, for the tiles at the top."""
    tiles = []
    for table in scores.tables:
        names = [h.name for h in table.heads]
        if table.title == "Instances" and "pq" in names:
            tiles += [(f"PQ {row.label}", row.cells[names.index("pq")].text) for row in table.rows]
    return tiles

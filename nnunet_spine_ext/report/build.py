"""`nnUNetv2_spine_report`: a prediction folder becomes one HTML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from nnunet_spine_ext.report.cards import details
from nnunet_spine_ext.report.collect import Folder, collect
from nnunet_spine_ext.report.compare import check_before
from nnunet_spine_ext.report.context import Subject, page_context, page_data
from nnunet_spine_ext.report.figures import sections, write_figures
from nnunet_spine_ext.report.files import write_output
from nnunet_spine_ext.report.naming import naming_of
from nnunet_spine_ext.report.page import render_page
from nnunet_spine_ext.report.privacy import Redactor
from nnunet_spine_ext.report.scores import Scores, read_scores, strings
from nnunet_spine_ext.report.show import Request, in_order, never_predicted, show

DEFAULT_NAME = "report.html"
DEFAULT_TITLE = "Spine segmentation report"
DEFAULT_MAX_SIZE = 60.0
# Bytes of pictures per case before base64, when the whole report is small enough.
CASE_BUDGET = 150_000
# What a case costs besides its pictures: thumbnail, names, tables.
_CASE_TEXT = 16_000
_PAGE_TEXT = 60_000


@dataclass(frozen=True)
class ReportResult:
    """Where the report is and what it shows; `unreadable` are cases whose mask could not be read."""

    path: Path
    cases: int
    failed: int
    size: int
    unreadable: tuple[str, ...] = ()
    without_image: tuple[str, ...] = field(default=())
    figures: int = 0

    @property
    def exit_code(self) -> int:
        """0: every predicted mask is shown; 3: some could not be read."""
        return EXIT_SOME_FAILED if self.unreadable else EXIT_OK

    def render(self) -> str:
        """Return one line per fact for the console."""
        lines = [f"{self.path}: {self.cases} cases ({self.failed} failed in the run), {self.size / 1e6:.1f} MB"]
        if self.without_image:
            lines.append(f"{len(self.without_image)} without their image (labels only); -i names the image folder")
        if self.figures:
            lines.append(f"{self.figures} figures written")
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
            "figures": self.figures,
            "exit_code": self.exit_code,
        }


def report(
    out: str | Path,
    *,
    i: str | Path | None = None,
    evaluation: str | Path | None = None,
    before: str | Path | None = None,
    figures: str | Path | None = None,
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
    before: folder of earlier masks of the same cases, shown against those in `out`; None: none.
    figures: folder for the plots as SVG and PNG and the planes of every case as PNG; None: not written.
    title: heading of the page.
    o: the file to write; None: ``report.html`` in `out`.
    max_size: largest size of the file in MB; pictures become smaller, then are left out, to keep to it.
    show_paths: show absolute paths and names of machine and user; by default only file names are shown.

    Raises
    ------
    NoInputError: no folder or no predictions in it. UsageError: a wrong option, unreadable evaluation folder.
    SetupError: a file cannot be written.
    """
    _check(max_size, i)
    earlier = check_before(before)
    folder = collect(out)
    scores = read_scores(evaluation) if evaluation is not None else None
    cases = (*folder.cases, *never_predicted(folder, scores))
    naming = naming_of(folder.path, folder.run)
    sheets = Path(figures) / "cases" if figures is not None else None
    request = Request(folder.run, naming, _budget(max_size, len(cases)), _path(i), earlier, sheets)
    shown, found = in_order(
        [show(case, request) for case in tqdm(cases, desc="report", unit="case", disable=None)], scores
    )
    plots = sections(shown, scores, found, naming)
    redactor = _redactor(folder, scores, i, evaluation, before, show_paths=show_paths)
    subject = Subject(folder, shown, found, scores, naming, redactor, plots, title or DEFAULT_TITLE)
    text = render_page(page_context(subject), page_data(subject), [details(one, redactor) for one in shown])
    path = Path(o) if o is not None else folder.path / DEFAULT_NAME
    write_output(path, text, "-o")
    return ReportResult(
        path,
        len(shown),
        sum(one.lost for one in shown),
        len(text.encode("utf-8")),
        tuple(one.case.name for one in shown if one.unreadable),
        tuple(one.case.name for one in shown if one.case.prediction is not None and one.image is None),
        write_figures(figures, plots) + sum(one.drawn.sheet is not None for one in shown) if figures is not None else 0,
    )


def _check(max_size: float, images: str | Path | None) -> None:
    if not max_size > 0:
        raise UsageError(
            "E-REPORT-SIZE", found=f"--max-size {max_size}", expected="more than 0 MB", fix="correct the option"
        )
    if images is not None and not Path(images).exists():
        raise UsageError(
            "E-REPORT-IMAGES", file=images, found="no such place", expected="the folder of the images", fix="correct -i"
        )


def _path(place: str | Path | None) -> Path | None:
    return None if place is None else Path(place)


def _budget(max_size: float, cases: int) -> int:
    """Bytes of pictures per case: base64 makes 4 of 3."""
    room = (max_size * 1e6 - _PAGE_TEXT) / max(cases, 1) - _CASE_TEXT
    return max(0, min(CASE_BUDGET, int(room * 3 / 4)))


def _redactor(folder: Folder, scores: Scores | None, *places: str | Path | None, show_paths: bool) -> Redactor:
    known = [Path(place).resolve() for place in (folder.path, *places) if place is not None]
    known += [Path.home()]
    redactor = Redactor(show_paths=show_paths, known=[*known, *(place for place in places if place is not None)])
    for case in folder.cases:
        redactor.add(str(entry.get("file", "")) for entry in case.inputs)
        redactor.add(p.file for p in (*case.warnings, case.error) if p is not None)
        redactor.add(strings(case.qc))
    redactor.add(strings(folder.run))
    redactor.add(scores.texts if scores is not None else ())
    return redactor

"""From collected cases to cases that are shown: drawn one by one, checked, put in order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.report.cards import with_order_warning
from nnunet_spine_ext.report.collect import Case, Folder, find_image
from nnunet_spine_ext.report.files import write_output
from nnunet_spine_ext.report.measures import Measure, Shown, default_measure, measures
from nnunet_spine_ext.report.naming import Naming
from nnunet_spine_ext.report.pictures import CasePictures, draw_case
from nnunet_spine_ext.report.scores import Scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What holds for every case: the run, names of labels, bytes of pictures, folders (None: there is none).

    `sheets` is the folder for one PNG per case.
    """

    run: Mapping[str, Any]
    naming: Naming
    budget: int
    images: Path | None = None
    before: Path | None = None
    sheets: Path | None = None


def never_predicted(folder: Folder, scores: Scores | None) -> list[Case]:
    """Return the cases that were scored as empty because this folder does not know them."""
    known = {case.name for case in folder.cases}
    missing = [name for name, status in scores.status.items() if status == "missing"] if scores else []
    return [
        Case(
            name,
            "missing",
            error=Problem(
                "error",
                "E-REPORT-MISSING",
                name,
                "the evaluation has a reference for this case and scored an empty mask",
                "a predicted mask",
                "predict this case, or leave its reference out",
            ),
        )
        for name in missing
        if name not in known
    ]


def show(case: Case, request: Request) -> Shown:
    """Draw a case; a mask that cannot be read makes it a failed one."""
    image = find_image(case, request.run, request.images)
    try:
        drawn = draw_case(
            case, image, request.naming, budget=request.budget, before=request.before, sheet=request.sheets is not None
        )
    except (CaseError, ValueError) as error:
        logger.warning("%s", error)
        found = error.found if isinstance(error, CaseError) else str(error)
        file = str(case.prediction.name if case.prediction else case.name)
        problem = Problem("error", "E-REPORT-MASK", file, found, "a readable mask", "predict this case again")
        return Shown(replace(case, status="failed", error=problem), CasePictures(), image, unreadable=True)
    notes = list(drawn.notes)
    if image is not None and _other_content(case, image):
        notes.append("the image is not the file that was predicted: its SHA-256 differs from the journal's")
    if request.sheets is not None and drawn.sheet is not None:
        write_output(request.sheets / f"{case.name}.png", drawn.sheet, "--figures")
    drawn = replace(drawn, notes=tuple(notes), sheet=b"" if drawn.sheet is not None else None)
    return with_order_warning(Shown(case, drawn, image))


def _other_content(case: Case, image: Path) -> bool:
    recorded = str(case.inputs[0].get("sha256") or "") if case.inputs else ""
    return bool(recorded) and sha256(image) != recorded


def in_order(shown: Sequence[Shown], scores: Scores | None) -> tuple[list[Shown], list[Measure]]:
    """Return the cases with the worst first, and their measures in that order."""
    first = default_measure(measures(shown, scores))
    places = sorted(range(len(shown)), key=lambda n: (*first.rank(n, lost=shown[n].lost), shown[n].case.name))
    ordered = [shown[n] for n in places]
    return ordered, measures(ordered, scores)

"""One case of a run: checked, predicted, written."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.io import write_volume, write_volumes
from nnunet_spine_ext.inference.batch import Done
from nnunet_spine_ext.inference.cases import InputCase
from nnunet_spine_ext.inference.gate import inspect_case
from nnunet_spine_ext.inference.journal import hash_of
from nnunet_spine_ext.inference.options import RunOptions
from nnunet_spine_ext.inference.phases import CaseInput, Phases, image_for
from nnunet_spine_ext.inference.results import soft_file

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.inference.predictor import SpinePredictor

logger = logging.getLogger(__name__)


def predict_case(case: InputCase, folder: Path, options: RunOptions, predictor: SpinePredictor, phases: Phases) -> Done:
    """Check, predict and write one case. Raises CaseError for what makes it unusable."""
    warnings, grid = inspect_case(case, strict=options.strict, prefer=options.prefer)
    facts: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as chatter:
        raw, properties = predictor.read(case.files, None if grid is None else grid.affine)
        data, properties = predictor.preprocess(raw, properties)
        with _adapted(predictor, data, options) as adapted:
            answer = None if predictor.activation is None else predictor.soft(data, properties)
            semantic = predictor.segment(data, properties) if answer is None else answer.mask
        facts |= adapted.facts | _views(predictor)
        warnings += adapted.warnings
    if chatter.getvalue().strip():
        logger.debug("nnU-Net: %s", chatter.getvalue().strip())
    warnings += [replace(problem, file=problem.file or str(case.files[0])) for problem in predictor.warnings]
    if not semantic.array.any():
        warnings.append(
            Problem(
                "warning",
                "W-OUT-EMPTY",
                str(case.files[0]),
                "no structure found",
                "a spine in the image",
                "check the image and the model",
            )
        )
    # The mask goes last: under its name the case is complete.
    mask = folder / f"{case.name}.nii.gz"
    if answer is not None:
        write_volumes(answer.soft, soft_file(folder, case.name))
    given = CaseInput(file=mask.name, image=image_for(options.phases, case.files[0], semantic))
    semantic, found = phases.run(semantic, folder, case.name, given)
    warnings += found
    write_volume(semantic, mask)
    return Done(warnings, facts)


@contextlib.contextmanager
def _adapted(predictor: SpinePredictor, data: torch.Tensor, options: RunOptions) -> Iterator[Done]:
    """Let a predictor have parameters that were trained on a case while it predicts it; say what came of it."""
    before = predictor.list_of_parameters
    try:
        # inference.adaptation is called here: its parameters go to predictor.list_of_parameters, what it warns of and
        # its record under the key "adaptation" into the answer.
        yield Done([])
    finally:
        predictor.list_of_parameters = before


def _views(predictor: SpinePredictor) -> dict[str, Any]:
    """Return, for the journal, the views that were averaged and how stable structures were among them."""
    views = getattr(predictor, "views_record", None)
    return {"views": views} if views else {}


def input_hashes(case: InputCase) -> list[dict[str, str]]:
    """Return name and hash of the files of a case, none for a case that was found unusable by its names."""
    if case.problem is not None:
        return []
    return [{"file": f.name, "sha256": hash_of(f)} for f in case.files]

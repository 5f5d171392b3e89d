"""One case of a run: checked, predicted, written."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.io import read_json, write_json, write_volume, write_volumes
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.batch import Done
from nnunet_spine_ext.inference.cases import InputCase
from nnunet_spine_ext.inference.gate import inspect_case
from nnunet_spine_ext.inference.journal import hash_of
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.inference.options import RunOptions
from nnunet_spine_ext.inference.phases import CaseInput, Phases, image_for, qc_file
from nnunet_spine_ext.inference.results import soft_file, uncertainty_file
from nnunet_spine_ext.inference.settings import PredictSettings

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.inference.predictor import SpinePredictor
    from nnunet_spine_ext.inference.preparation import Preparation

logger = logging.getLogger(__name__)


def predict_case(case: InputCase, folder: Path, options: RunOptions, prepare: Preparation, phases: Phases) -> Done:
    """Check, predict and write one case. Raises CaseError for what makes it unusable."""
    warnings, grid = inspect_case(case, strict=options.strict, prefer=options.prefer)
    predictor = prepare.predictor
    with contextlib.redirect_stdout(io.StringIO()) as chatter:
        raw, properties = predictor.read(case.files, None if grid is None else grid.affine)
        prepared = prepare(raw, properties, str(case.files[0]))
        data, properties = prepared.data, prepared.properties
        del raw
        with _adapted(predictor, data, properties, options) as adapted:
            answer = None if predictor.activation is None else predictor.soft(data, properties)
            semantic = predictor.segment(data, properties) if answer is None else answer.mask
        facts = prepared.facts | adapted.facts | _views(predictor)
        maps = _uncertainty(predictor, properties)
        warnings += prepared.warnings
        warnings += [replace(problem, file=problem.file or str(case.files[0])) for problem in adapted.warnings]
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
    if maps is not None:
        write_volumes(maps, uncertainty_file(folder, case.name))
    note_facts(qc_file(folder, case.name), _without_times(facts | prepared.details))
    write_volume(semantic, mask)
    return Done(warnings, facts | {"forward_passes": predictor.passes})


def note_facts(file: Path, facts: Mapping[str, Any]) -> None:
    """Add what the journal says about intensities, views and adaptation to the QC of a case, which phases may have."""
    if facts:
        known = read_json(file) if file.is_file() else {}
        write_json(file, {**known, **facts})


def _without_times(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as QC has them: equal runs give equal bytes, so how long training took is in the journal only."""
    return {
        name: {key: value for key, value in content.items() if key != "seconds"} if name == "adaptation" else content
        for name, content in facts.items()
    }


@contextlib.contextmanager
def _adapted(
    predictor: SpinePredictor, data: torch.Tensor, properties: Mapping[str, Any], options: RunOptions
) -> Iterator[Done]:
    """Let a predictor have parameters that were trained on a case while it predicts it; say what came of it."""
    if options.adapt == "none":
        yield Done([])
        return
    from nnunet_spine_ext.inference.adaptation.interface import adapt, using

    settings = (predict_settings(predictor.plans_manager.plans) or PredictSettings()).adapt
    settings = settings.with_steps(options.adapt, options.adapt_steps)
    made = adapt(predictor, data, settings, method=options.adapt, properties=properties)
    with using(predictor, made.parameters):
        yield Done(made.warnings, {"adaptation": made.record})


def _views(predictor: SpinePredictor) -> dict[str, Any]:
    """Return, for the journal, the views that were averaged and how stable structures were among them."""
    return {} if predictor.averaged is None else {"views": predictor.averaged.record()}


def _uncertainty(predictor: SpinePredictor, properties: dict[str, Any]) -> tuple[Volume, ...] | None:
    """Return maps of how uncertain the views of a case are, on the grid of its image; None unless asked for."""
    if not predictor.uncertainty or predictor.averaged is None:
        return None
    from nnunet_spine_ext.inference.uncertainty import uncertainty_maps

    managers = predictor.plans_manager, predictor.configuration_manager
    return uncertainty_maps(predictor.averaged, *managers, properties)


def input_hashes(case: InputCase) -> list[dict[str, str]]:
    """Return name and hash of the files of a case, none for a case that was found unusable by its names."""
    if case.problem is not None:
        return []
    return [{"file": f.name, "sha256": hash_of(f)} for f in case.files]

"""`nnUNetv2_spine_harmonize evaluate`: YAML in, folder out; resumable, in several processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.study.frame import Frame, FrameResult, Kind
from nnunet_spine_ext.study.harmonization.assemble import Assembly, assemble, radiomics_of
from nnunet_spine_ext.study.harmonization.collect import collect
from nnunet_spine_ext.study.harmonization.config import HarmonizationConfig, read_config
from nnunet_spine_ext.study.harmonization.measured import FACTS_FILE

if TYPE_CHECKING:
    from nnunet_spine_ext.study.harmonization.analysis import Summary

logger = logging.getLogger(__name__)
_KIND = Kind("evaluation of harmonization", FACTS_FILE, ".evaluation.lock", "doing an evaluation here")


@dataclass
class EvaluationResult(FrameResult["Summary"]):
    """What an evaluation found, and what it could not do."""


def evaluate(
    o: str | Path,
    *,
    preset: str = "full",
    assignments: Sequence[str] = (),
    device: str | None = None,
    jobs: int = 1,
    resume: bool = False,
    dry_run: bool = False,
) -> EvaluationResult:
    """Measure what harmonization, its parts and its alternatives do for segmentation and for radiomic features.

    Parameters
    ----------
    o: folder for everything. preset: an evaluation that comes with the package (``cpu``, ``full``, ``smoke``), or a
        YAML file. assignments: ``key=value`` over it, such as ``phantoms.test=4``.
    device: instead of the configuration's. jobs: steps at the same time; threads are shared between them.
    resume: go on in a folder that an evaluation began in: finished steps are kept, those that a changed configuration
        touches are done again.
    dry_run: list the steps that would be done.

    Raises
    ------
    UsageError: the configuration is wrong, the folder holds something else.
    NoInputError, SetupError: no data, no model, another evaluation runs in the folder.
    """
    frame = Frame(_KIND, o, jobs)
    config = read_config(preset, assignments)
    config = config if device is None else replace(config, device=device)
    known = frame.before(resume=resume)
    made = assemble(config, frame.folder)
    if dry_run:
        return EvaluationResult(frame.folder, planned=frame.ledger.planned(made.steps))
    with frame.opened(known, config.to_dict()):
        return _evaluated(frame, config, made)


def _evaluated(frame: Frame, config: HarmonizationConfig, made: Assembly) -> EvaluationResult:
    for warning in made.warnings:
        logger.warning("%s", warning)
    facts = _facts(config)
    frame.write_facts(config.to_dict(), facts, warnings=made.warnings)
    outcome = frame.run(made.steps, config.budget)
    failures = collect(frame.folder, made, frame.ledger, outcome)
    later = {"warnings": made.warnings, "failures": failures, **frame.effort(made.steps)}
    frame.write_facts(config.to_dict(), facts, **later)
    summary = _analysed(frame.folder, config) if frame.is_scored(made.steps) else None
    return EvaluationResult(frame.folder, summary, outcome, failures, seconds=frame.seconds)


def _analysed(folder: Path, config: HarmonizationConfig) -> Summary:
    from nnunet_spine_ext.study.harmonization.analysis import analyse

    return analyse(folder, bootstrap=config.bootstrap)


def _facts(config: HarmonizationConfig) -> dict[str, Any]:
    return {"segmenter": config.main, "radiomics": to_dict(radiomics_of(config, config.seeds[0]))}

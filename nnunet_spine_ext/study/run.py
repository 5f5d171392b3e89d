"""`nnUNetv2_spine_study`: YAML in, folder out; resumable, in several processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nnunet_spine_ext.study.assemble import Assembly, assemble
from nnunet_spine_ext.study.collect import collect, source_gap
from nnunet_spine_ext.study.config import StudyConfig, read_config
from nnunet_spine_ext.study.frame import Frame, FrameResult, Kind
from nnunet_spine_ext.study.steps import Step

if TYPE_CHECKING:
    from nnunet_spine_ext.study.analysis import StudySummary

logger = logging.getLogger(__name__)
STUDY_FILE = "study.json"
# Below it there is nothing to recover, and no share says anything.
LEAST_GAP = 0.10
_KIND = Kind("cross-scanner study", STUDY_FILE, ".study.lock", "doing a study here")


@dataclass
class StudyResult(FrameResult["StudySummary"]):
    """What a study found, and what it could not do; `unavailable` strategies with the reason."""

    unavailable: dict[str, str] = field(default_factory=dict)

    PLACE: ClassVar[tuple[str, ...]] = ("strategy", "scanner", "case", "step")

    def lost(self) -> list[dict[str, Any]]:
        """Return the failures without strategies that were never there: these were asked for in vain, not lost."""
        return [row for row in self.failures if row.get("step") != "not available"]

    def remarks(self) -> list[str]:
        """Return a line for every strategy that is not available."""
        return [f"not available: {name}: {reason}" for name, reason in self.unavailable.items()]

    def more(self) -> dict[str, Any]:
        """Return the strategies that are not available."""
        return {"unavailable": self.unavailable}


def study(
    config: str | Path | None = None,
    o: str | Path = "study",
    *,
    preset: str | None = None,
    assignments: Sequence[str] | None = None,
    device: str | None = None,
    jobs: int = 1,
    resume: bool = False,
    dry_run: bool = False,
) -> StudyResult:
    """Measure what a model loses on other scanners, and what brings it back.

    Parameters
    ----------
    config: YAML file, or None with `preset`, a study that comes with the package: ``cpu``, ``full``, ``smoke``.
    o: folder for everything. assignments: ``key=value`` over the configuration, such as ``phantoms.test=4``.
    device: instead of the configuration's. jobs: steps at the same time; threads are shared between them.
    resume: go on in a folder that a study began in: finished steps are kept, those that a changed configuration
        touches are done again, and cases that failed are tried again.
    dry_run: list the steps that would be done.

    Raises
    ------
    UsageError: the configuration is wrong, the folder holds something else.
    NoInputError, SetupError: no data, no model, another study runs in the folder.
    """
    frame = Frame(_KIND, o, jobs)
    chosen = read_config(config, preset, assignments or ())
    chosen = chosen if device is None else replace(chosen, device=device)
    known = frame.before(resume=resume)
    made = assemble(chosen, frame.folder)
    if dry_run:
        return StudyResult(frame.folder, planned=frame.ledger.planned(made.steps), unavailable=made.unavailable)
    with frame.opened(known, chosen.to_dict()):
        return _study(frame, chosen, made)


def _study(frame: Frame, config: StudyConfig, made: Assembly) -> StudyResult:
    facts = _facts(config, made)
    frame.write_facts(config.to_dict(), facts)
    outcome = frame.run(made.steps, config.budget, after=lambda step: _tell_gap(frame.folder, made, step))
    failures = collect(frame.folder, config, made, frame.ledger, outcome)
    frame.write_facts(config.to_dict(), facts, failures=failures, **frame.effort(made.steps))
    summary = _analysed(frame.folder, config) if frame.is_scored(made.steps) else None
    return StudyResult(frame.folder, summary, outcome, failures, unavailable=made.unavailable, seconds=frame.seconds)


def _analysed(folder: Path, config: StudyConfig) -> StudySummary | None:
    from nnunet_spine_ext.study.analysis import analyse

    return analyse(folder, bootstrap=config.bootstrap)


def _tell_gap(folder: Path, made: Assembly, step: Step) -> None:
    """Say how large the gap is as soon as it is known: without one the rest is in vain."""
    for run in made.runs:
        if run.score == step.name and run.strategy == "none" and made.images.source in run.conditions:
            own, other = source_gap(folder, made, run)
            logger.info("Dice without any strategy: %.3f at the source, %.3f on targets", own, other)
            if not own - other >= LEAST_GAP:
                logger.warning("the gap of %.3f is below %.2f: the study will be void", own - other, LEAST_GAP)


def _facts(config: StudyConfig, made: Assembly) -> dict[str, Any]:
    scanners = [condition.scanner for condition in made.images.conditions if condition.factor == "scanner"]
    return {
        "source": made.images.source.scanner,
        "scanners": scanners,
        "strategies": list(config.strategies),
        "seeds": list(config.seeds),
        "unavailable": made.unavailable,
        "vertebrae": made.images.instances,
    }

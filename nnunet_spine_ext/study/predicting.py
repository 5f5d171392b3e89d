"""Predictions of a study: one strategy, all its cases, through the public function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.device import TrainingPrecision
from nnunet_spine_ext.core.errors import SetupError, SpineExtError
from nnunet_spine_ext.core.threads import limit_threads
from nnunet_spine_ext.inference.folder import open_model_folder
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.study.index import StudyCase, read_index
from nnunet_spine_ext.study.twins import Call, finished, images_of_cases, left_alone, make_room, take_over


def predict_strategy(
    study: str | Path,
    *,
    folder: str,
    model: str,
    folders: Sequence[str],
    chosen: Sequence[str],
    options: Mapping[str, Any],
    device: str,
    step_size: float,
    precision: TrainingPrecision,
    folds: Sequence[str] | None,
    checkpoint: str,
    instances: bool,
    twin: str = "",
) -> dict[str, Any]:
    """Predict the cases under some conditions with one model; return what failed, by case.

    Parameters
    ----------
    folder: gets masks, instances and the journal. model: its folder. folders: with the indices of the cases.
    chosen: keys of conditions. options: of `predict`.
    instances: separate and number vertebrae, without a network.
    twin: the strategy that differs in matching alone, with its folder beside this one: what it predicted of scans that
        matching leaves alone is taken over, not predicted again. Empty: there is none.

    Raises
    ------
    SpineExtError: nothing could be predicted: no such model, a model without a reference to match.
    """
    study, own = Path(study), Path(study) / folder
    other = own.with_name(twin or own.name)
    cases = cases_of(study, folders, chosen)
    limit_threads()
    of = tuple(folds) if folds else None
    call: Call = partial(
        predict,
        m=study / model,
        f=of,
        chk=checkpoint,
        device=device,
        step_size=step_size,
        precision=precision,
        instances=instances,
        numbering=instances,
        **_known(options),
    )
    taken: dict[str, dict[str, Any]] = {}
    ready = _ready(call, study, own, other, cases) if twin else []
    if ready:
        taken = left_alone(ready, study, open_model_folder(study / model, of, checkpoint), options["match"])
        make_room(own, taken)
    # Even where no case is left the run leaves its record and tables of names.
    result = call(images_of_cases(study, [case for case in cases if case.case not in taken]), own, resume=True)
    if result.stopped is not None:
        raise SpineExtError(
            result.stopped.code,
            file=result.stopped.file,
            found=result.stopped.found,
            expected=result.stopped.expected,
            fix=result.stopped.fix,
        )
    take_over(own, other, taken, instances=instances)
    return {"failed": {name: problem.to_dict() for name, problem in result.failed.items()}, "cases": len(cases),
            "taken_over": len(taken)}  # fmt: skip


def _ready(call: Call, study: Path, own: Path, twin: Path, cases: Sequence[StudyCase]) -> list[StudyCase]:
    """Return the cases that the twin has done, with today's model and options, and that are still to be done."""
    done = finished(call, study, own, cases)
    there = finished(partial(call, match="none"), study, twin, cases)
    return [case for case in cases if case.case in there - done]


def cases_of(study: Path, folders: Sequence[str], chosen: Sequence[str]) -> list[StudyCase]:
    """Return the cases of index folders under the conditions that are chosen by key."""
    keys = set(chosen)
    return [case for folder in folders for case in read_index(study / folder) if case.condition.key in keys]


def journal_of(study: Path, folder: str) -> dict[str, dict[str, Any]]:
    """Return the journal of a strategy: the last entry of each case."""
    return Journal(study / folder).read()


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that this version of `predict` has; raises SetupError for others that are asked for."""
    known = inspect.signature(predict).parameters
    strange = {name: value for name, value in options.items() if name not in known and value != "none"}
    if strange:
        raise SetupError(
            "E-STUDY-OPTION",
            file=", ".join(strange),
            found="options that this version of prediction does not have",
            expected=", ".join(known),
            fix="leave the strategy out",
        )
    return {name: value for name, value in options.items() if name in known}

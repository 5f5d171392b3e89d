"""Predictions of a study: one strategy, all its cases, through the public function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import SetupError, SpineExtError
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.study.commands import use_threads
from nnunet_spine_ext.study.index import StudyCase, read_index


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
    folds: Sequence[str] | None,
    checkpoint: str,
    instances: bool,
) -> dict[str, Any]:
    """Predict the cases under some conditions with one model; return what failed, by case.

    Parameters
    ----------
    folder: gets masks, instances and the journal. model: its folder. folders: with the indices of the cases.
    chosen: keys of conditions. options: of `predict`.
    instances: separate and number vertebrae, without a network.

    Raises
    ------
    SpineExtError: nothing could be predicted: no such model, a model without a reference to match.
    """
    study = Path(study)
    cases = cases_of(study, folders, chosen)
    files = [study / image for case in cases for image in case.images]
    use_threads()
    result = predict(
        files,
        study / folder,
        m=study / model,
        f=tuple(folds) if folds else None,
        chk=checkpoint,
        device=device,
        step_size=step_size,
        instances=instances,
        numbering=instances,
        resume=True,
        **_known(options),
    )
    if result.stopped is not None:
        raise SpineExtError(
            result.stopped.code,
            file=result.stopped.file,
            found=result.stopped.found,
            expected=result.stopped.expected,
            fix=result.stopped.fix,
        )
    return {"failed": {name: problem.to_dict() for name, problem in result.failed.items()}, "cases": len(cases)}


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

"""Training of a numbering network on a raw dataset, fold by fold, into a model folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.partial import check_folder
from nnunet_spine_ext.core.restart import refuse_both
from nnunet_spine_ext.core.splits import Split
from nnunet_spine_ext.instances.training.dataset import (
    ALL,
    dataset_folder,
    folds_of,
    left_out_warning,
    sides_of,
)
from nnunet_spine_ext.instances.training.places import (
    cache_folder,
    fold_folder,
    model_folder,
    publishing,
    refuse_existing,
)
from nnunet_spine_ext.instances.training.result import TrainingResult
from nnunet_spine_ext.numbering.crops import CropSpec
from nnunet_spine_ext.numbering.model import (
    MODEL_FILE,
    UNCALIBRATED,
    NumberingModel,
    check_same_model,
    read_numbering_model,
    write_numbering_model,
)
from nnunet_spine_ext.numbering.training.data import (
    CachedCase,
    NumberedData,
    cache_cases,
    contrast_warnings,
    open_numbered,
    spec_for,
)
from nnunet_spine_ext.numbering.training.settings import NumberingTrainSettings, read_settings

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.numbering.training.loop import FoldResult

_log = logging.getLogger(__name__)
RESULT_FILE = "result.json"


class TrainNumberingResult(TrainingResult):
    """What was trained; `folds` have the metrics of the validation (`training.scores.level_metrics`)."""

    def reached(self, row: dict[str, Any]) -> str:
        """Return how many levels and sequences are right, where a validation was made."""
        if not row["metrics"]:
            return ""
        single, solved = row["metrics"]["single"], row["metrics"]["solved"]
        return (
            f"; validation: levels {single['accuracy']:.3f} (off by one {single['off_by_one']:.3f}), perfect "
            f"sequences {single['perfect']:.3f}, with the solver {solved['perfect']:.3f}"
        )


def train_numbering(
    d: str | Path,
    *,
    f: Sequence[str | int] = ("0",),
    o: str | Path | None = None,
    name: str = "numbering",
    preset: str = "paper",
    assignments: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> TrainNumberingResult:
    """Train the network that names vertebrae, from images and instance masks that hold levels.

    Parameters
    ----------
    d: dataset id, its name, or the folder of a raw dataset with ``imagesTr``, ``labelsTr`` and ``instancesTr``.
    f: folds, or ``all`` alone: one network of all cases (fold 0 of its model).
    o: folder of the model; default ``nnUNet_results/<dataset>/<name>``, with ``_all`` added for the fold all.
    preset, assignments: see `settings.read_settings`.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    resume: go on where an earlier run of the same settings was stopped; finished folds stay as they are.
    overwrite: train folds anew that are there.

    Returns
    -------
    What was trained; `classifier.load_classifier` reads the model folder.

    Raises
    ------
    UsageError: unknown settings or folds, a fold that is there (without `resume` or `overwrite`, of which one can be
        given), a state of other settings, cases or files.
    NoInputError: no instance masks, no images, no usable case.
    CaseError: instances that only count from the top.
    SetupError: no such dataset or device, a damaged state, another model in the folder.
    """
    from nnunet_spine_ext.core.device import choose_device

    refuse_both(resume=resume, overwrite=overwrite)
    settings = read_settings(preset, assignments)
    where = choose_device(device)
    data = open_numbered(dataset_folder(str(d)), settings.crop.inputs)
    crop = spec_for(data, settings.crop)
    wanted = [str(fold) for fold in ([f] if isinstance(f, (str, int)) else f)]
    folds_of(data.data, list(data.data.cases), wanted)  # A wrong fold is said before minutes of preparation.
    folder = model_folder(data.data.folder, o, name, wanted)
    check_folder(folder)
    if not resume and not overwrite:
        refuse_existing(folder, wanted)
    if not overwrite:
        check_same_model(folder, crop, settings.network)
    result = TrainNumberingResult(folder)
    if (problem := left_out_warning(data.data)) is not None:
        _log.warning("%s", problem)
        result.cases.warn(data.data.folder.name, problem)
    cases, failed = cache_cases(data, crop, _cache_folder(data, crop, settings, folder), settings.augment.widen)
    result.cases.done.extend(cases)
    for case, problem in failed.items():
        result.cases.fail(case, problem)
    for fold, split in folds_of(data.data, list(cases), wanted).items():
        _warn_of_contrasts(result, data, folder, split)
        outcome = _train(settings, crop, fold, split, cases, folder, where, resume=resume)
        calibration = _calibration(outcome, crop, fold, [cases[case] for case in split["val"]], where)
        _publish(settings, crop, fold, split, data, folder, outcome, calibration.get("temperature"))
        facts = {"epochs": outcome.epochs, "cpu_seconds": round(outcome.cpu_seconds, 1), "metrics": outcome.metrics}
        facts |= {"calibration": calibration, **sides_of(split)}
        result.folds[fold] = facts
        write_json(fold_folder(folder, fold) / RESULT_FILE, facts)
    return result


def _train(
    settings: NumberingTrainSettings,
    crop: CropSpec,
    fold: str,
    split: Split,
    cases: Mapping[str, CachedCase],
    folder: Path,
    device: torch.device,
    *,
    resume: bool,
) -> FoldResult:
    from nnunet_spine_ext.numbering.training.loop import Job, train_fold

    target = fold_folder(folder, fold)
    train, validation = (tuple(cases[case] for case in split[side]) for side in ("train", "val"))
    job = Job(fold, settings, crop, train, validation, target, device)
    return train_fold(job, resume=resume)


def _calibration(
    outcome: FoldResult, crop: CropSpec, fold: str, cases: Sequence[CachedCase], device: torch.device
) -> dict[str, Any]:
    """Return what `calibrate` finds on spines that the network has not seen; nothing where there are too few."""
    from nnunet_spine_ext.numbering.classifier import Classifier
    from nnunet_spine_ext.numbering.training.calibrate import LEAST_SUBJECTS, calibrate

    classifier = Classifier(NumberingModel(crop=crop), [outcome.network], device=str(device))
    found = {} if fold == ALL else calibrate(classifier, cases)
    if found:
        _log.info("fold %s: temperature %g, from %d windows", fold, found["temperature"], found["windows"])
    else:
        _log.warning(
            "fold %s: no calibration, it takes %d validation subjects with 4 vertebrae or more; its scores are divided "
            "by %g (numbering.weights.temperature)",
            fold,
            LEAST_SUBJECTS,
            UNCALIBRATED,
        )
    return found


def _publish(
    settings: NumberingTrainSettings,
    crop: CropSpec,
    fold: str,
    split: Split,
    data: NumberedData,
    folder: Path,
    outcome: FoldResult,
    temperature: float | None,
) -> None:
    """Write the fold into the model folder."""
    # Folds that are trained side by side share the description of the model.
    with publishing(folder):
        number = 0 if fold == ALL else int(fold)
        known = read_numbering_model(folder) if (folder / MODEL_FILE).is_file() else NumberingModel()
        if (known.crop, known.network) != (crop, settings.network):
            # Only --overwrite comes this far: the folds of the other model are of no use beside this one.
            (folder / MODEL_FILE).unlink(missing_ok=True)
            known = NumberingModel()
        trained = known.provenance.get("trained_on", {})
        facts = {
            "made_by": f"nnunet_spine_ext {__version__}",
            "dataset": data.data.folder.name,
            "settings": to_dict(settings),
            "trained_on": {**trained, str(number): list(split["train"])},
        }
        contrasts = {*known.contrasts, *(data.contrasts[case] for case in split["train"] if case in data.contrasts)}
        # A fold that is trained anew leaves its old calibration.
        temperatures = {key: value for key, value in known.temperatures.items() if key != str(number)}
        temperatures |= {} if temperature is None else {str(number): temperature}
        model = NumberingModel(
            crop=crop,
            network=settings.network,
            contrasts=tuple(sorted(contrasts)),
            temperatures=dict(sorted(temperatures.items())),
            provenance=facts,
        )
        write_numbering_model(folder, model, number, outcome.network.state_dict())


def _warn_of_contrasts(result: TrainNumberingResult, data: NumberedData, folder: Path, split: Split) -> None:
    earlier = read_numbering_model(folder).contrasts if (folder / MODEL_FILE).is_file() else ()
    for text in contrast_warnings(data.contrasts, split["train"], split["val"], earlier):
        problem = Problem(
            "warning",
            "W-TRAIN-CONTRAST",
            str(data.data.folder),
            text,
            "images of the kinds that the model is for",
            "train on all of them, or on masks alone (--set crop.inputs=masks)",
        )
        _log.warning("%s", problem)
        result.cases.warn(data.data.folder.name, problem)


def _cache_folder(data: NumberedData, crop: CropSpec, settings: NumberingTrainSettings, folder: Path) -> Path:
    """One folder per kind of patch: trainings that differ otherwise share it."""
    text = json.dumps([to_dict(replace(crop, inputs="image+masks")), settings.augment.widen, crop.inputs == "masks"])
    name = f"spine_numbering_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return cache_folder(data.data.folder, folder, name)

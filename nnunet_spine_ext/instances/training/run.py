"""Training of an instance network on a raw dataset, fold by fold, into a model folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, SetupError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.partial import check_folder
from nnunet_spine_ext.core.restart import other_training, refuse_both
from nnunet_spine_ext.core.splits import Split
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.instances.training.dataset import (
    ALL,
    TrainingData,
    dataset_folder,
    folds_of,
    left_out_warning,
    open_dataset,
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
from nnunet_spine_ext.instances.training.settings import InstanceTrainSettings, read_settings

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.instances.training.fold import FoldResult, FoldTraining
    from nnunet_spine_ext.instances.training.grids import GridStore

_log = logging.getLogger(__name__)
SETTINGS_FILE = "settings.json"


class TrainInstancesResult(TrainingResult):
    """What was trained; `folds` have the Dice of the last validation and scores of whole cases."""

    def reached(self, row: dict[str, Any]) -> str:
        """Return Dice and panoptic quality in words, as far as they were measured."""
        dice = row["dice"].get("dice")
        shown = "" if dice is None else f", Dice {dice:.3f} of the last validation"
        whole = row["fusion"]
        if whole:
            shown += f"; whole cases PQ {whole['pq']:.3f}, without the network {whole['pq_without']:.3f}"
        return shown


def train_instances(
    d: str | Path,
    *,
    f: Sequence[str | int] = ("0",),
    o: str | Path | None = None,
    name: str = "instances",
    preset: str = "paper",
    assignments: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> TrainInstancesResult:
    """Train the network that separates vertebrae, from semantic and instance masks; images are not needed.

    Parameters
    ----------
    d: dataset id, its name, or the folder of a raw dataset with ``labelsTr`` and ``instancesTr``.
    f: folds, or ``all`` alone: one network of all cases (fold 0 of its model).
    o: folder of the model; default ``nnUNet_results/<dataset>/<name>``, with ``_all`` added for the fold all.
    preset, assignments: see `settings.read_settings`.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    resume: go on where an earlier run of the same settings was stopped; finished folds stay as they are.
    overwrite: train folds anew that are there.

    Returns
    -------
    What was trained; the model folder can be given to the instance phase (`instances.model.load_instance_model`).

    Raises
    ------
    UsageError: unknown settings or folds, a fold that is there (without `resume` or `overwrite`, of which one can be
        given), a state of other settings, cases or masks.
    NoInputError: no instance masks, no usable case.
    SetupError: no such dataset or device, a damaged state, another model in the folder (without `overwrite`).
    """
    from nnunet_spine_ext.core.device import choose_device

    refuse_both(resume=resume, overwrite=overwrite)
    settings = read_settings(preset, assignments)
    where = choose_device(device)
    data = open_dataset(dataset_folder(str(d)), settings.cutout.encoding)
    wanted = [str(fold) for fold in ([f] if isinstance(f, (str, int)) else f)]
    folds_of(data, list(data.cases), wanted)  # A wrong fold is said before minutes of preparation.
    folder = model_folder(data.folder, o, name, wanted)
    check_folder(folder)
    result = TrainInstancesResult(folder)
    if not resume and not overwrite:
        refuse_existing(folder, wanted)
    _check_model(folder, settings, overwrite=overwrite)
    if (problem := left_out_warning(data)) is not None:
        result.cases.warn(data.folder.name, problem)
    store = _prepare(data, settings, folder, result.cases)
    for fold, split in folds_of(data, result.cases.done, wanted).items():
        training = _fold_training(settings, fold, split, store, folder, where)
        with training.locked():
            if resume:
                _resume(training)
            else:
                training.clear()
            # Only now: what was refused leaves the settings of the state that is there.
            write_json(training.folder / SETTINGS_FILE, {**to_dict(settings), "hash": settings.hash, **split})
            outcome = training.run()
        _publish(training, data, split, outcome)
        result.folds[fold] = {**asdict(outcome), **sides_of(split)}
        write_json(training.folder / "result.json", result.folds[fold])
    return result


def _check_model(folder: Path, settings: InstanceTrainSettings, *, overwrite: bool) -> None:
    """Refuse before hours of training what `_publish` could not write."""
    from nnunet_spine_ext.instances.model import MODEL_FILE, check_same_model, read_instance_model

    if not overwrite:
        known = check_same_model(folder, settings.cutout, settings.network)
        if known is not None and "source" in known.provenance:
            raise SetupError(
                "E-TRAIN-IMPORTED",
                file=folder,
                found=f"a model imported from {known.provenance['source']}",
                expected="a new folder, or a model that was trained here: folds are used together",
                fix="choose another folder with -o or --name, or replace that model with --overwrite",
            )
    elif (folder / MODEL_FILE).is_file():
        # One that cannot be read may be of a newer version: it is not replaced, either.
        read_instance_model(folder)


def _prepare(data: TrainingData, settings: InstanceTrainSettings, folder: Path, cases: RunSummary) -> GridStore:
    """Bring all cases onto the network's grid; one that cannot be used is said and left out."""
    from tqdm import tqdm

    from nnunet_spine_ext.instances.training.grids import GridStore

    store = GridStore(
        _cache_folder(data, settings, folder), data.table, settings.cutout, substructures=data.substructures
    )
    for name, case in tqdm(data.cases.items(), desc="cases", unit="case", disable=None):
        try:
            if store.add(case):
                cases.done.append(name)
            else:
                cases.warn(name, _no_vertebra(case.semantic))
        except CaseError as error:
            cases.fail(name, error.problem())
    for line in cases.in_words():
        _log.warning("%s", line)
    if not cases.done:
        raise NoInputError(
            "E-TRAIN-NOCASE",
            file=data.folder,
            found=f"{len(data.cases)} cases, none of them usable",
            expected="a case with a vertebra",
            fix="correct what the messages above name",
        )
    return store


def _cache_folder(data: TrainingData, settings: InstanceTrainSettings, folder: Path) -> Path:
    """One folder per grid: trainings that differ otherwise share it."""
    facts = f"{settings.cutout.spacing} {sorted(data.table.items())}"
    name = f"spine_instances_{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    return cache_folder(data.folder, folder, name)


def _fold_training(
    settings: InstanceTrainSettings, fold: str, split: Split, store: GridStore, folder: Path, device: torch.device
) -> FoldTraining:
    from nnunet_spine_ext.instances.training.fold import FoldData, FoldTraining

    data = FoldData(store, tuple(split["train"]), tuple(split["val"]))
    return FoldTraining(settings, fold, data, fold_folder(folder, fold), device)


def _resume(training: FoldTraining) -> None:
    if training.resume():
        _log.info("fold %s: goes on after epoch %d", training.name, training.epoch)
    elif training.differences:
        raise other_training(training.folder, " and ".join(training.differences))


def _publish(training: FoldTraining, data: TrainingData, split: Split, outcome: FoldResult) -> None:
    """Write the fold into the model folder, then try it on whole cases."""
    from nnunet_spine_ext.instances.cutout_inference import InferenceOptions, Mode, NetworkPredictor
    from nnunet_spine_ext.instances.training.fusion import fusion_scores

    folder = training.folder.parent.parent
    # Folds that are trained side by side share the description of the model.
    with publishing(folder):
        _write_fold(training, data, split, folder)
    settings = training.settings
    most = len(split["val"]) if settings.fusion_cases < 0 else settings.fusion_cases
    if most:
        # As the network saw most cutouts.
        mode: Mode = "fast" if settings.narrow > 0.5 else "exact"
        options = InferenceOptions(device=str(training.device), mode=mode, soft=True)
        predictor = NetworkPredictor(settings.cutout, [training.network], options)
        cases = [data.cases[case] for case in split["val"][:most]]
        outcome.fusion = fusion_scores(cases, data.table, predictor, substructures=data.substructures)


def _write_fold(training: FoldTraining, data: TrainingData, split: Split, folder: Path) -> None:
    from nnunet_spine_ext.instances.model import MODEL_FILE, InstanceModel, read_instance_model, write_instance_model

    settings = training.settings
    number = 0 if training.name == ALL else int(training.name)
    known = read_instance_model(folder) if (folder / MODEL_FILE).is_file() else InstanceModel()
    if (known.cutout, known.network) != (settings.cutout, settings.network):
        # Only --overwrite comes this far: the folds of the other model are of no use beside this one.
        (folder / MODEL_FILE).unlink(missing_ok=True)
        known = InstanceModel()
    facts = {
        "made_by": f"nnunet_spine_ext {__version__}",
        "dataset": data.folder.name,
        "settings": to_dict(settings),
        "trained_on": {**known.provenance.get("trained_on", {}), str(number): list(split["train"])},
    }
    write_instance_model(
        folder, settings.cutout, settings.network, {number: training.network.state_dict()}, provenance=facts
    )


def _no_vertebra(path: Path) -> Problem:
    return Problem(
        "warning",
        "W-TRAIN-NOVERTEBRA",
        str(path),
        "no vertebra with a body in both masks",
        "at least one",
        "the case is left out; check its masks if it should have one",
    )

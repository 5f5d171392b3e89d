"""Training of a segmenter of discs on the labelled slices of a target scanner, into a model folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.epochs import STATE_FILE
from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, Problem, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.model_folders import refuse_other_model
from nnunet_spine_ext.core.partial import check_folder
from nnunet_spine_ext.core.restart import other_training, refuse_both
from nnunet_spine_ext.harmonize.segmenter import MODEL_FILE
from nnunet_spine_ext.harmonize.segmenting.data import SegmenterData, split_slices
from nnunet_spine_ext.harmonize.segmenting.settings import SegmenterSettings, read_settings
from nnunet_spine_ext.harmonize.slices import SliceSet, read_slices
from nnunet_spine_ext.instances.training.dataset import dataset_folder

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.harmonize.segmenting.loop import SegmenterOutcome, SegmenterTraining

_log = logging.getLogger(__name__)
# Where a training keeps its files, inside the folder of the model.
TRAINING_FOLDER = "training"
SETTINGS_FILE = "settings.json"


@dataclass
class SegmenterResult:
    """What was trained.

    Parameters
    ----------
    folder: of the model.
    outcome: epochs, scores of validation and test, see `loop.SegmenterOutcome`.
    sides: subjects and slices of each use.
    problems: scans that could not be used.
    """

    folder: Path
    outcome: dict[str, Any] = field(default_factory=dict)
    sides: dict[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: all fine; 3: scans could not be read, the network was trained without them."""
        return EXIT_SOME_FAILED if any(problem.severity == "error" for problem in self.problems) else EXIT_OK

    def render(self) -> str:
        """Return a text for the console."""
        lines = [str(problem) for problem in self.problems]
        counts = [f"{len(row['subjects'])} subjects ({row['slices']} slices) for {k}" for k, row in self.sides.items()]
        out = self.outcome
        effort = f"{out['epochs']} epochs, the best one {out['best_epoch']}, {out['cpu_seconds'] / 60:.1f} CPU minutes"
        lines += [f"{self.folder}: {', '.join(counts)}", effort]
        for use in ("validation", "test"):
            scores = out[use]
            if scores["slices"]:
                shown = ", ".join(f"{name} {scores[name]:.3f}" for name in scores if name != "slices")
                lines.append(f"{use}, {scores['slices']} slices with discs: {shown}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        problems = [problem.to_dict() for problem in self.problems]
        return {"folder": str(self.folder), **self.outcome, "sides": self.sides, "problems": problems}


def segmenter(
    d: Sequence[str | Path],
    *,
    target: Sequence[str],
    o: str | Path,
    key: str = "manufacturer",
    preset: str = "full",
    assignments: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> SegmenterResult:
    """Train a network that finds the discs in sagittal slices of the target scanner.

    Parameters
    ----------
    d: ids, names or folders of raw datasets with cases.json.
    target: values of `key` in cases.json to learn from; only cases with masks are used.
    o: folder of the model.
    key: fact of cases.json that tells scanners apart.
    preset, assignments: see `segmenting.settings.read_settings`.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    resume: go on where an earlier run of the same settings was stopped; a finished one is not repeated.
    overwrite: train anew into a folder that has a training.

    Returns
    -------
    What was trained; `harmonize.segmenter.load_segmenter` loads the folder.

    Raises
    ------
    UsageError: unknown settings or vendor, a folder that has a training (without `resume` or `overwrite`, of which one
        can be given), a folder of another model, a state of other settings or slices, a single subject.
    NoInputError: no usable slice, none with a mask, none with a disc.
    SetupError: no such dataset or device, a damaged state, a missing package, weights of an encoder that do not fit.
    """
    from nnunet_spine_ext.core.device import choose_device

    refuse_both(resume=resume, overwrite=overwrite)
    settings = read_settings(preset, assignments)
    where, folder = choose_device(device), Path(o)
    check_folder(folder)
    refuse_other_model(folder, MODEL_FILE)
    if not resume and not overwrite:
        _refuse_existing(folder)
    datasets = [dataset_folder(str(name)) for name in ([d] if isinstance(d, str | Path) else d)]
    values = [target] if isinstance(target, str) else list(target)
    _log.info("reading slices of %s", ", ".join(values))
    slices = read_slices(datasets, key=key, values=values, settings=settings.slices)
    data = split_slices(slices, settings.validation, settings.test, settings.seed)
    if settings.test and not len(data.test):
        _log.warning("%s: two subjects only, so nobody is left to test on", folder)
    if settings.network.kind == "smp" and settings.encoder_weights is None:
        _log.warning("the encoder starts from random weights, not from ImageNet's: encoder_weights names no file")
    _log.info("%d slices to train on, %d to validate on; training on %s", len(data.train), len(data.validation), where)
    outcome = _trained(settings, data, folder, where, resume=resume)
    return SegmenterResult(folder, asdict(outcome), data.to_dict(), slices.problems)


def _trained(
    settings: SegmenterSettings, data: SegmenterData, folder: Path, device: torch.device, *, resume: bool
) -> SegmenterOutcome:
    """Train, and write the model."""
    from nnunet_spine_ext.harmonize.segmenting.loop import SegmenterTraining

    training = SegmenterTraining(settings, data, folder / TRAINING_FOLDER, device)
    with training.locked():
        if resume:
            _resume(training)
        else:
            _clear(training, folder)
        # Only now: what was refused leaves the settings of the state that is there.
        write_json(training.folder / SETTINGS_FILE, {**to_dict(settings), "hash": settings.hash})
        outcome = training.run()
        _publish(training, data, outcome, folder)
    return outcome


def _refuse_existing(folder: Path) -> None:
    from nnunet_spine_ext.harmonize.segmenter import is_segmenter

    if is_segmenter(folder) or (folder / TRAINING_FOLDER / STATE_FILE).is_file():
        raise UsageError(
            "E-TRAIN-EXISTS",
            file=folder,
            found="a segmenter of an earlier training",
            expected="a new folder",
            fix="--resume goes on with it, --overwrite starts anew, -o chooses another folder",
        )


def _clear(training: SegmenterTraining, folder: Path) -> None:
    """Take away what a new training replaces: a stopped one must not look like the old one."""
    from nnunet_spine_ext.harmonize.segmenting.loop import BEST_FILE

    training.clear()
    for path in (folder / MODEL_FILE, training.folder / BEST_FILE):
        path.unlink(missing_ok=True)


def _resume(training: SegmenterTraining) -> None:
    if training.resume():
        _log.info("goes on after epoch %d", training.epoch)
    elif training.differences:
        raise other_training(training.folder, " and ".join(training.differences), elsewhere="-o")


def _publish(training: SegmenterTraining, data: SegmenterData, outcome: SegmenterOutcome, folder: Path) -> None:
    from nnunet_spine_ext.harmonize.segmenter import SegmenterModel, write_segmenter

    settings, train = training.settings, data.train
    facts = {
        "made_by": f"nnunet_spine_ext {__version__}",
        "datasets": sorted({fact.dataset for fact in train.facts}),
        "settings": to_dict(settings),
        "split": data.to_dict(),
        # Without the time: equal trainings give equal files.
        "result": {name: value for name, value in asdict(outcome).items() if name != "cpu_seconds"},
    }
    model = SegmenterModel(
        network=settings.network,
        slices=_slices_of(settings, train),
        target=tuple(sorted({fact.vendor for fact in train.facts})),
        provenance=facts,
    )
    write_segmenter(folder, model, training.network.state_dict())


def _slices_of(settings: SegmenterSettings, slices: SliceSet) -> Any:
    """Return how the slices were made, with the pixel size that was found."""
    return settings.slices if settings.slices.fit == "resize" else replace(settings.slices, spacing=slices.spacing[0])

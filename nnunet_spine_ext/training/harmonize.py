"""Training of a harmonizer on slices of raw datasets, into a model folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, NoInputError, Problem, UsageError
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.model_folders import refuse_other_model
from nnunet_spine_ext.core.partial import check_folder
from nnunet_spine_ext.core.restart import other_training, refuse_both
from nnunet_spine_ext.harmonize.cyclegan.processes import Processes
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings, read_settings
from nnunet_spine_ext.harmonize.harmonizer import MODEL_FILE, HarmonizerModel, Method
from nnunet_spine_ext.harmonize.segmenter import NetworkSegmenter, SliceSegmenter
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slices import SliceSet, other_vendors, read_slices
from nnunet_spine_ext.instances.training.dataset import dataset_folder
from nnunet_spine_ext.instances.training.places import model_folder
from nnunet_spine_ext.networks.slice_unet import SliceNetwork
from nnunet_spine_ext.training.harmonize_checks import (
    check_method,
    no_segmenter,
    refuse_existing,
    refuse_one_on_both_sides,
    refuse_unused,
)

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.harmonize.cyclegan.targets import Targets
    from nnunet_spine_ext.harmonize.cyclegan.training import CycleGanTraining

_log = logging.getLogger(__name__)
# Pixel sizes that differ by less than this share are one.
_ALIKE = 0.05


@dataclass
class HarmonizeResult:
    """What was trained.

    Parameters
    ----------
    folder: of the model. method: see `harmonizer.METHODS`.
    epochs: done, of how many.
    slices: subjects and slices by use.
    last: the last row of ``log.csv``; empty for methods without epochs.
    problems: scans that could not be used, and what else there is to be known.
    """

    folder: Path
    method: Method
    epochs: tuple[int, int] = (0, 0)
    slices: dict[str, dict[str, int]] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: all fine; 3: scans could not be used, the harmonizer was made without them."""
        return EXIT_SOME_FAILED if any(problem.severity == "error" for problem in self.problems) else EXIT_OK

    def render(self) -> str:
        """Return a text for the console."""
        counts = [f"{name} {row['slices']} slices of {row['subjects']} subjects" for name, row in self.slices.items()]
        lines = [*map(str, self.problems), f"{self.folder}: {self.method}; {', '.join(counts)}"]
        if self.last:
            shown = [f"{self.epochs[0]} of {self.epochs[1]} epochs"]
            shown.append(f"{float(self.last['cpu_seconds']) / 60:.1f} CPU minutes")
            before, after = self.last["validated_unharmonized"], self.last["validated_radiomics"]
            if after != "":
                shown.append(f"radiomic error {float(before):.3f} before, {float(after):.3f} after")
            if self.last["validated_dice"] != "":
                shown.append(f"Dice {float(self.last['validated_dice']):.3f}")
            lines.append(", ".join(shown))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "folder": str(self.folder),
            "method": self.method,
            "epochs": list(self.epochs),
            "slices": self.slices,
            "last": self.last,
            "problems": [problem.to_dict() for problem in self.problems],
        }


@dataclass(frozen=True)
class Order:
    """What `train` was asked for, checked and resolved; goes to every process of a training."""

    settings: CycleGanSettings
    method: Method
    datasets: tuple[Path, ...]
    target: tuple[str, ...]
    sources: tuple[str, ...]
    key: str
    segmenter: Path | None
    folder: Path
    resume: bool = False


def train(
    d: Sequence[str | Path],
    *,
    target: Sequence[str],
    source: Sequence[str] = (),
    key: str = "manufacturer",
    method: Method = "cyclegan",
    segmenter: str | Path | None = None,
    o: str | Path | None = None,
    name: str = "harmonizer",
    preset: str = "full",
    assignments: Sequence[str] = (),
    device: str = "auto",
    num_gpus: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> HarmonizeResult:
    """Train what makes sagittal slices of some scanners look like those of others.

    Parameters
    ----------
    d: ids, names or folders of raw datasets with cases.json; masks are used where there are any, none is needed.
    target, source: values of `key` in cases.json; no source: all that are no target.
    method: ``cyclegan``, or a baseline without a network: ``nyul``, ``zscore``, ``histogram``. Of the settings a
        baseline uses `slices` and `baseline`; to assign others is an error.
    segmenter: folder of a model of the discs of target slices (of `segmenter`, or a 2-D one of nnU-Net); not needed
        where its losses weigh 0, an error for a baseline.
    o: folder of the model; default ``nnUNet_results/<first dataset>/<name>``.
    preset, assignments: see `cyclegan.settings.read_settings`.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    num_gpus: processes that share every batch, one per GPU (with ``cpu``: processes of the CPU).
    resume: go on where an earlier run of the same settings, slices and segmenter was stopped.
    overwrite: train anew into a folder that has a model.

    Returns
    -------
    What was trained; `harmonize.harmonizer.load_harmonizer` loads the folder. After an interruption, the folder holds
    the model of the last epoch that was saved.

    Raises
    ------
    UsageError: unknown settings, methods or vendors, settings that the method does not use, a vendor on both sides or a
        single one, a folder that has a model (without `resume` or `overwrite`, of which one can be given) or that of
        another kind, a state of other settings, slices or segmenter.
    NoInputError: no usable slice on one side, a segmenter that finds no disc in the target.
    SetupError: no such dataset, device or segmenter, a damaged state, losses that are no numbers any more.
    """
    from nnunet_spine_ext.core.device import choose_device

    refuse_both(resume=resume, overwrite=overwrite)
    settings = read_settings(preset, assignments)
    where = choose_device(device)
    check_method(method, num_gpus, settings)
    refuse_unused(method, assignments, segmenter)
    datasets = tuple(dataset_folder(str(part)) for part in ([d] if isinstance(d, str | Path) else d))
    folder = model_folder(datasets[0], o, name, ["0"])
    check_folder(folder)
    refuse_other_model(folder, MODEL_FILE)
    if not overwrite:
        refuse_existing(folder, method, resume=resume)
    targets = (target,) if isinstance(target, str) else tuple(target)
    sources = (source,) if isinstance(source, str) else tuple(source)
    sources = sources or other_vendors(datasets, targets, key=key)
    refuse_one_on_both_sides(targets, sources, key)
    aid = None if segmenter is None else Path(segmenter)
    order = Order(settings, method, datasets, targets, sources, key, aid, folder, resume)
    if method != "cyclegan":
        return _fit_baseline(order)
    if num_gpus == 1:
        return train_network(order, where)
    from nnunet_spine_ext.training.harmonize_processes import train_in_processes

    return train_in_processes(order, where, num_gpus)


def train_network(order: Order, device: torch.device, processes: Processes | None = None) -> HarmonizeResult:
    """Train a network, as one process or as one of several; what `train` does once everything has been checked."""
    from nnunet_spine_ext.harmonize.cyclegan.data import split_slices
    from nnunet_spine_ext.harmonize.cyclegan.targets import measure_targets
    from nnunet_spine_ext.harmonize.cyclegan.training import CycleGanTraining, Goal

    processes = processes or Processes()
    settings = order.settings
    aid = None if order.segmenter is None else _segmenter(order.segmenter, device, settings.slices.spacing)
    if aid is None and settings.weights.segmented:
        raise no_segmenter()
    problems = _foreign(aid, settings)
    target, source, made = _slices(order, aid)
    data = split_slices(source, target, settings)
    _log.info(
        "%d slices of %d subjects to look like, %d of %d to change; measuring the target",
        len(target), len(target.subjects), len(source), len(source.subjects),
    )  # fmt: skip
    targets = measure_targets(data.target, aid, settings, device)
    problems += _without_discs(targets, settings)
    parts = {
        "target": data.target,
        "sources": data.source,
        "target to look at": data.target_validation,
        "sources to look at": data.source_validation,
    }
    counts = {use: {"slices": len(part), "subjects": len(part.subjects)} for use, part in parts.items()}
    model = _description(order, made, target, source, to_dict(settings))
    facts: dict[str, Any] = {"slices": counts, "processes": processes.count}
    facts["segmenter"] = None if aid is None else {"name": aid.name, "digest": aid.digest}
    model = replace(model, provenance={**model.provenance, **facts})
    goal = Goal(aid, targets, model, _begin_with(aid, settings))
    training = CycleGanTraining(settings, data, goal, order.folder, device, processes)
    if processes.first:
        (order.folder / "training").mkdir(parents=True, exist_ok=True)
        with file_lock(order.folder / "training" / "lock", what="training a harmonizer"):
            _run(training, order)
    else:
        _run(training, order)
    return HarmonizeResult(
        order.folder,
        order.method,
        (training.epoch, settings.epochs),
        counts,
        training.rows[-1] if training.rows else {},
        (*target.problems, *source.problems, *problems, *training.warnings),
    )


def _run(training: CycleGanTraining, order: Order) -> None:
    from nnunet_spine_ext.harmonize.cyclegan.training import SAMPLES_FOLDER

    if order.resume:
        if training.resume():
            _log.info("goes on after epoch %d", training.epoch)
        elif training.differences:
            raise other_training(order.folder, " and ".join(training.differences))
    else:
        training.processes.on_first(lambda: _clear(training, order.folder, order.folder / SAMPLES_FOLDER))
    if training.epoch < training.settings.epochs:
        _log.info("training on %s, epochs %d to %d", training.device, training.epoch + 1, training.settings.epochs)
    training.run()


def _clear(training: CycleGanTraining, folder: Path, samples: Path) -> None:
    """Take away what a new training replaces: a stopped one must not look like the old one."""
    training.clear()
    for path in (folder / MODEL_FILE, *folder.glob("generator_*.safetensors"), *samples.glob("epoch_*.png")):
        path.unlink(missing_ok=True)


def _fit_baseline(order: Order) -> HarmonizeResult:
    from nnunet_spine_ext.harmonize.baselines import fit_baseline, write_baseline

    target, source, made = _slices(order, None)
    fitted = fit_baseline(order.method, target, made, order.settings.baseline)  # type: ignore[arg-type]
    model = _description(order, made, target, source, {})
    (order.folder / "training").mkdir(parents=True, exist_ok=True)
    with file_lock(order.folder / "training" / "lock", what="training a harmonizer"):
        write_baseline(order.folder, model, fitted)
    counts = {"target": {"slices": len(target), "subjects": len(target.subjects)}}
    return HarmonizeResult(order.folder, order.method, slices=counts, problems=(*target.problems, *source.problems))


def _slices(order: Order, aid: SliceSegmenter | None) -> tuple[SliceSet, SliceSet, SliceSettings]:
    """Read both sides on one grid: that of the settings, else of the segmenter, else of the target."""
    made = order.settings.slices
    if made.fit == "crop" and made.spacing is None and aid is not None and aid.spacing is not None:
        made = replace(made, spacing=aid.spacing)
    _log.info("reading slices of %s, then of %s", ", ".join(order.target), ", ".join(order.sources))
    target = read_slices(order.datasets, key=order.key, values=order.target, settings=made)
    if made.fit == "crop":
        made = replace(made, spacing=target.spacing[0])
    return target, read_slices(order.datasets, key=order.key, values=order.sources, settings=made), made


def _description(
    order: Order, made: SliceSettings, target: SliceSet, source: SliceSet, settings: dict[str, Any]
) -> HarmonizerModel:
    vendors = tuple(sorted({fact.vendor for fact in target.facts})), tuple(sorted({f.vendor for f in source.facts}))
    facts = {"made_by": f"nnunet_spine_ext {__version__}", "datasets": [folder.name for folder in order.datasets]}
    return HarmonizerModel(order.method, made, target.spacing, *vendors, order.key, settings, provenance=facts)


def _segmenter(folder: Path, device: torch.device, spacing: float | None) -> SliceSegmenter:
    from nnunet_spine_ext.inference.slice_segmenter import load_slice_segmenter

    return load_slice_segmenter(folder, device, spacing=spacing)


def _begin_with(aid: SliceSegmenter | None, settings: CycleGanSettings) -> SliceNetwork | None:
    """Return the network that the source segmenter starts as; None: a new one."""
    if settings.source_start == "random" or not settings.weights.source_dice:
        return None
    if not isinstance(aid, NetworkSegmenter):
        raise UsageError(
            "E-HARM-START",
            file="source_start=target",
            found="a segmenter of another kind",
            expected="one that nnUNetv2_spine_harmonize segmenter trained, whose network can be copied",
            fix="set source_start=random, or train one",
        )
    return aid.network


def _foreign(aid: SliceSegmenter | None, settings: CycleGanSettings) -> tuple[Problem, ...]:
    """Warn of a segmenter that was trained on slices that were made in another way."""
    if not isinstance(aid, NetworkSegmenter):
        return ()
    own, slices, differ = aid.model.slices, settings.slices, []
    # The segmenter resamples slices to its own pixels; a copy of its network does not.
    theirs, ours = own.spacing or 0.0, slices.spacing or own.spacing or 0.0
    if settings.source_start == "target" and abs(theirs - ours) > _ALIKE * theirs:
        differ.append(f"pixels of {theirs:g} mm, not {ours:g}")
    pairs = ((name, getattr(own, name), getattr(slices, name)) for name in ("fit", "scaling"))
    differ += [f"{name} {one}, not {other}" for name, one, other in pairs if one != other]
    if not differ:
        return ()
    problem = Problem(
        "warning", "W-HARM-SEGMENTER", aid.name, f"trained on other slices: {'; '.join(differ)}",
        "slices made in one way", "train the segmenter with the same slices, or set slices.* as it has them",
    )  # fmt: skip
    _log.warning("%s", problem)
    return (problem,)


def _without_discs(targets: Targets, settings: CycleGanSettings) -> tuple[Problem, ...]:
    """Refuse a segmenter that finds nothing in slices of its own target; warn when most regions are a guess."""
    if settings.weights.segmented and targets.recognised == 0:
        raise NoInputError(
            "E-HARM-NODISC",
            file="--segmenter",
            found=f"discs in none of {targets.measured} target slices",
            expected="a segmenter that finds the discs of the target",
            fix="see whether slices.spacing, fit and scaling are those it was trained with, and which vendor that was",
        )
    if 2 * targets.centred <= targets.measured:
        return ()
    problem = Problem(
        "warning", "W-HARM-REGION", "target",
        f"no disc known in {targets.centred} of {targets.measured} slices: their region is the middle of the slice",
        "discs in most slices", "give masks or a segmenter, or fewer lateral slices with slices.middle",
    )  # fmt: skip
    _log.warning("%s", problem)
    return (problem,)

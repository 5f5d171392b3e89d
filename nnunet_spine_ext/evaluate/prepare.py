"""Options checked, folders found, output made ready: everything before the first case."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.evaluate.cases import (
    NO_MASKS,
    LabelSet,
    MaskFolder,
    Resample,
    find_labels,
    labels_of_word,
    list_masks,
)
from nnunet_spine_ext.evaluate.latex import Spread
from nnunet_spine_ext.evaluate.metric import Metric
from nnunet_spine_ext.evaluate.registry import expand, select
from nnunet_spine_ext.evaluate.result import FILES
from nnunet_spine_ext.evaluate.scoring import InstanceIds, Rule, Settings
from nnunet_spine_ext.evaluate.structures import LABELS, Structure, choose
from nnunet_spine_ext.measure.numbered import is_numbered


@dataclass(frozen=True)
class Job:
    """Where the files of a run are and how they are read and scored.

    `counted` are the cases whose predicted instances are counted from the top: their ids are no levels; `unplaced`
    those whose reference instances are: nobody knows their regions. `structures`
    (None: every label is one) were asked for as `structures_asked`; `pred_labels` are those of the predictions where
    they are others than those of the references.
    """

    refs: MaskFolder
    preds: MaskFolder
    ref_instances: MaskFolder
    pred_instances: MaskFolder | None
    labels: LabelSet
    instance_labels: LabelSet
    settings: Settings
    resample: Resample
    remarks: tuple[str, ...] = ()
    counted: frozenset[str] = frozenset()
    unplaced: frozenset[str] = frozenset()
    structures: tuple[Structure, ...] | None = None
    pred_labels: LabelSet | None = None
    structures_asked: Any = LABELS

    def record(self) -> dict[str, Any]:
        """Return what summary.json says about structures: how they were asked for, and their ids on both sides."""
        ids = {one.name: {"ref": one.ref_ids, "pred": one.pred_ids} for one in self.structures or ()}
        return {"structures": self.structures_asked, "structure_ids": ids or None}


@dataclass(frozen=True)
class Options:
    """The keyword parameters of `evaluate`, which explains them."""

    labels: str | Path | None
    scheme: str | None
    metrics: Sequence[str]
    ref_instances: str | Path | None
    pred_instances: str | Path | None
    instance_ids: InstanceIds
    matching: Rule
    regions: bool
    missing_distance: float | None
    resample: Resample
    nsd_tolerance: float
    iou_threshold: float
    cases: str | Path | None
    by: Sequence[str]
    bootstrap: int
    seed: int
    latex: Spread | None
    jobs: int
    structures: str | Path
    pred_labels: str | Path | None

    def check(self) -> None:
        """Raise UsageError for a value outside its range."""
        rules = (
            ("--nsd-tolerance", self.nsd_tolerance, 0 <= self.nsd_tolerance < math.inf, "0 mm or more"),
            ("--iou-threshold", self.iou_threshold, 0 < self.iou_threshold <= 1, "above 0 and up to 1"),
            ("--missing-distance", self.missing_distance, self._valid_missing, "more than 0 mm"),
            ("--matching", self.matching, self.matching in get_args(Rule), "iou or overlap"),
            ("--instance-ids", self.instance_ids, self.instance_ids in get_args(InstanceIds), "spineps or any"),
            ("--latex", self.latex, self.latex in (None, *get_args(Spread)), "mean or median"),
            ("--bootstrap", self.bootstrap, self.bootstrap >= 0, "0 or more"),
            ("--seed", self.seed, self.seed >= 0, "0 or more"),
            ("--jobs", self.jobs, self.jobs >= 1, "1 or more"),
        )
        for option, value, valid, expected in rules:
            if not valid:
                raise UsageError("E-EVAL-RANGE", found=f"{option} {value}", expected=expected, fix="correct the option")
        if self.regions and self.instance_ids == "any":
            raise UsageError(
                "E-EVAL-RANGE",
                found="--regions with --instance-ids any",
                expected="numbers that say which vertebra it is",
                fix="leave one of them out",
            )

    @property
    def _valid_missing(self) -> bool:
        return self.missing_distance is None or 0 < self.missing_distance < math.inf

    def record(self) -> dict[str, Any]:
        """Return the options that decide about values, as summary.json has them."""
        return {
            "metrics": list(expand(self.metrics)),
            "instance_ids": self.instance_ids,
            "matching": self.matching,
            "regions": self.regions,
            "missing_distance_mm": self.missing_distance,
            "resample": self.resample,
            "nsd_tolerance_mm": self.nsd_tolerance,
            "iou_threshold": self.iou_threshold,
            "by": list(self.by),
            "bootstrap": self.bootstrap,
            "seed": self.seed,
        }


def make_settings(options: Options) -> tuple[Settings, tuple[str, ...]]:
    """Return what is computed, and remarks on metrics that the options leave out; raises UsageError."""
    options.check()
    classes, groups, levels = (select(expand(options.metrics), scope) for scope in ("class", "group", "level"))
    remarks: list[str] = []
    if options.matching == "overlap":
        groups, left = _without(groups, [row for row in groups if row.one_to_one])
        remarks += [f"{left} not computed: with --matching overlap one instance may stand for several."] if left else []
    if options.instance_ids == "any":
        groups, left = _without(groups, [row for row in groups if row.needs_centres])
        levels, more = _without(levels, [row for row in levels if row.needs_centres])
        named = ", ".join(text for text in (left, more) if text)
        remarks += [f"{named} not computed: with --instance-ids any the numbers mean nothing."] if named else []
    settings = Settings(
        tuple(classes),
        tuple(groups),
        tuple(levels),
        options.nsd_tolerance,
        options.iou_threshold,
        options.instance_ids,
        options.matching,
        options.missing_distance,
        options.regions,
    )
    return settings, tuple(remarks)


def _without(rows: list[Metric], unwanted: list[Metric]) -> tuple[list[Metric], str]:
    return [row for row in rows if row not in unwanted], ", ".join(row.name for row in unwanted)


def find_files(ref: Path, pred: Path, options: Options, settings: Settings) -> Job:
    """Find masks, label names and instance masks; raises UsageError or NoInputError."""
    refs, preds = list_masks(ref), list_masks(pred)
    if ref.is_file() and pred.is_file():
        # Two files are compared whatever their names are.
        preds = MaskFolder(dict.fromkeys(refs.files, pred))
    ref_folder = reference_instances(ref, options.ref_instances)
    pred_folder = _instance_folder(options.pred_instances, [pred / "instances"])
    asked = bool(settings.group_metrics or settings.level_metrics)
    wanted = asked and ref_folder and pred_folder
    if settings.regions and ref_folder is None:
        raise UsageError(
            "E-EVAL-INSTANCES",
            found="--regions, but no instance masks of the references",
            expected="instancesTr beside labelsTr",
            fix="name the folder by --ref-instances, or leave --regions out",
        )
    known = LabelSet(SCHEMES["instances"].labels if settings.instance_ids == "spineps" else None, source="spineps ids")
    pred_instances = list_masks(pred_folder) if pred_folder and wanted else None
    counted = _counted(refs, pred_instances) if settings.instance_ids == "spineps" else frozenset()
    remarks = _about_instances(settings, ref_folder, pred_folder)
    labels = find_labels(ref, pred, options.labels, options.scheme)
    pred_labels = None if options.pred_labels is None else labels_of_word(options.pred_labels)
    chosen = choose(options.structures, labels, pred_labels)
    ref_instances = list_masks(ref_folder) if ref_folder and (wanted or settings.regions) else NO_MASKS
    return Job(
        refs,
        preds,
        ref_instances,
        pred_instances,
        labels,
        known,
        settings,
        options.resample,
        chosen.remarks + remarks + (_about_counted(counted) if settings.needs_centres else ()),
        counted,
        _without_numbers(refs, ref_instances) if settings.instance_ids == "spineps" else frozenset(),
        chosen.structures,
        pred_labels,
        chosen.record,
    )


def _counted(refs: MaskFolder, preds: MaskFolder | None) -> frozenset[str]:
    """Return the cases without numbers; where no prediction has any, the missing ones have none to get wrong."""
    if preds is None:
        return frozenset()
    found = _without_numbers(refs, preds)
    return frozenset(refs.cases) if found and found == set(refs.cases) & set(preds.files) else found


def _without_numbers(refs: MaskFolder, instances: MaskFolder) -> frozenset[str]:
    """Return the cases whose instances are said to be counted from the top, by the files beside their folder."""
    given = [(case, instances.files[case]) for case in refs.cases if case in instances.files]
    return frozenset(case for case, path in given if not is_numbered(path.parent.parent, case))


def _about_counted(cases: frozenset[str]) -> tuple[str, ...]:
    if not cases:
        return ()
    named = ", ".join(sorted(cases)[:3]) + (", …" if len(cases) > 3 else "")
    return (
        f"Identification is not defined for {len(cases)} case{'' if len(cases) == 1 else 's'} ({named}): the predicted "
        "vertebrae are counted from the top, not numbered.",
    )


def _about_instances(settings: Settings, ref: Path | None, pred: Path | None) -> tuple[str, ...]:
    """Say when one side has no instance masks; raises UsageError when nothing else was asked for."""
    if not (settings.group_metrics or settings.level_metrics) or (ref and pred):
        return ()
    sides = [name for name, folder in (("references", ref), ("predictions", pred)) if folder is None]
    without = f"no instance masks of the {' and the '.join(sides)}"
    if not settings.class_metrics:
        raise UsageError(
            "E-EVAL-INSTANCES",
            found=f"metrics of instances only, but {without}",
            expected="instancesTr beside labelsTr, and instances inside the prediction folder",
            fix="name the folders by --ref-instances and --pred-instances",
        )
    return (f"Instances are not scored: {without}.",) if len(sides) == 1 else ()


def reference_instances(ref: Path, given: str | Path | None = None) -> Path | None:
    """Return the folder of the references' instances: `given`, else the one inside or beside them, None without any."""
    beside = [ref / "instances", ref.parent / ref.name.replace("labels", "instances", 1)]
    return _instance_folder(given, [folder for folder in beside if folder != ref])


def _instance_folder(given: str | Path | None, candidates: Sequence[Path]) -> Path | None:
    if given is not None:
        return Path(given)
    return next((folder for folder in candidates if folder.is_dir()), None)


def prepare_output(out: Path, inputs: Sequence[Path], files: Sequence[str] = FILES) -> None:
    """Make the output folder and remove the tables of an earlier run: they must not pass for those of this one.

    Raises
    ------
    UsageError: it is an input folder.
    SetupError: it cannot be written.
    """
    folders = {(path if path.is_dir() else path.parent).resolve() for path in inputs}
    if out.resolve() in folders:
        raise UsageError(
            "E-OUT-INPUT",
            file=out,
            found="the output folder is an input folder",
            expected="a folder of its own",
            fix="choose another -o, for example one inside it",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK | os.X_OK)
        for name in files if writable else ():
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        writable, reason = False, str(error)
    else:
        reason = "no permission to write"
    if not writable:
        raise SetupError(
            "E-OUT-READONLY",
            file=out,
            found=f"cannot be written ({reason})",
            expected="a writable folder",
            fix="choose another -o or change the permissions",
        )


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what the disk refuses while tables are written into SetupError."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            "E-OUT-WRITE",
            file=out,
            found=f"a table cannot be written ({error.strerror or error})",
            expected="room on the disk and the right to write",
            fix="free space or change the permissions, then run again",
        ) from error

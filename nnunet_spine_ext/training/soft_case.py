"""One case on its way to a preprocessed soft label: what the file is made from, whether it is up to date, making it."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.files import check_path
from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError, SpineExtError
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.inference.model import reader_reorients
from nnunet_spine_ext.soft.prepare import Grid, SoftLabel, from_file, from_hard, grid_of
from nnunet_spine_ext.soft.store import open_soft, read_facts, soft_file, write_soft
from nnunet_spine_ext.soft.values import SUPERVISED

VERSION = 3
HARD = "hard label"
SOFT = "soft label"
# What blosc2, pickle and NumPy raise for files that are damaged or of another kind.
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Classes:
    """The foreground labels of a dataset: `ids` ascending, one soft class each, and the ignore label if any."""

    ids: tuple[int, ...]
    ignore: int | None = None

    @classmethod
    def of(cls, dataset_json: Mapping[str, Any]) -> Classes:
        """Read them from dataset.json; raises SetupError for regions, whose voxels belong to several labels."""
        labels = dict(dataset_json["labels"])
        ignore = labels.pop("ignore", None)
        regions = [name for name, value in labels.items() if isinstance(value, list | tuple) and len(value) > 1]
        if regions:
            raise SetupError(
                "E-SOFT-REGIONS",
                file="dataset.json labels",
                found=f"regions ({', '.join(regions)})",
                expected="one id per label: soft classes share a voxel by their values",
                fix="give each label an id of its own, or train without soft labels",
            )
        flat = [int(value[0] if isinstance(value, list | tuple) else value) for value in labels.values()]
        return cls(tuple(sorted(number for number in flat if number > 0)), None if ignore is None else int(ignore))


@dataclass(frozen=True)
class Job:
    """A case and what its file is made from: `source`, a soft label; None: the preprocessed hard one."""

    case: str
    folder: Path
    source: Path | None
    classes: Classes
    plans: dict[str, Any]

    @property
    def target(self) -> Path:
        """Return where the preprocessed soft label is."""
        return soft_file(self.folder, self.case)

    @property
    def origin(self) -> Path:
        """Return the file that the label is read from."""
        return self.folder / f"{self.case}_seg.b2nd" if self.source is None else self.source


def needed(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return the part of plans that a job reads: how the images of a configuration were read, turned and resampled."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    content = PlansManager(dict(plans)).get_configuration(configuration).configuration
    names = ("spacing", "resampling_fn_data", "resampling_fn_data_kwargs")
    return {key: plans[key] for key in ("transpose_forward", "image_reader_writer")} | {k: content[k] for k in names}


def prepare_case(job: Job) -> tuple[str, Problem | list[Problem]]:
    """Write one file; return the case, and the error or the warnings."""
    try:
        if job.source is not None and (problem := check_path(job.source)) is not None:
            return job.case, problem
        _, labels, grid = _opened(job)
        # Before it is read: a file that is replaced meanwhile is out of date.
        origin = {"stamp": _stamp(job.origin), "sha256": sha256(job.origin)}
        if job.source is None:
            label = from_hard(labels[:][0], job.classes.ids, job.classes.ignore)
        else:
            label = from_file(job.source, len(job.classes.ids), grid)
        kind = HARD if job.source is None else SOFT
        facts = {"version": VERSION, "source": kind, **origin, "plan": _plan(job, grid), "between": label.between}
        if job.source is not None:
            facts["agreement"] = agreement(label, labels[:][0], job.classes)
        write_soft(job.target, label.values, label.valid, facts, labels.blocks[1:])
    except SpineExtError as error:
        return job.case, error.problem()
    except OSError as error:
        found = f"a file that cannot be read or written ({error.strerror or error})"
        return job.case, Problem(
            "error", "E-SOFT-FILE", str(job.folder), found, "a whole case and room on the disk", "preprocess it again"
        )
    return job.case, _warnings(job, label)


def agreement(label: SoftLabel, hard: Array, classes: Classes) -> float | None:
    """Return the Dice of a soft label above 0.5 and the hard label (*spatial), all classes together.

    Only where both are known. None where neither holds anything.
    """
    known = label.valid > SUPERVISED
    if classes.ignore is not None:
        known = known & (hard != classes.ignore)
    soft = [(values > 0.5) & known for values in label.values]
    given = [(hard == number) & known for number in classes.ids]
    total = sum(int(one.sum()) for one in (*soft, *given))
    shared = sum(int((a & b).sum()) for a, b in zip(soft, given, strict=True))
    return 2.0 * shared / total if total else None


def is_current(job: Job) -> bool:
    """Whether the file of a case was made from what is there now.

    A source of the same size and time is not read again: thousands of them are looked at whenever a training starts.
    With another time its hash decides, so a dataset may be copied.
    """
    stored = read_facts(job.target)
    kind = HARD if job.source is None else SOFT
    if stored is None or stored.get("version") != VERSION or stored.get("source") != kind or not fits(job, stored):
        return False
    try:
        if list(stored.get("stamp", ())) == _stamp(job.origin):
            return True
        return bool(stored.get("sha256") == sha256(job.origin))
    except OSError:
        return False


def fits(job: Job, facts: Mapping[str, Any]) -> bool:
    """Whether what a file says about itself belongs to the classes and the grid of the case as it is now."""
    try:
        return bool(facts.get("plan") == _plan(job, _opened(job)[2]))
    except CaseError:
        return False


def _warnings(job: Job, label: SoftLabel) -> list[Problem]:
    if label.overshoot <= 1e-3:
        return []
    found = f"values up to {1 + label.overshoot:.3g}"
    return [Problem("warning", "W-SOFT-OVERSHOOT", str(job.source), found, "at most 1", "they were set to 1")]


def _opened(job: Job) -> tuple[Any, Any, Grid]:
    """Return image and label map as arrays that are read on demand, and the grid; raises CaseError."""
    try:
        image, labels = (open_soft(job.folder / f"{job.case}{end}.b2nd") for end in ("", "_seg"))
        with (job.folder / f"{job.case}.pkl").open("rb") as stream:
            # nnU-Net wrote it on this machine and reads it the same way.
            properties = pickle.load(stream)  # noqa: S301
        nearest = _nearest(properties, job.plans)
        reorient = reader_reorients(job.plans)
        return image, labels, grid_of(properties, job.plans, image.shape[1:], reorient=reorient, nearest=nearest)
    except _UNREADABLE as error:
        raise CaseError(
            "E-SOFT-CASE",
            file=job.folder / f"{job.case}.b2nd",
            found=f"a preprocessed case that cannot be read ({type(error).__name__}: {error})",
            expected="image, label map and properties (.b2nd, _seg.b2nd, .pkl), as nnU-Net writes them",
            fix="preprocess the dataset again with nnUNetv2_preprocess",
        ) from error


def _nearest(properties: Mapping[str, Any], plans: Mapping[str, Any]) -> int | None:
    """Return the axis along which nnU-Net took slices of the image whole because they are thick; None: it did not."""
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    name, options = plans["resampling_fn_data"], plans["resampling_fn_data_kwargs"]
    # Defaults of nnU-Net's two functions; what another one does along thick slices is not known.
    separate = {"resample_data_or_seg_to_shape": False, "resample_torch_fornnunet": None}
    if name not in separate or options.get("order_z", 0) != 0:
        return None
    before = [float(properties["spacing"][axis]) for axis in plans["transpose_forward"]]
    after = [*before[: 3 - len(plans["spacing"])], *map(float, plans["spacing"])]
    apart, axis = determine_do_sep_z_and_axis(options.get("force_separate_z", separate[name]), before, after)
    return int(axis) if apart else None


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _plan(job: Job, grid: Grid) -> str:
    """Return a hash of everything beside the source that the file depends on."""
    affine = None if grid.affine is None else grid.affine.round(6).tolist()
    content = asdict(grid) | {"affine": affine, "ids": job.classes.ids, "ignore": job.classes.ignore}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

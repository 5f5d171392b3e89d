"""`nnUNetv2_spine_preprocess_soft`: soft labels beside the preprocessed cases; the soft trainers call it themselves."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import Problem, SetupError, SpineExtError
from nnunet_spine_ext.core.io import read_json, sha256
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.inference.model import reader_reorients
from nnunet_spine_ext.soft.prepare import FOLDER, Grid, SoftLabel, from_file, from_hard, grid_of
from nnunet_spine_ext.soft.store import open_soft, read_facts, soft_file, write_soft
from nnunet_spine_ext.training.planned import dataset_folder, read_plans

VERSION = 1
HARD = "hard label"
_WAIT_S = 5.0
_logger = logging.getLogger(__name__)


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


@dataclass
class SoftSummary(RunSummary):
    """Cases by outcome; `soft`: those with a soft label, `hard`: those whose hard label is used instead.

    `softness`: largest share of the foreground that is neither 0 nor 1 in a soft label; None when none was read.
    """

    soft: list[str] = field(default_factory=list)
    hard: list[str] = field(default_factory=list)
    softness: float | None = None

    def render(self) -> str:
        """Return a text for the console."""
        lines = [super().render(), f"{len(self.soft)} cases with a soft label, {len(self.hard)} with their hard label"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return super().to_dict() | {"soft": self.soft, "hard": self.hard, "softness": self.softness}


@dataclass(frozen=True)
class _Job:
    case: str
    folder: Path
    source: Path | None
    classes: Classes
    plans: dict[str, Any]


def preprocess_soft(
    d: str,
    *,
    p: str = "nnUNetPlans",
    c: Sequence[str] = ("3d_fullres",),
    num_processes: int = 2,
    overwrite: bool = False,
) -> SoftSummary:
    """Bring the soft labels of a dataset to the grids of its preprocessed cases.

    Parameters
    ----------
    d: dataset id or name, planned and preprocessed by nnU-Net. p: plans. c: configurations.
    num_processes: cases at the same time, one thread each. overwrite: also those whose files are up to date.

    Raises
    ------
    SetupError: no such dataset, plans or configuration, no preprocessed cases, no soft labels at all, regions.
    """
    folder = dataset_folder(d)
    plans = read_plans(folder, p)
    dataset_json = read_json(folder / "dataset.json")
    summary = SoftSummary()
    for configuration in c:
        data = _data_folder(folder, plans, configuration)
        cases = _cases(data)
        source = soft_folder(folder.name)
        if source is None:
            raise _no_raw(folder.name)
        part = prepare(data, cases, source, dataset_json, plans, num_processes=num_processes, overwrite=overwrite)
        several = len(c) > 1
        _merge(summary, part, f"{configuration}/" if several else "")
    return summary


def prepare(
    data: Path,
    cases: Sequence[str],
    source: Path | None,
    dataset_json: Mapping[str, Any],
    plans: Mapping[str, Any],
    *,
    num_processes: int = 1,
    overwrite: bool = False,
    wait: bool = False,
) -> SoftSummary:
    """Write the soft files of cases that are missing or were made from something else.

    Parameters
    ----------
    data: preprocessed folder of one configuration. cases: which of its cases.
    source: `softLabelsTr` of the raw dataset; None where the raw dataset is gone: then all files must be there.
    wait: for another process that does the same, instead of refusing.

    Raises
    ------
    SetupError: no case has a soft label; the raw dataset is gone and files are missing; another process is at work.
    """
    classes = Classes.of(dataset_json)
    if source is None:
        return _stored(data, cases, classes)
    known = {path.name.removesuffix(".nii.gz") for path in source.glob("*.nii.gz")} if source.is_dir() else set()
    if not known.intersection(cases):
        raise SetupError(
            "E-SOFT-NONE",
            file=source,
            found=f"no soft label of any of the {len(cases)} cases",
            expected="<case>.nii.gz with values from 0 to 1",
            fix="make them with nnUNetv2_spine_soft_gt, or train hard labels with -tr nnUNetTrainerSpine",
        )
    jobs = [
        _Job(case, data, source / f"{case}.nii.gz" if case in known else None, classes, _needed(plans))
        for case in cases
    ]
    summary = SoftSummary()
    if not overwrite:
        outdated = [job for job in jobs if not _is_current(job)]
        summary.skipped = sorted({job.case for job in jobs} - {job.case for job in outdated})
        todo = outdated
    else:
        todo = jobs
    if todo:
        _run_locked(data, todo, summary, num_processes, wait=wait)
    _describe(summary, data, jobs)
    return summary


def soft_folder(dataset: str) -> Path | None:
    """Return where the raw soft labels of a dataset are, or would be; None if the raw dataset is gone."""
    raw = os.environ.get("nnUNet_raw")
    folder = Path(raw) / dataset if raw else None
    return folder / FOLDER if folder is not None and folder.is_dir() else None


def _run_locked(data: Path, jobs: Sequence[_Job], summary: SoftSummary, num_processes: int, *, wait: bool) -> None:
    while True:
        try:
            # In the folder above: nnU-Net knows the files of this one by their endings.
            with file_lock(data.parent / f".{data.name}.soft.lock", what="preparing soft labels"):
                # Another process may have made them meanwhile.
                _run(jobs, summary, num_processes)
            return
        except SetupError as error:
            if not wait or error.code != "E-OUT-LOCKED":
                raise
            _logger.info("Soft labels are being prepared by another process; waiting.")
            time.sleep(_WAIT_S)


def _run(jobs: Sequence[_Job], summary: SoftSummary, num_processes: int) -> None:
    from tqdm import tqdm

    done = tqdm(_outcomes(jobs, num_processes), total=len(jobs), desc="soft labels", disable=None, leave=False)
    for case, outcome in done:
        if isinstance(outcome, Problem):
            summary.fail(case, outcome)
        else:
            summary.done.append(case)
            summary.warn(case, *([outcome[0]] if outcome else []))


def _outcomes(jobs: Sequence[_Job], num_processes: int) -> Iterator[tuple[str, Problem | list[Problem]]]:
    if num_processes <= 1 or len(jobs) == 1:
        yield from map(_prepare_case, jobs)
        return
    # Reading, interpolating and compressing leave Python's lock to others; a process takes seconds to start.
    with ThreadPoolExecutor(min(num_processes, len(jobs))) as pool:
        yield from pool.map(_prepare_case, jobs)


def _prepare_case(job: _Job) -> tuple[str, Problem | list[Problem]]:
    """Write one file; return the error, or the warnings."""
    try:
        _, labels, grid = _case(job)
        if job.source is None:
            label = from_hard(labels[:][0], job.classes.ids, job.classes.ignore)
        else:
            label = from_file(job.source, len(job.classes.ids), grid)
        facts = _facts(job, grid) | {"between": label.between}
        write_soft(soft_file(job.folder, job.case), label.values, label.valid, facts, labels.blocks[1:])
    except SpineExtError as error:
        return job.case, error.problem()
    except OSError as error:
        found = f"a file that cannot be read or written ({error.strerror or error})"
        return job.case, Problem(
            "error", "E-SOFT-FILE", str(job.folder), found, "a whole case and room on the disk", "preprocess it again"
        )
    return job.case, _warnings(job, label)


def _warnings(job: _Job, label: SoftLabel) -> list[Problem]:
    if label.overshoot <= 1e-3:
        return []
    found = f"values up to {1 + label.overshoot:.3g}"
    return [Problem("warning", "W-SOFT-OVERSHOOT", str(job.source), found, "at most 1", "they were set to 1")]


def _case(job: _Job) -> tuple[Any, Any, Grid]:
    """Return image and label map as arrays that are read on demand, and the grid."""
    import pickle

    image, labels = (open_soft(job.folder / f"{job.case}{end}.b2nd") for end in ("", "_seg"))
    with (job.folder / f"{job.case}.pkl").open("rb") as stream:
        # nnU-Net wrote it on this machine and reads it the same way.
        properties = pickle.load(stream)  # noqa: S301
    grid = grid_of(properties, job.plans, image.shape[1:], reorient=reader_reorients(job.plans))
    return image, labels, grid


def _facts(job: _Job, grid: Grid) -> dict[str, Any]:
    """Return what a file is made from: it is out of date when this has changed."""
    affine = None if grid.affine is None else grid.affine.round(6).tolist()
    content = asdict(grid) | {"affine": affine, "ids": job.classes.ids, "ignore": job.classes.ignore}
    plan = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return {"version": VERSION, "source": HARD if job.source is None else sha256(job.source), "plan": plan}


def _is_current(job: _Job) -> bool:
    stored = read_facts(soft_file(job.folder, job.case))
    if stored is None:
        return False
    try:
        _, _, grid = _case(job)
        return all(stored.get(key) == value for key, value in _facts(job, grid).items())
    except OSError:
        return False


def _stored(data: Path, cases: Sequence[str], classes: Classes) -> SoftSummary:
    """Return what is there when the raw dataset is gone; raises SetupError when something is missing."""
    facts = {case: read_facts(soft_file(data, case)) for case in cases}
    missing = [case for case, content in facts.items() if content is None]
    channels = len(classes.ids) + 1
    wrong = [c for c in cases if c not in missing and open_soft(soft_file(data, c)).shape[0] != channels]
    if missing or wrong:
        listed = ", ".join((missing + wrong)[:5])
        raise SetupError(
            "E-SOFT-MISSING",
            file=data,
            found=f"{len(missing)} of {len(cases)} cases without a prepared soft label, {len(wrong)} with one of other "
            f"classes ({listed})",
            expected="one per case: the raw dataset, which they are made from, is not there",
            fix="put the raw dataset back (nnUNet_raw) and run nnUNetv2_spine_preprocess_soft",
        )
    summary = SoftSummary(skipped=list(cases))
    for case, content in facts.items():
        (summary.hard if content and content["source"] == HARD else summary.soft).append(case)
    return summary


def _describe(summary: SoftSummary, data: Path, jobs: Sequence[_Job]) -> None:
    """Count soft and hard cases, and report a dataset whose soft labels are all 0 or 1."""
    usable = [job for job in jobs if job.case not in summary.failed]
    summary.soft = [job.case for job in usable if job.source is not None]
    summary.hard = [job.case for job in usable if job.source is None]
    shares = [float((read_facts(soft_file(data, case)) or {}).get("between", 0.0)) for case in summary.soft]
    summary.softness = max(shares, default=None)  # type: ignore[type-var]
    if summary.softness == 0.0:
        found = f"only 0 and 1 in all {len(summary.soft)} soft labels"
        fix = "if they come from one mask per subject, average several contrasts: nnUNetv2_spine_soft_gt"
        summary.warn(
            FOLDER, Problem("warning", "W-SOFT-BINARY", str(data), found, "values between, at least at borders", fix)
        )


def _merge(summary: SoftSummary, part: SoftSummary, prefix: str) -> None:
    for name in ("done", "skipped", "soft", "hard"):
        getattr(summary, name).extend(f"{prefix}{case}" for case in getattr(part, name))
    summary.failed.update({f"{prefix}{case}": problem for case, problem in part.failed.items()})
    for case, problems in part.warnings.items():
        summary.warn(f"{prefix}{case}", *problems)
    shares = [s for s in (summary.softness, part.softness) if s is not None]
    summary.softness = max(shares, default=None)  # type: ignore[type-var]


def _needed(plans: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plans[key] for key in ("transpose_forward", "image_reader_writer")}


def _cases(data: Path) -> list[str]:
    return sorted(
        path.name.removesuffix(".b2nd") for path in data.glob("*.b2nd") if not path.name.endswith("_seg.b2nd")
    )


def _data_folder(folder: Path, plans: Mapping[str, Any], configuration: str) -> Path:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    known = plans["configurations"]
    if configuration not in known:
        raise SetupError(
            "E-PLANS-CONFIGURATION",
            file=f"plans {plans.get('plans_name', '')}",
            found=f"no configuration {configuration}",
            expected=", ".join(known),
            fix=nearest(configuration, list(known)),
        )
    data = folder / PlansManager(dict(plans)).get_configuration(configuration).data_identifier
    if not data.is_dir() or not _cases(data):
        raise SetupError(
            "E-SOFT-UNPREPROCESSED",
            file=data,
            found="no preprocessed cases (.b2nd)",
            expected="images that nnU-Net has preprocessed",
            fix=f"run nnUNetv2_preprocess -d {folder.name} -plans_name {plans.get('plans_name')} -c {configuration}",
        )
    return data


def _no_raw(dataset: str) -> SetupError:
    return SetupError(
        "E-SOFT-NONE",
        file=f"nnUNet_raw/{dataset}",
        found="no such folder",
        expected="the raw dataset with softLabelsTr",
        fix="set nnUNet_raw to where it is",
    )

"""`nnUNetv2_spine_preprocess_soft`: soft labels beside the preprocessed cases; the soft trainers call it themselves."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.cases import FILE_ENDING
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset_names import dataset_number
from nnunet_spine_ext.core.errors import Problem, SetupError
from nnunet_spine_ext.core.io import is_image, read_json
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.soft.prepare import FOLDER
from nnunet_spine_ext.soft.store import read_facts
from nnunet_spine_ext.training.planned import dataset_folder, read_plans
from nnunet_spine_ext.training.soft_case import HARD, Classes, Job, fits, is_current, needed, prepare_case

_WAIT_S = 5.0
_LISTED = 5
# A hard label is the soft one above 0.5, or the mask of one image; with less than half in common one of both is wrong.
_LEAST_AGREEMENT = 0.5
_logger = logging.getLogger(__name__)


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
        listed = f" ({_some(self.hard)})" if self.hard else ""
        counts = f"{len(self.soft)} cases with a soft label, {len(self.hard)} with their hard label{listed}"
        lines = [super().render(), counts]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return super().to_dict() | {"soft": self.soft, "hard": self.hard, "softness": self.softness}


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
        part = prepare(
            data, cases, source, dataset_json, plans, configuration, num_processes=num_processes, overwrite=overwrite
        )
        several = len(c) > 1
        _merge(summary, part, f"{configuration}/" if several else "")
    return summary


def prepare(
    data: Path,
    cases: Sequence[str],
    source: Path | None,
    dataset_json: Mapping[str, Any],
    plans: Mapping[str, Any],
    configuration: str,
    *,
    train: Collection[str] | None = None,
    num_processes: int = 1,
    overwrite: bool = False,
    wait: bool = False,
) -> SoftSummary:
    """Write the soft files of cases that are missing or were made from something else.

    Parameters
    ----------
    data: preprocessed folder of the configuration. cases: which of its cases.
    source: `softLabelsTr` of the raw dataset; None where the raw dataset is gone: then all files must be there.
    train: those of them that are trained on, one of which must have a soft label; None: all.
    wait: for another process that does the same, instead of refusing.

    Raises
    ------
    SetupError: no case that is trained on has a soft label; the raw dataset is gone and files are missing; another
        process is at work.
    """
    classes = Classes.of(dataset_json)
    _refuse_twins(data, cases)
    plan = needed(plans, configuration)
    if source is None:
        summary = _stored([Job(case, data, None, classes, plan) for case in cases], data)
        _refuse_hard_alone(data, summary.soft, cases, train)
        return summary
    given = sorted(path.name for path in source.iterdir() if is_image(path)) if source.is_dir() else []
    others = sorted({*given} - {_label(source, case).name for case in {*cases, *_cases(data)}})
    known = with_soft_label(source, cases)
    _refuse_hard_alone(source, known, cases, train, others)
    jobs = [Job(c, data, _label(source, c) if c in known else None, classes, plan) for c in cases]
    summary = SoftSummary()
    todo = jobs if overwrite else [job for job in jobs if not is_current(job)]
    summary.skipped = sorted({*cases} - {job.case for job in todo})
    if others:
        found = f"{len(others)} files of no preprocessed case ({_some(others)})"
        fix = "rename them as their images without _0000; until then those cases have hard labels"
        summary.warn(FOLDER, Problem("warning", "W-SOFT-NAME", str(source), found, "<case>.nii.gz", fix))
    if todo:
        _run_locked(data, todo, summary, num_processes, wait=wait, overwrite=overwrite)
    usable = [job for job in jobs if job.case not in summary.failed]
    _describe(summary, data, {job.case: read_facts(job.target) or {} for job in usable})
    return summary


def soft_folder(dataset: str) -> Path | None:
    """Return where the raw soft labels of a dataset are, or would be; None if the raw dataset is gone."""
    raw = os.environ.get("nnUNet_raw")
    folder = Path(raw) / dataset if raw else None
    return folder / FOLDER if folder is not None and folder.is_dir() else None


def with_soft_label(source: Path, cases: Iterable[str]) -> set[str]:
    """Return which of some cases have a soft label in `source`, a folder that need not be there.

    A link to a file that was not fetched counts: reading it fails, and no hard label stands in for it.
    """
    return {case for case in cases if os.path.lexists(_label(source, case))}


def _label(source: Path, case: str) -> Path:
    return source / f"{case}{FILE_ENDING}"


def _refuse_hard_alone(
    file: Path,
    soft: Collection[str],
    cases: Collection[str],
    train: Collection[str] | None,
    others: Sequence[str] = (),
) -> None:
    """Raise SetupError when no case that is trained on has a soft label; `others`: files of no case."""
    learned, kind = (cases, "") if train is None else (train, "training ")
    if not {*soft}.intersection(learned):
        raise SetupError(
            "E-SOFT-NONE",
            file=file,
            found=f"no soft label of any of the {len(learned)} {kind}cases{f' ({_some(others)})' if others else ''}",
            expected="<case>.nii.gz with values from 0 to 1",
            fix="make them with nnUNetv2_spine_soft_gt, or train hard labels with -tr nnUNetTrainerSpine",
        )


def _run_locked(
    data: Path, jobs: Sequence[Job], summary: SoftSummary, num_processes: int, *, wait: bool, overwrite: bool
) -> None:
    waited = False
    while True:
        try:
            # In the folder above: nnU-Net knows the files of this one by their endings.
            with file_lock(data.parent / f".{data.name}.soft.lock", what="preparing soft labels"):
                # Another process may have made them meanwhile, and be reading them.
                made = set() if overwrite else {job.case for job in jobs if is_current(job)}
                summary.skipped = sorted({*summary.skipped, *made})
                _run([job for job in jobs if job.case not in made], summary, num_processes)
            return
        except SetupError as error:
            if not wait or error.code != "E-OUT-LOCKED":
                raise
            if not waited:
                _logger.warning("Waiting: %s. (%s.)", error.found, error.fix)
            waited = True
            time.sleep(_WAIT_S)
        except OSError as error:
            raise SetupError(
                "E-OUT-WRITE",
                file=data.parent,
                found=f"cannot be written ({error.strerror or error})",
                expected="the right to write: soft labels are prepared beside nnU-Net's files",
                fix="change the permissions, or run nnUNetv2_spine_preprocess_soft as the owner first",
            ) from error


def _run(jobs: Sequence[Job], summary: SoftSummary, num_processes: int) -> None:
    from tqdm import tqdm

    done = tqdm(_outcomes(jobs, num_processes), total=len(jobs), desc="soft labels", disable=None, leave=False)
    for case, outcome in done:
        if isinstance(outcome, Problem):
            summary.fail(case, outcome)
        else:
            summary.done.append(case)
            summary.warn(case, *([outcome[0]] if outcome else []))


def _outcomes(jobs: Sequence[Job], num_processes: int) -> Iterator[tuple[str, Problem | list[Problem]]]:
    if num_processes <= 1 or len(jobs) <= 1:
        yield from map(prepare_case, jobs)
        return
    # Reading, interpolating and compressing leave Python's lock to others; a process takes seconds to start.
    with ThreadPoolExecutor(min(num_processes, len(jobs))) as pool:
        yield from pool.map(prepare_case, jobs)


def _stored(jobs: Sequence[Job], data: Path) -> SoftSummary:
    """Return what is there when the raw dataset is gone; raises SetupError when something is missing."""
    facts = {job.case: read_facts(job.target) for job in jobs}
    missing = [case for case, content in facts.items() if content is None]
    wrong = [job.case for job in jobs if (content := facts[job.case]) is not None and not fits(job, content)]
    if missing or wrong:
        raise SetupError(
            "E-SOFT-MISSING",
            file=data,
            found=f"{len(missing)} of {len(jobs)} cases without a prepared soft label, {len(wrong)} with one of other "
            f"classes or another grid ({_some(missing + wrong)})",
            expected="one per case: the raw dataset, which they are made from, is not there",
            fix="put the raw dataset back (nnUNet_raw) and run nnUNetv2_spine_preprocess_soft",
        )
    summary = SoftSummary(skipped=[job.case for job in jobs])
    _describe(summary, data, {case: content or {} for case, content in facts.items()})
    return summary


def _describe(summary: SoftSummary, data: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Count soft and hard cases, and report a dataset whose soft labels are all 0 or 1."""
    summary.hard = [case for case, content in facts.items() if content.get("source") == HARD]
    summary.soft = [case for case in facts if case not in {*summary.hard}]
    shares = [float(facts[case].get("between", 0.0)) for case in summary.soft]
    summary.softness = max(shares, default=None)  # type: ignore[type-var]
    agreed = {case: facts[case].get("agreement") for case in summary.soft}
    apart = {case: float(dice) for case, dice in agreed.items() if dice is not None and dice < _LEAST_AGREEMENT}
    if apart:
        worst = min(apart, key=lambda case: apart[case])
        found = f"{len(apart)} soft labels unlike the hard label of their case ({_some(sorted(apart))}); the Dice of "
        found += f"{worst}, above 0.5, is {apart[worst]:.2f}"
        fix = "look at them: are they of another case, flipped, or at half their strength?"
        summary.warn(
            FOLDER, Problem("warning", "W-SOFT-UNLIKE", str(data), found, f"{_LEAST_AGREEMENT:g} or more", fix)
        )
    if summary.softness == 0.0:
        found = f"only 0 and 1 in all {len(summary.soft)} soft labels"
        fix = "if they come from one mask per subject, average several contrasts: nnUNetv2_spine_soft_gt"
        summary.warn(
            FOLDER, Problem("warning", "W-SOFT-BINARY", str(data), found, "values between, at least at borders", fix)
        )


def _refuse_twins(data: Path, cases: Sequence[str]) -> None:
    """Refuse a case x beside a case x_soft: the soft label of one is where nnU-Net has the hard label of the other."""
    everything = {*_cases(data), *cases}
    twins = sorted(case for case in everything if f"{case}_soft" in everything)
    if twins:
        raise SetupError(
            "E-SOFT-TWIN",
            file=data,
            found=f"cases of the names {twins[0]} and {twins[0]}_soft",
            expected="names of which none is another one's with _soft behind it",
            fix="rename one of them in the raw dataset, and preprocess again",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def _merge(summary: SoftSummary, part: SoftSummary, prefix: str) -> None:
    for name in ("done", "skipped", "soft", "hard"):
        getattr(summary, name).extend(f"{prefix}{case}" for case in getattr(part, name))
    summary.failed.update({f"{prefix}{case}": problem for case, problem in part.failed.items()})
    for case, problems in part.warnings.items():
        summary.warn(f"{prefix}{case}", *problems)
    shares = [s for s in (summary.softness, part.softness) if s is not None]
    summary.softness = max(shares, default=None)  # type: ignore[type-var]


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
            fix=f"run nnUNetv2_preprocess -d {dataset_number(folder.name)} -plans_name {plans.get('plans_name')} "
            f"-c {configuration}",
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

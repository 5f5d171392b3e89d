"""`nnUNetv2_spine_predict`: cases isolated, journal, verified resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_spine_ext.core.device import check_device_name
from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SETUP, EXIT_SOME_FAILED, Problem, SetupError, SpineExtError
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.inference.activation import soft_activation
from nnunet_spine_ext.inference.cases import InputCase, find_cases
from nnunet_spine_ext.inference.folder import ModelFolder, find_model_folder, load_weights, open_model_folder
from nnunet_spine_ext.inference.gate import inspect_case
from nnunet_spine_ext.inference.journal import Journal, folder_lock, is_finished
from nnunet_spine_ext.inference.model import label_scheme, predict_settings, refuse_what_is_not_predicted_here
from nnunet_spine_ext.inference.one_case import input_hashes, predict_case
from nnunet_spine_ext.inference.options import RunOptions, make_predictor
from nnunet_spine_ext.inference.preflight import (
    check_accumulate,
    check_output,
    check_parts,
    check_scheme,
    check_use,
    check_windows,
)
from nnunet_spine_ext.inference.results import discard, foreign_cases, foreign_warning, outputs, write_run
from nnunet_spine_ext.inference.settings import Crop, PredictSettings
from nnunet_spine_ext.inference.space import is_full, little_space, unwritable, writing

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.predictor import SpinePredictor

logger = logging.getLogger(__name__)
# A full disk rarely empties itself: after this many cases that found no room the run ends.
_FULL_LIMIT = 3


@dataclass
class PredictResult(RunSummary):
    """Outcome of a run, with its output folder.

    `notes` are warnings about the run as a whole, `stopped` is why it ended before its last case. A dry run lists in
    `planned` the files of each case that would be predicted; `failed` are then those that would fail.
    """

    folder: Path = field(default_factory=Path)
    planned: dict[str, list[str]] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    stopped: Problem | None = None
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """As for every run; 5 when it was stopped; of a dry run, what the run would end with."""
        if self.stopped is not None:
            return EXIT_SETUP
        if self.planned:
            return EXIT_SOME_FAILED if self.failed else EXIT_OK
        return super().exit_code

    def render(self) -> str:
        """Return a text for the console; a dry run lists the cases."""
        *lines, counts = super().render().splitlines()
        if self.dry_run:
            counts = f"{len(self.planned)} to predict, {len(self.skipped)} finished, {len(self.failed)} would fail"
            counts += "; nothing was predicted (dry run: the checkpoints were not opened)"
            # A run says them when it starts.
            lines[1:1] = [f"WARNING {problem}" for problem in self.notes]
        lines += [f"{case}: {', '.join(files)}" for case, files in self.planned.items()]
        lines += [f"STOPPED {self.stopped}"] if self.stopped else []
        return "\n".join([*lines, counts])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        content = super().to_dict() | {"notes": [problem.to_dict() for problem in self.notes]}
        if self.dry_run:
            content["planned"] = self.planned
        return content | ({"stopped": self.stopped.to_dict()} if self.stopped else {})


def predict(
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    *,
    m: str | Path | None = None,
    d: str | None = None,
    tr: str = "nnUNetTrainerSpine",
    p: str = "nnUNetPlans",
    c: str = "3d_fullres",
    f: Sequence[str] | None = None,
    chk: str = "checkpoint_final.pth",
    device: str = "auto",
    step_size: float = 0.5,
    tta: Literal["none", "mirror"] = "mirror",
    accumulate: Literal["single", "half"] = "single",
    crop: Crop | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    window_batch: int = 1,
    instances: bool = False,
    report: bool = False,
    resume: bool = False,
    strict: bool = False,
    prefer: Literal["sform", "qform"] | None = None,
    trust: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    dry_run: bool = False,
) -> PredictResult:
    """Predict images with a trained model.

    Parameters
    ----------
    i: an image, a folder of images or a list of images. o: output folder (made if needed).
    m: model folder; or d, tr, p, c as in nnU-Net. f: folds (None: all that are there). chk: checkpoint name.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    step_size: overlap of windows, as in nnU-Net. tta: ``mirror`` or ``none``.
    accumulate: precision in which windows are added up; ``half`` is what nnU-Net does.
    crop: ``on`` and ``auto`` look for the structures coarsely first and do only their surroundings with care (``auto``:
        soft models on a CPU, where that spares work), ``off`` does everything; None: as the model's plans say.
    precision: ``fp32`` as nnU-Net, or ``bf16`` on hardware that has it. window_batch: windows computed at once.
    instances: also separate vertebrae, discs and endplates. report: also write report.html.
    resume: keep finished cases whose input, model, options and output bytes are unchanged.
    strict: geometry warnings are errors. prefer: which of two conflicting transforms to believe.
    trust: load checkpoints that carry code. num_parts, part_id: predict every n-th case only (cluster arrays).
    dry_run: check model folder, input files and output, and predict nothing; the exit code is the one to expect.

    Returns
    -------
    Cases done, skipped and failed; a failed case has left nothing under its final name.

    Raises
    ------
    UsageError, NoInputError, SetupError: nothing was started.
    """
    check_use(m, d, step_size)
    check_windows(crop, precision, window_batch)
    check_parts(num_parts, part_id)
    check_device_name(device)
    i = i[0] if isinstance(i, Sequence) and not isinstance(i, str) and len(i) == 1 else i
    output = check_output(Path(o), i)
    model = open_model_folder(
        find_model_folder(None if m is None else str(m), d, tr, p, c), tuple(f) if f else None, chk
    )
    # nnU-Net names a model's folder <trainer>__<plans>__<configuration>; a renamed one is looked at when it is loaded.
    refuse_what_is_not_predicted_here(model.plans, model.folder.name.rpartition("__")[2])
    chosen = _checked_crop(model, crop, accumulate, instances=instances)
    everything = find_cases(i, model.channels)
    cases = everything[part_id::num_parts]
    title = f"{len(cases)} cases, model {model.folder.name}, fold {', '.join(model.folds)}"
    result = PredictResult(title=title, folder=output, dry_run=dry_run)
    options = RunOptions(step_size, tta, accumulate, instances, strict, prefer, chosen, precision)
    journal = Journal(output).read()
    run = _Run(model, options, options.fingerprint(model), journal if resume else {}, result)
    foreign = foreign_cases(output, {case.name for case in everything}, journal, run.fingerprint)
    result.notes += _notes(run, cases, foreign, resume=resume, report=report)
    if dry_run:
        _rehearse(run, cases)
    else:
        _work(run, cases, i, foreign, device, (part_id, num_parts), window_batch, trust=trust, report=report)
    return result


def _checked_crop(model: ModelFolder, crop: Crop | None, accumulate: str, *, instances: bool) -> Crop:
    """Return the crop mode in force; raises UsageError for what the model cannot do."""
    chosen = crop or (predict_settings(model.plans) or PredictSettings()).crop
    check_accumulate(accumulate, chosen, soft=soft_activation(model.plans) is not None)
    if instances:
        check_scheme(label_scheme(model.plans), model.folder)
    return chosen


@dataclass(frozen=True)
class _Run:
    """What every case of a run needs: `earlier` is the journal of the run that is resumed."""

    model: ModelFolder
    options: RunOptions
    fingerprint: str
    earlier: Mapping[str, Any]
    result: PredictResult

    def finished(self, case: InputCase, hashes: list[dict[str, str]]) -> bool:
        """Whether an earlier run did a case, with the same input, model and options."""
        mask = self.result.folder / f"{case.name}.nii.gz"
        return is_finished(self.earlier.get(case.name), mask, hashes, self.fingerprint)


def _notes(
    run: _Run, cases: Sequence[InputCase], foreign: Mapping[str, list[str]], *, resume: bool, report: bool
) -> list[Problem]:
    """Return the warnings about a run as a whole."""
    # Who resumes goes on in a folder of earlier results; masks of another model are worth a warning even then.
    mixed = {kind: names for kind, names in foreign.items() if not (resume and kind == "same_settings")}
    output = run.result.folder
    notes = (
        foreign_warning(output, mixed),
        little_space(
            output,
            cases,
            instances=run.options.instances,
            report=report,
            soft=len(run.model.labels) if soft_activation(run.model.plans) else 0,
        ),
    )
    return [note for note in notes if note is not None]


def _work(
    run: _Run,
    cases: Sequence[InputCase],
    source: Any,
    foreign: Mapping[str, list[str]],
    device: str,
    part: tuple[int, int],
    window_batch: int,
    *,
    trust: bool,
    report: bool,
) -> None:
    """Load the network, predict all cases into the locked folder and write the report."""
    result, output = run.result, run.result.folder
    for note in result.notes:
        logger.warning("%s", note)
    model = load_weights(run.model, trust=trust)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with folder_lock(output, part=part):
        predictor = make_predictor(model, run.options, device, window_batch=window_batch, trust=trust)
        with writing(output):
            write_run(output, model, vars(run.options) | {"device": str(predictor.device)}, source, foreign)
        _run_cases(run, cases, predictor)
    if report and (result.done or result.skipped) and result.stopped is None:
        from nnunet_spine_ext.report.build import report as build_report

        with writing(output):
            build_report(output)


def _run_cases(run: _Run, cases: Sequence[InputCase], predictor: SpinePredictor) -> None:
    from tqdm import tqdm

    result, output = run.result, run.result.folder
    journal = Journal(output)
    full = 0
    for number, case in enumerate(tqdm(cases, desc="cases", disable=None)):
        entry: dict[str, Any] = {"case": case.name, "fingerprint": run.fingerprint}
        start = time.perf_counter()
        try:
            entry["input"] = input_hashes(case)
            if run.finished(case, entry["input"]):
                result.skipped.append(case.name)
                continue
            discard(output, case.name)
            warnings = predict_case(case, output, run.model, run.options, predictor)
        except SpineExtError as error:
            entry["seconds"] = _seconds_since(start)
            _fail(result, journal, entry, error.problem())
        except Exception as error:
            entry["seconds"] = _seconds_since(start)
            _fail(result, journal, entry, unwritable(output, error) or _unexpected(case, error))
            full += is_full(error)
            if full == _FULL_LIMIT:
                result.stopped = _stopped(output, full, len(cases) - number - 1)
                return
        else:
            entry |= {
                "status": "done",
                "seconds": _seconds_since(start),
                "warnings": [w.to_dict() for w in warnings],
                "error": None,
                "outputs": {str(f.relative_to(output)): sha256(f) for f in outputs(output, case.name)},
            }
            journal.append(entry)
            result.done.append(case.name)
            result.warn(case.name, *warnings)


def _rehearse(run: _Run, cases: Sequence[InputCase]) -> None:
    """Look at every case as the run would, and record which would be predicted, are finished, or would fail."""
    from tqdm import tqdm

    for case in tqdm(cases, desc="cases", disable=None):
        try:
            if case.name in run.earlier and run.finished(case, input_hashes(case)):
                run.result.skipped.append(case.name)
                continue
            warnings, _ = inspect_case(case, strict=run.options.strict, prefer=run.options.prefer)
        except SpineExtError as error:
            run.result.fail(case.name, error.problem())
        except Exception as error:
            run.result.fail(case.name, _unexpected(case, error))
        else:
            run.result.planned[case.name] = [str(f) for f in case.files]
            run.result.warn(case.name, *warnings)


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def _fail(result: PredictResult, journal: Journal, entry: dict[str, Any], problem: Problem) -> None:
    case = entry["case"]
    discard(result.folder, case)
    journal.append(entry | {"status": "failed", "warnings": [], "error": problem.to_dict()})
    result.fail(case, problem)


def _stopped(output: Path, full: int, left: int) -> Problem:
    return SetupError(
        "E-OUT-FULL",
        file=output,
        found=f"no space left, {full} times; the run was ended before {left} further cases",
        expected="room for the results on the disk",
        fix="free space, then run again with --resume",
    ).problem()


def _unexpected(case: InputCase, error: Exception) -> Problem:
    logger.error("%s: unexpected error", case.name, exc_info=error)
    found = f"{type(error).__name__}: {error}"
    return Problem(
        "error",
        "E-INTERNAL",
        str(case.files[0]),
        found,
        "a prediction",
        "report this with the log; the other cases went on",
    )

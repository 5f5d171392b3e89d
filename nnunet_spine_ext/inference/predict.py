"""`nnUNetv2_spine_predict`: cases isolated, journal, verified resume."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.errors import CaseError, Problem, SpineExtError
from nnunet_spine_ext.core.io import sha256, write_json, write_volume
from nnunet_spine_ext.core.labels import (
    colours_for,
    instance_name,
    scheme,
    write_itksnap_labels,
    write_slicer_table,
)
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.cases import InputCase, find_cases
from nnunet_spine_ext.inference.folder import TrainedModel, find_model_folder, load_model
from nnunet_spine_ext.inference.journal import RUN, Journal, folder_lock, is_finished
from nnunet_spine_ext.inference.model import label_scheme
from nnunet_spine_ext.inference.phases import write_instances
from nnunet_spine_ext.inference.preflight import check_output, check_parts, check_scheme, check_use

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.predictor import SpinePredictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Options:
    """What decides the output of a case, besides its image and the model."""

    step_size: float
    tta: str
    accumulate: str
    instances: bool
    strict: bool
    prefer: Literal["sform", "qform"] | None


@dataclass
class PredictResult(RunSummary):
    """Outcome of a run, with its output folder; of a dry run, the files of each case as `planned`."""

    folder: Path = field(default_factory=Path)
    planned: dict[str, list[str]] = field(default_factory=dict)

    def render(self) -> str:
        """Return a text for the console; a dry run lists the cases."""
        lines = [f"{case}: {', '.join(files)}" for case, files in self.planned.items()]
        return "\n".join([*lines, super().render()])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return super().to_dict() | ({"planned": self.planned} if self.planned else {})


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
    instances: also separate vertebrae, discs and endplates. report: also write report.html.
    resume: keep finished cases whose input, model, options and output bytes are unchanged.
    strict: geometry warnings are errors. prefer: which of two conflicting transforms to believe.
    trust: load checkpoints that carry code. num_parts, part_id: predict every n-th case only (cluster arrays).

    Returns
    -------
    Cases done, skipped and failed; a failed case has left nothing under its final name.

    Raises
    ------
    UsageError, NoInputError, SetupError: nothing was started.
    """
    check_use(m, d, step_size)
    check_parts(num_parts, part_id)
    if isinstance(i, Sequence) and not isinstance(i, str) and len(i) == 1:
        i = i[0]
    output = check_output(Path(o), i)
    folder = find_model_folder(None if m is None else str(m), d, tr, p, c)
    model = load_model(folder, tuple(f) if f else None, chk, trust=trust)
    if instances:
        check_scheme(label_scheme(model.plans), folder)
    cases = find_cases(i, model.channels)[part_id::num_parts]
    result = PredictResult(
        title=f"{len(cases)} cases, model {model.folder.name}, fold {', '.join(model.folds)}", folder=output
    )
    if dry_run:
        for case in cases:
            _record_dry(result, case)
        return result
    options = _Options(step_size, tta, accumulate, instances, strict, prefer)
    output.mkdir(parents=True, exist_ok=True)
    with folder_lock(output, part=(part_id, num_parts)):
        predictor = _predictor(model, options, device, trust)
        _write_run(output, model, options, i, str(predictor.device))
        _run_cases(cases, predictor, model, options, output, result, resume=resume)
    if report and (result.done or result.skipped):
        from nnunet_spine_ext.report.build import report as build_report

        build_report(output)
    return result


def _run_cases(
    cases: Sequence[InputCase],
    predictor: SpinePredictor,
    model: TrainedModel,
    options: _Options,
    output: Path,
    result: PredictResult,
    *,
    resume: bool,
) -> None:
    from tqdm import tqdm

    journal = Journal(output)
    earlier = journal.read() if resume else {}
    fingerprint = _fingerprint(model, options)
    for case in tqdm(cases, desc="cases", disable=None):
        entry: dict[str, Any] = {"case": case.name, "fingerprint": fingerprint}
        mask = output / f"{case.name}.nii.gz"
        start = time.perf_counter()
        try:
            entry["input"] = _hashes(case)
            if is_finished(earlier.get(case.name), mask, entry["input"], fingerprint):
                result.skipped.append(case.name)
                continue
            _discard(output, case.name)
            warnings = _predict_case(case, predictor, options, label_scheme(model.plans), mask)
        except SpineExtError as error:
            entry["seconds"] = _seconds_since(start)
            _fail(result, journal, entry, output, error.problem())
        except Exception as error:
            entry["seconds"] = _seconds_since(start)
            _fail(result, journal, entry, output, _unwritable(output, error) or _unexpected(case, error))
        else:
            entry |= {
                "status": "done",
                "seconds": _seconds_since(start),
                "warnings": [w.to_dict() for w in warnings],
                "error": None,
                "outputs": {str(f.relative_to(output)): sha256(f) for f in _outputs(output, case.name)},
            }
            journal.append(entry)
            result.done.append(case.name)
            result.warn(case.name, *warnings)


def _predict_case(
    case: InputCase, predictor: SpinePredictor, options: _Options, scheme_name: str, mask: Path
) -> list[Problem]:
    """Check, predict and write one case; return its warnings. Raises CaseError for what makes it unusable."""
    if case.problem is not None:
        raise case.problem.to_error()
    warnings, grid = _inspect(case, options)
    with contextlib.redirect_stdout(io.StringIO()) as chatter:
        data, properties = predictor.prepare(case.files, None if grid is None else grid.affine)
        semantic = predictor.segment(data, properties)
    if chatter.getvalue().strip():
        logger.debug("nnU-Net: %s", chatter.getvalue().strip())
    if not semantic.array.any():
        warnings.append(
            Problem(
                "warning",
                "W-OUT-EMPTY",
                str(case.files[0]),
                "no structure found",
                "a spine in the image",
                "check the image and the model",
            )
        )
    # The mask goes last: under its name the case is complete.
    if options.instances:
        warnings += write_instances(semantic, scheme_name, mask)
    write_volume(semantic, mask)
    return warnings


def _inspect(case: InputCase, options: _Options) -> tuple[list[Problem], Volume | None]:
    """Return the gatekeeper's warnings for all channels and, if a preferred transform decides, the grid to use.

    Raises CaseError for the first error found, and if the channels lie on different grids.
    """
    from nnunet_spine_ext.check.images import inspect

    warnings: list[Problem] = []
    grids: list[Volume] = []
    for file in case.files:
        facts = inspect(file, strict=options.strict, prefer=options.prefer)
        for problem in facts.problems:
            if problem.severity == "error":
                raise problem.to_error()
            warnings.append(problem)
        if facts.affine is not None:
            grids.append(Volume(np.broadcast_to(np.uint8(0), facts.shape[:3]), facts.affine))
    for file, grid in zip(case.files[1:], grids[1:], strict=True):
        if not grids[0].same_grid(grid):
            raise CaseError(
                "E-GEOM-CHANNELS",
                file=file,
                found=f"shape {grid.shape}, corners {grids[0].corner_error(grid):.3g} mm from {case.files[0].name}",
                expected="all channels on one grid",
                fix="resample the channels onto one of them",
            )
    return warnings, grids[0] if options.prefer else None


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def _fail(result: PredictResult, journal: Journal, entry: dict[str, Any], output: Path, problem: Problem) -> None:
    case = entry["case"]
    _discard(output, case)
    journal.append(entry | {"status": "failed", "warnings": [], "error": problem.to_dict()})
    result.fail(case, problem)


def _unwritable(output: Path, error: Exception) -> Problem | None:
    """Return the finding for an error of the disk that the results go to; None for another error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return None
    found = f"a result cannot be written ({error.strerror})"
    fix = "free space or change the permissions, then run again with --resume"
    return Problem("error", "E-OUT-WRITE", str(output), found, "room on the disk and the right to write", fix)


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


def _outputs(output: Path, case: str) -> list[Path]:
    candidates = [
        output / f"{case}.nii.gz",
        output / "instances" / f"{case}.nii.gz",
        output / "centroids" / f"{case}.json",
        output / "qc" / f"{case}.json",
    ]
    return [f for f in candidates if f.is_file()]


def _discard(output: Path, case: str) -> None:
    """Remove what an earlier run left of a case: old masks must not pass for new ones."""
    for file in _outputs(output, case):
        file.unlink()


def _hashes(case: InputCase) -> list[dict[str, str]]:
    if case.problem is not None:
        return []
    return [{"file": f.name, "sha256": _hash(f)} for f in case.files]


def _hash(file: Path) -> str:
    """Return the hash of a file, nothing if it cannot be read: the gatekeeper says why."""
    try:
        return sha256(file)
    except OSError:
        return ""


def _fingerprint(model: TrainedModel, options: _Options) -> str:
    content = json.dumps([model.digest, vars(options), __version__], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _predictor(model: TrainedModel, options: _Options, device: str, trust: bool) -> SpinePredictor:
    from nnunet_spine_ext.inference.device import choose_device
    from nnunet_spine_ext.inference.predictor import SpinePredictor

    with contextlib.redirect_stdout(io.StringIO()):
        predictor = SpinePredictor(
            device=choose_device(device),
            step_size=options.step_size,
            mirror=options.tta != "none",
            accumulate="half" if options.accumulate == "half" else "single",
            trust=trust,
        )
        predictor.initialize_from_model(model)
    return predictor


def _write_run(output: Path, model: TrainedModel, options: _Options, source: Any, device: str) -> None:
    """Write what a reader of the results needs: the run's facts, nnU-Net's dataset.json and label tables."""
    from importlib.metadata import version

    packages = ("nnunetv2", "torch", "numpy", "nibabel")
    facts = {
        "nnunet_spine_ext": __version__,
        "versions": {name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": {
            "name": model.folder.name,
            "dataset": model.folder.parent.name,
            "trainer": model.trainer_name,
            "folds": list(model.folds),
            "checkpoint": model.checkpoint,
            "sha256": model.digest,
        },
        "options": vars(options) | {"device": device},
        "input": str(Path(source).resolve())
        if isinstance(source, (str, Path))
        else [str(Path(s).resolve()) for s in source],
        "labels": {str(k): v for k, v in model.labels.items()},
        "scheme": label_scheme(model.plans),
    }
    write_json(output / RUN, facts)
    write_json(output / "dataset.json", model.dataset_json)
    name = label_scheme(model.plans)
    colours = colours_for(model.labels, name)
    write_itksnap_labels(model.labels, output / "labels_itksnap.txt", colours)
    write_slicer_table(model.labels, output / "labels_slicer.ctbl", colours)
    if options.instances:
        table = scheme("instances")
        names = {key: instance_name(key) for key in table.labels}
        write_itksnap_labels(names, output / "instances" / "labels_itksnap.txt", dict(table.colours))
        write_slicer_table(names, output / "instances" / "labels_slicer.ctbl", dict(table.colours))


def _record_dry(result: PredictResult, case: InputCase) -> None:
    if case.problem is None:
        result.skipped.append(case.name)
        result.planned[case.name] = [str(f) for f in case.files]
    else:
        result.fail(case.name, case.problem)

"""`nnUNetv2_spine_predict`: cases isolated, journal, verified resume."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_spine_ext.core.errors import Problem, SpineExtError
from nnunet_spine_ext.harmonize.harmonizer import read_harmonizer
from nnunet_spine_ext.inference.activation import soft_activation
from nnunet_spine_ext.inference.batch import (
    FULL_LIMIT,
    BatchResult,
    attempt,
    record,
    stopped,
    unexpected,
)
from nnunet_spine_ext.inference.cases import InputCase, find_cases
from nnunet_spine_ext.inference.folder import ModelFolder, find_model_folder, load_weights, open_model_folder
from nnunet_spine_ext.inference.gate import inspect_case
from nnunet_spine_ext.inference.harmonize import refuse_unharmonizable, unfinished
from nnunet_spine_ext.inference.harmonizing import harmonizer_folder
from nnunet_spine_ext.inference.journal import IntensityChanges, Journal, folder_lock, intensity_changes, is_finished
from nnunet_spine_ext.inference.matching import usable_reference
from nnunet_spine_ext.inference.model import label_scheme, predict_settings, refuse_what_is_not_predicted_here
from nnunet_spine_ext.inference.one_case import input_hashes, predict_case
from nnunet_spine_ext.inference.options import RunOptions, make_predictor, views_of
from nnunet_spine_ext.inference.phase_options import PhaseOptions, check_phases, phases_of
from nnunet_spine_ext.inference.phases import Phases
from nnunet_spine_ext.inference.preflight import (
    check_accumulate,
    check_adapt,
    check_crossing,
    check_output,
    check_parts,
    check_scheme,
    check_use,
    check_windows,
)
from nnunet_spine_ext.inference.results import (
    check_bids_names,
    discard_report,
    foreign_cases,
    foreign_warning,
    name_instances,
    tell_changes,
    write_run,
)
from nnunet_spine_ext.inference.settings import Adapt, Crop, Match, PredictSettings, Tta
from nnunet_spine_ext.inference.space import little_space, writing
from nnunet_spine_ext.inference.view_settings import Kind

if TYPE_CHECKING:
    from nnunet_spine_ext.core.device import Precision
    from nnunet_spine_ext.inference.preparation import Preparation

logger = logging.getLogger(__name__)


@dataclass
class PredictResult(BatchResult):
    """Outcome of a prediction; see `BatchResult`. `matching`: what it did to the cases of this run, if it was asked."""

    verb = ("predict", "predicted")
    rehearsal = "dry run: the checkpoints were not opened"

    matching: list[IntensityChanges] = field(default_factory=list)

    def render(self) -> str:
        """Return a text for the console."""
        *lines, counts = super().render().splitlines()
        if self.matching:
            total = self._matching()
            lines.append(
                f"matching, cases done now: {total['cases']} (noise reduced: {total['noise_reduced']}, intensities "
                f"matched: {total['matched']}, left as they are: {total['unchanged']})"
            )
        return "\n".join([*lines, counts])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return super().to_dict() | ({"matching": self._matching()} if self.matching else {})

    def _matching(self) -> dict[str, int]:
        return {
            "cases": len(self.matching),
            "noise_reduced": sum(one.noise_reduced for one in self.matching),
            "matched": sum(one.matched for one in self.matching),
            "unchanged": sum(not (one.noise_reduced or one.matched) for one in self.matching),
        }


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
    match: Match | None = None,
    harmonize_model: str | Path | None = None,
    tta: Tta = "mirror",
    views: Sequence[Kind] | None = None,
    all_views: bool = False,
    adapt: Adapt = "none",
    adapt_steps: int | None = None,
    uncertainty: bool = False,
    accumulate: Literal["single", "half"] = "single",
    crop: Crop | None = None,
    precision: Precision = "fp32",
    window_batch: int = 1,
    instances: bool = False,
    instance_model: str | Path | None = None,
    numbering: bool = False,
    numbering_model: str | Path | None = None,
    first_vertebra: str | None = None,
    enforce: bool = False,
    snapshots: bool = False,
    bids: bool = False,
    report: bool = False,
    resume: bool = False,
    strict: bool = False,
    prefer: Literal["sform", "qform"] | None = None,
    trust: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    dry_run: bool = False,
) -> PredictResult:
    """Predict images with a trained model; return the cases done, skipped, and failed, which leave nothing behind.

    Parameters
    ----------
    i: an image, a folder of images or a list of images. o: output folder (made if needed).
    m: model folder; or d, tr, p, c as in nnU-Net. f: folds (None: all that are there). chk: checkpoint name.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. accumulate: precision of sums; ``half`` is nnU-Net's.
    step_size: overlap of windows, as in nnU-Net. match: bring intensities to those of the training images first;
        harmonize_model: folder of the network by which ``cyclegan`` does that; None: as the plans say.
    tta: predict mirrored images too (``mirror``), or ones of other intensities and resolutions as well (``full``);
        views: of which kinds (None: as planned); all_views: all of them, even when further ones change nothing.
    adapt: train on each case first (``consistency``, ``tent``, or ``none``); adapt_steps: its steps (None: as planned).
    crop: ``on``, ``off`` or ``auto``, see `SpinePredictor`; None: as the model's plans say.
    precision: ``fp32`` as nnU-Net, ``bf16``, or ``auto``: that on x86 with it. window_batch: windows at once.
    instances: also separate vertebrae, discs and endplates. numbering: also say which is which; see `postprocess`.
    uncertainty: also maps of it. snapshots: a picture per case. bids: BIDS-derivatives as well. report: report.html.
    strict: geometry warnings are errors. prefer: which of two conflicting transforms to believe.
    resume: keep finished cases whose input, model, options and output bytes are unchanged.
    trust: load checkpoints that carry code. num_parts, part_id: predict every n-th case only (cluster arrays).
    dry_run: check model folder, input files and output, and predict nothing; the exit code is the one to expect.

    Raises
    ------
    UsageError, NoInputError, SetupError: nothing was started.
    """
    check_use(m, d, step_size)
    check_windows(crop, precision, window_batch, device)
    check_crossing(match, tta, adapt, views, full=all_views or uncertainty)
    check_parts(num_parts, part_id)
    model = _open_model(m, d, (tr, p, c), f, chk)
    of = (instance_model, numbering_model)
    asked = phases_of(instances, numbering, of, first_vertebra, enforce=enforce, snapshots=snapshots, bids=bids)
    how = *_checked_windows(model, crop, accumulate, precision, device), _checked_phases(model, asked)
    by, network = _checked_match(model, match, harmonize_model, adapt, adapt_steps)
    last = adapt_steps, views_of(model.plans, tta, views, accumulate, all_views), network
    options = RunOptions(step_size, tta, accumulate, strict, prefer, *how, by, adapt, uncertainty, *last)
    work = partial(_work, device=device, window_batch=window_batch, trust=trust, report=report)
    return _predict(model, options, i, o, (part_id, num_parts), None if dry_run else work, resume=resume, report=report)


def _open_model(
    m: str | Path | None, d: str | None, names: tuple[str, str, str], f: Sequence[str] | None, chk: str
) -> ModelFolder:
    """Find a model by its folder, or by dataset, trainer, plans and configuration; raises SetupError."""
    folder = find_model_folder(None if m is None else str(m), d, *names)
    model = open_model_folder(folder, tuple(f) if f else None, chk)
    # nnU-Net names a model's folder <trainer>__<plans>__<configuration>; a renamed one is looked at when it is loaded.
    refuse_what_is_not_predicted_here(model.plans, model.folder.name.rpartition("__")[2])
    return model


def _predict(
    model: ModelFolder,
    options: RunOptions,
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    part: tuple[int, int],
    work: Callable[..., None] | None,
    *,
    resume: bool,
    report: bool,
) -> PredictResult:
    """Find the cases and do them; without `work`, rehearse."""
    i = i[0] if isinstance(i, Sequence) and not isinstance(i, str) and len(i) == 1 else i
    output = check_output(Path(o), i)
    everything = find_cases(i, model.channels)
    cases = everything[part[0] :: part[1]]
    title = f"{len(cases)} cases, model {model.folder.name}, fold {', '.join(model.folds)}, {options.precision}"
    result = PredictResult(title=title, folder=output, dry_run=work is None)
    journal = Journal(output).read()
    run = _Run(model, options, options.fingerprint(model), journal if resume else {}, result)
    if resume:
        tell_changes(output, options.to_dict(), model.digest)
    names = [case.name for case in everything]
    foreign = foreign_cases(output, names, journal, run.fingerprint)
    check_bids_names(output, names, foreign, asked=options.phases.bids)
    result.notes += _notes(run, cases, foreign, resume=resume, report=report)
    if work is None:
        _rehearse(run, cases)
    else:
        work(run, cases, i, foreign, part)
    return result


def _checked_windows(
    model: ModelFolder, crop: Crop | None, accumulate: str, precision: Precision, device: str
) -> tuple[Crop, Precision]:
    """Return the crop mode in force and what ``auto`` means on this device; raises UsageError for what cannot be."""
    chosen = crop or (predict_settings(model.plans) or PredictSettings()).crop
    check_accumulate(accumulate, chosen, soft=soft_activation(model.plans) is not None)
    if precision == "auto":
        # Only this needs PyTorch, which a rehearsal does without.
        from nnunet_spine_ext.networks.precision import computed_precision

        # A run on a device of another kind is not gone on with.
        precision = computed_precision(precision, device)
    return chosen, precision


def _checked_match(
    model: ModelFolder, match: Match | None, harmonizer: str | Path | None, adapt: Adapt, adapt_steps: int | None
) -> tuple[Match, str | None]:
    """Return the matching in force and the folder of its network, if it has one.

    Raises UsageError or SetupError for what cannot be, of test-time training too.
    """
    check_adapt(model.plans, adapt, adapt_steps)
    chosen = match or (predict_settings(model.plans) or PredictSettings()).match
    folder = harmonizer_folder(model.plans, model.dataset_json, chosen, harmonizer, str(model.folder))
    if folder is None:
        usable_reference(model.plans, model.dataset_json, model.folds, chosen, str(model.folder))
    return chosen, folder


def _checked_phases(model: ModelFolder, asked: PhaseOptions) -> PhaseOptions:
    """Return the phases with what they need of each other; raises UsageError or SetupError for what cannot work.

    Where a phase is asked for without a model, it takes the one that the plans name, if they do.
    """
    planned = predict_settings(model.plans) or PredictSettings()
    phases = asked.completed()
    if phases.instances and phases.instance_model is None:
        phases = replace(phases, instance_model=planned.instance_model)
    if phases.numbering and phases.numbering_model is None:
        phases = replace(phases, numbering_model=planned.numbering_model)
    if phases.instances:
        check_scheme(label_scheme(model.plans), model.folder)
        check_phases(phases, label_scheme(model.plans))
    return phases


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
    harmonizer = run.options.harmonize_model
    notes = (
        foreign_warning(output, mixed),
        None if harmonizer is None else unfinished(read_harmonizer(harmonizer), harmonizer),
        little_space(
            output,
            cases,
            instances=run.options.phases.instances,
            report=report,
            soft=(len(run.model.labels) if soft_activation(run.model.plans) else 0) + 2 * run.options.uncertainty,
        ),
    )
    return [note for note in notes if note is not None]


def _work(
    run: _Run,
    cases: Sequence[InputCase],
    source: Any,
    foreign: Mapping[str, list[str]],
    part: tuple[int, int],
    *,
    device: str,
    window_batch: int,
    trust: bool,
    report: bool,
) -> None:
    """Load the network, predict all cases into the locked folder and write the report."""
    from nnunet_spine_ext.inference.preparation import preparation_of

    result, output = run.result, run.result.folder
    for note in result.notes:
        logger.warning("%s", note)
    model = load_weights(run.model, trust=trust)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with folder_lock(output, part=part):
        predictor = make_predictor(model, run.options, device, window_batch=window_batch, trust=trust)
        phases = Phases(run.options.phases, label_scheme(model.plans), str(predictor.device))
        phases.load()
        prepare = preparation_of(predictor, model.folds, run.options, str(model.folder))
        with writing(output):
            discard_report(output)
            options = run.options.to_dict() | {"device": str(predictor.device)}
            write_run(output, model, options, source, foreign, run.options.models())
        _run_cases(run, cases, prepare, phases)
        if run.options.phases.instances and result.stopped is None:
            with writing(output):
                name_instances(output)
    if report and (result.done or result.skipped) and result.stopped is None:
        from nnunet_spine_ext.report.build import report as build_report

        with writing(output):
            build_report(output)


def _run_cases(run: _Run, cases: Sequence[InputCase], prepare: Preparation, phases: Phases) -> None:
    from tqdm import tqdm

    result, output = run.result, run.result.folder
    journal = Journal(output)
    full = 0
    for number, case in enumerate(tqdm(cases, desc="cases", disable=None)):
        made = attempt(
            case.name,
            output,
            run.fingerprint,
            inputs=partial(input_hashes, case),
            finished=partial(run.finished, case),
            work=partial(predict_case, case, output, run.options, prepare, phases),
            source=str(case.files[0]),
        )
        record(made, result, journal)
        changes = intensity_changes(made.entry)
        if changes is not None and run.options.match != "none":
            result.matching.append(changes)
        full += made.full
        if full == FULL_LIMIT:
            result.stopped = stopped(output, full, len(cases) - number - 1)
            return


def _rehearse(run: _Run, cases: Sequence[InputCase]) -> None:
    """Look at every case as the run would, and record which would be predicted, are finished, or would fail."""
    from tqdm import tqdm

    for case in tqdm(cases, desc="cases", disable=None):
        try:
            if case.name in run.earlier and run.finished(case, input_hashes(case)):
                run.result.skipped.append(case.name)
                continue
            warnings, _ = inspect_case(case, strict=run.options.strict, prefer=run.options.prefer)
            if run.options.harmonize_model is not None:
                refuse_unharmonizable(case.files[0], run.options.prefer)
        except SpineExtError as error:
            run.result.fail(case.name, error.problem())
        except Exception as error:
            run.result.fail(case.name, unexpected(case.name, str(case.files[0]), error))
        else:
            run.result.planned[case.name] = [str(f) for f in case.files]
            run.result.warn(case.name, *warnings)

"""`nnUNetv2_spine_harmonize apply`: volumes made to look like those of a target scanner; cases isolated, resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nnunet_spine_ext import __version__
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.config import load_config, set_by_path, to_dict
from nnunet_spine_ext.core.device import check_device_name, choose_device
from nnunet_spine_ext.core.errors import Problem, SpineExtError
from nnunet_spine_ext.core.io import sha256, write_bytes, write_json, write_volume
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.geometry_gate import GateSettings
from nnunet_spine_ext.harmonize.harmonizer import MODEL_FILE, HarmonizerModel, load_harmonizer, read_harmonizer
from nnunet_spine_ext.harmonize.progress import paced
from nnunet_spine_ext.harmonize.volumes import HarmonizedVolume, harmonize_volume, refuse_unfit
from nnunet_spine_ext.inference.batch import FULL_LIMIT, BatchResult, Done, attempt, record, stopped, unexpected
from nnunet_spine_ext.inference.cases import InputCase, find_images
from nnunet_spine_ext.inference.journal import RUN, Journal, folder_lock, hash_of, is_finished
from nnunet_spine_ext.inference.phases import qc_file, snapshot_file
from nnunet_spine_ext.inference.preflight import check_output
from nnunet_spine_ext.inference.results import foreign_cases, foreign_warning
from nnunet_spine_ext.inference.space import writing

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.harmonize.harmonizer import Harmonizer
    from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter

logger = logging.getLogger(__name__)
_PACKAGES = ("torch", "numpy", "nibabel")


@dataclass
class HarmonizeResult(BatchResult):
    """Outcome of a run; see `BatchResult`. `slices`: how many passed the gate, of how many in the scans of this run."""

    verb: ClassVar[tuple[str, str]] = ("harmonize", "harmonized")
    rehearsal: ClassVar[str] = "dry run: the harmonizer was not applied"

    slices: tuple[int, int] = (0, 0)

    def render(self) -> str:
        """Return a text for the console."""
        *lines, counts = super().render().splitlines()
        passed, total = self.slices
        if total:
            rest = ", the others are as they were" if passed < total else ""
            lines.append(f"{passed} of {total} slices harmonized{rest}")
        return "\n".join([*lines, counts])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return super().to_dict() | {"slices": {"harmonized": self.slices[0], "of": self.slices[1]}}


def apply(
    i: str | Path | Sequence[str | Path],
    o: str | Path,
    *,
    m: str | Path,
    segmenter: str | Path | None = None,
    assignments: Sequence[str] = (),
    device: str = "auto",
    snapshots: bool = False,
    resume: bool = False,
    strict: bool = False,
    prefer: Literal["sform", "qform"] | None = None,
    dry_run: bool = False,
) -> HarmonizeResult:
    """Make volumes look like those of the scanner that a harmonizer was trained for.

    Each result has the name of its scan (``_0000`` included, so that nnU-Net takes the folder as it is), and the same
    grid, affine and orientation; slices that the geometry gate does not pass are those of the scan, and so are all of
    them where too few pass.

    Parameters
    ----------
    i: an image, a folder of images or a list of images. o: output folder (made if needed).
    m: folder of a harmonizer. segmenter: folder of a segmenter of discs or of a 2-D model of nnU-Net, for the gate.
    assignments: limits of the gate, such as ``weakest=0.7``; see `GateSettings`.
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. snapshots: a picture per case.
    resume: keep finished cases whose input, models, options and output bytes are unchanged.
    strict: warnings about files are errors. prefer: which of two conflicting transforms to believe.
    dry_run: read every file, write nothing; the exit code is the one to expect.

    Raises
    ------
    UsageError, NoInputError, SetupError: nothing was started.
    """
    check_device_name(device)
    gate = gate_of(assignments)
    model = read_harmonizer(m)
    i = i[0] if isinstance(i, Sequence) and not isinstance(i, str) and len(i) == 1 else i
    output = check_output(Path(o), i, images=True)
    # Channels are files of their own here, so names keep their numbers.
    cases = find_images(i)
    options = {"gate": to_dict(gate), "strict": strict, "prefer": prefer, "snapshots": snapshots}
    models = {"harmonizer": harmonizer_digest(m)}
    chosen = choose_device(device)
    judge = None
    if segmenter is not None:
        judge = load_judge(segmenter, model, chosen)
        models["segmenter"] = judge.digest
    content = json.dumps([options, models, __version__], sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
    title = f"{len(cases)} images, {model.method} towards {', '.join(model.target)}"
    result = HarmonizeResult(title=title, folder=output, dry_run=dry_run)
    journal = Journal(output).read()
    foreign = foreign_cases(output, [case.name for case in cases], journal, fingerprint)
    mixed = {kind: names for kind, names in foreign.items() if not (resume and kind == "same_settings")}
    notes = (foreign_warning(output, mixed, what="images"), unfinished(model, m))
    result.notes += [note for note in notes if note is not None]
    run = _Run(cases, output, fingerprint, journal if resume else {}, gate, snapshots, strict, prefer, result)
    if dry_run:
        _rehearse(run)
        return result
    facts = {"harmonizer": _described(model, m, models["harmonizer"]), "segmenter": models.get("segmenter")}
    _work(run, load_harmonizer(m, chosen), judge, chosen, facts | {"options": options, "foreign": foreign}, i)
    return result


def gate_of(assignments: Sequence[str]) -> GateSettings:
    """Return limits with some of them changed by ``key=value``; raises UsageError for what is none."""
    chosen: dict[str, Any] = {}
    for assignment in assignments:
        set_by_path(chosen, assignment)
    return load_config(GateSettings, chosen, where="--set")


def harmonizer_digest(folder: str | Path) -> str:
    """Return what stands for the content of a harmonizer: its description holds the hashes of its files."""
    return sha256(Path(folder) / MODEL_FILE)


def harmonizer_facts(folder: str | Path) -> dict[str, str]:
    """Return name and digest of a harmonizer, for the record of a run."""
    return {"folder": Path(folder).resolve().name, "sha256": harmonizer_digest(folder)}


def load_judge(folder: str | Path, model: HarmonizerModel, device: torch.device) -> SliceSegmenter:
    """Load a segmenter for the slices of a harmonizer; raises SetupError for what is none."""
    from nnunet_spine_ext.inference.slice_segmenter import load_slice_segmenter

    spacing = model.slices.spacing if model.slices.fit == "crop" else None
    return load_slice_segmenter(folder, device, spacing=spacing)


def unfinished(model: HarmonizerModel, folder: str | Path) -> Problem | None:
    """Return the warning about a harmonizer whose training was interrupted."""
    if model.complete:
        return None
    found = f"a harmonizer after {model.epochs[0]} of {model.epochs[1]} epochs"
    fix = "finish its training with --resume"
    return Problem("warning", "W-HARMONIZE-UNFINISHED", str(folder), found, "one whose training is finished", fix)


def refuse_unharmonizable(file: Path, prefer: Literal["sform", "qform"] | None = None) -> None:
    """Raise CaseError for a file, known to be readable, whose slices a harmonizer cannot know; see `refuse_unfit`."""
    volume = open_image(file, prefer=prefer).volume
    if volume is not None:
        refuse_unfit(volume, str(file))


def gate_warning(found: HarmonizedVolume, file: str) -> Problem | None:
    """Return the warning about slices that the gate did not pass, or the scan left alone for them; None for no such."""
    failed = found.failed
    if not failed:
        return None
    first = f"{len(failed)} of {len(found.rows)} slices that the geometry gate did not pass"
    places = shorten([f"{row.index} ({row.why})" for row in failed], 3)
    if found.refused is not None:
        return Problem(
            "warning",
            "W-HARMONIZE-VOLUME",
            file,
            f"{refusal(found)}: {places}",
            "a share of at least min_passed",
            "the whole scan is as it was; look at it, or set min_passed lower",
        )
    fix = "nothing was harmonized" if found.skipped else "they are as they were"
    return Problem(
        "warning",
        "W-HARMONIZE-GATE",
        file,
        f"{first}: {places}",
        "slices that keep their anatomy",
        f"{fix}; look at it",
    )


def refusal(found: HarmonizedVolume) -> str:
    """Return in words how many slices of a scan passed, where that was too few."""
    passed, judged = found.refused or (0, 0)
    return f"{passed} of {judged} slices that passed the geometry gate"


@dataclass(frozen=True)
class _Run:
    """What the cases of a run have in common; `earlier` is the journal of the run that is resumed."""

    cases: Sequence[InputCase]
    output: Path
    fingerprint: str
    earlier: Mapping[str, Any]
    gate: GateSettings
    snapshots: bool
    strict: bool
    prefer: Literal["sform", "qform"] | None
    result: HarmonizeResult

    def hashes(self, case: InputCase) -> list[dict[str, str]]:
        """Return name and hash of the file of a case."""
        return [{"file": file.name, "sha256": hash_of(file)} for file in case.files]

    def finished(self, case: InputCase, hashes: list[dict[str, str]]) -> bool:
        """Whether an earlier run did a case, with the same input, models and options."""
        return is_finished(self.earlier.get(case.name), self.output / f"{case.name}.nii.gz", hashes, self.fingerprint)

    def opened(self, case: InputCase) -> tuple[Volume, list[Problem]]:
        """Return the scan and warnings about its file; raises CaseError for one that cannot be used."""
        opened = open_image(case.files[0], strict=self.strict, prefer=self.prefer)
        opened.facts.raise_errors()
        if opened.volume is None:
            raise opened.facts.errors[0].to_error()
        return opened.volume, list(opened.facts.problems)


def _work(
    run: _Run,
    harmonizer: Harmonizer,
    segmenter: SliceSegmenter | None,
    device: torch.device,
    facts: Mapping[str, Any],
    source: str | Path | Sequence[str | Path],
) -> None:
    result, output = run.result, run.output
    for note in result.notes:
        logger.warning("%s", note)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with folder_lock(output):
        with writing(output):
            write_json(output / RUN, _run_facts(source, device) | dict(facts))
        journal, full = Journal(output), 0
        for number, case in enumerate(paced(run.cases, "harmonizing", len(run.cases), units="scans")):
            made = attempt(
                case.name,
                output,
                run.fingerprint,
                inputs=partial(run.hashes, case),
                finished=partial(run.finished, case),
                work=partial(_one, case, run, harmonizer, segmenter, device),
                source=str(case.files[0]),
            )
            record(made, result, journal)
            if facts_of_case := made.entry.get("harmonization"):
                passed, total = result.slices
                result.slices = (passed + facts_of_case["harmonized"], total + facts_of_case["slices"])
            full += made.full
            if full == FULL_LIMIT:
                result.stopped = stopped(output, full, len(run.cases) - number - 1)
                return


def _one(
    case: InputCase, run: _Run, harmonizer: Harmonizer, segmenter: SliceSegmenter | None, device: torch.device
) -> Done:
    """Harmonize one image and write what comes of it."""
    scan, warnings = run.opened(case)
    file = str(case.files[0])
    found = harmonize_volume(scan, harmonizer, run.gate, segmenter, device=device, file=file)
    warning = gate_warning(found, file)
    warnings += [] if warning is None else [warning]
    write_json(qc_file(run.output, case.name), {"harmonization": {"method": harmonizer.method} | found.to_dict()})
    if run.snapshots:
        from nnunet_spine_ext.render.before_after import before_after
        from nnunet_spine_ext.render.png import encode_png

        notes = {row.index: "not harmonized" for row in found.rows if not row.passed}
        picture = before_after(scan, found.volume, notes=notes)
        write_bytes(snapshot_file(run.output, case.name), encode_png(picture))
    # Last: under its name the case is complete.
    write_volume(found.volume, run.output / f"{case.name}.nii.gz")
    return Done(warnings, {"harmonization": {"method": harmonizer.method} | found.summary()})


def _rehearse(run: _Run) -> None:
    """Read every file as the run would, and record which cases would be done, are finished, or would fail."""
    for case in paced(run.cases, "reading scans", len(run.cases), units="scans"):
        try:
            if case.name in run.earlier and run.finished(case, run.hashes(case)):
                run.result.skipped.append(case.name)
                continue
            scan, warnings = run.opened(case)
            refuse_unfit(scan, str(case.files[0]))
        except SpineExtError as error:
            run.result.fail(case.name, error.problem())
        except Exception as error:
            run.result.fail(case.name, unexpected(case.name, str(case.files[0]), error))
        else:
            run.result.planned[case.name] = [str(file) for file in case.files]
            run.result.warn(case.name, *warnings)


def _described(model: HarmonizerModel, folder: str | Path, digest: str) -> dict[str, Any]:
    return {
        "name": Path(folder).resolve().name,
        "method": model.method,
        "target": list(model.target),
        "sources": list(model.sources),
        "epochs": list(model.epochs),
        "sha256": digest,
    }


def _run_facts(source: str | Path | Sequence[str | Path], device: torch.device) -> dict[str, Any]:
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    places = [str(Path(s).resolve()) for s in sources]
    return {
        "nnunet_spine_ext": __version__,
        "versions": {package: version(package) for package in _PACKAGES},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": str(device),
        "input": places[0] if isinstance(source, (str, Path)) else places,
    }

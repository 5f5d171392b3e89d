"""Scans that matching leaves alone: their results come from the twin, the strategy without matching."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import sha256, write_bytes
from nnunet_spine_ext.harmonize.contrast import contrast_of
from nnunet_spine_ext.inference.journal import Journal, folder_lock
from nnunet_spine_ext.inference.matching import match_case, quieted_case, usable_reference
from nnunet_spine_ext.inference.model import reader_reorients
from nnunet_spine_ext.inference.one_case import note_facts
from nnunet_spine_ext.inference.phases import qc_file
from nnunet_spine_ext.inference.reading import read_case
from nnunet_spine_ext.inference.results import discard, name_instances, outputs
from nnunet_spine_ext.inference.space import writing
from nnunet_spine_ext.study.index import StudyCase

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.folder import ModelFolder
    from nnunet_spine_ext.inference.predict import PredictResult
    from nnunet_spine_ext.inference.settings import Match

logger = logging.getLogger(__name__)
TAKEN = "taken_from"
"""Key of a journal entry that was taken over: the strategy that predicted the case."""

Call = Callable[..., "PredictResult"]


def images_of_cases(study: Path, cases: Sequence[StudyCase]) -> list[Path]:
    """Return the files of all channels of all cases."""
    return [study / image for case in cases for image in case.images]


def finished(call: Call, study: Path, folder: Path, cases: Sequence[StudyCase]) -> set[str]:
    """Return the cases that a prediction need not do again: same input, model and options, every file as written.

    `call`: `predict` with everything but the images, the folder and what makes it a rehearsal.
    """
    journal = Journal(folder).read()
    done = [case for case in cases if journal.get(case.case, {}).get("status") == "done"]
    if not done:
        return set()
    return set(call(images_of_cases(study, done), folder, resume=True, dry_run=True).skipped)


def left_alone(cases: Sequence[StudyCase], study: Path, model: ModelFolder, method: Match) -> dict[str, dict[str, Any]]:
    """Return the cases that matching does not touch, each with what a prediction would note about its intensities.

    Scans that matching warns about are not among them: the warning belongs to the prediction.

    Raises
    ------
    UsageError, SetupError: a model that cannot be matched to.
    """
    reference = usable_reference(model.plans, model.dataset_json, model.folds, method, str(model.folder))
    if reference is None:
        return {}
    reorient = reader_reorients(model.plans)
    found = {}
    for case in cases:
        files = images_of_cases(study, [case])
        try:
            data, properties = read_case(files, reorient=reorient)
            contrast = contrast_of(files[0], reference.contrast, len(data))
            quiet = quieted_case(data, properties, reference, reduce=False, contrast=contrast, file=str(files[0]))
            if any(channel.noisy for channel in quiet):
                continue
            # As in prediction: whether an anchored scan is left alone is decided by its body.
            by: Match = "body" if method == "anchored" else method
            matched = match_case(data, properties, reference, by, quiet=quiet, contrast=contrast, file=str(files[0]))
        except SpineExtError as error:
            # Prediction says what is wrong with it, and goes on with the others.
            logger.debug("%s: %s", case.case, error)
            continue
        if matched.skipped and not matched.warnings:
            found[case.case] = {**matched.facts, "method": method}
    return found


def make_room(folder: Path, cases: Mapping[str, Any]) -> None:
    """Remove what a folder has of cases that will be taken over: a prediction of the others would call it foreign.

    Raises
    ------
    SetupError: the folder cannot be written, or somebody predicts into it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder):
            for case in cases:
                discard(folder, case)


def take_over(folder: Path, twin: Path, cases: Mapping[str, Mapping[str, Any]], *, instances: bool) -> None:
    """Copy results and journal entries of the twin's folder, with what is noted about intensities in place of its own.

    Parameters
    ----------
    cases: from `left_alone`. instances: whether there are instances, whose table of names has to know them.

    Raises
    ------
    SetupError: the folder cannot be written, or somebody predicts into it.
    """
    if not cases:
        return
    entries = Journal(twin).read()
    journal = Journal(folder)
    with writing(folder), folder_lock(folder):
        for case, facts in cases.items():
            # The mask goes last: under its name the case is complete.
            for file in reversed(outputs(twin, case)):
                write_bytes(folder / file.relative_to(twin), file.read_bytes())
                if file == qc_file(twin, case):
                    note_facts(qc_file(folder, case), {"intensity": facts})
            hashes = {file.relative_to(folder).as_posix(): sha256(file) for file in outputs(folder, case)}
            journal.append(entries[case] | {"intensity": facts, "outputs": hashes, TAKEN: twin.name})
        if instances:
            name_instances(folder)

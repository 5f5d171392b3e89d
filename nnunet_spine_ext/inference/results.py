"""What a run leaves in its output folder: the files of a case, files of others, and the record of the run."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.io import read_json, strip_suffix, write_json
from nnunet_spine_ext.core.labels import (
    DISC_OFFSET,
    colours_for,
    scheme,
    write_itksnap_labels,
    write_slicer_table,
)
from nnunet_spine_ext.inference.activation import soft_activation
from nnunet_spine_ext.inference.bids import FOLDER, refuse_equal_names, write_description
from nnunet_spine_ext.inference.folder import TrainedModel
from nnunet_spine_ext.inference.journal import RUN
from nnunet_spine_ext.inference.model import label_scheme
from nnunet_spine_ext.inference.phases import phase_files
from nnunet_spine_ext.inference.support import support_mm
from nnunet_spine_ext.measure.numbered import is_numbered
from nnunet_spine_ext.report.naming import FIRST_SACRAL, instance_naming

logger = logging.getLogger(__name__)
_PACKAGES = ("nnunetv2", "torch", "numpy", "nibabel")
# Where masks of a case that is not of this run come from.
_KINDS = {
    "same_settings": "of an earlier run with this model and these options",
    "other_settings": "of an earlier run with another model or other options",
    "unknown": "that the journal does not know",
}
_SHOWN = 5


def soft_file(folder: Path, case: str) -> Path:
    """Return where the soft maps of a case are written: float32, 3-D for one class, else 4-D (i, j, k, class)."""
    return folder / "soft" / f"{case}.nii.gz"


def uncertainty_file(folder: Path, case: str) -> Path:
    """Return where the maps of uncertainty of a case are written: float32, 4-D (i, j, k, map)."""
    return folder / "uncertainty" / f"{case}.nii.gz"


def outputs(folder: Path, case: str) -> list[Path]:
    """Return the files of a case that are there, the mask first."""
    files = (
        folder / f"{case}.nii.gz",
        soft_file(folder, case),
        uncertainty_file(folder, case),
        *phase_files(folder, case),
    )
    return [f for f in files if f.is_file()]


def discard(folder: Path, case: str) -> None:
    """Remove what an earlier run left of a case: old masks must not pass for new ones."""
    for file in outputs(folder, case):
        file.unlink()


def discard_report(folder: Path) -> None:
    """Remove the report of an earlier run, which would show what is no more; say so."""
    report = folder / "report.html"
    if report.is_file():
        report.unlink()
        logger.info("%s: removed, it was of an earlier run; --report or nnUNetv2_spine_report makes a new one", report)


def foreign_cases(
    folder: Path, own: Collection[str], journal: Mapping[str, Mapping[str, Any]], fingerprint: str
) -> dict[str, list[str]]:
    """Return the cases whose masks lie in the folder without being of this run, by where they come from.

    The keys are ``same_settings`` and ``other_settings`` for masks of earlier runs, as the journal tells them, and
    ``unknown``; kinds without a case are left out. Nothing of them is ever deleted.
    """
    places = (folder, folder / "soft", folder / "instances")
    masks = sorted({strip_suffix(f) for place in places for f in place.glob("*.nii.gz")})
    found: dict[str, list[str]] = {}
    for case in masks:
        if case in own:
            continue
        entry = journal.get(case, {})
        done = entry.get("status") == "done"
        same = entry.get("fingerprint") == fingerprint
        kind = "unknown" if not done else "same_settings" if same else "other_settings"
        found.setdefault(kind, []).append(case)
    return {kind: found[kind] for kind in _KINDS if kind in found}


def check_bids_names(
    folder: Path, own: Collection[str], foreign: Mapping[str, Collection[str]], *, asked: bool
) -> None:
    """Raise UsageError when a case has the BIDS names of another one, of this run or of an earlier one in the folder.

    Without ``--bids`` it matters where an earlier run has written such names: what a case has left is removed first.
    """
    if asked or (folder / FOLDER).is_dir():
        refuse_equal_names([*own, *(case for cases in foreign.values() for case in cases)])


def foreign_warning(folder: Path, foreign: Mapping[str, list[str]], *, what: str = "masks") -> Problem | None:
    """Return the warning that names results of other runs, and `what` they are; None if there is none."""
    if not foreign:
        return None
    parts = []
    for kind, cases in foreign.items():
        more = f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
        parts.append(f"{len(cases)} {_KINDS[kind]}: {', '.join(cases[:_SHOWN])}{more}")
    return Problem(
        "warning",
        "W-OUT-FOREIGN",
        str(folder),
        f"{what} that are not of this run ({'; '.join(parts)})",
        "a folder with the results of one input",
        'they stay, and run.json lists them under "foreign"; remove them, or choose another -o',
    )


def tell_changes(folder: Path, options: Mapping[str, Any], digest: str) -> None:
    """Log what of options and model differs from the last run in a folder, as its run.json tells it."""
    try:
        earlier = dict(read_json(folder / RUN))
        before, model = dict(earlier["options"]), dict(earlier["model"])["sha256"]
    except (CaseError, ValueError, KeyError, TypeError):
        return  # no run, or one whose record is lost: the cases are looked at one by one anyway
    now = json.loads(json.dumps(options))
    changes = [f"{key} {before[key]} -> {now[key]}" for key in now if key in before and before[key] != now[key]]
    if earlier.get("nnunet_spine_ext") != __version__:
        changes.append(f"nnunet_spine_ext {earlier.get('nnunet_spine_ext')} -> {__version__}")
    if model != digest:
        changes.append("another model, or folds, or plans")
    if changes:
        logger.info("%s: other than in the last run: %s", folder, "; ".join(changes))


def write_mask_run(
    folder: Path,
    scheme_name: str,
    options: Mapping[str, Any],
    sources: Mapping[str, Any],
    foreign: Mapping[str, list[str]],
    dataset_json: Mapping[str, Any] | None,
    phase_models: Mapping[str, Any],
) -> None:
    """Write what a reader of post-processed masks needs: the run's facts, a dataset.json and label tables.

    Parameters
    ----------
    sources: where masks, images and other companions were, None for what was not given.
    dataset_json: that of the masks, whose names of classes are kept; None: those of the scheme.
    phase_models: the networks of the phases, see `PhaseOptions.models`.
    """
    table = scheme(scheme_name)
    own = {"labels": {"background": 0} | {name: key for key, name in table.labels.items()}, "file_ending": ".nii.gz"}
    content = dict(dataset_json or own)
    sided = [list(pair) for pair in table.sided_pairs]
    content["spine_ext"] = {"version": 1, "scheme": scheme_name, "sided_labels": sided}
    labels = {v: str(k) for k, v in content["labels"].items() if isinstance(v, int) and v > 0 and k != "ignore"}
    facts = _facts(options, labels, scheme_name, foreign) | dict(sources) | {"phase_models": dict(phase_models)}
    write_json(folder / RUN, facts)
    write_json(folder / "dataset.json", content)
    _write_tables(folder, labels, colours_for(labels, scheme_name))
    _write_instance_tables(folder, options)


def write_run(
    folder: Path,
    model: TrainedModel,
    options: Mapping[str, Any],
    source: Any,
    foreign: Mapping[str, list[str]],
    phase_models: Mapping[str, Any],
) -> None:
    """Write what a reader of the results needs: the run's facts, nnU-Net's dataset.json and label tables."""
    name = label_scheme(model.plans)
    activation = soft_activation(model.plans)
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    places = [str(Path(s).resolve()) for s in sources]
    facts = _facts(options, model.labels, name, foreign) | {
        "model": {
            "name": model.folder.name,
            "dataset": model.folder.parent.name,
            "trainer": model.trainer_name,
            "folds": list(model.folds),
            "checkpoint": model.checkpoint,
            "sha256": model.digest,
        },
        "phase_models": dict(phase_models),
        "input": places[0] if isinstance(source, (str, Path)) else places,
        # Volumes of a 4-D soft map follow the ids of the classes.
        "soft": None
        if activation is None
        else asdict(activation) | {"support_mm": support_mm(model.plans), "classes": list(model.labels.values())},
    }
    write_json(folder / RUN, facts)
    write_json(folder / "dataset.json", model.dataset_json)
    _write_tables(folder, model.labels, colours_for(model.labels, name))
    _write_instance_tables(folder, options)


def _facts(
    options: Mapping[str, Any], labels: Mapping[int, str], scheme_name: str, foreign: Mapping[str, list[str]]
) -> dict[str, Any]:
    return {
        "nnunet_spine_ext": __version__,
        "versions": {package: version(package) for package in _PACKAGES},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "options": dict(options),
        "labels": {str(k): v for k, v in labels.items()},
        "scheme": scheme_name,
        "foreign": dict(foreign),
    }


def _write_instance_tables(folder: Path, options: Mapping[str, Any]) -> None:
    """Write names and colours of instances, and what BIDS asks for beside them."""
    if options["instances"]:
        # Before the first case: which ones get levels is not known yet.
        _name_instances(folder, {False, bool(options["numbering"])})
    if options["bids"]:
        write_description(folder)


def name_instances(folder: Path) -> None:
    """Name the instance ids in the label tables as those of the cases in the folder are, once these are done.

    Where all cases are numbered the names are levels, where none is places from the top; else both.
    """
    cases = [strip_suffix(file) for file in (folder / "instances").glob("*.nii.gz") if not file.name.startswith(".")]
    if cases:
        _name_instances(folder, {is_numbered(folder, case) for case in cases})


def _name_instances(folder: Path, numbered: Collection[bool]) -> None:
    naming = instance_naming(numbered=True in numbered)
    names = dict(naming.labels)
    if len(numbered) > 1:
        places = instance_naming(numbered=False).labels
        names |= {
            key: f"{names[key]} ({place} where not numbered)"
            for key, place in places.items()
            if key % DISC_OFFSET < FIRST_SACRAL
        }
    _write_tables(folder / "instances", names, dict(naming.colours))


def _write_tables(folder: Path, names: dict[int, str], colours: Any) -> None:
    write_itksnap_labels(names, folder / "labels_itksnap.txt", colours)
    write_slicer_table(names, folder / "labels_slicer.ctbl", colours)

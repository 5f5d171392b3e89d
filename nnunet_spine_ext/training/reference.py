"""`nnUNetv2_spine_reference`: an intensity reference for a model that was trained without one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    CaseError,
    NoInputError,
    Problem,
    SetupError,
    SpineExtError,
    UsageError,
)
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, read_json, read_volume, write_json
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.harmonize.contrast import contrast_of, says_ct, told
from nnunet_spine_ext.harmonize.curves import CaseFacts
from nnunet_spine_ext.harmonize.matching import is_ct
from nnunet_spine_ext.harmonize.reference import (
    REFERENCE_VERSION,
    average_curves,
    facts_of_case,
    reference_of,
)
from nnunet_spine_ext.harmonize.structures import structures_of
from nnunet_spine_ext.inference.cases import InputCase, find_cases
from nnunet_spine_ext.inference.gate import inspect_case
from nnunet_spine_ext.inference.matching import has_ct
from nnunet_spine_ext.inference.model import label_scheme
from nnunet_spine_ext.training.settings import SETTINGS_VERSION

logger = logging.getLogger(__name__)
# In place of a fold's number: what was given instead of found in training holds for all folds.
GIVEN = "given"


@dataclass
class ReferenceResult:
    """The reference that was written, what it was made of and what could not be used."""

    path: Path
    reference: dict[str, Any]
    failed: dict[str, SpineExtError] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    written: bool = True

    @property
    def exit_code(self) -> int:
        """0, or 3 when some cases failed."""
        return EXIT_SOME_FAILED if self.failed else EXIT_OK

    def render(self) -> str:
        """Return a text for the console."""
        cases = f"{self.reference['cases']} case(s)"
        lines = [f"{'wrote' if self.written else 'would write'} the reference of {cases} into {self.path}"]
        for number, channel in enumerate(self.reference["channels"]):
            names = [f"{name} ({row['cases']})" for name, row in channel["structures"].items()]
            bar = "no limit (one case)" if channel["limit"] is None else f"in distribution up to {channel['limit']:.3f}"
            quiet = "noise not known" if channel["noise"] is None else f"noise up to {channel['noise_limit']:.3f}"
            lines.append(f"  channel {number}: body {channel['low']:g} to {channel['high']:g}, {bar}, {quiet}")
            lines.append(f"    structures: {', '.join(names) if names else 'none; anchored matching needs some'}")
        lines += [f"warning: {problem}" for problem in self.warnings]
        lines += [f"failed: {case}: {error}" for case, error in self.failed.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "path": str(self.path),
            "written": self.written,
            "reference": self.reference,
            "failed": {case: error.problem().to_dict() for case, error in self.failed.items()},
            "warnings": [problem.to_dict() for problem in self.warnings],
        }


def reference(
    m: str,
    i: str,
    *,
    labels: str | None = None,
    contrast: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> ReferenceResult:
    """Write the intensity reference of a set of images into a trained model's plans.

    The images are those that the model was trained on, or others of the same scanner and contrast. A stock model's
    plans get the reference and nothing else: stock commands go on as before.

    Parameters
    ----------
    m: folder of the model.
    i: folder with the images, one file per channel and case, such as imagesTr.
    labels: folder with masks in the classes of the model, ``<case>.nii.gz``, such as labelsTr: what ``anchored`` needs.
    contrast: of the images; default: what the cases.json beside the folder says, or the suffix of a BIDS name.
    overwrite: replace a reference of the current version.
    dry_run: compute and show, write nothing.

    Raises
    ------
    SetupError: no such model. UsageError: it has a reference. NoInputError: no usable image, or no folder of masks.
    """
    folder = Path(m)
    path = folder / "plans.json"
    plans, dataset_json = _model(folder)
    _refuse_missing_masks(labels)
    _refuse_existing(plans, path, overwrite=overwrite or dry_run)
    channels = list((dataset_json.get("channel_names") or dataset_json.get("modality") or {"0": "image"}).values())
    structures = structures_of(dataset_json, _scheme(plans, dataset_json)) if labels is not None else {}
    warnings = _structure_warnings(labels, structures, folder)
    cases = find_cases(i, channels)
    known = {case.name: told(contrast) or _contrast(case, len(channels)) for case in cases}
    kinds = {says_ct(found) for found in known.values()} - {None}
    ct = has_ct(plans, channels) or kinds == {True}
    facts, failed, more = _facts(cases, labels, structures, known, ct=ct)
    if not facts:
        first = next(iter(failed.values()), None)
        raise NoInputError(
            "E-REFERENCE-CASES",
            file=i,
            found=f"no case that can be used ({first})" if first is not None else "no case",
            expected="training images",
            fix="check the images with nnUNetv2_spine_check",
        )
    made = average_curves(facts, contrasts=known)
    if made is None:  # there are facts
        raise NoInputError("E-REFERENCE-CASES", file=i, found="no case", expected="training images", fix="give some")
    plans.setdefault(SETTINGS_KEY, {"version": SETTINGS_VERSION})["reference"] = {GIVEN: made}
    if not dry_run:
        write_json(path, plans, indent=4)
    return ReferenceResult(path, made, failed, warnings + more, written=not dry_run)


def _model(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise SetupError(
                "E-MODEL-FOLDER",
                file=folder,
                found=f"no {name}",
                expected="the folder of a trained model (…/<trainer>__<plans>__<configuration>)",
                fix="check the path",
            )
    return dict(read_json(folder / "plans.json")), dict(read_json(folder / "dataset.json"))


def _scheme(plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> str | None:
    scheme = label_scheme(plans)
    return None if scheme == "custom" else scheme


def _refuse_existing(plans: Mapping[str, Any], path: Path, *, overwrite: bool) -> None:
    try:
        existing = reference_of(plans, ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Nobody can use it, and whoever asks for matching is told to make a new one here.
        logger.warning("%s: the intensity reference in it is damaged (%r) and replaced", path, error)
        return
    if existing is not None and existing.version >= REFERENCE_VERSION and not overwrite:
        raise UsageError(
            "E-REFERENCE-EXISTS",
            file=path,
            found=f"a reference of {existing.cases} cases",
            expected="a model without one, or with one of an earlier version",
            fix="add --overwrite to replace it",
        )


def _refuse_missing_masks(labels: str | None) -> None:
    if labels is not None and not Path(labels).is_dir():
        raise NoInputError(
            "E-REFERENCE-LABELS",
            file=labels,
            found="no folder",
            expected="a folder with a mask per case",
            fix="correct -l, or leave it out for a reference of the body alone",
        )


def _structure_warnings(labels: str | None, structures: Mapping[str, tuple[int, ...]], folder: Path) -> list[Problem]:
    if structures:
        return []
    if labels is None:
        found, fix = "no masks", "give -l, else the reference holds the body alone and --match anchored is refused"
    else:
        found = "classes that are no structures of the spine by their names"
        fix = "the reference holds the body alone; --match anchored is refused"
    return [Problem("warning", "W-REFERENCE-STRUCTURES", str(labels or folder), found, "structures", fix)]


def _facts(
    cases: list[InputCase],
    labels: str | None,
    structures: Mapping[str, tuple[int, ...]],
    known: Mapping[str, str | None],
    *,
    ct: bool,
) -> tuple[dict[str, CaseFacts], dict[str, SpineExtError], list[Problem]]:
    from tqdm import tqdm

    facts: dict[str, CaseFacts] = {}
    failed: dict[str, SpineExtError] = {}
    warnings: list[Problem] = []
    for case in tqdm(cases, desc="intensity reference", disable=None):
        if case.problem is not None:
            failed[case.name] = case.problem.to_error()
            continue
        mask = _mask(labels, case.name) if labels is not None else None
        if labels is not None and mask is None:
            found = "no mask of this name"
            warnings.append(
                Problem("warning", "W-REFERENCE-MASK", f"{labels}/{case.name}", found, "one per case", "body alone")
            )
        try:
            # What prediction would refuse, or take for another kind of scan, would widen every limit. Which transform
            # counts makes no difference to intensities.
            seen, _ = inspect_case(case, prefer="sform")
            warnings += [problem for problem in seen if problem.code.startswith("W-INT-")]
            images = [read_volume(file) for file in case.files]
            for file, image in zip(case.files, images, strict=True):
                if not ct and is_ct(image, known[case.name]):
                    raise _is_a_ct(file)
            facts[case.name] = facts_of_case(images, mask, structures, warnings.append)
        except SpineExtError as error:
            logger.warning("%s: left out: %s", case.name, error)
            failed[case.name] = error
        except (OSError, ValueError) as error:
            failed[case.name] = CaseError(
                "E-REFERENCE-CASE", file=case.files[0], found=str(error), expected="an image", fix="leave it out"
            )
    return facts, failed, warnings


def _contrast(case: InputCase, channels: int) -> str | None:
    return contrast_of(case.files[0], None, channels) if case.files else None


def _is_a_ct(file: str | Path) -> CaseError:
    return CaseError(
        "E-REFERENCE-CT",
        file=file,
        found="a CT, or what looks like one",
        expected="MR: neither the model's channels nor the contrasts of all images say that it is one of CT",
        fix="leave it out, or say what the images are with --contrast",
    )


def _mask(labels: str, case: str) -> Path | None:
    return next((f for suffix in IMAGE_SUFFIXES if (f := Path(labels) / f"{case}{suffix}").is_file()), None)

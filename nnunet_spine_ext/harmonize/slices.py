"""Sagittal slices from nnU-Net raw datasets, by what `cases.json` says about their scanner."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.splits import case_counts, shorten
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.contrast import says_ct, told
from nnunet_spine_ext.harmonize.matching import is_ct
from nnunet_spine_ext.harmonize.progress import paced
from nnunet_spine_ext.harmonize.slice_grid import SliceFrame, SliceSettings, prepare_mask, prepare_slice, restore
from nnunet_spine_ext.harmonize.slice_pairs import RoiWindow, roi_window, weak_pairs
from nnunet_spine_ext.harmonize.slice_set import DISC, UNKNOWN, SliceFacts, SliceSet
from nnunet_spine_ext.harmonize.structures import structures_of

__all__ = [
    "DISC", "ORIENTATION", "UNKNOWN", "RoiWindow", "SliceFacts", "SliceFrame", "SliceSet", "SliceSettings",
    "other_vendors", "prepare_mask", "prepare_slice", "read_slices", "restore", "roi_window", "vendor_counts",
    "weak_pairs",
]  # fmt: skip
ORIENTATION = "LIP"
"""Of the volumes that slices are cut from: numbered from right to left, rows downwards, columns to the back."""

Part = Literal["Tr", "Ts"]
# A slice with fewer pixels, or smaller, shows too little of a spine to learn a style from.
_LEAST_PIXELS, _LEAST_MM = 32, 40.0
# Sagittal slices of a scan with thick axial ones are staircases.
_COARSEST_MM = 2.5

_CT = "W-SLICE-CT", "a CT", "MR: Hounsfield units mean the same on every scanner"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Case:
    """A scan to read: its files, its entry of cases.json, and which ids of its mask are discs."""

    dataset: str
    name: str
    row: Mapping[str, Any]
    vendor: str
    image: Path
    label: Path | None
    discs: tuple[int, ...]
    ignore: int | None


@dataclass
class _Found:
    """What has been read so far."""

    images: list[Array]
    masks: list[Array]
    facts: list[SliceFacts]
    pixels: list[tuple[float, float]]
    problems: list[Problem]


def vendor_counts(datasets: Sequence[str | Path], *, key: str = "manufacturer", part: Part = "Tr") -> dict[str, int]:
    """Return how many cases of raw datasets each vendor has, vendors in alphabetical order.

    Parameters
    ----------
    key: of cases.json; several joined by +, such as ``manufacturer+model``. Texts that differ in capitals and spaces
        alone are one vendor, under the name that comes first.

    Raises
    ------
    NoInputError: a folder that is no raw dataset. UsageError: a key that no case has.
    """
    counts = Counter(case.vendor for case in _cases(datasets, key, part, SliceSettings())[0])
    return dict(sorted(counts.items()))


def other_vendors(
    datasets: Sequence[str | Path], target: Sequence[str], *, key: str = "manufacturer", part: Part = "Tr"
) -> tuple[str, ...]:
    """Return all vendors of the datasets but the target's.

    Raises
    ------
    UsageError: an unknown target (says the nearest), or no other vendor.
    """
    counts = vendor_counts(datasets, key=key, part=part)
    wanted = _known(target, counts, key, datasets)
    others = tuple(name for name in counts if name not in wanted)
    if not others:
        raise UsageError(
            "E-SLICE-SINGLE",
            file=", ".join(str(folder) for folder in datasets),
            found=f"no {key} but the target's: {case_counts(counts)}",
            expected="scans of the target and of at least one other vendor",
            fix="add datasets of other scanners (masks are not needed), or name another key of cases.json",
        )
    return others


def read_slices(
    datasets: Sequence[str | Path],
    *,
    key: str = "manufacturer",
    values: Sequence[str] | None = None,
    settings: SliceSettings | None = None,
    part: Part = "Tr",
) -> SliceSet:
    """Cut the sagittal slices out of the scans of some vendors.

    A scan that cannot be used is left out, and the `problems` of the set (also logged) say why: unreadable or missing
    (errors), a CT, not sagittal, too small, constant slices (warnings).

    Parameters
    ----------
    datasets: folders of nnU-Net raw datasets with cases.json, in any orientation.
    key: see `vendor_counts`. values: vendors; None: all.
    settings: without `spacing`, it becomes the median of the scans that are read.
    part: ``Tr`` or ``Ts``.

    Raises
    ------
    NoInputError: a folder that is no raw dataset, or no slice is left. UsageError: an unknown key or vendor (says the
        nearest).
    """
    settings = settings or SliceSettings()
    cases, problems = _cases(datasets, key, part, settings)
    if values is not None:
        counts = dict(sorted(Counter(case.vendor for case in cases).items()))
        wanted = _known(values, counts, key, datasets)
        cases = [case for case in cases if case.vendor in wanted]
    if settings.contrast is not None:
        contrast = settings.contrast.lower()
        cases = [case for case in cases if str(case.row.get("contrast") or "").lower() == contrast]
    problems += _mixed(cases, settings)
    settings = _with_spacing(cases, settings)
    found = _Found([], [], [], [], problems)
    for case in paced(cases, "reading scans", len(cases), units="scans"):
        _add(found, case, settings)
    for problem in found.problems:
        _log.warning("%s", problem)
    if not found.images:
        raise _empty(datasets, key, values, settings, found.problems)
    masks = np.stack(found.masks) if any(fact.labelled for fact in found.facts) else None
    spacing = np.median(np.array(found.pixels), axis=0)
    pixel = (settings.spacing,) * 2 if settings.fit == "crop" and settings.spacing else spacing.round(4).tolist()
    return SliceSet(
        np.stack(found.images), masks, tuple(found.facts), (float(pixel[0]), float(pixel[1])), tuple(found.problems)
    )


def _cases(
    datasets: Sequence[str | Path], key: str, part: Part, settings: SliceSettings
) -> tuple[list[_Case], list[Problem]]:
    """Return the scans of all datasets that say their vendor, and a warning for the others."""
    parts = [name.strip() for name in key.split("+")]
    spelling: dict[str, str] = {}
    cases: list[_Case] = []
    problems: list[Problem] = []
    known: set[str] = set()
    for folder in map(Path, datasets):
        rows, description = _tables(folder)
        known |= {name for row in rows.values() for name, value in row.items() if value is not None}
        ending = str(description.get("file_ending", ".nii.gz"))
        discs = settings.disc_classes or structures_of(description).get("disc", ())
        ignore = description.get("labels", {}).get("ignore")
        silent = []
        for name, row in sorted(rows.items()):
            image = folder / f"images{part}" / f"{name}_{settings.channel:04d}{ending}"
            if bool(row.get("test")) != (part == "Ts"):
                continue
            vendor = _vendor(row, parts)
            if vendor is None:
                silent.append(name)
                continue
            vendor = spelling.setdefault(vendor.lower(), vendor)
            label = folder / f"labels{part}" / f"{name}{ending}" if row.get("labelled", True) else None
            cases.append(_Case(folder.name, name, row, vendor, image, label, tuple(discs), ignore))
        if silent:
            found = f"no {key} of {len(silent)} case(s): {shorten(silent)}"
            problems.append(_warning("W-SLICE-VENDOR", folder / CASES_FILE, found, "a vendor", "they are left out"))
    strange = [name for name in parts if name not in known]
    if strange:
        raise UsageError(
            "E-SLICE-KEY",
            file=", ".join(str(Path(folder) / CASES_FILE) for folder in datasets),
            found=f"no case with {', '.join(strange)}",
            expected="facts that cases.json states",
            fix=f"name another key, or fill the table in; {nearest(strange[0], known)}",
        )
    return cases, problems


def _tables(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    try:
        return dict(read_json(folder / CASES_FILE)["cases"]), dict(read_json(folder / "dataset.json"))
    except (CaseError, KeyError, TypeError, ValueError, OSError) as error:
        raise NoInputError(
            "E-SLICE-DATASET",
            file=folder,
            found=str(error) if isinstance(error, CaseError | OSError) else f"no table of cases in {CASES_FILE}",
            expected=f"an nnU-Net raw dataset with dataset.json and {CASES_FILE}, as nnUNetv2_spine_convert writes it",
            fix=f"convert the data, write {CASES_FILE} as docs/reference/raw-dataset.md says, or correct the folder",
        ) from error


def _vendor(row: Mapping[str, Any], parts: Sequence[str]) -> str | None:
    values = [row.get(part) for part in parts]
    texts = [f"{v:g}" if isinstance(v, float) else str(v).strip() for v in values]
    unknown = any(value is None or not text for value, text in zip(values, texts, strict=True))
    return None if unknown else "+".join(texts)


def _known(
    values: Sequence[str], counts: Mapping[str, int], key: str, datasets: Sequence[str | Path]
) -> dict[str, int]:
    """Return the vendors of that name, whatever their capitals; UsageError for one that is not there."""
    by_name = {name.lower(): name for name in counts}
    absent = [value for value in values if value.strip().lower() not in by_name]
    if absent or not values:
        raise UsageError(
            "E-SLICE-VENDOR",
            file=", ".join(str(folder) for folder in datasets),
            found=f"no case whose {key} is {', '.join(map(repr, absent))}" if absent else "no vendor named",
            expected=f"one of {case_counts(counts)}",
            fix=nearest(absent[0] if absent else "", counts),
        )
    return {by_name[value.strip().lower()]: 1 for value in values}


def _mixed(cases: Sequence[_Case], settings: SliceSettings) -> list[Problem]:
    """Warn where slices of several contrasts would be taken for those of one."""
    contrasts = Counter(str(case.row["contrast"]) for case in cases if case.row.get("contrast"))
    if settings.contrast is not None or len(contrasts) < 2:
        return []
    return [
        _warning(
            "W-SLICE-CONTRAST",
            cases[0].dataset,
            f"cases of several contrasts: {case_counts(contrasts)}",
            "one contrast",
            "name the contrast in the settings, or contrasts are taken for styles of scanners",
        )
    ]


def _with_spacing(cases: Sequence[_Case], settings: SliceSettings) -> SliceSettings:
    """Return settings with a pixel size: the median over the scans, from their headers."""
    if settings.spacing is not None or settings.fit == "resize":
        return settings
    sizes = [size for size in map(_pixel_size, cases) if size is not None]
    return replace(settings, spacing=round(float(np.median(sizes)), 3) if sizes else 1.0)


def _pixel_size(case: _Case) -> float | None:
    """Return the mean size of a scan's sagittal pixels, by the header alone where that can be.

    None if it cannot be read or will be left out: pixels of others must not become those of all.
    """
    import nibabel as nib

    volume: Volume | None
    try:
        header = nib.Nifti1Image.from_filename(str(case.image))
        volume = Volume(np.broadcast_to(np.zeros((), np.uint8), header.shape[:3]), header.affine).turned(ORIENTATION)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError):
        # What is wrong with it is said when its voxels are read.
        volume = _image(case)[0]
    return None if volume is None or _objection(case, volume) is not None else float(np.mean(volume.spacing[1:]))


def _add(found: _Found, case: _Case, settings: SliceSettings) -> None:
    """Read one scan and add its slices, or say why not."""
    image, problems = _image(case)
    found.problems += problems
    if image is None:
        return
    mask, problems = _mask(case, image)
    found.problems += problems
    slices, step = image.array, image.spacing[0]
    discs = np.flatnonzero((mask == DISC).any(axis=(1, 2))) if mask is not None else np.empty(0, int)
    # The middle of the discs' extent: an even count of slices has its middle between two.
    middle = (discs[0] + discs[-1]) / 2 if len(discs) else (len(slices) - 1) / 2
    flat = []
    for index, pixels in enumerate(slices):
        position = (index - middle) * step
        if settings.middle is not None and abs(position) > settings.middle:
            continue
        prepared, frame = prepare_slice(pixels, image.spacing[1:], settings)
        if frame.flat:
            flat.append(index)
            continue
        unknown = np.full(frame.size, UNKNOWN, np.uint8)
        found.images.append(prepared)
        found.masks.append(unknown if mask is None else prepare_mask(mask[index], frame))
        found.pixels.append(frame.spacing)
        contrast = case.row.get("contrast")
        found.facts.append(
            SliceFacts(
                case.dataset, case.name, str(case.row.get("subject") or case.name), case.vendor, index,
                round(float(position), 3), mask is not None and bool((found.masks[-1] != UNKNOWN).any()),
                None if contrast is None else str(contrast),
                round(frame.spacing[0], 4) if settings.fit == "resize" else None,
            )
        )  # fmt: skip
    if flat:
        text = f"{len(flat)} constant slice(s): {shorten([str(k) for k in flat])}"
        found.problems.append(_warning("W-SLICE-FLAT", case.image, text, "slices of a body", "they are left out"))


def _image(case: _Case) -> tuple[Volume | None, list[Problem]]:
    """Return the scan as slices, or None and why it cannot be used."""
    opened = open_image(case.image)
    if opened.volume is None:
        return None, opened.facts.errors
    volume = opened.volume.turned(ORIENTATION)
    found = _objection(case, volume)
    if found is None and is_ct(volume, told(case.row.get("contrast"))):
        found = _CT
    if found is not None:
        code, why, expected = found
        return None, [_warning(code, case.image, why, expected, "the scan is left out")]
    return volume, []


def _objection(case: _Case, volume: Volume) -> tuple[str, str, str] | None:
    """Return why a scan cannot be used, by its facts and its grid alone: code, what was found, what is expected."""
    if says_ct(told(case.row.get("contrast"))):
        return _CT
    rows, columns = volume.shape[1:]
    spacing = volume.spacing[1:]
    if max(spacing) > _COARSEST_MM:
        expected = f"sagittal slices, or voxels of at most {_COARSEST_MM:g} mm along the body and from front to back"
        return "W-SLICE-PLANE", f"sagittal pixels of {spacing[0]:.3g} x {spacing[1]:.3g} mm", expected
    if min(rows, columns) < _LEAST_PIXELS or min(rows * spacing[0], columns * spacing[1]) < _LEAST_MM:
        why = f"slices of {rows} x {columns} pixels, {spacing[0]:.3g} x {spacing[1]:.3g} mm"
        return "W-SLICE-SMALL", why, f"at least {_LEAST_PIXELS} pixels and {_LEAST_MM:g} mm each way"
    return None


def _mask(case: _Case, image: Volume) -> tuple[Array | None, list[Problem]]:
    """Return which voxels are disc (1) or unknown (255), uint8 in the order of the slices; None if nothing is known."""
    if case.label is None:
        return None, []
    if not case.discs:
        text = "labels without a class of discs"
        fix = "name the ids in disc_classes; its slices count as unlabelled"
        return None, [_warning("W-SLICE-DISC", case.label, text, "a disc class", fix)]
    opened = open_image(case.label, role="label") if case.label.exists() else None
    volume = None if opened is None else opened.volume
    if volume is not None:
        volume = volume.turned(ORIENTATION)
    if volume is None or not image.same_grid(volume):
        text = "no mask that can be read" if volume is None else "a mask on another grid"
        fix = "its slices count as unlabelled"
        return None, [_warning("W-SLICE-MASK", case.label, text, "a mask on the grid of the image", fix)]
    mask = np.isin(volume.array, case.discs).astype(np.uint8)
    if case.ignore is not None:
        mask[volume.array == case.ignore] = UNKNOWN
    return (None if bool((mask == UNKNOWN).all()) else mask), []


def _empty(
    datasets: Sequence[str | Path],
    key: str,
    values: Sequence[str] | None,
    settings: SliceSettings,
    problems: Sequence[Problem],
) -> NoInputError:
    wanted = f" of {key} {', '.join(values)}" if values else ""
    wanted += f" and contrast {settings.contrast}" if settings.contrast else ""
    reasons = "; ".join(f"{text} ({count})" for text, count in Counter(p.code for p in problems).items())
    return NoInputError(
        "E-SLICE-EMPTY",
        file=", ".join(str(folder) for folder in datasets),
        found=f"no slice{wanted}" + (f"; left out: {reasons}" if reasons else ""),
        expected="at least one sagittal MR slice",
        fix="look at the warnings, and correct the datasets or the settings",
    )


def _warning(code: str, file: str | Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, str(file), found, expected, fix)

"""What a raw dataset consists of: the description of the whole and its cases, checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import json_text
from nnunet_spine_ext.core.labels import id_counts, id_ranges
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array, Volume

READER = "NibabelIOWithReorient"
FILE_ENDING = ".nii.gz"
SPINE_EXT_VERSION = 1
MAX_DATASET_ID = 999

# Facts about how a case was acquired that cases.json always names, null when unknown.
INFO_KEYS = ("site", "manufacturer", "model", "field_strength", "contrast", "TR", "TE")

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class DatasetSpec:
    """What is true of a whole raw dataset.

    Parameters
    ----------
    dataset_id: 1 to 999; the folder is ``Dataset<id, three digits>_<name>``.
    name: letters, digits, ``_`` and ``-``.
    channel_names: nnU-Net's channel names by number, for example ``{0: "T2w"}``.
    labels: name to id of the foreground classes, ids consecutive from 1; a "background" of 0 may be given.
    scheme: ``nnunet14`` or ``custom``.
    sided_labels: pairs of ids that change places in a mirror, left first.
    ignore: declare the label ``ignore`` with the id after the largest; cases without a mask need it.
    description, licence: free text for dataset.json.

    Raises
    ------
    UsageError: one of these rules is broken.
    """

    dataset_id: int
    name: str
    channel_names: Mapping[int, str]
    labels: Mapping[str, int]
    scheme: str = "custom"
    sided_labels: tuple[tuple[int, int], ...] = ()
    ignore: bool = False
    description: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sided_labels", tuple((int(a), int(b)) for a, b in self.sided_labels))
        if not 1 <= self.dataset_id <= MAX_DATASET_ID:
            raise _usage("E-DATASET-ID", f"dataset id {self.dataset_id}", "1 to 999", "choose a free id")
        if not _SAFE_NAME.fullmatch(self.name):
            raise _usage(
                "E-DATASET-NAME",
                f"dataset name {self.name!r}",
                "letters, digits, '_' and '-', starting with a letter or digit",
                "choose another name",
            )
        if sorted(self.channel_names) != list(range(len(self.channel_names))) or not self.channel_names:
            raise _usage(
                "E-DATASET-CHANNELS", f"channels {dict(self.channel_names)}", "numbers 0, 1, ...", "number them from 0"
            )
        self._check_labels()

    def _check_labels(self) -> None:
        ids = sorted(self.foreground.values())
        if not ids or ids != list(range(1, len(ids) + 1)) or "ignore" in self.labels:
            raise _usage(
                "E-DATASET-LABELS",
                f"labels {dict(self.labels)}",
                "at least one class, ids consecutive from 1, no 'ignore' (it is added)",
                "renumber the classes",
            )
        paired = [side for pair in self.sided_labels for side in pair]
        if len(set(paired)) != len(paired) or not set(paired) <= set(ids):
            raise _usage(
                "E-DATASET-SIDED",
                f"sided labels {list(self.sided_labels)}",
                "pairs of existing ids, each id once",
                "correct the pairs",
            )

    @property
    def foreground(self) -> dict[str, int]:
        """Name to id without background."""
        return {name: number for name, number in self.labels.items() if number != 0}

    @property
    def ignore_id(self) -> int | None:
        """Id of the ignore label; None if it is not declared."""
        return max(self.foreground.values()) + 1 if self.ignore else None

    @property
    def folder_name(self) -> str:
        """Name of the dataset's folder, for example ``Dataset501_SPIDER``."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"

    @property
    def mask_dtype(self) -> type[np.generic]:
        """Type of the stored masks: uint8, or uint16 when there are more than 255 ids."""
        return np.uint8 if len(self.foreground) + int(self.ignore) < 256 else np.uint16

    def dataset_json(self, num_training: int) -> dict[str, Any]:
        """Return the content of nnU-Net's dataset.json."""
        ordered = sorted(self.foreground.items(), key=lambda item: item[1])
        labels = {"background": 0, **dict(ordered)}
        if self.ignore_id is not None:
            labels["ignore"] = self.ignore_id
        content: dict[str, Any] = {
            "channel_names": {str(k): name for k, name in sorted(self.channel_names.items())},
            "labels": labels,
            "numTraining": num_training,
            "file_ending": FILE_ENDING,
            "overwrite_image_reader_writer": READER,
            "spine_ext": {
                "version": SPINE_EXT_VERSION,
                "scheme": self.scheme,
                "sided_labels": [list(pair) for pair in self.sided_labels],
            },
        }
        optional = {"description": self.description, "licence": self.licence}
        return content | {key: text for key, text in optional.items() if text}


@dataclass
class RawCase:
    """One case of a raw dataset.

    Parameters
    ----------
    case_id: letters, digits, ``_`` and ``-``; unique whatever the letter case.
    subject: who was scanned; all cases of a subject stay on one side of every split.
    images: one volume per channel, all on one grid.
    label: hard integer mask on that grid; None: a training case is filled with the ignore label.
    instances: instance ids on that grid, or None.
    info: facts about the acquisition, those of `INFO_KEYS` and others, JSON values.
    sources: ``{"role": "image_0000" | "label" | ..., "file": name, "sha256": hex}`` per file it came from.
    test: write to imagesTs/labelsTs.
    train_only: labelled, but never validated (for masks that are not good enough to score against).
    soft: soft labels on that grid, one volume per class in the order of the ids: 0 to 1, -1 = ignore; none: the case
        has hard labels only.
    """

    case_id: str
    subject: str
    images: list[Volume]
    label: Volume | None = None
    instances: Volume | None = None
    info: dict[str, Any] = field(default_factory=dict)
    sources: list[dict[str, str]] = field(default_factory=list)
    test: bool = False
    train_only: bool = False
    soft: list[Volume] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the case's entry of cases.json."""
        facts: dict[str, Any] = {"subject": self.subject}
        facts |= {key: self.info.get(key) for key in INFO_KEYS}
        facts |= {key: value for key, value in sorted(self.info.items()) if key not in facts}
        facts["labelled"] = self.label is not None
        if self.soft:
            facts["soft_labels"] = True
        if self.test:
            facts["test"] = True
        if self.train_only:
            facts["train_only"] = True
        return facts | {"sources": self.sources}


def check_case(case: RawCase, spec: DatasetSpec, *, ids_known: bool = True) -> None:
    """Raise CaseError when a case does not fit the dataset: name, channels, grids, label ids, ignore.

    Without `ids_known` the classes of the dataset are not settled yet, and label ids are not looked at.
    """
    if not _SAFE_NAME.fullmatch(case.case_id) or not case.subject:
        found = f"case id {case.case_id!r} of subject {case.subject!r}"
        raise CaseError(
            "E-CASE-ID",
            file=case.case_id,
            found=found,
            expected="an id of letters, digits, '_' and '-', and a subject",
            fix="choose another id",
        )
    if len(case.images) != len(spec.channel_names):
        raise CaseError(
            "E-CASE-CHANNELS",
            file=case.case_id,
            found=f"{len(case.images)} image(s)",
            expected=f"one for each of {', '.join(spec.channel_names.values())}",
            fix="add the missing channel or leave the case out",
        )
    try:
        json_text(case.info)
    except (TypeError, ValueError) as error:
        raise CaseError(
            "E-CASE-INFO",
            file=case.case_id,
            found=f"facts that are no JSON ({error}): {case.info}",
            expected="text, finite numbers, true, false, null, lists and tables",
            fix="correct what is said about the acquisition",
        ) from error
    others = [(f"channel {k}", image) for k, image in enumerate(case.images) if k]
    others += [("the mask", case.label)] if case.label is not None else []
    others += [("the instance mask", case.instances)] if case.instances is not None else []
    others += [("the soft label", volume) for volume in case.soft]
    for what, volume in others:
        check_same_grid(case.images[0], volume, file=case.case_id, what=what)
    if case.label is not None and ids_known:
        allowed = {0, *spec.foreground.values()} | ({spec.ignore_id} if spec.ignore_id is not None else set())
        check_ids(case.label.array, allowed, file=case.case_id)
    if case.soft:
        check_soft(case, len(spec.foreground))
    if case.label is None and not case.test and not spec.ignore:
        raise CaseError(
            "E-CASE-UNLABELLED",
            file=case.case_id,
            found="no mask in a dataset without an ignore label",
            expected="a mask, or ignore=True in the dataset's description",
            fix="declare ignore, or leave the case out",
        )


def check_soft(case: RawCase, classes: int) -> None:
    """Raise CaseError unless soft labels are one per class, 0 to 1 or -1 (ignore), and beside hard ones."""
    strange = 0
    for volume in case.soft:
        array = volume.array
        # NaN is in no interval.
        strange += int((~((array >= 0) & (array <= 1)) & (array != -1)).sum())
    if len(case.soft) != classes or strange or case.label is None:
        hard = "" if case.label is not None else ", no hard mask"
        raise CaseError(
            "E-CASE-SOFT",
            file=case.case_id,
            found=f"{len(case.soft)} soft label(s), {strange} voxels outside 0 to 1{hard}",
            expected=f"{classes} (one per class), 0 to 1 or -1 for ignore, beside a hard mask",
            fix="correct the soft labels",
        )


def check_same_grid(
    image: Volume,
    other: Volume,
    *,
    file: str,
    what: str,
    tolerance_mm: float = GRID_TOLERANCE_MM,
    reference: str = "the image",
) -> None:
    """Raise CaseError with the numbers when two volumes do not share one grid.

    Parameters
    ----------
    file: of `other`; `what` it is in words.
    reference: what `image` is in words.
    """
    if image.same_grid(other, tolerance_mm):
        return
    if image.shape != other.shape:
        found = f"{what} has shape {other.shape}, {reference} {image.shape}"
    else:
        found = f"{what} lies up to {image.corner_error(other):.3g} mm off the grid of {reference}"
    raise CaseError(
        "E-GEOM-GRID",
        file=file,
        found=found,
        expected=f"one grid (same shape, corners within {tolerance_mm:g} mm)",
        fix=f"resample it to the grid of {reference}",
    )


def check_ids(array: Array, allowed: set[int], *, file: str) -> None:
    """Raise CaseError listing ids outside `allowed` with their voxel counts."""
    strange = [f"{k:g} ({n} voxels)" for k, n in id_counts(array).items() if k not in allowed]
    if strange:
        more = f" and {len(strange) - 12} more" if len(strange) > 12 else ""
        raise CaseError(
            "E-LABEL-UNKNOWN",
            file=file,
            found=f"label ids {', '.join(strange[:12])}{more}",
            expected=f"integers among {id_ranges(allowed)}",
            fix="correct the mask, or map these ids",
        )


def _usage(code: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError(code, found=found, expected=expected, fix=fix)

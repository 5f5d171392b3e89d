"""Any images and masks that file patterns can name, as an nnU-Net raw dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.dataset_conversion.conversion import Rules, Target, convert, nnunet_folders
from nnunet_spine_ext.dataset_conversion.discovery import assign_subjects, discover
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap, parse_label_map
from nnunet_spine_ext.dataset_conversion.report import ConversionResult


def pairs(
    dataset_id: int,
    *,
    name: str,
    images: Sequence[str],
    labels: Sequence[str],
    label_map: Sequence[str] | None = None,
    soft: Sequence[str] = (),
    subject_pattern: str | None = None,
    contrast: Sequence[str] = (),
    channel_name: Sequence[str] = ("MRI",),
    unlabelled: Sequence[str] = (),
    test_subjects: Sequence[str] = (),
    train_only: Sequence[str] = (),
    folds: int = 5,
    resample: str | None = None,
    prefer: Prefer | None = None,
    strict: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    raw: str | Path | None = None,
    preprocessed: str | Path | None = None,
    description: str = "",
    licence: str = "",
) -> ConversionResult:
    """Convert images and masks, paired by what the wildcards of two patterns match, to an nnU-Net raw dataset.

    Parameters
    ----------
    dataset_id, name: the dataset becomes ``Dataset<id>_<name>``.
    images, labels: patterns (see `patterns`), one mask pattern per source; with several channel names as many image
        patterns per mask pattern.
    label_map: see `parse_label_map`; None keeps the ids that occur, renumbered from 1.
    soft: patterns of soft labels (0 to 1, -1 where not known) on the grids of the images, one per mask pattern, for
        datasets of one class; a case without such a file has its mask alone.
    subject_pattern: number of a wildcard, or a regular expression; None: ``{subject}``, else a BIDS ``sub-...`` in
        the path, else the first wildcard.
    contrast: recorded in cases.json, one for all or one per source (then also part of the case ids).
    unlabelled: folders or patterns of images without masks: training cases filled with the ignore label.
    test_subjects: subjects that go to imagesTs and labelsTs.
    train_only: subjects whose masks are trained on, but never validated against.
    resample: "nearest" brings masks on another grid onto the image's; None refuses them.
    prefer: "sform" or "qform", for files in which the two place the image differently; None refuses such files.
    strict: treat every warning about a file as an error.
    overwrite: replace a dataset of the same id and name.
    dry_run: check everything, write nothing.
    resume: continue a run with the same arguments that was ended early.
    raw, preprocessed: instead of nnUNet_raw and nnUNet_preprocessed.

    Raises
    ------
    UsageError: see `discover`, `parse_label_map` and `convert`.
    NoInputError: a pattern finds nothing, or every mask is empty.
    SetupError: nnU-Net's folders are not known.
    """
    channels = tuple(channel_name)
    target = Target(
        dataset_id, name, channels, *nnunet_folders(raw, preprocessed), folds, overwrite, description, licence
    )
    translation = parse_label_map(label_map) if label_map else None
    if soft:
        _refuse_several(translation)
    found = discover(
        images, labels, unlabelled, soft=soft, channels=len(channels), contrast=contrast,
        subject_pattern=subject_pattern,
    )  # fmt: skip
    patterns = {"images": images, "labels": labels, "unlabelled": unlabelled} | ({"soft": soft} if soft else {})
    subjects = {"contrast": contrast, "test_subjects": test_subjects, "train_only": train_only}
    options: dict[str, Any] = {
        "converter": "pairs",
        **{key: list(value) for key, value in (patterns | subjects).items()},
    }
    options |= {"label_map": list(label_map) if label_map else None, "subject_pattern": subject_pattern}
    options |= {"folds": folds, "resample": resample, "prefer": prefer, "strict": strict}
    cases = assign_subjects(found.cases, test_subjects, train_only)
    rules = Rules(resample, strict, prefer)
    return convert(
        cases, found.unpaired, translation, target, rules=rules, options=options, dry_run=dry_run, resume=resume
    )


def _refuse_several(translation: LabelMap | None) -> None:
    """Raise UsageError unless the dataset has one class, which is known beforehand."""
    if translation is None or len(translation.labels) != 1:
        raise UsageError(
            "E-PAIR-SOFT",
            file="--soft",
            found="no label map" if translation is None else f"{len(translation.labels)} classes",
            expected="one class: a file of --soft holds the shares of one structure",
            fix="add --label-map, such as cord=1",
        )

"""NAKO-like trees (BIDS with chunks of the spine, masks of SPINEPS in derivatives) as an nnU-Net raw dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.dataset_conversion.conversion import convert
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap, parse_label_map
from nnunet_spine_ext.dataset_conversion.nako_cases import USES, Use, Wish, find_cases
from nnunet_spine_ext.dataset_conversion.nako_masks import CORD_CANAL, CaseBuilder, CordCanal
from nnunet_spine_ext.dataset_conversion.nako_tree import read_tree
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.subject_lists import chosen_subjects
from nnunet_spine_ext.dataset_conversion.target import Rules, Target, nnunet_folders
from nnunet_spine_ext.harmonize.bias_field import N4Settings

CHANNELS = ("MRI",)


def nako(
    source: str | Path,
    dataset_id: int,
    *,
    name: str = "NAKO",
    suffix: Sequence[str] = ("T2w",),
    where: Sequence[str] = (),
    use: Use = "auto",
    stitch: bool = False,
    derivatives: Sequence[str] = (),
    unlabelled: bool = False,
    cord_canal: CordCanal = "auto",
    drop_ids: Sequence[int] = (),
    n4: bool = False,
    test_subjects: Sequence[str] = (),
    test_list: str | Path | None = None,
    resample: str | None = None,
    prefer: Prefer | None = None,
    strict: bool = False,
    folds: int = 5,
    overwrite: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    raw: str | Path | None = None,
    preprocessed: str | Path | None = None,
    description: str = "",
    licence: str = "",
) -> ConversionResult:
    """Convert a NAKO-like tree to an nnU-Net raw dataset with the 14 training classes.

    Images and masks are found at any depth; what they are is read from the entities in their names. Of repeated scans
    the highest ``sequ`` counts. Series that the scanner composed of chunks are refused: they are deformed.

    Parameters
    ----------
    source: the folder.
    dataset_id, name: the dataset becomes ``Dataset<id>_<name>``.
    suffix: of the images, such as ``T2w`` and ``T1w``.
    where: ``key=value`` entities that images must have, such as ``part=water``.
    use: take ``chunks`` or ``stitched`` images only; ``auto``: stitched ones where they exist, with `stitch` chunks.
    stitch: join the chunks of a scan into one case (see `stitch.stitch`).
    derivatives: folders to take masks from; none: wherever they are below the source.
    unlabelled: scans without masks become cases that are ignored in training.
    cord_canal: see `CaseBuilder`.
    drop_ids: ids of semantic masks that become background.
    n4: divide the bias field of every image out.
    test_subjects: who goes to imagesTs and labelsTs, with or without ``sub-``; `test_list`: a file that lists them.
    resample: "nearest" brings masks on another grid onto the image's; None refuses them.
    prefer: "sform" or "qform", for files in which the two place the image differently; None refuses such files.
    strict: treat every warning about a file as an error.
    overwrite: replace a dataset of the same id and name.
    dry_run: check everything, write nothing.
    resume: go on where an interrupted run stopped.
    raw, preprocessed: instead of nnUNet_raw and nnUNet_preprocessed.

    Raises
    ------
    UsageError: an option that does not fit, an unknown test subject; see also `convert`.
    NoInputError: no such image, or every mask is empty.
    SetupError: nnU-Net's folders are not known.
    """
    _check_options(use, cord_canal, stitch=stitch)
    folders = nnunet_folders(raw, preprocessed)
    tree = read_tree(source, suffix, _where(where), derivatives)
    test, notes = chosen_subjects(test_subjects, test_list, tree.subjects)
    found = find_cases(tree, Wish(use, stitch, unlabelled, frozenset(test)))
    labels: LabelMap = parse_label_map(["spineps:nnunet14"])
    target = Target(dataset_id, name, CHANNELS, *folders, folds, overwrite, description, licence, ignore=found.partial)
    ignore = target.spec(labels, ignore=True).ignore_id
    build = CaseBuilder(cord_canal, tuple(drop_ids), N4Settings() if n4 else None, resample, ignore)
    options: dict[str, Any] = {"converter": "nako", "suffix": list(suffix), "where": list(where), "use": use}
    options |= {"stitch": stitch, "derivatives": list(derivatives), "unlabelled": unlabelled, "n4": n4}
    options |= {"cord_canal": cord_canal, "drop_ids": list(drop_ids), "test_subjects": sorted(test)}
    options |= {"resample": resample, "prefer": prefer, "strict": strict, "folds": folds}
    return convert(
        found.cases, found.unusable, labels, target,
        rules=Rules(resample, strict, prefer), options=options, build=build, notes=[*notes, *found.notes],
        dry_run=dry_run, resume=resume,
    )  # fmt: skip


def _check_options(use: str, cord_canal: str, *, stitch: bool) -> None:
    """Raise UsageError for options that mean nothing."""
    for option, value, known in (("--use", use, USES), ("--cord-canal", cord_canal, CORD_CANAL)):
        if value not in known:
            raise _usage(option, repr(value), "a known one", nearest(value, known))
    if use == "stitched" and stitch:
        raise _usage("--stitch", "with --use stitched", "chunks to join", "leave one of the two out")


def _where(words: Sequence[str]) -> Mapping[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise _usage("--where", repr(word), "key=value", "for example part=water")
        pairs[key.lower()] = value
    return pairs


def _usage(option: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-NAKO-OPTION", file=option, found=found, expected=expected, fix=fix)

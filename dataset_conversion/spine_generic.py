"""Convert a Spine-Generic data set (BIDS, masks in ``derivatives``): contrasts as cases, sites and vendors recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.dataset_conversion.building import Built, volume_of
from nnunet_spine_ext.dataset_conversion.conversion import convert
from nnunet_spine_ext.dataset_conversion.discovery import Candidate
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap
from nnunet_spine_ext.dataset_conversion.masks import ids_of, mask_on_image
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.spine_generic_cases import find_cases
from nnunet_spine_ext.dataset_conversion.spine_generic_names import STRUCTURES
from nnunet_spine_ext.dataset_conversion.spine_generic_soft import soft_builder, with_soft
from nnunet_spine_ext.dataset_conversion.spine_generic_tree import Wish, read_tree
from nnunet_spine_ext.dataset_conversion.subject_lists import chosen_subjects, read_entries, select
from nnunet_spine_ext.dataset_conversion.target import Rules, Target, nnunet_folders

CHANNELS = ("MRI",)


def spine_generic(
    source: str | Path,
    dataset_id: int,
    *,
    name: str = "SpineGeneric",
    classes: Sequence[str] = ("cord",),
    derivatives: Sequence[str] = ("labels",),
    contrasts: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    test_list: str | Path | None = None,
    test_subjects: Sequence[str] = (),
    allow_model_labels: bool = False,
    soft: str | None = None,
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
    """Convert a Spine-Generic data set to an nnU-Net raw dataset; each contrast of a subject is a case.

    Parameters
    ----------
    source: the BIDS folder that holds ``sub-*`` and ``derivatives``.
    dataset_id, name: the dataset becomes ``Dataset<id>_<name>``.
    classes: structures with a mask of their own, in the order of their ids (see `spine_generic_names.STRUCTURES`).
    derivatives: folders of masks below ``derivatives``; the first that has a mask is taken.
    contrasts: names (``flip-1_mt-on_MTS``) or suffixes (``MTS``); none: all that have masks.
    exclude, include: files that list subjects, sites or images (see `subject_lists.read_entries`). A file in an
        exclusion list takes its whole subject out; one in an inclusion list lets only that image in.
    test_list: a file with the list of test subjects; `test_subjects`: their names.
    allow_model_labels: validate and test against masks made by a model too.
    soft: ``average`` makes soft labels of the masks of all contrasts of a subject (see `soft.ground_truth`), the name
        of a folder of soft masks takes those; hard labels then follow the soft ones. None: hard labels only.
    resample: "nearest" brings masks on another grid onto the image's; None refuses them.
    prefer: "sform" or "qform", for files in which the two place the image differently; None refuses such files.
    strict: treat every warning about a file as an error; `overwrite`: replace a dataset of the same id and name.
    dry_run: check everything, write nothing; `resume`: continue a run with the same arguments that was ended early.
    raw, preprocessed: instead of nnUNet_raw and nnUNet_preprocessed.

    Raises
    ------
    UsageError: an unknown class, contrast, folder or test subject; a wrong list; see also `convert`.
    NoInputError: no file fits, or every mask is empty.
    SetupError: nnU-Net's folders are not known.
    """
    target = Target(
        dataset_id, name, CHANNELS, *nnunet_folders(raw, preprocessed), folds, overwrite, description, licence
    )
    wish = Wish(tuple(classes), tuple(derivatives), tuple(contrasts), allow_model_labels=allow_model_labels)
    tree = read_tree(Path(source).expanduser(), wish)
    keep, notes = _subjects(tree.subjects, exclude, include)
    test, absent = chosen_subjects(test_subjects, test_list, tree.subjects)
    left_out = sorted(test - set(keep))
    notes += [f"warning: {len(left_out)} test subject(s) are left out: {shorten(left_out)}"] if left_out else []
    found = with_soft(find_cases(tree, wish, test=test & set(keep), keep=keep), soft, tree.root, wish.classes)
    lists = {"classes": classes, "derivatives": derivatives, "contrasts": contrasts, "exclude": exclude}
    lists |= {"include": include, "test_subjects": test_subjects}
    words: dict[str, Any] = {"test_list": test_list and str(test_list), "allow_model_labels": allow_model_labels}
    words |= {"folds": folds, "soft": soft, "resample": resample, "prefer": prefer, "strict": strict}
    options = {"converter": "spine_generic", **{key: list(value) for key, value in lists.items()}, **words}
    return convert(
        found.cases,
        found.unusable,
        class_map(wish.classes),
        target,
        rules=Rules(resample, strict, prefer),
        options=options,
        build=soft_builder(partial(build, classes=classes, resample=resample), soft, classes, resample=resample),
        notes=[*notes, *absent, *found.notes],
        dry_run=dry_run,
        resume=resume,
    )


def class_map(classes: Sequence[str]) -> LabelMap:
    """Return the classes in their order, numbered from 1; a mask's only id is 1.

    Raises UsageError for a class that is named twice.
    """
    twice = next((name for k, name in enumerate(classes) if name in classes[:k]), None)
    if twice is not None:
        raise UsageError("E-PAIR-CLASS", file="--classes", found=f"{twice!r} twice", expected="each once", fix="once")
    return LabelMap({name: number for number, name in enumerate(classes, start=1)}, {1: 1})


def build(
    case: Candidate, opened: Mapping[str, Opened], *, classes: Sequence[str], resample: str | None = None
) -> Built:
    """Paint the masks of a case into one, from the outside in: canal, CSF, cord, grey matter.

    Parameters
    ----------
    opened: ``image_0000``, ``label`` for the first class and ``label-<class>`` for every other one.

    Raises
    ------
    CaseError: a mask on another grid, or with values other than 0 and 1.
    """
    image = volume_of(opened["image_0000"])
    painted = np.zeros(image.shape, dtype=np.uint8)
    warnings: list[Problem] = []
    for name in sorted(classes, key=list(STRUCTURES).index):
        role = "label" if name == classes[0] else f"label-{name}"
        file = next(source.path for source in case.sources if source.role == role)
        mask, said = mask_on_image(volume_of(opened[role]), image, file=file, resample=resample)
        inside = _binary(mask.array, file)
        warnings += [*said, *_overlaps(painted, inside, name, classes, file)]
        painted[inside] = list(classes).index(name) + 1
    return Built([image], image.with_array(painted), warnings=warnings)


def _binary(array: Array, file: Path) -> Array:
    others = {number: count for number, count in ids_of(array).items() if number != 1}
    if others:
        listing = shorten([f"{number} ({count} voxels)" for number, count in others.items()])
        raise CaseError(
            "E-LABEL-UNKNOWN",
            file=file,
            found=f"label ids {listing}",
            expected="0 and 1: one structure in each mask",
            fix="give the mask of this structure alone",
        )
    return np.asarray(array == 1)


def _overlaps(painted: Array, inside: Array, name: str, classes: Sequence[str], file: Path) -> list[Problem]:
    """Return a warning for each structure that a mask covers although neither contains the other."""
    covered = np.bincount(painted[inside], minlength=len(classes) + 1)
    return [
        Problem(
            "warning",
            "W-LABEL-OVERLAP",
            str(file),
            f"{covered[number]} voxels of the {name} that are {other} too",
            "masks that exclude each other",
            f"these voxels became {name}",
        )
        for number, other in enumerate(classes, start=1)
        if covered[number] and other not in STRUCTURES[name].inside
    ]


def _subjects(
    known: Collection[str], exclude: Sequence[str], include: Sequence[str]
) -> tuple[dict[str, set[str] | None], list[str]]:
    """Return the subjects to use, each with the images to use (None: all), and what the lists did."""
    notes = []
    keep: dict[str, set[str] | None] = dict.fromkeys(known)
    if include:
        chosen = select(read_entries(include), known)
        keep = {**chosen.images, **dict.fromkeys(chosen.subjects)}
        notes += [f"--include: {len(keep)} of {len(known)} subjects", *_unknown("--include", chosen.unknown)]
    if exclude:
        chosen = select(read_entries(exclude), known)
        out = chosen.subjects | set(chosen.images)
        if out:
            notes.append(f"--exclude: {len(out)} subject(s) left out: {shorten(sorted(out))}")
        notes += _unknown("--exclude", chosen.unknown)
        keep = {subject: images for subject, images in keep.items() if subject not in out}
    return keep, notes


def _unknown(option: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    return [f"warning: {option}: {len(entries)} entries fit no subject, site or image here: {shorten(entries)}"]

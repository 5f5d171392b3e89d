"""The files of a Spine-Generic tree: which images and masks it holds, before any is opened."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.io import NIFTI_SUFFIXES, strip_suffix
from nnunet_spine_ext.dataset_conversion.participants import read_participants
from nnunet_spine_ext.dataset_conversion.spine_generic_names import SOFT_ENDINGS, STRUCTURES, split_stem


@dataclass(frozen=True)
class Wish:
    """What of a tree is to be converted.

    Parameters
    ----------
    classes: names in `STRUCTURES`; each case needs a mask of each.
    derivatives: folders below ``derivatives`` (or paths) with masks; the first that has a mask is taken.
    contrasts: names or suffixes; none: every contrast of which there are masks.
    allow_model_labels: use masks made by a model like any other.
    """

    classes: tuple[str, ...] = ("cord",)
    derivatives: tuple[str, ...] = ("labels",)
    contrasts: tuple[str, ...] = ()
    allow_model_labels: bool = False


@dataclass
class Tree:
    """Images and masks by the name of the image, as they lie in a tree; nothing is opened.

    `images`: files in ``sub-*``, several where one image is stored twice. `masks`: structure to file. `soft`: images
    that have a soft mask of a wanted class. `subjects`: of images, masks and participants.tsv.
    """

    root: Path
    participants: dict[str, dict[str, str]] | None
    images: dict[str, list[Path]] = field(default_factory=dict)
    masks: dict[str, dict[str, Path]] = field(default_factory=dict)
    soft: set[str] = field(default_factory=set)

    @property
    def subjects(self) -> set[str]:
        """Names of everyone in the tree or in its table."""
        return {subject_of(name) for name in (*self.images, *self.masks)} | set(self.participants or {})


def read_tree(root: Path, wish: Wish) -> Tree:
    """List images and masks.

    Only ``sub-*`` of the root holds images: those in ``sourcedata`` are the unprocessed originals, on which the masks
    do not lie, and those in ``derivatives`` are results.

    Raises
    ------
    UsageError: no such folder, an unknown folder of derivatives or class.
    NoInputError: no mask of a wanted class.
    """
    if not root.is_dir():
        raise UsageError(
            "E-PAIR-SOURCE", file=root, found="no such folder", expected="a BIDS folder", fix="check the path"
        )
    unknown = next((name for name in wish.classes if name not in STRUCTURES), None)
    if unknown is not None:
        fix = nearest(unknown, STRUCTURES)
        raise UsageError("E-PAIR-CLASS", file="--classes", found=repr(unknown), expected="known structures", fix=fix)
    tree = Tree(root, read_participants(root))
    for path in _files(root):
        parts = split_stem(strip_suffix(path))
        if parts is not None and not parts[1]:
            tree.images.setdefault(parts[0], []).append(path)
    for folder in _derivatives(root, wish.derivatives):
        _add_masks(tree, folder, wish.classes)
    if not tree.masks:
        raise _nothing(tree, wish)
    return tree


def _nothing(tree: Tree, wish: Wish) -> NoInputError:
    folders = ", ".join(wish.derivatives)
    if tree.images:
        found = f"{len(tree.images)} image(s), but no mask of {' or '.join(wish.classes)} in {folders}"
        there = Tree(tree.root, None)
        for folder in _derivatives(tree.root, wish.derivatives):
            _add_masks(there, folder, STRUCTURES)
        others = sorted({name for masks in there.masks.values() for name in masks})
        fix = f"name the folder of masks with --derivatives; {nearest(folders, _folders(tree.root))}"
        if others:
            names = ", ".join(others)
            fix = f"{folders} has masks of {names}: name these with --classes, or another folder with --derivatives"
    else:
        found, fix = "neither an image sub-*/*/sub-*.nii.gz nor a mask", "check the path"
    expected = "the folder that holds sub-*, and masks of them in derivatives"
    return NoInputError("E-PAIR-NOTHING", file=tree.root, found=found, expected=expected, fix=fix)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the NIfTI files of all subjects in order, links without content included."""
    for subject in sorted(folder.glob("sub-*")):
        for place, folders, names in os.walk(subject):
            folders.sort()
            yield from (Path(place, name) for name in sorted(names) if name.lower().endswith(NIFTI_SUFFIXES))


def _derivatives(root: Path, names: Iterable[str]) -> list[Path]:
    folders = []
    for name in names:
        choices = (root / "derivatives" / name, Path(name).expanduser())
        folder = next((choice for choice in choices if choice.is_dir()), None)
        if folder is None:
            known = _folders(root)
            raise UsageError(
                "E-PAIR-SOURCE",
                file=root / "derivatives" / name,
                found="no such folder",
                expected="a folder of masks",
                fix=f"name one with --derivatives; {nearest(name, known)}" if known else "check the path",
            )
        folders.append(folder)
    return folders


def _folders(root: Path) -> list[str]:
    there = root / "derivatives"
    return sorted(path.name for path in there.iterdir() if path.is_dir()) if there.is_dir() else []


def soft_files(root: Path, folder: str, endings: Sequence[str]) -> dict[str, Path]:
    """Return the soft masks of a folder below ``derivatives`` by the name of their image; earlier endings win.

    Raises UsageError when there is no such folder.
    """
    ranked: dict[str, tuple[int, Path]] = {}
    for path in _files(_derivatives(root, [folder])[0]):
        image, rest = split_stem(strip_suffix(path)) or ("", "")
        if rest in endings:
            found = (endings.index(rest), path)
            ranked[image] = min(ranked.get(image, found), found)
    return {image: path for image, (_, path) in ranked.items()}


def _add_masks(tree: Tree, folder: Path, classes: Collection[str]) -> None:
    """Add the masks of a folder; of two names for one mask the one that `STRUCTURES` lists first counts."""
    ranked: dict[tuple[str, str], tuple[int, Path]] = {}
    for path in _files(folder):
        image, rest = split_stem(strip_suffix(path)) or ("", "")
        for name in classes:
            names = STRUCTURES[name].masks
            if rest in names:
                found = (names.index(rest), path)
                ranked[image, name] = min(ranked.get((image, name), found), found)
        if rest.endswith(SOFT_ENDINGS):
            tree.soft.add(image)
    for (image, name), (_, path) in ranked.items():
        tree.masks.setdefault(image, {}).setdefault(name, path)


def subject_of(name: str) -> str:
    """Return the subject in the name of an image."""
    return name.split("_")[0]


def name_in(root: Path, path: Path) -> str:
    """Return a file's path below the root, or its name alone if it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

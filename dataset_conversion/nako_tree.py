"""The files of a NAKO-like tree: which scan each image and mask is of, told by the entities in its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.entities import Entities, entities_of_path
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.dataset_conversion.sidecars import json_beside

# Neck, chest and lumbar spine: Hals-, Brust- und Lendenwirbelsaeule.
CHUNKS = ("HWS", "BWS", "LWS")
STITCHED = "stitched"
# What a mask is, by its entity `seg`; of two masks of one kind the first is taken.
SEMANTIC, INSTANCES = ("spine", "subreg"), ("vert",)
MASK_SUFFIX = "msk"
# Not a folder of what is unstitched.
_STITCHED_FOLDER = re.compile(rf"(?<![a-z]){STITCHED}", re.IGNORECASE)
_COMPOSED_NAME = re.compile("compos", re.IGNORECASE)
# Without spaces, dashes and underscores. The chunks are called "... HWS", "... BWS", "... LWS".
_COMPOSED_SERIES = re.compile(r".*compos.*|sag(ittal)?t[12]w?(tse)?spine")


@dataclass(frozen=True, eq=False)
class TreeFile:
    """An image or mask: its path, its path below the source for reports, and what its name says."""

    path: Path
    name: str
    entities: Entities

    @property
    def subject(self) -> str:
        """Return ``sub-...``."""
        return f"sub-{self.entities.get('sub')}"

    @property
    def chunk(self) -> str:
        """Return the part of the body in capitals; nothing if the name does not say."""
        return self.entities.get("chunk").upper()

    @property
    def is_stitched(self) -> bool:
        """Whether somebody joined the chunks before: ``sequ-stitched``, or a folder called ``..._stitched``."""
        folders = Path(self.name).parts[:-1]
        return self.entities.get("sequ").lower() == STITCHED or any(_STITCHED_FOLDER.search(part) for part in folders)

    @property
    def sequence(self) -> int:
        """Return the number of the series, -1 if there is none: repeated scans have larger numbers."""
        number = self.entities.number("sequ")
        return -1 if number is None else number


@dataclass(frozen=True)
class Tree:
    """Everything of interest below the source.

    Parameters
    ----------
    images: of the wanted suffixes and entities.
    masks: ``seg-..._msk`` files of the kinds `SEMANTIC` and `INSTANCES`.
    others: images of other suffixes and entities; a mask of one of those is no stray.
    """

    images: tuple[TreeFile, ...]
    masks: tuple[TreeFile, ...]
    others: tuple[TreeFile, ...] = ()

    @property
    def subjects(self) -> set[str]:
        """Return who has an image."""
        return {image.subject for image in self.images}


def read_tree(
    source: str | Path, suffixes: Sequence[str], where: Mapping[str, str], derivatives: Sequence[str] = ()
) -> Tree:
    """Find images and masks at any depth.

    Parameters
    ----------
    suffixes: of the images: ``T2w``, ``T1w``, whatever the dixon images are called.
    where: entities that images must have, such as ``{"part": "water"}``.
    derivatives: folders (paths, or names below the source) to take masks from; none: the whole source.

    Raises
    ------
    UsageError: a folder that does not exist.
    NoInputError: no image of these suffixes.
    """
    root = _folder(Path(source).expanduser(), "the source")
    listed = list(_files(root, root))
    scans = [file for file in listed if "seg" not in file.entities.values and not _is_derived(file)]
    images = [file for file in scans if _is_wanted(file, suffixes, where)]
    if not images:
        raise _nothing(root, scans, suffixes, where)
    folders = [_derivatives(root, word) for word in derivatives]
    candidates = [file for folder in folders for file in _files(folder, folder.parent)] if folders else listed
    kinds = (*SEMANTIC, *INSTANCES)
    masks = [file for file in candidates if file.entities.suffix == MASK_SUFFIX and file.entities.get("seg") in kinds]
    return Tree(tuple(images), tuple(masks), tuple(file for file in scans if not _is_wanted(file, suffixes, where)))


def composed_reason(image: TreeFile) -> str | None:
    """Return why an image is taken for one that the scanner composed of chunks; None if nothing says so.

    Siemens' composing bends the chunks into each other: sizes and angles in it are not those of the patient.
    """
    words = (*image.entities.words, *image.entities.values.values())
    if any(_COMPOSED_NAME.search(word) for word in words):
        return "its name says that it is composed"
    facts = json_beside(image.path)
    series = str(facts.get("SeriesDescription") or facts.get("ProtocolName") or "")
    if _COMPOSED_SERIES.fullmatch(re.sub(r"[\s_-]+", "", series.lower())):
        return f"its series is called {series!r}"
    kind = facts.get("ImageType")
    # A list, or the DICOM value with its backslashes.
    listed = [str(word) for word in kind] if isinstance(kind, list) else str(kind).split("\\")
    token = next((word for word in listed if "COMPOSED" in word.upper() or word.upper().startswith("COMP_")), None)
    return None if token is None else f"its image type holds {token}"


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise UsageError(
            "E-IN-MISSING", file=path, found="no such folder", expected=what, fix="check the path and its spelling"
        )
    return path


def _derivatives(root: Path, word: str) -> Path:
    inside = root / word
    return inside if inside.is_dir() else _folder(Path(word).expanduser(), "a folder, or the name of one in the source")


def _files(folder: Path, root: Path) -> Iterator[TreeFile]:
    """Yield the images and masks below a folder in a stable order; links are followed, circles and hidden files not."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        # Hidden folders hold the content of annexed files under other names.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        for name in sorted(names):
            path = Path(place, name)
            relative = path.relative_to(root)
            entities = entities_of_path(relative)
            if entities.is_image and not name.startswith(".") and entities.get("sub"):
                yield TreeFile(path, relative.as_posix(), entities)


def _nothing(root: Path, scans: Sequence[TreeFile], suffixes: Sequence[str], where: Mapping[str, str]) -> NoInputError:
    """Return the error for a tree without a wanted image: `--where` lets none through, or no name has the suffix."""
    named = [file for file in scans if file.entities.suffix in suffixes]
    if named:
        words = " ".join(f"{key}={value}" for key, value in where.items())
        found = f"{len(named)} image(s), but none with --where {words}"
        known = {f"{key}={file.entities.get(key)}" for file in named for key in where if file.entities.get(key)}
        fix = f"--where: {nearest(words, known)}" if known else f"no name has {' or '.join(where)}: leave --where out"
    else:
        others = sorted({file.entities.suffix for file in scans})
        found = f"no image called sub-..._{suffixes[0]} at any depth"
        fix = f"--suffix: {nearest(suffixes[0], others)}" if others else "check the folder"
    return NoInputError("E-PAIR-NOTHING", file=root, found=found, expected="at least one", fix=fix)


def _is_wanted(file: TreeFile, suffixes: Sequence[str], where: Mapping[str, str]) -> bool:
    return file.entities.suffix in suffixes and all(file.entities.get(key) == value for key, value in where.items())


def _is_derived(file: TreeFile) -> bool:
    return any(part.lower().startswith("derivative") for part in Path(file.name).parts[:-1])

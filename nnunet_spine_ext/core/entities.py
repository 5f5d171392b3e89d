"""Names made of entities, as in BIDS: ``key-value`` pairs in any order, never read by their positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from nnunet_spine_ext.core.io import IMAGE_SUFFIXES

# Folders that say of which subject and session the files in them are.
_FOLDER_KEYS = ("sub", "ses")


@dataclass(frozen=True)
class Entities:
    """The parts of a name such as ``sub-7_sequ-3_chunk-HWS_T2w.nii.gz``.

    Parameters
    ----------
    values: entity to value, in the order of the name, keys in lower case; of a repeated key the first counts.
    suffix: the last word without a dash (``T2w``); nothing if there is none.
    extension: ``.nii.gz`` and the like, with its dot, as written.
    words: all words without a dash; derivatives with old names have several (``T2w``, ``seg``).
    """

    values: Mapping[str, str]
    suffix: str
    extension: str
    words: tuple[str, ...] = ()

    def get(self, key: str, default: str = "") -> str:
        """Return the value of an entity."""
        return self.values.get(key, default)

    def without(self, *keys: str) -> dict[str, str]:
        """Return the entities other than these."""
        return {key: value for key, value in self.values.items() if key not in keys}

    def number(self, key: str) -> int | None:
        """Return the value of an entity as a whole number (``010`` is 10); None if it is missing or none."""
        text = self.get(key)
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def is_image(self) -> bool:
        """Whether the extension is that of an image."""
        return self.extension.lower() in IMAGE_SUFFIXES


def parse_entities(name: str) -> Entities:
    """Return the entities of a file name (without folders).

    Words are separated by ``_``. A word with letters before its first dash is an entity; further dashes belong to its
    value (``labels-disc-manual``). Every name can be parsed: one of another kind has no entities.
    """
    known = next((end for end in IMAGE_SUFFIXES if name.lower().endswith(end)), PurePath(name).suffix)
    # A dot may also be part of a value: `sub-1.5_T2w`.
    extension = "" if "_" in known else name[len(name) - len(known) :]
    values: dict[str, str] = {}
    words = []
    for word in name[: len(name) - len(extension)].split("_"):
        key, dash, value = word.partition("-")
        if dash and key.isalnum() and value:
            values.setdefault(key.lower(), value)
        elif word:
            words.append(word)
    return Entities(values, words[-1] if words else "", extension, tuple(words))


def entities_of_path(path: str | PurePath) -> Entities:
    """Return the entities of a file's name and, where it lacks them, those of its ``sub-`` and ``ses-`` folders."""
    parts = PurePath(path).parts
    own = parse_entities(parts[-1])
    above: dict[str, str] = {}
    for folder in parts[:-1]:
        key, dash, value = folder.partition("-")
        if dash and value and key in _FOLDER_KEYS:
            above[key] = value
    missing = {key: value for key, value in above.items() if key not in own.values}
    return Entities(missing | dict(own.values), own.suffix, own.extension, own.words)


def agreement(image: Entities, other: Entities, *, beside: Iterable[str] = ()) -> int | None:
    """Return how many entities two names share; None if they name different scans.

    They do when an entity that both have differs, when `other` has one that the image lacks (unless `beside` lists it,
    because it says what the file is and not of which scan), or when the subjects differ.

    Parameters
    ----------
    beside: keys that do not tell scans apart, such as ``seg`` and ``desc``.
    """
    ignored = set(beside)
    if image.get("sub") != other.get("sub"):
        return None
    theirs = {key: value for key, value in other.values.items() if key not in ignored}
    if any(image.values.get(key) != value for key, value in theirs.items()):
        return None
    return len(theirs)

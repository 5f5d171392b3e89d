"""Files that list subjects: whom to leave out, whom to keep, whom to test on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, strip_suffix
from nnunet_spine_ext.core.splits import shorten

_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")
# What the keys of a file of splits may be called.
_SIDES = {
    "test": ("test", "test_list", "test_subjects", "testing", "test_set"),
    "train": ("train", "train_list", "train_subjects", "training", "train_set"),
    "val": ("val", "validation", "val_list", "val_subjects", "valid", "validation_list", "val_set"),
}


@dataclass
class Selection:
    """The subjects, and the single images, that the entries of lists name.

    Parameters
    ----------
    subjects: names as in the data set, ``sub-...``.
    images: subject to the names (without suffix) of its images that were named; a subject here need not be in
        `subjects`.
    unknown: entries that fit nothing in the data set.
    """

    subjects: set[str] = field(default_factory=set)
    images: dict[str, set[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def select(entries: Iterable[str], known: Collection[str]) -> Selection:
    """Find what entries name among the `known` subjects.

    An entry is a subject (``sub-unf01``, ``unf01``), a site (``beijingVerio``: every subject whose name is that and a
    number; it does not end in a digit itself, or ``unf1`` would stand for ``unf10`` and its like), or the path of an
    image or mask, on whatever machine it was written.
    """
    chosen = Selection()
    for entry in entries:
        named = _SUBJECT.findall(entry)
        subject = named[-1] if named else f"sub-{entry}"
        site = re.compile(re.escape(subject) + r"\d+")
        if entry.lower().endswith(IMAGE_SUFFIXES) and subject in known:
            chosen.images.setdefault(subject, set()).add(strip_suffix(entry))
        elif subject in known:
            chosen.subjects.add(subject)
        elif not subject[-1].isdigit() and (group := {name for name in known if site.fullmatch(name)}):
            chosen.subjects |= group
        else:
            chosen.unknown.append(entry)
    return chosen


def chosen_subjects(
    names: Sequence[str], file: str | Path | None, known: Collection[str]
) -> tuple[set[str], list[str]]:
    """Return the test subjects that options name, and what to say about those of the list that are not there.

    A published list may hold more subjects than a partial download; a name typed by hand is expected to exist.

    Parameters
    ----------
    names: subjects or sites, as `select` takes them.
    file: see `read_test_list`; None: no list.
    known: the subjects of the data set.

    Raises
    ------
    UsageError: a name that fits nobody; see also `read_test_list`.
    """
    chosen = select(names, known)
    wrong = [*chosen.unknown, *sorted(chosen.images)]
    if wrong:
        few = 20
        raise UsageError(
            "E-PAIR-SUBJECT",
            file="--test-subjects",
            found=f"{shorten(wrong)}: no subject here",
            expected="subjects of this data set",
            fix=nearest(wrong[0], known) if len(known) <= few else "check the spelling; lists go to --test-list",
        )
    listed = set(read_test_list(file)) if file is not None else set()
    absent = sorted(listed - set(known))
    notes = [f"warning: --test-list: {len(absent)} subject(s) are not here: {shorten(absent)}"] if absent else []
    return chosen.subjects | (listed & set(known)), notes


def read_entries(words: Iterable[str]) -> list[str]:
    """Return the entries of list files.

    Parameters
    ----------
    words: ``FILE`` for all its lists, or ``FILE:KEY[,KEY...]`` for those under these keys only. A file is YAML (a list,
        or lists under keys) or text with one entry per line.

    Raises
    ------
    UsageError: a file that cannot be read or holds something else, an unknown key.
    """
    entries: list[str] = []
    for word in words:
        path, keys = _split_word(word)
        lists = _lists(path)
        for key in keys:
            if key not in lists:
                raise _wrong(path, f"no list called {key!r}", "one of its lists", nearest(key, lists))
        for key, listed in lists.items():
            if not keys or key in keys:
                entries += listed
    return list(dict.fromkeys(entries))


def read_test_list(path: str | Path) -> list[str]:
    """Return the test subjects of a YAML file: a plain list, the list under ``test``, or one list per site.

    Lists of training and validation subjects in the same file are only looked at to find subjects on two sides.

    Raises
    ------
    UsageError: unreadable, no test list, or a subject in two of the lists.
    """
    lists = _lists(Path(path))
    side_of = {name: side for side, names in _SIDES.items() for name in names}
    sides: dict[str, set[str]] = {}
    for key, listed in lists.items():
        side = side_of.get(key.lower(), "test" if key == "" else "")
        if side:
            sides.setdefault(side, set()).update(_as_subject(entry) for entry in listed)
    if not sides and all(_of_site(key, listed) for key, listed in lists.items()):
        sides["test"] = {_as_subject(entry) for listed in lists.values() for entry in listed}
    if not sides.get("test"):
        found = f"the lists {shorten(list(lists))}" if lists else "no list"
        raise _wrong(path, found, "a list, or one under the key test", "rename the key of the test subjects to test")
    for one, other in (("test", "train"), ("test", "val"), ("train", "val")):
        both = sorted(sides.get(one, set()) & sides.get(other, set()))
        if both:
            raise UsageError(
                "E-SPLIT-TEST",
                file=path,
                found=f"subjects in {one} and in {other}: {shorten(both)}",
                expected="each subject in one list",
                fix="remove them from one of the lists",
            )
    return sorted(sides["test"])


def _as_subject(entry: str) -> str:
    named = _SUBJECT.findall(entry)
    return named[-1] if named else f"sub-{entry}"


def _of_site(site: str, entries: list[str]) -> bool:
    return all(re.fullmatch(rf"sub-{re.escape(site)}\d+", _as_subject(entry)) for entry in entries)


def _split_word(word: str) -> tuple[Path, list[str]]:
    path = Path(word).expanduser()
    name, colon, keys = word.rpartition(":")
    if path.exists() or not colon:
        return path, []
    return Path(name).expanduser(), [key.strip() for key in keys.split(",") if key.strip()]


def _lists(path: Path) -> dict[str, list[str]]:
    """Return the lists of a file by key; a file that is one list has it under the empty key."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fix = "check the path and its spelling" if isinstance(error, OSError) else "correct the file"
        raise _wrong(path, f"cannot be read ({error})", "YAML lists of subjects", fix) from error
    if isinstance(content, dict):
        return {str(key): _entries(path, value) for key, value in content.items()}
    return {"": _entries(path, content)}


def _entries(path: Path, value: Any) -> list[str]:
    """Return the texts of a list; lines without dashes are one text in YAML, and a list per site is flattened."""
    if value is None:
        return []
    if isinstance(value, str):
        return value.split()
    if isinstance(value, dict):
        return [entry for part in value.values() for entry in _entries(path, part)]
    if isinstance(value, list) and all(isinstance(entry, str | int) for entry in value):
        return [str(entry).strip() for entry in value]
    raise _wrong(path, f"{value!r}"[:80], "a list of subjects, sites or file names", "correct the file")


def _wrong(path: str | Path, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-PAIR-LIST", file=path, found=found, expected=expected, fix=fix)

"""What a report must not tell: folders of the machine it was made on, and names that stand in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

# A posix path is one only at the start of a word ("and/or", "mm/s" and https://… are none).
_POSIX = re.compile(r"(?<![\w.:/~])(?:~[\w.-]*)?/{1,2}(?:[^\s'\"<>|:;,()\[\]{}/]+/)*[^\s'\"<>|:;,()\[\]{}/]*")
_WINDOWS = re.compile(
    r"(?<!\w)(?:[A-Za-z]:[\\/]|\\\\(?=\w))(?:[^\\/\s'\"<>|:;,()\[\]{}]+[\\/])*[^\\/\s'\"<>|:;,()\[\]{}]*"
)
# What may follow a known path: more of the same path, else the end of the word.
_BELOW = r"(?P<below>(?:[\\/][^\\/\s'\"<>|:;,()\[\]{}]+)+)?[\\/]?(?![\w\\/-])"
# The last component of a home directory is the name of its user.
_HOME = re.compile(r"^(?:[A-Za-z]:)?[\\/](?:home|Users)[\\/][^\\/]+[\\/]?$")
_FILE_URL = re.compile(r"file://(?=/)")
# Words that make a key personal, in run.json and in files made from DICOM headers (PatientName, StudyDate, …).
_PERSONAL = (
    "host|hostname|node|user|username|login|cwd|home|environ|environment_variables|pid|station|serial|uid|guid|"
    "patient|patients|person|subject_name|birth|physician|physicians|operator|operators|institution|institutional|"
    "department|accession|address|telephone|phone|email|surname|first_name|last_name|"
    "(?:study|series|acquisition|content)_?(?:date|time)"
)
_PERSONAL_KEY = re.compile(rf"(?:^|_)(?:{_PERSONAL})(?:$|_)")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATOR = re.compile(r"[.\- ]")


def base_name(path: str | Path) -> str:
    """Return the last component of a posix or Windows path, whatever system this runs on; ``~`` for a home."""
    text = str(path).rstrip("/\\")
    if _HOME.match(text) or text == str(Path.home()):
        return "~"
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name or text


def is_personal(key: str) -> bool:
    """Whether a key names the machine, the user or a person, written as_words or AsWords."""
    words = _SEPARATOR.sub("_", _HUMP.sub("_", key)).lower()
    return _PERSONAL_KEY.search(words) is not None


class Redactor:
    """Replaces absolute paths in texts by their last component, unless told to show them.

    Parameters
    ----------
    show_paths: leave everything as it is.
    known: paths that are known to occur; they are recognised even when they contain blanks.
    """

    def __init__(self, *, show_paths: bool = False, known: Iterable[str | Path] = ()) -> None:
        self.show_paths = show_paths
        self._known: list[str] = []
        self.add(known)

    def add(self, paths: Iterable[str | Path]) -> None:
        """Tell more paths that may occur in texts."""
        texts = {str(path) for path in paths if _is_absolute(str(path))}
        self._known = sorted(texts | set(self._known), key=lambda text: (-len(text), text))

    def text(self, value: str) -> str:
        """Return the text without absolute paths."""
        if self.show_paths:
            return value
        value = _FILE_URL.sub("", value)
        for path in self._known:
            value = re.sub(re.escape(path) + _BELOW, partial(_last_below, path), value)
        return _WINDOWS.sub(_last, _POSIX.sub(_last, value))

    def path(self, value: str | Path) -> str:
        """Return what to show of one path."""
        return str(value) if self.show_paths else base_name(value)


def _last_below(known: str, match: re.Match[str]) -> str:
    return base_name(match["below"] or known)


def _is_absolute(text: str) -> bool:
    return len(text) > 1 and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute())


def _last(match: re.Match[str]) -> str:
    # A lone slash between blanks is punctuation.
    return base_name(match.group(0)) if len(match.group(0)) > 1 else match.group(0)

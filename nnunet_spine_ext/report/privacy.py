"""What a report must not tell: folders of the machine it was made on, and names that stand in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

# A posix path is one only at the start of a word ("and/or", "mm/s" and https://… are none).
_POSIX = re.compile(r"(?<![\w.:/~])~?/(?:[^\s'\"<>|:;,()\[\]{}/]+/)*[^\s'\"<>|:;,()\[\]{}/]*")
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:[\\/](?:[^\\/\s'\"<>|:;,()\[\]{}]+[\\/])*[^\\/\s'\"<>|:;,()\[\]{}]*")
_FILE_URL = re.compile(r"file://(?=/)")
_PERSONAL_KEY = re.compile(
    r"(?:^|[_.\- ])(?:host|hostname|node|user|username|login|cwd|home|environ|environment_variables|pid|patient|person)"
    r"(?:$|[_.\- ])",
    re.IGNORECASE,
)


def base_name(path: str | Path) -> str:
    """Return the last component of a posix or Windows path, whatever system this runs on."""
    text = str(path).rstrip("/\\")
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name or text


def is_personal(key: str) -> bool:
    """Whether a key of run.json names the machine, the user or a person."""
    return _PERSONAL_KEY.search(key) is not None


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
            value = value.replace(path, base_name(path))
        return _WINDOWS.sub(_last, _POSIX.sub(_last, value))

    def path(self, value: str | Path) -> str:
        """Return what to show of one path."""
        return str(value) if self.show_paths else base_name(value)


def _is_absolute(text: str) -> bool:
    return len(text) > 1 and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute())


def _last(match: re.Match[str]) -> str:
    # A lone slash between blanks is punctuation.
    return base_name(match.group(0)) if len(match.group(0)) > 1 else match.group(0)

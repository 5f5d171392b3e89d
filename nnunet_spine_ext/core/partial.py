"""The hidden folder in which a dataset grows, the record of what is finished in it, and the step into the open.

``.Dataset501_X.partial/`` lies beside ``Dataset501_X``: ``dataset/`` will be it, ``journal.jsonl`` has a line per
finished case, ``lock`` names the process that works there. Whatever moment the process is killed at, the folder says
what to do next; files are written whole (`core.io.atomic_path`) before the journal mentions them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import FileStamp, json_text, write_text
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.splits import shorten

_log = logging.getLogger(__name__)

JOURNAL_VERSION = 1
Entry = dict[str, Any]


class Journal:
    """A file of JSON lines: who writes what (the identity), then one line per finished case, then the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, identity: Mapping[str, Any], entries: Iterable[Entry] = ()) -> None:
        """Begin anew, or with what is still true."""
        lines = [{"version": JOURNAL_VERSION, "identity": identity}, *entries]
        try:
            write_text(self.path, "".join(f"{json_text(line)}\n" for line in lines))
        except OSError as error:
            raise unwritable(self.path, error, "free space or change the permissions") from error

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line; raises SetupError when it cannot be written, for without it nothing can be resumed."""
        try:
            with self.path.open("ab") as stream:
                stream.write(f"{json_text(entry)}\n".encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise unwritable(self.path, error, "free space or change the permissions") from error

    def read(self) -> tuple[dict[str, Any] | None, list[Entry]]:
        """Return the identity and the entries; None if there is no usable journal.

        A line that a kill cut short ends the journal.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            return None, []
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            return None, []
        if not lines or lines[0].get("version") != JOURNAL_VERSION:
            return None, []
        return lines[0]["identity"], lines[1:]


class Partial:
    """The hidden folder of a dataset.

    Attributes
    ----------
    final: the folder that the dataset will be.
    data: where it grows; `masks`: masks whose class ids are not known yet; `journal`: what is finished.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.partial")
        self.data = self.path / "dataset"
        self.masks = self.path / "source_labels"
        self.journal = Journal(self.path / "journal.jsonl")
        self._aside = self.path / "replaced"
        self._lock = self.path / "lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, and put right what one that was killed while replacing a dataset left.

        Raises UsageError when the folder cannot be used, SetupError when another process uses it.
        """
        lock = file_lock(self._lock, what=f"writing {self.final.name}")
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock)
            except OSError as error:
                raise unusable_folder(self.path if self.path.exists() else self.path.parent, error) from error
            if self._aside.exists() and not self.final.exists():
                self._aside.rename(self.final)
            yield

    def is_published(self, identity: Mapping[str, Any]) -> bool:
        """Whether the dataset of this identity got its name, and only what comes after that is missing."""
        known, entries = self.journal.read()
        complete = any(entry.get("complete") for entry in entries)
        return complete and known == plain(identity) and self.final.is_dir() and not self.data.exists()

    def begin(self, identity: Mapping[str, Any] | None, *, resume: bool) -> dict[str, Entry]:
        """Make the folder ready; return the entries of the finished cases that need not be done again, by case.

        Parameters
        ----------
        identity: what makes two runs the same; None: a run that cannot be resumed keeps no journal.
        resume: go on with what is there, if its identity is the same.
        """
        entries: dict[str, Entry] = {}
        known, listed = self.journal.read()
        if known is not None and self.data.is_dir():
            if not resume:
                _log.warning(
                    "%s: removed what an interrupted run left (%d finished cases); --resume would have continued it",
                    self.path,
                    sum("case" in entry for entry in listed),
                )
            elif identity is not None and (differences := list(_differences(known, plain(identity)))):
                _log.warning("%s: starting anew, because %s", self.path, "; ".join(differences))
            else:
                entries = {entry["case"]: entry for entry in listed if "case" in entry}
                entries = {case: entry for case, entry in entries.items() if self._is_whole(entry)}
        self._clear(entries)
        self.data.mkdir(exist_ok=True)
        if identity is not None:
            self.journal.start(identity, entries.values())
        return entries

    def publish(self, *, overwrite: bool) -> None:
        """Rename the finished dataset to its final name; an old one steps aside first and returns if that fails."""
        self.journal.append({"complete": True})
        replaces = overwrite and self.final.exists()
        if replaces:
            self.final.rename(self._aside)
        try:
            self.data.rename(self.final)
        except OSError as error:
            if replaces:
                self._aside.rename(self.final)
            raise UsageError(
                "E-DATASET-EXISTS",
                file=self.final,
                found=f"the folder appeared while the dataset was being written ({error.strerror or error})",
                expected="one writer per dataset",
                fix="wait for the other run, or choose another id",
            ) from error
        _sync(self.final.parent)

    def discard(self) -> None:
        """Remove the folder: in one step for whoever looks for it, then file by file."""
        self._remove(self.path)

    def _remove(self, folder: Path) -> None:
        """Remove a folder so that a kill leaves all of it or none; also what such a kill left to be removed."""
        name = f".{self.final.name}.trash-"
        folder.rename(folder.parent / f"{name}{os.getpid()}")
        for old in folder.parent.glob(f"{name}*"):
            shutil.rmtree(old, ignore_errors=True)

    def _is_whole(self, entry: Entry) -> bool:
        """Whether the sources of a finished case are what they were, and its files are all there."""
        same = all(_size_and_time(Path(row["path"])) == (row["size"], row["mtime_ns"]) for row in entry["sources"])
        return same and all(_size(self.path / name) == size for name, size in entry["outputs"].items())

    def _clear(self, entries: Mapping[str, Entry]) -> None:
        """Remove all files but the lock and those of the given entries (and with them the journal)."""
        if self._aside.exists():
            self._remove(self._aside)
        if not entries:
            self.journal.path.unlink(missing_ok=True)
        kept = {self.path / name for entry in entries.values() for name in entry["outputs"]}
        kept |= {self._lock, self.journal.path}
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in kept:
                path.unlink()


def case_entry(
    root: Path, case: str, stamps: Sequence[FileStamp], outputs: Sequence[Path], record: Mapping[str, Any], extra: Any
) -> Entry:
    """Return the journal's line for a finished case; `outputs` are inside `root`."""
    return {
        "case": case,
        "sources": [{"path": str(s.path.absolute()), "size": s.size, "mtime_ns": s.mtime_ns} for s in stamps],
        "outputs": {path.relative_to(root).as_posix(): path.stat().st_size for path in outputs},
        "record": record,
        "extra": extra,
    }


def unwritable(path: Path, error: OSError, fix: str) -> SetupError:
    """Return the error for a file that cannot be written."""
    return SetupError(
        "E-OUT-WRITE",
        file=path,
        found=f"cannot be written ({error.strerror or error})",
        expected="room on the disk and the right to write",
        fix=fix,
    )


def unusable_folder(folder: Path, error: OSError) -> UsageError:
    """Return the error for a folder in which nothing can be written."""
    return UsageError(
        "E-OUT-FOLDER",
        file=folder,
        found=f"cannot be used as output folder ({error.strerror or error})",
        expected="a folder that can be written to",
        fix="choose another folder or change its permissions",
    )


def check_folder(folder: Path) -> None:
    """Raise UsageError when nothing can be written into a folder, or it cannot be made; it is not made.

    Permission bits say nothing about read-only mounts, quotas and root: only writing tells.
    """
    try:
        existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
        # In a file, or a file itself, this is the error of the system.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise unusable_folder(folder, error) from error


def plain(content: Any) -> Any:
    """Return what comes back when content is written as JSON and read again."""
    return json.loads(json_text(content))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Say in words in what two identities differ."""
    gone, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    prefix = f"{where} " if where else ""
    if gone:
        yield f"{prefix}{shorten(gone, 4)} is not there any more"
    if added:
        yield f"{prefix}{shorten(added, 4)} is new"
    changed = [key for key in old if key in new and old[key] != new[key]]
    nested = [key for key in changed if isinstance(old[key], dict) and isinstance(new[key], dict)]
    for key in nested:
        yield from _differences(old[key], new[key], f"{prefix}{key}")
    simple = [f"{key} was {old[key]!r} and is {new[key]!r}" for key in changed if key not in nested]
    if simple:
        yield f"{prefix}{shorten(simple, 4)}"


def _size(path: Path) -> int | None:
    status = _size_and_time(path)
    return None if status is None else status[0]


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _sync(folder: Path) -> None:
    """Make a rename last, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        _log.debug("%s: cannot be synced", folder)
    finally:
        os.close(descriptor)

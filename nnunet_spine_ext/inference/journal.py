"""The record of a run: one line per case, a lock against a second run, and what lets a run be resumed safely."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.io import read_volume, sha256

logger = logging.getLogger(__name__)
JOURNAL = "cases.jsonl"
RUN = "run.json"
_LOCK = ".nnunet_spine.lock"


class Journal:
    """Append-only `cases.jsonl`: the last line of a case is its state.

    A line is written whole and fsynced, so an interrupted run leaves at most one truncated last line, which is
    ignored on reading.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the last entry of each case."""
        entries: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            return entries
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                entries[entry["case"]] = entry
            except (json.JSONDecodeError, KeyError, TypeError):
                logger.warning("%s: ignoring a damaged line", self.path)
        return entries

    def append(self, entry: dict[str, Any]) -> None:
        """Add the entry of a case; raises SetupError when it cannot be written: without it a run must not go on."""
        try:
            # A line cut off by a crash must not swallow the next one.
            cut = self.path.is_file() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(("\n" if cut else "") + json.dumps(entry, ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise SetupError(
                "E-OUT-WRITE",
                file=self.path,
                found=f"cannot be written ({error.strerror or error})",
                expected="room on the disk and the right to write",
                fix="free space or change the permissions, then run again with --resume",
            ) from error


def is_finished(entry: dict[str, Any] | None, mask: Path, inputs: list[dict[str, str]], fingerprint: str) -> bool:
    """Whether a case need not be predicted again; if it was done and does not count, the log says why.

    The journal says done, with the same input bytes and the same model and options (`fingerprint`), and every output
    file it lists is there with the bytes that were written; the mask opens. Mere existence proves nothing.
    """
    if not entry or entry.get("status") != "done":
        return False
    reason = _what_changed(entry, mask, inputs, fingerprint)
    if reason:
        logger.info("%s is done again: %s", entry.get("case", mask.name), reason)
    return not reason


def _what_changed(entry: Mapping[str, Any], mask: Path, inputs: list[dict[str, str]], fingerprint: str) -> str:
    """Return why a case that was done does not count; empty if it does."""
    if entry.get("fingerprint") != fingerprint:
        return "it was done with another model or other options"
    before, now = ([row["sha256"] for row in rows] for rows in (entry.get("input", []), inputs))
    if not all(now):
        return "its input cannot be read"
    if before != now:
        return "its input has changed"
    outputs = entry.get("outputs", {})
    if mask.name not in outputs:
        return "its mask is not among the files that were written"
    for name, digest in outputs.items():
        if hash_of(mask.parent / name) != digest:
            return f"{name} is missing or not as it was written"
    try:
        read_volume(mask)
    except (OSError, CaseError):
        return f"{mask.name} cannot be read"
    return ""


@dataclass(frozen=True)
class IntensityChanges:
    """What matching did to a case."""

    noise_reduced: bool
    matched: bool


def intensity_changes(entry: Mapping[str, Any]) -> IntensityChanges | None:
    """Return what matching did to a case, by its line in the journal; None where that does not say."""
    channels = (entry.get("intensity") or {}).get("channels", [])
    if not channels:
        return None
    return IntensityChanges(
        noise_reduced=any((channel.get("noise") or {}).get("after") is not None for channel in channels),
        matched=any(not channel["skipped"] for channel in channels),
    )


def hash_of(file: Path) -> str:
    """Return the hash of a file, nothing if it cannot be read: the gatekeeper says why."""
    try:
        return sha256(file)
    except OSError:
        return ""


@contextmanager
def folder_lock(folder: Path, *, part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Keep a second run out of an output folder; the parts (number, of how many) of one run may share it.

    Raises SetupError naming process and host while another run is alive; a lock whose process has ended (on this
    host) is taken over.
    """
    number, parts = part
    path = folder / (_LOCK if parts == 1 else f"{_LOCK}.{number}of{parts}")
    _take(path)
    try:
        # Looked at after the own lock is there: of two runs that start at once at least one sees the other.
        for other in sorted(folder.glob(f"{_LOCK}*")):
            if other != path and (parts == 1 or not other.name.endswith(f"of{parts}")):
                _refuse_if_alive(other)
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    """Create a lock file; take over one whose process has ended."""
    content = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    for attempt in (1, 2):
        try:
            with path.open("x") as stream:
                stream.write(content)
        except FileExistsError:
            _refuse_if_alive(path)
            if attempt == 1:
                logger.warning("%s: taking over the lock of a run that has ended", path.parent)
                path.unlink(missing_ok=True)
        else:
            return
    raise _locked(path, "that started at the same moment")


def _refuse_if_alive(path: Path) -> None:
    try:
        owner = json.loads(path.read_text())
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if host == socket.gethostname() and not _alive(pid):
        return
    raise _locked(path, f"(process {pid} on {host})")


def _locked(path: Path, who: str) -> SetupError:
    return SetupError(
        "E-OUT-LOCKED",
        file=path.parent,
        found=f"another run in this folder {who}",
        expected="one run per output folder",
        fix=f"wait for it, choose another -o, or delete {path.name} if that run is dead",
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

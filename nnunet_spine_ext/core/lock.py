"""One writer per folder: a lock file that names its process and host.

The operating system holds the lock and frees it when the process ends, however it ends; the text in the file is for
people. Where files cannot be locked, or the text names another host, the text decides.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from nnunet_spine_ext.core.errors import SetupError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)
_WAIT_S = 0.1


@contextmanager
def file_lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path`, whose folder exists; it stays behind, empty, if nobody removes it.

    A lock of a process of this host that has ended is taken over. `what` is done under the lock, for the message.

    Raises
    ------
    SetupError: another process holds the lock, or may hold it on another host.
    """
    file, certain = _open_current(path, what)
    with file:
        _refuse_if_alive(path, file, what, certain=certain)
        _write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            _write(file, "")


@contextmanager
def waiting_lock(path: Path, *, what: str, patience_s: float = 60.0) -> Iterator[None]:
    """Hold a lock as `file_lock` does, for work of moments: while another process holds it, wait.

    Raises
    ------
    SetupError: it is still held after `patience_s` seconds.
    """
    end = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(file_lock(path, what=what))
                break
            except SetupError as error:
                if error.code != "E-OUT-LOCKED" or time.monotonic() > end:
                    raise
                time.sleep(_WAIT_S)
        yield


def _open_current(path: Path, what: str) -> tuple[FileIO, bool]:
    """Open and lock the file that has this name now, whose folder may be replaced meanwhile; whether it is locked."""
    while True:
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            certain = _lock(path, file, what)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, certain
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(path: Path, file: FileIO, what: str) -> bool:
    """Ask the system for the lock; whether it gave it (False: it cannot)."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(path, _owner(file), what) from error
    except OSError as error:
        _log.debug("%s: cannot be locked (%s)", path, error)
        return False
    return True


def _refuse_if_alive(path: Path, file: FileIO, what: str, *, certain: bool) -> None:
    """Look at whom the lock file names; `certain`: on this host nobody holds it."""
    owner = _owner(file)
    if owner is None:
        return
    pid, host = owner
    if host != socket.gethostname() or not (certain or _has_ended(pid)):
        raise _held(path, owner, what)
    _log.info("%s: process %d has ended; its lock is taken over", path, pid)


def _has_ended(pid: int) -> bool:
    if os.name == "nt":
        return False  # signal 0 would end a process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _owner(file: FileIO) -> tuple[int, str] | None:
    file.seek(0)
    try:
        content = json.loads(file.read(4096))
        return int(content["pid"]), str(content["host"])
    except (ValueError, KeyError, TypeError):
        return None


def _write(file: FileIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text.encode())
    os.fsync(file.fileno())


def _held(path: Path, owner: tuple[int, str] | None, what: str) -> SetupError:
    who = f"process {owner[0]} on {owner[1]}" if owner else "another process"
    return SetupError(
        "E-OUT-LOCKED",
        file=path.parent,
        found=f"{who} is {what}",
        expected="one process at a time",
        fix=f"wait for it; if it is not running any more, delete {path}",
    )

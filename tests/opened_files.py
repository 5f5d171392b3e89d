"""How often files are opened, as the system counts it: also what C++ libraries open is seen."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_IN_OPEN, _IN_CLOSE, _IN_ISDIR = 0x20, 0x08 | 0x10, 0x40000000


@contextmanager
def count_opens(root: Path) -> Iterator[Counter[str]]:
    """Count how often each file below `root` is opened inside the block, by its name relative to `root`.

    Skips the test where the system does not tell (inotify is Linux's).
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "inotify_init1"):
        pytest.skip("no inotify here")
    descriptor = library.inotify_init1(os.O_NONBLOCK)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    # Closing is watched too: equal events that follow each other would be counted once.
    watched = {
        library.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN | _IN_CLOSE): folder for folder in folders
    }
    counts: Counter[str] = Counter()
    try:
        yield counts
        for folder, mask, name in _events(descriptor, watched):
            if mask & _IN_OPEN and not mask & _IN_ISDIR:
                counts[str((folder / name).relative_to(root))] += 1
    finally:
        os.close(descriptor)


def _events(descriptor: int, watched: dict[int, Path]) -> Iterator[tuple[Path, int, str]]:
    while True:
        try:
            content = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        while content:
            watch, mask, _, length = struct.unpack_from("iIII", content)
            assert watch >= 0, "too many events for the queue"
            yield watched[watch], mask, content[16 : 16 + length].rstrip(b"\0").decode()
            content = content[16 + length :]

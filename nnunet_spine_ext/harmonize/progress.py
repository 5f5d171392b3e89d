"""How far long work is: a bar on a terminal, else a line in the log now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)
# Often enough to see that something happens, seldom enough for the log of a night.
_EVERY_S = 30.0


def paced(items: Iterable[T], what: str, total: int, *, units: str = "steps") -> Iterator[T]:
    """Yield items, and tell how many of them are done; processes whose messages are off tell nothing.

    Parameters
    ----------
    what: is done with them, as the bar and the log say it. total: how many there are. units: what they are.
    """
    from tqdm import tqdm

    # Of several processes all but the first are silent.
    silent = not _log.isEnabledFor(logging.ERROR)
    bar = tqdm(items, desc=what, total=total, unit=f" {units}", disable=True if silent else None, leave=False)
    if not bar.disable:
        yield from bar
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= _EVERY_S and done < total:
            said = now
            left = (now - started) / done * (total - done)
            _log.info("%s: %d of %d %s, about %s left", what, done, total, units, duration(left))


def duration(seconds: float) -> str:
    """Return a time to wait in words: seconds, or minutes from one and a half on."""
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"

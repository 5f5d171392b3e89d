"""Items worked on in several processes, a little ahead of who takes the results, in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from nnunet_spine_ext.core.errors import SetupError

Item = TypeVar("Item")
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def work_ahead(
    items: Sequence[Item], function: Callable[[Item, Job], Outcome], job: Job, jobs: int, *, died: SetupError
) -> Iterator[tuple[Item, Outcome]]:
    """Yield ``function(item, job)`` for every item in the given order.

    With `jobs` processes at most one item per process is worked on ahead, so memory does not grow with their number.
    With one process, or one item, everything is done in this one. What the function raises ends the rest.

    Parameters
    ----------
    function: of a module: processes import it.
    job: sent once to each process, not with every item.
    died: what is raised when a process dies, probably for want of memory.

    Raises
    ------
    SetupError: `died`.
    """
    jobs = min(jobs, len(items))
    if jobs > 1:
        yield from _parallel(items, function, job, jobs, died)
        return
    for item in items:
        yield item, function(item, job)


# What the processes of a pool work on.
_shared: list[tuple[Callable[[Any, Any], Any], Any]] = []


def _start_worker(function: Callable[[Any, Any], Any], job: Any) -> None:
    # Ctrl-C reaches the whole process group; only the parent answers, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared[:] = [(function, job)]


def _work(item: Any) -> Any:
    function, job = _shared[0]
    return function(item, job)


def _parallel(
    items: Sequence[Item], function: Callable[[Item, Job], Outcome], job: Job, jobs: int, died: SetupError
) -> Iterator[tuple[Item, Outcome]]:
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker, (function, job))
    try:
        waiting: deque[tuple[Item, Future[Outcome]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(_work, item)))
            if len(waiting) > jobs:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise died from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

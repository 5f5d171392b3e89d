"""Many cases in several processes, in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from nnunet_spine_ext.core.errors import SetupError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def each_case(
    cases: Sequence[str], function: Callable[[str, Job], Outcome], job: Job, jobs: int
) -> Iterator[tuple[str, Outcome]]:
    """Yield ``function(case, job)`` for every case in the given order, from `jobs` processes.

    Parameters
    ----------
    function: of a module (processes import it); it never raises.
    job: sent once to each process, not with every case.

    Raises
    ------
    SetupError: a process died, probably for want of memory.
    """
    if jobs > 1 and len(cases) > 1:
        yield from _parallel(cases, function, job, min(jobs, len(cases)))
        return
    for case in cases:
        yield case, function(case, job)


# What the processes of a pool work on.
_shared: list[tuple[Callable[[str, Any], Any], Any]] = []


def _start_worker(function: Callable[[str, Any], Any], job: Any) -> None:
    # Ctrl-C reaches the whole process group; only the parent answers, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _shared[:] = [(function, job)]


def _work(case: str) -> Any:
    function, job = _shared[0]
    return function(case, job)


def _parallel(
    cases: Sequence[str], function: Callable[[str, Job], Outcome], job: Job, jobs: int
) -> Iterator[tuple[str, Outcome]]:
    """Work ahead by at most one case per process."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker, (function, job))
    try:
        waiting: deque[tuple[str, Future[Outcome]]] = deque()
        for case in cases:
            waiting.append((case, pool.submit(_work, case)))
            if len(waiting) > jobs:
                name, future = waiting.popleft()
                yield name, future.result()
        for name, future in waiting:
            yield name, future.result()
    except BrokenProcessPool as error:
        raise SetupError(
            "E-EVAL-WORKER",
            found="a process ended without a result, perhaps for want of memory",
            expected="enough memory for --jobs cases at once",
            fix="use fewer --jobs; nothing was written",
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

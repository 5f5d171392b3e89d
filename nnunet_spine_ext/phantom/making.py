"""Spines made one after another, or ahead in several processes, in the same order."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject

Task = tuple[ScanRequest, int]
"""What to scan, and the number of the subject."""


def make_scans(tasks: Sequence[Task], jobs: int = 1) -> Iterator[Scan]:
    """Yield the scans of all subjects in order, with a progress bar over subjects.

    Raises
    ------
    SetupError: a process died.
    """
    from tqdm import tqdm

    jobs = min(jobs, len(tasks))
    subjects = _serial(tasks) if jobs <= 1 else _parallel(tasks, jobs)
    for scans in tqdm(subjects, total=len(tasks), desc="spines", unit="spine", disable=None):
        yield from scans


def _serial(tasks: Sequence[Task]) -> Iterator[list[Scan]]:
    for request, index in tasks:
        yield scan_subject(request, index)


def _parallel(tasks: Sequence[Task], jobs: int) -> Iterator[list[Scan]]:
    """Compute ahead by at most one subject per process, so that memory does not grow with their number."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches the whole process group; only this process answers, and ends the others.
    pool = ProcessPoolExecutor(jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        waiting: deque[Future[list[Scan]]] = deque()
        for request, index in tasks:
            waiting.append(pool.submit(scan_subject, request, index))
            if len(waiting) > jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise SetupError(
            "E-PHANTOM-WORKER",
            found="a process ended without a result, perhaps for want of memory",
            expected="enough memory for --jobs spines at once",
            fix="use fewer --jobs or larger voxels",
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

"""Processes that do the steps of a study; they end, with what they started, when the study does."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.study.steps import Step, problem_of

logger = logging.getLogger(__name__)
Answer = tuple[str, float, Any, Problem | None]

# Commands that this process waits for.
_children: set[subprocess.Popen[bytes]] = set()


class Workers:
    """Does steps in `jobs` processes.

    Parameters
    ----------
    environment: variables of the processes. log: file that gets the tracebacks of steps that failed.
    inline: do one step after the other in this process; if it is killed, commands that it waits for go on.
    """

    def __init__(self, jobs: int, environment: dict[str, str], log: Path, *, inline: bool = False) -> None:
        self.jobs = 1 if inline else jobs
        self._inline = inline
        self._environment = environment
        self._log = log
        self._futures: dict[Future[Answer], Step] = {}
        self._ready: list[Answer] = []
        self._pool: ProcessPoolExecutor | None = None
        self._before: dict[str, str | None] = {}

    def submit(self, step: Step) -> None:
        """Start a step; inline it is done here and now."""
        if self._inline:
            self._ready.append(_do(step.name, step.work, dict(step.arguments), self._log))
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, context, _begin, (self._environment,))
        future = self._pool.submit(_do, step.name, step.work, dict(step.arguments), self._log)
        self._futures[future] = step

    def next(self) -> Answer:
        """Return name, seconds, answer and problem of a step that has ended, waiting for one if need be."""
        if self._ready:
            return self._ready.pop(0)
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        future = done.pop()
        step = self._futures.pop(future)
        try:
            return future.result()
        except BrokenProcessPool:
            self._replace()
            found = "a process ended without a result, perhaps for want of memory"
            expected, fix = "enough memory for --jobs steps at once", "use fewer --jobs"
            problem = Problem("error", "E-STUDY-WORKER", step.name, found, expected, fix)
            return step.name, 0.0, None, problem

    def _replace(self) -> None:
        """Forget a broken pool; the steps that ran beside the one that died come back as broken, too."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Workers:
        self._before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._pool is None:
            return
        if kind is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def run_command(command: Sequence[str], log: Path, environment: dict[str, str]) -> int:
    """Run a command to its end, with everything it says in `log`; return its exit code."""
    with log.open("ab") as stream:
        child = subprocess.Popen(
            list(command), stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=os.name != "nt"
        )
        _children.add(child)
        try:
            return child.wait()
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command and what it started."""
    _children.discard(child)
    if child.poll() is None:
        if os.name == "nt":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _begin(environment: dict[str, str]) -> None:
    """Prepare a process: its variables, who answers Ctrl-C, and its end with that of the study."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _leave())
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """Wait for the end of the process that started this one: killed, it cannot say so."""
    wait_for([sentinel])
    _leave()


def _leave() -> None:
    for child in list(_children):
        _end(child)
    os._exit(1)


def _do(name: str, work: Any, arguments: dict[str, Any], log: Path) -> Answer:
    """Do one step; whatever goes wrong is its answer."""
    start = time.perf_counter()
    try:
        answer = work(**arguments)
    except Exception as error:
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"\n{name}\n{traceback.format_exc()}")
        return name, time.perf_counter() - start, None, problem_of(name, error)
    return name, time.perf_counter() - start, answer, None

"""Items worked on ahead in several processes: in order, not too far ahead, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.processes import work_ahead

DIED = SetupError("E-TEST-WORKER", found="a dead process", expected="a living one", fix="try again")


def process_of(item: int, job: int) -> tuple[int, int]:
    """Say what was worked on, and where."""
    return item * job, os.getpid()


def slower_first(item: int, job: list[int]) -> int:
    """Take longer for earlier items."""
    time.sleep(0.05 * (len(job) - item))
    return item


def mark(item: int, job: Path) -> int:
    """Leave a file that says that an item was begun."""
    (job / str(item)).touch()
    return item


def fail_at_two(item: int, _job: None) -> int:
    """Fail, with the name of the case."""
    if item == 2:
        raise CaseError("E-TEST-CASE", file="case two", found="nothing", expected="a case", fix="none")
    return item


def die_at_two(item: int, _job: None) -> int:
    """End the process."""
    if item == 2:
        os._exit(9)
    return item


@pytest.mark.parametrize(("items", "jobs"), [(range(3), 1), (range(1), 4), (range(0), 4)])
def test_one_process_or_one_item_needs_no_pool(items: range, jobs: int) -> None:
    made = list(work_ahead(items, process_of, 10, jobs, died=DIED))
    assert made == [(item, (10 * item, os.getpid())) for item in items]


def test_several_processes_give_the_same_order() -> None:
    items = list(range(6))
    made = list(work_ahead(items, slower_first, items, 3, died=DIED))
    assert made == [(item, item) for item in items]


def test_no_more_is_worked_on_than_one_item_per_process_ahead(tmp_path: Path) -> None:
    made: Iterator[tuple[int, int]] = work_ahead(range(9), mark, tmp_path, 2, died=DIED)
    assert next(made) == (0, 0)
    time.sleep(0.3)
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2"}
    assert [item for item, _ in made] == list(range(1, 9))


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_says_its_case_and_ends_the_rest(jobs: int) -> None:
    made = work_ahead(range(9), fail_at_two, None, jobs, died=DIED)
    assert [next(made), next(made)] == [(0, 0), (1, 1)]
    with pytest.raises(CaseError, match="case two"):
        next(made)
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_the_error_that_was_given() -> None:
    with pytest.raises(SetupError) as caught:
        list(work_ahead(range(6), die_at_two, None, 2, died=DIED))
    assert caught.value is DIED


def test_whoever_stops_listening_leaves_no_process_behind() -> None:
    made = work_ahead(range(6), process_of, 1, 2, died=DIED)
    next(made)
    assert multiprocessing.active_children()
    made.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_an_interrupt_ends_the_workers_at_once_and_is_told_once(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys, time
            from pathlib import Path
            from nnunet_spine_ext.core.errors import SetupError
            from nnunet_spine_ext.core.processes import work_ahead

            def endless(item, job):
                (Path(job) / f"pid_{os.getpid()}").touch()
                time.sleep(600)

            if __name__ == "__main__":
                died = SetupError("E-TEST-WORKER", found="", expected="", fix="")
                list(work_ahead(range(4), endless, sys.argv[1], 2, died=died))
        """)
    )
    child = subprocess.Popen(
        [sys.executable, script, tmp_path], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("pid_*"))) < 2 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    workers = [int(path.name.removeprefix("pid_")) for path in tmp_path.glob("pid_*")]
    assert len(workers) == 2
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert said.count("KeyboardInterrupt") == 1
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

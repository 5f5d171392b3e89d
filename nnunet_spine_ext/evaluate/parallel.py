"""Many cases in several processes, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.processes import work_ahead

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
    died = SetupError(
        "E-EVAL-WORKER",
        found="a process ended without a result, perhaps for want of memory",
        expected="enough memory for --jobs cases at once",
        fix="use fewer --jobs; nothing was written",
    )
    return work_ahead(cases, function, job, jobs, died=died)

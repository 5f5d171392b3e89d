"""Spines made one after another, or ahead in several processes, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.processes import work_ahead
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

    died = SetupError(
        "E-PHANTOM-WORKER",
        found="a process ended without a result, perhaps for want of memory",
        expected="enough memory for --jobs spines at once",
        fix="use fewer --jobs or larger voxels",
    )
    subjects = work_ahead(tasks, _scans_of, None, jobs, died=died)
    for _, scans in tqdm(subjects, total=len(tasks), desc="spines", unit="spine", disable=None):
        yield from scans


def _scans_of(task: Task, _job: None) -> list[Scan]:
    return scan_subject(*task)

"""Which cases of stock prediction have a mask but no instances: its exit code cannot tell, a file can."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_json, write_text
from nnunet_spine_ext.core.lock import waiting_lock
from nnunet_spine_ext.inference.phases import qc_file, qc_folder

# Beside the masks; there only while a case lacks its instances.
FAILURES = "without_instances.txt"


def failed_cases(folder: Path) -> list[str]:
    """Return the cases of a prediction folder whose phases failed, as their QC files say, sorted."""
    return sorted(path.stem for path in qc_folder(folder).glob("*.json") if _failed(path))


def list_failures(folder: Path, case: str | None = None) -> None:
    """Write the names of the cases whose phases failed, one per line; without any the list goes away.

    `case`: the only one that changed since the list was written: no other QC file is read, of which there may be many.
    Processes that write masks side by side wait for each other. A full disk or a folder that stays locked is no error:
    a mask that is complete would be lost with it, and the log has the names as well.
    """
    with contextlib.suppress(OSError, SpineExtError):
        quality = qc_folder(folder)
        quality.mkdir(parents=True, exist_ok=True)
        with waiting_lock(quality / ".lock", what="listing cases without instances"):
            names = failed_cases(folder) if case is None else _with(folder, case)
            if names:
                write_text(folder / FAILURES, "".join(f"{name}\n" for name in names))
            else:
                (folder / FAILURES).unlink(missing_ok=True)


def _with(folder: Path, case: str) -> list[str]:
    """Return the names of the list with or without a case, as its QC file says, sorted; all anew if there is none."""
    path = folder / FAILURES
    if not path.is_file():
        return failed_cases(folder)
    names = {name for name in path.read_text(encoding="utf-8").splitlines() if qc_file(folder, name).is_file()}
    return sorted(names | {case} if _failed(qc_file(folder, case)) else names - {case})


def _failed(path: Path) -> bool:
    try:
        content = read_json(path)
    except SpineExtError:
        return False
    return isinstance(content, dict) and "error" in content

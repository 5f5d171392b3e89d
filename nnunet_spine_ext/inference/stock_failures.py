"""Which cases of stock prediction have a mask but no instances: its exit code cannot tell, a file can."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_json, write_text
from nnunet_spine_ext.core.lock import waiting_lock
from nnunet_spine_ext.inference.phases import qc_file

# Beside the masks; there only while a case lacks its instances.
FAILURES = "without_instances.txt"


def failed_cases(folder: Path) -> list[str]:
    """Return the cases of a prediction folder whose phases failed, as their QC files say, sorted."""
    return sorted(path.stem for path in qc_file(folder, "x").parent.glob("*.json") if _failed(path))


def list_failures(folder: Path) -> None:
    """Write the names of the cases whose phases failed, one per line; without any the list goes away.

    Processes that write masks side by side wait for each other. A full disk or a folder that stays locked is no error:
    a mask that is complete would be lost with it, and the log has the names as well.
    """
    with contextlib.suppress(OSError, SpineExtError):
        quality = qc_file(folder, "x").parent
        quality.mkdir(parents=True, exist_ok=True)
        with waiting_lock(quality / ".lock", what="listing cases without instances"):
            names = failed_cases(folder)
            if names:
                write_text(folder / FAILURES, "".join(f"{name}\n" for name in names))
            else:
                (folder / FAILURES).unlink(missing_ok=True)


def _failed(path: Path) -> bool:
    try:
        content = read_json(path)
    except SpineExtError:
        return False
    return isinstance(content, dict) and "error" in content

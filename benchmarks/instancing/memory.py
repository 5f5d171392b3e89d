"""Peak memory of this process since a moment, from Linux' own count (`VmHWM`), which can be set back."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """Peak of resident memory above what was resident when this was made, in MiB."""

    def __init__(self) -> None:
        self.base_mib = _read("VmRSS")
        self.reset()

    def reset(self) -> None:
        """Begin again; what was resident at first stays the base."""
        if _CLEAR.exists():
            # 5: set the peak back to the present size.
            _CLEAR.write_text("5")

    def above_mib(self) -> float:
        """Return the peak since the last reset above the base."""
        return round(_read("VmHWM") - self.base_mib, 1)


def _read(name: str) -> float:
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024

"""Writing what a report consists of."""

from __future__ import annotations

from pathlib import Path

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import write_bytes, write_text


def write_output(path: Path, content: str | bytes, option: str) -> None:
    """Write a file atomically; raises SetupError, which names the option that says where, if that is impossible."""
    try:
        if isinstance(content, str):
            write_text(path, content)
        else:
            write_bytes(path, content)
    except OSError as error:
        raise SetupError(
            "E-REPORT-WRITE",
            file=path,
            found=f"cannot be written ({error.strerror})",
            expected="a folder that can be written",
            fix=f"name another place with {option}",
        ) from error

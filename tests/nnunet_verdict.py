"""nnU-Net's own opinion about a raw dataset, without the processes that it would start for it."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from unittest import mock


class _Threads:
    """Stands in for a multiprocessing context: each spawned process would import torch again (6 s)."""

    Pool = ThreadPool


def verify_with_nnunet(folder: Path) -> None:
    """Run `verify_dataset_integrity`; fail when it raises, prints an error or prints a warning."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    def context(method: str | None = None) -> Any:
        return _Threads

    said = io.StringIO()
    with contextlib.redirect_stdout(said), mock.patch.object(multiprocessing, "get_context", context):
        verify_dataset_integrity(str(folder), num_processes=1)
    text = said.getvalue()
    assert "verify_dataset_integrity Done" in text
    assert "Error" not in text, text
    assert "Warning" not in text, text

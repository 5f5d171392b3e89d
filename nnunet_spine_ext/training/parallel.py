"""What one process of a training on several devices does for all of them, however long it takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from torch import distributed

# The processes of nnU-Net's group (NCCL) end themselves when one of them waits for ten minutes.
_PATIENCE = timedelta(days=7)


def on_first_process(action: Callable[[], None]) -> None:
    """Run an action in the first process while the others wait; what it raises is raised in all of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        action()
        return
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    failed: list[Exception | None] = [None]
    if distributed.get_rank() == 0:
        try:
            action()
        except Exception as error:
            failed[0] = error
    distributed.broadcast_object_list(failed, src=0, group=group)
    if failed[0] is not None:
        raise failed[0]

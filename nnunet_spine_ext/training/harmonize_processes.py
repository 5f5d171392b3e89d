"""A training of a harmonizer in several processes on this machine."""

from __future__ import annotations

import logging
import tempfile
from datetime import timedelta
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from nnunet_spine_ext.core.errors import SetupError, SpineExtError
from nnunet_spine_ext.harmonize.cyclegan.processes import Processes
from nnunet_spine_ext.training.harmonize import HarmonizeResult, Order, train_network

# While the first process validates and writes, the others wait.
_PATIENCE = timedelta(hours=12)
_PACKAGE = "nnunet_spine_ext"


def train_in_processes(order: Order, device: torch.device, count: int) -> HarmonizeResult:
    """Train with `count` processes, on as many GPUs or on the CPU.

    Raises
    ------
    What `train_network` raises; SetupError when there are fewer GPUs, or a process ended without saying why.
    """
    if device.type == "cuda" and torch.cuda.device_count() < count:
        raise SetupError(
            "E-ENV-DEVICE",
            file="-num_gpus",
            found=f"{torch.cuda.device_count()} GPUs",
            expected=f"{count}",
            fix="give the number of GPUs that are there",
        )
    context = multiprocessing.get_context("spawn")
    told: Any = context.SimpleQueue()
    messages: Any = context.Queue()
    listener = QueueListener(messages, _HandOn())
    level = logging.getLogger(_PACKAGE).getEffectiveLevel()
    with tempfile.TemporaryDirectory() as meeting:
        arguments = (order, device.type, count, Path(meeting) / "meeting", told, messages, level)
        listener.start()
        try:
            multiprocessing.spawn(_one_of_them, arguments, nprocs=count)
        except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
            found = None if told.empty() else told.get()
            if isinstance(found, SpineExtError):
                raise found from error
            raise SetupError(
                "E-HARM-PROCESS",
                file="-num_gpus",
                found=f"a process that ended: {str(error).strip().splitlines()[-1][:200]}",
                expected="processes that end together",
                fix="--resume goes on; if it happens again, try -num_gpus 1",
            ) from error
        finally:
            listener.stop()
    result: HarmonizeResult = told.get()
    return result


class _HandOn(logging.Handler):
    """Gives messages of another process to the loggers of this one."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


def _one_of_them(
    rank: int, order: Order, kind: str, count: int, meeting: Path, told: Any, messages: Any, level: int
) -> None:
    """Be process `rank` of `count`; the first one puts its result, and any of them a known error, into `told`."""
    logger = logging.getLogger(_PACKAGE)
    # What they all say is said once.
    logger.setLevel(level if rank == 0 else logging.CRITICAL)
    if rank == 0:
        logger.addHandler(QueueHandler(messages))
        logger.propagate = False
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo", init_method=meeting.as_uri(), rank=rank, world_size=count,
        timeout=_PATIENCE,
    )  # fmt: skip
    try:
        result = train_network(order, device, Processes(rank, count))
        if rank == 0:
            told.put(result)
    except SpineExtError as error:
        told.put(error)
        raise
    finally:
        distributed.destroy_process_group()

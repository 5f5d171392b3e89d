"""How many threads a network uses on a CPU, and environment variables that make small ones cheaper there."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# Measured on two cores with a U-Net of 12 to 96 features, patch 64x64x48, batch 2: sleeping instead of spinning threads
# halve the CPU time while other programs run; not giving memory back after every step saves another tenth.
FRUGAL_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
}


def set_frugal_cpu(environment: MutableMapping[str, str]) -> None:
    """Add `FRUGAL_CPU` to the environment of a process yet to be started; values that are set already stay."""
    for name, value in FRUGAL_CPU.items():
        environment.setdefault(name, value)


def limit_threads() -> None:
    """Give PyTorch the threads that OMP_NUM_THREADS says; where it says nothing, leave PyTorch as it is.

    `nnUNetv2_train -device cpu` takes all cores whatever that variable says. Two trainings side by side then wait for
    each other's threads.
    """
    import torch

    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        torch.set_num_threads(int(first))

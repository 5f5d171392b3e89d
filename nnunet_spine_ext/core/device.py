"""Choosing where a network runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from nnunet_spine_ext.core.errors import SetupError, UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "auto"]
"""In what a network computes in prediction; ``auto``: bfloat16 on an x86 CPU that has it, see `networks.precision`."""
TrainingPrecision = Literal["fp32", "auto"]
BF16_VERSION = 2
"""Raised when the same weights and images give other values in bfloat16: what goes on is not to mix them."""


def check_device_name(name: str) -> None:
    """Refuse a name that stands for no kind of device; whether the device is there PyTorch knows."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UsageError(
            "E-USE-DEVICE",
            file="-device",
            found=repr(name),
            expected="auto, cpu, cuda, cuda:N or mps",
            fix="correct the name",
        )


def choose_device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` takes cuda, then mps, then cpu.

    Raises SetupError when a device is asked for that is not there, UsageError for a name that is none.
    """
    import torch

    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise SetupError(
            "E-ENV-DEVICE", file="-device", found=f"no {name} here", expected=f"one of {there}", fix="-device auto"
        )
    return device

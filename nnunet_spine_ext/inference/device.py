"""Choosing where the network runs."""

from __future__ import annotations

import torch

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.inference.preflight import check_device_name


def choose_device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` takes cuda, then mps, then cpu.

    Raises SetupError when a device is asked for that is not there, UsageError for a name that is none.
    """
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

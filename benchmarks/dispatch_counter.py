"""Counts what PyTorch is asked to do: operations, volume operations, memory passes, reads by the host.

    with DispatchCounter(images.numel(), images.element_size()) as counter:
        pipeline.apply(images, labels, plan)
    print(counter.summary())

A volume operation is an operation on as many elements as the batch of images has; work in chunks adds up to the same,
and an operation on a table counts as the small part it is. A memory pass is one reading or writing of that many bytes:
a lower bound for what a device has to move. Views cost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What makes the host wait for the device, or gives a result whose size only the device knows.
SYNCHRONISING = (
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
)
# The first argument of these is written, not read.
WRITING = ("copy_", "fill_", "zero_")
# Asking for memory is not using it.
ALLOCATING = ("empty", "empty_like", "empty_strided", "resize_")


class DispatchCounter(TorchDispatchMode):
    """Counts while it is entered; `volume` and `item_bytes` are elements and bytes per element of the image batch."""

    def __init__(self, volume: int, item_bytes: int = 4) -> None:
        super().__init__()
        self.volume, self.bytes = volume, volume * item_bytes
        self.operations: Counter[str] = Counter()
        self.volumes: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name.startswith("prim::"):
            # Asking a fake tensor for its device is no operation.
            return result
        if name.split(".")[0] in SYNCHRONISING:
            self.syncs[name] += 1
        if not _is_view(func) and not name.split(".")[0].endswith(ALLOCATING):
            # A tensor given as `out` is written, not read; it is among the results.
            read = args[1:] if name.split(".")[0] in WRITING else args
            tensors = [*_tensors(read), *_tensors({k: v for k, v in (kwargs or {}).items() if k != "out"})]
            outputs = list(_tensors(result))
            self.operations[name] += 1
            largest = max((t.numel() for t in [*tensors, *outputs]), default=0)
            self.volumes[name] += min(1.0, largest / self.volume)
            self.moved[name] += sum(_bytes(t) for t in [*tensors, *outputs])
        return result

    def summary(self) -> dict[str, float]:
        """Return operations, volume operations, memory passes and host reads."""
        return {
            "operations": sum(self.operations.values()),
            "volume_operations": round(sum(self.volumes.values()), 2),
            "memory_passes": round(sum(self.moved.values()) / self.bytes, 2),
            "host_reads": sum(self.syncs.values()),
        }

    def table(self, least: float = 0.05) -> str:
        """Return one line per kind of operation that moves a noticeable part of a volume."""
        lines = [
            f"{name:24s}{self.operations[name]:6d} calls{self.volumes[name]:8.2f} volumes{moved / self.bytes:8.2f}"
            " passes"
            for name, moved in self.moved.most_common()
            if self.volumes[name] >= least
        ]
        return "\n".join(lines)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _bytes(tensor: torch.Tensor) -> int:
    """Return what is read or written: an expanded tensor is no larger than its storage."""
    elements = min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size())
    return elements * tensor.element_size()


def _is_view(func: Any) -> bool:
    """Return whether an operation gives a view of its input, and so moves nothing."""
    returns = func._schema.returns
    if func._schema.name == "aten::_unsafe_view":
        return True
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)

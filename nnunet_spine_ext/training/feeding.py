"""One batch ahead of the training: what the host does for a batch is done while the device works on the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]
Position = tuple[int, int]
"""Epoch, and number of the step in it."""

_PATIENCE_S = 0.5


class Ahead(Iterator[Batch]):
    """Iterates over a loader of nnU-Net's; a thread loads and prepares the next batch.

    Parameters
    ----------
    loader: gives batches without end.
    positions: where in the training each batch belongs; the iteration ends with them.
    prepare: called as `prepare(batch, epoch, step)` in the thread.
    """

    def __init__(
        self, loader: Iterator[Batch], positions: Iterable[Position], prepare: Callable[[Batch, int, int], Batch]
    ) -> None:
        self.loader = loader
        self._queue: Queue[Batch | BaseException] = Queue(maxsize=1)
        self._closed = Event()
        self._thread = Thread(target=self._work, args=(iter(positions), prepare), daemon=True, name="batches-ahead")
        self._thread.start()

    def __next__(self) -> Batch:
        """Return the next batch; raises what the loader or the preparation raised."""
        while True:
            try:
                item = self._queue.get(timeout=_PATIENCE_S)
            except Empty:
                if self._thread.is_alive() or not self._queue.empty():
                    continue
                raise StopIteration from None
            if isinstance(item, BaseException):
                raise item
            return item

    def close(self) -> None:
        """Stop the thread; the loader can be used again afterwards."""
        self._closed.set()
        self._thread.join()

    def _work(self, positions: Iterator[Position], prepare: Callable[[Batch, int, int], Batch]) -> None:
        try:
            for epoch, step in positions:
                if self._closed.is_set():
                    return
                self._put(prepare(next(self.loader), epoch, step))
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE_S)
            except Full:
                continue
            return


@dataclass(frozen=True, eq=False)
class Sent:
    """Tensors on their way to a device; `event` is None where the copies are not concurrent."""

    tensors: tuple[Tensor, ...]
    event: Any = None

    def arrived(self) -> tuple[Tensor, ...]:
        """Return the tensors; the device, not the host, waits for them."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.tensors[0].device)
            stream.wait_event(self.event)
            for tensor in self.tensors:
                # They were allocated for the stream of the copies, which may not use their memory again too soon.
                tensor.record_stream(stream)
        return self.tensors


class Sender:
    """Copies tensors to a device, beside the computations there if the device can do that."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, *tensors: Tensor) -> Sent:
        """Start the copies."""
        if self._stream is None:
            return Sent(tuple(tensor.to(self.device) for tensor in tensors))
        with torch.cuda.stream(self._stream):
            sent = tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)
            return Sent(sent, self._stream.record_event())

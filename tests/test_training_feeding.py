"""One batch ahead: order, errors, an end, and nothing that is left running."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from nnunet_spine_ext.training.feeding import Ahead, Sender, Sent


def loader() -> Iterator[dict[str, Any]]:
    return ({"number": number} for number in itertools.count())


def prepare(batch: dict[str, Any], epoch: int, step: int) -> dict[str, Any]:
    return {**batch, "epoch": epoch, "step": step, "thread": threading.current_thread().name}


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches-ahead"]


def test_batches_come_in_order_with_their_place_and_end() -> None:
    batches = list(Ahead(loader(), itertools.product(range(3, 5), range(2)), prepare))
    assert [(b["number"], b["epoch"], b["step"]) for b in batches] == [(0, 3, 0), (1, 3, 1), (2, 4, 0), (3, 4, 1)]
    assert {b["thread"] for b in batches} == {"batches-ahead"}


def test_the_next_batch_is_prepared_before_it_is_asked_for() -> None:
    prepared = [threading.Event() for _ in range(4)]

    def note(batch: dict[str, Any], _epoch: int, _step: int) -> dict[str, Any]:
        prepared[batch["number"]].set()
        return batch

    ahead = Ahead(loader(), itertools.product(range(1), range(4)), note)
    next(ahead)
    assert prepared[1].wait(10)
    # One waits to be fetched and one in the thread: never the whole epoch in memory.
    assert not prepared[3].wait(0.2)
    ahead.close()
    assert not running()


@pytest.mark.parametrize("where", ["loader", "preparation"])
def test_errors_reach_the_training(where: str) -> None:
    def failing(batch: dict[str, Any], epoch: int, step: int) -> dict[str, Any]:
        if where == "preparation" and batch["number"] == 1:
            raise ValueError("broken")
        return batch

    def ends() -> Iterator[dict[str, Any]]:
        yield {"number": 0}
        if where == "loader":
            raise RuntimeError("broken")
        yield {"number": 1}

    ahead = Ahead(ends(), itertools.product(range(9), range(9)), failing)
    assert next(ahead) == {"number": 0}
    with pytest.raises((ValueError, RuntimeError), match="broken"):
        next(ahead)


def test_closing_leaves_the_loader_usable() -> None:
    source = loader()
    ahead = Ahead(source, itertools.product(range(9), range(9)), prepare)
    next(ahead)
    ahead.close()
    ahead.close()
    assert next(source)["number"] <= 3
    assert not running()


def test_the_processor_gets_tensors_at_once() -> None:
    tensors = torch.ones(2), torch.zeros(3, dtype=torch.int16)
    sent = Sender(torch.device("cpu"))(*tensors)
    assert sent.event is None
    assert sent.arrived() == tensors


def test_a_device_waits_for_copies_and_their_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for CUDA: which stream is told what."""
    log: list[tuple[str, Any]] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_event(self, event: str) -> None:
            log.append((self.name, event))

        def record_event(self) -> str:
            return f"event of {self.name}"

        def __enter__(self) -> None:
            log.append((self.name, "enter"))

        def __exit__(self, *_: object) -> None:
            log.append((self.name, "exit"))

    class Copied:
        device = torch.device("cuda:1")

        def to(self, device: torch.device, *, non_blocking: bool) -> Copied:
            log.append(("to", (str(device), non_blocking)))
            return self

        def record_stream(self, stream: Stream) -> None:
            log.append(("record", stream.name))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"copies of {device}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(f"work of {device}"))
    sender = Sender(torch.device("cuda:1"))
    sent: Sent = sender(Copied())  # type: ignore[arg-type]
    copies, work = "copies of cuda:1", "work of cuda:1"
    assert log == [(copies, "enter"), ("to", ("cuda:1", True)), (copies, "exit")]
    del log[:]
    sent.arrived()
    assert log == [(work, f"event of {copies}"), ("record", work)]

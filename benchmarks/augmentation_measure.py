"""What is measured of one augmentation, in any environment: time of the processor, counts, memory; on CUDA also events.

An augmentation is a `Runner`. This file and `dispatch_counter.py` are also imported by the interpreter of another
software's environment: nothing of the project may be imported here.
"""

from __future__ import annotations

import ctypes
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from dispatch_counter import DispatchCounter
from torch import Tensor

BASE = ""
"""Asks a runner for nothing but what it always does."""
EVERYTHING = "*"
"""Asks a runner for all its transforms, each with probability one."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Patch:
    """What one setting works on: `image` float32 and `labels` int16, both (B, 1, *source), of which `shape` results."""

    image: Tensor
    labels: Tensor
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def volume(self) -> int:
        """Voxels of the result."""
        return int(self.image.shape[0]) * int(np.prod(self.shape))

    def centre(self, source: Sequence[int]) -> Patch:
        """Return the same with a smaller source, or the same one where it is not larger on an axis."""
        starts = [max(0, (have - want) // 2) for have, want in zip(self.image.shape[2:], source, strict=True)]
        cut = (slice(None), slice(None), *(slice(s, s + int(n)) for s, n in zip(starts, source, strict=True)))
        return Patch(self.image[cut].contiguous(), self.labels[cut].contiguous(), self.shape, self.spacing)

    def to(self, device: str) -> Patch:
        """Return the same on a device."""
        return Patch(self.image.to(device), self.labels.to(device), self.shape, self.spacing)


class Runner(Protocol):
    """An augmentation that can be measured."""

    parts: tuple[str, ...]
    """What it does one after another, measured apart."""

    def load(self, patch: Patch) -> None:
        """Take the images of a setting; may be called again."""

    def transforms(self) -> dict[str, float]:
        """Return the name and probability per sample of every transform that can be asked for alone; {}: unknown."""

    def begin(self, seed: int, only: str | None) -> None:
        """Prepare one run, not measured: as configured (None), `BASE`, `EVERYTHING`, or one transform for certain."""

    def step(self, part: str) -> None:
        """Do one part."""

    def result(self) -> tuple[Tensor, Tensor]:
        """Return image and labels of the last run."""


def seed_all(seed: int) -> None:
    """Seed every generator that augmentations draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  what is measured draws from numpy's global state
    torch.manual_seed(seed)


def one_thread() -> None:
    """Use one thread, so that times of the processor can be compared."""
    torch.set_num_threads(1)


def time_ms(runner: Runner, seed: int, only: str | None = None) -> dict[str, float]:
    """Return milliseconds of the processor per part."""
    runner.begin(seed, only)
    found = {}
    for part in runner.parts:
        start = time.process_time()
        runner.step(part)
        found[part] = 1000 * (time.process_time() - start)
    return found


def count(runner: Runner, patch: Patch, seed: int, only: str | None = None) -> dict[str, float]:
    """Return operations, volume operations, memory passes and reads by the host."""
    runner.begin(seed, only)
    with DispatchCounter(patch.volume, 4) as counter:
        for part in runner.parts:
            runner.step(part)
    return counter.summary()


def peak_extra(runner: Runner, patch: Patch, seed: int, only: str | None = None) -> float | None:
    """Return the largest memory in use beyond that before, in sizes of the image batch; None where unknown.

    On a processor that of the process, temporary memory inside of operations included.
    """
    runner.begin(seed, only)
    if patch.image.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _all(runner)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / (4 * patch.volume)
    if not _RESET.exists():
        return None
    # What was freed goes back first, so that using it again counts.
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    before = _status("VmRSS")
    _all(runner)
    return (_status("VmHWM") - before) / (4 * patch.volume)


def cuda_ms(runner: Runner, seed: int, only: str | None = None) -> float:
    """Return milliseconds between two events around the last part, host work in between included.

    What comes before (a plan, a loader's transforms) is done on the host while the device works on another batch.
    """
    runner.begin(seed, only)
    for part in runner.parts[:-1]:
        runner.step(part)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    runner.step(runner.parts[-1])
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def unsynchronised(runner: Runner, seed: int, part: str) -> str:
    """Return "" if a part never waits for the device, else what PyTorch says."""
    runner.begin(seed, None)
    for before in runner.parts[: runner.parts.index(part)]:
        runner.step(before)
    torch.cuda.set_sync_debug_mode("error")
    try:
        runner.step(part)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def train_step_ms(
    patch: Patch,
    augment: Callable[[int], Tensor] | None,
    classes: int,
    steps: int = 30,
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320),
) -> float:
    """Return the median milliseconds of a training step of nnU-Net's network on a device, augmentation included.

    `augment`: from the number of the step to images (B, 1, *shape); None: the same images every time.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    device = patch.image.device
    stages = len(features)
    network = PlainConvUNet(
        1, stages, features, torch.nn.Conv3d, 3, ((1,) * 3, *[(2,) * 3] * (stages - 1)), 2, classes, 2,
        conv_bias=True, norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    fixed = patch.centre(patch.shape)
    target = fixed.labels[:, 0].long().clamp_min(0)
    found = []
    for step in range(steps + 5):
        _wait(device)
        start = time.perf_counter()
        image = fixed.image if augment is None else augment(step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            loss = torch.nn.functional.cross_entropy(network(image), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        _wait(device)
        found.append(1000 * (time.perf_counter() - start))
    return statistics.median(found[5:])


def augmenting(runner: Runner) -> Callable[[int], Tensor]:
    """Return what `train_step_ms` calls."""

    def augment(step: int) -> Tensor:
        runner.begin(step, None)
        _all(runner)
        return runner.result()[0].float()

    return augment


def identical(runner: Runner, patches: Sequence[Patch], seed: int) -> bool:
    """Return whether runs of one seed on these patches give the same first sample, bit by bit."""
    found = []
    for patch in patches:
        runner.load(patch)
        runner.begin(seed, None)
        _all(runner)
        found.append([part[:1].clone() for part in runner.result()])
    return all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def _all(runner: Runner) -> None:
    for part in runner.parts:
        runner.step(part)


def _wait(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _status(name: str) -> int:
    """Return a figure of this process in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

"""Running the instance network on cutouts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnunet_spine_ext.core.device import choose_device
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutout_network import ANSWERS, CutoutAnswer
from nnunet_spine_ext.instances.cutouts import (
    MULTIPLE,
    Box,
    Cutout,
    CutoutSpec,
    ModelGrid,
    read_window,
    vertebra_voxels,
)
from nnunet_spine_ext.instances.encoding import encode
from nnunet_spine_ext.instances.frame import bounding_box

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)
Mode = Literal["exact", "fast"]
_GPU_BATCH = 4


@dataclass(frozen=True)
class InferenceOptions:
    """How the instance network runs.

    Parameters
    ----------
    device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    mode: ``exact`` gives the network the whole window, as SPINEPS does; ``fast`` only the part around the vertebrae in
        it, at full height. The normalization layers average over what they see, so answers differ.
    batch: cutouts per pass, by default 4 on a GPU and 1 on a CPU; halved when memory does not suffice.
    amp: half precision where the device is a GPU; values may change slightly.
    soft: keep probabilities, so that doubtful answers count less when voxels are voted on.

    Raises
    ------
    UsageError: an unknown mode, a batch below 1.
    """

    device: str = "auto"
    mode: Mode = "exact"
    batch: int | None = None
    amp: bool = False
    soft: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "fast"):
            raise UsageError(
                "E-USE-CHOICE",
                file="instance mode",
                found=repr(self.mode),
                expected="exact or fast",
                fix="correct the name",
            )
        if self.batch is not None and self.batch < 1:
            raise UsageError(
                "E-USE-BATCH", file="instance batch", found=f"{self.batch}", expected="1 or more", fix="use 1"
            )


class NetworkPredictor:
    """Instance networks (one per fold, averaged) as a `CutoutPredictor`.

    Parameters
    ----------
    networks: map (B, C, P, I, R) to logits (B, 4, P, I, R).

    Raises
    ------
    SetupError: the device is not there.
    UsageError: an unknown name of a device.
    """

    def __init__(
        self, spec: CutoutSpec, networks: Sequence[nn.Module], options: InferenceOptions | None = None
    ) -> None:
        self.options = options or InferenceOptions()
        self._spec = spec
        self._networks = list(networks)
        self._move(choose_device(self.options.device))
        self._batch = self.options.batch or (1 if self._device.type == "cpu" else _GPU_BATCH)

    @property
    def spec(self) -> CutoutSpec:
        """Size, voxel size and encoding of the cutouts."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where the networks are; the CPU after a GPU ran out of memory."""
        return self._device

    def predict(self, grid: ModelGrid, cutouts: Sequence[Cutout]) -> list[CutoutAnswer]:
        """Return one answer per cutout, in the same order.

        Raises
        ------
        SetupError: not even one cutout fits into memory.
        """
        windows = [self._window(grid, cutout) for cutout in cutouts]
        answers: list[CutoutAnswer | None] = [None] * len(cutouts)
        for group in _by_size([window.size for window in windows]):
            done = 0
            while done < len(group):
                chunk = group[done : done + self._batch]
                found = self._attempt(grid, [windows[k] for k in chunk])
                if found is None:
                    continue
                for k, answer in zip(chunk, found, strict=True):
                    answers[k] = answer
                done += len(chunk)
        return [answer for answer in answers if answer is not None]

    def _window(self, grid: ModelGrid, cutout: Cutout) -> Cutout:
        """The part of a cutout that the network gets."""
        if self.options.mode == "exact":
            return cutout
        inside = cutout.inside(grid)
        used = bounding_box(vertebra_voxels(grid.labels[inside]))
        if used is None:
            return Cutout(cutout.number, cutout.start, (0, 0, 0))
        start, size = list(cutout.start), list(cutout.size)
        # The network knows the vertebra in the centre by its distance to the ends of the window: the height stays, and
        # what is left of the other axes keeps its middle.
        for axis in (0, 2):
            middle = cutout.start[axis] + cutout.size[axis] // 2
            low, high = inside[axis].start + used[axis].start, inside[axis].start + used[axis].stop
            half = -(-max(middle - low, high - middle) // (MULTIPLE // 2)) * (MULTIPLE // 2)
            half = min(half, cutout.size[axis] // 2)
            start[axis], size[axis] = middle - half, 2 * half
        return Cutout(cutout.number, (start[0], start[1], start[2]), (size[0], size[1], size[2]))

    def _attempt(self, grid: ModelGrid, windows: Sequence[Cutout]) -> list[CutoutAnswer] | None:
        """Run a batch; None when memory did not suffice and the next attempt will be smaller."""
        try:
            return self._run(grid, windows)
        except (RuntimeError, MemoryError) as error:
            if not _is_memory(error):
                raise
            found = str(error).splitlines()[0][:160] if str(error) else "no memory left"
        # Outside of the handler: the traceback would keep the tensors alive.
        self._smaller(len(windows), found)
        return None

    def _smaller(self, batch: int, found: str) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if batch > 1:
            self._batch = batch // 2
            logger.warning("%d cutouts do not fit into memory, going on with %d", batch, self._batch)
        elif self._device.type != "cpu":
            logger.warning("one cutout does not fit into the memory of %s, going on with the CPU", self._device)
            self._move(torch.device("cpu"))
        else:
            raise SetupError(
                "E-ENV-MEMORY",
                file="instance network",
                found=found,
                expected=f"memory for one cutout of {'x'.join(map(str, self._spec.size))} voxels (about 1.5 GB)",
                fix="close other programs, use the fast mode, or separate without an instance model",
            )

    def _run(self, grid: ModelGrid, windows: Sequence[Cutout]) -> list[CutoutAnswer]:
        import torch

        if 0 in windows[0].size:
            return [_empty(window) for window in windows]
        labels = [read_window(grid.labels, window.start, window.size) for window in windows]
        batch = torch.from_numpy(np.stack([encode(cut, self._spec.encoding) for cut in labels]))
        with torch.inference_mode():
            batch = batch.to(self._device)
            amp = self.options.amp and self._device.type == "cuda"
            with torch.autocast("cuda") if amp else nullcontext():
                scores = self._scores(batch)
            classes = scores.argmax(dim=1).to(torch.uint8).cpu().numpy()
            soft = scores.float().softmax(dim=1) if self.options.soft and len(self._networks) == 1 else scores
            probabilities = soft.half().cpu().numpy() if self.options.soft else [None] * len(windows)
        return [
            _answer(grid, window, cut, found, soft)
            for window, cut, found, soft in zip(windows, labels, classes, probabilities, strict=True)
        ]

    def _scores(self, batch: Any) -> Any:
        """Logits of one network, or mean probabilities of several."""
        first: Any = self._networks[0](batch)
        if len(self._networks) == 1:
            return first
        total = first.float().softmax(dim=1)
        for network in self._networks[1:]:
            total += network(batch).float().softmax(dim=1)
        return total / len(self._networks)

    def _move(self, device: torch.device) -> None:
        self._device = device
        self._networks = [network.eval().to(device) for network in self._networks]


def _answer(
    grid: ModelGrid, window: Cutout, labels: Array, classes: Array, probabilities: Array | None
) -> CutoutAnswer:
    """Keep what lies in the grid, and of that what the mask calls a vertebra."""
    box = window.inside(grid)
    local = tuple(slice(b.start - s, b.stop - s) for b, s in zip(box, window.start, strict=True))
    kept = np.where(vertebra_voxels(labels[local]), classes[local], 0).astype(np.uint8)
    used = bounding_box(kept)
    if used is None:
        return _empty(window)
    inner = tuple(slice(u.start + s.start, u.stop + s.start) for u, s in zip(used, local, strict=True))
    first, second, third = (slice(u.start + b.start, u.stop + b.start) for u, b in zip(used, box, strict=True))
    soft = None if probabilities is None else np.ascontiguousarray(probabilities[(slice(None), *inner)])
    return CutoutAnswer((first, second, third), np.ascontiguousarray(kept[used]), soft)


def _empty(window: Cutout) -> CutoutAnswer:
    nowhere: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
    return CutoutAnswer(nowhere, np.zeros((0, 0, 0), dtype=np.uint8), np.zeros((ANSWERS, 0, 0, 0), dtype=np.float16))


def _by_size(sizes: Sequence[tuple[int, int, int]]) -> Iterator[list[int]]:
    """Positions of equal sizes, in order of their first appearance: only those can share a batch."""
    for size in dict.fromkeys(sizes):
        yield [k for k, other in enumerate(sizes) if other == size]


def _is_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "not enough memory" in text

"""Sliding windows: added up in single precision, and chosen for crop mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from tqdm import tqdm

# A window of nnU-Net: all channels, then an index (2-D networks) or a slice per spatial axis.
Window = tuple[slice | int, ...]
# Crop mode looks closer where the coarse answer exceeds this.
HOT = 0.2
# … and around it, by this share of a window per axis: coarse windows are at their worst at their borders.
_SURROUNDINGS = 1 / 8
# Of networks that see one slice at a time: a structure that was missed in a slice is found in the next one.
_SLICES = 1


@dataclass
class Answers:
    """Outputs (heads, *patch) by where their window starts, on the CPU; `learn`: whether others are added."""

    learn: bool
    by_start: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)


def start_of(window: Window) -> tuple[int, ...]:
    """Return the first voxel of a window, which tells windows of one image and patch apart."""
    return tuple(part if isinstance(part, int) else int(part.start or 0) for part in window[1:])


def add_up(
    answer: Callable[[torch.Tensor], torch.Tensor],
    data: torch.Tensor,
    windows: Sequence[Window],
    heads: int,
    patch: Sequence[int],
    *,
    batch: int = 1,
    progress: bool = False,
    answers: Answers | None = None,
) -> torch.Tensor:
    """Return the average of what windows answer, weighted by nnU-Net's Gaussian, in single precision.

    Parameters
    ----------
    answer: maps patches (B, C, *patch) to outputs (B, heads, *patch), on any device.
    data: (C, *spatial); the result is on its device.
    windows: where the patches are; voxels that none of them covers become 0.
    batch: patches that go through the network at once.
    answers: of an earlier look at the same image; windows that are there are not asked again.

    Returns
    -------
    (heads, *spatial) float32.
    """
    where = data.device
    outputs = torch.zeros((heads, *data.shape[1:]), dtype=torch.float32, device=where)
    weights = torch.zeros(data.shape[1:], dtype=torch.float32, device=where)
    # nnU-Net keeps the last ones; one that was made in inference mode lets no gradient pass, its clone does.
    gaussian = compute_gaussian(tuple(patch), sigma_scale=1 / 8, dtype=torch.float32, device=where).clone()
    answers = answers or Answers(learn=False)
    known = [window for window in windows if start_of(window) in answers.by_start]
    fresh = [window for window in windows if start_of(window) not in answers.by_start]
    # Not on the device, where there may be no room beside the outputs. In pinned memory a copy need not wait for the
    # network; on other devices than CUDA one that does not wait is not done when it is read.
    pinned = where.type == "cuda"
    shape = (len(fresh) if answers.learn else 0, heads, *patch)
    learned = torch.empty(shape, dtype=torch.float32, pin_memory=pinned and answers.learn)

    def add(window: Window, output: torch.Tensor) -> None:
        outputs[window] += output * gaussian
        weights[window[1:]] += gaussian

    for window in known:
        add(window, answers.by_start[start_of(window)].to(where))
    starts = range(0, len(fresh), batch)
    for start in tqdm(starts, desc="windows", leave=False, disable=None if progress else True):
        group = fresh[start : start + batch]
        answered = answer(torch.stack([data[window] for window in group])).to(where, dtype=torch.float32)
        for window, output in zip(group, answered, strict=True):
            add(window, output)
        if answers.learn:
            learned[start : start + len(group)].copy_(answered, non_blocking=pinned)
    if answers.learn:
        if pinned:
            torch.cuda.synchronize(where)
        answers.by_start.update(zip(map(start_of, fresh), learned, strict=True))
    return outputs.div_(weights.clamp_(min=torch.finfo(torch.float32).tiny))


def near(hot: torch.Tensor, windows: Sequence[Window], patch: Sequence[int]) -> list[bool]:
    """Return which windows cover a voxel in the surroundings of a hot one; of 2-D networks also in the next slices.

    hot: (*spatial) bool.
    """
    margins = [_SLICES] * (hot.ndim - len(patch)) + [round(size * _SURROUNDINGS) for size in patch]
    return [bool(hot[_grown(window[1:], margins)].any()) for window in windows]


def complete(shape: Sequence[int], windows: Sequence[Window], chosen: Sequence[bool]) -> torch.Tensor:
    """Return (*spatial) bool: the voxels of which every window that covers them is among the chosen ones."""
    inside = torch.ones(tuple(shape), dtype=torch.bool)
    for window, taken in zip(windows, chosen, strict=True):
        if not taken:
            inside[window[1:]] = False
    return inside


def _grown(window: Window, margins: Sequence[int]) -> tuple[slice, ...]:
    """Return a box that is larger by a margin on either side."""
    box = [slice(part, part + 1) if isinstance(part, int) else part for part in window]
    return tuple(slice(max(0, p.start - m), p.stop + m) for p, m in zip(box, margins, strict=True))

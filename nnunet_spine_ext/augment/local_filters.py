"""Filters of the local stage on the device: correlations, smoothing, medians, small random networks.

All take planes (K, Z, Y, X) or (K, Y, X) in float32, each with its own numbers, repeat the border where a
neighbourhood leaves the patch, and treat every plane alone: the result of one does not depend on the others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, in_pieces, measure_levels, moments, thin, voxelwise

BLOCKS = 16
"""Pieces that a plane is cut into so that processors, which compute 8 or 16 channels at once, have as many."""

# Large enough that a random network, of which whole layers can lie in the flat part, leaves some contrast.
_LEAK = 0.2
_LARGEST_SCORE = 100.0
# What is below this part of the mean is rounding, not contrast.
_ROUNDING = 1e-6
_LARGEST_LENGTH = 1e18


def correlate(planes: Tensor, kernels: Tensor, shifts: Tensor | None = None) -> Tensor:
    """Return planes (K, …) correlated with a kernel (K, k…) of odd sizes each, plus a shift (K,) each."""
    shifts = kernels.new_zeros(len(kernels)) if shifts is None else shifts
    return _each_alone(lambda plane, k, s: _Blocks.cut(plane, k).correlated(k, s).join(), planes, kernels, shifts)


def scores(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (K,) of planes, the latter positive also where there is no contrast."""
    mean, sd = moments(_sample(planes))
    return mean[:, 0], torch.maximum(sd, mean.abs() * _ROUNDING + 1e-20)[:, 0]


def units(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return air level and span (K,) of planes."""
    levels = measure_levels(_sample(planes))
    return levels.air[:, 0], levels.span[:, 0]


def about_mean(planes: Tensor, kernels: Tensor) -> Tensor:
    """Correlate (K, …) with one kernel each, (K, 1, k…), what exceeds or falls short of the mean."""
    mean, _ = scores(planes)
    shift = mean * (1 - kernels.flatten(1).sum(dim=1))
    return correlate(planes, kernels[:, 0], shift)


def magnitude(planes: Tensor, kernels: Tensor) -> Tensor:
    """Return air level plus root of the summed squares of the correlations with M kernels, (K, M, k…) of one size."""
    air, _ = units(planes)
    return _each_alone(_length, planes, kernels, air)


def smooth(planes: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply along each axis by its matrices (K, n, n); None leaves the axis."""
    result = planes
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is None:
            continue
        if axis == planes.dim() - 1:
            folded = torch.bmm(result.flatten(1, -2), matrix.transpose(1, 2))
        elif axis == 1:
            folded = torch.bmm(matrix, result.flatten(2))
        else:
            folded = _along_rows(matrix, result)
        result = folded.view(planes.shape)
    return result


def _along_rows(matrices: Tensor, planes: Tensor) -> Tensor:
    """Multiply matrices (K, n, n) along the second axis of space of (K, Z, n, X)."""
    slices = planes.shape[1]
    pairs = list(zip(matrices, planes, strict=True))
    # One plane after the other: all at once, a matrix would be copied for every slice.
    if planes.requires_grad and torch.is_grad_enabled():
        return torch.stack([torch.bmm(matrix.expand(slices, -1, -1), plane) for matrix, plane in pairs])
    result = torch.empty_like(planes)
    for (matrix, plane), out in zip(pairs, result, strict=True):
        torch.bmm(matrix.expand(slices, -1, -1), plane, out=out)
    return result


def median(planes: Tensor, axes: Sequence[int], passes: int) -> Tensor:
    """Return the median of three along one of `axes` after another (0: the first of space), `passes` times over."""
    for _ in range(passes):
        for axis in axes:
            planes = _median_of_three(planes, axis + 1)
    return planes


def network(planes: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Send standardised planes through convolutions with leaky rectifiers between them; give their levels back.

    Parameters
    ----------
    layers: kernels (K, out, in, k…) and shifts (K, out) of each; the first has one channel in, the last one out.
    """
    mean, sd = scores(planes)
    standard = voxelwise(_standardise, (planes,), (mean, 1 / sd))
    result = _each_alone(_network, standard, *(array for layer in layers for array in layer))
    return torch.addcmul(_wide(mean, planes), result, _wide(sd, planes))


def power(planes: Tensor, exponents: Tensor) -> Tensor:
    """Raise the signal, in units of its span, to exponents (K, …); what is beyond air and span keeps its slope."""
    air, span = units(planes)
    return voxelwise(_power, (planes, exponents), (air, span, 1 / span))


def add(planes: Tensor, field: Tensor) -> Tensor:
    """Add a field (K, …) in units of the span."""
    _, span = units(planes)
    return torch.addcmul(planes, field, _wide(span, planes))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Planes (K, Z, Y, X) with a repeated border: the channels of a depthwise convolution.

    On a processor they are cut along Y into overlapping blocks, each a channel: ten to forty times as fast as a
    convolution of one channel. Elsewhere only a single plane is cut: of one channel alone no convolution is depthwise,
    and the others first write down all neighbourhoods. `values`: (1, K * blocks, Z', rows, X'). `shape`: of the planes.
    """

    values: Tensor
    shape: tuple[int, ...]

    @classmethod
    def cut(cls, planes: Tensor, kernels: Tensor) -> _Blocks:
        """Cut planes for kernels (K, k…)."""
        deep, high, wide = (k // 2 for k in kernels.shape[1:])
        size = planes.shape[2]
        blocks = min(BLOCKS if in_pieces(planes.detach()) else 2 if len(planes) == 1 else 1, size)
        step = math.ceil(size / blocks)
        margins = (wide, wide, high, high + blocks * step - size, deep, deep)
        padded = functional.pad(planes[:, None], margins, mode="replicate")[:, 0]
        # (K, Z', blocks, X', rows of a block) -> (K * blocks, Z', rows, X')
        windows = padded.unfold(2, step + 2 * high, step).permute(0, 2, 1, 4, 3)
        if blocks > 1:
            values = windows.flatten(0, 1)[None].contiguous(memory_format=torch.channels_last_3d)
        else:
            values = padded[None]
        return cls(values, tuple(planes.shape))

    def correlated(self, kernels: Tensor, shifts: Tensor | None = None) -> _Blocks:
        """Return the blocks correlated with a kernel (K, k…) each, plus a shift (K,) each; without the overlap."""
        channels = self.values.shape[1]
        blocks = channels // len(kernels)
        weights = kernels[:, None].expand(-1, blocks, -1, -1, -1).reshape(channels, 1, *kernels.shape[1:])
        bias = None if shifts is None else shifts[:, None].expand(-1, blocks).reshape(-1)
        return _Blocks(functional.conv3d(self.values, weights, bias, groups=channels), self.shape)

    def lengths(self, kernels: Tensor) -> _Blocks:
        """Return the root of the summed squares of the correlations with (K, M, k…)."""
        channels, number = self.values.shape[1], kernels.shape[1]
        if channels > len(kernels):
            first, *rest = (self.correlated(kernel).values for kernel in kernels.unbind(1))
        else:
            parts = functional.conv3d(self.values, kernels.reshape(-1, 1, *kernels.shape[2:]), groups=channels)
            first, *rest = parts.view(channels, number, *parts.shape[2:]).unbind(1)
        # The same sum in both cases: which it is depends on how many samples are filtered together.
        square = first.square()
        for part in rest:
            square.addcmul_(part, part)
        square = square.clamp_(max=_LARGEST_LENGTH**2).sqrt_()
        return _Blocks(square if channels > len(kernels) else square[None], self.shape)

    def join(self) -> Tensor:
        """Put blocks without overlap together."""
        count, deep, size, wide = self.shape
        blocks = self.values.view(count, -1, *self.values.shape[2:])
        return blocks.transpose(1, 2).reshape(count, deep, -1, wide)[:, :, :size].contiguous()


def _each_alone(function: Callable[..., Tensor], planes: Tensor, *arrays: Tensor) -> Tensor:
    """Apply a function of planes (K, Z, Y, X) and arrays (K, …): on a processor plane by plane, else to all.

    Planes (K, Y, X) get an axis Z, their kernels too: arrays of as many further axes as the planes have or more.
    """
    flat = planes.dim() == 3
    if flat:
        planes = planes[:, None]
        arrays = tuple(array.unsqueeze(-3) if array.dim() > 2 else array for array in arrays)
    if in_pieces(planes.detach()):
        rows = [function(planes[k : k + 1], *(a[k : k + 1] for a in arrays)) for k in range(len(planes))]
        result = rows[0] if len(rows) == 1 else torch.cat(rows)
    else:
        with _plain_convolution(planes.device):
            result = function(planes, *arrays)
    return result[:, 0] if flat else result


@contextlib.contextmanager
def _plain_convolution(device: torch.device) -> Iterator[None]:
    """Use PyTorch's own depthwise kernels on CUDA: the library's would round, and be tuned anew for each number."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def _length(planes: Tensor, kernels: Tensor, air: Tensor) -> Tensor:
    """Return air plus the root of the summed squares of the correlations with (K, M, k…)."""
    blocks = _Blocks.cut(planes, kernels[:, 0])
    if kernels.shape[1] == 1:
        length = blocks.correlated(kernels[:, 0])
        length.values.abs_()
    else:
        length = blocks.lengths(kernels)
    return length.join().add_(_wide(air, planes))


def _network(planes: Tensor, *arrays: Tensor) -> Tensor:
    """Send standardised planes through layers: kernels (K, out, in, k…), shifts (K, out), kernels, …"""
    layers = list(zip(arrays[::2], arrays[1::2], strict=True))
    fewest = min(len(planes) * max(kernels.shape[1:3]) for kernels, _ in layers)
    if fewest > 1 and not in_pieces(planes.detach()):
        return _network_at_once(planes, layers)
    state = [planes]
    for number, (kernels, shifts) in enumerate(layers):
        state = _layer(state, kernels, shifts)
        if number < len(layers) - 1:
            state = [functional.leaky_relu_(channel, _LEAK) for channel in state]
    return state[0]


def _network_at_once(planes: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Do the same with all planes and channels in one tensor: a few large operations instead of many."""
    state = planes[:, None]
    for number, (kernels, shifts) in enumerate(layers):
        count, out, into, *size = kernels.shape
        if math.prod(size) == 1:
            flat = torch.baddbmm(shifts[..., None], kernels.view(count, out, into), state.flatten(2))
            state = flat.view(count, out, *state.shape[2:])
        else:
            margins = [n // 2 for n in reversed(size) for _ in range(2)]
            padded = functional.pad(state, margins, mode="replicate").flatten(0, 1)[None]
            # A channel alone would not be depthwise (see `_Blocks`): then each channel out has its own copy.
            groups = out if count * into == 1 else count * into
            padded = padded.expand(-1, groups, -1, -1, -1) if count * into == 1 else padded
            weights = kernels.transpose(1, 2).reshape(-1, 1, *size)
            # The shift comes once, with the first channel.
            bias = functional.pad(shifts[:, None], (0, 0, 0, into - 1)).flatten()
            parts = functional.conv3d(padded, weights, bias, groups=groups)
            parts = parts.view(count, into, out, *state.shape[2:])
            state = parts[:, 0] if into == 1 else parts.sum(dim=1)
        if number < len(layers) - 1:
            state = functional.leaky_relu_(state, _LEAK)
    return state[:, 0]


def _layer(state: Sequence[Tensor], kernels: Tensor, shifts: Tensor) -> list[Tensor]:
    """Return one tensor per channel out: the sum of the correlations with all channels in."""
    if math.prod(kernels.shape[3:]) == 1:
        return [_mixture(state, own.flatten(1), shifts[:, out]) for out, own in enumerate(kernels.unbind(1))]
    blocks = [_Blocks.cut(channel, kernels[:, 0, 0]) for channel in state]
    result = []
    for out, own in enumerate(kernels.unbind(1)):
        first, *rest = blocks
        total = first.correlated(own[:, 0], shifts[:, out]).values
        for number, channel in enumerate(rest, start=1):
            total.add_(channel.correlated(own[:, number]).values)
        result.append(_Blocks(total, first.shape).join())
    return result


def _mixture(state: Sequence[Tensor], weights: Tensor, shift: Tensor) -> Tensor:
    """Return the sum of (K, …) times weights (K, in), plus a shift (K,)."""
    total = torch.addcmul(_wide(shift, state[0]), state[0], _wide(weights[:, 0], state[0]))
    for number, channel in enumerate(state[1:], start=1):
        total.addcmul_(channel, _wide(weights[:, number], channel))
    return total


def _median_of_three(planes: Tensor, axis: int) -> Tensor:
    size = planes.shape[axis]
    if size < 3:
        return planes
    before, here, after = (planes.narrow(axis, start, size - 2) for start in range(3))
    bounds = torch.minimum(before, here), torch.maximum(before, here)
    # A repeated border is its own median.
    ends = (planes.narrow(axis, place, 1) for place in (0, size - 1))
    if planes.requires_grad and torch.is_grad_enabled():
        first, last = ends
        return torch.cat((first, torch.clamp(after, *bounds), last), dim=axis)
    result = torch.empty_like(planes)
    torch.clamp(after, *bounds, out=result.narrow(axis, 1, size - 2))
    for place, end in zip((0, size - 1), ends, strict=True):
        result.narrow(axis, place, 1).copy_(end)
    return result


def _standardise(image: Tensor, mean: Tensor, scale: Tensor, *, out: Tensor | None) -> Tensor:
    return torch.clamp((image - mean) * scale, -_LARGEST_SCORE, _LARGEST_SCORE, out=out)


def _power(image: Tensor, exponent: Tensor, air: Tensor, span: Tensor, scale: Tensor, *, out: Tensor | None) -> Tensor:
    """Return image + span * (c^exponent - c), c the signal clipped to 0-1."""
    unit = torch.addcmul(-air * scale, image, scale).clamp(0, 1)
    return torch.addcmul(image, unit.pow(exponent) - unit, span, out=out)


def _sample(planes: Tensor) -> Tensor:
    return thin(planes.detach()[:, None], SAMPLE_VOXELS)


def _wide(values: Tensor, planes: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (planes.dim() - 1))

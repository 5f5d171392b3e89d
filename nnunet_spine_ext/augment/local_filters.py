"""Filters of the local stage on the device: correlations, smoothing, medians, small random networks.

All take planes (K, Z, Y, X) or (K, Y, X) in float32, each with its own numbers, repeat the border where a
neighbourhood leaves the patch, and treat every plane alone: the result of one does not depend on the others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, measure_levels, moments, thin, voxelwise

BLOCKS = 16
"""Pieces that a plane is cut into so that processors, which compute 8 or 16 channels at once, have as many."""

_LEAK = 0.01
_LARGEST_SCORE = 100.0
# What is below this part of the mean is rounding, not contrast.
_ROUNDING = 1e-6
_LARGEST_SQUARE = 1e36


def correlate(planes: Tensor, kernels: Tensor) -> Tensor:
    """Return (K, M, …), each plane (K, …) correlated with its own M kernels (K, M, k…) of odd sizes.

    Each plane is cut along its rows into overlapping blocks, which become the channels of one depthwise convolution:
    ten to forty times as fast on a processor as a convolution of one channel, and exact float32 on a GPU, where the
    library's own convolutions would round and be tuned anew for each number of planes.
    """
    flat = planes.dim() == 3
    if flat:
        planes, kernels = planes[:, None], kernels[:, :, None]
    if planes.device.type == "cpu":
        pairs = zip(planes.split(1), kernels.split(1), strict=True)
        result = _join([_blockwise(plane, kernel) for plane, kernel in pairs])
    else:
        with _plain_convolution(planes.device):
            result = _blockwise(planes, kernels)
    return result[:, :, 0] if flat else result


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
    return correlate(planes, kernels)[:, 0].add_(_wide(shift, planes))


def magnitude(planes: Tensor, kernels: Tensor) -> Tensor:
    """Return air level plus root of the summed squares of the M correlations; for one, its absolute value."""
    air, _ = units(planes)
    parts = correlate(planes, kernels)
    if parts.shape[1] == 1:
        length = parts[:, 0].abs()
    else:
        first, *rest = parts.unbind(1)
        square = first * first
        for part in rest:
            square = square.addcmul_(part, part) if not part.requires_grad else torch.addcmul(square, part, part)
        length = square.clamp(max=_LARGEST_SQUARE).sqrt()
    return length + _wide(air, planes)


def smooth(planes: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply along each axis by its matrices (K, n, n); None leaves the axis."""
    result = planes
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is None:
            continue
        if axis == planes.dim() - 1:
            folded = torch.matmul(result.flatten(1, -2), matrix.transpose(1, 2))
        elif axis == 1:
            folded = torch.matmul(matrix, result.flatten(2))
        else:
            folded = torch.matmul(matrix[:, None], result)
        result = folded.view(planes.shape)
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
    state = voxelwise(_standardise, (planes,), (mean, 1 / sd))[:, None]
    for number, (kernels, shifts) in enumerate(layers):
        state = _layer(state, kernels, shifts)
        if number < len(layers) - 1:
            state = functional.leaky_relu(state, _LEAK, inplace=not state.requires_grad)
    return torch.addcmul(_wide(mean, planes), state[:, 0], _wide(sd, planes))


def power(planes: Tensor, exponents: Tensor) -> Tensor:
    """Raise the signal, in units of its span, to exponents (K, …); what is beyond air and span keeps its slope."""
    air, span = units(planes)
    return voxelwise(_power, (planes, exponents), (air, span, 1 / span))


def add(planes: Tensor, field: Tensor) -> Tensor:
    """Add a field (K, …) in units of the span."""
    _, span = units(planes)
    return torch.addcmul(planes, field, _wide(span, planes))


def _blockwise(planes: Tensor, kernels: Tensor) -> Tensor:
    """Correlate (K, Z, Y, X) with (K, M, k, k, k)."""
    count, many = kernels.shape[:2]
    deep, high, wide = (k // 2 for k in kernels.shape[2:])
    size = planes.shape[2]
    blocks = min(BLOCKS, size)
    step = math.ceil(size / blocks)
    margins = (wide, wide, high, high + blocks * step - size, deep, deep)
    padded = functional.pad(planes[:, None], margins, mode="replicate")[:, 0]
    # (K, Z', blocks, X', rows of a block) -> (K, M, blocks, Z', rows, X')
    windows = padded.unfold(2, step + 2 * high, step).permute(0, 2, 1, 4, 3)[:, None]
    channels = windows.expand(-1, many, -1, -1, -1, -1).reshape(1, count * many * blocks, *windows.shape[3:])
    if planes.device.type == "cpu":
        channels = channels.contiguous(memory_format=torch.channels_last_3d)
    weights = kernels[:, :, None].expand(-1, -1, blocks, -1, -1, -1).reshape(-1, 1, *kernels.shape[2:])
    result = functional.conv3d(channels, weights, groups=count * many * blocks)
    result = result.view(count, many, blocks, *result.shape[2:]).transpose(2, 3)
    return result.reshape(count, many, planes.shape[1], blocks * step, planes.shape[3])[..., :size, :].contiguous()


@contextlib.contextmanager
def _plain_convolution(device: torch.device) -> Iterator[None]:
    """Use PyTorch's own depthwise kernels on CUDA: no reduced precision, no tuning."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _layer(state: Tensor, kernels: Tensor, shifts: Tensor) -> Tensor:
    """Return (K, out, …) of (K, in, …): correlations of each pair, summed over what comes in."""
    count, out, into = kernels.shape[:3]
    size = kernels.shape[3:]
    shape = state.shape[2:]
    shift = shifts.reshape(count, out, *[1] * len(shape))
    if math.prod(size) == 1:
        mixed = torch.matmul(kernels.reshape(count, out, into), state.flatten(2))
        return mixed.view(count, out, *shape) + shift
    by_input = kernels.transpose(1, 2).reshape(count * into, out, *size)
    parts = correlate(state.reshape(count * into, *shape), by_input).view(count, into, out, *shape)
    return parts.sum(dim=1) + shift


def _median_of_three(planes: Tensor, axis: int) -> Tensor:
    size = planes.shape[axis]
    if size < 3:
        return planes
    before, here, after = (planes.narrow(axis, start, size - 2) for start in range(3))
    middle = torch.maximum(torch.minimum(before, here), torch.minimum(torch.maximum(before, here), after))
    # A repeated border is its own median.
    return torch.cat((planes.narrow(axis, 0, 1), middle, planes.narrow(axis, size - 1, 1)), dim=axis)


def _standardise(image: Tensor, mean: Tensor, scale: Tensor, *, out: Tensor | None) -> Tensor:
    return torch.clamp((image - mean) * scale, -_LARGEST_SCORE, _LARGEST_SCORE, out=out)


def _power(image: Tensor, exponent: Tensor, air: Tensor, span: Tensor, scale: Tensor, *, out: Tensor | None) -> Tensor:
    """Return image + span * (c^exponent - c), c the signal clipped to 0-1."""
    unit = ((image - air) * scale).clamp(0, 1)
    return torch.addcmul(image, unit.pow(exponent) - unit, span, out=out)


def _sample(planes: Tensor) -> Tensor:
    return thin(planes.detach()[:, None], SAMPLE_VOXELS)


def _wide(values: Tensor, planes: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (planes.dim() - 1))

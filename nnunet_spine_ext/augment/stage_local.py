"""Third stage: what looks at the neighbours of a voxel, or at its place.

Samples whose transforms at the same position are of the same kind are filtered together; others cost nothing. The
result is blended with the original, within labels if asked, and gets its statistics back, in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from nnunet_spine_ext.augment import local_filters
from nnunet_spine_ext.augment.axis_products import Band, add_product
from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, Batch, in_pieces, thin, voxelwise
from nnunet_spine_ext.augment.label_masks import inside as chosen_labels
from nnunet_spine_ext.augment.local_build import Builder, Program, Step
from nnunet_spine_ext.augment.noise_pool import white_noise
from nnunet_spine_ext.augment.packing import Buffers
from nnunet_spine_ext.augment.region_tables import paint_regions
from nnunet_spine_ext.augment.spline import spread_over

__all__ = ["Builder", "Program", "apply"]

# A filter that leaves next to nothing of the contrast is not amplified beyond this.
_LARGEST_GAIN = 1e3
_SMALLEST = 1e-20


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Filter the active planes, step by step."""
    for step in program.steps:
        planes = batch.planes(step.planes)
        if step.kind == "sharpen" and not (batch.recorded or in_pieces(planes)):
            own = step.plain and batch.into(planes) is not None
            filtered = _sharpened(planes, step, buffers, planes if own else planes.clone())
        else:
            filtered = FILTERS[step.kind](planes, step, program, buffers)
        batch.write_planes(step.planes, _blend(batch, planes, filtered, step, buffers))


def _blend(batch: Batch, planes: Tensor, filtered: Tensor, step: Step, buffers: Buffers) -> Tensor:
    """Return planes where no label is chosen, else original and filtered in the shares asked for."""
    if step.plain:
        return filtered
    mix, retain = buffers.floats(step.shares).unbind(0)
    inside = None
    if step.weights is not None:
        inside = chosen_labels(batch, step.planes, buffers.floats(step.weights))
    numbers: tuple[Tensor, ...] = (mix,)
    if step.retain:
        restoring = _restoring(planes, filtered, inside, mix)
        plain = (1 - mix, mix, torch.zeros_like(mix))
        numbers = tuple(torch.lerp(own, new, retain) for own, new in zip(plain, restoring, strict=True))
    blend = _weighted if step.retain else _mixed
    if inside is None:
        return voxelwise(blend, (planes, filtered), numbers, batch.into(planes))
    return voxelwise(partial(_only_inside, blend), (planes, filtered, inside), numbers, batch.into(planes))


def _restoring(planes: Tensor, filtered: Tensor, inside: Tensor | None, mix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors (K,) of original and filtered, and a shift, that keep the original's mean and spread.

    The filtered image is brought to them before it is blended, so that `mix` is its share whatever a filter's gain;
    the blend once more. Statistics are those of the voxels acted on, from the sample grid.
    """
    before, new = (thin(volume.detach()[:, None], SAMPLE_VOXELS)[:, 0] for volume in (planes, filtered))
    if inside is None:
        weights = torch.full_like(before, 1 / before.shape[1])
    else:
        weights = thin(inside[:, None], SAMPLE_VOXELS)[:, 0].to(before.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1)
    target = _moments(before, weights)
    gain, offset = _matching(_moments(new, weights), target)
    after = torch.lerp(before, torch.addcmul(offset[:, None], new, gain[:, None]), mix[:, None])
    scale, shift = _matching(_moments(after, weights), target)
    return scale * (1 - mix), scale * mix * gain, torch.addcmul(shift, scale * mix, offset)


def _matching(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scale and shift that bring one mean and standard deviation to another."""
    scale = wanted[1] / torch.maximum(found[1], wanted[1] / _LARGEST_GAIN).clamp_min(_SMALLEST)
    return scale, wanted[0] - found[0] * scale


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    # About any voxel, so that nothing is lost to a large common offset.
    start = values[:, :1]
    mean = ((values - start) * weights).sum(dim=1) + start[:, 0]
    return mean, ((values - mean[:, None]).square() * weights).sum(dim=1).sqrt()


def _weighted(
    image: Tensor, filtered: Tensor, own: Tensor, other: Tensor, shift: Tensor, *, out: Tensor | None
) -> Tensor:
    return torch.addcmul(torch.addcmul(shift, image, own), filtered, other, out=out)


def _mixed(image: Tensor, filtered: Tensor, mix: Tensor, *, out: Tensor | None) -> Tensor:
    return torch.lerp(image, filtered, mix, out=out)


def _only_inside(
    blend: Callable[..., Tensor],
    image: Tensor,
    filtered: Tensor,
    inside: Tensor,
    *numbers: Tensor,
    out: Tensor | None,
) -> Tensor:
    return torch.where(inside, blend(image, filtered, *numbers, out=None), image, out=out)


def _about_mean(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    return local_filters.about_mean(planes, buffers.floats(step.arrays["kernels"]))


def _magnitude(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    return local_filters.magnitude(planes, buffers.floats(step.arrays["kernels"]))


def _sharpen(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    slots = [step.arrays.get(f"axis{axis}") for axis in range(planes.dim() - 1)]
    smooth = local_filters.smooth(planes, [None if slot is None else buffers.floats(slot) for slot in slots])
    amount = buffers.floats(step.arrays["amount"])
    return voxelwise(_mixed, (planes, smooth), (-amount,))


def _sharpened(planes: Tensor, step: Step, buffers: Buffers, out: Tensor) -> Tensor:
    """Do the same where `out` holds the planes, or is them: the last product subtracts the smooth part at once."""
    matrices = [buffers.floats(slot) if (slot := step.arrays.get(f"axis{a}")) else None for a in range(out.dim() - 1)]
    last = max(axis for axis, matrix in enumerate(matrices) if matrix is not None)
    smooth = local_filters.smooth(planes, [None if axis == last else m for axis, m in enumerate(matrices)])
    for k, amount in enumerate(step.amounts):
        bands = [Band(m[k], len(m[k])) if axis == last and m is not None else None for axis, m in enumerate(matrices)]
        add_product(out[k], smooth[k], bands, 1 + amount, -amount)
    return out


def _median(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    passes, *axes = step.key
    return local_filters.median(planes, axes, passes)


def _network(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    names = [(f"kernels{i}", f"shifts{i}") for i in range(len(step.arrays) // 2)]
    layers = [tuple(buffers.floats(step.arrays[name]) for name in pair) for pair in names]
    return local_filters.network(planes, [(kernels, shifts) for kernels, shifts in layers])


def _power(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    return local_filters.power(planes, _field(step, program, buffers))


def _add(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    return local_filters.add(planes, _field(step, program, buffers))


def _field(step: Step, program: Program, buffers: Buffers) -> Tensor:
    return spread_over(buffers.floats(step.arrays["knots"]), [buffers.floats(slot) for slot in program.knots])


def _blank(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    """Fill boxes; they are known to the host, so that only their voxels are touched."""
    result = planes.clone()
    air, span = local_filters.units(planes)
    for row, (fill, offset, boxes) in enumerate(step.boxes):
        for low, high in boxes:
            place = (row, *map(slice, low, high))
            part = planes[place]
            if fill == "air":
                result[place] = air[row]
            elif fill == "mean":
                result[place] = part.mean()
            else:
                noise = white_noise([offset], part.shape, planes.device)[0]
                # Uniform from air to the brightest tissue: the share of normal numbers below each.
                shares = 0.5 + 0.5 * torch.erf(noise * math.sqrt(0.5))
                result[place] = torch.addcmul(air[row], shares, span[row])
    return result


def _swap(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    """Exchange boxes, pair by pair, as `_blank` fills them."""
    result = planes.clone()
    for row, (_, _, boxes) in enumerate(step.boxes):
        for first, second in zip(boxes[::2], boxes[1::2], strict=True):
            one, other = ((row, *map(slice, *box)) for box in (first, second))
            kept = result[one].clone()
            result[one] = result[other].clone()
            result[other] = kept
    return result


def _regions(planes: Tensor, step: Step, program: Program, buffers: Buffers) -> Tensor:
    lines = [buffers.floats(step.arrays[f"axis{axis}"]) for axis in range(planes.dim() - 1)]
    values, texture, sharpness = (buffers.floats(step.arrays[name]) for name in ("values", "texture", "sharpness"))
    border = buffers.floats(step.arrays["border"]) if "border" in step.arrays else None
    return paint_regions(planes, lines, values, texture, sharpness, border, mixture=bool(step.key[0]))


FILTERS: Mapping[str, Callable[[Tensor, Step, Program, Buffers], Tensor]] = {
    "about_mean": _about_mean,
    "magnitude": _magnitude,
    "sharpen": _sharpen,
    "median": _median,
    "network": _network,
    "power": _power,
    "add": _add,
    "blank": _blank,
    "swap": _swap,
    "regions": _regions,
}

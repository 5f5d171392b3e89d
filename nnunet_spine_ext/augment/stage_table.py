"""Second stage: every map from value (and label) to value, composed into one table per sample and channel.

What does not depend on the image's own histogram is composed on the host, in units of the signal; the rest follows on
the device, on tables of a few hundred nodes per label. The volume is read once, however many transforms fired and
however many labels there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nnunet_spine_ext.augment import table_classes, table_mixture, table_ops
from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, Batch, pick, thin
from nnunet_spine_ext.augment.noise_floor import noise_floor
from nnunet_spine_ext.augment.noise_pool import white_noise
from nnunet_spine_ext.augment.packing import Buffers, Slot
from nnunet_spine_ext.augment.table_axis import LARGEST, axis_on, pieces, positions
from nnunet_spine_ext.augment.table_build import Builder, Operation, Program
from nnunet_spine_ext.augment.table_lookup import Rows, Tables, apply_tables

__all__ = ["Builder", "Program", "apply"]

Arrays = Mapping[str, Tensor]
Result = tuple[Tensor, Tensor | None]


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Send the active samples through their tables."""
    levels = batch.levels()
    planes = batch.numbers(program.tracks)
    air, span = (pick(level.flatten(), planes) for level in (levels.air, levels.span))
    rows = Rows(batch.context.labels, lambda: buffers.ints(program.lookup))
    labels = batch.labels if program.labelled else None
    labels = None if labels is None else pick(labels[:, 0], [index for index, _ in program.tracks])

    change, noise_levels = _tables(batch, program, buffers, planes, (air, span), rows)
    owner = None if program.owner is None else buffers.ints(program.owner)
    table = pieces(change, _chosen(air, owner), _chosen(span, owner))
    order = None if program.index is None else buffers.ints(program.index)
    scale, offset = positions(air, span, program.nodes)
    tables = Tables(
        pieces=_rows(table, order, len(planes)),
        scale=scale,
        offset=offset,
        noise=None if noise_levels is None else _on_segments(noise_levels, order) * span[:, None, None],
    )
    images = batch.planes(program.tracks)
    noise = None if noise_levels is None else white_noise(program.seeds, [images[0].numel()], batch.device)
    chosen = None if labels is None else rows.unbounded(labels).flatten(1)
    result = apply_tables(images.flatten(1), chosen, tables, noise, batch.into(images)).view_as(images)
    batch.write_planes(program.tracks, result)


def _tables(
    batch: Batch,
    program: Program,
    buffers: Buffers,
    planes: list[int],
    levels: tuple[Tensor, Tensor],
    rows: Rows,
) -> Result:
    """Return what the tables add to u, (G, N), and the noise levels (K, R, N) in units of the signal."""
    change = buffers.floats(program.change)
    axis = axis_on(batch.device, program.nodes)
    if not program.operations:
        # To the last bit what it is where a neighbour in the batch needs operations.
        return ((axis + change) - axis).clamp_(-LARGEST, LARGEST), None
    start = None if program.start is None else buffers.ints(program.start)
    values = _rows(axis + change, start, len(planes))
    counts = _count(batch, program, buffers, (planes, levels, rows))
    noise = torch.zeros_like(values) if program.noisy else None
    floor = _floor(batch, planes) if any(operation.kind == "match" for operation in program.operations) else None
    for operation in program.operations:
        values, noise = _operate(operation, buffers, (values, counts, noise), floor)
    return (values - axis).flatten(0, 1).clamp_(-LARGEST, LARGEST), noise


def _count(
    batch: Batch, program: Program, buffers: Buffers, where: tuple[list[int], tuple[Tensor, Tensor], Rows]
) -> Tensor:
    """Return the histograms (K, R, N) of the active samples, from the sample grid."""
    planes, levels, rows = where
    voxels = pick(batch.sample().flatten(0, 1), planes)
    scale, offset = positions(*levels, program.nodes)
    position = torch.addcmul(offset[:, None], voxels, scale[:, None])
    chosen = None
    if program.labelled and batch.labels is not None:
        thinned = thin(batch.labels[:, :1], SAMPLE_VOXELS)[:, 0]
        own = rows(pick(thinned, [index for index, _ in program.tracks])).to(torch.int64)
        chosen = buffers.ints(program.row).gather(1, own)
    return table_ops.histogram(position, chosen, program.rows, program.nodes)


def _floor(batch: Batch, planes: list[int]) -> Tensor:
    """Return up to where the signal of each table is the noise of air, (K,)."""
    levels = batch.levels()
    floor = noise_floor(batch.images, levels) / levels.span
    return pick(floor.flatten(), planes)


def _operate(
    operation: Operation, buffers: Buffers, tables: tuple[Tensor, Tensor, Tensor | None], floor: Tensor | None
) -> Result:
    """Apply one operation to the tables (values, counts, noise) that it is for."""
    values, counts, noise = tables
    arrays = {name: buffers.floats(slot) for name, slot in operation.arrays.items()}
    chosen = None if operation.tracks is None else buffers.ints(operation.tracks)
    if floor is not None:
        arrays["floor"] = _chosen(floor, chosen)
    before, region = _chosen(values, chosen), _chosen(counts, chosen)
    weights = arrays["weights"][..., None]
    if not operation.whole:
        region = region * (weights > 0)
    new, levels = OPERATIONS[operation.kind](before, region, arrays)
    after = new if operation.whole else torch.lerp(before, new, weights)
    if operation.retain is not None:
        after = _retain(operation, buffers, after, before, region, weights)
    if levels is not None and noise is not None:
        old = _chosen(noise, chosen)
        blended = torch.lerp(old, levels.expand_as(old), weights)
        noise = blended if chosen is None else noise.index_copy(0, chosen, blended)
    return (after if chosen is None else values.index_copy(0, chosen, after)), noise


def _retain(
    operation: Operation, buffers: Buffers, after: Tensor, before: Tensor, region: Tensor, weights: Tensor
) -> Tensor:
    """Give the tables that ask for it the mean and sd that they had, in the rows acted on."""
    kept = table_ops.keep_statistics(after, before, region)
    if isinstance(operation.retain, Slot):
        kept = torch.lerp(after, kept, buffers.floats(operation.retain)[:, None, None])
    return kept if operation.whole else torch.where(weights > 0, kept, after)


def _curve(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    return table_ops.curve(values, arrays["nodes"]), None


def _affine(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    return values * arrays["scale"][..., None] + arrays["offset"][..., None], None


def _about_mean(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    return table_ops.about_mean(values, region, arrays["factor"], arrays["preserve"]), None


def _clamp(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    return table_ops.clamp(values, region, arrays["shares"]), None


def _equalise(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    return table_ops.equalise(values, region), None


def _labelwise(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    new = table_ops.labelwise(values, region, arrays["carry"], arrays["offset"], arrays["gain"])
    return new, arrays["noise"][..., None]


def _classes(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    names = ("count", "means", "texture", "sharpness", "noise")
    return table_classes.repaint(values, region, *(arrays[name] for name in names))


def _mixture(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    distribution = table_ops.Distribution(values, region)
    classes = table_mixture.fit(distribution, arrays["count"], arrays["means"].shape[1])
    names = ("count", "means", "texture", "sharpness", "noise")
    return table_classes.paint(values, distribution, classes, *(arrays[name] for name in names))


def _within(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    """Repaint the classes of each label alone: every row is a table of its own."""
    count, rows, nodes = values.shape
    each = [arrays[name][:, None].expand(count, rows).flatten() for name in ("count", "sharpness")]
    means, texture, noise = (arrays[f"own_{name}"].flatten(0, 1) for name in ("means", "texture", "noise"))
    flat = (values.reshape(-1, 1, nodes), region.reshape(-1, 1, nodes))
    new, levels = table_classes.repaint(*flat, each[0], means, texture, each[1], noise)
    return new.view(values.shape), levels.view(values.shape)


def _match(values: Tensor, region: Tensor, arrays: Arrays) -> Result:
    return table_ops.match(values, region, arrays["targets"], arrays["air"], arrays["floor"]), None


OPERATIONS: Mapping[str, Callable[[Tensor, Tensor, Arrays], Result]] = {
    "curve": _curve,
    "affine": _affine,
    "about_mean": _about_mean,
    "clamp": _clamp,
    "equalise": _equalise,
    "labelwise": _labelwise,
    "classes": _classes,
    "mixture": _mixture,
    "within": _within,
    "match": _match,
}


def _chosen(values: Tensor, index: Tensor | None) -> Tensor:
    """Select along the first axis; None is everything."""
    return values if index is None else values.index_select(0, index)


def _rows(values: Tensor, order: Tensor | None, count: int) -> Tensor:
    """Arrange rows (G, N) as order (K, L) says, (K, L, N); None is in order."""
    if order is None:
        return values.view(count, -1, values.shape[-1])
    return values.index_select(0, order.flatten()).view(*order.shape, -1)


def _on_segments(levels: Tensor, order: Tensor | None) -> Tensor:
    """Return noise levels (K, R, N) per segment, in rows as `order` (K, L) says: (K, L, N + 1)."""
    levels = _rows(levels.flatten(0, 1), order, levels.shape[0])
    return torch.cat((levels[..., :1], levels), dim=-1)

"""Fifth stage: what does not separate into axes: motion, ghosts, spikes, elliptical and partial coverage of k-space.

All effects of a sample multiply one complex table per slice, so that they share one transform forth and back, over
the two axes of the slice; the magnitude is taken at the end. An object that turned or left the slice is a second
object with a table of its own: what was acquired while it lay so. Only that costs a further transform forth.

Real and imaginary part of the image are computed as two real images, half of k-space each; often the second is zero.
The patch is taken for periodic: what ghosts and moving parts lose at one end comes in at the other, as it folds over
in a scanner whose field of view is as small. Samples are processed one after the other (see `stage_axis`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from nnunet_spine_ext.augment.batch import Batch, in_pieces
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import Plane, Spike, Table, even_and_odd, rotation_map
from nnunet_spine_ext.augment.packing import Buffers, Packer, Slot

# Voxels that a processor transforms at once: what is in work stays in its cache.
_CHUNK = 1 << 18
_NOTHING = 1e-9
_SMALLEST = 1e-30

Filter = tuple[Slot, ...]
"""Packed halves of tables, (2, A, B // 2 + 1) each, real and imaginary part, that one real source is multiplied with.

They give the real part of the image; the imaginary part, unless there is none; real and imaginary part of the guide
that homodyne detection takes the phase from, if it is used.
"""


@dataclass(frozen=True)
class Pose:
    """How the second object lies: `map` packed (2, 3), or None if not turned; `slices`: moved through the plane by."""

    map: Slot | None
    slices: float


@dataclass(frozen=True)
class Scan:
    """One plane (sample, channel).

    `filters`: of the object, then of the second one if there is a `pose`; two each, of cosine and sine, if there is a
    `phase`, packed (2, A, B).
    """

    target: tuple[int, int]
    slice_axis: int | None
    filters: tuple[Filter, ...]
    pose: Pose | None
    phase: Slot | None
    spikes: tuple[Spike, ...]


@dataclass(frozen=True)
class Program:
    """One scan per active plane, in order."""

    scans: tuple[Scan, ...]


@dataclass
class _State:
    table: Table
    posed: Table | None = None
    degrees: float = 0.0
    slices: float = 0.0
    phase: Table | None = None
    weights: Table | None = None
    guide: Table | None = None
    spikes: list[Spike] = field(default_factory=list)


class Builder:
    """Collects what happens to the k-space of each sample and channel."""

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._planes: dict[int, Plane] = {}
        self._states: dict[tuple[int, int], _State] = {}

    def plane(self, index: int, slice_axis: int | None) -> Plane:
        """Return the slices of a sample; the first effect decides, so that all share one transform."""
        if index not in self._planes:
            slice_axis = None if self._context.dim == 2 else slice_axis
            axes = tuple(axis for axis in range(self._context.dim) if axis != slice_axis)
            shape, spacing = self._context.shape, self._context.spacing
            first, second = axes
            self._planes[index] = Plane(
                slice_axis, (first, second), (shape[first], shape[second]), (spacing[first], spacing[second])
            )
        return self._planes[index]

    def multiply(self, index: int, channels: Sequence[int], table: Table) -> None:
        """Multiply k-space with a table (A, B)."""
        for state in self._of(index, channels):
            state.table = state.table * table

    def move(
        self, index: int, channels: Sequence[int], moved: Table, posed: NDArray[np.bool_], degrees: float, slices: float
    ) -> None:
        """Add motion.

        Parameters
        ----------
        moved: (A, B) phases of the displacement within the plane.
        posed: (A, B) where the object was turned by `degrees` and moved through the plane by `slices`.
        """
        for state in self._of(index, channels):
            state.table = state.table * moved
            if posed.any() and (degrees or slices) and state.posed is None:
                state.posed, state.degrees, state.slices = posed.astype(np.complex128), degrees, slices

    def receive(
        self, index: int, channels: Sequence[int], weights: Table, guide: Table | None, phase: Table | None
    ) -> None:
        """Acquire a part of k-space of an object with a phase.

        `weights`: of what was acquired. `guide`: those of the part that gives the phase, for homodyne detection.
        """
        for state in self._of(index, channels):
            if guide is None or state.guide is not None:
                state.table = state.table * (weights if guide is None else guide)
            else:
                state.weights, state.guide = weights, guide
            if phase is not None:
                state.phase = phase if state.phase is None else state.phase * phase

    def spike(self, index: int, channels: Sequence[int], spike: Spike) -> None:
        """Add a spike."""
        for state in self._of(index, channels):
            state.spikes.append(spike)

    def pack(self, packer: Packer) -> Program | None:
        """Pack the tables of the planes that anything happens to."""
        scans = []
        for target, state in sorted(self._states.items()):
            plain = state.phase is None and state.guide is None and not state.spikes and state.posed is None
            if not plain or np.abs(state.table - 1).max() >= _NOTHING:
                scans.append(self._scan(packer, target, state))
        return Program(tuple(scans)) if scans else None

    def _scan(self, packer: Packer, target: tuple[int, int], state: _State) -> Scan:
        plane = self._planes[target[0]]
        tables, pose = [state.table], None
        if state.posed is not None:
            tables = [state.table * (1 - state.posed), state.table * state.posed]
            turned = packer.floats(rotation_map(plane, state.degrees)) if state.degrees else None
            pose = Pose(turned, state.slices)
        phase = None
        if state.phase is not None:
            phase = packer.floats(np.stack([state.phase.real, state.phase.imag]))
            tables = [table * factor for table in tables for factor in (1, 1j)]
        filters = self._filters(packer, tables, state)
        return Scan(target, plane.slice_axis, filters, pose, phase, tuple(state.spikes))

    def _filters(self, packer: Packer, tables: Sequence[Table], state: _State) -> tuple[Filter, ...]:
        split: list[tuple[Table, ...]]
        if state.weights is not None and state.guide is not None:
            split = [(*even_and_odd(table * state.weights), *even_and_odd(table * state.guide)) for table in tables]
        else:
            split = [even_and_odd(table) for table in tables]
            if not state.spikes and all(np.abs(parts[1]).max() < _NOTHING for parts in split):
                split = [parts[:1] for parts in split]
        return tuple(tuple(packer.floats(_half(table)) for table in parts) for parts in split)

    def _of(self, index: int, channels: Sequence[int]) -> list[_State]:
        shape = self._planes[index].shape
        keys = [(index, int(channel)) for channel in channels]
        return [self._states.setdefault(key, _State(np.ones(shape, dtype=np.complex128))) for key in keys]


def apply(batch: Batch, program: Program, buffers: Buffers) -> None:
    """Scan the active planes, in place where the images belong to the batch."""
    levels = batch.levels()
    in_place = batch.into(batch.images) is not None
    fresh = None if in_place else batch.images.new_empty((len(program.scans), *batch.images.shape[2:]))
    for row, scan in enumerate(program.scans):
        image = batch.images[scan.target]
        result = image if fresh is None else fresh[row]
        slices, target = (_as_slices(values, scan) for values in (image, result))
        _scan(slices, target, scan, (levels.air[scan.target], levels.span[scan.target]), buffers)
    if fresh is None:
        batch.changed()
    else:
        batch.write_planes([scan.target for scan in program.scans], fresh)


def _scan(slices: Tensor, target: Tensor, scan: Scan, levels: tuple[Tensor, Tensor], buffers: Buffers) -> None:
    """Write what the scanner makes of slices (S, A, B) into `target`."""
    air, span = levels
    recorded = slices.requires_grad and torch.is_grad_enabled()
    objects = [slices] if scan.pose is None else [slices, _posed(slices, scan.pose, buffers)]
    filters = [[torch.complex(*buffers.floats(slot).unbind(0)) for slot in of_source] for of_source in scan.filters]
    phase = None if scan.phase is None else buffers.floats(scan.phase).unbind(0)
    count, *size = slices.shape
    step = max(1, _CHUNK // (size[0] * size[1])) if in_pieces(slices.detach()) else count
    for start in range(0, count, step):
        part = slice(start, start + step)
        sources = [values[part] - air for values in objects]
        if phase is not None:
            sources = [signal * factor for signal in sources for factor in phase]
        spectra = _spectra(sources, filters)
        _add_spikes(spectra, scan.spikes, start, size, span)
        magnitude = _magnitude([torch.fft.irfft2(spectrum, s=size) for spectrum in spectra])
        if recorded:
            target[part] = air + magnitude
        else:
            torch.add(magnitude, air, out=target[part])


def _spectra(sources: Sequence[Tensor], filters: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the sums over the sources of their spectra times each of their tables."""
    totals: list[Tensor] = []
    for signal, tables in zip(sources, filters, strict=True):
        spectrum = torch.fft.rfft2(signal)
        if totals:
            totals = [torch.addcmul(total, spectrum, table) for total, table in zip(totals, tables, strict=True)]
        else:
            totals = [spectrum * table for table in tables]
    return totals


def _magnitude(parts: Sequence[Tensor]) -> Tensor:
    """Return the magnitude of real and imaginary part; of four, that of what has the phase of the last two.

    Nothing is squared that could overflow, whatever the image holds.
    """
    image, guide = parts[:2], parts[2:]
    if guide:
        length = torch.hypot(*guide).clamp_min(_SMALLEST)
        cosine, sine = (part / length for part in guide)
        return torch.addcmul(image[0] * cosine, image[1], sine).abs_()
    return image[0].abs_() if len(image) == 1 else torch.hypot(*image)


def _add_spikes(spectra: list[Tensor], spikes: Sequence[Spike], start: int, size: Sequence[int], span: Tensor) -> None:
    """Add waves to the halves of spectra, in place: cosines to the real part, sines to the imaginary part."""
    for spike in spikes:
        row, column = spike.place
        number = torch.arange(start, start + spectra[0].shape[0], device=spectra[0].device, dtype=torch.float32)
        angle = number * (2 * torch.pi * spike.per_slice) + spike.angle
        # A wave shows twice in a spectrum, once in the half of it.
        height = (span * (spike.amplitude * size[0] * size[1] / 2)).expand_as(angle)
        for spectrum, turn in zip(spectra[:2], (0.0, -torch.pi / 2), strict=True):
            spectrum[:, row, column] += torch.polar(height, angle + turn)


def _posed(slices: Tensor, pose: Pose, buffers: Buffers) -> Tensor:
    """Return slices (S, A, B) of the object as it lies after it moved: through the plane first, then turned in it."""
    if pose.slices:
        below, count = int(np.floor(pose.slices)), slices.shape[0]
        number = torch.arange(count, device=slices.device) - below
        near = slices.index_select(0, number.clamp(0, count - 1))
        far = slices.index_select(0, (number - 1).clamp(0, count - 1))
        slices = torch.lerp(near, far, pose.slices - below)
    if pose.map is None:
        return slices
    # Slices are the channels of one image: the same four weights for all.
    grid = nnf.affine_grid(buffers.floats(pose.map)[None], [1, 1, *slices.shape[1:]], align_corners=False)
    return nnf.grid_sample(slices[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _as_slices(image: Tensor, scan: Scan) -> Tensor:
    """Return an image as (S, A, B), a view; in 2-D with one slice."""
    return image[None] if image.dim() == 2 else image.movedim(scan.slice_axis or 0, 0)


def _half(table: Table) -> NDArray[np.float64]:
    """Return real and imaginary part of the half of a table, (2, A, B // 2 + 1)."""
    half = table[:, : table.shape[1] // 2 + 1]
    return np.stack([half.real, half.imag])

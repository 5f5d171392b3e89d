"""The host side of the table stage: composes what it can in numpy, lists the rest as operations for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.packing import Packer, Slot
from nnunet_spine_ext.augment.table_align import line_up
from nnunet_spine_ext.augment.table_axis import AXIS, LARGEST, NODES, Curve, nodes_for
from nnunet_spine_ext.augment.transform import Params

Array = NDArray[np.float64]

MOST_WITHIN = 4
"""Classes that one label can be divided into."""

_PER_LABEL = ("weights", "scale", "offset")
# Operations that measure each label alone, and what else they hold per label.
_OWN_STATISTICS: Mapping[str, tuple[str, ...]] = {
    "labelwise": ("carry", "gain", "noise"),
    "match": ("targets", "air"),
    "within": ("own_means", "own_texture", "own_noise"),
}
_NOISE = ("noise", "own_noise")
# Channels of one sample take noise from places this far apart in the pool.
_CHANNEL_STEP = 611953


@dataclass(frozen=True)
class Operation:
    """One kind of operation for some of the tables.

    `tracks`: positions of the tables, None: all. `arrays`: packed (K', …). `whole`: it replaces all rows wholly.
    `retain`: whether mean and sd are kept: None, or for which tables, packed (K',) 0 or 1, or "all".
    """

    kind: str
    tracks: Slot | None
    arrays: Mapping[str, Slot]
    whole: bool
    retain: Slot | Literal["all"] | None


@dataclass(frozen=True)
class Program:
    """What the device does.

    `tracks`: (sample, channel) of each of K tables. `rows`: R per table; labels that are treated alike share one.
    `nodes`: N per row. `labelled`: whether any label matters. `change`: (G, N) what composed tables add. `owner`: (G',)
    the table that each row belongs to when pieces are made. `start`: (K, R) composed row that each row starts from.
    `row`: (K, L + 1) row of each label, the last entry for unknown ones. `index`: row of pieces that each label ends
    in, as `row`, or (K, 1) when no label matters. `owner`, `start` and `index` are None when they select everything in
    order. `lookup`: label id -> position. `seeds`: noise offset of each table.
    """

    tracks: tuple[tuple[int, int], ...]
    rows: int
    nodes: int
    labelled: bool
    change: Slot
    owner: Slot | None
    start: Slot | None
    row: Slot
    index: Slot | None
    lookup: Slot
    operations: tuple[Operation, ...]
    noisy: bool
    seeds: tuple[int, ...]


@dataclass
class _Step:
    kind: str
    weights: Array
    retain: bool
    arrays: dict[str, Array]


@dataclass
class _Track:
    """The table of one sample and channel: values (G, NODES) of groups of labels, then steps for the device."""

    rows: int
    values: Array = field(default_factory=lambda: AXIS[None].copy())
    group: NDArray[np.int64] = field(init=False)
    steps: list[_Step] = field(default_factory=list)
    seed: int = 0

    def __post_init__(self) -> None:
        self.group = np.zeros(self.rows, dtype=np.int64)

    def split(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Make groups that lie wholly inside or outside the chosen rows; return those inside."""
        for number in range(len(self.values)):
            members = self.group == number
            inside = members & chosen
            if inside.any() and (members & ~chosen).any():
                self.group[inside] = len(self.values)
                self.values = np.concatenate([self.values, self.values[number : number + 1]])
        return np.unique(self.group[chosen])

    def separate(self) -> None:
        """Give every row a group of its own."""
        self.values, self.group = self.values[self.group], np.arange(self.rows)


class Builder:
    """Collects value maps per sample and channel, in the order in which they are to be applied.

    `params` of every method hold what `Selective.select` draws, and the channels. Intensities are in units of the
    signal (air 0, brightest tissue about 1).
    """

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._tracks: dict[tuple[int, int], _Track] = {}

    def curve(self, index: int, params: Params, function: Curve) -> None:
        """Apply a function of u that is defined on the whole axis (`table_axis.on_unit` extends one on [0, 1])."""
        for track in self._selected(index, params):
            if track.steps or params["retain_stats"]:
                self._step(track, params, "curve", nodes=np.clip(function(AXIS), -LARGEST, LARGEST))
            else:
                self._compose(track, params, function)

    def affine(self, index: int, params: Params, scale: ArrayLike, offset: ArrayLike) -> None:
        """Multiply and add; scale and offset are numbers, or one per label of the context."""
        per_row = np.ndim(scale) > 0 or np.ndim(offset) > 0
        count = len(self._context.labels)
        scales, offsets = (np.broadcast_to(np.asarray(v, dtype=np.float64), (count,)) for v in (scale, offset))
        for track in self._selected(index, params):
            if track.steps or params["retain_stats"]:
                self._step(track, params, "affine", scale=scales, offset=offsets)
            elif per_row:
                track.separate()
                weights = self._weights(params)[:, None]
                new = track.values * scales[:, None] + offsets[:, None]
                track.values = track.values + weights * (new - track.values)
            else:
                self._compose(track, params, lambda u: u * scales[0] + offsets[0])

    def about_mean(self, index: int, params: Params, factor: float, *, preserve_range: bool) -> None:
        """Stretch about the mean of the voxels acted on, and clip to their former range if asked."""
        for track in self._selected(index, params):
            self._step(track, params, "about_mean", factor=factor, preserve=float(preserve_range))

    def clamp(self, index: int, params: Params, low: float, high: float) -> None:
        """Clip to two quantiles, as shares 0-1."""
        for track in self._selected(index, params):
            self._step(track, params, "clamp", shares=[low, high])

    def equalise(self, index: int, params: Params) -> None:
        """Equalise the histogram."""
        for track in self._selected(index, params):
            self._step(track, params, "equalise")

    def labelwise(
        self, index: int, params: Params, *, carry: ArrayLike, offset: ArrayLike, gain: ArrayLike, noise: ArrayLike
    ) -> None:
        """Give each label the mean carry * mean + offset, keep `gain` of its texture and add white noise of sd `noise`.

        All are one number per label of the context. Needs `params["noise_offset"]`.
        """
        for track in self._selected(index, params):
            self._step(track, params, "labelwise", carry=carry, offset=offset, gain=gain, noise=noise)

    def classes(
        self,
        index: int,
        params: Params,
        *,
        means: Sequence[float],
        texture: Sequence[float],
        noise: Sequence[float],
        sharpness: float,
        mixture: bool = False,
    ) -> None:
        """Find as many intensity classes as there are means, and give them these, darkest first; see `repaint`.

        `mixture`: they are the components of a Gaussian mixture, not those of k-means.
        """
        kind = "mixture" if mixture else "classes"
        for track in self._selected(index, params):
            arrays = {"means": means, "texture": texture, "noise": noise}
            self._step(track, params, kind, count=float(len(means)), sharpness=sharpness, **arrays)

    def classes_within(
        self, index: int, params: Params, means: ArrayLike, *, texture: ArrayLike, noise: ArrayLike, sharpness: float
    ) -> None:
        """Find intensity classes in each label, and give them these means, texture and noise, all (labels, classes)."""
        rows = {"own_means": means, "own_texture": texture, "own_noise": noise}
        # As many columns as there may be, so that samples with other numbers of classes share one operation.
        padded = {
            name: np.pad(value, ((0, 0), (0, MOST_WITHIN)), "edge")[:, :MOST_WITHIN] for name, value in rows.items()
        }
        for track in self._selected(index, params):
            self._step(track, params, "within", count=float(np.shape(means)[1]), sharpness=sharpness, **padded)

    def match(self, index: int, params: Params, targets: ArrayLike) -> None:
        """Give each label the distribution with these quantiles, (labels, Q) at equal steps from 0 to 1.

        Those of label 0 are of what is brighter than air: how much of a patch is air is no property of a scanner.
        """
        air = [float(label == 0) for label in self._context.labels]
        for track in self._selected(index, params):
            self._step(track, params, "match", targets=targets, air=air)

    def pack(self, packer: Packer) -> Program | None:
        """Pack all tables; None when no transform fired."""
        if not self._tracks:
            return None
        places = sorted(self._tracks)
        tracks = [self._tracks[place] for place in places]
        alike = [_alike(track) for track in tracks]
        rows = max(len(first) for first, _ in alike)
        # A table with fewer rows repeats its first one; no voxel is counted there.
        first = np.stack([np.concatenate([f, np.repeat(f[:1], rows - len(f))]) for f, _ in alike])
        row = np.stack([np.concatenate([inverse, inverse[:1]]) for _, inverse in alike])
        offsets = np.cumsum([0] + [len(track.values) for track in tracks])
        start = np.stack([t.group[f] + o for t, f, o in zip(tracks, first, offsets[:-1], strict=True)])
        # By what labels there may be, not by what rows there are: else neighbours in the batch would matter.
        nodes = nodes_for(len(self._context.labels))
        kept = slice(None, None, (NODES - 1) // (nodes - 1))
        operations = tuple(_operations(tracks, first, kept, packer))
        count = len(tracks)
        if operations:
            owner, ends = np.repeat(np.arange(count), rows), np.arange(count * rows).reshape(count, rows)
        else:
            owner, ends = np.repeat(np.arange(count), [len(t.values) for t in tracks]), start
        index = np.take_along_axis(ends, row, axis=1) if rows > 1 else ends
        return Program(
            tracks=tuple(places),
            rows=rows,
            nodes=nodes,
            labelled=rows > 1,
            change=packer.floats(
                np.clip(np.concatenate([t.values for t in tracks]) - AXIS, -LARGEST, LARGEST)[:, kept]
            ),
            owner=_unless_trivial(owner, packer),
            start=_unless_trivial(start, packer),
            row=packer.ints(row),
            index=_unless_trivial(index, packer),
            lookup=packer.ints(_lookup(self._context.labels)),
            operations=operations,
            noisy=any(np.any(step.arrays.get(name, 0)) for t in tracks for step in t.steps for name in _NOISE),
            seeds=tuple(track.seed for track in tracks),
        )

    def _selected(self, index: int, params: Params) -> list[_Track]:
        """Return the tables of the channels, unless no label of the context is among those chosen."""
        if params["mix"] == 0 or not self._weights(params).any():
            return []
        rows = len(self._context.labels)
        tracks = []
        for channel in params["channels"]:
            track = self._tracks.setdefault((index, int(channel)), _Track(rows))
            if "noise_offset" in params:
                track.seed = int(params["noise_offset"]) + int(channel) * _CHANNEL_STEP
            tracks.append(track)
        return tracks

    def _weights(self, params: Params) -> Array:
        """Return the share of the new value per label."""
        weights = np.zeros(len(self._context.labels))
        if params["labels"] is None:
            weights[:] = params["mix"]
        else:
            weights[self._context.rows(params["labels"])] = params["mix"]
        return weights

    def _compose(self, track: _Track, params: Params, function: Curve) -> None:
        weights = self._weights(params)
        chosen = weights > 0
        groups = track.split(chosen)
        old = track.values[groups]
        track.values[groups] = old + params["mix"] * (np.clip(function(old), -LARGEST, LARGEST) - old)

    def _step(self, track: _Track, params: Params, kind: str, **arrays: Any) -> None:
        values = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
        track.steps.append(_Step(kind, self._weights(params), params["retain_stats"], values))


def _alike(track: _Track) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one label of each kind that is treated alike, and the kind of each label."""
    columns = [track.group.astype(np.float64)]
    for step in track.steps:
        columns.append(step.weights)
        columns += [step.arrays[name] for name in _PER_LABEL if name in step.arrays]
        if step.kind in _OWN_STATISTICS:
            columns.append(np.where(step.weights > 0, np.arange(1.0, track.rows + 1), 0.0))
    _, first, inverse = np.unique(np.stack(columns), axis=1, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _operations(tracks: Sequence[_Track], first: NDArray[np.int64], kept: slice, packer: Packer) -> list[Operation]:
    """Line up the steps of all tables: one operation for those that do the same.

    `kept`: the nodes of `AXIS` that the tables have.
    """
    operations = []
    for kind, places in line_up([[step.kind for step in track.steps] for track in tracks]):
        numbers = list(places)
        steps = [tracks[number].steps[position] for number, position in places.items()]
        arrays = {name: _stack([step.arrays[name] for step in steps]) for name in steps[0].arrays}
        arrays["weights"] = _stack([step.weights for step in steps])
        per_label = (*_PER_LABEL, *_OWN_STATISTICS.get(kind, ()))
        if "nodes" in arrays:
            arrays["nodes"] = arrays["nodes"][:, kept]
        for name in per_label:
            if name in arrays:
                arrays[name] = np.stack([a[f] for a, f in zip(arrays[name], first[numbers], strict=True)])
        slots = {name: packer.floats(array) for name, array in arrays.items()}
        chosen = None if len(numbers) == len(tracks) else packer.ints(numbers)
        whole = bool((arrays["weights"] == 1).all())
        operations.append(Operation(kind, chosen, slots, whole, _retained(steps, packer)))
    return operations


def _retained(steps: Sequence[_Step], packer: Packer) -> Slot | Literal["all"] | None:
    if all(step.retain for step in steps):
        return "all"
    return packer.floats([float(step.retain) for step in steps]) if any(step.retain for step in steps) else None


def _unless_trivial(index: NDArray[np.int64], packer: Packer) -> Slot | None:
    """Pack an index, unless it selects everything in order."""
    return None if np.array_equal(index.ravel(), np.arange(index.size)) else packer.ints(index)


def _stack(arrays: Sequence[Array]) -> Array:
    """Stack arrays of equal rank; a shorter first axis (fewer classes) is filled up with its last value."""
    if arrays[0].ndim == 0:
        return np.array(arrays)
    length = max(len(array) for array in arrays)
    return np.stack([np.concatenate([a, np.repeat(a[-1:], length - len(a), axis=0)]) for a in arrays])


def _lookup(labels: Sequence[int]) -> NDArray[np.int64]:
    """Return the row of every label id from 0 to one beyond the largest; unknown ids take row 0."""
    table = np.zeros(max(labels) + 2, dtype=np.int64)
    table[list(labels)] = np.arange(len(labels))
    return table

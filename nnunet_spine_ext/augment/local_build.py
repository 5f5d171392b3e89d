"""The host side of the local stage: the steps of each sample in order, those of the same kind joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.label_masks import label_weights
from nnunet_spine_ext.augment.local_kernels import extents, gaussian_matrix
from nnunet_spine_ext.augment.packing import Packer, Slot
from nnunet_spine_ext.augment.region_tables import cell_lines
from nnunet_spine_ext.augment.spline import pack_weights
from nnunet_spine_ext.augment.transform import Params

Array = NDArray[np.float64]
Box = tuple[tuple[int, ...], tuple[int, ...]]
Blank = tuple[str, int, tuple[Box, ...]]

# A Gaussian narrower than this changes a voxel by less than 1e-5.
_NARROWEST = 0.21


@dataclass(frozen=True)
class Step:
    """One filter for some planes.

    `planes`: (sample, channel) of each of K. `key`: settings that they share. `arrays`: packed numbers (K, …).
    `shares`: packed (2, K): share of the filtered image, and 1 where statistics are restored. `plain`: whether the
    filtered image simply takes the place of the original. `retain`: whether any plane's statistics are restored.
    `weights`: packed (K, ids) 1 for chosen labels, the last for ids beyond; None: everywhere. `boxes`: what `blank`
    fills; of `swap`, both of each pair in turn. `amounts`: of `sharpen`, known on the host.
    """

    kind: str
    planes: tuple[tuple[int, int], ...]
    key: tuple[int, ...]
    arrays: Mapping[str, Slot]
    shares: Slot
    plain: bool
    retain: bool
    weights: Slot | None
    boxes: tuple[Blank, ...] = ()
    amounts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Program:
    """All steps in order, and the weights of the knots where a step has a field."""

    steps: tuple[Step, ...]
    knots: tuple[Slot, ...]


@dataclass
class _Call:
    """What one transform asked for on one plane."""

    kind: str
    params: Params
    key: tuple[int, ...] = ()
    arrays: dict[str, Array] = field(default_factory=dict)
    boxes: Blank | None = None

    def joint(self) -> tuple[Any, ...]:
        """Return what has to be equal for planes to be filtered together."""
        shapes = tuple((name, array.shape) for name, array in sorted(self.arrays.items()))
        return self.kind, self.key, shapes, self.params["labels"] is None


class Builder:
    """Collects filters per sample and channel, in the order in which they are to be applied.

    `params` of every method hold what `Selective.select` draws, and the channels.
    """

    def __init__(self, context: Context, count: int) -> None:
        self._context = context
        self._calls: dict[tuple[int, int], list[_Call]] = {}

    def correlate(self, index: int, params: Params, kernel: Array, *, absolute: bool) -> None:
        """Correlate with a kernel (1, k…), about the mean; or take the absolute value, with air as zero.

        Of several kernels (M, k…) always the root of the summed squares is taken.
        """
        absolute = absolute or len(kernel) > 1
        self._add(index, params, "magnitude" if absolute else "about_mean", arrays={"kernels": kernel})

    def sharpen(self, index: int, params: Params, sigma: float, amount: float) -> None:
        """Add `amount` of the difference to the image smoothed with `sigma` mm."""
        arrays = {"amount": np.array(amount)}
        for axis, (size, spacing) in enumerate(zip(self._context.shape, self._context.spacing, strict=True)):
            if sigma / spacing > _NARROWEST and size > 1:
                arrays[f"axis{axis}"] = gaussian_matrix(size, sigma / spacing)
        if len(arrays) > 1:
            self._add(index, params, "sharpen", arrays=arrays)

    def median(self, index: int, params: Params, passes: int) -> None:
        """Take the median of three along each axis that is not coarse, `passes` times."""
        axes = [axis for axis, size in enumerate(extents(3, self._context.spacing)) if size > 1]
        self._add(index, params, "median", key=(passes, *axes))

    def network(self, index: int, params: Params, layers: Sequence[tuple[Array, Array]]) -> None:
        """Send the image through convolutions: kernels (out, in, k…) and shifts (out,) of each."""
        arrays = {}
        for number, (kernels, shifts) in enumerate(layers):
            arrays[f"kernels{number}"], arrays[f"shifts{number}"] = kernels, shifts
        self._add(index, params, "network", arrays=arrays)

    def power(self, index: int, params: Params, exponents: Array) -> None:
        """Raise the signal to positive exponents given at the knots (`spline.knot_grid`)."""
        self._add(index, params, "power", arrays={"knots": exponents})

    def add(self, index: int, params: Params, values: Array) -> None:
        """Add a field given at the knots, in units of the span."""
        self._add(index, params, "add", arrays={"knots": values})

    def blank(self, index: int, params: Params, boxes: Sequence[Box], fill: str, offset: int) -> None:
        """Fill boxes of voxels (low, high) with their `mean`, with `air`, or with `noise` from a place in the pool."""
        if boxes:
            plain = tuple((tuple(map(int, low)), tuple(map(int, high))) for low, high in boxes)
            self._add(index, params, "blank", boxes=(fill, int(offset), plain))

    def swap(self, index: int, params: Params, pairs: Sequence[Sequence[Sequence[int]]]) -> None:
        """Exchange boxes of voxels: the low corners of both, and their size."""
        corners = [(low, [a + n for a, n in zip(low, size, strict=True)]) for *two, size in pairs for low in two]
        if corners:
            plain = tuple((tuple(map(int, low)), tuple(map(int, high))) for low, high in corners)
            self._add(index, params, "swap", boxes=("", 0, plain))

    def regions(
        self,
        index: int,
        params: Params,
        places: Sequence[Sequence[float]],
        values: Sequence[Sequence[float]],
        texture: Sequence[float],
        *,
        sharpness: float,
        border: float = 0.0,
        mixture: bool = False,
    ) -> None:
        """Repaint intensity classes in each of S cells around places in mm; see `region_tables.paint_regions`."""
        arrays = {"values": np.array(values), "texture": np.array(texture), "sharpness": np.array(sharpness)}
        if border > 0:
            arrays["border"] = np.array(border)
        lines = {f"axis{axis}": line for axis, line in enumerate(cell_lines(self._context, places))}
        self._add(index, params, "regions", key=(int(mixture),), arrays=arrays | lines)

    def pack(self, packer: Packer) -> Program | None:
        """Line up the calls of all planes: at each position, one step for those that can be filtered together."""
        steps: list[Step] = []
        for position in range(max((len(calls) for calls in self._calls.values()), default=0)):
            joined: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
            for plane, calls in sorted(self._calls.items()):
                if position < len(calls):
                    joined.setdefault(calls[position].joint(), []).append(plane)
            steps += [self._step(planes, position, packer) for planes in joined.values()]
        if not steps:
            return None
        fields = any("knots" in step.arrays for step in steps)
        return Program(tuple(steps), pack_weights(packer, self._context) if fields else ())

    def _step(self, planes: Sequence[tuple[int, int]], position: int, packer: Packer) -> Step:
        calls = [self._calls[plane][position] for plane in planes]
        mix = np.array([call.params["mix"] for call in calls])
        retain = np.array([float(call.params["retain_stats"]) for call in calls])
        everywhere = calls[0].params["labels"] is None
        return Step(
            kind=calls[0].kind,
            planes=tuple(planes),
            key=calls[0].key,
            arrays={name: packer.floats([call.arrays[name] for call in calls]) for name in calls[0].arrays},
            shares=packer.floats([mix, retain]),
            plain=bool(everywhere and (mix == 1).all() and not retain.any()),
            retain=bool(retain.any()),
            weights=None
            if everywhere
            else packer.floats([label_weights(self._context, call.params["labels"]) for call in calls]),
            boxes=tuple(call.boxes for call in calls if call.boxes is not None),
            amounts=tuple(float(call.arrays["amount"]) for call in calls if call.kind == "sharpen"),
        )

    def _add(self, index: int, params: Params, kind: str, **details: Any) -> None:
        if params["mix"] == 0 or (params["labels"] is not None and not self._context.rows(params["labels"])):
            return
        for channel in params["channels"]:
            self._calls.setdefault((index, int(channel)), []).append(_Call(kind, params, **details))

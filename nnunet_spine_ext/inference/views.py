"""Views of a prepared image: mirrored, of other intensities, of other resolution; pure torch, nothing random."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch.nn.functional import interpolate

from nnunet_spine_ext.inference.view_settings import Kind, ViewSettings
from nnunet_spine_ext.networks.views import only_channels, shading

T = TypeVar("T")
# Voxels that black and white of an image are estimated from, and which of them.
_SAMPLE = 1_000_000
_BLACK, _WHITE = 0.001, 0.999
# A grid this much coarser across the slices than within them has slices.
_ANISOTROPIC = 1.2
# Interpolating a mask of ones leaves this at least.
_WHOLE = 1 - 1e-4


class View(Protocol):
    """A way to look at an image: what the network gets instead, and how its answer comes back."""

    @property
    def name(self) -> str:
        """Short, unique within a run."""
        ...

    @property
    def kind(self) -> Kind:
        """``mirror``, ``intensity`` or ``resolution``; of several the last that is no mirror."""
        ...

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return what the network sees instead of an image (C, *spatial); the image itself is not changed."""
        ...

    def backward(self, outputs: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return outputs (heads, *spatial of the view) on the grid of the image, *shape; linear in the outputs."""
        ...

    def move(self, mask: torch.Tensor) -> torch.Tensor:
        """Return where voxels of a mask (*spatial) bool of the image are in the view."""
        ...

    def restore(self, mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return which voxels of the image, *shape, lie wholly in a mask (*spatial) bool of the view."""
        ...


@dataclass(frozen=True)
class Mirror:
    """The image mirrored along spatial axes; heads of sided classes are exchanged where left and right are."""

    axes: tuple[int, ...]
    exchange: tuple[tuple[int, int], ...] = ()
    kind: Kind = "mirror"

    @property
    def name(self) -> str:
        """``mirror`` with the axes."""
        return "mirror" + "".join(map(str, self.axes))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return the mirrored image (C, *spatial)."""
        return torch.flip(data, [axis + 1 for axis in self.axes])

    def backward(self, outputs: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Mirror outputs (heads, *spatial) back and exchange heads."""
        order = list(range(outputs.shape[0]))
        for left, right in self.exchange:
            order[left], order[right] = order[right], order[left]
        back = torch.flip(outputs, [axis + 1 for axis in self.axes])
        return back[order] if self.exchange else back

    def move(self, mask: torch.Tensor) -> torch.Tensor:
        """Mirror a mask (*spatial)."""
        return torch.flip(mask, list(self.axes))

    def restore(self, mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Mirror a mask (*spatial) back."""
        return torch.flip(mask, list(self.axes))


class _Intensity:
    """What views have in common that leave the grid alone."""

    kind: Kind = "intensity"

    def backward(self, outputs: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the outputs: the grid is that of the image."""
        return outputs

    def move(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the mask."""
        return mask

    def restore(self, mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the mask."""
        return mask


@dataclass(frozen=True)
class Gamma(_Intensity):
    """Intensities between the darkest and the brightest of the volume raised to a power.

    Mean and standard deviation of the volume stay, as the z-score of a changed image would have made them. Channels
    that `channels` says not to change stay (CT has a calibrated scale); None: all are changed.
    """

    gamma: float
    channels: tuple[bool, ...] | None = None

    @property
    def name(self) -> str:
        """``gamma`` with the exponent."""
        return f"gamma{self.gamma:g}"

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return the changed image (C, *spatial) float32."""
        changed = data.clone()
        for channel, (black, white) in zip(changed, _ends(data), strict=True):
            channel.sub_(black).div_(white - black).clamp_(min=0).pow_(self.gamma)
        return _like_before(changed, data, self.channels)


@dataclass(frozen=True)
class Bias(_Intensity):
    """The volume under another coil: shaded by the exponential of a polynomial of order 2, see `networks.views`.

    strength: peak-to-peak of its logarithm; negative: the inverse field. Otherwise as `Gamma`.
    """

    strength: float
    channels: tuple[bool, ...] | None = None

    @property
    def name(self) -> str:
        """``bias`` with the strength."""
        return f"bias{self.strength:+g}"

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return the changed image (C, *spatial) float32."""
        changed = data.clone()
        field = shading(data.shape[1:], self.strength, data.device)
        for channel, (black, _) in zip(changed, _ends(data), strict=True):
            # Air is black whatever the coil.
            channel.sub_(black).mul_(field)
        return _like_before(changed, data, self.channels)


@dataclass(frozen=True, eq=False)
class Matching(_Intensity):
    """Less of the intensity matching: `unmatched` is the same image prepared without it, (C, *spatial).

    Both are prepared alike, z-scored for example, so a mixture is what a weaker map would give. Among several views it
    has to be the first: `unmatched` lies as the image does before another view turns it.
    """

    unmatched: torch.Tensor
    strength: float

    @property
    def name(self) -> str:
        """``match`` with the strength."""
        return f"match{self.strength:g}"

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a mixture of the unmatched and the matched image (C, *spatial)."""
        return torch.lerp(self.unmatched, data, self.strength)


@dataclass(frozen=True)
class Resize:
    """The image with another number of voxels along some axes, as if they were of another size.

    factors: one per spatial axis; the network then sees structures that many times as large.
    """

    factors: tuple[float, ...]
    kind: Kind = "resolution"

    @property
    def name(self) -> str:
        """``size`` with the factors."""
        return "size" + "x".join(f"{factor:g}" for factor in self.factors)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return the image (C, *spatial) on its new grid, by linear interpolation."""
        size = [max(1, round(n * factor)) for n, factor in zip(data.shape[1:], self.factors, strict=True)]
        return _linear(data, size)

    def backward(self, outputs: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return outputs (heads, *spatial) on the grid of the image, head by head: memory is that of the result."""
        back = torch.empty((outputs.shape[0], *shape), dtype=outputs.dtype, device=outputs.device)
        for number, head in enumerate(outputs):
            back[number] = _linear(head[None], shape)[0]
        return back

    def move(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the mask on the new grid; a voxel with any part of it counts."""
        return self.forward(mask[None].float())[0] > 0

    def restore(self, mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return which voxels of the image the mask covers wholly."""
        return _linear(mask[None].float(), shape)[0] > _WHOLE


@dataclass(frozen=True)
class Composed:
    """Several views one after the other; none: the image as it is."""

    parts: tuple[View, ...] = ()

    @property
    def name(self) -> str:
        """Names of the parts, or ``plain``."""
        return "+".join(part.name for part in self.parts) or "plain"

    @property
    def kind(self) -> Kind:
        """That of the last part that is no mirror, if there is one."""
        return next((part.kind for part in reversed(self.parts) if part.kind != "mirror"), "mirror")

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Apply the parts in their order to (C, *spatial)."""
        for part in self.parts:
            data = part.forward(data)
        return data

    def backward(self, outputs: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Undo the parts in the opposite order; only one of them may change the grid."""
        for part in reversed(self.parts):
            outputs = part.backward(outputs, shape)
        return outputs

    def move(self, mask: torch.Tensor) -> torch.Tensor:
        """Apply the parts to a mask (*spatial)."""
        for part in self.parts:
            mask = part.move(mask)
        return mask

    def restore(self, mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Undo the parts in the opposite order."""
        for part in reversed(self.parts):
            mask = part.restore(mask, shape)
        return mask


@dataclass(frozen=True)
class Surroundings:
    """What views have to know of a model.

    Parameters
    ----------
    mirror_axes: spatial axes of the image that training mirrored and whose mirror image needs no exchange.
    sided_axis: the one that needs it, None without sides; exchange: heads to exchange there.
    spacing: of the grid of the network, mm along the last spatial axes.
    left_right: the spatial axis from left to right, None where no axis is.
    channels: whether intensities of a channel may be changed.
    """

    mirror_axes: tuple[int, ...] = ()
    sided_axis: int | None = None
    exchange: tuple[tuple[int, int], ...] = ()
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    left_right: int | None = None
    channels: tuple[bool, ...] = (True,)

    @property
    def through_plane(self) -> int:
        """The axis across the slices: the coarsest, left to right where all are alike (spines are scanned sagittally).

        The first axis where nothing tells, and of 2-D networks.
        """
        if len(self.spacing) < 3:
            return 0
        coarsest = max(range(3), key=lambda axis: self.spacing[axis])
        others = [size for axis, size in enumerate(self.spacing) if axis != coarsest]
        if self.spacing[coarsest] >= _ANISOTROPIC * max(others):
            return coarsest
        return self.left_right or 0


def make_views(settings: ViewSettings, around: Surroundings, unmatched: torch.Tensor | None = None) -> list[Composed]:
    """Return the views of a run in the order in which they are looked at, the image as it is first.

    Mirrored views and others alternate, so that a run that ends early has seen some of each; others are mirrored
    besides, each in another way, which costs nothing.
    """
    mirrors = _mirrors(around) if "mirror" in settings.kinds else [()]
    intensities: list[tuple[View, ...]] = []
    resolutions: list[tuple[View, ...]] = []
    if "intensity" in settings.kinds:
        intensities = [(view,) for view in _intensities(settings, around, unmatched)]
    if "resolution" in settings.kinds:
        resolutions = [(view,) for view in _resolutions(settings, around.through_plane)]
    if settings.crossed:
        chosen = _crossed(mirrors, [(), *intensities], [(), *resolutions])
    else:
        others = _alternating(intensities, resolutions)
        turned = [(*mirrors[(n + 1) % len(mirrors)], *other) for n, other in enumerate(others)]
        chosen = [mirrors[0], *_alternating(turned, mirrors[1:])]
    return [_composed(parts) for parts in chosen[: settings.limit]]


def _composed(parts: Sequence[View]) -> Composed:
    # Sorting is stable: the others keep their order.
    return Composed(tuple(sorted(parts, key=lambda part: not isinstance(part, Matching))))


def _mirrors(around: Surroundings) -> list[tuple[View, ...]]:
    """Return every combination of mirrored axes, none first, then that of most axes."""
    axes = sorted({*around.mirror_axes, *([] if around.sided_axis is None else [around.sided_axis])})
    combinations = [c for n in range(1, len(axes) + 1) for c in itertools.combinations(axes, n)]
    plain: list[tuple[View, ...]] = [()]
    # Opposites next to each other: a run that ends after two has seen every axis both ways.
    paired = itertools.chain.from_iterable(itertools.zip_longest(combinations[::-1], combinations))
    ordered = dict.fromkeys(c for c in paired if c is not None)
    return plain + [(Mirror(c, around.exchange if around.sided_axis in c else ()),) for c in ordered]


def _intensities(settings: ViewSettings, around: Surroundings, unmatched: torch.Tensor | None) -> list[View]:
    if not any(around.channels):
        return []
    shaded = [Bias(sign * strength, around.channels) for strength in settings.bias if strength for sign in (1, -1)]
    curves = [Gamma(gamma, around.channels) for gamma in settings.gamma if gamma != 1]
    weaker = [] if unmatched is None else [Matching(unmatched, strength) for strength in settings.matching]
    return _alternating(_alternating(weaker, curves), shaded)


def _resolutions(settings: ViewSettings, through: int) -> list[View]:
    factors = [tuple(1.0 if axis == through else f for axis in range(3)) for f in settings.in_plane if f != 1]
    factors += [tuple(f if axis == through else 1.0 for axis in range(3)) for f in settings.through_plane if f != 1]
    return [Resize(f) for f in factors]


def _alternating(first: Sequence[T], second: Sequence[T]) -> list[T]:
    """Return both lists as one, in turns."""
    pairs = itertools.zip_longest(first, second)
    return [item for pair in pairs for item in pair if item is not None]


def _crossed(*factors: Sequence[tuple[View, ...]]) -> list[tuple[View, ...]]:
    """Return all combinations: the plain one first, then so that neighbours differ in every factor where they can."""
    places = itertools.product(*(range(len(f)) for f in factors))
    # Along diagonals: the sum of the places counts what is not plain, and grows last.
    ordered = sorted(places, key=lambda place: (max(place), sum(place), place))
    return [tuple(v for f, n in zip(factors, place, strict=True) for v in f[n]) for place in ordered]


def _ends(data: torch.Tensor) -> list[tuple[float, float]]:
    """Return black and white of each channel (C, *spatial), from a regular sample of its voxels; never equal."""
    ends = []
    for channel in data:
        flat = channel.reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)].float()
        low, high = torch.quantile(sample, torch.tensor([_BLACK, _WHITE], device=sample.device)).tolist()
        ends.append((low, max(high, low + 1e-6)))
    return ends


def _like_before(changed: torch.Tensor, data: torch.Tensor, channels: tuple[bool, ...] | None) -> torch.Tensor:
    """Give every channel, in place, the mean and standard deviation that it had; put back what is not to be changed."""
    for new, old in zip(changed, data, strict=True):
        deviation = float(new.std(correction=0))
        if deviation > 0:
            new.sub_(new.mean()).mul_(float(old.std(correction=0)) / deviation).add_(old.mean())
        else:
            new.copy_(old)
    return only_channels(changed[None], data[None], channels)[0]


def _linear(data: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return interpolate(data[None], list(size), mode="trilinear", align_corners=False)[0]

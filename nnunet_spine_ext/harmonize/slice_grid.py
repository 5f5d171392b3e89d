"""One slice to the grid and the 0 to 255 scale that slices are compared on, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.slice_set import DISC, UNKNOWN

TOP = 255.0
Fit = Literal["crop", "resize"]
Scaling = Literal["minmax", "robust"]
# Percentiles between which the robust scaling spreads a slice.
ROBUST = (0.5, 99.5)
# Generators halve a slice twice.
SIZE_STEP = 4
_SIZES = (32, 2048)
_SPACINGS = (0.1, 5.0)


@dataclass(frozen=True)
class SliceSettings:
    """How slices are made of scans.

    Parameters
    ----------
    size: rows and columns (Y, X), multiples of 4.
    spacing: pixel size in mm; None: the median of the scans that are read.
    fit: ``crop``: resampled to `spacing`, then cut or filled up around the middle; ``resize``: stretched to `size`
        whatever the field of view, as the paper does.
    scaling: which intensities of a slice become 0 and 255: ``minmax``, or ``robust`` (percentiles 0.5 and 99.5), which
        one hot pixel does not move.
    middle: only slices this near to the mid-sagittal plane, mm; None: all.
    disc_classes: ids of discs in the masks; None: what the label scheme, or the names of the labels, say.
    contrast: only cases of this contrast; None: all.
    channel: of datasets with several channels.

    Raises
    ------
    UsageError: a value outside its limits.
    """

    size: tuple[int, int] = (320, 320)
    spacing: float | None = None
    fit: Fit = "crop"
    scaling: Scaling = "robust"
    middle: float | None = None
    disc_classes: tuple[int, ...] | None = None
    contrast: str | None = None
    channel: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        low, high = _SIZES
        rules = (
            ("size", self.size, all(low <= n <= high and n % SIZE_STEP == 0 for n in self.size),
             f"multiples of {SIZE_STEP} from {low} to {high}"),
            ("spacing", self.spacing, self.spacing is None or _SPACINGS[0] <= self.spacing <= _SPACINGS[1],
             f"{_SPACINGS[0]:g} to {_SPACINGS[1]:g} mm"),
            ("fit", self.fit, self.fit in ("crop", "resize"), "crop or resize"),
            ("scaling", self.scaling, self.scaling in ("minmax", "robust"), "minmax or robust"),
            ("middle", self.middle, self.middle is None or self.middle > 0, "more than 0 mm"),
            ("disc_classes", self.disc_classes, self.disc_classes is None or all(n > 0 for n in self.disc_classes),
             "ids of classes"),
            ("channel", self.channel, self.channel >= 0, "0 or more"),
        )  # fmt: skip
        for name, value, valid, expected in rules:
            if not valid:
                raise UsageError(
                    "E-SLICE-SETTINGS", file=f"slices: {name}", found=str(value), expected=expected,
                    fix="correct the value",
                )  # fmt: skip


@dataclass(frozen=True)
class SliceFrame:
    """What a prepared slice was before: all that is needed to go back.

    Parameters
    ----------
    shape: rows and columns of the slice as it was. resampled: after resampling, before cutting.
    size: of the prepared slice. start: row and column in the prepared slice at which the resampled one begins;
        negative where it was cut.
    low, high: intensities of 0 and 255. spacing: pixel size in mm of the prepared slice (Y, X).
    """

    shape: tuple[int, int]
    resampled: tuple[int, int]
    size: tuple[int, int]
    start: tuple[int, int]
    low: float
    high: float
    spacing: tuple[float, float]

    @property
    def flat(self) -> bool:
        """Whether the slice was constant, so that nothing can be said of it; then it is prepared as zeros."""
        return not self.high > self.low

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the prepared slice shows the scan; the rest was filled up."""
        return _both(lambda start, n, size: slice(max(0, start), min(size, start + n)), self)

    @property
    def source(self) -> tuple[slice, slice]:
        """The part of the resampled slice that `window` shows."""
        return _both(lambda start, n, size: slice(max(0, -start), min(n, size - start)), self)

    def to_dict(self) -> dict[str, Any]:
        """Return the frame as plain JSON."""
        return asdict(self)


def prepare_slice(
    image: Array,
    spacing: Sequence[float],
    settings: SliceSettings,
    *,
    whole: bool = False,
    multiple: int = 16,
) -> tuple[Array, SliceFrame]:
    """Bring one slice to the grid and the scale of the settings.

    Parameters
    ----------
    image: (rows, columns) from superior to inferior and from anterior to posterior, any number type.
    spacing: its pixel size in mm (rows, columns). settings: with a `spacing`, unless slices are resized.
    whole: nothing is cut off: the prepared slice is as large as the resampled one, filled up to multiples of
        `multiple`. Slices that are resized are whole in any case.

    Returns
    -------
    float32 (Y, X), 0 to 255, 0 where it was filled up; and its frame.

    Raises
    ------
    ValueError: no 2-D image, or settings without spacing.
    """
    if image.ndim != 2 or min(image.shape) < 1:
        msg = f"a slice has rows and columns, got shape {image.shape}"
        raise ValueError(msg)
    values = np.asarray(image, dtype=np.float32)
    low, high = _limits(values, settings.scaling)
    frame = _frame(values.shape, spacing, settings, (low, high), whole=whole, multiple=multiple)
    if frame.flat:
        return np.zeros(frame.size, np.float32), frame
    # Infinite and missing values become the darkest, as in matching.
    values = np.where(np.isfinite(values), values, low)
    scaled = (np.clip(values, low, high) - low) * (TOP / (high - low))
    placed = np.zeros(frame.size, np.float32)
    placed[frame.window] = np.clip(_resized(scaled, frame.resampled), 0, TOP)[frame.source]
    return placed, frame


def prepare_mask(mask: Array, frame: SliceFrame) -> Array:
    """Bring a mask of a slice (0, 1, 255 unknown) to the grid of its prepared image, uint8 (Y, X).

    A pixel is disc where discs cover half of it or more, and unknown where the unknown does. What was filled up is
    background, or unknown if nothing is known of the slice.
    """
    unknown = mask == UNKNOWN
    placed = np.full(frame.size, UNKNOWN if bool(unknown.all()) else 0, np.uint8)
    inside = (_resized((mask == DISC).astype(np.float32), frame.resampled) >= 0.5).astype(np.uint8)
    if unknown.any():
        inside[_resized(unknown.astype(np.float32), frame.resampled) >= 0.5] = UNKNOWN
    placed[frame.window] = inside[frame.source]
    return placed


def restore(prepared: Array, frame: SliceFrame, *, original: Array | None = None, units: bool = True) -> Array:
    """Bring a slice from the grid of its frame back to the one it came from.

    Parameters
    ----------
    prepared: (Y, X), 0 to 255. original: (rows, columns), fills what the prepared slice does not show, and gives back
        what the scaling had clipped; without it the former is NaN and the latter lost.
    units: in the intensities of the scan; False: 0 to 255 (then nothing of the original is added, and what is not
        shown is 0).

    Returns
    -------
    float32 (rows, columns).

    Raises
    ------
    ValueError: shapes other than those of the frame.
    """
    if prepared.shape != frame.size or (original is not None and original.shape != frame.shape):
        msg = f"slices of shape {prepared.shape} do not fit a frame of {frame.size}, or the original {frame.shape}"
        raise ValueError(msg)
    shown = np.asarray(prepared, dtype=np.float32)[frame.window]
    margins = [(part.start, n - part.stop) for part, n in zip(frame.source, frame.resampled, strict=True)]
    # The edge is continued, so that what is not shown does not darken what is.
    values = _resized(np.pad(shown, margins, mode="edge"), frame.shape)
    hidden = ~covered(frame)
    if not units:
        values[hidden] = 0
        return values
    values = values * np.float32((frame.high - frame.low) / TOP) + np.float32(frame.low)
    if original is None:
        values[hidden] = np.nan
        return values
    source = np.asarray(original, dtype=np.float32)
    values += source - np.clip(source, frame.low, frame.high)
    values[hidden] = source[hidden]
    return values


def covered(frame: SliceFrame) -> Array:
    """Return which pixels of the original slice the prepared one shows, bool (rows, columns)."""
    sides = []
    for n, count, part in zip(frame.shape, frame.resampled, frame.source, strict=True):
        centre = (np.arange(n) + 0.5) * count / n
        sides.append((centre > part.start) & (centre < part.stop))
    result: Array = sides[0][:, None] & sides[1][None, :]
    return result


def _limits(values: Array, scaling: Scaling) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 0.0
    if scaling == "robust":
        low, high = (float(v) for v in np.percentile(finite, ROBUST))
        # Of a slice that is nearly all air the percentiles may be equal.
        if high > low:
            return low, high
    return float(finite.min()), float(finite.max())


def _frame(
    shape: tuple[int, ...],
    spacing: Sequence[float],
    settings: SliceSettings,
    limits: tuple[float, float],
    *,
    whole: bool,
    multiple: int,
) -> SliceFrame:
    rows, columns = shape
    extent = (rows * float(spacing[0]), columns * float(spacing[1]))
    if settings.fit == "resize":
        count = size = settings.size
    elif settings.spacing is None:
        msg = "slices are cropped to a pixel size, and the settings have none"
        raise ValueError(msg)
    else:
        step = settings.spacing
        count = (max(1, round(extent[0] / step)), max(1, round(extent[1] / step)))
        size = (_upwards(count[0], multiple), _upwards(count[1], multiple)) if whole else settings.size
    start = (_start(size[0], count[0]), _start(size[1], count[1]))
    pixel = (extent[0] / count[0], extent[1] / count[1])
    return SliceFrame((rows, columns), count, size, start, *limits, pixel)


def _start(size: int, count: int) -> int:
    """Return where the middle of `count` pixels lies in the middle of `size`."""
    return (size - count) // 2 if size >= count else -((count - size) // 2)


def _upwards(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _both(rule: Any, frame: SliceFrame) -> tuple[slice, slice]:
    first, second = (rule(*row) for row in zip(frame.start, frame.resampled, frame.size, strict=True))
    return first, second


def _resized(image: Array, shape: tuple[int, int]) -> Array:
    """Interpolate linearly to other numbers of pixels over the same extent; coarser pixels are means of finer ones."""
    import torch

    if image.shape == shape:
        return np.array(image, dtype=np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    resized = torch.nn.functional.interpolate(tensor, size=shape, mode="bilinear", align_corners=False, antialias=True)
    result: Array = resized[0, 0].numpy()
    return result

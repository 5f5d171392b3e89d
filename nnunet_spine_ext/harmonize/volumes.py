"""Volumes harmonized slice by slice: the grid stays, slices agree with their neighbours, what fails the gate stays.

A volume of which too few slices pass stays as a whole: half of it in another tone is worse than none.

A harmonizer knows nothing of the slices beside the one it sees, so it may light each of them differently. Afterwards
the brightness and the contrast that it gave are smoothed from slice to slice. What it changed is added to the scan, so
detail that is finer than its pixels, and parts that it did not see, stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.geometry_gate import (
    NO_EDGES,
    DiscChange,
    GateSettings,
    SliceRow,
    disc_changes,
    judge,
)
from nnunet_spine_ext.harmonize.harmonizer import refuse_unknown_pixels
from nnunet_spine_ext.harmonize.matching import looks_like_ct
from nnunet_spine_ext.harmonize.slice_grid import SliceFrame, covered, prepare_slice, restore
from nnunet_spine_ext.harmonize.slices import ORIENTATION

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.harmonize.harmonizer import Harmonizer
    from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter

CONSTANT = "constant"
"""Why a slice that shows nothing was not harmonized; no fault of the harmonizer."""
WHOLE = "too few slices of the scan passed"
"""Why a slice that passed was not harmonized (`GateSettings.min_passed`)."""

# As for slices to train on: coarser sagittal pixels are staircases, smaller slices show too little.
COARSEST_MM = 2.5
LEAST_PIXELS, LEAST_MM = 32, 40.0

# Slices this far apart are made to agree: about one slice of a clinical scan, several of an isotropic one.
_CONSISTENT_MM = 4.0
_BATCH = 4


@dataclass(frozen=True, eq=False)
class HarmonizedVolume:
    """A harmonized volume.

    Parameters
    ----------
    volume: float32 on the grid of the scan, in its range of intensities; slices that did not pass are the scan's own.
    rows: of each slice, from the right of the patient to the left.
    discs_mm3: volume of the discs before and after in the slices that were harmonized, as the segmenter finds them;
        None without one, or where it found none before.
    jumps: how much the contrast that was added changes from one slice to the next, as the mean absolute difference of
        its logarithm, before and after it was smoothed; None where fewer than two neighbours were harmonized.
    refused: of a volume that stays as it was because some, but too few, slices passed: how many did, of how many that
        could be judged; else None.
    """

    volume: Volume
    rows: tuple[SliceRow, ...]
    discs_mm3: tuple[float, float] | None = None
    jumps: tuple[float, float] | None = None
    refused: tuple[int, int] | None = None

    @property
    def failed(self) -> tuple[SliceRow, ...]:
        """The slices that the gate did not pass; constant ones are not among them, nor those of `refused` that did."""
        return tuple(row for row in self.rows if not row.passed and row.why not in (CONSTANT, WHOLE))

    @property
    def skipped(self) -> bool:
        """Whether no slice was harmonized."""
        return not any(row.passed for row in self.rows)

    @property
    def volume_change(self) -> float | None:
        """Share by which the volume of the discs changed; None where it is not known."""
        return None if self.discs_mm3 is None else self.discs_mm3[1] / self.discs_mm3[0] - 1

    def summary(self) -> dict[str, Any]:
        """Return numbers about the whole volume as plain JSON; means are over the slices that were harmonized."""
        passed = [row for row in self.rows if row.passed]
        edges = [row.edge_correlation for row in passed if row.edge_correlation is not None]
        agreements = [row.agreement for row in passed if row.agreement is not None]
        change = self.volume_change
        return {
            "slices": len(self.rows),
            "harmonized": len(passed),
            "failed": len(self.failed),
            "refused": self.refused is not None,
            "edge_correlation": _rounded(np.mean(edges)) if edges else None,
            "agreement": _rounded(np.mean(agreements)) if agreements else None,
            "volume_change": None if change is None else _rounded(change),
            "jumps": None if self.jumps is None else [_rounded(value) for value in self.jumps],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the summary and the rows as plain JSON."""
        return self.summary() | {"rows": [row.to_dict() for row in self.rows]}


def harmonize_volume(
    volume: Volume,
    harmonizer: Harmonizer,
    gate: GateSettings | None = None,
    segmenter: SliceSegmenter | None = None,
    *,
    device: torch.device | str = "cpu",
    consistent: bool = True,
    file: str = "",
) -> HarmonizedVolume:
    """Harmonize the sagittal slices of a volume; grid, affine and orientation stay.

    Parameters
    ----------
    volume: an MR scan, any number type, any orientation.
    gate: limits for slices, and for how many have to pass; None: the default ones.
    segmenter: of discs; without it edges alone are judged.
    device: where harmonizer and segmenter are. consistent: whether slices are made to agree with their neighbours.
    file: the scan in messages.

    Raises
    ------
    CaseError: a CT, a scan that is no sagittal one, or too small a one. SetupError: a harmonizer without a pixel size.
    """
    refuse_unfit(volume, file)
    turned = volume.turned(ORIENTATION)
    refuse_unknown_pixels(harmonizer.slices)
    settings = harmonizer.slices
    result = np.array(turned.array, dtype=np.float32)
    spacing = turned.spacing
    frames = [prepare_slice(pixels, spacing[1:], settings, whole=True) for pixels in result]
    found = _Changed(spacing[0], gate or GateSettings(), {}, {}, {})
    shown = [index for index, (_, frame) in enumerate(frames) if not frame.flat]
    for start in range(0, len(shown), _BATCH):
        batch = shown[start : start + _BATCH]
        _harmonize(found, batch, [frames[index] for index in batch], result, harmonizer, segmenter, device)
    rows = tuple(found.rows.get(index, SliceRow(index, False, CONSTANT)) for index in range(len(frames)))
    refused = _too_few(rows, found.gate)
    if refused is not None:
        left = tuple(replace(row, passed=False, why=WHOLE) if row.passed else row for row in rows)
        return HarmonizedVolume(Volume(result, turned.affine).to_affine(volume.affine), left, refused=refused)
    jumps = found.write(result, consistent=consistent)
    _keep_margins(result, turned.array)
    restored = Volume(result, turned.affine).to_affine(volume.affine)
    return HarmonizedVolume(restored, rows, found.discs_mm3, jumps)


def _too_few(rows: Sequence[SliceRow], gate: GateSettings) -> tuple[int, int] | None:
    """Return how many slices passed, of how many that could be judged, where that is not none and too few."""
    passed = sum(row.passed for row in rows)
    judged = sum(row.why not in (CONSTANT, NO_EDGES) for row in rows)
    return (passed, judged) if 0 < passed < gate.min_passed * judged else None


def _keep_margins(result: Array, scan: Array) -> None:
    """Leave 0 what is 0 to the edges of the scan: padding, which nnU-Net cuts away, has to be found afterwards."""
    outside = np.ones(scan.shape, dtype=bool)
    box = []
    for axis in range(scan.ndim):
        others = tuple(other for other in range(scan.ndim) if other != axis)
        filled = np.flatnonzero((scan != 0).any(axis=others))
        box.append(slice(filled[0], filled[-1] + 1) if len(filled) else slice(0))
    outside[tuple(box)] = False
    result[outside] = 0


def refuse_unfit(volume: Volume, file: str) -> None:
    """Raise CaseError for a scan whose sagittal slices a harmonizer cannot know; `file` is what the message names."""
    turned = volume.turned(ORIENTATION)
    (rows, columns), spacing = turned.shape[1:], turned.spacing[1:]
    code = "E-HARMONIZE-SMALL"
    found = f"slices of {rows} x {columns} pixels, {spacing[0]:.3g} x {spacing[1]:.3g} mm"
    expected = f"at least {LEAST_PIXELS} pixels and {LEAST_MM:g} mm each way"
    if looks_like_ct(turned.array):
        code, found, expected = "E-HARMONIZE-CT", "a CT", "MR: Hounsfield units mean the same on every scanner"
    elif max(spacing) > COARSEST_MM:
        code, found = "E-HARMONIZE-PLANE", f"sagittal pixels of {spacing[0]:.3g} x {spacing[1]:.3g} mm"
        expected = f"sagittal slices, or voxels of at most {COARSEST_MM:g} mm along the body and from front to back"
    elif min(rows, columns) >= LEAST_PIXELS and min(rows * spacing[0], columns * spacing[1]) >= LEAST_MM:
        return
    raise CaseError(code, file=file, found=found, expected=expected, fix="do without harmonizing this scan")


@dataclass
class _Changed:
    """What became of the slices of a volume so far, by index: rows, intensities, discs."""

    step: float
    gate: GateSettings
    rows: dict[int, SliceRow]
    changed: dict[int, tuple[Array, SliceFrame]]
    discs: dict[int, DiscChange] = field(default_factory=dict)

    @property
    def discs_mm3(self) -> tuple[float, float] | None:
        """Volume of the discs before and after in harmonized slices; None where there were none before."""
        known = [change for index, change in self.discs.items() if self.rows[index].passed]
        before, after = (self.step * sum(getattr(change, name) for change in known) for name in ("before", "after"))
        return (before, after) if before > 0 else None

    def write(self, slices: Array, *, consistent: bool) -> tuple[float, float] | None:
        """Put the harmonized slices into those of the scan (N, rows, columns); return the jumps between them."""
        lights = {index: _light(slices[index], image, frame) for index, (image, frame) in self.changed.items()}
        wanted = _smoothed(lights, self.step) if consistent else lights
        floor = float(np.nanmin(np.where(np.isfinite(slices), slices, np.nan))) if self.changed else 0.0
        for index, (image, frame) in self.changed.items():
            own, new = lights[index], wanted[index]
            shown = covered(frame)
            image[shown] = (image[shown] - own.mean) * np.float32(new.gain / own.gain) + (own.base + new.shift)
            # Magnitudes have no values below those of air.
            slices[index] = np.maximum(image, floor)
        return _jumps(lights, wanted)


@dataclass(frozen=True)
class _Light:
    """How a harmonizer lit a slice: `base` is the scan's mean, `mean` the new one, `shift` what lies between.

    `gain` is the new standard deviation in units of the scan's.
    """

    base: float
    mean: float
    shift: float
    gain: float


def _harmonize(
    found: _Changed,
    indices: Sequence[int],
    prepared: Sequence[tuple[Array, SliceFrame]],
    slices: Array,
    harmonizer: Harmonizer,
    segmenter: SliceSegmenter | None,
    device: torch.device | str,
) -> None:
    """Harmonize and judge some slices; they go into `found`."""
    import torch

    before = torch.from_numpy(np.stack([image for image, _ in prepared]))[:, None].to(device)
    with torch.inference_mode():
        after = harmonizer(before).float()
    spacing = prepared[0][1].spacing
    changes: Sequence[DiscChange | None] = [None] * len(indices)
    if segmenter is not None:
        changes = disc_changes(before, torch.nan_to_num(after), spacing, segmenter)
    harmonized = after[:, 0].cpu().numpy()
    for index, (own, frame), new, discs in zip(indices, prepared, harmonized, changes, strict=True):
        window = frame.window
        row = judge(index, own[window], new[window], spacing, found.gate, discs)
        found.rows[index] = row
        if not row.passed:
            continue
        if discs is not None:
            found.discs[index] = discs
        pixels = np.where(np.isfinite(slices[index]), slices[index], np.float32(frame.low))
        change = restore(new, frame, original=pixels) - restore(own, frame, original=pixels)
        found.changed[index] = (pixels + change, frame)


def _light(original: Array, changed: Array, frame: SliceFrame) -> _Light:
    shown = covered(frame) & np.isfinite(original)
    own, new = original[shown].astype(np.float64), changed[shown].astype(np.float64)
    base, mean, spread = own.mean(), new.mean(), own.std()
    return _Light(float(base), float(mean), float(mean - base), float(max(new.std(), 1e-6 * spread) / spread))


def _smoothed(lights: dict[int, _Light], step: float) -> dict[int, _Light]:
    """Return means and contrasts that are weighted means of those of slices nearby."""
    if not lights:
        return {}
    indices = np.array(list(lights))
    shifts = np.array([light.shift for light in lights.values()])
    gains = np.log([light.gain for light in lights.values()])
    smooth = {}
    for index, light in lights.items():
        weights = np.exp(-0.5 * ((indices - index) * step / _CONSISTENT_MM) ** 2)
        weights /= weights.sum()
        smooth[index] = _Light(light.base, light.mean, float(weights @ shifts), float(np.exp(weights @ gains)))
    return smooth


def _jumps(before: dict[int, _Light], after: dict[int, _Light]) -> tuple[float, float] | None:
    pairs = [(index, index + 1) for index in before if index + 1 in before]
    if not pairs:
        return None
    first, second = (
        float(np.mean([abs(np.log(lights[b].gain / lights[a].gain)) for a, b in pairs])) for lights in (before, after)
    )
    return first, second


def _rounded(value: Any) -> float:
    return round(float(value), 4)

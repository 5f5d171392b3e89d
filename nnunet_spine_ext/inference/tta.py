"""Test-time augmentation: many views of one image, averaged as they come, until they have been enough."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnunet_spine_ext.inference.meaning import Marks, Meaning, Soft, sizes_and_overlap
from nnunet_spine_ext.inference.model import REORIENTING_READER
from nnunet_spine_ext.inference.sides import sided_view
from nnunet_spine_ext.inference.stopping import EarlyStop
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.inference.views import Composed, Surroundings

logger = logging.getLogger(__name__)
# Numbers that are worked on at once: temporary arrays stay small beside those of a whole spine.
_AT_ONCE = 4_000_000
# Hounsfield units mean the same on every scanner: other intensities would be other tissue.
_CALIBRATED = ("CTNormalization",)
_LEFT_RIGHT = 2


@dataclass
class Averaged:
    """What the views of one image gave together.

    Parameters
    ----------
    outputs: (heads, *spatial) float32, to be used like those of a single prediction. Empty once they are handed on.
    views: names of those that were looked at. planned: how many there were.
    entropy, information: (*spatial), shares of the largest possible entropy: that of the mean (all that is uncertain),
        and the part of it about which views disagree (mutual information). None unless asked for.
    stability: per structure that any view found, `dice` (mean over views, each with the mean of all) and `volume_cv`
        (standard deviation of its size over views, relative to the mean).
    agreement: for every view after the first, the lowest Dice of a structure of the running mean with that before.
    """

    outputs: torch.Tensor
    views: tuple[str, ...]
    planned: int
    entropy: torch.Tensor | None = None
    information: torch.Tensor | None = None
    stability: dict[str, dict[str, float]] = field(default_factory=dict)
    agreement: tuple[float, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return what the journal says of it."""
        return {
            "names": list(self.views),
            "planned": self.planned,
            "stopped_early": len(self.views) < self.planned,
            "agreement": [round(dice, 4) for dice in self.agreement],
            "stability": {name: dict(scores) for name, scores in self.stability.items()},
        }


def average_views(
    answer: Callable[[Composed], torch.Tensor],
    views: Sequence[Composed],
    meaning: Meaning,
    settings: ViewSettings,
    *,
    structures: Sequence[str],
    uncertainty: bool = False,
    progress: bool = False,
) -> Averaged:
    """Return the average of what a network answers to views of one image.

    Besides the outputs of one view it holds one array of their size, however many views there are, and label maps in
    packed form.

    Parameters
    ----------
    answer: maps a view to outputs (heads, *spatial) float32 on the grid of the image, in memory of their own.
    structures: names, in the order of labels from 1 (or of regions).
    uncertainty: also work out entropy and mutual information.
    """
    running = RunningMean(meaning, settings, uncertainty=uncertainty)
    packed: list[_Packed] = []
    names: list[str] = []
    early = EarlyStop(settings, {part.kind for view in views for part in view.parts}, len(structures))
    last: Marks | None = None
    for view in tqdm(views, desc="views", leave=False, disable=None if progress else True):
        own, last = running.add(answer(view))
        packed.append(_Packed.of(own))
        names.append(view.name)
        if early.add(last, (part.kind for part in view.parts)):
            logger.debug("%d of %d views were enough", len(names), len(views))
            break
    if last is None:
        msg = "no view to look at"
        raise ValueError(msg)
    stability = stability_of(packed, last, structures)
    outputs, entropy, information = running.finish()
    return Averaged(outputs, tuple(names), len(views), entropy, information, stability, tuple(early.agreement))


class RunningMean:
    """The mean of the values of views, in single precision, kept as sums."""

    def __init__(self, meaning: Meaning, settings: ViewSettings, *, uncertainty: bool) -> None:
        self.meaning = meaning
        self.settings = settings
        self.uncertainty = uncertainty
        self._weighted = settings.aggregate == "entropy"
        self._total: torch.Tensor | None = None
        self._weights: torch.Tensor | float = 0.0
        self._entropies: torch.Tensor | None = None

    def add(self, outputs: torch.Tensor) -> tuple[Marks, Marks]:
        """Add the outputs (heads, *spatial) of a view, whose memory is used; return its marks and those of the mean."""
        first = self._total is None
        if self._total is None:
            self._total = torch.zeros_like(outputs)
            space = outputs.shape[1:]
            self._weights = torch.zeros(space) if self._weighted else 0.0
            self._entropies = torch.zeros(space) if self.uncertainty else None
        if not self._weighted:
            self._weights = float(self._weights) + 1
        own, mean = [], []
        whole = isinstance(self.meaning, Soft)
        for slab in _slabs(outputs):
            values = self.meaning.values(outputs[:, slab])
            self._add_slab(slab, values)
            if whole:
                outputs[:, slab] = values
            else:
                own.append(self.meaning.marks(values))
                mean.append(own[-1] if first else self.meaning.marks(self._mean(slab)))
        if whole:
            marks = self.meaning.marks(outputs)
            return marks, marks if first else self.meaning.marks(self._mean(slice(None)))
        # Slabs of labels (*spatial) lie along their first axis, those of regions (heads, *spatial) along the second.
        axis = own[0].ndim - (outputs.ndim - 1)
        return torch.cat(own, dim=axis), torch.cat(mean, dim=axis)

    def finish(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return outputs of the mean (heads, *spatial), its entropy and the mutual information (*spatial) or None."""
        total = self._sums()
        entropy = torch.empty(total.shape[1:]) if self.uncertainty else None
        information = torch.empty(total.shape[1:]) if self.uncertainty else None
        for slab in _slabs(total):
            mean = self._mean(slab)
            if entropy is not None and information is not None and self._entropies is not None:
                entropy[slab] = self.meaning.entropy(mean)
                # Never below 0 for a mean; a geometric mean may be surer than its views.
                information[slab] = (entropy[slab] - self._entropies[slab] / self._weight(slab)).clamp_(min=0)
            total[:, slab] = self.meaning.outputs(mean)
        self._total = self._entropies = None
        return total, entropy, information

    def _add_slab(self, slab: slice, values: torch.Tensor) -> None:
        geometric = self.settings.aggregate == "geometric"
        addend = self.meaning.logarithms(values) if geometric else values
        entropy = self.meaning.entropy(values) if self._weighted or self.uncertainty else None
        weight = None
        if isinstance(self._weights, torch.Tensor) and entropy is not None:
            weight = torch.exp(-entropy / self.settings.temperature)
            self._weights[slab] += weight
        self._sums()[:, slab] += addend if weight is None else addend * weight
        if self._entropies is not None and entropy is not None:
            self._entropies[slab] += entropy if weight is None else entropy * weight

    def _mean(self, slab: slice) -> torch.Tensor:
        """Return the mean values (heads, *spatial of the slab)."""
        mean = self._sums()[:, slab] / self._weight(slab)
        return self.meaning.values(mean) if self.settings.aggregate == "geometric" else mean

    def _weight(self, slab: slice) -> torch.Tensor | float:
        return self._weights[slab] if isinstance(self._weights, torch.Tensor) else self._weights

    def _sums(self) -> torch.Tensor:
        if self._total is None:
            msg = "no view has been added"
            raise ValueError(msg)
        return self._total


@dataclass(frozen=True)
class _Packed:
    """A label map in little memory: a hundredth of what probabilities take."""

    content: bytes
    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def of(cls, marks: Marks) -> _Packed:
        array = marks.numpy()
        return cls(zlib.compress(np.ascontiguousarray(array).tobytes(), 1), array.shape, array.dtype)

    def unpacked(self) -> Marks:
        flat = np.frombuffer(bytearray(zlib.decompress(self.content)), dtype=self.dtype)
        return torch.from_numpy(flat.reshape(self.shape))


def stability_of(views: Sequence[_Packed], mean: Marks, structures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return mean Dice of views with the mean of all, and the variation of sizes, per structure that any view has."""
    dice = np.ones((len(views), len(structures)))
    sizes = np.zeros((len(views), len(structures)))
    present = np.zeros(len(structures), dtype=bool)
    for row, view in enumerate(views):
        own, final, both = (np.array(n) for n in sizes_and_overlap(view.unpacked(), mean, len(structures)))
        some = own + final > 0
        dice[row, some] = 2 * both[some] / (own + final)[some]
        sizes[row] = own
        present |= some
    average = sizes.mean(axis=0)
    variation = np.divide(sizes.std(axis=0), average, out=np.zeros_like(average), where=average > 0)
    return {
        name: {"dice": round(float(dice[:, n].mean()), 4), "volume_cv": round(float(variation[n]), 4)}
        for n, name in enumerate(structures)
        if present[n]
    }


def _slabs(outputs: torch.Tensor) -> Iterator[slice]:
    """Yield slices along the first spatial axis of (heads, *spatial)."""
    step = max(1, _AT_ONCE * outputs.shape[1] // max(1, outputs.numel()))
    for start in range(0, outputs.shape[1], step):
        yield slice(start, start + step)


def surroundings_of(plans: Mapping[str, Any], configuration: Any, mirror_axes: Sequence[int]) -> Surroundings:
    """Return what views have to know of a model.

    configuration: nnU-Net's configuration manager. mirror_axes: axes of a patch that may be mirrored as it is.
    """
    dimensions = len(configuration.patch_size)
    # Patches of 2-D networks lack the first axis of the volume.
    shift = 3 - dimensions
    side, exchange = sided_view(plans, dimensions) or (None, ())
    reoriented = plans["image_reader_writer"] == REORIENTING_READER
    return Surroundings(
        mirror_axes=tuple(axis + shift for axis in mirror_axes),
        sided_axis=None if side is None else side + shift,
        exchange=exchange,
        spacing=tuple(configuration.spacing),
        left_right=list(plans["transpose_forward"]).index(_LEFT_RIGHT) if reoriented else None,
        channels=tuple(scheme not in _CALIBRATED for scheme in configuration.normalization_schemes),
    )


def structure_names(dataset_json: Mapping[str, Any], *, regions: bool) -> list[str]:
    """Return the names of a model's labels from 1, or of its regions, in the order of the heads."""
    names = {name: value for name, value in dataset_json["labels"].items() if name not in ("background", "ignore")}
    return list(names) if regions else sorted(names, key=lambda name: int(names[name]))

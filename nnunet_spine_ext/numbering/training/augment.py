"""What happens to a batch of patches before the network sees it.

Geometry and intensities are those of the room `augment`; what is particular to numbering is the picture that ends above
or below a vertebra, and masks that are not all there. Every draw depends on the sample alone, so a training that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey, generator
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.numbering.crops import CHANNELS, CropSpec
from nnunet_spine_ext.numbering.training.settings import AugmentSettings

_P, _I, _R = range(3)
# Cuts lie at most this share of the patch on the wrong side of the centre: part of the vertebra is cut off.
_BEYOND = 0.1
_SIDE_MM = 14.0


@dataclass(frozen=True)
class Cuts:
    """Where the picture (or the mask of all vertebrae) of one sample begins and ends, in voxels along P, I, R."""

    picture: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    neighbours: tuple[int, int]
    drop_own: bool
    drop_all: bool


class PatchAugmentation:
    """Augments batches of widened patches and cuts them to their size.

    Parameters
    ----------
    spec: the patch that the network gets. `source`: voxels of the patches in the cache, along P, I, R.
    """

    def __init__(self, settings: AugmentSettings, spec: CropSpec, source: tuple[int, int, int]) -> None:
        self.settings = settings
        self.spec = spec
        context = Context(shape=spec.size, spacing=spec.spacing, source_shape=source, left_right_axis=_R)
        self.pipeline = Pipeline(AugmentConfig.load(settings.pipeline_source()), context)

    @torch.no_grad()
    def __call__(self, patches: Tensor, keys: Sequence[SampleKey]) -> tuple[Tensor, Tensor]:
        """Return the input of the network (B, C, P, I, R) and the share of each vertebra that is left (B,).

        Parameters
        ----------
        patches: (B, 3, *source) as in the cache: image, this vertebra, all vertebrae. keys: one per sample.
        """
        inside = (patches[:, :1] != 0).float()
        companions = torch.cat((patches[:, 1:], inside), dim=1)
        image, _, moved = self.pipeline.apply_with(patches[:, :1], None, companions, self.pipeline.plan(keys))
        masks = companions if moved is None else moved
        layers = torch.cat((image, masks[:, :2].clamp(0, 1)), dim=1)
        covered = masks[:, 2:] > 0.5
        layers[:, :1] = torch.where(covered, layers[:, :1], 0)
        left = torch.ones(len(layers), device=layers.device)
        for number, key in enumerate(keys):
            left[number] = self._cut(layers[number], draw_cuts(key, self.settings, self.spec))
        return prepared(layers, self.spec), left

    def _cut(self, layers: Tensor, cuts: Cuts) -> Tensor:
        """Cut one sample (3, P, I, R) in place; return the share of the vertebra that is left."""
        kept = torch.zeros(layers.shape[1:], device=layers.device, dtype=torch.bool)
        kept[tuple(slice(*ends) for ends in cuts.picture)] = True
        before = layers[1].sum()
        share = torch.where(before > 0, (layers[1] * kept).sum() / before.clamp_min(1e-6), torch.ones_like(before))
        enough = share >= self.settings.least_own
        if cuts.picture[_R] != (0, layers.shape[3]):
            # Scans end beside every vertebra: as in `crops.Crops.whole`, that says nothing.
            seen = torch.zeros_like(kept)
            seen[tuple(slice(*ends) for ends in cuts.picture[:_R])] = True
            share = torch.where(before > 0, (layers[1] * seen).sum() / before.clamp_min(1e-6), share)
        kept |= ~enough
        layers *= kept
        if cuts.drop_all:
            layers[2] = 0
        # What is called missing is never the vertebra itself.
        first, last = cuts.neighbours
        own = layers[1].clone()
        layers[2, :, :first] = own[:, :first]
        layers[2, :, last:] = own[:, last:]
        if cuts.drop_own:
            layers[1] = 0
        return torch.where(enough, share, torch.ones_like(share))


def draw_cuts(key: SampleKey, settings: AugmentSettings, spec: CropSpec) -> Cuts:
    """Draw where a sample is cut."""
    rng = generator(key, "numbering/cuts")
    # All numbers are drawn every time: a probability that changes does not change the other draws.
    chance, place = rng.random(10), rng.random(10)
    p, i, r = spec.size
    side = [_SIDE_MM / spec.spacing[axis] for axis in range(3)]
    upper = _edge(place[0], -_BEYOND * i, i / 2) if chance[0] < settings.upper_cut else None
    lower = _edge(place[1], -_BEYOND * i, i / 2) if chance[1] < settings.lower_cut else None
    back = _edge(place[2], side[_P], p / 2) if chance[2] < settings.side_cut else None
    front = _edge(place[3], side[_P], p / 2) if chance[3] < settings.side_cut else None
    left = _edge(place[4], side[_R], r / 2) if chance[4] < settings.side_cut else None
    right = _edge(place[5], side[_R], r / 2) if chance[5] < settings.side_cut else None
    missing = _edge(place[6], 0.1 * i, i / 2) if chance[6] < settings.drop_neighbours else None
    above = place[7] < 0.5
    return Cuts(
        picture=(_ends(front, back, p), _ends(upper, lower, i), _ends(left, right, r)),
        neighbours=_ends(missing if above else None, None if above else missing, i),
        drop_own=bool(chance[8] < settings.drop_own),
        drop_all=bool(chance[9] < settings.drop_all),
    )


def prepared(layers: Tensor, spec: CropSpec) -> Tensor:
    """Return the layers that the network gets, the image z-scored over its nonzero voxels (`crops.normalized`)."""
    chosen = CHANNELS[spec.inputs]
    if 0 not in chosen:
        return layers[:, list(chosen)].contiguous()
    image = layers[:, :1]
    inside = image != 0
    count = inside.sum(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1)
    mean = image.sum(dim=(1, 2, 3, 4), keepdim=True) / count
    off = torch.where(inside, image - mean, 0)
    spread = (off.square().sum(dim=(1, 2, 3, 4), keepdim=True) / count).sqrt().clamp_min(1e-6)
    return torch.cat((off / spread, *([layers[:, list(chosen[1:])]] if len(chosen) > 1 else [])), dim=1)


def _edge(place: float, low: float, high: float) -> float:
    """Distance of an edge from the centre in voxels."""
    return low + place * max(high - low, 0.0)


def _ends(first: float | None, last: float | None, size: int) -> tuple[int, int]:
    """First voxel that is kept and first that is not, from distances of edges before and behind the centre."""
    centre = (size - 1) / 2
    start = 0 if first is None else max(0, int(centre - first) + 1)
    stop = size if last is None else min(size, int(centre + last) + 1)
    return (start, stop) if stop > start else (0, size)

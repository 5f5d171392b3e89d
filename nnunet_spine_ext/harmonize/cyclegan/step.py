"""The losses of one step: what generators and source segmenter are told, and what discriminators are told.

x are slices of the sources, y of the target, all from -1 to 1. A hat over the paper's symbols is a generated slice:
`to_target` makes x look like the target, `to_source` makes y look like a source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from nnunet_spine_ext.harmonize.cyclegan.networks import HarmonizerNetworks, to_grey
from nnunet_spine_ext.harmonize.cyclegan.regions import cut_regions, disc_windows
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter
from nnunet_spine_ext.losses.adversarial import adversarial_loss, discriminator_loss
from nnunet_spine_ext.losses.radiomics import RadiomicLoss
from nnunet_spine_ext.losses.slice_dice import foreground_floor, foreground_share, slice_dice_loss

LOSSES = ("adversarial", "cycle", "identity", "target_dice", "source_dice", "radiomics", "floor")
"""Names of the parts of the generators' loss, as the weights have them."""


@dataclass(frozen=True)
class Aims:
    """What stays the same during a training.

    Parameters
    ----------
    segmenter: of target slices, frozen; None: no loss needs it.
    radiomics: None: its weight is 0.
    foreground: mean share of disc pixels in target slices.
    """

    segmenter: SliceSegmenter | None = None
    radiomics: RadiomicLoss | None = None
    foreground: float = 0.0


class Generated(NamedTuple):
    """Slices (B, 1, Y, X), -1 to 1, that the generators made: x as the target, y as a source, and both back again.

    `same_x` and `same_y` are slices of the domain that the generator makes; None where no loss asks for them.
    """

    fake_y: Tensor
    fake_x: Tensor
    back_x: Tensor
    back_y: Tensor
    same_y: Tensor | None
    same_x: Tensor | None


def generate(networks: HarmonizerNetworks, x: Tensor, y: Tensor, settings: CycleGanSettings) -> Generated:
    """Run both generators on slices x and y, (B, 1, Y, X) each."""
    segmented = settings.weights.target_dice or settings.weights.source_dice
    identity = settings.weights.identity or (segmented and "identity" in settings.dice_terms)
    count = len(x)
    # Normalized slice by slice, so one call of more slices is the same and faster.
    to_y = networks.to_target(torch.cat((x, y)) if identity else x)
    to_x = networks.to_source(torch.cat((y, x)) if identity else y)
    fake_y, fake_x = to_y[:count], to_x[: len(y)]
    return Generated(
        fake_y,
        fake_x,
        networks.to_source(fake_y),
        networks.to_target(fake_x),
        to_y[count:] if identity else None,
        to_x[len(y) :] if identity else None,
    )


def generator_losses(
    networks: HarmonizerNetworks, made: Generated, x: Tensor, y: Tensor, aims: Aims, settings: CycleGanSettings
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the parts of the loss by name, unweighted, and the mean share of foreground in harmonized slices.

    Parts of weight 0 are left out, the share is NaN without a segmenter. Sums over both directions, and over the terms
    of the paper's figure 4.
    """
    weights, form = settings.weights, settings.adversarial
    judged = (networks.judge_target(made.fake_y), networks.judge_source(made.fake_x))
    parts = {
        "adversarial": sum(adversarial_loss(score.float(), real=True, form=form) for score in judged),
        "cycle": F.l1_loss(made.back_x.float(), x) + F.l1_loss(made.back_y.float(), y),
    }
    if weights.identity and made.same_y is not None and made.same_x is not None:
        parts["identity"] = F.l1_loss(made.same_y.float(), y) + F.l1_loss(made.same_x.float(), x)
    found, share = None, torch.tensor(float("nan"))
    if aims.segmenter is not None and weights.segmented:
        found, dice = _dice(networks, made, x, y, aims.segmenter, settings)
        parts |= dice
        share = foreground_share(found.detach()).mean()
        if weights.floor:
            floor = settings.floor_share * aims.foreground
            # Of many slices, not of each: beside the middle of the body there are slices without a disc.
            parts["floor"] = foreground_floor(found, floor) * (networks.foreground < floor)
    if aims.radiomics is not None and weights.radiomics:
        grey = to_grey(made.fake_y)
        windows = disc_windows(found, grey, settings.radiomics)
        parts["radiomics"] = aims.radiomics(cut_regions(grey, windows, settings.radiomics))
    return parts, share  # type: ignore[return-value]


def weighted(parts: dict[str, Tensor], settings: CycleGanSettings) -> Tensor:
    """Return the loss of generators and source segmenter."""
    return torch.stack([getattr(settings.weights, name) * part for name, part in parts.items()]).sum()


def discriminator_losses(
    networks: HarmonizerNetworks, fake_y: Tensor, fake_x: Tensor, x: Tensor, y: Tensor, settings: CycleGanSettings
) -> tuple[Tensor, Tensor]:
    """Return the losses of the discriminators of target and of source slices.

    Parameters
    ----------
    fake_y, fake_x: generated slices, of a pool, without a gradient.
    """
    form = settings.adversarial
    target = discriminator_loss(networks.judge_target(y).float(), networks.judge_target(fake_y).float(), form)
    source = discriminator_loss(networks.judge_source(x).float(), networks.judge_source(fake_x).float(), form)
    return target, source


def _dice(
    networks: HarmonizerNetworks,
    made: Generated,
    x: Tensor,
    y: Tensor,
    segmenter: SliceSegmenter,
    settings: CycleGanSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what the target's segmenter finds in harmonized slices, and the agreements of figure 4.

    The pseudo ground truths are what it finds in the harmonized x, for anatomy x, and in y, for anatomy y. Both are
    detached (`slice_dice_loss`): else the cheapest agreement would be to find nothing.
    """
    weights, terms = settings.weights, settings.dice_terms
    asked = {"x": made.fake_y}
    if weights.target_dice and "identity" in terms and made.same_y is not None:
        asked["identity"] = made.same_y
    if weights.target_dice and "cycle" in terms:
        asked["cycle"] = made.back_y
    found = _answers(segmenter, asked)
    parts: dict[str, Tensor] = {}
    if not (weights.target_dice or weights.source_dice):
        return found["x"], parts
    with torch.no_grad():
        of_y = segmenter(to_grey(y)).float()
    if weights.target_dice:
        agreements = [slice_dice_loss(found[name], of_y) for name in ("identity", "cycle") if name in found]
        # The paper's third term is one of the source segmenter alone.
        if agreements:
            parts["target_dice"] = torch.stack(agreements).sum()
    if networks.source_segmenter is not None:
        parts["source_dice"] = _source_dice(networks, made, x, found["x"], of_y, settings)
    return found["x"], parts


def _source_dice(
    networks: HarmonizerNetworks, made: Generated, x: Tensor, of_x: Tensor, of_y: Tensor, settings: CycleGanSettings
) -> Tensor:
    """Return the agreements of the segmenter of the sources with the pseudo ground truths."""
    asked, truths = [], []
    terms = settings.dice_terms
    if "identity" in terms and made.same_x is not None:
        asked.append(made.same_x)
        truths.append(of_x)
    if "cycle" in terms:
        asked.append(made.back_x)
        truths.append(of_x)
    if "harmonization" in terms:
        asked += [made.fake_x, x]
        truths += [of_y, of_x]
    network = networks.source_segmenter
    if network is None:
        return x.new_zeros(())
    found = torch.sigmoid(network(to_grey(torch.cat(asked))).float())
    sizes = [len(part) for part in asked]
    agreements = [slice_dice_loss(part, truth) for part, truth in zip(found.split(sizes), truths, strict=True)]
    return torch.stack(agreements).sum()


def _answers(segmenter: SliceSegmenter, asked: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ask a segmenter once for several batches."""
    found = segmenter(to_grey(torch.cat(list(asked.values())))).float()
    return dict(zip(asked, found.split([len(part) for part in asked.values()]), strict=True))

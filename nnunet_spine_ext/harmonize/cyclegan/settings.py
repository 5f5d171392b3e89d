"""What a cycle-consistent harmonizer is trained with: slices, networks, losses, schedule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.config import to_dict as plain
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import changed_settings, names_in, preset_path
from nnunet_spine_ext.harmonize.baselines import BaselineSettings
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_pairs import ROI_SIZE
from nnunet_spine_ext.losses.adversarial import AdversarialForm
from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape
from nnunet_spine_ext.networks.transformer_net import TransformerNet, Upsampling

_FOLDER = Path(__file__).parent / "presets"

DiceTerm = Literal["identity", "cycle", "harmonization"]
RoiScaling = Literal["none", "minmax", "robust"]
# Settings that two equal trainings may differ in.
_UNIMPORTANT = (
    "description", "baseline", "validation_slices", "validate_every", "sample_slices", "collapse_share", "save_every",
)  # fmt: skip


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses of generators and source segmenter; 0 leaves one out. The paper's, where it has them.

    Parameters
    ----------
    adversarial, cycle, identity: both directions of each.
    target_dice: what the frozen segmenter of the target finds before and after.
    source_dice: what the segmenter of the sources, trained along, finds.
    radiomics: distance of the features of harmonized slices from those of the target.
    floor: an addition to the paper: what slices without foreground cost (`slice_dice.foreground_floor`).
    """

    adversarial: float = 10.0
    cycle: float = 10.0
    identity: float = 10.0
    target_dice: float = 20.0
    source_dice: float = 10.0
    radiomics: float = 10.0
    floor: float = 10.0

    def __post_init__(self) -> None:
        """Refuse negative weights, and generators that are told nothing."""
        check_ranges(self, dict.fromkeys(plain(self), (0.0, 1e6)), where="weights")
        if not (self.adversarial and self.cycle):
            raise UsageError(
                "E-CONFIG-RANGE",
                file="weights",
                found=f"adversarial={self.adversarial}, cycle={self.cycle}",
                expected="both above 0: without them nothing is harmonized, or nothing has to stay as it is",
                fix="correct the value",
            )

    @property
    def segmented(self) -> bool:
        """Whether a segmenter of the target is needed."""
        return bool(self.target_dice or self.source_dice or self.floor)


@dataclass(frozen=True)
class RadiomicSettings:
    """Features of the region around the discs, as the loss, the targets and the log compute them.

    Parameters
    ----------
    roi: rows and columns of the region (paper: 320 and 120).
    scaling: of the region before features are computed: ``minmax`` to 0 and 255 (paper), ``robust`` (percentiles 0.5
        and 99.5), or ``none``.
    bin_width: of grey levels.
    normalisation: of each feature's distance: ``absolute`` (paper), ``relative`` to the target, or ``zscore``: by the
        spread over target slices. Absolute distances of the inverse difference moment are a hundredth of the others.
    mode: ``straight-through``: hard bins in what is measured, soft ones in the gradient; ``soft``: soft in both;
        ``hard``: no gradient at all, what the paper's features give (a control).
    tau, final_tau: width of soft edges in grey levels, at the start and (if given) at the end.
    slices: of the target, for targets and selection. top, correlation: of the selection (paper: 20 and 0.8).
    """

    roi: tuple[int, int] = ROI_SIZE
    scaling: RoiScaling = "minmax"
    bin_width: float = 25.0
    normalisation: Literal["absolute", "relative", "zscore"] = "relative"
    mode: Literal["straight-through", "soft", "hard"] = "straight-through"
    tau: float = 4.0
    final_tau: float | None = None
    slices: int = 1000
    top: int = 20
    correlation: float = 0.8

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        limits = {"bin_width": (1, 128), "tau": (0.01, 64), "slices": (3, 100_000), "top": (1, 58),
                  "correlation": (0.01, 1)}  # fmt: skip
        check_ranges(self, limits, where="radiomics")
        wrong = [f"roi={list(self.roi)}"] if min(self.roi) < 8 else []
        wrong += (
            [f"final_tau={self.final_tau}"] if self.final_tau is not None and not 0.01 <= self.final_tau <= 64 else []
        )
        _refuse("radiomics", wrong, "a region of at least 8 × 8 pixels, edges of 0.01 to 64 grey levels")

    def tau_of(self, done: float) -> float:
        """Return the width of soft edges when a share `done` of the training is over; the logarithm falls evenly."""
        if self.final_tau is None:
            return self.tau
        return float(self.tau * (self.final_tau / self.tau) ** done)


@dataclass(frozen=True)
class GeneratorShape:
    """Size of a `TransformerNet`; the defaults are the paper's."""

    width: int = 32
    blocks: int = 5
    residual: bool = False
    upsampling: Upsampling = "transposed"

    def build(self) -> TransformerNet:
        """Return a new generator."""
        return TransformerNet(self.width, self.blocks, residual=self.residual, upsampling=self.upsampling)

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        check_ranges(self, {"width": (1, 512), "blocks": (0, 64)}, where="generator")


@dataclass(frozen=True)
class CycleGanSettings:
    """Everything about a training. The defaults are those of the paper where it has them.

    Parameters
    ----------
    slices: how they are cut and scaled.
    generator, discriminator_width, source_network: sizes of the networks; the source segmenter has no say in what is
        saved for use.
    source_start: weights the source segmenter starts with: ``random``, or ``target``: those of the target's, which then
        has to be one of `segmenter` and gives its shape, too.
    dice_terms: which of the three kinds of agreement count, of the target and of the source segmenter.
    adversarial: ``lsgan`` or ``bce``, the paper's equation 1.
    judge_steps: steps of the discriminators per step of the generators; those after the first see slices of the pools
        and other real ones, which costs little. The paper, and long trainings, have one.
    judge_warmup: steps of the discriminators before the first epoch. judge_rate: their learning rate by the others'.
    pool: generated slices that discriminators are shown again; the paper has none (0).
    floor_share: of the mean foreground of target slices, that a harmonized slice must not fall below.
    baseline: of the methods without a network, which else need `slices` only.
    slices_per_epoch: of the sources, drawn without repetition; None: all of them.
    learning_rate, final_learning_rate: Adam's, constant up to the share `decay_from` of the epochs, then falling
        linearly.
    validation: share of the subjects of every vendor that only `log.csv` and the pictures see.
    validation_slices: at most so many, the same every time. validate_every: epochs.
    sample_slices: in the picture of every epoch.
    collapse_share: a warning is given when the foreground of an epoch is below this share of the target's.
    save_every: epochs between saved states and models.
    seed: makes a training on the CPU repeatable.
    """

    description: str = ""
    slices: SliceSettings = field(default_factory=SliceSettings)
    generator: GeneratorShape = field(default_factory=GeneratorShape)
    discriminator_width: int = 64
    source_network: SliceNetworkShape = field(default_factory=SliceNetworkShape)
    source_start: Literal["random", "target"] = "random"
    weights: LossWeights = field(default_factory=LossWeights)
    dice_terms: tuple[DiceTerm, ...] = ("identity", "cycle", "harmonization")
    adversarial: AdversarialForm = "lsgan"
    judge_steps: int = 1
    judge_warmup: int = 0
    judge_rate: float = 1.0
    pool: int = 50
    floor_share: float = 0.5
    radiomics: RadiomicSettings = field(default_factory=RadiomicSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)
    epochs: int = 300
    slices_per_epoch: int | None = None
    batch_size: int = 4
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    decay_from: float = 0.5
    validation: float = 0.2
    validation_slices: int = 32
    validate_every: int = 1
    sample_slices: int = 4
    collapse_share: float = 0.1
    save_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        counts = ("discriminator_width", "judge_steps", "epochs", "batch_size", "validation_slices", "validate_every",
                  "sample_slices", "save_every")  # fmt: skip
        limits: dict[str, tuple[float, float]] = dict.fromkeys(counts, (1, 1e6))
        limits |= dict.fromkeys(("pool", "judge_warmup", "seed"), (0, 2**31))
        limits |= dict.fromkeys(("floor_share", "decay_from", "collapse_share"), (0, 1))
        limits |= {"validation": (0.01, 0.9), "judge_rate": (0.01, 100)}
        check_ranges(self, limits, where="harmonizer")
        wrong = []
        if self.slices_per_epoch is not None and self.slices_per_epoch < 1:
            wrong.append(f"slices_per_epoch={self.slices_per_epoch}")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            wrong.append(f"learning_rate={self.learning_rate}, final_learning_rate={self.final_learning_rate}")
        if not self.dice_terms and (self.weights.target_dice or self.weights.source_dice):
            wrong.append("dice_terms=[] with weights for them")
        _refuse("harmonizer", wrong, "counts from 1, a learning rate that falls and stays above 0, terms for weights")

    def learning_rate_of(self, epoch: int) -> float:
        """Return the learning rate of an epoch (0-based)."""
        start = self.decay_from * self.epochs
        done = min(max(0.0, (epoch - start) / max(1.0, self.epochs - 1 - start)), 1.0)
        return self.learning_rate + done * (self.final_learning_rate - self.learning_rate)

    @property
    def hash(self) -> str:
        """Hash of what makes two trainings different."""
        content = plain(self)
        for key in (
            "description",
            "validation_slices",
            "validate_every",
            "sample_slices",
            "collapse_share",
            "save_every",
        ):
            content.pop(key)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return names_in(_FOLDER)


def read_settings(preset: str = "full", assignments: Sequence[str] = ()) -> CycleGanSettings:
    """Return the settings of a preset, changed by ``key=value``.

    Parameters
    ----------
    preset: a name of `preset_names`, or the path of a YAML file.
    assignments: for example ``epochs=50`` or ``weights.radiomics=0``; values are YAML.

    Raises
    ------
    UsageError: an unknown preset or key, a value that is impossible.
    """
    return changed_settings(CycleGanSettings, preset_path(preset, _FOLDER), assignments)


def _refuse(where: str, wrong: Sequence[str], expected: str) -> None:
    if wrong:
        raise UsageError(
            "E-CONFIG-RANGE", file=where, found=", ".join(wrong), expected=expected, fix="correct the value"
        )

"""The contrast of another sequence: labels get the signal that their tissue has under a drawn protocol."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.acquiring import require_some
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.tissues import (
    BACKGROUND,
    DIXON,
    SEQUENCES,
    check_classes,
    class_of_label,
    draw_protocol,
    draw_signals,
    per_label,
)
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

# Fluid fills the canal, fat lies outside of it: neither is right everywhere.
_FLUID_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class SignalEquations(Selective, stage="table"):
    """Draw a sequence and its times, evaluate the signal equations, and give every label its tissue's signal.

    `sequences`: which may be drawn; those of the default, and dixon_water, dixon_fat, dixon_opposed. T1w, T2w, PDw and
    DWI are with or without fat suppression. `classes`: tissue of each label id; without it what the names
    of the labels say, or the 14-class scheme where there are no names. Labels without a tissue keep their intensities.
    `texture`: part of the image's own texture that stays.
    Unlabelled voxels are divided by intensity into air, muscle, organ and fat; voxels that fat shares with air or
    muscle are taken for what lies between these, so that fat that is suppressed keeps a rim as bright as muscle where
    it borders on air. Where the cord has a label and its fluid has none, the brightest voxels are taken for fluid
    instead of fat in half of the samples: in a T2w image they are both, and the cord borders on the fluid.
    """

    p: float = 0.15
    graded = False
    sequences: tuple[str, ...] = SEQUENCES
    classes: dict[str, str] | None = None
    texture: Range = spread([0.5, 1.2], limits=(0.0, 3.0))
    mix: Range = spread([0.5, 1.0], limits=(0.0, 1.0))

    def __post_init__(self) -> None:
        """Check the names of sequences and tissues."""
        super().__post_init__()
        check_classes(self.name, self.classes)
        require_some(self.name, "sequences", self.sequences)
        for name in self.sequences:
            if name not in SEQUENCES + DIXON:
                raise UsageError(
                    "E-CONFIG-VALUE",
                    file=f"{self.name}: sequences",
                    found=repr(name),
                    expected="a known sequence",
                    fix=nearest(name, SEQUENCES + DIXON),
                )

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the protocol and evaluate it for all tissues."""
        protocol = draw_protocol(rng, str(rng.choice(self.sequences)))
        signals = draw_signals(rng, protocol)
        classes = class_of_label(context, {int(k): v for k, v in (self.classes or {}).items()})
        params = {
            **self.select(rng, context),
            "protocol": asdict(protocol),
            "signals": {str(label): signals[name] for label, name in classes.items()},
            "background": _monotone([signals[name] for name in BACKGROUND]),
            "texture": self.draw(rng, "texture", context),
            "noise_offset": draw_offset(rng),
        }
        known = {*classes.values()}
        if "cord" in known and "csf" not in known and rng.random() < _FLUID_SHARE:
            params["background"] = _monotone([signals[name] for name in (*BACKGROUND[:-1], "csf")])
        return params

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the classes of label 0 and the signals of the labels whose tissue is known."""
        signals = {int(label): value for label, value in params["signals"].items()}
        chosen = list(context.labels) if params["labels"] is None else params["labels"]
        texture, means = params["texture"], params["background"]
        background = {**params, "labels": [label for label in chosen if label == 0]}
        count = len(means)
        builder.classes(index, background, means=means, texture=[texture] * count, noise=[0.0] * count, sharpness=1.5)
        offset = per_label(context, signals, 0.0)
        zeros = np.zeros_like(offset)
        labels = {**params, "labels": [label for label in chosen if label in signals]}
        builder.labelwise(index, labels, carry=zeros, offset=offset, gain=zeros + texture, noise=zeros)


def _monotone(signals: list[float]) -> list[float]:
    """Return the signals of air, muscle, organ and fat (or fluid) with that of organ between those of its neighbours.

    A voxel that is half muscle, half fat has the intensity of an organ: it would show a bright rim round all fat.
    """
    air, muscle, organ, bright = signals
    return [air, muscle, min(max(organ, min(muscle, bright)), max(muscle, bright)), bright]

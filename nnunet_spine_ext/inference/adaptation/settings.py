"""Settings of test-time training, under ``plans["spine_ext"]["predict"]["adapt"]``; free of PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import UsageError

Method = Literal["consistency", "tent"]

# More steps of entropy minimization end in one class everywhere, prior or not (DequanWang/tent, discussion 7).
MOST_TENT_STEPS = 10


@dataclass(frozen=True)
class ConsistencySettings:
    """Agreement of two deformed copies of a patch, in the manner of DG-TTA (Weihsbach et al. 2023).

    Parameters
    ----------
    epochs: steps of the optimizer. patches: per step. lr: of AdamW, for all parameters. These three are DG-TTA's.
    strength: standard deviation of the twelve numbers of an affine map, in half patches: 0.05 moves the edge of a patch
        by a twentieth of its half. Drawn numbers stay within 2.5 of it, so that no map mirrors.
    """

    epochs: int = 12
    patches: int = 16
    lr: float = 1e-5
    strength: float = 0.05

    def __post_init__(self) -> None:
        limits = {"epochs": (1, 1000), "patches": (1, 1000), "lr": (1e-9, 1.0), "strength": (0.001, 0.1)}
        check_ranges(self, limits, where="predict.adapt.consistency")


@dataclass(frozen=True)
class TentSettings:
    """Less entropy, by the scales and shifts of normalizations alone (Wang et al. 2021).

    Parameters
    ----------
    steps: steps of the optimizer, 1 to 10. patches: the same ones in each step. lr: of Adam.
    prior: weight of the divergence between the shares of the classes before adaptation and now, which keeps a class
        from taking the others over; 0 leaves it out.
    """

    steps: int = 5
    patches: int = 8
    lr: float = 1e-3
    prior: float = 1.0

    def __post_init__(self) -> None:
        limits = {"steps": (1, MOST_TENT_STEPS), "patches": (1, 1000), "lr": (1e-9, 1.0), "prior": (0.0, 1000.0)}
        check_ranges(self, limits, where="predict.adapt.tent")


@dataclass(frozen=True)
class GuardSettings:
    """What an adapted answer may differ by from the unadapted one to be kept.

    Parameters
    ----------
    volume: change of the foreground's volume, as a share of what it was; must stay below.
    vertebrae: change of the number of vertebrae.
    agreement: loss of agreement between views of the same patches (mirrored, other gamma), in Dice.
    patches: patches that the agreement is measured on.
    """

    volume: float = 0.30
    vertebrae: int = 1
    agreement: float = 0.0
    patches: int = 4

    def __post_init__(self) -> None:
        limits = {"volume": (0.0, 10.0), "vertebrae": (0, 30), "agreement": (0.0, 1.0), "patches": (1, 100)}
        check_ranges(self, limits, where="predict.adapt.guards")


@dataclass(frozen=True)
class AdaptSettings:
    """Numbers of both methods, and of the guards; which method is used says ``--adapt``.

    `seed` and the image decide what is drawn: an image gives the same result, whatever its name or place in a run.
    """

    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    tent: TentSettings = field(default_factory=TentSettings)
    guards: GuardSettings = field(default_factory=GuardSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, {"seed": (0, 2**32 - 1)}, where="predict.adapt")

    def with_steps(self, method: str, steps: int | None) -> AdaptSettings:
        """Return the same with other steps (epochs) of one method; None changes nothing.

        Raises UsageError for a number that the method does not take, and for steps of no method.
        """
        if steps is None:
            return self
        if method == "consistency":
            return replace(self, consistency=replace(self.consistency, epochs=steps))
        if method == "tent":
            return replace(self, tent=replace(self.tent, steps=steps))
        raise UsageError(
            "E-USE-ADAPT",
            file="--adapt-steps",
            found=f"{steps} steps with --adapt {method}",
            expected="steps of consistency or tent",
            fix="add --adapt consistency or --adapt tent, or leave --adapt-steps out",
        )

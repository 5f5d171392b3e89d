"""From scanner profiles to pipelines that make images look as if that scanner had taken them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey, generator
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan, assemble
from nnunet_spine_ext.augment.profiles import REFERENCE, Scanner, Severities, interpolate, load_profile
from nnunet_spine_ext.augment.scanner_config import scanner_config
from nnunet_spine_ext.core.errors import UsageError

_STREAM = "scanner"


@dataclass(frozen=True)
class Mixture:
    """Several scanners with weights; every sample is taken by one of them.

    `scanners` and `weights`: as many; weights need no sum of one. `blend`: largest part of the way to another scanner
    of the mixture that a sample goes, 0-1; 0: the scanners themselves.
    """

    scanners: tuple[Scanner, ...]
    weights: tuple[float, ...]
    blend: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a mixture of nothing."""
        fits = len(self.weights) == len(self.scanners) > 0
        if not fits or min(self.weights) < 0 or sum(self.weights) <= 0 or not 0 <= self.blend <= 1:
            found = f"{len(self.scanners)} scanners, weights {list(self.weights)}, blend {self.blend}"
            raise _refuse(found, "a weight of 0 or more for each scanner, one above 0, and a blend of 0 to 1")

    def draw(self, key: SampleKey) -> Scanner:
        """Return the scanner of a sample; it depends on its key alone."""
        rng = generator(key, _STREAM)
        total = sum(self.weights)
        shares = [weight / total for weight in self.weights]
        first, second = (self.scanners[int(i)] for i in rng.choice(len(self.scanners), size=2, p=shares))
        part = float(rng.uniform(0, self.blend))
        if part == 0 or first == second:
            return first
        # What lies between is found at the severities of both, so a component that is off in both stays off.
        between = interpolate(first.shifted, second.shifted, part)
        return Scanner(between, Severities(), first.reference)


class ScannerPipeline:
    """Applies the scanners of a mixture to batches, one per sample; used like `Pipeline`.

    Parameters
    ----------
    mixture: a `Mixture` or a single `Scanner`.
    context: grid, spacing, channels and labels of the batches. options: further ones of `scanner_config`.
    """

    def __init__(self, mixture: Mixture | Scanner, context: Context, **options: Any) -> None:
        self.mixture = mixture if isinstance(mixture, Mixture) else Mixture((mixture,), (1.0,))
        self.context = context
        self._options = options

    @cached_property
    def _applier(self) -> Pipeline:
        return Pipeline({"transforms": []}, self.context)

    def plan(self, keys: Sequence[SampleKey]) -> Plan:
        """Draw the scanner of every sample and what it does."""
        options = {"spacing": self.context.spacing, **self._options}
        samples = []
        for key in keys:
            pipeline = Pipeline(scanner_config(self.mixture.draw(key), **options), self.context)
            samples.append(pipeline.plan([key]).samples[0])
        return assemble(self.context, tuple(keys), tuple(samples))

    def apply(self, images: Tensor, labels: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """Apply a plan; see `Pipeline.apply`."""
        return self._applier.apply(images, labels, plan)

    def __call__(
        self, images: Tensor, labels: Tensor | None, keys: Sequence[SampleKey]
    ) -> tuple[Tensor, Tensor | None]:
        """Plan and apply."""
        return self.apply(images, labels, self.plan(keys))


def mixture_of(weights: Mapping[str, float], *, severity: float = 1.0, blend: float = 0.0) -> Mixture:
    """Return a mixture of profiles from their names or files and weights, all at one severity.

    Raises UsageError for an unknown profile.
    """
    reference = load_profile(REFERENCE)
    scanners = tuple(Scanner(load_profile(name), Severities.all(severity), reference) for name in weights)
    return Mixture(scanners, tuple(float(weight) for weight in weights.values()), blend)


def _refuse(found: str, expected: str) -> UsageError:
    return UsageError("E-CONFIG-VALUE", file="scanner", found=found, expected=expected, fix="correct the value")

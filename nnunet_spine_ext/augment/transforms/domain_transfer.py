"""The histogram that each tissue has in another kind of scan, learned from images: one table per label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.domain_bank import Bank, load_bank, plain_bank
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.tissues import check_classes, class_of_label
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.volume import Array

# Quantiles of a tissue lie at most so much farther from its median than those of a normal distribution about it.
_TAILS = 1.5
# What is darker, in units of the signal, is air in most scans of a bank.
_AIR = 0.03
# A quantile of 0 or 1 is meant to be one of 1 or 99 %.
_END = 0.01


@dataclass(frozen=True, kw_only=True)
class DomainTransfer(Selective, stage="table"):
    """Match the histogram of every label to that of its tissue in a random blend of domains.

    `bank`: a YAML file of domains (`learn_bank.learn_bank` makes one from images and masks), or its content; None: the
    shipped one.
    `domains`: which of them; empty: all. `blend`: 0 takes one domain, 1 a random mean of all. `per_tissue`: probability
    that each tissue has domains of its own. `classes`: tissue of each label id, as for the signal equations.
    """

    p: float = 0.1
    graded = False
    bank: str | dict[str, Any] | None = None
    domains: tuple[str, ...] = ()
    classes: dict[str, str] | None = None
    blend: Range = spread([0.0, 0.5], limits=(0.0, 1.0))
    per_tissue: float = 0.0
    mix: Range = spread([0.5, 1.0], limits=(0.0, 1.0))

    def __post_init__(self) -> None:
        """Check the names of the domains."""
        super().__post_init__()
        check_classes(self.name, self.classes)
        self.check_share("per_tissue")
        known = self._loaded()
        for name in self.domains:
            if name not in known:
                raise UsageError(
                    "E-CONFIG-VALUE",
                    file=f"{self.name}: domains",
                    found=repr(name),
                    expected="a known domain",
                    fix=nearest(name, known),
                )

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw the domain and the blend, and look up the quantiles of every label whose tissue the bank knows."""
        bank = self._loaded()
        names = self.domains or tuple(bank)
        blend = self.draw(rng, "blend", context)
        common = _weights(rng, blend, len(names))
        own = rng.random() < self.per_tissue
        classes = {0: "background", **class_of_label(context, {int(k): v for k, v in (self.classes or {}).items()})}
        tissues = sorted({*classes.values()})
        blends = {tissue: _weights(rng, blend, len(names)) if own else common for tissue in tissues}
        quantiles = {}
        for label, tissue in classes.items():
            if all(tissue in bank[name] for name in names):
                curves = np.array([bank[name][tissue] for name in names])
                curves = _above_air(curves) if label == 0 else _without_border(curves)
                quantiles[str(label)] = (blends[tissue] @ curves).round(5).tolist()
        weights = np.mean(list(blends.values()), axis=0)
        return {
            **self.select(rng, context),
            "domains": {name: round(float(w), 4) for name, w in zip(names, weights, strict=True) if w > 0},
            "quantiles": quantiles,
        }

    def with_content(self) -> DomainTransfer:
        """Return the same with the content of a bank file in place of its name."""
        return replace(self, bank=plain_bank(self.bank)) if self.bank is not None else self

    def _loaded(self) -> Bank:
        # A file may have been written again, a mapping is checked once.
        return self._given if isinstance(self.bank, dict) else load_bank(self.bank)

    @cached_property
    def _given(self) -> Bank:
        return load_bank(self.bank)

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the matching of the labels that have quantiles."""
        table = {int(label): row for label, row in params["quantiles"].items()}
        if not table:
            return
        chosen = list(context.labels) if params["labels"] is None else params["labels"]
        empty = [0.0] * len(next(iter(table.values())))
        targets = np.array([table.get(label, empty) for label in context.labels])
        builder.match(index, {**params, "labels": [label for label in chosen if label in table]}, targets)


def _weights(rng: np.random.Generator, blend: float, count: int) -> Array:
    """Draw the shares of `count` domains: `blend` is shared among all at random, the rest is one's."""
    weights = blend * rng.dirichlet(np.ones(count))
    weights[int(rng.integers(count))] += 1 - blend
    return weights


def _above_air(curves: Array) -> Array:
    """Return the quantiles (D, Q) of what is brighter than air: shares of air differ, and air stays as it is."""
    steps = np.linspace(0.0, 1.0, curves.shape[1])
    shares = [float(np.interp(_AIR, row, steps)) if row[-1] > _AIR else 0.0 for row in curves]
    return np.array(
        [np.interp(share + steps * (1 - share), steps, row) for share, row in zip(shares, curves, strict=True)]
    )


def _without_border(curves: Array) -> Array:
    """Draw the tails of quantiles (D, Q) in to about those of a normal distribution.

    A label's darkest and brightest voxels are at its border, where others mix in. Matching knows no places: it would
    give their values to whichever voxels inside are darkest or brightest by noise, and every vertebra would have dots.
    """
    steps = np.linspace(0.0, 1.0, curves.shape[1])
    quarter, median, three = (np.array([np.interp(part, steps, row) for row in curves]) for part in (0.25, 0.5, 0.75))
    normal = NormalDist()
    z = np.array([normal.inv_cdf(min(max(step, _END), 1 - _END)) for step in steps])
    # The narrower side: where the border weighs most, it reaches beyond a quarter.
    spread = np.minimum(median - quarter, three - median)[:, None] / normal.inv_cdf(0.75)
    reach = _TAILS * np.abs(z) * spread
    return np.clip(curves, median[:, None] - reach, median[:, None] + reach)

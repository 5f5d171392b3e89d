"""The strategies of a study as data: which training they use, and how they predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Strategy:
    """One way to cross scanners.

    Parameters
    ----------
    name: as in the tables. training: of `study.trainings.TRAININGS`. options: of `inference.predict.predict`.
    reference: whether the model must carry an intensity reference. harmonizer: whether it needs a trained harmonizer,
        `models.harmonizer`.
    """

    name: str
    training: str = "source"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    reference: bool = False
    harmonizer: bool = False


def _predicted(name: str, *, training: str = "source", **options: Any) -> Strategy:
    """Return a strategy; what it does not say about prediction is switched off."""
    used = {"tta": "none", "match": "none", "adapt": "none"} | options
    networked = used["match"] == "cyclegan"
    return Strategy(
        name,
        training,
        MappingProxyType(used),
        reference=used["match"] != "none" and not networked,
        harmonizer=networked,
    )


_ALL = (
    _predicted("none"),
    _predicted("mirror", tta="mirror"),
    _predicted("match", match="body"),
    _predicted("tta", tta="full"),
    _predicted("match+tta", match="body", tta="full"),
    _predicted("anchored", match="anchored"),
    _predicted("anchored+tta", match="anchored", tta="full"),
    _predicted("adversarial", training="adversarial"),
    _predicted("shift-dann", training="shift_dann"),
    _predicted("finetuned", training="finetuned"),
    _predicted("harmonized", match="cyclegan"),
    _predicted("shift", training="shift"),
    _predicted("adapt-consistency", training="gin", adapt="consistency"),
    _predicted("adapt-tent", adapt="tent"),
)
STRATEGIES: Mapping[str, Strategy] = MappingProxyType({row.name: row for row in _ALL})
"""Name -> strategy, in the order of the tables."""


def twin_of(name: str) -> str | None:
    """Return the strategy that differs in that it matches nothing; None if there is none, or a harmonizer matches.

    Both make the same of a scan whose intensities matching leaves alone.
    """
    strategy = STRATEGIES[name]
    if not strategy.reference:
        return None
    plain = {**strategy.options, "match": "none"}
    return next((row.name for row in _ALL if (row.training, dict(row.options)) == (strategy.training, plain)), None)

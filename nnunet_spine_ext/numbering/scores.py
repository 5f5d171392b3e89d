"""What is known about the level of each vertebra, whoever says it: a network, a semantic mask with levels, a person."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.levels import GROUPS, LEVELS, REGIONS, RELATIVE

SUM_TOLERANCE = 1e-2
_WIDTHS = {"level": len(LEVELS), "region": len(REGIONS), "group": len(GROUPS), "relative": len(RELATIVE), "t13": 2}
_TABLES = (*_WIDTHS, "visible")


@dataclass(frozen=True, eq=False)
class VertebraScores:
    """Probabilities for n vertebrae, head to tail; each row of a table sums to 1.

    Parameters
    ----------
    level: (n, 26) over C1..C7, T1..T13, L1..L6 (`levels.LEVELS`).
    region: (n, 3) over cervical, thoracic, lumbar; None when nobody asked.
    group: (n, 12) over `levels.GROUPS`.
    relative: (n, 6) over `levels.RELATIVE`: none, last C, first T, last T, first L, last L.
    t13: (n, 2) over not a T13, a T13.
    visible: (n,) probability that the whole vertebra is in the picture.
    temperature: what the nats of these probabilities are to be divided by: above 1 for a network that is too sure;
        None: they are believed as they are.

    Raises
    ------
    CaseError: a temperature of 0 or less, a table of another shape or count, values that are no numbers or outside 0
        to 1, rows that do not sum to 1.
    """

    level: Array
    region: Array | None = None
    group: Array | None = None
    relative: Array | None = None
    t13: Array | None = None
    visible: Array | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        count = len(self.level) if np.ndim(self.level) else 0
        for name in _TABLES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checked(name, value, count))
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise _wrong("temperature", f"{self.temperature}", "a number above 0")

    def __len__(self) -> int:
        return len(self.level)

    def rows(self, positions: Array) -> VertebraScores:
        """Return the scores of some vertebrae; `positions` are 0-based, head to tail."""
        tables = {name: getattr(self, name) for name in _TABLES}
        return replace(self, **{name: table[positions] for name, table in tables.items() if table is not None})


def _checked(name: str, value: Array, count: int) -> Array:
    array = np.asarray(value, dtype=np.float64)
    expected = (count,) if name == "visible" else (count, _WIDTHS[name])
    if array.shape != expected:
        raise _wrong(name, f"shape {array.shape}", f"shape {expected}")
    if not np.isfinite(array).all():
        raise _wrong(name, f"{int((~np.isfinite(array)).sum())} values that are no numbers", "probabilities")
    if array.size and (array.min() < -1e-6 or array.max() > 1 + SUM_TOLERANCE):
        raise _wrong(name, f"values from {array.min():.3g} to {array.max():.3g}", "probabilities from 0 to 1")
    array = np.clip(array, 0.0, 1.0)
    if name != "visible" and count:
        sums = array.sum(axis=1)
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > SUM_TOLERANCE:
            raise _wrong(name, f"a row {worst + 1} that sums to {sums[worst]:.3f}", "rows that sum to 1")
    return array


def _wrong(name: str, found: str, expected: str) -> CaseError:
    return CaseError(
        "E-NUM-SCORES",
        file=f"scores of the vertebrae: {name}",
        found=found,
        expected=expected,
        fix="check what made the scores: one row per vertebra, head to tail, after a softmax",
    )

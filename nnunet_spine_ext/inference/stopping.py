"""When views of an image have been enough: the mask of their mean hardly moves, or much less than at first."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nnunet_spine_ext.inference.meaning import Marks, sizes_and_overlap
from nnunet_spine_ext.inference.view_settings import Kind, ViewSettings

# So many steps tell how much views disagree.
_FIRST = 2


class EarlyStop:
    """Follows the mask of the running mean from view to view.

    Every further view moves the mean of n by about 1/n of how far it is from it, so a network that is unsure moves its
    mask by percents even after many views, and never comes to rest. It does not have to: what a view adds shrinks while
    its cost stays. So there are two rules, either of which ends it: no structure changed any more in some views in a
    row, or views of every kind were seen and the last ones moved the mask half as far as the first ones did.

    Parameters
    ----------
    kinds: of all views that are planned, one or more of each view; views of each have to be seen for the second rule.
    structures: how many there are.
    """

    def __init__(self, settings: ViewSettings, kinds: Iterable[Kind], structures: int) -> None:
        self._settings = settings
        self._missing = set(kinds)
        self._structures = structures
        self._before: Marks | None = None
        self.agreement: list[float] = []
        """Per view after the first, the lowest Dice of a structure of the running mean with that before."""
        self.steps: list[float] = []
        """Per view after the first, 1 less the mean of these Dice over the structures that either mean has."""

    def add(self, mean: Marks, kinds: Iterable[Kind]) -> bool:
        """Take the mask of the mean after one more view, of these kinds; return whether that was enough."""
        self._missing -= set(kinds)
        if self._before is not None:
            dice = dice_of(self._before, mean, self._structures)
            self.agreement.append(float(dice.min(initial=1.0)))
            self.steps.append(float(1 - dice.mean()) if dice.size else 0.0)
        self._before = mean
        return self._settings.stop and (self._at_rest() or self._slower())

    def _at_rest(self) -> bool:
        last = self.agreement[-self._settings.stop_after :]
        return len(last) == self._settings.stop_after and min(last) > self._settings.stop_dice

    def _slower(self) -> bool:
        after = self._settings.stop_after
        if self._missing or not self._settings.stop_share or len(self.steps) < _FIRST + after:
            return False
        return float(np.mean(self.steps[-after:])) <= self._settings.stop_share * max(self.steps[:_FIRST])


def dice_of(one: Marks, other: Marks, structures: int) -> np.ndarray:
    """Return the Dice of each structure that either has, shape (structures present,)."""
    own, others, both = (np.asarray(n, dtype=np.float64) for n in sizes_and_overlap(one, other, structures))
    some = own + others > 0
    dice: np.ndarray = 2 * both[some] / (own + others)[some]
    return dice

"""How sure a network may be: one temperature for its scores, found on parts of validation spines.

A network that was trained to the end is surer than it is right. Whole spines hide that: they are counted from the top
to the sacrum. So parts are cut out of the validation spines, as in `benchmarks/numbering_training.py`: windows of
vertebrae whose pictures end in the outermost ones. The temperature with which the solver gives the true levels the
highest probability is kept (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, for sequences).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.classifier import Classifier
from nnunet_spine_ext.numbering.crops import normalized
from nnunet_spine_ext.numbering.interface import NumberingSettings
from nnunet_spine_ext.numbering.levels import INDEX
from nnunet_spine_ext.numbering.path import Evidence, best_path
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.scoring import combine
from nnunet_spine_ext.numbering.training.data import CachedCase

# Never below 1: a network that is right on a few spines is not surer than it says.
TEMPERATURES = tuple(float(t) for t in np.round(np.geomspace(1.0, 4.0, 13), 3))
LENGTHS = (4, 6, 8, 10)
# Fewer spines say nothing about spines.
LEAST_SUBJECTS = 4
# More windows than this only cost time.
MOST_WINDOWS = 400
# Of the outermost vertebrae of a window so much of the distance from end to centre is cut off.
_CUT = 0.25
# A level that the solver calls impossible counts like this.
_FLOOR = 1e-6


@dataclass(frozen=True)
class Window:
    """Some neighbouring vertebrae of a spine: scores as if the picture ended there, true levels."""

    scores: VertebraScores
    names: tuple[str, ...]
    sacrum: bool


def calibrate(classifier: Classifier, cases: Sequence[CachedCase]) -> dict[str, Any]:
    """Return the temperature of a network and what it is taken from.

    Parameters
    ----------
    classifier: the network, without a temperature.
    cases: spines that it was not trained on; patches may be wider than the network's.

    Returns
    -------
    ``temperature``, ``windows``, and ``nats`` that the true level of a vertebra lacks, without and with it; empty for
    spines of fewer than four subjects that have at least four vertebrae.
    """
    # Shorter ones give no window.
    usable = [case for case in cases if len(case.names) >= min(LENGTHS)]
    if len({case.subject for case in usable}) < LEAST_SUBJECTS:
        return {}
    found = [window for case in usable for window in windows_of(case, classifier)]
    kept = [found[k] for k in np.unique(np.linspace(0, len(found) - 1, MOST_WINDOWS).astype(int))] if found else []
    if not kept:
        return {}
    lacking = [float(np.mean([_nats(window, t) for window in kept])) for t in TEMPERATURES]
    best = int(np.argmin(lacking))
    nats = {"at_1": round(lacking[0], 4), "calibrated": round(lacking[best], 4)}
    return {"temperature": TEMPERATURES[best], "windows": len(kept), "nats": nats}


def windows_of(case: CachedCase, classifier: Classifier) -> Iterator[Window]:
    """Yield windows of a spine; its outermost vertebrae are seen as the end of a picture shows them."""
    spec = classifier.spec
    patches = central(case.patches(), spec.size)
    whole, upper, lower = (
        classifier.predict(normalized(data, spec.inputs))
        for data in (patches, ended(patches, above=True), ended(patches, above=False))
    )
    count = len(case.names)
    for length in LENGTHS:
        for first in range(0, count - length + 1, 2):
            last = first + length - 1
            scores = _joined(upper.rows(np.array([first])), whole.rows(np.arange(first + 1, last)))
            sacrum = case.sacrum and last == count - 1
            end = whole if sacrum else lower
            yield Window(_joined(scores, end.rows(np.array([last]))), case.names[first : last + 1], sacrum)


def ended(patches: Array, *, above: bool) -> Array:
    """Return patches (n, 3, P, I, R) of pictures that end within the vertebra, above or below its centre."""
    result = patches.copy()
    middle = patches.shape[3] / 2
    for patch in result:
        rows = np.flatnonzero((patch[1] > 0.5).any(axis=(0, 2)))
        if not len(rows):
            continue
        # I grows towards the feet.
        if above:
            patch[:, :, : max(0, round(rows[0] + _CUT * (middle - rows[0])))] = 0
        else:
            patch[:, :, round(rows[-1] + 1 - _CUT * (rows[-1] + 1 - middle)) :] = 0
    return result


def _nats(window: Window, temperature: float) -> float:
    """Mean of what the true levels of a window lack of certainty, with the solver and its prices."""
    settings = NumberingSettings()
    scores = replace(window.scores, temperature=temperature)
    level, relative = combine(scores)
    gaps = np.zeros(len(level) - 1)
    evidence = Evidence(level, relative, gaps=gaps, sacrum_gap=0.0 if window.sacrum else None)
    path = best_path(evidence, settings.rules.cheaper(settings.prior_with_scores))
    if path is None:
        return float(-np.log(_FLOOR))
    chance = path.posterior[np.arange(len(level)), [INDEX[name] for name in window.names]]
    return float(-np.log(np.maximum(chance, _FLOOR)).mean())


def _joined(first: VertebraScores, second: VertebraScores) -> VertebraScores:
    names = ("level", "region", "group", "relative", "t13", "visible")
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    tables: dict[str, Any] = {n: np.concatenate(pair) for n, pair in pairs.items() if pair[0] is not None}
    return VertebraScores(**tables)


def central(data: Array, size: tuple[int, int, int]) -> Array:
    """Cut widened patches (n, C, P, I, R) to their size."""
    starts = [(n - m) // 2 for n, m in zip(data.shape[2:], size, strict=True)]
    p, i, r = (slice(start, start + m) for start, m in zip(starts, size, strict=True))
    return data[:, :, p, i, r]

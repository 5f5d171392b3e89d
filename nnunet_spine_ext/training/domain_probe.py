"""How much of the domain a linear classifier reads in frozen features: what is left after adversarial training.

The head that trained against the encoder may be at chance because it lost the game, not because nothing is there. A
fresh classifier on features that no longer change tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.networks.domain_head import pooled

PROBE_FILE = "domain_probe.json"
VERSION = 1
_FOLDS = 5
_PENALTIES = np.logspace(-3, 4, 15)
_FEWEST_GROUPS = 2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeScore:
    """Balanced accuracy (mean over domains) of samples whose group the classifier has not seen.

    `accuracy`: 0-1. `chance`: one over the number of domains. `by_domain`: accuracy of each. `samples`, `groups`: how
    many; groups are subjects.
    """

    accuracy: float
    chance: float
    by_domain: tuple[float, ...]
    samples: int
    groups: int

    @property
    def above_chance(self) -> float:
        """Accuracy above chance, in percentage points."""
        return 100 * (self.accuracy - self.chance)


def linear_probe(features: Array, domains: Sequence[int], groups: Sequence[str], count: int) -> ProbeScore | None:
    """Return how well a ridge classifier tells domains, cross-validated over groups.

    Domains weigh the same, however many samples they have; the penalty is chosen by the leave-one-out error within the
    training part. Deterministic. None where fewer than two groups, or two domains, could be compared.

    Parameters
    ----------
    features: (N, F). domains: number of the domain of each sample, from 0 to `count` - 1. groups: subject of each
        sample; no subject is on both sides.
    """
    values, numbers = np.asarray(features, dtype=np.float64), np.asarray(domains)
    subjects = np.asarray(groups)
    fold_of = _folds(numbers, subjects)
    answers = np.full(len(numbers), -1)
    for fold in range(max(fold_of.values(), default=-1) + 1):
        tested = np.array([fold_of[subject] == fold for subject in subjects])
        known = np.unique(numbers[~tested])
        if tested.any() and len(known) > 1:
            answers[tested] = known[_ridge(values[~tested], numbers[~tested], known, values[tested])]
    seen = [k for k in range(count) if (numbers == k).any()]
    if len(fold_of) < _FEWEST_GROUPS or len(seen) < _FEWEST_GROUPS or (answers < 0).any():
        return None
    by_domain = tuple(float((answers[numbers == k] == k).mean()) for k in seen)
    return ProbeScore(float(np.mean(by_domain)), 1 / len(seen), by_domain, len(numbers), len(fold_of))


def _folds(numbers: NDArray[np.int64], subjects: NDArray[np.str_]) -> dict[str, int]:
    """Deal subjects to at most five folds, those of each domain in turn, so that every fold trains on every domain."""
    first = {str(s): int(numbers[subjects == s][0]) for s in np.unique(subjects)}
    order = sorted(first, key=lambda s: (first[s], s))
    return {subject: place % min(_FOLDS, len(order)) for place, subject in enumerate(order)}


def _ridge(values: Array, numbers: NDArray[np.int64], known: NDArray[np.int64], new: Array) -> NDArray[np.int64]:
    """Return, for new samples, the position in `known` of the domain that a ridge regression prefers."""
    scale = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
    members = (numbers[:, None] == known).astype(np.float64)
    weights = (members / members.sum(axis=0)).sum(axis=1) / len(known)
    centre, target = weights @ values, weights @ members
    root = np.sqrt(weights * len(numbers))[:, None]
    x, y = root * (values - centre) / scale, root * (members - target)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    best: tuple[float, Array] | None = None
    for penalty in _PENALTIES:
        shrunk = singular**2 / (singular**2 + penalty)
        leverage = ((left**2) * shrunk).sum(axis=1, keepdims=True)
        error = float((((y - left @ (shrunk[:, None] * projected)) / np.maximum(1 - leverage, 1e-6)) ** 2).sum())
        if best is None or error < best[0]:
            best = error, right.T @ ((singular / (singular**2 + penalty))[:, None] * projected)
    coefficients = best[1] if best is not None else np.zeros((values.shape[1], len(known)))
    scores = (new - centre) / scale @ coefficients + target
    answers: NDArray[np.int64] = scores.argmax(axis=1)
    return answers


@torch.no_grad()
def frozen_features(encoder: nn.Module, images: Tensor) -> Array:
    """Return mean, standard deviation and maximum of the deepest features of images (N, C, *patch): (N, 3 F)."""
    training = encoder.training
    encoder.eval()
    try:
        skips = encoder(images)
    finally:
        encoder.train(training)
    return pooled(skips[-1].float()).cpu().numpy().astype(np.float64)


def store_probe(folder: str | Path, domains: Sequence[str], epoch: int, score: ProbeScore | None, **facts: Any) -> None:
    """Add the score of an epoch to `domain_probe.json` of a fold, in place of an older one of the same epoch."""
    path = Path(folder) / PROBE_FILE
    rows = read_json(path)["probes"] if path.is_file() else []
    row = {"epoch": epoch, **facts, "score": None if score is None else asdict(score)}
    kept: Iterable[dict[str, Any]] = (r for r in rows if r["epoch"] < epoch)
    write_json(path, {"version": VERSION, "domains": list(domains), "probes": [*kept, row]}, indent=1)

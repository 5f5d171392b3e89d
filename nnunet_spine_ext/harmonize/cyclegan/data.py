"""Slices of a training, and which ones every step sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.errors import NoInputError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.slice_set import SliceSet

_ORDER = 2


@dataclass(frozen=True, eq=False)
class TrainingSlices:
    """Slices to train on and to look at only; no subject is on both sides."""

    source: SliceSet
    target: SliceSet
    source_validation: SliceSet
    target_validation: SliceSet

    @property
    def stamp(self) -> str:
        """Hash of the slices that are trained on."""
        digest = hashlib.sha256()
        for part in (self.source, self.target):
            digest.update(np.ascontiguousarray(part.images).tobytes())
        return digest.hexdigest()[:16]


def split_slices(source: SliceSet, target: SliceSet, settings: CycleGanSettings) -> TrainingSlices:
    """Split both sides by subject; somebody whom both scanned is on one side of both.

    A single subject whom only a source scanned is trained on, unless nobody else is.

    Raises
    ------
    UsageError: a side with fewer than two subjects. NoInputError: slices of the two sides have other sizes.
    """
    if source.size != target.size:
        raise NoInputError(
            "E-HARM-SIZES",
            file="slices",
            found=f"{source.size} and {target.size} pixels",
            expected="one size on both sides",
            fix="read both with the same settings",
        )
    train, held = target.split(settings.validation, settings.seed)
    seen = {target.facts[k].subject for k in train}
    kept = {target.facts[k].subject for k in held}
    both = {fact.subject for fact in source.facts} & (seen | kept)
    own = [k for k, fact in enumerate(source.facts) if fact.subject not in both]
    ours: tuple[list[int], list[int]] = ([], [])
    shared = [k for k in range(len(source.facts)) if source.facts[k].subject in both]
    if len({source.facts[k].subject for k in own}) == 1 and shared:
        ours[not any(source.facts[k].subject in kept for k in shared)].extend(own)
    elif own:
        first, second = source.subset(own).split(settings.validation, settings.seed)
        ours = ([own[k] for k in first], [own[k] for k in second])
    for k in shared:
        ours[source.facts[k].subject in kept].append(k)
    return TrainingSlices(
        source.subset(sorted(ours[0])), target.subset(train), source.subset(sorted(ours[1])), target.subset(held)
    )


def epoch_order(sources: int, targets: int, settings: CycleGanSettings, epoch: int) -> tuple[Array, Array]:
    """Return which slices of the sources and of the target the steps of an epoch see, (steps, batch) each.

    Every source slice once, as far as whole batches go; target slices in turns.
    """
    rng = np.random.default_rng([_ORDER, settings.seed, epoch])
    wanted = min(sources, settings.slices_per_epoch or sources)
    steps = max(1, wanted // settings.batch_size)
    count = steps * settings.batch_size
    rounds = -(-count // targets)
    xs = np.resize(rng.permutation(sources), count)
    ys = np.concatenate([rng.permutation(targets) for _ in range(rounds)])[:count]
    return xs.reshape(steps, -1), ys.reshape(steps, -1)


def spread_over(count: int, most: int) -> list[int]:
    """Return at most so many indices, evenly spread, the same ones every time."""
    return list(range(count)) if count <= most else [int(k) for k in np.linspace(0, count - 1, most).round()]

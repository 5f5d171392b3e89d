"""Batches in which domains are balanced."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class DomainBalancedLoader(nnUNetDataLoader):
    """nnU-Net's loader; a batch holds as many domains as it can, each as often as the others.

    A share of every batch has masks, where there are any, at least one sample: the others teach nothing about the
    spine, and where most domains have none, balance alone would leave the masks few samples. The order is random,
    because nnU-Net puts the patches that must hold foreground last.

    Parameters
    ----------
    data, args, options: those of nnU-Net's loader. domain_of: number of the domain by case. supervised: cases whose
        masks are used. share: of a batch that at least has such cases, 0 to 1.
    """

    def __init__(
        self,
        data: Any,
        *args: Any,
        domain_of: Mapping[str, int],
        supervised: Sequence[str] | frozenset[str],
        share: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(data, *args, **options)
        cases = [str(case) for case in self.indices]
        self._by_domain = [
            [case for case in cases if domain_of[case] == domain] for domain in sorted({domain_of[c] for c in cases})
        ]
        self._with_masks = [[case for case in group if case in supervised] for group in self._by_domain]
        self._data: Any = MasksUnseen(data, supervised)
        self._share = share

    def get_indices(self) -> list[str]:
        """Return the cases of the next batch, drawn from numpy's global state as nnU-Net draws them."""
        # Seeded per worker by batchgenerators, and per epoch by our trainers.
        draw = np.random
        teachers = [k for k, group in enumerate(self._with_masks) if group]
        taught = max(1, math.ceil(self._share * self.batch_size)) if teachers else 0
        domains: list[int] = []
        while len(domains) < self.batch_size:
            # Once round all domains before one comes a second time.
            choice = teachers if len(domains) < taught else range(len(self._by_domain))
            seen = {k: domains.count(k) for k in choice}
            rarest = [k for k, count in seen.items() if count == min(seen.values())]
            domains.append(int(draw.choice(rarest)))
        groups = [(self._with_masks if k < taught else self._by_domain)[d] for k, d in enumerate(domains)]
        cases = [group[int(draw.randint(len(group)))] for group in groups]
        return [cases[int(k)] for k in draw.permutation(len(cases))]


class MasksUnseen:
    """A dataset whose cases without masks to use do not say where their structures are.

    nnU-Net centres patches on structures. The masks of target cases would so decide what the network sees of them,
    though no loss reads them.

    Parameters
    ----------
    dataset: of nnU-Net's. supervised: cases whose masks are used.
    """

    def __init__(self, dataset: Any, supervised: Sequence[str] | frozenset[str]) -> None:
        self._dataset = dataset
        self._supervised = frozenset(supervised)

    @property
    def identifiers(self) -> Any:
        """Names of the cases, as nnU-Net's dataset has them."""
        return self._dataset.identifiers

    def load_case(self, case: str) -> tuple[Any, ...]:
        """Return what nnU-Net's dataset returns: image, mask, mask of an earlier stage, properties."""
        image, mask, before, properties = self._dataset.load_case(case)
        if str(case) not in self._supervised:
            # nnU-Net takes a patch anywhere where no class has a voxel.
            nowhere: dict[Any, list[Any]] = {name: [] for name in properties["class_locations"]}
            properties = {**properties, "class_locations": nowhere}
        return image, mask, before, properties


@contextmanager
def loading(factory: Callable[..., Any]) -> Iterator[None]:
    """Let nnU-Net's trainer make its loaders by `factory` while this lasts: it offers no other way."""
    upstream: Any = sys.modules[nnUNetTrainer.__module__]
    before = upstream.nnUNetDataLoader
    upstream.nnUNetDataLoader = factory
    try:
        yield
    finally:
        upstream.nnUNetDataLoader = before

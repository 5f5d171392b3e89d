"""Patches of preprocessed cases for the linear probe: the same ones in every epoch, drawn from the case's name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor

LARGEST_COHORT = 120
"""Cases that a probe looks at, at most; as many of each domain as possible."""


def chosen_cases(domain_of: Mapping[str, int], limit: int = LARGEST_COHORT) -> list[str]:
    """Return at most about `limit` cases, domains in turn, in an order that depends on their names alone."""
    queue = sorted((case for case, domain in domain_of.items() if domain >= 0), key=_digest)
    turn: Counter[int] = Counter()
    ranked = []
    for case in queue:
        turn[domain_of[case]] += 1
        ranked.append((turn[domain_of[case]], _digest(case), case))
    return [case for _, _, case in sorted(ranked)[:limit]]


def patches_of(dataset: Any, case: str, patch: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """Return `count` patches of a case: images (count, C, *patch) and labels (count, 1, *patch), -1 outside.

    A 2-D patch is a slice along the first axis. Small images are in the middle, padded as nnU-Net's loader pads them.

    Parameters
    ----------
    dataset: of nnU-Net's, with that case.
    """
    data, labels, *_ = dataset.load_case(case)
    size = tuple(int(n) for n in ((1, *patch) if len(patch) == 2 else patch))
    rng = np.random.default_rng(int(_digest(case), 16))
    images, masks = [], []
    for _ in range(count):
        box = [_interval(rng, n, length) for n, length in zip(data.shape[1:], size, strict=True)]
        images.append(torch.from_numpy(crop_and_pad_nd(data, box, 0)).float())
        masks.append(torch.from_numpy(crop_and_pad_nd(labels, box, -1)).to(torch.int16))
    stacked = torch.stack(images), torch.stack(masks)
    if len(patch) == 2:
        return stacked[0][:, :, 0], stacked[1][:, :, 0]
    return stacked


def _interval(rng: np.random.Generator, available: int, length: int) -> list[int]:
    start = int(rng.integers(available - length + 1)) if available > length else -((length - available) // 2)
    return [start, start + length]


def _digest(case: str) -> str:
    return hashlib.blake2b(case.encode(), digest_size=8).hexdigest()

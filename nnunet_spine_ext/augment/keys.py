"""Random numbers that depend on the sample alone: its case, the epoch and the draw, never its neighbours in a batch.

Every draw is a function of (seed, case, epoch, draw, stream), where the stream is the name of what draws. So adding
or removing one transform changes no draw of another, and it does not matter which worker, rank or device works.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_SEPARATOR = "\x1f"
_COIN_BITS = 53


@dataclass(frozen=True)
class SampleKey:
    """What names one augmented sample.

    `seed`: of the training run. `case`: identifier of the image. `epoch`: of the training. `draw`: running number
    within the epoch, so that a case drawn twice in an epoch is augmented differently. `batch`: number of the batch in
    the epoch; nothing depends on it but coins that are tossed once for all of a batch (`p_batch`). `scanner`: number
    of the scanner that takes it (`scanners` of a configuration) where that is not left to turns. What that scanner does
    is drawn for it, nothing else depends on it: keys that differ in it alone are one sample, as several scanners take
    it.
    """

    seed: int
    case: str
    epoch: int
    draw: int
    batch: int | None = None
    scanner: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the key as plain JSON."""
        return {name: value for name, value in asdict(self).items() if name != "scanner" or value is not None}


def generator(key: SampleKey, stream: str) -> np.random.Generator:
    """Return the random generator of one stream of one sample; equal arguments give equal draws everywhere."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(key, stream), "little")))


def seeded(seed: int) -> np.random.Generator:
    """Return the generator of a seed that a transform drew for its bulk of numbers: equal seeds, equal numbers."""
    return np.random.Generator(np.random.Philox(key=seed))


def coin(key: SampleKey, stream: str) -> float:
    """Return one uniform number in [0, 1), without the cost of a generator (a hash of 1 µs instead of 15)."""
    return (int.from_bytes(_digest(key, stream)[:8], "little") >> (64 - _COIN_BITS)) / 2**_COIN_BITS


def batch_coin(key: SampleKey, stream: str) -> float:
    """Return the number that all samples of a batch have in common; the sample's own where its batch is not known."""
    if key.batch is None:
        return coin(key, stream)
    return coin(SampleKey(key.seed, "", key.epoch, key.batch), f"all/{stream}")


def _digest(key: SampleKey, stream: str) -> bytes:
    """Hash everything to 128 bits, the size of a Philox key."""
    text = _SEPARATOR.join((str(key.seed), key.case, str(key.epoch), str(key.draw), stream))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

"""How the labels of a cutout become the channels of the instance network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import scheme as scheme_of
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ARCUS, CANAL, CORD, CORPUS, DISC
from nnunet_spine_ext.instances.whole import TABLES

# The classes 2..10 of nnunet14 (arcus … corpus) are 1..9 in the cutouts of SPINEPS, all others background.
_FIRST, _LAST = ARCUS, CORPUS
_CLASSES = _LAST - _FIRST + 1


@dataclass(frozen=True)
class _Encoding:
    channels: int
    encode: Callable[[Array, int], Array]
    substructures: bool


def _substructures() -> Array:
    table = np.zeros(256, dtype=np.uint8)
    table[_FIRST : _LAST + 1] = np.arange(1, _CLASSES + 1)
    return table


def _whole() -> Array:
    table = np.zeros(256, dtype=np.uint8)
    table[_FIRST : _LAST + 1] = 1
    table[DISC] = 2
    table[[CORD, CANAL]] = 3
    return table


def _one_hot(labels: Array, channels: int, table: Array | None = None) -> Array:
    classes = (_substructures() if table is None else table)[labels]
    result = np.zeros((channels, *labels.shape), dtype=np.float32)
    for channel in range(channels):
        np.equal(classes, channel, out=result[channel], casting="unsafe")
    return result


def _one_hot_whole(labels: Array, channels: int) -> Array:
    return _one_hot(labels, channels, _whole())


def _scalar(labels: Array, channels: int) -> Array:
    return (_substructures()[labels].astype(np.float32) / np.float32(_CLASSES))[None].repeat(channels, axis=0)


ENCODINGS: dict[str, _Encoding] = {
    # SPINEPS' present network has two channels more than classes; the last one is never set.
    "onehot": _Encoding(11, _one_hot, substructures=True),
    "onehot10": _Encoding(10, _one_hot, substructures=True),
    "scalar": _Encoding(1, _scalar, substructures=True),
    "body": _Encoding(4, _one_hot_whole, substructures=False),
}


def encode(labels: Array, name: str) -> Array:
    """Turn labels into the network's input.

    Parameters
    ----------
    labels: (P, I, R) uint8 ids of ``nnunet14``, 0 for background and padding.
    name: ``onehot`` has 11 channels: background, the nine vertebra classes (arcus, spinous process, costal,
        superior and inferior articular processes left and right, corpus) and one that is never set, as the present
        network of SPINEPS; ``onehot10`` is the same without the last, ``scalar`` one channel of class / 9 (its older
        networks); ``body`` is for masks without substructures: background, vertebra, disc, canal with cord.

    Returns
    -------
    (C, P, I, R) float32.

    Raises
    ------
    UsageError: unknown name.
    """
    encoding = _get(name)
    return encoding.encode(labels, encoding.channels)


def channels(name: str) -> int:
    """Return the number of channels of an encoding; raises UsageError for an unknown name."""
    return _get(name).channels


def needs_substructures(name: str) -> bool:
    """Whether an encoding tells arches and processes from bodies; raises UsageError for an unknown name."""
    return _get(name).substructures


def check_encoding(name: str, scheme: str) -> None:
    """Refuse a model that needs classes which masks of a label scheme do not have.

    Raises
    ------
    UsageError: unknown encoding or scheme; masks of this scheme have whole vertebrae, but the encoding needs arches
        and processes.
    """
    known = scheme_of(scheme)
    whole = known.kind == "levels" or scheme in TABLES
    if whole and needs_substructures(name):
        raise UsageError(
            "E-INST-ENCODING",
            file=scheme,
            found=f"an instance model for another encoding ({name}: arches and processes as classes of their own)",
            expected="a model for masks of whole vertebrae (encoding body)",
            fix="train one with this encoding, or leave the model out: separation works without",
        )


def _get(name: str) -> _Encoding:
    if name not in ENCODINGS:
        raise UsageError(
            "E-INST-ENCODING",
            file=name,
            found="unknown encoding of an instance network",
            expected="a known one",
            fix=nearest(name, ENCODINGS),
        )
    return ENCODINGS[name]

"""Preprocessed soft labels, one file per case beside nnU-Net's own.

nnU-Net takes neither ``<case>_soft_seg.b2nd`` for a case nor for anything else: only files that end in ``_seg.b2nd``,
``.pkl`` or ``.npy`` may be added to its folder. What a file was made from is stored in the file itself, so the two
cannot come apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array

SUFFIX = "_soft_seg.b2nd"
_FACTS = "spine_ext"
_LEVEL = 5


def soft_file(folder: str | Path, case: str) -> Path:
    """Return where the preprocessed soft label of a case is."""
    return Path(folder) / f"{case}{SUFFIX}"


def write_soft(path: Path, values: Array, valid: Array, facts: Mapping[str, Any], blocks: Sequence[int]) -> None:
    """Store values (K, *spatial) and validity (*spatial), both 0 … 1, as K+1 channels; wholly or not at all.

    Parameters
    ----------
    facts: plain values that tell what the file was made from; `read_facts` returns them.
    blocks: spatial size of what is read at once.

    Half precision errs by at most 2.5e-4 there: a twentieth of a percent of an edge voxel.
    """
    import blosc2

    stacked = np.ascontiguousarray(np.concatenate([values, valid[None]]).astype(np.float16))
    block = (1, *(min(int(b), n) for b, n in zip(blocks, stacked.shape[1:], strict=True)))
    parameters = {"codec": blosc2.Codec.ZSTD, "clevel": _LEVEL, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}
    array = blosc2.asarray(stacked, blocks=block, cparams=parameters)
    array.schunk.vlmeta[_FACTS] = dict(facts)
    # Not beside it: nnU-Net would take the temporary file for a case. Who writes here holds a lock.
    temporary = path.parent.parent / f".{path.parent.name}.{path.name}.tmp"
    try:
        with temporary.open("wb") as stream:
            stream.write(array.to_cframe())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_soft(path: Path) -> Any:
    """Return the K+1 channels as an array that reads from the file what is asked for."""
    import blosc2

    return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1})


def read_facts(path: Path) -> dict[str, Any] | None:
    """Return what a file was made from; None if there is no file, or none that can be read."""
    if not path.is_file():
        return None
    try:
        # The array has to outlive what is read through it.
        array = open_soft(path)
        return dict(array.schunk.vlmeta[_FACTS])
    # Damaged files raise anything, also from blosc2's own errors.
    except Exception:
        return None

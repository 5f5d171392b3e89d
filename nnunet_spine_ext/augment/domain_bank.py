"""A bank of domains: how bright each tissue is in a kind of scan, as quantiles of its intensities.

    version: 1
    domains:
      t1w: {background: [0.0, …, 1.2], cord: […], …}

Quantiles at equal steps from 0 to 1, in units of the signal (`batch.Levels`: air 0, 99.5 % quantile 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.batch import AIR_QUANTILE, TOP_QUANTILE
from nnunet_spine_ext.core.config import read_mapping
from nnunet_spine_ext.core.errors import UsageError

QUANTILES = 9
VERSION = 1
SHIPPED = Path(__file__).parent / "data" / "domains.yaml"

Bank = Mapping[str, Mapping[str, tuple[float, ...]]]

_FEWEST_VOXELS = 50


def load_bank(path: str | Path | Mapping[str, Any] | None = None) -> Bank:
    """Return a bank: domain -> tissue -> quantiles. None is the shipped one; a mapping is what a file holds.

    Raises
    ------
    UsageError: the file cannot be read, is no bank, or its rows are not ascending numbers of equal length.
    """
    if isinstance(path, Mapping):
        return _checked(path, "bank")
    path = Path(SHIPPED if path is None else path)
    # A file that was written again since is read again.
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return _load(str(path), stamp)


def plain_bank(path: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return a bank as plain JSON, which `load_bank` reads; equal for equal domains, wherever they are stored."""
    domains = {name: {t: list(row) for t, row in tissues.items()} for name, tissues in load_bank(path).items()}
    return {"version": VERSION, "domains": domains}


def learn(scans: Iterable[tuple[NDArray[Any], NDArray[Any]]], classes: Mapping[int, str]) -> dict[str, list[float]]:
    """Return the quantiles of every tissue in scans of one domain.

    Parameters
    ----------
    scans: images and label maps of equal shape. classes: tissue of each label id; label 0 is "background".

    Returns
    -------
    One domain of a bank: the mean over scans of each tissue's quantiles. Tissues with fewer than 50 voxels in every
    scan are missing.
    """
    steps = np.linspace(0, 1, QUANTILES)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for image, labels in scans:
        air, top = np.quantile(image, (AIR_QUANTILE, TOP_QUANTILE))
        scaled = (image - air) / max(float(top - air), 1e-12)
        for tissue in sorted({"background", *classes.values()}):
            ids = [0] if tissue == "background" else [label for label, name in classes.items() if name == tissue]
            values = scaled[np.isin(labels, ids)]
            if values.size >= _FEWEST_VOXELS:
                found.setdefault(tissue, []).append(np.quantile(values, steps))
    return {tissue: [round(float(v), 4) for v in np.mean(rows, axis=0)] for tissue, rows in found.items()}


@lru_cache(maxsize=8)
def _load(path: str, stamp: tuple[int, int] | None) -> Bank:
    return _checked(read_mapping(path), path)


def _checked(content: Mapping[str, Any], path: str) -> Bank:
    domains = content.get("domains")
    if content.get("version") != VERSION or not isinstance(domains, Mapping) or not domains:
        raise _refuse(path, "no bank of domains", f"the keys version: {VERSION} and domains")
    bank = {}
    for name, tissues in domains.items():
        if not isinstance(tissues, Mapping):
            raise _refuse(path, f"domain {name!r} is no mapping", "tissue: [quantiles]")
        bank[str(name)] = MappingProxyType({str(t): _row(path, f"{name}: {t}", row) for t, row in tissues.items()})
    lengths = {len(row) for tissues in bank.values() for row in tissues.values()}
    if len(lengths) > 1:
        raise _refuse(path, f"rows of {sorted(lengths)} quantiles", "rows of equal length")
    return MappingProxyType(bank)


def _row(path: str, where: str, row: Any) -> tuple[float, ...]:
    try:
        values = np.asarray(row, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _refuse(path, f"{where}: {row!r}", "a list of numbers") from error
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or (np.diff(values) < 0).any():
        raise _refuse(path, f"{where}: {row!r}", "two or more ascending numbers")
    return tuple(float(v) for v in values)


def _refuse(path: str, found: str, expected: str) -> UsageError:
    return UsageError("E-AUG-BANK", file=path, found=found, expected=expected, fix="correct the file")

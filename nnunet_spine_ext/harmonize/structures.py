"""Structures whose intensities are told apart: which classes of a labelling belong to each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.core.volume import Array

# What lies around the spine: no class of its own, but every voxel within `REGION_MM` of one.
REGION = "region"
REGION_MM = 20.0
# The first that fits a class's name decides. Endplates are one or two voxels thin, and ribs often half outside: neither
# is a structure. Whole vertebrae, of labellings that do not tell body and arch apart, are a structure of their own.
# Words end where letters do: to \b an underscore is a letter, and "intervertebral_disc" would be a vertebra.
_GROUPS = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("", r"endplate|rib|ignore|background|rootlet|lesion"),
        ("disc", r"(?<![a-z])dis[ck]|ivd"),
        ("cord", r"(?<![a-z])cord(?![a-z])|^myelon"),
        ("canal", r"canal|csf|thecal"),
        ("corpus", r"(?<![a-z])corpus|(?<![a-z])dens(?![a-z])|vertebral[ _]body"),
        ("arch", r"arcus|(?<![a-z])arch|spinous|costal|articular|sacrum"),
        ("vertebra", r"vertebra|^[CTLS]\d+$|coccyx"),
    )
)
STRUCTURES = ("corpus", "arch", "vertebra", "disc", "cord", "canal")


def structure_ids(scheme: str) -> dict[str, tuple[int, ...]]:
    """Return the class ids of each structure that a label scheme has; nothing for schemes that are none of ours.

    Structures are ``corpus``, ``arch`` (posterior elements, sacrum), ``vertebra`` (both, where a scheme does not tell
    them apart), ``disc``, ``cord`` and ``canal``.
    """
    # Points are no structures, whatever they are called.
    known = SCHEMES.get(scheme) if scheme != "sct_discs" else None
    return {} if known is None else _grouped({name: (number,) for number, name in known.labels.items()})


def structures_of(dataset_json: Mapping[str, Any], scheme: str | None = None) -> dict[str, tuple[int, ...]]:
    """Return the class ids of each structure of a dataset or model; by the names of its labels in a ``custom`` scheme.

    Parameters
    ----------
    dataset_json: content of the dataset's dataset.json.
    scheme: name of the label scheme; default: what dataset.json says.
    """
    scheme = scheme or str(dataset_json.get("spine_ext", {}).get("scheme", "custom"))
    known = structure_ids(scheme)
    labels = dataset_json.get("labels", {})
    regions = {name: tuple(ids) if isinstance(ids, list | tuple) else (int(ids),) for name, ids in labels.items()}
    if not known:
        return _grouped(regions)
    # A dataset need not have every class of its scheme; a network has no channel for those that are missing.
    own = {number for ids in regions.values() for number in ids}
    kept = {name: tuple(number for number in ids if number in own or not own) for name, ids in known.items()}
    return {name: ids for name, ids in kept.items() if ids}


def structure_masks(labels: Array, ids: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return a float32 mask (0 or 1) of each structure that is in a label array (i, j, k)."""
    masks = {name: np.isin(labels, numbers) for name, numbers in ids.items()}
    return {name: mask.astype(np.float32) for name, mask in masks.items() if mask.any()}


def _grouped(labels: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for name, ids in labels.items():
        group = next((group for group, pattern in _GROUPS if pattern.search(name)), "")
        if group:
            found.setdefault(group, []).extend(int(number) for number in ids if int(number) > 0)
    # Labellings by level call the sacrum a bone like others.
    if "vertebra" in found and "arch" in found and "corpus" not in found:
        found["vertebra"] += found.pop("arch")
    return {name: tuple(sorted(found[name])) for name in STRUCTURES if name in found}

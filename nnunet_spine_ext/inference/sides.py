"""Left and right among the outputs of a network: which of them change places when an image is mirrored.

Labels are numbered as the outputs of their network are; regions are not: each has an output, in the order in which
dataset.json lists them, whatever labels it holds.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.inference.model import sided_axis, sided_pairs, trained_with_mirroring

logger = logging.getLogger(__name__)
Pairs = tuple[tuple[int, int], ...]
Regions = tuple[tuple[int, ...], ...]


def regions_of(dataset_json: Mapping[str, Any]) -> Regions:
    """Return the label ids of each region, in the order of the outputs; nothing for classes that do not overlap."""
    labels = {name: value for name, value in dataset_json.get("labels", {}).items() if name != "ignore"}
    listed = [tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),) for value in labels.values()]
    if all(len(ids) == 1 for ids in listed):
        return ()
    return tuple(ids for ids in listed if set(ids) != {0})


def sided_view(plans: Mapping[str, Any], dimensions: int) -> tuple[int, Pairs] | None:
    """Return the left-right axis of a patch, and the pairs of outputs to exchange once it was mirrored.

    None where a patch is not to be mirrored in this way: no class has a side, training did not mirror, a 2-D patch has
    no such axis, or a region is on one side and its counterpart is no region (a warning says so once). Models of plans
    that do not list regions count as models of labels.

    Parameters
    ----------
    dimensions: of a patch.

    Raises
    ------
    SetupError: the plans use a reader that does not reorient.
    """
    labels = sided_pairs(plans)
    if not labels or not trained_with_mirroring(plans):
        return None
    axis = sided_axis(plans, dimensions)
    if axis is None:
        return None
    regions = tuple(tuple(map(int, ids)) for ids in plans[SETTINGS_KEY]["data"].get("regions", ()))
    pairs = paired_outputs(labels, regions)
    if pairs is None:
        _say_once(str(plans.get("plans_name", "")), regions)
        return None
    return axis, pairs


def paired_outputs(labels: Sequence[tuple[int, int]], regions: Regions) -> Pairs | None:
    """Return the pairs of outputs that change places when (left, right) labels do; those of labels without regions.

    A region and its partner hold each other's labels after the exchange; one that stays the same has none. None where
    the partner of a region is missing.
    """
    if not regions:
        return tuple((int(left), int(right)) for left, right in labels)
    other = {a: b for left, right in labels for a, b in ((left, right), (right, left))}
    own = [frozenset(ids) for ids in regions]
    exchanged = [frozenset(other.get(label, label) for label in ids) for ids in regions]
    if len(set(own)) < len(own) or not set(exchanged) <= set(own):
        return None
    partners = [own.index(ids) for ids in exchanged]
    return tuple((first, second) for first, second in enumerate(partners) if first < second)


@functools.cache
def _say_once(name: str, regions: Regions) -> None:
    found = f"regions of labels {', '.join(str(list(ids)) for ids in regions)}: one is on one side, without a partner"
    fix = "patches are not mirrored from left to right in prediction; add the region of the other side to dataset.json"
    problem = Problem("warning", "W-PLANS-SIDES", f"plans {name}", found, "a region for each side, or for both", fix)
    logger.warning("%s", problem)

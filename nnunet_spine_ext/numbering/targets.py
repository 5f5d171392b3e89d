"""What the questions of the classifier have for answers, given the levels of the vertebrae of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.levels import (
    GROUPS,
    INDEX,
    LEVELS,
    LUMBAR,
    REGION_OF,
    REGIONS,
    RELATIVE,
    THORACIC,
    relative_targets,
)

HEADS: Mapping[str, int] = MappingProxyType(
    {
        "region": len(REGIONS),
        "level": len(LEVELS),
        "group": len(GROUPS),
        "relative": len(RELATIVE),
        "t13": 2,
        "visible": 2,
    }
)
"""Questions and their numbers of answers, as in SPINEPS' labelling network."""
UNKNOWN = -1

_GROUP_OF = {name: k for k, group in enumerate(GROUPS) for name in group}
# The last vertebra of its region can be one of these; where the picture ends at one, nothing says whether it is.
_LAST_THORACIC = ("T11", "T12", "T13")
_LAST_LUMBAR = ("L4", "L5", "L6")


def targets_of(names: Sequence[str], whole: Sequence[bool], *, sacrum: bool) -> dict[str, Array]:
    """Return the answers (n,) int64 to every question for vertebrae head to tail; `UNKNOWN` where there is none.

    Parameters
    ----------
    names: levels, for example ``("T11", "T12", "L1")``.
    whole: whether each vertebra is wholly in the picture.
    sacrum: whether the sacrum follows the last one.
    """
    level = np.array([INDEX[name] for name in names], dtype=np.int64)
    relative = np.array(relative_targets(names, sacrum_below=sacrum), dtype=np.int64)
    if names and ((names[-1] in _LAST_THORACIC) or (names[-1] in _LAST_LUMBAR and not sacrum)):
        relative[-1] = UNKNOWN
    for k, (name, following) in enumerate(pairwise(names)):
        # A gap in the sequence: the neighbour below is not in the mask.
        skipped = (name in _LAST_THORACIC and following[0] == LUMBAR and following != "L1") or (
            name == "T10" and following[0] != THORACIC
        )
        if skipped:
            relative[k] = UNKNOWN
    return {
        "region": np.array([REGION_OF[k] for k in level], dtype=np.int64),
        "level": level,
        "group": np.array([_GROUP_OF[name] for name in names], dtype=np.int64),
        "relative": relative,
        "t13": (level == INDEX["T13"]).astype(np.int64),
        "visible": np.asarray(whole, dtype=np.int64).reshape(len(names)),
    }

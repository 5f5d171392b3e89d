"""What the lumbosacral junction looks like: a vertebra that belongs half to the spine, half to the sacrum."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_spine_ext.core.labels import DISC_OFFSET
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.numbering.column import SACRUM_ID, Column
from nnunet_spine_ext.numbering.contact import contact_mm2
from nnunet_spine_ext.numbering.path import Alternative

# A transitional disc is little more than half as high as its neighbours (60 %); less than this is as good as none.
_SMALL_DISC = 0.5


def lumbosacral_facts(instances: Volume, column: Column, best: Alternative, sacrum_gap: float | None) -> dict[str, Any]:
    """Return facts about the vertebra on the sacrum: contact in mm², size of its disc, and what that suggests.

    Without a sacrum right below the last vertebra there are none.
    """
    if sacrum_gap is None or sacrum_gap > 0:
        return {}
    last = column.ids[-1]
    discs = np.array([_voxels(column, DISC_OFFSET + k) for k in column.ids])
    above = discs[:-1][discs[:-1] > 0][-3:]
    share = float(discs[-1] / np.median(above)) if len(above) else None
    notes = []
    if best.lumbar == 4:
        notes.append("four lumbar vertebrae above the sacrum: L5 may be sacralised")
    if best.lumbar == 6:
        notes.append("six lumbar vertebrae above the sacrum: S1 may be lumbarised")
    contact = float(contact_mm2(instances, instances.array == SACRUM_ID)[last])
    if share is not None and share < _SMALL_DISC and contact > 0:
        notes.append(f"{best.levels[-1]} touches the sacrum and its disc is small: it may be sacralised")
    return {
        "contact_with_sacrum_mm2": round(contact, 1),
        "disc_over_those_above": None if share is None else round(share, 2),
        "notes": notes,
    }


def _voxels(column: Column, instance: int) -> float:
    return float(column.voxels[instance]) if instance < len(column.voxels) else 0.0

"""What the instance step says about its result: facts for the QC and warnings."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.labels import DISC_OFFSET, ENDPLATE_OFFSET
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import CORPUS
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.voxels import Voxels

# C1..C7, T1..T12, L1..L6: ids from 26 on have fixed meanings (sacrum, coccyx, T13, S2..).
POSITIONS = tuple(range(1, 26))
# From small children to tall adults.
_PITCHES_MM = (7, 55)
# Less of vertebrae beyond the canal is a process that hangs down.
_BEYOND_MM3 = 1000.0


def make_qc(
    voxels: Voxels, vertebra: Array, bodies: Bodies, real: Array, instances: Array, position: Array
) -> dict[str, Any]:
    """Return the JSON-ready facts about a result.

    Parameters
    ----------
    vertebra: (n,) vertebra of each voxel; `instances` (n,) its id.
    real: (places,) bool, which places have a body. position: (places + 1,) the id of each place, 0 of those left out.
    """
    size = voxels.frame.voxel_volume
    counts = np.bincount(instances)
    ids = [int(k) for k in np.flatnonzero(counts) if k]
    body = np.bincount(bodies.labels, minlength=len(bodies) + 1)
    loose = (class_lookup()[voxels.label] >= 0) & (vertebra == 0)
    dens = bodies.notes.get("dens", [])
    ids_of = {place: int(number) for place, number in enumerate(position) if number}
    with_body = {place: number for place, number in ids_of.items() if real[place - 1]}
    return {
        "numbered": False,
        "vertebrae": int(sum(0 < k <= POSITIONS[-1] for k in ids)),
        "discs": int(sum(DISC_OFFSET < k < ENDPLATE_OFFSET for k in ids)),
        "without_body": [number for place, number in ids_of.items() if place not in with_body],
        "cut_apart": [ids_of[place] for place in bodies.notes["fused"] if place in ids_of],
        "rejoined": [ids_of[place] for place in bodies.notes["rejoined"] if place in ids_of],
        "c1": ("found" if dens[0] > 1 else "left out: its ring is not labelled") if dens else "not in the picture",
        "volume_mm3": {str(k): round(float(counts[k]) * size, 1) for k in ids},
        "body_volume_mm3": {str(k): round(float(body[place]) * size, 1) for place, k in with_body.items()},
        "pitch_mm": {str(k): round(float(bodies.pitch[place - 1]), 1) for place, k in ids_of.items()},
        "unassigned_voxels": int(loose.sum()),
        "unassigned_body_mm3": round(float((loose & (voxels.label == CORPUS)).sum()) * size, 1),
    }


def no_bodies_qc() -> dict[str, Any]:
    """Return the facts about a mask without bodies."""
    return {"numbered": False, "method": "geodesic", "vertebrae": 0, "discs": 0}


def findings(qc: dict[str, Any]) -> list[Problem]:
    """Return the warnings that follow from the facts."""
    warnings = []
    if qc.get("loose_parts_left"):
        warnings.append(
            Problem(
                "warning",
                "W-INST-LOOSE",
                "",
                f"{qc['loose_parts_left']} posterior parts near no vertebral body",
                "every part near a body",
                "they stay unassigned; C1 has no body and is left out like this",
            )
        )
    pitch = float(np.median(list(qc["pitch_mm"].values())))
    if not _PITCHES_MM[0] <= pitch <= _PITCHES_MM[1]:
        warnings.append(
            Problem(
                "warning",
                "W-INST-SIZE",
                "",
                f"vertebrae {pitch:.0f} mm apart",
                f"{_PITCHES_MM[0]} to {_PITCHES_MM[1]} mm",
                "check the voxel size in the header: all limits of this step are in mm",
            )
        )
    if qc.get("beyond_canal_mm3", 0.0) >= _BEYOND_MM3:
        warnings.append(
            Problem(
                "warning",
                "W-INST-CANAL",
                "",
                f"{qc['beyond_canal_mm3']:.0f} mm³ of vertebrae beyond the end of canal and cord",
                "a canal along all of them",
                "their bodies are a guess; segment the canal",
            )
        )
    if qc["cut_apart"]:
        names = ", ".join(map(str, qc["cut_apart"]))
        warnings.append(
            Problem(
                "warning",
                "W-INST-FUSED",
                "",
                f"bodies {names} (from the top) were one component and were cut apart",
                "separate bodies",
                "look at the borders between them",
            )
        )
    return warnings


def nothing(found: str) -> Problem:
    """Return the warning about a mask without bodies."""
    return Problem(
        "warning",
        "W-INST-NONE",
        "",
        found,
        "at least one vertebral body (corpus)",
        "no vertebra was separated; check the label scheme and the segmentation",
    )


def too_many(count: int) -> Problem:
    """Return the warning about more vertebrae than there are positions."""
    return Problem(
        "warning",
        "W-INST-MANY",
        "",
        f"{count} vertebrae",
        f"at most {POSITIONS[-1]} above the sacrum",
        "the smallest ones were left out; the mask may hold two spines or broken bodies",
    )

"""Images of a study: digital spines that every scanner takes anew, with the truth on the grid of the source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.labels import scheme
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.protocols import protocol
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject
from nnunet_spine_ext.phantom.scanners import at_scanner
from nnunet_spine_ext.study.conditions import SOURCE, Condition
from nnunet_spine_ext.study.config import PhantomData, digest
from nnunet_spine_ext.study.index import StudyCase, write_index

# Groups of spines that share nobody; what follows a dash says at which scanner.
SEED_OF = {"training": 0, "test": 100_000, "pool": 200_000, "unlabelled": 300_000}


def make_spines(
    study: str | Path, group: str, data: PhantomData, first: int, last: int, conditions: Sequence[Condition]
) -> None:
    """Make spines `first` to `last` (not included) of a group under every condition, and their index.

    ``data/<group>/<first>/`` gets ``images``, ``own`` (masks on the grid of the image) and, for spines to test on,
    ``truth`` (on that of the source). Files are written anew; equal arguments give equal bytes.

    Raises
    ------
    UsageError: a protocol or anomalies that do not exist.
    """
    study = Path(study)
    folder = group_folder(study, group, first)
    cases = []
    for index in range(first, last):
        made = _scans(group, data, index, conditions)
        truth = ""
        if _is_scored(group):
            # Nothing is scored on spines of other groups, so their truth is needed on the grids of their images only.
            truth = _write_masks(study, folder / "truth", made[SOURCE].subject, data, made[SOURCE])
        cases += [_write(study, folder, data, condition, made[condition], truth) for condition in conditions]
    write_index(folder, cases)


def group_folder(study: Path, group: str, first: int) -> Path:
    """Return the folder of a part of a group."""
    return study / "data" / group / f"{first:04d}"


def _scans(group: str, data: PhantomData, index: int, conditions: Sequence[Condition]) -> dict[Condition, Scan]:
    """Return the scans of a subject by condition; with that at the source where it is scored on its grid."""
    planned = protocol(data.protocol).with_spacing(data.spacing)
    asked = [SOURCE, *(c for c in conditions if c != SOURCE)] if _is_scored(group) else conditions
    # Anatomy is painted once for scans of equal grids that follow each other.
    protocols = [(condition, at_scanner(planned, condition.parsed())) for condition in asked]
    protocols.sort(key=lambda pair: pair[1].spacing)
    request = ScanRequest(
        tuple(row for _, row in protocols),
        seed=SEED_OF[group.partition("-")[0]] + data.seed,
        region=data.region,
        anomalies=data.anomalies,
        pathologies=data.pathologies,
    )
    return dict(zip((condition for condition, _ in protocols), scan_subject(request, index), strict=True))


def _is_scored(group: str) -> bool:
    return group.partition("-")[0] == "test"


def _write(study: Path, folder: Path, data: PhantomData, condition: Condition, scan: Scan, truth: str) -> StudyCase:
    case = condition.case(scan.subject)
    image = folder / "images" / f"{case}_0000.nii.gz"
    image.parent.mkdir(parents=True, exist_ok=True)
    write_volume(scan.image, image)
    own = _write_masks(study, folder / "own", case, data, scan)
    scored = truth or own
    scanner = condition.parsed()
    acquired = math.prod(
        size * factor for size, factor in zip(scan.protocol.spacing, scan.protocol.resolution, strict=True)
    )
    facts = {
        **scan.info,
        "manufacturer": scanner.profile.manufacturer,
        "model": condition.scanner,
        # Reconstruction may store finer voxels than were acquired.
        "acquired_voxel_mm3": round(acquired, 4),
    }
    return StudyCase(
        case=case,
        subject=scan.subject,
        condition=condition,
        images=(image.relative_to(study).as_posix(),),
        semantic=f"{scored}_semantic.nii.gz",
        instances=f"{scored}_instances.nii.gz",
        own_semantic=f"{own}_semantic.nii.gz",
        own_instances=f"{own}_instances.nii.gz",
        region=data.region,
        facts=facts,
        digest=digest(asdict(data), asdict(condition), case),
    )


def _write_masks(study: Path, folder: Path, name: str, data: PhantomData, scan: Scan) -> str:
    """Write the masks of a scan; return where, relative to the study, without what tells them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(scan.semantic if data.sides else one_sided(scan.semantic), folder / f"{name}_semantic.nii.gz")
    write_volume(scan.instances, folder / f"{name}_instances.nii.gz")
    return (folder / name).relative_to(study).as_posix()


def one_sided(semantic: Volume) -> Volume:
    """Return a mask of the 14 classes in which right processes are called left."""
    table = np.arange(256, dtype=np.uint8)
    for left, right in scheme("nnunet14").sided_pairs:
        table[right] = left
    return semantic.with_array(table[semantic.array])


def parts(count: int, size: int) -> list[tuple[int, int]]:
    """Return (first, last) of pieces of work; they depend on the count alone, so that a run can be resumed."""
    return [(first, min(count, first + size)) for first in range(0, count, size)]


def facts_of(data: PhantomData) -> dict[str, Any]:
    """Return what decides the images, without the numbers of spines."""
    counts = ("training", "test", "validation", "pool", "unlabelled")
    return {name: value for name, value in asdict(data).items() if name not in counts}

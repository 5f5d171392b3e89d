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

    ``data/<group>/<first>/`` gets ``images``, ``truth`` (masks on the grid of the source) and ``own`` (on that of the
    image). Files are written anew; equal arguments give equal bytes.

    Raises
    ------
    UsageError: a protocol or anomalies that do not exist.
    """
    study = Path(study)
    folder = group_folder(study, group, first)
    cases = []
    for index in range(first, last):
        for condition, scan, truth in _scans(group, data, index, conditions):
            cases.append(_write(study, folder, data, condition, scan, truth))
    write_index(folder, cases)


def group_folder(study: Path, group: str, first: int) -> Path:
    """Return the folder of a part of a group."""
    return study / "data" / group / f"{first:04d}"


def _scans(
    group: str, data: PhantomData, index: int, conditions: Sequence[Condition]
) -> list[tuple[Condition, Scan, Scan]]:
    """Return each condition with its scan of a subject, and the scan at the source."""
    planned = protocol(data.protocol).with_spacing(data.spacing)
    asked = [SOURCE, *(c for c in conditions if c != SOURCE)]
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
    made = dict(zip((condition for condition, _ in protocols), scan_subject(request, index), strict=True))
    return [(condition, made[condition], made[SOURCE]) for condition in conditions]


def _write(study: Path, folder: Path, data: PhantomData, condition: Condition, scan: Scan, truth: Scan) -> StudyCase:
    case = condition.case(scan.subject)
    image = folder / "images" / f"{case}_0000.nii.gz"
    paths = {
        "semantic": folder / "truth" / f"{scan.subject}_semantic.nii.gz",
        "instances": folder / "truth" / f"{scan.subject}_instances.nii.gz",
        "own_semantic": folder / "own" / f"{case}_semantic.nii.gz",
        "own_instances": folder / "own" / f"{case}_instances.nii.gz",
    }
    volumes = (truth.semantic, truth.instances, scan.semantic, scan.instances)
    for place in ("images", "truth", "own"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    write_volume(scan.image, image)
    for path, volume in zip(paths.values(), volumes, strict=True):
        write_volume(volume if data.sides or "instances" in path.name else one_sided(volume), path)
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
    places = {name: path.relative_to(study).as_posix() for name, path in paths.items()}
    return StudyCase(
        case=case,
        subject=scan.subject,
        condition=condition,
        images=(image.relative_to(study).as_posix(),),
        semantic=places["semantic"],
        instances=places["instances"],
        own_semantic=places["own_semantic"],
        own_instances=places["own_instances"],
        region=data.region,
        facts=facts,
        digest=digest(asdict(data), asdict(condition), case),
    )


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

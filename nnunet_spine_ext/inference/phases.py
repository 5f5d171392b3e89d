"""What happens to a semantic mask after the network: shared by our predictor and by stock `nnUNetv2_predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.io import strip_suffix, write_json, write_volume
from nnunet_spine_ext.core.volume import Volume


def instance_files(folder: Path, case: str) -> list[Path]:
    """Return where the instance step writes the files of a case: ids, centres, measurements."""
    return [
        folder / "instances" / f"{case}.nii.gz",
        folder / "centroids" / f"{case}.json",
        folder / "qc" / f"{case}.json",
    ]


def write_instances(semantic: Volume, scheme: str, mask_file: Path) -> list[Problem]:
    """Separate vertebrae, discs and endplates and write them beside a semantic mask.

    Parameters
    ----------
    semantic: label map in `scheme`.
    mask_file: where the semantic mask was written; `instances/`, `centroids/` and `qc/` are made in its folder.

    Returns
    -------
    Warnings of the instance step.
    """
    from nnunet_spine_ext.instances.interface import separate
    from nnunet_spine_ext.measure.centroids import centroids, write_poi

    folder, case = mask_file.parent, strip_suffix(mask_file)
    result = separate(semantic, scheme)
    ids, centres, measurements = instance_files(folder, case)
    write_volume(result.instances, ids)
    write_poi(centres, result.instances, centroids(result.instances, semantic))
    write_json(measurements, result.qc)
    return [replace(problem, file=problem.file or mask_file.name) for problem in result.warnings]

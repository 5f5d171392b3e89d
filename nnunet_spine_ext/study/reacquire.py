"""Images of your own as if other scanners had taken them, on their own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.study.conditions import Condition
from nnunet_spine_ext.study.index import StudyCase, write_index

# Array order of nnU-Net: (z, y, x) of RAS+.
_FRAME = "SAR"


def reacquire(study: str | Path, folder: str, cases: Sequence[StudyCase], conditions: Sequence[Condition]) -> None:
    """Simulate every condition on every case, and write images and index.

    Voxels stay where they are: what a scanner resolves less is blurred, and its slices are drawn out. The truth is that
    of the image.
    """
    study = Path(study)
    place = study / folder
    (place / "images").mkdir(parents=True, exist_ok=True)
    made = []
    for case in cases:
        volumes = [read_volume(study / image) for image in case.images]
        for condition in conditions:
            name = condition.case(case.case)
            files = []
            for channel, volume in enumerate(volumes):
                path = place / "images" / f"{name}_{channel:04d}.nii.gz"
                write_volume(simulated(volume, condition, case.case), path)
                files.append(path.relative_to(study).as_posix())
            made.append(replace(case, case=name, condition=condition, images=tuple(files)))
    write_index(place, made)


def simulated(volume: Volume, condition: Condition, case: str) -> Volume:
    """Return an image (float32, same grid) as a scanner would have taken it; equal arguments give equal bytes."""
    import torch

    from nnunet_spine_ext.augment.context import Context
    from nnunet_spine_ext.augment.keys import SampleKey
    from nnunet_spine_ext.augment.pipeline import Pipeline
    from nnunet_spine_ext.augment.scanner_config import scanner_config

    turned = volume.with_array(np.asarray(volume.array, dtype=np.float32)).to(_FRAME)
    context = Context(shape=turned.shape, spacing=turned.spacing)
    pipeline = Pipeline(scanner_config(condition.parsed(), spacing=turned.spacing), context)
    # Noise is drawn for the case, not for the scanner: scanners differ by what they are alone.
    key = SampleKey(seed=0, case=case, epoch=0, draw=0)
    result, _ = pipeline(torch.from_numpy(turned.array)[None, None], None, [key])
    return turned.with_array(result[0, 0].numpy()).to_grid_of(volume)

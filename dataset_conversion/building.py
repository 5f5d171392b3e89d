"""From the opened files of a case to the volumes of the dataset; the builder for images that have their mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.core.cases import check_same_grid
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.soft_labels import IGNORE, checked
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.discovery import SOFT, Candidate
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap
from nnunet_spine_ext.dataset_conversion.masks import mask_on_image


@dataclass
class Built:
    """What a builder makes of the opened files of one case.

    Parameters
    ----------
    images: one volume per channel, on one grid.
    label: mask with the class ids of the dataset, on that grid; None: unlabelled.
    instances: instance ids, on that grid.
    info: merged over the candidate's info for cases.json.
    warnings: what the user should know about this case.
    soft: soft labels (see `core.cases.RawCase`), on that grid.
    """

    images: list[Volume]
    label: Volume | None
    instances: Volume | None = None
    info: dict[str, Any] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    soft: list[Volume] = field(default_factory=list)


# Makes a case of its opened files, by `Source.role`; raises CaseError to leave the case out for that reason.
Builder = Callable[[Candidate, Mapping[str, Opened]], Built]


def volume_of(opened: Opened) -> Volume:
    """Return the volume; raises CaseError for a file that has none, with its first error."""
    if opened.volume is None:
        opened.facts.raise_errors()
        raise CaseError(
            "E-IN-UNREADABLE",
            file=opened.facts.path,
            found="no voxels",
            expected="a readable file",
            fix="write it again as .nii.gz",
        )
    return opened.volume


def pair_builder(labels: LabelMap | None, resample: str | None) -> Builder:
    """Return the builder that keeps images as they are and puts the mask, with `labels` applied, on their grid.

    A soft label of the case has to lie on that grid. `labels`: None keeps the ids of the mask. `resample`: see
    `mask_on_image`.
    """

    def build(case: Candidate, opened: Mapping[str, Opened]) -> Built:
        images = [volume_of(opened[source.role]) for source in case.images]
        for source, image in zip(case.images[1:], images[1:], strict=True):
            check_same_grid(images[0], image, file=str(source.path), what=source.role)
        if case.label is None:
            return Built(images, None)
        file = str(case.label.path)
        mask, warnings = mask_on_image(volume_of(opened[case.label.role]), images[0], file=file, resample=resample)
        if labels is not None:
            mask = mask.with_array(labels.apply(mask.array, file=file))
        soft = [soft_on_image(opened[SOFT], source.path, images[0]) for source in case.extras if source.role == SOFT]
        return Built(images, mask, warnings=warnings, soft=soft)

    return build


def soft_on_image(opened: Opened, file: Path, image: Volume) -> Volume:
    """Return a soft label of one class in the order of an image's axes: 0 to 1, -1 where it is not known.

    Raises CaseError for values that no soft label has, and for another grid: nothing is resampled.
    """
    volume = volume_of(opened)
    values, valid = checked(np.asarray(volume.array, dtype=np.float32)[None], file, 1)
    turned = volume.with_array(np.where(valid > 0, values[0], np.float32(IGNORE))).to(image.orientation)
    check_same_grid(image, turned, file=str(file), what=SOFT)
    return image.with_array(turned.array)

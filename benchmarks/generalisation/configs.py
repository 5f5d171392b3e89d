"""Our augmentation as users of a run's data would configure it: they say what its labels are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from generalisation.domains import TISSUES
from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.transform import Transform


def our_augmentation(source: str | Path = "shift", classes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a preset or the configuration in a file, with the tissues of a run's labels where it says none.

    `classes`: tissue of each label id; None: of the phantoms.
    """
    told = dict(classes or TISSUES)

    def tell(transform: Transform) -> Transform:
        return replace(transform, classes=told) if getattr(transform, "classes", "") is None else transform

    return AugmentConfig.load(source).with_content().with_transforms(tell).to_dict()

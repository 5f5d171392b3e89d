"""One series of SPIDER: image and mask, and perhaps a semantic mask, become image, mask of classes and instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.labels import apply_table
from nnunet_spine_ext.core.spider import CANAL, LevelOrder, is_partly_visible, spider_table
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.building import Built, volume_of
from nnunet_spine_ext.dataset_conversion.discovery import Candidate
from nnunet_spine_ext.dataset_conversion.header_repair import onto_image
from nnunet_spine_ext.dataset_conversion.spider_masks import SpiderMask, checked_mask
from nnunet_spine_ext.dataset_conversion.spider_tables import Column
from nnunet_spine_ext.dataset_conversion.spider_targets import Recipe
from nnunet_spine_ext.dataset_conversion.subregions import as_nnunet14

# Two masks of one scan share most of what both label; those of two scans do not.
MIN_SHARED = 0.5


@dataclass(frozen=True)
class CaseBuilder:
    """Builds the cases of one conversion.

    Parameters
    ----------
    recipe: the classes.
    order: from which end masks count their levels.
    usual, columns: the spine of every patient, and of those who have another.
    header_tolerance: mm; None: one voxel.
    """

    recipe: Recipe
    order: LevelOrder
    usual: Column
    columns: Mapping[str, Column]
    header_tolerance: float | None = None

    def __call__(self, case: Candidate, opened: Mapping[str, Opened]) -> Built:
        """Return the volumes of one case; raises CaseError to leave it out."""
        image = volume_of(opened["image_0000"])
        if case.label is None:
            return Built([image], None)
        file = case.label.path
        placed, warnings = onto_image(volume_of(opened["label"]), image, file=file, tolerance_mm=self.header_tolerance)
        mask = checked_mask(placed, order=self.order, file=file)
        warnings += [] if self.recipe.target == "nnunet14" else _absent(mask, file)
        info: dict[str, Any] = {}
        parts = None
        for source in case.extras:
            parts, said, shared = self._parts(volume_of(opened[source.role]), image, mask, source.path)
            warnings = [*warnings, *said]
            info["subregions_dice"] = round(shared, 4)
        column = self.columns.get(case.subject, self.usual)
        table = spider_table(mask.places.keys(), lowest=column.lowest, thoracic=column.thoracic, lumbar=column.lumbar)
        instances = apply_table(mask.volume.array, table, file=file).astype(np.uint16)
        partly = sorted(table[number] for number in mask.places if is_partly_visible(number))
        info |= {"partly_visible": partly} if partly else {}
        label = self.recipe.label(mask, parts, file=file)
        return Built([image], label, mask.volume.with_array(instances), info, warnings)

    def _parts(
        self, stored: Volume, image: Volume, mask: SpiderMask, file: Path
    ) -> tuple[Volume, list[Problem], float]:
        """Return a model's mask on the grid of the image, the warnings, and how well it agrees with the annotators."""
        placed, moved = onto_image(stored, image, file=file, tolerance_mm=self.header_tolerance)
        parts, said = as_nnunet14(placed, file=file)
        shared = _dice(mask.volume.array, parts.array)
        if shared < MIN_SHARED:
            raise CaseError(
                "E-SPIDER-SUBREGIONS",
                file=file,
                found=f"a Dice of {shared:.2f} between its vertebrae, discs and canal and those of SPIDER",
                expected=f"{MIN_SHARED:g} or more for two masks of one scan",
                fix="check that it was made from this series, or take it out of --subregions",
            )
        return parts, [*moved, *said], shared


def _absent(mask: SpiderMask, file: Path) -> list[Problem]:
    """Warn of a mask without a whole kind of structure: all of it in the image would be background."""
    there = {"vertebra": mask.levels(discs=False), "disc": mask.levels(discs=True), "canal": CANAL in mask.places}
    missing = [name for name, found in there.items() if not found]
    if not missing:
        return []
    found, fix = f"no {', no '.join(missing)}", "look at the mask: what is not labelled is trained as background"
    return [Problem("warning", "W-SPIDER-ABSENT", str(file), found, "vertebrae, discs and the canal", fix)]


def _dice(reference: Array, parts: Array) -> float:
    """Overlap of what both masks label: vertebrae, discs and canal, but not the sacrum (id 1 of `parts`)."""
    both = size = 0
    for known, plane in zip(reference, parts, strict=True):
        other = plane > 1
        both += int(np.count_nonzero(other & (known != 0)))
        size += int(np.count_nonzero(other)) + int(np.count_nonzero(known))
    return 2 * both / size if size else 0.0

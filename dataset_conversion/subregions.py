"""Semantic masks made by a model, as a source of what annotators did not label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.labels import SCHEMES, apply_table, id_counts, mapping, swap_sides
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.masks import whole_numbers
from nnunet_spine_ext.measure.cord_canal import judged

# Something is there, but the mask does not tell what.
UNCLEAR = 255
_CORD, _CANAL = 11, 12


def as_nnunet14(mask: Volume, *, file: str | Path) -> tuple[Volume, list[Problem]]:
    """Return a semantic mask with the ids of ``nnunet14`` (uint8), and the warnings.

    Ids of ``spineps`` and of ``nnunet14`` do not overlap, so the scheme is known from the ids. Exchanged codes of cord
    and canal are told from their shapes and put right; where the shapes do not tell, both become `UNCLEAR`.

    Raises
    ------
    CaseError: no ids, or ids of neither scheme.
    """
    array = whole_numbers(mask.array, file=file)
    ids = {int(number) for number in id_counts(array)} - {0}
    if not ids:
        raise CaseError(
            "E-LABEL-EMPTY", file=file, found="an empty mask", expected="substructures", fix="make it again"
        )
    if not ids <= SCHEMES["nnunet14"].labels.keys():
        # This complains about ids that are in neither.
        array = apply_table(array, mapping("spineps", "nnunet14").table, file=file)
    return _settled(mask.with_array(array.astype(np.uint8, copy=False)), file)


def _settled(mask: Volume, file: str | Path) -> tuple[Volume, list[Problem]]:
    done = {"exchanged": "they were put right", "unclear": "both are ignored"}
    verdict, warnings = judged(mask, _CORD, _CANAL, file=file, **done)
    if verdict == "exchanged":
        return mask.with_array(swap_sides(mask.array, ((_CORD, _CANAL),))), warnings
    if verdict == "unclear":
        table = np.arange(256, dtype=np.uint8)
        table[[_CORD, _CANAL]] = UNCLEAR
        return mask.with_array(table[mask.array]), warnings
    return mask, []

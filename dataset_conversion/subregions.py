"""Semantic masks made by a model, as a source of what annotators did not label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.labels import SCHEMES, apply_table, id_counts, mapping
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.masks import whole_numbers
from nnunet_spine_ext.measure.cord_canal import enclosure

_CORD, _CANAL = 11, 12


def as_nnunet14(mask: Volume, *, file: str | Path) -> tuple[Volume, list[Problem]]:
    """Return a semantic mask with the ids of ``nnunet14`` (uint8), and the warnings.

    Ids of ``spineps`` and of ``nnunet14`` do not overlap, so the scheme is known from the ids. Exchanged codes of cord
    and canal are told from their shapes and put right; where the shapes do not tell, both become background.

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
    found = enclosure(mask, _CORD, _CANAL)
    if found.slices == 0 or found.verdict == "right":
        return mask, []
    table = np.arange(256, dtype=np.uint8)
    shares = f"{found.cord:.0%} of the outline of the cord touches the canal, {found.canal:.0%} the other way round"
    expected = "the cord inside the canal"
    if found.verdict == "exchanged":
        table[[_CORD, _CANAL]] = _CANAL, _CORD
        what = f"the codes of cord and canal exchanged ({shares})"
        warning = Problem("warning", "W-LABEL-EXCHANGED", str(file), what, expected, "they were put right")
    else:
        table[[_CORD, _CANAL]] = 0
        what = f"cord and canal that cannot be told apart ({shares})"
        warning = Problem("warning", "W-LABEL-UNCLEAR", str(file), what, expected, "both were left out")
    return mask.with_array(table[mask.array]), [warning]

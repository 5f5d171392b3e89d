"""Label schemes by name, translation of arrays, colour tables.

The ids are in `label_tables`, the translations in `label_mappings`; both are reached through this module.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.label_mappings import MAPPINGS, LabelMapping, LevelOrder, mapping_for
from nnunet_spine_ext.core.label_tables import (
    DISC_OFFSET,
    ENDPLATE_OFFSET,
    NNUNET14_SIDED,
    SCHEMES,
    VERTEBRA_ORDER,
    VERTEBRAE,
    Colour,
    LabelScheme,
    instance_name,
    spread,
    vertebra_id,
    vertebra_name,
)
from nnunet_spine_ext.core.volume import Array

__all__ = [
    "DISC_OFFSET",
    "ENDPLATE_OFFSET",
    "MAPPINGS",
    "NNUNET14_SIDED",
    "SCHEMES",
    "VERTEBRAE",
    "VERTEBRA_ORDER",
    "Colour",
    "LabelMapping",
    "LabelScheme",
    "apply_table",
    "colours_for",
    "convert_labels",
    "id_counts",
    "id_ranges",
    "instance_name",
    "mapping",
    "mapping_for",
    "scheme",
    "swap_sides",
    "vertebra_id",
    "vertebra_name",
    "write_itksnap_labels",
    "write_slicer_table",
]
logger = logging.getLogger(__name__)


def scheme(name: str) -> LabelScheme:
    """Return a label scheme by name; raises UsageError naming the nearest one."""
    if name not in SCHEMES:
        raise UsageError(
            "E-LABEL-SCHEME",
            file=name,
            found="unknown label scheme",
            expected="a known one",
            fix=nearest(name, SCHEMES),
        )
    return SCHEMES[name]


def mapping(source: str, target: str) -> LabelMapping:
    """Return the translation between two schemes; raises UsageError if there is none."""
    for name in (source, target):
        scheme(name)
    if (source, target) not in MAPPINGS:
        known = ", ".join(b for a, b in MAPPINGS if a == source)
        levels = SCHEMES[source].kind == "semantic" and SCHEMES[target].kind == "levels"
        raise UsageError(
            "E-LABEL-MAPPING",
            file=f"{source} to {target}",
            found="no such mapping",
            expected=f"{source} to one of {known}",
            fix="classes have no levels: give the instance masks too" if levels else "choose another",
        )
    return MAPPINGS[source, target]


def convert_labels(
    array: Array,
    source: str,
    target: str,
    *,
    file: str | Path = "label map",
    level_order: LevelOrder = "bottom-up",
    lowest: str | None = None,
) -> Array:
    """Translate ids voxel by voxel; 0 stays 0, and what the target has no id for becomes 0 (a warning names it).

    Returns uint8 or uint16. Raises CaseError listing unknown ids with their voxel counts.

    Parameters
    ----------
    level_order, lowest: see `mapping_for`.
    """
    row = mapping(source, target)
    present = {int(k) for k in id_counts(array) if k in row.table}
    table = mapping_for(row, present, level_order=level_order, lowest=lowest).table
    converted = apply_table(array, table, file=file)
    dropped = [SCHEMES[source].labels[k] for k in sorted(present) if not table[k]]
    if dropped:
        logger.warning("%s: %s has no id for %s: dropped", file, target, ", ".join(dropped))
    return converted


def id_counts(array: Array) -> dict[float, int]:
    """Return the voxel count of every value of a mask, ascending; whole numbers are ints."""
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        counts = np.bincount(array.reshape(-1))
        return {int(k): int(counts[k]) for k in np.flatnonzero(counts)}
    ids, counts = np.unique(array, return_counts=True)
    return {int(k) if float(k).is_integer() else float(k): int(n) for k, n in zip(ids, counts, strict=True)}


def id_ranges(ids: Iterable[int]) -> str:
    """Return ids in ascending order for a message, three or more in a row as one range: ``1 to 28, 60, 61``."""
    runs: list[list[int]] = []
    for key in sorted(set(ids)):
        if runs and key == runs[-1][-1] + 1:
            runs[-1].append(key)
        else:
            runs.append([key])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def apply_table(array: Array, table: Mapping[int, int], *, file: str | Path = "label map") -> Array:
    """Translate ids by a table; ids that are not in it (other than 0) raise CaseError with their voxel counts.

    Returns uint8, or uint16 when an id above 255 is among the results.
    """
    counts = id_counts(array)
    unknown = {k: n for k, n in counts.items() if k != 0 and k not in table}
    if unknown:
        listing = ", ".join(f"{k:g} ({n} voxels)" for k, n in list(unknown.items())[:12])
        more = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
        raise CaseError(
            "E-LABEL-UNKNOWN",
            file=file,
            found=f"label ids {listing}{more}",
            expected=f"0 and {id_ranges(table)}",
            fix="check the label scheme, or translate these ids with a label map (nnUNetv2_spine_labels)",
        )
    values = {int(k): table[int(k)] if k else 0 for k in counts}
    dtype = np.uint8 if max(values.values(), default=0) < 256 else np.uint16
    if array.dtype.kind in "ui" and 0 <= min(values, default=0) <= max(values, default=0) < 65536:
        lookup = np.zeros(max(values, default=0) + 1, dtype=dtype)
        lookup[list(values)] = list(values.values())
        return lookup[array]
    ids = np.array(sorted(values))
    return np.array([values[k] for k in ids.tolist()], dtype=dtype)[np.searchsorted(ids, array)]


def swap_sides(array: Array, sided_pairs: tuple[tuple[int, int], ...] | list[list[int]]) -> Array:
    """Exchange the ids of left and right structures (needed when an array is mirrored left-right)."""
    swapped = array.copy()
    for left, right in sided_pairs:
        swapped[array == left] = right
        swapped[array == right] = left
    return swapped


def colours_for(labels: Mapping[int, str], scheme_name: str | None = None) -> dict[int, Colour]:
    """Return a colour per id: the scheme's own where it has one, else one from the palette."""
    own = SCHEMES[scheme_name].colours if scheme_name in SCHEMES else {}
    return {key: own.get(key, colour) for key, colour in zip(labels, spread(len(labels)), strict=True)}


def write_itksnap_labels(
    labels: Mapping[int, str], path: str | Path, colours: Mapping[int, Colour] | None = None
) -> None:
    """Write an ITK-SNAP label description file (index, RGB, opacity, visibility, mesh visibility, name)."""
    from nnunet_spine_ext.core.io import write_text

    chosen = colours or colours_for(labels)
    lines = ["# ITK-SnAP Label Description File", '0 0 0 0 0 0 0 "Clear Label"']
    lines += [f'{k} {chosen[k][0]} {chosen[k][1]} {chosen[k][2]} 1 1 1 "{name}"' for k, name in sorted(labels.items())]
    write_text(path, "\n".join(lines) + "\n")


def write_slicer_table(
    labels: Mapping[int, str], path: str | Path, colours: Mapping[int, Colour] | None = None
) -> None:
    """Write a 3D Slicer colour table (.ctbl: id, name without blanks, RGBA)."""
    from nnunet_spine_ext.core.io import write_text

    chosen = colours or colours_for(labels)
    lines = ["# Color table file", "0 background 0 0 0 0"]
    for key, name in sorted(labels.items()):
        r, g, b = chosen[key]
        lines.append(f"{key} {name.replace(' ', '_')} {r} {g} {b} 255")
    write_text(path, "\n".join(lines) + "\n")

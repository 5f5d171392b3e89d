"""Chunks of one spine, each with its masks, joined into one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.labels import apply_table, id_counts
from nnunet_spine_ext.core.mosaic import Mosaic, filled_box, plan_mosaic
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.building import Built
from nnunet_spine_ext.instances.joining import joined_numbers

# Two masks of the same tissue agree better than this; masks of two scans in between which somebody moved do not.
MIN_AGREEMENT = 0.5
# Labelled voxels of an overlap below which agreement says nothing.
_MIN_VOXELS = 200


@dataclass(frozen=True)
class Part:
    """A chunk: its name (``BWS``), its image, and its masks on the image's grid or None."""

    name: str
    image: Volume
    label: Volume | None = None
    instances: Volume | None = None

    def filled(self) -> Part:
        """Return the part without empty planes at its ends."""
        box = filled_box(self.image)
        masks = [None if mask is None else mask.crop(box) for mask in (self.label, self.instances)]
        return Part(self.name, self.image.crop(box), masks[0], masks[1])


def stitch(parts: Sequence[Part], *, file: str, ignore: int | None = None) -> Built:
    """Join the chunks of a scan; see `core.mosaic.Mosaic` for the rules.

    Instances are joined when every chunk has them and their numbers agree, or differ by one shift that the overlap
    tells; else the case has none, with a warning. What was done goes to cases.json as ``stitch``.

    Parameters
    ----------
    file: what messages are about.
    ignore: label of what only chunks without a mask show; None where every chunk, or none, has one.

    Raises
    ------
    CaseError: the chunks do not fit together (see `plan_mosaic`), or some have no mask and there is no ignore label.
    """
    filled = [part.filled() for part in parts]
    mosaic = plan_mosaic([part.image for part in filled], [part.name for part in filled], file=file)
    ordered = [filled[k] for k in mosaic.order]
    stitched = mosaic.image([part.image for part in filled])
    warnings = [*stitched.warnings]
    facts: dict[str, Any] = {
        "chunks": [part.name for part in ordered],
        "gains": [round(gain, 4) for gain in stitched.gains],
        "overlaps": [
            {
                "between": [ordered[min(o.first, o.second)].name, ordered[max(o.first, o.second)].name],
                "mm": round(o.millimetres, 2),
                "correlation": None if o.correlation is None else round(o.correlation, 3),
            }
            for o in sorted(stitched.overlaps, key=lambda o: min(o.first, o.second))
        ],
        "interpolated": [piece.name for piece in mosaic.pieces if not piece.exact],
    }
    label = _labels(filled, mosaic, file, ignore)
    if label is not None:
        warnings += _agreement(filled, mosaic, facts["overlaps"], file)
    instances, said = _instances(filled, mosaic, file)
    return Built([stitched.volume], label, instances, {"stitch": facts}, [*warnings, *said])


def _labels(parts: Sequence[Part], mosaic: Mosaic, file: str, ignore: int | None) -> Volume | None:
    masks = [part.label for part in parts]
    if all(mask is None for mask in masks):
        return None
    without = [part.name for part in parts if part.label is None]
    if without and ignore is None:
        raise CaseError(
            "E-PAIR-NOMASK",
            file=file,
            found=f"no mask for {', '.join(without)}",
            expected="a mask for every chunk",
            fix="add it, or --unlabelled: what only that chunk shows is ignored",
        )
    return mosaic.labels(masks, fill=ignore or 0)


def _agreement(parts: Sequence[Part], mosaic: Mosaic, overlaps: Sequence[dict[str, Any]], file: str) -> list[Problem]:
    """Note how well the masks agree where chunks overlap: Dice of all voxels whose labels are equal."""
    warnings = []
    for (first, second), facts in zip(mosaic.neighbours(), overlaps, strict=True):
        masks = [part.label for part in parts]
        if masks[mosaic.order[first]] is None or masks[mosaic.order[second]] is None:
            continue
        grids = [part.image if mask is None else mask for part, mask in zip(parts, masks, strict=True)]
        one, two = mosaic.common(grids, first, second)
        labelled = int((one > 0).sum()) + int((two > 0).sum())
        share = 2 * int(((one == two) & (one > 0)).sum()) / labelled if labelled else None
        facts["label_dice"] = None if share is None else round(share, 3)
        if share is not None and labelled >= _MIN_VOXELS and share < MIN_AGREEMENT:
            found = f"masks that differ where {' and '.join(facts['between'])} overlap (Dice {share:.2f})"
            fix = "look at the joined mask: the patient moved, or the masks follow different rules"
            warnings.append(_warning("W-STITCH-LABELS", file, found, f"{MIN_AGREEMENT} or more", fix))
    return warnings


def _instances(parts: Sequence[Part], mosaic: Mosaic, file: str) -> tuple[Volume | None, list[Problem]]:
    """Join instance masks in the numbering of the uppermost chunk."""
    masks = [part.instances for part in parts if part.instances is not None]
    if not masks:
        return None, []
    if len(masks) < len(parts):
        without = ", ".join(part.name for part in parts if part.instances is None)
        fix = "the joined case has none; add the missing ones"
        found = f"no instances for {without}"
        return None, [_warning("W-STITCH-INSTANCES", file, found, "instances for every chunk", fix)]
    warnings = []
    for first, second in mosaic.neighbours():
        above, below = mosaic.order[first], mosaic.order[second]
        one, two = mosaic.common(masks, first, second)
        ids = [sorted(int(k) for k in id_counts(masks[k].array) if k) for k in (above, below)]
        names = f"{parts[above].name} and {parts[below].name}"
        try:
            table = joined_numbers(one, two, *ids)
        except CaseError as error:
            fix = f"the joined case has no instances; {error.fix}"
            return None, [_warning("W-STITCH-INSTANCES", file, f"{names}: {error.found}", error.expected, fix)]
        if any(number != value for number, value in table.items()):
            number, value = next((k, v) for k, v in table.items() if k != v)
            found = f"{names} number vertebrae differently ({number} of {parts[below].name} is {value})"
            fix = f"the numbers of {parts[above].name} were used"
            warnings.append(_warning("W-STITCH-NUMBERS", file, found, "one numbering", fix))
            masks[below] = masks[below].with_array(apply_table(masks[below].array, table).astype(np.uint16))
    joined = mosaic.labels(masks)
    return joined.with_array(joined.array.astype(np.uint16)), warnings


def _warning(code: str, file: str, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, file, found, expected, fix)

"""The slices of a segmenter's training: who is trained, validated and tested on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.harmonize.slice_set import DISC, SliceSet

_LEAST_SUBJECTS = 2


@dataclass(frozen=True)
class SegmenterData:
    """Labelled slices by use; `test` may be empty. Nobody is in two of them."""

    train: SliceSet
    validation: SliceSet
    test: SliceSet

    @property
    def stamp(self) -> str:
        """SHA-256 of everything a training sees before its end."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            for array in (part.images, part.masks):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return subjects and numbers of slices by use, as plain JSON."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: {"subjects": list(part.subjects), "slices": len(part)} for name, part in parts.items()}


def split_slices(slices: SliceSet, validation: float, test: float, seed: int) -> SegmenterData:
    """Divide the labelled slices by subject.

    With two subjects nobody is left to test on; with more, each use that is asked for has at least one.

    Raises
    ------
    NoInputError: no labelled slice, or none with a disc to learn from.
    UsageError: a single subject.
    """
    labelled = slices.subset(slices.labelled())
    if not len(labelled):
        raise _nothing(f"{len(slices)} slices without masks of discs", "masks in labelsTr of the target's cases")
    subjects = list(labelled.subjects)
    if len(subjects) < _LEAST_SUBJECTS:
        raise UsageError(
            "E-SPLIT-SUBJECTS",
            file="slices",
            found=f"labelled slices of {len(subjects)} subject ({subjects[0]})",
            expected="at least 2 subjects: one to train and one to validate on",
            fix="add scans of other subjects; cases.json says who is who",
        )
    order = [subjects[k] for k in np.random.default_rng([seed, len(subjects)]).permutation(len(subjects))]
    most = len(order) - 1
    # Of three or more, somebody is left for the test.
    validated = min(max(1, round(validation * len(order))), max(1, most - bool(test)))
    tested = min(max(1, round(test * len(order))), most - validated) if test else 0
    uses = {name: set(order[first:last]) for name, first, last in (
        ("validation", 0, validated), ("test", validated, validated + tested), ("train", validated + tested, None),
    )}  # fmt: skip
    parts = {
        name: labelled.subset([i for i, fact in enumerate(labelled.facts) if fact.subject in members])
        for name, members in uses.items()
    }
    for name in ("train", "validation"):
        masks = parts[name].masks
        if masks is None or not (masks == DISC).any():
            who = shorten(sorted(uses[name]))
            raise _nothing(f"no disc in the slices of {who}, chosen for {name}", "discs in the masks of every subject")
    return SegmenterData(parts["train"], parts["validation"], parts["test"])


def _nothing(found: str, expected: str) -> NoInputError:
    fix = "add masks, name the ids of discs with --set slices.disc_classes=[…], or take slices further from the middle"
    return NoInputError("E-SEG-NODISC", file="slices", found=found, expected=expected, fix=fix)

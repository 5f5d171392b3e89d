"""Sagittal slices of many scans on one grid and one scale, with what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.volume import Array

if TYPE_CHECKING:
    from torch import Tensor

DISC, UNKNOWN = 1, 255


@dataclass(frozen=True)
class SliceFacts:
    """Where a slice comes from.

    Parameters
    ----------
    dataset: folder name of the raw dataset. case, subject, vendor, contrast: as cases.json says.
    index: number of the slice in its volume, counted from the right of the patient to the left.
    position: mm from the mid-sagittal plane, negative to the right; that plane is in the middle of the discs, or in the
        middle of a volume without mask.
    labelled: whether the discs of this slice are known.
    row: of a slice that was resized, how many mm a row of it is: each has its own. None: as `SliceSet.spacing` says.
    """

    dataset: str
    case: str
    subject: str
    vendor: str
    index: int
    position: float
    labelled: bool
    contrast: str | None = None
    row: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SliceSet:
    """Slices of one grid.

    Parameters
    ----------
    images: float32 (N, Y, X), 0 to 255; Y from superior to inferior, X from anterior to posterior.
    masks: uint8 (N, Y, X), 0, 1 for disc, 255 where it is unknown; None if no slice is labelled.
    facts: of each slice.
    spacing: pixel size in mm along (Y, X); where slices are resized, the median of their pixel sizes.
    problems: what was left out on reading, and why.

    Raises
    ------
    ValueError: shapes that do not fit each other.
    """

    images: Array
    masks: Array | None
    facts: tuple[SliceFacts, ...]
    spacing: tuple[float, float]
    problems: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit each other."""
        masks = self.images.shape if self.masks is None else self.masks.shape
        if self.images.ndim != 3 or masks != self.images.shape or len(self.facts) != len(self.images):
            msg = f"images {self.images.shape}, masks {masks} and {len(self.facts)} facts do not fit each other"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns (Y, X) of every slice."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whose slices these are, sorted."""
        return tuple(sorted({fact.subject for fact in self.facts}))

    def subset(self, indices: Sequence[int]) -> SliceSet:
        """Return some of the slices, in the order of the indices."""
        chosen = np.asarray(indices, dtype=np.int64)
        masks = None if self.masks is None else self.masks[chosen]
        return SliceSet(self.images[chosen], masks, tuple(self.facts[i] for i in chosen), self.spacing, self.problems)

    def labelled(self) -> list[int]:
        """Return the indices of the slices whose discs are known."""
        return [i for i, fact in enumerate(self.facts) if fact.labelled and self.masks is not None]

    def by_vendor(self) -> dict[str, list[int]]:
        """Return the indices of the slices of each vendor, vendors in alphabetical order."""
        found: dict[str, list[int]] = {}
        for index, fact in enumerate(self.facts):
            found.setdefault(fact.vendor, []).append(index)
        return dict(sorted(found.items()))

    def by_subject(self) -> dict[str, list[int]]:
        """Return the indices of the slices of each subject, subjects in alphabetical order."""
        found: dict[str, list[int]] = {}
        for index, fact in enumerate(self.facts):
            found.setdefault(fact.subject, []).append(index)
        return dict(sorted(found.items()))

    def split(self, fraction: float, seed: int) -> tuple[list[int], list[int]]:
        """Return indices to train on and to validate on; nobody is on both sides.

        Of every vendor, about `fraction` of its subjects are for validation, at least one where it has two.

        Raises
        ------
        UsageError: a fraction outside 0 to 1, or no subject left on one side.
        """
        if not 0 < fraction < 1:
            raise _usage(f"a part of {fraction:g} to validate on", "a part between 0 and 1", "correct the part")
        rng = np.random.default_rng(seed)
        held: set[str] = set()
        kept: set[str] = set()
        # Somebody whom several vendors scanned belongs to the side of the first one.
        for indices in self.by_vendor().values():
            subjects = sorted({self.facts[i].subject for i in indices} - held - kept)
            if not subjects:
                continue
            least = min(1, len(subjects) - 1)
            count = min(max(round(fraction * len(subjects)), least), len(subjects) - 1)
            drawn = [subjects[k] for k in rng.permutation(len(subjects))]
            held |= set(drawn[:count])
            kept |= set(drawn[count:])
        if not held or not kept:
            found = f"{len(self.subjects)} subject(s): {', '.join(self.subjects[:5]) or 'none'}"
            raise _usage(found, "a vendor with at least two subjects", "add scans of other subjects")
        rows = range(len(self))
        return (
            [i for i in rows if self.facts[i].subject not in held],
            [i for i in rows if self.facts[i].subject in held],
        )

    def tensor(self, indices: Sequence[int] | None = None) -> Tensor:
        """Return slices as float32 (B, 1, Y, X), 0 to 255; all of them without indices."""
        import torch

        images = self.images if indices is None else self.images[np.asarray(indices, dtype=np.int64)]
        return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))[:, None]

    def mask_tensor(self, indices: Sequence[int] | None = None) -> Tensor:
        """Return masks as uint8 (B, 1, Y, X), 255 where it is unknown; all unknown in a set without masks."""
        import torch

        rows = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        masks = np.full((len(rows), *self.size), UNKNOWN, np.uint8) if self.masks is None else self.masks[rows]
        return torch.from_numpy(np.ascontiguousarray(masks))[:, None]


def _usage(found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-SLICE-SPLIT", file="slices", found=found, expected=expected, fix=fix)

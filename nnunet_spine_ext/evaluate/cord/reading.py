"""The cord of one image, taken from a soft map, a mask or a label map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import NIFTI_SUFFIXES, read_volume, stored_volume
from nnunet_spine_ext.core.soft_labels import IGNORE, read_classes
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.evaluate.cases import LabelSet

# Where a map exceeds this there is cord: what a stock network would call so.
PRESENT = 0.5
CORD_NAMES = ("cord", "spinal_cord", "spinalcord", "spinal cord", "sc", "label-sc", "sc_seg")


@dataclass(frozen=True, eq=False)
class Cord:
    """Shares of the cord in each voxel.

    Parameters
    ----------
    volume: values from 0 up (shares of a voxel; 0 and 1 in masks), -1 where nothing is known.
    soft: whether the file held fractions.
    path: the file.
    notes: sentences about values that were changed.
    """

    volume: Volume
    soft: bool
    path: Path
    notes: tuple[str, ...] = ()

    @property
    def unknown(self) -> Array:
        """Voxels about which nothing is known, bool (i, j, k)."""
        return np.asarray(self.volume.array == IGNORE)

    @property
    def shares(self) -> Array:
        """Shares in [0, 1], 0 where unknown, (i, j, k)."""
        return np.clip(self.volume.array, 0.0, 1.0)

    @property
    def mask(self) -> Array:
        """Voxels above one half, bool (i, j, k)."""
        return np.asarray(self.volume.array > PRESENT)


def read_cord(path: Path, labels: LabelSet, cord: str | None) -> Cord:
    """Read one file.

    Parameters
    ----------
    labels: names of ids in label maps; its `ignore` id is taken as unknown.
    cord: name or id of the cord in label maps; None: the label called cord, or the only one there is.

    Raises
    ------
    CaseError: unreadable, or a label map that does not say which label is the cord.
    """
    volume = _read(path, labels, cord)
    array, notes = volume.array, []
    if array.dtype.kind == "f":
        broken = ~np.isfinite(array)
        if broken.any():
            notes.append(f"{int(broken.sum())} voxels that are no number count as 0")
            array = np.where(broken, 0, array)
        if _is_soft(array):
            return Cord(volume.with_array(array.astype(np.float32)), soft=True, path=path, notes=tuple(notes))
    label = _label(array, path, labels, cord)
    shares = (array == label).astype(np.uint8)
    if labels.ignore is not None and (array == labels.ignore).any():
        shares = np.where(array == labels.ignore, np.float32(IGNORE), shares)
    return Cord(volume.with_array(shares), soft=False, path=path, notes=tuple(notes))


def _read(path: Path, labels: LabelSet, cord: str | None) -> Volume:
    """Read a volume; of soft maps of several classes (4-D, in the order of their ids) that of the cord."""
    try:
        return read_volume(path)
    except CaseError as error:
        if error.code != "E-IN-DIM" or not path.name.lower().endswith(NIFTI_SUFFIXES):
            raise
        classes, affine = read_classes(path)
        ids = sorted(labels.names or {})
        label = _named(labels, cord)
        if len(classes) != len(ids) or label not in ids:
            raise
        return stored_volume(path, classes[ids.index(label)], affine)


def _named(labels: LabelSet, cord: str | None) -> int | None:
    """Return the id that is called `cord`, or what a cord is usually called; None when none is."""
    names = {name.lower(): label for label, name in (labels.names or {}).items()}
    if cord is not None:
        return names.get(cord.lower(), int(cord) if cord.isdigit() else None)
    return next((names[name] for name in CORD_NAMES if name in names), None)


def _is_soft(array: Array) -> bool:
    """Whether a map of numbers is soft: fractions, or 0 and 1 with the mark of what is unknown."""
    return bool((array != np.round(array)).any() or (array == IGNORE).any())


def _label(array: Array, path: Path, labels: LabelSet, cord: str | None) -> int:
    names = list((labels.names or {}).values())
    called = _named(labels, cord)
    if called is not None:
        return called
    if cord is not None:
        raise _unclear(path, f"no label called {cord!r} ({labels.source})", names)
    # A mask of one structure is one of the cord, whatever a scheme calls the id.
    present = sorted({int(k) for k in np.unique(array)} - {0, labels.ignore})
    if len(present) > 1:
        listing = ", ".join(map(str, present[:12])) + (", …" if len(present) > 12 else "")
        raise _unclear(path, f"labels {listing}", names)
    return present[0] if present else 1


def _unclear(path: Path, found: str, names: list[str]) -> CaseError:
    known = f" (known: {', '.join(names)})" if names else ""
    return CaseError(
        "E-EVAL-CORD",
        file=path,
        found=found,
        expected="a soft map, a mask of the cord, or a label map that names it",
        fix=f"say which label is the cord by --cord NAME or --cord ID{known}",
    )

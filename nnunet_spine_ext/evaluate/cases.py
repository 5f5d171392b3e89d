"""Finding cases, reading their masks, and refusing what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, NoInputError, Problem, UsageError
from nnunet_spine_ext.core.io import is_image, read_json, read_volume, strip_suffix
from nnunet_spine_ext.core.labels import scheme as label_scheme
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array, Volume

Resample = Literal["nearest"] | None
# A grid that is off by less than this share of the smallest voxel edge is the same grid with a rounded header.
_HEADER_TOLERANCE = 0.1
_LARGEST_ID = 65535
_LISTED = 12


@dataclass(frozen=True)
class LabelSet:
    """Names of the ids that masks may contain (None: whatever they contain), and the id that is not scored."""

    names: Mapping[int, str] | None
    ignore: int | None = None
    source: str = "the masks"

    def name(self, label: int) -> str:
        """Return the name of an id."""
        return f"label {label}" if self.names is None else self.names[label]


@dataclass(frozen=True)
class MaskFolder:
    """Masks by case name; `twice` holds the error of each case name that two files claim; `folder`: where they are."""

    files: Mapping[str, Path]
    twice: Mapping[str, CaseError] = field(default_factory=dict)
    folder: str | None = None

    @property
    def cases(self) -> list[str]:
        """Case names in alphabetical order."""
        return sorted({*self.files, *self.twice})

    def get(self, case: str) -> Path | None:
        """Return the file of a case, None if there is none; raises CaseError if there are two."""
        if case in self.twice:
            raise self.twice[case]
        return self.files.get(case)


NO_MASKS = MaskFolder({})
_POINTS = ".json"


def list_masks(path: str | Path, *, points: bool = False) -> MaskFolder:
    """Return the masks in a folder (not in folders inside it); a single file is a folder of one.

    With `points`, a case without a mask may have a point file (.json); one beside a mask is its sidecar.

    Raises
    ------
    UsageError: nothing is there.
    NoInputError: the folder holds no image.
    """
    path = Path(path)
    if path.is_file():
        return MaskFolder({_case_of(path): path}, folder=str(path))
    if not path.is_dir():
        raise UsageError(
            "E-EVAL-FOLDER", file=path, found="no such folder", expected="a folder of masks", fix="check the path"
        )
    found: dict[str, Path] = {}
    twice: dict[str, CaseError] = {}
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    masks = [file for file in files if is_image(file)]
    if points:
        cases = {_case_of(file) for file in masks}
        masks += [file for file in files if file.suffix.lower() == _POINTS and file.stem not in cases]
    for file in masks:
        case = _case_of(file)
        if case in found:
            twice[case] = _stored_twice(case, file, found[case])
        found[case] = file
    if not found:
        raise NoInputError(
            "E-EVAL-EMPTY", file=path, found="no mask", expected="files such as case.nii.gz", fix="check the path"
        )
    return MaskFolder(found, twice, str(path))


def _case_of(file: Path) -> str:
    return file.stem if file.suffix.lower() == _POINTS else strip_suffix(file)


def _stored_twice(case: str, file: Path, other: Path) -> CaseError:
    return CaseError(
        "E-EVAL-TWICE",
        file=file,
        found=f"case {case!r} is also stored as {other.name}",
        expected="one mask per case",
        fix="move one of them away",
    )


def find_labels(ref: Path, pred: Path, labels: str | Path | None = None, scheme: str | None = None) -> LabelSet:
    """Return the label names: `labels` (dataset.json or {name: id}), `scheme`, else a dataset.json beside the masks.

    Looked for beside the reference first: in its folder, in the folder above, in the prediction's folder.
    """
    if labels is not None and scheme is not None:
        raise UsageError(
            "E-EVAL-LABELS",
            found="both --labels and --scheme",
            expected="one of them",
            fix="leave one out",
        )
    if labels is not None:
        return _labels_of_file(Path(labels))
    if scheme is not None:
        return LabelSet(label_scheme(scheme).labels, source=f"scheme {scheme}")
    folders = [path if path.is_dir() else path.parent for path in (ref, pred)]
    for folder in (folders[0], folders[0].parent, folders[1]):
        if (folder / "dataset.json").is_file():
            return _labels_of_file(folder / "dataset.json")
    return LabelSet(None)


def labels_of_word(word: str | Path) -> LabelSet:
    """Return the labels of a scheme, or of a file (dataset.json or {name: id}); raises UsageError for anything else."""
    if Path(word).is_file():
        return _labels_of_file(Path(word))
    return LabelSet(label_scheme(str(word)).labels, source=f"scheme {word}")


def _labels_of_file(path: Path) -> LabelSet:
    content = read_json(path)
    table = content.get("labels", content) if isinstance(content, dict) else None
    plain = isinstance(table, dict) and all(isinstance(v, int) and not isinstance(v, bool) for v in table.values())
    if not isinstance(table, dict) or not plain:
        raise UsageError(
            "E-EVAL-LABELS",
            file=path,
            found="labels that are not single integers",
            expected='{"labels": {"background": 0, "cord": 1, …}} or {"cord": 1, …}',
            fix="give a file with one id per name by --labels (regions are not supported)",
        )
    names = {int(value): str(name) for name, value in table.items() if value != 0 and name != "ignore"}
    return LabelSet(dict(sorted(names.items())), table.get("ignore"), str(path))


def read_labels(path: Path, known: LabelSet) -> Volume:
    """Read a mask as unsigned integers.

    Floating-point files are accepted when every value is a whole number.

    Raises
    ------
    CaseError: unreadable, not 3-D, fractional or NaN values, ids that `known` does not name (listed with counts).
    """
    volume = read_volume(path)
    array = volume.array
    if array.dtype.kind == "f":
        array = _whole_numbers(array, path)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    allowed = (
        None if known.names is None else {0, *known.names} | ({known.ignore} if known.ignore is not None else set())
    )
    if low < 0 or high > _LARGEST_ID:
        raise _unknown_ids(path, *np.unique(array, return_counts=True), known)
    array = array.astype(np.uint8 if high < 256 else np.uint16, copy=False)
    if allowed is not None:
        counts = np.bincount(array.ravel())
        if not set(np.flatnonzero(counts).tolist()) <= allowed:
            present = np.flatnonzero(counts)
            raise _unknown_ids(path, present, counts[present], known)
    return volume.with_array(array)


def _whole_numbers(array: Array, path: Path) -> Array:
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(array) & (array == np.rint(array))
    if not whole.all():
        examples = ", ".join(f"{value:g}" for value in np.unique(array[~whole])[:5])
        raise CaseError(
            "E-EVAL-FLOAT",
            file=path,
            found=f"{int((~whole).sum())} voxels that are no whole numbers (for example {examples})",
            expected="one label id per voxel",
            fix="threshold or convert the mask to label ids first",
        )
    return array.astype(np.int64)


def _unknown_ids(path: Path, ids: Array, counts: Array, known: LabelSet) -> CaseError:
    allowed = {0, *(known.names or range(_LARGEST_ID + 1)), known.ignore}
    unknown = [(int(k), int(n)) for k, n in zip(ids, counts, strict=True) if int(k) not in allowed]
    listing = ", ".join(f"{label} ({count} voxels)" for label, count in unknown[:_LISTED])
    more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
    expected = f"0 to {_LARGEST_ID}" if known.names is None else f"0 and {', '.join(map(str, sorted(known.names)))}"
    return CaseError(
        "E-LABEL-UNKNOWN",
        file=path,
        found=f"label ids {listing}{more}",
        expected=f"{expected} ({known.source})",
        fix="convert the labels, or name them by --labels or --scheme",
    )


def on_grid_of(
    ref: Volume, other: Volume, path: Path, resample: Resample, *, soft: bool = False
) -> tuple[Array, list[Problem]]:
    """Return the other mask's voxels on the reference's grid, with what had to be tolerated.

    Maps of fractions (`soft`) are interpolated linearly where masks take the nearest neighbour.

    Raises
    ------
    CaseError: the grids differ and `resample` is None.
    """
    error = ref.corner_error(other)
    if error <= GRID_TOLERANCE_MM:
        return other.array, []
    if error <= _HEADER_TOLERANCE * min(ref.spacing):
        found = f"grid corners differ from the reference by {error:.4f} mm"
        return other.array, [
            _warning("W-GEOM-TOLERANCE", path, found, "the reference's grid", "taken as the same grid")
        ]
    if resample == "nearest":
        found = f"another grid ({_grid(other)})"
        how = "linearly" if soft else "by nearest neighbour"
        problem = _warning("W-EVAL-RESAMPLED", path, found, _grid(ref), f"resampled {how}, as asked")
        return other.resample_like(ref, order=int(soft)).array, [problem]
    apart = "" if not np.isfinite(error) else f", corners up to {error:.3g} mm apart"
    raise CaseError(
        "E-GEOM-GRID",
        file=path,
        found=f"another grid ({_grid(other)}{apart})",
        expected=f"the reference's grid ({_grid(ref)})",
        fix="write the mask on the reference's grid, or accept --resample nearest",
    )


def _grid(volume: Volume) -> str:
    shape = "x".join(map(str, volume.shape))
    spacing = "x".join(f"{size:.4g}" for size in volume.spacing)
    return f"{shape} voxels of {spacing} mm, {volume.orientation}"


def _warning(code: str, path: Path, found: str, expected: str, fix: str) -> Problem:
    return Problem("warning", code, str(path), found, expected, fix)

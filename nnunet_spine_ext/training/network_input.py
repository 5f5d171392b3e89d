"""An image as nnU-Net hands it to the network: checked, reoriented, normalised, with its labels and their meaning."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.tissue_names import tissues_of_names
from nnunet_spine_ext.augment.tissues import class_of_label, classes_of_scheme
from nnunet_spine_ext.check.facts import Role
from nnunet_spine_ext.check.itk_header import MAX_TEXT
from nnunet_spine_ext.check.nifti_header import parse_nifti
from nnunet_spine_ext.check.opening import open_image
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.core.cases import check_same_grid
from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import NIFTI_SUFFIXES, read_json, read_volume, sha256, stored_volume, strip_suffix
from nnunet_spine_ext.core.labels import id_ranges
from nnunet_spine_ext.core.labels import scheme as scheme_named
from nnunet_spine_ext.core.volume import Array, Volume

logger = logging.getLogger(__name__)

# The largest scheme has 99 ids; data sets number instances too.
_MOST_IDS = 512
_FLAT = "E-IN-2D"
# nnU-Net divides by at least this.
_SMALLEST_SD = 1e-8
# A volume that reaches below this is taken for CT in Hounsfield units, as for pictures.
_CT_AIR = -700.0
_CT_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """One case as the network sees it, and the way back to its file.

    Parameters
    ----------
    name: of the case. grid: the stored grid, resampled if that was asked for, or the grid of a patch.
    images: (C, Z, Y, X) of the RAS order, or (C, Y, X) for one slice; float32, normalised. labels: (Z, Y, X) int16.
    context: what transforms may know. facts: plain JSON about the files, how they were normalised, the scheme.
    tissues: classes (`augment.tissues`) that the scheme asked for gives to labels where transforms do not know them.
    order: of the array axes, as places of (Z, Y, X). Arrays may be larger than the grid, as `context.source` is; labels
        are -1 beyond the image. beyond: the same without a mask, 0 in the image; None: all of it is in the image.
    masked: per channel, whether it was normalised inside what is not zero.
    """

    name: str
    grid: Volume
    images: Array
    labels: Array | None
    context: Context
    facts: dict[str, Any]
    tissues: Mapping[int, str] = field(default_factory=dict)
    order: tuple[int, int, int] = (0, 1, 2)
    beyond: Array | None = None
    masked: tuple[bool, ...] = ()

    def seen(self) -> tuple[list[Volume], Volume | None]:
        """Return channels and labels, in RAS order, as the network gets them where nothing is augmented."""
        sizes = zip(self.context.source, self.context.shape, strict=True)
        middle = tuple(slice((loaded - n) // 2, (loaded - n) // 2 + n) for loaded, n in sizes)
        labels = None if self.labels is None else self.volume(np.maximum(self.labels[middle], 0))
        return [self.volume(image[middle]) for image in self.images], labels

    def volume(self, array: Array) -> Volume:
        """Return an array (Z, Y, X) or (Y, X), its axes in the order of this case, as a volume in RAS order."""
        ras = self.grid.to("RAS")
        stacked = array.reshape([ras.shape[::-1][axis] for axis in self.order]).transpose(np.argsort(self.order))
        return Volume(np.ascontiguousarray(stacked.transpose(2, 1, 0)), ras.affine)

    def stored(self, array: Array) -> Volume:
        """Return an array on the grid of the file, with exactly its affine."""
        return self.volume(array).to_grid_of(self.grid)


@contextmanager
def all_there_is() -> Iterator[None]:
    """With one case, a case that cannot be used is no usable input at all."""
    try:
        yield
    except CaseError as error:
        raise NoInputError(
            error.code, file=error.file or None, found=error.found, expected=error.expected, fix=error.fix
        ) from error


@all_there_is()
def network_input(
    images: Sequence[str | Path],
    labels: str | Path | None = None,
    *,
    spacing: Sequence[float] | None = None,
    scheme: str | None = None,
) -> NetworkInput:
    """Read a case.

    Parameters
    ----------
    images: one file per channel, on one grid. labels: its mask, on the same grid.
    spacing: mm along right-left, front-back, up-down to resample to, as nnU-Net does to its plans; None: as stored.
    scheme: of the labels (`core.labels`), which tells what they are made of and which have sides; None: what a
        dataset.json beside the masks says (tissues by its names of labels), else nothing is known of them.

    Raises
    ------
    NoInputError: a file the gatekeeper refuses, several slices in two axes, grids that differ, an image for a mask.
    UsageError: no image, an unknown scheme, a spacing that is not three positive numbers.
    """
    if spacing is not None and (len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing)):
        raise UsageError(
            "E-CONFIG-VALUE",
            file="--spacing",
            found=" ".join(f"{s:g}" for s in spacing),
            expected="three positive lengths in mm",
            fix="correct them",
        )
    opened, mask = opened_case(images, labels)
    arrays, how = _normalised([channel.array for channel in opened], None if mask is None else mask.array)
    channels = [channel.with_array(array) for channel, array in zip(opened, arrays, strict=True)]
    if spacing is not None:
        channels = [_resampled(channel, spacing, 3) for channel in channels]
        mask = None if mask is None else _resampled(mask, spacing, 0)
    said = meaning_of(labels, mask, scheme)
    context = replace(_context(channels[0], len(channels), said.ids, said.pairs), tissues=said.tissues)
    tissues, facts = known_of(images, labels, said, context, how)
    return NetworkInput(
        name=strip_suffix(images[0]).removesuffix("_0000"),
        grid=channels[0],
        images=np.stack([_as_network(channel) for channel in channels]),
        labels=None if mask is None else _as_network(mask).astype(np.int16),
        context=context,
        facts={**facts, "spacing": None if spacing is None else [float(s) for s in spacing]},
        tissues=tissues,
    )


def opened_case(images: Sequence[str | Path], labels: str | Path | None) -> tuple[list[Volume], Volume | None]:
    """Read channels and mask through the gatekeeper; raises as `network_input` does."""
    if not images:
        raise UsageError(
            "E-CONFIG-VALUE", file="-i", found="no image", expected="one image per channel", fix="name the image"
        )
    opened = [_opened(path, "image") for path in images]
    mask = None if labels is None else _opened(labels, "label")
    for path, channel in zip(images[1:], opened[1:], strict=True):
        check_same_grid(opened[0], channel, file=str(path), what="this channel")
    if mask is not None:
        check_same_grid(opened[0], mask, file=str(labels), what="the mask")
    return opened, mask


def known_of(
    images: Sequence[str | Path], labels: str | Path | None, said: Meaning, context: Context, how: Sequence[str]
) -> tuple[Mapping[int, str], dict[str, Any]]:
    """Return the tissues that transforms have to be told, and what a record says of a case; `how`: normalised."""
    # A data set may number the structures of a scheme anew, so its name alone says nothing of tissues.
    tissues = classes_of_scheme(said.scheme) if said.asked and not class_of_label(context) else {}
    facts = {
        "images": [{"name": Path(path).name, "sha256": sha256(path)} for path in images],
        "labels": None if labels is None else {"name": Path(labels).name, "sha256": sha256(labels)},
        "scheme": said.scheme,
        "tissues": "own" if class_of_label(context) else "translated" if tissues else "unknown",
        "normalization": list(how),
    }
    return tissues, facts


def _opened(path: str | Path, role: Role) -> Volume:
    """Read a file through the gatekeeper; one slice is welcome here, where 2-D networks are looked at too."""
    opened = open_image(path, role=role)
    for problem in opened.facts.problems:
        if problem.severity == "error" and problem.code != _FLAT:
            raise (NoInputError if problem.code == "E-IN-MISSING" else CaseError)(
                problem.code, file=problem.file, found=problem.found, expected=problem.expected, fix=problem.fix
            )
        if problem.severity == "warning":
            logger.warning("%s", problem)
    volume = opened.volume or (read_volume(path) if len(opened.facts.shape) > 2 else _flat(Path(path)))
    if sum(n == 1 for n in volume.shape) > 1:
        raise CaseError(
            _FLAT,
            file=path,
            found=f"the shape {'x'.join(map(str, volume.shape))}",
            expected="a volume, or one slice",
            fix="give the whole slice",
        )
    return volume


def _flat(path: Path) -> Volume:
    """Read a file with two axes as a volume of one slice, one mm thick where it does not say."""
    import SimpleITK as sitk  # noqa: N813

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise CaseError(
            "E-IN-UNREADABLE",
            file=path,
            found=f"cannot be read ({error})",
            expected="a complete image file",
            fix="copy or download the file again",
        ) from error
    _refuse_no_spacing(path)
    spacing = np.ones(3)
    spacing[: image.GetDimension()] = image.GetSpacing()[:3]
    array = sitk.GetArrayFromImage(image).T
    affine = np.diag([*spacing, 1.0])
    directions = np.asarray(image.GetDirection()).reshape(image.GetDimension(), -1)
    # ITK counts to the left and to the back.
    affine[:2, :2] = np.diag([-1.0, -1.0]) @ directions[:2, :2] * spacing[:2]
    affine[:2, 3] = -np.asarray(image.GetOrigin())[:2]
    return stored_volume(path, array.reshape(*array.shape, *([1] * (3 - array.ndim))), affine)


def _refuse_no_spacing(path: Path) -> None:
    """ITK takes a voxel size of 0 in a NIfTI file for 1 mm; it refuses those of other files itself."""
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        return
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        sizes = np.asarray(parse_nifti(stream.read(MAX_TEXT)).pixdim[:2])
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        found = "voxels of " + " x ".join(f"{size:g}" for size in sizes) + " mm"
        raise finding("E-GEOM-SPACING", path, found).to_error()


def _normalised(arrays: Sequence[Array], mask: Array | None) -> tuple[list[Array], list[str]]:
    """Return the channels as nnU-Net normalises them, and how: its z-score, or its scheme for CT if there is a mask.

    Statistics are of the box around what is not zero, to which nnU-Net crops; those of CT are of labelled voxels of
    this image, where nnU-Net takes all images of the data set.
    """
    box = _box(arrays)
    result, how = [], []
    for array in arrays:
        values = array.astype(np.float32)
        values[~np.isfinite(values)] = 0
        labelled = values[mask > 0] if mask is not None else values[:0]
        ct = float(values.min()) < _CT_AIR
        if labelled.size and ct:
            low, high = np.percentile(labelled, _CT_PERCENTILES)
            values = np.clip(values, low, high)
            how.append("CT of labelled voxels")
        else:
            labelled = values[box]
            how.append("z-score of a CT" if ct else "z-score")
        mean, sd = float(labelled.mean(dtype=np.float64)), float(labelled.std(dtype=np.float64))
        result.append((values - np.float32(mean)) / np.float32(max(sd, _SMALLEST_SD)))
    return result, how


def _box(arrays: Sequence[Array]) -> tuple[slice, ...]:
    occupied = np.any([array != 0 for array in arrays], axis=0)
    if not occupied.any():
        return tuple(slice(None) for _ in occupied.shape)
    box = []
    for axis in range(occupied.ndim):
        others = tuple(k for k in range(occupied.ndim) if k != axis)
        places = np.flatnonzero(occupied.any(axis=others))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _resampled(volume: Volume, spacing: Sequence[float], order: int) -> Volume:
    """Return a volume with voxels as large along right-left, front-back, up-down; axes stay in their order."""
    ras = volume.to("RAS")
    # One slice has no neighbours to interpolate to.
    wanted = [old if n == 1 else new for n, old, new in zip(ras.shape, ras.spacing, spacing, strict=True)]
    return ras.resample(wanted, order=order).to(volume.orientation)


def _ids_of(mask: Volume, path: str | Path) -> list[int]:
    """Return the ids in a mask; refuse what has more of them than any mask of a spine."""
    ids = [int(n) for n in np.unique(mask.array)]
    if len(ids) > _MOST_IDS:
        raise CaseError(
            "E-LABEL-VALUE",
            file=path,
            found=f"{len(ids)} different values",
            expected=f"label ids, at most {_MOST_IDS} different ones",
            fix="give the mask: this looks like an image",
        )
    return ids


def _said(ids: Collection[int]) -> str:
    return f"{'id' if len(ids) == 1 else 'ids'} {id_ranges(ids)} {'is' if len(ids) == 1 else 'are'}"


def _as_network(volume: Volume) -> Array:
    """Return the voxels as nnU-Net's reorienting reader stacks them: (Z, Y, X) of RAS; one slice without its axis."""
    array = volume.to("RAS").array.transpose(2, 1, 0)
    return np.ascontiguousarray(array.squeeze() if 1 in array.shape else array)


def _context(grid: Volume, channels: int, ids: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Context:
    ras = grid.to("RAS")
    # World axes (2 up, 1 front, 0 right) of the array axes; that of a single slice is none.
    axes = [axis for axis in (2, 1, 0) if ras.shape[axis] > 1]
    return Context(
        shape=tuple(ras.shape[axis] for axis in axes),
        spacing=tuple(ras.spacing[axis] for axis in axes),
        channels=channels,
        labels=tuple(ids),
        sided_pairs=tuple(pairs),
        left_right_axis=axes.index(0) if 0 in axes else None,
    )


@dataclass(frozen=True)
class Meaning:
    """What labels mean: `ids`, left-right `pairs`, `scheme` by name ("" where nobody says), `tissues` by their names.

    `asked`: the scheme was asked for; that leaves the tissues open (None).
    """

    ids: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    scheme: str = ""
    tissues: tuple[tuple[int, str], ...] | None = None
    asked: bool = False


def meaning_of(
    labels: str | Path | None, mask: Volume | None, scheme: str | None, dataset: Mapping[str, Any] | None = None
) -> Meaning:
    """Return what labels mean, as asked for, else as `dataset` or a dataset.json near the mask says; ids at least.

    Logs ids of the mask that the scheme asked for does not know. Raises CaseError for more ids than a mask has.
    """
    said = _said_of(labels, scheme, dataset)
    if mask is None or labels is None:
        return said
    there = _ids_of(mask, labels)
    said = replace(said, ids=said.ids or tuple(there))
    if scheme is not None and (strange := set(there) - set(said.ids)):
        logger.warning("%s: %s unknown to the scheme %s (--scheme)", labels, _said(strange), scheme)
    return said


def _said_of(labels: str | Path | None, scheme: str | None, dataset: Mapping[str, Any] | None) -> Meaning:
    if scheme is not None:
        known = scheme_named(scheme)
        return Meaning((0, *sorted(known.labels)), known.sided_pairs, known.name, asked=True)
    if dataset is not None:
        return _of_dataset(dataset)
    if labels is None:
        return Meaning()
    folder = Path(labels).absolute().parent
    for place in (folder / "dataset.json", folder.parent / "dataset.json"):
        if place.is_file():
            found = read_json(place)
            return _of_dataset(found) if isinstance(found, dict) else Meaning()
    return Meaning()


def _of_dataset(dataset: Mapping[str, Any]) -> Meaning:
    listed = {name: value for name, value in (dataset.get("labels") or {}).items() if name != "ignore"}
    ids: set[int] = set()
    for value in listed.values():
        ids.update(int(n) for n in (value if isinstance(value, list) else [value]))
    facts = dataset.get("spine_ext") or {}
    pairs = tuple((int(a), int(b)) for a, b in facts.get("sided_labels", ()))
    # As a training on this data set does.
    tissues = tuple(tissues_of_names(listed).classes.items())
    return Meaning(tuple(sorted(ids)), pairs, str(facts.get("scheme", "custom")), tissues)

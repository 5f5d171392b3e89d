"""Patches around vertebrae, as the network that names them sees them: on one grid in the body, whatever the file's.

A patch has the axes P, I, R (to the back, to the feet, to the right of the patient) at a fixed spacing, and its centre
is the centre of the vertebra's body. It is interpolated from the image by its affine, so the order of the axes, oblique
slices and thick slices need no treatment of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.cases import check_ids, check_same_grid
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import SCHEMES, VERTEBRA_ORDER
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.numbering.levels import IDS
from nnunet_spine_ext.numbering.masks import classes_of

CHANNELS: dict[str, tuple[int, ...]] = {"image": (0,), "image+masks": (0, 1, 2), "masks": (1, 2)}
"""Which of the layers of a patch the network gets: 0 image, 1 this vertebra, 2 all vertebrae and the sacrum."""
VERTEBRA_IDS = tuple(k for k in VERTEBRA_ORDER if k in IDS)
"""Ids that are vertebrae with a body of their own, head to tail; those below (sacrum, coccyx) are not named."""

# World directions (RAS) of the axes of a patch.
_PIR = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
# A patch rotated further than this from the vertical would turn a wrong neighbour into a wrong picture.
_MAX_TILT_DEG = 75.0
_BRIGHT = 99.5


@dataclass(frozen=True)
class CropSpec:
    """The patch of a model; travels in ``numbering_model.json``.

    Parameters
    ----------
    size: voxels along P, I, R.
    spacing: mm along P, I, R.
    inputs: ``image``, ``image+masks``, or ``masks`` for users whose images differ from those of the training.
    rotate: turn the patch along the spine at this vertebra. Off, the patch shows how the vertebra lies in the body,
        which tells levels apart, too; SPINEPS' released model loses when its patches are rotated.
    centre: ``body``: the centre of the body where the semantic mask has one; ``vertebra``: of the whole vertebra, for
        masks without classes.

    Raises
    ------
    UsageError: sizes below 4 voxels or spacings that are none.
    """

    size: tuple[int, int, int] = (152, 168, 32)
    spacing: tuple[float, float, float] = (0.75, 0.75, 1.65)
    inputs: Literal["image", "image+masks", "masks"] = "image+masks"
    rotate: bool = False
    centre: Literal["body", "vertebra"] = "body"

    def __post_init__(self) -> None:
        if min(self.size) < 4 or not all(0 < s < 50 for s in self.spacing):
            raise UsageError(
                "E-CONFIG-RANGE",
                file="crop",
                found=f"size {self.size} at {self.spacing} mm",
                expected="at least 4 voxels along P, I and R, 0 to 50 mm each",
                fix="correct crop.size and crop.spacing",
            )

    @property
    def channels(self) -> int:
        """Number of layers that the network gets."""
        return len(CHANNELS[self.inputs])

    @property
    def extent(self) -> tuple[float, float, float]:
        """Millimetres along P, I, R."""
        p, i, r = (n * s for n, s in zip(self.size, self.spacing, strict=True))
        return p, i, r

    def widened(self, factor: float) -> CropSpec:
        """Return a patch about one centre that is larger by a factor, for augmentation to cut from."""
        p, i, r = (n + 2 * int(np.ceil(n * (factor - 1) / 2)) for n in self.size)
        return CropSpec((p, i, r), self.spacing, self.inputs, self.rotate, self.centre)


@dataclass(frozen=True, eq=False)
class Crops:
    """Patches of n vertebrae, head to tail.

    Parameters
    ----------
    ids: (n,) their ids in the instance mask.
    data: (n, 3, P, I, R) float32: the image (0 where there is none), share of each voxel that is this vertebra, and
        that is any vertebra or sacrum. The image is not normalized; without one its layer is 0.
    centres: (n, 3) world RAS+ mm.
    whole: (n,) whether the vertebra stays clear of the upper, lower, front and rear edge of the picture.
    sacrum: whether the instance mask has a sacrum.
    """

    ids: Array
    data: Array
    centres: Array
    whole: Array
    sacrum: bool

    def __len__(self) -> int:
        return len(self.ids)


def vertebrae_of(instances: Volume) -> list[int]:
    """Return the ids of the vertebrae in an instance mask, head to tail; sacrum, discs and endplates are none."""
    present = set(np.unique(instances.array).astype(int).tolist())
    return [k for k in VERTEBRA_IDS if k in present]


def cut_crops(
    image: Volume | None, instances: Volume, semantic: Volume | None, scheme: str, spec: CropSpec, *, file: str = "case"
) -> Crops:
    """Cut the patches of all vertebrae of a scan.

    Parameters
    ----------
    image: None: masks only.
    instances: ids of the scheme ``instances``, or positions 1..n head to tail; any orientation.
    semantic: labels of `scheme` on the grid of `instances`, for the centres of bodies; None: centres of vertebrae.
    scheme: ``nnunet14`` or ``spineps``; schemes of levels have no bodies, so centres are those of vertebrae.
    file: what errors name.

    Raises
    ------
    CaseError: grids that differ, ids that the scheme does not know.
    """
    if image is not None:
        check_same_grid(instances, image, file=file, what="the image", reference="the instance mask")
    array = _whole_numbers(instances, file)
    names = vertebrae_of(instances.with_array(array))
    if not names:
        empty = np.zeros((0, 3, *spec.size), np.float32)
        return Crops(np.zeros(0, int), empty, np.zeros((0, 3)), np.zeros(0, bool), bool((array == 26).any()))
    whole, box = _extents(array, names, instances)
    bodies = None if semantic is None or spec.centre == "vertebra" else _bodies(semantic, scheme, instances, file)
    points = centroids(instances.with_array(array), bodies)
    centres = instances.world(np.array([points[k] for k in names]))
    turns = [_PIR] * len(names) if not spec.rotate else [_turned(t) for t in _tangents(centres)]
    near = _grown(box, instances, spec)
    sources = _sources(image, instances.with_array(array), near, spec)
    data = np.empty((len(names), 3, *spec.size), np.float32)
    for row, (vertebra, centre, turn) in enumerate(zip(names, centres, turns, strict=True)):
        data[row] = _patch(sources, vertebra, _grid(centre, turn, spec))
    return Crops(np.array(names), data, centres, whole, bool((array == 26).any()))


def normalized(data: Array, inputs: str) -> Array:
    """Return the layers that the network gets, (n, C, P, I, R), the image z-scored over its nonzero voxels.

    What is 0 (beyond the image) stays 0, as in SPINEPS.
    """
    result = np.ascontiguousarray(data[:, list(CHANNELS[inputs])], dtype=np.float32)
    if 0 in CHANNELS[inputs]:
        for patch in result[:, 0]:
            inside = patch != 0
            if inside.any():
                values = patch[inside]
                patch[inside] = (values - values.mean()) / max(float(values.std()), 1e-6)
    return result


def _whole_numbers(instances: Volume, file: str) -> Array:
    check_ids(instances.array, {0, *SCHEMES["instances"].labels}, file=f"{file}: instances")
    return instances.array.astype(np.int16)


def _bodies(semantic: Volume, scheme: str, instances: Volume, file: str) -> Volume | None:
    """Return the classes of a mask, on exactly the grid of the instances; None for a scheme without bodies."""
    check_same_grid(instances, semantic, file=file, what="the semantic mask", reference="the instance mask")
    classes = classes_of(semantic, scheme)
    if classes is None:
        return None
    check_ids(classes, {0, *SCHEMES["nnunet14"].labels}, file=f"{file}: semantic mask")
    return instances.with_array(classes)


def _extents(array: Array, names: Sequence[int], grid: Volume) -> tuple[Array, list[slice]]:
    """Return which vertebrae stay clear of the edges, and the box (in voxels) of all of them with the sacrum."""
    from scipy.ndimage import find_objects

    found = find_objects(array, max_label=33)
    # The sides of sagittal scans cut the transverse processes of every vertebra: they say nothing.
    axes = [k for k, letter in enumerate(grid.orientation) if letter not in "LR"]
    clear = [all(found[n - 1][k].start > 0 and found[n - 1][k].stop < array.shape[k] for k in axes) for n in names]
    boxes = [b for b in found if b is not None]
    box = [slice(min(b[k].start for b in boxes), max(b[k].stop for b in boxes)) for k in range(3)]
    return np.array(clear), box


def _grown(box: list[slice], grid: Volume, spec: CropSpec) -> tuple[slice, slice, slice]:
    """Grow a box of voxels by what a patch can reach, within the picture."""
    reach = np.linalg.norm(spec.extent) / 2 + 2 * max(spec.spacing)
    low, high = [], []
    for k, part in enumerate(box):
        step = int(np.ceil(reach / grid.spacing[k])) + 1
        low.append(max(0, part.start - step))
        high.append(min(grid.shape[k], part.stop + step))
    a, b, c = (slice(*pair) for pair in zip(low, high, strict=True))
    return a, b, c


def _tangents(centres: Array) -> Array:
    """Unit vectors to the tail from the places of the neighbours; one vertebra alone stands upright."""
    if len(centres) < 2:
        return np.tile(np.array([0.0, 0.0, -1.0]), (len(centres), 1))
    from scipy.ndimage import uniform_filter1d

    # Averaged over neighbours: one centre that is off (a vertebra without its body) turns no patch by much.
    steps = uniform_filter1d(np.gradient(centres, axis=0), 3, axis=0, mode="nearest")
    return steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6)


def _turned(tangent: Array) -> Array:
    """Return the axes of a patch turned by the shortest way until I follows the tangent."""
    down = np.array([0.0, 0.0, -1.0])
    cosine = float(np.clip(down @ tangent, -1.0, 1.0))
    angle = min(np.arccos(cosine), np.deg2rad(_MAX_TILT_DEG))
    axis = np.cross(down, tangent)
    size = float(np.linalg.norm(axis))
    if size < 1e-6:
        return _PIR
    x, y, z = axis / size
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation @ _PIR


def _grid(centre: Array, turn: Array, spec: CropSpec) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(spec.spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(spec.size) - 1) / 2)
    return Volume(np.broadcast_to(np.float32(0), spec.size), affine)


@dataclass(frozen=True)
class _Sources:
    image: Volume | None
    labels: Volume
    sigma: tuple[float, ...]


def _sources(image: Volume | None, labels: Volume, box: tuple[slice, slice, slice], spec: CropSpec) -> _Sources:
    """Cut the box out and, where patches are coarser than the image, blur by what one of their voxels holds."""
    from scipy.ndimage import gaussian_filter

    labels = labels.crop(box)
    directions = labels.affine[:3, :3] / np.asarray(labels.spacing)
    wanted = np.sqrt(((_PIR.T @ directions) ** 2 * np.asarray(spec.spacing)[:, None] ** 2).sum(axis=0))
    ratio = wanted / np.asarray(labels.spacing)
    # The width of a Gaussian whose half maximum is that of a box of `ratio` voxels, less the voxel's own.
    sigma = tuple(float(s) for s in np.sqrt(np.maximum(ratio**2 - 1, 0)) / 2.355)
    if image is None:
        return _Sources(None, labels, sigma)
    cut = image.crop(box).array
    values = np.nan_to_num(cut.astype(np.float32), posinf=0.0, neginf=0.0)
    bright = float(np.percentile(np.abs(values), _BRIGHT))
    values /= max(bright, 1e-6)
    if max(sigma) > 0:
        values = gaussian_filter(values, sigma, mode="nearest", truncate=2.0)
    # Zero means: no picture here. Voxels of the picture that are exactly zero stay so.
    return _Sources(Volume(values, labels.affine), labels, sigma)


def _patch(sources: _Sources, vertebra: int, grid: Volume) -> Array:
    from scipy.ndimage import gaussian_filter

    data = np.zeros((3, *grid.shape), np.float32)
    if sources.image is not None:
        data[0] = sources.image.resample_like(grid, order=1).array
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    index = sources.labels.index(grid.world(corners))
    low = np.maximum(np.floor(index.min(axis=0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 3, sources.labels.shape)
    near = sources.labels.crop((slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])))
    for layer, mask in ((1, near.array == vertebra), (2, (near.array > 0) & (near.array < 100))):
        share = mask.astype(np.float32)
        if max(sources.sigma) > 0:
            share = gaussian_filter(share, sources.sigma, mode="nearest", truncate=2.0)
        data[layer] = Volume(share, near.affine).resample_like(grid, order=1).array
    return data

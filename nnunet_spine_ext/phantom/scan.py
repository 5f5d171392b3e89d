"""One subject from its number: anatomy, tissue properties, the scans of all protocols, the truth."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.augment.profiles import Scanner
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.scanners import at_scanner

if TYPE_CHECKING:
    from nnunet_spine_ext.phantom.kept import Kept
    from nnunet_spine_ext.phantom.signal import Texture

Array = np.ndarray[Any, np.dtype[Any]]

_AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
# Sub-voxels are at most this large (mm) and at least two per voxel and axis.
_SUB_VOXEL_MM = 1.1
# Half the width of a vertebra with its articular processes.
_COLUMN_MM = 26.0
_ANY_FIELD = 3.0
_STREAMS = ("anatomy", "person", "pose")


@dataclass(frozen=True)
class ScanRequest:
    """What all subjects of a run share; see `generate.phantom` for the meaning.

    `supersample` may be three numbers, one per axis. `facts`: what cases.json says of all scans instead of what it
    would say of a phantom.
    """

    protocols: tuple[Protocol, ...]
    seed: int = 0
    region: str = "whole"
    anomalies: str = "natural"
    pathologies: bool = True
    oblique: float = 0.0
    supersample: int | tuple[int, int, int] | None = None
    width: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    scanners: tuple[Scanner, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def scanner(self, index: int) -> Scanner | None:
        """Return the scanner of a subject: they take turns."""
        return self.scanners[index % len(self.scanners)] if self.scanners else None


@dataclass(frozen=True)
class Scan:
    """One image of one subject with its truth, all volumes on one grid.

    `semantic`: nnunet14 ids (uint8). `instances`: spineps instance ids (uint16). `cord`: fraction of each voxel that
    is cord (float32, 0-1). `info`: facts for cases.json. `truth`: anatomy as plain JSON.
    """

    subject: str
    protocol: Protocol
    image: Volume
    semantic: Volume
    instances: Volume
    cord: Volume
    info: dict[str, Any]
    truth: dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A scan's voxel grid: (4, 4) affine to RAS+ mm, shape (i, j, k), sub-voxels per voxel and axis."""

    affine: Array
    shape: tuple[int, int, int]
    supersample: tuple[int, int, int]

    @cached_property
    def key(self) -> bytes:
        """Equal for equal grids."""
        return self.affine.tobytes() + np.array((*self.shape, *self.supersample)).tobytes()


def subject_name(index: int) -> str:
    """Return the name of a subject: ``phantom0001`` for index 0."""
    return f"phantom{index + 1:04d}"


def scan_subject(request: ScanRequest, index: int) -> list[Scan]:
    """Make all scans of subject `index`; equal arguments give equal bytes, whatever runs beside it.

    Raises UsageError for anomalies or overrides that do not exist.
    """
    import torch

    from nnunet_spine_ext.phantom.kept import Kept
    from nnunet_spine_ext.phantom.paint import paint
    from nnunet_spine_ext.phantom.parameters import sample_parameters
    from nnunet_spine_ext.phantom.spine import build_spine

    threads = torch.get_num_threads()
    # Sums in another order differ in the last bit; one thread keeps the bytes equal for every number of jobs.
    torch.set_num_threads(1)
    try:
        seeds = dict(zip(_STREAMS, np.random.SeedSequence((request.seed, index)).spawn(3), strict=True))
        anatomy_seed = int(seeds["anatomy"].generate_state(1)[0])
        parameters = sample_parameters(
            anatomy_seed, anomalies=request.anomalies, pathologies=request.pathologies, **request.overrides
        )
        spine = build_spine(parameters)
        pose = _pose(np.random.default_rng(seeds["pose"]), request.oblique)
        scanner = request.scanner(index)
        plans = []
        for planned in request.protocols:
            protocol = planned if scanner is None else at_scanner(planned, scanner)
            box = _box(spine, request, protocol, pose)
            grid = scan_grid(box, protocol, pose.angles, request.supersample)
            # Generators are made anew per protocol: adding one to a run leaves the others as they were.
            plans.append(_plan(request, index, protocol, parameters, grid, seeds["person"]))
        uses = Counter((plan.grid.key, plan.texture) for plan in plans)
        painted: dict[bytes, Any] = {}
        kept: dict[tuple[bytes, _TextureKey], Kept] = {}
        scans = []
        for plan in plans:
            key = (plan.grid.key, plan.texture)
            if key not in kept:
                # What the last grid or texture needed goes before the next is made.
                kept = {}
                if plan.grid.key not in painted:
                    painted = {}
                    painted = {plan.grid.key: paint(spine, plan.grid.affine, plan.grid.shape, plan.grid.supersample)}
                kept = {key: Kept(keep=uses[key] > 1)}
            scans.append(_scan(request, index, plan, parameters, painted[plan.grid.key], kept[key]))
        return scans
    finally:
        torch.set_num_threads(threads)


def scan_grid(
    box: Array, protocol: Protocol, angles: Array, supersample: int | tuple[int, int, int] | None = None
) -> Grid:
    """Return the grid that covers a box.

    Parameters
    ----------
    box: (2, 3) lower and upper corner, RAS+ mm.
    protocol: gives voxel size and stored orientation.
    angles: rotation of the grid about x, y, z through the middle of the box, degrees.
    supersample: sub-voxels per voxel, of every axis or one number per axis; None: as many as keep them below 1.1 mm.
    """
    axes = [_AXES[letter] for letter in protocol.orientation]
    extent = (box[1] - box[0])[[axis for axis, _ in axes]]
    spacing = np.asarray(protocol.spacing)
    shape = np.maximum(1, np.ceil(extent / spacing - 1e-6)).astype(int)
    directions = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(axes):
        directions[axis, column] = sign
    affine = np.eye(4)
    affine[:3, :3] = _rotation(angles) @ directions * spacing
    affine[:3, 3] = box.mean(axis=0) - affine[:3, :3] @ ((shape - 1) / 2)
    if supersample is None:
        factors = np.maximum(2, np.ceil(spacing / _SUB_VOXEL_MM - 1e-6)).astype(int)
    else:
        factors = np.full(3, supersample)
    return Grid(affine, tuple(shape.tolist()), tuple(factors.tolist()))


@dataclass(frozen=True)
class _Pose:
    """How a subject lies in the scanner: tilt (degrees), shift (mm), place in the protocol's range of widths (0-1)."""

    angles: Array
    shift: Array
    width: float


def _pose(rng: np.random.Generator, oblique: float) -> _Pose:
    """Technicians do not centre to the millimetre."""
    angles = np.clip(rng.normal(size=3), -2, 2) * oblique / 2
    shift = np.clip(rng.normal(size=3), -2, 2) * np.array([1.5, 5.0, 6.0])
    return _Pose(angles, shift, float(rng.random()))


def _box(spine: Any, request: ScanRequest, protocol: Protocol, pose: _Pose) -> Array:
    """Return the scanned box, (2, 3) in RAS+ mm; the whole column is inside even where it curves sideways."""
    low, high = protocol.half_width
    half = low + (high - low) * pose.width if request.width is None else request.width / 2
    whole = np.asarray(spine.field_of_view(request.region), dtype=np.float64)
    origins = np.array([frame.origin for frame in spine.poses.values()])
    seen = origins[(origins[:, 2] > whole[0, 2]) & (origins[:, 2] < whole[1, 2]), 0]
    if request.width is None and len(seen):
        half = max(half, 0.5 * float(np.ptp(seen)) + _COLUMN_MM)
    box = np.asarray(spine.field_of_view(request.region, half_width=half), dtype=np.float64)
    return box + pose.shift


def _rotation(angles: Array) -> Array:
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles)):
        turn = np.eye(3)
        first, second = [k for k in range(3) if k != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


@dataclass(frozen=True)
class _TextureKey:
    """All that decides the texture of a person's tissue on a grid: `seed` of the fibres, fat of muscle, flow."""

    seed: int
    muscle_fat: float
    flow: float


@dataclass(frozen=True)
class _Plan:
    """All that is drawn for one scan before its image is formed."""

    protocol: Protocol
    grid: Grid
    marrow_fat: float
    properties: Any
    settings: Any
    texture: _TextureKey
    noise_seed: int


def _plan(
    request: ScanRequest,
    index: int,
    protocol: Protocol,
    parameters: Any,
    grid: Grid,
    person: np.random.SeedSequence,
) -> _Plan:
    """Draw what belongs to the person and what belongs to the acquisition."""
    from nnunet_spine_ext.phantom.acquisition import draw_settings
    from nnunet_spine_ext.phantom.tissues import marrow_fat_fraction, tissue_properties

    own = np.random.default_rng(person)
    # The same person has the same tissue and the same fibres in every protocol.
    fat = marrow_fat_fraction(parameters.age, parameters.sex, own)
    # CT has no field; its tissues draw as many numbers as those of any other scan of the person.
    properties = tissue_properties(protocol.field_strength or _ANY_FIELD, rng=own, marrow_fat=fat)
    fibres = int(own.integers(2**62))
    rng = np.random.default_rng((request.seed, index, zlib.crc32(protocol.name.encode())))
    actual = _with_scatter(protocol, rng)
    settings = draw_settings(actual, rng)
    flow = float(rng.uniform(0.1, 0.6)) if protocol.contrast == "T2w" else 0.0
    texture = _TextureKey(fibres, parameters.body.muscle_fat, flow)
    return _Plan(actual, grid, fat, properties, settings, texture, int(rng.integers(2**62)))


def _scan(request: ScanRequest, index: int, plan: _Plan, parameters: Any, painted: Any, kept: Kept) -> Scan:
    """Form the image of one protocol from the painted anatomy."""
    import torch

    from nnunet_spine_ext.phantom.acquisition import form_image
    from nnunet_spine_ext.phantom.computed import form_ct
    from nnunet_spine_ext.phantom.signal import signal_table

    grid, actual = plan.grid, plan.protocol
    semantic = Volume(np.asarray(painted.semantic, dtype=np.uint8), grid.affine)
    texture = kept.get("texture", lambda: _texture(plan.texture, semantic))
    generator = torch.Generator().manual_seed(plan.noise_seed)
    if actual.sequence == "ct":
        image = form_ct(painted.tissue, semantic, actual, texture, generator, marrow_fat=plan.marrow_fat)
    else:
        table = signal_table(actual, plan.properties)
        image = form_image(painted.tissue, semantic, actual, table, texture, plan.settings, generator, kept)
    return Scan(
        subject=subject_name(index),
        protocol=actual,
        image=image,
        semantic=semantic,
        instances=semantic.with_array(np.asarray(painted.instances, dtype=np.uint16)),
        cord=semantic.with_array(np.asarray(painted.cord_fraction, dtype=np.float32)),
        info={**_info(actual, parameters, request.scanner(index)), **request.facts},
        truth={"levels": painted.levels, "parameters": parameters.to_dict(), "marrow_fat_fraction": plan.marrow_fat},
    )


def _texture(key: _TextureKey, grid: Volume) -> Texture:
    import torch

    from nnunet_spine_ext.phantom.signal import Texture

    vertical = int(np.argmax(np.abs(grid.affine[2, :3])))
    extent = np.asarray(grid.shape) * np.asarray(grid.spacing)
    fibres = torch.Generator().manual_seed(key.seed)
    return Texture(extent.tolist(), vertical, fibres, muscle_fat=key.muscle_fat, flow=key.flow)


def _with_scatter(protocol: Protocol, rng: np.random.Generator) -> Protocol:
    """Vary TR and TE as different operators do."""
    factors = np.exp(protocol.scatter * np.clip(rng.normal(size=2), -2, 2))
    return replace(protocol, tr=round(float(protocol.tr * factors[0]), 1), te=round(float(protocol.te * factors[1]), 2))


def _info(protocol: Protocol, parameters: Any, scanner: Scanner | None) -> dict[str, Any]:
    computed = protocol.sequence == "ct"
    return {
        "site": "phantom",
        "manufacturer": "simulated" if scanner is None else scanner.profile.manufacturer,
        "model": protocol.name if scanner is None else scanner.text,
        "field_strength": None if computed else protocol.field_strength,
        "contrast": protocol.contrast,
        "TR": None if computed else protocol.tr,
        "TE": None if computed else protocol.te,
        "sex": parameters.sex,
        "age": round(float(parameters.age), 1),
        "anomaly": parameters.anomaly,
        "pathologies": sorted({finding.kind for finding in parameters.pathologies}),
    }

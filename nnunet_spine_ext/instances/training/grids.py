"""Cases on the network's grid: made once, kept in a cache."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.cases import check_ids, check_same_grid
from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_volume, write_bytes
from nnunet_spine_ext.core.labels import DISC_OFFSET, ENDPLATE_OFFSET, VERTEBRA_ORDER, VERTEBRAE, apply_table
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.cutouts import CutoutSpec, Index, make_grid, seeds_of
from nnunet_spine_ext.instances.frame import CANAL, CORD, CORPUS, ORIENTATION, make_frame
from nnunet_spine_ext.instances.training.dataset import LABELS, TrainingCase
from nnunet_spine_ext.instances.whole import with_arches

# Goes up when the same masks would give other arrays.
VERSION = 2
# A body of which less than this is in the image is no seed when the network is applied, either (`seeds.SeedSettings`).
_MIN_BODY_MM3 = 300.0
# As images and their masks (see `core.cases.check_case`), but written by different tools.
_TOLERANCE_MM = 0.05
_KNOWN_IDS = {0} | {base + k for base in (0, DISC_OFFSET, ENDPLATE_OFFSET) for k in VERTEBRAE}


Seeds = tuple[tuple[int, Index], ...]


@dataclass(frozen=True)
class GridCase:
    """A case on the network's grid.

    Parameters
    ----------
    labels: (P, I, R) uint8 ids of ``nnunet14``, cut to the foreground.
    vertebrae: (P, I, R) uint8, vertebrae 1..n from head to tail, 0 elsewhere.
    seeds: number of each vertebra that has a body, and the voxel at the centre of the body.
    """

    name: str
    labels: Array
    vertebrae: Array
    seeds: Seeds


class GridStore:
    """Cases on the network's grid, read from the cache when they are asked for; the last ones stay in memory.

    Parameters
    ----------
    cache: folder of the files, one per case, each made of the masks whose hash is in it.
    table: see `TrainingData.table`.
    memory: bytes of arrays that stay in memory.
    """

    def __init__(
        self, cache: Path, table: Mapping[int, int], spec: CutoutSpec, *, substructures: bool, memory: int = 2**30
    ) -> None:
        self.seeds: dict[str, Seeds] = {}
        self._cache, self._table, self._spec, self._substructures = cache, table, spec, substructures
        self._keys: dict[str, str] = {}
        self._recent: OrderedDict[str, GridCase] = OrderedDict()
        self._memory = memory

    def add(self, case: TrainingCase) -> int:
        """Bring a case onto the grid unless the cache has it; return how many of its vertebrae have a body.

        Raises
        ------
        CaseError: a mask that cannot be read, masks on two grids, unknown ids.
        """
        key = _key(case, self._table, self._spec, substructures=self._substructures)
        path = self._cache / f"{case.name}.npz"
        found = _read(path, case.name, key)
        if found is None:
            found = make_case(case, self._table, self._spec, substructures=self._substructures)
            _write(path, found, key)
        self.seeds[case.name] = found.seeds
        self._keys[case.name] = key
        self._keep(found)
        return len(found.seeds)

    def __getitem__(self, name: str) -> GridCase:
        """Return a case that was added; raises CaseError when its file changed or went away meanwhile."""
        case = self._recent.get(name)
        if case is None:
            path = self._cache / f"{name}.npz"
            case = _read(path, name, self._keys[name])
            if case is None:
                raise CaseError(
                    "E-IN-UNREADABLE",
                    file=path,
                    found="changed or removed while it was used",
                    expected="the case as it was when the training began",
                    fix="train again with --resume",
                )
        self._keep(case)
        return case

    def stamp(self, names: Sequence[str]) -> str:
        """Return a hash of these cases as they are on the grid: other masks give another one."""
        return hashlib.sha256(" ".join(self._keys[name] for name in names).encode()).hexdigest()[:16]

    def _keep(self, case: GridCase) -> None:
        self._recent[case.name] = case
        self._recent.move_to_end(case.name)
        while len(self._recent) > 1 and sum(2 * c.labels.nbytes for c in self._recent.values()) > self._memory:
            self._recent.popitem(last=False)


def make_case(
    case: TrainingCase, table: Mapping[int, int], spec: CutoutSpec, *, substructures: bool = True
) -> GridCase:
    """Return a case on the network's grid from its files; raises as `GridStore.add`."""
    semantic, instances = read_volume(case.semantic), read_volume(case.instances)
    check_same_grid(
        semantic,
        instances,
        file=str(case.instances),
        what="the instance mask",
        tolerance_mm=_TOLERANCE_MM,
        reference=f"the semantic mask {LABELS}/{case.semantic.name}",
    )
    labels = apply_table(semantic.array, table, file=case.semantic)
    check_ids(instances.array, _KNOWN_IDS, file=str(case.instances))
    return grid_case(case.name, semantic.with_array(labels), instances.array, spec, substructures=substructures)


def grid_case(
    name: str, semantic: Volume, instances: Array, spec: CutoutSpec, *, substructures: bool = True
) -> GridCase:
    """Bring masks onto the network's grid.

    Parameters
    ----------
    semantic: ids of ``nnunet14``.
    instances: ids of the scheme ``instances`` on the same grid; those of discs and endplates are not used.
    substructures: False: the class corpus holds whole vertebrae, whose bodies `whole.with_arches` tells.
    """
    frame = make_frame(semantic, "nnunet14")
    nothing = np.zeros((0, 0, 0), dtype=np.uint8)
    if frame is None:
        return GridCase(name, nothing, nothing, ())
    turned = Volume(instances, semantic.affine).to(ORIENTATION).array[frame.box]
    lookup = np.zeros(int(turned.max()) + 1, dtype=np.uint8)
    present = set(np.flatnonzero(np.bincount(turned[(frame.labels > 1) & (frame.labels <= CORPUS)].reshape(-1))))
    for number, vertebra in enumerate((k for k in VERTEBRA_ORDER if k in present), start=1):
        lookup[vertebra] = number
    vertebrae = np.where((frame.labels > 1) & (frame.labels <= CORPUS), lookup[turned], 0).astype(np.uint8)
    grid = make_grid(frame, spec)
    # Without canal and cord nobody can tell: all of a vertebra counts for its body.
    whole = not substructures and np.isin(frame.labels, (CANAL, CORD)).any()
    bodies = np.where((with_arches(frame) if whole else frame).labels == CORPUS, vertebrae, 0)
    counts = np.bincount(bodies.reshape(-1))
    small = counts * frame.voxel_volume < _MIN_BODY_MM3
    bodies[small[bodies]] = 0
    voxels = np.stack(np.nonzero(bodies), axis=1)
    numbers = bodies[bodies > 0]
    found = [int(k) for k in np.unique(numbers)]
    seeds = seeds_of(grid, voxels, numbers.astype(np.intp)) if found else []
    return GridCase(name, grid.labels, grid.from_frame(vertebrae), tuple(zip(found, seeds, strict=True)))


def _key(case: TrainingCase, table: Mapping[int, int], spec: CutoutSpec, *, substructures: bool) -> str:
    digest = hashlib.sha256(f"{VERSION} {sorted(table.items())} {spec.spacing} {substructures}".encode())
    for path in (case.semantic, case.instances):
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise CaseError(
                "E-IN-UNREADABLE",
                file=path,
                found=f"cannot be read ({error.strerror or error})",
                expected="a mask",
                fix="copy the file again",
            ) from error
    return digest.hexdigest()


def _read(path: Path, name: str, key: str) -> GridCase | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            seeds = tuple((int(k), (int(p), int(i), int(r))) for k, p, i, r in stored["seeds"])
            return GridCase(name, stored["labels"], stored["vertebrae"], seeds)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        # Not there, of an older version, or damaged: it is made again.
        return None


def _write(path: Path, case: GridCase, key: str) -> None:
    seeds = np.array([(number, *place) for number, place in case.seeds], dtype=np.int32).reshape(-1, 4)
    stream = io.BytesIO()
    np.savez_compressed(stream, key=np.array(key), labels=case.labels, vertebrae=case.vertebrae, seeds=seeds)
    write_bytes(path, stream.getvalue())

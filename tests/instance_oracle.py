"""A stand-in for the instance network that answers from the true instances, with errors on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.labels import VERTEBRA_ORDER
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.cutout_network import CutoutAnswer
from nnunet_spine_ext.instances.cutouts import Cutout, CutoutSpec, ModelGrid, read_window, vertebra_voxels
from nnunet_spine_ext.instances.frame import CORPUS, make_frame

MODES = ("shift", "merge", "empty", "miss", "two of three", "swap posterior", "boundary")
_LEVELS = tuple(k for k in VERTEBRA_ORDER if k <= 25 or k == 28)


@dataclass(frozen=True)
class Errors:
    """What goes wrong in a cutout, and how often.

    mode: one of `MODES`. "shift": the neighbour is taken for the centre. "merge": the centre and a neighbour become
    one. "empty": no answer. "miss": one of the three is missing. "two of three": two are. "swap posterior": the centre
    and a neighbour exchange all but their bodies. "boundary": all borders are up to 3 mm
    off.
    probability: per cutout. correlated: two neighbouring cutouts make the same mistake about the same vertebrae.
    """

    mode: str = "shift"
    probability: float = 0.0
    correlated: bool = False
    seed: int = 0


class Oracle:
    """A `CutoutPredictor`.

    semantic, truth: on one grid; truth has anatomical ids, or 1..n from the top. soft: give probabilities, too.
    """

    def __init__(
        self,
        semantic: Volume,
        truth: Volume,
        spec: CutoutSpec | None = None,
        errors: Errors | None = None,
        *,
        scheme: str = "nnunet14",
        soft: bool = False,
    ) -> None:
        self.spec = spec or CutoutSpec()
        self.errors = errors or Errors()
        self.soft = soft
        self.asked = 0
        frame = make_frame(semantic, scheme)
        assert frame is not None
        array = truth.to("RAS").array[frame.box].astype(np.int64)
        rank = np.zeros(int(array.max()) + 1, dtype=np.int16)
        for number, level in enumerate((k for k in _LEVELS if (array == k).any()), start=1):
            rank[level] = number
        # 1..n from head to tail.
        self.truth = rank[array]
        self.count = int(self.truth.max())

    def predict(self, grid: ModelGrid, cutouts: Sequence[Cutout]) -> list[CutoutAnswer]:
        truth = grid.from_frame(self.truth)
        self.asked += len(cutouts)
        return [self._answer(grid, truth, cutout) for cutout in cutouts]

    def _answer(self, grid: ModelGrid, truth: Array, cutout: Cutout) -> CutoutAnswer:
        window = read_window(truth, cutout.start, cutout.size)
        semantic = read_window(grid.labels, cutout.start, cutout.size)
        centre = self._centre(window, semantic)
        block = centre // 2 if self.errors.correlated else cutout.number
        random = np.random.default_rng([self.errors.seed, block])
        wrong = bool(random.random() < self.errors.probability)
        if wrong and self.errors.mode == "boundary":
            step = max(1, int(3.0 / grid.spacing[1]))
            window = np.roll(window, int(random.choice([-step, step])), axis=1)
        names = self._names(centre, wrong, random)
        labels = np.zeros(window.shape, dtype=np.uint8)
        for vertebra, name in names.items():
            labels[window == vertebra] = name
        if wrong and self.errors.mode == "swap posterior":
            self._swap(labels, window, semantic, centre, names, random)
        labels[~vertebra_voxels(semantic)] = 0
        box = cutout.inside(grid)
        local = tuple(slice(b.start - s, b.stop - s) for b, s in zip(box, cutout.start, strict=True))
        kept = np.ascontiguousarray(labels[local])
        soft = np.stack([0.1 + 0.6 * (kept == k) for k in range(4)]) if self.soft else None
        return CutoutAnswer(box, kept, soft)

    def _centre(self, window: Array, semantic: Array) -> int:
        """The vertebra at the centre of the window, or the nearest body."""
        middle = np.array(window.shape) // 2
        here = int(window[tuple(middle)])
        if here:
            return here
        places = np.argwhere((semantic == CORPUS) & (window > 0))
        if len(places) == 0:
            places = np.argwhere(window > 0)
        if len(places) == 0:
            return 0
        return int(window[tuple(places[((places - middle) ** 2).sum(1).argmin()])])

    def _names(self, centre: int, wrong: bool, random: np.random.Generator) -> dict[int, int]:
        """Which vertebra gets which of the answers 1 above, 2 centre, 3 below."""
        names = {centre - 1: 1, centre: 2, centre + 1: 3}
        mode = self.errors.mode
        if not centre or (wrong and mode == "empty"):
            names = {}
        elif wrong and mode == "shift":
            step = int(random.choice([-1, 1]))
            names = {v + step: name for v, name in names.items()}
        elif wrong and mode == "merge":
            names = self._merged(centre, random)
        elif wrong and mode == "miss":
            del names[centre + int(random.integers(-1, 2))]
        elif wrong and mode == "two of three":
            kept = centre + int(random.integers(-1, 2))
            names = {kept: names[kept]}
        return {v: name for v, name in names.items() if 1 <= v <= self.count}

    def _merged(self, centre: int, random: np.random.Generator) -> dict[int, int]:
        down = bool(random.random() < 0.5)
        if self.errors.correlated:
            # The two cutouts of a block put their two centres together.
            down = centre % 2 == 0
        if down:
            return {centre - 1: 1, centre: 2, centre + 1: 2, centre + 2: 3}
        return {centre - 2: 1, centre - 1: 2, centre: 2, centre + 1: 3}

    def _swap(
        self,
        labels: Array,
        window: Array,
        semantic: Array,
        centre: int,
        names: dict[int, int],
        random: np.random.Generator,
    ) -> None:
        step = 1 if random.random() < 0.5 else -1
        if self.errors.correlated:
            step = 1 if centre % 2 == 0 else -1
        other = centre + step
        if other not in names:
            return
        posterior = semantic != CORPUS
        first, second = posterior & (window == centre), posterior & (window == other)
        labels[first], labels[second] = names[other], names[centre]

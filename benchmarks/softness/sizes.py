"""Sizes of a run: how many subjects, how many steps, which arms and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Size:
    """What a run makes and trains.

    `train`, `validation`, `test`, `compressed`, `lesioned`: subjects, each in six contrasts. `blank`: scans of each
    kind without cord that are trained on. `volumes`: the same for tests. `epochs` times `iterations`: steps of every
    training. `network`: preset of plans. `step`: of the sliding windows, as a share of the patch.
    """

    train: int
    validation: int
    test: int
    compressed: int
    lesioned: int
    blank: int
    volumes: int
    epochs: int
    iterations: int
    arms: tuple[str, ...]
    seeds: int
    network: Path
    step: float = 0.5
    parallel: int = 2


THREE = ("hard_all", "soft_all", "soft_all_dice_loss")
ALL = (*THREE, "soft_per_contrast", "hard_own")
SIZES = {
    "quick": Size(2, 1, 1, 1, 0, 1, 1, 2, 15, THREE, 1, HERE / "cpu.yaml", step=1.0),
    "cpu": Size(12, 2, 6, 3, 3, 3, 2, 72, 60, THREE, 1, HERE / "cpu.yaml"),
    "full": Size(24, 4, 12, 6, 6, 6, 4, 60, 100, ALL, 3, HERE / "cpu.yaml"),
}

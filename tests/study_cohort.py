"""The files of a made-up study whose truth is known: drops, shares, components, interactions, a power law, gaps."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = "nako-siemens-3t"
DROPS = {"philips-3t": 0.12, "ge-3t": 0.20, "siemens-1.5t": 0.24, "ge-1.5t": 0.40, "philips-1.5t": 0.44}
SHARES = {"none": 0.0, "match": 0.5, "tta": 0.3, "match+tta": 0.75, "anchored+tta": 0.85, "shift": 0.92}
COMPONENTS = {"resolution": 0.10, "field": 0.03, "contrast": 0.16, "noise": 0.06, "manufacturer": 0.08, "bias": 0.02}
INTERACTIONS = {("resolution", "noise"): 0.05, ("contrast", "bias"): -0.02}
POWER = (0.88, 0.38, 0.5)
SIZES = (0, 1, 5, 10, 50, 200)
SOURCE_DICE = 0.90
# Dice per unit of the gap that the files carry as quantile distance.
SLOPE = 0.8
OFFSETS = {"cervical": -0.02, "thoracic": 0.0, "lumbar": 0.02, "sacral": 0.0}
LEVELS = {
    **{f"C{n}": "cervical" for n in range(1, 8)},
    **{f"T{n}": "thoracic" for n in range(1, 13)},
    **{f"L{n}": "lumbar" for n in range(1, 6)},
    "S1": "sacral",
}
KEYS = ("seed", "strategy", "scanner", "factor", "components", "severity", "n", "case", "subject", "region_of_view")
CASES = (
    *KEYS,
    "dice",
    "semantic_dice",
    "id_rate",
    "msd_mm",
    "vertebrae",
    "missing",
    "seconds",
    "forward_passes",
    "noise_reduced",
    "matched",
)
VERTEBRAE = (*KEYS[:-1], "level", "region", "dice", "msd_mm", "detected", "identified")
GAPS = (
    "seed", "scanner", "case", "quantile_distance", "snr_ratio", "resolution_ratio", "feature_distance", "ceiling_dice",
)  # fmt: skip


@dataclass
class Planted:
    """What the made-up study says; change a copy to plant something else."""

    subjects: int = 16
    seeds: Sequence[int] = (0,)
    drops: Mapping[str, float] = field(default_factory=lambda: dict(DROPS))
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    components: Mapping[str, float] = field(default_factory=lambda: dict(COMPONENTS))
    interactions: Mapping[tuple[str, str], float] = field(default_factory=lambda: dict(INTERACTIONS))
    sizes: Sequence[int] = SIZES
    samples_on: str = "ge-1.5t"
    noise: float = 0.004
    spread: float = 0.03
    seed_spread: float = 0.0
    own: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    # By strategy, what matching did to the scans of the targets: noise reduced, intensities matched.
    done: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def make_study(folder: Path, planted: Planted | None = None) -> Path:
    """Write study.json, cases.csv, vertebrae.csv and gaps.csv; equal arguments give equal files."""
    planted = planted or Planted()
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    maker = _Maker(planted, rng)
    for seed in planted.seeds:
        shift = planted.seed_spread * (seed - np.mean(planted.seeds))
        maker.scanners(seed, shift)
        maker.parts(seed, shift)
        maker.curve(seed, shift)
    maker.gaps()
    write_rows(folder / "cases.csv", CASES, maker.case_rows)
    write_rows(folder / "vertebrae.csv", VERTEBRAE, maker.vertebra_rows)
    write_rows(folder / "gaps.csv", GAPS, maker.gap_rows)
    facts = {"config": {"scanners": list(planted.drops), "strategies": list(planted.shares)}, **planted.facts}
    (folder / "study.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


class _Maker:
    def __init__(self, planted: Planted, rng: np.random.Generator) -> None:
        self.planted, self.rng = planted, rng
        self.ability = rng.normal(0, planted.spread, 1000)
        self.case_rows: list[dict[str, Any]] = []
        self.vertebra_rows: list[dict[str, Any]] = []
        self.gap_rows: list[dict[str, Any]] = []
        self.own = {name: k for k, name in enumerate((SOURCE, *planted.drops))}

    def scanners(self, seed: int, shift: float) -> None:
        for strategy, share in self.planted.shares.items():
            for scanner, drop in ((SOURCE, 0.0), *self.planted.drops.items()):
                loss = drop * (1 - share)
                # Cervical vertebrae lose twice as much of the difference on targets.
                self._cases(seed, shift, loss, strategy=strategy, scanner=scanner, widen=1 + 4 * loss)

    def parts(self, seed: int, shift: float) -> None:
        singles = self.planted.components
        for name, drop in singles.items():
            self._cases(seed, shift, drop, factor="component", components=name, severity="1.0", scanner="philips-1.5t")
        for (a, b), extra in self.planted.interactions.items():
            drop = singles[a] + singles[b] + extra
            self._cases(seed, shift, drop, factor="pair", components=f"{a}+{b}", severity="1.0", scanner="philips-1.5t")

    def curve(self, seed: int, shift: float) -> None:
        a, b, c = POWER
        for n in self.planted.sizes:
            loss = SOURCE_DICE - (a - b * (n + 1) ** -c)
            self._cases(seed, shift, loss, strategy="finetuned", factor="samples", n=n, scanner=self.planted.samples_on)

    def _cases(
        self, seed: int, shift: float, loss: float, *, strategy: str = "none", scanner: str = SOURCE,
        factor: str = "scanner", widen: float = 1.0, **keys: Any,
    ) -> None:  # fmt: skip
        for k in range(self.planted.subjects):
            # In a study of one's own images nobody is on two scanners.
            subject = k + 100 * self.own[scanner] if self.planted.own else k
            dice = SOURCE_DICE + shift + self.ability[subject] - loss + self.rng.normal(0, self.planted.noise)
            row = {
                "seed": seed, "strategy": strategy, "scanner": scanner, "factor": factor, "components": "",
                "severity": "0" if scanner == SOURCE else "1", "n": "",
                "case": f"case_{subject:03d}", "subject": f"sub-{subject:03d}", **keys,
            }  # fmt: skip
            self.case_rows.append(
                {
                    **row, "region_of_view": "whole", "dice": dice, "semantic_dice": dice + 0.01,
                    "id_rate": min(1.0, dice + 0.05), "msd_mm": 2.5 * (1.3 - dice), "vertebrae": 25, "missing": 0,
                    "seconds": 1.5, "forward_passes": 1,
                    **dict(zip(CASES[-2:], self.planted.done.get(strategy, ("", "")), strict=True)),
                }
            )  # fmt: skip
            if factor == "scanner":
                for level, region in LEVELS.items():
                    value = dice + widen * OFFSETS[region]
                    self.vertebra_rows.append(
                        {**row, "level": level, "region": region, "dice": value, "msd_mm": 1.0, "detected": 1,
                         "identified": 1}
                    )  # fmt: skip

    def gaps(self) -> None:
        for scanner, drop in ((SOURCE, 0.0), *self.planted.drops.items()):
            for k in range(self.planted.subjects):
                subject = k + 100 * self.own[scanner] if self.planted.own else k
                self.gap_rows.append(
                    {
                        "seed": self.planted.seeds[0], "scanner": scanner, "case": f"case_{subject:03d}",
                        "quantile_distance": drop / SLOPE + self.rng.normal(0, 0.004),
                        "snr_ratio": 2.0 ** (-4 * drop), "resolution_ratio": 1 + drop,
                        "feature_distance": math.sqrt(drop) + self.rng.normal(0, 0.01),
                        "ceiling_dice": 0.99 - 0.1 * drop,
                    }
                )  # fmt: skip


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))

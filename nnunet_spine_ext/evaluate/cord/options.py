"""Options of everything that compares areas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.evaluate.cases import Resample, list_masks
from nnunet_spine_ext.evaluate.cord.areas import Range, parse_ranges
from nnunet_spine_ext.evaluate.cord.case import LevelFiles, LevelKind
from nnunet_spine_ext.evaluate.paired import Correction
from nnunet_spine_ext.measure.slice_shape import Mode

Maps = Literal["auto", "soft", "hard"]


@dataclass(frozen=True)
class AreaOptions:
    """How areas are read, measured and compared.

    Parameters
    ----------
    cord: name or id of the cord in label maps; None: the label called cord, or the only one.
    maps: ``soft`` (the folder of that name in the predictions), ``hard``, or ``auto``: soft where there are some.
    mode: ``sct`` or ``pv`` (see `cross_sectional_area`).
    level_range: levels to average over (``C2:C3``), each a range of its own; none: all slices.
    levels, discs, instances: where levels come from (labelled cords, disc points, numbered instances), one at most.
    resample: ``nearest`` brings maps from other grids onto the first one's (soft maps linearly); None refuses them.
    cases: cases.json or a table; None: beside the references. contrast: the fact in it that is the contrast.
    ddof: 1 or 0, of the standard deviation over contrasts.
    margin: of the equivalence tests, mm², above 0.
    correction: of p-values, for all tests of a run: ``holm``, ``bonferroni`` or ``none``.
    bootstrap, seed: resamples of the subjects for the intervals; 0: none. jobs: processes.
    """

    cord: str | None
    maps: Maps
    mode: str
    level_range: Sequence[str]
    levels: str | Path | None
    discs: str | Path | None
    instances: str | Path | None
    resample: Resample
    cases: str | Path | None
    contrast: str
    ddof: int
    margin: float
    correction: Correction
    bootstrap: int
    seed: int
    jobs: int

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """Parts of the cord that areas are averaged over."""
        return parse_ranges([self.level_range] if isinstance(self.level_range, str) else self.level_range)

    def check(self) -> None:
        """Raise UsageError for a value outside its range, or several sources of levels."""
        rules: tuple[tuple[str, object, bool, str], ...] = (
            ("--maps", self.maps, self.maps in get_args(Maps), "auto, soft or hard"),
            ("--mode", self.mode, self.mode in get_args(Mode), "sct or pv"),
            ("--ddof", self.ddof, self.ddof in (0, 1), "0 or 1"),
            ("--margin", self.margin, 0 < self.margin < math.inf, "more than 0 mm²"),
            ("--correction", self.correction, self.correction in get_args(Correction), "holm, bonferroni or none"),
            ("--bootstrap", self.bootstrap, self.bootstrap >= 0, "0 or more"),
            ("--seed", self.seed, self.seed >= 0, "0 or more"),
            ("--jobs", self.jobs, self.jobs >= 1, "1 or more"),
        )
        for option, value, valid, expected in rules:
            if not valid:
                raise UsageError("E-EVAL-RANGE", found=f"{option} {value}", expected=expected, fix="correct the option")
        if len(self._sources) > 1:
            raise UsageError(
                "E-EVAL-CORD-SOURCES",
                found=" and ".join(self._sources),
                expected="one source of levels",
                fix="leave out all but one",
            )
        if self._sources and not self.level_range:
            raise UsageError(
                "E-EVAL-CORD-NORANGE",
                found=f"{next(iter(self._sources))}, but no --level-range",
                expected="levels that areas are averaged over",
                fix="add --level-range C2:C3, or leave the levels out",
            )
        _ = self.ranges

    @property
    def _sources(self) -> dict[LevelKind, str | Path]:
        given: dict[LevelKind, str | Path | None] = {
            "levels": self.levels, "discs": self.discs, "instances": self.instances,
        }  # fmt: skip
        return {kind: path for kind, path in given.items() if path is not None}

    def level_files(self) -> LevelFiles | None:
        """Return where levels come from; raises UsageError or NoInputError for a folder that is not there."""
        for kind, path in self._sources.items():
            return LevelFiles(list_masks(path, points=kind == "discs"), kind)
        return None

    def record(self) -> dict[str, Any]:
        """Return the options that decide about values."""
        sources = {kind: str(path) for kind, path in self._sources.items()}
        return {
            "cord": self.cord,
            "maps": self.maps,
            "mode": self.mode,
            "ranges": [one.name for one in self.ranges],
            "levels": sources,
            "resample": self.resample,
            "contrast": self.contrast,
            "ddof": self.ddof,
            "margin": self.margin,
            "correction": self.correction,
            "bootstrap": self.bootstrap,
            "seed": self.seed,
        }


# Options of `evaluate` that are about areas only, and those that are about masks only.
_AREAS_ONLY = (
    "cord", "maps", "mode", "level_range", "levels", "discs", "contrast", "ddof", "margin", "correction",
)  # fmt: skip
_MASKS_ONLY = (
    "metrics", "pred_instances", "instance_ids", "matching", "regions", "missing_distance", "nsd_tolerance",
    "iou_threshold", "by", "structures", "pred_labels",
)  # fmt: skip


def refuse_mixture(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise UsageError for options that would have no effect with, or without, `csa`."""
    unused = _MASKS_ONLY if given["csa"] else _AREAS_ONLY
    for name in unused:
        value = given[name]
        if (tuple(value) if isinstance(value, list) else value) != defaults[name]:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                "E-EVAL-CORD-OPTION",
                found=f"{option} {'with' if given['csa'] else 'without'} --csa",
                expected="options that have an effect",
                fix=f"leave {option} out" if given["csa"] else "add --csa",
            )

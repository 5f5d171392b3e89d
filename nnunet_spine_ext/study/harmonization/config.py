"""What an evaluation of harmonization is made of, as frozen dataclasses read from YAML."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.core.config import (
    check_ranges,
    load_config,
    naming_file,
    nearest,
    read_mapping,
    set_by_path,
    to_dict,
)
from nnunet_spine_ext.core.device import check_device_name
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import names_in
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.phantom.vendors import TARGET, vendor
from nnunet_spine_ext.study.faults import check_names, wrong
from nnunet_spine_ext.study.harmonization.arms import ARMS, FULL, NONE
from nnunet_spine_ext.training.harmonize_checks import NETWORK, refuse_unused

PRESETS = Path(__file__).parent / "presets"
_LARGEST_BOOTSTRAP = 1_000_000
# What models and slices to test on must have in common.
_SLICES = ("slices", "slices.fit", "slices.scaling", "slices.size", "slices.spacing")


@dataclass(frozen=True)
class PhantomVendors:
    """Digital spines, every one scanned by one vendor with a protocol of the paper's table 1.

    Parameters
    ----------
    target: vendor of the target. sources: those that harmonizers are trained with. unseen: those that are tested only.
    target_training, training, test: spines to train on at the target and at each source, and to test on at every
        vendor; nobody is trained on and tested on.
    travelling: the same people are tested on at every vendor, so that scanners alone make the difference; else every
        vendor has people of its own to test on, as it always has to train on.
    width: mm from left to right. finest: pixels are stored no finer than this (mm); None: as published.
    severity: of what is assumed about scanners, because it is not published: noise, coils, reconstruction. 1 is as
        assumed, 0 leaves the published protocols alone. The target does not change with it.
    seed: of the spines.
    """

    target: str = TARGET
    sources: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    target_training: int = 8
    training: int = 4
    test: int = 4
    travelling: bool = True
    width: float = 48.0
    finest: float | None = None
    severity: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class GivenVendors:
    """Scans of your own: raw datasets with `cases.json`.

    Parameters
    ----------
    datasets: folders to train on (`imagesTr`); the target's need masks of discs.
    test: folders to test on; none: those of `datasets`. test_part: whether the test scans there are `imagesTs` or
        `imagesTr`. All test slices need masks.
    key: of cases.json that tells vendors apart, several joined by +, such as ``manufacturer+model``.
    target, sources, unseen: values of `key`; without `sources`, all that are neither target nor unseen.
    """

    datasets: tuple[str, ...]
    target: tuple[str, ...]
    sources: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    key: str = "manufacturer"
    test: tuple[str, ...] = ()
    test_part: Literal["Ts", "Tr"] = "Ts"


@dataclass(frozen=True)
class Trained:
    """How something is trained.

    Parameters
    ----------
    preset: of `nnUNetv2_spine_harmonize segmenter` or `train`. settings: assignments of `--set` over it.
    folder: a model that is there already; then nothing is trained.
    """

    preset: str = "full"
    settings: tuple[str, ...] = ()
    folder: str | None = None


@dataclass(frozen=True)
class HarmonizationConfig:
    """A whole evaluation.

    Parameters
    ----------
    phantoms, given: where scans come from, one of them.
    slices: how slices are cut, for everything.
    segmenters: by name; all are tested, on the target and on other vendors. segmenter: the one that takes part in
        training harmonizers and judges them; the first if not named.
    harmonizer: how CycleGANs are trained; arms change its weights. by_arm: more assignments, by name of the arm.
    arms: names of `arms.ARMS`. seeds: of all trainings.
    device: as everywhere. bootstrap: draws for intervals. budget: minutes; what would not end within them
        is not begun.
    """

    phantoms: PhantomVendors | None = None
    given: GivenVendors | None = None
    slices: SliceSettings = field(default_factory=SliceSettings)
    segmenters: dict[str, Trained] = field(default_factory=lambda: {"unet": Trained()})
    segmenter: str | None = None
    harmonizer: Trained = field(default_factory=Trained)
    by_arm: dict[str, tuple[str, ...]] = field(default_factory=dict)
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    bootstrap: int = 2000
    budget: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be evaluated; the checks of data that is on disk come later."""
        if (self.phantoms is None) == (self.given is None):
            found = "neither phantoms nor given" if self.phantoms is None else "both phantoms and given"
            raise wrong("data", found, "one of them", "say where the scans come from")
        check_device_name(self.device)
        check_names(self.arms, tuple(ARMS), "arms")
        check_names(tuple(self.by_arm), tuple(ARMS), "by_arm")
        if NONE not in self.arms:
            raise wrong("arms", ", ".join(self.arms), "none among them", "add none: all are compared to it")
        if not self.segmenters:
            raise wrong("segmenters", "none", "at least one", "name one")
        if self.segmenter is not None:
            check_names((self.segmenter,), tuple(self.segmenters), "segmenter")
        for name in ("arms", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise wrong(name, f"{list(values)}", "one or more, each once", "correct it")
        if min(self.seeds) < 0:
            raise wrong("seeds", f"{list(self.seeds)}", "numbers from 0", "correct it")
        if self.harmonizer.folder is not None and len(self.seeds) > 1:
            raise wrong("seeds", f"{len(self.seeds)} and a given harmonizer", "one", "leave the other seeds out")
        self._check_vendors()
        self._check_slices()
        self._check_used()
        limits: dict[str, tuple[float, float]] = {"bootstrap": (0, _LARGEST_BOOTSTRAP)}
        check_ranges(self, limits | ({} if self.budget is None else {"budget": (0, float("inf"))}), where="evaluation")

    def _check_slices(self) -> None:
        """Refuse trainings on slices of their own: all models are tested on the same ones."""
        plans = {f"segmenters.{name}.settings": plan.settings for name, plan in self.segmenters.items()}
        plans |= {"harmonizer.settings": self.harmonizer.settings}
        plans |= {f"by_arm.{name}": settings for name, settings in self.by_arm.items()}
        for where, settings in plans.items():
            for assignment in settings:
                key = assignment.partition("=")[0].strip()
                if key in _SLICES:
                    raise wrong(where, assignment, "slices that are cut alike for everything", f"set {key} itself")

    def _check_used(self) -> None:
        """Refuse settings that nothing would look at, before hours of other trainings."""
        refuse_unused(NETWORK, self.harmonizer.settings, where="harmonizer.settings")
        for name, settings in self.by_arm.items():
            where, kind = f"by_arm.{name}", ARMS[name].kind
            if kind == "none" and settings:
                raise wrong(where, ", ".join(settings), "no settings: nothing is trained for this arm", "leave it out")
            if kind != "none":
                refuse_unused(name if kind == "baseline" else NETWORK, settings, where=where)

    def _check_vendors(self) -> None:
        names = (*self.target, *self.sources, *self.unseen)
        where = "phantoms" if self.given is None else "given"
        if len({folded(name) for name in names}) < len(names):
            raise wrong(where, ", ".join(names), "every vendor once", "correct target, sources and unseen")
        if self.phantoms is None:
            return
        if not self.phantoms.sources:
            raise wrong(where, f"{self.phantoms.target} alone", "a target and at least one source", "name sources")
        for name in names:
            vendor(name)
        counts = self.phantoms.target_training, self.phantoms.training, self.phantoms.test
        # Trainings keep patients apart for validation, and pairs of the target need two patients.
        if min(counts) < 2:
            raise wrong(where, f"{counts} spines", "2 or more of each", "raise the numbers")

    @property
    def target(self) -> tuple[str, ...]:
        """Vendors of the target."""
        return (self.phantoms.target,) if self.phantoms is not None else self._given.target

    @property
    def sources(self) -> tuple[str, ...]:
        """Vendors that harmonizers are trained with; none: all others."""
        return self.phantoms.sources if self.phantoms is not None else self._given.sources

    @property
    def unseen(self) -> tuple[str, ...]:
        """Vendors that are tested only."""
        return self.phantoms.unseen if self.phantoms is not None else self._given.unseen

    @property
    def main(self) -> str:
        """Name of the segmenter that judges: S_Y."""
        return self.segmenter or next(iter(self.segmenters))

    @property
    def _given(self) -> GivenVendors:
        if self.given is None:
            msg = "an evaluation has phantoms or given scans"
            raise RuntimeError(msg)
        return self.given

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return to_dict(self)


def preset_names() -> list[str]:
    """Return the names of the evaluations that come with the package."""
    return names_in(PRESETS)


def read_config(preset: str, assignments: Sequence[str] = ()) -> HarmonizationConfig:
    """Return the configuration of a preset or a YAML file, with ``key=value`` put over it.

    Raises
    ------
    UsageError: an unknown preset or key, a wrong value; it names the file, or ``--set`` for what is not the file's.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        raise UsageError(
            "E-PRESET",
            file=f"--preset {preset}",
            found="no such evaluation",
            expected="a preset, or a YAML file in its place",
            fix=nearest(preset, preset_names()),
        )
    content = read_mapping(path)
    changed = copy.deepcopy(content)
    for assignment in assignments:
        set_by_path(changed, assignment)
    where = "--set" if assignments and not _same_fault(content, changed) else str(path)
    with naming_file(where):
        return load_config(HarmonizationConfig, changed, where=where)


def _same_fault(content: dict[str, Any], changed: dict[str, Any]) -> bool:
    """Whether what is wrong with a changed configuration was wrong before."""
    found = []
    for one in (content, changed):
        try:
            load_config(HarmonizationConfig, one)
        except UsageError as error:
            found.append(str(error))
        else:
            found.append("")
    return bool(found[1]) and found[0] == found[1]


def folded(vendor: str) -> str:
    """Return the name of a vendor as names are compared: without capitals, and spaces around it."""
    return vendor.strip().lower()


def is_trained(arm: str) -> bool:
    """Whether an arm is a network."""
    return ARMS[arm].kind == "cyclegan"


WHOLE = FULL
"""The arm that a given harmonizer takes the place of."""

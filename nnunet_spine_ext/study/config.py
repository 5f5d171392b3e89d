"""What a study is made of, as frozen dataclasses read from YAML; an unknown key is an error with the nearest name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.augment.profiles import LARGEST_SEVERITY, REFERENCE, parse_scanner, profile_names
from nnunet_spine_ext.core.config import (
    check_ranges,
    load_config,
    naming_file,
    nearest,
    read_mapping,
    set_by_path,
    to_dict,
)
from nnunet_spine_ext.core.device import BF16_VERSION, TrainingPrecision, check_device_name
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import names_in
from nnunet_spine_ext.study.faults import check_names, wrong
from nnunet_spine_ext.study.strategies import STRATEGIES
from nnunet_spine_ext.training.presets import read_preset

PRESETS = Path(__file__).parent / "presets"
TARGETS = tuple(name for name in profile_names() if name != REFERENCE)
_TRAININGS = tuple(dict.fromkeys(row.training for row in STRATEGIES.values()))
_LARGEST_BOOTSTRAP = 1_000_000
_SMALLEST_STEP = 0.05


@dataclass(frozen=True)
class PhantomData:
    """Digital spines: the same anatomy at every scanner.

    Parameters
    ----------
    training, test: spines at the source to train on, and others to test on at every scanner.
    validation: how many of `training` are kept out of training, for nnU-Net's own validation.
    pool: at most so many labelled spines at every scanner that is fine-tuned to; no more are made than three for each
        one of `samples.column`, or the largest of `samples.counts`. unlabelled: spines at each target scanner, without
        their masks, for adversarial training.
    protocol, region, spacing: as of `nnUNetv2_spine_phantom`; spacing (mm: in plane, in plane, between slices) is that
        of the source, targets follow by the ratio of their profiles.
    anomalies, pathologies: as of `nnUNetv2_spine_phantom`.
    sides: whether left and right processes are different classes. A network that sees sagittal slices one by one cannot
        tell them apart.
    seed: of the spines. Training, test, pool and unlabelled spines are never the same.
    """

    training: int = 24
    test: int = 12
    validation: int = 2
    pool: int = 50
    unlabelled: int = 4
    protocol: str = "t2w_sagittal"
    region: Literal["whole", "cervical", "thoracic", "lumbar"] = "whole"
    spacing: tuple[float, float, float] | None = None
    anomalies: str = "none"
    pathologies: bool = False
    sides: bool = True
    seed: int = 0


@dataclass(frozen=True)
class GivenData:
    """Images of your own, with reference masks: a raw dataset with `cases.json`.

    Parameters
    ----------
    dataset: folder ``DatasetXXX_Name``. part: ``Ts`` or ``Tr``: images and labels of this name are tested on.
    domain: key of cases.json that tells scanners apart, or several, joined by ``+``: ``manufacturer+field_strength``.
    source: the domain that the models were trained on, as it is written in the tables.
    simulate: no domains of its own: all images are the source, and the scanners of the study are simulated on them.
    """

    dataset: str
    part: Literal["Ts", "Tr"] = "Ts"
    domain: str = "manufacturer"
    source: str | None = None
    simulate: bool = False


@dataclass(frozen=True)
class Network:
    """How models are trained, by the commands of nnU-Net.

    Parameters
    ----------
    configuration: ``2d`` or ``3d_fullres``. preset: name or file of a preset of `nnUNetv2_spine_plan`.
    settings: assignments of `nnUNetv2_spine_plan --set` for all trainings. by_training: more of them, by the name of
        the training (`study.trainings`).
    """

    configuration: Literal["2d", "3d_fullres"] = "3d_fullres"
    preset: str | None = None
    settings: tuple[str, ...] = ()
    by_training: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Components:
    """Components of a shift one by one, and by twos.

    Parameters
    ----------
    profile: the scanner towards which each component goes. severities: of single components; 1 is the profile.
    single, pairs: whether they are measured; pairs at severity 1. test: on so many of the test spines; None: on all.
    """

    profile: str = "philips-1.5t"
    severities: tuple[float, ...] = (1.0,)
    single: bool = True
    pairs: bool = True
    test: int | None = None


@dataclass(frozen=True)
class Samples:
    """Fine-tuning with few cases.

    Parameters
    ----------
    scanner: of the curve. counts: numbers of cases, 0 being the model as it is. column: number of cases of the
        strategy ``finetuned`` in the table of strategies. everywhere: fine-tune to every scanner with so many, not
        only to `scanner`.
    """

    scanner: str = "ge-1.5t"
    counts: tuple[int, ...] = (0, 1, 5, 10, 50)
    column: int = 10
    everywhere: bool = False


@dataclass(frozen=True)
class Models:
    """Model folders that exist already, by the name of the training; those without are trained.

    `harmonizer` is a folder of `nnUNetv2_spine_harmonize train`, for the strategy ``harmonized``; it is never trained
    here, since its target has to be the source of the study.
    """

    source: str | None = None
    shift: str | None = None
    gin: str | None = None
    adversarial: str | None = None
    shift_dann: str | None = None
    harmonizer: str | None = None


@dataclass(frozen=True)
class StudyConfig:
    """A whole study.

    Parameters
    ----------
    phantoms, given: where images come from, one of them.
    scanners: targets, shipped profiles or ``PROFILE:component=severity``.
    strategies: names of `study.strategies.STRATEGIES`.
    seeds: of the trainings, and of the cases that are drawn for fine-tuning.
    device: as everywhere. step_size: overlap of windows, as in nnU-Net.
    precision: of networks, trained and predicting: ``fp32``, or ``auto``: bfloat16 on an x86 CPU that has it.
    folds, checkpoint: of given models.
    bootstrap: draws for intervals. budget: minutes; what would not end within them is not begun. None: no end.
    """

    phantoms: PhantomData | None = None
    given: GivenData | None = None
    models: Models = field(default_factory=Models)
    network: Network = field(default_factory=Network)
    scanners: tuple[str, ...] = TARGETS
    strategies: tuple[str, ...] = ("none", "match", "tta", "match+tta")
    components: Components = field(default_factory=Components)
    samples: Samples = field(default_factory=Samples)
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    step_size: float = 0.5
    precision: TrainingPrecision = "fp32"
    folds: tuple[str, ...] | None = None
    checkpoint: str = "checkpoint_final.pth"
    bootstrap: int = 2000
    budget: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be studied; the checks of data that is on disk come later."""
        if (self.phantoms is None) == (self.given is None):
            found = "neither phantoms nor given" if self.phantoms is None else "both phantoms and given"
            raise wrong("data", found, "one of them", "say where the images come from")
        check_device_name(self.device)
        check_names(self.strategies, STRATEGIES, "strategies")
        _check_scanners((*self.scanners, self.samples.scanner, self.components.profile))
        self._check_targets()
        check_names(self.network.by_training, _TRAININGS, "network.by_training")
        self._check_settings()
        for name in ("scanners", "strategies", "seeds"):
            _check_once(getattr(self, name), name)
        _check_once(self.components.severities, "components.severities")
        limits = {"step_size": (_SMALLEST_STEP, 1.0), "bootstrap": (0, _LARGEST_BOOTSTRAP)}
        check_ranges(self, limits | ({} if self.budget is None else {"budget": (0, float("inf"))}), where="study")
        if "none" not in self.strategies:
            raise wrong("strategies", ", ".join(self.strategies), "none among them", "add none: all are compared to it")
        severities = self.components.severities
        if not severities or not all(0 < value <= LARGEST_SEVERITY for value in severities):
            raise wrong("components.severities", str(list(severities)), f"above 0, to {LARGEST_SEVERITY:g}", "correct")
        self._check_counts()

    def _check_settings(self) -> None:
        """Refuse a precision that is no part of the keys by which finished steps are known."""
        network = self.network
        shared = to_dict(read_preset(network.preset)) if network.preset else {}
        places = [("network.preset or network.settings", shared, network.settings)]
        places += [(f"network.by_training.{name}", {}, own) for name, own in network.by_training.items()]
        for where, content, settings in places:
            for assignment in settings:
                set_by_path(content, assignment)
            train = content.get("train")
            if isinstance(train, dict) and "precision" in train:
                found = f"train.precision={train['precision']}"
                raise wrong(where, found, "one precision for the whole study", "leave it out, and set precision")

    def _check_targets(self) -> None:
        """Refuse targets under which nothing, or the source, would be tested."""
        if self.given is not None and not self.given.simulate:
            return
        texts = [parse_scanner(name).text for name in self.scanners]
        if not texts or REFERENCE in texts:
            found = f"the source, {REFERENCE}" if texts else "none"
            raise wrong("scanners", found, "scanners other than the source", f"choose among {', '.join(TARGETS)}")
        _check_once(texts, "scanners")
        curve = parse_scanner(self.samples.scanner).text
        if self.phantoms is not None and "finetuned" in self.strategies and curve not in texts:
            raise wrong(
                "samples.scanner", curve, f"a scanner that is tested on: {', '.join(self.scanners)}",
                "add it to scanners, or fine-tune to another one",
            )  # fmt: skip

    def _check_counts(self) -> None:
        counts = (*self.samples.counts, self.samples.column)
        if any(n < 0 for n in counts) or self.samples.column < 1 or not self.seeds or min(self.seeds) < 0:
            raise wrong("samples, seeds", f"{list(counts)}, {list(self.seeds)}", "numbers from 0", "correct them")
        if self.phantoms is None:
            return
        data = self.phantoms
        if data.training < 2 or data.test < 1 or not 1 <= data.validation < data.training:
            found = f"{data.training} training, {data.validation} validation, {data.test} test"
            raise wrong("phantoms", found, "2 or more to train on, fewer to validate, 1 or more to test", "correct")
        if "finetuned" in self.strategies and max(counts) > data.pool:
            raise wrong(
                "samples.counts", f"N = {max(counts)}", f"at most phantoms.pool = {data.pool}",
                "raise phantoms.pool, or leave the largest N out",
            )  # fmt: skip
        if self.components.test is not None and not 1 <= self.components.test <= data.test:
            raise wrong("components.test", str(self.components.test), f"1 to phantoms.test = {data.test}", "correct it")
        if {"adversarial"} & set(self.strategies) and data.unlabelled < 1 and self.models.adversarial is None:
            raise wrong("phantoms.unlabelled", "0", "spines of the targets for adversarial", "raise it")

    @property
    def bf16_version(self) -> int | None:
        """By what version of bfloat16 the networks compute on this machine; None: in single precision."""
        if self.precision == "fp32":
            return None
        from nnunet_spine_ext.networks.precision import computed_precision

        return BF16_VERSION if computed_precision(self.precision, self.device) == "bf16" else None

    @property
    def bf16_facts(self) -> dict[str, int]:
        """What decides a step in bfloat16 beside its own facts; nothing in single precision."""
        version = self.bf16_version
        return {} if version is None else {"bf16": version}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return to_dict(self)


def preset_names() -> list[str]:
    """Return the names of the studies that come with the package."""
    return names_in(PRESETS)


def read_config(source: str | Path | None, preset: str | None, assignments: Sequence[str] = ()) -> StudyConfig:
    """Return the configuration of a file or a preset, with ``key=value`` put over it.

    Raises
    ------
    UsageError: neither or both are given, an unknown preset or key, a wrong value.
    """
    if (source is None) == (preset is None):
        found = "neither a file nor --preset" if source is None else "a file and --preset"
        raise wrong("study", found, "one of them", "give a YAML file, or for example --preset cpu")
    if preset is not None and preset.endswith((".yaml", ".yml")):
        # As evaluations of harmonization take it.
        source, preset = preset, None
    if preset is not None and preset not in preset_names():
        raise UsageError(
            "E-PRESET",
            file=f"--preset {preset}",
            found="no such study",
            expected="a preset, or a YAML file in its place",
            fix=nearest(preset, preset_names()),
        )
    path = Path(source) if source is not None else PRESETS / f"{preset}.yaml"
    content = read_mapping(path)
    for assignment in assignments:
        set_by_path(content, assignment)
    with naming_file(path):
        return load_config(StudyConfig, content, where=str(path))


def digest(*facts: Any) -> str:
    """Return a short SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _check_scanners(names: Iterable[str]) -> None:
    for name in names:
        parse_scanner(name)


def _check_once(names: Sequence[str | float], where: str) -> None:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise wrong(where, f"{', '.join(twice)} twice", "each once", "leave one out")

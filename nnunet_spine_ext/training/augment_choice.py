"""Which augmentation is looked at: a configuration, scanner profiles or a single transform; or a record again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.scanner_mix import KEYS, ScannerMix
from nnunet_spine_ext.augment.transform import Transform, build
from nnunet_spine_ext.core.config import nearest, set_by_path
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training.augment_options import check_choice, wrong_option

if TYPE_CHECKING:
    from nnunet_spine_ext.training.augment_planned import PlannedTraining

DEFAULT_PRESET = "shift"
_SCANNER_KEYS = tuple(key for key in KEYS if key != "profiles")


@dataclass(frozen=True)
class Choice:
    """An augmentation for one context.

    `title`: for people. `facts`: plain JSON, with the hash of a configuration. `epoch`: the epoch that is shown.
    `plan`: returns what happens to one sample. `scanner`: which of several takes it; None where there are no several.
    """

    title: str
    facts: dict[str, Any]
    epoch: int
    plan: Callable[[SampleKey], Plan]
    scanner: Callable[[SampleKey], str] | None = None


def choose(
    context: Context,
    *,
    config: str | Path | None = None,
    profiles: Sequence[str] = (),
    transform: str | None = None,
    assignments: Sequence[str] = (),
    strength: float = 1.0,
    epoch: int | None = None,
    tissues: Mapping[int, str] | None = None,
    training: PlannedTraining | None = None,
) -> Choice:
    """Return what the options ask for; without any, what plans hold, else the preset that the trainers use.

    Parameters
    ----------
    config: a preset, or a YAML or JSON file. profiles: scanners as `parse_scanner` reads them; samples take turns
        (`scanner_mix`). transform: one transform, which then fires always.
    assignments: ``key=value``: settings of the transform, of the configuration (``order``, ``schedule.…``), or of the
        scanners (``jitter``, ``blend``, ``weights``, ``severity``, ``weighting``).
    strength: of everything but profiles, which have severities. epoch: of the training; None: the first in full.
    tissues: class of each label id for transforms whose own `classes` say nothing.
    training: by plans; configurations are shown as they act in it. None: shares of a training do not count.

    Raises
    ------
    UsageError: more than one of the three; unknown names (with the nearest); values that are impossible.
    """
    check_choice(config, profiles, transform, assignments, strength, epoch)
    settings: dict[str, Any] = {}
    fraction = None
    for assignment in assignments:
        set_by_path(settings, assignment)
    if profiles:
        return _scanners(context, profiles, settings, strength, epoch or 0, tissues)
    if transform is not None:
        chosen, title = _single(transform, settings), transform
    else:
        if training is not None and training.config is not None:
            loaded, title = training.config, training.title
        else:
            source = config or DEFAULT_PRESET
            loaded, title = AugmentConfig.load(source), Path(source).name
        chosen = _changed(loaded, settings)
        if training is not None:
            chosen, fraction = training.in_force(chosen), None if epoch is None else training.fraction(epoch)
    if tissues:
        chosen = _with_tissues(chosen, tissues)
    pipeline = Pipeline(chosen, context.at_strength(strength))
    shown = chosen.schedule.ramp_epochs if epoch is None else epoch
    facts = {"source": title, "hash": chosen.hash, "strength": strength, "config": chosen.to_dict()}
    facts |= {"full_strength": True} if epoch is None else {}
    return Choice(title, facts, shown, lambda key: pipeline.plan([key], fraction), _drawn(chosen))


def _single(name: str, settings: Mapping[str, Any]) -> AugmentConfig:
    return AugmentConfig((build(name, {"p": 1.0, **settings}, where="--transform"),))


def _changed(config: AugmentConfig, settings: Mapping[str, Any]) -> AugmentConfig:
    if not settings:
        return config
    merged = config.to_dict()
    for key, value in settings.items():
        if key == "transforms":
            raise wrong_option("--set transforms", "a list", "a configuration file, which --config reads")
        if key in _SCANNER_KEYS:
            fix = f"add --profile; in a configuration it is scanners.{key}"
            raise wrong_option(f"--set {key}", "a setting of scanners", "--profile beside it", fix)
        inner = merged.get(key)
        merged[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    return AugmentConfig.from_dict(merged, where="--set")


def _with_tissues(config: AugmentConfig, tissues: Mapping[int, str]) -> AugmentConfig:
    """Return a configuration whose transforms know tissues, where they did not say which labels have them."""
    classes = {str(label): name for label, name in tissues.items()}

    def told(entry: Transform) -> Transform:
        return replace(entry, classes=classes) if getattr(entry, "classes", "") is None else entry  # type: ignore[call-arg]

    return config.with_transforms(told)


def _scanners(
    context: Context,
    profiles: Sequence[str],
    settings: dict[str, Any],
    strength: float,
    epoch: int,
    tissues: Mapping[int, str] | None,
) -> Choice:
    if strength != 1:
        raise wrong_option("--strength", f"{strength:g} with --profile", "severities, such as ge-1.5t:all=0.5")
    for key in settings:
        if key not in _SCANNER_KEYS:
            raise UsageError(
                "E-CONFIG-KEY",
                file="--set",
                found=f"unknown key {key!r}",
                expected="an option of scanners",
                fix=nearest(key, _SCANNER_KEYS),
            )
    mix = ScannerMix.from_dict({**settings, "profiles": list(profiles)}, where="--profile, --set")
    chosen = AugmentConfig(scanners=mix)
    known = {str(label): name for label, name in (tissues or {}).items()}
    told = replace(context, tissues=tuple(tissues.items())) if tissues else context
    title, pipeline = ", ".join(scanner.text for scanner in mix.scanners), Pipeline(chosen, told)
    # Without a hash of the configuration: what tissues are known of counts, too.
    facts = {"source": title, "config": chosen.to_dict(), **({"classes": known} if known else {})}
    return Choice(title, facts, epoch, lambda key: pipeline.plan([key]), _drawn(chosen))


def _drawn(config: AugmentConfig) -> Callable[[SampleKey], str] | None:
    """Return what names the scanner of a sample, None where there are no several."""
    mix = config.scanners
    if mix is None or len(mix.names) < 2:
        return None
    return lambda key: mix.scanner(key).text

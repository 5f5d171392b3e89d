"""From keys to augmented batches: drawn on the host, packed into one copy, applied stage by stage on the device."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from nnunet_spine_ext.augment.batch import Batch
from nnunet_spine_ext.augment.config import AugmentConfig, Entry, Group
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.fitting import check_companions, check_config, check_tensors
from nnunet_spine_ext.augment.keys import SampleKey, batch_coin, coin, generator
from nnunet_spine_ext.augment.packing import Buffers, Packed, Packer
from nnunet_spine_ext.augment.profiles import Scanner
from nnunet_spine_ext.augment.scanner_config import scanner_config
from nnunet_spine_ext.augment.scanner_mix import ScannerMix
from nnunet_spine_ext.augment.transform import STAGES, Params, Transform, registry
from nnunet_spine_ext.core.errors import UsageError

RECORD_VERSION = 1
_LARGEST = 1e30


class Builder(Protocol):
    """Collects, on the host, what the transforms of one stage contribute for a batch.

    Made as `Builder(context, count)`; its other methods are what the transforms of the stage call.
    """

    def pack(self, packer: Packer) -> Any:
        """Add everything to the packer and return the program that `apply` of the stage reads; None: do nothing.

        The program is pickled with the plan: slots, indices of active samples, numbers; no tensors.
        """


class Stage(Protocol):
    """What a module stage_<name>.py offers."""

    Builder: type[Builder]

    def apply(self, batch: Batch, program: Any, buffers: Buffers) -> None:
        """Change the batch as the program says, without reading anything back from the device."""


@dataclass(frozen=True)
class Applied:
    """One transform that fired: its name and all it needs."""

    name: str
    params: Params


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that will happen to one batch; made on the host, sent to a device by `Pipeline.apply`."""

    context: Context
    keys: tuple[SampleKey, ...]
    samples: tuple[tuple[Applied, ...], ...]
    programs: Mapping[str, Any]
    packed: Packed

    @property
    def swapped(self) -> tuple[int, ...]:
        """Which samples were mirrored left to right, their sided labels exchanged; none without sided labels."""
        return cast("tuple[int, ...]", self.programs["warp"].swapped) if "warp" in self.programs else ()

    @property
    def record(self) -> dict[str, Any]:
        """Return what fired, per sample with all parameters, as plain JSON; `from_record` replays it."""
        samples = [
            {"key": key.to_dict(), "transforms": [{"name": a.name, "params": a.params} for a in applied]}
            for key, applied in zip(self.keys, self.samples, strict=True)
        ]
        return {"version": RECORD_VERSION, "context": self.context.to_dict(), "samples": samples}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], context: Context | None = None) -> Plan:
        """Make the plan of a record again: the same images give the same result, bit by bit on the same device.

        Raises
        ------
        UsageError: a record of another version, an incomplete one, or one that names an unknown transform.
        """
        if record.get("version") != RECORD_VERSION:
            found, expected = f"version {record.get('version')!r}", f"version {RECORD_VERSION}"
            raise UsageError("E-AUG-RECORD", file="record", found=found, expected=expected, fix="record it again")
        try:
            context = context or Context(**record["context"])
            keys = tuple(SampleKey(**sample["key"]) for sample in record["samples"])
            samples = tuple(
                tuple(Applied(item["name"], item["params"]) for item in sample["transforms"])
                for sample in record["samples"]
            )
            return assemble(context, keys, samples)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                "E-AUG-RECORD",
                file="record",
                found=f"something missing or of another kind ({error!r})",
                expected="what Plan.record returned",
                fix="record it again",
            ) from error


class Pipeline:
    """Applies a configuration to batches.

    Parameters
    ----------
    config: an `AugmentConfig`, or what `AugmentConfig.load` reads: a mapping, a file, the name of a preset.
    context: grid, spacing, channels and labels of the batches.

    Raises
    ------
    UsageError: the configuration is wrong, or names a channel, axis or label that the context lacks.
    """

    def __init__(self, config: AugmentConfig | Mapping[str, Any] | str, context: Context) -> None:
        self.config = config if isinstance(config, AugmentConfig) else AugmentConfig.load(config)
        self.context = context
        self._entries = tuple(_named(self.config))
        check_config(self.config, context)
        self._scanners = tuple(_scanner_pipelines(self.config, context))
        self._clean = None if self.config.clean is None else Pipeline(self.config.clean, context)

    def plan(self, keys: Sequence[SampleKey], epoch_fraction: float | None = None) -> Plan:
        """Draw what happens to a batch, one key per sample.

        `epoch_fraction`: part of the training that is over, 0-1; shares of it in the schedule need it.
        """
        keys = tuple(keys)
        return assemble(self.context, keys, tuple(self._draw(key, epoch_fraction) for key in keys))

    def apply(self, images: Tensor, labels: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """Apply a plan.

        Parameters
        ----------
        images: (B, C, *source_shape) of any real type; computed in float32, outside autocast, returned in the type
            given (integers: float32). Not changed.
        labels: (B, ≥1, *source_shape) or None; the first channel is the one that intensities depend on, -1 is outside.

        Raises
        ------
        UsageError: shapes that do not fit the context or the plan.
        """
        images, labels, _ = self.apply_with(images, labels, None, plan)
        return images, labels

    def apply_with(
        self, images: Tensor, labels: Tensor | None, companions: Tensor | None, plan: Plan
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Apply a plan, and its geometry alone to further channels.

        Parameters
        ----------
        images, labels: see `apply`.
        companions: (B, E, *source_shape) or None; interpolated linearly in float32, with 0 around them: soft labels.

        Raises
        ------
        UsageError: shapes that do not fit the context or the plan.
        """
        check_tensors(images, labels, plan.context, len(plan.samples))
        if companions is not None:
            check_companions(companions, images)
        dtype = images.dtype if images.dtype.is_floating_point else torch.float32
        with torch.autocast(images.device.type, enabled=False):
            batch = Batch(images.float(), labels, plan.context)
            batch.companions = None if companions is None else companions.float()
            buffers = plan.packed.to(images.device)
            for name, stage in _stages():
                # What the last stage restores is how the image was when only its geometry had changed.
                if name == "table" and "final" in plan.programs:
                    batch.remember()
                if name in plan.programs:
                    stage.apply(batch, plan.programs[name], buffers)
            return narrow(batch.images, dtype), batch.labels, batch.companions

    def __call__(
        self, images: Tensor, labels: Tensor | None, keys: Sequence[SampleKey], epoch_fraction: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Plan and apply."""
        return self.apply(images, labels, self.plan(keys, epoch_fraction))

    def _draw(self, key: SampleKey, fraction: float | None) -> tuple[Applied, ...]:
        schedule = self.config.schedule
        clean = schedule.closing(fraction) or (schedule.clean_share > 0 and coin(key, "clean") < schedule.clean_share)
        if clean and self._clean is not None:
            own = self._clean._draw(key, None)
        else:
            own = self._listed(key, fraction, clean=clean)
        return own if self.config.scanners is None else own + self._taken(key, self.config.scanners)

    def _listed(self, key: SampleKey, fraction: float | None, *, clean: bool) -> tuple[Applied, ...]:
        """Return what the configuration's transforms do to a sample, to a clean one those of clean stages."""
        schedule = self.config.schedule
        steady = self.context
        ramped = steady.at_strength(steady.strength * schedule.strength(key.epoch, fraction))
        drawn = []
        for position, (stream, transform) in enumerate(self._chosen(key, steady.strength, ramped.strength)):
            always = transform.stage in schedule.clean_stages
            if clean and not always:
                continue
            if transform.p_batch < 1 and batch_coin(key, f"p_batch/{stream}") >= transform.p_batch:
                continue
            rank = coin(key, f"order/{stream}") if self.config.order == "random" else position
            for name, channels in _channels(stream, transform, self.context):
                params = transform.sample(generator(key, name), steady if always else ramped)
                applied = Applied(transform.name, {**params, "channels": channels})
                drawn.append((STAGES.index(transform.stage), rank, applied))
        return tuple(applied for _, _, applied in sorted(drawn, key=lambda item: item[:2]))

    def _taken(self, key: SampleKey, scanners: ScannerMix) -> tuple[Applied, ...]:
        """Return what the scanner of a sample does; within a stage it comes after the configuration's transforms."""
        index = scanners.index(key)
        # Two scanners do not see the same noise: what a named one does is drawn for itself.
        own = key if key.scanner is None else replace(key, case=f"{key.case}/{scanners.names[index]}")
        if scanners.blend:
            return _scanner_pipeline(scanners.scanner(key), scanners, self.context)._draw(own, None)
        return self._scanners[index]._draw(own, None)

    def _chosen(self, key: SampleKey, steady: float, ramped: float) -> Iterator[tuple[str, Transform]]:
        """Yield the streams and transforms whose coin fell right, in the order of the configuration."""
        always = self.config.schedule.clean_stages
        for entry, members in self._entries:
            strength = steady if all(transform.stage in always for _, transform in members) else ramped
            if isinstance(entry, Group):
                yield from _from_group(key, entry, members, strength)
            else:
                stream, transform = members[0]
                if coin(key, f"p/{stream}") < _chance(transform, strength):
                    yield stream, transform


def assemble(context: Context, keys: tuple[SampleKey, ...], samples: tuple[tuple[Applied, ...], ...]) -> Plan:
    """Give the parameters of a batch to the builders of the stages and pack what they make of it; deterministic."""
    packer = Packer()
    programs: dict[str, Any] = {}
    builders: dict[str, Any] = {}
    for name, stage in _stages():
        builder = builders[name] = stage.Builder(context, len(samples))  # type: ignore[call-arg]
        for index, applied in enumerate(samples):
            for item in applied:
                transform = _replayed(item.name)
                if transform.stage == name:
                    transform.contribute(builder, index, item.params, context)
        if name == "noise":
            builders[name].follow(builders["axis"].work_of)
        program = builder.pack(packer)
        if program is not None:
            programs[name] = program
    return Plan(context, keys, samples, programs, packer.finish())


@cache
def _stages() -> tuple[tuple[str, Stage], ...]:
    """Return the stages that exist, in order."""
    package = __name__.rpartition(".")[0]
    names = [(name, f"{package}.stage_{name}") for name in STAGES]
    found: list[tuple[str, ModuleType]] = [
        (name, importlib.import_module(module)) for name, module in names if importlib.util.find_spec(module)
    ]
    return cast("tuple[tuple[str, Stage], ...]", tuple(found))


@cache
def _replayed(name: str) -> Transform:
    """Return a transform with default settings: `contribute` reads none of them."""
    known = registry()
    if name not in known:
        raise UsageError(
            "E-AUG-RECORD", file="record", found=f"no transform {name!r}", expected="a known one", fix="update"
        )
    return known[name]()


def _scanner_pipelines(config: AugmentConfig, context: Context) -> Iterator[Pipeline]:
    """Yield one pipeline per scanner of a configuration."""
    mix = config.scanners
    if mix is None:
        return
    for scanner in mix.scanners:
        yield _scanner_pipeline(scanner, mix, context)


def _scanner_pipeline(scanner: Scanner, mix: ScannerMix, context: Context) -> Pipeline:
    config = scanner_config(scanner, spacing=context.spacing, jitter=mix.jitter, weighting=mix.weighting)
    return Pipeline(config, context)


def _named(config: AugmentConfig) -> Iterator[tuple[Entry, tuple[tuple[str, Transform], ...]]]:
    flat = config.flat()
    for entry in config.transforms:
        yield entry, tuple(next(flat) for _ in range(len(entry.members) if isinstance(entry, Group) else 1))


def _chance(transform: Transform, strength: float) -> float:
    """Return the probability at a strength: what cannot be weaker is rarer, and nothing happens at zero."""
    if strength <= 0:
        return 0.0
    return transform.p if transform.graded else transform.p * min(1.0, strength)


def _from_group(
    key: SampleKey, group: Group, members: tuple[tuple[str, Transform], ...], strength: float
) -> Iterator[tuple[str, Transform]]:
    name = "+".join(stream for stream, _ in members)
    if strength <= 0 or coin(key, f"p/{name}") >= group.p:
        return
    rng = generator(key, f"group/{name}")
    weights = [transform.p for _, transform in members]
    number = 1 if group.count is None else min(round(group.count.sample(rng)), sum(w > 0 for w in weights))
    total = sum(weights)
    picked = rng.choice(len(members), size=number, replace=False, p=[w / total for w in weights])
    for position in sorted(int(i) for i in picked):
        stream, transform = members[position]
        if transform.graded or coin(key, f"strength/{stream}") < min(1.0, strength):
            yield stream, transform


def _channels(stream: str, transform: Transform, context: Context) -> list[tuple[str, list[int]]]:
    """Return the streams that draw, with the channels that each is for."""
    channels = list(range(context.channels)) if transform.channels == "all" else list(transform.channels)
    if not transform.per_channel or len(channels) == 1:
        return [(stream, channels)]
    return [(f"{stream}@{channel}", [channel]) for channel in channels]


def narrow(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the images in a type; what half precision cannot hold becomes its largest number, not infinity."""
    if images.dtype == dtype:
        return images
    limit = min(_LARGEST, torch.finfo(dtype).max)
    return images.clamp(-limit, limit).to(dtype)

"""The configuration of a pipeline: a list of transforms and groups, their order and a schedule; strict.

version: 1
order: config                       # or: random (within a stage, per sample)
schedule: {ramp_epochs: 50, clean_share: 0.25, closing_clean_share: 0.1}
transforms:
  - {name: gamma, p: 0.3, gamma: [0.7, 1.5]}
  - one_of: [{name: sqrt}, {name: exp}]
    p: 0.2
clean: nnunet                            # optional: what clean samples get, a preset, a file or a mapping
scanners: {profiles: [ge-3t, ge-1.5t]}   # optional; see `scanner_mix`
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.augment.file_kinds import refuse_other_kind
from nnunet_spine_ext.augment.ranges import Range
from nnunet_spine_ext.augment.scanner_mix import ScannerMix
from nnunet_spine_ext.augment.transform import STAGES, Transform, build
from nnunet_spine_ext.core.config import load_config, naming_file, nearest, read_mapping, to_dict
from nnunet_spine_ext.core.errors import UsageError

VERSION = 1
PRESETS = Path(__file__).parent / "presets"

_GROUP_KEYS = ("count", "one_of", "p", "some_of")


@dataclass(frozen=True)
class Schedule:
    """How strong and how often, over the training.

    `ramp_epochs`: epochs over which the strength rises from `start` to 1. `ramp_share`: the same as the first part of
    the training; of both the weaker counts. `clean_share`: part of the samples that get only the stages in
    `clean_stages`, or what `AugmentConfig.clean` says. `closing_clean_share`: last part of the training in which all
    samples do. `clean_stages` have their full strength from the first epoch on. Where the length of the training is
    unknown, shares of it do not count.
    """

    ramp_epochs: int = 0
    ramp_share: float = 0.0
    start: float = 0.0
    clean_share: float = 0.0
    closing_clean_share: float = 0.0
    clean_stages: tuple[str, ...] = ("warp",)

    def __post_init__(self) -> None:
        """Refuse shares outside 0-1 and unknown stages."""
        for name in ("ramp_share", "start", "clean_share", "closing_clean_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise _refuse(f"schedule: {name}", str(getattr(self, name)), "0 to 1")
        if self.ramp_epochs < 0:
            raise _refuse("schedule: ramp_epochs", str(self.ramp_epochs), "0 or more epochs")
        for stage in self.clean_stages:
            if stage not in STAGES:
                raise _refuse("schedule: clean_stages", repr(stage), "stages", nearest(stage, STAGES))

    def strength(self, epoch: int, fraction: float | None = None) -> float:
        """Return the strength in an epoch counted from 0: `start` in the first, 1 where the ramps have ended.

        `fraction`: part of the training that is over, 0-1, None: unknown.
        """
        risen = 1.0 if epoch >= self.ramp_epochs else max(0, epoch) / self.ramp_epochs
        if fraction is not None and fraction < self.ramp_share:
            risen = min(risen, fraction / self.ramp_share)
        return self.start + (1 - self.start) * risen

    def closing(self, fraction: float | None) -> bool:
        """Return whether a fraction of the training (None: unknown) lies in its clean end."""
        return fraction is not None and self.closing_clean_share > 0 and fraction >= 1 - self.closing_clean_share


@dataclass(frozen=True)
class Group:
    """With probability `p`, `count` of the members, each drawn without return in proportion to its own p."""

    members: tuple[Transform, ...]
    p: float = 1.0
    count: Range | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the group in the form the configuration is written in."""
        members = [member.to_dict() for member in self.members]
        if self.count is None:
            return {"one_of": members, "p": self.p}
        return {"some_of": members, "p": self.p, "count": self.count.plain()}


Entry = Transform | Group


@dataclass(frozen=True)
class AugmentConfig:
    """What a pipeline does; `hash` names it.

    `scanners`: every sample is also taken by one of them, whatever the schedule says; None: by none.
    `clean`: what clean samples get in place of `transforms`, at full strength; None: the stages in `clean_stages`.
    """

    transforms: tuple[Entry, ...] = ()
    order: Literal["config", "random"] = "config"
    schedule: Schedule = field(default_factory=Schedule)
    scanners: ScannerMix | None = None
    clean: AugmentConfig | None = None

    def __post_init__(self) -> None:
        """Refuse clean samples that would need a schedule, scanners or clean samples of their own."""
        clean = self.clean
        if clean is not None and clean != AugmentConfig(clean.transforms, clean.order):
            raise _refuse("clean", "a schedule, scanners or clean inside", "transforms and their order alone")

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any]) -> AugmentConfig:
        """Read a mapping, a YAML or JSON file, or a preset by its name.

        Raises
        ------
        UsageError: unknown preset, key or transform (with the nearest name), or an impossible value.
        """
        if isinstance(source, Mapping):
            return cls.from_dict(source)
        if not isinstance(source, str | Path):
            raise _refuse("augmentation", f"a {type(source).__name__}", "a mapping, a file or the name of a preset")
        path = _file_of(source)
        if path != Path(source):
            return cls.from_dict(read_mapping(path), where=f"preset {source}")
        with naming_file(source):
            return cls.from_dict(read_mapping(source), where=str(source), folder=path.parent)

    @classmethod
    def from_dict(
        cls, source: Mapping[str, Any], *, where: str = "augmentation", folder: Path | None = None
    ) -> AugmentConfig:
        """Read a mapping; see `load`. `folder`: where files of scanner profiles are looked for first."""
        known = ("clean", "order", "scanners", "schedule", "transforms", "version")
        refuse_other_kind(source, where, "configuration")
        _known_keys(source, known, where)
        if source.get("version", VERSION) != VERSION:
            raise _refuse(f"{where}: version", repr(source["version"]), str(VERSION))
        order = source.get("order", "config")
        if order not in ("config", "random"):
            fix = nearest(str(order), ("config", "random"))
            raise _refuse(f"{where}: order", repr(order), "a known order", fix)
        schedule = load_config(Schedule, _mapping(source.get("schedule") or {}, f"{where}: schedule"), where=where)
        items = source.get("transforms") or []
        if not isinstance(items, list | tuple):
            raise _refuse(f"{where}: transforms", type(items).__name__, "a list of transforms")
        entries = tuple(_entry(item, f"{where}: transforms[{i}]") for i, item in enumerate(items))
        mix = source.get("scanners")
        scanners = None if mix is None else ScannerMix.from_dict(mix, where=f"{where}: scanners", folder=folder)
        clean = source.get("clean")
        return cls(entries, order, schedule, scanners, None if clean is None else cls._read_clean(clean, where, folder))

    @classmethod
    def _read_clean(cls, source: Any, where: str, folder: Path | None) -> AugmentConfig:
        """Read what clean samples get: a preset, a file (looked for in `folder` first), or a mapping."""
        if isinstance(source, str | Path):
            beside = None if folder is None else folder / source
            path = beside if beside is not None and beside.is_file() else _file_of(source)
            where, source = f"{where}: clean: {source}", read_mapping(path)
        elif not isinstance(source, Mapping):
            expected = "a preset, a file, or a mapping with transforms"
            raise _refuse(f"{where}: clean", f"a {type(source).__name__}", expected)
        else:
            where = f"{where}: clean"
        schedule = load_config(Schedule, _mapping(source.get("schedule") or {}, f"{where}: schedule"), where=where)
        inside = [name for name in ("clean", "scanners") if source.get(name) is not None]
        inside += ["schedule"] if schedule != Schedule() else []
        if inside:
            found, fix = f"{', '.join(inside)} inside", "leave that out, or take a preset without it, such as nnunet"
            raise _refuse(where, found, "transforms and their order alone", fix)
        if "transforms" not in source:
            raise _refuse(where, "no transforms", "transforms, and if need be their order")
        return cls.from_dict(source, where=where)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, defaults included, as plain JSON that `load` reads."""
        # Left out where there are none: configurations from before there were any keep their hash.
        parts = {} if self.scanners is None else {"scanners": self.scanners.to_dict()}
        if self.clean is not None:
            own = self.clean.to_dict()
            parts["clean"] = {name: own[name] for name in ("version", "order", "transforms")}
        return {
            "version": VERSION,
            "order": self.order,
            "schedule": to_dict(self.schedule),
            "transforms": [entry.to_dict() for entry in self.transforms],
            **parts,
        }

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of everything in `to_dict`; equal for equal effect, however it was written.

        Of files that transforms read it is the content that counts, not the name.
        """
        text = json.dumps(self.with_content().to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_content(self) -> AugmentConfig:
        """Return the same with what is in files that transforms read in place of their names."""
        return self.with_transforms(lambda transform: transform.with_content())

    def with_transforms(self, change: Callable[[Transform], Transform]) -> AugmentConfig:
        """Return the same with every transform changed, those in groups and of clean samples too."""

        def changed(entry: Entry) -> Entry:
            if isinstance(entry, Group):
                return dataclasses.replace(entry, members=tuple(map(change, entry.members)))
            return change(entry)

        return self.with_entries(lambda entries: tuple(map(changed, entries)))

    def with_entries(self, change: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> AugmentConfig:
        """Return the same with `change` made to its transforms and to those of clean samples."""
        clean = None if self.clean is None else self.clean.with_entries(change)
        return dataclasses.replace(self, transforms=change(self.transforms), clean=clean)

    def flat(self) -> Iterator[tuple[str, Transform]]:
        """Yield every transform with its stream: its name, numbered from the second of the same name on.

        Those of clean samples come last and are numbered for themselves: a sample gets one list or the other.
        """
        seen: dict[str, int] = {}
        for entry in self.transforms:
            for transform in entry.members if isinstance(entry, Group) else (entry,):
                count = seen[transform.name] = seen.get(transform.name, 0) + 1
                yield transform.name if count == 1 else f"{transform.name}#{count}", transform
        if self.clean is not None:
            yield from self.clean.flat()

    def with_short_ramp(self, epochs: int) -> AugmentConfig:
        """Return the same with a ramp of at most a tenth of a training: presets count on a thousand epochs."""
        schedule = dataclasses.replace(self.schedule, ramp_epochs=min(self.schedule.ramp_epochs, epochs // 10))
        return dataclasses.replace(self, schedule=schedule)


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def no_preset(name: str) -> UsageError:
    """Return the error for a preset that is not there; says the nearest."""
    return UsageError(
        "E-CONFIG-VALUE",
        file="augmentation",
        found=f"no preset {name!r}",
        expected="a preset, or a .yaml or .json file",
        fix=nearest(name, preset_names()),
    )


def _file_of(source: str | Path) -> Path:
    """Return the file of a configuration, given as one or as the name of a preset; raises UsageError for no preset."""
    if isinstance(source, Path) or Path(source).suffix in (".yaml", ".yml", ".json"):
        return Path(source)
    path = PRESETS / f"{source}.yaml"
    if not path.is_file():
        raise no_preset(source)
    return path


def _entry(item: Any, where: str) -> Entry:
    item = _mapping(item, where)
    if "one_of" in item or "some_of" in item:
        return _group(item, where)
    if "name" not in item:
        raise _refuse(where, "no name", "name: <transform>, or a group one_of / some_of")
    return build(str(item["name"]), {k: v for k, v in item.items() if k != "name"}, where=where)


def _group(item: Mapping[str, Any], where: str) -> Group:
    _known_keys(item, _GROUP_KEYS, where)
    kind = "one_of" if "one_of" in item else "some_of"
    if "one_of" in item and ("some_of" in item or "count" in item):
        raise _refuse(where, "one_of together with some_of or count", "one of the two")
    listed = item[kind]
    if not isinstance(listed, list | tuple) or not listed:
        raise _refuse(f"{where}: {kind}", repr(listed), "a list of transforms")
    members = [_entry(member, f"{where}: {kind}[{i}]") for i, member in enumerate(listed)]
    transforms = tuple(member for member in members if isinstance(member, Transform))
    if len(transforms) != len(members):
        raise _refuse(f"{where}: {kind}", "a group in a group", "transforms")
    if sum(member.p for member in transforms) <= 0:
        raise _refuse(f"{where}: {kind}", "members that all have p = 0", "a member with p above 0")
    p = Range.parse(item.get("p", 1.0), limits=(0.0, 1.0), where=f"{where}: p")
    if p.kind != "constant":
        raise _refuse(f"{where}: p", repr(item["p"]), "a number")
    count = None
    if kind == "some_of":
        count = Range.parse(item.get("count", [1, len(members)]), limits=(0, len(members)), where=f"{where}: count")
    return Group(transforms, p.values[0], count)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(where, f"a {type(value).__name__}", "a mapping of names to values")
    return value


def _known_keys(source: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in source:
        if key not in known:
            raise UsageError(
                "E-CONFIG-KEY",
                file=where,
                found=f"unknown key {key!r}",
                expected="a known key",
                fix=nearest(str(key), known),
            )


def _refuse(where: str, found: str, expected: str, fix: str = "correct the value") -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix=fix)

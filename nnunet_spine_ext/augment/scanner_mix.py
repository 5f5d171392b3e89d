"""Simulated scanners as a part of a configuration: every sample is taken by one of them.

scanners:
  profiles: [nako-siemens-3t, ge-1.5t:noise=2, ge-3t..ge-1.5t@0.5]   # shipped names, files or whole profiles
  severity: {noise: 1.5, bias: 0}          # of each component, or one number for all
  weights: [2, 1, 1]
  blend: 0.2
  jitter: 0.2
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_spine_ext.augment.keys import SampleKey, coin, generator
from nnunet_spine_ext.augment.profiles import (
    LARGEST_SEVERITY,
    REFERENCE,
    Profile,
    Scanner,
    Severities,
    interpolate,
    load_profile,
    parse_scanner,
    profile_names,
)
from nnunet_spine_ext.core.config import load_config, nearest
from nnunet_spine_ext.core.errors import UsageError

_STREAM, _OTHER, _BLEND = "scanner-order", "scanner-other", "scanner-blend"
KEYS = ("blend", "jitter", "profiles", "severity", "weighting", "weights")
_NUMBERS = ("blend", "jitter", "severity")
# Beyond half the way a sample would be nearer to the other scanner than to its own, which is its domain.
_LARGEST_BLEND = 0.5


@dataclass(frozen=True)
class ScannerMix:
    """The scanners that samples are taken by: in turns, or as often as `weights` say.

    `profiles`: at least one, with names that differ. `severity`: how far to go from the reference to each, 0-4, in all
    components or in each of them. `jitter`: relative spread of what a scanner does between samples, 0-0.9. `weighting`:
    whether repetition and echo time apply; they are those of T2w images. `weights`: how often each scanner is drawn,
    relative to the others, one for each profile; None: they take turns. `blend`: largest part of the way to another
    scanner of the mix that a sample goes, 0-0.5.
    """

    profiles: tuple[Profile, ...]
    severity: float | Severities = 1.0
    jitter: float = 0.0
    weighting: bool = True
    weights: tuple[float, ...] | None = None
    blend: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a mix of nothing, names that occur twice, and numbers outside their limits."""
        names = self.names
        if not names:
            raise _refuse("profiles", "none", "at least one profile")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _refuse(
                "profiles",
                f"{', '.join(twice)} more than once",
                "profiles that each have a name of their own: name: in the file of one that was copied",
            )
        if not isinstance(self.severity, Severities) and not 0 <= self.severity <= LARGEST_SEVERITY:
            raise _refuse("severity", f"{self.severity:g}", f"0 to {LARGEST_SEVERITY:g}")
        if not 0 <= self.jitter <= 0.9:
            raise _refuse("jitter", f"{self.jitter:g}", "0 to 0.9")
        if not 0 <= self.blend <= _LARGEST_BLEND:
            raise _refuse("blend", f"{self.blend:g}", f"0 to {_LARGEST_BLEND:g}")
        given = self.weights
        if given is not None and not (len(given) == len(names) and min(given) >= 0 and 0 < sum(given) < math.inf):
            raise _refuse("weights", str(list(given)), f"{len(names)} of 0 or more, one of them above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the profiles: the domains of a sample, in order."""
        return tuple(profile.name for profile in self.profiles)

    @property
    def used(self) -> tuple[int, ...]:
        """Which scanners take samples: all that have no weight of 0."""
        return tuple(k for k in range(len(self.profiles)) if self.weights is None or self.weights[k] > 0)

    @cached_property
    def scanners(self) -> tuple[Scanner, ...]:
        """The scanners, in the order of the profiles."""
        reference = load_profile(REFERENCE)
        severe = self.severity if isinstance(self.severity, Severities) else Severities.all(self.severity)
        return tuple(Scanner(profile, severe, reference) for profile in self.profiles)

    def scanner(self, key: SampleKey) -> Scanner:
        """Return what takes a sample: its scanner or, with `blend`, what lies between that and another one."""
        own = self.scanners[self.index(key)]
        part = coin(key, _BLEND) * self.blend
        if part == 0 or not self._others(key):
            return own
        other = self.scanners[self.index(self.other(key))]
        # What lies between is found at the severities of the mix, so a component that is off stays off.
        return Scanner(interpolate(own.shifted, other.shifted, part), Severities(), own.reference)

    def index(self, key: SampleKey) -> int:
        """Return which scanner takes a sample.

        Without `weights`, samples that follow each other in an epoch go round all scanners, in an order that changes
        with every round: a batch of at most as many samples, whose number divides theirs, holds each scanner once at
        most. A key that names its scanner is taken by that one.

        Raises
        ------
        UsageError: a key that names a scanner which the mix does not have.
        """
        count = len(self.profiles)
        if key.scanner is not None:
            if not 0 <= key.scanner < count:
                raise _refuse("key", f"scanner {key.scanner}", f"0 to {count - 1}")
            return key.scanner
        if self.weights is not None:
            ends = list(itertools.accumulate(self.weights))
            place = coin(SampleKey(key.seed, "", key.epoch, key.draw), _STREAM) * ends[-1]
            return next(k for k, end in enumerate(ends) if place < end)
        turn = SampleKey(key.seed, "", key.epoch, key.draw // count)
        return int(generator(turn, _STREAM).permutation(count)[key.draw % count])

    def other(self, key: SampleKey) -> SampleKey:
        """Return the key of the same sample as another scanner takes it, drawn evenly from all others in use.

        Raises
        ------
        UsageError: the mix has no other scanner, or gives all others the weight 0.
        """
        others = self._others(key)
        if not others:
            raise _refuse("profiles", self.names[0], "two at least, for another one to be among them")
        return replace(key, scanner=others[int(coin(key, _OTHER) * len(others))])

    def _others(self, key: SampleKey) -> list[int]:
        """Return the scanners in use that do not take a sample, beginning with the one after its own."""
        own, count = self.index(key), len(self.profiles)
        order = [(own + step) % count for step in range(1, count)]
        return [k for k in order if k in self.used]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON: it means the same when shipped profiles have changed."""
        severe = asdict(self.severity) if isinstance(self.severity, Severities) else self.severity
        mixing: dict[str, Any] = {} if self.weights is None else {"weights": list(self.weights)}
        mixing |= {"blend": self.blend} if self.blend else {}
        return {
            "profiles": [profile.to_dict() for profile in self.profiles],
            "severity": severe,
            "jitter": self.jitter,
            "weighting": self.weighting,
            **mixing,
        }

    @classmethod
    def from_dict(cls, source: Any, *, where: str = "scanners", folder: Path | None = None) -> ScannerMix:
        """Read a mapping; its profiles are names, files or mappings, and all shipped ones where none are given.

        A name may have severities of its own and lie between two, as `profiles.parse_scanner` reads it. Files are
        looked for in `folder` first, that of the configuration.

        Raises
        ------
        UsageError: an unknown key or profile (says the nearest), an impossible value, or severities said twice.
        """
        if not isinstance(source, Mapping):
            raise _refuse("scanners", f"a {type(source).__name__}", f"a mapping of {', '.join(KEYS)}", where)
        for key in source:
            if key not in KEYS:
                known, fix = f"one of {', '.join(KEYS)}", nearest(str(key), KEYS)
                raise UsageError("E-CONFIG-KEY", file=where, found=f"unknown key {key!r}", expected=known, fix=fix)
        listed = source.get("profiles", profile_names())
        if not isinstance(listed, list | tuple):
            raise _refuse("profiles", type(listed).__name__, "a list of profiles", where)
        own = [item for item in listed if _composed(item, ":")]
        if own and source.get("severity", 1) != 1:
            found = f"a severity of all, and of its own in {', '.join(own)}"
            raise _refuse("severity", found, "one of the two", where)
        numbers: dict[str, Any] = {}
        for name in _NUMBERS:
            if name == "severity" and isinstance(source.get(name), Mapping):
                numbers[name] = load_config(Severities, source[name], where=f"{where}: severity")
            elif name in source:
                numbers[name] = _number(name, source[name], where)
        weights = source.get("weights")
        if weights is not None:
            if not isinstance(weights, list | tuple):
                raise _refuse("weights", repr(weights), "a list of numbers, one per profile", where)
            numbers["weights"] = tuple(_number("weights", value, where) for value in weights)
        weighting = source.get("weighting", True)
        if not isinstance(weighting, bool):
            raise _refuse("weighting", repr(weighting), "true or false", where)
        return cls(tuple(_profile(item, folder) for item in listed), weighting=weighting, **numbers)


def _profile(item: Any, folder: Path | None) -> Profile:
    """Read one item of `profiles`; severities of its own are worked into the profile."""
    if folder is not None and isinstance(item, str):
        name, colon, severities = item.partition(":")
        if (folder / name).is_file():
            item = f"{folder / name}{colon}{severities}"
    return parse_scanner(item).shifted if _composed(item, ":", "..") else load_profile(item)


def _composed(item: Any, *marks: str) -> bool:
    """Return whether an item of `profiles` has one of the marks, and not in the name of a file."""
    return isinstance(item, str) and any(mark in item for mark in marks) and not Path(item).is_file()


def _number(name: str, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(name, repr(value), "a number", where)
    return float(value)


def _refuse(what: str, found: str, expected: str, where: str = "scanners") -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=f"{where}: {what}", found=found, expected=expected, fix="correct it")

"""Simulated scanners as a part of a configuration: every sample is taken by one of them.

scanners:
  profiles: [nako-siemens-3t, ge-1.5t]     # shipped names, files or whole profiles
  severity: 1.0
  jitter: 0.2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnunet_spine_ext.augment.keys import SampleKey, coin, generator
from nnunet_spine_ext.augment.profiles import (
    LARGEST_SEVERITY,
    REFERENCE,
    Profile,
    Scanner,
    Severities,
    load_profile,
    profile_names,
)
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

_STREAM, _OTHER = "scanner-order", "scanner-other"
_KEYS = ("jitter", "profiles", "severity", "weighting")


@dataclass(frozen=True)
class ScannerMix:
    """The scanners that samples are taken by, each as often as the others.

    `profiles`: at least one, with names that differ. `severity`: how far to go from the reference to each, 0-4.
    `jitter`: relative spread of what a scanner does between samples, 0-0.9. `weighting`: whether repetition and echo
    time apply; they are those of T2w images.
    """

    profiles: tuple[Profile, ...]
    severity: float = 1.0
    jitter: float = 0.0
    weighting: bool = True

    def __post_init__(self) -> None:
        """Refuse a mix of nothing, names that occur twice, and numbers outside their limits."""
        names = self.names
        if not names or len(set(names)) < len(names):
            raise _refuse("profiles", ", ".join(names) or "none", "at least one profile, each with a name of its own")
        if not 0 <= self.severity <= LARGEST_SEVERITY:
            raise _refuse("severity", f"{self.severity:g}", f"0 to {LARGEST_SEVERITY:g}")
        if not 0 <= self.jitter <= 0.9:
            raise _refuse("jitter", f"{self.jitter:g}", "0 to 0.9")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the profiles: the domains of a sample, in order."""
        return tuple(profile.name for profile in self.profiles)

    @property
    def scanners(self) -> tuple[Scanner, ...]:
        """The scanners, in the order of the profiles."""
        reference = load_profile(REFERENCE)
        return tuple(Scanner(profile, Severities.all(self.severity), reference) for profile in self.profiles)

    def index(self, key: SampleKey) -> int:
        """Return which scanner takes a sample.

        Samples that follow each other in an epoch go round all scanners, in an order that changes with every round: a
        batch of at most as many samples, whose number divides theirs, holds each scanner once at most. A key that names
        its scanner is taken by that one.

        Raises
        ------
        UsageError: a key that names a scanner which the mix does not have.
        """
        count = len(self.profiles)
        if key.scanner is not None:
            if not 0 <= key.scanner < count:
                raise _refuse("key", f"scanner {key.scanner}", f"0 to {count - 1}")
            return key.scanner
        turn = SampleKey(key.seed, "", key.epoch, key.draw // count)
        return int(generator(turn, _STREAM).permutation(count)[key.draw % count])

    def other(self, key: SampleKey) -> SampleKey:
        """Return the key of the same sample as another scanner takes it, drawn from all others.

        Raises
        ------
        UsageError: the mix has one scanner.
        """
        if len(self.profiles) == 1:
            raise _refuse("profiles", self.names[0], "two at least, for another one to be among them")
        step = 1 + int(coin(key, _OTHER) * (len(self.profiles) - 1))
        return replace(key, scanner=(self.index(key) + step) % len(self.profiles))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON: it means the same when shipped profiles have changed."""
        return {
            "profiles": [profile.to_dict() for profile in self.profiles],
            "severity": self.severity,
            "jitter": self.jitter,
            "weighting": self.weighting,
        }

    @classmethod
    def from_dict(cls, source: Any, *, where: str = "scanners") -> ScannerMix:
        """Read a mapping; its profiles are names, files or mappings, and all shipped ones where none are given.

        Raises
        ------
        UsageError: an unknown key or profile (says the nearest), or an impossible value.
        """
        if not isinstance(source, Mapping):
            raise _refuse("scanners", f"a {type(source).__name__}", f"a mapping of {', '.join(_KEYS)}", where)
        for key in source:
            if key not in _KEYS:
                fix = nearest(str(key), _KEYS)
                raise UsageError("E-CONFIG-KEY", file=where, found=f"unknown key {key!r}", expected="one of", fix=fix)
        listed = source.get("profiles", profile_names())
        if not isinstance(listed, list | tuple):
            raise _refuse("profiles", type(listed).__name__, "a list of profiles", where)
        numbers = {name: source[name] for name in ("severity", "jitter") if name in source}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _refuse(name, repr(value), "a number", where)
        weighting = source.get("weighting", True)
        if not isinstance(weighting, bool):
            raise _refuse("weighting", repr(weighting), "true or false", where)
        profiles = tuple(load_profile(item) for item in listed)
        return cls(profiles, **{name: float(value) for name, value in numbers.items()}, weighting=weighting)


def _refuse(what: str, found: str, expected: str, where: str = "scanners") -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=f"{where}: {what}", found=found, expected=expected, fix="correct it")

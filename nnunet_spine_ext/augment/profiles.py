"""Scanner profiles: what is known of a scanner in physical units, and how far to go from the reference towards it.

A shift has six components, each with a severity: 0 leaves what the reference does, 1 is the profile, beyond 1 goes on
in the same direction.

field         field strength: relaxation times, and signal-to-noise in proportion to it
manufacturer  repetition and echo time, interpolation, filter and ringing of the reconstruction
noise         what is left of the noise, coils and their combination, parallel imaging
contrast      gain of the contrast between tissues
resolution    voxels and slices
bias          shading
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nnunet_spine_ext.augment.file_kinds import refuse_other_kind
from nnunet_spine_ext.core.config import load_config, naming_file, nearest, read_mapping
from nnunet_spine_ext.core.errors import UsageError

VERSION = 1
PROFILES = Path(__file__).parent / "profiles"
REFERENCE = "nako-siemens-3t"
COMPONENTS: tuple[str, ...] = ("field", "manufacturer", "noise", "contrast", "resolution", "bias")
LARGEST_SEVERITY = 4.0
# So many coils of an array share the noise of one place, a quarter of all: the others are too far away to add to it.
_COILS_SHARE, _COILS_AT_A_PLACE = 4, 8

Combination = Literal["adaptive", "squares"]


class Quantity(NamedTuple):
    """One number of a profile: its component, its limits, and whether steps are ratios (else differences)."""

    component: str
    low: float
    high: float
    ratio: bool = True


QUANTITIES: Mapping[str, Quantity] = {
    "field_strength": Quantity("field", 0.2, 7.0),
    "coils": Quantity("noise", 1, 64),
    "in_plane": Quantity("resolution", 0.1, 10.0),
    "slice": Quantity("resolution", 0.1, 20.0),
    "gap": Quantity("resolution", 0.0, 0.8, ratio=False),
    "noise": Quantity("noise", 1e-4, 1.0),
    "tr": Quantity("manufacturer", 10.0, 20000.0),
    "te": Quantity("manufacturer", 1.0, 400.0),
    "contrast": Quantity("contrast", 0.2, 5.0),
    "bias": Quantity("bias", 0.0, 1.9, ratio=False),
    "zero_fill": Quantity("manufacturer", 1.0, 4.0),
    "window": Quantity("manufacturer", 0.0, 1.0, ratio=False),
    "gibbs": Quantity("manufacturer", 1.0, 3.0),
    "g_factor": Quantity("noise", 1.0, 5.0),
}
"""The numbers of a profile by name."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A scanner with its sagittal T2w protocol.

    Parameters
    ----------
    field_strength: tesla. coils: receive channels. combination: "adaptive" gives Rician noise, "squares" (root of
        summed squares) that of `coils_at_a_place`.
    in_plane: acquired voxel in mm. slice: distance of slices in mm. gap: part of it that is not excited.
    noise: standard deviation relative to the 99th percentile of the image. g_factor: largest amplification.
    tr, te: ms, of a T2-weighted turbo spin echo.
    contrast: ratios of tissues are raised to this power. bias: peak-to-peak shading relative to its mean.
    zero_fill: acquired over reconstructed voxel. window: amount of the k-space filter, 0-1. gibbs: how much coarser
        the phase encoding is than the readout, whose sharp end rings.
    """

    name: str
    manufacturer: str
    field_strength: float
    coils: float
    in_plane: float
    slice: float
    noise: float
    tr: float
    te: float
    combination: Combination = "adaptive"
    gap: float = 0.1
    contrast: float = 1.0
    bias: float = 0.0
    zero_fill: float = 1.0
    window: float = 0.0
    gibbs: float = 1.0
    g_factor: float = 1.0
    description: str = ""
    version: int = VERSION

    def __post_init__(self) -> None:
        """Refuse another version and numbers outside their limits."""
        if self.version != VERSION:
            raise _refuse(f"profile {self.name}: version", str(self.version), str(VERSION))
        for name, quantity in QUANTITIES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and quantity.low <= value <= quantity.high):
                limits = f"{quantity.low:g} to {quantity.high:g}"
                raise _refuse(f"profile {self.name}: {name}", f"{value:g}", limits)

    @property
    def coils_at_a_place(self) -> int:
        """How many coils' noise adds up in a voxel, 1 where they are combined with their maps."""
        if self.combination == "adaptive" or self.coils < 2:
            return 1
        return min(_COILS_AT_A_PLACE, max(2, round(self.coils / _COILS_SHARE)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON that `load_profile` reads."""
        return asdict(self)


@dataclass(frozen=True)
class Severities:
    """How far to go in each component: 0 the reference, 1 the profile, at most 4."""

    field: float = 1.0
    manufacturer: float = 1.0
    noise: float = 1.0
    contrast: float = 1.0
    resolution: float = 1.0
    bias: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is negative or too large."""
        for name in COMPONENTS:
            if not 0 <= getattr(self, name) <= LARGEST_SEVERITY:
                raise _refuse(f"severity of {name}", str(getattr(self, name)), f"0 to {LARGEST_SEVERITY:g}")

    @classmethod
    def only(cls, component: str, severity: float = 1.0) -> Severities:
        """Return severities that are zero but for one component; UsageError for an unknown one."""
        return load_config(cls, {**dict.fromkeys(COMPONENTS, 0.0), component: float(severity)}, where="component")

    @classmethod
    def all(cls, severity: float) -> Severities:
        """Return the same severity for all components."""
        return cls(**dict.fromkeys(COMPONENTS, float(severity)))


@dataclass(frozen=True)
class Scanner:
    """A profile, how far to go towards it, and from where."""

    profile: Profile
    severities: Severities
    reference: Profile

    @property
    def shifted(self) -> Profile:
        """The profile at these severities; at severity 1 its numbers, at 0 those of the reference."""
        severity = {name: getattr(self.severities, name) for name in COMPONENTS}
        numbers: dict[str, Any] = {
            name: _between(name, getattr(self.reference, name), getattr(self.profile, name), severity[q.component])
            for name, q in QUANTITIES.items()
        }
        numbers["noise"] = self._noise(numbers["field_strength"], severity["noise"])
        nearer = self.profile if severity["noise"] > 0 else self.reference
        return replace(self.profile, name=self.text, combination=nearer.combination, **numbers)

    @property
    def text(self) -> str:
        """How the scanner is written; `parse_scanner` reads it again when the profile is a shipped one."""
        severe = asdict(self.severities)
        return self.profile.name + "".join(f":{name}={value:g}" for name, value in severe.items() if value != 1)

    def _noise(self, field_strength: float, severity: float) -> float:
        """The field explains noise in inverse proportion; the rest of the profile's noise is the noise component."""
        field = self.reference.field_strength / field_strength
        rest = self.profile.noise / self.reference.noise * self.profile.field_strength / self.reference.field_strength
        return _clipped("noise", self.reference.noise * field * rest**severity)


def profile_names() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(source: str | Path | Mapping[str, Any]) -> Profile:
    """Read a shipped profile by its name, or a profile from a YAML or JSON file or a mapping.

    Raises
    ------
    UsageError: unknown name or key (says the nearest), a missing key, a number outside its limits.
    """
    if isinstance(source, Mapping):
        return load_config(Profile, source, where="profile")
    if Path(source).suffix in (".yaml", ".yml", ".json"):
        with naming_file(source):
            content = read_mapping(source)
            refuse_other_kind(content, str(source), "profile")
            return load_config(Profile, content, where=str(source))
    path = PROFILES / f"{source}.yaml"
    if str(source) not in profile_names():
        raise UsageError(
            "E-AUG-PROFILE",
            file="profile",
            found=f"no scanner profile {str(source)!r}",
            expected="a shipped profile, or a .yaml file",
            fix=nearest(str(source), profile_names()),
        )
    return load_config(Profile, read_mapping(path), where=f"profile {source}")


def interpolate(first: Profile, second: Profile, part: float) -> Profile:
    """Return the profile between two: 0 is the first, 1 the second; ratios are interpolated in the logarithm.

    What is no number is that of the nearer one. Raises UsageError for a part outside 0-1.
    """
    if not 0 <= part <= 1:
        raise _refuse("part between two profiles", str(part), "0 to 1")
    numbers: dict[str, Any] = {
        name: _between(name, getattr(first, name), getattr(second, name), part) for name in QUANTITIES
    }
    nearer = first if part < 0.5 else second
    return replace(nearer, name=f"{first.name}..{second.name}@{part:g}", description="", **numbers)


def parse_scanner(text: str, *, reference: str | Path = REFERENCE) -> Scanner:
    """Read ``PROFILE[:component=severity…]``.

    PROFILE is a shipped name, a file, or ``first..second@part`` for what lies between two; ``all=severity`` sets all
    components, those named after it again.

    Raises
    ------
    UsageError: anything unknown, with the nearest name.
    """
    name, *settings = text.split(":")
    values = dict.fromkeys(COMPONENTS, 1.0)
    for setting in settings:
        key, equals, number = setting.partition("=")
        try:
            severity = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise _refuse(f"scanner {text}", repr(setting), "component=severity")
        if key == "all":
            values = dict.fromkeys(COMPONENTS, severity)
        else:
            values[key] = severity
    return Scanner(_profile(name), load_config(Severities, values, where=f"scanner {text}"), load_profile(reference))


def _profile(text: str) -> Profile:
    first, dots, rest = text.partition("..")
    second, at, part = rest.rpartition("@")
    if not dots or not at:
        return load_profile(text)
    try:
        return interpolate(load_profile(first), load_profile(second), float(part))
    except ValueError as error:
        raise _refuse(f"scanner {text}", repr(part), "a part from 0 to 1") from error


def _between(name: str, start: float, end: float, part: float) -> float:
    """Go a part of the way from one value to another, exact at 0 and 1, within the limits."""
    if part in (0, 1) or start == end:
        return end if part == 1 else start
    value = start * (end / start) ** part if QUANTITIES[name].ratio else start + (end - start) * part
    return _clipped(name, value)


def _clipped(name: str, value: float) -> float:
    quantity = QUANTITIES[name]
    return min(max(value, quantity.low), quantity.high)


def _refuse(where: str, found: str, expected: str) -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix="correct the value")

"""One entry of another tool's configuration while it is converted: no key of it goes by unnoticed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

Settings = dict[str, Any]
Group = Literal["GEO", "GE", "TA"]

SD_IN_SPAN = 0.23
"""Standard deviation of an image in parts of its signal's span: 0.16 to 0.35 in 27 spinal MR images of 10 kinds.

The other tools add noise to z-scored images, in units of that standard deviation; here it is in units of the span.
"""
MEAN_IN_SPAN = 0.21
"""Mean of an image above air, in parts of the span, in the same images."""

TECHNICAL = {
    "align_corners": "sampling of coordinates",
    "benchmark": "speed",
    "bg_style_seg_sampling": "interpolation of labels, which is by the nearest voxel",
    "border_mode_seg": "what lies outside is -1 in labels",
    "center_deformation": "cropping",
    "keepdim": "shape of tensors",
    "mode_image": "interpolation of images, which is trilinear",
    "mode_seg": "interpolation of labels, which is by the nearest voxel",
    "padding_mode_image": "what lies outside is air",
    "padding_value_image": "what lies outside is air",
    "padding_value_seg": "what lies outside is -1 in labels",
    "patch_center_dist_from_border": "cropping",
    "random_crop": "cropping",
    "resample": "interpolation of images, which is trilinear",
    "same_on_batch": "every sample is drawn for itself",
    "second_channel_is_labels": "labels are not channels",
}
"""Keys that say how something is computed, or concern the cropping of patches; they have no counterpart."""


@dataclass(frozen=True)
class Part:
    """One of our transforms with its settings; `share`: how often, of those that exclude each other."""

    name: str
    settings: Settings = field(default_factory=dict)
    share: float = 1.0


@dataclass(frozen=True)
class Made:
    """An entry of our configuration: parts of which one is drawn, or which all fire `together`, with probability p."""

    p: float
    parts: tuple[Part, ...]
    together: bool = False

    def to_entry(self) -> Settings:
        """Return the entry as the configuration is written."""
        if len(self.parts) == 1:
            return {"name": self.parts[0].name, "p": self.p, **self.parts[0].settings}
        if self.together:
            members = [{"name": part.name, "p": 1.0, **part.settings} for part in self.parts]
            return {"some_of": members, "p": self.p, "count": len(members)}
        return {"one_of": [{"name": part.name, "p": part.share, **part.settings} for part in self.parts], "p": self.p}

    def __str__(self) -> str:
        names = list(dict.fromkeys(part.name for part in self.parts))
        return " + ".join(names) if self.together else " or ".join(names)


class Block:
    """Reads one entry; remembers which keys were read and what has to be said about it.

    Parameters
    ----------
    place: how errors name the entry. given: its keys and values. defaults: every key that it may have.
    voxel: mm that a voxel is taken for where our transform knows millimetres only.
    """

    def __init__(self, place: str, given: Mapping[str, Any], defaults: Mapping[str, Any], voxel: float = 1.0) -> None:
        self.place = place
        self.given = given
        self.defaults = defaults
        self.voxel = voxel
        self.remarks: list[str] = []
        self.nothing = ""
        self._read: set[str] = set()

    def value(self, key: str) -> Any:
        """Return what is given, or the default where nothing or null is."""
        self._read.add(key)
        default = self.defaults[key]
        if key in self.given and self.given[key] is None and default is not None:
            self.remark(f"{key} is null, {default} is taken")
        value = self.given.get(key)
        return default if value is None else value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number within bounds."""
        return self._number(key, self.value(key), low, high)

    def numbers(self, key: str) -> list[float]:
        """Return a list of numbers; a single number is a list of one."""
        value = self.value(key)
        if not isinstance(value, list | tuple) or not value:
            return [self._number(key, value)]
        return [self._number(key, item) for item in value]

    def table(self, key: str) -> list[float]:
        """Return all numbers of a list of lists."""
        rows = self.value(key)
        if not all(isinstance(row, list | tuple) and row for row in rows):
            raise self.refuse(key, "lists of numbers")
        return [self._number(key, item) for row in rows for item in row]

    def pair(self, key: str) -> list[float]:
        """Return [low, high]; a single number is both."""
        values = self.numbers(key)
        if len(values) == 1:
            values *= 2
        if len(values) != 2 or values[0] > values[1]:
            raise self.refuse(key, "a number or [low, high]")
        return values

    def around(self, key: str, centre: float = 0.0) -> list[float]:
        """Return the bounds about a centre that a number means, or the pair that is given."""
        values = self.numbers(key)
        return [centre - abs(values[0]), centre + abs(values[0])] if len(values) == 1 else self.pair(key)

    def integers(self, key: str) -> list[int]:
        """Return a list of whole numbers, which may be empty."""
        value = self.value(key)
        items = [] if isinstance(value, list | tuple) and not value else self.numbers(key)
        if any(item != int(item) for item in items):
            raise self.refuse(key, "whole numbers")
        return [int(item) for item in items]

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self.value(key)
        if value not in (0, 1):
            raise self.refuse(key, "true or false")
        return bool(value)

    def chance(self, key: str) -> float:
        """Return a probability."""
        return self.number(key, 0.0, 1.0)

    def p(self) -> float:
        """Return how often the entry fires for a sample."""
        return self.chance("p") * (self.chance("p_batch") if "p_batch" in self.defaults else 1.0)

    def remark(self, text: str) -> None:
        """Say where the meaning differs."""
        if text not in self.remarks:
            self.remarks.append(text)

    def left_out(self, *keys: str) -> None:
        """Say which of the given keys have no counterpart in an entry that has one."""
        self._read.update(keys)
        given = [key for key in keys if self.given.get(key) is not None]
        if given:
            self.remark(f"no counterpart: {', '.join(given)}")

    def unknown(self) -> list[str]:
        """Return the keys that such an entry does not have, each with the nearest that it has."""
        return [f"{key} ({nearest(key, self.defaults)})" for key in self.given if key not in self.defaults]

    def technical(self) -> set[str]:
        """Return the given keys that say how something is computed."""
        return {key for key in self.given if key in TECHNICAL and key in self.defaults and key not in self._read}

    def unread(self) -> set[str]:
        """Return the known keys that nothing was done with; empty once an entry has been converted."""
        return set(self.defaults) - self._read - TECHNICAL.keys()

    def refuse(self, key: str, expected: str) -> UsageError:
        """Return the error about the value of a key."""
        found = self.given.get(key, self.defaults.get(key))
        return UsageError(
            "E-AUG-IMPORT-VALUE",
            file=f"{self.place}: {key}",
            found=repr(found),
            expected=expected,
            fix="correct the value in the file that is imported",
        )

    def _number(self, key: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.refuse(key, "a number")
        if not low <= value <= high:
            raise self.refuse(key, f"a number from {low:g} to {high:g}")
        return float(value)


Make = Callable[[Block], list[Made]]


@dataclass(frozen=True)
class Rule:
    """How one entry is converted: its keys with their defaults, and the function that does it.

    `group`: GEO, GE or TA, in the words of the other tool; a pipeline in random order treats them differently.
    """

    defaults: Mapping[str, Any]
    make: Make
    group: Group


class Rules(dict[str, Rule]):
    """The rules of one section by name, in the order in which the other tool applies them."""

    def add(self, name: str, defaults: Mapping[str, Any], group: Group) -> Callable[[Make], Make]:
        """Register the decorated function; it may serve several names."""

        def decorate(make: Make) -> Make:
            self[name] = Rule(defaults, make, group)
            return make

        return decorate

    def sort(self, names: Sequence[str]) -> list[str]:
        """Return known names in the order of the rules."""
        return [name for name in self if name in names]


def once(p: float, name: str, settings: Settings | None = None) -> list[Made]:
    """Return one entry with one transform."""
    return [Made(p, (Part(name, settings or {}),))]


def split(part: Part, *choices: tuple[float, Settings]) -> tuple[Part, ...]:
    """Return a part for each choice of settings; choices are (share, settings), those without share left out."""
    return tuple(
        Part(part.name, {**part.settings, **settings}, part.share * share) for share, settings in choices if share > 0
    )

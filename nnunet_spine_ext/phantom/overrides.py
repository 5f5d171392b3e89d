"""What a caller may fix instead of leaving it to chance: names, limits, and how findings are written in one word."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.phantom.model import Pathology
from nnunet_spine_ext.phantom.posture import CURVES

NUMBERS: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "age": (18, 100, "years"),
        "stature": (1.3, 2.2, "m"),
        "bmi": (14, 50, "kg/m²"),
        "lordosis": (0, 90, "degrees, L1-S1"),
        "kyphosis": (0, 90, "degrees, T1-T12"),
        "cervical": (-40, 60, "degrees, C2-C7"),
        "scoliosis": (0, 60, "degrees, Cobb"),
        "pelvic_incidence": (20, 90, "degrees"),
        "conus_level": (18.5, 22.5, "level, L1 = 20"),
        "cord_factor": (0.5, 1.5, "area relative to the mean"),
    }
)
"""Lowest and highest value, and what it is."""
COUNTS: Mapping[str, tuple[int, int]] = MappingProxyType({"thoracic": (11, 13), "lumbar": (4, 6)})
WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType({"sex": ("F", "M"), "scoliosis_type": tuple(CURVES)})
OVERRIDES: tuple[str, ...] = (*WORDS, *NUMBERS, *COUNTS, "findings")


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides with numbers as numbers and findings as a tuple of `Pathology`.

    Parameters
    ----------
    given: by name (`OVERRIDES`); numbers may be text; `findings` is a sequence of `Pathology` or text, see
        `parse_findings`.

    Raises
    ------
    UsageError: an unknown name, or a value outside its limits.
    """
    return {name: _value(name, value) for name, value in given.items()}


def parse_findings(text: str) -> tuple[Pathology, ...]:
    """Read ``kind:level[:severity[:side]]``, several of them with commas: ``fused:L3,protrusion:L4:0.7:L``.

    Raises UsageError for anything else; kinds and levels are checked when the findings are applied.
    """
    return tuple(_finding(word.strip()) for word in text.split(","))


def _value(name: str, value: Any) -> Any:
    if name in WORDS:
        if value not in WORDS[name]:
            raise _refused(name, value, f"one of {', '.join(WORDS[name])}")
        return str(value)
    if name in NUMBERS:
        low, high, meaning = NUMBERS[name]
        return _number(name, value, low, high, f"{low:g} to {high:g} ({meaning})")
    if name in COUNTS:
        least, most = COUNTS[name]
        number = _number(name, value, least, most, f"a whole number from {least} to {most}")
        if number != int(number):
            raise _refused(name, value, f"a whole number from {least} to {most}")
        return int(number)
    if name == "findings":
        return _findings(value)
    near = difflib.get_close_matches(name, OVERRIDES, n=1)
    raise UsageError(
        "E-PHANTOM-OVERRIDE",
        found=f"an override {name!r}",
        expected=f"one of {', '.join(OVERRIDES)}",
        fix=f"did you mean {near[0]!r}?" if near else "choose one of these",
    )


def _number(name: str, value: Any, low: float, high: float, expected: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        raise _refused(name, value, expected)
    return number


def _findings(value: Any) -> tuple[Pathology, ...]:
    if isinstance(value, str):
        return parse_findings(value)
    if not isinstance(value, Sequence) or not all(isinstance(item, Pathology) for item in value):
        raise _refused("findings", value, "a sequence of Pathology, or text such as fused:L3")
    for item in value:
        _number("findings", item.severity, 0, 1, "a severity from 0 to 1")
    return tuple(value)


def _finding(word: str) -> Pathology:
    parts = word.split(":")
    if not 2 <= len(parts) <= 4 or not all(parts[:2]):
        raise _refused("findings", word, "kind:level[:severity[:side]], such as fused:L3 or protrusion:L4:0.7:L")
    severity = _number("findings", parts[2], 0, 1, "a severity from 0 to 1") if len(parts) > 2 else 0.5
    return Pathology(parts[0], parts[1], severity, parts[3] if len(parts) > 3 else "")


def _refused(name: str, value: Any, expected: str) -> UsageError:
    return UsageError("E-PHANTOM-OVERRIDE", found=f"{name}={value}", expected=expected, fix="correct the value")

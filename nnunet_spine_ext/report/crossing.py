"""How far each case was from the training images, what was done about it, and how stable the answer was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_spine_ext.report.collect import Case
from nnunet_spine_ext.report.privacy import Redactor

Rows = list[list[str]]


def distance(case: Case, when: str = "before") -> tuple[float | None, str]:
    """Return the distance of a case from the training images, of the channel farthest away, and a remark on it.

    Parameters
    ----------
    when: ``before`` or ``after`` matching.
    """
    found = [
        (body, channel)
        for channel in _channels(case)
        if (body := _number(_table(channel.get(when)).get("body"))) is not None
    ]
    if not found:
        return None, ""
    body, channel = max(found, key=lambda item: item[0])
    if when == "after":
        return body, _done(case)
    inside = _table(channel.get(when)).get("in_distribution")
    if inside and any(_is_noisy(channel) for channel in _channels(case)):
        return body, "noisier than training scans"
    return body, "" if inside is None else "in distribution" if inside else "out of distribution"


def matched_distance(case: Case) -> tuple[float | None, str]:
    """Return the distance after matching, and the method or that the case was left alone; None without matching."""
    method = _table(case.crossing.get("intensity")).get("method", "none")
    value, remark = distance(case, "after")
    if method == "none" or value is None:
        return None, ""
    if not all(channel.get("skipped") for channel in _channels(case)):
        return value, remark
    return value, "only noise reduced" if any(_noise_left(channel) for channel in _channels(case)) else "left alone"


def lowest_stability(case: Case) -> tuple[float | None, str]:
    """Return the lowest Dice of a structure among the views of a case, and which structure it is."""
    found = {name: dice for name, (dice, _) in _stability(case).items() if dice is not None}
    if not found:
        return None, ""
    worst = min(found, key=lambda name: found[name])
    return found[worst], worst


def crossing_tables(case: Case, redactor: Redactor) -> list[dict[str, Any]]:
    """Return the tables about a case for the page's script: caption, heads, rows of text."""
    intensities = ["Channel", "Distance", "Limit", "Matching", "Distance after", "By structures"]
    noise = ["Channel", "Noise", "Usual", "Limit", "Noise after"]
    tables = (
        ("Intensities", intensities, _matching(case)),
        ("Noise, relative to the body's intensities", noise, _noise(case)),
        ("Harmonization", ["Entry", "Value"], _harmonization(case)),
        ("Stability among views", ["Structure", "Dice of views", "Variation of size"], _views(case)),
        ("Test-time training", ["Entry", "Value"], _adaptation(case)),
    )
    return [
        {"caption": caption, "head": head, "rows": [[redactor.text(cell) for cell in row] for row in rows]}
        for caption, head, rows in tables
        if rows
    ]


def _matching(case: Case) -> Rows:
    method = str(_table(case.crossing.get("intensity")).get("method", "none"))
    rows = []
    for number, channel in enumerate(_channels(case)):
        before, after = _table(channel.get("before")), _table(channel.get("after"))
        alone = "only noise reduced" if _noise_left(channel) else "left alone"
        done = f"{alone} ({channel.get('why', '')})" if channel.get("skipped") else _done(case)
        confidence = _number(channel.get("confidence"))
        shown = _text(confidence, 2) if method == "anchored" and not channel.get("skipped") else ""
        own, limit, left = (
            _text(_number(value)) for value in (before.get("body"), before.get("bar"), after.get("body"))
        )
        rows.append([str(number), own, limit, done, left, shown])
    return rows


def _noise(case: Case) -> Rows:
    rows = []
    for number, channel in enumerate(_channels(case)):
        told = _table(channel.get("noise"))
        level, usual, limit = (_text(_number(told.get(key))) for key in ("level", "usual", "limit"))
        if told:
            rows.append([str(number), level, usual, limit, _noise_left(channel) or "left alone"])
    return rows


def _noise_left(channel: Mapping[str, Any]) -> str:
    """Return the noise of a channel after it was reduced; empty where it was not."""
    left = _number(_table(channel.get("noise")).get("after"))
    return "" if left is None else _text(left)


def _is_noisy(channel: Mapping[str, Any]) -> bool:
    """Whether a channel is noisier than training scans may be, and nothing was done about it."""
    told = _table(channel.get("noise"))
    level, limit = _number(told.get("level")), _number(told.get("limit"))
    # Journals of earlier versions have no verdict.
    beyond = told.get("beyond", level is not None and limit is not None and level > limit)
    return bool(beyond) and not _noise_left(channel)


def _done(case: Case) -> str:
    """Return the matching that was done: another one than was asked for where that fell back."""
    told = _table(case.crossing.get("intensity"))
    return f"{told['fallback']} (fallback)" if "fallback" in told else str(told.get("method", ""))


def _harmonization(case: Case) -> Rows:
    told = _table(case.crossing.get("harmonization"))
    if not told:
        return []
    rows = [
        ["slices harmonized", f"{told.get('harmonized', '')} of {told.get('slices', '')}"],
        ["slices that the geometry gate did not pass", str(told.get("failed", ""))],
    ]
    for key, name in (("edge_correlation", "edge correlation"), ("agreement", "Dice of discs before and after")):
        value = _number(told.get(key))
        rows += [] if value is None else [[name, _text(value)]]
    change = _number(told.get("volume_change"))
    return rows if change is None else [*rows, ["change of the volume of discs", f"{change:+.1%}"]]


def _views(case: Case) -> Rows:
    return [[name, _text(dice), _text(variation)] for name, (dice, variation) in _stability(case).items()]


def _adaptation(case: Case) -> Rows:
    record = _table(case.crossing.get("adaptation"))
    if not record:
        return []
    rows = [["method", str(record.get("method", ""))], ["kept", "yes" if record.get("kept") else "no"]]
    for guard in record.get("guards") or ():
        facts = _table(guard)
        rows.append([str(facts.get("name", "guard")), ", ".join(f"{k} {v}" for k, v in facts.items() if k != "name")])
    return rows


def _stability(case: Case) -> dict[str, tuple[float | None, float | None]]:
    told = _table(_table(case.crossing.get("views")).get("stability"))
    return {
        str(name): (_number(_table(scores).get("dice")), _number(_table(scores).get("volume_cv")))
        for name, scores in told.items()
    }


def _channels(case: Case) -> Sequence[Mapping[str, Any]]:
    channels = _table(case.crossing.get("intensity")).get("channels")
    return [channel for channel in channels if isinstance(channel, Mapping)] if isinstance(channels, list) else []


def _table(content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _text(value: float | None, decimals: int = 3) -> str:
    return "" if value is None else f"{value:.{decimals}f}"

"""What a run says: tables by arm and test set, the goals with reached or missed, and the picture of areas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.evaluate.paired import compare_pairs
from nnunet_spine_ext.render.agreement import violins
from nnunet_spine_ext.render.drawing import Drawing
from nnunet_spine_ext.render.plots import Axis, Group
from softness.measures import MODES

BASELINE = "hard_all"
MAIN = "six"
LEAST_DICE = 0.80
"""Mean Dice below which a model has not learned its task: comparisons with it are void."""
ACTIVATIONS = ("clamp", "norm_relu")
Row = dict[str, Any]


def choose_activation(rows: Iterable[Row]) -> tuple[str, dict[str, float]]:
    """Return which map of a model counts, and the mean absolute difference from the soft ground truth that decides.

    Models of linear output are judged on the validation subjects, by both modes of measuring; others have one map.
    """
    rows = [row for row in rows if "areas" in row]
    names = set(rows[0]["areas"]) if rows else set()
    if "sigmoid" in names or not names & set(ACTIVATIONS):
        return ("sigmoid" if "sigmoid" in names else "mask"), {}
    judged = [row for row in rows if row["set"] == "validation" and "reference" in row]
    errors = {
        name: float(np.mean([abs(row["areas"][name][m] - row["reference"][m]) for row in judged for m in MODES]))
        for name in ACTIVATIONS
    }
    # Equal errors leave the one that does less.
    return min(ACTIVATIONS, key=lambda name: errors[name]), {k: round(v, 3) for k, v in errors.items()}


def marked(arm: str, seed: int, rows: Sequence[Row], choice: str) -> list[Row]:
    """Return rows with arm and seed, and `area` by mode of the map that counts."""
    return [
        {**row, "arm": arm, "seed": seed, "area": row["areas"][choice]} if "areas" in row else
        {**row, "arm": arm, "seed": seed}
        for row in rows
    ]  # fmt: skip


def spread(rows: Sequence[Row], mode: str, *, error: bool = False) -> dict[tuple[int, str], float]:
    """Return the standard deviation (ddof 1) over contrasts by seed and subject: of areas, or of their errors.

    Subjects with a single contrast have none.
    """
    table: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in rows:
        if "area" in row:
            table[row["seed"], row["subject"]].append(row["area"][mode] - (row["truth"] if error else 0.0))
    return {key: float(np.std(values, ddof=1)) for key, values in sorted(table.items()) if len(values) > 1}


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of one arm on one test set."""
    measured = [row for row in rows if "area" in row]
    result: dict[str, Any] = {"volumes": len(rows), "voxels_above_half": sum(row["above"] for row in rows)}
    for key in ("dice", "rve", "asd"):
        values = [row[key] for row in rows if row.get(key) is not None and measured]
        if values:
            result[key] = _moments(values)
    for mode in MODES if measured else ():
        errors = np.array([row["area"][mode] - row["truth"] for row in measured])
        result[mode] = {
            "std": _mean(spread(rows, mode).values()),
            "std_of_error": _mean(spread(rows, mode, error=True).values()),
            "error": _moments(np.abs(errors)),
            "bias": round(float(errors.mean()), 3),
        }
        known = [abs(row["area"][mode] - row["reference"][mode]) for row in measured if "reference" in row]
        if known:
            result[mode]["error_to_soft"] = _moments(known)
        result[mode]["by_contrast"] = _by_contrast(measured, mode)
    return result


def _by_contrast(rows: Sequence[Row], mode: str) -> dict[str, float]:
    table: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        table[row["contrast"]].append(row["area"][mode] - row["truth"])
    return {contrast: round(float(np.mean(values)), 3) for contrast, values in table.items()}


def _moments(values: Iterable[float]) -> list[float]:
    """Return mean and standard deviation (ddof 1)."""
    array = np.array(list(values), dtype=np.float64)
    return [round(float(array.mean()), 4), round(float(array.std(ddof=1)), 4) if len(array) > 1 else 0.0]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(float(np.mean(found)), 4) if found else None


def goals(rows: Sequence[Row], arm: str, mode: str) -> dict[str, Any]:
    """Return what one soft arm reaches against the baseline on the main set: each goal with its figures."""
    own, other = ([r for r in rows if r["arm"] == a and r["set"] == MAIN] for a in (arm, BASELINE))
    std, base = spread(own, mode), spread(other, mode)
    ratio = float(np.mean([*std.values()]) / np.mean([*base.values()])) if std and base else float("nan")
    pairs = _paired(own, other, mode)
    better = compare_pairs(pairs["base"], pairs["own"], "lower")
    dice = round(float(np.mean(pairs["dice"])), 4)
    learned = min(float(np.mean([row["dice"] for row in part])) for part in (own, other)) >= LEAST_DICE

    def verdict(fulfilled: bool) -> str:
        return ("reached" if fulfilled else "missed") if learned else "void"

    return {
        "std_half": {"ratio": round(ratio, 3), "goal": "<= 0.5", "verdict": verdict(ratio <= 0.5)},
        "error_lower": {
            "difference": round(better.mean_difference, 3), "p": _finite(better.p), "goal": "< 0",
            "verdict": verdict(better.mean_difference < 0),
        },
        "dice_not_worse": {"difference": dice, "goal": ">= 0.000", "verdict": verdict(round(dice, 3) >= 0)},
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _paired(own: Sequence[Row], other: Sequence[Row], mode: str) -> dict[str, list[float]]:
    """Return absolute errors of both, and differences of Dice: means by subject, as its contrasts are no own draws."""
    theirs = {(row["seed"], row["case"]): row for row in other}
    table: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for a in own:
        b = theirs.get((a["seed"], a["case"]))
        if b is not None:
            errors = [abs(row["area"][mode] - row["truth"]) for row in (a, b)]
            table[a["subject"]].append((errors[0], errors[1], a["dice"] - b["dice"]))
    means = [np.mean(rows, axis=0) for rows in table.values()]
    return {name: [float(mean[k]) for mean in means] for k, name in enumerate(("own", "base", "dice"))}


def summarise(rows: Sequence[Row], arms: Sequence[str]) -> dict[str, Any]:
    """Return goals by mode and arm, and whether volumes of noise and such without cord stay empty."""
    soft = [arm for arm in arms if arm.startswith("soft")]
    result: dict[str, Any] = {}
    if any(row["arm"] == BASELINE and row["set"] == MAIN for row in rows):
        result = {mode: {arm: goals(rows, arm, mode) for arm in soft} for mode in MODES}
    return result | {
        "empty_volume": _nothing(rows, arms, "empty"),
        "cord_free_volume": _nothing(rows, arms, "cord-free"),
    }


def _nothing(rows: Sequence[Row], arms: Sequence[str], name: str) -> dict[str, Any]:
    """Return how much was found where there is nothing, by arm."""
    found = {arm: [row["above"] for row in rows if row["arm"] == arm and row["set"] == name] for arm in arms}
    counts = {arm: sum(values) for arm, values in found.items() if values}
    reached = {arm: count == 0 for arm, count in counts.items() if arm.startswith("soft")}
    return {"voxels_above_half": counts, "goal": "0 for soft arms", "reached": reached}


def table(rows: Sequence[Row], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return `figures` by test set and arm."""
    sets = [name for name in dict.fromkeys(row["set"] for row in rows) if name != "validation"]
    result: dict[str, dict[str, Any]] = {}
    for name in sets:
        chosen = {arm: [r for r in rows if r["arm"] == arm and r["set"] == name] for arm in arms}
        result[name] = {arm: figures(found) for arm, found in chosen.items() if found}
    return result


def markdown(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables as text, areas in mm² and surface distances in mm."""
    lines = [
        "| set | arm | volumes | STD sct / pv | STD of error | error | bias | Dice | RVE % | ASD | voxels > .5 |",
        "|---" * 11 + "|",
    ]
    for name, arms in tables.items():
        for arm, found in arms.items():
            if "pv" not in found:
                lines.append(f"| {name} | {arm} | {found['volumes']} |" + " |" * 7 + f" {found['voxels_above_half']} |")
                continue
            both = [found[mode] for mode in MODES]
            cells = [
                " / ".join(_text(m["std"]) for m in both), " / ".join(_text(m["std_of_error"]) for m in both),
                " / ".join(_text(m["error"][0]) for m in both), " / ".join(f"{m['bias']:+.2f}" for m in both),
                f"{found['dice'][0]:.4f}", f"{found['rve'][0]:+.2f}" if "rve" in found else "-",
                f"{found['asd'][0]:.3f}" if "asd" in found else "-", "",
            ]  # fmt: skip
            lines.append(f"| {name} | {arm} | {found['volumes']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def times(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Return seconds of the processor per volume, by arm and contrast: as a user gets it, and without crop mode."""
    result: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if "seconds_whole" in row:
            pair = [round(sum(row[key].values()), 2) for key in ("seconds", "seconds_whole")]
            result.setdefault(row["arm"], {}).setdefault(row["contrast"], pair)
    return result


def real_table(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, per arm, seed and group of real images, the areas of the map that counts and their spread, by mode.

    Both modes are needed: `sct` divides every slice by its largest value, so that a map that is nowhere near 1 has an
    area like one that is; `pv` shows it.
    """
    lines = []
    for entry in found:
        for group in entry["real"]:
            contrasts = group["contrasts"]
            areas = {m: {c: row["areas"][entry["choice"]][m] for c, row in contrasts.items()} for m in MODES}
            manual = {c: row["manual"] for c, row in contrasts.items() if "manual" in row}
            line = {"arm": entry["arm"], "seed": entry["seed"], "group": group["group"], "note": group["note"]}
            line |= {"slices": {c: row["slices"] for c, row in contrasts.items()}}
            line |= {"areas": {m: {c: round(v, 2) for c, v in own.items()} for m, own in areas.items()}}
            line |= {"std": {m: _std([*own.values()]) for m, own in areas.items()}}
            line |= {"manual": {c: round(v, 2) for c, v in manual.items()}, "manual_std": _std([*manual.values()])}
            line |= {"dice": {c: row["dice"] for c, row in contrasts.items() if "dice" in row}}
            lines.append(line)
    return lines


def _std(values: Sequence[float]) -> float | None:
    return round(float(np.std(values, ddof=1)), 3) if len(values) > 1 else None


def picture(rows: Sequence[Row], arms: Sequence[str], mode: str) -> Drawing:
    """Draw the error of the area per contrast and arm on the main set, a dot per image."""
    own = [row for row in rows if row["set"] == MAIN and "area" in row]
    contrasts = list(dict.fromkeys(row["contrast"] for row in own))
    subjects = {name: number for number, name in enumerate(sorted({row["subject"] for row in own}))}
    groups = [
        Group(
            f"{contrast} {arm}",
            tuple(
                (subjects[row["subject"]], row["area"][mode] - row["truth"])
                for row in own
                if row["contrast"] == contrast and row["arm"] == arm
            ),
        )
        for contrast in contrasts
        for arm in arms
    ]
    axis = Axis("measured area minus true area", "mm²")
    return violins([group for group in groups if group.values], axis, f"Cord area by contrast and arm, mode {mode}")

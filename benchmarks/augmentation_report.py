"""The figures of `augmentation.py` as tables, ratios and goals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from augmentation_data import MAIN, Setting


def table(setting: Setting, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of one setting as lines."""
    lines = [f"\n{setting.name}: {max(r['seeds'] for r in rows.values())} seeds; * everything on"]
    lines.append(
        f"{'arm':24s}{'CPU ms':>9s}{'+-':>6s}{'expected':>10s}{'vol ops':>9s}{'passes':>8s}{'reads':>7s}"
        f"{'vol ops*':>10s}{'passes*':>9s}{'reads*':>8s}{'memory':>8s}  parts"
    )
    for name, row in rows.items():
        c, e = row["counts"], row["everything"]
        expected = f"{row['expected_cpu_ms']:.1f}" if "expected_cpu_ms" in row else "-"
        memory = "-" if row["peak_extra_batches"] is None else f"{row['peak_extra_batches']:.1f}"
        parts = " + ".join(f"{k} {v:.1f}" for k, v in row["parts"].items())
        lines.append(
            f"{name:24s}{row['cpu_ms']:9.1f}{row['cpu_ms_standard_error']:6.1f}{expected:>10s}"
            f"{c['volume_operations']:9.1f}{c['memory_passes']:8.1f}{c['host_reads']:7.1f}"
            f"{e['volume_operations']:10.1f}{e['memory_passes']:9.1f}{e['host_reads']:8.1f}{memory:>8s}  {parts}"
        )
    for name, row in rows.items():
        if "on_device" in row:
            for what, c in (("", row["on_device"]), (", everything on", row["on_device_everything"])):
                lines.append(
                    f"{name} on a device{what}: {c['volume_operations']:.1f} volume operations, "
                    f"{c['memory_passes']:.1f} passes, {c['host_reads']:.0f} reads"
                )
    for own, theirs in (
        ("ours_smauglab_default", "smauglab_default"), ("ours_smauglab_paper", "smauglab_paper"),
        ("ours_nnunet", "nnunet_default"),
    ):  # fmt: skip
        if own in rows and theirs in rows:
            lines.append(f"{theirs} / {own}: {ratio(rows, theirs, own)}")
    return "\n".join(lines)


def ratio(rows: Mapping[str, Mapping[str, Any]], theirs: str, own: str) -> dict[str, float]:
    """Return how many times more another arm costs."""
    found = {"mean": round(rows[theirs]["cpu_ms"] / rows[own]["cpu_ms"], 2)}
    if "expected_cpu_ms" in rows[own] and "expected_cpu_ms" in rows[theirs]:
        found["expected"] = round(rows[theirs]["expected_cpu_ms"] / rows[own]["expected_cpu_ms"], 2)
    return found


def goals(results: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every goal with its figure; without a figure where an arm is missing."""
    main = results.get(MAIN.name, {})
    found = []

    def add(goal: str, value: float | None, *, most: float | None = None, least: float | None = None) -> None:
        reached = None
        if value is not None:
            reached = (most is None or value <= most) and (least is None or value >= least)
        found.append({"goal": goal, "value": value, "reached": reached})

    for own, theirs, least, most in (
        ("ours_smauglab_default", "smauglab_default", 6.0, 44.0), ("ours_nnunet", "nnunet_default", 4.0, 27.0),
    ):  # fmt: skip
        both = own in main and theirs in main
        add(f"{own}: CPU-ms <= {most:g}", main[own]["cpu_ms"] if own in main else None, most=most)
        value = ratio(main, theirs, own) if both else {}
        add(f"{theirs} / {own}, mean >= {least:g}", value.get("mean"), least=least)
        add(f"{theirs} / {own}, expected >= {least:g}", value.get("expected"), least=least)
    for where, key in (("a processor", "everything"), ("a device", "on_device_everything")):
        shift = main.get("ours_shift", {}).get(key, {})
        add(f"ours_shift, everything on, {where}: host reads 0", shift.get("host_reads"), most=0)
        add(f"ours_shift, everything on, {where}: volume operations <= 25", shift.get("volume_operations"), most=25)
        add(f"ours_shift, everything on, {where}: memory passes <= 45", shift.get("memory_passes"), most=45)
    for name in ("ours_shift", "ours_smauglab_default"):
        cost = whole.get("label_cost_cpu_ms", {}).get(name, {})
        value = round(cost["50"] / cost["6"], 3) if {"6", "50"} <= cost.keys() else None
        add(f"{name}: cost at 50 labels / at 6, same seeds <= 1.05", value, most=1.05)
    physics = whole.get("checks", {}).get("ours")
    if physics:
        add("alias after 0.3 x resolution <= 0.01", max(physics["alias"].values()), most=0.01)
        add("error of the delivered blur <= 2 %", round(100 * abs(physics["blur_sd_requested_1"] - 1), 3), most=2)
        add("noisy air, mean / sd, 1.913 +- 0.01", physics["noisy_air"]["mean_over_sd"], least=1.903, most=1.923)
        add("spread of air under bias 0.5 <= 1.02", physics["air_spread_under_bias"], most=1.02)
        seeds = physics["reproducible"]
        add("same seed bit-equal, of all", seeds["same_seed"], least=seeds["number"])
        add("unchanged by the neighbour, of all", seeds["other_neighbour"], least=seeds["number"])
    return found

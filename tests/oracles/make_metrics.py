"""Compute reference values of metrics with other people's implementations, in an environment of their own.

    python tests/oracles/make_metrics.py --oracle panoptica --data DIR --fixture tests/fixtures/oracle_metrics.json

`make oracles` builds the environments and calls this for each. Only numbers, versions and hashes are stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import pairs

PACKAGES = {
    "panoptica": ("panoptica", "numpy", "scipy"),
    "surface-distance": ("Surface-Distance-Based-Measures", "numpy", "scipy"),
}
TOLERANCES = (0.0, 1.0, 2.0)
GROUPS = {"vertebra": (1, 100), "disc": (101, 200)}


def number(value: Any) -> float | str | None:
    """JSON has no NaN and no infinity: words instead."""
    if value is None:
        return None
    value = float(value)
    return value if math.isfinite(value) else str(value)


# --- panoptica ---------------------------------------------------------------------------------------------------


def panoptica_class(ref: np.ndarray, pred: np.ndarray, spacing: tuple[float, ...]) -> dict[str, Any]:
    from panoptica.metrics import Metric

    both = bool(ref.any()) and bool(pred.any())
    values = {"empty": [not ref.any(), not pred.any()]}
    if ref.any() or pred.any():
        values["dice"] = number(Metric.DSC(ref, pred))
        values["iou"] = number(Metric.IOU(ref, pred))
    if ref.any():
        values["rvd"] = number(Metric.RVD(ref, pred))
    if both:
        values["assd"] = number(Metric.ASSD(ref, pred, voxelspacing=spacing))
    return values


def panoptica_group(true: np.ndarray, found: np.ndarray, spacing: tuple[float, ...]) -> dict[str, Any]:
    from panoptica import InputType, Panoptica_Evaluator
    from panoptica.instance_matcher import NaiveThresholdMatching
    from panoptica.metrics import Metric

    evaluator = Panoptica_Evaluator(
        expected_input=InputType.UNMATCHED_INSTANCE,
        instance_matcher=NaiveThresholdMatching(matching_metric=Metric.IOU, matching_threshold=0.5),
        instance_metrics=[Metric.DSC, Metric.IOU, Metric.ASSD],
    )
    result = evaluator.evaluate(found, true, voxelspacing=spacing, verbose=False)["ungrouped"]
    names = ["tp", "fp", "fn", "rq", "sq", "pq", "sq_dsc", "sq_assd"]
    # Without instances on one side these divide by zero.
    names += ["prec"] if found.any() else []
    names += ["rec"] if true.any() else []
    values = {name: number(getattr(result, name)) for name in names}
    if values["tp"]:
        from panoptica.metrics import MetricMode

        values["dice_of_matches"] = sorted(float(v) for v in result.get_list_metric(Metric.DSC, MetricMode.ALL))
    return values


# --- surface-distance ----------------------------------------------------------------------------------------------


def surface_class(ref: np.ndarray, pred: np.ndarray, spacing: tuple[float, ...]) -> dict[str, Any]:
    import surface_distance as sd

    if not (ref.any() and pred.any()):
        return {"empty": [not ref.any(), not pred.any()]}
    found = sd.compute_surface_distances(ref, pred, spacing)
    there, back = sd.compute_average_surface_distance(found)
    return {
        "empty": [False, False],
        "average": [number(there), number(back)],
        "hd95": number(sd.compute_robust_hausdorff(found, 95)),
        "nsd": [number(sd.compute_surface_dice_at_tolerance(found, tolerance)) for tolerance in TOLERANCES],
    }


def surface_group(true: np.ndarray, found: np.ndarray, spacing: tuple[float, ...]) -> dict[str, Any]:
    """Distances for every pair of instances whose IoU exceeds one half (then it is the match)."""
    rows = {}
    for own in np.unique(true[true > 0]).tolist():
        for other in np.unique(found[(true == own) & (found > 0)]).tolist():
            r, p = true == own, found == other
            if (r & p).sum() > 0.5 * (r | p).sum():
                found_here = surface_class(r, p, spacing)
                del found_here["empty"]
                rows[str(own)] = {"pred": other, **found_here}
    return rows


def surface_areas() -> dict[str, list[float]]:
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area as table

    return {"x".join(map(str, spacing)): table(spacing).tolist() for spacing in pairs.SPACINGS}


# --- both ------------------------------------------------------------------------------------------------------------


def score(oracle: str, pair: dict[str, Any]) -> dict[str, Any]:
    score_class, score_group = (
        (panoptica_class, panoptica_group) if oracle == "panoptica" else (surface_class, surface_group)
    )
    content: dict[str, Any] = {"spacing": list(pair["spacing"])}
    if "ref" in pair:
        ref, pred = pair["ref"], pair["pred"]
        labels = sorted({*np.unique(ref).tolist(), *np.unique(pred).tolist()} - {0}) or [1]
        content["classes"] = {str(v): score_class(ref == v, pred == v, pair["spacing"]) for v in labels}
    if "true" in pair:
        content["groups"] = {}
        for name, (low, high) in GROUPS.items():
            true, found = (np.where((a >= low) & (a < high), a, 0) for a in (pair["true"], pair["found"]))
            content["groups"][name] = score_group(true.astype(np.uint16), found.astype(np.uint16), pair["spacing"])
    return content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", required=True, choices=PACKAGES)
    parser.add_argument("--data", type=Path, help="folder of real masks (NNUNET_SPINE_TEST_DATA); left out without it")
    parser.add_argument("--fixture", type=Path, required=True)
    args = parser.parse_args()

    section: dict[str, Any] = {
        "command": f"python tests/oracles/make_metrics.py --oracle {args.oracle}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES[args.oracle]}},
        "nsd_tolerances_mm": list(TOLERANCES),
        "random": [],
        "real": [],
    }
    for seed in range(pairs.N_RANDOM):
        pair = pairs.random_pair(seed)
        section["random"].append({"seed": seed, "sha256": pairs.digest(pair), **score(args.oracle, pair)})
    for row in pairs.REAL if args.data else ():
        hashes = {f"{side}_sha256": sha256(args.data / row[side]) for side in ("ref", "pred")}
        section["real"].append({"name": row["name"], **hashes, **score(args.oracle, pairs.real_pair(row, args.data))})
    if args.oracle == "surface-distance":
        section["surfel_areas"] = surface_areas()

    content = json.loads(args.fixture.read_text()) if args.fixture.exists() else {}
    if not section["real"]:
        section["real"] = content.get(args.oracle, {}).get("real", [])
    content[args.oracle] = section
    args.fixture.write_text(json.dumps(dict(sorted(content.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

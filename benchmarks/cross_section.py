"""Cord area: how fast both modes are, and how near to the truth of an ellipse, soft and hard.

    python benchmarks/cross_section.py --out DIR [--quick] [--sct CHECKOUT]

Times are CPU seconds for a synthetic cord of 300 slices. The errors are those of single slices (largest) and of their
mean, for voxels of 0.5 to 1.5 mm and tilts of 0 to 20 degrees; the first and last slices are left out. With `--sct`,
the path of a checkout of the Spinal Cord Toolbox, its own `compute_shape` measures the same cord and is timed beside
ours; without it that row is absent. The last line is the summary; the exit code is 1 when mode pv is off by more than
0.3 %.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure import cross_sectional_area

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from section_builder import exact_cord

RADII = (6.5, 4.5)
TRUTH = np.pi * RADII[0] * RADII[1]
LIMIT_PERCENT = 0.3
SIZES = (0.5, 0.8, 1.0, 1.5)
TILTS = ((0, 0), (10, 0), (20, 0), (0, 20), (14, 14))
REPEATS = 5
_ENDS = 3


def seconds(work: Callable[[], Any]) -> float:
    """Return the least CPU time of a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def long_cord(slices: int) -> Volume:
    """Return a tilted cord of 1 mm in a volume of usual size, soft, repeated along its axis."""
    cord = exact_cord(RADII, (1.0, 1.0, 1.0), (8, 5), length=slices, samples=3)
    return cord.to("PIR")


def timing(slices: int, sct: Path | None) -> dict[str, Any]:
    """Return CPU seconds per case and slices per second of every way to measure."""
    cord = long_cord(slices)
    ways: dict[str, Callable[[], Any]] = {
        f"{mode}{'' if form else ', area only'}": lambda mode=mode, form=form: cross_sectional_area(
            cord, mode=mode, form=form
        )
        for mode in ("sct", "pv")
        for form in (True, False)
    }
    if sct is not None:
        ways["Spinal Cord Toolbox"] = toolbox(sct, cord)
    cross_sectional_area(cord)
    found = {}
    for name, work in ways.items():
        took = seconds(work)
        found[name] = {"cpu_s_per_case": round(took, 4), "slices_per_s": round(slices / took)}
    return {"slices": slices, "shape": list(cord.shape), "ways": found}


def toolbox(checkout: Path, cord: Volume) -> Callable[[], Any]:
    """Return the toolbox' own measurement of a cord; see tests/oracles/make_cord_area.py."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracles"))
    from make_cord_area import SMOOTHING, toolbox_of

    process_seg, param = toolbox_of(checkout, SMOOTHING)
    path = Path(tempfile.mkdtemp()) / "cord.nii.gz"
    write_volume(cord, path)
    return lambda: process_seg.compute_shape(str(path), param_centerline=param, verbose=0)


def accuracy(samples: int) -> list[dict[str, Any]]:
    """Return the errors in percent of each mode, for exact partial volumes and for hard masks."""
    rows = []
    for size in SIZES:
        for tilt in TILTS:
            row: dict[str, Any] = {"voxel_mm": size, "tilt_deg": list(tilt)}
            for soft in (True, False):
                cord = exact_cord(RADII, (size,) * 3, tilt, length=30, samples=samples, soft=soft)
                for mode in ("pv", "sct"):
                    area = cross_sectional_area(cord, mode=mode, form=False).area[_ENDS:-_ENDS]
                    error = 100 * (area / TRUTH - 1)
                    kind = f"{'soft' if soft else 'hard'}_{mode}"
                    row |= {f"{kind}_max": round(float(np.abs(error).max()), 3)}
                    row |= {f"{kind}_mean": round(float(error.mean()), 3)}
            rows.append(row)
    return rows


def _conditions() -> dict[str, Any]:
    """Return what a reader needs to repeat it."""
    names = ("numpy", "scipy", "nnunet_spine_ext")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def main() -> None:
    """Measure, write the record, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for cross_section.json")
    parser.add_argument("--quick", action="store_true", help="coarser partial volumes")
    parser.add_argument("--sct", type=Path, help="checkout of the Spinal Cord Toolbox to time beside")
    parser.add_argument("--record", type=Path, help="also write the result to this JSON file")
    arguments = parser.parse_args()
    rows = accuracy(6 if arguments.quick else 8)
    kinds = [key for key in rows[0] if key.endswith("_max")]
    worst = {kind: max(row[kind] for row in rows) for kind in kinds}
    means = {
        kind.replace("_max", "_mean"): max(abs(row[kind.replace("_max", "_mean")]) for row in rows) for kind in kinds
    }
    summary = {"time": timing(300, arguments.sct), "worst_slice_percent": worst, "worst_mean_percent": means}
    result = {"summary": summary, "conditions": _conditions(), "accuracy": rows}
    write_json(arguments.out / "cross_section.json", result)
    if arguments.record:
        write_json(arguments.record, result)
    print(json.dumps(summary))
    sys.exit(0 if worst["soft_pv_max"] <= LIMIT_PERCENT else 1)


if __name__ == "__main__":
    main()

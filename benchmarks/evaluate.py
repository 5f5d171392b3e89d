"""Time of the evaluation beside panoptica's, same masks, same metrics, same run, each in an environment of its own.

    python benchmarks/evaluate.py --out DIR [--repeats 7] [--quick]

The pair is a digital whole spine of 10 million voxels (14 classes; vertebrae, sacrum, discs and endplates) and a
distorted copy of it with a missing disc and speckles. Both sides start from arrays in memory, in processes of one
thread that take turns; seconds of the processor count, because machines are shared. Overlap, volume and the ASSD of
boundary voxels per class; RQ, SQ, PQ, Dice and ASSD per kind of instance. panoptica gets its default speed settings,
with all classes in one evaluator, which is its faster way. The values must agree, else the script fails.
Needs `make oracles`, or at least `make .oracles/panoptica/.installed`. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Runs in panoptica's environment too: nothing of the project may be imported here.
GOAL = 2.0
SHAPE = (232, 920, 48)
KINDS = {
    "vertebra": (*range(1, 26), 28),
    "sacrum": (26, 27, *range(29, 34)),
    "disc": tuple(range(101, 134)),
    "endplate": tuple(range(201, 234)),
}
Values = dict[str, float]


def cpu_seconds() -> float:
    """Return the seconds of the processor of this process and its children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


# --- the pair --------------------------------------------------------------------------------------------------------


def make_pair(path: Path) -> None:
    """Write ref, pred, true, found (i, j, k) and spacing; PIR, cut to `SHAPE` around the spine."""
    from scipy.ndimage import map_coordinates, zoom

    from nnunet_spine_ext.phantom.protocols import protocol
    from nnunet_spine_ext.phantom.scan import ScanRequest, scan_subject

    spacing = (0.8, 0.8, 1.6)
    request = ScanRequest((protocol("t2w_sagittal").with_spacing(spacing),), seed=0, supersample=1)
    scan = scan_subject(request, 0)[0]
    ref, true = (_cut(volume.array, scan.semantic.array) for volume in (scan.semantic, scan.instances))
    rng = np.random.default_rng(0)
    shape = ref.shape
    grid = list(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij", copy=True))
    for axis in range(3):
        # Borders move by about a millimetre, smoothly over 12 mm.
        knots = [max(3, round(n * size / 12)) for n, size in zip(shape, spacing, strict=True)]
        field = rng.normal(size=knots).astype(np.float32) / spacing[axis]
        grid[axis] += zoom(field, [n / k for n, k in zip(shape, knots, strict=True)], order=1)
    pred, found = (map_coordinates(array, grid, order=0, mode="nearest") for array in (ref, true))
    speckles = rng.random(shape) < 0.002
    pred[speckles], found[speckles] = 0, 0
    found[found == 122] = 0
    np.savez(path, ref=ref, pred=pred, true=true, found=found, spacing=np.asarray(spacing))


def _cut(array: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cut or pad to `SHAPE`, centred on the labels."""
    for axis, size in enumerate(SHAPE):
        used = np.flatnonzero(labels.any(axis=tuple(k for k in range(3) if k != axis)))
        start = max(0, min((used[0] + used[-1] + 1 - size) // 2, array.shape[axis] - size))
        array = array.take(range(start, min(start + size, array.shape[axis])), axis=axis)
    room = [(0, size - n) for size, n in zip(SHAPE, array.shape, strict=True)]
    return np.ascontiguousarray(np.pad(array, room))


# --- both sides ------------------------------------------------------------------------------------------------------


def ours(pair: dict[str, Any], names: tuple[str, ...] | None = None, *, regions: bool = False) -> Callable[[], Values]:
    # Imported before the clock starts, as panoptica does.
    import scipy.ndimage
    import scipy.spatial  # noqa: F401

    from nnunet_spine_ext.evaluate.registry import METRICS, select
    from nnunet_spine_ext.evaluate.scoring import Settings, score_classes, score_instances
    from nnunet_spine_ext.evaluate.structures import Structure

    names = names or (
        "dice", "iou", "relative_volume_error", "assd_voxel", "rq", "sq", "pq", "instance_dice", "instance_assd_voxel",
    )  # fmt: skip
    chosen = (tuple(select(names, scope)) for scope in ("class", "group", "level"))
    settings = Settings(*chosen, 1.0, 0.5, "spineps", regions=regions)
    classes = [Structure.of_label(label, str(label)) for label in range(1, 15)]
    for name in names:
        METRICS[name].resolve()

    def run() -> Values:
        true = pair["true"] if regions else None
        rows = score_classes("", pair["ref"], pair["pred"], classes, pair["spacing"], settings, instances=true)
        rows += score_instances("", pair["true"], pair["found"], pair["spacing"], settings)[0]
        return {f"{row.label} {row.metric}": row.value for row in rows}

    return run


def ours_all(pair: dict[str, Any]) -> Callable[[], Values]:
    from nnunet_spine_ext.evaluate.registry import METRICS

    return ours(pair, tuple(METRICS), regions=True)


def panoptica(pair: dict[str, Any]) -> Callable[[], Values]:
    from panoptica import InputType, Panoptica_Evaluator
    from panoptica.instance_matcher import NaiveThresholdMatching
    from panoptica.metrics import Metric, MetricMode
    from panoptica.utils import LabelGroup
    from panoptica.utils.segmentation_class import SegmentationClassGroups

    metrics = [Metric.DSC, Metric.IOU, Metric.RVD, Metric.ASSD]
    classes = Panoptica_Evaluator(InputType.MATCHED_INSTANCE, instance_metrics=metrics, global_metrics=[])
    instances = Panoptica_Evaluator(
        InputType.UNMATCHED_INSTANCE,
        instance_matcher=NaiveThresholdMatching(matching_metric=Metric.IOU, matching_threshold=0.5),
        instance_metrics=[Metric.DSC, Metric.IOU, Metric.ASSD],
        global_metrics=[],
        segmentation_class_groups=SegmentationClassGroups({name: LabelGroup(list(ids)) for name, ids in KINDS.items()}),
    )

    def run() -> Values:
        found = classes.evaluate(pair["pred"], pair["ref"], voxelspacing=pair["spacing"], verbose=False)["ungrouped"]
        values = {}
        own = ("dice", "iou", "relative_volume_error", "assd_voxel")
        for metric, name, factor in zip(metrics, own, (1, 1, 100, 1), strict=True):
            for label, value in enumerate(found.get_list_metric(metric, MetricMode.ALL), start=1):
                values[f"{label} {name}"] = factor * float(value)
        groups = instances.evaluate(pair["found"], pair["true"], voxelspacing=pair["spacing"], verbose=False)
        theirs = {"rq": "rq", "sq": "sq", "pq": "pq", "instance_dice": "sq_dsc", "instance_assd_voxel": "sq_assd"}
        for kind, group in groups.items():
            values |= {f"{kind} {name}": float(getattr(group, key)) for name, key in theirs.items()}
        return values

    return run


def work(side: str, path: Path) -> None:
    """Time one evaluation in this process and print it as JSON; `pair` makes the masks instead."""
    if side == "pair":
        make_pair(path)
        print("{}")
        return
    content = np.load(path)
    pair: dict[str, Any] = {name: content[name] for name in ("ref", "pred", "true", "found")}
    pair["spacing"] = tuple(content["spacing"].tolist())
    run = {"ours": ours, "ours_all": ours_all, "panoptica": panoptica}[side](pair)
    start, before = time.perf_counter(), cpu_seconds()
    values = run()
    found = {"cpu": cpu_seconds() - before, "wall": time.perf_counter() - start}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak_mib": peak, "values": values}))


# --- the comparison --------------------------------------------------------------------------------------------------


def call(side: str, path: Path, interpreter: Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PANOPTICA_CITATION_REMINDER": "false",
    }
    command = [str(interpreter), str(Path(__file__).resolve()), "--work", side, "--pair", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def disagreement(ours_found: Values, theirs: Values) -> float:
    """Return the largest difference between values that both sides have; all of panoptica's must be there."""
    missing = theirs.keys() - ours_found.keys()
    if missing:
        sys.exit(f"not computed here: {sorted(missing)}")
    apart = {name: abs(ours_found[name] - value) for name, value in theirs.items()}
    # NaN would pass for agreement: it is not larger than anything.
    undefined = sorted(name for name, found in apart.items() if not np.isfinite(found))
    if undefined:
        sys.exit(f"not finite on one side: {undefined}")
    return max(apart.values())


def compare(out: Path, repeats: int, interpreter: Path) -> int:
    path = out / "pair.npz"
    # In a process of its own too: a child would inherit the peak memory of this one.
    call("pair", path, Path(sys.executable))
    sides = {"ours": Path(sys.executable), "panoptica": interpreter, "ours_all": Path(sys.executable)}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side, python in sides.items():
            runs[side].append(call(side, path, python))
            print(f"repeat {repeat + 1}: {side} {runs[side][-1]['cpu']:.2f} CPU s, {runs[side][-1]['wall']:.2f} s")
    worst = disagreement(runs["ours"][0]["values"], runs["panoptica"][0]["values"])
    figures: dict[str, Any] = {
        side: {key: round(statistics.median(run[key] for run in found), 3) for key in ("cpu", "wall", "peak_mib")}
        for side, found in runs.items()
    }
    voxels = int(np.prod(SHAPE))
    cpu, wall = (figures["panoptica"][key] / figures["ours"][key] for key in ("cpu", "wall"))
    figures |= {
        "voxels": voxels, "repeats": repeats, "values_compared": len(runs["panoptica"][0]["values"]),
        "largest_difference": worst, "ratio_cpu": round(cpu, 2), "ratio_wall": round(wall, 2),
        "metrics_all": len(runs["ours_all"][0]["values"]), "python": platform.python_version(),
    }  # fmt: skip
    (out / "evaluate.json").write_text(json.dumps(figures, indent=1) + "\n")
    path.unlink()
    passed = cpu >= GOAL and worst < 1e-6
    print(
        f"evaluate: {voxels / 1e6:.1f} Mvoxel, median of {repeats}: ours {figures['ours']['cpu']:.2f} CPU s, panoptica "
        f"2.1.7 {figures['panoptica']['cpu']:.2f} CPU s, {cpu:.1f} times faster (wall {wall:.1f}); goal {GOAL:g}: "
        f"{'reached' if passed else 'MISSED'}; largest difference of {figures['values_compared']} values {worst:.1e}; "
        f"everything we have with regions ({figures['metrics_all']} values) {figures['ours_all']['cpu']:.2f} CPU s"
    )
    return 0 if passed else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/evaluate"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three repeats (about two minutes)")
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--panoptica", type=Path, default=root / ".oracles" / "panoptica" / "bin" / "python")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--pair", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.pair)
        return 0
    if not args.panoptica.exists():
        sys.exit(f"{args.panoptica} is missing: make .oracles/panoptica/.installed")
    args.out.mkdir(parents=True, exist_ok=True)
    return compare(args.out, 3 if args.quick else args.repeats, args.panoptica)


if __name__ == "__main__":
    sys.exit(main())

"""Our instance step on one mask, without a network or with an oracle in place of it.

`python -m instancing.our_side JOB.json`, from the folder benchmarks/; the job is that of `spineps_side`. A job without
conditions runs network-free.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instancing.memory import Peak
from instancing.oracle import CORPUS, POSTERIOR, Condition, Oracle

# Voxel indices along P, I, R to RAS+ mm.
AFFINE = np.array([[0, 0, 1.65, 0], [-0.75, 0, 0, 0], [0, -0.75, 0, 0], [0, 0, 0, 1]], float)
SPINEPS = np.array([0, 26, 41, 42, 43, 44, 45, 46, 47, 48, 49, 60, 61, 62, 100], np.uint8)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    begin = time.process_time()
    from nnunet_spine_ext.core.volume import Volume
    from nnunet_spine_ext.instances import separate  # noqa: F401

    imported = time.process_time() - begin
    torch_loaded = "torch" in sys.modules
    peak = Peak()
    stored = np.load(job["masks"])
    semantic, truth = stored["semantic"], stored["truth"]
    mask = Volume(SPINEPS[semantic], AFFINE)
    results: dict[str, Any] = {
        "import_s": imported, "import_mib": peak.base_mib, "torch_imported": torch_loaded, "conditions": {},
    }  # fmt: skip
    for condition in [Condition(**entry) for entry in job["conditions"]] or [None]:
        runs = []
        for _ in range(job["repeats"]):
            oracle = None if condition is None else Oracle(truth, semantic, condition)
            runs.append(_run(mask, oracle, peak))
        name = "network-free" if condition is None else condition.name
        results["conditions"][name] = {
            "seconds": [run["seconds"] for run in runs],
            "peak_mib": runs[0]["peak_mib"],
            "asked": oracle.asked if oracle else 0,
            "hit": oracle.hit if oracle else 0,
            "error": "",
            "warnings": runs[-1]["warnings"],
        }
        np.savez_compressed(Path(job["out"]) / f"{name}.npz", instances=runs[-1]["instances"])
    print(json.dumps(results))


def _run(mask: Any, oracle: Oracle | None, peak: Peak) -> dict[str, Any]:
    from nnunet_spine_ext.instances import separate

    predictor = None if oracle is None else OraclePredictor(oracle)
    began, own = time.process_time(), oracle.seconds if oracle else 0.0
    peak.reset()
    result = separate(mask, "spineps", predictor=predictor)
    seconds = time.process_time() - began - (oracle.seconds - own if oracle else 0.0)
    return {
        "seconds": seconds,
        "peak_mib": peak.above_mib(),
        "instances": result.instances.array,
        "warnings": [warning.code for warning in result.warnings],
    }


class OraclePredictor:
    """A `CutoutPredictor` that asks an oracle; the mask must have the voxels of the model."""

    def __init__(self, oracle: Oracle) -> None:
        from nnunet_spine_ext.instances.cutouts import CutoutSpec

        self.spec = CutoutSpec()
        self.oracle = oracle
        used = [np.flatnonzero(oracle.semantic.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        self.corner = [int(u[0]) for u in used]
        self.shape = tuple(int(u[-1] - u[0]) + 1 for u in used)

    def predict(self, grid: Any, cutouts: Sequence[Any]) -> list[Any]:
        """Answer for every cutout of a grid that is the foreground of the mask, voxel by voxel."""
        from nnunet_spine_ext.instances.cutout_network import CutoutAnswer

        if grid.labels.shape != self.shape:
            msg = f"the grid {grid.labels.shape} is not the foreground {self.shape} of the mask"
            raise ValueError(msg)
        begin, own = time.process_time(), self.oracle.seconds
        answers = []
        for cutout in cutouts:
            start = [s + c for s, c in zip(cutout.start, self.corner, strict=True)]
            window, labels = self.oracle.answer(start, cutout.size)
            inside = tuple(slice(w.start - c, w.stop - c) for w, c in zip(window, self.corner, strict=True))
            # The window may reach into the air around the foreground, where the grid ends.
            part = tuple(
                slice(max(0, -s.start), labels.shape[k] - max(0, s.stop - self.shape[k])) for k, s in enumerate(inside)
            )
            inside = tuple(slice(max(0, s.start), min(s.stop, n)) for s, n in zip(inside, self.shape, strict=True))
            answers.append(_answer(CutoutAnswer, grid.labels, inside, labels[part]))
        self.oracle.seconds += time.process_time() - begin - (self.oracle.seconds - own)
        return answers


def _answer(kind: Any, classes: Any, box: tuple[slice, ...], labels: Any) -> Any:
    """Cut an answer to what it says something about."""
    vertebra = (classes[box] >= POSTERIOR[0]) & (classes[box] <= CORPUS)
    labels = np.where(vertebra, labels, 0).astype(np.uint8)
    tight = []
    for axis in range(3):
        used = np.flatnonzero(labels.any(axis=tuple(k for k in range(3) if k != axis)))
        tight.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0))
    whole = tuple(slice(b.start + t.start, b.start + t.stop) for b, t in zip(box, tight, strict=True))
    return kind(whole, np.ascontiguousarray(labels[tuple(tight)]))


if __name__ == "__main__":
    main()

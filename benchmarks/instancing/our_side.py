"""Our instance step on one mask, without a network or with an oracle in place of it.

`python -m instancing.our_side JOB.json`, from the folder benchmarks/; the job is that of `spineps_side`. A job without
conditions runs network-free.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from instancing.memory import Peak
from instancing.oracle import Condition, Oracle

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

    predictor = None
    if oracle is not None:
        from instancing.predictor import OraclePredictor

        predictor = OraclePredictor(oracle)
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


if __name__ == "__main__":
    main()

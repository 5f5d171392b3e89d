"""Masks and runs, kept in a folder: what is there and belongs to the present code and mask is not done again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from instancing.oracle import Condition
from instancing.phantoms import CASES, make, ordered
from instancing.scoring import score
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.volume import Array

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SPINEPS, OURS = "spineps", "ours"
_VERTEBRA = (2, 10)
# SPINEPS visits every unassigned speck of a noisy mask in turn, which can take an hour.
LIMIT_S = 300
# One thread each; SPINEPS' request to be cited is answered in the documentation.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
) | {"SPINEPS_NO_CITATION_REMINDER": "1"}
_SOURCES = {
    SPINEPS: (HERE / "spineps_side.py", HERE / "oracle.py", HERE / "memory.py"),
    OURS: (
        HERE / "our_side.py",
        HERE / "predictor.py",
        HERE / "oracle.py",
        HERE / "memory.py",
        *sorted((ROOT / "nnunet_spine_ext" / "instances").glob("*.py")),
        *sorted((ROOT / "nnunet_spine_ext" / "measure").glob("*.py")),
    ),
}


class Bench:
    """Runs of both programs on masks of one spine.

    Parameters
    ----------
    out: folder for masks, runs and instance masks.
    spineps: interpreter of SPINEPS' environment.
    seed: of the spine.
    again: ignore what is there.
    """

    def __init__(self, out: Path, spineps: Path, seed: int = 0, *, again: bool = False) -> None:
        self.out, self.seed, self.again = out / f"spine{seed}", seed, again
        self.interpreters = {SPINEPS: spineps, OURS: Path(sys.executable)}
        self.out.mkdir(parents=True, exist_ok=True)
        self._truths: dict[str, tuple[Array, Array, str]] = {}

    def masks(self, case: str) -> Path:
        """Return the file with the masks of a case; it is made when needed."""
        path = self.out / "masks" / f"{case}.npz"
        if case not in self._truths:
            phantom = make(CASES[case], self.seed)
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, semantic=phantom.semantic, truth=ordered(phantom.instances))
            digest = hashlib.sha256(phantom.semantic.tobytes() + phantom.instances.tobytes()).hexdigest()
            self._truths = {case: (phantom.semantic, phantom.instances, digest)}
        return path

    def run(self, case: str, side: str, conditions: Sequence[Condition], repeats: int) -> dict[str, Any]:
        """Return the figures of one program on one case, by condition (``network-free`` when there is none).

        Each has times, memory and, under `pq`, the scores of the instances; `voxels` is the size of the mask.
        """
        masks = self.masks(case)
        semantic, instances, digest = self._truths[case]
        name = "network-free" if not conditions else conditions[0].name if len(conditions) == 1 else conditions[0].mode
        key = self._key(side, digest, conditions, repeats)
        path = self.out / "runs" / f"{case}_{side}_{name}.json"
        if path.exists() and not self.again:
            known = read_json(path)
            if known["key"] == key:
                return {**known["result"], "voxels": semantic.size}
        result = self._call(side, masks, conditions, repeats, self.out / "found" / f"{case}_{side}")
        for condition, figures in result["conditions"].items():
            stored = np.load(self.out / "found" / f"{case}_{side}" / f"{condition}.npz")
            found = stored["instances"]
            figures["pq"] = score(instances, found)
            if "raw" in stored:
                figures["pq_before_post"] = score(instances, stored["raw"]).get("vertebra", {})
            labelled = (semantic >= _VERTEBRA[0]) & (semantic <= _VERTEBRA[1])
            if not np.array_equal(labelled, (instances > 0) & (instances < 100) & (instances != 26)):
                # A noisy mask: how well are the voxels divided that it calls vertebra?
                seen = np.where(labelled, instances, 0)
                figures["pq_of_mask"] = score(seen, np.where(labelled, found, 0)).get("vertebra", {})
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"key": key, "result": result})
        return {**result, "voxels": semantic.size}

    def _key(self, side: str, digest: str, conditions: Sequence[Condition], repeats: int) -> str:
        parts = [digest, json.dumps([asdict(condition) for condition in conditions]), str(repeats)]
        parts += [path.read_text() for path in _SOURCES[side]]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _call(
        self, side: str, masks: Path, conditions: Sequence[Condition], repeats: int, found: Path
    ) -> dict[str, Any]:
        found.mkdir(parents=True, exist_ok=True)
        job = found / "job.json"
        write_json(
            job,
            {
                "masks": str(masks),
                "conditions": [asdict(condition) for condition in conditions],
                "repeats": repeats,
                "limit_s": LIMIT_S,
                "out": str(found),
            },
        )
        module = "instancing.spineps_side" if side == SPINEPS else "instancing.our_side"
        command = [str(self.interpreters[side]), "-m", module, str(job)]
        done = subprocess.run(
            command, cwd=HERE.parent, env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

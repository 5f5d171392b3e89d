"""The arms of a comparison, and a queue of trainings that can be interrupted: what is finished is not done again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from generalisation.configs import our_augmentation
from generalisation.domains import environment
from nnunet_spine_ext.core.io import read_json, write_json

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEER_PYTHON = ROOT / ".oracles" / "smauglab" / "bin" / "python"
_PEER = "smauglab.trainers.nnUNetTrainerDAExt:nnUNetTrainerDAExtGPU"
_CONFIGS_OF_PEERS = {
    "smauglab": "transform_params_gpu.json",
    "smauglab-paper": "transform_params_one-sequence-to-segment-them-all.json",
}
_CONFIGS = "lib/python*/site-packages/smauglab/configs"
_NUMBER = r"\d+(?:\.\d+)?"
_VARIANT = re.compile(
    rf"(?P<base>[a-z-]+?)(-clean(?P<clean>\d\d?|100))?(-clip(?P<clip>{_NUMBER}))?(-x(?P<length>(?!0+(\.0+)?$){_NUMBER}))?"
)


@dataclass(frozen=True)
class Arm:
    """A trainer (`module:class`) with the interpreter that has it and variables of its environment.

    `precision`: its own, in place of that of the schedule. `settings`: sections of our settings, in place of what the
    plans hold. `length`: of its training, where that of the schedule is 1.
    """

    name: str
    trainer: str
    python: str
    variables: dict[str, str] = field(default_factory=dict)
    precision: str | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    length: float = 1.0

    def plans(self, folder: Path, shared: str) -> str:
        """Return the name of the plans in the preprocessed `folder`; a variant of the shared ones is written first."""
        if not self.settings:
            return shared
        name = f"{shared}_{self.name}"
        plans = read_json(folder / f"{shared}.json") | {"plans_name": name}
        own = plans["spine_ext"]
        own |= {section: own.get(section, {}) | values for section, values in self.settings.items()}
        write_json(folder / f"{name}.json", plans)
        return name

    def schedule(self, shared: Schedule) -> Schedule:
        """Return how this arm trains."""
        epochs = max(1, round(shared.epochs * self.length))
        return replace(shared, epochs=epochs, precision=self.precision or shared.precision)


def arms(python: str, names: Sequence[str], classes: Mapping[str, str] | None = None) -> tuple[list[Arm], list[str]]:
    """Return the arms asked for, and the names of those whose environment is not there.

    `classes`: tissue of each label id, for configurations in files; None: of the phantoms.
    """
    known = {
        "nnunet": Arm("nnunet", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer:nnUNetTrainer", python),
        "ours": Arm("ours", "nnunet_spine_ext.training.shift:nnUNetTrainerSpineShift", python),
        "mirror": Arm("mirror", "nnunet_spine_ext.training.base:nnUNetTrainerSpine", python),
    }
    for name, file in _CONFIGS_OF_PEERS.items():
        found = sorted(PEER_PYTHON.parent.parent.glob(f"{_CONFIGS}/{file}"))
        if found:
            known[name] = Arm(name, _PEER, str(PEER_PYTHON), {"SMAUGLAB_PARAMS_JSON": str(found[0])})
    there = list(dict.fromkeys((*known, *_CONFIGS_OF_PEERS)))
    for name in names:
        if Path(name).suffix in (".yaml", ".yml"):
            config = our_augmentation(name, classes)
            known[name] = replace(known["ours"], name=Path(name).stem, settings={"augment": {"config": config}})
            continue
        found = _VARIANT.fullmatch(name)
        own = found and (found["clean"] or found["clip"])
        if not found or found["base"] not in there or (own and found["base"] != "ours"):
            listed = ", ".join([*there, "ours-clean0 to ours-clean100", "ours-clip0 and the like", "FILE.yaml"])
            raise SystemExit(f"no arm {name!r}; there are {listed}, and ARM-x1.5")
        if found["base"] in known:
            settings = {"augment": {"clean_share": int(found["clean"]) / 100}} if found["clean"] else {}
            settings |= {"train": {"clip": float(found["clip"])}} if found["clip"] else {}
            length = float(found["length"] or 1)
            known[name] = replace(known[found["base"]], name=name, settings=settings, length=length)
    chosen = [known[name] for name in names if name in known]
    if len({arm.name for arm in chosen}) < len(chosen) or any(Path(n).suffix and Path(n).stem in there for n in names):
        raise SystemExit(f"arms that cannot be told apart: {', '.join(names)}; files need names of their own")
    return chosen, [name for name in names if name not in known]


@dataclass(frozen=True)
class Schedule:
    """What all arms share. `precision`: ``fp32``, or ``bf16`` for trainers that run in this environment."""

    epochs: int
    iterations: int
    learning_rate: float = 0.003
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    oversample_foreground: float = 0.5
    threads: int = 1
    device: str = "cpu"
    precision: str = "fp32"


@dataclass(frozen=True)
class Job:
    """One training."""

    arm: Arm
    dataset: str
    plans: str
    seed: int
    schedule: Schedule

    @property
    def name(self) -> str:
        """Unique name within a run."""
        return f"{self.dataset}-{self.arm.name}-{self.seed}"


def run_jobs(folder: Path, jobs: Sequence[Job], parallel: int) -> Iterator[tuple[Job, Path, dict[str, Any]]]:
    """Train what has not been trained; yield each job with its weights and figures as it ends, in any order.

    Raises ValueError for a peer that is to train in bfloat16.
    """
    if peers := {job.arm.name for job in jobs if job.schedule.precision != "fp32" and job.arm.trainer == _PEER}:
        msg = f"{', '.join(sorted(peers))} trains in single precision only: leave --precision bf16 or the arm out"
        raise ValueError(msg)
    pool = ThreadPoolExecutor(parallel)
    try:
        waiting = {pool.submit(_train, folder, job): job for job in jobs}
        for future in as_completed(waiting):
            weights, figures = future.result()
            yield waiting[future], weights, figures
    finally:
        # After an error nothing new is begun; trainings under way come to their end.
        pool.shutdown(cancel_futures=True)


def _train(folder: Path, job: Job) -> tuple[Path, dict[str, Any]]:
    out = folder / "trained" / job.name
    weights, done = out / "weights.pt", out / "done.json"
    spec = {
        "name": f"Arm_{job.arm.name.replace('-', '_')}_{job.seed}", "trainer": job.arm.trainer, "dataset": job.dataset,
        "plans": job.plans, "configuration": "3d_fullres", "seed": job.seed, "weights": str(weights),
        **asdict(job.schedule),
    }  # fmt: skip
    plans = read_json(folder / "nnUNet_preprocessed" / job.dataset / f"{job.plans}.json")
    code = [HERE / "train_arm.py"]
    if job.schedule.precision != "fp32":
        code.append(ROOT / "nnunet_spine_ext" / "networks" / "precision.py")
    if job.arm.trainer.startswith("nnunet_spine_ext."):
        rooms = [ROOT / "nnunet_spine_ext" / room for room in ("augment", "networks", "training")]
        code += [p for room in rooms for p in room.rglob("*.*")]
    else:
        # Others do not know these settings: a change of ours is no reason to train them again.
        plans.pop("spine_ext", None)
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(code) if p.suffix in (".py", ".yaml")]
    known = [spec, job.arm.variables, plans, digests]
    identity = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    if done.exists() and read_json(done)["identity"] == identity:
        return weights, read_json(done)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "spec.json", spec)
    values = environment(folder) | job.arm.variables | {"nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"}
    # Our trainers refuse a folder that a training with other settings left.
    shutil.rmtree(out / "nnUNet_results", ignore_errors=True)
    values["nnUNet_results"] = str(out / "nnUNet_results")
    start = time.time()
    with (out / "log.txt").open("w") as stream:
        code = subprocess.run(
            [job.arm.python, str(HERE / "train_arm.py"), str(out / "spec.json")],
            stdout=stream, stderr=subprocess.STDOUT, env=values, check=False,
        ).returncode  # fmt: skip
    if code:
        tail = "".join((out / "log.txt").read_text().splitlines(keepends=True)[-15:])
        msg = f"{job.name} ended with {code}\n{tail}"
        raise RuntimeError(msg)
    figures = {"identity": identity, "process_s": round(time.time() - start, 1)}
    write_json(done, figures)
    return weights, figures

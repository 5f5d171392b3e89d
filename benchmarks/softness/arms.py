"""The arms: one trainer, its labels and its loss each; trainings that are finished are not done again.

All have the same plan (network, patch, grid, batch), augmentation (the preset `nnunet`, nnU-Net's default list on the
device), optimizer, learning rates, number of steps and seed. What differs is the label (binarised or soft) and the
loss. `hard_all` is `nnUNetTrainerSpineShift` with that augmentation: nnU-Net's Dice and cross entropy on its softmax.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generalisation.domains import command, environment

from nnunet_spine_ext.core.device import TrainingPrecision
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.networks.precision import computed_precision
from softness.data import DATASETS, FOLDS, OWN, SIX

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_TRAINING = ("augment", "training", "losses", "networks", "soft")
_SCORING = ("inference", "measure")


@dataclass(frozen=True)
class Arm:
    """A way to train.

    `trainer`: a class of `nnunet_spine_ext.training`. `settings`: assignments for its plans. `dataset`: of `DATASETS`.
    `folds`: numbers in `FOLDS`, one model each. `soft`: whether its answer is a soft map.
    """

    name: str
    trainer: str
    settings: tuple[str, ...] = ()
    dataset: str = SIX
    folds: tuple[int, ...] = (0,)
    soft: bool = True

    @property
    def whole(self) -> bool:
        """Whether one model is for all contrasts."""
        return self.folds == (0,)


_PER_CONTRAST = tuple(range(1, len(FOLDS)))
_WING = ("soft={loss: {name: adaptive_wing}}",)
_WEIGHTED = ("soft={loss: {name: adaptive_wing, weighting: dilation}}",)
# Dice over the batch, as `hard_all` takes it.
_DICE = ("soft={loss: {name: soft_dice_bce, batch_dice: true}}",)
# Smallest at the mean of labels that disagree, so that areas do not depend on how sure a border is; no Dice term.
_ENTROPY = ("soft={loss: {name: soft_dice_bce, dice_weight: 0}}",)
_SATURATING = ("soft={loss: {name: adaptive_wing, activation: sigmoid}}",)
_BOTH = ("soft={loss: {name: wing_dice, batch_dice: true}}",)
ARMS = {
    arm.name: arm
    for arm in (
        Arm("hard_all", "nnUNetTrainerSpineShift", soft=False),
        Arm("soft_all", "nnUNetTrainerSpineSoft", _WING),
        Arm("soft_all_dice_loss", "nnUNetTrainerSpineSoftDiceBCE", _DICE),
        Arm("soft_per_contrast", "nnUNetTrainerSpineSoft", _WING, folds=_PER_CONTRAST),
        Arm("soft_all_weighted", "nnUNetTrainerSpineSoft", _WEIGHTED),
        Arm("soft_all_wing_dice", "nnUNetTrainerSpineSoft", _BOTH),
        Arm("soft_all_cross_entropy", "nnUNetTrainerSpineSoftDiceBCE", _ENTROPY),
        Arm("soft_all_wing_sigmoid", "nnUNetTrainerSpineSoft", _SATURATING),
        Arm("hard_own", "nnUNetTrainerSpineShift", dataset=OWN, soft=False),
    )
}
"""The paper's four; adaptive wing with its weight map, with soft Dice, and of a sigmoid; cross entropy alone; what is
usual: each image's own mask."""


@dataclass(frozen=True)
class Job:
    """One training: an arm, one of its folds, a seed. `precision`: as `train.precision`."""

    arm: Arm
    fold: int
    seed: int
    epochs: int
    iterations: int
    precision: TrainingPrecision = "fp32"

    @property
    def name(self) -> str:
        """Unique name within a run."""
        return f"{self.arm.name}-{FOLDS[self.fold]}-{self.seed}"

    @property
    def plans(self) -> str:
        """Name of its plans; the folds of an arm share them."""
        return f"{self.arm.name}_{self.seed}"


def jobs_of(
    arms: Sequence[Arm], seeds: Sequence[int], epochs: int, iterations: int, precision: TrainingPrecision = "fp32"
) -> list[Job]:
    """Return all trainings, every arm of a seed before the next seed."""
    return [Job(arm, fold, seed, epochs, iterations, precision) for seed in seeds for arm in arms for fold in arm.folds]


def write_plans(folder: Path, job: Job) -> None:
    """Write the plans of a job from those of all arms: `bench`."""
    words = ["-d", DATASETS[job.arm.dataset][7:10].lstrip("0"), "-p", "bench", "--name", job.plans, "--overwrite", "-q"]
    settings = (
        f"train.seed={job.seed}", f"train.num_epochs={job.epochs}", f"train.num_iterations_per_epoch={job.iterations}",
        f"train.precision={job.precision}", "augment.config=nnunet", *job.arm.settings,
    )  # fmt: skip
    words += [f"--set={text}" for text in settings]
    subprocess.run([command("nnUNetv2_spine_plan"), *words], check=True, env=environment(folder))


@dataclass(frozen=True)
class Work:
    """What a run does with every job: train on a device, then predict test sets and real images.

    `step`: of the sliding windows, as a share of the patch.
    """

    folder: Path
    device: str
    step: float
    sets: Mapping[str, Sequence[Path]]
    real: Sequence[dict[str, Any]]

    def spec_of(self, job: Job) -> dict[str, Any]:
        """Return the specification of a job's scoring: models of one contrast see images of this contrast alone."""
        sets = {name: [str(case) for case in cases] for name, cases in self.sets.items()}
        if not job.arm.whole:
            own = f"_{FOLDS[job.fold]}.json"
            sets = {name: [case for case in cases if case.endswith(own)] for name, cases in sets.items()}
            # None of these is an image of a contrast with a model of its own.
            sets |= {name: [] for name in ("unseen", "cord-free", "empty")}
        real = list(self.real) if job.arm.whole else []
        return {"sets": sets, "real": real, "device": self.device, "step": self.step, "fold": job.fold}


def run_jobs(work: Work, jobs: Sequence[Job], parallel: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Train and score what has not been; yield each job with its figures, rows and real groups, in any order."""
    for job in {(job.arm.dataset, job.plans): job for job in jobs}.values():
        write_plans(work.folder, job)
    pool = ThreadPoolExecutor(parallel)
    try:
        waiting = {pool.submit(_do, work, job): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        # After an error nothing new is begun; what is under way comes to its end.
        pool.shutdown(cancel_futures=True)


def _do(work: Work, job: Job) -> dict[str, Any]:
    out = work.folder / "trained" / job.name
    dataset = DATASETS[job.arm.dataset]
    spec = {
        "trainer": job.arm.trainer, "dataset": dataset, "plans": job.plans, "fold": job.fold, "device": work.device,
        "figures": str(out / "figures.json"), "precision": computed_precision(job.precision, work.device),
    }  # fmt: skip
    identity = _identity(work.folder, spec)
    figures = out / "figures.json"
    if not figures.exists() or not _is(out / "trained.json", identity):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        _run(work, out, "softness.train", spec)
        write_json(out / "trained.json", {"identity": identity})
    model = out / "nnUNet_results" / dataset / f"{job.arm.trainer}__{job.plans}__3d_fullres"
    scoring = work.spec_of(job) | {"model": str(model), "scores": str(out / "scores.json")}
    wanted = _digest([identity, scoring, _code(_SCORING, "score.py", "measures.py", "contrasts.py")])
    if not _is(out / "scored.json", wanted):
        _run(work, out, "softness.score", scoring)
        write_json(out / "scored.json", {"identity": wanted})
    return {"figures": read_json(figures), **read_json(out / "scores.json")}


def _is(file: Path, identity: str) -> bool:
    return file.exists() and read_json(file)["identity"] == identity


def _run(work: Work, out: Path, module: str, spec: dict[str, Any]) -> None:
    """Run a module of this package in a process of its own; raises RuntimeError with its last lines if it fails."""
    write_json(out / f"{module}.json", spec)
    values = environment(work.folder) | {"nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"}
    values["nnUNet_results"] = str(out / "nnUNet_results")
    values["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    log = out / f"{module}.txt"
    with log.open("w") as stream:
        code = subprocess.run(
            [sys.executable, "-m", module, str(out / f"{module}.json")],
            stdout=stream, stderr=subprocess.STDOUT, env=values, check=False,
        ).returncode  # fmt: skip
    if code:
        msg = f"{out.name}: {module} ended with {code}\n" + "".join(log.read_text().splitlines(keepends=True)[-15:])
        raise RuntimeError(msg)


def _identity(folder: Path, spec: dict[str, Any]) -> str:
    """Return what stands for a training: its plans, its data, the code that it runs."""
    plans = read_json(folder / "nnUNet_preprocessed" / spec["dataset"] / f"{spec['plans']}.json")
    known = {k: v for k, v in spec.items() if k != "figures"}
    return _digest([known, plans, read_json(folder / "made.json"), _code(_TRAINING, "train.py")])


def _code(rooms: Sequence[str], *own: str) -> list[str]:
    files = [HERE / name for name in own]
    files += [p for room in rooms for p in (ROOT / "nnunet_spine_ext" / room).rglob("*.*")]
    return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files) if p.suffix in (".py", ".yaml")]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

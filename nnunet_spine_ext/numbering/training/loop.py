"""Training one fold: epochs of steps, a log, a state to go on from."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.epochs import LOG_FILE, STATE_FILE, EpochTraining
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.restart import other_training
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.networks.level_classifier import LevelClassifier
from nnunet_spine_ext.numbering.crops import CropSpec
from nnunet_spine_ext.numbering.levels import LEVELS
from nnunet_spine_ext.numbering.targets import HEADS, UNKNOWN
from nnunet_spine_ext.numbering.training.augment import PatchAugmentation
from nnunet_spine_ext.numbering.training.data import CachedCase
from nnunet_spine_ext.numbering.training.settings import NumberingTrainSettings
from nnunet_spine_ext.numbering.training.validate import validate

logger = logging.getLogger(__name__)
SETTINGS_FILE = "settings.json"
# A vertebra that lost more than this is not wholly in the picture any more.
_WHOLE = 0.98
_LARGEST_STEP = 5.0


@dataclass(frozen=True)
class Job:
    """One fold to train.

    Parameters
    ----------
    fold: its name, a number or ``all``.
    crop: the patches; those of the settings unless the dataset asks for others.
    train, validation: cases.
    folder: gets ``settings.json``, ``state.safetensors`` and ``log.csv``.
    """

    fold: str
    settings: NumberingTrainSettings
    crop: CropSpec
    train: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...]
    folder: Path
    device: torch.device

    @property
    def cases(self) -> dict[str, list[str]]:
        """The names of the cases by side, ``train`` and ``val``."""
        return {"train": [case.case for case in self.train], "val": [case.case for case in self.validation]}

    @property
    def hash(self) -> str:
        """Hash of what makes two trainings different: settings, patches and their content, cases and levels."""
        sides = (self.train, self.validation)
        cases = [[[case.case, list(case.names), case.content] for case in side] for side in sides]
        text = json.dumps([self.settings.hash, self.crop.centre, cases])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class FoldResult:
    """What came of a fold: its network, epochs, CPU seconds, metrics of the last validation (empty: none)."""

    network: LevelClassifier
    epochs: int
    cpu_seconds: float
    metrics: dict[str, Any] = field(default_factory=dict)


def train_fold(job: Job, *, resume: bool) -> FoldResult:
    """Train one fold; with `resume` a saved state is continued.

    On the CPU an interrupted and continued training equals an uninterrupted one.

    Raises
    ------
    UsageError: the saved state is of other settings, cases or files.
    SetupError: the saved state is damaged; the loss is no number any more; another process trains this fold.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with file_lock(job.folder / "lock", what="training this fold"):
        fold = _Fold(job)
        if not resume:
            fold.clear()
        elif fold.resume():
            logger.info("fold %s: goes on after epoch %d", job.fold, fold.epoch)
        if fold.differences:
            raise other_training(job.folder, " and ".join(fold.differences))
        # Only now: what was refused leaves the settings of the state that is there.
        write_json(job.folder / SETTINGS_FILE, {**to_dict(job.settings), "hash": job.hash, **job.cases})
        return fold.run()


class _Fold(EpochTraining):
    """The state of a training that is going on."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self.samples = [(case, row) for case in job.train for row in range(len(case.names))]
        self.weights = sampling_weights([case.names[row] for case, row in self.samples], job.settings)
        source = job.crop.widened(job.settings.augment.widen).size
        self.augmentation = PatchAugmentation(job.settings.augment, job.crop, source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(job.settings.seed, job.fold, 0))
            network = job.settings.network.build(job.crop)
        layout = torch.channels_last_3d if job.device.type == "cpu" else torch.contiguous_format
        self.network = network.to(job.device, memory_format=layout)
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=job.settings.learning_rate, weight_decay=job.settings.weight_decay
        )
        super().__init__(self.network, optimizer, job.folder / STATE_FILE, job.folder / LOG_FILE)

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for a state to be continued."""
        return {"hash": self.job.hash, "settings": self.settings.hash, "cases": self.job.cases}

    def differing(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in what a state differs; the hash decides, states of earlier versions have nothing else."""
        if facts.get("hash") == self.job.hash:
            return ()
        if "settings" not in facts:
            return ("settings, cases or files",)
        # What else the hash is made of: what was cut out of the files.
        return tuple(key for key in super().differing(facts) if key != "hash") or ("files",)

    def run(self) -> FoldResult:
        """Train what is left of the epochs."""
        settings, metrics = self.settings, {}
        while self.epoch < settings.epochs:
            started, cpu = time.monotonic(), time.process_time()
            loss = self._train_epoch()
            self.epoch += 1
            last = self.epoch == settings.epochs
            metrics = self._validate() if last or self.epoch % settings.validate_every == 0 else {}
            self.cpu_seconds += time.process_time() - cpu
            self._record(loss, metrics, time.monotonic() - started)
            if last or self.epoch % settings.save_every == 0:
                self.save()
        return FoldResult(self.network.eval(), self.epoch, self.cpu_seconds, metrics or self._validate())

    def _train_epoch(self) -> dict[str, float]:
        """Train one epoch; return the mean loss and that of every question."""
        settings, job = self.settings, self.job
        rng = np.random.default_rng(_seed(settings.seed, job.fold, 1 + self.epoch))
        order = _drawn(rng, self.weights, settings.samples_per_epoch or len(self.samples))
        batches = [order[k : k + settings.batch_size] for k in range(0, len(order), settings.batch_size)]
        sums = dict.fromkeys(("loss", *HEADS), 0.0)
        self.network.train()
        with torch.random.fork_rng(devices=[job.device] if job.device.type == "cuda" else []):
            torch.manual_seed(int(rng.integers(2**31)))
            for number, (patches, chosen) in enumerate(_loaded(self.samples, batches)):
                for group in self.optimizer.param_groups:
                    group["lr"] = settings.learning_rate_at(self.epoch + number / len(batches))
                parts = self._step(patches.to(job.device), chosen, number)
                for name, value in parts.items():
                    sums[name] += float(value.detach()) / len(batches)
        if not math.isfinite(sums["loss"]):
            raise SetupError(
                "E-TRAIN-DIVERGED",
                file=job.folder,
                found=f"a loss that is no number in epoch {self.epoch + 1}",
                expected="a loss that falls",
                fix="use a smaller learning rate: --set learning_rate=…",
            )
        return sums

    def _step(self, patches: Tensor, chosen: Sequence[int], number: int) -> dict[str, Tensor]:
        """Train on one batch; return the losses."""
        settings = self.settings
        names = [f"{self.samples[k][0].case}/{self.samples[k][1]}" for k in chosen]
        first = number * settings.batch_size
        keys = [SampleKey(settings.seed, name, self.epoch, first + j, number) for j, name in enumerate(names)]
        batch, left = self.augmentation(patches, keys)
        parts = losses(self.network(batch), self._targets(chosen, left), settings.loss.smoothing)
        weights = settings.loss.weights()
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_STEP)
        self.optimizer.step()
        return {"loss": total, **parts}

    def _targets(self, chosen: Sequence[int], left: Tensor) -> dict[str, Tensor]:
        rows = [(self.samples[k][0].targets, self.samples[k][1]) for k in chosen]
        answers = {
            name: torch.tensor([int(targets[name][row]) for targets, row in rows], device=left.device) for name in HEADS
        }
        answers["visible"] = torch.where(left < _WHOLE, torch.zeros_like(answers["visible"]), answers["visible"])
        return answers

    def _validate(self) -> dict[str, Any]:
        job = self.job
        return validate(self.network, job.crop, job.validation, job.device) if job.validation else {}

    def _record(self, loss: Mapping[str, float], metrics: Mapping[str, Any], seconds: float) -> None:
        rate = self.settings.learning_rate_at(self.epoch)
        row: dict[str, Any] = {"epoch": self.epoch - 1, "learning_rate": f"{rate:.3e}"}
        row |= {name if name == "loss" else f"loss_{name}": round(value, 5) for name, value in loss.items()}
        for name in ("accuracy", "off_by_one", "perfect"):
            row[name] = metrics["single"][name] if metrics else ""
        row["perfect_solved"] = metrics["solved"]["perfect"] if metrics else ""
        row["seconds"] = round(seconds, 1)
        self.record(row)
        found = f", accuracy {row['accuracy']}, perfect {row['perfect_solved']}" if metrics else ""
        logger.info(
            "fold %s: epoch %d of %d, loss %.4f%s", self.job.fold, self.epoch, self.settings.epochs, loss["loss"], found
        )


def sampling_weights(names: Sequence[str], settings: NumberingTrainSettings) -> Array:
    """Return how often each vertebra is shown, relative to the others; sums to 1."""
    counts = np.bincount([LEVELS.index(name) for name in names], minlength=len(LEVELS)).astype(np.float64)
    rarity = np.minimum((counts.max() / np.maximum(counts, 1)) ** settings.balance, settings.balance_limit)
    weights = rarity[[LEVELS.index(name) for name in names]]
    return weights / weights.sum()


def losses(answers: Mapping[str, Tensor], targets: Mapping[str, Tensor], smoothing: float) -> dict[str, Tensor]:
    """Return the cross-entropy of every question over the vertebrae whose answer is known (0 if there are none)."""
    result = {}
    for name, logits in answers.items():
        known = int((targets[name] != UNKNOWN).sum())
        value = functional.cross_entropy(
            logits.float(), targets[name], ignore_index=UNKNOWN, reduction="sum", label_smoothing=smoothing
        )
        result[name] = value / max(known, 1)
    return result


def _drawn(rng: np.random.Generator, weights: Array, count: int) -> list[int]:
    """Draw samples with these weights: each is in it as often as it should be, up to less than one."""
    order = rng.permutation(len(weights))
    edges = np.cumsum(weights[order])
    places = (rng.random() + np.arange(count)) / count
    chosen = order[np.minimum(np.searchsorted(edges, places, side="right"), len(order) - 1)]
    return [int(k) for k in rng.permutation(chosen)]


def _loaded(
    samples: Sequence[tuple[CachedCase, int]], batches: Sequence[Sequence[int]]
) -> Iterator[tuple[Tensor, Sequence[int]]]:
    """Yield the patches of every batch; the next one is read meanwhile."""

    def read(chosen: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.stack([samples[k][0].patch(samples[k][1]) for k in chosen]))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, batches[0])
        for number, chosen in enumerate(batches):
            patches = waiting.result()
            if number + 1 < len(batches):
                waiting = pool.submit(read, batches[number + 1])
            yield patches, chosen


def _seed(*parts: int | str) -> int:
    """Return a seed for one purpose of one fold."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1)[0])

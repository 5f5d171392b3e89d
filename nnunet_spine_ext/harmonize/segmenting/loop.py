"""The loop over epochs of a segmenter, its state, its table."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.core.epochs import LOG_FILE, STATE_FILE, EpochTraining
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import write_bytes
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.progress import paced
from nnunet_spine_ext.harmonize.segmenting.augment import deformed
from nnunet_spine_ext.harmonize.segmenting.data import SegmenterData
from nnunet_spine_ext.harmonize.segmenting.scores import METRICS, mean_scores, slice_scores
from nnunet_spine_ext.harmonize.segmenting.settings import SegmenterSettings
from nnunet_spine_ext.harmonize.slice_set import DISC, UNKNOWN, SliceSet
from nnunet_spine_ext.losses.dice_iou import DiceIoULoss

BEST_FILE = "best.safetensors"
# Streams of random numbers are told apart by their first word.
_START, _ORDER, _STEP = 1, 2, 3
_SGD_MOMENTUM = 0.9
# Moments of the paper's optimizers.
_ADAM_BETAS = (0.5, 0.999)
_log = logging.getLogger(__name__)


@dataclass
class SegmenterOutcome:
    """What came of a training: epochs done, the best one (from 1 on), CPU seconds, scores of validation and test."""

    epochs: int
    best_epoch: int
    cpu_seconds: float
    parameters: int
    validation: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)


class SegmenterTraining(EpochTraining):
    """Trains one network.

    Parameters
    ----------
    folder: gets ``state.safetensors``, ``best.safetensors`` and ``log.csv``.

    Raises
    ------
    SetupError: a package that the network needs is missing, weights of its encoder that do not fit.
    """

    def __init__(self, settings: SegmenterSettings, data: SegmenterData, folder: Path, device: torch.device) -> None:
        self.settings, self.data, self.folder, self.device = settings, data, folder, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([_START, settings.seed]).generate_state(1)[0]))
            network = settings.network.build(settings.encoder_weights)
        self.network = network.to(device, memory_format=torch.channels_last)
        super().__init__(self.network, _optimizer(settings, self.network), folder / STATE_FILE, folder / LOG_FILE)
        self.loss = DiceIoULoss(settings.dice_weight, settings.iou_weight, settings.bce_weight)
        # Half precision of the kind that needs no scaling of the loss.
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.best_epoch, self.best_dice = 0, -1.0

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for a state to be continued."""
        return {"settings": self.settings.hash, "slices": self.data.stamp}

    def own_facts(self) -> dict[str, Any]:
        """Return which epoch was the best so far."""
        return {"best_epoch": self.best_epoch, "best_dice": self.best_dice}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Take up again which epoch was the best."""
        self.best_epoch, self.best_dice = int(facts["best_epoch"]), float(facts["best_dice"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; raises SetupError when another process trains in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / "lock", what="training a segmenter"):
            yield

    def run(self) -> SegmenterOutcome:
        """Train what is left of the epochs, under `locked`; the network then has the weights of the best one.

        An interruption loses no more than the epochs since the last state.
        """
        while self.epoch < self.settings.epochs:
            self._one_epoch()
        self.network.load_state_dict(self._best())
        return SegmenterOutcome(
            self.epoch,
            self.best_epoch,
            round(self.cpu_seconds, 1),
            sum(p.numel() for p in self.network.parameters()),
            self.scores(self.data.validation),
            self.scores(self.data.test),
        )

    def scores(self, slices: SliceSet) -> dict[str, Any]:
        """Return the mean scores of the network on slices with a disc, and how many these are."""
        rows: list[dict[str, float] | None] = []
        self.network.eval()
        with torch.inference_mode():
            for first in range(0, len(slices), self.settings.batch_size):
                indices = range(first, min(first + self.settings.batch_size, len(slices)))
                images, masks = self._batch(slices, list(indices))
                chance = self.network(images).float().sigmoid()
                rows += slice_scores(chance, masks == DISC, masks != UNKNOWN)
        return mean_scores(rows)

    def _one_epoch(self) -> None:
        start = time.process_time()
        rate = self.settings.learning_rate_of(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._train()
        self.epoch += 1
        last = self.epoch == self.settings.epochs
        due = self.epoch % self.settings.validate_every == 0 or last
        scores: Mapping[str, Any] = self.scores(self.data.validation) if due else {}
        self.cpu_seconds += time.process_time() - start
        self.record({
            "epoch": self.epoch - 1, "learning_rate": f"{rate:.4g}", "loss": round(loss, 5),
            **{name: round(scores[name], 5) if scores else "" for name in METRICS},
            "cpu_seconds": round(self.cpu_seconds, 1),
        })  # fmt: skip
        if scores and scores["dice"] > self.best_dice:
            self.best_epoch, self.best_dice = self.epoch, scores["dice"]
            self._keep_best()
        if self.epoch % self.settings.save_every == 0 or last:
            self.save()
        shown = f", Dice {scores['dice']:.3f}" if scores else ""
        _log.info("epoch %d of %d: loss %.4f%s", self.epoch, self.settings.epochs, loss, shown)

    def _train(self) -> float:
        """Run the steps of an epoch; return the mean loss."""
        self.network.train()
        settings, total = self.settings, 0.0
        rng = np.random.default_rng([_ORDER, settings.seed, self.epoch])
        order = rng.permutation(len(self.data.train))[: settings.slices_per_epoch]
        batches = batches_of(order, settings.batch_size)
        for number, chosen in enumerate(paced(batches, f"epoch {self.epoch + 1}", len(batches))):
            images, masks = self._batch(self.data.train, [int(k) for k in chosen])
            draws = np.random.default_rng([_STEP, settings.seed, self.epoch, number])
            images, masks = deformed(images, masks, settings.augment, draws)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16) if self._half else nullcontext():
                logits = self.network(images)
            loss = self.loss(logits.float(), masks == DISC, masks != UNKNOWN)
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise SetupError(
                "E-TRAIN-DIVERGED",
                file=self.folder,
                found=f"a loss that is no number in epoch {self.epoch + 1}",
                expected="a loss that falls",
                fix="use a smaller learning rate: --set learning_rate=…",
            )
        return total / len(batches)

    def _batch(self, slices: SliceSet, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return images and masks (B, 1, Y, X) on the device."""
        images, masks = slices.tensor(indices), slices.mask_tensor(indices)
        return images.to(self.device).contiguous(memory_format=torch.channels_last), masks.to(self.device)

    def _keep_best(self) -> None:
        from safetensors.torch import save

        state = self.network.state_dict()
        write_bytes(self.folder / BEST_FILE, save({k: v.detach().cpu().contiguous() for k, v in state.items()}))

    def _best(self) -> dict[str, Tensor]:
        """Return the weights of the best epoch; raises SetupError when their file is gone or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / BEST_FILE
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise SetupError(
                "E-TRAIN-STATE",
                file=path,
                found=f"cannot be read ({type(error).__name__}: {str(error)[:160]})",
                expected="the weights of the best epoch",
                fix="train anew with --overwrite",
            ) from error


def batches_of(order: Array, size: int) -> list[Array]:
    """Cut an order (n,) into batches of `size`; a single slice that is left over joins the last of them.

    Batch norm of what a network pools over the whole slice (DeepLabV3) cannot be trained on one slice.
    """
    batches = [order[k : k + size] for k in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1 < size:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _optimizer(settings: SegmenterSettings, network: torch.nn.Module) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=_SGD_MOMENTUM, nesterov=True)
    return torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=_ADAM_BETAS)

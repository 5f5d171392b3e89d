"""One fold: the loop over epochs, its state, its table."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.core.epochs import LOG_FILE, STATE_FILE, EpochTraining
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.instances.encoding import encode
from nnunet_spine_ext.instances.training.grids import GridStore
from nnunet_spine_ext.instances.training.loss import instance_loss, region_mask
from nnunet_spine_ext.instances.training.sampler import (
    Place,
    epoch_order,
    narrowed,
    places_of,
    plain_cutout,
    training_cutout,
)
from nnunet_spine_ext.instances.training.settings import InstanceTrainSettings

_log = logging.getLogger(__name__)
NAMES = ("above", "centre", "below")
# Streams of random numbers are told apart by their first word.
_START, _CUTOUT, _STEP = 1, 2, 3


@dataclass(frozen=True)
class FoldData:
    """Cases of a fold by name, all of them in `store`."""

    store: GridStore
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass
class FoldResult:
    """What came of a fold: epochs done, CPU seconds of this fold, mean Dice of the last validation, full fusion."""

    epochs: int
    cpu_seconds: float
    dice: dict[str, float | None] = field(default_factory=dict)
    fusion: dict[str, Any] = field(default_factory=dict)


class FoldTraining(EpochTraining):
    """Trains one network.

    Parameters
    ----------
    name: of the fold, as given with -f.
    folder: gets ``state.safetensors`` and ``log.csv``.
    """

    def __init__(
        self, settings: InstanceTrainSettings, name: str, data: FoldData, folder: Path, device: torch.device
    ) -> None:
        self.settings, self.name, self.data, self.folder, self.device = settings, name, data, folder, device
        self.places = places_of(data.train, data.store.seeds)
        self._validation = self._chosen_for_validation()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([_START, settings.seed, *name.encode()]).generate_state(1)[0]))
            network = settings.network.build(settings.cutout)
        layout = torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format
        # Twice as fast on a CPU.
        self.network = network.to(device, memory_format=layout)
        self._layout = layout
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        super().__init__(self.network, optimizer, folder / STATE_FILE, folder / LOG_FILE)
        table = encode(np.arange(256, dtype=np.uint8).reshape(256, 1, 1), settings.cutout.encoding)
        self._table = torch.from_numpy(table.reshape(-1, 256)).to(device)
        # Half precision of the kind that needs no scaling of the loss.
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported()

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for a state to be continued."""
        cases, masks = list(self.data.train), self.data.store.stamp(self.data.train)
        return {"settings": self.settings.hash, "fold": self.name, "cases": cases, "masks": masks}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder of the fold; raises SetupError when another process trains it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / "lock", what=f"training fold {self.name}"):
            yield

    def run(self) -> FoldResult:
        """Train what is left of the epochs, under `locked`.

        An interruption loses no more than the epochs since the last state.
        """
        while self.epoch < self.settings.epochs:
            self._one_epoch()
        last: dict[str, Any] = next((row for row in reversed(self.rows) if row["dice"] not in ("", None)), {})
        dice = {key: float(last[key]) if last.get(key) not in ("", None) else None for key in ("dice", *NAMES)}
        return FoldResult(self.epoch, round(self.cpu_seconds, 1), dice)

    def _one_epoch(self) -> None:
        start = time.process_time()
        rate = self.settings.learning_rate_of(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        entropy, dice = self._train()
        last = self.epoch + 1 == self.settings.epochs
        due = (self.epoch + 1) % self.settings.validate_every == 0 or last
        scores = self.validate() if due else dict.fromkeys(("dice", *NAMES))
        self.cpu_seconds += time.process_time() - start
        row = {
            "epoch": self.epoch, "learning_rate": f"{rate:.4g}", "loss": round(entropy + dice, 5),
            "cross_entropy": round(entropy, 5), "dice_loss": round(dice, 5),
            **{key: "" if value is None else round(value, 5) for key, value in scores.items()},
            "cpu_seconds": round(self.cpu_seconds, 1),
        }  # fmt: skip
        self.record(row)
        self.epoch += 1
        if self.epoch % self.settings.save_every == 0 or last:
            self.save()
        shown = "" if scores["dice"] is None else f", Dice {scores['dice']:.3f}"
        _log.info(
            "fold %s, epoch %d of %d: loss %.4f%s", self.name, self.epoch, self.settings.epochs, entropy + dice, shown
        )

    def _train(self) -> tuple[float, float]:
        """Run the steps of an epoch; return mean cross entropy and Dice loss."""
        from tqdm import tqdm

        self.network.train()
        order = epoch_order(len(self.places), self.settings, self.name, self.epoch)
        size = self.settings.batch_size
        sums, steps = np.zeros(2), -(-len(order) // size)
        bar = tqdm(self._batches(order), total=steps, desc=f"epoch {self.epoch + 1}", unit="step", disable=None)
        for labels, target in bar:
            self.optimizer.zero_grad(set_to_none=True)
            counts = region_mask(labels, self.settings.loss_region)
            with torch.autocast("cuda", torch.bfloat16) if self._half else nullcontext():
                logits = self.network(self._encoded(labels))
            entropy, dice = instance_loss(logits.float(), target.long(), counts)
            (entropy + dice).backward()
            self.optimizer.step()
            sums += (float(entropy.detach()), float(dice.detach()))
        return float(sums[0] / steps), float(sums[1] / steps)

    def _batches(self, order: np.ndarray[Any, Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield labels and targets (B, P, I, R) of the steps of an epoch, on the device."""
        size = self.settings.batch_size
        for first in range(0, len(order), size):
            pairs = []
            for position in range(first, min(first + size, len(order))):
                place = self.places[int(order[position])]
                # Of its own for every cutout: what is drawn does not depend on what was done before.
                rng = np.random.default_rng([_CUTOUT, self.settings.seed, *self.name.encode(), self.epoch, position])
                pairs.append(training_cutout(self.data.store[place.case], place, self.settings, rng))
            # Drawn for the step, because its cutouts have one size.
            chance = np.random.default_rng([_STEP, self.settings.seed, *self.name.encode(), self.epoch, first])
            yield self._stacked(narrowed(pairs) if chance.random() < self.settings.narrow else pairs)

    def _stacked(self, pairs: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> tuple[Tensor, Tensor]:
        labels, target = (torch.from_numpy(np.stack(arrays)).to(self.device) for arrays in zip(*pairs, strict=True))
        return labels, target

    def _encoded(self, labels: Tensor) -> Tensor:
        """Encode labels (B, P, I, R) as `encoding.encode` does, on the device."""
        return self._table[:, labels.long()].transpose(0, 1).contiguous(memory_format=self._layout)

    def validate(self) -> dict[str, float | None]:
        """Return the mean Dice of each answer over the validation cutouts that show it; None without any."""
        sums: dict[str, list[float]] = {name: [] for name in NAMES}
        self.network.eval()
        with torch.inference_mode():
            for place in self._validation:
                labels, target = self._stacked([plain_cutout(self.data.store[place.case], place, self.settings.cutout)])
                # As in prediction: what the mask calls no vertebra is none.
                found = self.network(self._encoded(labels)).argmax(1) * _vertebrae(labels)
                for answer, name in enumerate(NAMES, start=1):
                    ours, truth = found == answer, target == answer
                    if truth.any():
                        both = (ours & truth).sum()
                        sums[name].append(float(2 * both / (ours.sum() + truth.sum())))
        means: Mapping[str, float | None] = {k: float(np.mean(v)) if v else None for k, v in sums.items()}
        known = [value for value in means.values() if value is not None]
        return {"dice": float(np.mean(known)) if known else None, **means}

    def _chosen_for_validation(self) -> list[Place]:
        places = places_of(self.data.validation, self.data.store.seeds)
        most = self.settings.validation_cutouts
        if len(places) <= most:
            return places
        # Evenly spread over cases and levels, the same ones every time.
        return [places[k] for k in np.linspace(0, len(places) - 1, most).round().astype(int)]


def _vertebrae(labels: Tensor) -> Tensor:
    counts = region_mask(labels, "vertebrae")
    return torch.ones_like(labels) if counts is None else counts

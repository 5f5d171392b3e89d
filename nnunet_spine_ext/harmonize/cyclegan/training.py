"""The training: the loop over epochs, its state, its table, its pictures, its model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.core import epochs
from nnunet_spine_ext.core.errors import Problem, SetupError
from nnunet_spine_ext.core.io import write_bytes
from nnunet_spine_ext.harmonize.cyclegan.data import TrainingSlices, epoch_order
from nnunet_spine_ext.harmonize.cyclegan.model import generator_file
from nnunet_spine_ext.harmonize.cyclegan.networks import build_networks, to_grey, to_unit
from nnunet_spine_ext.harmonize.cyclegan.processes import Processes
from nnunet_spine_ext.harmonize.cyclegan.samples import sample_sheet
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings
from nnunet_spine_ext.harmonize.cyclegan.step import (
    LOSSES,
    Aims,
    discriminator_losses,
    generate,
    generator_losses,
    weighted,
)
from nnunet_spine_ext.harmonize.cyclegan.targets import Targets
from nnunet_spine_ext.harmonize.cyclegan.validation import VALIDATED, first_samples, validate
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, read_harmonizer, write_harmonizer
from nnunet_spine_ext.harmonize.progress import duration, paced
from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter
from nnunet_spine_ext.losses.radiomics import RadiomicLoss
from nnunet_spine_ext.networks.slice_unet import SliceNetwork
from nnunet_spine_ext.render.png import encode_png

STATE_FILE = f"training/{epochs.STATE_FILE}"
SAMPLES_FOLDER = "samples"
_POOL, _WARMUP = 3, 4
# Adam's, of the paper.
BETAS = (0.5, 0.999)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Goal:
    """What is aimed at and with which aids.

    Parameters
    ----------
    segmenter: of target slices; needed where one of its losses weighs more than 0.
    targets: features and foreground of target slices.
    model: description of the model; files and epochs are filled in.
    source_network: what the source segmenter starts as; None: at random.
    """

    segmenter: SliceSegmenter | None
    targets: Targets
    model: HarmonizerModel
    source_network: SliceNetwork | None = None


class CycleGanTraining(epochs.EpochTraining):
    """Trains one harmonizer.

    Parameters
    ----------
    folder: of the model; gets ``training/state.safetensors``, ``log.csv``, ``samples`` and, after every
        `settings.save_every` epochs, a model that can be used.
    processes: that share every batch.

    Raises
    ------
    SetupError: no segmenter, though a loss needs one.
    """

    def __init__(
        self,
        settings: CycleGanSettings,
        slices: TrainingSlices,
        goal: Goal,
        folder: Path,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        self.settings, self.slices, self.goal, self.folder, self.device = settings, slices, goal, folder, device
        self.processes = processes or Processes()
        self.aims = _aims(settings, goal, device)
        self.networks = build_networks(settings, slices.source.size, goal.source_network).to(device)
        self.networks.foreground.fill_(goal.targets.foreground)
        # One optimizer for both sides: it leaves alone what has no gradient, and its state is one.
        groups = [{"params": self.networks.makers}, {"params": self.networks.judges}]
        optimizer = torch.optim.Adam(groups, lr=settings.learning_rate, betas=BETAS)
        super().__init__(self.networks, optimizer, folder / STATE_FILE, folder / epochs.LOG_FILE)
        self._set_rate(settings.learning_rate)
        # Half precision of the kind that needs no scaling of the loss.
        self._half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._samples = first_samples(slices, settings.sample_slices)
        self.warnings: list[Problem] = []

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for a state to be continued."""
        digest = None if self.goal.segmenter is None else self.goal.segmenter.digest
        return {"settings": self.settings.hash, "slices": self.slices.stamp, "segmenter": digest}

    def run(self) -> None:
        """Train what is left of the epochs; an interruption loses no more than the epochs since the last state.

        Raises
        ------
        SetupError: a loss that is no number any more; the state before it stays.
        """
        started, first = time.monotonic(), self.epoch
        self.processes.on_first(self._save_targets)
        self.processes.on_first(self._publish_what_was_saved)
        while self.epoch < self.settings.epochs:
            self._one_epoch()
            spent = time.monotonic() - started
            left = spent / (self.epoch - first) * (self.settings.epochs - self.epoch)
            if self.processes.first:
                _log.info("%s", _in_words(self.rows[-1], self.settings, left))

    def _one_epoch(self) -> None:
        start = time.process_time()
        rate = self.settings.learning_rate_of(self.epoch)
        self._set_rate(rate)
        if self.epoch == 0:
            self._warm_up()
        if self.aims.radiomics is not None:
            done = self.epoch / max(1, self.settings.epochs - 1)
            self.aims.radiomics.tau = self.settings.radiomics.tau_of(done)
        means = self._train()
        self._refuse_divergence(means)
        self._warn_of_collapse(means["foreground"])
        last = self.epoch + 1 == self.settings.epochs
        due = (self.epoch + 1) % self.settings.validate_every == 0 or last
        scores: dict[str, float] = {}
        if due and self.processes.first:
            scores = validate(self.networks, self.slices, self.goal, self.settings, self.device)
        self.cpu_seconds += time.process_time() - start
        row: dict[str, Any] = {"epoch": self.epoch, "learning_rate": f"{rate:.4g}"}
        row |= {key: _shown(value) for key, value in means.items()}
        row |= {key: _shown(scores.get(key, float("nan"))) for key in VALIDATED}
        self.record({**row, "cpu_seconds": round(self.cpu_seconds, 1)}, write=self.processes.first)
        self.epoch += 1
        saved = self.epoch % self.settings.save_every == 0 or last
        self.processes.on_first(lambda: self._write(saved=saved))

    def _save_targets(self) -> None:
        self.goal.targets.save(self.folder)

    def _write(self, *, saved: bool) -> None:
        """Write the picture of an epoch and, if it is `saved`, everything that a training or a user goes on with."""
        write_bytes(self.folder / SAMPLES_FOLDER / f"epoch_{self.epoch:04d}.png", encode_png(self._picture()))
        if not saved:
            return
        self.save()
        self._publish()

    def _publish_what_was_saved(self) -> None:
        # A run that was killed while it wrote left a state without its model.
        try:
            published = read_harmonizer(self.folder).epochs[0]
        except SetupError:
            published = 0
        if self.epoch and published != self.epoch:
            self._publish()

    def _publish(self) -> None:
        model = replace(self.goal.model, epochs=(self.epoch, self.settings.epochs))
        write_harmonizer(self.folder, model, {generator_file(self.epoch): self.networks.to_target.state_dict()})

    def _set_rate(self, rate: float) -> None:
        makers, judges = self.optimizer.param_groups
        makers["lr"], judges["lr"] = rate, rate * self.settings.judge_rate

    def _warm_up(self) -> None:
        """Let the discriminators look at slices as the generators leave them at the start."""
        count = self.settings.judge_warmup
        for number in paced(range(count), "discriminators before the first epoch", count):
            rng = np.random.default_rng([_WARMUP, self.settings.seed, number, self.processes.rank])
            x, y = self._drawn(rng)
            with torch.no_grad(), self._autocast():
                fake_y, fake_x = self.networks.to_target(x), self.networks.to_source(y)
            self._judge(fake_y, fake_x, x, y)

    def _drawn(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return any slices of the sources and of the target, as many as this process has in a step."""
        count = self.settings.batch_size // self.processes.count
        pair = [part.tensor(rng.integers(len(part), size=count).tolist())
                for part in (self.slices.source, self.slices.target)]  # fmt: skip
        return to_unit(pair[0].to(self.device)), to_unit(pair[1].to(self.device))

    def _train(self) -> dict[str, float]:
        """Run the steps of an epoch; return the means of what `log.csv` says of them."""
        names = ("loss", *LOSSES, "judge_target", "judge_source", "foreground")
        sums = torch.zeros(len(names), dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)
        missing, steps = torch.tensor(float("nan")), 0
        self.networks.train()
        for number, (x, y) in enumerate(self._batches()):
            rng = np.random.default_rng([_POOL, self.settings.seed, self.epoch, number, self.processes.rank])
            found = self._step(x, y, rng)
            sums += torch.stack([found.get(name, missing).to(sums) for name in names])
            steps += 1
        means = self.processes.average(sums / steps).tolist()
        return dict(zip(names, means, strict=True))

    def _step(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Improve generators and source segmenter, then discriminators."""
        networks, settings = self.networks, self.settings
        _freeze(networks.judges, frozen=True)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            made = generate(networks, x, y, settings)
            parts, foreground = generator_losses(networks, made, x, y, self.aims, settings)
            networks.follow(self.processes.average(foreground.clone()))
        loss = weighted(parts, settings)
        loss.backward()
        self.processes.average_gradients(networks.makers)
        self.optimizer.step()
        _freeze(networks.judges, frozen=False)
        fake_y = networks.pool_target.exchange(made.fake_y, rng)
        fake_x = networks.pool_source.exchange(made.fake_x, rng)
        target, source = self._judge(fake_y, fake_x, x, y)
        for _ in range(settings.judge_steps - 1):
            # Without a pool there is nothing earlier.
            old_y = networks.pool_target.draw(len(x), rng)
            old_x = networks.pool_source.draw(len(x), rng)
            self._judge(fake_y if old_y is None else old_y, fake_x if old_x is None else old_x, *self._drawn(rng))
        told = {name: part.detach() for name, part in parts.items()}
        return {
            **told, "loss": loss.detach(), "judge_target": target.detach(), "judge_source": source.detach(),
            "foreground": foreground,
        }  # fmt: skip

    def _judge(self, fake_y: Tensor, fake_x: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Improve the discriminators by one step; return their losses."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            target, source = discriminator_losses(self.networks, fake_y, fake_x, x, y, self.settings)
        (target + source).backward()
        self.processes.average_gradients(self.networks.judges)
        self.optimizer.step()
        return target, source

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self._half else nullcontext()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the slices of every step, -1 to 1, on the device."""
        source, target = self.slices.source, self.slices.target
        xs, ys = epoch_order(len(source), len(target), self.settings, self.epoch)
        share = self.processes.share(self.settings.batch_size)
        for step in paced(range(len(xs)), f"epoch {self.epoch + 1}", len(xs)):
            pair = (source.tensor(xs[step][share].tolist()), target.tensor(ys[step][share].tolist()))
            yield to_unit(pair[0].to(self.device)), to_unit(pair[1].to(self.device))

    @torch.no_grad()
    def _picture(self) -> np.ndarray[Any, Any]:
        self.networks.eval()
        x, y, vendors = self._samples
        fake = self.networks.to_target(to_unit(x.to(self.device)))
        back = self.networks.to_source(fake)
        return sample_sheet(x, to_grey(fake).cpu(), to_grey(back).cpu(), y, vendors)

    def _refuse_divergence(self, means: dict[str, float]) -> None:
        if not np.isfinite([means["loss"], means["judge_target"], means["judge_source"]]).all():
            raise SetupError(
                "E-HARM-DIVERGED",
                file=self.folder,
                found=f"a loss that is no number in epoch {self.epoch + 1}",
                expected="finite losses; the state before this epoch is kept",
                fix="train anew with a smaller learning_rate, or smaller weights of the losses that grow in log.csv",
            )

    def _warn_of_collapse(self, foreground: float) -> None:
        wanted = self.goal.targets.foreground
        if not wanted or not foreground < self.settings.collapse_share * wanted:
            return
        problem = Problem(
            "warning",
            "W-HARM-COLLAPSE",
            str(self.folder),
            f"epoch {self.epoch + 1}: discs cover {foreground:.2%} of harmonized slices, {wanted:.2%} of the target's",
            f"more than {self.settings.collapse_share:.0%} of the target's share",
            "raise weights.floor or floor_share, or see whether the sources show discs at all",
        )
        if not self.warnings and self.processes.first:
            _log.warning("%s", problem)
        self.warnings = [problem]


def _aims(settings: CycleGanSettings, goal: Goal, device: torch.device) -> Aims:
    if settings.weights.segmented and goal.segmenter is None:
        raise SetupError(
            "E-HARM-SEGMENTER",
            file="--segmenter",
            found="none, but weights for target_dice, source_dice or floor",
            expected="a segmenter of target slices",
            fix="train one with nnUNetv2_spine_harmonize segmenter, or take the preset plain",
        )
    loss = None
    if settings.weights.radiomics:
        wanted = settings.radiomics
        loss = RadiomicLoss(
            goal.targets.means, goal.targets.spreads, normalisation=wanted.normalisation, bin_width=wanted.bin_width,
            mode=wanted.mode, tau=wanted.tau,
        ).to(device)  # fmt: skip
    segmenter = goal.segmenter if settings.weights.segmented else None
    return Aims(segmenter, loss, goal.targets.foreground)


def _freeze(parameters: list[torch.nn.Parameter], *, frozen: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(not frozen)


def _shown(value: float) -> float | str:
    return round(value, 6) if np.isfinite(value) else ""


def _in_words(row: dict[str, Any], settings: CycleGanSettings, left_s: float) -> str:
    parts = [f"epoch {row['epoch'] + 1} of {settings.epochs}: loss {row['loss']:.3f}"]
    if row["validated_radiomics"] != "":
        parts.append(f"radiomic error {row['validated_radiomics']:.3f}")
    if row["validated_dice"] != "":
        parts.append(f"Dice {row['validated_dice']:.3f}")
    return ", ".join(parts) + (f"; about {duration(left_s)} left" if row["epoch"] + 1 < settings.epochs else "")

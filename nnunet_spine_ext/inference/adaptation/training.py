"""The training itself: a copy of the network, and a few steps of one of the two methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_spine_ext.inference.adaptation.affine import draw_affine
from nnunet_spine_ext.inference.adaptation.objectives import (
    divergence,
    entropy,
    inconsistency,
    shares,
    to_probabilities,
)
from nnunet_spine_ext.inference.adaptation.patches import PatchSource
from nnunet_spine_ext.inference.adaptation.settings import ConsistencySettings, TentSettings
from nnunet_spine_ext.networks.precision import has_bf16, use_single_precision

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
_DIGITS = 6


@dataclass
class Student:
    """A network to be trained, with parameters of its own.

    Parameters
    ----------
    network: maps (B, C, *patch) to logits (B, K, *patch), without mirroring.
    device: where it computes. regions: whether its classes overlap.
    passes: patches that went through the network.
    """

    network: nn.Module
    device: torch.device
    regions: bool
    passes: int = 0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, *patch), float32: in bfloat16 inside on GPUs that have it, else in single precision."""
        self.passes += len(image)
        with self._precision():
            logits: torch.Tensor = self.network(image)
        return logits.float()

    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Return probabilities (B, K, *patch)."""
        return to_probabilities(self(image), regions=self.regions)

    def _precision(self) -> AbstractContextManager[Any]:
        bf16 = self.device.type == "cuda" and has_bf16(self.device)
        return torch.autocast("cuda", dtype=torch.bfloat16) if bf16 else nullcontext()

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return a copy of all parameters on the CPU, for `load_state_dict`."""
        return {key: value.detach().to("cpu", copy=True) for key, value in self.network.state_dict().items()}


def student_of(network: nn.Module, device: torch.device, *, regions: bool) -> Student:
    """Return a copy of a network that can be trained, wherever and in whatever mode the original was made.

    The copy matters: what a predictor moved to a GPU in inference mode cannot be trained, and an exception in the
    middle of a training must leave the predictor as it was. Dropout, batch statistics and the like stay as in
    prediction; only wrappers that mirror in evaluation mode are told that this is training.
    """
    copied = deepcopy(getattr(network, "_orig_mod", network)).to(device)
    copied.train()
    for module in copied.modules():
        if not any(True for _ in module.children()):
            module.eval()
    use_single_precision(copied)
    return Student(copied.requires_grad_(True), device, regions)


def norm_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return scales and shifts of all normalizations, each once."""
    found = [
        parameter
        for module in network.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    ]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Lesson:
    """What a fold learned: loss per step (before it; None: nothing to learn), how many numbers were open to change."""

    parameters: Mapping[str, torch.Tensor]
    loss: tuple[float | None, ...]
    trained: int

    @property
    def learned(self) -> bool:
        """Whether any step had something to learn from."""
        return any(loss is not None for loss in self.loss)

    @property
    def finite(self) -> bool:
        """Whether the losses and all parameters are finite."""
        return all(loss is None or np.isfinite(loss) for loss in self.loss) and all(
            bool(torch.isfinite(value).all()) for value in self.parameters.values() if value.is_floating_point()
        )


def learn_consistency(
    student: Student, source: PatchSource, settings: ConsistencySettings, rng: np.random.Generator
) -> Lesson:
    """Train all parameters so that affine copies of a patch get the same answer."""
    trained = list(student.network.parameters())
    optimizer = torch.optim.AdamW(trained, lr=settings.lr)

    def losses() -> list[Callable[[], torch.Tensor | None]]:
        def one() -> torch.Tensor | None:
            patch = source.draw(rng)
            dimensions = len(source.patch)
            maps = tuple(draw_affine(rng, dimensions, settings.strength) for _ in range(2))
            return inconsistency(student, patch, (maps[0], maps[1]), regions=student.regions)

        return [one] * settings.patches

    curve = [_step(optimizer, losses()) for _ in range(settings.epochs)]
    return _lesson(student, trained, curve)


def learn_tent(student: Student, source: PatchSource, settings: TentSettings, rng: np.random.Generator) -> Lesson:
    """Train the scales and shifts of the normalizations for less entropy on the same patches in every step."""
    trained = norm_parameters(student.network)
    wanted = {id(parameter) for parameter in trained}
    for parameter in student.network.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    optimizer = torch.optim.Adam(trained, lr=settings.lr)
    patches = [source.draw(rng) for _ in range(settings.patches)]
    with torch.no_grad():
        priors = [shares(student.probabilities(patch.image), patch.inside) for patch in patches]

    def one(number: int) -> torch.Tensor:
        patch = patches[number]
        answer = student.probabilities(patch.image)
        loss = entropy(answer, patch.inside, regions=student.regions)
        apart = divergence(priors[number], shares(answer, patch.inside), regions=student.regions)
        return loss + settings.prior * apart if settings.prior else loss

    losses = [lambda number=number: one(number) for number in range(len(patches))]
    curve = [_step(optimizer, losses) for _ in range(settings.steps)]
    return _lesson(student, trained, curve)


def _step(optimizer: torch.optim.Optimizer, losses: Sequence[Callable[[], torch.Tensor | None]]) -> float | None:
    """Do one step along the mean of some losses; return it. Losses that are None do not count; None: all are."""
    optimizer.zero_grad(set_to_none=True)
    values = []
    for loss in losses:
        value = loss()
        if value is not None:
            (value / len(losses)).backward()  # type: ignore[no-untyped-call]
            values.append(float(value.detach()))
    if values:
        optimizer.step()
    return round(float(np.mean(values)), _DIGITS) if values else None


def _lesson(student: Student, trained: Sequence[nn.Parameter], curve: Sequence[float | None]) -> Lesson:
    return Lesson(student.parameters(), tuple(curve), sum(parameter.numel() for parameter in trained))

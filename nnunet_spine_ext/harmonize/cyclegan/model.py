"""A trained generator in use."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nnunet_spine_ext.core.config import load_config
from nnunet_spine_ext.core.model_folders import faults_of_model, load_weights
from nnunet_spine_ext.harmonize.cyclegan.networks import to_grey, to_unit
from nnunet_spine_ext.harmonize.cyclegan.settings import GeneratorShape
from nnunet_spine_ext.harmonize.harmonizer import MODEL_FILE, HarmonizerModel, Method, unusable
from nnunet_spine_ext.harmonize.slice_grid import TOP
from nnunet_spine_ext.networks.transformer_net import TransformerNet

_GENERATOR = "generator"
# Slices that go through the generator together.
_BATCH = 8


class CycleGanHarmonizer:
    """Makes slices look like those of the target; see `harmonizer.Harmonizer`."""

    method: Method = "cyclegan"

    def __init__(self, generator: TransformerNet, model: HarmonizerModel, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = generator.eval().requires_grad_(False).to(self.device)
        self.slices, self.size, self.spacing = model.slices, model.slices.size, model.spacing

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, 1, Y, X), 0 to 255, on the device of the images."""
        parts = [to_grey(self.generator(to_unit(part.to(self.device).float()))) for part in images.split(_BATCH)]
        return torch.cat(parts).clamp(0, TOP).to(images.device)


def generator_file(epoch: int) -> str:
    """Return the name of the generator's weights after so many epochs; no two epochs share one."""
    return f"{_GENERATOR}_{epoch:04d}.safetensors"


def load(folder: Path, model: HarmonizerModel, device: torch.device | str = "cpu") -> CycleGanHarmonizer:
    """Load the generator of a model folder; raises SetupError when it does not fit its description."""
    with faults_of_model(folder / MODEL_FILE):
        shape = load_config(GeneratorShape, model.settings.get("generator", {}), where="generator")
    generator = shape.build()
    load_weights(folder / _generator_of(folder, model), generator, MODEL_FILE, unusable)
    return CycleGanHarmonizer(generator, model, device)


def _generator_of(folder: Path, model: HarmonizerModel) -> str:
    name = next((name for name in model.files if name.startswith(_GENERATOR)), None)
    if name is None:
        raise unusable(folder / MODEL_FILE, "no generator among its files", "copy the model again")
    return name

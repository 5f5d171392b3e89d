"""Soft models without training: random outputs of the right range, or a network that lets intensities through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from model_builder import CORD, make_model

_EPSILON, _GAIN = 1e-5, 1e-4
TWO = {"background": 0, "cord": 1, "canal": 2}


def make_soft_model(
    folder: Path,
    *,
    labels: dict[str, int] = CORD,
    output: str = "linear",
    seeing: bool = False,
    threshold: float = 4.0,
    folds: int = 1,
    keep_all: bool = True,
    **options: Any,
) -> Path:
    """Write the folder of a soft model with the background row that training sets; return it.

    `seeing`: class k answers with ``intensity / (k threshold)``, intensity in standard deviations of the image, so that
    a bright cord is found; as logits so that the sigmoid is 0.5 at half the threshold. Otherwise the outputs are
    random, about 0.3 +- 0.5. `keep_all`: no value is removed for being far from a structure, unless `predict` says so.
    """
    make_model(folder, labels=labels, **options)
    plans = json.loads((folder / "plans.json").read_text())
    if keep_all:
        plans["spine_ext"]["predict"].setdefault("support_mm", None)
    plans["spine_ext"]["soft"] = {"output": output, "loss": "of no interest here"}
    (folder / "plans.json").write_text(json.dumps(plans))
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)
    weights = checkpoint["network_weights"]
    for fold in range(folds):
        own = {key: value.clone() for key, value in weights.items()}
        if seeing:
            let_intensities_through(own, [threshold * k for k in range(1, len(labels))], output)
        else:
            scatter(own, seed=fold, bias=0.3 if output == "linear" else -0.1)
        set_background(own, output)
        target = folder / f"fold_{fold}"
        target.mkdir(exist_ok=True)
        torch.save(checkpoint | {"network_weights": own}, target / "checkpoint_final.pth")
    return folder


def scatter(weights: dict[str, torch.Tensor], seed: int, bias: float) -> None:
    """Make the outputs of the last layer random in a range that soft values have."""
    generator = torch.Generator().manual_seed(seed)
    for key in _last_layer(weights):
        value = weights[key]
        wide = torch.randn(value.shape, generator=generator) * 0.4
        # Where one of two classes is low the other is high.
        wide[2:] = -wide[1:-1]
        weights[key] = wide if key.endswith("weight") else torch.full_like(value, bias)


def let_intensities_through(weights: dict[str, torch.Tensor], thresholds: list[float], output: str) -> None:
    """Let channel 0 carry the image past every convolution of the finest stage to the last layer, in place.

    Every convolution is computed as ever, so the time is that of any network of this shape; what lies deeper is not
    used. Values are made so small for the instance normalizations that these divide by their epsilon: then noise in a
    window without anything else does not become a structure.
    """
    for key, value in weights.items():
        if "encoder.stages.0." not in key and _finest_decoder_stage(weights) not in key:
            continue
        # A layer stands under two names, of which the one that is loaded last counts.
        if ".conv." in key or ".all_modules.0." in key:
            value[0] = 0
            if key.endswith("weight"):
                # The first convolution of the decoder sees what comes from below, then what was passed across.
                across = value.shape[1] // 2 if key.startswith("decoder.stages.") and ".convs.0." in key else 0
                value[(0, across, *(n // 2 for n in value.shape[2:]))] = _GAIN
        elif ".norm." in key or ".all_modules.1." in key:
            value[0] = _EPSILON**0.5 / _GAIN if key.endswith("weight") else 0
    for key in _last_layer(weights):
        value = weights[key]
        value.zero_()
        for k, threshold in enumerate(thresholds, start=1):
            if key.endswith("weight"):
                value[k, 0] = (8 if output == "sigmoid" else 1) / threshold
            elif output == "sigmoid":
                value[k] = -4


def set_background(weights: dict[str, torch.Tensor], output: str) -> None:
    """Set row 0 of every segmentation layer as training does, in place."""
    for key, value in weights.items():
        if ".seg_layers." in key:
            remainder = 1.0 if key.endswith("bias") else 0.0
            value[0] = remainder - value[1:].sum(dim=0) if output == "linear" else 0


def _finest_decoder_stage(weights: dict[str, torch.Tensor]) -> str:
    stages = [int(key.split("decoder.stages.")[1].split(".")[0]) for key in weights if "decoder.stages." in key]
    return f"decoder.stages.{max(stages)}."


def _last_layer(weights: dict[str, torch.Tensor]) -> list[str]:
    numbers = [int(key.split(".seg_layers.")[1].split(".")[0]) for key in weights if ".seg_layers." in key]
    return [key for key in weights if f".seg_layers.{max(numbers)}." in key]

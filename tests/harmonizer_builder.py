"""Harmonizers without training: folders of generators that add a constant to slices, or draw nonsense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_spine_ext.harmonize import volumes
from nnunet_spine_ext.harmonize.cyclegan.model import generator_file
from nnunet_spine_ext.harmonize.geometry_gate import SliceRow
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, write_harmonizer
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.networks.transformer_net import TransformerNet

SHAPE = {"width": 2, "blocks": 1}


def make_harmonizer(folder: Path, *, add: float | None = 0.1, epochs: tuple[int, int] = (2, 2)) -> Path:
    """Write a model folder; return it.

    add: what is added to slices between -1 and 1; None: the generator draws something else with random weights.
    """
    torch.manual_seed(0)
    residual = add is not None
    generator = TransformerNet(**SHAPE, residual=residual)
    if add is not None:
        torch.nn.init.constant_(generator.last.bias, add)
    model = HarmonizerModel(
        "cyclegan",
        SliceSettings(size=(96, 96), spacing=1.0),
        (1.0, 1.0),
        target=("Siemens",),
        sources=("GE", "Philips"),
        settings={"generator": SHAPE | {"residual": residual}},
        epochs=epochs,
    )
    write_harmonizer(folder, model, {generator_file(epochs[0]): generator.state_dict()})
    return folder


def fail_slices(monkeypatch: pytest.MonkeyPatch, *indices: int) -> None:
    """Let the geometry gate fail the slices of these numbers, whatever they show."""
    judge = volumes.judge

    def judged(index: int, *given: Any) -> SliceRow:
        row = judge(index, *given)
        return replace(row, passed=False, why="for the test") if index in indices else row

    monkeypatch.setattr(volumes, "judge", judged)

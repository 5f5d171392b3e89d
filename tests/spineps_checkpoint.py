"""Checkpoints in the layout of SPINEPS' instance models, with random weights, and a forward pass written out by hand.

Only torch's functions are used, so that a mistake in our own network cannot hide.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

GROUPS = 8


def random_state(channels: int = 11, width: int = 8, multipliers: tuple[int, ...] = (1, 2, 4, 8), seed: int = 0) -> Any:
    """Return a state dict with the names and shapes of SPINEPS' Unet3D."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def layer(name: str, *shape: int, norm: bool = False) -> None:
        fan = 1
        for n in shape[1:]:
            fan *= n
        weight = torch.randn(shape, generator=generator)
        state[f"{name}.weight"] = 1 + 0.1 * weight if norm else weight * (2.0 / fan) ** 0.5
        out = shape[1] if "ups" in name and name.endswith(".2") else shape[0]
        state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)

    def block(name: str, before: int, after: int) -> None:
        for number, first in ((1, before), (2, after)):
            layer(f"{name}.block{number}.proj", after, first, 3, 3, 3)
            layer(f"{name}.block{number}.norm", after, norm=True)
        if before != after:
            layer(f"{name}.res_conv", after, before, 1, 1, 1)

    layer("init_conv", width, channels, 7, 7, 7)
    sizes = [width, *(width * m for m in multipliers)]
    last = len(sizes) - 2
    for k in range(last + 1):
        block(f"downs.{k}.0", sizes[k], sizes[k + 1])
        block(f"downs.{k}.1", sizes[k + 1], sizes[k + 1])
        if k < last:
            layer(f"downs.{k}.2", sizes[k + 1], sizes[k + 1], 4, 4, 4)
    for name in ("mid_block1", "mid_block2"):
        block(name, sizes[-1], sizes[-1])
    for place, k in enumerate(range(last, -1, -1)):
        block(f"ups.{place}.0", sizes[k + 1], sizes[k])
        block(f"ups.{place}.1", sizes[k], sizes[k])
        if place < last:
            layer(f"ups.{place}.2", sizes[k], sizes[k], 4, 4, 4)
    block("final_res_block", 2 * width, width)
    layer("final_conv", 4, width, 1, 1, 1)
    return state


def forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Run SPINEPS' Unet3D on (B, channels, P, I, R)."""

    def conv(name: str, value: torch.Tensor, **how: int) -> torch.Tensor:
        return functional.conv3d(value, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def half(name: str, value: torch.Tensor) -> torch.Tensor:
        value = conv(f"{name}.proj", value, padding=1)
        value = functional.group_norm(value, GROUPS, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
        return functional.leaky_relu(value)

    def block(name: str, value: torch.Tensor) -> torch.Tensor:
        shortcut = conv(f"{name}.res_conv", value) if f"{name}.res_conv.weight" in state else value
        return half(f"{name}.block2", half(f"{name}.block1", value)) + shortcut

    depth = sum(name.startswith("downs.") and name.endswith(".0.block1.proj.weight") for name in state)
    x = conv("init_conv", x, padding=3)
    start, skips = x, []
    for k in range(depth):
        x = block(f"downs.{k}.1", block(f"downs.{k}.0", x))
        skips.append(x)
        if k < depth - 1:
            x = conv(f"downs.{k}.2", x, stride=2, padding=1)
    x = block("mid_block2", block("mid_block1", x))
    for k in range(depth):
        x = block(f"ups.{k}.1", block(f"ups.{k}.0", 0.5 * (x + skips.pop())))
        if k < depth - 1:
            name = f"ups.{k}.2"
            x = functional.conv_transpose3d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=1)
    return conv("final_conv", block("final_res_block", torch.cat((x, start), dim=1)))


def write(path: Path, state: dict[str, torch.Tensor], *, prefix: str = "network.", **more: Any) -> Path:
    """Write a checkpoint as Lightning does."""
    options = Namespace(channelwise=True, n_epoch=300, lr=1e-4, lr_end_factor=0.01, l2_reg_w=1e-5, dsc_loss_w=1.0)
    content = {
        "epoch": 299,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {prefix + name: value for name, value in state.items()},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "best_k_models": {}}},
        "optimizer_states": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"opt": options, "do2D": False, "num_channels": 11, "dim": 8},
        **more,
    }
    torch.save(content, path)
    return path

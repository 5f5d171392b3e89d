"""What losses for soft labels cost, beside nnU-Net's Dice and cross-entropy: one patch, one class, forward and back.

    python benchmarks/losses.py --out bench/losses [--quick]

Milliseconds of the processor, one thread, median of runs that take turns, because machines are shared; and counts that
no machine changes: operations on the whole volume, memory passes, reads by the host (`dispatch_counter.py`). A loss is
computed of a network output with background, as in training; stock gets the label map that it needs. `targets` is what
pooling a soft target for all other levels of deep supervision costs per step. The last line is the summary.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dispatch_counter import DispatchCounter
from torch import Tensor

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.losses.deep_supervision import soft_targets
from nnunet_spine_ext.losses.registry import LossSettings, build_deep_supervision

SHAPE = (64, 128, 128)
LEVELS = tuple(tuple(n // 2**i for n in SHAPE) for i in range(5))
STOCK = "nnunet_dice_ce"
ARMS: dict[str, dict[str, Any]] = {
    "adaptive_wing": {},
    "adaptive_wing, dilation": {"weighting": "dilation"},
    "adaptive_wing, sigmoid": {"activation": "sigmoid"},
    "soft_dice_bce": {"name": "soft_dice_bce"},
    "soft_dice_bce, squared": {"name": "soft_dice_bce", "dice_form": "squared"},
    "wing_dice": {"name": "wing_dice"},
}


def patch(shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    """Return a network output (1, 2, …), a soft target with validity (1, 2, …) and its label map (1, 1, …)."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.arange(n) - n / 2 for n in shape[1:])
    # A cord with a border of some voxels, along the first axis.
    disc = (1.5 - (rows[:, None] ** 2 + columns**2).sqrt() / 10).clamp(0, 1).expand(shape)
    target = torch.stack([disc, torch.ones(shape)])[None]
    return torch.randn((1, 2, *shape), generator=generator), target, (disc > 0.5).float()[None, None]


def stock_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss that nnU-Net builds for labels."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    options = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(options, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)


def arms(shape: tuple[int, ...] = SHAPE) -> dict[str, Callable[[], None]]:
    """Return one step of every arm, forward and back, and the pooling of targets."""
    output, target, labels = patch(shape)

    def step(loss: Callable[[Tensor, Tensor], Tensor], truth: Tensor) -> Callable[[], None]:
        return lambda: loss(output.clone().requires_grad_(), truth).backward()

    steps = {STOCK: step(stock_loss(), labels)}
    for name, settings in ARMS.items():
        steps[name] = step(build_deep_supervision(LossSettings(**settings)), target)
    sizes = [tuple(n // 2**i for n in shape) for i in range(1, len(LEVELS))]
    return {**steps, "targets": lambda: soft_targets(target, sizes) and None}


def measure(shape: tuple[int, ...], repeats: int) -> dict[str, dict[str, float]]:
    """Return milliseconds and counts of every arm."""
    steps = arms(shape)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:  # The first time memory is asked for as well.
                times[name].append(1e3 * (time.process_time() - start))
    rows = {}
    for name, step in steps.items():
        with DispatchCounter(torch.Size(shape).numel()) as counter:
            step()
        rows[name] = {"cpu_ms": round(statistics.median(times[name]), 2), **counter.summary()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for losses.json")
    parser.add_argument("--quick", action="store_true", help="5 runs instead of 25")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(SHAPE, 5 if arguments.quick else 25)
    print(f"{'':26s}{'CPU ms':>8s}{'of stock':>10s}{'volumes':>9s}{'passes':>8s}{'host reads':>12s}")
    for name, row in rows.items():
        share = row["cpu_ms"] / rows[STOCK]["cpu_ms"]
        counts = f"{row['volume_operations']:9.1f}{row['memory_passes']:8.1f}{row['host_reads']:12d}"
        print(f"{name:26s}{row['cpu_ms']:8.1f}{share:10.2f}{counts}")
    setting = {"shape": SHAPE, "torch": torch.__version__, "machine": platform.machine(), "threads": 1}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "losses.json", {**setting, "arms": rows})
    summary = {name: row["cpu_ms"] for name, row in rows.items()}
    print(json.dumps({"cpu_ms": summary, "host_reads": sum(row["host_reads"] for row in rows.values())}))


if __name__ == "__main__":
    main()

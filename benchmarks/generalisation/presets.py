"""Sizes of the runs: `cpu` is made for an hour on two free cores, `gpu` for 40 minutes on one data-centre GPU.

`gpu` has not been run. What a run took stands in its record. With `--epochs` it takes as long as that takes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from generalisation.arms import HERE, Schedule
from generalisation.domains import Size

PLANS = "bench"


@dataclass(frozen=True)
class RunSize:
    """Data, schedule, file of the network, and how many trainings run at once."""

    size: Size
    schedule: Schedule
    network: Path
    parallel: int


def run_size(arguments: argparse.Namespace, *, test: int, cpu_epochs: int = 12) -> RunSize:
    """Return the size of a run; `--quick` shortens everything so that it ends within ten minutes and claims nothing.

    `cpu_epochs`: of the preset `cpu` where `--epochs` says nothing.
    """
    test_seed, epochs = arguments.test_seed, arguments.epochs
    device = {"threads": 8, "device": "cuda"} if arguments.preset == "gpu" else {}
    if arguments.quick:
        schedule = Schedule(epochs or 3, 10, **device)
        size, network = Size(6, 3, 2.0, 80.0, test_seed=test_seed), HERE / "cpu.yaml"
    elif arguments.preset == "gpu":
        schedule = Schedule(epochs or 40, 50, **device)
        size, network = Size(60, test, 1.25, 80.0, test_seed=test_seed), HERE / "gpu.yaml"
    else:
        schedule = Schedule(epochs or cpu_epochs, 50)
        size, network = Size(18, test, 2.0, 80.0, test_seed=test_seed), HERE / "cpu.yaml"
    return RunSize(size, replace(schedule, precision=arguments.precision), network, 2)


ARMS_HELP = (
    "some of: nnunet, smauglab, smauglab-paper, ours, mirror, ours-cleanN (ours with N %% of clean samples), ours-clipF"
    " (its train.clip; 0: none), each with -xF behind it: F times as long; or FILE.yaml: ours with this configuration"
    " (default: %(default)s)"
)


def parser(description: str | None, seeds: int) -> argparse.ArgumentParser:
    """Return the options that all three scripts share."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--out", type=Path, required=True, help="folder for data, weights and scores; a rerun resumes")
    result.add_argument(
        "--preset",
        choices=("cpu", "gpu"),
        default="cpu",
        help="sizes and settings: those of generalisation/cpu.yaml or gpu.yaml (default: %(default)s)",
    )
    result.add_argument("--quick", action="store_true", help="a few steps only, within ten minutes; no claim")
    result.add_argument("--seeds", type=int, default=seeds, help="trainings per arm (default: %(default)s)")
    result.add_argument("--first-seed", type=int, default=1, help="others, to confirm what was chosen on these")
    result.add_argument("--test-seed", type=int, default=100_000, help="of the phantoms to test on")
    result.add_argument("--epochs", type=_count, help="of every training (default: those of the preset)")
    result.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of all networks while they train; bf16: half the time on a CPU that has it (default: %(default)s)",
    )
    result.add_argument("--parallel", type=int, help="trainings at the same time (default: 2)")
    result.add_argument("--record", type=Path, help="also write the result to this JSON file")
    return result


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("a number from 1")
    return int(text)


def conditions(arguments: argparse.Namespace, start: float) -> dict[str, Any]:
    """Return what a reader needs to repeat a run: versions, processor, options, time."""
    packages = ("torch", "nnunetv2", "nnunet_spine_ext")
    options: Mapping[str, Any] = {k: v for k, v in vars(arguments).items() if k not in ("out", "record")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.time() - start) / 60, 1),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

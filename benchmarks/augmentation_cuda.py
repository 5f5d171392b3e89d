"""The part of `augmentation.py` that needs a CUDA device: milliseconds per batch, waiting, a training step, a graph."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import augmentation_measure as measure
import numpy as np
import torch
from augmentation_arms import Arm, Local, Ours, Peer, Remote
from augmentation_data import Setting, initial, patches

BATCH = 2
SEEDS = 50
CLASSES = 15


def run_cuda(made: tuple[Mapping[str, Arm], dict[str, str]], peer: Peer | None) -> dict[str, Any]:
    """Return figures of the arms that run on a device; nnU-Net's transforms belong to its loader and are left out."""
    arms = {name: arm for name, arm in made[0].items() if name.startswith(("ours", "smauglab"))}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in ((128, 128, 128), (64, 128, 128)):
            source = initial(shape, Remote.scale)
            for setting, patch in patches(shape, (6, 26, 50), source).items():
                load(arms, peer, setting, patch, Path(folder))
                results[setting.name] = {name: row(arm) for name, arm in arms.items()}
                print(setting.name, results[setting.name], flush=True)
                if setting == Setting((128, 128, 128), 6):
                    steps = train_steps(arms, peer, batched(patch).to("cuda"))
                    print(steps, flush=True)
    return {"results": results, "train_step": steps, "missing": made[1], "goals": cuda_goals(results, steps)}


def batched(patch: measure.Patch) -> measure.Patch:
    """Return a batch of the same sample."""
    shape = (BATCH, 1, *patch.image.shape[2:])
    return measure.Patch(
        patch.image.expand(shape).contiguous(), patch.labels.expand(shape).contiguous(), patch.shape, patch.spacing
    )


def load(arms: Mapping[str, Arm], peer: Peer | None, setting: Setting, patch: measure.Patch, folder: Path) -> None:
    """Put batches on the device, in both interpreters."""
    whole = batched(patch)
    for arm in arms.values():
        arm.load(whole.to("cuda"))
    if peer:
        path = folder / "patch.npz"
        np.savez(path, image=whole.image.numpy(), labels=whole.labels.numpy())
        source = whole.image.shape[2:]
        peer.ask("load", path=str(path), shape=setting.shape, spacing=whole.spacing, source=source, device="cuda")


def row(arm: Arm) -> dict[str, Any]:
    """Return the figures of one arm in one setting."""
    for seed in range(5):
        arm.cuda(seed)
    found = [arm.cuda(seed) for seed in range(SEEDS)]
    figures: dict[str, Any] = {
        "ms_per_batch": round(statistics.mean(found), 3),
        "ms_median": round(statistics.median(found), 3),
        "ms_everything": round(statistics.mean(arm.cuda(seed, measure.EVERYTHING) for seed in range(10)), 3),
        "peak_extra_batches": round(max(arm.memory(seed) or 0.0 for seed in range(10)), 2),
    }
    if isinstance(arm, Local):
        figures["host_plan_ms"] = round(statistics.mean(arm.time(seed)["plan"] for seed in range(20)), 2)
        waits = [w for seed in range(20) if (w := measure.unsynchronised(arm.runner, seed, "apply"))]
        figures["waits"] = waits[:1]
        figures["cuda_graph"] = capture(arm.runner)
    return figures


def capture(runner: Ours) -> str:
    """Return "captured and equal" if a plan can be captured as a CUDA graph and replayed, else what happened."""
    try:
        runner.begin(0, measure.EVERYTHING)
        runner.step("plan")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                runner.step("apply")
        torch.cuda.current_stream().wait_stream(stream)
        expected = runner.result()[0].clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            runner.step("apply")
        graph.replay()
        torch.cuda.synchronize()
        same = torch.equal(runner.result()[0], expected)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "captured and equal" if same else "captured, but the result differs"


def train_steps(arms: Mapping[str, Arm], peer: Peer | None, patch: measure.Patch) -> dict[str, Any]:
    """Return milliseconds of a training step without and with augmentation, alternating, in each interpreter."""
    found: dict[str, list[float]] = {}
    for _ in range(3):
        for name in (None, *arms):
            arm = arms[name] if name else None
            if isinstance(arm, Remote):
                assert peer is not None
                found.setdefault("none, its environment", []).append(peer.ask("train", arm=None, classes=CLASSES))
                value = peer.ask("train", arm=name, classes=CLASSES)
            else:
                augment = measure.augmenting(arm.runner) if arm else None
                value = measure.train_step_ms(patch, augment, CLASSES)
            found.setdefault(name or "none", []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    base = {name: medians["none, its environment" if name.startswith("smauglab") else "none"] for name in medians}
    return {
        name: {"ms": round(value, 2), "more_percent": round(100 * (value / base[name] - 1), 2)}
        for name, value in medians.items()
    }


def cuda_goals(results: Mapping[str, Any], steps: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the goals that need a device."""
    main = results[Setting((128, 128, 128), 6).name]["ours_shift"]
    share = steps["ours_shift"]["more_percent"]
    return [
        {"goal": "2x1x128^3, ms per batch <= 2", "value": main["ms_per_batch"], "reached": main["ms_per_batch"] <= 2},
        {"goal": "training step + <= 1.5 %", "value": share, "reached": share <= 1.5},
        {"goal": "the host never waits", "value": len(main["waits"]), "reached": not main["waits"]},
        {
            "goal": "peak extra memory <= 4 batches",
            "value": main["peak_extra_batches"],
            "reached": main["peak_extra_batches"] <= 4,
        },
    ]

"""Train one trainer on a preprocessed data set; runs under the interpreter of the trainer's own environment.

    python train_arm.py SPEC.json

SPEC names the trainer (`module:class`), data set, plans, seed, epochs, iterations, optimizer and where the weights go.
Whatever the trainer is, network, loss, optimizer, number of steps and seed are the same: only what it does to a batch
differs. Nothing of this package is imported unless the trainer needs it.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler


def arm_class(base: type, spec: dict[str, Any]) -> type:
    """Return the trainer with the schedule of SPEC; the class has a name of its own, and so a folder."""

    class Arm(base):  # type: ignore[misc]
        def __init__(
            self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device
        ) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs = spec["epochs"]
            self.num_iterations_per_epoch = spec["iterations"]
            self.num_val_iterations_per_epoch = 1
            self.oversample_foreground_percent = spec["oversample_foreground"]
            self.initial_lr = spec["learning_rate"]
            self.weight_decay = spec["weight_decay"]
            self.save_every = 10**6

        def configure_optimizers(self) -> tuple[Any, Any]:
            if spec["optimizer"] == "sgd":
                optimizer: Any = torch.optim.SGD(
                    self.network.parameters(), self.initial_lr, 0.99, nesterov=True, weight_decay=self.weight_decay
                )
            else:
                optimizer = torch.optim.AdamW(
                    self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay
                )
            return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

        def on_epoch_end(self) -> None:
            self.logger.plot_progress_png = lambda _folder: None
            super().on_epoch_end()

    Arm.__name__ = Arm.__qualname__ = spec["name"]
    return Arm


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec.get("threads", 1))
    module, _, name = spec["trainer"].partition(":")
    base = getattr(importlib.import_module(module), name)
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / spec["dataset"]
    plans = json.loads((preprocessed / f"{spec['plans']}.json").read_text())
    plans["continue_training"] = False  # nnU-Net takes it out again, and fails where it is missing
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(spec["seed"])
    trainer = arm_class(base, spec)(plans, spec["configuration"], 0, dataset, torch.device(spec["device"]))
    trainer.initialize()
    if spec["precision"] == "bf16":
        from nnunet_spine_ext.networks.precision import train_in_bf16

        train_in_bf16(trainer.network, trainer.device)
    elif spec["device"] == "cpu":
        # A quarter faster on processors; ours would do it anyway, so that all do.
        trainer.network.to(memory_format=torch.channels_last_3d)
    wall, cpu = time.time(), time.process_time()
    trainer.run_training()
    network = getattr(trainer.network, "_orig_mod", trainer.network)
    torch.save(
        {
            "network_weights": {k: v.cpu() for k, v in network.state_dict().items()},
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.time() - wall,
            "torch": str(torch.__version__),
        },
        spec["weights"],
    )


if __name__ == "__main__":
    main()

"""Train one job of `arms.py` in this process: python -m softness.train SPEC.json."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.inference.building import find_trainer


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / spec["dataset"]
    plans = json.loads((preprocessed / f"{spec['plans']}.json").read_text())
    plans["continue_training"] = False  # nnU-Net takes it out again, and fails where it is missing
    dataset = json.loads((preprocessed / "dataset.json").read_text())
    trainer = find_trainer(spec["trainer"])(plans, "3d_fullres", spec["fold"], dataset, torch.device(spec["device"]))
    trainer.initialize()
    wall, cpu = time.time(), time.process_time()
    trainer.run_training()
    cpu, wall = time.process_time() - cpu, time.time() - wall
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    write_json(
        Path(spec["figures"]),
        {"cpu_s": round(cpu, 1), "wall_s": round(wall, 1), "steps": steps, "cpu_s_per_step": round(cpu / steps, 4)},
    )


if __name__ == "__main__":
    main()

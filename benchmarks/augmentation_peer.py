"""Runs SmaugLab in an environment of its own: reads requests as lines of JSON, answers with lines of JSON.

`augmentation.py` starts it with the interpreter of that environment. SmaugLab (GPL-3) is only imported here, through
its public names; nothing of it is part of this project, and nothing of this project is imported. Requests:

    {"do": "load", "path": file.npz, "shape": […], "spacing": […], "source": […], "device": "cpu"}
    {"do": "time" | "count" | "memory" | "cuda" | "train", "arm": name, "seed": 3, "only": null}
    {"do": "transforms" | "checks" | "about", …}
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import augmentation_checks as checks
import augmentation_measure as measure
import numpy as np
import torch
from torch import Tensor

CONFIGS = {
    "smauglab_default": "transform_params_gpu.json",
    "smauglab_paper": "transform_params_one-sequence-to-segment-them-all.json",
}
_ROTATION = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
_SPATIAL = "SpatialTransform"
# Never acts, but a pipeline without any transform cannot be built.
_IDLE = {"ZscoreNormalizationGPU": {"p": 0.0}}


class SmaugLab:
    """One of SmaugLab's configurations: geometry in the loader, the rest on the batch, as its trainer does."""

    parts = ("loader", "device")

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.config, self._folder = config, folder
        self._built: dict[tuple[str | None, tuple[int, ...]], tuple[Any, Any]] = {}
        self._batch = self._labels = torch.zeros(0)

    def load(self, patch: measure.Patch) -> None:
        self.patch = patch

    def transforms(self) -> dict[str, float]:
        found = {name: float(v["p"]) for name, v in self.config["GPU"].items() if isinstance(v, dict) and v["p"] > 0}
        spatial = self.config.get("CPU", {}).get(_SPATIAL)
        if spatial:
            found[_SPATIAL] = 1 - (1 - spatial["p_rotation"]) * (1 - spatial["p_scaling"])
        return found

    def begin(self, seed: int, only: str | None) -> None:
        key = (only, self.patch.shape)
        if key not in self._built:
            self._built[key] = self._build(only)
        self._loader, self._device = self._built[key]
        self._batch, self._labels = self.patch.image.clone(), self.patch.labels.clone()
        measure.seed_all(seed)

    @torch.no_grad()
    def step(self, part: str) -> None:
        if part == "device":
            self._batch, self._labels = self._device(self._batch, self._labels)
            return
        if self._loader is None:
            return
        done = [
            self._loader(image=image, segmentation=labels)
            for image, labels in zip(self._batch, self._labels, strict=True)
        ]
        self._batch = torch.stack([d["image"] for d in done])
        self._labels = torch.stack([d["segmentation"] for d in done])

    def result(self) -> tuple[Tensor, Tensor]:
        return self._batch, self._labels

    def _build(self, only: str | None) -> tuple[Any, Any]:
        from smauglab.trainers.nnUNetTrainerDAExt import CONFIG_ENV, nnUNetTrainerDAExtGPU
        from smauglab.transforms.gpu.transforms import AugTransformsGPU

        config = self._variant(only)
        path = self._folder / f"{len(list(self._folder.iterdir()))}.json"
        path.write_text(json.dumps(config))
        loader = None
        if config.get("CPU"):
            os.environ[CONFIG_ENV] = str(path)
            loader = nnUNetTrainerDAExtGPU.get_training_transforms(
                np.array(self.patch.shape), _ROTATION, None, (), False, foreground_labels=(1,)
            )
        return loader, AugTransformsGPU(str(path)).to(self.patch.image.device)

    def _variant(self, only: str | None) -> dict[str, Any]:
        """Return the configuration as it is, or one in which what is asked for surely happens and nothing else."""
        config = copy.deepcopy(self.config)
        if only is None:
            return config
        everything = only == measure.EVERYTHING
        wanted = self.transforms() if everything else {only}
        config["GPU"] = {name: {**v, "p": 1.0} for name, v in config["GPU"].items() if name in wanted} or dict(_IDLE)
        spatial = config.get("CPU", {}).get(_SPATIAL)
        if spatial:
            spatial["p_rotation"] = spatial["p_scaling"] = float(_SPATIAL in wanted)
        return config


class Server:
    """Answers requests."""

    def __init__(self, folder: Path) -> None:
        from smauglab import configs

        self._folder = folder
        self.arms = {
            name: SmaugLab(json.loads((resources.files(configs) / file).read_text()), folder)
            for name, file in CONFIGS.items()
        }

    def about(self, **_: Any) -> dict[str, Any]:
        from smauglab import configs

        files = {name: str(resources.files(configs) / file) for name, file in CONFIGS.items()}
        return {"smauglab": version("smauglab"), "torch": torch.__version__, "configs": files}

    def load(self, path: str, shape: list[int], spacing: list[float], source: list[int], device: str) -> None:
        content = np.load(path)
        whole = measure.Patch(
            torch.from_numpy(content["image"]), torch.from_numpy(content["labels"]), tuple(shape), tuple(spacing)
        )
        self.patch = whole.centre(source).to(device)
        for arm in self.arms.values():
            arm.load(self.patch)

    def transforms(self, arm: str) -> dict[str, float]:
        return self.arms[arm].transforms()

    def time(self, arm: str, seed: int, only: str | None) -> dict[str, float]:
        return measure.time_ms(self.arms[arm], seed, only)

    def count(self, arm: str, seed: int, only: str | None) -> dict[str, float]:
        return measure.count(self.arms[arm], self.patch, seed, only)

    def memory(self, arm: str, seed: int, only: str | None) -> float | None:
        return measure.peak_extra(self.arms[arm], self.patch, seed, only)

    def cuda(self, arm: str, seed: int, only: str | None) -> float:
        return measure.cuda_ms(self.arms[arm], seed, only)

    def train(self, arm: str | None, classes: int) -> float:
        augment = None
        if arm is not None:
            # What the loader does costs the step nothing: workers do it.
            runner = SmaugLab({"GPU": self.arms[arm].config["GPU"]}, self._folder)
            runner.load(self.patch.centre(self.patch.shape))
            augment = measure.augmenting(runner)
        return measure.train_step_ms(self.patch, augment, classes)

    def checks(self, number: int, draws: int) -> dict[str, Any]:
        everywhere = {"in_seg": 0.0, "out_seg": 0.0, "mix_in_out": False}
        noise = self._operator("RandomGaussianNoiseGPU", {"mean": 0.0, "std": 0.1, **everywhere})
        blur = self._operator("RandomGaussianBlurGPU", {"sigma": 1.0, **everywhere})
        bias = self._operator("RandomBiasFieldGPU", {"coefficients": 0.5, "retain_stats": True, **everywhere})
        low = {
            name: checks.alias(self._operator(name, {"scale": [0.3, 0.3], "same_on_batch": False}))
            for name in ("RandomLowResTransformGPU", "RandomAcqTransformGPU")
        }
        whole = SmaugLab({"GPU": self.arms["smauglab_default"].config["GPU"]}, self._folder)
        return {
            "alias": low,
            "blur_sd_requested_1": checks.blur_deviation(blur, draws),
            "noisy_air": checks.noisy_air(noise),
            "air_spread_under_bias": checks.air_spread(bias),
            "reproducible": checks.reproducibility(whole, number),
        }

    def _operator(self, name: str, settings: dict[str, Any]) -> checks.Operator:
        runner = SmaugLab({"GPU": {name: {**settings, "p": 1.0}}}, self._folder)

        def operator(image: Tensor, seed: int) -> Tensor:
            labels = torch.zeros_like(image)
            runner.load(measure.Patch(image, labels, tuple(image.shape[2:]), (1.0,) * 3))
            runner.begin(seed, None)
            runner.step("device")
            return runner.result()[0]

        return operator


def main() -> None:
    """Answer requests until there are no more."""
    answers = sys.stdout
    # What the other software prints is no answer.
    sys.stdout = sys.stderr
    measure.one_thread()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"answer": getattr(server, request.pop("do"))(**request)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()

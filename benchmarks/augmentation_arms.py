"""The augmentations that are compared, as runners: ours, nnU-Net's, and a line to another environment."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import augmentation_measure as measure
import numpy as np
import torch
from augmentation_data import ROTATION
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig, Entry, Group
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.tissues import TISSUES
from nnunet_spine_ext.augment.transform import build

# Far beyond every ramp: full strength.
_EPOCH = 500


class Ours:
    """A configuration of ours: plan on the host, apply on the device. With `mirror`, mirrored as the trainer does."""

    parts = ("plan", "apply")

    def __init__(self, config: AugmentConfig, *, mirror: bool = False) -> None:
        if mirror:
            flip = build("flip", {"p": 1.0, "axis_p": 0.5})
            config = config.with_entries(lambda entries: (flip, *entries))
        self.config = config
        self._variants: dict[str | None, AugmentConfig] = {None: config}
        self._pipelines: dict[tuple[str | None, Context], Pipeline] = {}

    def load(self, patch: measure.Patch) -> None:
        self.patch = patch
        ids = torch.unique(patch.labels).tolist()
        # Each label is made of something, as where names are known: transforms of tissues act on all of them.
        names = [name for name in TISSUES if name != "air"]
        tissues = tuple((label, names[label % len(names)]) for label in ids if label > 0)
        source = tuple(patch.image.shape[2:])
        self._context = Context(patch.shape, patch.spacing, source, labels=tuple(ids), tissues=tissues)

    def transforms(self) -> dict[str, float]:
        chances = {name: entry.p * share for name, (entry, share) in self._entries().items()}
        return {name: p for name, p in chances.items() if p > 0}

    def begin(self, seed: int, only: str | None) -> None:
        key = (only, self._context)
        if key not in self._pipelines:
            self._pipelines[key] = Pipeline(self._variant(only), self._context)
        self._pipeline = self._pipelines[key]
        self._keys = [SampleKey(1, f"case{i}", _EPOCH, seed) for i in range(self.patch.image.shape[0])]

    def step(self, part: str) -> None:
        if part == "plan":
            self.plan = self._pipeline.plan(self._keys)
        else:
            self.apply(self.patch.image, self.patch.labels)

    def apply(self, image: Tensor, labels: Tensor) -> None:
        """Apply the plan."""
        self._result = self._pipeline.apply(image, labels, self.plan)

    def result(self) -> tuple[Tensor, Tensor]:
        image, labels = self._result
        assert labels is not None
        return image, labels

    def _entries(self) -> dict[str, tuple[Entry, float]]:
        """Return transforms and groups by their names, each with the share of the samples that may get it."""
        schedule, clean = self.config.schedule, self.config.clean
        found: dict[str, tuple[Entry, float]] = {}
        for entry in self.config.transforms:
            stages = {t.stage for t in (entry.members if isinstance(entry, Group) else (entry,))}
            spared = clean is None and stages <= set(schedule.clean_stages)
            found[_free_name(entry, found)] = (entry, 1.0 if spared else 1 - schedule.clean_share)
        for entry in () if clean is None else clean.transforms:
            found[_free_name(entry, found)] = (entry, schedule.clean_share)
        return found

    def _variant(self, only: str | None) -> AugmentConfig:
        if only not in self._variants:
            if only == measure.EVERYTHING:
                # Of two lists the one that no clean sample gets.
                chosen = [entry for entry in self.config.transforms if entry.p > 0]
            else:
                chosen = [entry for name, (entry, _) in self._entries().items() if name == only]
            schedule = replace(self.config.schedule, clean_share=0.0)
            self._variants[only] = replace(
                self.config, transforms=tuple(replace(e, p=1.0) for e in chosen), schedule=schedule, clean=None
            )
        return self._variants[only]


def _free_name(entry: Entry, taken: Mapping[str, Any]) -> str:
    name = "one of " + ", ".join(t.name for t in entry.members) if isinstance(entry, Group) else entry.name
    return name if name not in taken else f"{name}#{len(taken)}"


class NnUNet:
    """The transforms that one of nnU-Net's trainers gives its loader, sample by sample."""

    parts = ("loader",)

    def __init__(self, trainer: type[nnUNetTrainer]) -> None:
        self._trainer = trainer
        self._composed: dict[tuple[str | None, tuple[int, ...]], ComposeTransforms] = {}

    def load(self, patch: measure.Patch) -> None:
        self.patch = patch
        found = self._trainer.get_training_transforms(
            np.array(patch.shape), ROTATION, None, (0, 1, 2), False, foreground_labels=(1,)
        )
        self._listed = list(found.transforms)
        self._items = dict(self._flat())

    def transforms(self) -> dict[str, float]:
        return {name: p for name, (p, _) in self._items.items()}

    def begin(self, seed: int, only: str | None) -> None:
        key = (only, self.patch.shape)
        if key not in self._composed:
            self._composed[key] = self._compose(only)
        self._compose_now = self._composed[key]
        self._samples = [
            {"image": image.clone(), "segmentation": labels.clone()}
            for image, labels in zip(self.patch.image, self.patch.labels, strict=True)
        ]
        measure.seed_all(seed)

    @torch.no_grad()
    def step(self, part: str) -> None:
        self._samples = [self._compose_now(**sample) for sample in self._samples]

    def result(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.stack([s[key] for s in self._samples]) for key in ("image", "segmentation"))  # type: ignore[return-value]

    def _flat(self) -> Any:
        """Yield name, probability and a version that surely acts, of everything that is left to chance."""
        for number, transform in enumerate(self._listed):
            if type(transform).__name__ == "SpatialTransform":
                sure = copy.copy(transform)
                sure.p_rotation = sure.p_scaling = 1.0
                yield "SpatialTransform", (1 - (1 - transform.p_rotation) * (1 - transform.p_scaling), sure)
            members = transform.list_of_transforms if isinstance(transform, OneOfTransform) else [transform]
            for place, member in enumerate(members):
                if isinstance(member, RandomTransform):
                    name = f"{number}.{place} {type(member.transform).__name__}"
                    yield name, (member.apply_probability / len(members), member.transform)

    def _compose(self, only: str | None) -> ComposeTransforms:
        """Return all transforms, or those that are no matter of chance and what is asked for.

        Of several that exclude each other `EVERYTHING` takes the first.
        """
        if only is None:
            return ComposeTransforms(self._listed)
        everything = only == measure.EVERYTHING
        chosen: list[Any] = []
        for number, transform in enumerate(self._listed):
            if type(transform).__name__ == "SpatialTransform":
                still = copy.copy(transform)
                still.p_rotation = still.p_scaling = 0.0
                chosen.append(self._items["SpatialTransform"][1] if everything or only == "SpatialTransform" else still)
            elif isinstance(transform, OneOfTransform | RandomTransform):
                wanted = [n for n in self._items if n.startswith(f"{number}.") and (everything or n == only)]
                chosen += [self._items[n][1] for n in wanted[:1]]
            else:
                chosen.append(transform)
        return ComposeTransforms(chosen)


class Peer:
    """Another interpreter that runs `augmentation_peer.py` and answers requests."""

    def __init__(self, interpreter: Path) -> None:
        script = Path(__file__).with_name("augmentation_peer.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        # Its environment is its own: no trainers, no path of ours.
        for name in ("PYTHONPATH", "nnUNet_extTrainer"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [str(interpreter), str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def ask(self, do: str, **arguments: Any) -> Any:
        """Return the answer to one request.

        Raises
        ------
        RuntimeError: what failed there, or that the interpreter has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        found = json.loads(line) if line else {"error": "the interpreter has ended"}
        if "error" in found:
            raise RuntimeError(f"SmaugLab, {do}: {found['error']}")
        return found["answer"]

    def close(self) -> None:
        """End the interpreter."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


class Local:
    """An arm in this process."""

    def __init__(self, runner: Any, source: tuple[float, float] = (0.85, 1.25)) -> None:
        self.runner, self.scale = runner, source

    def load(self, patch: measure.Patch) -> None:
        self._patch = patch
        self.runner.load(patch)

    def transforms(self) -> dict[str, float]:
        return dict(self.runner.transforms())

    def time(self, seed: int, only: str | None = None) -> dict[str, float]:
        return measure.time_ms(self.runner, seed, only)

    def count(self, seed: int, only: str | None = None) -> dict[str, float]:
        return measure.count(self.runner, self._patch, seed, only)

    def memory(self, seed: int, only: str | None = None) -> float | None:
        return measure.peak_extra(self.runner, self._patch, seed, only)

    def cuda(self, seed: int, only: str | None = None) -> float:
        return measure.cuda_ms(self.runner, seed, only)


class Remote:
    """An arm in the other interpreter; its patch was loaded there."""

    scale = (0.85, 1.25)

    def __init__(self, peer: Peer, name: str) -> None:
        self._peer, self._name = peer, name

    def load(self, patch: measure.Patch) -> None:
        """Nothing: the server loads for all its arms."""

    def transforms(self) -> dict[str, float]:
        return dict(self._peer.ask("transforms", arm=self._name))

    def time(self, seed: int, only: str | None = None) -> dict[str, float]:
        return dict(self._peer.ask("time", arm=self._name, seed=seed, only=only))

    def count(self, seed: int, only: str | None = None) -> dict[str, float]:
        return dict(self._peer.ask("count", arm=self._name, seed=seed, only=only))

    def memory(self, seed: int, only: str | None = None) -> float | None:
        found = self._peer.ask("memory", arm=self._name, seed=seed, only=only)
        return None if found is None else float(found)

    def cuda(self, seed: int, only: str | None = None) -> float:
        return float(self._peer.ask("cuda", arm=self._name, seed=seed, only=only))


Arm = Local | Remote


def expected_ms(base: float, forced: Mapping[str, float], chances: Mapping[str, float]) -> float:
    """Return the expected cost: what is always done, and each transform's cost beyond it times its probability."""
    return base + sum(chances[name] * (forced[name] - base) for name in forced)

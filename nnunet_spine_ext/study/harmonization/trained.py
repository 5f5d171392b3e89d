"""What an evaluation trains: segmenters of the target, baselines, CycleGANs; each is one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.threads import limit_threads
from nnunet_spine_ext.harmonize.harmonizer import Method
from nnunet_spine_ext.study.config import digest
from nnunet_spine_ext.study.harmonization.arms import Arm
from nnunet_spine_ext.study.harmonization.config import WHOLE, HarmonizationConfig, Trained
from nnunet_spine_ext.study.harmonization.data import Scans
from nnunet_spine_ext.study.harmonization.given import harmonizer_facts, segmenter_facts
from nnunet_spine_ext.study.steps import Step

MODELS = "models"
_SEGMENTER_S, _CYCLEGAN_S, _FIT_S = 150.0, 300.0, 10.0


@dataclass(frozen=True)
class Model:
    """A model: its folder (relative to the study, or absolute), the steps that it needs, what decides it."""

    folder: str
    facts: Any
    steps: tuple[Step, ...] = ()

    @property
    def given(self) -> bool:
        """Whether nothing has to be done for it."""
        return not self.steps

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps."""
        return tuple(step.name for step in self.steps)


def segmenter_of(config: HarmonizationConfig, scans: Scans, study: Path, name: str, seed: int) -> Model:
    """Return a segmenter: the given one, or the step that trains it on slices of the target."""
    plan = config.segmenters[name]
    if plan.folder is not None:
        return Model(str(Path(plan.folder).resolve()), segmenter_facts(Path(plan.folder).resolve()))
    settings = [*_slices(config), *plan.settings, f"seed={seed}"]
    facts = {"kind": "segmenter", "preset": plan.preset, "settings": settings, "data": _data(scans)}
    folder = f"{MODELS}/{seed}/segmenter-{name}-{digest(facts)[:8]}"
    arguments = {
        "study": str(study), "folder": folder, "datasets": list(scans.training), "target": list(scans.target),
        "key": scans.key, "preset": plan.preset, "settings": settings, "device": config.device,
    }  # fmt: skip
    needs = tuple(step.name for step in scans.training_steps)
    step = Step(f"train segmenter {name}, seed {seed}", train_segmenter, arguments, facts, needs, _SEGMENTER_S,
                (f"{folder}/segmenter.json",), optional=False)  # fmt: skip
    return Model(folder, facts, (step,))


def harmonizer_of(
    config: HarmonizationConfig, scans: Scans, study: Path, arm: Arm, seed: int, segmenter: Model
) -> Model:
    """Return a harmonizer: the given one for the whole method, or the step that fits or trains it."""
    plan = config.harmonizer
    if arm.name == WHOLE and plan.folder is not None:
        return Model(str(Path(plan.folder).resolve()), harmonizer_facts(Path(plan.folder).resolve()))
    fitted = arm.kind == "baseline"
    method = arm.name if fitted else "cyclegan"
    preset, settings = harmonizer_settings(config, arm, seed)
    facts = {"kind": method, "preset": preset, "settings": settings, "data": _data(scans),
             "segmenter": None if fitted else segmenter.facts}  # fmt: skip
    folder = f"{MODELS}/{seed}/{arm.name}-{digest(facts)[:8]}"
    arguments = {
        "study": str(study), "folder": folder, "datasets": list(scans.training), "target": list(scans.target),
        "source": list(scans.sources), "key": scans.key, "method": method,
        "segmenter": None if fitted else segmenter.folder, "preset": preset, "settings": settings,
        "device": config.device,
    }  # fmt: skip
    needs = (*(() if fitted else segmenter.needs), *(step.name for step in scans.training_steps))
    weight, verb = (_FIT_S, "fit") if fitted else (_CYCLEGAN_S, "train")
    step = Step(f"{verb} {arm.name}, seed {seed}", train_harmonizer, arguments, facts, needs, weight,
                (f"{folder}/model.json",))  # fmt: skip
    return Model(folder, facts, (step,))


def harmonizer_settings(config: HarmonizationConfig, arm: Arm, seed: int) -> tuple[str, list[str]]:
    """Return preset and assignments of the training of an arm.

    What the arm switches off comes last: it is what the arm is.
    """
    if arm.kind == "baseline":
        return "full", [*_slices(config), *config.by_arm.get(arm.name, ())]
    plan: Trained = config.harmonizer
    more = config.by_arm.get(arm.name, ())
    return plan.preset, [*_slices(config), *plan.settings, *more, f"seed={seed}", *arm.settings]


def _slices(config: HarmonizationConfig) -> list[str]:
    """Return how slices are cut, as assignments: a preset of its own would cut others."""
    values = to_dict(config.slices)
    return [f"slices.{key}={_word(value)}" for key, value in values.items()]


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return f"[{', '.join(str(one) for one in value)}]" if isinstance(value, list | tuple) else str(value)


def _data(scans: Scans) -> dict[str, Any]:
    """Return what decides the slices of a training."""
    made = [step.facts for step in scans.training_steps]
    return {
        "datasets": list(scans.training), "key": scans.key, "target": list(scans.target),
        "sources": list(scans.sources), "made": made,
        **({"content": list(scans.training_content)} if scans.training_content else {}),
    }  # fmt: skip


def train_segmenter(
    study: str | Path, *, folder: str, datasets: Sequence[str], target: Sequence[str], key: str, preset: str,
    settings: Sequence[str], device: str,
) -> dict[str, Any]:  # fmt: skip
    """Train a segmenter; what an earlier run began is gone on with."""
    from nnunet_spine_ext.training.slice_segmenter import segmenter

    limit_threads()
    study = Path(study)
    result = segmenter(
        [study / name for name in datasets], target=list(target), o=study / folder, key=key, preset=preset,
        assignments=list(settings), device=device, resume=(study / folder).exists(),
    )  # fmt: skip
    return dict(result.to_dict())


def train_harmonizer(
    study: str | Path, *, folder: str, datasets: Sequence[str], target: Sequence[str], source: Sequence[str], key: str,
    method: Method, segmenter: str | None, preset: str, settings: Sequence[str], device: str,
) -> dict[str, Any]:  # fmt: skip
    """Train or fit a harmonizer; what an earlier run began is gone on with."""
    from nnunet_spine_ext.training.harmonize import train

    limit_threads()
    study = Path(study)
    result = train(
        [study / name for name in datasets], target=list(target), source=list(source), key=key, method=method,
        segmenter=None if segmenter is None else study / segmenter, o=study / folder, preset=preset,
        assignments=list(settings), device=device, resume=(study / folder).exists(),
    )  # fmt: skip
    return dict(result.to_dict())


def parameters_of(folder: Path) -> dict[str, int]:
    """Return how many numbers the weights of a model are, by file without ending; what has no weights is empty."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if "training" in path.relative_to(folder).parts:
            continue
        with safe_open(str(path), framework="numpy") as content:
            found[path.stem] = sum(math.prod(content.get_slice(name).get_shape()) for name in content.keys())  # noqa: SIM118
    return found

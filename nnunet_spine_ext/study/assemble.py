"""From a configuration to the steps of a study, in the order of their importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.harmonize.harmonizer import MODEL_FILE
from nnunet_spine_ext.inference.harmonizing import read_network
from nnunet_spine_ext.study.conditions import Condition
from nnunet_spine_ext.study.config import StudyConfig
from nnunet_spine_ext.study.gaps import measure_gaps
from nnunet_spine_ext.study.images import Images, images_of
from nnunet_spine_ext.study.models import Model, Models, models_of
from nnunet_spine_ext.study.predicting import predict_strategy
from nnunet_spine_ext.study.score import score_strategy
from nnunet_spine_ext.study.steps import Step
from nnunet_spine_ext.study.strategies import STRATEGIES, twin_of

# Seconds on one core, in proportion to each other, for the time that remains.
_PREDICT_S, _TTA, _SCORE_S, _GAP_S = 2.0, 6.0, 1.2, 0.8


@dataclass(frozen=True)
class Run:
    """All predictions of one model under one strategy.

    Parameters
    ----------
    strategy: its name. seed: of its training. n: number of samples of fine-tuning, else None.
    conditions: what it predicts. folder, scores: of its predictions and their scores, relative to the study.
    predict, score: names of its steps.
    """

    strategy: str
    seed: int
    conditions: tuple[Condition, ...]
    folder: str
    scores: str
    predict: str
    score: str
    n: int | None = None

    @property
    def title(self) -> str:
        """Return what the log calls it."""
        return self.strategy if self.n is None else f"{self.strategy} N={self.n}"


@dataclass
class Assembly:
    """The steps of a study in order, its runs, where its gaps are, and what cannot be run, with the reason."""

    images: Images
    steps: list[Step] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    gaps: dict[int, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def assemble(config: StudyConfig, study: Path) -> Assembly:
    """Return everything that a study does.

    Raises
    ------
    UsageError, NoInputError: given data that cannot be studied.
    """
    images = images_of(config, study)
    models = models_of(config, images, study)
    made = Assembly(images, [*images.test_steps])
    for seed in config.seeds:
        for name in sorted(config.strategies, key=lambda name: name != "none"):
            _add_strategy(made, config, models, name, seed)
    return _ordered(made, models)


def _add_strategy(made: Assembly, config: StudyConfig, models: Models, name: str, seed: int) -> None:
    strategy = STRATEGIES[name]
    if strategy.harmonizer and config.models.harmonizer is None:
        made.unavailable[name] = "there is no harmonizer: name its folder in the configuration as models.harmonizer"
        return
    found = models.finetuned(seed) if strategy.training == "finetuned" else [models.of(strategy.training, seed)]
    for model in found:
        if model.missing:
            made.unavailable[name] = model.missing
            return
        _add_run(made, config, model, name, seed)
    if name == "none":
        _add_gaps(made, config, found[0], seed)
        if any(condition.factor != "scanner" for condition in made.images.conditions):
            _add_run(made, config, found[0], name, seed, components=True)


def _add_run(
    made: Assembly, config: StudyConfig, model: Model, name: str, seed: int, *, components: bool = False
) -> None:
    chosen = _conditions(made, model, components=components)
    tag = f"{name}-components" if components else name
    if model.condition is not None:
        tag = f"{name}-{model.condition.key}-{model.n}"
    folder, scores = f"predictions/{seed}/{tag}", f"scores/{seed}/{tag}.json"
    title = f"{tag}, seed {seed}"
    run = Run(name, seed, chosen, folder, scores, f"predict {title}", f"score {title}", model.n)
    twin = twin_of(name) if tag == name else None
    twin = twin if twin in config.strategies else None
    images = made.images
    keys = [condition.key for condition in chosen]
    count = len(keys) * images.subjects
    options = {**STRATEGIES[name].options, **_harmonizer(config, name)}
    folders = list(images.test_folders)
    arguments = {
        "study": str(images.study), "folder": folder, "model": model.folder, "folders": folders, "chosen": keys,
        "options": options, "device": config.device, "step_size": config.step_size,
        "precision": config.precision,
        "folds": config.folds if model.given else None,
        "checkpoint": config.checkpoint if model.given else "checkpoint_final.pth", "instances": images.instances,
        "twin": twin or "",
    }  # fmt: skip
    needs = (*model.needs, *(step.name for step in images.test_steps))
    # A twin spares work, and decides nothing.
    facts = {key: value for key, value in arguments.items() if key not in ("study", "device", "twin", "precision")}
    # What was computed in one precision is not to be compared with what was computed in the other.
    facts |= config.bf16_facts
    facts["model"] = model.facts
    if STRATEGIES[name].harmonizer:
        # Its description has the hashes of all its files.
        facts["harmonizer"] = sha256(Path(options["harmonize_model"]) / MODEL_FILE)
    slow = _TTA if options.get("tta") == "full" or options.get("adapt") != "none" else 1.0
    made.steps.append(
        Step(
            run.predict,
            predict_strategy,
            arguments,
            facts,
            needs,
            _PREDICT_S * slow * count,
            (folder,),
            optional=name != "none" or components,
            follows=() if twin is None else (f"predict {twin}, seed {seed}",),
        )
    )
    scored = {"study": str(images.study), "folder": folder, "scores": scores, "folders": folders, "chosen": keys}
    made.steps.append(
        Step(
            run.score,
            score_strategy,
            scored,
            # 2: what matching did to a scan.
            {"version": 2},
            (run.predict,),
            _SCORE_S * count,
            (scores,),
            optional=False,
        )
    )
    made.runs.append(run)


def _harmonizer(config: StudyConfig, name: str) -> dict[str, Any]:
    """Return the option that names the harmonizer of a strategy; SetupError for a folder that has no network."""
    folder = config.models.harmonizer
    if not STRATEGIES[name].harmonizer or folder is None:
        return {}
    read_network(folder)
    return {"harmonize_model": str(Path(folder).resolve())}


def _conditions(made: Assembly, model: Model, *, components: bool) -> tuple[Condition, ...]:
    """Return what is predicted: whole scanners or components, one scanner after fine-tuning to it."""
    if model.condition is not None:
        return (model.condition,)
    return tuple(c for c in made.images.conditions if (c.factor != "scanner") == components)


def _add_gaps(made: Assembly, config: StudyConfig, model: Model, seed: int) -> None:
    images = made.images
    keys = [c.key for c in images.conditions if c.factor == "scanner"]
    table = f"gaps/{seed}.json"
    arguments: Mapping[str, Any] = {
        "study": str(images.study), "table": table, "model": model.folder, "folders": list(images.test_folders),
        "chosen": keys, "source": images.source.key, "device": config.device,
        "folds": config.folds if model.given else None,
        "checkpoint": config.checkpoint if model.given else "checkpoint_final.pth",
    }  # fmt: skip
    facts = {"keys": keys, "model": model.facts, "source": images.source.key, "version": 1}
    needs = (*model.needs, *(step.name for step in images.test_steps))
    weight = _GAP_S * len(keys) * images.subjects
    made.steps.append(Step(f"gaps, seed {seed}", measure_gaps, arguments, facts, needs, weight, (table,)))
    made.gaps[seed] = table


def _ordered(made: Assembly, models: Models) -> Assembly:
    """Put every step before the first one that needs or follows it, in the order of the strategies."""
    own = {step.name: step for step in made.steps}
    makers = {step.name: step for step in models.steps.values()}
    placed: list[Step] = []
    names: set[str] = set()

    def place(step: Step) -> None:
        for need in step.needs:
            if need not in names and need in makers:
                place(makers[need])
        for other in step.follows:
            place(own[other])
        if step.name not in names:
            names.add(step.name)
            placed.append(step)

    training: Sequence[Step] = [step for step in made.steps if step.work is predict_strategy][:1]
    for step in training:
        # What the first model needs comes before the test images: it takes longest.
        for need in step.needs:
            if need in makers:
                place(makers[need])
    for step in made.steps:
        place(step)
    made.steps = placed
    return made

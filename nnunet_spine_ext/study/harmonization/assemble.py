"""From a configuration to the steps of an evaluation, in the order of their importance."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import load_config, set_by_path, to_dict
from nnunet_spine_ext.harmonize.cyclegan.settings import RadiomicSettings, read_settings
from nnunet_spine_ext.harmonize.harmonizer import read_harmonizer
from nnunet_spine_ext.study.harmonization.arms import ARMS, FULL, NONE
from nnunet_spine_ext.study.harmonization.config import HarmonizationConfig
from nnunet_spine_ext.study.harmonization.data import Scans, scans_of
from nnunet_spine_ext.study.harmonization.given import facts_of, given_folders, on_given_slices, untold
from nnunet_spine_ext.study.harmonization.scoring import score_arm
from nnunet_spine_ext.study.harmonization.testing import TEST_SLICES, cut_slices
from nnunet_spine_ext.study.harmonization.trained import Model, harmonizer_of, harmonizer_settings, segmenter_of
from nnunet_spine_ext.study.steps import Step

_CUT_S, _SCORE_S = 30.0, 10.0
# Trained first when time may be short: the method itself, what it is compared to, then its parts.
_IMPORTANCE = ("none", "zscore", "histogram", "nyul", "full", "cyclegan", "rf", "seg", "sy")


@dataclass(frozen=True)
class Run:
    """One arm under one seed: its model, the step that scores it, and the file of its rows."""

    arm: str
    seed: int
    model: Model | None
    score: str
    scores: str


@dataclass
class Assembly:
    """The steps in order, the arms, the segmenters by seed and name; what a reader of the results has to know."""

    scans: Scans
    steps: list[Step] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    segmenters: dict[tuple[int, str], Model] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def assemble(config: HarmonizationConfig, study: Path) -> Assembly:
    """Return everything that an evaluation does.

    Raises
    ------
    UsageError, NoInputError: given data that cannot be evaluated; given models of other slices. SetupError: no model.
    """
    config = on_given_slices(config)
    scans = scans_of(config, study)
    made = Assembly(scans, list(scans.steps))
    made.warnings = [f"{name}: no scan to test on; it takes part in trainings only" for name in scans.absent]
    made.warnings += untold(config, [study / folder for folder in (*scans.training, *scans.test)])
    for seed in config.seeds:
        for name in sorted(config.segmenters, key=lambda name: name != config.main):
            model = segmenter_of(config, scans, study, name, seed)
            made.segmenters[seed, name] = model
            made.steps += model.steps
    cut = _cut(config, scans, study, made.segmenters[config.seeds[0], config.main])
    made.steps.append(cut)
    order = [*_IMPORTANCE, *(name for name in ARMS if name not in _IMPORTANCE)]
    for seed in config.seeds:
        for name in sorted(config.arms, key=order.index):
            _add_arm(made, config, study, name, seed, cut)
    return made


def radiomics_of(config: HarmonizationConfig, seed: int) -> RadiomicSettings:
    """Return how features are measured: of all arms as the whole method is, or was, trained.

    Raises
    ------
    SetupError: a given harmonizer that cannot be read. UsageError: settings that are impossible.
    """
    told = read_settings(*harmonizer_settings(config, ARMS[FULL], seed)).radiomics
    folder = config.harmonizer.folder
    own = None if folder is None or FULL not in config.arms else read_harmonizer(folder).settings.get("radiomics")
    if not isinstance(own, dict):
        return told
    content = {"radiomics": dict(own)}
    for assignment in (*config.harmonizer.settings, *config.by_arm.get(FULL, ())):
        if assignment.startswith("radiomics."):
            set_by_path(content, assignment)
    return load_config(RadiomicSettings, content["radiomics"], where=f"{folder}: settings.radiomics")


def _cut(config: HarmonizationConfig, scans: Scans, study: Path, grid: Model) -> Step:
    models = given_folders(config)
    arguments = {
        "study": str(study), "datasets": list(scans.test), "part": scans.part, "key": scans.key,
        "target": list(scans.target), "unseen": list(scans.unseen), "values": list(scans.tested),
        "slices": config.slices, "grid": grid.folder, "models": [str(folder) for folder in models.values()],
        "trained": [] if config.phantoms is not None else list(scans.training),
    }  # fmt: skip
    facts = {**{key: value for key, value in arguments.items() if key not in ("study", "slices")},
             "slices": to_dict(config.slices), "version": 2}  # fmt: skip
    facts |= {"content": list(scans.test_content)} if scans.test_content else {}
    # Whom they were trained on is looked at here, so another model in the same folder is looked at again.
    facts["models"] = [facts_of(name, folder) for name, folder in models.items()]
    needs = (*grid.needs, *(step.name for step in scans.test_steps))
    return Step("cut slices to test on", cut_slices, arguments, facts, needs, _CUT_S, (TEST_SLICES,), optional=False)


def _add_arm(made: Assembly, config: HarmonizationConfig, study: Path, name: str, seed: int, cut: Step) -> None:
    judge = made.segmenters[seed, config.main]
    arm = ARMS[name]
    model = None if name == NONE else harmonizer_of(config, made.scans, study, arm, seed, judge)
    others = list(config.segmenters) if name == NONE else [config.main]
    radiomics = radiomics_of(config, seed)
    scores, title = f"scores/{seed}/{name}.json", f"score {name}, seed {seed}"
    arguments = {
        "study": str(study), "arm": name, "scores": scores, "harmonizer": None if model is None else model.folder,
        "segmenters": {key: made.segmenters[seed, key].folder for key in others}, "main": config.main,
        "radiomics": radiomics, "show": seed == config.seeds[0], "device": config.device,
    }  # fmt: skip
    facts: dict[str, Any] = {key: value for key, value in arguments.items() if key not in ("study", "device")}
    facts |= {"radiomics": to_dict(radiomics), "version": 2}
    used = [*(made.segmenters[seed, key] for key in others), *([] if model is None else [model])]
    # Steps stand for what they train; only a given model may be another one in the same folder.
    facts |= {"given": given} if (given := [one.facts for one in used if one.given]) else {}
    needs = [cut.name, *(need for key in others for need in made.segmenters[seed, key].needs)]
    if model is not None:
        made.steps += model.steps
        needs += model.needs
    made.steps.append(
        Step(title, score_arm, arguments, facts, tuple(dict.fromkeys(needs)), _SCORE_S, (scores,), optional=False)
    )
    made.runs.append(Run(name, seed, model, title, scores))

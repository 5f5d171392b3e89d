"""The models of a study: given ones, and the steps that train the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import scheme
from nnunet_spine_ext.inference.folder import ModelFolder, open_model_folder
from nnunet_spine_ext.study.conditions import SOURCE, Condition, targets
from nnunet_spine_ext.study.config import StudyConfig, digest
from nnunet_spine_ext.study.given import refuse_other_labels
from nnunet_spine_ext.study.images import Images, spine_steps, target_named
from nnunet_spine_ext.study.steps import Step
from nnunet_spine_ext.study.trainings import (
    BASE,
    FINETUNE,
    FIRST_TARGET,
    MIXED_DATASET,
    SOURCE_DATASET,
    TRAININGS,
    dataset_name,
    finetune,
    model_folder,
    plan_mixed,
    plan_source,
    plan_target,
    plans_name,
    train,
)
from nnunet_spine_ext.training.settings import data_facts, settings_from_plans

_PLAN_S, _TRAIN_S, _FINETUNE_S = 40.0, 400.0, 120.0
_CLASSES = "nnunet14"
_SHOWN = 5
# Cases to draw from, for each one that is drawn.
_POOL = 3


@dataclass(frozen=True)
class Model:
    """One model: its folder (relative to the study, or absolute), the steps it needs, what decides it.

    `missing`: why there is none. `condition`, `n`: the scanner that it was fine-tuned to, and with how many cases.
    """

    folder: str = ""
    needs: tuple[str, ...] = ()
    facts: Any = None
    missing: str = ""
    given: bool = False
    condition: Condition | None = None
    n: int | None = None


@dataclass
class Models:
    """Hands out models, and collects the steps that make them."""

    config: StudyConfig
    images: Images
    study: Path
    steps: dict[str, Step] = field(default_factory=dict)

    def of(self, training: str, seed: int) -> Model:
        """Return the model of a training: the given one, or the one that is trained with this seed."""
        folder = getattr(self.config.models, training)
        if folder is not None:
            return Model(str(Path(folder).resolve()), facts=self._digest(folder), given=True)
        if self.config.phantoms is None:
            return Model(missing=f"there is no model: name its folder in the configuration as models.{training}")
        self._refuse_other_configuration()
        row = TRAININGS[training]
        plan = self._plan_mixed() if row.mixed else self._plan_source()
        name = f"train {training.replace('_', '-')}, seed {seed}"
        network = self.config.network
        settings = self._settings(training)
        number = MIXED_DATASET if row.mixed else SOURCE_DATASET
        path = model_folder(number, row.trainer, plans_name(training, seed), network.configuration)
        arguments = {
            "study": str(self.study), "training": training, "seed": seed, "configuration": network.configuration,
            "settings": list(settings), "device": self.config.device,
        }  # fmt: skip
        facts = {"training": asdict(row), "seed": seed, "settings": list(settings), **self.config.bf16_facts}
        arguments["stamp"] = self._stamp(facts)
        output = f"{path}/fold_0/checkpoint_final.pth"
        self._add(Step(name, train, arguments, facts, (plan.name,), _TRAIN_S, (output,), training != "source"))
        return Model(path, (name,), facts)

    def _settings(self, training: str) -> tuple[str, ...]:
        """Return the settings of a training, in words, with the precision where it would be another without a word."""
        own = tuple(self.config.network.by_training.get(training, ()))
        if self.config.bf16_version is not None:
            return ("train.precision=auto", *own)
        # What is fine-tuned trains as its source did.
        given = self.config.models.source if training == "finetuned" else None
        if given is not None and settings_from_plans(self._open(given).plans).train.precision != "fp32":
            return ("train.precision=fp32", *own)
        return own

    def finetuned(self, seed: int) -> list[Model]:
        """Return the fine-tuned models: the curve of one scanner, one model for each other scanner if asked for."""
        samples = self.config.samples
        if self.config.phantoms is None:
            return [Model(missing="fine-tuning is measured on simulated scanners; fine-tune with "
                                  "nnUNetv2_spine_finetune_plan and study that model as models.source")]  # fmt: skip
        source = self.of("source", seed)
        curve = target_named(self.config, samples.scanner)
        self._refuse_other_configuration()
        counts = sorted({n for n in (*samples.counts, samples.column) if n > 0})
        # Seeds are to draw different cases: of a pool that is hardly larger all of them would take the same.
        pool = min(self.config.phantoms.pool, _POOL * samples.column)
        most = max(*counts, pool)
        found = [self._finetuned(source, curve, n, seed, most, 0) for n in _first(counts, samples.column)]
        for position, condition in enumerate(targets(self.config), start=1):
            if samples.everywhere and condition != curve:
                found.append(self._finetuned(source, condition, samples.column, seed, pool, position))
        return found

    def _finetuned(self, source: Model, condition: Condition, n: int, seed: int, most: int, position: int) -> Model:
        data = self.config.phantoms
        network = self.config.network
        if data is None:
            msg = "fine-tuning needs phantoms"
            raise RuntimeError(msg)
        number = FIRST_TARGET + position
        # One more than is trained on, for nnU-Net's own validation.
        spines, folders = spine_steps(self.study, f"pool-{condition.key}", data, most + 1, [condition])
        arguments = {"study": str(self.study), "number": number, "folders": folders, "sides": data.sides}
        output = f"nnUNet_preprocessed/{dataset_name(number)}/dataset_fingerprint.json"
        plan = Step(
            f"dataset of {condition.scanner}", plan_target, arguments, {"sides": data.sides},
            tuple(step.name for step in spines), 15.0, (output,),
        )  # fmt: skip
        settings = list(self._settings("finetuned"))
        arguments = {
            "study": str(self.study), "number": number, "model": source.folder, "n": n, "seed": seed,
            "configuration": network.configuration, "settings": settings, "device": self.config.device,
            "validation": condition.case(f"phantom{most + 1:04d}"), "folders": folders,
        }  # fmt: skip
        facts = {"n": n, "seed": seed, "settings": settings, "source": source.facts, **self.config.bf16_facts}
        arguments["stamp"] = self._stamp({**facts, "scanner": condition.text, "most": most})
        path = model_folder(number, FINETUNE, f"study-finetune{n}-{seed}", network.configuration)
        name = f"fine-tune to {condition.scanner} N={n}, seed {seed}"
        output = f"{path}/fold_0/checkpoint_final.pth"
        needs = (plan.name, *source.needs)
        for step in (*spines, plan, Step(name, finetune, arguments, facts, needs, _FINETUNE_S, (output,))):
            self._add(step)
        return Model(path, (name,), facts, condition=condition, n=n)

    def _plan_source(self) -> Step:
        data, network = self.config.phantoms, self.config.network
        if data is None:
            msg = "trainings need phantoms"
            raise RuntimeError(msg)
        spines, folders = self._training_spines()
        arguments = {
            "study": str(self.study), "folders": folders, "validation": data.validation, "sides": data.sides,
            "configuration": network.configuration, "preset": network.preset, "settings": list(network.settings),
        }  # fmt: skip
        facts = {key: value for key, value in arguments.items() if key != "study"}
        step = Step("plan and preprocess", plan_source, arguments, facts, spines, _PLAN_S, _planned(SOURCE_DATASET),
                    optional=False)  # fmt: skip
        return self._add(step)

    def _plan_mixed(self) -> Step:
        data = self.config.phantoms
        if data is None:
            msg = "trainings need phantoms"
            raise RuntimeError(msg)
        base = self._plan_source()
        spines, folders = self._training_spines()
        made: list[Step] = []
        unlabelled: list[str] = []
        for position, condition in enumerate(targets(self.config)):
            first = position * data.unlabelled
            group = f"unlabelled-{condition.key}"
            steps, places = spine_steps(self.study, group, data, data.unlabelled, [condition], first)
            made += steps
            unlabelled += places
        for step in made:
            self._add(step)
        arguments = {
            "study": str(self.study), "folders": folders, "unlabelled": unlabelled, "validation": data.validation,
            "sides": data.sides, "configuration": self.config.network.configuration,
        }  # fmt: skip
        facts = {key: value for key, value in arguments.items() if key != "study"}
        needs = (base.name, *spines, *(step.name for step in made))
        return self._add(
            Step(
                "plan and preprocess with targets",
                plan_mixed,
                arguments,
                facts,
                needs,
                _PLAN_S,
                _planned(MIXED_DATASET),
            )
        )

    def _training_spines(self) -> tuple[tuple[str, ...], list[str]]:
        data = self.config.phantoms
        if data is None:
            msg = "trainings need phantoms"
            raise RuntimeError(msg)
        steps, folders = spine_steps(self.study, "training", data, data.training, [SOURCE])
        for step in steps:
            self._add(step)
        return tuple(step.name for step in steps), folders

    def _add(self, step: Step) -> Step:
        return self.steps.setdefault(step.name, step)

    def _stamp(self, facts: Any) -> str:
        """Return what stands for a training: its facts, the spines and the network."""
        config = self.config
        data = None if config.phantoms is None else {**asdict(config.phantoms), "test": 0}
        network = (config.network.configuration, config.network.preset, config.network.settings)
        return digest(facts, data, network, config.scanners)

    def _open(self, folder: str) -> ModelFolder:
        folds = self.config.folds
        return open_model_folder(Path(folder), tuple(folds) if folds else None, self.config.checkpoint)

    def _digest(self, folder: str) -> str:
        model = self._open(folder)
        if self.config.given is not None:
            refuse_other_labels(self.config.given.dataset, model.labels)
        else:
            _refuse_other_classes(model)
        return model.digest

    def _refuse_other_configuration(self) -> None:
        """Refuse to train beside a given source model of another configuration, or to fine-tune it as if it had one."""
        folder, own = self.config.models.source, self.config.network.configuration
        if folder is None:
            return
        model = self._open(folder)
        # The folder may have another name than nnU-Net gave it.
        checkpoint = load_checkpoint(model.folder / f"fold_{model.folds[0]}" / model.checkpoint)
        found = str(checkpoint["init_args"]["configuration"])
        if found != own:
            raise UsageError(
                "E-STUDY-CONFIG",
                file="network.configuration",
                found=f"{own}, and a model of {found} as models.source",
                expected="one configuration for the source model and for what is trained",
                fix=f"set network.configuration={found}, or give another source model",
            )


def _refuse_other_classes(model: ModelFolder) -> None:
    """Raise UsageError when a given model has other classes than the digital spines: they are scored by their ids.

    Names may differ where the model's dataset.json says that its labels are of the scheme.
    """
    own = {label: name for label, name in scheme(_CLASSES).labels.items() if label != 0}
    labels = model.labels
    same_ids = labels.keys() == own.keys() and data_facts(model.dataset_json).scheme == _CLASSES
    if own != labels and not same_ids:
        differing = [n for n in sorted({*own, *labels}) if own.get(n) != labels.get(n)][:_SHOWN]
        found, expected = (", ".join(f"{t.get(n, 'nothing')} {n}" for n in differing) for t in (labels, own))
        raise UsageError(
            "E-STUDY-LABELS",
            file=model.folder / "dataset.json",
            found=found,
            expected=f"{expected}, as digital spines have",
            fix="give a model of the 14 classes, or study it on images of your own (given)",
        )


def _planned(number: int) -> tuple[str, ...]:
    """Return the file without which a dataset is not planned."""
    return (f"nnUNet_preprocessed/{dataset_name(number)}/{BASE}.json",)


def models_of(config: StudyConfig, images: Images, study: Path) -> Models:
    """Return the models of a study."""
    return Models(config, images, study)


def _first(counts: Sequence[int], first: int) -> list[int]:
    """Return the counts with the one of the table of strategies in front: it is missed most when time is short."""
    return sorted(counts, key=lambda n: (n != first, n))

"""`nnUNetv2_spine_finetune_plan`: plans of a target dataset that start from another model's weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import load_config, nearest, set_by_path, to_dict
from nnunet_spine_ext.core.dataset_names import dataset_number
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import sha256, write_json
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.inference.folder import TrainedModel, load_model
from nnunet_spine_ext.training.finetune import refuse_other_kind
from nnunet_spine_ext.training.finetune_schedule import schedule
from nnunet_spine_ext.training.finetune_select import Selection, named, select
from nnunet_spine_ext.training.finetune_settings import (
    FinetuneSettings,
    Parts,
    SourceCheckpoint,
    SourceModel,
    common_heads,
    finetune_trainer,
)
from nnunet_spine_ext.training.finetune_soft import soft_facts
from nnunet_spine_ext.training.finetune_target import Target, open_target, refuse_other_data, with_labels
from nnunet_spine_ext.training.finetune_weights import head_names, refuse_another_network
from nnunet_spine_ext.training.plan import check_name, restore_tables
from nnunet_spine_ext.training.settings import SpineSettings, data_facts, settings_from_plans

# What may be set here; the rest is the source's.
_SETTABLE = ("train", "augment", "predict")
_ANY, _CT = "MR", "CT"
# What preprocessed data depend on, beside the configuration's own keys.
_PREPROCESSING = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
_OWN_PREPROCESSING = (
    "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data",
    "resampling_fn_seg", "resampling_fn_data_kwargs", "resampling_fn_seg_kwargs",
)  # fmt: skip


@dataclass
class FinetunePlanResult:
    """Where the plans were written, what they hold, and what to run next."""

    path: Path
    finetune: FinetuneSettings
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)
    written: bool = True

    def render(self) -> str:
        """Return a text for the console."""
        verb = "wrote" if self.written else "would write"
        lines = [f"{verb} {self.path}", *(f"  {fact}" for fact in self.facts)]
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings), *self.next_steps])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "path": str(self.path), "finetune": to_dict(self.finetune), "facts": self.facts,
            "warnings": self.warnings, "next_steps": self.next_steps, "written": self.written,
        }  # fmt: skip


def finetune_plan(
    m: str | Path,
    d: str,
    *,
    name: str,
    n: int = 10,
    seed: int = 0,
    parts: Parts = "all",
    cases: Sequence[str] | None = None,
    validation: Sequence[str] | None = None,
    f: Sequence[str] | None = None,
    chk: str = "checkpoint_final.pth",
    assignments: Sequence[str] | None = None,
    trust: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> FinetunePlanResult:
    """Write plans of dataset `d` for a training that starts from model `m` and sees `n` of the dataset's subjects.

    Parameters
    ----------
    m: folder of the source model, ours or stock nnU-Net's. f: its folds; a fold of the fine-tuning starts from the fold
        of the same name. None takes all that are trained. chk: name of their checkpoint.
    d: id or name of the target dataset, raw, with cases.json; it needs no plans of its own.
    name: of the new plans; train with ``-p NAME``.
    n: subjects to train on, with all their labelled cases. seed: of their selection; n = 5 is part of n = 10.
    parts: what is trained; see `finetune_settings.FinetuneSettings`.
    cases: name the cases to train on instead; `n` and `seed` then do nothing. validation: name those to validate on.
    assignments: ``train.…=value`` and the like, in place of the source's settings.
    trust: load a checkpoint that carries code, once, here; its weights are copied beside the plans without the code.

    Raises
    ------
    UsageError: an impossible N, unknown or unlabelled cases, a subject on both sides, an existing name.
    SetupError: no such model or dataset, a model of a cascade, other channels or labels, a soft model without soft
        labels of the cases to train on.
    """
    model = load_model(m, tuple(map(str, f)) if f else None, chk, trust=trust)
    target = open_target(d)
    check_name(name, target.folder / f"{name}.json", overwrite=overwrite)
    refuse_other_data(model, target)
    configuration = _configuration(model)
    source = _source(model, target, name, trust=trust)
    rows = with_labels(target)
    selection = named(rows, cases, validation) if cases else select(rows, n, seed, validation)
    chosen = FinetuneSettings(
        source=source,
        cases=selection.cases,
        validation=selection.validation,
        parts=parts,
        n=len(selection.subjects),
        seed=None if cases else seed,
    )
    settings = _settings(model, target, chosen, assignments or [])
    soft = soft_facts(target, chosen.cases, chosen.validation) if settings.soft is not None else []
    plans = _plans(model, target, name, configuration, settings)
    for fold, weights in zip(model.folds, model.parameters, strict=True):
        file = str(model.folder / f"fold_{fold}" / model.checkpoint)
        refuse_another_network(plans, model.configuration, model.dataset_json, weights, parts=parts, file=file)
    result = FinetunePlanResult(
        target.folder / f"{name}.json",
        chosen,
        _facts(chosen, selection, settings, target) + soft,
        _warnings(model, target),
        _next_steps(target, plans, model.configuration),
        written=not dry_run,
    )
    if not dry_run:
        _write(target, model, plans, trust=trust)
        result.finetune = settings_from_plans(plans).finetune or chosen
    return result


def _configuration(model: TrainedModel) -> dict[str, Any]:
    """Return the configuration that was trained, with what it inherits; raises SetupError for one of a cascade."""
    configurations = model.plans["configurations"]
    content: dict[str, Any] = {}
    name: str | None = model.configuration
    visited: list[str] = []
    while name is not None:
        if name in visited or name not in configurations:
            raise SetupError(
                "E-MODEL-JSON",
                file=model.folder / "plans.json",
                found=f"no configuration {name}" if name not in configurations else f"{name} inherits from itself",
                expected=f"the configuration {model.configuration} that the checkpoint names",
                fix="copy the model again",
            )
        visited.append(name)
        parent = configurations[name]
        content = {**parent, **content}
        name = parent.get("inherits_from")
    content.pop("inherits_from", None)
    if content.get("previous_stage"):
        raise SetupError(
            "E-FINETUNE-CASCADE",
            file=model.folder,
            found=f"a network that also needs the masks of {content['previous_stage']}",
            expected="a network that needs the image alone",
            fix="fine-tune the model of another configuration",
        )
    content.pop("next_stage", None)
    return content


def _source(model: TrainedModel, target: Target, name: str, *, trust: bool) -> SourceModel:
    settings = settings_from_plans(model.plans)
    heads, regions = head_names(model.dataset_json)
    wanted, wanted_regions = head_names(target.dataset_json)
    refuse_other_kind(regions, wanted_regions)
    known = [source for source, _ in common_heads(heads, wanted) if heads[source] != "background"]
    if not known:
        new = next(label for label in wanted if label != "background")
        raise SetupError(
            "E-FINETUNE-LABELS",
            file=target.folder / "dataset.json",
            found=f"no label that {model.folder.name} knows",
            expected="labels of the same names",
            fix=f"for {new!r}: {nearest(new, [h for h in heads if h != 'background'])}; rename them in dataset.json",
        )
    paths = {fold: model.folder / f"fold_{fold}" / model.checkpoint for fold in model.folds}
    checkpoints = {
        fold: SourceCheckpoint(_portable(path), sha256(path))
        if not trust
        # Its own sum is known when it is written.
        else SourceCheckpoint(_portable(_copy(target, name, fold)), "", copy_of=sha256(path))
        for fold, path in paths.items()
    }
    before = settings.finetune
    lineage = () if before is None else (before.source.ancestor(), *before.source.lineage)
    return SourceModel(
        model="/".join(model.folder.absolute().parts[-2:]),
        trainer=model.trainer_name,
        heads=heads,
        checkpoints=checkpoints,
        regions=regions,
        lineage=lineage,
    )


def _settings(
    model: TrainedModel, target: Target, finetune: FinetuneSettings, assignments: Sequence[str]
) -> SpineSettings:
    """Return the source's settings with the schedule for N and what the user sets; those of a domain head are left."""
    source = settings_from_plans(model.plans)
    train = schedule(source.train, finetune.n)
    if SETTINGS_KEY not in model.plans and model.mirror_axes is None:
        # Stock models do not say how they were trained, but whether they may be mirrored.
        train = replace(train, mirror=False)
    content = to_dict(
        SpineSettings(
            preset=source.preset,
            train=train,
            augment=source.augment,
            soft=source.soft,
            predict=source.predict,
            finetune=finetune,
            data=data_facts(target.dataset_json),
            reference=source.reference,
        )
    )
    for assignment in assignments:
        key = assignment.partition("=")[0].split(".")[0].strip()
        if key not in _SETTABLE or (key == "augment" and source.augment is None):
            raise UsageError(
                "E-CONFIG-KEY",
                file="--set",
                found=f"{key!r} in {assignment!r}",
                expected="train.…, predict.…, and augment.… for a model that was augmented on the device",
                fix="the rest is the source model's",
            )
        set_by_path(content, assignment)
    return load_config(SpineSettings, content, where="--set")


def _plans(
    model: TrainedModel, target: Target, name: str, configuration: dict[str, Any], settings: SpineSettings
) -> dict[str, Any]:
    plans = {**model.plans, "dataset_name": target.folder.name, "plans_name": name}
    facts = {key: plans.get(key) for key in _PREPROCESSING}
    facts |= {key: configuration.get(key) for key in _OWN_PREPROCESSING}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    # Plans that differ in N, seed or schedule alone share their data, and no other plans have data of this name.
    own = {**configuration, "data_identifier": f"spineFinetune_{digest}_{model.configuration}"}
    return plans | {"configurations": {model.configuration: own}, SETTINGS_KEY: to_dict(settings)}


def _facts(finetune: FinetuneSettings, selection: Selection, settings: SpineSettings, target: Target) -> list[str]:
    wanted, _ = head_names(target.dataset_json)
    new = [label for label in wanted if label not in finetune.source.heads]
    dropped = [label for label in finetune.source.heads if label not in wanted]
    domains = ", ".join(f"{count} {domain}" for domain, count in selection.domains.items())
    facts = [f"from {finetune.source.model}, fold {', '.join(finetune.source.checkpoints)}"]
    facts += [f"fold {fold}: SHA-256 {c.original[:16]}… {c.path}" for fold, c in finetune.source.checkpoints.items()]
    facts += [
        f"{len(finetune.cases)} case(s) of {finetune.n} subject(s) ({domains}): {_listed(finetune.cases)}",
        f"validation: {_listed(finetune.validation)}",
        f"trained: {finetune.parts}; {settings.train.num_epochs} epochs, learning rate {settings.train.initial_lr:g}",
    ]
    facts += [f"new labels, learned anew: {', '.join(new)}"] if new else []
    return facts + ([f"labels of the source that are dropped: {', '.join(dropped)}"] if dropped else [])


def _warnings(model: TrainedModel, target: Target) -> list[str]:
    found = []
    pairs = zip(model.channels, target.channels, strict=True)
    # Models of every contrast call their channel MR, which any of them is.
    if any(a != b and not (_ANY in (a, b) and _CT not in (a, b)) for a, b in pairs):
        found.append(
            f"the source was trained on {', '.join(model.channels)}, the target has {', '.join(target.channels)}"
        )
    if target.unknown:
        found.append(f"in cases.json, but without a mask: {_listed(target.unknown)}; left out")
    if target.ignored:
        found.append(f"masks that are ignored wholly: {_listed(target.ignored)}; left out")
    return found


def _next_steps(target: Target, plans: Mapping[str, Any], configuration: str) -> list[str]:
    number, name = dataset_number(target.folder.name), plans["plans_name"]
    settings = plans[SETTINGS_KEY]
    steps = []
    if not (target.folder / "dataset_fingerprint.json").is_file():
        steps.append(f"next: nnUNetv2_extract_fingerprint -d {number}")
    data = target.folder / plans["configurations"][configuration]["data_identifier"]
    finetune = settings["finetune"]
    if not all(any(data.glob(f"{case}.*")) for case in (*finetune["cases"], *finetune["validation"])):
        steps.append(f"next: nnUNetv2_preprocess -d {number} -plans_name {name} -c {configuration}")
    device = " -device cpu" if settings["preset"] in ("cpu", "demo") else ""
    rest = f"-tr {finetune_trainer(soft=settings['soft'] is not None)} -p {name}{device}"
    folds = finetune["source"]["checkpoints"]
    return steps + [f"next: nnUNetv2_train {number} {configuration} {fold} {rest}" for fold in folds]


def _write(target: Target, model: TrainedModel, plans: dict[str, Any], *, trust: bool) -> None:
    target.folder.mkdir(parents=True, exist_ok=True)
    restore_tables(target.folder)
    if not (target.folder / "dataset.json").is_file():
        write_json(target.folder / "dataset.json", target.dataset_json)
    if trust:
        _write_copies(target, model, plans)
    write_json(target.folder / f"{plans['plans_name']}.json", plans)


def _write_copies(target: Target, model: TrainedModel, plans: dict[str, Any]) -> None:
    """Write the weights alone, for a training that loads without --trust; enter their sums into the plans."""
    import torch

    from nnunet_spine_ext.core.io import atomic_path

    name = str(plans["plans_name"])
    entries = plans[SETTINGS_KEY]["finetune"]["source"]["checkpoints"]
    for fold, state in zip(model.folds, model.parameters, strict=True):
        path = _copy(target, name, fold)
        with atomic_path(path) as temporary:
            torch.save({"network_weights": dict(state)}, temporary)
        entries[fold]["sha256"] = sha256(path)


def _copy(target: Target, name: str, fold: str) -> Path:
    return target.folder / f"{name}_source_fold_{fold}.pth"


def _portable(path: Path) -> str:
    """Return a path with nnU-Net's folder as a variable: datasets and models move between machines together."""
    for variable in ("nnUNet_results", "nnUNet_preprocessed"):
        root = os.environ.get(variable)
        if root and path.resolve().is_relative_to(Path(root).resolve()):
            return f"${variable}/{path.resolve().relative_to(Path(root).resolve()).as_posix()}"
    return str(path.resolve())


def _listed(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - 10} more" if len(cases) > 10 else ""
    return ", ".join(cases[:10]) + more

"""`nnUNetv2_spine_plan`: settings and recipes as a new plans file, and edits of a trained model's plans."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import load_config, nearest, set_by_path, to_dict
from nnunet_spine_ext.core.dataset import CASES_FILE, SPLITS_FILE, copy_tables
from nnunet_spine_ext.core.dataset_names import dataset_number
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.harmonize.reference import CURVES_FILE, curves_of_files, read_curves, write_curves
from nnunet_spine_ext.harmonize.structures import structures_of
from nnunet_spine_ext.inference.harmonizing import harmonizer_folder
from nnunet_spine_ext.inference.matching import usable_reference
from nnunet_spine_ext.inference.model import label_scheme
from nnunet_spine_ext.inference.preflight import check_scheme
from nnunet_spine_ext.training.domain_cases import refuse_absent_domains
from nnunet_spine_ext.training.planned import are_plans, dataset_folder, read_plans
from nnunet_spine_ext.training.presets import Preset, apply_to_configuration, read_preset
from nnunet_spine_ext.training.settings import SpineSettings, data_facts, settings_from_plans
from nnunet_spine_ext.training.trainer_choice import planned_domain, trainer_for

logger = logging.getLogger(__name__)
_PRESET_KEYS = ("network", "patch", "batch_size", "batch_dice", "spacing", "spacing_pir")
# The other parts of the settings are facts that training fills in.
_SETTINGS_KEYS = ("train", "augment", "soft", "domain", "predict")


@dataclass
class PlanResult:
    """Where the plans were written and what to run next."""

    path: Path
    changes: list[str] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)
    written: bool = True

    def render(self) -> str:
        """Return a text for the console."""
        verb = "wrote" if self.written else "would write"
        return "\n".join([f"{verb} {self.path}", *(f"  {c}" for c in self.changes), *self.next_steps])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        return {
            "path": str(self.path), "changes": self.changes, "next_steps": self.next_steps, "written": self.written,
        }  # fmt: skip


def plan(
    d: str | None = None,
    *,
    p: str = "nnUNetPlans",
    c: str = "3d_fullres",
    m: str | None = None,
    name: str | None = None,
    preset: str | None = None,
    assignments: Sequence[str] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> PlanResult:
    """Write a new plans file for a dataset, or edit what a trained model's plans say about prediction.

    Parameters
    ----------
    d: dataset id or name, with `p` the plans to start from, `c` the configuration a preset changes and `name` the
        name of the new plans.
    m: folder of a trained model; only ``predict.…`` may be set there.
    preset: name of a preset or path of a YAML file.
    assignments: ``key=value``, for example ``train.num_epochs=50`` or ``batch_size=4``.

    Raises
    ------
    UsageError: unknown keys, wrong values, an existing name without `overwrite`.
    SetupError: no such dataset, plans or model; domains that its cases or the trainer do not have.
    """
    if (d is None) == (m is None):
        raise UsageError(
            "E-PLAN-TARGET",
            file="-d/-m",
            found="neither" if d is None else "both",
            expected="a dataset or a model",
            fix="give -d or -m",
        )
    if m is not None:
        if name or preset:
            raise UsageError(
                "E-PLAN-MODEL",
                file="-m",
                found="--name or --preset",
                expected="--set predict.… alone: a trained model keeps its name and its weights",
                fix="leave them out, or make new plans for the dataset with -d",
            )
        return _edit_model(Path(m), assignments or [], dry_run=dry_run)
    folder = dataset_folder(str(d))
    return _new_plans(folder, p, c, name, preset, assignments or [], overwrite=overwrite, dry_run=dry_run)


def _new_plans(
    folder: Path,
    base: str,
    configuration: str,
    name: str | None,
    preset_name: str | None,
    assignments: Sequence[str],
    *,
    overwrite: bool,
    dry_run: bool,
) -> PlanResult:
    plans = read_plans(folder, base)
    target = folder / f"{name}.json"
    _refuse_unknown_keys(assignments)
    check_name(name, target, overwrite=overwrite, base=base)
    preset = _merged_preset(preset_name, [a for a in assignments if _is_preset_key(a)])
    settings = _merged_settings(plans, preset_name, preset, [a for a in assignments if not _is_preset_key(a)])
    if (domain := planned_domain(settings)) is not None:
        there, here = _case_tables(folder)
        refuse_absent_domains(there if there.is_file() else here, domain)
    changed = deepcopy(plans)
    changed["plans_name"] = name
    changed[SETTINGS_KEY] = to_dict(replace(settings, data=data_facts(_dataset_json(folder))))
    changes = _change_configurations(changed, plans, configuration, preset)
    changes += _changed_settings(to_dict(settings_from_plans(plans)), changed[SETTINGS_KEY])
    result = PlanResult(target, changes, _next_steps(folder, changed, plans, configuration), written=not dry_run)
    if not dry_run:
        restore_tables(folder)
        store_curves(folder)
        write_json(target, changed)
    return result


def _dataset_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    return dict(read_json(path)) if path.is_file() else {}


def _changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    parts = {part: (_flat(old[part] or {}), _flat(new[part] or {})) for part in _SETTINGS_KEYS}
    return [
        f"{part}.{key}: {_short(before.get(key))} -> {_short(value)}"
        for part, (before, after) in parts.items()
        for key, value in after.items()
        if before.get(key) != value
    ]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of a group, such as a loss, among the others; whole configurations stay one."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        group = isinstance(value, dict) and value and not any(isinstance(v, dict | list) for v in value.values())
        flat |= {f"{key}.{name}": each for name, each in value.items()} if group else {key: value}
    return flat


def _short(value: Any) -> Any:
    return "…" if isinstance(value, dict) else value


def _change_configurations(changed: dict[str, Any], plans: dict[str, Any], name: str, preset: Preset) -> list[str]:
    configurations = plans["configurations"]
    if name not in configurations or "architecture" not in configurations[name]:
        known = [k for k, v in configurations.items() if "architecture" in v]
        raise UsageError(
            "E-PLAN-CONFIGURATION",
            file=f"-c {name}",
            found="no such configuration",
            expected="one of the plans",
            fix=nearest(name, known),
        )
    before = configurations[name]
    after = apply_to_configuration(before, preset, plans["transpose_forward"])
    if after["spacing"] != before["spacing"]:
        after["data_identifier"] = f"{changed['plans_name']}_{name}"
    changed["configurations"][name] = after
    rows = [
        (key, before[key], after[key])
        for key in ("spacing", "patch_size", "batch_size", "batch_dice", "data_identifier")
    ]
    rows += [
        (key, before["architecture"]["arch_kwargs"][key], after["architecture"]["arch_kwargs"][key])
        for key in ("n_stages", "features_per_stage")
    ]
    return [f"{name} {key}: {old} -> {new}" for key, old, new in rows if old != new]


def _next_steps(folder: Path, changed: dict[str, Any], plans: dict[str, Any], configuration: str) -> list[str]:
    number = dataset_number(folder.name)
    name = changed["plans_name"]
    steps = []
    if (
        changed["configurations"][configuration]["data_identifier"]
        != plans["configurations"][configuration]["data_identifier"]
    ):
        steps.append(f"next: nnUNetv2_preprocess -d {number} -plans_name {name} -c {configuration}")
    trainer = trainer_for(settings_from_plans(changed))
    device = " -device cpu" if changed[SETTINGS_KEY]["preset"] == "cpu" else ""
    steps.append(f"next: nnUNetv2_train {number} {configuration} 0 -tr {trainer} -p {name}{device}")
    return steps


def restore_tables(folder: Path) -> None:
    """Copy cases.json and the grouped splits from the raw dataset where the preprocessed folder has none or old ones.

    A conversion that was killed right after it replaced a dataset leaves the tables of the old one. Splits that fit
    the cases stay: somebody may have chosen them.
    """
    there, here = _case_tables(folder)
    raw = there.parent
    if there.is_file() and here.is_file() and there.read_bytes() != here.read_bytes():
        logger.warning("%s: cases.json and splits are not those of %s; they are replaced", folder, raw)
        copy_tables(raw, folder)
        return
    for name in (SPLITS_FILE, CASES_FILE):
        if not (folder / name).exists() and (raw / name).is_file():
            write_json(folder / name, read_json(raw / name))
            logger.info("copied %s from %s", name, raw)


def _case_tables(folder: Path) -> tuple[Path, Path]:
    """Return where cases.json is in the raw and in the preprocessed dataset; the first counts, see `restore_tables`."""
    return Path(os.environ.get("nnUNet_raw", "")) / folder.name / CASES_FILE, folder / CASES_FILE


def store_curves(folder: Path) -> None:
    """Add the intensity curves of the cases of a preprocessed dataset that have none, or whose images are newer.

    Those of earlier versions, of the body alone or without noise, are made anew. Cases without raw images are logged
    and left out; other curves that are stored already stay.
    """
    stored = read_curves(folder)
    stored_at = (folder / CURVES_FILE).stat().st_mtime if stored else 0.0
    labels = {f.name.removesuffix(".nii.gz"): f for f in sorted((folder / "gt_segmentations").glob("*.nii.gz"))}
    images = Path(os.environ.get("nnUNet_raw", "")) / folder.name / "imagesTr"
    files = {case: sorted(images.glob(f"{case}_[0-9][0-9][0-9][0-9].nii.gz")) for case in labels}
    # A dataset that was converted anew has other images under the same names.
    files = {
        case: found
        for case, found in files.items()
        if case not in stored
        or (found and not stored[case].current)
        or any(f.stat().st_mtime > stored_at for f in found)
    }
    if not files:
        return
    missing = [case for case, found in files.items() if not found]
    if missing:
        logger.warning(
            "%s: no images of %d of %d cases; the intensity reference leaves them out",
            images,
            len(missing),
            len(labels),
        )
    structures = structures_of(_dataset_json(folder))
    new = curves_of_files({case: found for case, found in files.items() if found}, labels=labels, structures=structures)
    if new:
        write_curves(folder, dict(sorted({**stored, **new}.items())))


def _merged_preset(name: str | None, assignments: Sequence[str]) -> Preset:
    preset = read_preset(name) if name else Preset()
    content = to_dict(preset)
    for assignment in assignments:
        set_by_path(content, assignment)
    return load_config(Preset, content, where="--set")


def _merged_settings(
    plans: dict[str, Any], preset_name: str | None, preset: Preset, assignments: Sequence[str]
) -> SpineSettings:
    content = to_dict(settings_from_plans(plans))
    if preset_name is not None:
        content["preset"] = preset_name
    content["train"].update(preset.train)
    content["predict"].update(preset.predict)
    for part, values in (("augment", preset.augment), ("soft", preset.soft), ("domain", preset.domain)):
        if values or any(_first_key(a) == part for a in assignments):
            content[part] = {**(content[part] or {}), **values}
    for assignment in assignments:
        set_by_path(content, assignment)
    settings = load_config(SpineSettings, content, where="preset and --set")
    return settings if settings.augment is None else replace(settings, augment=settings.augment.without_files())


def _edit_model(folder: Path, assignments: Sequence[str], *, dry_run: bool) -> PlanResult:
    path = folder / "plans.json"
    if not path.is_file():
        raise SetupError(
            "E-MODEL-FOLDER",
            file=folder,
            found="no plans.json",
            expected="the folder of a trained model (…/<trainer>__<plans>__<configuration>)",
            fix="check the path",
        )
    wrong = [a for a in assignments if not a.startswith("predict.")]
    if wrong or not assignments:
        raise UsageError(
            "E-PLAN-MODEL",
            file="--set",
            found=", ".join(wrong) or "nothing to set",
            expected="predict.<name>=value: only what does not change the weights",
            fix="for example --set predict.instances=true",
        )
    plans = read_json(path)
    before = settings_from_plans(plans)
    content = to_dict(before)
    for assignment in assignments:
        set_by_path(content, assignment)
    plans[SETTINGS_KEY] = to_dict(load_config(SpineSettings, content, where="--set"))
    if plans[SETTINGS_KEY]["predict"]["instances"]:
        check_scheme(label_scheme(plans), folder)
    matching = plans[SETTINGS_KEY]["predict"]["match"]
    if matching != "none" and harmonizer_folder(plans, _dataset_json(folder), matching, None, str(folder)) is None:
        usable_reference(plans, _dataset_json(folder), (), matching, str(folder))
    if not dry_run:
        write_json(path, plans)
    old, new = to_dict(before)["predict"], plans[SETTINGS_KEY]["predict"]
    changes = [f"predict.{k}: {old.get(k)} -> {v}" for k, v in new.items() if old.get(k) != v]
    return PlanResult(path, changes, written=not dry_run)


def _first_key(assignment: str) -> str:
    return assignment.partition("=")[0].split(".")[0].strip()


def _is_preset_key(assignment: str) -> bool:
    return _first_key(assignment) in _PRESET_KEYS


def _refuse_unknown_keys(assignments: Sequence[str]) -> None:
    known = (*_SETTINGS_KEYS, *_PRESET_KEYS)
    for assignment in assignments:
        if _first_key(assignment) not in known:
            raise UsageError(
                "E-CONFIG-KEY",
                file="--set",
                found=f"unknown key {_first_key(assignment)!r} in {assignment!r}",
                expected="a known key",
                fix=nearest(_first_key(assignment), known),
            )


def check_name(name: str | None, target: Path, *, overwrite: bool, base: str | None = None) -> None:
    """Raise UsageError for a name that plans cannot have, that of the plans they start from, or one that is taken.

    Parameters
    ----------
    target: the file that plans of this name are written to.
    """
    if not name or name == base or not name.replace("_", "").replace("-", "").isalnum() or "__" in name:
        raise UsageError(
            "E-PLAN-NAME",
            file="--name",
            found=repr(name),
            expected="a new name of letters, digits, - and single _" + (f", other than {base}" if base else ""),
            fix="for example --name spineCpu",
        )
    if not target.exists():
        return
    if not are_plans(target):
        raise UsageError(
            "E-PLAN-NAME",
            file=target,
            found="a file of nnU-Net's that holds no plans",
            expected="a name that is not taken",
            fix="choose another --name",
        )
    if not overwrite:
        raise UsageError(
            "E-PLAN-EXISTS",
            file=target,
            found="plans of this name",
            expected="a new name",
            fix="choose another --name or add --overwrite",
        )

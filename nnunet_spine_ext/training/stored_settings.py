"""What the plans.json of a model holds: taken over, completed, and held against the plans of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.training.settings import settings_from_plans, settings_hash, store_settings


def keep_what_the_model_has(folder: str, plans: dict[str, Any]) -> None:
    """Take over, in place, what a model's own plans hold beyond training: prediction settings, other folds' facts.

    nnU-Net writes plans.json of the model anew whenever a fold starts or resumes; an edit by
    ``nnUNetv2_spine_plan -m MODEL`` would be lost. Does nothing before the first fold.
    """
    path = Path(folder) / "plans.json"
    stored = read_json(path) if path.is_file() else {}
    if SETTINGS_KEY in stored:
        model = settings_from_plans(stored)
        settings = settings_from_plans(plans)
        soft = settings.soft
        if soft is not None and model.soft is not None:
            soft = replace(soft, activation=model.soft.activation)
        store_settings(plans, replace(settings, predict=model.predict, reference=model.reference, soft=soft))


def add_reference(folder: str, fold: str, reference: dict[str, Any] | None) -> None:
    """Write a fold's intensity reference into a model's plans.json when it is not there.

    Folds that train at the same time share the file, and nnU-Net writes it whole when each of them starts.
    """
    path = Path(folder) / "plans.json"
    if reference is None or not path.is_file():
        return
    plans = read_json(path)
    settings = settings_from_plans(plans)
    if fold not in (settings.reference or {}):
        store_settings(plans, replace(settings, reference={**(settings.reference or {}), fold: reference}))
        write_json(path, plans, indent=4)


def refuse_other_settings(folder: str | None, plans: dict[str, Any]) -> None:
    """Raise SetupError when a results folder holds a model trained with other settings or another configuration."""
    path = Path(folder or "") / "plans.json"
    if folder is None or not path.is_file():
        return
    stored = read_json(path)
    if SETTINGS_KEY not in stored:
        return
    found, expected = settings_hash(stored), settings_hash(plans)
    name = Path(folder).name.rpartition("__")[2]
    before, now = (p["configurations"].get(name, {}) for p in (stored, plans))
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if found != expected or differing:
        what = f"another {', '.join(differing)}" if differing else f"other settings (hash {found})"
        raise SetupError(
            "E-MODEL-SETTINGS",
            file=path,
            found=f"a model trained with {what}",
            expected=f"what plans {plans.get('plans_name', '')} say (hash {expected})",
            fix="give the variant its own plans: nnUNetv2_spine_plan … --name NAME, then train with -p NAME",
        )

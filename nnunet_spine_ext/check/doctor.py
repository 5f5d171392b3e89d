"""`nnUNetv2_spine_doctor`: is everything here able to work, and is a model complete and safe?"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunet_spine_ext.check.environment import EXT_TRAINER, folders, machine, software, trainer_names, trainers_folder
from nnunet_spine_ext.check.model import ModelLook, look_at_model
from nnunet_spine_ext.check.probe import ask
from nnunet_spine_ext.check.report import DoctorReport, Row, Section
from nnunet_spine_ext.check.rules import finding

_GB = 1_000_000_000
_NVIDIA = Path("/proc/driver/nvidia/version")

_log = logging.getLogger(__name__)


def doctor(model: str | Path | None = None, *, no_import: bool = False) -> DoctorReport:
    """Look at software, folders and machine; then ask nnU-Net for the trainers and PyTorch for devices.

    Parameters
    ----------
    model: a model folder to look at as well. The question is then whether it can predict here, which needs none of
        nnU-Net's folders: what is wrong with them becomes a warning.
    no_import: leave out what needs an import of torch or nnU-Net (the rest takes less than 2 s).
    """
    return DoctorReport(list(examine(model, no_import=no_import)))


def examine(model: str | Path | None = None, *, no_import: bool = False) -> Iterator[Section]:
    """Yield the sections of `doctor` as soon as each is known: what takes seconds comes last."""
    yield software()
    yield folders(needed=model is None)
    yield machine()
    look = None
    if model is not None:
        look = look_at_model(model, load=not no_import)
        yield Section(f"Model {model}", look.rows)
    if not no_import:
        _log.info("asking nnU-Net itself, which takes some seconds (--no-import leaves this out)")
        yield from _asked(look)


def _asked(look: ModelLook | None) -> list[Section]:
    """Sections that nnU-Net and PyTorch answer."""
    own = trainer_names()
    others = [name for name in (look.trainers if look else []) if name not in own]
    unset = not os.environ.get(EXT_TRAINER)
    # Our own commands set the variable themselves: whether the trainers load is worth knowing either way.
    answer = ask([*own, *others], ext_trainer=str(trainers_folder()) if unset else None)
    if "error" in answer:
        return [Section("nnU-Net", [Row("import", "failed", finding("E-ENV-PROBE", "nnunetv2", answer["error"]))])]
    rows = [_trainer_row(name, answer["trainers"][name], unset=unset) for name in own]
    rows += [_model_trainer_row(name, answer["trainers"][name]) for name in others]
    return [
        Section("Trainers (found by nnU-Net's own lookup)", rows),
        Section("Devices", _device_rows(answer["devices"])),
    ]


def _trainer_row(name: str, facts: Mapping[str, Any], *, unset: bool) -> Row:
    if not facts["found"]:
        hint = (
            'run: eval "$(nnUNetv2_spine_env)"; if that does not help, the error names the file that stops the search'
        )
        return Row(name, "not found", finding("E-ENV-TRAINER", name, facts["error"], hint=hint))
    value = f"{facts['module']}{f' (once {EXT_TRAINER} is set)' if unset else ''}"
    if not facts["pickles"]:
        hint = f"let {EXT_TRAINER} name {trainers_folder()} and no folder above it"
        found = f"a class that cannot be handed to workers ({facts.get('error', 'another copy of the same name')})"
        return Row(name, value, finding("E-ENV-TRAINER", name, found, hint=hint))
    return Row(name, value)


def _model_trainer_row(name: str, facts: Mapping[str, Any]) -> Row:
    if facts["found"]:
        return Row(name, str(facts["module"]))
    return Row(name, "not found", finding("E-MODEL-TRAINER", name, facts["error"]))


def _device_rows(devices: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for device in devices:
        memory = f", {device['memory'] / _GB:.1f} GB" if device["memory"] else ""
        rows.append(Row(device["device"], f"{device['name']}{memory}", plain=device["device"] == "cpu"))
    driver = _NVIDIA.exists() or shutil.which("nvidia-smi") is not None
    if driver and not any(device["device"].startswith("cuda") for device in devices):
        rows.append(Row("cuda", "not available", finding("W-ENV-DEVICE", "cuda", "a driver, but no device")))
    return rows

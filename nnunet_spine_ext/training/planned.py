"""Where nnU-Net keeps what it has planned for a dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.dataset_names import dataset_number, dataset_pattern
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json


def are_plans(path: Path) -> bool:
    """Whether a JSON file holds plans."""
    content = read_json(path)
    return isinstance(content, dict) and "configurations" in content


def dataset_folder(dataset: str) -> Path:
    """Return `nnUNet_preprocessed/DatasetXXX_Name` for an id or a name."""
    root = os.environ.get("nnUNet_preprocessed")
    if not root:
        raise SetupError(
            "E-ENV-PATH",
            file="nnUNet_preprocessed",
            found="not set",
            expected="nnU-Net's folder of preprocessed data",
            fix="export nnUNet_preprocessed=… (nnUNetv2_spine_env prints the lines)",
        )
    found = folders_of(root, dataset)
    if len(found) != 1:
        known = ", ".join(f.name for f in sorted(Path(root).glob("Dataset*"))) or "none"
        raise SetupError(
            "E-PLAN-DATASET",
            file=root,
            found=f"{len(found)} folders {dataset_pattern(dataset)}",
            expected=f"one dataset (there: {known})",
            fix="run nnUNetv2_plan_and_preprocess first",
        )
    return found[0]


def folders_of(root: str, dataset: str) -> list[Path]:
    """Return the folders of a dataset, by id or name, in one of nnU-Net's folders; raises SetupError for a path."""
    if Path(dataset).name != dataset:
        raise SetupError(
            "E-PLAN-DATASET",
            file=dataset,
            found="a path",
            expected="the id or the name of a dataset",
            fix="leave the folder out",
        )
    return [folder for folder in sorted(Path(root).glob(dataset_pattern(dataset))) if folder.is_dir()]


def refuse_unprepared(data: str | Path, dataset: str, plans: str, configuration: str) -> None:
    """Raise SetupError when the folder of preprocessed cases of these plans is not there; `dataset`: its name."""
    if Path(data).is_dir():
        return
    raise SetupError(
        "E-TRAINER-DATA",
        file=data,
        found="no such folder",
        expected="the cases, preprocessed with these plans",
        fix=f"run nnUNetv2_preprocess -d {dataset_number(dataset)} -plans_name {plans} -c {configuration} first",
    )


def read_plans(folder: Path, name: str) -> dict[str, Any]:
    """Return the plans of that name of a dataset; raises SetupError naming the nearest when there are none."""
    path = folder / f"{name}.json"
    if not path.is_file() or not are_plans(path):
        others = [f.stem for f in folder.glob("*.json") if are_plans(f)]
        raise SetupError(
            "E-PLAN-BASE",
            file=path,
            found="no such plans",
            expected="nnU-Net's plans",
            fix="run nnUNetv2_plan_and_preprocess" + (f"; {nearest(name, others)}" if others else " first"),
        )
    plans: dict[str, Any] = read_json(path)
    return plans

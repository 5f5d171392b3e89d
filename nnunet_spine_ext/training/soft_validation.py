"""Which activation suits a model of linear output: the areas of its validation cases decide.

A network that overshoots (values of 1.5 inside the structure) is too large when it is cut at 1 and right when it is
divided by its maximum; one that does not is right when it is cut and too small, or full of noise, when it is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.activation import Activation, hard_labels, soft_values
from nnunet_spine_ext.inference.model import reader_reorients
from nnunet_spine_ext.inference.support import limit_to_support
from nnunet_spine_ext.soft.prepare import affine_of
from nnunet_spine_ext.soft.store import open_soft, soft_file
from nnunet_spine_ext.soft.values import SUPERVISED
from nnunet_spine_ext.training.settings import settings_from_plans, store_settings

FILE = "soft_validation.json"
Choice = Literal["clamp", "norm_relu"]
CHOICES: tuple[Choice, ...] = ("clamp", "norm_relu")


@dataclass(frozen=True, eq=False)
class Predicted:
    """Outputs (K+1, *spatial) of a network for a whole case, with its soft label: (K, *spatial) and validity.

    `axis`: the spatial axis that slices are counted along, inferior to superior. `spacing`: mm along the spatial axes.
    """

    outputs: Array
    values: Array
    valid: Array
    axis: int
    spacing: tuple[float, ...]


def area_errors(cases: Iterable[Predicted], *, floor: float, support: float | None = None) -> dict[str, Any] | None:
    """Return mean absolute errors of section areas by activation, and the largest output.

    Per class and slice that holds some of it and is supervised as a whole: difference of the summed values. Sections
    are those of slices, not perpendicular to the structure: prediction and label are tilted alike.

    Parameters
    ----------
    floor: of ``norm_relu``. support: distance in mm beyond which prediction sets soft values to 0; None: nowhere.

    Returns
    -------
    ``cases``, ``sections``, ``largest`` (mean over cases) and ``error_mm2`` by activation; None without a section.
    """
    errors: dict[Choice, list[float]] = {name: [] for name in CHOICES}
    largest: list[float] = []
    for case in cases:
        within = tuple(a for a in range(case.valid.ndim) if a != case.axis)
        supervised = np.asarray((case.valid > SUPERVISED).all(axis=within))
        pixel = float(np.prod([case.spacing[a] for a in within]))
        truth = case.values.sum(axis=tuple(a + 1 for a in within)) * pixel
        held = supervised[None] & (truth > 0)
        if not held.any():
            continue
        largest.append(float(case.outputs[1:].max()))
        for name in CHOICES:
            activation = Activation(name, floor)
            values = soft_values(case.outputs, activation)
            if support is not None:
                limit_to_support(values, hard_labels(case.outputs, activation), case.spacing, support)
            areas = values.sum(axis=tuple(a + 1 for a in within)) * pixel
            errors[name] += np.abs(areas - truth)[held].tolist()
    if not largest:
        return None
    return {
        "cases": len(largest),
        "sections": len(errors["clamp"]),
        "largest": float(np.mean(largest)),
        "error_mm2": {name: float(np.mean(values)) for name, values in errors.items()},
    }


def predicted(trainer: Any, cases: Sequence[str]) -> Iterator[Predicted]:
    """Yield the validation cases of a trainer, predicted in single precision and without mirroring."""
    from nnunet_spine_ext.inference.predictor import SpinePredictor

    manager, configuration = trainer.plans_manager, trainer.configuration_manager
    forward = list(manager.transpose_forward)
    # Other processes may have ended, and no longer answer the wrapper of parallel training.
    network = getattr(trainer.network, "module", trainer.network)
    predictor = SpinePredictor(device=trainer.device, tta="none", progress=False, crop="off")
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    try:
        predictor.manual_initialization(
            network, manager, configuration, None, trainer.dataset_json, type(trainer).__name__, None
        )
        dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
        for case in cases:
            image, _, _, properties = dataset.load_case(case)
            outputs = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.asarray(image[:], np.float32)))
            soft = np.asarray(open_soft(soft_file(trainer.preprocessed_dataset_folder, case))[:], np.float32)
            spacing = [
                *np.asarray(properties["spacing"])[forward][: 3 - len(configuration.spacing)],
                *configuration.spacing,
            ]
            sizes = tuple(float(size) for size in spacing)
            axis = section_axis(properties, manager.plans)
            yield Predicted(outputs.float().cpu().numpy(), soft[:-1], soft[-1], axis, sizes)
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)


def section_axis(properties: Mapping[str, Any], plans: Mapping[str, Any]) -> int:
    """Return the axis of a preprocessed case that runs most nearly from inferior to superior.

    Where the reader keeps no geometry of the file, it is taken to be the third of the file.
    """
    reorient = reader_reorients(plans)
    affine = affine_of(properties, reorient=reorient)
    own = 2
    if affine is not None and not reorient:
        letters = Volume(np.empty((1, 1, 1)), affine).orientation
        own = next(axis for axis, letter in enumerate(letters) if letter in "IS")
    # nnU-Net's arrays are (z, y, x) before its own transposition.
    return [int(axis) for axis in plans["transpose_forward"]].index(2 - own)


def choose(folder: Path) -> Choice | None:
    """Return the activation with the smaller error over all folds of a model folder; None before the first fold."""
    found: list[Mapping[str, Any]] = [read_json(path) for path in sorted(folder.glob(f"fold_*/{FILE}"))]
    if not found:
        return None
    sections = sum(content["sections"] for content in found)
    totals = {
        name: sum(content["error_mm2"][name] * content["sections"] for content in found) / sections for name in CHOICES
    }
    return min(CHOICES, key=lambda name: totals[name])


def store(fold: Path, errors: Mapping[str, Any]) -> Choice:
    """Write what was found for a fold, and the choice over all folds into the plans of the model; return the choice."""
    write_json(fold / FILE, dict(errors))
    chosen = choose(fold.parent) or CHOICES[0]
    path = fold.parent / "plans.json"
    plans = read_json(path)
    soft = settings_from_plans(plans).soft
    if soft is not None and soft.activation != chosen:
        store_settings(plans, replace(settings_from_plans(plans), soft=replace(soft, activation=chosen)))
        write_json(path, plans, indent=4)
    return chosen

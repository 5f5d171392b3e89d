"""Facts about a trained model that prediction needs, read from its plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_spine_ext.core.config import load_config
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.inference.settings import PredictSettings

# With this reader the network sees every image as RAS+, stored (z, y, x): left-right is array axis 2 before
# nnU-Net's own transposition.
REORIENTING_READER = "NibabelIOWithReorient"
_LEFT_RIGHT_AXIS = 2
# nnU-Net's readers of volumes, and whether the network sees every image as RAS or as it is stored.
_REORIENTS = {REORIENTING_READER: True, "NibabelIO": False, "SimpleITKIO": False, "SimpleITKIOWithReorient": True}


def predict_settings(plans: Mapping[str, Any]) -> PredictSettings | None:
    """Return the prediction settings of a model, None when its plans carry none (a stock model)."""
    content = plans.get(SETTINGS_KEY, {}).get("predict")
    if content is None:
        return None
    return load_config(PredictSettings, content, where=f"plans {plans.get('plans_name', '')} spine_ext.predict")


def label_scheme(plans: Mapping[str, Any]) -> str:
    """Return the name of the model's label scheme; ``custom`` when it is none of ours."""
    return str(plans.get(SETTINGS_KEY, {}).get("data", {}).get("scheme", "custom"))


def sided_pairs(plans: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the (left, right) label ids of a model."""
    pairs = plans.get(SETTINGS_KEY, {}).get("data", {}).get("sided_labels", [])
    return [(int(left), int(right)) for left, right in pairs]


def trained_with_mirroring(plans: Mapping[str, Any]) -> bool:
    """Whether training mirrored patches; nnU-Net's default when the plans do not tell."""
    return bool(plans.get(SETTINGS_KEY, {}).get("train", {}).get("mirror", True))


def sided_axis(plans: Mapping[str, Any], dimensions: int) -> int | None:
    """Return the spatial axis of a patch that is left-right, None when a 2-D patch has none.

    Raises
    ------
    SetupError: the plans use a reader that does not reorient, so no axis is left-right in every case.
    """
    if plans["image_reader_writer"] != REORIENTING_READER:
        raise SetupError(
            "E-PLANS-READER",
            file=f"plans {plans.get('plans_name', '')}",
            found=f"image_reader_writer {plans['image_reader_writer']}",
            expected=f"{REORIENTING_READER}: only then left and right mean the same in every case",
            fix=f'set "overwrite_image_reader_writer": "{REORIENTING_READER}" in dataset.json and plan again',
        )
    axis = list(plans["transpose_forward"]).index(_LEFT_RIGHT_AXIS) - (3 - dimensions)
    return axis if axis >= 0 else None


def reader_reorients(plans: Mapping[str, Any]) -> bool:
    """Whether a model's reader turns images to RAS; raises SetupError for readers of other kinds of images."""
    name = plans["image_reader_writer"]
    if name not in _REORIENTS:
        raise SetupError(
            "E-PLANS-READER",
            file="plans.json",
            found=f"image_reader_writer {name}",
            expected=f"one of {', '.join(_REORIENTS)}",
            fix="predict with stock nnUNetv2_predict",
        )
    return _REORIENTS[name]


def refuse_what_is_not_predicted_here(plans: Mapping[str, Any], configuration: str) -> None:
    """Raise SetupError for models that need more than the image (cascades) or read something else than volumes.

    A configuration that the plans do not have is none of this function's business.
    """
    reader_reorients(plans)
    previous = None
    while configuration in plans["configurations"] and previous is None:
        content = plans["configurations"][configuration]
        previous, configuration = content.get("previous_stage"), content.get("inherits_from", "")
    if previous is not None:
        raise SetupError(
            "E-MODEL-CASCADE",
            file=f"plans {plans.get('plans_name', '')}",
            found=f"a network that also needs the masks of {previous}",
            expected="a network that needs the image alone",
            fix="predict with nnUNetv2_predict -prev_stage_predictions, or choose another configuration (-c)",
        )

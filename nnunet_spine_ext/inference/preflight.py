"""What a prediction refuses before any work; each function raises UsageError."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.device import Precision, check_device_name
from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.partial import check_folder, unusable_folder
from nnunet_spine_ext.inference.activation import soft_activation
from nnunet_spine_ext.inference.journal import RUN
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.inference.phase_options import schemes_with_bodies
from nnunet_spine_ext.inference.settings import Adapt, Crop, Match, PredictSettings, Tta
from nnunet_spine_ext.inference.view_settings import Kind


def check_use(m: str | Path | None, d: str | None, step_size: float) -> None:
    """Refuse a call without exactly one model, or with a step between windows that is no share of a patch."""
    if (m is None) == (d is None):
        found = "neither" if m is None else "both"
        raise UsageError("E-USE-MODEL", file="-m/-d", found=found, expected="one model", fix="give -m or -d")
    if not 0 < step_size <= 1:
        raise UsageError(
            "E-USE-STEP",
            file="-step_size",
            found=f"{step_size}",
            expected="a share of the patch above 0 and up to 1",
            fix="use 0.5",
        )


def check_windows(crop: str | None, precision: str, window_batch: int, device: str) -> None:
    """Refuse choices that are none, and batches without a window."""
    check_device_name(device)
    _check_choice("--crop", crop, (None, *get_args(Crop)))
    _check_choice("--precision", precision, get_args(Precision))
    if window_batch < 1:
        raise UsageError(
            "E-USE-BATCH", file="--window-batch", found=f"{window_batch}", expected="1 or more", fix="use 1"
        )


def check_crossing(
    match: str | None, tta: str, adapt: str, views: Sequence[str] | None = None, *, full: bool = False
) -> None:
    """Refuse ways to cross to another scanner that are none.

    full: whether something was asked for that only ``--tta full`` has.
    """
    _check_choice("--match", match, (None, *get_args(Match)))
    _check_choice("--tta", tta, get_args(Tta))
    _check_choice("--adapt", adapt, get_args(Adapt))
    for kind in views or ():
        _check_choice("--views", kind, get_args(Kind))
    if tta != "full" and (views or full):
        raise UsageError(
            "E-USE-VIEWS",
            file="--views, --all-views, --uncertainty",
            found=f"--tta {tta}",
            expected="--tta full: they are about its views",
            fix="add --tta full",
        )


def check_adapt(plans: Mapping[str, Any], method: str, steps: int | None) -> None:
    """Refuse test-time training of soft models, and steps that are none; raises SetupError or UsageError."""
    (predict_settings(plans) or PredictSettings()).adapt.with_steps(method, steps)
    if method != "none" and soft_activation(plans) is not None:
        # Their outputs are shares of voxels, not probabilities, and the row of the background follows from the others.
        raise SetupError(
            "E-ADAPT-SOFT",
            file=f"--adapt {method}",
            found="a model of soft labels",
            expected="a model of classes or regions",
            fix="predict without --adapt",
        )


def _check_choice(name: str, value: str | None, known: Sequence[str | None]) -> None:
    if value in known:
        return
    choices = [str(choice) for choice in known if choice]
    raise UsageError(
        "E-USE-CHOICE",
        file=name,
        found=repr(value),
        expected=f"one of {', '.join(choices)}",
        fix=nearest(str(value), choices),
    )


def check_accumulate(accumulate: str, crop: str, *, soft: bool) -> None:
    """Refuse half-precision sums where they would give wrong soft values, and beside crop mode."""
    if accumulate == "half" and (soft or crop == "on"):
        raise UsageError(
            "E-USE-ACCUMULATE",
            file="--accumulate",
            found="half, " + ("for a soft model" if soft else "with crop mode on"),
            expected="single: half-precision sums are off by up to 0.5 at the edges of a volume",
            fix="leave --accumulate out" + ("" if soft else ", or give --crop off"),
        )


def check_parts(num_parts: int, part_id: int) -> None:
    """Refuse a part that is none of the parts."""
    if num_parts < 1 or not 0 <= part_id < num_parts:
        raise UsageError(
            "E-USE-PARTS",
            file="-num_parts/-part_id",
            found=f"part {part_id} of {num_parts}",
            expected="0 <= part_id < num_parts",
            fix="count parts from 0",
        )


def check_scheme(name: str, folder: str | Path) -> None:
    """Refuse the instance step for a model whose classes it does not know."""
    if name not in schemes_with_bodies():
        raise UsageError(
            "E-USE-SCHEME",
            file=folder,
            found=f"instances asked of a model with the label scheme {name!r}",
            expected="the 14 classes of nnunet14, or a scheme with vertebral bodies that maps to them",
            fix="do without instances, or train on a dataset converted with --label-map …:nnunet14",
        )


def check_output(output: Path, source: Any, *, images: bool = False) -> Path:
    """Refuse an output that is a file, the input, not writable, or full of the other kind of results, before any work.

    `images`: results are images, not masks; a case of both kinds has one name, and the first thing done with a case is
    to remove what is there of it.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    folders = {Path(s).resolve() if Path(s).is_dir() else Path(s).resolve().parent for s in sources}
    try:
        found = _unfit(output, folders) or _other_kind(output, images=images)
    except OSError as error:
        raise unusable_folder(output, error) from error
    if found:
        raise UsageError(
            "E-OUT-FOLDER",
            file=output,
            found=found,
            expected="a folder of its own for the results",
            fix="choose another -o",
        )
    check_folder(output)
    return output


def _other_kind(output: Path, *, images: bool) -> str | None:
    """Return in words what an earlier run left in a folder, if that are images in place of masks or the reverse."""
    try:
        before = read_json(output / RUN) if (output / RUN).is_file() else None
    except CaseError:
        # Whatever it was, it was not read by anybody.
        return None
    if not isinstance(before, dict) or ("harmonizer" in before) == images:
        return None
    return "masks of an earlier run" if images else "images that nnUNetv2_spine_harmonize apply wrote"


def _unfit(output: Path, inputs: set[Path]) -> str | None:
    """Return in words why results cannot go there; raises OSError for a name that the system does not take."""
    if output.exists() and not output.is_dir():
        return "a file"
    if output.resolve() in inputs:
        return "the folder of the input"
    existing = next(parent for parent in (output.resolve(), *output.resolve().parents) if parent.exists())
    return None if os.access(existing, os.W_OK) else f"a place that cannot be written to ({existing})"

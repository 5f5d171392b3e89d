"""`nnUNetv2_spine_augment --plans`: which plans and configuration are meant, said before PyTorch is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.training.augment_options import wrong_option

# Trainers that augment on the device by what plans do not say, so far as their presets differ.
DEFAULTS = {
    "shift": "nnUNetTrainerSpineShift",
    "scanners": "nnUNetTrainerSpineShiftDANN",
    "nnunet": "nnUNetTrainerSpineSoft",
    "contrast-agnostic": "nnUNetTrainerSpineContrastAgnostic",
}


@dataclass(frozen=True)
class ChosenPlans:
    """A configuration of plans that were read; `content` is the whole file."""

    path: Path
    content: Mapping[str, Any]
    configuration: str

    @property
    def title(self) -> str:
        """Plans and configuration, for people."""
        return f"{self.path.name} {self.configuration}"


def check_plans(
    plans: str | Path | None, c: str | None, *, spacing: Sequence[float] | None = None, other: bool = False
) -> ChosenPlans | None:
    """Return the configuration that is meant, None without plans.

    Parameters
    ----------
    plans: a file of plans. c: its configuration; None: the only one. spacing: not allowed beside plans.
    other: the augmentation is not that of the plans, which then need none.

    Raises
    ------
    UsageError: no plans, plans without an augmentation of ours, an unknown configuration, none where there are several.
    """
    if plans is None:
        if c is not None:
            raise wrong_option("-c", f"{c} without plans", "--plans beside it")
        return None
    if spacing is not None:
        raise wrong_option("--spacing", "--plans beside it", "either of the two: plans have a spacing")
    path = Path(plans)
    content = _read(path)
    if not other:
        _refuse_without_augmentation(path, content)
    return ChosenPlans(path, content, _configuration(path, content, c))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        others = [file.name for file in path.parent.glob("*.json")]
        fix = nearest(path.name, others) if others else "check the path and its spelling"
        raise _refuse(path, "no such file", "plans, such as nnUNet_preprocessed/…/nnUNetPlans.json", fix)
    try:
        content = read_json(path)
    except CaseError as error:
        raise _refuse(path, error.found, error.expected, error.fix) from error
    known = content.get("configurations") if isinstance(content, dict) else None
    if not isinstance(known, dict) or not known or not all(isinstance(part, dict) for part in known.values()):
        raise _refuse(path, "no configurations", "plans of nnU-Net", "name a file of plans")
    plans: dict[str, Any] = content
    return plans


def _refuse_without_augmentation(path: Path, content: Mapping[str, Any]) -> None:
    settings = content.get(SETTINGS_KEY)
    if settings is None:
        found, fix = f"no {SETTINGS_KEY}", "make plans with nnUNetv2_spine_plan, or name an augmentation with --config"
    elif not isinstance(settings, dict) or settings.get("augment") is None:
        found = f"{SETTINGS_KEY} without augment: the trainer decides"
        listed = ", ".join(f"{preset} ({trainer})" for preset, trainer in DEFAULTS.items())
        fix = f"add --config {listed}; nnUNetTrainerSpine augments as nnU-Net does"
    else:
        return
    raise _refuse(path, found, "the augmentation of a training", fix)


def _configuration(path: Path, content: Mapping[str, Any], c: str | None) -> str:
    known = list(content["configurations"])
    if c is None:
        if len(known) > 1:
            raise _refuse(path, f"the configurations {', '.join(known)}", "one of them", "choose it with -c")
        return str(known[0])
    if c not in known:
        expected = "one of the plans"
        raise UsageError(
            "E-PLAN-CONFIGURATION",
            file=f"-c {c}",
            found="no such configuration",
            expected=expected,
            fix=nearest(c, known),
        )
    return c


def _refuse(path: Path, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-AUG-PLANS", file=path, found=found, expected=expected, fix=fix)

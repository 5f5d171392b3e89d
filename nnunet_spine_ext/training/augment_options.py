"""What can be said about the options of `nnUNetv2_spine_augment` without loading PyTorch."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.augment.config import no_preset, preset_names
from nnunet_spine_ext.augment.profiles import parse_scanner, profile_names
from nnunet_spine_ext.core.config import nearest, set_by_path
from nnunet_spine_ext.core.errors import NoInputError, UsageError

STRONGEST = 5
_FILES = (".yaml", ".yml", ".json")
_TRANSFORMS = Path(__file__).resolve().parent.parent / "augment" / "transforms"


def check_files(paths: Sequence[str | Path], expected: str) -> None:
    """Raise NoInputError for the first of some files that does not exist; `expected`: what it should be."""
    for path in paths:
        if not Path(path).exists():
            fix = "check the path and its spelling"
            raise NoInputError("E-IN-MISSING", file=path, found="no such file", expected=expected, fix=fix)


def check_choice(
    config: str | Path | None,
    profiles: Sequence[str],
    transform: str | None,
    assignments: Sequence[str],
    strength: float,
    epoch: int | None,
) -> None:
    """Refuse what cannot be meant; the parameters are those of `augment_choice.choose`.

    Raises
    ------
    UsageError: more than one augmentation, an unknown name (says the nearest), a number out of its limits.
    """
    asked = {"--config": config, "--profile": profiles, "--transform": transform}
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise wrong_option(" and ".join(given), "more than one augmentation", "one of --config, --profile, --transform")
    if not 0 <= strength <= STRONGEST:
        raise wrong_option("--strength", f"{strength:g}", f"0 to {STRONGEST}")
    if epoch is not None and epoch < 0:
        raise wrong_option("--epoch", str(epoch), "0 or more")
    settings: dict[str, Any] = {}
    for assignment in assignments:
        set_by_path(settings, assignment)
    for text in profiles:
        name = text.partition(":")[0]
        if name in preset_names():
            raise wrong_option("--profile", f"{name!r}, a preset", f"scanners, or --config {name}")
        if "," in name and not Path(name).is_file():
            raise wrong_option("--profile", text, "scanners with blanks between them", text.replace(",", " "))
        parse_scanner(text)
    if transform is not None:
        _check_transform(transform)
    if str(config).partition(":")[0].partition("..")[0] in profile_names():
        raise wrong_option("--config", f"{str(config)!r}, a scanner", f"a preset or a file, or --profile {config}")
    if config is not None and Path(config).suffix not in _FILES and str(config) not in preset_names():
        raise no_preset(str(config))


def _check_transform(name: str) -> None:
    # Every transform is in a file of its name; a test holds them to it.
    known = [module.name for module in pkgutil.iter_modules([str(_TRANSFORMS)])]
    if name not in known:
        raise UsageError(
            "E-AUG-NAME",
            file="--transform",
            found=f"no transform {name!r}",
            expected="a known transform",
            fix=nearest(name, known),
        )


def wrong_option(where: str, found: str, expected: str, fix: str = "correct the option") -> UsageError:
    """Return the error for an option whose value cannot be meant."""
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix=fix)

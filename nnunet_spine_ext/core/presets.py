"""Settings that come with the package: YAML files in a folder of presets, or one of the user's in their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nnunet_spine_ext.core.config import load_config, naming_file, nearest, read_mapping, set_by_path
from nnunet_spine_ext.core.errors import UsageError

T = TypeVar("T")


def names_in(folder: Path) -> list[str]:
    """Return the names of the presets of a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def preset_path(preset: str, folder: Path) -> Path:
    """Return the file of a preset by name, or of one that is a path to a YAML file.

    Raises
    ------
    UsageError: there is no such file; it names the nearest preset.
    """
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else folder / f"{preset}.yaml"
    if not path.is_file():
        raise UsageError(
            "E-PRESET",
            file=preset,
            found="no such preset",
            expected="a known one or a YAML file",
            fix=nearest(preset, names_in(folder)),
        )
    return path


def changed_settings(cls: type[T], path: Path, assignments: Sequence[str]) -> T:
    """Return the settings of a YAML file, changed by ``key=value``; the file is checked before it is changed.

    Raises
    ------
    UsageError: an unknown key, a value that is impossible.
    """
    content: dict[str, Any] = read_mapping(path)
    with naming_file(path.name):
        load_config(cls, content, where="settings")
    for assignment in assignments:
        set_by_path(content, assignment)
    return load_config(cls, content, where="--set" if assignments else path.name)

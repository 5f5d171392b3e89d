"""What folders of models are, for messages about one that was given for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_spine_ext.core.config import naming_file
from nnunet_spine_ext.core.errors import SetupError, UsageError

# What marks a folder, and what it then is; the first one that fits counts.
_KINDS = (
    ("instance_model.json", "an instance model"),
    ("numbering_model.json", "a numbering model"),
    ("plans.json", "a model of nnU-Net for segmentation"),
    ("checkpoint_*.pth", "one fold of a model of nnU-Net for segmentation"),
    ("*weights*.ckpt", "a checkpoint of SPINEPS, not imported"),
    ("dataset.json", "a dataset of nnU-Net"),
)


def without_description(folder: str | Path, name: str) -> str:
    """Return in words what a folder is that lacks the description `name` of a model."""
    folder = Path(folder)
    if not folder.is_dir():
        return "a file, no folder" if folder.exists() else "no such folder"
    known = next((what for pattern, what in _KINDS if pattern != name and any(folder.glob(pattern))), None)
    return f"{known}, without {name}" if known else f"a folder without {name}"


@contextmanager
def faults_of_model(path: str | Path) -> Iterator[None]:
    """Let errors about settings in a model's file name the file, as faults of the model (SetupError)."""
    try:
        with naming_file(path):
            yield
    except UsageError as error:
        raise SetupError(
            error.code, file=error.file, found=error.found, expected=error.expected, fix=error.fix
        ) from error

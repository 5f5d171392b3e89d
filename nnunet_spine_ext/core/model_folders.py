"""Folders of models: a description in JSON and one file of weights per fold; and what other folders are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import naming_file
from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

Unusable = Callable[[str | Path, str, str], SetupError]
"""Makes the error for a file or folder that is no model: file, what was found, what to do."""

# What marks a folder, and what it then is; the first one that fits counts.
_KINDS = (
    ("instance_model.json", "an instance model"),
    ("numbering_model.json", "a numbering model"),
    ("segmenter.json", "a segmenter of slices"),
    ("model.json", "a harmonizer"),
    ("plans.json", "a model of nnU-Net for segmentation"),
    ("checkpoint_*.pth", "one fold of a model of nnU-Net for segmentation"),
    ("*weights*.ckpt", "a checkpoint of SPINEPS, not imported"),
    ("dataset.json", "a dataset of nnU-Net"),
    # Last: a finished segmenter has it, too.
    ("training/settings.json", "a segmenter whose training was not finished"),
)
# What a description belongs to, besides its own mark.
_OWN = {"segmenter.json": ("segmenter.json", "training/settings.json")}


def without_description(folder: str | Path, name: str) -> str:
    """Return in words what a folder is that lacks the description `name` of a model."""
    folder = Path(folder)
    if not folder.is_dir():
        return "a file, no folder" if folder.exists() else "no such folder"
    known = next((what for pattern, what in _KINDS if pattern != name and any(folder.glob(pattern))), None)
    return f"{known}, without {name}" if known else f"a folder without {name}"


def refuse_other_model(folder: str | Path, name: str) -> None:
    """Raise UsageError for a folder that holds something else than models with the description `name`.

    One training would delete or replace files of the other, which have the same names.
    """
    folder = Path(folder)
    own = _OWN.get(name, (name,))
    known = next((what for pattern, what in _KINDS if pattern not in own and any(folder.glob(pattern))), None)
    if known:
        raise UsageError(
            "E-TRAIN-FOLDER", file=folder, found=known, expected="a folder of its own", fix="choose another folder"
        )


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


def read_description(path: Path, version: int, unusable: Unusable) -> dict[str, Any]:
    """Return the content of a model's description; raises what `unusable` makes for other files and versions."""
    try:
        content = read_json(path)
    except CaseError as error:
        raise unusable(path, error.found, "copy the model again") from error
    if not isinstance(content, dict):
        raise unusable(path, f"a {type(content).__name__}", "copy the model again")
    if content.get("format_version") != version:
        found = f"format version {content.get('format_version')!r}"
        raise unusable(path, found, f"this version reads {version}: update nnunet-spine-ext")
    return content


def weights_file(folder: str | Path, fold: int) -> Path:
    """Return where the weights of a fold are."""
    return Path(folder) / f"fold_{fold}.safetensors"


def write_weights(folder: Path, fold: int, state: Mapping[str, Tensor]) -> None:
    """Write the state dict of a fold as single precision, atomically."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()})
    write_bytes(weights_file(folder, fold), content)


def load_weights(path: Path, network: nn.Module, description: str, unusable: Unusable) -> None:
    """Load the weights of a fold into its network.

    Raises what `unusable` makes for files that are missing or damaged, and for weights of another network than that of
    `description`, the name of the model's file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise unusable(path, "no such file", "copy the model again, with all files of its folder")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise unusable(path, f"cannot be read ({str(error)[:160]})", "copy the model again") from error
    if complaint := misfit(state, network.state_dict()):
        raise unusable(path, complaint, f"restore {description} and the weights that belong together")
    network.load_state_dict(state)


def misfit(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return what keeps a state dict from being loaded; empty if nothing does."""
    other = sorted({*state} ^ {*wanted})
    if other:
        return f"weights of another network ({other[0]} and {len(other) - 1} more names differ)"
    for name, tensor in wanted.items():
        if tuple(state[name].shape) != tuple(tensor.shape):
            return f"{name} of shape {list(state[name].shape)} instead of {list(tensor.shape)}"
        if not state[name].isfinite().all():
            return f"{name} with values that are no numbers"
    return ""

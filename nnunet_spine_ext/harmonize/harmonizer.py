"""Harmonizers on disk and in use: a folder with `model.json`, files of numbers or weights, and what it was made from.

Every method has the same folder and answers the same call, so that what applies one need not know which it is.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import sha256, write_bytes, write_json
from nnunet_spine_ext.core.model_folders import faults_of_model, read_description, without_description
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL_FILE = "model.json"
FORMAT_VERSION = 1
KIND = "harmonizer"

Method = Literal["cyclegan", "nyul", "zscore", "histogram"]
METHODS: tuple[Method, ...] = get_args(Method)
# Which function makes a harmonizer of a folder and its description, by method.
_LOADERS: dict[Method, str] = {
    "cyclegan": "nnunet_spine_ext.harmonize.cyclegan.model:load",
    "nyul": "nnunet_spine_ext.harmonize.baselines:load",
    "zscore": "nnunet_spine_ext.harmonize.baselines:load",
    "histogram": "nnunet_spine_ext.harmonize.baselines:load",
}


class Harmonizer(Protocol):
    """What makes slices look like those of the target.

    Attributes
    ----------
    method: one of `METHODS`.
    size: (Y, X) of the slices it was made from; it takes slices of other sizes, too.
    spacing: their pixel size in mm (Y, X).
    slices: how they were cut and scaled; what is harmonized has to be prepared in the same way.
    """

    method: Method
    size: tuple[int, int]
    spacing: tuple[float, float]
    slices: SliceSettings

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, 1, Y, X), 0 to 255, of slices on the same scale; no gradient."""


@dataclass(frozen=True)
class HarmonizerModel:
    """Content of `model.json`.

    Parameters
    ----------
    method: one of `METHODS`.
    slices: how the slices were made, with their pixel size filled in unless they were resized.
    spacing: pixel size in mm (Y, X).
    target, sources: values of `key` in cases.json.
    settings: of the training; of a network the shape of it is in here.
    files: SHA-256 of every file that belongs to the model, by its name.
    epochs: done, and of how many; 0 of 0 for methods without any. Fewer than all: the training was interrupted.
    provenance: versions, datasets, numbers of slices and subjects, digest of the segmenter; free JSON.
    """

    method: Method
    slices: SliceSettings
    spacing: tuple[float, float]
    target: tuple[str, ...]
    sources: tuple[str, ...] = ()
    key: str = "manufacturer"
    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    epochs: tuple[int, int] = (0, 0)
    provenance: dict[str, Any] = field(default_factory=dict)
    kind: str = KIND
    format_version: int = FORMAT_VERSION

    @property
    def complete(self) -> bool:
        """Whether nothing of the training is missing."""
        return self.epochs[0] >= self.epochs[1]


def write_harmonizer(
    folder: str | Path, model: HarmonizerModel, tensors: Mapping[str, Mapping[str, Tensor]]
) -> HarmonizerModel:
    """Write a model; return it with the hashes of its files.

    Parameters
    ----------
    tensors: what goes into each file, for example ``{"style.safetensors": {...}}``; single precision.

    The description is written after the files, and those of an older one that are not of the new one are removed last:
    where the names differ, a process that is killed at any moment leaves the older model or the newer one, whole.
    """
    from safetensors.torch import save

    folder, hashes = Path(folder), {}
    old = _files_of(folder)
    for name, content in tensors.items():
        data = save({key: value.detach().cpu().float().contiguous() for key, value in content.items()})
        hashes[name] = hashlib.sha256(data).hexdigest()
        write_bytes(folder / name, data)
    model = replace(model, files=hashes)
    write_json(folder / MODEL_FILE, to_dict(model))
    for name in old - hashes.keys():
        (folder / name).unlink(missing_ok=True)
    return model


def _files_of(folder: Path) -> set[str]:
    """Return the files of the model that a folder has; none where it has no model that can be read."""
    try:
        return {name for name in read_harmonizer(folder).files if Path(name).name == name}
    except SetupError:
        return set()


def read_harmonizer(folder: str | Path) -> HarmonizerModel:
    """Read the description of a model, without what it needs to work.

    Raises
    ------
    SetupError: no such model, a file that cannot be read, an unknown version, method or key, slices of unknown pixels.
    """
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        found = without_description(folder, MODEL_FILE)
        raise unusable(folder, found, "give the folder that nnUNetv2_spine_harmonize train wrote")
    content = read_description(path, FORMAT_VERSION, unusable)
    if content.get("kind") != KIND:
        raise unusable(path, f"a model of kind {content.get('kind')!r}", "give the folder of a harmonizer")
    with faults_of_model(path):
        model = load_config(HarmonizerModel, content, where=str(path))
    if not all(0 < step < math.inf for step in model.spacing):
        raise unusable(path, f"pixels of {model.spacing} mm", "copy the model again")
    refuse_unknown_pixels(model.slices, path)
    return model


def refuse_unknown_pixels(slices: SliceSettings, file: str | Path = MODEL_FILE) -> None:
    """Raise SetupError for slices whose pixel size nobody knows: scans cannot be cut as they were."""
    if slices.fit == "crop" and slices.spacing is None:
        raise SetupError(
            "E-HARMONIZE-SPACING",
            file=file,
            found="a harmonizer of slices that were neither resized nor of a known pixel size",
            expected='"spacing" under "slices"',
            fix="train it anew",
        )


def load_harmonizer(folder: str | Path, device: str | torch.device = "cpu") -> Harmonizer:
    """Load a harmonizer of any method, ready to be called.

    Raises
    ------
    SetupError: see `read_harmonizer`; a file that is missing or is not the one that belongs to the model.
    """
    model = read_harmonizer(folder)
    for name, expected in model.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise unusable(path, "no such file", "copy the model again, with all files of its folder")
        if sha256(path) != expected:
            raise unusable(path, "another content than when the model was written", "copy the model again")
    module, _, function = _LOADERS[model.method].partition(":")
    load = cast("Callable[..., Harmonizer]", getattr(importlib.import_module(module), function))
    return load(Path(folder), model, device)


def unusable(file: str | Path, found: str, fix: str) -> SetupError:
    """Return the error for a folder or file that is no harmonizer, or a damaged one."""
    return SetupError("E-MODEL-HARMONIZER", file=file, found=found, expected="a harmonizer", fix=fix)

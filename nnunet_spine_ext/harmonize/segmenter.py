"""Segmenters of discs in slices: what harmonization asks of one, and those that `segmenter` trained.

A segmenter is frozen, but gradients pass through it to the slices: that is how one that knows only the target scanner
(S_Y in Kim et al., IEEE Access 2024) tells a generator what the target looks like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import sha256, write_json
from nnunet_spine_ext.core.model_folders import (
    faults_of_model,
    load_weights,
    read_description,
    weights_file,
    without_description,
    write_weights,
)
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.networks.slice_unet import SliceNetwork, SliceNetworkShape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL_FILE = "segmenter.json"
FORMAT_VERSION = 1
# Networks are kept per fold; a segmenter is one.
_FOLD = 0
# Pixels this near to the network's are taken for the same.
_SAME_SPACING = 0.005


class SliceSegmenter(Protocol):
    """Anything that finds discs in slices.

    `name` and `digest` say which one it is, in words and by content; `spacing` is the pixel size (mm) of the slices
    that it takes, None where slices were resized whatever their pixels.
    """

    @property
    def name(self) -> str:
        """In words."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides its answers."""

    @property
    def spacing(self) -> float | None:
        """Pixel size in mm."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the probability of disc (B, 1, Y, X), 0 to 1, in slices (B, 1, Y, X), 0 to 255.

        Gradients reach the slices; the parameters are frozen and the network is in evaluation mode.
        """


@dataclass(frozen=True)
class SegmenterModel:
    """Content of `segmenter.json`.

    Parameters
    ----------
    network: which one, and how large. slices: how those it was trained on were made; `spacing` is always said, unless
        slices are resized.
    target: vendors it was trained on.
    provenance: where the weights are from, who was trained and tested on, and with what result; free JSON.
    """

    format_version: int = FORMAT_VERSION
    network: SliceNetworkShape = field(default_factory=SliceNetworkShape)
    slices: SliceSettings = field(default_factory=SliceSettings)
    target: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


class NetworkSegmenter:
    """A network that `segmenter` trained; see `SliceSegmenter`.

    Parameters
    ----------
    spacing: pixel size in mm of the slices that will be given; None: that of those it was trained on. Slices with
        other pixels are resampled, and so is the answer.
    """

    def __init__(
        self, network: SliceNetwork, model: SegmenterModel, name: str, digest: str, spacing: float | None = None
    ) -> None:
        self.model, self.name, self.digest = model, name, digest
        self.network = network.eval().requires_grad_(requires_grad=False)
        self._own = model.slices.spacing if model.slices.fit == "crop" else None
        self._given = spacing

    @property
    def spacing(self) -> float | None:
        """Pixel size in mm of the slices it takes; None where they are resized whatever their pixels."""
        return None if self._own is None else self._given or self._own

    def to(self, device: torch.device) -> NetworkSegmenter:
        """Move the network; return the same segmenter."""
        self.network.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the probability of disc (B, 1, Y, X) in slices (B, 1, Y, X), 0 to 255, on the network's device."""
        if self._own is None or self.spacing is None:
            return _chance(self.network(images))
        size = size_at(images.shape[2:], self.spacing, (self._own, self._own))
        return resized(_chance(self.network(resized(images, size))), images.shape[2:]).clamp(0, 1)


def size_at(size: Sequence[int], spacing: float, pixel: tuple[float, float]) -> tuple[int, int]:
    """Return rows and columns that slices of `size` pixels of `spacing` mm have with pixels of another size (Y, X)."""
    factors = (spacing / own for own in pixel)
    rows, columns = (
        int(n) if abs(f - 1) < _SAME_SPACING else max(1, round(n * f)) for n, f in zip(size, factors, strict=True)
    )
    return rows, columns


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate slices (B, 1, Y, X) linearly to other rows and columns; coarser pixels are means of finer ones."""
    from torch.nn.functional import interpolate

    if tuple(images.shape[2:]) == tuple(size):
        return images
    return interpolate(images, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _chance(logits: Tensor) -> Tensor:
    return logits.float().sigmoid()


def write_segmenter(folder: str | Path, model: SegmenterModel, state: Mapping[str, Tensor]) -> None:
    """Write a model: weights, then the description that makes the folder one."""
    folder = Path(folder)
    (folder / MODEL_FILE).unlink(missing_ok=True)
    write_weights(folder, _FOLD, state)
    write_json(folder / MODEL_FILE, to_dict(model))


def is_segmenter(folder: str | Path) -> bool:
    """Whether a folder is that of a segmenter."""
    return (Path(folder) / MODEL_FILE).is_file()


def read_segmenter(folder: str | Path) -> SegmenterModel:
    """Read the description of a model, without its weights.

    Raises
    ------
    SetupError: no such model, a file that cannot be read, an unknown version or key.
    """
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        fix = "give the folder that nnUNetv2_spine_harmonize segmenter wrote"
        raise _unusable(folder, without_description(folder, MODEL_FILE), fix)
    content = read_description(path, FORMAT_VERSION, _unusable)
    with faults_of_model(path):
        return load_config(SegmenterModel, content, where=str(path))


def load_segmenter(
    folder: str | Path, device: torch.device | None = None, *, spacing: float | None = None
) -> NetworkSegmenter:
    """Load a model of `segmenter`; `inference.slice_segmenter` also knows those of nnU-Net.

    Parameters
    ----------
    spacing: see `NetworkSegmenter`.

    Raises
    ------
    SetupError: what `read_segmenter` raises; weights that are missing, damaged or of another network; a package that
        the network needs is missing.
    """
    folder = Path(folder)
    model = read_segmenter(folder)
    network = model.network.build()
    load_weights(weights_file(folder, _FOLD), network, MODEL_FILE, _unusable)
    digest = hashlib.sha256()
    for path in (folder / MODEL_FILE, weights_file(folder, _FOLD)):
        digest.update(sha256(path).encode())
    if spacing is not None and model.slices.fit == "crop" and spacing != model.slices.spacing:
        # Slices with other pixels are resampled before they are answered.
        digest.update(f"{spacing:g}".encode())
    loaded = NetworkSegmenter(network, model, folder.resolve().name, digest.hexdigest(), spacing)
    return loaded if device is None else loaded.to(device)


def _unusable(file: str | Path, found: str, fix: str) -> SetupError:
    return SetupError("E-MODEL-SEGMENTER", file=file, found=found, expected="a segmenter of slices", fix=fix)

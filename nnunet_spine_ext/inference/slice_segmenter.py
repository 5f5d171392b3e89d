"""A 2-D model of nnU-Net, ours or stock, as a segmenter of sagittal slices: frozen, gradients pass through.

What nnU-Net does with a scan of one slice, done with PyTorch: the slice is turned as the network sees scans, resampled,
normalized, cut into nnU-Net's windows, and the answers are averaged and turned back. Two things differ from a whole
scan, and nobody can know them from a slice: mean and deviation are those of the slice, and intensities are not matched.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nnunet_spine_ext.check.model_folder import FINAL, is_model
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter, is_segmenter, load_segmenter, resized, size_at
from nnunet_spine_ext.harmonize.structures import structures_of
from nnunet_spine_ext.inference.model import label_scheme, predict_settings, reader_reorients
from nnunet_spine_ext.inference.slice_plane import SlicePlane

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.folder import TrainedModel
    from nnunet_spine_ext.inference.predictor import SpinePredictor

_EPSILON = 1e-8
# In grey levels. nnU-Net's is 1e-8, which would give slices that are nearly constant gradients of 1e8.
_LEAST_DEVIATION = 1e-3
_TOP = 255.0
_WINDOWS_AT_ONCE = 8
_log = logging.getLogger(__name__)


def load_slice_segmenter(
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    spacing: float | None = None,
    classes: Sequence[int] | None = None,
    orientation: str | None = None,
    folds: Sequence[str] | None = None,
    checkpoint: str = FINAL,
    trust: bool = False,
) -> SliceSegmenter:
    """Load a segmenter of slices: a folder of ``nnUNetv2_spine_harmonize segmenter``, or a 2-D model of nnU-Net.

    All parameters after `spacing` are for models of nnU-Net.

    Parameters
    ----------
    spacing: pixel size in mm of the slices that will be given; None: that of the network.
    classes: ids of discs; None: what the label scheme, or the names of the labels, say.
    orientation: axes of the images as they were stored in training, for example ``LPS`` (towards left, posterior,
        superior), of models whose reader does not turn them.
    folds, checkpoint: see `inference.folder.open_model_folder`; the mean of the folds answers.
    trust: load checkpoints that carry code.

    Raises
    ------
    SetupError: neither kind of model, or a damaged one; one that needs more than a grey slice: volumes, several
        channels, other planes, Hounsfield units; one without discs.
    """
    device = torch.device(device)
    if is_segmenter(folder) or not is_model(Path(folder)):
        return load_segmenter(folder, device, spacing=spacing)
    from nnunet_spine_ext.inference.folder import load_model
    from nnunet_spine_ext.inference.predictor import SpinePredictor

    model = load_model(folder, tuple(folds) if folds else None, checkpoint, trust=trust)
    predictor = SpinePredictor(device=device, tta="none", progress=False)
    _refuse_other_input(model)
    predictor.initialize_from_model(model)
    return NnUNetSegmenter(predictor, model, spacing=spacing, classes=classes, orientation=orientation)


class NnUNetSegmenter:
    """A 2-D model of nnU-Net; see `SliceSegmenter`.

    Parameters
    ----------
    predictor: initialized from `model`.
    spacing, classes, orientation: see `load_slice_segmenter`.

    Raises
    ------
    SetupError: see there.
    """

    def __init__(
        self,
        predictor: SpinePredictor,
        model: TrainedModel,
        *,
        spacing: float | None = None,
        classes: Sequence[int] | None = None,
        orientation: str | None = None,
    ) -> None:
        plans, configuration = predictor.plans_manager.plans, predictor.configuration_manager
        # The last two axes of a scan are those of a 2-D network; its own pixel size has two entries or three.
        self._plane = _plane_of(plans, orientation)
        own = [float(mm) for mm in configuration.spacing][-2:]
        # Rows and columns of slices, whatever the network takes them for.
        self._pixel = (own[1], own[0]) if self._plane.transposed else (own[0], own[1])
        self._spacing = spacing or round(sum(self._pixel) / 2, 4)
        self._normalize = _normalization(configuration, model.folder)
        self._channels = _disc_channels(predictor, model, classes)
        self._predictor = predictor
        self._networks = _frozen_copies(predictor)
        self.name = f"{model.folder.parent.name}/{model.folder.name}"
        told = f"{model.digest} {self._channels} {self._plane} {self._spacing}"
        self.digest = hashlib.sha256(told.encode()).hexdigest()

    @property
    def spacing(self) -> float | None:
        """Pixel size in mm of the slices it takes."""
        return self._spacing

    def to(self, device: torch.device) -> NnUNetSegmenter:
        """Move the network; return the same segmenter."""
        self._networks.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the probability of disc (B, 1, Y, X), 0 to 1, in slices (B, 1, Y, X), 0 to 255, on the same device.

        Raises
        ------
        ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 1 or not images.numel():
            msg = f"slices of shape {tuple(images.shape)}, expected (B, 1, Y, X)"
            raise ValueError(msg)
        size = images.shape[2:]
        seen = self._plane.to_network(resized(images, size_at(size, self._spacing, self._pixel)))
        chance = self._plane.from_network(self._chance(self._logits(self._normalize(seen))))
        return resized(chance, size).clamp(0, 1)

    def _logits(self, seen: Tensor) -> Tensor:
        """Return outputs (B, heads, *plane) of normalized slices (B, 1, *plane), the mean over folds."""
        from acvl_utils.cropping_and_padding.padding import pad_nd_image

        patch = tuple(int(n) for n in self._predictor.configuration_manager.patch_size)
        padded, inner = pad_nd_image(seen, patch, "constant", {"value": 0}, True, None)
        total: Tensor = torch.stack([self._answer(network, padded, patch) for network in self._networks]).mean(dim=0)
        return total[(slice(None), slice(None), *inner[2:])]

    def _answer(self, network: nn.Module, padded: Tensor, patch: tuple[int, ...]) -> Tensor:
        from nnunet_spine_ext.inference.windows import add_up

        if tuple(padded.shape[2:]) == patch:
            whole: Tensor = network(padded).float()
            return whole
        # Slices lie along the first axis, as those of a scan do.
        scan = padded.transpose(0, 1)
        windows = self._predictor._internal_get_sliding_window_slicers(scan.shape[1:])
        heads = self._predictor.label_manager.num_segmentation_heads
        return add_up(network, scan, windows, heads, patch, batch=_WINDOWS_AT_ONCE).transpose(0, 1)

    def _chance(self, logits: Tensor) -> Tensor:
        """Return the probability of disc (B, 1, *plane) of outputs (B, heads, *plane)."""
        activation, chosen = self._predictor.activation, list(self._channels)
        if self._predictor.label_manager.has_regions:
            # Regions may overlap, and a pixel of two of them is no more disc than one of one.
            return logits[:, chosen].sigmoid().amax(dim=1, keepdim=True)
        if activation is None:
            return logits.softmax(dim=1)[:, chosen].sum(dim=1, keepdim=True)
        if activation.kind == "sigmoid":
            return logits[:, chosen].sigmoid().amax(dim=1, keepdim=True)
        values = logits[:, chosen]
        if activation.kind == "norm_relu":
            values = values / values.amax(dim=(2, 3), keepdim=True).clamp_min(activation.floor)
        return values.clamp(0, 1).sum(dim=1, keepdim=True).clamp(0, 1)


def _frozen_copies(predictor: SpinePredictor) -> nn.ModuleList:
    """Return one network per fold: exchanging weights between them would lose the gradient."""
    networks = nn.ModuleList()
    for parameters in predictor.list_of_parameters:
        predictor.network.load_state_dict(parameters)
        networks.append(copy.deepcopy(predictor.network))
    return networks.to(predictor.device).eval().requires_grad_(requires_grad=False)


def _refuse_other_input(model: TrainedModel) -> None:
    """Raise SetupError for models that need other input than one grey slice."""
    patch = model.plans["configurations"].get(model.configuration, {}).get("patch_size", ())
    if len(patch) == 3:
        raise _unfit(model.folder, f"the configuration {model.configuration}, whose network sees volumes", "train 2d")
    if len(model.channels) > 1:
        found = f"{len(model.channels)} channels ({', '.join(model.channels)})"
        raise _unfit(model.folder, found, "train a model of one contrast")
    settings = predict_settings(model.plans)
    if settings is not None and settings.match not in (None, "none"):
        _log.warning("%s: its plans match intensities (%s); slices are taken as they are", model.folder, settings.match)


def _plane_of(plans: Mapping[str, Any], orientation: str | None) -> SlicePlane:
    """Return how the network sees sagittal slices; SetupError when it sees other ones, or that is not known."""
    where = f"plans {plans.get('plans_name', '')}"
    if reader_reorients(plans):
        orientation = "RAS"
    elif orientation is None:
        raise SetupError(
            "E-PLANS-READER",
            file=where,
            found=f"image_reader_writer {plans['image_reader_writer']}, which takes images as they are stored",
            expected="to know how the images that it was trained on were stored",
            fix="say so with orientation=, for example LPS, or train with NibabelIOWithReorient",
        )
    return SlicePlane.of(orientation, plans["transpose_forward"], where)


def _disc_channels(predictor: SpinePredictor, model: TrainedModel, classes: Sequence[int] | None) -> tuple[int, ...]:
    """Return which outputs of the network are discs."""
    if classes is None:
        scheme = label_scheme(model.plans) if SETTINGS_KEY in model.plans else None
        named = structures_of(model.dataset_json, scheme if scheme != "custom" else None)
        classes = named.get("disc", ())
    manager, wanted = predictor.label_manager, {int(number) for number in classes}
    if manager.has_regions:
        ids = [set(region) if isinstance(region, list | tuple) else {region} for region in manager.foreground_regions]
        channels = tuple(k for k, region in enumerate(ids) if region <= wanted)
    else:
        channels = tuple(k for k, label in enumerate(manager.all_labels) if int(label) in wanted)
    if not channels:
        labels = ", ".join(f"{name} {number}" for name, number in model.dataset_json["labels"].items())
        raise _unfit(model.folder, f"no class of discs among {labels}", "name their ids with classes=")
    return channels


def _normalization(configuration: Any, folder: Path) -> Callable[[Tensor], Tensor]:
    """Return nnU-Net's normalization of slices (B, 1, *plane), 0 to 255, with a gradient."""
    name, masked = configuration.normalization_schemes[0], bool(configuration.use_mask_for_norm[0])
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "ZScoreNormalization": lambda images: _z_score(images, masked=masked),
        "RescaleTo01Normalization": _rescaled,
        "RGBTo01Normalization": lambda images: images / _TOP,
    }
    if name not in known:
        found = f"{name}, which needs the intensities of the scanner"
        raise _unfit(folder, found, f"train with {', '.join(known)}")
    return known[name]


def _z_score(images: Tensor, *, masked: bool) -> Tensor:
    """Subtract the mean and divide by the deviation of each slice.

    They are taken where nnU-Net takes them: in the box around what is not zero, or, `masked`, in what is not zero.
    Everything else becomes 0, nnU-Net's filling.
    """
    there = images.detach() != 0
    if not masked:
        there = there.any(dim=3, keepdim=True) & there.any(dim=2, keepdim=True)
        # From the first to the last, with what lies between.
        there = _between(there, 2) & _between(there, 3)
    counts = there.to(images.dtype)
    number = counts.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (images * counts).sum(dim=(2, 3), keepdim=True) / number
    centred = (images - mean) * counts
    variance = centred.square().sum(dim=(2, 3), keepdim=True) / number
    # The root has no slope at zero, and a constant slice none to give.
    deviation = variance.clamp_min(_LEAST_DEVIATION**2).sqrt()
    return centred / deviation


def _between(there: Tensor, axis: int) -> Tensor:
    """Return along an axis what lies between the first and the last True, both included."""
    seen = there.int()
    return (seen.cummax(dim=axis).values & seen.flip(axis).cummax(dim=axis).values.flip(axis)).bool()


def _rescaled(images: Tensor) -> Tensor:
    low = images.amin(dim=(2, 3), keepdim=True)
    high = images.amax(dim=(2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(_EPSILON)


def _unfit(folder: Path, found: str, fix: str) -> SetupError:
    expected = "a 2-D model of nnU-Net that finds discs in sagittal slices of one contrast"
    return SetupError("E-MODEL-SLICES", file=folder, found=found, expected=expected, fix=fix)

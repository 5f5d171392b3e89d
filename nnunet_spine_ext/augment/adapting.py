"""What the adapters for other training loops share: pipelines kept per kind of batch, and checks of what arrives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.core.errors import UsageError

CACHED = 32
OUTSIDE = -1

Config = AugmentConfig | Mapping[str, Any] | str | Path


class Pipelines:
    """The pipelines of one configuration: one per shape, spacing and number of channels, the latest 32 of them.

    Parameters
    ----------
    config: an `AugmentConfig`, or what `AugmentConfig.load` reads: a mapping, a file, the name of a preset.
    labels: ids that occur; None: there are no label maps.
    sided_pairs: left and right ids that exchange their sides when an image is mirrored from left to right.

    Raises
    ------
    UsageError: the configuration is wrong.
    """

    def __init__(
        self, config: Config, *, labels: Iterable[int] | None = None, sided_pairs: Iterable[tuple[int, int]] = ()
    ) -> None:
        self.config = config if isinstance(config, AugmentConfig) else AugmentConfig.load(config)
        self.labels = None if labels is None else tuple(int(label) for label in labels)
        self.sided_pairs = tuple((int(left), int(right)) for left, right in sided_pairs)
        self._kept: OrderedDict[Context, Pipeline] = OrderedDict()

    def context(
        self, shape: Sequence[int], channels: int, spacing: Sequence[float], left_right_axis: int | None
    ) -> Context:
        """Return what transforms may know of images of this kind; lengths to five digits, so that equal ones are."""
        return Context(
            shape=tuple(shape),
            spacing=tuple(float(f"{float(s):.5g}") for s in spacing),
            channels=channels,
            labels=self.labels or (0,),
            sided_pairs=self.sided_pairs,
            left_right_axis=left_right_axis,
        )

    def of(self, context: Context) -> Pipeline:
        """Return the pipeline of a kind of batch."""
        if context in self._kept:
            self._kept.move_to_end(context)
        else:
            self._kept[context] = Pipeline(self.config, context)
            if len(self._kept) > CACHED:
                self._kept.popitem(last=False)
        return self._kept[context]

    def epoch(self, epoch: int | None) -> int:
        """Return the epoch that draws depend on; None, nobody counts epochs: the first one at full strength."""
        return self.config.schedule.ramp_epochs if epoch is None else epoch

    def __len__(self) -> int:
        """Return how many pipelines are kept."""
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets a copy meets shapes of its own.
        return {**self.__dict__, "_kept": OrderedDict()}


def apply(
    pipeline: Pipeline, images: Tensor, labels: Tensor | None, plan: Plan, outside: int
) -> tuple[Tensor, Tensor | None]:
    """Apply a plan to images (B, C, …) and label maps of any type; see `signed` and `narrowed` for these."""
    images, moved = pipeline.apply(images, None if labels is None else signed(labels), plan)
    return images, None if labels is None or moved is None else narrowed(moved, labels.dtype, outside)


def signed(labels: Tensor) -> Tensor:
    """Return label maps as integers that know -1, what lies outside of the image."""
    if labels.dtype in (torch.bool, torch.uint8):
        return labels.to(torch.int16)
    # MONAI loads label maps as float32.
    return labels.to(torch.int32) if labels.dtype.is_floating_point or not labels.dtype.is_signed else labels


def narrowed(labels: Tensor, dtype: torch.dtype, outside: int) -> Tensor:
    """Return label maps with `outside` in place of -1, in the type they came in if that can hold it."""
    if outside != OUTSIDE:
        labels = labels.masked_fill(labels == OUTSIDE, outside)
    return labels if outside < 0 and not dtype.is_signed else labels.to(dtype)


def check_images(images: Any, *, batched: bool, where: str, values: bool | None = None) -> None:
    """Refuse what is no batch (B, C, …) or sample (C, …) of 2-D or 3-D images.

    Parameters
    ----------
    values: whether NaN and infinity are looked for; None: on processors, elsewhere the host would have to wait.

    Raises
    ------
    UsageError: no tensor, complex, other dimensions, empty, or numbers that are not finite.
    """
    if not isinstance(images, Tensor):
        raise UsageError(
            "E-AUG-INPUT",
            file=where,
            found=f"a {type(images).__name__}",
            expected="a torch tensor",
            fix="convert it with torch.as_tensor",
        )
    if images.is_complex():
        raise UsageError(
            "E-AUG-INPUT",
            file=where,
            found="complex numbers",
            expected="real images",
            fix="take the magnitude: images.abs()",
        )
    expected = "(B, C, Z, Y, X) or (B, C, Y, X)" if batched else "(C, Z, Y, X) or (C, Y, X)"
    if images.dim() not in ((4, 5) if batched else (3, 4)) or images.numel() == 0:
        fix = "put the channel axis in front (EnsureChannelFirstd) and leave no axis empty"
        raise UsageError("E-AUG-SHAPE", file=where, found=f"shape {tuple(images.shape)}", expected=expected, fix=fix)
    if _looks(images, values) and not bool(images.isfinite().all()):
        # One NaN is enough to make every quantile, and so the whole sample, NaN.
        count = int((~images.isfinite()).sum())
        raise UsageError(
            "E-AUG-INPUT",
            file=where,
            found=f"{count} voxels that are NaN or infinite",
            expected="finite images",
            fix="replace them: nan_to_num",
        )


def check_labels(labels: Any, images: Tensor, *, batched: bool, where: str, values: bool | None = None) -> None:
    """Refuse label maps that do not fit images of the same batch or sample, see `check_images`.

    Raises
    ------
    UsageError: no tensor, another grid or device, complex, or numbers that are no ids.
    """
    if not isinstance(labels, Tensor):
        raise UsageError(
            "E-AUG-INPUT",
            file=where,
            found=f"a {type(labels).__name__}",
            expected="a torch tensor",
            fix="convert it with torch.as_tensor",
        )
    lead = 2 if batched else 1
    grid = tuple(images.shape[lead:])
    rows = tuple(images.shape[: lead - 1])
    shape = tuple(labels.shape)
    if shape[lead:] != grid or shape[: lead - 1] != rows or len(shape) != lead + len(grid) or labels.numel() == 0:
        expected = f"the grid of the images with at least one channel: {(*rows, 1, *grid)}"
        raise UsageError(
            "E-AUG-GRID",
            file=where,
            found=f"shape {shape}",
            expected=expected,
            fix="resample the label map to its image",
        )
    if labels.device != images.device:
        expected = f"the device of the images, {images.device}"
        raise UsageError(
            "E-AUG-INPUT",
            file=where,
            found=f"a label map on {labels.device}",
            expected=expected,
            fix="move both to one device",
        )
    whole = not (labels.is_complex() or labels.dtype.is_floating_point)
    if labels.is_complex() or (not whole and _looks(labels, values) and not bool((labels == labels.round()).all())):
        raise UsageError(
            "E-AUG-INPUT",
            file=where,
            found=f"fractions of labels ({labels.dtype})",
            expected="label ids",
            fix="give label maps, not probabilities",
        )


def check_sides(sided_pairs: Sequence[Any], axis: int | None, where: str) -> None:
    """Refuse left and right labels where nobody says which axis runs from left to right."""
    if sided_pairs and axis is None:
        fix = "give left_right_axis, the array axis between left and right"
        raise UsageError(
            "E-AUG-CONTEXT", file=where, found="sided_pairs without a left-right axis", expected="both", fix=fix
        )


def need_ids(pipelines: Pipelines, where: str) -> None:
    """Refuse label maps whose ids nobody named: reading them off a sample would make draws depend on the crop."""
    if pipelines.labels is None:
        fix = "give labels=range(15) for ids 0 to 14"
        raise UsageError(
            "E-AUG-LABELS", file=where, found="label maps, but no label ids", expected="the ids that occur", fix=fix
        )


def _looks(tensor: Tensor, values: bool | None) -> bool:
    return tensor.device.type == "cpu" if values is None else values

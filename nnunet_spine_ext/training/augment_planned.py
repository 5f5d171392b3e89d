"""A case as a training with given plans gets it: preprocessed by nnU-Net, a patch cut out, augmented as they say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_json, sha256, strip_suffix
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.model import REORIENTING_READER, sided_axis
from nnunet_spine_ext.training.augment_options import wrong_option
from nnunet_spine_ext.training.augment_plans import ChosenPlans
from nnunet_spine_ext.training.network_input import NetworkInput, all_there_is, known_of, meaning_of, opened_case
from nnunet_spine_ext.training.settings import settings_from_plans

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedTraining:
    """A training by plans: its number of `epochs`, its `title`, its own augmentation; None: another is asked for."""

    epochs: int
    title: str
    config: AugmentConfig | None = None

    def in_force(self, config: AugmentConfig) -> AugmentConfig:
        """Return a configuration as this training uses it: its ramp is as short as the training is."""
        return config.with_short_ramp(self.epochs)

    def fraction(self, epoch: int) -> float:
        """Return which part of the training is over in the middle of an epoch; raises UsageError beyond its end."""
        if epoch >= self.epochs:
            raise wrong_option("--epoch", str(epoch), f"0 to {self.epochs - 1}, as the plans train")
        return (epoch + 0.5) / self.epochs


def planned_training(chosen: ChosenPlans, *, other: bool) -> PlannedTraining:
    """Return the training that plans describe; `other`: with another augmentation, so that theirs is not needed.

    Raises
    ------
    UsageError: settings that cannot be meant.
    """
    settings = settings_from_plans(chosen.content)
    epochs = settings.train.num_epochs
    if other:
        return PlannedTraining(epochs, chosen.title)
    if settings.augment is None:
        msg = "plans without augmentation are refused before"
        raise ValueError(msg)
    return PlannedTraining(epochs, chosen.title, settings.augment.effective())


@all_there_is()
def planned_input(
    images: Sequence[str | Path], labels: str | Path | None, chosen: ChosenPlans, *, scheme: str | None = None
) -> NetworkInput:
    """Read a case and cut out a patch in the middle of the labels, or of the image; otherwise as `network_input`.

    The arrays are as much larger than the patch as nnU-Net's loader cuts them, so that what moves has something to move
    in. What labels mean is what `scheme` says, else the dataset.json beside the plans, else the one beside the masks.

    Raises
    ------
    UsageError: another number of images than the plans have channels, plans that nnU-Net cannot use.
    NoInputError: as `network_input`. SetupError: sided labels, and a reader that does not reorient.
    """
    opened, mask = opened_case(images, labels)
    with _usable(chosen):
        manager, configuration, patch, reader = _managers(chosen)
    if len(opened) != (needed := len(configuration.normalization_schemes)):
        raise wrong_option("-i", f"{len(opened)} images", f"{needed}, the channels of {chosen.path.name}")
    if reader != REORIENTING_READER:
        logger.warning(
            "%s: %s does not reorient images as %s does; shown in RAS", chosen.path, reader, REORIENTING_READER
        )
    said = meaning_of(labels, mask, scheme, _dataset_beside(chosen.path))
    ras = [channel.to("RAS") for channel in opened]
    with _usable(chosen):
        data, seg, grid, order = _preprocessed(ras, None if mask is None else mask.to("RAS"), manager, configuration)
        crop = _loaded(configuration)
    # A patch of one slice has three axes until it is cut out.
    flat = 3 - len(patch)
    whole = (1,) * flat + patch
    loaded = (1,) * flat + crop
    start = _start(seg, whole)
    before = [at - (more - n) // 2 for at, more, n in zip(start, loaded, whole, strict=True)]
    box = [[at, at + more] for at, more in zip(before, loaded, strict=True)]
    cut, outside = crop_and_pad_nd(data, box, 0), crop_and_pad_nd(seg, box, -1)[0].astype(np.int16)
    context = Context(
        shape=patch,
        source_shape=loaded[flat:],
        spacing=tuple(configuration.spacing)[-len(patch) :],
        channels=len(opened),
        labels=said.ids,
        sided_pairs=said.pairs,
        left_right_axis=sided_axis(chosen.content, len(patch)) if said.pairs else None,
        tissues=said.tissues,
    )
    schemes = configuration.normalization_schemes
    tissues, facts = known_of(images, labels, said, context, schemes)
    plans = {"name": chosen.path.name, "sha256": sha256(chosen.path), "configuration": chosen.configuration}
    return NetworkInput(
        name=strip_suffix(images[0]).removesuffix("_0000"),
        grid=_part(grid, start, whole, order),
        images=cut.reshape(len(opened), *loaded[flat:]),
        labels=None if mask is None else outside.reshape(loaded[flat:]),
        context=context,
        facts={**facts, "spacing": None, "plans": plans},
        tissues=tissues,
        order=order,
        beyond=outside.reshape(loaded[flat:]) if mask is None else None,
        masked=tuple(map(bool, configuration.use_mask_for_norm)),
    )


@contextmanager
def _usable(chosen: ChosenPlans) -> Iterator[None]:
    """Say what nnU-Net fails at: it looks at a part of the plans only when it needs it, and then without a word."""
    try:
        yield
    except (LookupError, ValueError, RuntimeError, AssertionError, AttributeError, TypeError) as error:
        raise UsageError(
            "E-AUG-PLANS",
            file=chosen.path,
            found=f"a configuration {chosen.configuration} that nnU-Net cannot use ({type(error).__name__}: {error})",
            expected="plans as nnU-Net writes them",
            fix="plan again",
        ) from error


def _managers(chosen: ChosenPlans) -> tuple[PlansManager, ConfigurationManager, tuple[int, ...], str]:
    """Return what nnU-Net makes of the plans, the size of a patch and the name of the reader."""
    manager = PlansManager(dict(chosen.content))
    configuration = manager.get_configuration(chosen.configuration)
    _ = len(configuration.normalization_schemes), configuration.spacing, configuration.use_mask_for_norm
    patch = tuple(int(n) for n in configuration.patch_size)
    return manager, configuration, patch, chosen.content["image_reader_writer"]


def _dataset_beside(plans: Path) -> Mapping[str, Any] | None:
    path = plans.parent / "dataset.json"
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None


def _loaded(configuration: ConfigurationManager) -> tuple[int, ...]:
    """Return the size that nnU-Net's loader cuts out for a patch."""
    trainer = SimpleNamespace(configuration_manager=configuration, print_to_log_file=lambda *_: None)
    geometry = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(cast("Any", trainer))
    return tuple(max(int(a), int(b)) for a, b in zip(geometry[2], configuration.patch_size, strict=True))


def _preprocessed(
    channels: Sequence[Volume], mask: Volume | None, manager: PlansManager, configuration: ConfigurationManager
) -> tuple[Array, Array, Volume, tuple[int, int, int]]:
    """Return images (C, *spatial) and labels (1, *spatial), -1 outside, as nnU-Net prepares them; grid and order.

    The grid is in RAS order and holds nothing. Order: the places in (Z, Y, X) of the spatial axes.
    """
    grid = channels[0]
    data = np.stack([channel.array.transpose(2, 1, 0) for channel in channels]).astype(np.float32)
    data[~np.isfinite(data)] = 0
    seg = None if mask is None else mask.array.transpose(2, 1, 0)[None].astype(np.int16)
    ids = [] if seg is None else [int(n) for n in np.unique(seg) if n > 0]
    # Only for the places that nnU-Net's oversampling looks for; here nobody does.
    named = {"labels": {"background": 0, **{str(n): n for n in ids}}}
    properties: dict[str, Any] = {"spacing": [float(s) for s in grid.spacing[::-1]]}
    preprocessor = configuration.preprocessor_class(verbose=False)
    done, outside, properties = preprocessor.run_case_npy(data, seg, properties, manager, configuration, named)
    first, second, third = (int(axis) for axis in manager.transpose_forward)
    order = (first, second, third)
    box, shape = properties["bbox_used_for_cropping"], done.shape[1:]
    places = np.argsort(order)[::-1]
    # By x, y, z.
    low = np.asarray([box[k][0] for k in places])
    old = np.asarray([box[k][1] for k in places]) - low
    new = np.asarray([shape[k] for k in places])
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * (old / new)
    affine[:3, 3] = grid.world(low + (old / new - 1) / 2)
    return np.asarray(done), np.asarray(outside), _empty(new, affine), order


def _start(seg: Array, patch: Sequence[int]) -> list[int]:
    """Return where a patch begins that lies in the middle of the labels (1, *spatial), inside the image if it fits."""
    found = np.argwhere(seg[0] > 0)
    middle = (found.min(axis=0) + found.max(axis=0) + 1) / 2 if len(found) else np.asarray(seg.shape[1:]) / 2
    start = []
    for axis, (n, size) in enumerate(zip(patch, seg.shape[1:], strict=True)):
        free = size - n
        start.append(int(np.clip(round(middle[axis] - n / 2), 0, free)) if free >= 0 else free // 2)
    if len(found) and patch[0] == 1:
        # One slice: the one with most of them.
        start[0] = int(np.bincount(found[:, 0]).argmax())
    return start


def _part(grid: Volume, start: Sequence[int], size: Sequence[int], order: Sequence[int]) -> Volume:
    """Return the grid of a box whose axes are in another order."""
    places = np.argsort(order)[::-1]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world([start[k] for k in places])
    return _empty([size[k] for k in places], affine)


def _empty(shape: Sequence[int] | Array, affine: Array) -> Volume:
    return Volume(np.broadcast_to(np.zeros((), np.float32), tuple(int(n) for n in shape)), affine)

"""The dictionary transforms for MONAI; `augment.monai` gives them out, and is the module to import from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends
from torch import Tensor
from torch.utils.data import get_worker_info

from nnunet_spine_ext.augment.adapting import (
    Config,
    Pipelines,
    apply,
    check_images,
    check_labels,
    need_ids,
)
from nnunet_spine_ext.augment.batch import pick
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey, coin
from nnunet_spine_ext.augment.monai_grid import left_right_axis_of, same_grid, spacing_of
from nnunet_spine_ext.augment.pipeline import RECORD_VERSION, Applied, Plan, narrow
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

_PATCH = "patch_index"


@dataclass(frozen=True)
class _Arrived:
    """The images and labels of a dictionary as a batch; `contexts`: per sample. `channels`: of each image key."""

    keys: tuple[Hashable, ...]
    channels: tuple[int, ...]
    images: Tensor
    labels: Tensor | None
    contexts: tuple[Context, ...]


class SpineAugmentd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Augment one sample, (C, Z, Y, X) or (C, Y, X), in a `Compose`.

    The images of all `keys` are channels of one image: they share one grid, are moved together, and each gets the
    intensities of its own channels. Type (integers: float32), device, affine and metadata are kept, and so is the
    grid: a warp moves what is shown. Labels follow the geometry.

    With `case_key` what happens to a sample depends on `seed`, its case, the epoch (`set_epoch`) and its number
    (`draw_key`, else the number that MONAI gave a crop among several), whichever worker works. Without it, draws come
    from MONAI's random state (`set_random_state`, `set_determinism`) and from the worker.

    Parameters
    ----------
    keys, allow_missing_keys: of the images, as in any MONAI transform.
    label_key: of the label map; needs `labels`.
    config: an `AugmentConfig`, or what `AugmentConfig.load` reads: a mapping, a file, the name of a preset.
    prob: probability that anything happens to a sample.
    pixdim: mm per array axis; None: from the affine of the first key.
    labels: ids that occur in label maps.
    sided_pairs: left and right ids that exchange their sides in an image that is mirrored from left to right.
    left_right_axis: array axis that runs from left to right or back; None: from the affine, if `sided_pairs` need it.
    seed, case_key, draw_key: see above. epochs: length of the training, for schedules that speak of shares of it.
    record_key: where to put what fired, as JSON text: `replay` does it again.
    outside: label of voxels that lie beyond the image: of those a warp brings in, and of those that are -1 already.
    check: whether NaN, infinity and fractions of labels are looked for; None: on processors only.

    Raises
    ------
    UsageError: the configuration is wrong; in a call: no spacing, other grids, tensors that are no images.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  MONAI's own form
    batched = False
    _stream = "prob"

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str | None = None,
        config: Config = "shift",
        *,
        prob: float = 1.0,
        pixdim: Sequence[float] | None = None,
        labels: Iterable[int] | None = None,
        sided_pairs: Iterable[tuple[int, int]] = (),
        left_right_axis: int | None = None,
        seed: int = 0,
        case_key: str | None = None,
        draw_key: str | None = None,
        epochs: int | None = None,
        record_key: str | None = None,
        outside: int = 0,
        check: bool | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self._pipelines = Pipelines(config, labels=labels, sided_pairs=sided_pairs)
        if label_key is not None:
            need_ids(self._pipelines, type(self).__name__)
        self.label_key, self.case_key, self.draw_key, self.record_key = label_key, case_key, draw_key, record_key
        self.pixdim, self.left_right_axis = pixdim, left_right_axis
        self.seed, self.epochs = seed, epochs
        self._outside, self._check = outside, check
        # In shared memory: workers that live through all epochs have to see the number change.
        self._epoch = torch.full((1,), -1, dtype=torch.int64).share_memory_()
        self._seen: Counter[str] = Counter()
        self._samples: tuple[SampleKey, ...] = ()
        self._fires: tuple[bool, ...] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the number of the epoch again: a copy is for workers of its own."""
        self.__dict__.update(state)
        self._epoch.share_memory_()

    @property
    def epoch(self) -> int | None:
        """The epoch that `set_epoch` was told last."""
        epoch = int(self._epoch.numpy()[0])
        return None if epoch < 0 else epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, counted from 0; workers learn it too.

        A schedule with a ramp or a closing phase, and draws by case, depend on it.
        """
        self._epoch.fill_(int(epoch))
        self._seen.clear()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with new images, labels and, on request, records."""
        arrived = self._arrived(data)
        if arrived is None:
            return dict(data)
        count = len(arrived.contexts)
        self.randomize(data, count)
        groups: dict[Context, list[int]] = {}
        for index in (i for i in range(count) if self._fires[i]):
            groups.setdefault(arrived.contexts[index], []).append(index)
        epoch = self.epoch
        fraction = None if self.epochs is None or epoch is None else (epoch + 0.5) / self.epochs
        plans = [
            (indices, self._pipelines.of(context).plan([self._samples[i] for i in indices], fraction))
            for context, indices in groups.items()
        ]
        applied: list[tuple[Applied, ...]] = [()] * count
        for indices, plan in plans:
            for index, fired in zip(indices, plan.samples, strict=True):
                applied[index] = fired
        result = self._finished(data, arrived, plans)
        if self.record_key is not None:
            rows = zip(arrived.contexts, self._samples, applied, strict=True)
            records = [json.dumps(_record(*row)) for row in rows]
            result[self.record_key] = records if self.batched else records[0]
        return result

    def replay(
        self, data: Mapping[Hashable, Any], record: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    ) -> dict[Hashable, Any]:
        """Do again what `record_key` recorded: one record, for a batch a list of them.

        Raises
        ------
        UsageError: records of other images, or of another version.
        """
        arrived = self._arrived(data)
        if arrived is None:
            return dict(data)
        records = [record] if isinstance(record, str | Mapping) else list(record)
        if len(records) != len(arrived.contexts):
            expected = f"{len(arrived.contexts)}, one per sample"
            raise UsageError(
                "E-AUG-RECORD",
                file="record",
                found=f"{len(records)} records",
                expected=expected,
                fix="give all records",
            )
        plain = [json.loads(item) if isinstance(item, str) else item for item in records]
        # Grouped as they were when they were recorded: matrix products of another size round otherwise.
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(plain):
            groups.setdefault(json.dumps([item.get("version"), item.get("context")]), []).append(index)
        plans = []
        for indices in groups.values():
            samples = [sample for index in indices for sample in plain[index]["samples"]]
            plans.append((indices, Plan.from_record({**plain[indices[0]], "samples": samples})))
        return self._finished(data, arrived, plans)

    def randomize(self, data: Mapping[Hashable, Any], count: int = 1) -> None:
        """Decide what the draws of each sample depend on, and to which of them anything happens."""
        name = type(self).__name__
        epoch = self.epoch
        if self.case_key is None:
            worker = get_worker_info()
            # Worker processes that nobody seeded (by MONAI's DataLoader) are copies of each other.
            seed, cases = int(self.R.randint(0, 2**31)), [f"worker {0 if worker is None else worker.seed}"] * count
            draws = list(range(count))
        else:
            if epoch is None:
                fix = f"call {name}.set_epoch(epoch) at the start of each epoch, else all epochs are alike"
                raise UsageError(
                    "E-AUG-EPOCH",
                    file=name,
                    found="case_key, but no epoch",
                    expected="the number of the epoch",
                    fix=fix,
                )
            seed, cases = self.seed, [str(case) for case in self._listed(data, self.case_key, count)]
            draws = self._draws(data, cases)
        now = self._pipelines.epoch(epoch)
        self._samples = tuple(SampleKey(seed, c, now, d) for c, d in zip(cases, draws, strict=True))
        self._fires = tuple(coin(key, self._stream) < self.prob for key in self._samples)
        self._do_transform = any(self._fires)

    def _arrived(self, data: Mapping[Hashable, Any]) -> _Arrived | None:
        """Return what a dictionary holds for this transform; None: none of the keys is there, and need not be."""
        name = type(self).__name__
        keys = tuple(key for key in self.keys if key in data or not self.allow_missing_keys)
        if not keys:
            return None
        originals = [_tensor(self._item(data, key)) for key in keys]
        for key, image in zip(keys, originals, strict=True):
            check_images(image, batched=self.batched, where=f"{name}: {key}", values=self._check)
        label = None
        if self.label_key is not None and (self.label_key in data or not self.allow_missing_keys):
            label = _tensor(self._item(data, self.label_key))
            where = f"{name}: {self.label_key}"
            check_labels(label, originals[0], batched=self.batched, where=where, values=self._check)
        dim = originals[0].dim() - (2 if self.batched else 1)
        others = [(k, o) for k, o in zip(keys[1:], originals[1:], strict=True)]
        if label is not None:
            others.append((self.label_key, label))
        for key, other in others:
            same_grid(originals[0], other, dim, where=f"{name}: {key}")
        plain = [_batch(image, self.batched) for image in originals]
        # Together in one type that holds all of them; half precision would round integers.
        wide = [image if image.dtype.is_floating_point else image.float() for image in plain]
        images = wide[0] if len(wide) == 1 else torch.cat(wide, dim=1)
        contexts = self._contexts(originals[0], images, dim)
        labels = None if label is None else _batch(label, self.batched)
        return _Arrived(keys, tuple(int(image.shape[1]) for image in plain), images, labels, contexts)

    def _contexts(self, first: Tensor, images: Tensor, dim: int) -> tuple[Context, ...]:
        name, count = type(self).__name__, int(images.shape[0])
        spacings = [self.pixdim] * count if self.pixdim is not None else spacing_of(first, dim, count, where=name)
        axes: Sequence[int | None] = [self.left_right_axis] * count
        if self._pipelines.sided_pairs and self.left_right_axis is None:
            axes = left_right_axis_of(first, dim, count, where=name)
        shape, channels = tuple(images.shape[2:]), int(images.shape[1])
        pairs = zip(spacings, axes, strict=True)
        return tuple(self._pipelines.context(shape, channels, spacing, axis) for spacing, axis in pairs)

    def _finished(
        self, data: Mapping[Hashable, Any], arrived: _Arrived, plans: Sequence[tuple[list[int], Plan]]
    ) -> dict[Hashable, Any]:
        """Apply plans to their samples and return the dictionary with what came of it."""
        images, labels = self._applied(arrived, plans)
        result = dict(data)
        for key, part in zip(arrived.keys, images.split(arrived.channels, dim=1), strict=True):
            dtype = _tensor(data[key]).dtype
            own = narrow(part, dtype) if dtype.is_floating_point else part
            result[key] = _like(own if self.batched else own[0], data[key])
        if labels is not None and self.label_key is not None:
            result[self.label_key] = _like(labels if self.batched else labels[0], data[self.label_key])
        return result

    def _applied(self, arrived: _Arrived, plans: Sequence[tuple[list[int], Plan]]) -> tuple[Tensor, Tensor | None]:
        count, images, labels = len(arrived.contexts), arrived.images, arrived.labels
        still = sorted(set(range(count)) - {i for indices, _ in plans for i in indices})
        if still:
            # Nothing fires there, but labels get their type and what is outside.
            plans = [*plans, (still, Plan.from_record(_nothing(arrived.contexts[still[0]], len(still))))]
        # What a pipeline does to a batch is all in the plan.
        pipeline = self._pipelines.of(arrived.contexts[0])
        rows, maps = [images[:0]] * count, [images[:0]] * count
        for indices, plan in plans:
            part = None if labels is None else pick(labels, indices)
            done, moved = apply(pipeline, pick(images, indices), part, plan, self._outside)
            if len(plans) == 1:
                return done, moved
            for row, index in enumerate(indices):
                rows[index] = done[row : row + 1]
                maps[index] = maps[index] if moved is None else moved[row : row + 1]
        return torch.cat(rows), None if labels is None else torch.cat(maps)

    def _item(self, data: Mapping[Hashable, Any], key: Hashable) -> Any:
        if key not in data:
            raise UsageError(
                "E-AUG-KEY",
                file=type(self).__name__,
                found=f"no key {key!r}",
                expected="a key of the data",
                fix=nearest(str(key), map(str, data)),
            )
        return data[key]

    def _listed(self, data: Mapping[Hashable, Any], key: str, count: int) -> list[Any]:
        """Return a value per sample: that of a sample, or the list that MONAI collated for a batch."""
        value = self._item(data, key)
        listed = list(value) if self.batched and not isinstance(value, str) else [value]
        if len(listed) != count:
            raise UsageError(
                "E-AUG-INPUT",
                file=f"{type(self).__name__}: {key}",
                found=f"{len(listed)} values",
                expected=f"{count}",
                fix="give one per sample",
            )
        return listed

    def _draws(self, data: Mapping[Hashable, Any], cases: Sequence[str]) -> list[int]:
        if self.draw_key is not None:
            return [int(draw) for draw in self._listed(data, self.draw_key, len(cases))]
        if not self.batched:
            return [int(getattr(data[self.first_key(data)], "meta", {}).get(_PATCH, 0))]
        # The crops of a case come in any batch, but all of them here: they can be counted.
        draws = []
        for case in cases:
            draws.append(self._seen[case])
            self._seen[case] += 1
        return draws


class SpineAugmentBatchd(SpineAugmentd):
    """Augment a collated batch, (B, C, Z, Y, X) or (B, C, Y, X), in the training loop, on the device it is on.

    Everything else is as in `SpineAugmentd`: spacing is that of each sample, cases and records are lists.
    """

    batched = True


def _tensor(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value


def _batch(value: Tensor, batched: bool) -> Tensor:
    plain = value.as_subclass(Tensor)
    return plain if batched else plain[None]


def _like(values: Tensor, original: Any) -> Tensor:
    """Return values with the metadata, affine and history of what they were made from."""
    return MetaTensor(values).copy_meta_from(original) if isinstance(original, MetaTensor) else values


def _record(context: Context, key: SampleKey, applied: tuple[Applied, ...]) -> dict[str, Any]:
    transforms = [{"name": a.name, "params": a.params} for a in applied]
    sample = {"key": key.to_dict(), "transforms": transforms}
    return {"version": RECORD_VERSION, "context": context.to_dict(), "samples": [sample]}


def _nothing(context: Context, count: int) -> dict[str, Any]:
    record = _record(context, SampleKey(0, "", 0, 0), ())
    return {**record, "samples": record["samples"] * count}

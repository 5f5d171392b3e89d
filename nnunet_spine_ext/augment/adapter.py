"""Augmentation for any training loop in torch: a callable on batches, with counters that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from nnunet_spine_ext.augment.adapting import (
    Config,
    Pipelines,
    apply,
    check_images,
    check_labels,
    check_sides,
    need_ids,
)
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Plan
from nnunet_spine_ext.core.errors import UsageError

_WHERE = "Augmenter"


class Augmenter:
    """Augments batches of images and label maps on the device they are on.

        augmenter = Augmenter("shift", spacing=(3.3, 0.8, 0.8), labels=range(15), seed=0)
        images, labels = augmenter(images, labels, cases=["sub-01", "sub-02"], epoch=epoch)

    What happens to a sample depends on the seed, its case, the epoch and its number in the epoch alone.

    Parameters
    ----------
    config: an `AugmentConfig`, or what `AugmentConfig.load` reads: a mapping, a file, the name of a preset.
    spacing: mm per array axis, (Z, Y, X) or (Y, X); None: given with every call.
    labels: ids that occur in label maps; needed as soon as label maps are given.
    sided_pairs: left and right ids that exchange their sides in a mirrored image; needs `left_right_axis`.
    left_right_axis: array axis, without batch and channels, that runs from left to right or back.
    epochs: length of the training; without it, what a schedule says in shares of it does not count.
    outside: label of voxels that lie beyond the image: of those a warp brings in, and of those that are -1 already.
    check: whether NaN, infinity and fractions of labels are looked for; None: on processors only.

    Raises
    ------
    UsageError: the configuration is wrong.
    """

    def __init__(
        self,
        config: Config = "shift",
        *,
        spacing: Sequence[float] | None = None,
        labels: Iterable[int] | None = None,
        sided_pairs: Iterable[tuple[int, int]] = (),
        left_right_axis: int | None = None,
        seed: int = 0,
        epochs: int | None = None,
        outside: int = 0,
        check: bool | None = None,
    ) -> None:
        self._pipelines = Pipelines(config, labels=labels, sided_pairs=sided_pairs)
        check_sides(self._pipelines.sided_pairs, left_right_axis, _WHERE)
        self._spacing = spacing
        self._axis = left_right_axis
        self._epochs, self._outside, self._check = epochs, outside, check
        self.seed = seed
        self._epoch: int | None = None
        self._draw = 0
        self._plan: Plan | None = None

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        cases: Sequence[str] | None = None,
        epoch: int | None = None,
        draws: Sequence[int] | None = None,
        spacing: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return an augmented batch; nothing that is given is changed.

        Parameters
        ----------
        images: (B, C, Z, Y, X) or (B, C, Y, X) of any real type. They come back in their type, integers as float32.
        labels: (B, ≥1, …) on the same grid; intensities depend on the first channel. Their type is kept, but
            for unsigned ones with a negative `outside`: these become int16 or int32.
        cases: identifier of each image, so that draws follow the case and not its place in the batch.
        epoch: counted from 0; None: that of the last call. Without any, every sample has the full strength.
        draws: number of each sample in the epoch; None: they are counted.
        spacing: mm per array axis of this batch, in place of that of all batches.

        Raises
        ------
        UsageError: tensors that are no images or no label maps, another number of cases, no spacing, no label ids.
        """
        images, labels = self._checked(images, labels)
        count = int(images.shape[0])
        spacing = self._spacing if spacing is None else spacing
        if spacing is None:
            fix = "give spacing=(…), to Augmenter or with the batch"
            raise UsageError("E-AUG-SPACING", file=_WHERE, found="no spacing", expected="mm per array axis", fix=fix)
        for name, given in (("cases", cases), ("draws", draws)):
            if given is not None and (isinstance(given, str) or len(given) != count):
                raise UsageError(
                    "E-AUG-INPUT",
                    file=_WHERE,
                    found=f"{name}={given!r}",
                    expected=f"a list of {count}, one per image",
                    fix=f"correct {name}",
                )
        if epoch is not None and epoch != self._epoch:
            self._epoch, self._draw = int(epoch), 0
        context = self._pipelines.context(images.shape[2:], int(images.shape[1]), spacing, self._axis)
        pipeline = self._pipelines.of(context)
        numbers = range(self._draw, self._draw + count) if draws is None else draws
        now = self._pipelines.epoch(self._epoch)
        named = [""] * count if cases is None else cases
        keys = [SampleKey(self.seed, str(c), now, int(n)) for c, n in zip(named, numbers, strict=True)]
        fraction = None if self._epochs is None or self._epoch is None else (self._epoch + 0.5) / self._epochs
        self._plan = pipeline.plan(keys, fraction)
        self._draw += count if draws is None else 0
        return apply(pipeline, images, labels, self._plan, self._outside)

    @property
    def record(self) -> dict[str, Any]:
        """What fired in the last batch, with all parameters, as plain JSON; `replay` does it again.

        Raises
        ------
        UsageError: there was no batch yet.
        """
        if self._plan is None:
            raise UsageError(
                "E-AUG-RECORD", file=_WHERE, found="no batch yet", expected="a call before", fix="augment a batch first"
            )
        return self._plan.record

    def replay(self, images: Tensor, labels: Tensor | None, record: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Do to a batch what a record says; counters stay as they are.

        Raises
        ------
        UsageError: a record of other batches, or of another version.
        """
        images, labels = self._checked(images, labels)
        plan = Plan.from_record(record)
        return apply(self._pipelines.of(plan.context), images, labels, plan, self._outside)

    def state_dict(self) -> dict[str, Any]:
        """Return seed and counters for a checkpoint; a training that is resumed with them goes on as it would have."""
        return {
            "seed": self.seed,
            "epoch": self._epoch,
            "draw": self._draw,
            "config": self._pipelines.config.hash,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set seed and counters.

        Raises
        ------
        UsageError: not from `state_dict`, or from an augmenter with another configuration.
        """
        missing = sorted({"seed", "epoch", "draw", "config"} - state.keys())
        own = self._pipelines.config.hash
        if missing or state["config"] != own:
            found = f"no {', '.join(missing)}" if missing else f"configuration {state['config']}"
            fix = "load it into an Augmenter made with the same configuration"
            raise UsageError(
                "E-AUG-STATE", file="state", found=found, expected=f"a state of configuration {own}", fix=fix
            )
        self.seed, self._epoch, self._draw = state["seed"], state["epoch"], state["draw"]

    def _checked(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return both as plain tensors: a subclass that carries metadata slows every operation down."""
        check_images(images, batched=True, where="images", values=self._check)
        if labels is None:
            return images.as_subclass(Tensor), None
        check_labels(labels, images, batched=True, where="labels", values=self._check)
        need_ids(self._pipelines, _WHERE)
        return images.as_subclass(Tensor), labels.as_subclass(Tensor)

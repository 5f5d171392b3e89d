"""Test-time training of one case: trained on it, checked against what was before, and the predictor left alone."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import nn

from nnunet_spine_ext.core.config import nearest, to_dict
from nnunet_spine_ext.core.errors import Problem, SetupError, UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.inference.adaptation.affine import margins
from nnunet_spine_ext.inference.adaptation.guards import (
    Assessment,
    agreement,
    compare,
    count_vertebrae,
    mirror_views,
    tripped,
)
from nnunet_spine_ext.inference.adaptation.patches import PatchSource
from nnunet_spine_ext.inference.adaptation.settings import AdaptSettings, Method
from nnunet_spine_ext.inference.adaptation.training import (
    Lesson,
    learn_consistency,
    learn_tent,
    norm_parameters,
    student_of,
)
from nnunet_spine_ext.inference.model import label_scheme
from nnunet_spine_ext.inference.preflight import check_adapt
from nnunet_spine_ext.inference.windows import add_up

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.predictor import SpinePredictor

logger = logging.getLogger(__name__)
Parameters = list[dict[str, Any]]


@dataclass(frozen=True)
class AdaptOutcome:
    """What came of the training on one case.

    Parameters
    ----------
    parameters: one state dict per fold for the predictor's `list_of_parameters`; None: the predictor's own are to be
        used, because a guard tripped or there was nothing to train on.
    kept: whether `parameters` are there.
    warnings: why not. record: what was done and found, as plain JSON.
    trained: what training gave, kept or not; for experiments only.
    """

    parameters: Parameters | None
    kept: bool
    warnings: list[Problem]
    record: dict[str, Any]
    trained: Parameters = field(default_factory=list)


@torch.inference_mode(mode=False)
@torch.enable_grad()
def adapt(
    predictor: SpinePredictor,
    data: torch.Tensor,
    settings: AdaptSettings | None = None,
    *,
    method: Method,
    properties: Mapping[str, Any] | None = None,
) -> AdaptOutcome:
    """Train each fold on a prepared case, and say whether the answer that this gives may be kept.

    The predictor is not touched: who wants the adapted answer predicts inside of `using`. The same image gives the same
    parameters, on a CPU to the bit.

    Parameters
    ----------
    predictor: initialized. data: (C, *spatial) float32, as `SpinePredictor.preprocess` gives it.
    method: ``consistency`` or ``tent``.
    properties: nnU-Net's of the case, which networks of two dimensions need: their plans do not know how far apart its
        slices are, and vertebrae are counted in mm. None: as far as those of training, in the median.

    Raises
    ------
    SetupError: a soft model; `tent` for a network without normalizations that have parameters.
    UsageError: a method that is none.
    """
    settings = settings or AdaptSettings()
    _check(predictor, method)
    start = time.perf_counter()
    case = _Case(predictor, data, settings, properties)
    outcome = _adapt(case, method)
    outcome.record["forward_passes"] = case.student.passes
    if predictor._counter is not None:
        predictor._counter.passes += case.student.passes
    outcome.record["seconds"] = round(time.perf_counter() - start, 2)
    return outcome


def _adapt(case: _Case, method: Method) -> AdaptOutcome:
    own, settings = case.predictor.list_of_parameters, case.settings
    record: dict[str, Any] = {"method": method, "kept": False, "folds": [], "guards": []}
    record["settings"] = to_dict(getattr(settings, method)) | {"seed": settings.seed}
    before = case.assess(own)
    if before.volume == 0:
        return AdaptOutcome(None, False, [_nothing_found()], record)
    case.look_at(before.labels)
    before = case.with_agreement(before, own)
    try:
        lessons = [case.learn(number, method) for number in range(len(own))]
    except torch.OutOfMemoryError as error:
        return AdaptOutcome(None, False, [_no_memory(error)], record)
    record["folds"] = [{"loss": list(lesson.loss), "parameters": lesson.trained} for lesson in lessons]
    trained = [dict(lesson.parameters) for lesson in lessons]
    if not any(lesson.learned for lesson in lessons):
        return AdaptOutcome(None, False, [_nothing_learned()], record, trained)
    if not all(lesson.finite for lesson in lessons):
        return AdaptOutcome(None, False, [_diverged()], record, trained)
    verdicts = compare(before, case.with_agreement(case.assess(trained), trained), settings.guards)
    record["guards"] = [verdict.to_dict() for verdict in verdicts]
    problem = tripped(verdicts)
    record["kept"] = problem is None
    warnings = [] if problem is None else [problem]
    return AdaptOutcome(trained if problem is None else None, problem is None, warnings, record, trained)


@contextmanager
def using(predictor: SpinePredictor, parameters: Parameters | None) -> Iterator[None]:
    """Let a predictor have other parameters inside the block; afterwards it has its own again, whatever happened."""
    own = predictor.list_of_parameters
    try:
        predictor.list_of_parameters = own if parameters is None else parameters
        yield
    finally:
        predictor.list_of_parameters = own
        if parameters is not None:
            # The network holds what was predicted with last. In inference mode: it may have been moved to a GPU there.
            with torch.inference_mode():
                _uncompiled(predictor.network).load_state_dict(own[0])


class _Case:
    """One prepared image, with the network's copy that is trained on it."""

    def __init__(
        self,
        predictor: SpinePredictor,
        data: torch.Tensor,
        settings: AdaptSettings,
        properties: Mapping[str, Any] | None,
    ) -> None:
        self.predictor = predictor
        self.properties = properties
        self.data = data.detach().to("cpu", torch.float32, copy=True)
        self.settings = settings
        self.patch = tuple(int(n) for n in predictor.configuration_manager.patch_size)
        self.regions = bool(predictor.label_manager.has_regions)
        self.student = student_of(predictor.network, predictor.device, regions=self.regions)
        digest = hashlib.sha256(self.data.contiguous().numpy().tobytes()).digest()
        self.seed = [settings.seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()]
        self._source: PatchSource | None = None
        self._looked_at: list[Any] = []

    def look_at(self, labels: Array) -> None:
        """Take patches from where a first answer has structures from now on."""
        reach = margins(self.patch, self.settings.consistency.strength)
        self._source = PatchSource(self.data, labels, self.patch, reach, self.student.device)
        rng = np.random.default_rng([*self.seed, 0])
        self._looked_at = [self._source.draw(rng) for _ in range(self.settings.guards.patches)]

    def learn(self, fold: int, method: Method) -> Lesson:
        """Train the parameters of one fold."""
        if self._source is None:
            msg = "no patch to learn from"
            raise RuntimeError(msg)
        rng = np.random.default_rng([*self.seed, 1 + fold])
        self.student.network.load_state_dict(self.predictor.list_of_parameters[fold])
        self.student.network.requires_grad_(True)
        if method == "consistency":
            return learn_consistency(self.student, self._source, self.settings.consistency, rng)
        return learn_tent(self.student, self._source, self.settings.tent, rng)

    @torch.no_grad()
    def assess(self, parameters: Parameters) -> Assessment:
        """Return label map, volume and vertebrae of the mean answer of all folds, without mirroring."""
        predictor = self.predictor
        padded, inner = pad_nd_image(self.data, self.patch, "constant", {"value": 0}, True, None)
        windows = predictor._internal_get_sliding_window_slicers(padded.shape[1:])
        heads = predictor.label_manager.num_segmentation_heads
        total: torch.Tensor | None = None
        for own in parameters:
            self.student.network.load_state_dict(own)
            answer = add_up(lambda p: self.student(p.to(self.student.device)), padded, windows, heads, self.patch)
            total = answer if total is None else total.add_(answer)
        if total is None:
            msg = "no fold is loaded"
            raise RuntimeError(msg)
        logits = (total / len(parameters))[(slice(None), *inner[1:])]
        labels = np.asarray(predictor.label_manager.convert_logits_to_segmentation(logits))
        return Assessment(labels, int(np.count_nonzero(labels)), self._vertebrae(labels), None)

    @torch.no_grad()
    def with_agreement(self, found: Assessment, parameters: Parameters) -> Assessment:
        """Add the agreement between views, the mean of all folds."""
        plans, axes = self.predictor.plans_manager.plans, self.predictor.allowed_mirroring_axes
        views = mirror_views(plans, axes, len(self.patch))
        values = []
        for own in parameters:
            self.student.network.load_state_dict(own)
            values.append(agreement(self.student.probabilities, self._looked_at, views, regions=self.regions))
        known = [value for value in values if value is not None]
        return Assessment(found.labels, found.volume, found.vertebrae, float(np.mean(known)) if known else None)

    def _vertebrae(self, labels: Array) -> int | None:
        managers = self.predictor.plans_manager, self.predictor.configuration_manager
        spacing: Sequence[float] = managers[1].spacing
        forward: Sequence[int] = managers[0].transpose_forward
        # Plans of 2-D networks have the spacing of their plane; the distance of slices is that of the data.
        sizes = [*self._slice_distance(len(labels.shape) - len(spacing)), *spacing]
        return count_vertebrae(labels, label_scheme(managers[0].plans), sizes, forward)

    def _slice_distance(self, missing: int) -> list[float]:
        plans = self.predictor.plans_manager
        if self.properties is None:
            return list(plans.original_median_spacing_after_transp[:missing])
        return [float(self.properties["spacing"][axis]) for axis in plans.transpose_forward[:missing]]


def _check(predictor: SpinePredictor, method: str) -> None:
    if method not in get_args(Method):
        known = get_args(Method)
        raise UsageError(
            "E-USE-CHOICE",
            file="--adapt",
            found=repr(method),
            expected=f"one of {', '.join(known)}",
            fix=nearest(method, known),
        )
    check_adapt(predictor.plans_manager.plans, method, None)
    if method == "tent" and not norm_parameters(_uncompiled(predictor.network)):
        raise SetupError(
            "E-ADAPT-NORM",
            file=predictor.trainer_name,
            found="--adapt tent with a network whose normalizations have no parameters",
            expected="normalizations with scales and shifts, as nnU-Net's networks have them",
            fix="use --adapt consistency",
        )


def _uncompiled(network: nn.Module) -> nn.Module:
    original: nn.Module = getattr(network, "_orig_mod", network)
    return original


def _nothing_found() -> Problem:
    return Problem(
        "warning",
        "W-ADAPT-EMPTY",
        "",
        "test-time training without a structure in the first prediction",
        "some structure to learn from",
        "the result is that of the model as it was trained; look at the image",
    )


def _nothing_learned() -> Problem:
    return Problem(
        "warning",
        "W-ADAPT-NOTHING",
        "",
        "test-time training without a patch in which the model sees a structure",
        "a structure in both copies of some patch",
        "the result is that of the model as it was trained; look at the image",
    )


def _no_memory(error: Exception) -> Problem:
    return Problem(
        "warning",
        "W-ADAPT-MEMORY",
        "",
        f"too little memory on the device for test-time training ({str(error).splitlines()[0]})",
        "room for one training step of the network",
        "the result is that of the model as it was trained; use a larger device, or --adapt tent",
    )


def _diverged() -> Problem:
    return Problem(
        "warning",
        "W-ADAPT-DIVERGED",
        "",
        "test-time training that ended in numbers that are not finite",
        "a loss that falls",
        "the result is that of the model as it was trained; lower predict.adapt's lr",
    )

"""What decides the output of a run besides its images, and the predictor that follows it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from nnunet_spine_ext import __version__
from nnunet_spine_ext.core.device import BF16_VERSION
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference.activation import check_aggregate, soft_activation
from nnunet_spine_ext.inference.folder import ModelFolder, TrainedModel
from nnunet_spine_ext.inference.harmonize import harmonizer_digest, harmonizer_facts
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.inference.phase_options import PhaseOptions
from nnunet_spine_ext.inference.settings import PredictSettings
from nnunet_spine_ext.inference.support import support_mm
from nnunet_spine_ext.inference.view_settings import Kind, ViewSettings

if TYPE_CHECKING:
    from nnunet_spine_ext.core.device import Precision
    from nnunet_spine_ext.inference.predictor import SpinePredictor
    from nnunet_spine_ext.inference.settings import Adapt, Crop, Match, Tta


@dataclass(frozen=True)
class RunOptions:
    """What decides the output of a case, besides its image and the model; see `inference.predict.predict`."""

    step_size: float
    tta: Tta
    accumulate: str
    strict: bool
    prefer: Literal["sform", "qform"] | None
    crop: Crop
    precision: Precision
    phases: PhaseOptions = field(default_factory=PhaseOptions)
    match: Match = "none"
    adapt: Adapt = "none"
    uncertainty: bool = False
    adapt_steps: int | None = None
    views: ViewSettings | None = None
    harmonize_model: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, those of the phases among them, as plain JSON."""
        own = asdict(self)
        return own | own.pop("phases")

    def models(self) -> dict[str, dict[str, str]]:
        """Return folder and digest of the networks besides the model itself, for the record of a run."""
        folder = self.harmonize_model
        own = {} if folder is None else {"harmonizer": harmonizer_facts(folder)}
        return self.phases.models() | own

    def fingerprint(self, model: ModelFolder) -> str:
        """Return what stands for these options, a model and this version in the journal.

        What becomes of soft values stands in the plans, and so in the model's digest, unless it is a default.
        """
        activation = soft_activation(model.plans)
        soft = None if activation is None else [asdict(activation), support_mm(model.plans)]
        own = self.to_dict() | self.phases.identity()
        if self.harmonize_model is not None:
            own["harmonize_model"] = harmonizer_digest(self.harmonize_model)
        if self.precision == "bf16":
            own["bf16"] = BF16_VERSION
        content = json.dumps([model.digest, own, soft, __version__], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def views_of(
    plans: Mapping[str, Any], tta: str, kinds: Sequence[Kind] | None, accumulate: str, all_views: bool
) -> ViewSettings | None:
    """Return the views of ``--tta full``: those of the plans, of some kinds only, or without an early stop; else None.

    Raises UsageError for half-precision sums and for an average that the outputs do not have.
    """
    if tta != "full":
        return None
    settings = (predict_settings(plans) or PredictSettings()).views
    settings = replace(settings, kinds=tuple(kinds or settings.kinds), stop=settings.stop and not all_views)
    check_aggregate(soft_activation(plans), settings.aggregate)
    if accumulate == "half":
        raise UsageError(
            "E-USE-ACCUMULATE",
            file="--accumulate",
            found="half, with --tta full",
            expected="single: views are added up in single precision",
            fix="leave --accumulate out",
        )
    return settings


def make_predictor(
    model: TrainedModel, options: RunOptions, device: str, *, window_batch: int, trust: bool
) -> SpinePredictor:
    """Return the predictor of a run, with its network; raises SetupError when model, device and options do not fit."""
    from nnunet_spine_ext.core.device import choose_device
    from nnunet_spine_ext.inference.predictor import SpinePredictor

    with contextlib.redirect_stdout(io.StringIO()):
        predictor = SpinePredictor(
            device=choose_device(device),
            step_size=options.step_size,
            tta=options.tta,
            views=options.views,
            uncertainty=options.uncertainty,
            accumulate="half" if options.accumulate == "half" else "single",
            trust=trust,
            crop=options.crop,
            precision=options.precision,
            window_batch=window_batch,
        )
        predictor.initialize_from_model(model)
    return predictor

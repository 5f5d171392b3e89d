"""What decides the output of a run besides its images, and the predictor that follows it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nnunet_spine_ext import __version__
from nnunet_spine_ext.inference.activation import soft_activation
from nnunet_spine_ext.inference.folder import ModelFolder, TrainedModel
from nnunet_spine_ext.inference.phase_options import PhaseOptions
from nnunet_spine_ext.inference.support import support_mm

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.predictor import Precision, SpinePredictor
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

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, those of the phases among them, as plain JSON."""
        own = asdict(self)
        return own | own.pop("phases")

    def fingerprint(self, model: ModelFolder) -> str:
        """Return what stands for these options, a model and this version in the journal.

        What becomes of soft values stands in the plans, and so in the model's digest, unless it is a default.
        """
        activation = soft_activation(model.plans)
        soft = None if activation is None else [asdict(activation), support_mm(model.plans)]
        own = self.to_dict() | self.phases.identity()
        content = json.dumps([model.digest, own, soft, __version__], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


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
            accumulate="half" if options.accumulate == "half" else "single",
            trust=trust,
            crop=options.crop,
            precision=options.precision,
            window_batch=window_batch,
        )
        predictor.initialize_from_model(model)
    return predictor

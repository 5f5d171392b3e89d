"""What the deepest stage of a network makes of a case, and how far that is from what it makes of the source."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.device import choose_device
from nnunet_spine_ext.core.threads import limit_threads
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.inference.folder import load_model
from nnunet_spine_ext.study.index import StudyCase

if TYPE_CHECKING:
    from nnunet_spine_ext.inference.predictor import SpinePredictor

# Windows of a case that are looked at, spread evenly.
_WINDOWS = 16


class Features:
    """Bottleneck features of a model's first fold: mean and standard deviation of every channel of the deepest stage.

    Parameters
    ----------
    folder: of the model.
    """

    def __init__(self, folder: Path, device: str, folds: Sequence[str] | None, checkpoint: str) -> None:
        from nnunet_spine_ext.inference.predictor import SpinePredictor

        limit_threads()
        model = load_model(folder, tuple(folds) if folds else None, checkpoint)
        self.plans: dict[str, Any] = model.plans
        self.folds = model.folds
        with contextlib.redirect_stdout(io.StringIO()):
            self.predictor: SpinePredictor = SpinePredictor(device=choose_device(device), tta="none", progress=False)
            self.predictor.initialize_from_model(model)

    def of(self, case: StudyCase, study: Path) -> Array:
        """Return the features of a case, shape (2 C,); NaN for a network without an encoder."""
        import torch
        from acvl_utils.cropping_and_padding.padding import pad_nd_image

        predictor = self.predictor
        encoder = getattr(predictor.network, "encoder", None)
        if encoder is None:
            return np.full(1, math.nan)
        with contextlib.redirect_stdout(io.StringIO()):
            data, _ = predictor.prepare([study / image for image in case.images])
        patch = predictor.configuration_manager.patch_size
        padded = pad_nd_image(data, patch, "constant", {"value": 0}, False, None)
        windows = predictor._internal_get_sliding_window_slicers(padded.shape[1:])
        chosen = [windows[k] for k in sorted({round(k) for k in np.linspace(0, len(windows) - 1, _WINDOWS)})]
        predictor.network.load_state_dict(predictor.list_of_parameters[0])
        predictor.network.to(predictor.device).eval()
        found = []
        with torch.inference_mode():
            for window in chosen:
                deepest = encoder(padded[window][None].to(predictor.device))[-1][0].flatten(1).float().cpu()
                found.append(torch.cat([deepest.mean(1), deepest.std(1, correction=0)]).numpy())
        return np.asarray(np.mean(found, axis=0), dtype=np.float64)


def distances(features: Mapping[str, Array], source: Sequence[str]) -> dict[str, float]:
    """Return how far each case is from the mean of the source, in units of how far source cases are from it.

    About 1 for the source itself; NaN with fewer than two cases of the source, or without features.
    """
    known = [features[case] for case in source]
    if len(known) < 2:
        return dict.fromkeys(features, math.nan)
    centre = np.mean(known, axis=0)
    spread = math.sqrt(float(np.mean([((row - centre) ** 2).sum() for row in known])))
    if not spread > 0:
        return dict.fromkeys(features, math.nan)
    return {case: float(np.linalg.norm(row - centre)) / spread for case, row in features.items()}

"""The part of our predictor that knows windows and folds: a mean over folds, and crop mode."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.inference.activation import Activation
from nnunet_spine_ext.inference.settings import Crop
from nnunet_spine_ext.inference.windows import HOT, Answers, Window, complete, near, start_of
from nnunet_spine_ext.networks.mirror import mirrors_itself, one_sided

logger = logging.getLogger(__name__)
# Crop mode costs its coarse pass: where that is more than this share of the whole, `auto` does without.
_COARSE_SHARE = 1 / 4


class FoldPredictor(nnUNetPredictor):
    """Outputs of all folds for a padded image, of all its windows or of those around structures.

    Subclasses set `crop` and `activation`, collect `warnings`, and do only the windows that `_chosen` says when it is
    not None, without those that `_answers` has.
    """

    tile_step_size: float
    use_mirroring: bool
    crop: Crop
    activation: Activation | None
    warnings: list[Problem]
    _chosen: list[bool] | None
    _answers: Answers | None
    # Answers by fold while crop mode does one image without mirroring: then coarse windows are careful ones, too.
    _looked: dict[int, Answers] | None = None

    def _padded(self, data: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """Return an image (C, *spatial) that is as large as a patch at least, and where it was before (*spatial)."""
        padded, inner = pad_nd_image(data, self.configuration_manager.patch_size, "constant", {"value": 0}, True, None)
        return padded, tuple(inner[1:])

    def _mean_of_folds(self, data: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        for number, parameters in enumerate(self.list_of_parameters):
            self.network.load_state_dict(parameters)
            self._answers = None if self._looked is None else self._looked.setdefault(number, Answers(learn=True))
            logits = self.predict_sliding_window_return_logits(data).cpu()
            total = logits if total is None else total.add_(logits)
        self._answers = None
        if total is None:
            msg = "no fold is loaded"
            raise RuntimeError(msg)
        return total.div_(len(self.list_of_parameters))

    def _spares_work(self, data: torch.Tensor, windows: Sequence[Window], views: int | None = None) -> bool:
        if self.crop == "off" or len(windows) == 1:
            return False
        axes = self.allowed_mirroring_axes if self.use_mirroring else None
        with self._coarsely():
            coarse = {start_of(window) for window in self._internal_get_sliding_window_slicers(data.shape[1:])}
        if views is None and self._answers_alike():
            coarse -= {start_of(window) for window in windows}
        cheap = len(coarse) <= _COARSE_SHARE * len(windows) * (views or 1) * 2 ** len(axes or ())
        return self.crop == "on" or (self.activation is not None and self.device.type == "cpu" and cheap)

    def _around_structures(self, data: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor | None:
        """Return outputs that are those of the whole volume around structures, elsewhere coarse; None without any."""
        self._looked = {} if self._answers_alike() else None
        try:
            looked = self._look(data)
            if looked is None:
                return None
            for answers in (self._looked or {}).values():
                # What is found out now is not asked again.
                answers.learn = False
            careful, inside = self._near(data, windows, looked[1])
        finally:
            self._looked = None
        return torch.where(inside, careful, looked[0])

    def _answers_alike(self) -> bool:
        """Whether the careful pass would answer to a window as the coarse one does, and answers are small enough."""
        mirrors = (self.use_mirroring and bool(self.allowed_mirroring_axes)) or mirrors_itself(self.network)
        # Label maps of many classes over a whole spine would not fit beside their sum.
        return self.activation is not None and not mirrors

    def _look(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return coarse outputs, and where (*spatial) they find something; None, with a warning, if nowhere."""
        with self._coarsely():
            coarse = self._mean_of_folds(data)
        hot = self._foreground(coarse) > HOT
        if bool(hot.any()):
            return coarse, hot
        expected = f"a value above {HOT} somewhere"
        fix = "the whole volume was done instead; look at the image"
        found = "no structure for crop mode to look at"
        self.warnings.append(Problem("warning", "W-OUT-CROP", "", found, expected, fix))
        return None

    def _near(
        self, data: torch.Tensor, windows: Sequence[Window], hot: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs of the windows around what was found, and where (*spatial) they are those of all windows."""
        self._chosen = near(hot, windows, self.configuration_manager.patch_size)
        try:
            careful = self._mean_of_folds(data)
        finally:
            chosen, self._chosen = self._chosen, None
        logger.debug("crop mode: %d of %d windows", sum(chosen), len(windows))
        return careful, complete(data.shape[1:], windows, chosen)

    def _foreground(self, logits: torch.Tensor) -> torch.Tensor:
        """Return how much foreground there is in outputs (heads, *spatial): (*spatial), 0 to 1 or a little beyond."""
        if self.activation is not None:
            largest = logits[1:].amax(dim=0)
            return largest.sigmoid() if self.activation.kind == "sigmoid" else largest
        if self.label_manager.has_regions:
            return logits.amax(dim=0).sigmoid()
        return 1 - logits.softmax(dim=0)[0]

    @contextmanager
    def _coarsely(self) -> Iterator[None]:
        """Let windows touch instead of overlapping, and do not mirror."""
        before = self.tile_step_size, self.use_mirroring
        self.tile_step_size, self.use_mirroring = 1.0, False
        try:
            with one_sided(self.network):
                yield
        finally:
            self.tile_step_size, self.use_mirroring = before

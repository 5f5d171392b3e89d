"""nnU-Net's predictor with safe loading, single-precision aggregation and one case at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_spine_ext.core.device import Precision
from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.activation import Activation, check_aggregate, soft_activation
from nnunet_spine_ext.inference.building import PassCounter, find_trainer, refuse_other_shapes
from nnunet_spine_ext.inference.export import SoftAnswer, refuse_unfaithful_resampling, soft_answer
from nnunet_spine_ext.inference.folder import TrainedModel, load_model
from nnunet_spine_ext.inference.folds import FoldPredictor
from nnunet_spine_ext.inference.managers import segmentation_volume
from nnunet_spine_ext.inference.meaning import Meaning, meaning_of
from nnunet_spine_ext.inference.model import (
    predict_settings,
    reader_reorients,
    refuse_what_is_not_predicted_here,
)
from nnunet_spine_ext.inference.reading import read_case
from nnunet_spine_ext.inference.settings import Crop, PredictSettings, Tta
from nnunet_spine_ext.inference.sides import regions_of
from nnunet_spine_ext.inference.support import support_mm
from nnunet_spine_ext.inference.tta import Averaged, average_views, structure_names, surroundings_of
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.inference.views import Composed, make_views
from nnunet_spine_ext.inference.windows import Answers, Window, add_up
from nnunet_spine_ext.networks.precision import chosen_bf16, prepare_for_bf16

Accumulate = Literal["single", "half"]

logger = logging.getLogger(__name__)


class SpinePredictor(FoldPredictor):
    """Predict cases one by one with any nnU-Net model, ours or stock.

    Parameters
    ----------
    accumulate: ``single`` adds up the windows in fp32; ``half`` in fp16 as nnU-Net does.
    tta: ``mirror`` averages over mirrored patches, sided classes exchanged on the left-right axis (our models);
        ``full`` over views of the whole image, other intensities and resolutions among them; or ``none``.
    views: which views ``full`` has; None: as the model's plans say.
    uncertainty: work out, with ``full``, maps of how uncertain the mean is.
    trust: load checkpoints that carry code.
    crop: look for the structures with windows that do not overlap and are not mirrored, then do with care only the
        windows around what was found; ``auto``: for soft models on a CPU, where that spares work.
    precision: ``bf16`` computes in bfloat16 where PyTorch finds that safe; ``fp32`` as nnU-Net does: in single
        precision, on a GPU mixed with half; ``auto``: bf16 on an x86 CPU that has it.
    window_batch: windows that go through the network at once.

    After each case `warnings` says what was unusual, `averaged` what views there were and how they agreed (``full``),
    and `passes` how many patches went through the network since `read` was called. Where intensities are matched,
    `unmatched` may hold the same image prepared without that, (C, *spatial), for views of its own.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        step_size: float = 0.5,
        tta: Tta = "mirror",
        views: ViewSettings | None = None,
        uncertainty: bool = False,
        accumulate: Accumulate = "single",
        trust: bool = False,
        progress: bool = True,
        crop: Crop = "auto",
        precision: Precision = "fp32",
        window_batch: int = 1,
    ) -> None:
        super().__init__(
            tile_step_size=step_size, use_mirroring=tta == "mirror", device=device, allow_tqdm=progress, verbose=False
        )
        self.tta = tta
        self.views = views
        self.uncertainty = uncertainty
        self.accumulate = accumulate
        self.trust = trust
        self.crop = crop
        self.bf16 = chosen_bf16(precision, device)
        self.window_batch = window_batch
        self.activation: Activation | None = None
        self.warnings: list[Problem] = []
        self.averaged: Averaged | None = None
        self.unmatched: torch.Tensor | None = None
        self.folds: tuple[str, ...] = ()
        self.model_name = ""
        self._chosen: list[bool] | None = None
        self._answers: Answers | None = None
        self._counter: PassCounter | None = None

    @property
    def passes(self) -> int:
        """How many patches went through the network since `read` was called."""
        return 0 if self._counter is None else self._counter.passes

    @property
    def meaning(self) -> Meaning:
        """What the outputs of the model mean."""
        return meaning_of(self.activation, regions=self.label_manager.has_regions)

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_folds: Sequence[int | str] | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model folder without unpickling code; raises SetupError for anything that does not fit."""
        folds = tuple(str(f) for f in use_folds) if use_folds else None
        self.initialize_from_model(load_model(model_training_output_dir, folds, checkpoint_name, trust=self.trust))

    def initialize_from_model(self, model: TrainedModel) -> None:
        """Build the network of a loaded model; raises SetupError for an unknown trainer or weights that do not fit."""
        plans = deepcopy(model.plans)
        if "predict" in plans.get(SETTINGS_KEY, {}):
            plans[SETTINGS_KEY]["predict"] |= {"mirror": self.use_mirroring, "intensity_views": False}
        if SETTINGS_KEY in plans:
            # Models of earlier versions do not have it in their plans.
            plans[SETTINGS_KEY].setdefault("data", {})["regions"] = regions_of(model.dataset_json)
        plans_manager = PlansManager(plans)
        configuration_manager = plans_manager.get_configuration(model.configuration)
        refuse_what_is_not_predicted_here(plans, model.configuration)
        self.folds, self.model_name = tuple(model.folds), str(model.folder)
        self.activation = soft_activation(plans)
        if self.activation is not None:
            refuse_unfaithful_resampling(configuration_manager, str(plans.get("plans_name", "")))
        trainer = find_trainer(model.trainer_name)
        network = trainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            determine_num_input_channels(plans_manager, configuration_manager, model.dataset_json),
            plans_manager.get_label_manager(model.dataset_json).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        for fold, weights in zip(model.folds, model.parameters, strict=True):
            refuse_other_shapes(network, weights, model.folder / f"fold_{fold}" / model.checkpoint)
        network.load_state_dict(model.parameters[0])
        if self.accumulate == "single":
            # Mixed precision would also add up the mirrored outputs in half precision.
            network.register_forward_hook(_in_single_precision)
        if self.bf16:
            prepare_for_bf16(network, self.device)
        self._counter = PassCounter(network)
        self.manual_initialization(
            network,
            plans_manager,
            configuration_manager,
            model.parameters,
            model.dataset_json,
            model.trainer_name,
            model.mirror_axes,
        )

    def prepare(self, files: Sequence[Path], affine: Array | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Read and preprocess one case; return the network's input (C, *spatial) and nnU-Net's properties.

        Intensities are matched as the plans say, to the reference of the folds that are loaded. `affine` replaces the
        one the files would be read with (a header with two that disagree).
        """
        from nnunet_spine_ext.inference.preparation import planned_preparation

        data, properties = self.read(files, affine)
        prepare = planned_preparation(self, self.folds, self.model_name)
        if prepare is None:
            return self.preprocess(data, properties)
        prepared = prepare(data, properties, str(files[0]))
        for problem in prepared.warnings:
            logger.warning("%s", problem)
        return prepared.data, prepared.properties

    def read(self, files: Sequence[Path], affine: Array | None = None) -> tuple[Array, dict[str, Any]]:
        """Read the channels of one case; return (C, z, y, x), turned as the model expects, and nnU-Net's properties."""
        self.unmatched = None
        if self._counter is not None:
            self._counter.passes = 0
        return read_case(files, affine, reorient=reader_reorients(self.plans_manager.plans))

    def preprocess(self, data: Array, properties: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the network's input (C, *spatial) and nnU-Net's properties of a case that `read` gave."""
        preprocessor = self.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            data, None, properties, self.plans_manager, self.configuration_manager, self.dataset_json
        )
        return torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format), properties

    def segment(self, data: torch.Tensor, properties: dict[str, Any]) -> Volume:
        """Predict a prepared case; return the label map on the grid of its first file.

        Raises CaseError when the network answers with NaN or infinity, which would pass for background.
        """
        if self.activation is not None:
            return self.soft(data, properties).mask
        segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
            self._finite_logits(data),
            self.plans_manager,
            self.configuration_manager,
            self.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return segmentation_volume(segmentation, properties)

    def soft(self, data: torch.Tensor, properties: dict[str, Any]) -> SoftAnswer:
        """Predict a prepared case with a soft model; return mask and soft maps on the grid of its first file.

        Raises CaseError as `segment` does, SetupError for a model that is not soft.
        """
        if self.activation is None:
            raise SetupError(
                "E-MODEL-SOFT",
                file=self.trainer_name,
                found="a model of hard labels",
                expected='a soft model, with "spine_ext" "soft" in its plans',
                fix="ask for its mask, or train with -tr nnUNetTrainerSpineSoft",
            )
        logits = self._finite_logits(data)
        managers = self.plans_manager, self.configuration_manager
        return soft_answer(logits, self.activation, *managers, properties, support=support_mm(managers[0].plans))

    def _finite_logits(self, data: torch.Tensor) -> Array:
        answer = self.predict_logits_from_preprocessed_data(data).cpu()
        if not bool(torch.isfinite(answer).all()):
            raise CaseError(
                "E-MODEL-NONFINITE",
                file=self.trainer_name,
                found="a network that answers with NaN or infinity",
                expected="finite numbers",
                fix="look at the model with nnUNetv2_spine_doctor -m; instead of a GPU try -device cpu",
            )
        logits: Array = answer.numpy()
        return logits

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Return the outputs (heads, *spatial) for a prepared image (C, *spatial), folds averaged linearly.

        Unlike nnU-Net's own function it uses all the threads that PyTorch was given.
        """
        self.warnings, self.averaged = [], None
        if self.accumulate == "half":
            half: torch.Tensor = super().predict_logits_from_preprocessed_data(data)
            return half
        if self.tta == "full":
            return self._mean_of_views(data)
        padded, inner = self._padded(data)
        windows = self._internal_get_sliding_window_slicers(padded.shape[1:])
        logits = self._around_structures(padded, windows) if self._spares_work(padded, windows) else None
        logits = self._mean_of_folds(padded) if logits is None else logits
        return logits[(slice(None), *inner)]

    def posterior(self, data: torch.Tensor) -> torch.Tensor:
        """Return the probabilities (heads, *spatial) of a prepared image (C, *spatial).

        They are the softmax, of regions the sigmoid, of a soft model its values behind a background.
        """
        return self.meaning.posterior(self.predict_logits_from_preprocessed_data(data).cpu())

    def _mean_of_views(self, data: torch.Tensor) -> torch.Tensor:
        """Return outputs for the mean over views; `averaged` keeps the rest of what they gave."""
        plans, regions = self.plans_manager.plans, self.label_manager.has_regions
        settings = self.views or (predict_settings(plans) or PredictSettings()).views
        check_aggregate(self.activation, settings.aggregate)
        around = surroundings_of(plans, self.configuration_manager, self.allowed_mirroring_axes or ())
        views = make_views(settings, around, self.unmatched)
        averaged = average_views(
            self._answering(data, len(views)),
            views,
            self.meaning,
            settings,
            structures=structure_names(self.dataset_json, regions=regions),
            uncertainty=self.uncertainty,
            progress=self.allow_tqdm,
        )
        outputs, self.averaged = averaged.outputs, replace(averaged, outputs=torch.empty(0))
        return outputs

    def _answering(self, data: torch.Tensor, views: int) -> Callable[[Composed], torch.Tensor]:
        """Return what answers to views of an image: the network, in crop mode around what a coarse look at it found."""
        looked: tuple[torch.Tensor, torch.Tensor] | None = None
        padded, inner = self._padded(data)
        if self._spares_work(padded, self._internal_get_sliding_window_slicers(padded.shape[1:]), views):
            looked = self._look(padded)

        def answer(view: Composed) -> torch.Tensor:
            seen, inner_of_view = self._padded(view.forward(data))
            if looked is None:
                return view.backward(self._mean_of_folds(seen)[(slice(None), *inner_of_view)], data.shape[1:])
            coarse, hot = (part[(..., *inner)] for part in looked)
            windows = self._internal_get_sliding_window_slicers(seen.shape[1:])
            careful, inside = self._near(seen, windows, self._padded(view.move(hot)[None].byte())[0][0] > 0)
            outputs = view.backward(careful[(slice(None), *inner_of_view)], data.shape[1:])
            return torch.where(view.restore(inside[inner_of_view], data.shape[1:]), outputs, coarse)

        return answer

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: Sequence[Window], do_on_device: bool = True
    ) -> torch.Tensor:
        if self.accumulate == "half":
            half: torch.Tensor = super()._internal_predict_sliding_window_return_logits(data, slicers, do_on_device)
            return half
        if self._chosen is not None:
            slicers = [window for window, taken in zip(slicers, self._chosen, strict=True) if taken]
        return add_up(
            lambda patches: self._internal_maybe_mirror_and_predict(patches.to(self.device)),
            data.to(self.device if do_on_device else "cpu"),
            slicers,
            self.label_manager.num_segmentation_heads,
            self.configuration_manager.patch_size,
            batch=self.window_batch,
            progress=self.allow_tqdm,
            answers=self._answers,
        )

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext():
            answer: torch.Tensor = super()._internal_maybe_mirror_and_predict(x)
        return answer


def _in_single_precision(_network: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()

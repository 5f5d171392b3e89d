"""nnU-Net's predictor with safe loading, single-precision aggregation and one case at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.activation import Activation, soft_activation
from nnunet_spine_ext.inference.device import prepare_for_bf16
from nnunet_spine_ext.inference.export import SoftAnswer, refuse_unfaithful_resampling, soft_answer
from nnunet_spine_ext.inference.folder import TrainedModel, load_model
from nnunet_spine_ext.inference.managers import segmentation_volume
from nnunet_spine_ext.inference.model import SETTINGS_KEY, reader_reorients, refuse_what_is_not_predicted_here
from nnunet_spine_ext.inference.reading import read_case
from nnunet_spine_ext.inference.settings import Crop
from nnunet_spine_ext.inference.support import support_mm
from nnunet_spine_ext.inference.windows import HOT, Window, add_up, complete, near

Accumulate = Literal["single", "half"]
Precision = Literal["fp32", "bf16"]

logger = logging.getLogger(__name__)
# Crop mode costs its coarse pass: where that is more than this share of the whole, `auto` does without.
_COARSE_SHARE = 1 / 4


class SpinePredictor(nnUNetPredictor):
    """Predict cases one by one with any nnU-Net model, ours or stock.

    Parameters
    ----------
    accumulate: ``single`` adds up the windows in fp32; ``half`` in fp16 as nnU-Net does.
    mirror: mirror at test time; sided classes are exchanged on the left-right axis (our models).
    trust: load checkpoints that carry code.
    crop: look for the structures with windows that do not overlap and are not mirrored, then do with care only the
        windows around what was found; ``auto``: for soft models on a CPU, where that spares work.
    precision: ``bf16`` computes in bfloat16 where PyTorch finds that safe; ``fp32`` as nnU-Net does: in single
        precision, on a GPU mixed with half.
    window_batch: windows that go through the network at once.

    After each case `warnings` says what was unusual.
    """

    tile_step_size: float
    use_mirroring: bool

    def __init__(
        self,
        *,
        device: torch.device,
        step_size: float = 0.5,
        mirror: bool = True,
        accumulate: Accumulate = "single",
        trust: bool = False,
        progress: bool = True,
        crop: Crop = "auto",
        precision: Precision = "fp32",
        window_batch: int = 1,
    ) -> None:
        super().__init__(
            tile_step_size=step_size, use_mirroring=mirror, device=device, allow_tqdm=progress, verbose=False
        )
        self.accumulate = accumulate
        self.trust = trust
        self.crop = crop
        self.precision = precision
        self.window_batch = window_batch
        self.activation: Activation | None = None
        self.warnings: list[Problem] = []
        self._chosen: list[bool] | None = None

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
            plans[SETTINGS_KEY]["predict"]["mirror"] = self.use_mirroring
        plans_manager = PlansManager(plans)
        configuration_manager = plans_manager.get_configuration(model.configuration)
        refuse_what_is_not_predicted_here(plans, model.configuration)
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
        if self.precision == "bf16":
            prepare_for_bf16(network, self.device)
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

        `affine` replaces the one the files would be read with (a header with two that disagree).
        """
        return self.preprocess(*self.read(files, affine))

    def read(self, files: Sequence[Path], affine: Array | None = None) -> tuple[Array, dict[str, Any]]:
        """Read the channels of one case; return (C, z, y, x), turned as the model expects, and nnU-Net's properties."""
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
        self.warnings = []
        if self.accumulate == "half":
            half: torch.Tensor = super().predict_logits_from_preprocessed_data(data)
            return half
        padded, inner = pad_nd_image(data, self.configuration_manager.patch_size, "constant", {"value": 0}, True, None)
        windows = self._internal_get_sliding_window_slicers(padded.shape[1:])
        logits = self._around_structures(padded, windows) if self._spares_work(padded, windows) else None
        logits = self._mean_of_folds(padded) if logits is None else logits
        return logits[(slice(None), *inner[1:])]

    def _mean_of_folds(self, data: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        for parameters in self.list_of_parameters:
            self.network.load_state_dict(parameters)
            logits = self.predict_sliding_window_return_logits(data).cpu()
            total = logits if total is None else total.add_(logits)
        if total is None:
            msg = "no fold is loaded"
            raise RuntimeError(msg)
        return total.div_(len(self.list_of_parameters))

    def _spares_work(self, data: torch.Tensor, windows: Sequence[Window]) -> bool:
        if self.crop == "off" or len(windows) == 1:
            return False
        axes = self.allowed_mirroring_axes if self.use_mirroring else None
        with self._coarsely():
            coarse = len(self._internal_get_sliding_window_slicers(data.shape[1:]))
        cheap = coarse <= _COARSE_SHARE * len(windows) * 2 ** len(axes or ())
        return self.crop == "on" or (self.activation is not None and self.device.type == "cpu" and cheap)

    def _around_structures(self, data: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor | None:
        """Return outputs that are those of the whole volume around structures, elsewhere coarse; None without any."""
        with self._coarsely():
            coarse = self._mean_of_folds(data)
        hot = self._foreground(coarse) > HOT
        if not bool(hot.any()):
            expected = f"a value above {HOT} somewhere"
            fix = "the whole volume was done instead; look at the image"
            self.warnings.append(
                Problem("warning", "W-OUT-CROP", "", "no structure for crop mode to look at", expected, fix)
            )
            return None
        patch = self.configuration_manager.patch_size
        self._chosen = near(hot, windows, patch)
        try:
            careful = self._mean_of_folds(data)
        finally:
            chosen, self._chosen = self._chosen, None
        logger.debug("crop mode: %d of %d windows", sum(chosen), len(windows))
        return torch.where(complete(data.shape[1:], windows, chosen), careful, coarse)

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
            yield
        finally:
            self.tile_step_size, self.use_mirroring = before

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
        )

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
            answer: torch.Tensor = super()._internal_maybe_mirror_and_predict(x)
        return answer


def _in_single_precision(_network: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()


def find_trainer(name: str) -> Any:
    """Return a trainer class through nnU-Net's own lookup, with our trainers' folder added to it.

    Raises SetupError naming the export line when there is none of that name.
    """
    folder = str(trainers_folder())
    known = [p for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p]
    if folder not in known:
        os.environ["nnUNet_extTrainer"] = os.pathsep.join([*known, folder])
    try:
        return recursive_find_trainer_class_by_name(name)
    except (RuntimeError, ImportError) as error:
        raise SetupError(
            "E-MODEL-TRAINER",
            file=name,
            found=f"a trainer that nnU-Net does not find ({type(error).__name__})",
            expected="the trainer the model was trained with",
            fix="install its package and export nnUNet_extTrainer=FOLDER_OF_ITS_TRAINERS",
        ) from error


def refuse_other_shapes(network: nn.Module, weights: dict[str, Any], file: Path) -> None:
    """Raise SetupError listing the first differences between a network and a checkpoint's weights."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    other = {key: tuple(value.shape) for key, value in weights.items()}
    differing = [
        f"{key}: model {own.get(key, 'absent')}, checkpoint {other.get(key, 'absent')}"
        for key in sorted({*own, *other})
        if own.get(key) != other.get(key)
    ]
    if differing:
        raise SetupError(
            "E-MODEL-WEIGHTS",
            file=file,
            found=f"{len(differing)} tensors that do not fit; {'; '.join(differing[:3])}",
            expected="weights of the network that plans.json describes",
            fix="use plans.json and dataset.json from the same training",
        )

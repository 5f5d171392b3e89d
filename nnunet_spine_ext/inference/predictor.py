"""nnU-Net's predictor with safe loading, single-precision aggregation and one case at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from tqdm import tqdm

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.folder import TrainedModel, load_model
from nnunet_spine_ext.inference.managers import segmentation_volume
from nnunet_spine_ext.inference.model import SETTINGS_KEY, reader_reorients, refuse_what_is_not_predicted_here
from nnunet_spine_ext.inference.reading import read_case

Accumulate = Literal["single", "half"]


class SpinePredictor(nnUNetPredictor):
    """Predict cases one by one with any nnU-Net model, ours or stock.

    Parameters
    ----------
    accumulate: ``single`` adds up the windows in fp32; ``half`` in fp16 as nnU-Net does.
    mirror: mirror at test time; sided classes are exchanged on the left-right axis (our models).
    trust: load checkpoints that carry code.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        step_size: float = 0.5,
        mirror: bool = True,
        accumulate: Accumulate = "single",
        trust: bool = False,
        progress: bool = True,
    ) -> None:
        super().__init__(
            tile_step_size=step_size, use_mirroring=mirror, device=device, allow_tqdm=progress, verbose=False
        )
        self.accumulate = accumulate
        self.trust = trust

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
        reorient = reader_reorients(self.plans_manager.plans)
        data, properties = read_case(files, affine, reorient=reorient)
        preprocessor = self.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            data, None, properties, self.plans_manager, self.configuration_manager, self.dataset_json
        )
        return torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format), properties

    def segment(self, data: torch.Tensor, properties: dict[str, Any]) -> Volume:
        """Predict a prepared case; return the label map on the grid of its first file.

        Raises CaseError when the network answers with NaN or infinity, which would pass for background.
        """
        answer = self.predict_logits_from_preprocessed_data(data).cpu()
        if not bool(torch.isfinite(answer).all()):
            raise CaseError(
                "E-MODEL-NONFINITE",
                file=self.trainer_name,
                found="a network that answers with NaN or infinity",
                expected="finite numbers",
                fix="look at the model with nnUNetv2_spine_doctor -m; instead of a GPU try -device cpu",
            )
        logits = answer.numpy()
        segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            self.plans_manager,
            self.configuration_manager,
            self.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return segmentation_volume(segmentation, properties)

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: Sequence[tuple[slice, ...]], do_on_device: bool = True
    ) -> torch.Tensor:
        if self.accumulate == "half":
            half: torch.Tensor = super()._internal_predict_sliding_window_return_logits(data, slicers, do_on_device)
            return half
        target = self.device if do_on_device else torch.device("cpu")
        data = data.to(target)
        heads = self.label_manager.num_segmentation_heads
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.float32, device=target)
        weights = torch.zeros(data.shape[1:], dtype=torch.float32, device=target)
        gaussian = compute_gaussian(
            tuple(self.configuration_manager.patch_size), sigma_scale=1 / 8, dtype=torch.float32, device=target
        )
        for window in tqdm(slicers, desc="windows", leave=False, disable=None if self.allow_tqdm else True):
            patch = data[window][None].contiguous().to(self.device)
            output = self._internal_maybe_mirror_and_predict(patch)[0].to(target, dtype=torch.float32)
            logits[window] += output * gaussian
            weights[window[1:]] += gaussian
        return logits.div_(weights)


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

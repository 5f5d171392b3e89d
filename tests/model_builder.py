"""Trained models without training: nnU-Net's folder layout around a small network with seeded random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume

LABELS14 = {
    "background": 0, "sacrum": 1, "arcus": 2, "spinous": 3, "costal_left": 4, "costal_right": 5, "sup_left": 6,
    "sup_right": 7, "inf_left": 8, "inf_right": 9, "corpus": 10, "cord": 11, "canal": 12, "endplate": 13, "disc": 14,
}  # fmt: skip
SIDED14 = [[4, 5], [6, 7], [8, 9]]
CORD = {"background": 0, "cord": 1}


def make_plans(
    *,
    patch: Sequence[int] = (16, 16, 16),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    name: str = "nnUNetPlans",
    channels: int = 1,
) -> dict[str, Any]:
    """Plans as nnU-Net writes them, for a U-Net of two stages."""
    resampling = "resample_data_or_seg_to_shape"
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"{name}_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": resampling,
        "resampling_fn_seg": resampling,
        "resampling_fn_data_kwargs": kwargs | {"order": 3},
        "resampling_fn_seg_kwargs": kwargs | {"is_seg": True},
        "resampling_fn_probabilities": resampling,
        "resampling_fn_probabilities_kwargs": kwargs,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 8, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 3,
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset901_Toy",
        "plans_name": name,
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch),
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): {
                "max": 900.0, "mean": 200.0, "median": 180.0, "min": 1.0, "percentile_00_5": 10.0,
                "percentile_99_5": 800.0, "std": 100.0,
            }
            for channel in range(channels)
        },
    }  # fmt: skip


def make_dataset_json(labels: dict[str, int], sided: list[list[int]], channels: int = 1) -> dict[str, Any]:
    return {
        "channel_names": {str(c): f"T{c + 1}w" for c in range(channels)},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "spine_ext": {"version": 1, "scheme": "nnunet14" if len(labels) == 15 else "custom", "sided_labels": sided},
    }


def make_model(
    folder: Path,
    *,
    labels: dict[str, int] = CORD,
    sided: list[list[int]] | None = None,
    channels: int = 1,
    predict: dict[str, Any] | None = None,
    trainer: str = "nnUNetTrainerSpine",
    **plans_kwargs: Any,
) -> Path:
    """Write a model folder (plans.json, dataset.json, fold_0/checkpoint_final.pth); return it."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    sided = sided or []
    plans = make_plans(channels=channels, **plans_kwargs)
    dataset_json = make_dataset_json(labels, sided, channels)
    if trainer.startswith("nnUNetTrainerSpine"):
        plans["spine_ext"] = {
            "predict": {"mirror": True, "instances": False} | (predict or {}),
            "data": {"scheme": dataset_json["spine_ext"]["scheme"], "sided_labels": sided},
        }
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    torch.manual_seed(7)
    network = nnUNetTrainer.build_network_architecture(manager, configuration, channels, len(labels), False)
    axes = (0, 1) if sided else (0, 1, 2)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "inference_allowed_mirroring_axes": axes,
        # What made nnU-Net load its checkpoints without protection: a numpy scalar.
        "_best_ema": np.float32(0.5),
    }
    (folder / "fold_0").mkdir(parents=True)
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def make_flat_model(folder: Path) -> Path:
    """Write a model of 14 classes whose network sees slices."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    make_model(folder, labels=LABELS14, sided=SIDED14)
    text = (folder / "plans.json").read_text().replace("Conv3d", "Conv2d").replace("InstanceNorm3d", "InstanceNorm2d")
    plans = json.loads(text)
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= {"patch_size": [16, 16], "spacing": [1.0, 1.0], "median_image_size_in_voxels": [16.0, 16.0]}
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs |= {key: [row[1:] for row in kwargs[key]] for key in ("kernel_sizes", "strides")}
    (folder / "plans.json").write_text(json.dumps(plans))
    manager = PlansManager(plans)
    torch.manual_seed(7)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 1, len(LABELS14), False
    )
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)
    checkpoint |= {"network_weights": network.state_dict(), "inference_allowed_mirroring_axes": (0,)}
    torch.save(checkpoint, folder / "fold_0/checkpoint_final.pth")
    return folder


def make_image(path: Path, *, shape: Sequence[int] = (24, 20, 18), affine: Any = None, seed: int = 0) -> Volume:
    """Write an image of smooth blobs, int16, RAS unless an affine says otherwise; return it."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    array = gaussian_filter(rng.normal(size=shape), 1.5) * 2000 + 400
    volume = Volume(array.astype(np.int16), np.eye(4) if affine is None else affine)
    write_volume(volume, path)
    return volume


def stock_predict(
    model: Path, files: list[Path], out: Path, *, mirror: bool = True, save_probabilities: bool = False
) -> None:
    """Run nnU-Net's own predictor, which loads the trainer through its own lookup."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from nnunet_spine_ext.inference.building import find_trainer

    find_trainer("nnUNetTrainerSpine")  # puts our folder on nnUNet_extTrainer, as nnUNetv2_spine_env does
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=mirror, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",), "checkpoint_final.pth")
    out.mkdir(parents=True, exist_ok=True)
    targets = [str(out / f.name.replace("_0000.nii.gz", "")) for f in files]
    predictor.predict_from_files_sequential([[str(f)] for f in files], targets, save_probabilities, overwrite=True)

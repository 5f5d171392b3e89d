"""What we rely on in nnU-Net, pinned by name: a new nnU-Net fails here first, and the message says where to look."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from house import python_files, setup_cfg, tree


class Call(NamedTuple):
    """A function of nnU-Net, its parameters in order, and the modules of ours that rely on them."""

    name: str
    parameters: str
    modules: str


TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer:nnUNetTrainer"
PREDICTOR = "nnunetv2.inference.predict_from_raw_data:nnUNetPredictor"
PLANS = "nnunetv2.utilities.plans_handling.plans_handler:PlansManager"
CONFIGURATION = "nnunetv2.utilities.plans_handling.plans_handler:ConfigurationManager"
PREPROCESSOR = "nnunetv2.preprocessing.preprocessors.default_preprocessor:DefaultPreprocessor"
READER = "nnunetv2.imageio.nibabel_reader_writer:NibabelIOWithReorient"
MIRRORING = "batchgeneratorsv2.transforms.spatial.mirroring:MirrorTransform"
BINARY = "batchgeneratorsv2.transforms.nnunet.random_binary_operator:ApplyRandomBinaryOperatorTransform"
BLUR = "batchgeneratorsv2.transforms.noise.gaussian_blur:GaussianBlurTransform"
COMPONENTS = (
    "batchgeneratorsv2.transforms.nnunet.remove_connected_components:"
    "RemoveRandomConnectedComponentFromOneHotEncodingTransform"
)
LABELS = "nnunetv2.utilities.label_handling.label_handling:LabelManager"
CASCADE = "training/cascade.py"
LOADER = "nnunetv2.training.dataloading.data_loader:nnUNetDataLoader"
LOCAL_LOGGER = "nnunetv2.training.logging.nnunet_logger:LocalLogger"

CALLS = (
    Call(f"{TRAINER}.__init__", "self plans configuration fold dataset_json device", "training/base.py"),
    Call(f"{TRAINER}.initialize", "self", "training/base.py"),
    Call(
        f"{TRAINER}.build_network_architecture",
        "plans_manager configuration_manager num_input_channels num_output_channels enable_deep_supervision",
        "training/base.py, inference/adopt.py, inference/predictor.py",
    ),
    Call(f"{TRAINER}.configure_optimizers", "self", "training/base.py"),
    Call(
        f"{TRAINER}.get_training_transforms",
        "patch_size rotation_for_DA deep_supervision_scales mirror_axes do_dummy_2d_data_aug use_mask_for_norm "
        "is_cascaded foreground_labels regions ignore_label",
        "training/base.py, training/mirroring.py",
    ),
    Call(
        f"{TRAINER}.configure_rotation_dummyDA_mirroring_and_inital_patch_size",
        "self",
        "training/base.py, training/augment_planned.py",
    ),
    Call(f"{TRAINER}.do_split", "self", "training/base.py, training/splits.py"),
    Call(f"{TRAINER}.on_train_start", "self", "training/base.py"),
    Call(f"{TRAINER}.on_train_end", "self", "training/base.py"),
    Call(f"{TRAINER}.on_epoch_end", "self", "training/base.py"),
    Call(f"{TRAINER}.save_checkpoint", "self filename", "training/base.py"),
    Call(f"{TRAINER}.load_checkpoint", "self filename_or_checkpoint", "training/finetune.py"),
    Call(
        "nnunetv2.run.load_pretrained_weights:load_pretrained_weights", "network fname verbose", "training/finetune.py"
    ),
    Call(f"{TRAINER}.print_to_log_file", "self args also_print_to_console add_timestamp", "training/base.py"),
    Call(
        "nnunetv2.training.logging.nnunet_logger:MetaLogger.plot_progress_png", "self output_folder", "training/base.py"
    ),
    Call(
        "nnunetv2.training.lr_scheduler.polylr:PolyLRScheduler.__init__",
        "self optimizer initial_lr max_steps exponent current_step",
        "training/base.py",
    ),
    Call(
        "nnunetv2.preprocessing.resampling.default_resampling:determine_do_sep_z_and_axis",
        "force_separate_z current_spacing new_spacing separate_z_anisotropy_threshold",
        "training/soft_case.py",
    ),
    Call("nnunetv2.training.loss.dice:get_tp_fp_fn_tn", "net_output gt axes mask square", "training/soft.py"),
    Call(
        "nnunetv2.training.dataloading.nnunet_dataset:nnUNetDatasetBlosc2.load_case",
        "self identifier",
        "training/soft_dataset.py",
    ),
    Call("nnunetv2.training.dataloading.nnunet_dataset:infer_dataset_class", "folder", "training/base.py"),
    Call(
        "nnunetv2.training.dataloading.nnunet_dataset:nnUNetDatasetBlosc2.get_identifiers", "folder", "training/base.py"
    ),
    Call(f"{MIRRORING}.__init__", "self allowed_axes", "training/mirroring.py"),
    Call(f"{MIRRORING}._apply_to_segmentation", "self segmentation params", "training/mirroring.py"),
    # `train.augmentation: mirror` removes these from the chain.
    Call(
        "batchgeneratorsv2.transforms.spatial.spatial:SpatialTransform.get_parameters",
        "self data_dict",
        "training/mirroring.py",
    ),
    Call(
        "batchgeneratorsv2.transforms.utils.random:RandomTransform.__init__",
        "self transform apply_probability",
        "training/mirroring.py",
    ),
    Call(
        "batchgeneratorsv2.transforms.utils.pseudo2d:Convert3DTo2DTransform.apply",
        "self data_dict params",
        "training/mirroring.py",
    ),
    Call(
        "batchgeneratorsv2.transforms.utils.pseudo2d:Convert2DTo3DTransform.get_parameters",
        "self data_dict",
        "training/mirroring.py",
    ),
    Call(
        "batchgeneratorsv2.transforms.utils.compose:ComposeTransforms.__init__",
        "self transforms",
        "training/mirroring.py",
    ),
    Call(
        f"{BLUR}.__init__",
        "self blur_sigma synchronize_channels synchronize_axes p_per_channel benchmark",
        "training/repeatable.py",
    ),
    # Augmentation on the device: what is added around them relies on their order, tested below.
    Call(f"{TRAINER}.train_step", "self batch", "training/shift.py"),
    Call(f"{TRAINER}.on_train_epoch_start", "self", "training/base.py"),
    Call(f"{TRAINER}._get_deep_supervision_scales", "self", "training/shift.py"),
    # Domains: the loss is added around nnU-Net's, loaders are made under another name.
    Call(f"{TRAINER}._build_loss", "self", "training/domain.py"),
    Call(f"{TRAINER}.on_train_epoch_end", "self train_outputs", "training/domain.py"),
    Call(f"{TRAINER}.load_checkpoint", "self filename_or_checkpoint", "training/domain.py"),
    Call(f"{TRAINER}.get_tr_and_val_datasets", "self", "training/dann.py"),
    Call(f"{TRAINER}.get_dataloaders", "self", "training/dann.py, training/domain_loader.py"),
    Call(
        f"{LOADER}.__init__",
        "self data batch_size patch_size final_patch_size label_manager oversample_foreground_percent "
        "sampling_probabilities pad_sides probabilistic_oversampling transforms",
        "training/domain_loader.py",
    ),
    Call(f"{LOADER}.get_indices", "self", "training/domain_loader.py"),
    Call(f"{LOCAL_LOGGER}.log", "self key value epoch", "training/domain.py"),
    Call(
        "acvl_utils.cropping_and_padding.bounding_boxes:crop_and_pad_nd",
        "image bbox pad_value pad_mode allow_hacky_np_workaround_for_reflect cast_cropped_to",
        "training/domain_patches.py",
    ),
    Call("batchgeneratorsv2.transforms.base.basic_transform:BasicTransform.apply", "self data_dict params", CASCADE),
    Call("batchgeneratorsv2.transforms.utils.random:RandomTransform.get_parameters", "self data_dict", CASCADE),
    Call(f"{BINARY}.__init__", "self channel_idx any_of_these strel_size p_per_label", CASCADE),
    Call(
        f"{COMPONENTS}.__init__",
        "self channel_idx fill_with_other_class_p dont_do_if_covers_more_than_x_percent p_per_label",
        CASCADE,
    ),
    Call(
        "batchgenerators.dataloading.single_threaded_augmenter:SingleThreadedAugmenter.__init__",
        "self data_loader transform",
        "training/shift.py",
    ),
    Call(f"{PLANS}.__init__", "self plans_file_or_dict", "inference/predictor.py"),
    Call(f"{PLANS}.get_configuration", "self configuration_name", "inference/predictor.py"),
    Call(f"{PLANS}.get_label_manager", "self dataset_json kwargs", "inference/predictor.py"),
    Call(f"{PREPROCESSOR}.__init__", "self verbose", "inference/managers.py, inference/predictor.py"),
    Call(
        f"{PREPROCESSOR}.run_case",
        "self image_files seg_file plans_manager configuration_manager dataset_json",
        "inference/managers.py",
    ),
    Call(
        f"{PREPROCESSOR}.run_case_npy",
        "self data seg properties plans_manager configuration_manager dataset_json",
        "inference/predictor.py, inference/managers.py, training/augment_planned.py",
    ),
    Call(
        f"{PREPROCESSOR}._normalize",
        "self data seg configuration_manager foreground_intensity_properties_per_channel",
        "inference/managers.py",
    ),
    Call(f"{READER}.read_images", "self image_fnames", "inference/reading.py, inference/managers.py"),
    Call(f"{READER}.write_seg", "self seg output_fname properties", "inference/managers.py"),
    Call(
        f"{PREDICTOR}.__init__",
        "self tile_step_size use_gaussian use_mirroring perform_everything_on_device device verbose "
        "verbose_preprocessing allow_tqdm",
        "inference/predictor.py",
    ),
    Call(
        f"{PREDICTOR}.initialize_from_trained_model_folder",
        "self model_training_output_dir use_folds checkpoint_name",
        "inference/predictor.py",
    ),
    Call(
        f"{PREDICTOR}.manual_initialization",
        "self network plans_manager configuration_manager parameters dataset_json trainer_name "
        "inference_allowed_mirroring_axes",
        "inference/predictor.py",
    ),
    Call(f"{PREDICTOR}.predict_logits_from_preprocessed_data", "self data", "inference/predictor.py"),
    Call(f"{PREDICTOR}.predict_sliding_window_return_logits", "self input_image", "inference/predictor.py"),
    Call(
        f"{PREDICTOR}._internal_get_sliding_window_slicers",
        "self image_size",
        "inference/predictor.py, inference/adaptation, inference/slice_segmenter.py",
    ),
    Call(f"{LABELS}.apply_inference_nonlin", "self logits", "inference/managers.py"),
    Call(
        f"{LABELS}.convert_logits_to_segmentation",
        "self predicted_logits",
        "inference/managers.py, inference/adaptation",
    ),
    Call(
        "acvl_utils.cropping_and_padding.padding:pad_nd_image",
        "image new_shape mode kwargs return_slicer shape_must_be_divisible_by",
        "inference/predictor.py, inference/slice_segmenter.py",
    ),
    Call(f"{PREDICTOR}._internal_maybe_mirror_and_predict", "self x", "inference/predictor.py, networks/mirror.py"),
    Call(
        f"{PREDICTOR}._internal_predict_sliding_window_return_logits",
        "self data slicers do_on_device",
        "inference/predictor.py",
    ),
    Call(
        "nnunetv2.inference.export_prediction:convert_predicted_logits_to_segmentation_with_correct_shape",
        "predicted_logits plans_manager configuration_manager label_manager properties_dict return_probabilities "
        "num_threads_torch",
        "inference/predictor.py",
    ),
    Call(
        "nnunetv2.inference.export_prediction:export_prediction_from_logits",
        "predicted_array_or_file properties_dict configuration_manager plans_manager dataset_json_dict_or_file "
        "output_file_truncated save_probabilities num_threads_torch",
        "inference/managers.py (its writer is called there)",
    ),
    Call(
        "nnunetv2.inference.sliding_window_prediction:compute_gaussian",
        "tile_size sigma_scale value_scaling_factor dtype device",
        "inference/predictor.py",
    ),
    Call(
        "nnunetv2.experiment_planning.experiment_planners.network_topology:get_pool_and_conv_props",
        "spacing patch_size min_feature_map_size max_numpool",
        "training/presets.py",
    ),
    Call(
        "dynamic_network_architectures.architectures.unet:PlainConvUNet.__init__",
        "self input_channels n_stages features_per_stage conv_op kernel_sizes strides n_conv_per_stage num_classes "
        "n_conv_per_stage_decoder conv_bias norm_op norm_op_kwargs dropout_op dropout_op_kwargs nonlin nonlin_kwargs "
        "deep_supervision nonlin_first",
        "networks/slice_unet.py",
    ),
    Call(
        "nnunetv2.utilities.find_objects:recursive_find_trainer_class_by_name",
        "trainer_name",
        "inference/predictor.py, check/probe.py",
    ),
    Call(
        "nnunetv2.utilities.label_handling.label_handling:determine_num_input_channels",
        "plans_manager configuration_or_config_manager dataset_json",
        "inference/predictor.py",
    ),
)
# Attributes that are read without a call; the managers' are looked up again by nnU-Net's own code.
PROPERTIES = {
    f"{PLANS}.image_reader_writer_class": "inference/managers.py",
    f"{PLANS}.transpose_forward": "inference/adaptation, training/augment_planned.py",
    f"{PLANS}.original_median_spacing_after_transp": "inference/adaptation",
    f"{CONFIGURATION}.preprocessor_class": "inference/managers.py, training/augment_planned.py",
    f"{CONFIGURATION}.previous_stage_name": "inference/predictor.py",
    f"{CONFIGURATION}.patch_size": "training/base.py, inference/adopt.py, inference/predictor.py",
    f"{CONFIGURATION}.batch_size": "training/shift.py",
    f"{CONFIGURATION}.spacing": "training/shift.py, inference/adaptation, inference/slice_segmenter.py",
    f"{CONFIGURATION}.use_mask_for_norm": "training/shift.py, training/augment_planned.py, inference",
    f"{CONFIGURATION}.normalization_schemes": "training/augment_planned.py, inference/slice_segmenter.py",
    f"{LABELS}.num_segmentation_heads": "inference/predictor.py",
    f"{LABELS}.all_labels": "training/shift.py",
    f"{LABELS}.foreground_labels": "training/shift.py",
    f"{LABELS}.foreground_regions": "training/shift.py",
    f"{LABELS}.has_regions": "training/shift.py",
    f"{LABELS}.ignore_label": "training/shift.py",
}
# Attributes that nnU-Net sets in __init__ and reads later; we set or read them.
ATTRIBUTES = {
    f"{TRAINER}.__init__": (
        "num_epochs num_iterations_per_epoch num_val_iterations_per_epoch initial_lr weight_decay save_every "
        "oversample_foreground_percent inference_allowed_mirroring_axes output_folder_base output_folder plans_manager "
        "configuration_manager dataset_json fold preprocessed_dataset_folder preprocessed_dataset_folder_base "
        "disable_checkpointing local_rank logger network current_epoch device is_ddp is_cascaded label_manager "
        "dataloader_train",
        "training/base.py, training/shift.py",
    ),
    f"{PREDICTOR}.__init__": (
        "use_mirroring allow_tqdm device label_manager configuration_manager tile_step_size network list_of_parameters "
        "allowed_mirroring_axes",
        "inference/predictor.py",
    ),
    f"{BLUR}.__init__": ("benchmark", "training/repeatable.py"),
}


def found(name: str) -> Any:
    module, _, path = name.partition(":")
    target: Any = importlib.import_module(module)
    for part in path.split("."):
        # vars, so that a property stays one and a static method shows its own parameters.
        target = inspect.getattr_static(target, part)
    return target.__func__ if isinstance(target, staticmethod | classmethod) else target


def advice(modules: str) -> str:
    version = importlib.metadata.version("nnunetv2")
    return f"nnU-Net {version} differs from the one this was written for: look at nnunet_spine_ext/{modules}"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.partition(":")[2])
def test_parameters(call: Call) -> None:
    try:
        parameters = list(inspect.signature(found(call.name)).parameters)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{call.name} is gone ({error}). {advice(call.modules)}")
    assert parameters == call.parameters.split(), advice(call.modules)


@pytest.mark.parametrize(("name", "modules"), PROPERTIES.items(), ids=lambda value: value.partition(":")[2] or "")
def test_properties(name: str, modules: str) -> None:
    try:
        target = found(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{name} is gone ({error}). {advice(modules)}")
    assert isinstance(target, property | cached_property), advice(modules)


@pytest.mark.parametrize(("name", "row"), ATTRIBUTES.items(), ids=["trainer", "predictor", "blur"])
def test_attributes_are_set_on_construction(name: str, row: tuple[str, str]) -> None:
    wanted, modules = row
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(found(name))))
    stored = {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    assert set(wanted.split()) <= stored, f"{sorted(set(wanted.split()) - stored)}. {advice(modules)}"


@cache
def sources() -> dict[str, ast.Module]:
    """Return the parsed files of nnU-Net that run at prediction and in training."""
    package = Path(str(importlib.import_module("nnunetv2").__path__[0]))
    folders = ("inference", "preprocessing", "evaluation", "run", "training/nnUNetTrainer/nnUNetTrainer.py")
    files = [
        f for name in folders for f in ([package / name] if name.endswith(".py") else (package / name).rglob("*.py"))
    ]
    return {str(f.relative_to(package)): ast.parse(f.read_text(encoding="utf-8")) for f in files}


@pytest.mark.parametrize(("name", "arguments"), [("image_reader_writer_class", {0}), ("preprocessor_class", {0, 1})])
def test_readers_and_preprocessors_are_only_ever_called(name: str, arguments: set[int]) -> None:
    """Our managers return a callable, not always a class: nnU-Net may do nothing with it but call it."""
    seen = 0
    for file, module in sources().items():
        calls = {id(n.func): n for n in ast.walk(module) if isinstance(n, ast.Call)}
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute) and node.attr == name:
                seen += 1
                call = calls.get(id(node))
                assert call is not None, f"{file}:{node.lineno}. {advice('inference/managers.py')}"
                assert len(call.args) + len(call.keywords) in arguments, f"{file}:{node.lineno}"
    assert seen >= 1


def test_prediction_hands_its_live_managers_to_the_trainer() -> None:
    """Adoption works because stock prediction goes on with the very objects that build_network_architecture got."""
    source = inspect.getsource(found(f"{PREDICTOR}.initialize_from_trained_model_folder"))
    body = ast.parse(inspect.cleandoc("\n" + source))
    calls = [
        n
        for n in ast.walk(body)
        if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("build_network_architecture")
    ]
    handed = [[ast.unparse(a) for a in call.args[:2]] for call in calls]
    assert ["plans_manager", "configuration_manager"] in handed, advice("inference/adopt.py")
    kept = {ast.unparse(n) for n in ast.walk(body) if isinstance(n, ast.Assign)}
    for name in ("plans_manager", "configuration_manager"):
        assert f"self.{name} = {name}" in kept, advice("inference/adopt.py")


def test_a_training_steps_through_its_batches_in_order() -> None:
    """Draws of the augmentation are numbered by epoch and step, counted from on_train_epoch_start."""
    body = inspect.getsource(found(f"{TRAINER}.run_training"))
    wanted = (
        "self.on_train_start()",
        "for epoch in range(self.current_epoch, self.num_epochs):",
        "self.on_train_epoch_start()",
        "for batch_id in range(self.num_iterations_per_epoch):",
        "self.train_step(next(self.dataloader_train))",
        "self.on_train_end()",
    )
    places = [body.find(line) for line in wanted]
    assert -1 not in places, advice("training/shift.py")
    assert places == sorted(places), advice("training/shift.py")


def test_pretrained_weights_are_given_to_an_initialized_network() -> None:
    """Fine-tuning refuses -pretrained_weights where nnU-Net would load them, and not when a training is resumed."""
    handing = inspect.getsource(found("nnunetv2.run.run_training:maybe_load_checkpoint"))
    for part in ("load_pretrained_weights(nnunet_trainer.network,", "nnunet_trainer.load_checkpoint("):
        assert part in handing, f"{part}. {advice('training/finetune.py')}"
    loading = inspect.getsource(found("nnunetv2.run.load_pretrained_weights:load_pretrained_weights"))
    assert "mod.load_state_dict(model_dict)" in loading, advice("training/finetune.py")
    assert "mod = mod._orig_mod" in loading, advice("training/finetune.py")
    body = inspect.getsource(found(f"{TRAINER}.initialize"))
    order = ("self.build_network_architecture(", "torch.compile(", "self.configure_optimizers()", "DDP(")
    places = [body.find(name) for name in order]
    assert -1 not in places, advice("training/finetune.py")
    assert places == sorted(places), advice("training/finetune.py")


def test_loaders_are_made_under_the_name_that_is_replaced() -> None:
    """From the datasets that get_tr_and_val_datasets gave; nothing else of the trainer makes one."""
    body = inspect.getsource(found(f"{TRAINER}.get_dataloaders"))
    assert body.count("nnUNetDataLoader(") == 2, advice("training/dann.py")
    assert body.find("nnUNetDataLoader(dataset_tr,") < body.find("nnUNetDataLoader(dataset_val,"), advice(
        "training/dann.py"
    )
    assert "dataset_tr, dataset_val = self.get_tr_and_val_datasets()" in body, advice("training/dann.py")
    drawing = inspect.getsource(found(f"{LOADER}.generate_train_batch"))
    assert "selected_keys = self.get_indices()" in drawing, advice("training/domain_loader.py")
    assert "data, seg, seg_prev, properties = self._data.load_case(i)" in drawing, advice("training/domain_loader.py")
    assert "force_fg, properties['class_locations'])" in drawing, advice("training/domain_loader.py")
    assert "self.indices = data.identifiers" in inspect.getsource(found(f"{LOADER}.__init__"))


def test_a_step_hands_outputs_and_targets_to_the_loss() -> None:
    """The loss of domains is added there: outputs go to it as the network gave them."""
    body = inspect.getsource(found(f"{TRAINER}.train_step"))
    for line in ("output = self.network(data)", "l = self.loss(output, target)", "self.optimizer.step()"):
        assert line in body, f"{line}. {advice('training/domain_loss.py')}"
    assert "clip_grad_norm_(self.network.parameters(), 12)" in body, advice("training/domain.py")
    order = ("self.configure_optimizers()", "self._build_loss()")
    places = [inspect.getsource(found(f"{TRAINER}.initialize")).find(name) for name in order]
    assert -1 < places[0] < places[1], advice("training/domain.py")


def test_the_loader_gives_what_is_augmented_on_the_device() -> None:
    """Zeros and label -1 beyond the image, mapping with data, target and keys, transforms on single samples."""
    source = inspect.getsource(found("nnunetv2.training.dataloading.data_loader:nnUNetDataLoader.generate_train_batch"))
    for part in (
        "crop_and_pad_nd(data, bbox, 0)",
        "crop_and_pad_nd(seg, bbox, -1,",
        "torch.cat((seg_cropped, seg_prev_cropped[None]), dim=0)",
        "self.transforms(**{'image': data_cropped, 'segmentation': seg_cropped})",
        "return {'data': data_all, 'target': seg_all, 'keys': selected_keys}",
    ):
        assert part in source, f"{part}. {advice('training/on_device.py, training/shift.py')}"


def test_a_training_step_takes_what_is_on_the_device_already() -> None:
    source = inspect.getsource(found(f"{TRAINER}.train_step"))
    for part in ("batch['data']", "batch['target']", "data.to(self.device", "isinstance(target, list)"):
        assert part in source, f"{part}. {advice('training/shift.py')}"


def test_the_training_chain_ends_as_the_device_does_it() -> None:
    """Masking, -1 to 0, previous stage, its changes, regions, deep supervision: all after the geometry."""
    source = inspect.getsource(found(f"{TRAINER}.get_training_transforms"))
    order = (
        "SpatialTransform(",
        "MirrorTransform(",
        "MaskImageTransform(",
        "RemoveLabelTansform(-1, 0)",
        "MoveSegAsOneHotToDataTransform(",
        "ApplyRandomBinaryOperatorTransform(",
        "RemoveRandomConnectedComponentFromOneHotEncodingTransform(",
        "ConvertSegmentationToRegionsTransform(",
        "DownsampleSegForDSTransform(",
    )
    places = [source.find(name) for name in order]
    assert -1 not in places, advice("training/on_device.py")
    assert places == sorted(places), advice("training/on_device.py")


def test_a_checkpoint_has_the_keys_that_prediction_reads() -> None:
    source = inspect.getsource(found(f"{TRAINER}.save_checkpoint"))
    for key in ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes", "current_epoch"):
        assert f"'{key}'" in source, f"{key}. {advice('inference/folder.py')}"


def test_every_import_from_nnunet_is_pinned() -> None:
    """A new import from nnU-Net in our rooms must get a row above."""
    pinned = {name.rpartition(":")[2].split(".")[0] for name in (*(c.name for c in CALLS), *PROPERTIES, *ATTRIBUTES)}
    offenders = [
        f"{path}:{node.lineno}: {alias.name}"
        for path in python_files("nnunet_spine_ext")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("nnunetv2", "batchgeneratorsv2")
        for alias in node.names
        if alias.name not in pinned
    ]
    assert not offenders, offenders


def test_the_requirement_admits_only_minors_that_were_looked_at() -> None:
    rows = [r.strip() for r in setup_cfg()["options"]["install_requires"].splitlines()]
    assert "nnunetv2>=2.8,<2.9" in rows

"""Subclasses of nnU-Net's managers, preprocessor and reader/writer that stock `nnUNetv2_predict` uses for our models.

They add no state: what they need is in the plans. nnU-Net pickles them by reference into its worker processes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_spine_ext.core.errors import Problem, SetupError
from nnunet_spine_ext.core.io import read_json, strip_suffix, write_json, write_volume
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.contrast import contrast_of
from nnunet_spine_ext.inference.activation import Activation, hard_labels, probabilities, soft_activation
from nnunet_spine_ext.inference.matching import (
    STANDARDISE,
    Matched,
    Moments,
    fixed_channels,
    match_case,
    usable_reference,
)
from nnunet_spine_ext.inference.model import label_scheme, predict_settings
from nnunet_spine_ext.inference.phase_options import PhaseOptions, check_phases
from nnunet_spine_ext.inference.phases import CaseInput, Phases, image_for, phase_files, qc_file
from nnunet_spine_ext.inference.preflight import check_scheme
from nnunet_spine_ext.inference.reading import read_case
from nnunet_spine_ext.inference.settings import Match, PredictSettings
from nnunet_spine_ext.inference.stock_failures import FAILURES, list_failures

logger = logging.getLogger(__name__)
# Where the reader leaves the name of the image for the writer, which is not told it.
_IMAGE = "spine_image"
# Matching that only our own command can do, and why.
_BY_NETWORKS: dict[Match, str] = {"anchored": "a prediction", "cyclegan": "another network"}


class SpinePreprocessor(DefaultPreprocessor):
    """nnU-Net's preprocessor behind the gatekeeper, after the matching of intensities that plans ask for.

    A damaged file is an error that names it, not half a mask.
    """

    _standardise: tuple[Moments | None, ...] = ()
    # The first file of the case, for messages.
    _file: str = ""

    def run_case(self, image_files: list[str], *args: Any, **kwargs: Any) -> Any:
        """Inspect the files of a case, then preprocess it.

        Raises CaseError for the first error, and SetupError or UsageError for phases and matching that cannot work:
        nothing runs in stock prediction before its first case is preprocessed. Logs warnings.
        """
        from nnunet_spine_ext.check.images import inspect

        for manager in (*args, *kwargs.values()):
            if isinstance(manager, SpinePlansManager):
                refuse_networks((predict_settings(manager.plans) or PredictSettings()).match, manager.plans)
                _check_once(
                    _phases_of(manager.plans), label_scheme(manager.plans), str(manager.plans.get("plans_name"))
                )
        for file in image_files:
            for problem in inspect(file).problems:
                if problem.severity == "error":
                    raise problem.to_error()
                logger.warning("%s", problem)
        self._file = str(image_files[0])
        return super().run_case(image_files, *args, **kwargs)

    def run_case_npy(
        self,
        data: Array,
        seg: Array | None,
        properties: dict[str, Any],
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any] | str,
    ) -> tuple[Array, Array, dict[str, Any]]:
        """Match a case (C, z, y, x) when the plans ask for it and nobody did it before, then preprocess it.

        Raises CaseError, SetupError or UsageError for what cannot be matched. Logs warnings.
        """
        if STANDARDISE not in properties:
            managers = plans_manager, configuration_manager
            matched = _matched_as_planned(data, properties, *managers, dataset_json, self._file)
            if matched is not None:
                data, properties = matched.data, matched.properties(properties)
        properties = dict(properties)
        self._standardise = properties.pop(STANDARDISE, ())
        done: tuple[Array, Array, dict[str, Any]] = super().run_case_npy(
            data, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        return done

    def _normalize(self, data: Array, *args: Any, **kwargs: Any) -> Array:
        fixed = {c: (data[c] - m[0]) / max(m[1], 1e-8) for c, m in enumerate(self._standardise) if m is not None}
        normalised: Array = super()._normalize(data, *args, **kwargs)
        for c, channel in fixed.items():
            normalised[c] = channel
        return normalised


class SpineReaderWriter(NibabelIOWithReorient):
    """nnU-Net's reorienting reader without NaN; the writer is atomic, restores the grid exactly and adds our phases.

    `scheme` and `options` have defaults because nnU-Net creates readers without arguments.
    """

    def __init__(self, scheme: str = "custom", options: PhaseOptions | None = None) -> None:
        super().__init__()
        self.scheme = scheme
        self.options = options or PhaseOptions()

    def read_images(self, image_fnames: list[str] | tuple[str, ...]) -> tuple[Array, dict[str, Any]]:
        """Read the channels of a case; a NaN, which nnU-Net's reader lets through, would make the whole mask empty."""
        data, properties = read_case([Path(f) for f in image_fnames])
        if self.options.numbering_model is not None:
            properties[_IMAGE] = str(image_fnames[0])
        return data, properties

    def write_seg(self, seg: Array, output_fname: str, properties: dict[str, Any]) -> None:
        """Write a segmentation (z, y, x) in RAS on the grid of its image, after the phases that the plans ask for.

        An error of a phase is logged, recorded in ``qc/<case>.json`` and listed in ``without_instances.txt``: raised,
        it would end the run of nnU-Net, whose other cases have nothing to do with it.
        """
        volume, mask = segmentation_volume(seg, properties), Path(output_fname)
        if self.options.instances:
            try:
                image = image_for(self.options, Path(properties[_IMAGE]), volume) if _IMAGE in properties else None
                given = CaseInput(file=mask.name, image=image)
                volume, warnings = _phases(self.options, self.scheme).run(
                    volume, mask.parent, strip_suffix(mask), given
                )
                for problem in warnings:
                    logger.warning("%s", problem)
                if (mask.parent / FAILURES).is_file():
                    # Of an earlier run: this case may be one of its failures.
                    list_failures(mask.parent, strip_suffix(mask))
            except Exception as error:
                _record_failure(mask, error)
        write_volume(volume, mask)


@functools.lru_cache(maxsize=1)
def _phases(options: PhaseOptions, scheme: str) -> Phases:
    """Keep networks from case to case; on the CPU, because the process that predicts has the other device."""
    return Phases(options, scheme, "cpu")


def _matched_as_planned(
    data: Array,
    properties: Mapping[str, Any],
    plans_manager: Any,
    configuration_manager: Any,
    dataset_json: Any,
    file: str,
) -> Matched | None:
    """Match a case as plans ask of stock prediction; None where they do not. Logs warnings."""
    plans = plans_manager.plans
    method = (predict_settings(plans) or PredictSettings()).match
    if method == "none":
        return None
    refuse_networks(method, plans)
    content = read_json(Path(dataset_json)) if isinstance(dataset_json, str) else dataset_json
    name = f"plans {plans.get('plans_name', '')}"
    # nnU-Net does not tell the preprocessor which folds predict.
    reference = usable_reference(plans, content, (), method, name)
    if reference is None:
        return None
    fixed = fixed_channels(configuration_manager.configuration)
    contrast = contrast_of(file, reference.contrast, len(data))
    matched = match_case(data, properties, reference, method, fixed=fixed, contrast=contrast, file=file)
    for problem in matched.warnings:
        logger.warning("%s", problem)
    return matched


def refuse_networks(method: Match, plans: Mapping[str, Any]) -> None:
    """Raise SetupError for matching by a network outside our own command."""
    if method in _BY_NETWORKS:
        raise SetupError(
            "E-MATCH-STOCK",
            file=f"plans {plans.get('plans_name', '')} spine_ext.predict",
            found=f"match: {method}, which needs {_BY_NETWORKS[method]} before preprocessing",
            expected="none, noise, body, nyul or cdf in stock nnUNetv2_predict",
            fix="predict with nnUNetv2_spine_predict, or nnUNetv2_spine_plan -m MODEL --set predict.match=body",
        )


@functools.lru_cache
def _check_once(options: PhaseOptions, scheme: str, plans_name: str) -> None:
    if options.instances:
        check_scheme(scheme, f"plans {plans_name}")
        check_phases(options, scheme)


def _phases_of(plans: Mapping[str, Any]) -> PhaseOptions:
    """Return the phases that plans ask of stock prediction."""
    settings = predict_settings(plans) or PredictSettings()
    asked = PhaseOptions(instances=settings.instances, numbering=settings.numbering).completed()
    return replace(
        asked,
        instance_model=settings.instance_model if asked.instances else None,
        numbering_model=settings.numbering_model if asked.numbering else None,
    )


_without_instances: list[str] = []


def _record_failure(mask: Path, error: Exception) -> None:
    """Log and record that a case has a mask but no instances; what an earlier run left of them goes."""
    case = strip_suffix(mask)
    problem = Problem(
        "error",
        "E-INST-FAILED",
        str(mask),
        f"no instances of this case ({type(error).__name__}: {error})",
        "vertebrae, discs and endplates told apart",
        f"the mask is complete, and {FAILURES} lists all such cases; report this with the log",
    )
    logger.error("%s", problem, exc_info=error)
    for file in phase_files(mask.parent, case):
        file.unlink(missing_ok=True)
    # The disk may be what failed.
    with contextlib.suppress(OSError):
        write_json(qc_file(mask.parent, case), {"error": problem.to_dict()})
    list_failures(mask.parent, case)
    if not _without_instances:
        atexit.register(_name_failures)
    _without_instances.append(case)


def _name_failures() -> None:
    # Worker processes end without this; what failed there stands in the log, in qc/ and in the list.
    names = ", ".join(_without_instances)
    logger.error("cases with a mask but without instances: %s (nnU-Net's exit code does not tell)", names)


class SoftLabelManager(LabelManager):
    """LabelManager of a soft model: its probabilities are soft values, not a softmax of them.

    The activation stands in the plans, so the manager gets it when it is made, and keeps it when it is pickled.
    """

    activation: Activation

    def apply_inference_nonlin(self, logits: Any) -> Any:
        """Return the background and the soft values (K+1, *spatial), float32, of the outputs of a whole volume."""
        return torch.from_numpy(probabilities(_as_array(logits), self.activation))

    def convert_logits_to_segmentation(self, predicted_logits: Any) -> Any:
        """Return the label map of the outputs, in the kind of array they came in."""
        labels = hard_labels(_as_array(predicted_logits), self.activation)
        return labels if isinstance(predicted_logits, np.ndarray) else torch.from_numpy(labels)


def _as_array(logits: Any) -> Array:
    return np.asarray(logits if isinstance(logits, np.ndarray) else logits.float().cpu().numpy())


class SoftPlansManager(PlansManager):
    """PlansManager that knows soft models; nothing else differs from nnU-Net's."""

    def get_label_manager(self, dataset_json: dict[str, Any], **kwargs: Any) -> LabelManager:
        """Return nnU-Net's label manager; of a soft model one that knows its activation.

        Raises SetupError for a soft model with regions: they have no background to be the remainder.
        """
        manager: LabelManager = super().get_label_manager(dataset_json, **kwargs)
        activation = soft_activation(self.plans)
        if activation is None:
            return manager
        if manager.has_regions:
            raise SetupError(
                "E-MODEL-SOFT",
                file=f"plans {self.plans.get('plans_name', '')} spine_ext.soft",
                found="a soft model with regions (labels that are lists)",
                expected="one label per class",
                fix="train with separate labels",
            )
        # Label managers carry what they were made from, so the object need not be made again.
        manager.__class__ = SoftLabelManager
        manager.activation = activation
        return manager


class SpinePlansManager(SoftPlansManager):
    """PlansManager whose writer also runs the phases that the plans ask for."""

    @property
    def image_reader_writer_class(self) -> Any:
        """Return what nnU-Net calls without arguments to get a reader/writer."""
        settings = predict_settings(self.plans)
        base = super().image_reader_writer_class
        if settings is None or base is not NibabelIOWithReorient:
            return base
        return _Configured(label_scheme(self.plans), _phases_of(self.plans))


class SpineConfigurationManager(ConfigurationManager):
    """ConfigurationManager whose preprocessor inspects files before it reads them."""

    @property
    def preprocessor_class(self) -> Any:
        """Return our preprocessor in place of nnU-Net's default one; other preprocessors stay."""
        base = super().preprocessor_class
        return SpinePreprocessor if base is DefaultPreprocessor else base


class _Configured:
    """A reader/writer class with its options filled in; picklable, unlike a lambda or a local class."""

    def __init__(self, scheme: str, options: PhaseOptions) -> None:
        self.scheme = scheme
        self.options = options

    def __call__(self) -> SpineReaderWriter:
        return SpineReaderWriter(self.scheme, self.options)


def segmentation_volume(seg: Array, properties: dict[str, Any]) -> Volume:
    """Return a segmentation (z, y, x) in RAS as a volume on the grid of the image it was predicted from."""
    dtype = np.uint8 if seg.size == 0 or seg.max() < 256 else np.uint16
    return volume_like_image(seg.astype(dtype, copy=False), properties)


def volume_like_image(array: Array, properties: dict[str, Any]) -> Volume:
    """Return an array (z, y, x) in RAS as a volume on the grid of the image it was predicted from."""
    geometry = properties["nibabel_stuff"]
    upright = Volume(array.transpose(2, 1, 0), geometry["reoriented_affine"])
    return upright.to_affine(geometry["original_affine"])

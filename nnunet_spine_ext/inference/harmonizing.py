"""Cases harmonized by a network before prediction: `--match cyclegan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_spine_ext.core.errors import Problem, SetupError, UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.denoising import judged
from nnunet_spine_ext.harmonize.distribution import score_of
from nnunet_spine_ext.harmonize.geometry_gate import GateSettings
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, load_harmonizer, read_harmonizer
from nnunet_spine_ext.harmonize.reference import IntensityReference
from nnunet_spine_ext.harmonize.volumes import HarmonizedVolume, harmonize_volume
from nnunet_spine_ext.inference.harmonize import gate_warning, refusal
from nnunet_spine_ext.inference.matching import Matched, channel_volume, has_ct, noise_warnings, put_together
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.inference.settings import Match, PredictSettings

if TYPE_CHECKING:
    import torch

METHOD: Literal["cyclegan"] = "cyclegan"


def harmonizer_folder(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], match: Match, given: str | Path | None, file: str
) -> str | None:
    """Return the folder of the harmonizer in force: the given one, else that of the plans; None for other matching.

    Parameters
    ----------
    plans, dataset_json: of the model that predicts; `file` is what messages call it.

    Raises
    ------
    UsageError: a harmonizer and another matching, or the reverse; a model of CT, or of several channels.
    SetupError: no harmonizer, or one that is no network.
    """
    if match != METHOD:
        if given is not None:
            raise UsageError(
                "E-USE-HARMONIZER",
                file="--harmonize-model",
                found=f"a harmonizer, with --match {match}",
                expected=f"--match {METHOD}: it is what needs one",
                fix=f"add --match {METHOD}, or leave --harmonize-model out",
            )
        return None
    folder = given or (predict_settings(plans) or PredictSettings()).harmonize_model
    if folder is None:
        raise UsageError(
            "E-USE-HARMONIZER",
            file="--harmonize-model",
            found=f"--match {METHOD} without a harmonizer",
            expected="the folder that nnUNetv2_spine_harmonize train wrote",
            fix="give it with --harmonize-model, or with predict.harmonize_model in the plans of the model",
        )
    names = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    ct = has_ct(plans, names.values())
    if ct or len(names) != 1:
        raise UsageError(
            "E-USE-HARMONIZER",
            file=file,
            found=f"--match {METHOD} asked of a model of " + ("CT" if ct else f"{len(names)} channels"),
            expected="a model of one MR contrast, as harmonizers are",
            fix="predict with another --match",
        )
    read_network(folder)
    return str(folder)


class CaseHarmonizer:
    """Harmonizes cases as nnU-Net's reader gives them.

    Parameters
    ----------
    folder: of the harmonizer, checked by `harmonizer_folder`. gate: limits for slices.

    Raises
    ------
    SetupError: it cannot be loaded.
    """

    def __init__(self, folder: str | Path, gate: GateSettings, device: torch.device) -> None:
        self._harmonizer = load_harmonizer(folder, device)
        self._gate, self._device = gate, device

    def __call__(
        self, data: Array, properties: Mapping[str, Any], reference: IntensityReference | None, file: str
    ) -> tuple[Matched, HarmonizedVolume]:
        """Return a case (1, z, y, x) harmonized, and what became of its slices.

        Parameters
        ----------
        properties: nnU-Net's of the case. reference: of the model that predicts; with one the distance from it is told.

        Raises
        ------
        CaseError: a CT, a scan that is no sagittal one, or too small a one.
        """
        scan = channel_volume(data[0], properties)
        found = harmonize_volume(scan, self._harmonizer, self._gate, device=self._device, file=file)
        why = _why(found) if found.skipped else ""
        channel: dict[str, Any] = {"skipped": found.skipped, "why": why, "before": None, "after": None}
        warning = gate_warning(found, file)
        warnings: list[Problem] = [] if warning is None else [warning]
        if reference is not None:
            own = reference.channels[0]
            before, after = (judged(volume, own) for volume in (scan, found.volume))
            channel |= {"before": score_of(before.facts, own).to_dict(), "after": score_of(after.facts, own).to_dict()}
            # Noise is not reduced on purpose here. What counts is how much the network sees.
            channel["noise"] = after.to_dict()
            channel["noise_of_scan"] = before.to_dict()
            warnings += noise_warnings(after, file)
        facts = {"method": METHOD, "channels": [channel]}
        image = None if found.skipped else found.volume
        return Matched(put_together(data, [image]), (None,), facts, warnings), found


def _why(found: HarmonizedVolume) -> str:
    """Return why a scan was left as it was."""
    return f"only {refusal(found)}" if found.refused is not None else "no slice passed the geometry gate"


def read_network(folder: str | Path) -> HarmonizerModel:
    """Read the description of a harmonizer; raises SetupError for one that is no network."""
    model = read_harmonizer(folder)
    if model.method != METHOD:
        raise SetupError(
            "E-MATCH-HARMONIZER",
            file=folder,
            found=f"a harmonizer of the method {model.method}",
            expected=METHOD,
            fix="harmonize the scans with nnUNetv2_spine_harmonize apply, then predict without matching",
        )
    return model

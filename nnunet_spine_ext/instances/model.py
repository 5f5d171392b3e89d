"""Instance models on disk: a folder with `instance_model.json` and one `fold_<k>.safetensors` per fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.model_folders import (
    faults_of_model,
    load_weights,
    misfit,
    read_description,
    weights_file,
    without_description,
    write_weights,
)
from nnunet_spine_ext.instances.cutout_inference import InferenceOptions, NetworkPredictor
from nnunet_spine_ext.instances.cutouts import MULTIPLE, CutoutSpec
from nnunet_spine_ext.instances.encoding import channels

if TYPE_CHECKING:
    import torch

    from nnunet_spine_ext.networks.instance_unet import InstanceUNet

MODEL_FILE = "instance_model.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class NetworkShape:
    """Size of an `InstanceUNet`; its input channels are those of the encoding.

    Parameters
    ----------
    width: features at full resolution.
    multipliers: of `width` at each resolution.
    """

    width: int = 8
    multipliers: tuple[int, ...] = (1, 2, 4, 8)

    def build(self, spec: CutoutSpec) -> InstanceUNet:
        """Return a new network for these cutouts.

        Raises
        ------
        UsageError: numbers below 1, or more halvings than the cutouts allow.
        """
        from nnunet_spine_ext.networks.instance_unet import InstanceUNet

        if (
            not self.multipliers
            or min(self.width, *self.multipliers) < 1
            or 2 ** (len(self.multipliers) - 1) > MULTIPLE
        ):
            raise UsageError(
                "E-INST-SPEC",
                file="network",
                found=f"width {self.width}, multipliers {list(self.multipliers)}",
                expected="numbers from 1 on, at most four resolutions",
                fix="correct the settings of the instance model",
            )
        return InstanceUNet(channels(spec.encoding), self.width, self.multipliers)


@dataclass(frozen=True)
class InstanceModel:
    """Content of `instance_model.json`.

    Parameters
    ----------
    cutout: what the network looks at.
    network: its size.
    folds: numbers of the folds whose weights are in the folder.
    provenance: where the weights are from; free JSON.
    """

    format_version: int = FORMAT_VERSION
    cutout: CutoutSpec = field(default_factory=CutoutSpec)
    network: NetworkShape = field(default_factory=NetworkShape)
    folds: tuple[int, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


def write_instance_model(
    folder: str | Path,
    spec: CutoutSpec,
    network: NetworkShape,
    weights: Mapping[int, Mapping[str, torch.Tensor]],
    provenance: Mapping[str, Any] | None = None,
) -> InstanceModel:
    """Write folds of an instance model; folds that the folder has already stay.

    Parameters
    ----------
    weights: fold number to state dict of an `InstanceUNet`.
    provenance: replaces that of the folder when given.

    Raises
    ------
    SetupError: the folder holds a model of other cutouts or another size, or none that can be read.
    UsageError: a state dict that does not fit.
    """
    folder = Path(folder)
    known = check_same_model(folder, spec, network)
    empty = network.build(spec)
    for fold, state in sorted(weights.items()):
        complaint = misfit(state, empty.state_dict())
        if complaint:
            raise UsageError(
                "E-MODEL-INSTANCE",
                file=f"fold {fold}",
                found=complaint,
                expected="the weights of an InstanceUNet of this size",
                fix="correct width, multipliers or encoding",
            )
        write_weights(folder, fold, state)
    folds = sorted({*(known.folds if known else ()), *weights})
    kept = dict(provenance) if provenance is not None else known.provenance if known else {}
    model = InstanceModel(FORMAT_VERSION, spec, network, tuple(folds), kept)
    # Written last: a folder without it is no model, so a stopped run leaves nothing that looks complete.
    write_json(folder / MODEL_FILE, to_dict(model))
    return model


def check_same_model(folder: str | Path, spec: CutoutSpec, network: NetworkShape) -> InstanceModel | None:
    """Return the model that a folder has; None: it has none.

    Raises SetupError when it has one of other cutouts or another size, or one that cannot be read.
    """
    known = read_instance_model(folder) if (Path(folder) / MODEL_FILE).exists() else None
    if known is not None and (known.cutout, known.network) != (spec, network):
        raise SetupError(
            "E-MODEL-INSTANCE",
            file=folder,
            found="an instance model of other cutouts or another size",
            expected="folds of one model in one folder",
            fix="choose another folder",
        )
    return known


def read_instance_model(folder: str | Path) -> InstanceModel:
    """Read the description of a model, without its weights.

    Raises
    ------
    SetupError: no such model, a file that cannot be read, an unknown version, encoding or key, a wrong cutout.
    """
    path = Path(folder) / MODEL_FILE
    if not path.is_file():
        raise _unusable(
            folder,
            without_description(folder, MODEL_FILE),
            "give the folder that the training or nnUNetv2_spine_import_instances wrote",
        )
    content = read_description(path, FORMAT_VERSION, _unusable)
    with faults_of_model(path):
        model = load_config(InstanceModel, content, where=str(path))
    if not model.folds:
        raise _unusable(path, "a model without folds", "finish the training of one fold")
    return model


def load_instance_model(
    folder: str | Path, options: InferenceOptions | None = None, *, folds: Sequence[int] | None = None
) -> NetworkPredictor:
    """Load an instance model; the mean of its folds answers.

    Parameters
    ----------
    folds: only these; all by default.

    Raises
    ------
    SetupError: no such model or fold, an unknown encoding, a wrong cutout, weights that are damaged or do not fit, no
        such device.
    UsageError: an unknown name of a device.
    """
    model = read_instance_model(folder)
    wanted = list(model.folds) if folds is None else list(folds)
    missing = [fold for fold in wanted if fold not in model.folds]
    if missing or not wanted:
        raise _unusable(
            folder,
            f"no fold {', '.join(map(str, missing))}" if missing else "no fold chosen",
            f"choose among {', '.join(map(str, model.folds))}",
        )
    networks = [_load_fold(weights_file(folder, fold), model) for fold in wanted]
    return NetworkPredictor(model.cutout, networks, options)


def _load_fold(path: Path, model: InstanceModel) -> InstanceUNet:
    with faults_of_model(path.parent / MODEL_FILE):
        network = model.network.build(model.cutout)
    load_weights(path, network, MODEL_FILE, _unusable)
    return network


def _unusable(file: str | Path, found: str, fix: str) -> SetupError:
    return SetupError("E-MODEL-INSTANCE", file=file, found=found, expected="an instance model", fix=fix)

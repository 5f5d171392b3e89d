"""Taking over the instance checkpoints that SPINEPS published.

Their network is the one of `networks.instance_unet`; names and container differ. Facts: spineps 2.1.3
(`architectures_new/unet3D.py`, `architectures/unet3D.py`, `seg_model.py`, `utils/seg_modelconfig.py`).
"""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import EXIT_OK, CaseError, SetupError, UsageError
from nnunet_spine_ext.core.io import read_json, sha256
from nnunet_spine_ext.instances.cutouts import CutoutSpec
from nnunet_spine_ext.instances.model import MODEL_FILE, InstanceModel, NetworkShape, write_instance_model

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "inference_config.json"
# Input channels of the stem to the encoding of the classes.
_ENCODINGS = {11: "onehot", 10: "onehot10", 1: "scalar"}
# Arcus, spinous, costal, superior, inferior, corpus (with its inner part and the dens): SPINEPS' ids to classes 1..9.
_CLASSES = {**{label: label - 40 for label in range(41, 50)}, 50: 9, 51: 9}
_GROUPS = 8
_NAMES = (
    (r"^init_conv\.", "stem."),
    (r"^downs\.(\d+)\.0\.", r"encoder.\1.first."),
    (r"^downs\.(\d+)\.1\.", r"encoder.\1.second."),
    (r"^downs\.(\d+)\.2\.", r"encoder.\1.resize."),
    (r"^mid_block1\.", "bottom.0."),
    (r"^mid_block2\.", "bottom.1."),
    (r"^ups\.(\d+)\.0\.", r"decoder.\1.first."),
    (r"^ups\.(\d+)\.1\.", r"decoder.\1.second."),
    (r"^ups\.(\d+)\.2\.", r"decoder.\1.resize."),
    (r"^final_res_block\.", "last."),
    (r"^final_conv\.", "head."),
)
_BLOCK_NAMES = (
    (r"\.block1\.proj\.", ".first.conv."),
    (r"\.block1\.norm\.", ".first.norm."),
    (r"\.block2\.proj\.", ".second.conv."),
    (r"\.block2\.norm\.", ".second.norm."),
    (r"\.res_conv\.", ".shortcut."),
)


@dataclass(frozen=True)
class ImportedModel:
    """What was imported: the folder of the instance model and its description."""

    folder: Path
    model: InstanceModel
    exit_code: int = EXIT_OK

    def render(self) -> str:
        """Return a line for the console."""
        cutout = self.model.cutout
        size = "x".join(map(str, cutout.size))
        spacing = "x".join(f"{mm:g}" for mm in cutout.spacing)
        what = f"cutouts of {size} voxels, {spacing} mm (P, I, R), encoding {cutout.encoding}"
        return f"{self.folder}: instance model, {what}, width {self.model.network.width}"

    def to_dict(self) -> dict[str, Any]:
        """Return the folder and the content of `instance_model.json`."""
        return {"folder": str(self.folder), **to_dict(self.model)}


def import_spineps(checkpoint: str | Path, out: str | Path) -> ImportedModel:
    """Write a SPINEPS instance checkpoint as an instance model.

    Parameters
    ----------
    checkpoint: the `*weights*.ckpt` file, or the folder that holds it; `inference_config.json` beside it tells
        the size of the cutouts and the voxel size, otherwise those of the paper are taken.
    out: folder of the new model.

    Raises
    ------
    SetupError: no checkpoint, one that is damaged or holds pickled code, another architecture, or a folder `out` with
        a model in it.
    UsageError: an unknown encoding of the classes, another orientation or a wrong voxel size.
    """
    path = _find(Path(checkpoint))
    if (Path(out) / MODEL_FILE).exists():
        # Its other folds would stay, and be averaged with this network.
        raise SetupError(
            "E-MODEL-INSTANCE",
            file=out,
            found="an instance model",
            expected="a folder without one",
            fix="give another folder (-o), or delete this one if the model in it is not needed",
        )
    content = _load(path)
    state = _network_state(path, content)
    translated = {translate_name(name): tensor for name, tensor in state.items()}
    shape, encoding = _shape_of(path, translated)
    spec = _spec_of(path, encoding)
    provenance = {"source": "SPINEPS", "file": path.name, "sha256": sha256(path)}
    try:
        model = write_instance_model(out, spec, shape, {0: translated}, provenance)
    except UsageError as error:
        raise _other_architecture(path, error.found) from error
    return ImportedModel(Path(out), model)


def translate_name(name: str) -> str:
    """Return the name that a parameter of SPINEPS' Unet3D has in `InstanceUNet`; unknown names stay."""
    for pattern, replacement in _NAMES:
        changed, count = re.subn(pattern, replacement, name)
        if count:
            for inner, new in _BLOCK_NAMES:
                changed = re.sub(inner, new, changed)
            return changed
    return name


def _load(path: Path) -> dict[str, Any]:
    try:
        # The options of a Lightning training travel in such a namespace; neither class does anything.
        return load_checkpoint(path, allow=(argparse.Namespace, pathlib.PosixPath))
    except SetupError as error:
        if error.code != "E-MODEL-CODE":
            raise
        # Nothing loads it anyway here, as --trust does elsewhere: SPINEPS' own checkpoints do not need that.
        raise SetupError(
            "E-MODEL-CODE",
            file=path,
            found=error.found,
            expected="tensors, plain values and numpy scalars",
            fix="do not use the file: download the checkpoint again from where SPINEPS publishes it",
        ) from error


def _find(checkpoint: Path) -> Path:
    if not checkpoint.exists():
        raise SetupError(
            "E-MODEL-CHECKPOINT",
            file=checkpoint,
            found="no such file",
            expected="a checkpoint of SPINEPS, or the folder that holds it",
            fix="check the path and its spelling (-i)",
        )
    if not checkpoint.is_dir():
        return checkpoint
    found = sorted(checkpoint.rglob("*weights*.ckpt"))
    if len(found) != 1:
        raise SetupError(
            "E-MODEL-CHECKPOINT",
            file=checkpoint,
            found=f"{len(found)} files *weights*.ckpt",
            expected="one checkpoint",
            fix="give the checkpoint file itself",
        )
    return found[0]


def _network_state(path: Path, content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters of the network, without the name of the module that trained it."""
    import torch

    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _other_architecture(path, "no state dict of a network")
    inner = {name.removeprefix("network."): tensor for name, tensor in state.items() if name.startswith("network.")}
    return inner or dict(state)


def _shape_of(path: Path, state: Mapping[str, torch.Tensor]) -> tuple[NetworkShape, str]:
    """Size of the network and encoding of its input, from the shapes of its parameters."""
    stem = state.get("stem.weight")
    if stem is None or stem.ndim != 5:
        found = f"no stem of a 3-D U-Net among {len(state)} parameters (the first: {next(iter(state), 'none')})"
        raise _other_architecture(path, found)
    width, inputs = int(stem.shape[0]), int(stem.shape[1])
    features: list[int] = []
    while (weight := state.get(f"encoder.{len(features)}.first.first.conv.weight")) is not None:
        features.append(int(weight.shape[0]))
    if not features or width % _GROUPS or any(n % width for n in features):
        raise _other_architecture(path, f"features {[width, *features]}")
    if inputs not in _ENCODINGS:
        raise UsageError(
            "E-INST-ENCODING",
            file=path,
            found=f"a network with {inputs} input channels: unknown encoding of the classes",
            expected=", ".join(f"{n} ({name})" for n, name in _ENCODINGS.items()),
            fix="choose another checkpoint",
        )
    return NetworkShape(width, tuple(n // width for n in features)), _ENCODINGS[inputs]


def _spec_of(path: Path, encoding: str) -> CutoutSpec:
    """Cutout and voxel size from the configuration beside the checkpoint, or the paper's."""
    config = path.parent / CONFIG_FILE
    usual = CutoutSpec(encoding=encoding)
    if not config.is_file():
        return usual
    try:
        content = read_json(config)
    except CaseError as error:
        raise _wrong_config(config, error.found) from error
    if not isinstance(content, dict):
        raise _wrong_config(config, f"a {type(content).__name__}")
    orientation = "".join(map(str, content.get("model_expected_orientation", "PIR")))
    if orientation != "PIR":
        raise _wrong_config(config, f"orientation {orientation}")
    classes = content.get("mapping")
    if classes is not None and not _is_usual(_meaning(config, classes)):
        raise UsageError(
            "E-INST-ENCODING",
            file=config,
            found="unknown encoding of the classes (mapping)",
            expected="41..49 as 1..9, 50 and 51 as 9",
            fix="choose another checkpoint",
        )
    size = _three(config, "cutout_size", content.get("cutout_size"), usual.size)
    spacing = _three(config, "resolution_range", _nearest(content.get("resolution_range"), usual), usual.spacing)
    whole = (int(size[0]), int(size[1]), int(size[2]))
    return CutoutSpec(whole, (float(spacing[0]), float(spacing[1]), float(spacing[2])), encoding)


def _meaning(config: Path, classes: Any) -> dict[int, int]:
    try:
        return {int(label): int(value) for label, value in classes.items() if int(value)}
    except (AttributeError, TypeError, ValueError) as error:
        raise _wrong_config(config, f"mapping {classes!r}") from error


def _is_usual(meaning: Mapping[int, int]) -> bool:
    """Whether classes are the usual ones; the inner corpus and the dens exist on CT only and may be left out."""
    return meaning == {label: number for label, number in _CLASSES.items() if label in meaning or label < 50}


def _nearest(zooms: Any, usual: CutoutSpec) -> Any:
    """Of a range of voxel sizes (lowest, highest) the one nearest to the paper's, as SPINEPS takes it."""
    try:
        low, high = zooms
        pairs = zip(low, usual.spacing, high, strict=True)
        return [min(max(a, mm), b) for a, mm, b in pairs]
    except (TypeError, ValueError):
        return zooms


def _three(config: Path, key: str, value: Any, usual: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return usual
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, (int, float)) for v in value):
        raise _wrong_config(config, f"{key} {value!r}")
    return tuple(value)


def _wrong_config(config: Path, found: str) -> UsageError:
    return UsageError(
        "E-INST-SPEC",
        file=config,
        found=found,
        expected="the configuration of a SPINEPS instance model (orientation PIR, three sizes)",
        fix="restore the file, or remove it to take the paper's cutouts",
    )


def _other_architecture(path: Path, found: str) -> SetupError:
    return SetupError(
        "E-MODEL-ARCHITECTURE",
        file=path,
        found=f"another architecture: {found}",
        expected="the Unet3D of a SPINEPS instance model",
        fix="choose the checkpoint of an instance model, not of a semantic or labelling model",
    )

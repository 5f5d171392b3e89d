"""Networks that find discs in sagittal slices: nnU-Net's 2-D U-Net, and those of segmentation-models-pytorch.

Both take slices as a set of slices has them, (B, 1, Y, X) from 0 to 255, and bring them to their own scale themselves:
whatever trains or uses one need not know which it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.errors import SetupError, UsageError

GREY_LEVELS = 255.0
# Mean and deviation of the colours of ImageNet, on which encoders were trained elsewhere (torchvision's values).
_COLOUR_MEAN = (0.485, 0.456, 0.406)
_COLOUR_STD = (0.229, 0.224, 0.225)
# Encoders of segmentation-models-pytorch halve the resolution five times.
_SMP_MULTIPLE = 32
SMP_ARCHITECTURES = ("Unet", "UnetPlusPlus", "DeepLabV3")

Kind = Literal["unet", "smp"]


class SliceNetwork(nn.Module):
    """Discs in slices of any size; `multiple` is what the network itself needs both sides to be a multiple of."""

    multiple: int

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, Y, X) of slices (B, 1, Y, X), 0 to 255.

        Slices are continued to a multiple of `multiple` by repeating their edges, tiny ones to two of them: the
        coarsest features need more than one pixel to be normalized.

        Raises
        ------
        ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 1 or not images.numel():
            msg = f"slices of shape {tuple(images.shape)}, expected (B, 1, Y, X)"
            raise ValueError(msg)
        height, width = images.shape[2:]
        padding = [0, -width % self.multiple, 0, -height % self.multiple]
        if max(height, width) <= self.multiple:
            padding[1] += self.multiple
        padded = nn.functional.pad(images, padding, mode="replicate") if any(padding) else images
        return self.logits(padded)[..., :height, :width]

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, Y, X) of slices whose sides are multiples of `multiple`."""


class SliceUNet(SliceNetwork):
    """The plain 2-D U-Net of nnU-Net.

    Parameters
    ----------
    features: of each resolution; every one but the first has half the pixels of the one before.
    convolutions: at each resolution, on the way down and on the way up.

    Raises
    ------
    ValueError: a number below 1, or fewer than two resolutions.
    """

    def __init__(self, features: Sequence[int] = (32, 64, 128, 256, 512, 512), convolutions: int = 2) -> None:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet

        super().__init__()
        if len(features) < 2 or min(*features, convolutions) < 1:
            msg = f"features {tuple(features)}, {convolutions} convolutions: at least two resolutions, all from 1 on"
            raise ValueError(msg)
        stages = len(features)
        self.multiple = 2 ** (stages - 1)
        self.body = PlainConvUNet(
            input_channels=1, n_stages=stages, features_per_stage=list(features), conv_op=nn.Conv2d, kernel_sizes=3,
            strides=[1] + [2] * (stages - 1), n_conv_per_stage=convolutions, num_classes=1,
            n_conv_per_stage_decoder=convolutions, conv_bias=True, norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        )  # fmt: skip
        self.body.apply(self.body.initialize)
        # nnU-Net's modules know each layer by several names; a file is to have each weight once.
        self.register_state_dict_post_hook(_one_name_each)
        self.register_load_state_dict_pre_hook(_all_names)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of slices, which the network sees from -1 to 1."""
        found: Tensor = self.body(images * (2 / GREY_LEVELS) - 1)
        return found


class SmpSliceUNet(SliceNetwork):
    """An encoder and a decoder of segmentation-models-pytorch, as in Kim et al., IEEE Access 2024, table 2.

    The grey slice goes into all three colours, on the scale that encoders trained on ImageNet expect. The sigmoid of
    the paper is left to the caller. Nothing is ever downloaded.

    Parameters
    ----------
    architecture: one of `SMP_ARCHITECTURES`.
    encoder: a name of that package, for example ``resnet34``.
    encoder_weights: a local file of them (.safetensors, .pth) as torchvision or timm have it; None: random.

    Raises
    ------
    SetupError: the package is missing; weights that cannot be read or do not fit.
    UsageError: an unknown encoder.
    """

    multiple = _SMP_MULTIPLE

    def __init__(
        self, architecture: str = "Unet", encoder: str = "resnet34", encoder_weights: str | Path | None = None
    ) -> None:
        super().__init__()
        package = _smp()
        try:
            self.body = package.create_model(architecture, encoder, encoder_weights=None, in_channels=3, classes=1)
        except KeyError as error:
            raise UsageError(
                "E-CONFIG-VALUE",
                file="network.encoder",
                found=repr(encoder),
                expected="an encoder of segmentation-models-pytorch",
                fix="take resnet34, resnet50 or resnet101",
            ) from error
        if encoder_weights is not None:
            _load_encoder(self.body.encoder, Path(encoder_weights))
        self.register_buffer("mean", torch.tensor(_COLOUR_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_COLOUR_STD).reshape(1, 3, 1, 1), persistent=False)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of slices."""
        found: Tensor = self.body((images / GREY_LEVELS - self.mean) / self.deviation)
        return found


@dataclass(frozen=True)
class SliceNetworkShape:
    """Which network, and how large.

    Parameters
    ----------
    kind: ``unet``, or ``smp``, which needs the extra ``[harmonize]``.
    features, convolutions: of `SliceUNet`.
    architecture, encoder: of `SmpSliceUNet`.

    Raises
    ------
    UsageError: numbers below 1, fewer than two resolutions.
    """

    kind: Kind = "unet"
    features: tuple[int, ...] = (32, 64, 128, 256, 512, 512)
    convolutions: int = 2
    architecture: Literal["Unet", "UnetPlusPlus", "DeepLabV3"] = "Unet"
    encoder: str = "resnet34"

    def __post_init__(self) -> None:
        if len(self.features) < 2 or min(*self.features, self.convolutions) < 1:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="network",
                found=f"features {list(self.features)}, convolutions {self.convolutions}",
                expected="at least two resolutions, numbers from 1 on",
                fix="correct the value",
            )

    def build(self, encoder_weights: str | Path | None = None) -> SliceNetwork:
        """Return a new network; its random weights are those of PyTorch's own generator.

        Raises what `SmpSliceUNet` raises, and UsageError for weights of an encoder that ``unet`` does not have.
        """
        if self.kind == "smp":
            return SmpSliceUNet(self.architecture, self.encoder, encoder_weights)
        if encoder_weights is not None:
            raise UsageError(
                "E-CONFIG-VALUE",
                file="encoder_weights",
                found=f"{encoder_weights} for the network unet",
                expected="weights for an encoder of the network smp",
                fix="set network.kind=smp, or leave it out",
            )
        return SliceUNet(self.features, self.convolutions)


def _one_name_each(network: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take the further names of shared weights out of a state dict."""
    first = {f"{prefix}{name}" for name, _value in network.named_parameters()}
    further = {f"{prefix}{name}" for name, _value in network.named_parameters(remove_duplicate=False)} - first
    for name in further:
        state.pop(name, None)


def _all_names(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put the further names of shared weights back into a state dict that is to be loaded."""
    first = {id(value): f"{prefix}{name}" for name, value in network.named_parameters()}
    for name, value in network.named_parameters(remove_duplicate=False):
        if first[id(value)] in state:
            state.setdefault(f"{prefix}{name}", state[first[id(value)]])


def _smp() -> Any:
    """Return the package segmentation-models-pytorch; raises SetupError that says how to get it."""
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise SetupError(
            "E-ENV-EXTRA",
            file="network.kind=smp",
            found=f"segmentation-models-pytorch cannot be imported ({error})",
            expected="the extra [harmonize]",
            fix="pip install 'nnunet-spine-ext[harmonize]', or take network.kind=unet",
        ) from error
    return segmentation_models_pytorch


def _load_encoder(encoder: nn.Module, path: Path) -> None:
    state = _encoder_state(path)
    wanted = encoder.state_dict()
    # Files of encoders also hold the layer that tells the classes of ImageNet apart; old ones lack the counters.
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    absent = sorted({*wanted} - {*state} - optional)
    unequal = [n for n in wanted if n in state and tuple(state[n].shape) != tuple(wanted[n].shape)]
    if absent or unequal:
        first = f"{absent[0]} is missing" if absent else f"{unequal[0]} has the shape {list(state[unequal[0]].shape)}"
        raise SetupError(
            "E-MODEL-WEIGHTS",
            file=path,
            found=f"{len(absent) + len(unequal)} tensors that do not fit the encoder; {first}",
            expected="weights of this encoder as torchvision or timm name them",
            fix="correct network.encoder or encoder_weights",
        )
    encoder.load_state_dict({name: state.get(name, wanted[name]) for name in wanted})


def _encoder_state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix != ".safetensors":
        content = load_checkpoint(path)
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise SetupError(
            "E-MODEL-WEIGHTS",
            file=path,
            found=f"cannot be read ({str(error)[:160]})",
            expected="a .safetensors or .pth file with the weights of an encoder",
            fix="correct encoder_weights, or copy the file again",
        ) from error

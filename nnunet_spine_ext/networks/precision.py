"""Computing a network in bfloat16, on devices that do so themselves."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from nnunet_spine_ext.core.errors import SetupError

Precision = Literal["fp32", "bf16", "auto"]


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; without such instructions it would be slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # PyTorch has no public function for this. Linux names the instructions of x86 and of ARM alike.
    if platform.system() != "Linux":
        return False
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def chosen_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether a precision means bfloat16 on a device: ``auto`` does on a CPU that has it.

    On a GPU ``auto`` is nnU-Net's mixed precision, which gains nothing from bfloat16.
    """
    return precision == "bf16" or (precision == "auto" and device.type == "cpu" and has_bf16(device))


def prepare_for_bf16(network: nn.Module, device: torch.device) -> None:
    """Lay out a network for bfloat16, in place.

    On a CPU channels go last, and instance normalization keeps them there: PyTorch's copies every feature map into
    another layout and back. In single precision this does not pay: sums over a window of 128 x 128 x 128 voxels would
    be off by 4e-3, which is what bfloat16 rounds to anyway.

    Raises SetupError when the device has no bfloat16.
    """
    if not has_bf16(device):
        raise SetupError(
            "E-ENV-BF16",
            file="--precision",
            found=f"a device ({device.type}) without bfloat16 instructions, as far as can be told",
            expected="a CPU with AVX512-BF16 or AMX under Linux, or a GPU from 2020 on",
            fix="--precision fp32",
        )
    if device.type != "cpu":
        return
    volumes = any(isinstance(module, nn.Conv3d) for module in network.modules())
    network.to(memory_format=torch.channels_last_3d if volumes else torch.channels_last)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, (nn.InstanceNorm2d, nn.InstanceNorm3d)) and not module.track_running_stats:
            module.forward = _SampleBySample(module)  # type: ignore[method-assign]


def train_in_bf16(network: nn.Module, device: torch.device) -> None:
    """Lay out a network for bfloat16 and let it compute so, in place; its parameters and outputs stay float32.

    Whoever calls it needs no autocast: losses, optimizers and gradients of parameters are those of single precision.

    Raises SetupError when the device has no bfloat16.
    """
    prepare_for_bf16(network, device)
    network.forward = _InBf16(network.forward, device)


class _SampleBySample:
    """Instance normalization in the layout of its input, with the parameters of a module.

    That is batch normalization of batches of one. Group normalization of single channels would be the same, too, but
    where channels are last PyTorch takes ten times as long for its gradient.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        self.norm = norm

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        samples = [
            functional.batch_norm(sample, None, None, norm.weight, norm.bias, training=True, momentum=0.0, eps=norm.eps)
            for sample in features.split(1)
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


class _InBf16:
    """The forward pass of a network in bfloat16, its answer in float32."""

    def __init__(self, forward: Any, device: torch.device) -> None:
        self.forward, self.kind = forward, device.type

    def __call__(self, *inputs: torch.Tensor) -> Any:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            answer = self.forward(*inputs)
        return _float32(answer)


def _float32(answer: Any) -> Any:
    """Return tensors, lists and named tuples of them in float32."""
    if isinstance(answer, torch.Tensor):
        return answer.float()
    parts = [_float32(part) for part in answer]
    return type(answer)(*parts) if hasattr(answer, "_fields") else parts

"""Computing a network in bfloat16, on devices that do so themselves."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from nnunet_spine_ext.core.device import Precision, check_device_name, choose_device
from nnunet_spine_ext.core.errors import SetupError

# As Linux names them, and where.
_X86, _ARM = {"avx512_bf16", "amx_bf16"}, {"bf16"}
_CPUINFO = Path("/proc/cpuinfo")
# Voxels whose statistics are added up at once. PyTorch adds in float32: over a map of 20 x 512 x 512 voxels, most of
# them equal, means were off by 0.15 standard deviations and those by 3 %. Joined of so many, they are right to 0.0001.
_SLAB = 1 << 15


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; without such instructions it would be slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(_instructions() & (_X86 | _ARM))


def chosen_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether a precision means bfloat16 on a device: ``auto`` does on x86 processors that have it.

    It was not measured on others. On a GPU ``auto`` is nnU-Net's mixed precision.
    """
    return precision == "bf16" or (precision == "auto" and device.type == "cpu" and bool(_instructions() & _X86))


def computed_precision(precision: Precision, device: str) -> Literal["fp32", "bf16"]:
    """Return in what networks compute on a device of this machine, by its name; it need not be there.

    Raises UsageError for a name that is none.
    """
    check_device_name(device)
    kind = choose_device(device) if device == "auto" else torch.device(device)
    return "bf16" if chosen_bf16(precision, kind) else "fp32"


@cache
def _instructions() -> frozenset[str]:
    """Return the instructions that Linux says this processor has; elsewhere none, for PyTorch does not tell."""
    if platform.system() != "Linux" or not _CPUINFO.exists():
        return frozenset()
    return frozenset(_CPUINFO.read_text(encoding="utf-8", errors="replace").split())


def prepare_for_bf16(network: nn.Module, device: torch.device) -> None:
    """Lay out a network for bfloat16, in place.

    On a CPU channels go last, and instance normalization keeps them there: PyTorch's copies every feature map into
    another layout and back.

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
    Raises as `prepare_for_bf16`.
    """
    prepare_for_bf16(network, device)
    network.forward = _InBf16(network.forward, device)


def use_single_precision(network: nn.Module) -> None:
    """Undo `prepare_for_bf16` and `train_in_bf16`, in place; a network of another kind stays as it is."""
    changed = [m for m in network.modules() if isinstance(m.__dict__.get("forward"), (_SampleBySample, _InBf16))]
    for module in changed:
        del module.__dict__["forward"]
    if changed:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class _SampleBySample:
    """Instance normalization in the layout of its input, with the parameters of a module.

    That is batch normalization of batches of one. Group normalization of single channels would be the same, too, but
    where channels are last PyTorch takes ten times as long for its gradient.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        self.norm = norm

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        if features[0, 0].numel() == 1:
            msg = f"Expected more than 1 spatial element to normalize, got input size {tuple(features.shape)}"
            raise ValueError(msg)
        norm = self.norm
        samples = [_Normalized.apply(sample, norm.weight, norm.bias, norm.eps) for sample in features.split(1)]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


class _Normalized(torch.autograd.Function):
    """A sample (1, C, *spatial) with every channel standardised, times a weight (C,), plus a bias (C,)."""

    @staticmethod
    def forward(
        ctx: Any, sample: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> torch.Tensor:
        mean, variance = _statistics(sample)
        ctx.save_for_backward(sample, weight, bias, mean, (variance + eps).rsqrt())
        ctx.eps = eps
        return functional.batch_norm(sample, mean, variance, weight, bias, training=False, momentum=0.0, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        sample, weight, bias, mean, scale = ctx.saved_tensors
        wanted = [True, weight is not None, bias is not None]
        found = torch.ops.aten.native_batch_norm_backward(
            gradients[0], sample, weight, None, None, mean, scale, True, ctx.eps, wanted
        )
        return *(gradient if there else None for gradient, there in zip(found, wanted, strict=True)), None


def _statistics(sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance (C,) of a sample (1, C, *spatial), float32, added up slab by slab."""
    # Of a map in bfloat16 PyTorch returns statistics in float32 only where it is given some to update. What it makes of
    # these means nothing.
    unused = torch.zeros(sample.shape[1], dtype=torch.float32)
    voxels = sample.flatten(2)[..., None]
    slabs = voxels.split(_SLAB, dim=2)
    found = [torch.batch_norm_update_stats(slab, unused, unused.clone(), 0.0) for slab in slabs]
    if len(found) == 1:
        return found[0]
    means, variances = (torch.stack(parts).double() for parts in zip(*found, strict=True))
    shares = means.new_tensor([slab.shape[2] / voxels.shape[2] for slab in slabs])[:, None]
    mean = (shares * means).sum(dim=0)
    variance = (shares * (variances + (means - mean).square())).sum(dim=0)
    return mean.float(), variance.float()


class _InBf16:
    """The forward pass of a network in bfloat16, its answer in float32."""

    def __init__(self, forward: Callable[..., Any], device: torch.device) -> None:
        self.forward, self.kind = forward, device.type

    def __call__(self, *inputs: torch.Tensor) -> Any:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            answer = self.forward(*inputs)
        return _float32(answer)


def _float32(answer: Any) -> Any:
    """Return a tensor, or a list or a tuple, named or not, of them in float32."""
    if isinstance(answer, torch.Tensor):
        return answer.float()
    parts = (_float32(part) for part in answer)
    return type(answer)(*parts) if hasattr(answer, "_fields") else type(answer)(parts)

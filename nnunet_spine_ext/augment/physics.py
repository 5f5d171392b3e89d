"""Magnetic-resonance signal equations in torch.

All functions take tensors or numbers that broadcast against each other and return the broadcast shape, so a batch is
written as, for example, tissue parameters (1, T) against protocol parameters (B, 1) -> signals (B, T). Times in ms,
angles in degrees, proton density and signals in the same arbitrary unit. Nothing is random; gradients flow.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

Value: TypeAlias = Tensor | float

GAMMA_MHZ_PER_TESLA = 42.577
FAT_SHIFT_PPM = 3.4
_CYCLES = 20


def spin_echo(pd: Value, t1: Value, t2: Value, *, tr: Value, te: Value) -> Tensor:
    """Spin echo, S = PD |1 - 2 exp(-(TR - TE/2)/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    pd, t1, t2, tr, te = _tensors(pd, t1, t2, tr, te)
    recovery = 1 - 2 * torch.exp(-(tr - te / 2) / t1) + torch.exp(-tr / t1)
    return pd * recovery.abs() * torch.exp(-te / t2)


def turbo_spin_echo(
    pd: Value, t1: Value, t2: Value, *, tr: Value, te: Value, train: Value = 0.0, restore: bool = False
) -> Tensor:
    """Turbo spin echo (TSE, FSE, SPACE) at the effective echo time `te`.

    `train` is echo-train length times echo spacing: magnetisation recovers for TR - train. With `restore` (driven
    equilibrium at the end of the train, as in SPACE) S = PD (1 - E1)/(1 - E1 E2) exp(-TE/T2), E1 over the recovery,
    E2 = exp(-train/T2): without it a SPACE protocol makes fat brighter than cerebrospinal fluid.
    """
    pd, t1, t2, tr, te, train = _tensors(pd, t1, t2, tr, te, train)
    e1 = torch.exp(-(tr - train).clamp_min(0) / t1)
    recovery = 1 - e1
    if restore:
        recovery = recovery / (1 - e1 * torch.exp(-train / t2))
    return pd * recovery * torch.exp(-te / t2)


def gradient_echo(pd: Value, t1: Value, t2star: Value, *, tr: Value, te: Value, flip: Value) -> Tensor:
    """Spoiled gradient echo (FLASH), S = PD sin(a)(1 - E1)/(1 - E1 cos(a)) exp(-TE/T2*)."""
    pd, t1, t2star, tr, te, flip = _tensors(pd, t1, t2star, tr, te, flip)
    angle = torch.deg2rad(flip)
    e1 = torch.exp(-tr / t1)
    return pd * torch.sin(angle) * (1 - e1) / (1 - e1 * torch.cos(angle)) * torch.exp(-te / t2star)


def mt_gradient_echo(
    pd: Value, t1: Value, t2star: Value, saturation: Value, *, tr: Value, te: Value, flip: Value
) -> Tensor:
    """Gradient echo with a magnetisation-transfer pulse before every excitation.

    The pulse takes the part `saturation` (0-1) of the longitudinal magnetisation, the only effect of the bound protons
    (Helms et al., Magn Reson Med 2008;60:1396): S = PD (1 - d) sin(a) (1 - E1)/(1 - (1 - d) E1 cos(a)) exp(-TE/T2*).
    """
    pd, t1, t2star, saturation, tr, te, flip = _tensors(pd, t1, t2star, saturation, tr, te, flip)
    angle = torch.deg2rad(flip)
    e1, left = torch.exp(-tr / t1), 1 - saturation
    steady = left * torch.sin(angle) * (1 - e1) / (1 - left * e1 * torch.cos(angle))
    return pd * steady * torch.exp(-te / t2star)


def diffusion_spin_echo(
    pd: Value, t1: Value, t2: Value, diffusivity: Value, *, tr: Value, te: Value, b: Value
) -> Tensor:
    """Spin echo with diffusion weighting, S = PD (1 - exp(-TR/T1)) exp(-TE/T2) exp(-b D).

    `b` in s/mm2, the mean `diffusivity` D in 1e-3 mm2/s: the geometric mean over directions.
    """
    pd, t1, t2, diffusivity, tr, te, b = _tensors(pd, t1, t2, diffusivity, tr, te, b)
    return pd * (1 - torch.exp(-tr / t1)) * torch.exp(-te / t2) * torch.exp(-1e-3 * b * diffusivity)


def inversion_recovery(pd: Value, t1: Value, t2: Value, *, tr: Value, te: Value, ti: Value) -> Tensor:
    """Inversion recovery (STIR, FLAIR), S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    pd, t1, t2, tr, te, ti = _tensors(pd, t1, t2, tr, te, ti)
    longitudinal = 1 - 2 * torch.exp(-ti / t1) + torch.exp(-tr / t1)
    return pd * longitudinal.abs() * torch.exp(-te / t2)


def prepared_gradient_echo(
    pd: Value,
    t1: Value,
    t2star: Value,
    *,
    tr: Value,
    te: Value,
    ti: Value,
    flip: Value,
    pulses: int,
    echo_spacing: Value,
) -> Tensor:
    """Inversion-prepared gradient echo (MPRAGE), simulated pulse by pulse to the steady state.

    Each of 20 cycles: inversion, recovery until `ti` minus half the train, `pulses` excitations `echo_spacing` apart,
    recovery until `tr`. The signal is that of the pulse in the middle of the train (the centre of k-space).
    """
    pd, t1, t2star, tr, te, ti, flip, step = _tensors(pd, t1, t2star, tr, te, ti, flip, echo_spacing)
    angle = torch.deg2rad(flip)
    middle = pulses // 2
    before = torch.exp(-(ti - middle * step).clamp_min(0) / t1)
    after = torch.exp(-(tr - ti - (pulses - middle) * step).clamp_min(0) / t1)
    between = torch.exp(-step / t1)
    magnetisation = torch.ones_like(pd * t1 * tr)
    signal = torch.zeros_like(magnetisation)
    for _ in range(_CYCLES):
        magnetisation = 1 - (1 + magnetisation) * before
        for pulse in range(pulses):
            if pulse == middle:
                signal = magnetisation
            magnetisation = 1 - (1 - magnetisation * torch.cos(angle)) * between
        magnetisation = 1 - (1 - magnetisation) * after
    return pd * signal.abs() * torch.sin(angle) * torch.exp(-te / t2star)


def fat_phase(te: Value, field_strength: Value) -> Tensor:
    """Phase in radians that fat gains on water until the echo time; pi (mod 2 pi) is opposed phase.

    Spin echoes refocus it: use 0 there.
    """
    te, field_strength = _tensors(te, field_strength)
    hertz = FAT_SHIFT_PPM * GAMMA_MHZ_PER_TESLA * field_strength
    return 2 * math.pi * hertz * te * 1e-3


def water_fat(water: Value, fat: Value, phase: Value) -> Tensor:
    """Magnitude of a voxel that holds both, |W + F exp(i phase)|."""
    water, fat, phase = _tensors(water, fat, phase)
    return torch.sqrt((water + fat * torch.cos(phase)) ** 2 + (fat * torch.sin(phase)) ** 2)


def fat_shift_pixels(field_strength: float, bandwidth: float) -> float:
    """Chemical shift of fat along the frequency direction in pixels; `bandwidth` in Hz per pixel."""
    return FAT_SHIFT_PPM * GAMMA_MHZ_PER_TESLA * field_strength / bandwidth


def _tensors(*values: Value) -> list[Tensor]:
    """Give all values one floating dtype and device: those of the tensors among them."""
    like = next((value for value in values if isinstance(value, Tensor)), None)
    dtype = like.dtype if like is not None else torch.get_default_dtype()
    device = like.device if like is not None else None
    return [torch.as_tensor(value, dtype=dtype, device=device) for value in values]

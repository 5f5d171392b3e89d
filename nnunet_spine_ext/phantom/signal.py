"""From tissues to signal: one water and one fat signal per tissue, and the texture that varies inside a tissue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.augment import physics
from nnunet_spine_ext.phantom.protocols import GRADIENT_ECHOES, Protocol
from nnunet_spine_ext.phantom.tissues import TISSUE_ID, TISSUES, TissueProperties
from nnunet_spine_ext.phantom.weightings import FAT_DIFFUSIVITY, diffusivity, mt_saturation

Array = np.ndarray[Any, np.dtype[Any]]

# Moving blood leaves the slice between excitation and refocusing; in gradient echoes it arrives unsaturated.
FLOW_SPIN_ECHO = 0.06
FLOW_GRADIENT_ECHO = 1.6
# Veins of bone flow slowly and share their voxels with walls and marrow.
VEIN_SPIN_ECHO = 0.6

# Relative amplitudes of the textures (dimensionless); tissues that are not named have none.
_FINE = {"marrow": 0.08, "haemangioma": 0.2, "oedema": 0.08, "modic_fat": 0.08, "sclerosis": 0.2, "organ": 0.05}
_FINE |= {"annulus_outer": 0.1, "annulus_inner": 0.08, "nucleus": 0.05, "nucleus_degenerated": 0.12, "roots": 0.1}
_FINE |= {"muscle": 0.06, "nucleus_dark": 0.12, "ligament": 0.2, "bowel": 0.1, "brain": 0.05, "skin": 0.1}
_COARSE = {"marrow": 0.07, "organ": 0.22, "bowel": 0.55, "brain": 0.1, "muscle": 0.1, "fat": 0.1, "vein": 0.3}
_COARSE |= {"blood_flow": 0.6, "nucleus": 0.06, "epidural_fat": 0.08, "lung": 0.3, "ligament": 0.2}
# Fibrous sheets: fat between muscles, dark septa inside fat.
_SEPTA = {"fat": 0.25, "epidural_fat": 0.1, "bowel": -0.3}
# Fat gathers in some regions of a muscle: weight of the slow field that is added to that of the fibres.
_REGION = 0.9
_REGION_SPREAD = (1 + _REGION**2) ** 0.5


@dataclass(frozen=True)
class SignalTable:
    """Signal of each tissue, float32 (len(TISSUES),): `water`, `fat`; `phase` of fat in radians (0: spin echo)."""

    water: Array
    fat: Array
    phase: float

    @property
    def magnitude(self) -> Array:
        """Signal of a voxel filled with one tissue, (len(TISSUES),)."""
        both = physics.water_fat(torch.from_numpy(self.water), torch.from_numpy(self.fat), self.phase)
        return both.numpy()

    @property
    def key(self) -> tuple[bytes, bytes, float]:
        """Equal for equal tables."""
        return self.water.tobytes(), self.fat.tobytes(), self.phase

    def of(self, name: str) -> float:
        """Return the magnitude of one tissue."""
        return float(self.magnitude[TISSUE_ID[name]])


def signal_table(protocol: Protocol, properties: TissueProperties) -> SignalTable:
    """Evaluate the protocol's signal equation for the water and the fat of every tissue.

    Raises ValueError for CT, whose numbers are those of `weightings.hounsfield`.
    """
    if protocol.sequence == "ct":
        msg = f"{protocol.name} has no magnetic-resonance signal"
        raise ValueError(msg)
    bound, free = mt_saturation(), diffusivity()
    water = _signal(protocol, properties.pd, properties.t1, properties.t2, properties.t2star, bound, free)
    # Fat has no bound pool.
    fat_times = (properties.fat_t1, properties.fat_t2, properties.fat_t2star)
    fat = _signal(protocol, properties.fat_pd, *fat_times, 0.0, FAT_DIFFUSIVITY)
    fat *= protocol.fat
    gradient = protocol.sequence in GRADIENT_ECHOES
    water[TISSUE_ID["blood_flow"]] *= FLOW_GRADIENT_ECHO if gradient else FLOW_SPIN_ECHO
    water[TISSUE_ID["vein"]] *= 1.0 if gradient else VEIN_SPIN_ECHO
    phase = float(physics.fat_phase(protocol.te, properties.field_strength)) if gradient else 0.0
    table = SignalTable(water.astype(np.float32), fat.astype(np.float32), phase)
    return table if protocol.gain == 1 else _stretched(table, protocol.gain)


def _stretched(table: SignalTable, gain: float) -> SignalTable:
    """Raise the ratios of all tissues to the cord to a power."""
    relative = np.maximum(table.magnitude / table.of("cord_wm"), 1e-3)
    factor = (relative ** (gain - 1)).astype(np.float32)
    return SignalTable(table.water * factor, table.fat * factor, table.phase)


def _signal(
    protocol: Protocol,
    pd: Array,
    t1: Array | float,
    t2: Array | float,
    t2star: Array | float,
    bound: Array | float,
    free: Array | float,
) -> Array:
    """Signal of one compartment as float64 (T,); `bound` protons saturate, `free` ones diffuse."""
    density, one, two, star = (torch.as_tensor(value, dtype=torch.float64) for value in (pd, t1, t2, t2star))
    p = protocol
    if p.sequence == "tse":
        signal = physics.turbo_spin_echo(density, one, two, tr=p.tr, te=p.te, train=p.train, restore=p.restore)
    elif p.sequence == "ir":
        signal = physics.inversion_recovery(density, one, two, tr=p.tr, te=p.te, ti=p.ti)
    elif p.sequence == "gre":
        signal = physics.gradient_echo(density, one, star, tr=p.tr, te=p.te, flip=p.flip)
    elif p.sequence == "mt":
        saturation = torch.as_tensor(bound, dtype=torch.float64)
        signal = physics.mt_gradient_echo(density, one, star, saturation, tr=p.tr, te=p.te, flip=p.flip)
    elif p.sequence == "epi":
        diffusion = torch.as_tensor(free, dtype=torch.float64)
        signal = physics.diffusion_spin_echo(density, one, two, diffusion, tr=p.tr, te=p.te, b=p.diffusion)
    else:
        signal = physics.prepared_gradient_echo(
            density, one, star, tr=p.tr, te=p.te, ti=p.ti, flip=p.flip, pulses=p.pulses, echo_spacing=p.echo_spacing
        )
    return signal.numpy()


class Texture:
    """Random fields that vary the signal inside tissues, drawn once per subject and evaluated slab by slab.

    Parameters
    ----------
    extent: size of the volume in mm along (i, j, k).
    vertical: array axis that runs along the body; fibres and fat planes are long in that direction.
    generator: all randomness, used in the constructor only.
    muscle_fat: fat fraction of muscle (0-1), drawn as streaks and planes.
    flow: depth of the voids that moving cerebrospinal fluid leaves (0-1).
    """

    def __init__(
        self, extent: Sequence[float], vertical: int, generator: torch.Generator, *, muscle_fat: float, flow: float
    ) -> None:
        self._fine = _Field(extent, [2.0, 2.0, 2.0], generator)
        self._coarse = _Field(extent, [9.0, 9.0, 9.0], generator)
        self._streak = _Field(extent, _elongated(2.4, 18.0, vertical), generator)
        self._sheet = _Field(extent, _elongated(11.0, 45.0, vertical), generator)
        self._streak.add(_Field(extent, [28.0, 28.0, 28.0], generator), _REGION)
        self._flow = _Field(extent, _elongated(3.5, 12.0, vertical), generator)
        # Planes hold about a third of the fat, streaks the rest; the region's field widens the streaks' distribution.
        self._threshold = NormalDist().inv_cdf(1 - min(0.45, max(0.02, 0.65 * muscle_fat))) * _REGION_SPREAD
        self._depth = flow
        self._fine_depth, self._coarse_depth, self._septa = _lut(_FINE), _lut(_COARSE), _lut(_SEPTA)
        self._fibre = _lut({"muscle": 1.0})
        self._fluid = _lut({"csf": 1.0})

    def factors(self, tissue: Array, slab: slice, count: int) -> tuple[Tensor, Tensor]:
        """Return how signal varies in a slab of sub-slices.

        Parameters
        ----------
        tissue: uint8 (n, X, Y), sub-slices first.
        slab: which of the `count` sub-slices these are.

        Returns
        -------
        Two float32 tensors (n, X, Y): the factor on the tissue's own signal, and the part of fat that replaces muscle.
        """
        shape, index = tissue.shape[1:], tissue_index(tissue)
        # Maps are large: each step writes over the map of the step before.
        sheet = self._sheet(slab, count, shape).div_(0.10).pow_(2).neg_().exp_()
        factor = look_up(self._septa, index).mul_(sheet).neg_().add_(1)
        factor *= self._fine(slab, count, shape).mul_(look_up(self._fine_depth, index)).add_(1)
        factor *= self._coarse(slab, count, shape).mul_(look_up(self._coarse_depth, index)).add_(1)
        if self._depth > 0:
            void = self._flow(slab, count, shape).sub_(1.0).mul_(4).sigmoid_()
            factor *= void.mul_(self._depth).mul_(look_up(self._fluid, index)).neg_().add_(1)
        streak = self._streak(slab, count, shape).sub_(self._threshold).mul_(1.2).add_(0.3).clamp_(0, 0.9)
        streak = torch.maximum(streak, sheet.mul_(0.7), out=streak).mul_(look_up(self._fibre, index))
        return factor.clamp_(0.05, 3.0), streak


class _Field:
    """Gaussian random field of unit variance with a correlation length per axis, sampled on a coarse lattice."""

    def __init__(self, extent: Sequence[float], length: Sequence[float], generator: torch.Generator) -> None:
        counts = [max(2, int(np.ceil(2 * size / step)) + 1) for size, step in zip(extent, length, strict=True)]
        noise = torch.randn([count + 4 for count in counts], generator=generator)
        kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
        kernel = kernel / kernel.norm()
        for axis in range(3):
            taps = [noise.narrow(axis, tap, counts[axis]) for tap in range(5)]
            noise, product = kernel[0] * taps[0], torch.empty_like(taps[0])
            for weight, tap in zip(kernel[1:], taps[1:], strict=True):
                noise += torch.mul(tap, weight, out=product)
        self.lattice = noise.permute(2, 0, 1).contiguous()

    def add(self, other: _Field, weight: float) -> None:
        """Add a slower field."""
        size = tuple(self.lattice.shape)
        slow = torch.nn.functional.interpolate(
            other.lattice[None, None], size=size, mode="trilinear", align_corners=True
        )
        self.lattice = self.lattice + weight * slow[0, 0]

    def __call__(self, slab: slice, count: int, shape: Sequence[int]) -> Tensor:
        """Interpolate to the sub-slices of a slab: float32 (n, X, Y)."""
        position = torch.arange(slab.start, slab.stop, dtype=torch.float32) / max(1, count - 1)
        position = position * (self.lattice.shape[0] - 1)
        low = position.long().clamp(max=self.lattice.shape[0] - 2)
        part = (position - low)[:, None, None]
        planes = self.lattice[low] * (1 - part) + self.lattice[low + 1] * part
        # Linear interpolation loses variance between lattice points; the mean loss per axis is 1/3 at white noise and
        # small for this smoothed lattice, so it is not corrected.
        return torch.nn.functional.interpolate(planes[None], size=tuple(shape), mode="bilinear", align_corners=True)[0]


def tissue_index(tissue: Array) -> Array:
    """Return a tissue map as NumPy looks tables up quickest: converted once for all tables."""
    return tissue.astype(np.intp)


def look_up(table: Array, index: Array) -> Tensor:
    """Return the entry of a float32 table for each element of a `tissue_index`."""
    found = np.empty(index.shape, np.float32)
    # Any other mode copies the result once more.
    return torch.from_numpy(np.take(table, index, out=found, mode="clip"))


def _elongated(across: float, along: float, vertical: int) -> list[float]:
    return [along if axis == vertical else across for axis in range(3)]


def _lut(table: Mapping[str, float]) -> Array:
    return np.array([table.get(name, 0.0) for name in TISSUES], dtype=np.float32)

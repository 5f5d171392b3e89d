"""Scan protocols as data: sequence, times, voxel size, signal-to-noise ratio.

Sources: *read* in sidecars or papers of the cohort named in `description`, else values that are usual in clinics.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from nnunet_spine_ext.core.errors import UsageError

SEQUENCES = ("tse", "ir", "gre", "mprage", "mt", "epi", "ct")
GRADIENT_ECHOES = ("gre", "mprage", "mt")
_BIDS_SUFFIX = {"STIR": "T2w", "DWI": "dwi", "B0": "dwi", "MT": "MTS", "CT": "ct"}
_BIDS_FOLDER = {"dwi": "dwi", "ct": "ct"}
# Entities that a suffix requires, or that say what the file holds: a mean over directions is a reconstruction.
_BIDS_ENTITIES = {"MT": "flip-1_mt-on_", "DWI": "rec-average_", "B0": "rec-average_"}


@dataclass(frozen=True)
class Protocol:
    """One scan protocol; lengths in mm, times in ms, angles in degrees.

    Parameters
    ----------
    name, description: key and one line about its model.
    contrast: the contrast in cases.json; see `suffix` for its name in BIDS.
    sequence: one of `SEQUENCES` (signal equations of `augment.physics`).
    orientation: stored axes (i, j, k); slices always follow k.
    spacing: voxel size along (i, j, k).
    gap: part of the slice distance that is not excited (2-D protocols).
    volume: 3-D encoding: k-space also along k, no slice profile.
    tr, te, ti, flip: repetition, (effective) echo and inversion time, flip angle.
    train: length of the refocusing train; restore: magnetisation is driven back after it.
    fat: signal of fat relative to the equation: low refocusing angles keep its J-coupling (3-D trains).
    pulses, echo_spacing: excitations of one inversion-prepared train and their distance.
    diffusion: b-value in s/mm2 (epi). noise: standard deviation in Hounsfield units before the kernel (ct).
    kernel: full width at half maximum of the reconstruction kernel in mm (ct).
    window: added to the filter that is drawn for k-space. gain: power of the ratios between tissues. bias: peak-to-peak
        shading beside that of the coils. g_factor: largest amplification of noise. coils: combined by root of summed
        squares; 1: with their maps.
    field_strength: tesla, 0 for ct. bandwidth: Hz per pixel, sets the shift of fat.
    resolution: acquired voxel size relative to the stored one along (i, j, k), >= 1.
    snr: white matter over noise at the cord.
    half_width: range of half the extent from left to right in mm; subjects draw from it.
    saturation: probability of a dark band in front of the spine.
    normalised: range of the part of the coils' shading that the scanner removes, 0-1; scans draw from it.
    scatter: relative spread of TR and TE between subjects.
    """

    name: str
    description: str
    contrast: str
    sequence: str
    orientation: str
    spacing: tuple[float, float, float]
    tr: float
    te: float
    field_strength: float
    gap: float = 0.0
    volume: bool = False
    ti: float = 0.0
    flip: float = 90.0
    train: float = 0.0
    restore: bool = False
    fat: float = 1.0
    pulses: int = 0
    echo_spacing: float = 0.0
    bandwidth: float = 220.0
    resolution: tuple[float, float, float] = (1.1, 1.3, 1.0)
    snr: float = 22.0
    half_width: tuple[float, float] = (30.0, 46.0)
    saturation: float = 0.0
    normalised: tuple[float, float] = (0.15, 0.95)
    scatter: float = 0.05
    diffusion: float = 0.0
    noise: float = 0.0
    kernel: float = 0.0
    window: float = 0.0
    gain: float = 1.0
    bias: float = 0.0
    g_factor: float = 1.0
    coils: int = 1

    @property
    def suffix(self) -> str:
        """BIDS suffix: BIDS knows STIR by its weighting alone, so that the sequence goes into the acquisition."""
        return _BIDS_SUFFIX.get(self.contrast, self.contrast)

    @property
    def folder(self) -> str:
        """BIDS folder: anat, dwi, or ct, which BIDS does not know yet."""
        return _BIDS_FOLDER.get(self.suffix, "anat")

    @property
    def entities(self) -> str:
        """Entities of a BIDS name between acquisition and suffix, each with its underscore."""
        return _BIDS_ENTITIES.get(self.contrast, "")

    def with_spacing(self, spacing: Sequence[float] | None) -> Protocol:
        """Return the protocol with another voxel size (i, j, k); raises UsageError if it is not three lengths."""
        if spacing is None:
            return self
        if len(spacing) != 3 or not all(0.2 <= value <= 12 for value in spacing):
            raise UsageError(
                "E-PHANTOM-SPACING",
                found=f"spacing {list(spacing)}",
                expected="three voxel sizes of 0.2-12 mm, in plane, in plane, between slices",
                fix="correct the spacing",
            )
        return replace(self, spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])))


_SAGITTAL, _AXIAL = "PIR", "LPS"
_ALL = (
    Protocol(
        "t2w_sagittal", "3 T sagittal TSE, population-study like (read: 0.86 x 0.86 x 3.3 mm, 3140/101)",
        "T2w", "tse", _SAGITTAL, (0.86, 0.86, 3.3), 3140, 101, 3.0,
        gap=0.1, train=180, saturation=0.35, snr=26,
    ),
    Protocol(
        "t1w_sagittal", "3 T sagittal TSE 600/10 on the grid of t2w_sagittal",
        "T1w", "tse", _SAGITTAL, (0.86, 0.86, 3.3), 600, 10, 3.0,
        gap=0.1, train=30, saturation=0.35, snr=32,
    ),
    Protocol(
        "t2w_sagittal_15t", "1.5 T sagittal TSE, clinical",
        "T2w", "tse", _SAGITTAL, (0.7, 0.7, 4.4), 3500, 105, 1.5,
        gap=0.1, train=200, bandwidth=140, saturation=0.5, snr=22, resolution=(1.1, 1.35, 1.0),
    ),
    Protocol(
        "t1w_sagittal_15t", "1.5 T sagittal TSE, clinical",
        "T1w", "tse", _SAGITTAL, (0.7, 0.7, 4.4), 550, 10, 1.5,
        gap=0.1, train=30, bandwidth=140, saturation=0.5, snr=26, resolution=(1.1, 1.35, 1.0),
    ),
    Protocol(
        "stir_sagittal", "1.5 T sagittal STIR, TI at the null of the table's fat",
        "STIR", "ir", _SAGITTAL, (0.9, 0.9, 4.0), 4500, 45, 1.5,
        gap=0.1, ti=232, bandwidth=160, snr=18, resolution=(1.1, 1.35, 1.0), scatter=0.03,
    ),
    Protocol(
        "t2w_iso", "3 T SPACE, spine-generic (read: 0.8 mm, 1500/120)",
        "T2w", "tse", _SAGITTAL, (0.8, 0.8, 0.8), 1500, 120, 3.0,
        half_width=(26.0, 34.0), volume=True, train=400, restore=True, fat=0.45, bandwidth=625, snr=16,
    ),
    Protocol(
        "t1w_iso", "3 T MPRAGE, spine-generic (read: 1 mm, 2000/3.4/1000, 9 degrees)",
        "T1w", "mprage", _SAGITTAL, (1.0, 1.0, 1.0), 2000, 3.4, 3.0,
        half_width=(60.0, 80.0), volume=True, ti=1000, flip=9, pulses=170, echo_spacing=7.0,
        bandwidth=260, snr=16, scatter=0.02,
    ),
    Protocol(
        "t2w_axial", "1.5 T axial TSE, clinical",
        "T2w", "tse", _AXIAL, (0.6, 0.6, 4.4), 4000, 100, 1.5,
        half_width=(85.0, 95.0), gap=0.1, train=200, bandwidth=140, snr=20, resolution=(1.0, 1.2, 1.0),
    ),
    Protocol(
        "t2star_axial", "3 T axial multi-echo gradient echo, spine-generic (read: 5 mm, 600/14, 30 degrees)",
        "T2starw", "gre", _AXIAL, (0.5, 0.5, 5.0), 600, 14, 3.0,
        half_width=(65.0, 85.0), flip=30, bandwidth=260, snr=24, scatter=0.02,
    ),
    Protocol(
        "mt_axial", "3 T axial gradient echo with MT pulse, spine-generic like (35/3.1, 9 degrees, 0.9 x 0.9 x 5 mm)",
        "MT", "mt", _AXIAL, (0.9, 0.9, 5.0), 35, 3.13, 3.0,
        half_width=(65.0, 85.0), volume=True, flip=9, bandwidth=370, snr=14, resolution=(1.0, 1.1, 1.0), scatter=0.02,
    ),
    Protocol(
        "dwi_axial", "3 T axial spin-echo EPI, b 800 averaged over directions, fat suppressed, low resolution",
        "DWI", "epi", _AXIAL, (0.9, 0.9, 5.0), 3000, 65, 3.0,
        half_width=(40.0, 50.0), fat=0.06, diffusion=800, bandwidth=1100, snr=12, resolution=(1.3, 1.8, 1.0),
    ),
    Protocol(
        "b0_axial", "the image without diffusion weighting of dwi_axial",
        "B0", "epi", _AXIAL, (0.9, 0.9, 5.0), 3000, 65, 3.0,
        half_width=(40.0, 50.0), fat=0.06, bandwidth=1100, snr=14, resolution=(1.3, 1.8, 1.0),
    ),
    Protocol(
        "ct_sagittal", "CT at 120 kV, soft bone kernel, sagittal reformation, Hounsfield units",
        "CT", "ct", _SAGITTAL, (0.8, 0.8, 2.0), 0, 0, 0,
        volume=True, noise=55, kernel=1.0, scatter=0.0, resolution=(1.0, 1.0, 1.0),
    ),
)  # fmt: skip
PROTOCOLS = MappingProxyType({row.name: row for row in _ALL})
"""Name -> protocol."""


def protocol(name: str) -> Protocol:
    """Return a protocol by name; raises UsageError with the nearest name for an unknown one."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.4)
    raise UsageError(
        "E-PHANTOM-PROTOCOL",
        found=f"unknown protocol {name!r}",
        expected=f"one of {', '.join(PROTOCOLS)}",
        fix=f"did you mean {near[0]!r}?" if near else "choose one of these",
    )

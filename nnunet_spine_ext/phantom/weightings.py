"""What tissues do beyond relaxation: bound protons, diffusion, attenuation of X-rays.

Source tags: *known* from the literature without page, *design* our choice. Tissues that are not named have the value of
`_OTHER`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from nnunet_spine_ext.phantom.tissues import TISSUE_TABLE, TISSUES

Array = np.ndarray[Any, np.dtype[np.float64]]

# Magnetisation-transfer ratio of the water (1 minus signal with over signal without pulse) at 3 T, TR 35 ms and 9
# degrees; known: white matter 0.48-0.52, grey 0.42-0.46, muscle 0.45-0.55, disc 0.25-0.35, marrow 0.10-0.20, fluid
# 0.02-0.08, blood 0.10-0.15, fat 0-0.03. Other tissues by their content of water: design.
_MT_RATIO = {
    "cord_wm": 0.50, "cord_gm": 0.44, "roots": 0.46, "brain": 0.46, "muscle": 0.50, "organ": 0.42, "skin": 0.40,
    "ligament": 0.40, "annulus_outer": 0.38, "annulus_inner": 0.34, "nucleus": 0.24, "nucleus_degenerated": 0.28,
    "nucleus_dark": 0.32, "cartilage": 0.40, "marrow": 0.15, "bowel": 0.25, "blood_flow": 0.12, "vein": 0.12,
    "oedema": 0.10, "haemangioma": 0.10, "modic_fat": 0.10, "sclerosis": 0.20, "endplate": 0.30, "csf": 0.04,
    "disc_fissure": 0.06,
}  # fmt: skip
_MT_TR, _MT_FLIP = 35.0, 9.0

# Mean diffusivity in 1e-3 mm2/s; read: white matter 0.93, marrow 0.42; known: grey matter about 1.1 without fluid in
# its voxels, muscle 1.3-1.5, nucleus 1.9 (healthy) to 1.1 (worn), annulus 1.0, oedema 1.0-1.8; others design.
_DIFFUSIVITY = {
    "csf": 3.0, "cord_wm": 0.93, "cord_gm": 1.1, "roots": 1.3, "brain": 0.85, "muscle": 1.4, "organ": 1.3,
    "nucleus": 1.9, "nucleus_degenerated": 1.5, "nucleus_dark": 1.2, "annulus_inner": 1.1, "annulus_outer": 1.0,
    "marrow": 0.42, "oedema": 1.4, "haemangioma": 1.6, "modic_fat": 0.4, "sclerosis": 0.5, "disc_fissure": 2.6,
    "cartilage": 1.2, "bowel": 1.8, "blood_flow": 2.0, "vein": 2.0, "lung": 1.0, "skin": 1.0, "ligament": 0.8,
    "endplate": 0.6,
}  # fmt: skip
FAT_DIFFUSIVITY = 0.05

# CT numbers in Hounsfield units at 120 kV without contrast agent; read: muscle; known: the others (disc 60-110, cord
# 35-40, fluid 5-15); of findings design.
_HOUNSFIELD = {
    "air": -1000, "air_cavity": -1000, "lung": -850, "fat": -100, "epidural_fat": -95, "skin": 30, "muscle": 45,
    "organ": 50, "bowel": 15, "blood_flow": 40, "vein": 40, "brain": 36, "csf": 10, "cord_wm": 36, "cord_gm": 40,
    "roots": 34, "ligament": 60, "cartilage": 90, "annulus_outer": 100, "annulus_inner": 90, "nucleus": 75,
    "nucleus_degenerated": 80, "nucleus_dark": 85, "disc_fissure": 25, "marrow": 180, "cortical": 950, "endplate": 480,
    "oedema": 150, "haemangioma": 90, "modic_fat": 120, "sclerosis": 650,
}  # fmt: skip

_OTHER = MappingProxyType({"ratio": 0.0, "diffusivity": 1.0, "hounsfield": 0.0})


def mt_saturation() -> Array:
    """Return the part of magnetisation that one pulse takes, 0-1, float64 (len(TISSUES),).

    The one with which `physics.mt_gradient_echo` has the ratios of the table in the protocol that they are known for.
    """
    ratio = _values(_MT_RATIO, _OTHER["ratio"])
    t1 = np.array([TISSUE_TABLE[name].t1[1] for name in TISSUES])
    kept = np.exp(-_MT_TR / t1) * np.cos(np.deg2rad(_MT_FLIP))
    return 1 - (1 - ratio) / (1 - ratio * kept)


def diffusivity() -> Array:
    """Return the mean diffusivity of water in 1e-3 mm2/s, float64 (len(TISSUES),)."""
    return _values(_DIFFUSIVITY, _OTHER["diffusivity"])


def hounsfield(marrow_fat: float | None = None) -> Array:
    """Return CT numbers, float64 (len(TISSUES),).

    `marrow_fat`: fat fraction of marrow; bone is lost where fat is gained, 230 HU at 0.22 and 90 HU at 0.6 (known:
    220 in the third decade, 100 in the ninth).
    """
    values = _values(_HOUNSFIELD, _OTHER["hounsfield"])
    if marrow_fat is not None:
        values[TISSUES.index("marrow")] = float(np.interp(marrow_fat, (0.22, 0.60), (230.0, 90.0)))
    return values


def _values(table: dict[str, Any], other: float) -> Array:
    return np.array([table.get(name, other) for name in TISSUES], dtype=np.float64)

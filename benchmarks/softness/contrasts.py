"""The six contrasts of the Spine-Generic protocol that the paper trains on, others for tests, and what each covers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnunet_spine_ext.phantom.protocols import PROTOCOLS, Protocol

LONG = (0.7, 9.9)
"""Levels (C1 = 1) that sagittal scans cover, to T2."""
SHORT = (1.3, 7.2)
"""Levels that axial scans cover."""
LEVELS = (1.5, 3.5)
"""Where areas are compared, as in the paper: C2 and C3 with the discs between; every contrast covers it."""


@dataclass(frozen=True)
class Contrast:
    """A protocol, the levels it covers, and what is seen beside the cord: left and right, in front and behind (mm)."""

    name: str
    protocol: Protocol
    levels: tuple[float, float]
    half: tuple[float, float] = (42.0, 45.0)


# Read in the protocol of Spine-Generic: GRE-T1w is the MT scan without pulse, TR 11 ms, 15 degrees.
_GRE = replace(
    PROTOCOLS["mt_axial"], name="gre_t1w_axial", description="3 T axial gradient echo (11/3.1, 15 degrees)",
    contrast="T1w", sequence="gre", tr=11.0, flip=15.0,
)  # fmt: skip

# The signal equation has resting fluid; in the neck it moves, arrives fresh and is bright. A smaller angle (30 degrees
# in the protocol) saturates it as little.
_T2STAR = replace(PROTOCOLS["t2star_axial"], flip=12.0)

TRAINED = {
    row.name: row
    for row in (
        Contrast("T1w", PROTOCOLS["t1w_iso"], LONG),
        Contrast("T2w", PROTOCOLS["t2w_iso"], LONG),
        Contrast("T2star", _T2STAR, SHORT),
        Contrast("MT-on", PROTOCOLS["mt_axial"], SHORT),
        Contrast("GRE-T1w", _GRE, SHORT),
        Contrast("DWI", PROTOCOLS["dwi_axial"], SHORT),
    )
}
"""Contrasts that are trained on."""

UNSEEN = {
    row.name: row
    for row in (
        # Slices of 2 mm: clinical ones of 4 mm would leave three over the cord, whatever the network.
        Contrast("STIR", PROTOCOLS["stir_sagittal"].with_spacing((0.9, 0.9, 2.0)), LONG),
        Contrast("B0", PROTOCOLS["b0_axial"], SHORT),
    )
}
"""Contrasts that no arm sees in training: T2-weighted with fat suppressed, and the EPI without diffusion weighting."""

LUMBAR = Contrast("T2w", PROTOCOLS["t2w_iso"], (22.0, 25.0))
"""The same scan where there is no cord any more."""

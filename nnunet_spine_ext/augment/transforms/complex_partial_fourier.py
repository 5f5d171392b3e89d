"""Partial Fourier acquisition of an object with a phase, with complex numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, pick_one, require_some
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import half_coverage, smooth_phase
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params

_COEFFICIENTS = 5


@dataclass(frozen=True, kw_only=True)
class ComplexPartialFourier(Acquired, stage="kspace"):
    """Acquire a `fraction` of the lines of k-space of a signal whose phase varies smoothly over the slice.

    `phase`: its largest value in radians. `recon`: "zero_fill" takes the magnitude as it is; "homodyne" weights what
    has no opposite double, estimates the phase from the symmetric part and takes the real part: it fails where the
    phase varies fast.
    """

    p: float = 0.05
    fraction: Range = spread([0.55, 0.85], limits=(0.5, 1.0), neutral=1.0)
    phase: Range = spread([0.0, 3.0], limits=(0.0, 100.0), neutral=0.0)
    recon: tuple[Literal["zero_fill", "homodyne"], ...] = ("zero_fill", "homodyne")

    def __post_init__(self) -> None:
        """Refuse an empty list of reconstructions."""
        super().__post_init__()
        require_some(self.name, "recon", self.recon)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw axis, side, fraction and phase."""
        return {
            "slice_axis": self.through_plane_axis(rng, context),
            "axis": int(rng.integers(2)),
            "side": pick_one(rng, (-1, 1)),
            "fraction": self.draw(rng, "fraction", context),
            "peak": self.draw(rng, "phase", context),
            "coefficients": rng.standard_normal(_COEFFICIENTS).tolist(),
            "recon": pick_one(rng, self.recon),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add coverage and phase."""
        if params["fraction"] >= 1:
            return
        plane = builder.plane(index, params["slice_axis"])
        homodyne = params["recon"] == "homodyne"
        weights, symmetric = half_coverage(plane, params["axis"], params["fraction"], params["side"], homodyne=homodyne)
        phase = smooth_phase(plane, params["coefficients"], params["peak"]) if params["peak"] > 0 else None
        builder.receive(index, params["channels"], weights, symmetric if homodyne else None, phase)

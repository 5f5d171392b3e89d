"""Motion during the acquisition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.acquiring import Acquired, pick_one, require_some
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import displacement, line_segments
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params

_MOST_SHOTS = 12


@dataclass(frozen=True, kw_only=True)
class Motion(Acquired, stage="kspace"):
    """The patient lies still, moves, lies still again: lines of k-space stem from several positions.

    `positions`: how many. `translation`: mm within the slice, in either direction along both axes; exact. `rotation`:
    degrees within the slice, and `through_plane`: mm across it, are those of one second pose, taken in about half of
    the positions: its k-space is that of the resampled image. `order`: "sequential" lines, or "interleaved" in shots.
    The middle of k-space is acquired at the place where the labels are. The patch is taken for periodic: what leaves it
    at one end within the slice comes in, faintly, at the other.
    """

    p: float = 0.05
    positions: Range = spread([2.0, 6.0], limits=(2, 64))
    translation: Range = spread([0.3, 1.5], limits=(0.0, 100.0), neutral=0.0)
    rotation: Range = spread([0.0, 1.5], limits=(0.0, 90.0), neutral=0.0)
    through_plane: Range = spread([0.0, 1.0], limits=(0.0, 100.0), neutral=0.0)
    order: tuple[Literal["sequential", "interleaved"], ...] = ("sequential", "interleaved")

    def __post_init__(self) -> None:
        """Refuse an empty list of orders."""
        super().__post_init__()
        require_some(self.name, "order", self.order)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw times and positions."""
        across = self.through_plane_axis(rng, context)
        count = round(self.draw(rng, "positions", context))
        reach = self.draw(rng, "translation", context)
        order = pick_one(rng, self.order)
        shots = int(rng.integers(2, _MOST_SHOTS + 1))
        return {
            "slice_axis": across,
            "phase": int(rng.integers(2)),
            "shots": 1 if order == "sequential" else shots,
            "edges": sorted(float(v) for v in rng.random(count - 1)),
            "shifts": rng.uniform(-reach, reach, (count, 2)).tolist(),
            "posed": [bool(v) for v in rng.random(count) < 0.5],
            "degrees": self.draw(rng, "rotation", context) * pick_one(rng, (-1.0, 1.0)),
            "through_plane": self.draw(rng, "through_plane", context) * pick_one(rng, (-1.0, 1.0)),
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the positions, seen from that in which frequency zero is acquired."""
        plane = builder.plane(index, params["slice_axis"])
        phase = params["phase"]
        segments = line_segments(plane.shape[phase], params["edges"], params["shots"])
        shifts, posed = np.array(params["shifts"]), np.array(params["posed"])
        moved = displacement(plane, phase, segments, shifts - shifts[segments[0]])
        away = (posed != posed[segments[0]])[segments]
        lines = np.broadcast_to(away if phase == 1 else away[:, None], plane.shape)
        slices = 0.0 if plane.slice_axis is None else params["through_plane"] / context.spacing[plane.slice_axis]
        builder.move(index, params["channels"], moved, lines, params["degrees"], slices)

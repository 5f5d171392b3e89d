"""Landmarks in the manner of Nyúl and Udupa (Magn Reson Med 1999): deciles of the body, saved and loaded as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.curves import PROBABILITIES
from nnunet_spine_ext.harmonize.reference import ChannelReference

LANDMARKS = np.asarray([0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
_KIND = "nyul_landmarks"


@dataclass(frozen=True, eq=False)
class NyulLandmarks:
    """Intensities of the standard scale at probabilities of the body; shape (n,) each, both increasing."""

    probabilities: Array
    values: Array

    def to_dict(self) -> dict[str, Any]:
        """Return the landmarks as plain JSON."""
        return {
            "kind": _KIND,
            "version": 1,
            "probabilities": [round(float(p), 6) for p in self.probabilities],
            "values": [round(float(v), 6) for v in self.values],
        }


def landmarks_of(reference: ChannelReference) -> NyulLandmarks:
    """Return the landmarks of a reference, in its own units."""
    return NyulLandmarks(LANDMARKS, reference.absolute(np.interp(LANDMARKS, PROBABILITIES, reference.mean)))


def save_landmarks(path: str | Path, landmarks: NyulLandmarks) -> Path:
    """Write landmarks as JSON."""
    write_json(path, landmarks.to_dict())
    return Path(path)


def load_landmarks(path: str | Path) -> NyulLandmarks:
    """Read landmarks.

    Raises
    ------
    CaseError: a file that is missing, is no JSON, or whose numbers are no landmarks.
    """
    content = read_json(path)
    try:
        if content["kind"] != _KIND:
            raise KeyError("kind")
        probabilities, values = (np.asarray(content[key], dtype=np.float64) for key in ("probabilities", "values"))
        right = probabilities.shape == values.shape and values.ndim == 1 and values.size >= 2
        right = right and bool(np.isfinite(values).all()) and bool((np.diff(values) >= 0).all())
        right = right and bool((np.diff(probabilities) > 0).all()) and probabilities[0] >= 0 and probabilities[-1] <= 1
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise CaseError(
            "E-MATCH-LANDMARKS",
            file=path,
            found="no landmarks",
            expected=f'"kind": "{_KIND}", increasing "probabilities" within 0 and 1, and as many "values" that do not '
            "decrease",
            fix="write the file with save_landmarks",
        )
    return NyulLandmarks(probabilities, values)

"""Let the Spinal Cord Toolbox measure cords of `section_builder`, and store its numbers.

    git clone https://github.com/spinalcordtoolbox/spinalcordtoolbox SCT
    python tests/oracles/make_cord_area.py --sct SCT --fixture tests/fixtures/sct_cord_area.json

Runs the toolbox' own `compute_shape` out of a checkout. It needs numpy, scipy, scikit-image and nibabel, which this
project's own environment has; packages that other parts of the toolbox import (scikit-learn, ...) are stood in for, and
so is the one function of those that is called, the centre of a mask. Only numbers, versions and the commit are stored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import section_builder

ABSENT = (
    "wquantiles",
    "sklearn",
    "portalocker",
    "psutil",
    "dipy",
    "requests_toolbelt",
    "git",
    "loguru",
    "transforms3d",
)
SMOOTHING = 30
# The toolbox' names of our columns.
NAMES = {
    "area": "area",
    "angle_ap": "angle_AP",
    "angle_rl": "angle_RL",
    "diameter_ap": "diameter_AP",
    "diameter_ap_ellipse": "diameter_AP_ellipse",
    "diameter_rl": "diameter_RL",
    "length_anterior": "length_anterior",
    "length_posterior": "length_posterior",
    "eccentricity": "eccentricity",
    "orientation": "orientation",
    "solidity": "solidity",
    "length": "length",
}


class StandIn:
    """Imports packages that are not there as objects that do nothing."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec for what is stood in for."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in ABSENT else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


def measured(process_seg: Any, param: Any, name: str) -> dict[str, list[float | None]]:
    """Return the toolbox' measures of one cord, from its first to its last slice."""
    from nnunet_spine_ext.core.io import write_volume

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cord.nii.gz"
        write_volume(section_builder.ORACLE_CORDS[name](), path)
        metrics, _ = process_seg.compute_shape(str(path), param_centerline=param, verbose=0)
    area = np.asarray(metrics["area"].data)
    used = np.flatnonzero(np.isfinite(area))
    table: dict[str, list[float | None]] = {"slice": list(range(int(used[0]), int(used[-1]) + 1))}
    for own, theirs in NAMES.items():
        values = np.asarray(metrics[theirs].data)[used[0] : used[-1] + 1]
        table[own] = [float(value) if np.isfinite(value) else None for value in values]
    return table


def toolbox_of(checkout: Path, smoothing: float) -> tuple[Any, Any]:
    """Import the toolbox out of a checkout; return its module `process_seg` and the parameters of its centreline."""
    sys.meta_path.append(StandIn())  # type: ignore[arg-type]
    sys.path.insert(0, str(checkout))
    from spinalcordtoolbox import process_seg
    from spinalcordtoolbox.centerline.core import ParamCenterline

    def centre(mask: np.ndarray) -> tuple[None, None, np.ndarray]:
        return None, None, np.argwhere(mask.round().astype(int)).mean(axis=0)

    process_seg.compute_pca = centre
    return process_seg, ParamCenterline(smooth=smoothing)


def main() -> None:
    """Write the fixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sct", required=True, type=Path, help="checkout of the toolbox")
    parser.add_argument("--fixture", required=True, type=Path)
    arguments = parser.parse_args()
    process_seg, param = toolbox_of(arguments.sct, SMOOTHING)
    commit = subprocess.run(
        ["git", "-C", str(arguments.sct), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    content = {
        "made_by": "tests/oracles/make_cord_area.py",
        "versions": {"spinalcordtoolbox": commit}
        | {name: version(name) for name in ("numpy", "scipy", "scikit-image", "nibabel")},
        "smoothing": SMOOTHING,
        "cords": {name: measured(process_seg, param, name) for name in section_builder.ORACLE_CORDS},
    }
    arguments.fixture.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

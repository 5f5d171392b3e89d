"""Names and colours of the label ids in a prediction folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.core.labels import SCHEMES, Colour, colours_for, instance_name
from nnunet_spine_ext.render.colours import palette

_SNAP_LINE = re.compile(r'^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+\S+\s+\S+\s+\S+\s+"(.*)"\s*$')
# Ids from here on have a fixed meaning even where nothing is numbered.
FIRST_SACRAL = 26
_MIDLINE = ("cord", "canal", "spinal cord", "spinal canal", "spinal_cord", "spinal_canal")
_BODIES = ("corpus", "disc", "sacrum", "vertebra", "vertebrae", "dens")


@dataclass(frozen=True)
class Naming:
    """Names and colours by id; `midline` and `bodies` are the ids that tell where the spine's middle is."""

    labels: Mapping[int, str]
    colours: Mapping[int, Colour]

    def name(self, label: int) -> str:
        """Return the name of an id, ``label 7`` for an unknown one."""
        return self.labels.get(label, f"label {label}")

    def colour(self, label: int) -> Colour:
        """Return the colour of an id."""
        return self.colours.get(label) or palette([label]).colours[0]

    @property
    def midline(self) -> tuple[int, ...]:
        """Ids of cord and canal."""
        return tuple(n for n, name in self.labels.items() if name.lower() in _MIDLINE)

    @property
    def bodies(self) -> tuple[int, ...]:
        """Ids of vertebral bodies and discs."""
        return tuple(n for n, name in self.labels.items() if name.lower() in _BODIES)

    @property
    def is_nnunet14(self) -> bool:
        """Whether the ids are those of the 14 training classes."""
        return dict(self.labels) == dict(SCHEMES["nnunet14"].labels)


def naming_of(folder: Path, run: Mapping[str, Any]) -> Naming:
    """Return the names from dataset.json, else labels_itksnap.txt, else run.json, else those of the 14 classes.

    nnU-Net writes dataset.json into its prediction folders; ours also hold a label table.
    """
    snap_labels, snap_colours = _itksnap(folder / "labels_itksnap.txt")
    labels = _dataset_labels(folder / "dataset.json") or snap_labels or _plain_labels(run.get("labels"))
    if not labels:
        return Naming(SCHEMES["nnunet14"].labels, SCHEMES["nnunet14"].colours)
    by_name = {name: SCHEMES["nnunet14"].colours[n] for n, name in SCHEMES["nnunet14"].labels.items()}
    fallback = colours_for(labels)
    # One structure keeps its colour from report to report, whatever its id in this data set.
    colours = {n: snap_colours.get(n) or by_name.get(name) or fallback[n] for n, name in labels.items()}
    return Naming(labels, colours)


def instance_naming(*, numbered: bool) -> Naming:
    """Return names of instance ids; without anatomical numbers a vertebra is ``v3``: third in its own count."""
    scheme = SCHEMES["instances"]
    if numbered:
        return Naming({n: instance_name(n) for n in scheme.labels}, scheme.colours)
    kinds = ("v", "disc v", "endplate v")
    names = {n: f"{kinds[n // 100]}{n % 100}" if n % 100 < FIRST_SACRAL else instance_name(n) for n in scheme.labels}
    return Naming(names | {FIRST_SACRAL: "sacrum"}, scheme.colours)


def _dataset_labels(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    try:
        return _plain_labels(read_json(path).get("labels"))
    except (CaseError, AttributeError):
        return {}


def _plain_labels(table: Any) -> dict[int, str]:
    """Return {id: name} from nnU-Net's {name: id} or from {id: name}; regions (several ids) are left out."""
    if not isinstance(table, Mapping):
        return {}
    labels: dict[int, str] = {}
    for key, value in table.items():
        if isinstance(value, int):
            labels[value] = str(key)
        elif isinstance(value, str) and str(key).isdigit():
            labels[int(key)] = value
    return {n: name for n, name in sorted(labels.items()) if n > 0 and name != "ignore"}


def _itksnap(path: Path) -> tuple[dict[int, str], dict[int, Colour]]:
    labels: dict[int, str] = {}
    colours: dict[int, Colour] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = _SNAP_LINE.match(line)
            if match and int(match[1]) > 0:
                labels[int(match[1])] = match[5]
                colours[int(match[1])] = (int(match[2]), int(match[3]), int(match[4]))
    return labels, colours

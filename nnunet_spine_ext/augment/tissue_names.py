"""From the names that a data set gives its labels to the tissues that transforms know.

Names are read as words, whatever joins them, in any case: those of the known schemes, and those that other software of
the field writes, such as `Vertebra_Corpus_border` or `disc_C2_C3`. What holds several tissues, such as whole vertebrae,
has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from nnunet_spine_ext.augment.tissues import TISSUES, classes_of_scheme
from nnunet_spine_ext.core.labels import SCHEMES

# The first row that shares a word with a name decides: "endplate disc L4" is an endplate, "disc S1" a disc.
_WORDS = (
    ("endplate", {"endplate", "endplates"}),
    ("disc", {"disc", "discs", "disk", "disks", "intervertebral", "ivd", "ivds"}),
    ("csf", {"canal", "cerebrospinal", "csf", "thecal"}),
    ("cord", {"cord"}),
    (
        "bone",
        {"arcus", "arch", "articular", "costal", "lamina", "laminae", "pedicle", "pedicles", "process", "spinosus"},
    ),
    ("bone", {"processes", "spinous", "transverse"}),
    ("marrow", {"corpus", "dens", "marrow"}),
    ("sacrum", {"sacrum"}),
    ("muscle", {"muscle", "muscles"}),
    ("fat", {"fat"}),
)
_BODY = {"vertebra", "vertebrae", "vertebral"}
_NO_TISSUE = {"background", "ignore"}


@dataclass(frozen=True)
class NamedTissues:
    """`classes`: tissue of each label id. `unknown`: names that say nothing of a tissue, in their order."""

    classes: Mapping[int, str]
    unknown: tuple[str, ...]


def tissues_of_names(labels: Mapping[str, Any]) -> NamedTissues:
    """Return what a data set's labels are made of, by their names.

    `labels`: as in `dataset.json`, from a name to an id or, for a region, to several ids; the name of the smallest
    region that says a tissue counts for an id.
    """
    classes: dict[int, str] = {}
    unknown = []
    regions = {name: ids for name, value in labels.items() if (ids := _ids(value)) and name not in _NO_TISSUE}
    for name in sorted(regions, key=lambda name: -len(regions[name])):
        tissue = tissue_of_name(name)
        if tissue is not None:
            classes |= dict.fromkeys(regions[name], tissue)
    for name, ids in regions.items():
        if tissue_of_name(name) is None and not classes.keys() >= set(ids):
            unknown.append(name)
    return NamedTissues({label: name for label, name in sorted(classes.items()) if label != 0}, tuple(unknown))


def tissue_of_name(name: str) -> str | None:
    """Return the tissue (`augment.tissues.TISSUES`) that a label's name says, or None."""
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", name.lower())
    plain = " ".join(words)
    if plain in TISSUES:
        return plain
    if plain in _of_schemes():
        return _of_schemes()[plain]
    said = set(words)
    for tissue, known in _WORDS:
        if said & known:
            return tissue
    return "marrow" if "body" in said and said & _BODY else None


@cache
def _of_schemes() -> dict[str, str]:
    """Return the tissue of every name of a known scheme that has one."""
    return {
        scheme.labels[label].lower(): tissue
        for name, scheme in SCHEMES.items()
        for label, tissue in classes_of_scheme(name).items()
    }


def _ids(value: Any) -> tuple[int, ...]:
    listed: Iterable[Any] = value if isinstance(value, list | tuple) else (value,)
    return tuple(int(label) for label in listed if int(label) != 0)

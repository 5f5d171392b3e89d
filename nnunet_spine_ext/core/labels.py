"""Label schemes, their mappings, colours and names: the one table.

Sources of the ids: SPINEPS semantic and instance labels, SPIDER, VerSe, TotalSpineSeg, TotalSegmentator (v2 and MR).
"""

from __future__ import annotations

import colorsys
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.volume import Array

Colour = tuple[int, int, int]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelScheme:
    """Ids, names, colours (RGB 0-255) and left/right pairs of one labelling; 0 is background and not listed."""

    name: str
    labels: Mapping[int, str]
    sided_pairs: tuple[tuple[int, int], ...] = ()
    colours: Mapping[int, Colour] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelMapping:
    """A translation of ids between two schemes.

    Parameters
    ----------
    table: every id of the source; 0 drops it, because the target has nothing like it.
    kind: bijective if each id comes back from the target, else lossy.
    lost: in words, what cannot come back.
    instead: id to rows that replace those of the table in arrays that hold this id.
    """

    source: str
    target: str
    table: Mapping[int, int]
    kind: Literal["bijective", "lossy"]
    lost: tuple[str, ...] = ()
    instead: Mapping[int, Mapping[int, int]] = field(default_factory=dict)


VERTEBRAE: dict[int, str] = {
    **{n: f"C{n}" for n in range(1, 8)},
    **{7 + n: f"T{n}" for n in range(1, 13)},
    **{19 + n: f"L{n}" for n in range(1, 7)},
    26: "S1",
    27: "coccyx",
    28: "T13",
    29: "S2",
    30: "S3",
    31: "S4",
    32: "S5",
    33: "S6",
}
# From head to tail; ids are not monotone because T13 is 28.
VERTEBRA_ORDER: tuple[int, ...] = (*range(1, 20), 28, *range(20, 27), *range(29, 34), 27)
DISC_OFFSET = 100
ENDPLATE_OFFSET = 200


def vertebra_name(vertebra: int) -> str:
    """Return the name of a vertebra id (1 is C1, 20 is L1, 28 is T13); raises KeyError for other ids."""
    return VERTEBRAE[vertebra]


def vertebra_id(name: str) -> int:
    """Return the id of a vertebra name; raises KeyError for unknown names."""
    return {label: key for key, label in VERTEBRAE.items()}[name]


def instance_name(instance: int) -> str:
    """Return the name of an instance id: a vertebra, ``disc below L4`` (100+n), ``endplates of L4`` (200+n)."""
    if instance >= ENDPLATE_OFFSET and instance - ENDPLATE_OFFSET in VERTEBRAE:
        return f"endplate {VERTEBRAE[instance - ENDPLATE_OFFSET]}"
    if instance >= DISC_OFFSET and instance - DISC_OFFSET in VERTEBRAE:
        return f"disc {VERTEBRAE[instance - DISC_OFFSET]}"
    return VERTEBRAE.get(instance, f"instance {instance}")


def _spread(count: int, saturation: float = 0.65, value: float = 0.95) -> list[Colour]:
    """Return colours far apart for neighbours: hues step by the golden ratio."""
    colours = []
    for k in range(count):
        r, g, b = colorsys.hsv_to_rgb((0.08 + k * 0.61803398875) % 1.0, saturation, value)
        colours.append((round(r * 255), round(g * 255), round(b * 255)))
    return colours


_SPINEPS_LABELS = {
    26: "sacrum",
    41: "arcus",
    42: "spinous process",
    43: "costal process left",
    44: "costal process right",
    45: "superior articular process left",
    46: "superior articular process right",
    47: "inferior articular process left",
    48: "inferior articular process right",
    49: "corpus",
    50: "corpus inner",
    51: "dens",
    52: "endplate superior",
    53: "endplate inferior",
    60: "cord",
    61: "canal",
    62: "endplate",
    100: "disc",
}
_NNUNET14_OF_SPINEPS = {
    26: 1, 41: 2, 42: 3, 43: 4, 44: 5, 45: 6, 46: 7, 47: 8, 48: 9, 49: 10, 50: 10, 51: 10, 60: 11, 61: 12,
    62: 13, 52: 13, 53: 13, 100: 14,
}  # fmt: skip
_COLOURS14: dict[int, Colour] = {
    1: (176, 122, 161), 2: (89, 161, 79), 3: (237, 201, 72), 4: (255, 157, 167), 5: (225, 87, 89),
    6: (156, 117, 224), 7: (118, 79, 196), 8: (120, 200, 220), 9: (40, 140, 170), 10: (78, 121, 167),
    11: (255, 242, 140), 12: (134, 188, 182), 13: (186, 176, 172), 14: (242, 142, 43),
}  # fmt: skip
_NNUNET14 = {n: _SPINEPS_LABELS[next(s for s, t in _NNUNET14_OF_SPINEPS.items() if t == n)] for n in range(1, 15)}
NNUNET14_SIDED = ((4, 5), (6, 7), (8, 9))
_SPINEPS_COLOURS: dict[int, Colour] = {s: _COLOURS14[t] for s, t in _NNUNET14_OF_SPINEPS.items()} | {
    50: (120, 160, 200), 51: (60, 90, 140), 52: (210, 200, 190), 53: (150, 140, 135),
}  # fmt: skip
_INSTANCES = {
    **VERTEBRAE,
    **{DISC_OFFSET + n: f"disc {name}" for n, name in VERTEBRAE.items()},
    **{ENDPLATE_OFFSET + n: f"endplate {name}" for n, name in VERTEBRAE.items()},
}
_SPIDER = {
    **{n: f"vertebra {n} from below" for n in range(1, 26)},
    100: "canal",
    **{100 + n: f"vertebra {n} from below, partly visible" for n in range(1, 26)},
    **{200 + n: f"disc below vertebra {n} from below" for n in range(1, 26)},
}
_VERSE = {
    **{n: VERTEBRAE[n] for n in range(1, 26)},
    26: "sacrum",
    27: "coccyx",
    28: "T13",
}
_TOTALSPINESEG = {
    1: "cord",
    2: "canal",
    **{10 + n: f"C{n}" for n in range(1, 8)},
    **{20 + n: f"T{n}" for n in range(1, 13)},
    **{40 + n: f"L{n}" for n in range(1, 7)},
    50: "sacrum",
    **{61 + n: f"disc C{n}" for n in range(2, 7)},
    71: "disc C7",
    **{71 + n: f"disc T{n}" for n in range(1, 12)},
    91: "disc T12",
    **{91 + n: f"disc L{n}" for n in range(1, 6)},
    100: "disc above the sacrum",
}
_TOTALSEGMENTATOR = {
    25: "sacrum",
    26: "S1",
    **{27 + k: f"L{5 - k}" for k in range(5)},
    **{32 + k: f"T{12 - k}" for k in range(12)},
    **{44 + k: f"C{7 - k}" for k in range(7)},
    79: "cord",
}
_TOTALSEGMENTATOR_MR = {18: "sacrum", 19: "vertebrae", 20: "disc", 21: "cord"}


def _palette(labels: Mapping[int, str]) -> dict[int, Colour]:
    return dict(zip(labels, _spread(len(labels)), strict=True))


def _instance_colours() -> dict[int, Colour]:
    """Vertebra, disc and endplate of one level share a hue; discs are lighter, endplates darker."""
    colours: dict[int, Colour] = {}
    for k, vertebra in enumerate(VERTEBRA_ORDER):
        for offset, saturation, value in ((0, 0.65, 0.95), (DISC_OFFSET, 0.35, 1.0), (ENDPLATE_OFFSET, 0.7, 0.65)):
            r, g, b = colorsys.hsv_to_rgb((0.55 + k * 0.61803398875) % 1.0, saturation, value)
            colours[offset + vertebra] = (round(r * 255), round(g * 255), round(b * 255))
    return colours


SCHEMES: dict[str, LabelScheme] = {
    "spineps": LabelScheme("spineps", _SPINEPS_LABELS, ((43, 44), (45, 46), (47, 48)), _SPINEPS_COLOURS),
    "nnunet14": LabelScheme("nnunet14", _NNUNET14, NNUNET14_SIDED, _COLOURS14),
    "instances": LabelScheme("instances", _INSTANCES, (), _instance_colours()),
    "spider": LabelScheme("spider", _SPIDER, (), _palette(_SPIDER)),
    "verse": LabelScheme("verse", _VERSE, (), {n: _instance_colours()[n] for n in _VERSE}),
    "totalspineseg": LabelScheme("totalspineseg", _TOTALSPINESEG, (), _palette(_TOTALSPINESEG)),
    "totalsegmentator": LabelScheme("totalsegmentator", _TOTALSEGMENTATOR, (), _palette(_TOTALSEGMENTATOR)),
    "totalsegmentator_mr": LabelScheme("totalsegmentator_mr", _TOTALSEGMENTATOR_MR, (), _palette(_TOTALSEGMENTATOR_MR)),
}


def _by_name(source: str, target: str, rename: Mapping[str, str] | None = None) -> dict[int, int]:
    """Pair ids whose names agree (after renaming source names)."""
    ids = {name: key for key, name in SCHEMES[target].labels.items()}
    renamed = {key: (rename or {}).get(name, name) for key, name in SCHEMES[source].labels.items()}
    return {key: ids[name] for key, name in renamed.items() if name in ids}


def _translation(
    source: str, target: str, table: Mapping[int, int], instead: Mapping[int, Mapping[int, int]] | None = None
) -> LabelMapping:
    """Complete a table (what it does not name is dropped) and say what is lost."""
    names, wanted = SCHEMES[source].labels, SCHEMES[target].labels
    complete = {key: table.get(key, 0) for key in names}
    sources: dict[int, list[str]] = {}
    for key, value in complete.items():
        sources.setdefault(value, []).append(names[key])
    lost = [f"{' and '.join(merged)} become {wanted[key]}" for key, merged in sources.items() if key and merged[1:]]
    if sources.get(0):
        lost.append(f"dropped: {', '.join(_grouped(sources[0], names.values()))}")
    return LabelMapping(source, target, complete, "lossy" if lost else "bijective", tuple(lost), instead or {})


def _grouped(dropped: list[str], known: Collection[str]) -> list[str]:
    """Shorten a list of names: when no disc (endplate) is left, say so once."""
    for kind in ("disc", "endplate"):
        members = [name for name in known if name.startswith(f"{kind} ")]
        if members and set(members) <= set(dropped):
            dropped = [name for name in dropped if name not in members] + [f"all {kind}s"]
    return dropped


def _build_mappings() -> dict[tuple[str, str], LabelMapping]:
    sacrum = {"sacrum": "S1"}
    segments = {f"S{k}": "sacrum" for k in range(1, 7)}
    above_sacrum = "disc above the sacrum"
    to_spineps = {t: next(s for s, u in _NNUNET14_OF_SPINEPS.items() if u == t) for t in range(1, 15)}
    # TotalSpineSeg calls the lowest disc by the sacrum below it: it is L5's unless there is an L6 (46, disc above: 96).
    spine_seg = _by_name("totalspineseg", "instances", {**sacrum, above_sacrum: "disc L5"})
    with_l6 = {100: 125}
    lowest = {"disc L5": above_sacrum, "disc L6": above_sacrum}
    to_spine_seg = _by_name("instances", "totalspineseg", segments | lowest)
    rows = [
        _translation("spineps", "nnunet14", _NNUNET14_OF_SPINEPS),
        _translation("nnunet14", "spineps", to_spineps),
        _translation("verse", "instances", _by_name("verse", "instances", sacrum)),
        _translation("instances", "verse", _by_name("instances", "verse", segments)),
        _translation("totalspineseg", "instances", spine_seg, {46: with_l6, 96: with_l6}),
        _translation("instances", "totalspineseg", to_spine_seg, {25: {124: 96}, 125: {124: 96}}),
        _translation("totalsegmentator", "instances", _by_name("totalsegmentator", "instances", sacrum)),
        _translation("instances", "totalsegmentator", _by_name("instances", "totalsegmentator", segments)),
    ]
    return {(row.source, row.target): row for row in rows}


def scheme(name: str) -> LabelScheme:
    """Return a label scheme by name; raises UsageError naming the nearest one."""
    if name not in SCHEMES:
        raise UsageError(
            "E-LABEL-SCHEME",
            file=name,
            found="unknown label scheme",
            expected="a known one",
            fix=nearest(name, SCHEMES),
        )
    return SCHEMES[name]


MAPPINGS: dict[tuple[str, str], LabelMapping] = _build_mappings()


def mapping(source: str, target: str) -> LabelMapping:
    """Return the translation between two schemes; raises UsageError if there is none."""
    if (source, target) not in MAPPINGS:
        known = ", ".join(f"{a} to {b}" for a, b in MAPPINGS)
        raise UsageError(
            "E-LABEL-MAPPING",
            file=f"{source} to {target}",
            found="no such mapping",
            expected=f"one of {known}",
            fix="choose another",
        )
    return MAPPINGS[source, target]


def convert_labels(array: Array, source: str, target: str, *, file: str | Path = "label map") -> Array:
    """Translate ids voxel by voxel; 0 stays 0, and what the target has no id for becomes 0 (a warning names it).

    Returns uint8 or uint16. Raises CaseError listing unknown ids with their voxel counts.
    """
    chosen = mapping(source, target)
    present = {int(k) for k in np.unique(array) if k in chosen.table}
    dropped = [SCHEMES[source].labels[k] for k in sorted(present) if not chosen.table[k]]
    table = dict(chosen.table)
    for key in present & chosen.instead.keys():
        table.update(chosen.instead[key])
    converted = apply_table(array, table, file=file)
    if dropped:
        logger.warning("%s: %s has no id for %s: dropped", file, target, ", ".join(dropped))
    return converted


def apply_table(array: Array, table: Mapping[int, int], *, file: str | Path = "label map") -> Array:
    """Translate ids by a table; ids that are not in it (other than 0) raise CaseError with their voxel counts.

    Returns uint8, or uint16 when an id above 255 is among the results.
    """
    ids, positions, counts = np.unique(array, return_inverse=True, return_counts=True)
    unknown = {float(k): int(n) for k, n in zip(ids, counts, strict=True) if k != 0 and k not in table}
    if unknown:
        listing = ", ".join(f"{k:g} ({n} voxels)" for k, n in list(unknown.items())[:12])
        more = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
        known = ", ".join(str(k) for k in sorted(table))
        raise CaseError(
            "E-LABEL-UNKNOWN",
            file=file,
            found=f"label ids {listing}{more}",
            expected=f"0 and {known}",
            fix="check the label scheme or give a label map for these ids",
        )
    values = np.array([0 if k == 0 else table[int(k)] for k in ids])
    dtype = np.uint8 if values.size == 0 or values.max() < 256 else np.uint16
    return values.astype(dtype)[positions].reshape(array.shape)


def swap_sides(array: Array, sided_pairs: tuple[tuple[int, int], ...] | list[list[int]]) -> Array:
    """Exchange the ids of left and right structures (needed when an array is mirrored left-right)."""
    swapped = array.copy()
    for left, right in sided_pairs:
        swapped[array == left] = right
        swapped[array == right] = left
    return swapped


def colours_for(labels: Mapping[int, str], scheme_name: str | None = None) -> dict[int, Colour]:
    """Return a colour per id: the scheme's own where it has one, else one from the palette."""
    own = SCHEMES[scheme_name].colours if scheme_name in SCHEMES else {}
    return {key: own.get(key, colour) for key, colour in zip(labels, _spread(len(labels)), strict=True)}


def write_itksnap_labels(
    labels: Mapping[int, str], path: str | Path, colours: Mapping[int, Colour] | None = None
) -> None:
    """Write an ITK-SNAP label description file (index, RGB, opacity, visibility, mesh visibility, name)."""
    from nnunet_spine_ext.core.io import write_text

    chosen = colours or colours_for(labels)
    lines = ["# ITK-SnAP Label Description File", '0 0 0 0 0 0 0 "Clear Label"']
    lines += [f'{k} {chosen[k][0]} {chosen[k][1]} {chosen[k][2]} 1 1 1 "{name}"' for k, name in sorted(labels.items())]
    write_text(path, "\n".join(lines) + "\n")


def write_slicer_table(
    labels: Mapping[int, str], path: str | Path, colours: Mapping[int, Colour] | None = None
) -> None:
    """Write a 3D Slicer colour table (.ctbl: id, name without blanks, RGBA)."""
    from nnunet_spine_ext.core.io import write_text

    chosen = colours or colours_for(labels)
    lines = ["# Color table file", "0 background 0 0 0 0"]
    for key, name in sorted(labels.items()):
        r, g, b = chosen[key]
        lines.append(f"{key} {name.replace(' ', '_')} {r} {g} {b} 255")
    write_text(path, "\n".join(lines) + "\n")

"""Label schemes: the ids, names, colours and left/right pairs of every labelling that is read or written.

Sources of the ids: SPINEPS semantic and instance labels, SPIDER, VerSe, TotalSpineSeg, TotalSegmentator (v2 and MR),
disc points of the Spinal Cord Toolbox.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelScheme:
    """Ids, names, colours (RGB 0-255) and left/right pairs of one labelling; 0 is background and not listed.

    `kind` tells what an id stands for: a class of tissue wherever it lies (``semantic``), or the structure of one
    level, such as L4 (``levels``).
    """

    name: str
    labels: Mapping[int, str]
    sided_pairs: tuple[tuple[int, int], ...] = ()
    colours: Mapping[int, Colour] = field(default_factory=dict)
    kind: Literal["semantic", "levels"] = "semantic"

    @property
    def holds_both(self) -> bool:
        """Whether one mask has levels and, beside them, cord or canal."""
        return self.kind == "levels" and not {"cord", "canal"}.isdisjoint(self.labels.values())


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


def spread(count: int, saturation: float = 0.65, value: float = 0.95) -> list[Colour]:
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
    63: "rib left",
    64: "rib right",
    100: "disc",
}
NNUNET14_OF_SPINEPS = {
    26: 1, 41: 2, 42: 3, 43: 4, 44: 5, 45: 6, 46: 7, 47: 8, 48: 9, 49: 10, 50: 10, 51: 10, 60: 11, 61: 12,
    62: 13, 52: 13, 53: 13, 100: 14,
}  # fmt: skip
_COLOURS14: dict[int, Colour] = {
    1: (176, 122, 161), 2: (89, 161, 79), 3: (237, 201, 72), 4: (255, 157, 167), 5: (225, 87, 89),
    6: (156, 117, 224), 7: (118, 79, 196), 8: (120, 200, 220), 9: (40, 140, 170), 10: (78, 121, 167),
    11: (255, 242, 140), 12: (134, 188, 182), 13: (186, 176, 172), 14: (242, 142, 43),
}  # fmt: skip
_NNUNET14 = {n: _SPINEPS_LABELS[next(s for s, t in NNUNET14_OF_SPINEPS.items() if t == n)] for n in range(1, 15)}
NNUNET14_SIDED = ((4, 5), (6, 7), (8, 9))
_SPINEPS_COLOURS: dict[int, Colour] = {s: _COLOURS14[t] for s, t in NNUNET14_OF_SPINEPS.items()} | {
    50: (120, 160, 200), 51: (60, 90, 140), 52: (210, 200, 190), 53: (150, 140, 135),
    63: (215, 181, 166), 64: (180, 140, 125),
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
# SPIDER's three classes, and what other masks of whole vertebrae have besides.
_WHOLE_VERTEBRAE = {1: "vertebra", 2: "disc", 3: "canal", 4: "cord", 5: "sacrum"}
# Disc n lies above vertebra n.
_SCT_DISCS = {1 + n: f"disc {VERTEBRAE[n]}" for n in range(1, 25)}


def _palette(labels: Mapping[int, str]) -> dict[int, Colour]:
    return dict(zip(labels, spread(len(labels)), strict=True))


def _instance_colours() -> dict[int, Colour]:
    """Vertebra, disc and endplate of one level share a hue; discs are lighter, endplates darker."""
    colours: dict[int, Colour] = {}
    for k, vertebra in enumerate(VERTEBRA_ORDER):
        for offset, saturation, value in ((0, 0.65, 0.95), (DISC_OFFSET, 0.35, 1.0), (ENDPLATE_OFFSET, 0.7, 0.65)):
            r, g, b = colorsys.hsv_to_rgb((0.55 + k * 0.61803398875) % 1.0, saturation, value)
            colours[offset + vertebra] = (round(r * 255), round(g * 255), round(b * 255))
    return colours


SCHEMES: dict[str, LabelScheme] = {
    row.name: row
    for row in (
        LabelScheme("spineps", _SPINEPS_LABELS, ((43, 44), (45, 46), (47, 48), (63, 64)), _SPINEPS_COLOURS),
        LabelScheme("nnunet14", _NNUNET14, NNUNET14_SIDED, _COLOURS14),
        LabelScheme("instances", _INSTANCES, (), _instance_colours(), "levels"),
        LabelScheme("spider", _SPIDER, (), _palette(_SPIDER), "levels"),
        LabelScheme("verse", _VERSE, (), {n: _instance_colours()[n] for n in _VERSE}, "levels"),
        LabelScheme("totalspineseg", _TOTALSPINESEG, (), _palette(_TOTALSPINESEG), "levels"),
        LabelScheme("totalsegmentator", _TOTALSEGMENTATOR, (), _palette(_TOTALSEGMENTATOR), "levels"),
        LabelScheme("totalsegmentator_mr", _TOTALSEGMENTATOR_MR, (), _palette(_TOTALSEGMENTATOR_MR)),
        LabelScheme("whole_vertebrae", _WHOLE_VERTEBRAE, (), _palette(_WHOLE_VERTEBRAE)),
        LabelScheme("sct_discs", _SCT_DISCS, (), _palette(_SCT_DISCS), "levels"),
    )
}

"""What files of the Spine-Generic data sets are called: images, their contrasts, masks of today and of former times."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnunet_spine_ext.core.entities import parse_entities

# After the subject come entities (`key-value`), then the suffix: the first word without a dash. Whatever follows it
# says what a derivative is.
_STEM = re.compile(r"(?P<image>sub-[A-Za-z0-9]+(?:_[A-Za-z0-9]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+)(?:_(?P<rest>.+))?")
# Entities that say which scan of a contrast it is, not which contrast.
_NOT_CONTRAST = ("sub", "ses", "run")
# Contrasts that had another name before BIDS settled on these.
_RENAMED = {
    "acq-MTon_MTS": "flip-1_mt-on_MTS",
    "acq-MToff_MTS": "flip-1_mt-off_MTS",
    "acq-T1w_MTS": "flip-2_mt-off_MTS",
}
SOFT_ENDINGS = ("softseg",)
# What follows the image's name in the names of soft masks, the present name first.
SOFT_MASKS: dict[str, tuple[str, ...]] = {
    "canal": ("label-canal_softseg",),
    "csf": ("label-CSF_softseg",),
    "cord": ("label-SC_softseg", "desc-softseg_label-SC_softseg", "label-SC_desc-softseg_softseg", "softseg"),
    "gm": ("label-GM_softseg",),
}


@dataclass(frozen=True)
class Structure:
    """A structure with a mask of its own.

    Parameters
    ----------
    name: of the class.
    masks: what follows the image's name in the names of its hard masks, the present name first.
    inside: structures whose masks contain this one, so that a voxel of both is nothing to warn of.
    """

    name: str
    masks: tuple[str, ...]
    inside: tuple[str, ...] = ()


# From the outside in: where masks overlap, the later one wins.
STRUCTURES: dict[str, Structure] = {
    row.name: row
    for row in (
        Structure("canal", ("label-canal_seg", "label-canal_mask")),
        Structure("csf", ("label-CSF_seg", "label-CSF_mask", "csfseg-manual", "csfseg"), ("canal",)),
        Structure(
            "cord",
            (
                "label-SC_seg",
                "desc-softseg_label-SC_seg",
                "label-SC_desc-softseg_seg",
                "label-SC_mask",
                "seg-manual",
                "softseg_bin",
                "seg",
            ),
            ("canal",),
        ),
        Structure("gm", ("label-GM_seg", "label-GM_mask", "gmseg-manual", "gmseg"), ("canal", "cord")),
    )
}


def split_stem(stem: str) -> tuple[str, str] | None:
    """Return the image's name and what follows it, both without file suffix; None for names of another kind.

    ``sub-unf01_flip-1_mt-on_MTS_label-SC_seg`` gives ``("sub-unf01_flip-1_mt-on_MTS", "label-SC_seg")``.
    """
    found = _STEM.fullmatch(stem)
    return None if found is None else (found["image"], found["rest"] or "")


def contrast_of(image: str) -> str:
    """Return the contrast in an image's name: ``T1w``, ``flip-1_mt-on_MTS``, ``rec-average_dwi``."""
    parts = parse_entities(image)
    name = "_".join([*(f"{key}-{value}" for key, value in parts.without(*_NOT_CONTRAST).items()), parts.suffix])
    return _RENAMED.get(name, name)


def former_names(contrast: str) -> tuple[str, ...]:
    """Return the names that a contrast had before."""
    return tuple(old for old, new in _RENAMED.items() if new == contrast)


def wanted(contrast: str, words: tuple[str, ...]) -> bool:
    """Whether one of the words names the contrast: its whole name, a former one, or its suffix (``MTS``, ``dwi``)."""
    names = {contrast, contrast.split("_")[-1], *former_names(contrast)}
    return not names.isdisjoint(words)

"""What is compared: ways to harmonize, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["none", "baseline", "cyclegan"]


@dataclass(frozen=True)
class Arm:
    """One way to bring slices to the target.

    Parameters
    ----------
    name: in files and configurations. title: in tables. kind: images as they are, a method without a network, or a
        trained one. settings: assignments over the settings of its training.
    segmenters: of S_X and S_Y, those whose Dice losses take part. terms: of the Dice losses that take part:
        identity, cycle, harmonization. radiomics: whether the radiomic loss takes part, and with a gradient.
    """

    name: str
    title: str
    kind: Kind = "cyclegan"
    settings: tuple[str, ...] = ()
    segmenters: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    radiomics: bool = False


TERMS = ("cycle", "harmonization", "identity")
_BOTH = ("S_X", "S_Y")
# Names of the weights of their losses.
_WEIGHTS = {"S_X": "source_dice", "S_Y": "target_dice"}


def _trained(name: str, title: str, segmenters: tuple[str, ...], terms: tuple[str, ...], *, radiomics: bool) -> Arm:
    """Return a CycleGAN whose losses are switched off where they take no part."""
    off = [f"weights.{weight}=0" for which, weight in _WEIGHTS.items() if which not in segmenters]
    # Without any segmenter there is no foreground to keep from vanishing either.
    off += [] if segmenters else ["weights.floor=0"]
    off += [f"dice_terms=[{', '.join(terms)}]"] if segmenters and terms != TERMS else []
    off += [] if radiomics else ["weights.radiomics=0"]
    return Arm(name, title, "cyclegan", tuple(off), segmenters, terms, radiomics)


_ALL = (
    Arm("none", "no harmonization", "none"),
    Arm("zscore", "z-score", "baseline"),
    Arm("histogram", "histogram matching", "baseline"),
    Arm("nyul", "Nyúl", "baseline"),
    _trained("cyclegan", "CycleGAN (-RF -Seg)", (), (), radiomics=False),
    _trained("sy", "CycleGAN with S_Y (-RF)", ("S_Y",), TERMS, radiomics=False),
    _trained("no-identity", "-RF +Seg without identity", _BOTH, ("cycle", "harmonization"), radiomics=False),
    _trained("no-harmonization", "-RF +Seg without harmonization", _BOTH, ("cycle", "identity"), radiomics=False),
    _trained("no-cycle", "-RF +Seg without cycle", _BOTH, ("harmonization", "identity"), radiomics=False),
    _trained("rf", "CycleGAN +RF -Seg", (), (), radiomics=True),
    _trained("seg", "CycleGAN -RF +Seg", _BOTH, TERMS, radiomics=False),
    _trained("full", "CycleGAN +RF +Seg", _BOTH, TERMS, radiomics=True),
)
ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _ALL})
"""Name -> arm, in the order of the tables."""
NONE, FULL = "none", "full"
BASELINES = tuple(arm.name for arm in _ALL if arm.kind == "baseline")
# Rows of the paper's tables 3 and 4 (both without the radiomic loss), in its order.
TABLE_3 = ("cyclegan", "sy", "seg")
TABLE_4 = ("no-identity", "no-harmonization", "no-cycle", "seg")


def arm_title(name: str) -> str:
    """Return an arm as a reader knows it; names of other versions stay as they are."""
    return ARMS[name].title if name in ARMS else name

"""The contrast of a scan, where something beside the image tells it: cases.json, or the suffix of a BIDS name."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from nnunet_spine_ext.core.dataset import CASES_FILE
from nnunet_spine_ext.core.entities import parse_entities
from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_json, strip_suffix

logger = logging.getLogger(__name__)
_CHANNEL = re.compile(r"_\d{4}$")
# CT, CTA, CBCT, PET/CT, "lumbar CT", ct_thorax; not "ctrl" or "T1w_CTspine".
_CT = re.compile(r"(?<![a-z])(?:(?:4d|cb|ce|de|hr|ld|md|nc)?cta?(?![a-z])|computed tomography)")
_MR = re.compile(
    r"(?<![a-z])(?:t1|t2|pd|mr|mt|mp2?rage|flair|stir|tirm|dixon|space|gre|epi|dwi|dti|adc|b0|swi|unit1|medic|megre)"
)
_UNTOLD = ("", "-", "n/a", "na", "none", "null", "unknown", "unspecified")
# Suffixes of BIDS that are a weighting; others (`MTS`, `dwi`) say too little about it.
_WEIGHTINGS = ("T1w", "T2w", "T2starw", "PDw", "FLAIR")


def contrast_of(file: str | Path, reference: str | None, channels: int = 1) -> str | None:
    """Return the contrast of a scan, None where it is not known for sure.

    cases.json in the folder above that of the file, where raw datasets have it, goes before the name of the file. Of
    names only the suffixes of weightings count, for models of one channel whose reference names one as well.

    Parameters
    ----------
    file: the first of the case. reference: the contrast of the model's reference; returned where the scan's means the
        same (``t2`` and ``T2w``). channels: of the model.
    """
    if not str(file):
        return None
    stem = strip_suffix(Path(file))
    case = _CHANNEL.sub("", stem)
    table = _contrasts_in(Path(file).absolute().parent.parent)
    found = table.get(stem) or table.get(case) or _suffix(case, reference, channels)
    if found and reference and _plain(found) == _plain(reference):
        return reference
    return found


def told(contrast: object) -> str | None:
    """Return a contrast without blanks around it; None for what says nothing: no text, an empty one, ``unknown``."""
    word = contrast.strip() if isinstance(contrast, str) else ""
    return None if word.casefold() in _UNTOLD else word


def says_ct(contrast: str | None) -> bool | None:
    """Whether a contrast is one of CT (``CT``, ``ct_lumbar``) or of MR; None where it says neither, or both."""
    word = (contrast or "").casefold()
    ct, mr = _CT.search(word) is not None, _MR.search(word) is not None
    return None if ct == mr else ct


def contrasts_of(folder: str | Path) -> dict[str, str | None]:
    """Return the contrast of each case as the cases.json in a folder tells it; nothing without that file."""
    path = Path(folder) / CASES_FILE
    content = read_json(path) if path.is_file() else {}
    cases = content.get("cases", {}) if isinstance(content, dict) else {}
    return {case: told(facts.get("contrast")) for case, facts in cases.items()}


def _suffix(case: str, reference: str | None, channels: int) -> str | None:
    name = parse_entities(f"{case}.nii.gz")
    known = reference is None or _plain(reference) in map(_plain, _WEIGHTINGS)
    return name.suffix if channels == 1 and known and name.suffix in _WEIGHTINGS and "_" in case else None


def _plain(contrast: str) -> str:
    return contrast.casefold().removesuffix("w")


def _contrasts_in(folder: Path) -> Mapping[str, str]:
    try:
        changed = (folder / CASES_FILE).stat().st_mtime_ns
    except OSError:
        return {}
    return _read(folder, changed)


@functools.lru_cache(maxsize=8)
def _read(folder: Path, changed: int) -> Mapping[str, str]:
    """Return the contrasts of a cases.json that was last changed then; nothing, with a warning, if it is damaged."""
    try:
        found = contrasts_of(folder)
    except (SpineExtError, OSError, ValueError, AttributeError) as error:
        logger.warning("%s: not readable (%s); contrasts of scans stay unknown", folder / CASES_FILE, error)
        return {}
    return {case: contrast for case, contrast in found.items() if contrast is not None}

"""Who made a mask: what the JSON file beside it says about a model, a hand, or nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, strip_suffix

LabelSource = Literal["manual", "model", "unknown"]

# Programs that draw a mask by themselves, as they stand in GeneratedBy: a whole command line, or only a name.
_AUTOMATIC = re.compile(
    r"deepseg|propseg|contrast[_-]?agnostic|nn-?u-?net|totalspineseg|totalsegmentator|spineps|label_vertebrae"
    r"|\bmodel\b|automatic",
    re.IGNORECASE,
)
_BY_HAND = re.compile(r"^\s*manual|fsleyes|itk-?snap", re.IGNORECASE)
# For sidecars that are no valid JSON: a forgotten quote must not turn a model's mask into one of unknown origin.
_LOOSE = re.compile(r'"?(Name|Author)"?\s*:\s*"((?:[^"\\]|\\.)*)"')
_LONGEST = 300


@dataclass(frozen=True)
class Provenance:
    """Where a mask comes from.

    Parameters
    ----------
    source: ``manual`` (drawn or corrected by a person last), ``model`` (by a program, untouched since) or ``unknown``.
    said: the steps that it was judged by, oldest first, without names of people and files: ``sct_deepseg -task x``,
        ``Manual``, ``Author``.
    sidecar: whether there is a JSON file beside the mask.
    """

    source: LabelSource
    said: tuple[str, ...] = ()
    sidecar: bool = True


def provenance_of(mask: str | Path) -> Provenance:
    """Judge a mask by ``<mask without suffix>.json``.

    Steps are read in order: a person after a model makes the mask manual, a model after a person makes it a model's;
    other programs (resampling, say) change nothing. A sidecar with an author and no step is a person's.
    """
    path = Path(mask)
    try:
        text = (path.parent / f"{strip_suffix(path)}.json").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Provenance("unknown", sidecar=False)
    steps, author = _steps(text)
    source: LabelSource = "unknown"
    for name, is_model in steps:
        if _BY_HAND.search(name):
            source = "manual"
        elif is_model or _AUTOMATIC.search(name):
            source = "model"
    if not steps and author:
        return Provenance("manual", ("Author",))
    return Provenance(source, tuple(_public(name, is_model=is_model) for name, is_model in steps))


def _public(step: str, *, is_model: bool) -> str:
    """Return a step without what tells who did it, to whom, and on which machine: people, files and folders."""
    if _BY_HAND.search(step):
        return "Manual"
    words = step.split()
    known = is_model or _AUTOMATIC.search(step) is not None or "_" in "".join(words[:1])
    if not words or not known:
        return "another step"
    kept = [PurePath(words[0]).name]
    for word in words[1:]:
        if "/" not in word and "\\" not in word and not word.lower().endswith(IMAGE_SUFFIXES):
            kept.append(word)
        elif kept[-1].startswith("-"):
            # The option goes with its file.
            del kept[-1]
    return " ".join(kept)[:_LONGEST]


def _steps(text: str) -> tuple[list[tuple[str, bool]], str]:
    """Return the steps of GeneratedBy as (name, whether it names a model) and the author of the whole."""
    try:
        content = json.loads(text)
    except ValueError:
        found = _LOOSE.findall(text)
        names = [(value, False) for key, value in found if key == "Name"]
        return names, next((value for key, value in found if key == "Author"), "")
    if not isinstance(content, dict):
        return [], ""
    steps = content.get("GeneratedBy") or []
    listed = steps if isinstance(steps, list) else [steps]
    return [step for step in map(_step, listed) if step is not None], str(content.get("Author") or "")


def _step(entry: Any) -> tuple[str, bool] | None:
    if isinstance(entry, str):
        return entry, False
    if not isinstance(entry, dict):
        return None
    return str(entry.get("Name") or ""), "ModelURL" in entry

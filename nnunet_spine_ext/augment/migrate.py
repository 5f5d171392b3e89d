"""Configurations of SmaugLab and AugLab as configurations of this package, with a word on everything in them.

Only names and meanings of their keys are known here; nothing of theirs is imported or needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.migrate_block import TECHNICAL, Block, Made, Rule
from nnunet_spine_ext.augment.migrate_cpu import CPU
from nnunet_spine_ext.augment.migrate_gpu import GPU
from nnunet_spine_ext.augment.migrate_names import AUGLAB, Foreign, translate
from nnunet_spine_ext.augment.migrate_synthesis import SYNTHESIS
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

Layout = Literal["SmaugLab", "AugLab"]

RULES: dict[str, dict[str, Rule]] = {"CPU": dict(CPU), "GPU": {**SYNTHESIS, **GPU}}
"""Every entry that is known, by section and name of SmaugLab; the order is that in which they are applied."""

# Parts of the file that are not augmentation.
_OTHER_SECTIONS = {"ValidationAugmentationCheckpoints": "validation on augmented images is part of a training"}
_PIPELINE = {"mode": "sequential", "order": "registry", "same_on_batch": True, "random_choose": {}}
_MODES = ("sequential", "random_order", "random_order_ta")
_BUCKETS = {"ta_probability": 1.0, "ge_probability": 1.0, "ta_random_order": True, "ge_random_order": True}
_SECTION_KEYS = ("mirror_axes", "retain_stats")
# There this one is never part of the shuffled ones.
_SEQUENTIAL = "RandomLowResTransformGPU"
_SHOWN = 6


@dataclass(frozen=True)
class Imported:
    """What became of a configuration of another tool.

    `config`: ours. `converted`: a line per entry, with our transforms and where the meaning differs. `unmatched`:
    entries, keys and values that are not known, with the nearest that is. `ignored`: what never fires or is not
    augmentation. `remarks`: what differs for all entries. `layout`: whose file it is. `expected`: mean number of
    entries that fire for a sample, by the probabilities in the file.
    """

    config: AugmentConfig
    converted: tuple[str, ...]
    unmatched: tuple[str, ...]
    ignored: tuple[str, ...]
    remarks: tuple[str, ...]
    layout: Layout
    expected: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {
            "layout": self.layout,
            "converted": list(self.converted),
            "unmatched": list(self.unmatched),
            "ignored": list(self.ignored),
            "remarks": list(self.remarks),
            "expected": self.expected,
            "config": self.config.to_dict(),
        }


def import_config(source: Mapping[str, Any] | str | Path, *, voxel: float = 1.0) -> Imported:
    """Convert a configuration of SmaugLab or AugLab, given as its content or as a JSON file.

    Parameters
    ----------
    voxel: mm that a voxel is taken for where our transform knows millimetres only; 1 as in the other tools' examples.

    Raises
    ------
    UsageError: a file that cannot be read or is no JSON, another layout, an impossible value.
    """
    where, document = _read(source)
    reader = _Reader(where, voxel)
    for section, layout, entries in _sections(document, where):
        reader.layout = layout
        reader.section(section, entries)
    for key in document:
        if key in _OTHER_SECTIONS:
            reader.ignored.append(f"{key}: {_OTHER_SECTIONS[key]}")
    return reader.finish()


class _Reader:
    """Collects what the entries of a document become."""

    def __init__(self, where: str, voxel: float) -> None:
        self.where, self.voxel = where, voxel
        self.layout: Layout = "SmaugLab"
        self.pipeline: dict[str, Any] = dict(_PIPELINE)
        self.buckets: dict[str, Any] = dict(_BUCKETS)
        self.entries: list[dict[str, Any]] = []
        self.converted: list[str] = []
        self.unmatched: list[str] = []
        self.ignored: list[str] = []
        self.remarks: list[str] = []
        self.technical: set[str] = set()
        self.comments = 0
        self.expected = 0.0

    def section(self, name: str, entries: Mapping[str, Any]) -> None:
        """Convert a section, entry by entry, in the order in which they are applied there."""
        if name == "pipeline":
            self._pipeline(entries)
            return
        rules = RULES[name] if self.layout == "SmaugLab" else AUGLAB[name]
        known = [key for key in rules if key in entries]
        if self.pipeline["order"] == "config" and name == "GPU":
            known = [key for key in entries if key in rules]
        for key in known:
            self._entry(name, key, entries)
        for key, value in entries.items():
            if _comment(key, value):
                self.comments += 1
            elif key in _SECTION_KEYS and self.layout == "AugLab":
                self._section_key(name, key, value)
            elif key not in rules:
                self.unmatched.append(f"{name} {key}: no such entry ({nearest(key, rules)})")

    def finish(self) -> Imported:
        """Return the result."""
        if self.technical:
            reasons = dict.fromkeys(TECHNICAL[key] for key in sorted(self.technical))
            self.ignored.append(f"{', '.join(sorted(self.technical))}: {'; '.join(reasons)}")
        if self.comments:
            self.ignored.append(f"{self.comments} comments")
        order = "random" if self.pipeline["mode"] == "random_order" else "config"
        config = AugmentConfig.from_dict({"order": order, "transforms": self.entries}, where=self.where)
        self.remarks.append("every sample is drawn for itself, where p may be spent once for a whole batch there")
        self.remarks.append("the order of the stages is fixed: warp, table, local, axis, kspace, field, noise, final")
        return Imported(
            config,
            tuple(self.converted),
            tuple(self.unmatched),
            tuple(self.ignored),
            tuple(self.remarks),
            self.layout,
            round(self.expected, 6),
        )

    def _entry(self, section: str, name: str, entries: Mapping[str, Any]) -> None:
        given = entries[name]
        place = f"{section} {name}"
        if not isinstance(given, Mapping):
            raise _refuse(f"{self.where}: {place}", f"a {type(given).__name__}", "a mapping of keys to values")
        comments = [key for key, value in given.items() if _comment(key, value)]
        self.comments += len(comments)
        given = {key: value for key, value in given.items() if key not in comments}
        foreign = Foreign(name, (name,), given)
        if self.layout == "AugLab":
            foreign = translate(section, name, given, entries) or foreign
        for key in foreign.unread:
            self.ignored.append(f"{place}: AugLab does not read {key}")
        self._convert(section, place, foreign)

    def _convert(self, section: str, place: str, foreign: Foreign) -> None:
        made: list[Made] = []
        remarks: list[str] = []
        reasons: list[str] = []
        for rule_name in foreign.rules:
            rule = RULES[section].get(rule_name) or RULES["CPU"][rule_name]
            defaults = {**rule.defaults, **{k: v for k, v in foreign.defaults.items() if k in rule.defaults}}
            block = Block(f"{self.where}: {place}", foreign.given, defaults, self.voxel)
            share = self._share(section, rule_name, rule)
            some = [replace(entry, p=round(entry.p * share, 9)) for entry in rule.make(block)]
            made += [entry for entry in some if entry.p > 0]
            reasons.append(block.nothing or "p is 0")
            remarks += [text for text in block.remarks if text not in remarks]
            self.technical |= block.technical()
            unknown = [f"{place}: unknown key {text}" for text in block.unknown()]
            self.unmatched += [line for line in unknown if line not in self.unmatched]
        if not made:
            self.ignored.append(f"{place}: {reasons[0]}")
            return
        entries = [entry.to_entry() for entry in made]
        _check(entries, f"{self.where}: {place}")
        self.entries += entries
        self.expected += sum(entry.p for entry in made)
        result = ", ".join(f"{entry} (p {entry.p:.3g})" for entry in made)
        self.converted.append(f"{place} -> {result}" + "".join(f"; {text}" for text in remarks))

    def _share(self, section: str, name: str, rule: Rule) -> float:
        """Return how often the bucket of an entry is used at all, in a pipeline that has buckets."""
        mode = self.pipeline["mode"]
        if section != "GPU" or mode == "sequential" or rule.group == "GEO":
            return 1.0
        if rule.group == "TA":
            return float(self.buckets["ta_probability"])
        return float(self.buckets["ge_probability"]) if mode == "random_order" and name != _SEQUENTIAL else 1.0

    def _section_key(self, section: str, key: str, value: Any) -> None:
        """Convert what AugLab says beside its entries."""
        if key == "mirror_axes":
            self._convert(section, f"{section} {key}", Foreign(key, ("MirrorTransform",), {"allowed_axes": value}))

    def _pipeline(self, given: Mapping[str, Any]) -> None:
        allowed: dict[str, tuple[Any, ...]] = {"mode": _MODES, "order": ("registry", "config")}
        allowed["same_on_batch"] = (True, False)
        for key, value in given.items():
            place = f"{self.where}: pipeline: {key}"
            if _comment(key, value):
                self.comments += 1
            elif key not in _PIPELINE:
                self.unmatched.append(f"pipeline {key}: no such key ({nearest(key, _PIPELINE)})")
            elif key == "random_choose":
                self._buckets(value, place)
            elif value is not None:
                if value not in allowed[key]:
                    raise _refuse(place, repr(value), f"one of {', '.join(map(str, allowed[key]))}")
                self.pipeline[key] = value
                self.remarks.append(_about_pipeline(key, value))

    def _buckets(self, given: Any, place: str) -> None:
        if not isinstance(given, Mapping):
            raise _refuse(place, f"a {type(given).__name__}", "a mapping of keys to values")
        for key, value in given.items():
            if key not in _BUCKETS:
                self.unmatched.append(f"pipeline random_choose {key}: no such key ({nearest(key, _BUCKETS)})")
                continue
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise _refuse(f"{place}: {key}", repr(value), "a probability, or true or false")
            self.buckets[key] = value
            if key.endswith("_probability"):
                self.remarks.append(f"{key}: every p of that group is multiplied by it, each sample for itself")
            else:
                self.remarks.append(f"{key}: the order is random for both groups or for none")


def _check(entries: list[dict[str, Any]], place: str) -> None:
    """Refuse values that our transforms do not allow, and name the entry that has them."""
    try:
        AugmentConfig.from_dict({"transforms": entries})
    except UsageError as error:
        raise _refuse(f"{place} ({error.file.rpartition(': ')[2]})", error.found, error.expected) from error


def _about_pipeline(key: str, value: Any) -> str:
    if key == "mode":
        return f"mode {value}: the order within a stage is {'random' if value == 'random_order' else 'fixed'}"
    if key == "order":
        return f"order {value}: within a stage"
    return f"same_on_batch {str(value).lower()} has no effect"


def _comment(key: str, value: Any) -> bool:
    """Return whether a key is a remark of the author."""
    return key.startswith("_") or (key.lower().startswith("comment") and isinstance(value, str))


def _read(source: Mapping[str, Any] | str | Path) -> tuple[str, Mapping[str, Any]]:
    """Return what errors call the document, and its content."""
    if isinstance(source, Mapping):
        # As JSON has it: keys are texts.
        return "configuration", _texts(source)
    path = Path(source)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            "E-AUG-IMPORT-READ",
            file=path,
            found=f"cannot be read ({error})",
            expected="a JSON file of SmaugLab or AugLab",
            fix="correct the path or the file",
        ) from error
    if not isinstance(content, dict):
        raise _layout(str(path), f"a {type(content).__name__}")
    return str(path), content


def _texts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _texts(item) for key, item in value.items()}
    return [_texts(item) for item in value] if isinstance(value, list | tuple) else value


def _sections(document: Mapping[str, Any], where: str) -> Iterator[tuple[str, Layout, Mapping[str, Any]]]:
    """Yield the sections with the layout they are written in: pipeline, CPU, GPU."""
    known = (*RULES, "pipeline")
    named = [name for name in ("pipeline", *RULES) if name in document]
    if not any(name in document for name in RULES):
        section = _flat(document, where)
        yield section, "AugLab", {key: value for key, value in document.items() if key not in _OTHER_SECTIONS}
        return
    for key, value in document.items():
        if key not in (*known, *_OTHER_SECTIONS) and not _comment(key, value):
            raise _layout(where, f"an unknown part {key!r} ({nearest(key, known)})")
        if key in known and not isinstance(value, Mapping):
            raise _layout(where, f"{key} is a {type(value).__name__}")
    blocks = [block for name in RULES for block in document.get(name, {}).values() if isinstance(block, Mapping)]
    old, new = (sum(key in block for block in blocks) for key in ("probability", "p"))
    layout: Layout = "AugLab" if old > new else "SmaugLab"
    for name in named:
        yield name, layout, document[name]


def _flat(document: Mapping[str, Any], where: str) -> str:
    """Return the section that a document without sections stands for: that which knows more of its names and keys."""
    scores = {name: _score(name, document) for name in RULES}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] == 0:
        shown = ", ".join(list(document)[:_SHOWN]) or "nothing"
        raise _layout(where, shown)
    return best


def _score(section: str, document: Mapping[str, Any]) -> int:
    score = 0
    for name, block in document.items():
        foreign = translate(section, name, block, document) if isinstance(block, Mapping) else None
        if foreign is not None:
            rule = RULES[section].get(foreign.rules[0]) or RULES["CPU"][foreign.rules[0]]
            score += 1 + sum(key in rule.defaults for key in foreign.given)
    return score


def _layout(where: str, found: str) -> UsageError:
    return UsageError(
        "E-AUG-IMPORT-LAYOUT",
        file=where,
        found=found,
        expected="sections GPU and CPU (SmaugLab), or names of transforms (AugLab)",
        fix="give the file that the other tool reads its augmentation from",
    )


def _refuse(where: str, found: str, expected: str) -> UsageError:
    return UsageError(
        "E-AUG-IMPORT-VALUE",
        file=where,
        found=found,
        expected=expected,
        fix="correct the value in the file that is imported",
    )

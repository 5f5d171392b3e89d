"""Structures made of several labels: a vertebra of its parts, left and right processes together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_json
from nnunet_spine_ext.evaluate.cases import LabelSet

LABELS, SPINEPS = "labels", "spineps"


@dataclass(frozen=True)
class Structure:
    """What one row of scores is about: all voxels with one of some ids.

    Parameters
    ----------
    name: name in the tables.
    ref_ids, pred_ids: ids in the reference and in the prediction.
    label_id: the id, where the structure is one label of both sides.
    """

    name: str
    ref_ids: tuple[int, ...]
    pred_ids: tuple[int, ...]
    label_id: int | None = None

    @classmethod
    def of_label(cls, label: int, name: str) -> Structure:
        """Return the structure that is one label."""
        return cls(name, (label,), (label,), label)


@dataclass(frozen=True)
class _Definition:
    """A structure by the names of labels (patterns, small letters, blanks for underscores).

    Labels that match `whole` are the structure. Else every one of `parts` has to be there, and `extra` is taken too:
    a vertebra without its arch would be another structure under the same name.
    """

    name: str
    parts: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    whole: str = ""

    def ids(self, names: Mapping[int, str]) -> tuple[int, ...]:
        """Return the ids that make it up, none where the labels do not."""
        plain = {label: name.lower().replace("_", " ").strip() for label, name in names.items()}
        found = _matching(self.whole, plain)
        parts = [_matching(part, plain) for part in self.parts]
        if parts and all(parts):
            found |= set().union(*parts, *(_matching(part, plain) for part in self.extra))
        return tuple(sorted(found))


def _matching(pattern: str, names: Mapping[int, str]) -> set[int]:
    return {label for label, name in names.items() if pattern and re.fullmatch(pattern, name)}


_SIDES = "( left| right)?"
_ARCUS = "arcus"
_SPINOUS = "spinous process"
_COSTAL = f"costal process{_SIDES}"
_SUPERIOR = f"superior articular process{_SIDES}"
_INFERIOR = f"inferior articular process{_SIDES}"
_CORPUS, _OF_CORPUS = "corpus", ("corpus inner", "dens")
# The structures of the tables of Moeller et al. 2024 (SPINEPS), in their order, then the other two of its classes.
_DEFINITIONS = (
    _Definition(
        "vertebra",
        (_ARCUS, _SPINOUS, _COSTAL, _SUPERIOR, _INFERIOR, _CORPUS),
        _OF_CORPUS,
        whole=r"vertebrae?( .*)?|[ctl]\d+",
    ),
    _Definition("disc", whole=r"(disc|ivd)( .*)?"),
    _Definition("canal", (r"(spinal )?canal",)),
    _Definition("cord", (r"(spinal )?cord",)),
    _Definition("arcus", (_ARCUS,)),
    _Definition("spinous process", (_SPINOUS,)),
    _Definition("inferior articular process", (_INFERIOR,)),
    _Definition("superior articular process", (_SUPERIOR,)),
    _Definition("costal process", (_COSTAL,)),
    _Definition("corpus", (_CORPUS,), _OF_CORPUS),
    _Definition("endplate", whole=r"endplates?( .*)?"),
    _Definition("sacrum", whole=r"sacrum|s\d"),
)
NAMES = tuple(row.name for row in _DEFINITIONS)


@dataclass(frozen=True)
class Chosen:
    """Structures to score (None: every label is one), how they were asked for, and what has to be said about them."""

    structures: tuple[Structure, ...] | None
    record: Any
    remarks: tuple[str, ...] = ()


def choose(word: str | Path, labels: LabelSet, pred_labels: LabelSet | None = None) -> Chosen:
    """Return the structures that ``--structures`` asks for.

    Parameters
    ----------
    word: ``labels``, ``spineps``, or a JSON file {name: [ids or label names]}; where both sides have other labels,
        {name: {"ref": [...], "pred": [...]}}.
    labels: labels of the references, and of the predictions where `pred_labels` is None.

    Raises
    ------
    UsageError: no label names to work with, none of the structures is there, or a file that does not say ids and names.
    """
    other = labels if pred_labels is None else pred_labels
    if str(word) == LABELS:
        if pred_labels is not None:
            raise UsageError(
                "E-EVAL-STRUCTURES",
                found="--pred-labels with --structures labels",
                expected="structures that both sides have under their own labels",
                fix="add --structures spineps or a file, or leave --pred-labels out",
            )
        return Chosen(None, LABELS)
    if str(word) == SPINEPS:
        structures, remarks = _by_name(labels, other)
        return Chosen(structures, SPINEPS, remarks)
    structures, content = _of_file(Path(word), labels, other)
    return Chosen(structures, content)


def _by_name(labels: LabelSet, other: LabelSet) -> tuple[tuple[Structure, ...], tuple[str, ...]]:
    for known in (labels, other):
        if known.names is None:
            raise UsageError(
                "E-EVAL-STRUCTURES",
                found="--structures spineps, but no names of labels",
                expected="names that say what is a vertebra",
                fix="name the labels by --scheme or --labels, or the structures by their ids in a file",
            )
    sides = [{row.name: row.ids(known.names or {}) for row in _DEFINITIONS} for known in (labels, other)]
    remarks = _whole_canal(sides)
    found = [Structure(name, sides[0][name], sides[1][name]) for name in NAMES if sides[0][name] and sides[1][name]]
    if not found:
        raise UsageError(
            "E-EVAL-STRUCTURES",
            found=f"none of the structures in {labels.source}",
            expected=f"labels of {', '.join(NAMES)}",
            fix="name the labels by --scheme, or the structures in a file {name: [ids or label names]}",
        )
    lacking = [name for name in NAMES if name not in {row.name for row in found}]
    if lacking:
        remarks += (f"Structures that the labels do not have, left out: {', '.join(lacking)}.",)
    return tuple(found), remarks


def _whole_canal(sides: Sequence[dict[str, tuple[int, ...]]]) -> tuple[str, ...]:
    """Where one side only tells the cord from the canal (SPIDER does not), let its canal hold the cord too."""
    if not all(side["canal"] for side in sides) or bool(sides[0]["cord"]) == bool(sides[1]["cord"]):
        return ()
    for side in sides:
        side["canal"] = tuple(sorted((*side["canal"], *side["cord"])))
    which = "references" if sides[0]["cord"] else "predictions"
    return (f"The canal of the {which} is taken with the cord in it, because the other side does not tell them apart.",)


def _of_file(path: Path, labels: LabelSet, other: LabelSet) -> tuple[tuple[Structure, ...], Any]:
    if not path.is_file():
        raise UsageError(
            "E-EVAL-STRUCTURES",
            file=path,
            found="no such file",
            expected="labels, spineps, or a JSON file {name: [ids or label names]}",
            fix=nearest(str(path), (LABELS, SPINEPS)),
        )
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise _malformed(path, "no structures", "write {name: [ids or label names]}")
    found = []
    for name, members in content.items():
        sides = members if isinstance(members, dict) else {"ref": members, "pred": members}
        if set(sides) != {"ref", "pred"} or not name.strip():
            raise _malformed(path, f"{name!r}: {members!r}", 'give a list, or {"ref": [...], "pred": [...]}')
        ref_ids, pred_ids = _ids(path, name, sides["ref"], labels), _ids(path, name, sides["pred"], other)
        found.append(Structure(name, ref_ids, pred_ids))
    return tuple(found), content


def _ids(path: Path, name: str, members: Any, known: LabelSet) -> tuple[int, ...]:
    if not isinstance(members, list) or not members:
        raise _malformed(path, f"{name!r}: {members!r}", "give at least one id or label name, as a list")
    by_name = {label: key for key, label in (known.names or {}).items()}
    found = set()
    for member in members:
        if isinstance(member, str) and member in by_name:
            found.add(by_name[member])
        elif isinstance(member, int) and not isinstance(member, bool) and _valid(member, known):
            found.add(member)
        else:
            fix = nearest(member, by_name) if isinstance(member, str) and by_name else "take another id or name"
            expected = f"labels of {known.source}" if known.names else "ids above 0, as the labels have no names"
            raise _malformed(path, f"{name!r} is made of {member!r}", fix, expected)
    return tuple(sorted(found))


def _valid(label: int, known: LabelSet) -> bool:
    return label > 0 and label != known.ignore and (known.names is None or label in known.names)


def _malformed(path: Path, found: str, fix: str, expected: str = "{name: [ids or label names]}") -> UsageError:
    return UsageError("E-EVAL-STRUCTURES", file=path, found=found, expected=expected, fix=fix)

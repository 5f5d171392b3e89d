"""Label masks, translated from the ids of one tool to those of another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.config import nearest, read_mapping
from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.label_mappings import CANAL, CORD, FROM_WHOLE, WHOLE, LevelOrder, out_of_whole
from nnunet_spine_ext.core.labels import (
    LabelMapping,
    LabelScheme,
    apply_table,
    id_counts,
    mapping,
    mapping_for,
    scheme,
    swap_sides,
)
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.cord_canal import judged

INSTANCES = "instances"
BACKGROUND = "background"
_SACRUM = 26
_LISTED = 12


@dataclass(frozen=True)
class Translation:
    """What is to become of masks.

    Parameters
    ----------
    source, target: schemes; None where `custom` says it all.
    custom: rows of the user (id to id), which come before those of the schemes.
    with_instances: whether instance masks say which level the classes of the source belong to.
    level_order, lowest: see `core.label_mappings.mapping_for`.
    fix_cord_canal: exchange cord and canal where their shapes say so.
    drop_unknown: ids that the source does not have become background.
    """

    source: LabelScheme | None
    target: LabelScheme | None
    custom: Mapping[int, int] = field(default_factory=dict)
    with_instances: bool = False
    level_order: LevelOrder = "bottom-up"
    lowest: str | None = None
    fix_cord_canal: bool = False
    drop_unknown: bool = False

    def row(self) -> LabelMapping | None:
        """Return the translation between the schemes; None without schemes, or between equal ones.

        Raises UsageError if there is none.
        """
        if self.source is None or self.target is None or self.source == self.target:
            return None
        if not self.with_instances:
            return mapping(self.source.name, self.target.name)
        joined = FROM_WHOLE[self.target.name]
        name = f"{self.source.name} and {INSTANCES}"
        return LabelMapping(name, joined.target, joined.table, joined.kind, joined.lost, {}, joined.assumed)

    def splits(self) -> bool:
        """Whether the source holds classes and levels in one mask, and the target only classes."""
        both = self.source is not None and self.source.holds_both
        return both and self.target is not None and self.target.kind == "semantic"


class MaskTranslation:
    """The translation of one mask; `warnings` are what was found on the way.

    Parameters
    ----------
    mask: ids in the scheme of the source.
    file: what messages name.
    """

    def __init__(self, plan: Translation, mask: Volume, file: str | Path) -> None:
        self.plan = plan
        self.mask = mask
        self.file = file
        self.warnings: list[Problem] = []
        self._told_unknown = False
        self._array = self._with_cord_in_canal()
        self._counts = id_counts(self._array)

    def run(self, *, split: bool = False) -> dict[str, Volume]:
        """Return the mask in ids of the target as ``""`` and, if it is to be split, its levels as ``instances``.

        Raises CaseError listing ids that the source does not have, with their voxel counts.
        """
        source = self.plan.source
        if not split or source is None:
            return {"": self.mask.with_array(self._translated(self.plan.row()))}
        levels = mapping(source.name, INSTANCES)
        elsewhere = {key for key, value in levels.table.items() if value}
        results = {
            "": self._translated(self.plan.row(), elsewhere),
            # What has no id here either was told of already.
            INSTANCES: self._translated(levels, set(source.labels)),
        }
        return {name: self.mask.with_array(ids) for name, ids in results.items()}

    def join(self, levels: Volume) -> Volume:
        """Write levels and classes into one mask of the target: cord, canal and sacrum come from the mask of classes.

        Parameters
        ----------
        levels: scheme ``instances``, on the grid of the mask.
        """
        source, target = self.plan.source, self.plan.target
        if source is None or target is None:
            msg = "joining needs two schemes"
            raise ValueError(msg)
        spineps = (
            {key: key for key in source.labels} if source.name == "spineps" else mapping(source.name, "spineps").table
        )
        classes = apply_table(self._array, self._with_unknown(spineps), file=self.file)
        known = {key: key for key in scheme(INSTANCES).labels}
        whole = apply_table(levels.array, known, file=f"{self.file} (instances)").astype(np.uint16)
        beside = np.isin(classes, (CORD, CANAL, _SACRUM))
        lost = int(((whole == 0) & (classes > 0) & ~beside).sum())
        if lost:
            found = f"{lost} voxels of vertebrae, discs or endplates that belong to no instance"
            self._warn("W-LABEL-DROPPED", found, "a level for every voxel", "they are background in the result")
        whole = np.where((whole == 0) & beside, classes, whole)
        counts = id_counts(whole)
        table = out_of_whole(target.name, [int(k) for k in counts if k], lowest=self.plan.lowest)
        self._tell_dropped(counts, table, WHOLE.labels)
        return self.mask.with_array(apply_table(whole, table, file=self.file))

    def _with_cord_in_canal(self) -> Array:
        """Return the ids with cord and canal exchanged where that is wanted and due; say what was found."""
        source, array = self.plan.source, self.mask.array
        ids = {name: key for key, name in source.labels.items()} if source is not None else {}
        if not {"cord", "canal"} <= ids.keys():
            return array
        cord, canal = ids["cord"], ids["canal"]
        fix = self.plan.fix_cord_canal
        done = "they were exchanged" if fix else "exchange them with --fix-cord-canal"
        verdict, warnings = judged(
            self.mask, cord, canal, file=self.file, exchanged=done, unclear="they were left as they are"
        )
        if verdict == "exchanged" or fix:
            self.warnings += warnings
        return swap_sides(array, ((cord, canal),)) if verdict == "exchanged" and fix else array

    def _translated(self, row: LabelMapping | None, elsewhere: Collection[int] = ()) -> Array:
        """Return the ids of the target; ids that are `elsewhere` may be dropped without a word."""
        names: Mapping[int, str] = self.plan.source.labels if self.plan.source is not None else {}
        table = {key: key for key in names}
        if row is not None:
            known = [int(k) for k in self._counts if k in row.table]
            table = dict(mapping_for(row, known, level_order=self.plan.level_order, lowest=self.plan.lowest).table)
        table = self._with_unknown(table | dict(self.plan.custom))
        own = {key: name for key, name in names.items() if key not in self.plan.custom and key not in elsewhere}
        self._tell_dropped(self._counts, table, own)
        return apply_table(self._array, table, file=self.file)

    def _with_unknown(self, table: Mapping[int, int]) -> dict[int, int]:
        """Return the table, with background for ids that it does not have if they may be dropped."""
        unknown = {k: n for k, n in self._counts.items() if isinstance(k, int) and k > 0 and k not in table}
        if not unknown or not self.plan.drop_unknown:
            return dict(table)
        listing = ", ".join(f"{key} ({n} voxels)" for key, n in list(unknown.items())[:_LISTED])
        listing += f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        if not self._told_unknown:
            self._told_unknown = True
            self._warn("W-LABEL-DROPPED", f"unknown ids {listing}", "ids of the source", "they became background")
        return dict(table) | {int(key): 0 for key in unknown}

    def _tell_dropped(self, counts: Mapping[float, int], table: Mapping[int, int], names: Mapping[int, str]) -> None:
        present = {int(k): n for k, n in counts.items() if k in names and not table.get(int(k), 1)}
        if present:
            target = self.plan.target.name if self.plan.target is not None else "the map"
            listing = ", ".join(f"{names[key]} ({key}, {n} voxels)" for key, n in present.items())
            self._warn(
                "W-LABEL-DROPPED",
                f"{listing}: {target} has no id for it",
                "an id for everything",
                "it became background",
            )

    def _warn(self, code: str, found: str, expected: str, fix: str) -> None:
        self.warnings.append(Problem("warning", code, str(self.file), found, expected, fix))


def custom_rows(words: Sequence[str], target: LabelScheme | None, *, option: str = "--map") -> dict[int, int]:
    """Return id to id of what `--map` (or another option) says; see `label_files.convert`.

    Raises UsageError: malformed words, unknown names, an id twice.
    """
    numbers = {name: key for key, name in target.labels.items()} if target is not None else {}
    rows: dict[int, int] = {}
    for name, ids in _named(words, option).items():
        if name == BACKGROUND:
            number = 0
        elif target is None:
            number = numbers.setdefault(name, len(numbers) + 1)
        elif name in numbers:
            number = numbers[name]
        elif name.isdigit() and int(name) in target.labels:
            number = int(name)
        else:
            raise _wrong_map(option, name, f"a name of {target.name}", nearest(name, numbers))
        for key in ids:
            if key in rows:
                raise _wrong_map(option, f"the id {key} twice", "each id once", "correct the map")
            rows[key] = number
    return rows


def _named(words: Sequence[str], option: str) -> dict[str, list[int]]:
    pairs: list[tuple[str, Any]]
    if len(words) == 1 and words[0].lower().endswith((".yaml", ".yml", ".json")):
        pairs = [(str(name), ids if isinstance(ids, list) else [ids]) for name, ids in read_mapping(words[0]).items()]
    else:
        pairs = [(name.strip(), ids.split(",")) for name, _, ids in (word.partition("=") for word in words)]
    named: dict[str, list[int]] = {}
    for name, ids in pairs:
        if not name or not all(str(key).strip().isdigit() and int(key) > 0 for key in ids):
            expected = "name=id or name=id,id with ids above 0"
            raise _wrong_map(option, f"{name}={ids}", expected, "for example cord=1")
        named.setdefault(name, []).extend(int(key) for key in ids)
    return named


def _wrong_map(option: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-LABEL-MAP", file=option, found=found, expected=expected, fix=fix)

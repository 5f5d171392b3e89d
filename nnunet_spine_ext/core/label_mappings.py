"""Translations between label schemes: which ids become which, and what is lost on the way.

Schemes of levels meet in one of their own, `WHOLE`: instance ids and, beside them, cord and canal with their ids of
SPINEPS. Every scheme of levels has a table to it and one from it; the tables between two of them are composed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from nnunet_spine_ext.core.label_tables import (
    DISC_OFFSET,
    ENDPLATE_OFFSET,
    NNUNET14_OF_SPINEPS,
    SCHEMES,
    VERTEBRAE,
    LabelScheme,
)


@dataclass(frozen=True)
class LabelMapping:
    """A translation of ids between two schemes.

    Parameters
    ----------
    table: every id of the source; 0 drops it, because the target has nothing like it.
    kind: bijective if each id comes back from the target, else lossy.
    lost: in words, what cannot come back.
    instead: id to rows that replace those of the table in arrays that hold this id.
    assumed: in words, what the numbers of the source cannot tell and the table takes for granted.
    """

    source: str
    target: str
    table: Mapping[int, int]
    kind: Literal["bijective", "lossy"]
    lost: tuple[str, ...] = ()
    instead: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()


LevelOrder = Literal["bottom-up", "top-down"]
CORD, CANAL = 60, 61
SPIDER_CANAL = 100
WHOLE = LabelScheme("whole", {**SCHEMES["instances"].labels, CORD: "cord", CANAL: "canal"}, kind="levels")

_PARTLY_VISIBLE = "partly visible"
_BEYOND = "vertebra 25 from below"
_ASSUMED_OF_SPIDER = (
    "vertebra 1 is L5 (--lowest names another)",
    "vertebrae are counted from below (--level-order top-down: from above)",
)
_SPIDER_COUNTS = ("the lowest vertebra or disc of the mask above the sacrum gets number 1 (--lowest names another)",)
_COUNTED = ("L6", "T13", "disc L6", "disc T13")
_SACRAL = (26, *range(29, 34))


def _by_name(source: LabelScheme, target: LabelScheme, rename: Mapping[str, str] | None = None) -> dict[int, int]:
    """Pair ids whose names agree (after renaming source names)."""
    ids = {name: key for key, name in target.labels.items()}
    renamed = {key: (rename or {}).get(name, name) for key, name in source.labels.items()}
    return {key: ids[name] for key, name in renamed.items() if name in ids}


def _translation(
    source: LabelScheme,
    target: LabelScheme,
    table: Mapping[int, int],
    instead: Mapping[int, Mapping[int, int]] | None = None,
    assumed: tuple[str, ...] = (),
) -> LabelMapping:
    """Complete a table (what it does not name is dropped) and say what is lost."""
    complete = {key: table.get(key, 0) for key in source.labels}
    lost = _losses(source, target, complete)
    kind: Literal["bijective", "lossy"] = "lossy" if lost else "bijective"
    return LabelMapping(source.name, target.name, complete, kind, tuple(lost), instead or {}, assumed)


def _losses(source: LabelScheme, target: LabelScheme, table: Mapping[int, int]) -> list[str]:
    names = {key: name for key, name in source.labels.items() if not name.endswith((_PARTLY_VISIBLE, _BEYOND))}
    sources: dict[int, list[str]] = {}
    for key, name in names.items():
        sources.setdefault(table[key], []).append(name)
    # Numbers that count from the lowest level have one for every level; the table can only show the usual five lumbar.
    counted = _COUNTED if target.name == "spider" else ()
    dropped = [name for name in sources.pop(0, []) if name not in counted]
    lost = [
        f"{_listing(_grouped(merged, names.values()))} become {target.labels[key]}"
        for key, merged in sources.items()
        if merged[1:]
    ]
    if source.name == "spider":
        lost += [f"whether a vertebra is {_PARTLY_VISIBLE}", f"dropped: what belongs to {_BEYOND}, as 24 is C1"]
    if target.name == "spider":
        lost.append("the names of the levels: their numbers count from the lowest one of the mask")
    if dropped:
        lost.append(f"dropped: {', '.join(_grouped(dropped, names.values()))}")
    return lost


def _listing(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _grouped(listed: Sequence[str], known: Collection[str]) -> list[str]:
    """Shorten a list of names: where every disc (endplate, vertebra) is in it, say so once."""
    shortened = list(listed)
    for kind, belongs in KINDS.items():
        members = {name for name in known if belongs(name)}
        # SPINEPS' two endplates have names of their own.
        if len(members) > 2 and members <= set(shortened):
            shortened = [name for name in shortened if name not in members] + [f"all {kind}"]
    return shortened


def is_vertebra(name: str) -> bool:
    """Whether a name is that of a single vertebra above the sacrum."""
    return name.startswith("vertebra ") or (name in VERTEBRAE.values() and name[0] in "CTL")


KINDS = {
    "vertebrae": is_vertebra,
    "discs": lambda name: name.startswith("disc "),
    "endplates": lambda name: name.startswith("endplate "),
}


def _compose(first: LabelMapping, second: LabelMapping) -> LabelMapping:
    """Return the translation by `first`, then `second`; rows that depend on the presence of an id are carried along."""
    instead: dict[int, dict[int, int]] = {}
    for present, changed in first.instead.items():
        instead[present] = {key: second.table[value] for key, value in changed.items()}
    for met, changed in second.instead.items():
        for present in (key for key, value in first.table.items() if value == met):
            rows = {key: changed[value] for key, value in first.table.items() if value in changed}
            instead[present] = instead.get(present, {}) | rows
    table = {key: second.table[value] if value else 0 for key, value in first.table.items()}
    changing = {
        present: changed
        for present, rows in instead.items()
        if (changed := {key: value for key, value in rows.items() if value != table[key]})
    }
    source = WHOLE if first.source == WHOLE.name else SCHEMES[first.source]
    return _translation(source, SCHEMES[second.target], table, changing, first.assumed + second.assumed)


def _to_whole() -> dict[str, LabelMapping]:
    """Return the translation of every scheme of levels into `WHOLE`."""
    sacrum = {"sacrum": "S1"}
    above_sacrum = "disc above the sacrum"
    # TotalSpineSeg calls the lowest disc by the sacrum below it: it is L5's unless there is an L6 (46, disc above: 96).
    with_l6 = {100: DISC_OFFSET + 25}
    spider = {n: 25 - n for n in range(1, 25)}
    spider |= {DISC_OFFSET + n: level for n, level in spider.items()} | {SPIDER_CANAL: CANAL}
    spider |= {200 + n: DISC_OFFSET + 25 - n for n in range(1, 25)}
    rows: dict[str, tuple[dict[int, int], dict[int, dict[int, int]], tuple[str, ...]]] = {
        name: (_by_name(SCHEMES[name], WHOLE, sacrum), {}, ())
        for name in ("instances", "verse", "totalsegmentator", "sct_discs")
    }
    spine_seg = _by_name(SCHEMES["totalspineseg"], WHOLE, {**sacrum, above_sacrum: "disc L5"})
    rows["totalspineseg"] = (spine_seg, {46: with_l6, 96: with_l6}, ())
    rows["spider"] = (spider, {}, _ASSUMED_OF_SPIDER)
    return {name: _translation(SCHEMES[name], WHOLE, *row) for name, row in rows.items()}


def _from_whole() -> dict[str, LabelMapping]:
    """Return the translation of `WHOLE` into every scheme."""
    segments = {f"S{k}": "sacrum" for k in range(1, 7)}
    lowest = {"disc L5": "disc above the sacrum", "disc L6": "disc above the sacrum"}
    l5_above_l6 = {DISC_OFFSET + 24: 96}
    rows: dict[str, tuple[dict[int, int], dict[int, dict[int, int]]]] = {
        name: (_by_name(WHOLE, SCHEMES[name], segments), {}) for name in ("verse", "totalsegmentator")
    }
    rows |= {name: (_by_name(WHOLE, SCHEMES[name]), {}) for name in ("instances", "sct_discs")}
    spine_seg = _by_name(WHOLE, SCHEMES["totalspineseg"], segments | lowest)
    rows["totalspineseg"] = (spine_seg, {25: l5_above_l6, DISC_OFFSET + 25: l5_above_l6})
    spider = {25 - n: n for n in range(1, 25)} | {DISC_OFFSET + 25 - n: 200 + n for n in range(1, 25)}
    # SPIDER's canal holds the cord.
    rows["spider"] = (spider | {CANAL: SPIDER_CANAL, CORD: SPIDER_CANAL}, {})
    vertebrae = [key for key, name in VERTEBRAE.items() if is_vertebra(name)]
    discs, endplates = (
        {offset + key for key in VERTEBRAE} & set(WHOLE.labels) for offset in (DISC_OFFSET, ENDPLATE_OFFSET)
    )
    spineps = dict.fromkeys(_SACRAL, 26) | dict.fromkeys(discs, 100) | dict.fromkeys(endplates, 62)
    spineps |= {CORD: CORD, CANAL: CANAL}
    rows["spineps"] = (spineps, {})
    rows["nnunet14"] = ({key: NNUNET14_OF_SPINEPS[value] for key, value in spineps.items()}, {})
    mr = dict.fromkeys(vertebrae, 19) | dict.fromkeys(_SACRAL, 18) | dict.fromkeys(discs, 20) | {CORD: 21}
    rows["totalsegmentator_mr"] = (mr, {})
    assumed = {"spider": _SPIDER_COUNTS}
    return {name: _translation(WHOLE, SCHEMES[name], *row, assumed.get(name, ())) for name, row in rows.items()}


def _semantic() -> list[LabelMapping]:
    """Return the translations between schemes of tissue classes."""
    spineps, own, mr = (SCHEMES[name] for name in ("spineps", "nnunet14", "totalsegmentator_mr"))
    merged = SCHEMES["whole_vertebrae"]
    to_spineps = {t: next(s for s, u in NNUNET14_OF_SPINEPS.items() if u == t) for t in own.labels}
    # Parts of vertebrae are vertebrae; endplates fill the gap between vertebra and disc, which others leave empty.
    to_mr = {1: 18, **dict.fromkeys(range(2, 11), 19), 11: 21, 14: 20}
    forth, back = _translation(spineps, own, NNUNET14_OF_SPINEPS), _translation(own, spineps, to_spineps)
    out, home = _translation(own, mr, to_mr), _translation(mr, own, {18: 1, 20: 14, 21: 11})
    rows = [forth, back, out, home, _compose(forth, out), _compose(home, back)]
    to_merged = {1: 5, **dict.fromkeys(range(2, 11), 1), 11: 4, 12: 3, 14: 2}
    merging, parting = _translation(own, merged, to_merged), _translation(merged, own, {2: 14, 3: 12, 4: 11, 5: 1})
    return [*rows, merging, parting, _compose(forth, merging), _compose(parting, back)]


def _build_mappings() -> dict[tuple[str, str], LabelMapping]:
    rows = _semantic()
    for source, forth in TO_WHOLE.items():
        rows += [_compose(forth, back) for target, back in FROM_WHOLE.items() if target != source]
    # Discs have nothing to say to a scheme without discs.
    return {(row.source, row.target): row for row in rows if any(row.table.values())}


TO_WHOLE: dict[str, LabelMapping] = _to_whole()
FROM_WHOLE: dict[str, LabelMapping] = _from_whole()
# (source, target) to its translation. A semantic mask has no levels: there is none from classes to levels.
MAPPINGS: dict[tuple[str, str], LabelMapping] = _build_mappings()


def into_whole(
    source: str, ids: Collection[int], *, level_order: LevelOrder = "bottom-up", lowest: str | None = None
) -> dict[int, int]:
    """Return the ids of `WHOLE` for a mask in a scheme of levels that holds these ids; see `mapping_for`."""
    table = _settled(TO_WHOLE[source], ids)
    if source == "spider":
        from nnunet_spine_ext.core.spider import LOWEST, spider_table

        # Levels above C1 are left out, so that the mask that has them is refused.
        table = {key: 0 for key in table if key not in ids}
        table |= spider_table(ids, order=level_order, lowest=lowest or LOWEST)
        table[SPIDER_CANAL] = CANAL
    return table


def out_of_whole(target: str, ids: Collection[int], *, lowest: str | None = None) -> dict[int, int]:
    """Return the ids of a scheme for a mask that holds these ids of `WHOLE`; see `mapping_for`."""
    table = _settled(FROM_WHOLE[target], ids)
    if target == "spider":
        from nnunet_spine_ext.core.spider import instances_to_spider

        levels = [key for key in ids if key in SCHEMES["instances"].labels]
        numbers = instances_to_spider(levels, lowest=lowest)
        table = dict.fromkeys(table, 0) | numbers | {CORD: SPIDER_CANAL, CANAL: SPIDER_CANAL}
    return table


def _settled(row: LabelMapping, ids: Collection[int]) -> dict[int, int]:
    table = dict(row.table)
    for present in sorted(set(ids) & row.instead.keys()):
        table |= row.instead[present]
    return table


def mapping_for(
    row: LabelMapping, ids: Collection[int], *, level_order: LevelOrder = "bottom-up", lowest: str | None = None
) -> LabelMapping:
    """Return a translation with what depends on the ids of a mask settled: numbers that count, rows of `instead`.

    Parameters
    ----------
    level_order: from which end the numbers of a SPIDER mask count.
    lowest: name of the vertebra with SPIDER's number 1; None: L5 in a mask that is read, the lowest one there is in a
        mask that is written.

    Raises
    ------
    UsageError: no such order or vertebra.
    """
    if "spider" not in (row.source, row.target):
        return replace(row, table=_settled(row, ids), instead={})
    whole = into_whole(row.source, ids, level_order=level_order, lowest=lowest)
    table = out_of_whole(row.target, {whole[key] for key in ids if key in whole}, lowest=lowest)
    return replace(row, table={key: table.get(value, 0) for key, value in whole.items()}, instead={})

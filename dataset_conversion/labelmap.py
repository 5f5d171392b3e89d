"""Label maps: which ids of the source masks become which classes of the dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import nearest, read_mapping
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import LabelMapping, apply_table, mapping, scheme
from nnunet_spine_ext.core.volume import Array

TRAINING_SCHEME = "nnunet14"
CUSTOM = "custom"
_SIDE = re.compile(r"(?<![A-Za-z])(left|right)(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class LabelMap:
    """A translation of source ids into consecutive class ids.

    Parameters
    ----------
    labels: class name to id, consecutive from 1.
    table: source id to class id; 0 drops the source id.
    scheme: ``nnunet14`` if the classes are exactly those, else ``custom``.
    sided_labels: pairs of class ids that change places in a mirror.
    lost: in words, what the translation merges.
    """

    labels: dict[str, int]
    table: dict[int, int]
    scheme: str = CUSTOM
    sided_labels: tuple[tuple[int, int], ...] = ()
    lost: tuple[str, ...] = ()

    def apply(self, array: Array, *, file: str | Path) -> Array:
        """Translate a mask; raises CaseError listing ids that are not in the map, with their voxel counts."""
        return apply_table(array, self.table, file=file)


def from_ids(ids: Iterable[int]) -> LabelMap:
    """Return the map for masks without a description: ascending ids become ``label_<id>``, numbered from 1."""
    numbered = {source: number for number, source in enumerate(sorted(set(ids) - {0}), start=1)}
    return LabelMap({f"label_{source}": number for source, number in numbered.items()}, numbered)


def parse_label_map(words: Sequence[str]) -> LabelMap:
    """Return the map that `--label-map` describes.

    Parameters
    ----------
    words: ``name=id[,id...]`` words (``background=id`` drops ids), or one of ``scheme``, ``source:target`` (names of
        label schemes) and the path of a YAML or JSON file: ``name: id or [ids]``, or the keys ``labels`` and ``sided``.

    Raises
    ------
    UsageError: unknown scheme, malformed word, an id used twice, an unknown name in ``sided``.
    """
    if len(words) == 1 and "=" not in words[0]:
        word = words[0]
        if word.lower().endswith((".yaml", ".yml", ".json")):
            return _from_file(word)
        source, _, target = word.partition(":")
        return _from_schemes(source, target or source)
    return _from_names(_assignments(words), sided=None, where="--label-map")


def _from_file(path: str) -> LabelMap:
    content = read_mapping(path)
    labels, sided = content, None
    if isinstance(content.get("labels"), dict):
        unknown = sorted(set(content) - {"labels", "sided"})
        if unknown:
            raise _wrong(path, f"the key {unknown[0]!r}", "labels and sided", nearest(unknown[0], ("labels", "sided")))
        labels, sided = content["labels"], content.get("sided")
    return _from_names({str(name): _ids(ids, f"{path}: {name}") for name, ids in labels.items()}, sided, path)


def _assignments(words: Sequence[str]) -> dict[str, list[int]]:
    named: dict[str, list[int]] = {}
    for word in words:
        name, separator, ids = word.partition("=")
        if not separator or not name.strip() or name.strip() in named:
            raise _wrong("--label-map", repr(word), "name=id or name=id,id with each name once", "for example cord=1")
        named[name.strip()] = _ids(ids.split(","), f"--label-map {word}")
    return named


def _ids(values: Any, where: str) -> list[int]:
    listed = values if isinstance(values, list) else [values]
    try:
        ids = [int(str(value)) for value in listed]
    except ValueError as error:
        raise _wrong(where, repr(values), "whole numbers", "write the ids of the source masks") from error
    if not ids or min(ids) < 0:
        raise _wrong(where, repr(values), "ids of 0 or more", "write the ids of the source masks")
    return ids


def _from_names(named: Mapping[str, list[int]], sided: Any, where: str) -> LabelMap:
    classes = [name for name in named if name != "background"]
    if not classes:
        raise _wrong(where, "no class", "at least one name=id", "for example cord=1")
    if "ignore" in classes:
        raise _wrong(where, "a class called ignore", "other names", "--unlabelled declares the ignore label")
    labels = {name: number for number, name in enumerate(classes, start=1)}
    table: dict[int, int] = {}
    for name, ids in named.items():
        for source in ids:
            if source in table or (source == 0 and name != "background"):
                taken = "the background" if source == 0 else "two classes"
                raise _wrong(where, f"the id {source} for {name!r} and {taken}", "each id once", "correct the map")
            if source != 0:
                table[source] = labels.get(name, 0)
    return LabelMap(labels, table, CUSTOM, _sided(labels, sided, where))


def _sided(labels: Mapping[str, int], sided: Any, where: str) -> tuple[tuple[int, int], ...]:
    """Left/right pairs: those given, else those whose names differ in the words left and right only."""
    if sided is None:
        lower = {name.lower(): number for name, number in labels.items()}
        pairs = []
        for name, number in lower.items():
            twin = _SIDE.sub(lambda word: "right" if word.group().lower() == "left" else word.group(), name)
            if twin != name and twin in lower:
                pairs.append((number, lower[twin]))
        return tuple(pairs)
    if not isinstance(sided, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in sided):
        raise _wrong(where, f"sided: {sided!r}", "a list of [left, right] names", "correct the list")
    unknown = sorted({str(name) for pair in sided for name in pair} - set(labels))
    if unknown:
        raise _wrong(where, f"the sided label {unknown[0]!r}", "names of classes", nearest(unknown[0], labels))
    return tuple((labels[left], labels[right]) for left, right in sided)


def _from_schemes(source: str, target: str) -> LabelMap:
    wanted = scheme(target)
    same = {number: number for number in scheme(source).labels}
    translation = mapping(source, target) if source != target else LabelMapping(source, target, same, "bijective")
    # nnU-Net wants ids without gaps; schemes have them.
    number_of = {key: number for number, key in enumerate(sorted(wanted.labels), start=1)}
    return LabelMap(
        labels={wanted.labels[key]: number for key, number in number_of.items()},
        table={key: number_of.get(value, 0) for key, value in translation.table.items()},
        scheme=TRAINING_SCHEME if target == TRAINING_SCHEME else CUSTOM,
        sided_labels=tuple((number_of[left], number_of[right]) for left, right in wanted.sided_pairs),
        lost=translation.lost,
    )


def _wrong(where: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError("E-LABEL-MAP", file=where, found=found, expected=expected, fix=fix)

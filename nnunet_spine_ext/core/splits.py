"""Cross-validation splits in which a subject is never on both sides."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import UsageError

Split = dict[str, list[str]]

MIN_SUBJECTS = 2

_log = logging.getLogger(__name__)


def grouped_splits(subject_of: Mapping[str, str], folds: int = 5, *, train_only: Collection[str] = ()) -> list[Split]:
    """Return nnU-Net splits ``[{"train": [...], "val": [...]}, ...]`` grouped by subject.

    Every case outside `train_only` is validated in exactly one fold; the folds hold nearly equal numbers of cases. The
    result depends on the names alone, not on their order.

    Parameters
    ----------
    subject_of: subject of each case.
    folds: number of folds wanted; with fewer validated subjects there are as many folds as such subjects.
    train_only: cases that are never validated (unlabelled, or with masks not good enough to score against). In the
        fold that validates another case of their subject they are left out.

    Raises
    ------
    UsageError: fewer than two folds, or fewer than two subjects to validate.
    """
    if folds < MIN_SUBJECTS:
        raise UsageError(
            "E-SPLIT-FOLDS", found=f"{folds} folds", expected="at least 2", fix="ask for more folds, 5 is usual"
        )
    excluded = set(train_only)
    validated: dict[str, list[str]] = {}
    for case in sorted(set(subject_of) - excluded):
        validated.setdefault(subject_of[case], []).append(case)
    if len(validated) < MIN_SUBJECTS:
        raise UsageError(
            "E-SPLIT-SUBJECTS",
            found=f"labelled training cases of {len(validated)} subject(s)",
            expected="at least 2 subjects, or no fold can leave one out",
            fix="add subjects, or train the fold all, without splits: nnUNetv2_train ID 3d_fullres all",
        )
    groups = _deal(validated, min(folds, len(validated)))
    return [_split(subject_of, group, excluded) for group in groups]


def _deal(cases_of: Mapping[str, list[str]], folds: int) -> list[set[str]]:
    """Deal subjects to folds: large ones first, each to the fold with the fewest cases.

    Subjects of equal size come in the order of a hash of their names, so sites that number their subjects in blocks
    are mixed.
    """
    order = sorted(cases_of, key=lambda name: (-len(cases_of[name]), hashlib.sha256(name.encode()).hexdigest()))
    groups: list[set[str]] = [set() for _ in range(folds)]
    sizes = [0] * folds
    for subject in order:
        # An empty fold comes before a small one: with large and small subjects a fold could stay empty otherwise.
        smallest = min(range(folds), key=lambda k: (bool(groups[k]), sizes[k], k))
        groups[smallest].add(subject)
        sizes[smallest] += len(cases_of[subject])
    return groups


def _split(subject_of: Mapping[str, str], validated: set[str], excluded: set[str]) -> Split:
    inside = {case for case, subject in subject_of.items() if subject in validated}
    return {"train": sorted(set(subject_of) - inside), "val": sorted(inside - excluded)}


def split_faults(splits: Sequence[Mapping[str, Sequence[str]]], subject_of: Mapping[str, str]) -> Iterator[str]:
    """Yield in words what is wrong with splits: leaking subjects, unknown, repeated or missing cases, empty sides."""
    for fold, split in enumerate(splits):
        if set(split) != {"train", "val"}:
            yield f"fold {fold} has the keys {sorted(split)} instead of train and val"
            continue
        yield from _fold_faults(fold, split["train"], split["val"], subject_of)


def _fold_faults(fold: int, train: Sequence[str], val: Sequence[str], subject_of: Mapping[str, str]) -> Iterator[str]:
    both = [*train, *val]
    unknown = sorted(set(both) - set(subject_of))
    if unknown:
        yield f"fold {fold} lists cases that do not exist: {shorten(unknown)}"
    repeated = sorted({case for case in both if both.count(case) > 1})
    if repeated:
        yield f"fold {fold} lists cases twice: {shorten(repeated)}"
    subjects = [{subject_of[case] for case in side if case in subject_of} for side in (train, val)]
    leaking = sorted(subjects[0] & subjects[1])
    if leaking:
        yield f"fold {fold} has subjects in train and val: {shorten(leaking)}"
    for name, side in (("train", train), ("val", val)):
        if not side:
            yield f"fold {fold} has an empty {name} list"


def shorten(names: Collection[str], limit: int = 8) -> str:
    """Join names for a message: at most `limit` of them, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def case_counts(counts: Mapping[str, int]) -> str:
    """Return how many cases each name has, for a message, sorted by name."""
    shown = (f"{name} ({count} case{'' if count == 1 else 's'})" for name, count in sorted(counts.items()))
    return "; ".join(shown) or "nothing"


def refuse_test_leak(records: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Raise UsageError when a subject has training and test cases; `records` as in cases.json."""
    test = {row["subject"] for row in records.values() if row.get("test")}
    leaking = sorted(test & {row["subject"] for row in records.values() if not row.get("test")})
    if leaking:
        raise UsageError(
            "E-SPLIT-TEST",
            file=folder,
            found=f"subjects with training and test cases: {shorten(leaking)}",
            expected="all cases of a subject on one side",
            fix="make all cases of these subjects test cases, or none",
        )


def splits_for(records: Mapping[str, Mapping[str, Any]], folds: int) -> list[Split] | None:
    """Return grouped splits for the entries of cases.json; None when fewer than two subjects can be validated."""
    training = {case: row for case, row in records.items() if not row.get("test")}
    subject_of = {case: str(row["subject"]) for case, row in training.items()}
    unscored = _unscored(training)
    if len({subject_of[case] for case in set(subject_of) - unscored}) < MIN_SUBJECTS:
        _log.warning(
            "fewer than two subjects to validate, so there are no splits: train the fold all "
            "(nnUNetv2_train ID 3d_fullres all); nnU-Net's own trainers would split other folds by case"
        )
        return None
    return grouped_splits(subject_of, folds, train_only=unscored)


def _unscored(training: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {case for case, row in training.items() if not row["labelled"] or row.get("train_only")}


def checked_splits(splits: Sequence[Split], training: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Split]:
    """Return splits for the training entries of cases.json; raises UsageError that says what is wrong with them."""
    faults = list(split_faults(splits, {case: str(row["subject"]) for case, row in training.items()}))
    for fold, split in enumerate(splits):
        scored = sorted(set(split.get("val", [])) & _unscored(training))
        faults += [f"fold {fold} validates cases without masks to score: {shorten(scored)}"] if scored else []
    if faults:
        raise UsageError(
            "E-SPLIT-WRONG",
            file=folder,
            found="; ".join(faults[:4]),
            expected="known cases, each subject on one side",
            fix="correct the splits or leave them out",
        )
    return [{"train": list(split["train"]), "val": list(split["val"])} for split in splits]

"""Which cases a fine-tuning gets: nested subsets grouped by subject, stratified by domain, and a fixed validation set.

The order of the subjects is drawn once per seed, and N subjects are its first N: so those of N = 5 are among those of
N = 10. Draws are hashes of names: they are the same everywhere, and a subject that is added moves no other two.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_spine_ext.core.errors import UsageError

VALIDATION_SHARE = 0.2
"""Subjects that validate, of those with labels; at least one."""

Row = Mapping[str, Any]

# What tells scanners and protocols apart in cases.json; one field that names the domain itself goes before these.
_DOMAIN_KEYS = ("site", "manufacturer", "model", "field_strength", "contrast")
_NAMED_DOMAIN = ("domain", "scanner")


@dataclass(frozen=True)
class Selection:
    """Cases to train on and to validate on, `subjects` of the first in the order drawn, and their number by domain."""

    cases: tuple[str, ...]
    validation: tuple[str, ...]
    subjects: tuple[str, ...]
    domains: dict[str, int]


def domain_of(row: Row) -> str:
    """Return the domain of a case of cases.json: its ``domain`` or ``scanner``, else site, device and contrast."""
    for key in _NAMED_DOMAIN:
        if row.get(key) not in (None, ""):
            return str(row[key])
    return " ".join(str(row[key]) for key in _DOMAIN_KEYS if row.get(key) not in (None, "")) or "unknown"


def usable(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Return the training cases that have labels: cases that are ignored wholly have nothing to learn from."""
    return {case: row for case, row in sorted(rows.items()) if row.get("labelled", True) and not row.get("test")}


def select(rows: Mapping[str, Row], n: int, seed: int, validation: Sequence[str] | None = None) -> Selection:
    """Choose `n` subjects, with all their labelled cases, and the validation set, which depends on neither n nor seed.

    Parameters
    ----------
    rows: cases of cases.json; those without labels are left out, those that are ``train_only`` never validate.
    n: subjects to train on, from 1. seed: another one gives another order.
    validation: cases that validate instead of the fixed set; their subjects train nothing.

    Raises
    ------
    UsageError: n below 1 or above the subjects that do not validate; fewer than two subjects with labels; names in
        `validation` that are unknown, twice, without labels or ``train_only``.
    """
    _refuse_wrong_names(rows, (), validation or ())
    rows = usable(rows)
    cases = _by_subject(rows)
    refuse_nothing(n)
    held = {str(rows[c]["subject"]) for c in validation} if validation else _validation_subjects(rows, cases)
    rest = [subject for subject in cases if subject not in held]
    if n > len(rest):
        raise UsageError(
            "E-FINETUNE-N",
            file="--n",
            found=f"{n} subjects wanted of {len(rest)} ({len(held)} more validate)",
            expected=f"1 to {len(rest)}",
            fix=f"ask for at most {len(rest)}, or name the cases with --cases and --validation",
        )
    domains = {subject: _subject_domain(rows[case] for case in cases[subject]) for subject in rest}
    chosen = stratified_order(domains, f"subset {seed}")[:n]
    kept = sorted(validation or (c for s in held for c in cases[s] if not rows[c].get("train_only")))
    trained = sorted(case for subject in chosen for case in cases[subject])
    counts = defaultdict(int, dict.fromkeys(sorted({domains[s] for s in chosen}), 0))
    for subject in chosen:
        counts[domains[subject]] += 1
    return Selection(tuple(trained), tuple(kept), tuple(chosen), dict(counts))


def named(rows: Mapping[str, Row], cases: Sequence[str], validation: Sequence[str] | None) -> Selection:
    """Return a selection of cases that the user names; without `validation` the fixed set, less the subjects named.

    Raises
    ------
    UsageError: a case twice, unknown, without labels, ``train_only`` but to validate on, or a subject on both sides;
        nothing left to validate on.
    """
    _refuse_wrong_names(rows, cases, validation or ())
    refuse_nothing(len(cases))
    good = usable(rows)
    by_subject = _by_subject(good)
    subjects = sorted({str(rows[case]["subject"]) for case in cases})
    if validation is None:
        held = _validation_subjects(good, by_subject) - set(subjects)
        validation = sorted(c for s in held for c in by_subject[s] if not good[c].get("train_only"))
    if not validation:
        raise _too_few("no subject beside those that train")
    both = {str(rows[case]["subject"]) for case in validation} & set(subjects)
    if both:
        raise UsageError(
            "E-FINETUNE-CASES",
            file="--cases and --validation",
            found=f"subjects on both sides: {', '.join(sorted(both)[:8])}",
            expected="each subject on one side",
            fix="leave the subject out on one side",
        )
    counts: dict[str, int] = defaultdict(int)
    for subject in subjects:
        counts[_subject_domain(rows[c] for c in cases if str(rows[c]["subject"]) == subject)] += 1
    return Selection(tuple(sorted(cases)), tuple(sorted(validation)), tuple(subjects), dict(sorted(counts.items())))


def stratified_order(domains: Mapping[str, str], key: str) -> list[str]:
    """Return the subjects in an order drawn by `key`, each first part of which mixes domains in their shares.

    The next subject comes from the domain that is farthest behind its share.

    Parameters
    ----------
    domains: domain of each subject.
    """
    waiting: dict[str, list[str]] = defaultdict(list)
    for subject in sorted(domains, key=lambda s: _draw(key, s)):
        waiting[domains[subject]].append(subject)
    shares = {domain: len(members) / len(domains) for domain, members in waiting.items()}
    taken = dict.fromkeys(waiting, 0)
    order: list[str] = []
    for position in range(1, len(domains) + 1):
        left = [domain for domain in waiting if taken[domain] < len(waiting[domain])]
        # Rounded: shares that are equal must not differ by the last bit.
        domain = min(left, key=lambda d: (round(taken[d] - shares[d] * position, 9), _draw(key, d)))
        order.append(waiting[domain][taken[domain]])
        taken[domain] += 1
    return order


def refuse_nothing(n: int) -> None:
    """Raise UsageError when there is nothing to train on."""
    if n < 1:
        raise UsageError(
            "E-FINETUNE-N",
            file="--n",
            found=f"{n}: nothing to train on",
            expected="at least one subject",
            fix="N = 0 is the source model as it is: predict with it",
        )


def _validation_subjects(rows: Mapping[str, Row], cases: Mapping[str, Sequence[str]]) -> set[str]:
    fit = [subject for subject in cases if any(not rows[case].get("train_only") for case in cases[subject])]
    count = max(1, round(VALIDATION_SHARE * len(cases)))
    if len(cases) < 2 or not fit:
        raise _too_few(f"{len(cases)} subjects with labels, {len(fit)} of them to validate on")
    domains = {subject: _subject_domain(rows[case] for case in cases[subject]) for subject in fit}
    return set(stratified_order(domains, "validation")[: min(count, len(cases) - 1)])


def _too_few(found: str) -> UsageError:
    return UsageError(
        "E-FINETUNE-CASES",
        file="cases.json",
        found=found,
        expected="a subject to train on and another to validate on",
        fix="label another subject of this dataset",
    )


def _refuse_wrong_names(rows: Mapping[str, Row], training: Sequence[str], validating: Sequence[str]) -> None:
    good, names = usable(rows), [*training, *validating]
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(names) - set(rows))
    empty = sorted(set(names) & set(rows) - set(good))
    only = sorted(name for name in set(validating) & set(rows) if rows[name].get("train_only"))
    for what, found in (
        ("twice", twice),
        ("not in cases.json", unknown),
        ("without labels, or test cases", empty),
        ("train_only, and named to validate", only),
    ):
        if found:
            raise UsageError(
                "E-FINETUNE-CASES",
                file="--cases and --validation",
                found=f"{what}: {', '.join(found[:8])}",
                expected="labelled training cases of this dataset, each once; train_only ones only to train on",
                fix="correct the names",
            )


def _by_subject(rows: Mapping[str, Row]) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = defaultdict(list)
    for case, row in rows.items():
        cases[str(row["subject"])].append(case)
    return dict(cases)


def _subject_domain(rows: Iterable[Row]) -> str:
    """Return the domain of a subject; somebody who was scanned several times is of all these domains together."""
    return " + ".join(sorted({domain_of(row) for row in rows}))


def _draw(key: str, name: str) -> str:
    return hashlib.sha256(f"{key}\0{name}".encode()).hexdigest()

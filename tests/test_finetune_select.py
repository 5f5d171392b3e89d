"""Which subjects a fine-tuning gets: nested, grouped, in the shares of the scanners, and never those that validate."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training.finetune_select import domain_of, named, select, stratified_order

Rows = dict[str, dict[str, Any]]


def rows_of(count: int, scanners: tuple[str, ...] = ("a",), contrasts: tuple[str, ...] = ("T2w",)) -> Rows:
    """Subjects s00, s01, …, who take turns on the scanners, with a case per contrast."""
    return {
        f"s{k:02d}_{contrast}": {
            "subject": f"s{k:02d}", "site": scanners[k % len(scanners)], "contrast": contrast, "labelled": True,
        }
        for k in range(count)
        for contrast in contrasts
    }  # fmt: skip


TABLES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans()), min_size=3, max_size=30).map(
    lambda subjects: {
        f"s{k}_{i}": {"subject": f"s{k}", "site": f"site{site}", "labelled": labelled or k < 3}
        for k, (site, scans, labelled) in enumerate(subjects)
        for i in range(scans)
    }
)


@given(TABLES, st.integers(0, 50), st.data())
def test_smaller_subsets_are_part_of_larger_ones_and_validation_is_apart(rows: Rows, seed: int, data: Any) -> None:
    labelled = {row["subject"] for row in rows.values() if row["labelled"]}
    validation = select(rows, 1, seed).validation
    most = len(labelled) - len({rows[case]["subject"] for case in validation})
    small = data.draw(st.integers(1, most))
    large = data.draw(st.integers(small, most))
    first, second = select(rows, small, seed), select(rows, large, seed)
    assert set(first.cases) <= set(second.cases)
    assert first.subjects == second.subjects[:small]
    assert first.validation == second.validation == validation == select(rows, large, seed + 1).validation
    for chosen in (first, second):
        subjects = {rows[case]["subject"] for case in chosen.cases}
        assert subjects == set(chosen.subjects), "whole subjects"
        assert set(chosen.cases) == {c for c, r in rows.items() if r["subject"] in subjects and r["labelled"]}
        assert not subjects & {rows[case]["subject"] for case in chosen.validation}
    shuffled = dict(reversed(rows.items()))
    assert select(shuffled, small, seed) == first, "the order of cases.json does not matter"


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=5), st.sampled_from("xyz"), min_size=1, max_size=60))
def test_each_first_part_has_the_domains_in_their_shares(domains: dict[str, str]) -> None:
    order = stratified_order(domains, "any")
    assert sorted(order) == sorted(domains)
    total = Counter(domains.values())
    for n in range(1, len(order) + 1):
        found = Counter(domains[subject] for subject in order[:n])
        for domain, count in total.items():
            assert abs(found[domain] - n * count / len(order)) < 2
    equal = {f"{letter}{k}": letter for letter in "pqr" for k in range(4)}
    for n in range(1, 13):
        found = Counter(equal[s] for s in stratified_order(equal, "any")[:n])
        assert max(found.values()) - min(found[d] for d in "pqr") <= 1


def test_seeds_differ_and_repeat() -> None:
    rows = rows_of(20, ("a", "b"))
    drawn = {seed: select(rows, 4, seed) for seed in range(5)}
    assert len({chosen.cases for chosen in drawn.values()}) == 5
    assert drawn[3] == select(rows, 4, 3)
    assert drawn[0].domains == {"a T2w": 2, "b T2w": 2}
    assert len(drawn[0].validation) == 4, "a fifth"
    # Fixed: whoever changes the draw changes everybody's subsets.
    assert drawn[0].subjects == ("s16", "s07", "s06", "s15")


def test_all_contrasts_of_a_subject_come_together() -> None:
    chosen = select(rows_of(6, contrasts=("T1w", "T2w")), 2, 0)
    assert len(chosen.subjects) == 2
    assert len(chosen.cases) == 4
    assert chosen.domains == {"a T1w + a T2w": 2}, "who was scanned twice is of both domains together"


def test_cases_without_labels_are_left_out_and_train_only_never_validates() -> None:
    rows = rows_of(5, contrasts=("T1w", "T2w"))
    for case in ("s00_T1w", "s01_T1w", "s01_T2w"):
        rows[case]["labelled"] = False
    for case in ("s02_T1w", "s02_T2w", "s03_T1w"):
        rows[case]["train_only"] = True
    rows["s04_T1w"]["test"] = True
    every = [select(rows, n, seed) for seed in range(4) for n in (1, 2, 3)]
    trained = {case for chosen in every for case in chosen.cases}
    assert not trained & {"s00_T1w", "s01_T1w", "s01_T2w", "s04_T1w"}
    assert not set(every[0].validation) & {"s02_T1w", "s02_T2w", "s03_T1w", "s04_T1w"}
    with pytest.raises(UsageError, match="1 to 3"):
        select(rows, 4, 0)


def test_train_only_cases_that_are_named_to_validate_are_refused() -> None:
    rows = rows_of(5)
    rows["s01_T2w"]["train_only"] = True
    for refused in (lambda: select(rows, 1, 0, ["s01_T2w"]), lambda: named(rows, ["s00_T2w"], ["s01_T2w"])):
        with pytest.raises(UsageError, match="train_only, and named to validate: s01_T2w") as caught:
            refused()
        assert caught.value.code == "E-FINETUNE-CASES"
    assert named(rows, ["s01_T2w"], ["s02_T2w"]).cases == ("s01_T2w",)


@pytest.mark.parametrize(("n", "text"), [(0, "source model as it is"), (-3, "nothing to train on"), (9, "1 to 8")])
def test_impossible_numbers(n: int, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        select(rows_of(10), n, 0)
    assert caught.value.code == "E-FINETUNE-N"


def test_too_few_subjects() -> None:
    with pytest.raises(UsageError, match="another to validate on") as caught:
        select(rows_of(1, contrasts=("T1w", "T2w")), 1, 0)
    assert caught.value.code == "E-FINETUNE-CASES"
    assert len(select(rows_of(2), 1, 0).cases) == 1
    rows = rows_of(3)
    for row in rows.values():
        row["train_only"] = True
    with pytest.raises(UsageError, match="0 of them to validate on"):
        select(rows, 1, 0)


def test_a_validation_set_of_ones_own() -> None:
    rows = rows_of(6, contrasts=("T1w", "T2w"))
    own = select(rows, 4, 0, ["s02_T1w", "s03_T2w"])
    assert own.validation == ("s02_T1w", "s03_T2w")
    assert not {"s02", "s03"} & set(own.subjects), "the other scans of these subjects train nothing"
    with pytest.raises(UsageError, match="1 to 4"):
        select(rows, 5, 0, ["s02_T1w", "s03_T2w"])
    with pytest.raises(UsageError, match=r"not in cases\.json: s99"):
        select(rows, 1, 0, ["s99"])


def test_named_cases() -> None:
    rows = rows_of(6)
    chosen = named(rows, ["s03_T2w", "s01_T2w"], ["s05_T2w"])
    assert (chosen.cases, chosen.validation) == (("s01_T2w", "s03_T2w"), ("s05_T2w",))
    fixed = select(rows, 1, 0).validation
    others = [case for case in rows if case not in fixed]
    assert named(rows, others[:2], None).validation == fixed


@pytest.mark.parametrize(
    ("cases", "validation", "text"),
    [
        (["s00_T2w", "s00_T2w"], ["s01_T2w"], "twice: s00_T2w"),
        (["s00_T2w"], ["s00_T2w"], "twice: s00_T2w"),
        (["s77_T2w"], ["s01_T2w"], r"not in cases\.json: s77_T2w"),
        (["s04_T2w"], ["s01_T2w"], "without labels"),
        (["s00_T1w"], ["s00_T2w"], "subjects on both sides: s00"),
        ([], ["s01_T2w"], "nothing to train on"),
    ],
)
def test_wrong_names(cases: list[str], validation: list[str], text: str) -> None:
    rows = rows_of(5, contrasts=("T1w", "T2w"))
    rows["s04_T2w"]["labelled"] = False
    with pytest.raises(UsageError, match=text):
        named(rows, cases, validation)


def test_all_cases_named_leaves_nothing_to_validate_on() -> None:
    rows = rows_of(3)
    with pytest.raises(UsageError, match="no subject beside those that train"):
        named(rows, list(rows), None)


def test_what_a_domain_is() -> None:
    row = {
        "subject": "x",
        "site": "here",
        "manufacturer": "GE",
        "field_strength": 1.5,
        "contrast": "T2w",
        "model": None,
    }
    assert domain_of(row) == "here GE 1.5 T2w"
    assert domain_of(row | {"scanner": "ge-1.5t"}) == "ge-1.5t"
    assert domain_of(row | {"scanner": "ge-1.5t", "domain": "ours"}) == "ours"
    assert domain_of({"subject": "x"}) == "unknown"

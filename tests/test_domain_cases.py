"""Which domain a case is from, and everything about it that cannot be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from domain_builder import SPLITS, case_rows

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.training.domain_cases import CaseDomains, case_domains, refuse_absent_domains, unlabelled_cases
from nnunet_spine_ext.training.domain_patches import chosen_cases
from nnunet_spine_ext.training.domain_probe import linear_probe, store_probe
from nnunet_spine_ext.training.domain_settings import DomainSettings, completed_domain

TRAIN, VALIDATION = SPLITS[0]["train"], SPLITS[0]["val"]


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., CaseDomains]:
    def read(
        rows: dict[str, Any] | None = None, *, train: Any = TRAIN, validation: Any = VALIDATION, **settings: Any
    ) -> CaseDomains:
        content = {"version": 1, "cases": case_rows() if rows is None else rows}
        (tmp_path / "cases.json").write_text(json.dumps(content))
        return case_domains(
            tmp_path, completed_domain(DomainSettings(**settings), "X", simulated=False), train, validation
        )

    return read


def test_domains_of_cases(found: Callable[..., CaseDomains], tmp_path: Path) -> None:
    domains = found()
    assert domains.names == ("philips", "siemens"), "capitals and spaces make no domain"
    assert domains.of_case == {"a_1": 1, "b_1": 1, "c_1": 1, "p_1": 0, "q_1": 0}
    assert domains.supervised == {"b_1", "c_1"}
    assert domains.scored == ("a_1",)
    assert unlabelled_cases(tmp_path) == {"p_1", "q_1"}
    assert unlabelled_cases(tmp_path / "elsewhere") == frozenset()


def test_several_facts_make_a_domain(found: Callable[..., CaseDomains]) -> None:
    rows = case_rows(b_1={"field_strength": 1.5}, c_1={"field_strength": 3})
    domains = found(rows, key="manufacturer + field_strength")
    assert domains.names == ("philips+3", "siemens+1.5", "siemens+3")
    assert domains.of_case["a_1"] == domains.of_case["c_1"]


def test_masks_of_targets_are_used_for_nothing(found: Callable[..., CaseDomains]) -> None:
    rows = case_rows(p_1={"labelled": True}, q_1={"labelled": True})
    domains = found(rows, train=["b_1", "p_1"], validation=["a_1", "q_1"], target=("PHILIPS",))
    assert domains.supervised == {"b_1"}
    assert domains.scored == ("a_1",), "a target does not choose the checkpoint"
    everyone = found(rows, train=["b_1", "p_1"], validation=["a_1", "q_1"])
    assert everyone.supervised == {"b_1", "p_1"}
    assert everyone.scored == ("a_1", "q_1")


def test_a_domain_without_masks_in_training_does_not_choose_either(found: Callable[..., CaseDomains]) -> None:
    rows = case_rows(q_1={"labelled": True})
    assert found(rows, train=["b_1", "p_1"], validation=["a_1", "q_1"]).scored == ("a_1",)


def test_a_validation_case_of_a_domain_that_is_not_trained_on(found: Callable[..., CaseDomains]) -> None:
    rows = case_rows(a_1={"manufacturer": "GE"})
    domains = found(rows, validation=["a_1", "c_1"], train=["b_1", "p_1"])
    assert domains.of_case["a_1"] == -1
    assert domains.scored == ("c_1",)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ({"train": ["b_1", "c_1"]}, "E-DOMAIN-SINGLE", r"siemens \(2 cases\) among the 2 training cases"),
        ({"rows": case_rows(p_1={"manufacturer": None})}, "E-DOMAIN-UNKNOWN", r"1 case\(s\): p_1"),
        ({"rows": case_rows(p_1={"manufacturer": "  "})}, "E-DOMAIN-UNKNOWN", "p_1"),
        ({"rows": case_rows(q_1=None)}, "E-DOMAIN-UNKNOWN", "q_1"),
        ({"rows": case_rows(a_1={"manufacturer": None})}, "E-DOMAIN-UNKNOWN", "a_1"),
        ({"key": "site"}, "E-DOMAIN-KEY", "domain.key site: no case states it"),
        ({"key": "subject"}, "E-DOMAIN-KEY", r"every subject.*of its own.*known: field_strength, manufacturer"),
        ({"rows": case_rows(a_1={"sources": ["x"]}), "key": "sources"}, "E-DOMAIN-KEY", "sources: the files"),
        ({"key": "manufacturer+labelled"}, "E-DOMAIN-KEY", "labelled: whether there is a mask"),
        ({"rows": case_rows(a_1={"train_only": 1}), "key": "train_only"}, "E-DOMAIN-KEY", "may be used"),
        ({"train": ["b_1", "c_1", "a_1"], "validation": ["p_1"]}, "E-DOMAIN-SINGLE", r"siemens \(3 cases\) among"),
        ({"train": ["b_1"]}, "E-DOMAIN-SINGLE", r"siemens \(1 case\) among"),
        ({"key": "manufacturer+fieldstrength"}, "E-DOMAIN-KEY", "did you mean 'field_strength'"),
        ({"target": ("phillips",)}, "E-DOMAIN-TARGET", "did you mean 'philips'"),
        ({"target": ("siemens", "philips")}, "E-DOMAIN-SOURCE", "no training case with a mask"),
        ({"validation": ["p_1"], "train": ["b_1", "q_1"]}, "E-DOMAIN-VALIDATION", "from siemens"),
    ],
)
def test_what_cannot_be_right_is_named(
    found: Callable[..., CaseDomains], arguments: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(SetupError, match=says) as caught:
        found(**arguments)
    assert caught.value.code == code
    assert "cases.json" in caught.value.file


def test_planning_refuses_what_no_case_has_and_leaves_the_rest_to_folds(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    refuse_absent_domains(path, DomainSettings(key="site"))
    path.write_text(json.dumps({"version": 1, "cases": case_rows(a_1={"manufacturer": None})}))
    for settings, code in (
        (DomainSettings(key="site"), "E-DOMAIN-KEY"),
        (DomainSettings(key="labelled"), "E-DOMAIN-KEY"),
        (DomainSettings(target=("GE",)), "E-DOMAIN-TARGET"),
    ):
        with pytest.raises(SetupError) as caught:
            refuse_absent_domains(path, settings)
        assert caught.value.code == code
    refuse_absent_domains(path, DomainSettings(target=("PHILIPS",)))
    refuse_absent_domains(path, DomainSettings(key="simulated"))


def test_without_a_table_nothing_can_be_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such file") as caught:
        case_domains(tmp_path, DomainSettings(key="site"), TRAIN, VALIDATION)
    assert caught.value.code == "E-DOMAIN-CASES"


@pytest.mark.parametrize(
    "wrong",
    [{"key": "a++b"}, {"key": ""}, {"probe_every": -1}, {"probe_patches": 0}, {"target": ("x",), "key": "simulated"}],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DomainSettings(**wrong)


def features(count: int, *, told: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Samples of three domains, four per subject; `told`: how far apart the domains are, in standard deviations."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat(np.arange(count // 4), 4)
    domains = subjects % 3
    values = rng.normal(size=(count, 40))
    values[:, :3] += told * np.eye(3)[domains]
    # What tells a subject, and not its domain, must not help.
    values[:, 3:10] += rng.normal(size=(count // 4, 7))[subjects] * 5
    return values, domains, [f"s{k}" for k in subjects]


def test_the_probe_finds_what_is_there_and_nothing_else() -> None:
    clear = linear_probe(*features(240, told=6), 3)
    nothing = linear_probe(*features(480, told=0), 3)
    assert clear is not None
    assert nothing is not None
    assert clear.accuracy > 0.97
    assert clear.chance == pytest.approx(1 / 3)
    assert abs(nothing.above_chance) < 8, "not even by recognising subjects"
    assert (clear.samples, clear.groups) == (240, 60)
    again = linear_probe(*features(240, told=6), 3)
    assert again == clear


def test_the_probe_weighs_domains_alike() -> None:
    values, domains, groups = features(480, told=6)
    kept = (domains != 2) | (np.arange(480) < 60)
    score = linear_probe(values[kept], domains[kept], [g for g, k in zip(groups, kept, strict=True) if k], 3)
    assert score is not None
    assert min(score.by_domain) > 0.9


@pytest.mark.parametrize("groups", [["a"] * 6, ["a", "a", "a", "b", "b", "b"]])
def test_the_probe_says_nothing_of_too_few_subjects(groups: list[str]) -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    # One subject; or two, of different domains, of which one is always unknown.
    assert linear_probe(values, [0, 0, 0, 1, 1, 1], groups, 2) is None


def test_probes_are_kept_and_an_epoch_that_is_repeated_replaces_its_own(tmp_path: Path) -> None:
    score = linear_probe(*features(120, told=2), 3)
    for epoch in (4, 9, 14, 9):
        store_probe(tmp_path, ["a", "b", "c"], epoch, score, loss="dann")
    content = json.loads((tmp_path / "domain_probe.json").read_text())
    assert [row["epoch"] for row in content["probes"]] == [4, 9]
    assert content["domains"] == ["a", "b", "c"]
    assert content["probes"][0]["score"]["accuracy"] == pytest.approx(score.accuracy)  # type: ignore[union-attr]


def test_a_probe_looks_at_all_domains() -> None:
    domain_of = {f"c{k}": 0 if k < 190 else 1 for k in range(200)} | {"x": -1}
    chosen = chosen_cases(domain_of, 30)
    assert len(chosen) == 30
    assert sum(domain_of[case] == 1 for case in chosen) == 10
    assert "x" not in chosen
    assert chosen == chosen_cases(dict(reversed(domain_of.items())), 30)

"""What the report shows of intensities, views and test-time training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_builder import make_folder, read_data

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.report.build import report

FAR = {"body": 0.21, "structures": {"disc": 0.5}, "bar": 0.05, "in_distribution": False}
NEAR = FAR | {"body": 0.03, "in_distribution": True}
MATCHED = {"skipped": False, "why": "", "confidence": 0.8125, "before": FAR, "after": NEAR}
LEFT = {"skipped": True, "why": "in distribution: 0.030 of at most 0.050", "before": NEAR, "after": NEAR}
STABILITY = {"disc": {"dice": 0.71, "volume_cv": 0.1}, "cord": {"dice": 0.98, "volume_cv": 0}}
ADAPTED = {"method": "tent", "kept": False, "guards": [{"name": "foreground", "value": 0.4, "tripped": True}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def note(folder: Path, **facts: Any) -> None:
    """Let the journal say more about cases."""
    path = folder / "cases.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | facts.get(row["case"], {})) + "\n" for row in rows))


def shown(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    return read_data(report(folder).path.read_text(encoding="utf-8"))


def values_of(data: dict[str, Any], key: str) -> dict[str, tuple[float | None, str]]:
    measure = next(m for m in data["measures"] if m["key"] == key)
    names = [name for name, *_ in data["cases"]]
    return dict(zip(names, zip(measure["values"], measure["notes"], strict=True), strict=True))


def test_distances_matching_and_stability_are_columns(folder: Path) -> None:
    both = {"method": "anchored", "channels": [LEFT, MATCHED]}
    note(
        folder,
        alpha={"intensity": both, "views": {"names": ["whole"], "stability": STABILITY}, "adaptation": ADAPTED},
        beta={"intensity": {"method": "anchored", "channels": [LEFT]}},
    )
    data, details = shown(folder)
    assert values_of(data, "distance")["alpha"] == (0.21, "out of distribution")
    assert values_of(data, "distance")["beta"] == (0.03, "in distribution")
    assert values_of(data, "matched")["alpha"] == (0.03, "anchored")
    assert values_of(data, "matched")["beta"] == (0.03, "left alone")
    assert values_of(data, "stability")["alpha"] == (0.71, "disc")
    assert values_of(data, "stability")["gamma"] == (None, "")
    assert all(m["column"] for m in data["measures"] if m["key"] in ("distance", "matched", "stability"))
    tables = {table["caption"]: table["rows"] for table in details["alpha"]["crossing"]}
    assert tables["Intensities"] == [
        ["0", "0.030", "0.050", "left alone (in distribution: 0.030 of at most 0.050)", "0.030", ""],
        ["1", "0.210", "0.050", "anchored", "0.030", "0.81"],
    ]
    assert tables["Stability among views"] == [["disc", "0.710", "0.100"], ["cord", "0.980", "0.000"]]
    assert ["kept", "no"] in tables["Test-time training"]
    assert details["gamma"]["crossing"] == []


def test_a_fallback_is_called_one(folder: Path) -> None:
    note(folder, alpha={"intensity": {"method": "anchored", "fallback": "body", "channels": [MATCHED]}})
    data, details = shown(folder)
    assert values_of(data, "matched")["alpha"] == (0.03, "body (fallback)")
    assert details["alpha"]["crossing"][0]["rows"][0][3] == "body (fallback)"


def test_noise_that_was_reduced_is_told(folder: Path) -> None:
    quieted = LEFT | {"noise": {"level": 0.12, "usual": 0.02, "limit": 0.05, "after": 0.03}}
    usual = LEFT | {"noise": {"level": 0.02, "usual": 0.02, "limit": 0.05, "after": None}}
    note(
        folder,
        alpha={"intensity": {"method": "body", "channels": [quieted, usual]}},
        beta={"intensity": {"method": "body", "channels": [usual | {"noise": None}]}},
    )
    data, details = shown(folder)
    assert values_of(data, "matched")["alpha"] == (0.03, "only noise reduced")
    assert values_of(data, "matched")["beta"] == (0.03, "left alone")
    tables = {table["caption"]: table["rows"] for table in details["alpha"]["crossing"]}
    assert tables["Noise, relative to the body's intensities"] == [
        ["0", "0.120", "0.020", "0.050", "0.030"],
        ["1", "0.020", "0.020", "0.050", "left alone"],
    ]
    assert [table["caption"] for table in details["beta"]["crossing"]] == ["Intensities"]


def test_noise_that_nothing_was_done_about_is_told_beside_a_small_distance(folder: Path) -> None:
    noisy = LEFT | {"noise": {"level": 0.12, "usual": 0.02, "limit": 0.05, "beyond": True, "after": None}}
    quieted = LEFT | {"why": "intensities stay", "noise": noisy["noise"] | {"after": 0.03}}
    note(
        folder,
        alpha={"intensity": {"method": "none", "channels": [noisy]}},
        beta={"intensity": {"method": "noise", "channels": [quieted]}},
    )
    data, details = shown(folder)
    assert values_of(data, "distance")["alpha"] == (0.03, "noisier than training scans")
    assert values_of(data, "distance")["beta"] == (0.03, "in distribution")
    assert details["beta"]["crossing"][0]["rows"][0][3] == "only noise reduced (intensities stay)"


def test_without_matching_there_is_a_distance_only(folder: Path) -> None:
    compared = {"skipped": True, "why": "not asked for", "before": FAR, "after": None}
    note(folder, alpha={"intensity": {"method": "none", "channels": [compared]}})
    data, details = shown(folder)
    keys = {m["key"] for m in data["measures"]}
    assert "distance" in keys
    assert not keys & {"matched", "stability"}
    assert details["alpha"]["crossing"][0]["rows"] == [["0", "0.210", "0.050", "left alone (not asked for)", "", ""]]


def test_a_folder_that_says_nothing_of_it_has_no_such_columns(folder: Path) -> None:
    data, details = shown(folder)
    assert not {m["key"] for m in data["measures"]} & {"distance", "matched", "stability"}
    assert details["alpha"]["crossing"] == []


@pytest.mark.parametrize(
    "said",
    [
        {"intensity": "far"},
        {"intensity": {"channels": "none"}, "views": {"stability": 3}},
        {"intensity": {"channels": [3, {"before": {"body": "x"}}]}, "views": {"stability": {"disc": None}}},
        {"intensity": {"channels": [{"before": {"body": float("nan")}}]}, "adaptation": {"guards": [1]}},
        {"adaptation": {"guards": "none"}},
    ],
)
def test_journals_that_somebody_edited_do_no_harm(folder: Path, said: dict[str, Any]) -> None:
    note(folder, alpha=said)
    data, _ = shown(folder)
    assert "alpha" in [name for name, *_ in data["cases"]]


def test_what_has_its_own_table_is_not_shown_twice(folder: Path) -> None:
    write_json(folder / "qc" / "alpha.json", {"bodies": 3, "intensity": {"method": "body"}})
    _, details = shown(folder)
    assert details["alpha"]["qc"] == [["bodies", "3"]]


def test_what_became_of_harmonized_slices_is_a_table(folder: Path) -> None:
    told = {"method": "cyclegan", "channels": [{"skipped": False, "why": "", "before": None, "after": None}]}
    slices = {"slices": 18, "harmonized": 16, "failed": 2, "edge_correlation": 0.981, "agreement": None}
    note(
        folder,
        alpha={"intensity": told, "harmonization": slices | {"volume_change": -0.0123}},
        beta={"harmonization": slices | {"agreement": 0.91, "volume_change": None}},
    )
    _, details = shown(folder)
    tables = {table["caption"]: table["rows"] for table in details["alpha"]["crossing"]}
    assert tables["Intensities"][0][3] == "cyclegan"
    assert tables["Harmonization"] == [
        ["slices harmonized", "16 of 18"],
        ["slices that the geometry gate did not pass", "2"],
        ["edge correlation", "0.981"],
        ["change of the volume of discs", "-1.2%"],
    ]
    assert ["Dice of discs before and after", "0.910"] in details["beta"]["crossing"][0]["rows"]

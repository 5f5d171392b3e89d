"""A whole evaluation on scans of a user's own, trained, and then with the models that came of it as given ones."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from slice_cohort import dataset

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.study.harmonization.run import EvaluationResult, evaluate

pytestmark = pytest.mark.slow
ARMS = ("none", "nyul", "full")


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _evaluated(folder: Path, raw: Path, segmenter: dict[str, Any], harmonizer: dict[str, Any]) -> EvaluationResult:
    config = {
        # Without `test`, scans to test on are the imagesTs of the same dataset.
        "given": {"datasets": [str(raw)], "key": "manufacturer", "target": ["siemens"], "unseen": ["Canon"]},
        "slices": {"size": [48, 48], "spacing": 2.0}, "segmenters": {"discs": segmenter}, "harmonizer": harmonizer,
        "arms": list(ARMS), "bootstrap": 20, "device": "cpu",
    }  # fmt: skip
    write_json(folder.with_suffix(".yaml"), config)
    return evaluate(folder, preset=str(folder.with_suffix(".yaml")))


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of both evaluations."""
    root = tmp_path_factory.mktemp("given")
    rows: list[dict[str, Any]] = [
        {"case": f"{vendor}_{k}", "manufacturer": vendor, "test": k >= (0 if vendor == "Canon" else 2)}
        for vendor in ("Siemens", "GE", "Canon") for k in range(4)
    ]  # fmt: skip
    raw = dataset(root / "raw", rows)
    small = ["radiomics.roi=[48, 24]", "slices_per_epoch=4", "epochs=1"]
    trained = _evaluated(root / "trained", raw, {"preset": "smoke", "settings": ["epochs=1"]},
                         {"preset": "smoke", "settings": small})  # fmt: skip
    (segmenter,) = (root / "trained/models/0").glob("segmenter-discs-*")
    (harmonizer,) = (root / "trained/models/0").glob("full-*")
    given = _evaluated(root / "models", raw, {"folder": str(segmenter)}, {"folder": str(harmonizer)})
    for result in (trained, given):
        assert not result.failures
        assert result.summary is not None
        assert (result.folder / "index.html").is_file()
    assert [name for name in given.outcome.done if name.startswith("train")] == []
    return trained.folder, given.folder


def test_own_scans_are_evaluated(evaluations: tuple[Path, Path]) -> None:
    rows = _rows(evaluations[0], "segmentation")
    assert {row["arm"] for row in rows} == set(ARMS)
    roles = {row["vendor"]: row["role"] for row in rows}
    assert roles == {"Siemens": "target", "GE": "source", "Canon": "unseen"}
    subjects = {vendor: {row["subject"] for row in rows if row["vendor"] == vendor} for vendor in roles}
    assert subjects["Siemens"] == {"Siemens_2", "Siemens_3"}
    assert subjects["Canon"] == {f"Canon_{k}" for k in range(4)}


def test_given_models_give_what_they_gave_where_they_were_trained(evaluations: tuple[Path, Path]) -> None:
    for name in ("segmentation", "radiomics", "geometry"):
        first, second = (_rows(folder, name) for folder in evaluations)
        assert first
        assert first == second, name
    facts = [read_json(folder / "evaluation.json")["radiomics"] for folder in evaluations]
    assert facts[0] == facts[1]
    assert facts[1]["roi"] == [48, 24]

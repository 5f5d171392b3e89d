"""The strategy `harmonized` of a study, as a whole: a given model, a given harmonizer, images of one's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from harmonizer_builder import make_harmonizer
from model_builder import make_model
from slice_cohort import dataset

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.study.run import study


@pytest.mark.slow
def test_the_strategy_harmonized_predicts_what_the_harmonizer_made(tmp_path: Path) -> None:
    rows = [{"case": f"{name}{k}", "manufacturer": name} for name in ("Siemens", "GE") for k in range(2)]
    labels = {"background": 0, **{f"class{k}": k for k in range(1, 14)}, "disc": 14}
    raw = dataset(tmp_path, rows, labels={k: v for k, v in labels.items() if v})
    model = make_model(tmp_path / "Dataset930_Slices" / "nnUNetTrainerSpine__nnUNetPlans__3d_fullres", labels=labels,
                       patch=(32, 32, 8), spacing=(1.0, 1.0, 4.0))  # fmt: skip
    config = {
        "given": {"dataset": str(raw), "source": "Siemens", "part": "Tr"},
        "models": {"source": str(model), "harmonizer": str(make_harmonizer(tmp_path / "harmonizer", add=0.4))},
        "strategies": ["none", "harmonized"], "step_size": 1.0, "bootstrap": 20, "device": "cpu",
    }  # fmt: skip
    write_json(tmp_path / "study.yaml", config)
    result = study(tmp_path / "study.yaml", tmp_path / "out")
    assert not result.unavailable
    with (tmp_path / "out/cases.csv").open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert {(row["strategy"], row["scanner"]) for row in found} == {
        (strategy, scanner) for strategy in ("none", "harmonized") for scanner in ("Siemens", "GE")
    }
    assert "Harmonized" in (tmp_path / "out/index.html").read_text()
    folder = tmp_path / "out/predictions/0/harmonized"
    journal = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    assert [row["harmonization"]["harmonized"] for row in journal] == [5] * 4
    plain = folder.with_name("none")
    masks = sorted(path.name for path in folder.glob("*.nii.gz"))
    assert len(masks) == 4
    assert any((folder / name).read_bytes() != (plain / name).read_bytes() for name in masks)

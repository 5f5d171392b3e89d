"""Choice of features: the two steps by hand, features without a variation, what is stored and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import radiomic_slices

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.harmonize.radiomics import FEATURE_NAMES, features_of_slices
from nnunet_spine_ext.harmonize.selection import (
    FeatureSelection,
    load_selection,
    save_selection,
    select_features,
)
from nnunet_spine_ext.harmonize.selection_plots import correlation_plot, save_selection_plots, variation_plot
from nnunet_spine_ext.render.drawing import Text


def _rows(columns: dict[str, Any]) -> list[dict[str, float]]:
    return [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def rows() -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, 40))
    return _rows(
        {
            "steady": 100 + a,
            "twin": 50 + 0.6 * a + 0.05 * noise,
            "opposite": 10 - 0.15 * a + 0.01 * noise,
            "other": 10 + 0.5 * b,
            "wild": 1 + 3 * noise,
            "flat": np.full(40, 255.0),
            "centred": a - a.mean(),
            "broken": np.where(np.arange(40) == 3, np.nan, 1.0),
        }
    )


def test_lowest_variation_first_and_nothing_twice(rows: list[dict[str, float]]) -> None:
    found = select_features(rows, top=4)
    assert found.top == ("steady", "twin", "opposite", "other")
    assert found.names == ("steady", "other")
    assert found.dropped == {"twin": "steady", "opposite": "steady"}
    table = np.asarray([[row[name] for name in found.top] for row in rows])
    assert np.allclose(found.correlation, np.corrcoef(table, rowvar=False))
    assert found.variation["steady"] == pytest.approx(table[:, 0].std(ddof=1) / table[:, 0].mean())
    assert found.means["steady"] == pytest.approx(table[:, 0].mean())
    assert found.spreads["steady"] == pytest.approx(table[:, 0].std(ddof=1))


def test_with_signs_opposites_stay(rows: list[dict[str, float]]) -> None:
    assert select_features(rows, top=4, absolute=False).names == ("steady", "opposite", "other")


def test_a_dropped_feature_drops_no_other() -> None:
    # b is near a, c near b but not near a: c stays, because b is gone.
    base, turn = np.random.default_rng(1).normal(size=(2, 2000))
    rows = _rows({"a": 100 + base, "b": 90 + 0.85 * base + 0.53 * turn, "c": 80 + 0.55 * base + 0.83 * turn})
    found = select_features(rows)
    assert abs(found.correlation[1][2]) > 0.8 > abs(found.correlation[0][2])
    assert found.names == ("a", "c")


def test_features_without_variation_are_named(rows: list[dict[str, float]]) -> None:
    found = select_features(rows)
    assert found.unusable == {
        "flat": "the same in all slices",
        "centred": "a mean of zero",
        "broken": "no number in some slice",
    }
    assert set(found.means) == {*rows[0]} - {"broken"}
    assert not {"flat", "centred", "broken"} & {*found.top}


def test_all_features_of_slices() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 24)[None, :] * np.ones((30, 1))
    images = np.stack([np.clip(ramp + rng.normal(0, 4 + k, ramp.shape), 0, 255) for k in range(12)])
    found = select_features(features_of_slices(images))
    # What scaling to 0-255 makes equal is no style, however low its variation.
    assert {"firstorder_Maximum", "firstorder_Minimum", "firstorder_Range"} <= {*found.unusable}
    assert found.top[0] == "glcm_Idmn"
    assert len(found.top) == 20
    assert set(found.variation) | set(found.unusable) == set(FEATURE_NAMES)


def test_refusals(rows: list[dict[str, float]]) -> None:
    for bad, kind, code in (
        (lambda: select_features(rows[:2]), CaseError, "E-RADIOMICS-FEW"),
        (lambda: select_features([rows[0]] * 5), CaseError, "E-RADIOMICS-FEW"),
        (lambda: select_features([*rows, {"steady": 1.0}]), UsageError, "E-RADIOMICS-NAMES"),
        (lambda: select_features(rows, top=0), UsageError, "E-RADIOMICS-SETTINGS"),
        (lambda: select_features(rows, correlation=1.5), UsageError, "E-RADIOMICS-SETTINGS"),
    ):
        with pytest.raises(kind) as caught:
            bad()
        assert caught.value.code == code


def test_what_is_stored_comes_back(rows: list[dict[str, float]], tmp_path: Path) -> None:
    found = select_features(rows)
    path = save_selection(tmp_path / "radiomics.json", found, {"targets": {"steady": 1.0}})
    again = load_selection(path)
    assert again.to_dict() == found.to_dict()
    assert json.loads(path.read_text())["targets"] == {"steady": 1.0}
    # One feature alone has a matrix too.
    alone = select_features([{"a": float(k)} for k in range(1, 5)])
    assert FeatureSelection.from_dict(alone.to_dict()) == alone


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"}, {"version": 9}, {"names": ["unknown"]}, {"correlation": [[1.0]]}, {"means": []}, {"n": None},
    ],
)  # fmt: skip
def test_other_files_are_no_selection(rows: list[dict[str, float]], tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "radiomics.json"
    path.write_text(json.dumps({**select_features(rows).to_dict(), **change}))
    with pytest.raises(CaseError, match=r"radiomics\.json: no selection") as caught:
        load_selection(path)
    assert caught.value.code == "E-RADIOMICS-SELECTION"


def test_pictures_show_every_feature_and_the_choice(rows: list[dict[str, float]], tmp_path: Path) -> None:
    found = select_features(rows, top=4)
    texts = {shape.text for shape in variation_plot(found).shapes if isinstance(shape, Text)}
    assert {*found.variation, "chosen", "not among the 4 lowest"} <= texts
    bold = {s.text.split()[0] for s in correlation_plot(found).shapes if isinstance(s, Text) and s.style == "chosen"}
    assert bold == {*found.names}
    files = save_selection_plots(tmp_path, found)
    assert [file.name for file in files] == [
        "radiomics_variation.svg", "radiomics_variation.png", "radiomics_correlation.svg", "radiomics_correlation.png",
    ]  # fmt: skip
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in save_selection_plots(tmp_path, found)] == before


def test_choice_on_real_slices_depends_on_the_target(test_data: Path) -> None:
    images = []
    for volume in sorted((test_data / "sct-errsm").glob("*/t2/t2.nii.gz")):
        for position in np.linspace(0.3, 0.7, 20):
            row = {"volume": volume.relative_to(test_data), "axis": 0, "position": position}
            image = radiomic_slices.real_slice(row, test_data)
            first = (image.shape[1] - 120) // 2
            images.append(image[:, first : first + 120])
    assert len(images) == 80
    found = select_features([row for image in images for row in features_of_slices(image[None])])
    paper = {"glcm_Idmn", "glcm_Correlation", "glcm_SumEntropy", "glcm_DifferenceEntropy", "glrlm_ShortRunEmphasis"}
    assert found.names[0] == "glcm_Idmn"
    # What docs/explanation/feature-selection.md says.
    assert {*found.names} & paper == {"glcm_Idmn", "glcm_Correlation"}
    assert {*found.names} - paper == {
        "glcm_Imc2", "glrlm_RunEntropy", "glrlm_GrayLevelNonUniformityNormalized", "glrlm_HighGrayLevelRunEmphasis",
    }  # fmt: skip

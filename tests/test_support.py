"""Soft values far from their structure go, edges stay to the bit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from model_builder import make_image
from soft_model import TWO, make_soft_model

from nnunet_spine_ext.cli import plan as plan_command
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference import support
from nnunet_spine_ext.inference.folder import open_model_folder
from nnunet_spine_ext.inference.options import RunOptions
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.settings import PredictSettings
from nnunet_spine_ext.inference.support import limit_to_support, near_core


def by_definition(core: np.ndarray, spacing: tuple[float, ...], reach: float) -> np.ndarray:
    """Every voxel against every voxel of the core."""
    places = np.argwhere(core)
    near = np.zeros(core.shape, dtype=bool)
    for index in np.ndindex(core.shape):
        steps = np.abs(places - index)
        near[index] = ((steps <= 1).all(axis=1) | (np.linalg.norm(steps * spacing, axis=1) <= reach + 1e-4)).any()
    return near


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (3.3, 0.6, 0.9), (0.7, 6.0, 1.1)])
@pytest.mark.parametrize("reach", [1.0, 3.0, 5.0])
def test_distances_are_those_of_the_definition(spacing: tuple[float, ...], reach: float) -> None:
    rng = np.random.default_rng(0)
    core = rng.random((15, 11, 13)) > 0.998
    core[2, 3, 4] = core[14, 10, 0] = True
    near = near_core(core, spacing, reach)
    assert np.array_equal(near, by_definition(core, spacing, reach))
    assert near.any()
    assert not near.all()


def test_slabs_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    core = np.random.default_rng(1).random((41, 12, 10)) > 0.997
    core[10:20] = False
    whole = near_core(core, (0.8, 1.0, 1.2), 4.0)
    for slab in (1, 3, 7, 40):
        monkeypatch.setattr(support, "_SLAB", slab)
        assert np.array_equal(near_core(core, (0.8, 1.0, 1.2), 4.0), whole), slab
    assert not near_core(np.zeros((5, 4, 3), dtype=bool), (1, 1, 1), 5).any()


def tube(spacing: tuple[float, float, float], background: float) -> tuple[np.ndarray, np.ndarray]:
    """A tilted tube of 4 mm radius with an edge 3 mm wide, alone and on a background; axes (z, y, x)."""
    shape = tuple(round(40 / size) for size in spacing)
    z, y, x = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    radius = np.hypot(y - 14 - 0.3 * z, x - 20)
    alone = np.clip((5.5 - radius) / 3, 0, 1).astype(np.float32)
    return alone, np.maximum(alone, np.float32(background))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.5, 0.5), (0.8, 2.2, 0.8)])
def test_the_background_goes_and_edges_stay_to_the_bit(spacing: tuple[float, float, float]) -> None:
    alone, with_background = tube(spacing, 0.03)
    found = with_background.copy()
    limit_to_support(found[None], (found > 0.5).astype(np.uint8), spacing, 5.0)
    edge = alone > 0.03
    assert ((alone > 0) & (alone < 0.5)).any()
    assert np.array_equal(found[edge], with_background[edge])
    pixel = spacing[1] * spacing[2]
    area, true, before = (a.sum(axis=(1, 2)).mean() * pixel for a in (found, alone, with_background))
    assert before - true > 30
    # What is left of the background is a ring of 5 mm around the core of 4 mm, without its own edge.
    assert 0 <= area - true < 0.03 * np.pi * (9.6**2 - 5**2)


def test_classes_are_limited_each_by_its_own() -> None:
    soft = np.full((3, 30, 8, 8), 0.1, dtype=np.float32)
    soft[0, 3], soft[1, 20] = 0.9, 0.6
    labels = np.zeros((30, 8, 8), dtype=np.uint8)
    labels[3], labels[20] = 1, 2
    limit_to_support(soft, labels, (1, 1, 1), 4)
    kept = [np.flatnonzero(values.any(axis=(1, 2))).tolist() for values in soft]
    assert kept == [list(range(8)), list(range(16, 25)), []]
    # The winner of several may be below 0.5: where the mask has a class, its soft values stay.
    soft = np.zeros((2, 30, 2, 2), dtype=np.float32)
    soft[0, 10], soft[1, 10] = 0.4, 0.3
    limit_to_support(soft, np.where(soft[0] > 0, 1, 0), (1, 1, 1), 3)
    assert (soft[0, 10] == np.float32(0.4)).all()
    assert not soft[1].any()


def test_the_neighbour_of_a_thick_slice_stays() -> None:
    soft = np.zeros((1, 9, 12, 12), dtype=np.float32)
    soft[0, :5, 4:8, 4:8] = 1
    soft[0, 5, 4:8, 4:8] = 0.4
    before = soft.copy()
    limit_to_support(soft, (soft[0] > 0.5).astype(np.uint8), (8.0, 1.0, 1.0), 5.0)
    assert np.array_equal(soft, before)


def noisy_image(path: Path, affine: Any) -> Volume:
    array = np.random.default_rng(0).normal(100, 10, (40, 34, 26)).astype(np.float32)
    array[5:9, 8:12, 10:16] = 1000
    volume = Volume(array, affine)
    write_volume(volume, path)
    return volume


def test_prediction_limits_maps_and_not_masks(tmp_path: Path) -> None:
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = [[-np.cos(angle), -np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine[:3, :3] = affine[:3, [2, 0, 1]] * [0.9, 1.3, 1.1]
    image = noisy_image(tmp_path / "in" / "a.nii.gz", affine)
    maps, masks = {}, {}
    for name, settings in (("default", {}), ("all", {"support_mm": None}), ("tight", {"support_mm": 2})):
        model = make_soft_model(tmp_path / name, keep_all=False, seeing=True, threshold=8, predict=settings)
        predict(tmp_path / "in", tmp_path / f"out_{name}", m=model, device="cpu", tta="none", crop="off")
        maps[name] = np.asarray(nib.load(tmp_path / f"out_{name}" / "soft" / "a.nii.gz").dataobj)
        masks[name] = read_volume(tmp_path / f"out_{name}" / "a.nii.gz").array
        stated = json.loads((tmp_path / f"out_{name}" / "run.json").read_text())["soft"]["support_mm"]
        assert stated == {"default": 5.0, "all": None, "tight": 2}[name]
    assert np.array_equal(masks["default"], masks["all"])
    assert masks["all"].any()
    core = maps["all"] > 0.5
    for name, reach in (("default", 5.0), ("tight", 2.0)):
        near = by_definition(core, image.spacing, reach)
        assert np.array_equal(maps[name], np.where(near, maps["all"], 0))
        assert (maps["all"][~near] > 0).any(), "nothing was removed: the test shows nothing"


def test_a_map_without_a_core_becomes_empty(tmp_path: Path) -> None:
    write_volume(
        Volume(np.random.default_rng(0).normal(100, 10, (24, 20, 18)).astype(np.float32), np.eye(4)),
        tmp_path / "a.nii.gz",
    )
    for settings, empty in (({}, True), ({"support_mm": None}, False)):
        model = make_soft_model(tmp_path / str(empty), keep_all=False, seeing=True, threshold=20, predict=settings)
        predict(tmp_path / "a.nii.gz", tmp_path / f"out{empty}", m=model, device="cpu", tta="none")
        values = np.asarray(nib.load(tmp_path / f"out{empty}" / "soft" / "a.nii.gz").dataobj)
        assert values.any() != empty


def test_several_classes_and_the_mask(tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz", shape=(40, 33, 30))
    outputs = {}
    for settings in ({}, {"support_mm": None}):
        name = str(settings.get("support_mm", 5))
        model = make_soft_model(tmp_path / name, keep_all=False, labels=TWO, predict=settings)
        predict(tmp_path / "in", tmp_path / f"out_{name}", m=model, device="cpu", tta="none")
        outputs[name] = [
            np.asarray(nib.load(tmp_path / f"out_{name}" / part / "a.nii.gz").dataobj) for part in ("soft", ".")
        ]
    (limited, mask), (whole, other) = outputs["5"], outputs["None"]
    assert np.array_equal(mask, other)
    for number, values in enumerate(np.moveaxis(limited, -1, 0), start=1):
        assert np.array_equal(values[mask == number], whole[..., number - 1][mask == number])


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_distances_that_are_none(value: float) -> None:
    with pytest.raises(UsageError, match="support_mm") as caught:
        PredictSettings(support_mm=value)
    assert caught.value.code == "E-CONFIG-RANGE"


def test_the_journal_tells_supports_and_activations_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(0.5, "none", "single", False, None, "auto", "fp32")
    make_image(tmp_path / "in" / "a.nii.gz")
    model = make_soft_model(tmp_path / "model", keep_all=False)
    opened = open_model_folder(model)
    marks = [options.fingerprint(opened)]
    for change in ({"support_mm": None}, {"support_mm": 3}, {"activation": "norm_relu"}):
        plans = json.loads((model / "plans.json").read_text())
        plans["spine_ext"]["predict"] = {"mirror": True} | change
        (model / "plans.json").write_text(json.dumps(plans))
        marks.append(options.fingerprint(open_model_folder(model)))
    # Another default of a later version, with the same files.
    monkeypatch.setattr("nnunet_spine_ext.inference.options.support_mm", lambda _: 7.0)
    marks.append(options.fingerprint(opened))
    assert all(a != b for a, b in itertools.combinations(marks, 2))


def test_resume_does_not_keep_maps_of_another_support(tmp_path: Path) -> None:
    noisy_image(tmp_path / "in" / "a.nii.gz", np.eye(4))
    model = make_soft_model(tmp_path / "model", keep_all=False, seeing=True, threshold=8)
    run: dict[str, Any] = {"m": model, "device": "cpu", "tta": "none"}
    plans = json.loads((model / "plans.json").read_text())
    del plans["spine_ext"]["soft"]["loss"]
    (model / "plans.json").write_text(json.dumps(plans))
    assert predict(tmp_path / "in", tmp_path / "out", **run).done == ["a"]
    assert predict(tmp_path / "in", tmp_path / "out", resume=True, **run).skipped == ["a"]
    assert plan_command.main(["-m", str(model), "--set", "predict.support_mm=null"]) == 0
    assert json.loads((model / "plans.json").read_text())["spine_ext"]["predict"]["support_mm"] is None
    before = np.count_nonzero(np.asarray(nib.load(tmp_path / "out/soft/a.nii.gz").dataobj))
    assert predict(tmp_path / "in", tmp_path / "out", resume=True, **run).done == ["a"]
    assert np.count_nonzero(np.asarray(nib.load(tmp_path / "out/soft/a.nii.gz").dataobj)) > before


def test_several_settings_follow_one_option() -> None:
    words = ["-m", "x", "--set", "predict.support_mm=3", "predict.mirror=false", "--set", "predict.crop=off"]
    found = plan_command.build_parser().parse_args(words).assignments
    assert found == ["predict.support_mm=3", "predict.mirror=false", "predict.crop=off"]

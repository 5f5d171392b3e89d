"""Crop mode: the same as without where something is, a whole volume with a warning where nothing is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_builder import CORD, make_model
from soft_model import TWO, make_soft_model

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.windows import HOT, Answers, add_up, complete, near

SHAPE = (72, 64, 24)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_soft_model(tmp_path_factory.mktemp("models") / "seeing", seeing=True, threshold=12)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a bright column along z in one corner of the plane."""
    array = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    array[12:16, 10:14, :] = 1000
    path = tmp_path_factory.mktemp("images") / "a.nii.gz"
    write_volume(Volume(array, np.eye(4)), path)
    return path


def loaded(model: Path, **options: Any) -> SpinePredictor:
    predictor = SpinePredictor(device=torch.device("cpu"), progress=False, **options)
    predictor.initialize_from_trained_model_folder(model, None)
    return predictor


def outputs(predictor: SpinePredictor, image: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, int]:
    """Return the outputs and how often the network ran."""
    runs = []
    original = predictor.network.forward

    def counted(x: torch.Tensor) -> torch.Tensor:
        runs.append(x.shape[0])
        answer: torch.Tensor = original(x)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(predictor.network, "forward", counted)
        answer = predictor.predict_logits_from_preprocessed_data(predictor.prepare([image])[0])
    return answer.numpy(), sum(runs)


@pytest.mark.parametrize("mirror", [True, False])
def test_around_structures_it_equals_the_whole_volume(
    seeing: Path, image: Path, monkeypatch: pytest.MonkeyPatch, mirror: bool
) -> None:
    whole, runs_whole = outputs(loaded(seeing, crop="off", tta="mirror" if mirror else "none"), image, monkeypatch)
    cropped, runs_cropped = outputs(loaded(seeing, crop="on", tta="mirror" if mirror else "none"), image, monkeypatch)
    refined = whole == cropped
    inside = np.abs(whole - cropped).max(axis=0) <= 1e-6
    structure = whole[1] > HOT
    assert structure.any()
    # The surroundings of what was found, two voxels on either side (an eighth of the patch), count as inside.
    grown = torch.nn.functional.max_pool3d(torch.from_numpy(structure[None].astype(np.float32)), 5, 1, 2)[0] > 0
    assert inside[grown.numpy()].all()
    assert not refined.all(), "everything was refined: the test shows nothing"
    assert (cropped[1] > 0.5).sum() == (whole[1] > 0.5).sum()
    coarse = 5 * 4 * 2
    assert runs_cropped < runs_whole
    assert runs_cropped > coarse
    assert runs_whole / runs_cropped > (3 if mirror else 1.2)
    # Outside the coarse answer stays, which is at most what was not worth a second look.
    assert cropped[1][~inside].max() <= HOT


def test_auto_is_on_for_soft_models_where_it_spares_work(
    seeing: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mirrored the coarse pass is a small part of the work, otherwise what no careful window repeats is 19 of 64 here.
    cube = tmp_path / "cube.nii.gz"
    write_volume(Volume(np.resize(read_volume(image).array, (38, 38, 38)), np.eye(4)), cube)
    _, whole = outputs(loaded(seeing, crop="off", tta="none"), cube, monkeypatch)
    _, automatic = outputs(loaded(seeing, crop="auto", tta="none"), cube, monkeypatch)
    assert (whole, automatic) == (64, 64)
    _, whole = outputs(loaded(seeing, crop="off", tta="none"), image, monkeypatch)
    _, mirrored = outputs(loaded(seeing, crop="auto"), image, monkeypatch)
    assert mirrored < 8 * whole / 2
    hard = make_model(tmp_path / "hard")
    _, whole = outputs(loaded(hard, crop="off", tta="none"), image, monkeypatch)
    _, automatic = outputs(loaded(hard, crop="auto", tta="none"), image, monkeypatch)
    assert automatic == whole
    small = tmp_path / "small.nii.gz"
    write_volume(Volume(read_volume(image).array[4:20, 4:20, :16], np.eye(4)), small)
    _, one = outputs(loaded(seeing, crop="on", tta="none"), small, monkeypatch)
    assert one == 1, "one window is not worth a coarse pass"


@pytest.mark.parametrize("folds", [1, 2])
def test_coarse_windows_that_are_careful_ones_are_not_done_twice(
    folds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 32 voxels coarse windows of 16 start at 0 and 16, careful ones at 0, 8 and 16."""
    model = make_soft_model(tmp_path / "model", folds=folds, seeing=True, threshold=12)
    array = np.random.default_rng(0).normal(100, 10, (32, 32, 32)).astype(np.float32)
    array[2:6, 2:6, 2:6] = 1000
    path = tmp_path / "a.nii.gz"
    write_volume(Volume(array, np.eye(4)), path)
    whole, runs_whole = outputs(loaded(model, crop="off", tta="none"), path, monkeypatch)
    answer, runs = outputs(loaded(model, tta="none", window_batch=3), path, monkeypatch)
    assert runs_whole == 27 * folds
    # Eight coarse windows; of the eight careful ones around the corner one is among them. 19 are left without a look.
    assert runs < 27 * folds - 8 * folds
    inside = np.abs(whole - answer).max(axis=0) <= 1e-6
    assert inside[:8, :8, :8].all()
    assert (answer[1] > 0.5).sum() == (whole[1] > 0.5).sum() > 0
    # Mirrored, a coarse window is an eighth of a careful one: nothing is taken over.
    mirrored, _ = outputs(loaded(model, crop="on"), path, monkeypatch)
    every, _ = outputs(loaded(model, crop="off"), path, monkeypatch)
    np.testing.assert_allclose(mirrored[:, :8, :8, :8], every[:, :8, :8, :8], atol=1e-6)


def test_nothing_found_means_the_whole_volume_and_a_warning(
    seeing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).uniform(90, 110, SHAPE).astype(np.float32)
    write_volume(Volume(array, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    model = make_soft_model(tmp_path / "model", seeing=True, threshold=30)
    whole, _ = outputs(loaded(model, crop="off", tta="none"), tmp_path / "in" / "a.nii.gz", monkeypatch)
    predictor = loaded(model, crop="on", tta="none")
    cropped, _ = outputs(predictor, tmp_path / "in" / "a.nii.gz", monkeypatch)
    assert np.array_equal(whole, cropped)
    assert [problem.code for problem in predictor.warnings] == ["W-OUT-CROP"]
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", crop="on", tta="none")
    codes = [problem.code for problem in result.warnings["a"]]
    assert codes == ["W-OUT-CROP", "W-OUT-EMPTY"]
    assert all(problem.file.endswith("a.nii.gz") for problem in result.warnings["a"])
    # A later case does not inherit the warning.
    write_volume(Volume(np.where(np.indices(SHAPE)[0] == 30, 9000, array), np.eye(4)), tmp_path / "b.nii.gz")
    outputs(predictor, tmp_path / "b.nii.gz", monkeypatch)
    assert predictor.warnings == []


@pytest.mark.parametrize(("output", "labels"), [("sigmoid", CORD), ("linear", TWO)])
def test_other_soft_models(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, output: str, labels: dict[str, int]
) -> None:
    model = make_soft_model(tmp_path / "model", output=output, labels=labels, seeing=True, threshold=12)
    whole, _ = outputs(loaded(model, crop="off", tta="none"), image, monkeypatch)
    cropped, _ = outputs(loaded(model, crop="on", tta="none"), image, monkeypatch)
    limit = 0 if output == "sigmoid" else 0.5
    assert (whole[1] > limit).any()
    assert np.array_equal(whole[1] > limit, cropped[1] > limit)
    assert not np.array_equal(whole, cropped)


def test_hard_models_on_request(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same network as a hard model: its logits are [0, 8 x / threshold - 4].
    model = make_soft_model(tmp_path / "model", output="sigmoid", seeing=True, threshold=12)
    plans = json.loads((model / "plans.json").read_text())
    del plans["spine_ext"]["soft"]
    (model / "plans.json").write_text(json.dumps(plans))
    whole, runs_whole = outputs(loaded(model, crop="off", tta="none"), image, monkeypatch)
    cropped, runs_cropped = outputs(loaded(model, crop="on", tta="none"), image, monkeypatch)
    assert whole.argmax(axis=0).any()
    assert np.array_equal(whole.argmax(axis=0), cropped.argmax(axis=0))
    assert runs_cropped < runs_whole


def test_half_precision_sums_and_crop_mode_exclude_each_other(tmp_path: Path, image: Path) -> None:
    model = make_model(tmp_path / "model")
    with pytest.raises(UsageError) as caught:
        predict(image, tmp_path / "out", m=model, accumulate="half", crop="on")
    assert caught.value.code == "E-USE-ACCUMULATE"
    set_in_plans = make_model(tmp_path / "model2", predict={"crop": "on"})
    with pytest.raises(UsageError, match="crop mode"):
        predict(image, tmp_path / "out", m=set_in_plans, accumulate="half")
    assert predict(image, tmp_path / "out", m=set_in_plans, accumulate="half", crop="off", dry_run=True).planned


WINDOWS: list[Any] = [(slice(None), slice(0, 8), slice(s, s + 8)) for s in (0, 4, 8, 12)]


def test_known_answers_are_those_that_were_given_and_are_not_asked_again() -> None:
    data = torch.rand(1, 8, 20, generator=torch.Generator().manual_seed(0))
    windows, asked = WINDOWS, []

    def answer(patches: torch.Tensor) -> torch.Tensor:
        asked.append(len(patches))
        return torch.cat((patches, -patches), dim=1).double()

    answers = Answers(learn=True)
    first = add_up(answer, data, windows[::2], 2, [8, 8], batch=2, answers=answers)
    assert asked == [2]
    assert {start: kept.dtype for start, kept in answers.by_start.items()} == dict.fromkeys(
        ((0, 0), (0, 8)), torch.float32
    )
    add_up(answer, data, windows, 2, [8, 8], batch=1, answers=answers)
    assert asked[1:] == [1, 1]
    assert len(answers.by_start) == 4
    answers.learn = False
    assert torch.equal(add_up(answer, data, windows[::2], 2, [8, 8], answers=answers), first)
    fresh = add_up(answer, data, windows, 2, [8, 8], batch=3)
    assert torch.allclose(add_up(answer, data, windows, 2, [8, 8], answers=answers), fresh)
    assert asked == [2, 1, 1, 3, 1]


def test_answers_are_kept_beside_the_device_and_copied_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are as large as the outputs: on a GPU there may be no room for both."""
    copies, kept = [], []

    def copied(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        # A clone of what is on that device is a copy, too.
        if to.device.type == "cpu":
            copies.append((source.device.type, tuple(source.shape), non_blocking))
        return to

    def made(size: Any, **options: Any) -> torch.Tensor:
        if options.get("device") is None:
            kept.append(tuple(size))
        return original(size, **options)

    original = torch.empty
    # A device of its own, of which nothing can be read.
    data = torch.zeros(1, 8, 20, device="meta")
    monkeypatch.setattr(torch.Tensor, "copy_", copied)
    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr("nnunet_spine_ext.inference.windows.compute_gaussian", lambda *_, **__: data[0, :, :8])
    for learn, groups in ((False, []), (True, [(3, 2, 8, 8), (1, 2, 8, 8)])):
        copies.clear()
        answers = Answers(learn=learn)
        add_up(lambda p: torch.cat((p, p), dim=1), data, WINDOWS, 2, [8, 8], batch=3, answers=answers)
        assert copies == [("meta", shape, False) for shape in groups]
        assert {output.device.type for output in answers.by_start.values()} == ({"cpu"} if learn else set())
    assert kept == [(0, 2, 8, 8), (4, 2, 8, 8)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_no_copy_of_an_answer_waits() -> None:
    data = torch.rand(1, 8, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(2, 1, 3, 3)

    def answers_on(device: str) -> Answers:
        kernel, image = weights.to(device), data.to(device)
        answers = Answers(learn=True)
        # The first time nnU-Net makes its Gaussian, which waits.
        for looked in (Answers(learn=False), answers):
            torch.cuda.set_sync_debug_mode("error" if looked is answers else "default")
            try:
                add_up(lambda p: torch.conv2d(p, kernel, padding=1), image, WINDOWS, 2, [8, 8], batch=2, answers=looked)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return answers

    known, expected = answers_on("cuda").by_start, answers_on("cpu").by_start
    assert known.keys() == expected.keys()
    assert all(torch.allclose(known[start], expected[start], atol=1e-3) for start in expected)


def test_a_window_is_near_when_it_reaches_the_surroundings() -> None:
    windows: list[Any] = [(slice(None), slice(s, s + 16)) for s in (0, 8, 16, 24, 32)]
    hot = torch.zeros(48, dtype=torch.bool)
    hot[17] = True
    # Windows of 16 reach two voxels farther: 0..15 sees 17.
    assert near(hot, windows, [16]) == [True, True, True, False, False]
    hot[17], hot[18] = False, True
    assert near(hot, windows, [16]) == [False, True, True, False, False]
    assert near(torch.zeros(48, dtype=torch.bool), windows, [16]) == [False] * 5


def test_only_voxels_with_all_their_windows_are_complete() -> None:
    windows: list[Any] = [(slice(None), slice(s, s + 4)) for s in (0, 2, 4)]
    assert complete([8], windows, [True, True, False]).tolist() == [True] * 4 + [False] * 4
    assert complete([8], windows, [True] * 3).all()


def test_windows_of_2d_networks() -> None:
    windows: list[Any] = [(slice(None), d, slice(s, s + 8)) for d in range(3) for s in (0, 8)]
    hot = torch.zeros((3, 16), dtype=torch.bool)
    hot[1, 2] = True
    # The slices above and below are looked at, too: there the same structure may have been missed.
    assert near(hot, windows, [8]) == [True, False, True, False, True, False]
    inside = complete([3, 16], windows, near(hot, windows, [8]))
    assert inside.sum() == 24
    assert inside[:, :8].all()
    hot[:] = False
    hot[0, 2] = True
    assert near(hot, windows, [8]) == [True, False, True, False, False, False]

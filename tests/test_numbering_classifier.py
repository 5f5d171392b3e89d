"""A numbering model on disk and at work: answers, batches, folds, memory, and what is no model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_builder import lumbar

from nnunet_spine_ext.core.errors import SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.numbering.classifier import Classifier, load_classifier
from nnunet_spine_ext.numbering.crops import CropSpec
from nnunet_spine_ext.numbering.model import (
    MODEL_FILE,
    NetworkShape,
    NumberingModel,
    read_numbering_model,
    write_numbering_model,
)
from nnunet_spine_ext.numbering.training.scores import level_metrics, most_likely, solved

CROP = CropSpec((16, 16, 8), (8.0, 8.0, 10.0))
SHAPE = NetworkShape(width=2, blocks=(1, 1))


def _network(seed: int, crop: CropSpec = CROP) -> torch.nn.Module:
    torch.manual_seed(seed)
    return SHAPE.build(crop)


def _write(folder: Path, crop: CropSpec = CROP, folds: tuple[int, ...] = (0,)) -> Path:
    for fold in folds:
        model = NumberingModel(crop=crop, network=SHAPE, provenance={"from": "a test"})
        write_numbering_model(folder, model, fold, _network(fold, crop).state_dict())
    return folder


def test_a_model_survives_the_disk_and_answers_for_every_vertebra(tmp_path: Path) -> None:
    image, semantic, instances = lumbar()
    classifier = load_classifier(_write(tmp_path), device="cpu")
    scores = classifier.scores(image, instances, semantic)
    assert scores.level.shape == (3, 26)
    assert scores.region is not None
    assert scores.visible is not None
    assert scores.visible.shape == (3,)
    np.testing.assert_allclose(scores.level.sum(axis=1), 1, atol=1e-6)
    fresh = Classifier(NumberingModel(crop=CROP), [_network(0)], device="cpu").scores(image, instances, semantic)
    np.testing.assert_array_equal(scores.level, fresh.level)
    model = read_numbering_model(tmp_path)
    assert (model.folds, model.provenance) == ((0,), {"from": "a test"})
    assert len(classifier.scores(image, instances.with_array(instances.array * 0), semantic)) == 0


def test_folds_are_averaged_and_batches_change_nothing(tmp_path: Path) -> None:
    image, semantic, instances = lumbar()
    _write(tmp_path, folds=(0, 3))
    both = load_classifier(tmp_path, device="cpu").scores(image, instances, semantic).level
    parts = [
        load_classifier(tmp_path, device="cpu", folds=[k]).scores(image, instances, semantic).level for k in (0, 3)
    ]
    np.testing.assert_allclose(both, np.mean(parts, axis=0), atol=1e-9)
    one = load_classifier(tmp_path, device="cpu", batch=1).scores(image, instances, semantic).level
    np.testing.assert_allclose(one, both, atol=1e-5)


def test_left_and_right_do_not_matter(tmp_path: Path) -> None:
    image, semantic, instances = lumbar()
    classifier = load_classifier(_write(tmp_path), device="cpu")
    patches = np.random.default_rng(0).normal(size=(2, 3, *CROP.size)).astype(np.float32)
    first, other = classifier.predict(patches), classifier.predict(patches[..., ::-1])
    np.testing.assert_allclose(first.level, other.level, atol=1e-6)
    plain = load_classifier(tmp_path, device="cpu", mirror=False)
    assert not np.allclose(plain.predict(patches).level, plain.predict(patches[..., ::-1]).level, atol=1e-6)
    assert len(plain.scores(image, instances, semantic)) == 3


def test_batches_shrink_when_memory_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, semantic, instances = lumbar()
    classifier = load_classifier(_write(tmp_path), device="cpu")
    expected = classifier.scores(image, instances, semantic).level
    real, seen = Classifier._ask, []

    def ask(self: Classifier, patches: torch.Tensor) -> dict[str, np.ndarray]:
        seen.append(len(patches))
        if len(patches) > limit:
            message = "CUDA out of memory. Tried to allocate 2 GiB"
            raise RuntimeError(message)
        return real(self, patches)

    monkeypatch.setattr(Classifier, "_ask", ask)
    limit = 1
    np.testing.assert_allclose(classifier.scores(image, instances, semantic).level, expected, atol=1e-5)
    assert seen == [3, 1, 1, 1]
    limit = 0
    with pytest.raises(SetupError) as caught:
        classifier.scores(image, instances, semantic)
    assert caught.value.code == "E-ENV-MEMORY"
    monkeypatch.setattr(Classifier, "_ask", lambda *_: (_ for _ in ()).throw(RuntimeError("a wrong shape")))
    with pytest.raises(RuntimeError, match="a wrong shape"):
        classifier.scores(image, instances, semantic)


def test_a_model_of_masks_needs_no_image_another_one_does(tmp_path: Path) -> None:
    image, semantic, instances = lumbar()
    masks = load_classifier(_write(tmp_path / "m", CropSpec(CROP.size, CROP.spacing, "masks")), device="cpu")
    np.testing.assert_array_equal(
        masks.scores(None, instances, semantic).level, masks.scores(image, instances, semantic).level
    )
    with pytest.raises(UsageError) as caught:
        load_classifier(_write(tmp_path / "i"), device="cpu").scores(None, instances, semantic)
    assert caught.value.code == "E-NUM-IMAGE"


def _break_version(folder: Path) -> None:
    write_json(folder / MODEL_FILE, {**read_json(folder / MODEL_FILE), "format_version": 2})


def _break_weights(folder: Path) -> None:
    (folder / "fold_0.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")


def _break_shape(folder: Path) -> None:
    content = read_json(folder / MODEL_FILE)
    content["network"]["width"] = 4
    write_json(folder / MODEL_FILE, content)


def _break_key(folder: Path) -> None:
    write_json(folder / MODEL_FILE, {**read_json(folder / MODEL_FILE), "patch": 3})


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda folder: (folder / MODEL_FILE).unlink(), "E-MODEL-NUMBERING", "without numbering_model.json"),
        (lambda folder: (folder / MODEL_FILE).write_text("{"), "E-MODEL-NUMBERING", "cannot be read"),
        (lambda folder: (folder / MODEL_FILE).write_text("[]"), "E-MODEL-NUMBERING", "a list"),
        (lambda folder: (folder / "fold_0.safetensors").unlink(), "E-MODEL-NUMBERING", "no such file"),
        (_break_version, "E-MODEL-NUMBERING", "format version 2"),
        (_break_weights, "E-MODEL-NUMBERING", "cannot be read"),
        (_break_shape, "E-MODEL-NUMBERING", "of shape"),
        (_break_key, "E-CONFIG-KEY", "patch"),
    ],
)
def test_what_is_no_model_says_so(tmp_path: Path, damage: object, code: str, words: str) -> None:
    damage(_write(tmp_path))  # type: ignore[operator]
    with pytest.raises(SpineExtError, match=words) as caught:
        load_classifier(tmp_path, device="cpu")
    assert (caught.value.code, caught.value.exit_code) == (code, 5)


def test_a_wrong_folder_a_wrong_fold_and_a_wrong_device_say_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such folder"):
        load_classifier(tmp_path / "nowhere")
    write_json(tmp_path / "instances/instance_model.json", {})
    with pytest.raises(SetupError, match=r"an instance model, without numbering_model\.json"):
        load_classifier(tmp_path / "instances")
    _write(tmp_path / "m")
    with pytest.raises(SetupError, match="no fold 1"):
        load_classifier(tmp_path / "m", folds=[1])
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        load_classifier(tmp_path / "m", device="gpu")
    with pytest.raises(UsageError, match="1 or more"):
        load_classifier(tmp_path / "m", device="cpu", batch=0)


def test_folds_of_other_patches_do_not_mix(tmp_path: Path) -> None:
    _write(tmp_path)
    with pytest.raises(SetupError, match="other patches"):
        _write(tmp_path, CropSpec((16, 16, 16), (8.0, 8.0, 5.0)), folds=(1,))
    with pytest.raises(UsageError, match="names differ"):
        write_numbering_model(tmp_path, NumberingModel(crop=CROP, network=SHAPE), 1, {"a": torch.zeros(1)})


def test_reading_a_model_needs_no_torch() -> None:
    code = "import sys, nnunet_spine_ext.numbering.classifier as c; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_solver_mends_what_single_vertebrae_say() -> None:
    from nnunet_spine_ext.numbering.levels import LEVELS
    from nnunet_spine_ext.numbering.scores import VertebraScores

    truth = ("T11", "T12", "L1", "L2", "L3")
    level = np.full((5, 26), 0.01)
    for row, name in enumerate(("T11", "T12", "L1", "L1", "L3")):
        level[row, LEVELS.index(name)] = 1.0
    scores = VertebraScores(level / level.sum(axis=1, keepdims=True))
    single, whole = most_likely(scores), solved(scores, sacrum=False)
    assert single == ("T11", "T12", "L1", "L1", "L3")
    assert whole == truth
    found = level_metrics({"a": truth, "b": ("C3",)}, {"a": single, "b": ("T4",)})
    assert found["accuracy"] == pytest.approx(4 / 6, abs=1e-4)
    assert found["off_by_one"] == pytest.approx(1 / 6, abs=1e-4)
    assert found["regions"] == {"C": 0.0, "T": 1.0, "L": pytest.approx(2 / 3, abs=1e-4)}
    assert found["perfect"] == 0.0
    assert level_metrics({"a": truth}, {"a": whole})["perfect"] == 1.0
    assert solved(VertebraScores(np.zeros((0, 26))), sacrum=True) == ()
    assert len(solved(VertebraScores(np.full((30, 26), 1 / 26)), sacrum=True)) == 30

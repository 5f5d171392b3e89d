"""Soft labels beside preprocessed cases: right place, right values, up to date, every fault named."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from model_builder import CORD, LABELS14, SIDED14, make_dataset_json, make_plans
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from preprocessed_builder import CONFIGURATION, DATASET, SUBJECTS, write_dataset

from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.io import sha256, write_volume
from nnunet_spine_ext.core.lock import file_lock
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.losses.registry import LossSettings, build_loss
from nnunet_spine_ext.soft.prepare import SoftLabel, from_file, grid_of
from nnunet_spine_ext.soft.store import open_soft, read_facts, soft_file
from nnunet_spine_ext.training.soft_case import HARD, Classes, agreement
from nnunet_spine_ext.training.soft_files import preprocess_soft

SHAPE = (18, 20, 22)


class Cohort:
    """A small preprocessed dataset with raw soft labels; array order of a soft label is the file's (i, j, k)."""

    def __init__(self, folders: dict[str, Path], labels: dict[str, Any], **dataset: Any) -> None:
        self.plans = make_plans()
        self.json = make_dataset_json(labels, SIDED14 if labels is LABELS14 else []) | dataset
        base = write_dataset(folders["nnUNet_preprocessed"], self.plans, self.json, shape=SHAPE)
        self.base = base
        self.data = base / self.plans["configurations"][CONFIGURATION]["data_identifier"]
        self.raw = folders["nnUNet_raw"] / DATASET / "softLabelsTr"
        self.raw.mkdir(parents=True)

    def give(self, case: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = self.raw / f"{case}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    def give_all(self) -> None:
        for number, case in enumerate(SUBJECTS):
            rng = np.random.default_rng(number)
            self.give(case, rng.random(SHAPE[::-1]).astype(np.float32))

    def stored(self, case: str) -> np.ndarray:
        return np.asarray(open_soft(soft_file(self.data, case))[:], dtype=np.float32)


@pytest.fixture
def cohort(nnunet_folders: dict[str, Path]) -> Cohort:
    return Cohort(nnunet_folders, CORD)


@pytest.fixture
def make(nnunet_folders: dict[str, Path]) -> Callable[..., Cohort]:
    return lambda *args, **kwargs: Cohort(nnunet_folders, *args, **kwargs)


def test_values_arrive_where_the_image_has_them(cohort: Cohort) -> None:
    cohort.give_all()
    summary = preprocess_soft("901")
    assert summary.exit_code == 0
    assert (summary.done, summary.hard) == (sorted(SUBJECTS), [])
    rng = np.random.default_rng(0)
    expected = rng.random(SHAPE[::-1]).astype(np.float32).transpose(2, 1, 0)
    found = cohort.stored("a_1")
    np.testing.assert_allclose(found[0], expected, atol=2.5e-4)
    assert (found[1] == 1).all()
    between = (found[0] > 0.01) & (found[0] < 0.99)
    assert between.mean() > 0.9, "nothing on the way may turn soft labels into hard ones"
    assert summary.softness is not None
    assert summary.softness > 0.9


def test_nnunet_does_not_take_the_files_for_cases(cohort: Cohort) -> None:
    cohort.give_all()
    preprocess_soft("901")
    assert infer_dataset_class(str(cohort.data)) is nnUNetDatasetBlosc2
    assert sorted(nnUNetDatasetBlosc2.get_identifiers(str(cohort.data))) == sorted(SUBJECTS)
    assert sorted(f.name for f in cohort.base.iterdir() if f.name.endswith(".tmp")) == []


def preprocessed_for_real(cohort: Cohort, image: Path, spacing: list[float], order: list[int]) -> np.ndarray:
    """Let nnU-Net preprocess an image, as the only case of the dataset (a_1); return its array."""
    plans = cohort.plans | {"transpose_forward": order, "transpose_backward": np.argsort(order).tolist()}
    content = plans["configurations"][CONFIGURATION]
    content["spacing"] = spacing
    content["resampling_fn_data_kwargs"] = content["resampling_fn_data_kwargs"] | {
        "order": 1,
        "force_separate_z": None,
    }
    content["normalization_schemes"] = ["NoNormalization"]
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    data, seg, properties = configuration.preprocessor_class(verbose=False).run_case(
        [str(image)], None, manager, configuration, cohort.json
    )
    assert seg is not None
    for file in cohort.data.glob("*"):
        file.unlink()
    properties["class_locations"] = {}
    grid = {"chunks": data.shape, "blocks": data.shape}
    nnUNetDatasetBlosc2.save_case(data, seg.astype(np.int16), properties, str(cohort.data / "a_1"), **grid)
    (cohort.base / "nnUNetPlans.json").write_text(json.dumps(plans))
    return np.asarray(data)


@pytest.mark.parametrize("spacing", [[1.1, 1.6, 0.9], [4.0, 1.1, 0.9]])
def test_an_ignored_slab_gives_no_gradient_after_crop_and_resampling(
    spacing: list[float], nnunet_folders: dict[str, Path], make: Callable[..., Cohort]
) -> None:
    """What nnU-Net crops and resamples; a second label, 1 in the slab and known everywhere, tells where it went."""
    cohort = make(CORD)
    shape = (20, 24, 26)
    image = np.zeros(shape, np.float32)
    inner = (slice(3, -2), slice(4, -3), slice(2, -5))
    image[inner] = np.random.default_rng(0).random(image[inner].shape) + 1
    soft, marker = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    slab = (slice(None), slice(None), slice(9, 14))
    soft[slab], marker[slab] = -1, 1
    affine = np.diag([0.9, 1.3, 2.0, 1.0])
    path = nnunet_folders["nnUNet_raw"] / DATASET / "imagesTr" / "a_1_0000.nii.gz"
    write_volume(Volume(image, affine), path)
    data = preprocessed_for_real(cohort, path, spacing, [0, 1, 2])
    assert data.shape[1:] != image[inner].shape[::-1], "something was resampled"
    found = []
    for label in (marker, soft):
        cohort.give("a_1", label, affine)
        assert preprocess_soft("901").done == ["a_1"]
        found.append(torch.from_numpy(cohort.stored("a_1"))[None])
    (where, _), (values, valid) = (part.split(1, dim=1) for part in found)
    touched, supervised = where > 1e-4, valid > 0.999
    assert touched.float().mean() > 0.1
    assert supervised.float().mean() > 0.4
    assert not (touched & supervised).any()
    assert (values[supervised] > 1 - 1e-4).all(), "no -1 was interpolated"
    for name in ("adaptive_wing", "soft_dice_bce"):
        output = torch.randn(values.shape, requires_grad=True)
        build_loss(LossSettings(name=name))(output, values, valid).backward()  # type: ignore[arg-type]
        assert output.grad is not None
        assert (output.grad[touched] == 0).all()
        assert output.grad[supervised].abs().min() > 0


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0]])
@pytest.mark.parametrize(("thick", "spacing"), [(2.0, [1.1, 1.6, 0.9]), (5.0, [4.0, 1.1, 0.9]), (5.0, [7.0, 1.3, 0.8])])
@pytest.mark.parametrize("turn", ["RAS", "PIR", "SLA"])
def test_what_nnunet_preprocesses_and_what_we_prepare_lie_on_each_other(
    turn: str,
    thick: float,
    spacing: list[float],
    order: list[int],
    nnunet_folders: dict[str, Path],
    make: Callable[..., Cohort],
) -> None:
    """An image that is its own soft label, through nnU-Net's preprocessor and through ours: oblique, anisotropic.

    Along thick slices nnU-Net takes the nearest one; a label between two would be that of neither.
    """
    cohort = make(CORD)
    rng = np.random.default_rng(3)
    coarse = rng.random((8, 7, 6))
    array = np.kron(coarse, np.ones((2, 3, 4))).astype(np.float32)
    angle = np.deg2rad(12)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * ([0.8, 1.3, 2.0] if thick == 2 else [0.8, thick, 1.3])
    affine[:3, 3] = [-30, 12, 5]
    volume = Volume(array, affine).to(turn)
    image = nnunet_folders["nnUNet_raw"] / DATASET / "imagesTr" / "a_1_0000.nii.gz"
    write_volume(volume, image)
    write_volume(volume, cohort.raw / "a_1.nii.gz")
    data = preprocessed_for_real(cohort, image, spacing, order)
    assert preprocess_soft("901").exit_code == 0
    found = cohort.stored("a_1")
    assert found.shape == (2, *data.shape[1:])
    np.testing.assert_allclose(found[0], data[0], atol=2e-3)


def test_several_classes_are_the_volumes_of_one_file(make: Callable[..., Cohort]) -> None:
    cohort = make({"background": 0, "cord": 1, "canal": 5, "ignore": 9})
    rng = np.random.default_rng(0)
    soft = rng.random((*SHAPE[::-1], 2)).astype(np.float32) / 2
    soft[:5, ..., 1] = -1
    cohort.give("a_1", soft)
    summary = preprocess_soft("901")
    assert summary.soft == ["a_1"]
    assert summary.hard == ["b_1", "c_1"]
    found = cohort.stored("a_1")
    assert found.shape[0] == 3
    known = found[2] > 0.5
    assert (found[2] == 0).mean() == pytest.approx(5 / SHAPE[2])
    np.testing.assert_allclose(found[:2, known], np.moveaxis(soft, 3, 0).transpose(0, 3, 2, 1)[:, known], atol=2.5e-4)
    labels = nnUNetDatasetBlosc2(str(cohort.data), ["b_1"]).load_case("b_1")[1][:][0]
    hard = cohort.stored("b_1")
    np.testing.assert_array_equal(hard[0], labels == 1)
    np.testing.assert_array_equal(hard[1], labels == 5)
    np.testing.assert_array_equal(hard[2], labels != 9)


def test_only_what_has_changed_is_prepared_again(cohort: Cohort) -> None:
    cohort.give_all()
    preprocess_soft("901")
    again = preprocess_soft("901")
    assert (again.done, again.skipped) == ([], sorted(SUBJECTS))
    assert (again.soft, again.softness) == (sorted(SUBJECTS), pytest.approx(1, abs=0.01))
    cohort.give("b_1", np.full(SHAPE[::-1], 0.25, np.float32))
    assert preprocess_soft("901").done == ["b_1"]
    assert cohort.stored("b_1")[0].max() == 0.25
    (cohort.raw / "c_1.nii.gz").unlink()
    assert preprocess_soft("901").done == ["c_1"]
    assert (read_facts(soft_file(cohort.data, "c_1")) or {})["source"] == HARD
    soft_file(cohort.data, "a_1").write_bytes(b"not blosc")
    assert preprocess_soft("901").done == ["a_1"]
    path = cohort.data / "a_1.pkl"
    properties = pickle.loads(path.read_bytes())
    box = [[0, SHAPE[0]], [0, SHAPE[1]], [2, SHAPE[2]]]
    path.write_bytes(pickle.dumps(properties | {"bbox_used_for_cropping": box}))
    assert preprocess_soft("901").done == ["a_1"], "another crop makes another file"
    assert preprocess_soft("901", overwrite=True).done == sorted(SUBJECTS)


def test_several_at_the_same_time_write_the_same(cohort: Cohort) -> None:
    cohort.give_all()
    preprocess_soft("901")
    alone = {case: soft_file(cohort.data, case).read_bytes() for case in SUBJECTS}
    assert preprocess_soft("901", num_processes=2, overwrite=True).done == sorted(SUBJECTS)
    assert {case: soft_file(cohort.data, case).read_bytes() for case in SUBJECTS} == alone


def test_soft_labels_of_zeros_and_ones_are_reported(cohort: Cohort) -> None:
    for case in SUBJECTS:
        cohort.give(case, (np.random.default_rng(0).random(SHAPE[::-1]) > 0.5).astype(np.float32))
    summary = preprocess_soft("901")
    assert summary.softness == 0
    assert "W-SOFT-BINARY" in [p.code for p in summary.warnings["softLabelsTr"]]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda a: a[:-1], "E-SOFT-GRID", "21, 20, 18"),
        (lambda a: np.stack([a, a], axis=-1), "E-SOFT-CLASSES", "2 classes"),
        (lambda a: a[0], "E-SOFT-CLASSES", "2 dimensions"),
        (lambda a: a - 0.5, "E-SOFT-RANGE", "below 0"),
        # Percent, grey values, label ids: cut at 1 they would be hard labels.
        (lambda a: a * 100, "E-SOFT-RANGE", "values up to"),
        (lambda a: np.round(a * 2), "E-SOFT-RANGE", "up to 2"),
        (lambda a: np.where(a > 0.9, np.nan, a), "E-SOFT-RANGE", "not finite"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_the_others_go_on(
    cohort: Cohort, change: Callable[[np.ndarray], np.ndarray], code: str, said: str
) -> None:
    cohort.give_all()
    rng = np.random.default_rng(0)
    cohort.give("b_1", change(rng.random(SHAPE[::-1])).astype(np.float32))
    summary = preprocess_soft("901")
    assert summary.exit_code == 3
    assert summary.done == ["a_1", "c_1"]
    problem = summary.failed["b_1"]
    assert problem.code == code
    assert said in problem.found
    assert problem.file.endswith("b_1.nii.gz")
    assert not soft_file(cohort.data, "b_1").exists()


def test_another_place_in_space_is_another_grid(cohort: Cohort) -> None:
    cohort.give_all()
    moved = np.eye(4)
    moved[0, 3] = 3.0
    cohort.give("c_1", np.zeros(SHAPE[::-1], np.float32), moved)
    problem = preprocess_soft("901").failed["c_1"]
    assert (problem.code, "3.00 mm" in problem.found) == ("E-SOFT-GRID", True)
    # Rounding of headers is no other grid.
    moved[0, 3] = 2e-4
    cohort.give("c_1", np.zeros(SHAPE[::-1], np.float32), moved)
    assert preprocess_soft("901").failed == {}


def test_a_damaged_file_is_named(cohort: Cohort) -> None:
    cohort.give_all()
    path = cohort.raw / "b_1.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    problem = preprocess_soft("901").failed["b_1"]
    assert problem.code == "E-SOFT-READ"


@pytest.mark.parametrize("how", ["annex", "folder"])
def test_what_was_not_fetched_is_no_missing_soft_label(cohort: Cohort, how: str) -> None:
    """A hard label must not stand in for a soft one that lies elsewhere."""
    cohort.give_all()
    path = cohort.raw / "b_1.nii.gz"
    path.unlink()
    if how == "folder":
        path.mkdir()
    else:
        path.symlink_to("../.git/annex/objects/ab/cd/SHA256E-s1.nii.gz")
    summary = preprocess_soft("901")
    assert (summary.exit_code, summary.done, summary.hard) == (3, ["a_1", "c_1"], [])
    problem = summary.failed["b_1"]
    assert problem.code == ("E-IN-FORMAT" if how == "folder" else "E-IN-POINTER")
    assert problem.file == str(path)


def test_a_soft_label_unlike_the_hard_one_is_told(cohort: Cohort) -> None:
    import blosc2

    for case, strength in (("a_1", 0.9), ("b_1", 0.4), ("c_1", 0.6)):
        hard = np.asarray(blosc2.open(str(cohort.data / f"{case}_seg.b2nd"), mode="r")[:])[0] == 1
        assert hard.any()
        cohort.give(case, hard.transpose(2, 1, 0).astype(np.float32) * np.float32(strength))
    summary = preprocess_soft("901")
    (problem,) = [p for p in summary.warnings["softLabelsTr"] if p.code == "W-SOFT-UNLIKE"]
    assert (
        problem.found == "1 soft labels unlike the hard label of their case (b_1); the Dice of b_1, above 0.5, is 0.00"
    )
    again = preprocess_soft("901")
    assert again.done == []
    assert [p.code for p in again.warnings["softLabelsTr"]].count("W-SOFT-UNLIKE") == 1, "said whenever it is used"


def test_what_a_hard_label_ignores_is_no_disagreement() -> None:
    values = np.zeros((1, 4, 4, 4), np.float32)
    values[0, :2] = 1
    label = SoftLabel(values, np.ones((4, 4, 4), np.float32), 0.0, 0.0)
    hard = np.full((4, 4, 4), 2)
    assert agreement(label, hard, Classes((1,), ignore=2)) is None
    hard[0], hard[3] = 1, 0
    assert agreement(label, hard, Classes((1,), ignore=2)) == 1.0
    assert agreement(label, np.where(hard == 2, 0, hard), Classes((1,))) == pytest.approx(2 / 3)


def test_a_header_without_a_place_is_named(cohort: Cohort) -> None:
    cohort.give_all()
    broken = nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.float32), np.eye(4))
    broken.header["srow_x"] = broken.header["srow_y"] = np.zeros(4)
    broken.header["sform_code"], broken.header["qform_code"] = 1, 0
    data = bytearray(broken.to_bytes())
    header = broken.header.copy()
    header["srow_x"] = header["srow_y"] = 0
    header["vox_offset"] = 352
    data[:348] = header.binaryblock
    (cohort.raw / "b_1.nii.gz").write_bytes(gzip.compress(bytes(data)))
    summary = preprocess_soft("901")
    assert summary.failed["b_1"].code == "E-SOFT-READ"
    assert "affine" in summary.failed["b_1"].found
    assert summary.done == ["a_1", "c_1"]


@pytest.mark.parametrize("damage", ["b_1.pkl", "b_1.b2nd", "b_1_seg.b2nd"])
@pytest.mark.parametrize("how", [lambda f: f.write_bytes(b"junk"), lambda f: f.unlink()])
def test_a_damaged_preprocessed_case_is_named_and_the_others_go_on(
    cohort: Cohort, damage: str, how: Callable[[Path], None]
) -> None:
    cohort.give_all()
    how(cohort.data / damage)
    if not (cohort.data / "b_1.b2nd").exists():
        # nnU-Net does not know such a case either.
        assert preprocess_soft("901").done == ["a_1", "c_1"]
        return
    for _ in range(2):
        summary = preprocess_soft("901")
        assert sorted(summary.done + summary.skipped) == ["a_1", "c_1"]
        assert (summary.failed["b_1"].code, summary.exit_code) == ("E-SOFT-CASE", 3)


def test_files_that_belong_to_no_case_are_told(cohort: Cohort) -> None:
    cohort.give("a_1", np.full(SHAPE[::-1], 0.5, np.float32))
    for name in ("b_1_0000.nii.gz", "c_1.nii", "a_1.json"):
        (cohort.raw / name).write_bytes(b"")
    summary = preprocess_soft("901")
    (problem,) = [p for p in summary.warnings["softLabelsTr"] if p.code == "W-SOFT-NAME"]
    assert "2 files" in problem.found
    assert "b_1_0000.nii.gz, c_1.nii" in problem.found
    assert summary.hard == ["b_1", "c_1"]
    (cohort.raw / "a_1.nii.gz").unlink()
    with pytest.raises(SetupError, match=r"b_1_0000\.nii\.gz") as caught:
        preprocess_soft("901")
    assert caught.value.code == "E-SOFT-NONE"


def test_names_that_would_overwrite_a_hard_label_are_refused(cohort: Cohort) -> None:
    """The soft label of x would be where nnU-Net has the hard label of x_soft."""
    cohort.give_all()
    for end in (".b2nd", "_seg.b2nd", ".pkl"):
        (cohort.data / f"b_1_soft{end}").write_bytes((cohort.data / f"b_1{end}").read_bytes())
    before = (cohort.data / "b_1_soft_seg.b2nd").read_bytes()
    with pytest.raises(SetupError, match="b_1 and b_1_soft") as caught:
        preprocess_soft("901")
    assert caught.value.code == "E-SOFT-TWIN"
    assert (cohort.data / "b_1_soft_seg.b2nd").read_bytes() == before


def test_sources_are_hashed_only_when_their_time_has_changed(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort.give("a_1", np.full(SHAPE[::-1], 0.5, np.float32))
    preprocess_soft("901")
    hashed: list[str] = []

    def recorded(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr("nnunet_spine_ext.training.soft_case.sha256", recorded)
    assert preprocess_soft("901").done == []
    assert hashed == []
    os.utime(cohort.raw / "a_1.nii.gz", (1, 1))
    os.utime(cohort.data / "b_1_seg.b2nd", (1, 1))
    assert preprocess_soft("901").done == [], "copied files have other times and equal content"
    assert hashed == ["a_1.nii.gz", "b_1_seg.b2nd"]


def test_another_hard_label_makes_another_file(cohort: Cohort) -> None:
    cohort.give("a_1", np.full(SHAPE[::-1], 0.5, np.float32))
    preprocess_soft("901")
    (cohort.data / "b_1_seg.b2nd").write_bytes((cohort.data / "c_1_seg.b2nd").read_bytes())
    assert preprocess_soft("901").done == ["b_1"]
    np.testing.assert_array_equal(cohort.stored("b_1"), cohort.stored("c_1"))


def test_what_another_process_has_made_meanwhile_is_not_made_again(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort.give_all()

    @contextmanager
    def late(path: Path, *, what: str) -> Iterator[None]:
        monkeypatch.setattr("nnunet_spine_ext.training.soft_files.file_lock", file_lock)
        assert preprocess_soft("901").done == sorted(SUBJECTS)
        with file_lock(path, what=what):
            yield

    monkeypatch.setattr("nnunet_spine_ext.training.soft_files.file_lock", late)
    summary = preprocess_soft("901")
    assert (summary.done, summary.skipped) == ([], sorted(SUBJECTS))


def test_a_folder_that_cannot_be_written_is_named(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort.give_all()

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nnunet_spine_ext.training.soft_files.file_lock", refused)
    with pytest.raises(SetupError, match="Permission denied") as caught:
        preprocess_soft("901")
    assert caught.value.code == "E-OUT-WRITE"


def test_the_default_reader_knows_where_an_image_is(tmp_path: Path) -> None:
    """nnU-Net's default reader keeps no affine, but origin, spacing and direction: the grid is checked all the same."""
    angle = np.deg2rad(12)
    affine = np.diag([-0.8, 1.3, 2.0, 1])
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = [10, -20, 30]
    array = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    path = tmp_path / "a_1.nii.gz"
    write_volume(Volume(array, affine), path)
    data, properties = SimpleITKIO().read_images([str(path)])
    properties |= {"bbox_used_for_cropping": [[0, n] for n in data.shape[1:]], "shape_before_cropping": data.shape[1:]}
    grid = grid_of(properties, {"transpose_forward": [0, 1, 2]}, data.shape[1:], reorient=False)
    assert grid.affine is not None
    np.testing.assert_allclose(grid.affine, affine, atol=1e-5)
    np.testing.assert_allclose(from_file(path, 1, grid).values, data, atol=1e-6)
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    write_volume(Volume(array, mirrored), path)
    with pytest.raises(CaseError) as caught:
        from_file(path, 1, grid)
    assert caught.value.code == "E-SOFT-GRID"


def test_values_above_one_are_set_to_one_and_told(cohort: Cohort) -> None:
    cohort.give_all()
    cohort.give("a_1", np.full(SHAPE[::-1], 1.06, np.float32))
    summary = preprocess_soft("901")
    assert [p.code for p in summary.warnings["a_1"]] == ["W-SOFT-OVERSHOOT"]
    assert cohort.stored("a_1").max() == 1


def test_a_dataset_without_soft_labels_is_refused(cohort: Cohort) -> None:
    with pytest.raises(SetupError) as caught:
        preprocess_soft("901")
    assert caught.value.code == "E-SOFT-NONE"
    cohort.give("unknown_case", np.zeros(SHAPE[::-1], np.float32))
    with pytest.raises(SetupError, match="any of the 3 cases"):
        preprocess_soft("901")


def test_missing_folders_plans_and_configurations_are_named(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cohort.give_all()
    with pytest.raises(SetupError, match="3d_fullres") as caught:
        preprocess_soft("901", c=["3d_fulres"])
    assert caught.value.code == "E-PLANS-CONFIGURATION"
    with pytest.raises(SetupError, match="nnUNetPlans"):
        preprocess_soft("901", p="nnUNetPlan")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "elsewhere"))
    with pytest.raises(SetupError, match="no such folder") as caught:
        preprocess_soft("901")
    assert caught.value.code == "E-SOFT-NONE"
    for file in cohort.data.iterdir():
        file.unlink()
    with pytest.raises(SetupError, match="nnUNetv2_preprocess -d 901 ") as caught:
        preprocess_soft("901")
    assert caught.value.code == "E-SOFT-UNPREPROCESSED"


def test_two_at_the_same_time_are_refused(cohort: Cohort) -> None:
    cohort.give_all()
    with (
        file_lock(cohort.base / f".{cohort.data.name}.soft.lock", what="preparing soft labels"),
        pytest.raises(SetupError) as caught,
    ):
        preprocess_soft("901")
    assert caught.value.code == "E-OUT-LOCKED"


def test_regions_have_no_soft_classes() -> None:
    with pytest.raises(SetupError, match="whole") as caught:
        Classes.of({"labels": {"background": 0, "whole": [1, 2], "core": 2}})
    assert caught.value.code == "E-SOFT-REGIONS"
    assert Classes.of({"labels": {"background": 0, "b": 7, "a": [3], "ignore": 9}}) == Classes((3, 7), 9)

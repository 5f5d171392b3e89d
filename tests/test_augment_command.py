"""`nnUNetv2_spine_augment`: contact sheets, records, replay, volumes, lists, imports, and everything it refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunet_spine_ext.augment.config import PRESETS, AugmentConfig
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Applied
from nnunet_spine_ext.augment.profiles import PROFILES, profile_names
from nnunet_spine_ext.augment.transform import registry
from nnunet_spine_ext.cli.augment import main
from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.training.augment import augment
from nnunet_spine_ext.training.augment_choice import choose
from nnunet_spine_ext.training.augment_lists import Converted, Listing
from nnunet_spine_ext.training.augment_making import apply
from nnunet_spine_ext.training.augment_sheet import best_plane, best_position, describe
from nnunet_spine_ext.training.network_input import network_input

SHAPE = (40, 36, 8)
# A sagittal stack as scanners store it: slices last, to the left; three degrees oblique.
COS, SIN = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
AFFINE = np.array([[SIN, 0, -3 * COS, 20], [0, -1, 0, 30], [-COS, 0, -3 * SIN, 60], [0, 0, 0, 1]], dtype=float)


def _image(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.int16)
    image[4:-4, 6:-6] = 100
    image[10:20, 10:20] = 300
    return np.maximum(image + rng.integers(0, 12, shape), 0).astype(np.int16)


def _labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[10:20, 10:20] = 10
    labels[24:30, 10:20, :4] = 4
    labels[24:30, 10:20, 4:] = 5
    return labels


def _write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """An image and its mask in a raw dataset that says what the labels are."""
    facts = {"scheme": "nnunet14", "sided_labels": [[4, 5], [6, 7], [8, 9]]}
    labels = {"background": 0, **{f"l{k}": k for k in range(1, 15)}, "ignore": 15}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "spine_ext": facts}))
    return (
        _write(tmp_path / "imagesTr" / "case_0000.nii.gz", _image()),
        _write(tmp_path / "labelsTr" / "case.nii.gz", _labels()),
    )


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


def test_equal_options_equal_bytes_and_replay(case: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = case
    for name in ("one", "two"):
        augment([image], mask, n=6, seed=3, o=tmp_path / f"{name}.png", size=96)
    augment([image], mask, replay=tmp_path / "one.json", o=tmp_path / "again.png")
    for name in ("two", "again"):
        assert (tmp_path / f"{name}.png").read_bytes() == (tmp_path / "one.png").read_bytes()
        assert (tmp_path / f"{name}.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    augment([image], mask, n=6, seed=4, o=tmp_path / "other.png", size=96)
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_number_of_threads_does_not_matter(case: tuple[Path, Path], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            augment([case[0]], case[1], n=4, o=tmp_path / f"{threads}.png", size=96)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "3.png").read_bytes()


def test_record_says_what_is_needed(case: tuple[Path, Path], tmp_path: Path) -> None:
    augment([case[0]], case[1], config="shift", n=3, epoch=0, o=tmp_path / "grid.png", size=96)
    record = json.loads((tmp_path / "grid.json").read_text())
    assert record["augmentation"]["hash"] == AugmentConfig.load("shift").hash
    assert record["version"] == 1
    assert record["epoch"] == 0
    assert record["input"]["scheme"] == "nnunet14"
    assert [len(f["sha256"]) for f in (*record["input"]["images"], record["input"]["labels"])] == [64, 64]
    assert record["input"]["images"][0]["name"] == "case_0000.nii.gz"
    assert str(tmp_path) not in (tmp_path / "grid.json").read_text()
    assert record["record"]["context"]["labels"] == list(range(15))
    assert record["record"]["context"]["sided_pairs"] == [[4, 5], [6, 7], [8, 9]]
    assert [s["key"]["draw"] for s in record["record"]["samples"]] == [0, 1, 2]


def test_page_has_the_original_and_every_sample(case: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = augment([case[0]], case[1], transform="inverse", n=3, columns=2, o=tmp_path / "grid.png", size=128)
    assert sheet.captions == ("inverse",) * 3
    pixels = _pixels(tmp_path / "grid.png")
    # Two rows and columns of pictures 128 high, with gaps and captions.
    assert 2 * 128 < pixels.shape[0] < 2 * 128 + 80
    narrow = augment([case[0]], transform="inverse", n=3, columns=1, o=tmp_path / "narrow.png", size=128)
    assert _pixels(tmp_path / "narrow.png").shape[0] > 4 * 128
    assert narrow.exit_code == 0


def test_contours_are_drawn_only_if_wanted(case: tuple[Path, Path], tmp_path: Path) -> None:
    coloured = []
    for contours in (True, False):
        augment([case[0]], case[1], config="none", n=1, contours=contours, o=tmp_path / "a.png", size=128)
        pixels = _pixels(tmp_path / "a.png")[20:120].astype(int)
        coloured.append(int((np.ptp(pixels, axis=2) > 40).sum()))
    assert coloured[0] > 50
    assert coloured[1] == 0


def test_network_sees_ras_with_left_and_right(case: tuple[Path, Path]) -> None:
    found = network_input([case[0]], case[1])
    assert found.context.shape == (40, 36, 8)
    np.testing.assert_allclose(found.context.spacing, (1.0, 1.0, 3.0), atol=0.01)
    assert found.context.left_right_axis == 2
    assert best_plane(found.grid) == "sagittal"
    np.testing.assert_allclose([found.images.mean(), found.images.std()], [0, 1], atol=1e-4)
    ras = Volume(_image(), AFFINE).to("RAS").array.transpose(2, 1, 0)
    assert np.corrcoef(found.images[0].ravel(), ras.ravel())[0, 1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("scheme", "side", "middle"), [("nnunet14", 4, 11), ("totalsegmentator", 1, 79), ("verse", 99, 20)]
)
def test_the_slice_is_that_of_the_midline(scheme: str, side: int, middle: int) -> None:
    labels = np.zeros((9, 40, 40), np.uint8)
    labels[1] = side
    labels[6, 18:22, 5:35] = middle
    volume = Volume(labels, np.eye(4))
    assert best_position(volume, volume, "sagittal", scheme) == 6
    assert best_position(volume, volume, "sagittal") == 1


def test_captions_say_what_was_done() -> None:
    fired = [
        Applied("gamma", {"labels": None, "mix": 1.0, "gamma": 1.234567, "channels": [0]}),
        Applied("protocol_change", {"protocol": [1.5, 3140.2, 84.0], "ratios": {"1": 2.0}}),
        Applied("signal_equations", {"protocol": {"sequence": "stir", "field_strength": 3.0}, "mix": 0.5}),
        Applied("domain_transfer", {"domains": {"t1w": 0.2, "ct": 0.8}}),
        Applied("flip", {"axes": [0, 2]}),
    ]
    said = describe(fired)
    assert said == (
        "gamma 1.23; protocol_change protocol 1.5 3140 84; signal_equations stir 3 T, mix 0.5; domain_transfer ct; "
        "flip axes 0 2"
    )
    assert describe([]) == "unchanged"


def test_normalised_inside_the_box_that_nnunet_crops_to(tmp_path: Path) -> None:
    image = np.zeros((30, 30, 8), np.float32)
    image[8:20, 8:20] = np.random.default_rng(0).normal(50, 10, (12, 12, 8))
    found = network_input([_write(tmp_path / "a.nii.gz", image)])
    box = image[8:20, 8:20]
    assert found.images.max() == pytest.approx(float((box.max() - box.mean()) / box.std()), rel=1e-4)


def test_ct_is_clipped_by_its_labels(tmp_path: Path) -> None:
    image = np.full(SHAPE, -1000, np.int16)
    image[8:30, 8:30] = np.random.default_rng(0).integers(0, 400, (22, 22, 8))
    path, mask = _write(tmp_path / "a.nii.gz", image), _write(tmp_path / "m.nii.gz", (image > -500).astype(np.uint8))
    found = network_input([path], mask)
    assert found.facts["normalization"] == ["CT of labelled voxels"]
    assert np.abs(found.images).max() < 2
    assert network_input([path]).facts["normalization"] == ["z-score of a CT"]
    assert "looks like a CT" in augment([path], profile=["ge-1.5t"], n=1, dry_run=True).render()
    assert "looks like a CT" not in augment([path], transform="gamma", n=1, dry_run=True).render()


def test_volumes_of_two_augmentations_are_not_mixed(case: tuple[Path, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"volumes": tmp_path / "v", "o": tmp_path / "a.png", "size": 96}
    augment([case[0]], case[1], transform="gamma", n=2, **options)
    (record,) = (tmp_path / "v").glob("*_aug.json")
    assert json.loads(record.read_text()) == json.loads((tmp_path / "a.json").read_text())
    augment([case[0]], case[1], transform="gamma", n=2, own_window=True, **options)
    assert _code(lambda: augment([case[0]], case[1], transform="inverse", n=1, **options)) == "E-OUT-FILE"
    record.unlink()
    assert _code(lambda: augment([case[0]], case[1], transform="gamma", n=2, **options)) == "E-OUT-FILE"


def test_a_slice_is_shown_in_its_plane_only(case: tuple[Path, Path], tmp_path: Path) -> None:
    volume = read_volume(case[0]).to("RAS")
    path = tmp_path / "slice.nii.gz"
    write_volume(volume.crop((slice(3, 4), slice(None), slice(None))), path)
    options: dict[str, Any] = {"transform": "gamma", "n": 1, "dry_run": True}
    augment([path], plane="sagittal", **options)
    assert _code(lambda: augment([path], plane="axial", **options)) == "E-CONFIG-VALUE"


def test_a_sheet_without_an_epoch_says_that_it_is_at_full_strength(case: tuple[Path, Path]) -> None:
    assert "at full strength" in augment([case[0]], transform="gamma", n=1, dry_run=True).render()
    assert "epoch 3" in augment([case[0]], config="shift", epoch=3, n=1, dry_run=True).render()


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "LPS"])
def test_volumes_lie_exactly_on_the_grid_of_the_file(case: tuple[Path, Path], tmp_path: Path, orientation: str) -> None:
    stored = [Volume(a, AFFINE).to(orientation) for a in (_image(), _labels())]
    image, mask = tmp_path / "x" / "b_0000.nii.gz", tmp_path / "x" / "b.nii.gz"
    for volume, path in zip(stored, (image, mask), strict=True):
        write_volume(volume, path)
    out = {"n": 1, "o": tmp_path / "a.png", "size": 96, "scheme": "nnunet14"}
    augment([image], mask, transform="gamma", volumes=tmp_path / "v", **out)
    for path, written in ((image, "images/b_aug1_0000.nii.gz"), (mask, "labels/b_aug1.nii.gz")):
        one, other = nib.load(path), nib.load(tmp_path / "v" / written)
        np.testing.assert_array_equal(one.affine, other.affine)
        assert one.shape == other.shape
    np.testing.assert_array_equal(read_volume(mask).array, read_volume(tmp_path / "v/labels/b_aug1.nii.gz").array)
    found = read_volume(tmp_path / "v/images/b_aug1_0000.nii.gz").array
    order = np.argsort(stored[0].array.ravel(), kind="stable")
    # A monotone curve: the order of intensities stays, voxel by voxel.
    assert (np.diff(found.ravel()[order]) >= -1e-5).all()


def test_flip_exchanges_sides_in_the_mask(case: tuple[Path, Path], tmp_path: Path) -> None:
    settings = ["axes=[2]", "axis_p=1"]
    augment([case[0]], case[1], transform="flip", assignments=settings, n=1, o=tmp_path / "a.png", volumes=tmp_path)
    flipped = read_volume(tmp_path / "labels" / "case_aug1.nii.gz").array
    np.testing.assert_array_equal(flipped, _labels())


def test_what_lies_beyond_the_image_is_zero_and_background(case: tuple[Path, Path], tmp_path: Path) -> None:
    settings = ["axes=[0]", "cut=0.5"]
    augment([case[0]], case[1], transform="crop", assignments=settings, n=1, o=tmp_path / "a.png", volumes=tmp_path)
    image = read_volume(tmp_path / "images" / "case_aug1_0000.nii.gz").array
    labels = read_volume(tmp_path / "labels" / "case_aug1.nii.gz").array
    beyond = (image == 0).all(axis=(1, 2))
    assert beyond.sum() == 20
    assert labels[beyond].max() == 0


def test_resampled_first_on_request(case: tuple[Path, Path], tmp_path: Path) -> None:
    found = network_input([case[0]], case[1], spacing=(3, 2, 2))
    assert found.context.shape == (20, 18, 8)
    assert set(np.unique(found.labels)) == {0, 4, 5, 10}
    options: dict[str, Any] = {"n": 2, "o": tmp_path / "a.png", "size": 96}
    augment([case[0]], case[1], spacing=(3, 2, 2), volumes=tmp_path / "v", **options)
    written = read_volume(tmp_path / "v" / "labels" / "case_aug1.nii.gz")
    assert written.shape == (20, 18, 8)
    assert written.orientation == Volume(_image(), AFFINE).orientation
    first = (tmp_path / "a.png").read_bytes()
    augment([case[0]], case[1], replay=tmp_path / "a.json", o=tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == first


def test_two_channels_side_by_side(case: tuple[Path, Path], tmp_path: Path) -> None:
    second = _write(tmp_path / "imagesTr" / "case_0001.nii.gz", _image(seed=1))
    augment([case[0], second], case[1], n=1, columns=1, o=tmp_path / "two.png", size=128, volumes=tmp_path / "v")
    augment([case[0]], case[1], n=1, columns=1, o=tmp_path / "one.png", size=128)
    assert _pixels(tmp_path / "two.png").shape[1] > 1.8 * _pixels(tmp_path / "one.png").shape[1]
    assert len(list((tmp_path / "v" / "images").iterdir())) == 2
    augment([case[0], second], case[1], replay=tmp_path / "two.json", o=tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with pytest.raises(SpineExtError) as caught:
        augment([case[0]], case[1], replay=tmp_path / "two.json", o=tmp_path / "b.png")
    assert caught.value.code == "E-AUG-RECORD"


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
@pytest.mark.parametrize("flat", [True, False])
def test_one_slice_is_a_2d_image(tmp_path: Path, suffix: str, flat: bool) -> None:
    array = _image((40, 36, 1))
    path = tmp_path / f"a{suffix}"
    affine = np.diag([-1.2, -1.5, 4.0, 1.0])
    if suffix == ".nii.gz":
        _write(path, array[..., 0] if flat else array, affine)
    else:
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array[..., 0].T if flat else array.T)
        image.SetSpacing((1.2, 1.5) if flat else (1.2, 1.5, 4.0))
        sitk.WriteImage(image, str(path))
    found = network_input([path])
    assert found.context.shape == (36, 40)
    np.testing.assert_allclose(found.context.spacing, (1.5, 1.2), rtol=1e-6)
    assert best_plane(found.grid) == "axial"
    sheet = augment([path], n=4, o=tmp_path / "a.png", volumes=tmp_path / "v", size=96)
    assert len(sheet.captions) == 4
    assert read_volume(tmp_path / "v" / "images" / "a_aug1_0000.nii.gz").shape == (40, 36, 1)


def test_two_dimensional_mask_follows(tmp_path: Path) -> None:
    image = _write(tmp_path / "a.nii.gz", _image((40, 36, 1)))
    mask = _write(tmp_path / "m.nii.gz", _labels((40, 36, 1)))
    sheet = augment([image], mask, transform="rotate", n=2, o=tmp_path / "a.png", size=96)
    assert "rotate" in sheet.captions[0]
    assert "sagittal" in (tmp_path / "a.json").read_text()


def test_scanner_profiles_are_drawn_and_named(case: tuple[Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    numbers = {"field_strength": 1.5, "coils": 16, "in_plane": 0.7, "slice": 4.0, "noise": 0.035, "tr": 3200, "te": 95}
    own.write_text(json.dumps({"name": "ours", "manufacturer": "Canon", **numbers}))
    out = {"n": 3, "o": tmp_path / "a.png", "size": 96}
    sheet = augment([case[0]], case[1], profile=["ge-1.5t:all=0:noise=1", str(own)], assignments=["jitter=0.2"], **out)
    assert all("noise" in caption for caption in sheet.captions)
    assert "ours" in sheet.render()
    several = augment([case[0]], profile=["ge-1.5t", str(own)], n=8, dry_run=True)
    assert {caption.partition(": ")[0] for caption in several.captions} == {"ge-1.5t", "ours"}
    assert not augment([case[0]], profile=["ge-1.5t"], n=1, dry_run=True).captions[0].startswith("ge")
    preset = augment([case[0]], config="scanners", n=6, dry_run=True)
    assert {caption.partition(": ")[0] for caption in preset.captions} == set(profile_names())
    first = (tmp_path / "a.png").read_bytes()
    augment([case[0]], case[1], replay=tmp_path / "a.json", o=tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == first


def test_strength_and_epoch(case: tuple[Path, Path], tmp_path: Path) -> None:
    weak = augment([case[0]], transform="gamma", assignments=["gamma=2"], strength=0.5, n=1, dry_run=True)
    assert weak.captions == ("gamma 1.5",)
    ramp: dict[str, Any] = {"n": 4, "assignments": ["schedule.ramp_epochs=20"], "dry_run": True}
    assert augment([case[0]], epoch=0, **ramp).captions != augment([case[0]], **ramp).captions
    none = augment([case[0]], strength=0.0, assignments=["schedule.clean_share=0"], n=4, dry_run=True)
    assert none.captions == ("unchanged",) * 4


def test_dry_run_writes_nothing(case: tuple[Path, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    sheet = augment([case[0]], case[1], n=3, o=tmp_path / "x" / "a.png", dry_run=True)
    assert sheet.png is None
    assert len(sheet.captions) == 3
    assert sorted(tmp_path.rglob("*")) == before


def test_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = augment(listing=True)
    assert isinstance(found, Listing)
    assert {"shift", "none"} <= set(found.presets)
    assert "ge-1.5t" in found.scanners
    assert all(text.endswith(".") for text in found.presets.values())
    assert sum(map(len, found.transforms.values())) > 50
    assert main(["--list"]) == 0
    assert "gibbs" in capsys.readouterr().out
    assert main(["--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transforms"]["axis"]["gibbs"]


def test_import_writes_our_yaml_and_names_what_has_no_counterpart(tmp_path: Path) -> None:
    source = tmp_path / "foreign.json"
    entry = {"RandomInverseGPU": {"p": 0.2}, "NoSuchThingGPU": {"p": 0.5}}
    source.write_text(json.dumps({"GPU": entry}))
    found = augment(import_file=source, o=tmp_path / "ours.yaml")
    assert isinstance(found, Converted)
    assert found.exit_code == 3
    assert "NoSuchThing" in found.render().partition("WITHOUT COUNTERPART")[2]
    assert AugmentConfig.load(tmp_path / "ours.yaml").hash == found.imported.config.hash
    source.write_text(json.dumps({"GPU": {"RandomInverseGPU": {"p": 0.2}}}))
    planned = augment(import_file=source, o=tmp_path / "later.yaml", dry_run=True).render()
    assert f"would be written: {tmp_path / 'later.yaml'}" in planned
    clean = augment(import_file=source)
    assert clean.exit_code == 0
    assert "nothing is without" in clean.render()
    with pytest.raises(SpineExtError, match="yaml"):
        augment(import_file=source, o=tmp_path / "ours.json")


# Everything below is refused.


def _code(call: Callable[[], Any]) -> str:
    with pytest.raises(SpineExtError) as caught:
        call()
    assert caught.value.found
    assert caught.value.fix
    return caught.value.code


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        ({"transform": "gama"}, "E-AUG-NAME", "did you mean 'gamma'"),
        ({"config": "shiift"}, "E-CONFIG-VALUE", "did you mean 'shift'"),
        ({"config": "nowhere.yaml"}, "E-CONFIG-READ", "nowhere.yaml: no such file"),
        ({"profile": ["nowhere.yaml"]}, "E-CONFIG-READ", "nowhere.yaml: no such file"),
        ({"profile": ["ge-1.5t"], "assignments": ["jitter=5"]}, "E-CONFIG-VALUE", "jitter: 5; expected 0 to 0.9;"),
        ({"profile": ["ge1.5t"]}, "E-AUG-PROFILE", "did you mean 'ge-1.5t'"),
        ({"profile": ["GE-1.5T"]}, "E-AUG-PROFILE", "did you mean 'ge-1.5t'"),
        ({"profile": ["ge-1.5t,ge-3t:noise=2"]}, "E-CONFIG-VALUE", "with blanks between them; ge-1.5t ge-3t:noise=2"),
        ({"profile": [str(PRESETS / "shift.yaml")]}, "E-CONFIG-KIND", "--config takes it"),
        ({"assignments": ["jitter=0.3"]}, "E-CONFIG-VALUE", "scanners.jitter"),
        ({"profile": ["ge-1.5t:nois=1"]}, "E-CONFIG-KEY", "did you mean 'noise'"),
        ({"profile": ["ge-1.5t:noise=9"]}, "E-CONFIG-VALUE", "0 to 4"),
        ({"profile": ["ge-1.5t"], "assignments": ["jiter=0.1"]}, "E-CONFIG-KEY", "did you mean 'jitter'"),
        ({"profile": ["ge-1.5t"], "assignments": ["jitter=much"]}, "E-CONFIG-VALUE", "a number"),
        ({"profile": ["ge-1.5t"], "strength": 0.5}, "E-CONFIG-VALUE", "severities"),
        ({"profile": ["shift"]}, "E-CONFIG-VALUE", "--config shift"),
        ({"config": "ge-1.5t:noise=2"}, "E-CONFIG-VALUE", "--profile ge-1.5t:noise=2"),
        ({"profile": ["ge-3t", "ge-1.5t", "ge-3t"]}, "E-CONFIG-VALUE", "ge-3t more than once"),
        ({"profile": ["ge-3t:noise=2"], "assignments": ["severity=2"]}, "E-CONFIG-VALUE", "one of the two"),
        ({"config": str(PROFILES / "ge-1.5t.yaml")}, "E-CONFIG-KIND", "--profile"),
        ({"transform": "gamma", "assignments": ["gama=2"]}, "E-CONFIG-KEY", "did you mean 'gamma'"),
        ({"transform": "gamma", "assignments": ["gamma=[3, 1]"]}, "E-CONFIG-RANGE", "lower bound"),
        ({"transform": "gamma", "assignments": ["gamma=500"]}, "E-CONFIG-RANGE", "0.05 to 20"),
        ({"transform": "gamma", "assignments": ["gamma"]}, "E-CONFIG-SET", "key=value"),
        ({"transform": "gamma", "config": "shift"}, "E-CONFIG-VALUE", "one of --config"),
        ({"assignments": ["schedule.clean_shar=0"]}, "E-CONFIG-KEY", "did you mean 'clean_share'"),
        ({"assignments": ["transforms=[]"]}, "E-CONFIG-VALUE", "configuration file"),
        ({"strength": -1.0}, "E-CONFIG-VALUE", "--strength: -1; expected 0 to 5"),
        ({"strength": 50.0}, "E-CONFIG-VALUE", "--strength: 50; expected 0 to 5"),
        ({"strength": float("nan")}, "E-CONFIG-VALUE", "0 to 5"),
        ({"epoch": -1}, "E-CONFIG-VALUE", "0 or more"),
        ({"n": 0}, "E-CONFIG-VALUE", "1 to"),
        ({"size": 5}, "E-CONFIG-VALUE", "pixels"),
        ({"columns": -1}, "E-CONFIG-VALUE", "0 or more"),
        ({"plane": "sagittall"}, "E-CONFIG-VALUE", "did you mean 'sagittal'"),
        ({"scheme": "nnunet15"}, "E-LABEL-SCHEME", "did you mean 'nnunet14'"),
        ({"spacing": (1, 0, 1)}, "E-CONFIG-VALUE", "positive"),
        ({"transform": "gamma", "assignments": ["channels=[3]"]}, "E-AUG-CONTEXT", "channels"),
    ],
    ids=str,
)
def test_wrong_options(case: tuple[Path, Path], tmp_path: Path, options: Any, code: str, hint: str) -> None:
    with pytest.raises(SpineExtError) as caught:
        augment([case[0]], case[1], o=tmp_path / "a.png", **options)
    assert caught.value.code == code
    assert hint in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "a.png").exists()


def test_a_bad_value_names_its_file(case: tuple[Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    numbers = {"coils": 16, "in_plane": 0.7, "slice": 4.0, "noise": 0.035, "tr": 3200, "te": 95}
    profile = {"name": "ours", "manufacturer": "Canon", "field_strength": 1500, **numbers}
    for option, content in (
        ({"config": own}, {"transforms": [{"name": "gamma", "p": 2}]}),
        ({"config": own}, {"schedule": {"clean_share": 3}}),
        ({"profile": [str(own)]}, profile),
    ):
        own.write_text(json.dumps(content))
        with pytest.raises(SpineExtError, match=r"own\.yaml"):
            augment([case[0]], dry_run=True, **option)


def _four_dimensions(folder: Path) -> Path:
    return _write(folder / "bad.nii.gz", np.zeros((8, 8, 8, 3), np.float32))


def _colour(folder: Path) -> Path:
    colour = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return _write(folder / "bad.nii.gz", colour)


def _zero_spacing(folder: Path) -> Path:
    path = _write(folder / "bad.nii", _image())
    raw = bytearray(path.read_bytes())
    # pixdim[1], and neither qform nor sform beside it.
    raw[80:84], raw[252:256] = np.float32(0).tobytes(), np.int16([0, 0]).tobytes()
    path.write_bytes(raw)
    return path


def _constant(folder: Path) -> Path:
    return _write(folder / "bad.nii.gz", np.full(SHAPE, 7, np.int16))


def _one_row(folder: Path) -> Path:
    return _write(folder / "bad.nii.gz", _image((40, 1, 1)))


def _empty(folder: Path) -> Path:
    path = folder / "bad.nii.gz"
    path.write_bytes(b"")
    return path


def _missing(folder: Path) -> Path:
    return folder / "nowhere.nii.gz"


@pytest.mark.parametrize(
    ("make", "code", "exit_code"),
    [
        (_four_dimensions, "E-IN-DIM", 4),
        (_colour, "E-IN-DTYPE", 4),
        (_zero_spacing, "E-GEOM", 4),
        (_constant, "E-INT-CONSTANT", 4),
        (_one_row, "E-IN-2D", 4),
        (_empty, "E-IN-", 4),
        (_missing, "E-IN-MISSING", 4),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_unusable_images(
    make: Callable[[Path], Path], code: str, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    assert main(["-i", str(path), "-o", str(tmp_path / "a.png")]) == exit_code
    said = capsys.readouterr().err
    assert code in said
    assert path.name in said
    assert not (tmp_path / "a.png").exists()


def test_flat_image_without_spacing(tmp_path: Path) -> None:
    path = _write(tmp_path / "bad.nii", _image((40, 36)), np.eye(4))
    raw = bytearray(path.read_bytes())
    raw[80:84], raw[252:256] = np.float32(0).tobytes(), np.int16([0, 0]).tobytes()
    path.write_bytes(raw)
    assert _code(lambda: network_input([path])) == "E-GEOM-SPACING"


def test_masks_that_do_not_fit(case: tuple[Path, Path], tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 5
    fraction = _labels().astype(np.float32)
    fraction[12, 12, 2] = 0.5
    for array, affine, code in (
        (_labels(), moved, "E-GEOM-GRID"),
        (_labels((40, 36, 9)), AFFINE, "E-GEOM-GRID"),
        (fraction, AFFINE, "E-LABEL-VALUE"),
        (_labels().astype(np.int16) - 1, AFFINE, "E-LABEL-VALUE"),
    ):
        mask = _write(tmp_path / "bad.nii.gz", array, affine)
        assert _code(lambda mask=mask: augment([case[0]], mask, o=tmp_path / "a.png")) == code
        assert main(["-i", str(case[0]), "-seg", str(mask), "-o", str(tmp_path / "a.png")]) == 4
    whole = _write(tmp_path / "whole.nii.gz", _labels().astype(np.float32))
    assert network_input([case[0]], whole).labels.max() == 10
    other = _write(tmp_path / "c_0001.nii.gz", _image((40, 36, 9)))
    assert _code(lambda: augment([case[0], other], o=tmp_path / "a.png")) == "E-GEOM-GRID"
    assert main(["-i", str(case[0]), str(other), "-o", str(tmp_path / "a.png")]) == 4
    image = _write(tmp_path / "image.nii.gz", (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 1000).astype(np.int16))
    with pytest.raises(SpineExtError, match=r"1000 different values.*looks like an image"):
        augment([case[0]], image, o=tmp_path / "a.png")
    assert _code(lambda: augment(o=tmp_path / "a.png")) == "E-CONFIG-VALUE"


def test_labels_of_no_known_scheme_are_said_to_be(case: tuple[Path, Path], tmp_path: Path) -> None:
    mask = _write(tmp_path / "elsewhere" / "deep" / "m.nii.gz", _labels())
    sheet = augment([case[0]], mask, n=1, dry_run=True)
    assert "--scheme" in sheet.render()
    assert sheet.record["record"]["context"]["labels"] == [0, 4, 5, 10]
    assert "--scheme" not in augment([case[0]], mask, scheme="nnunet14", n=1, dry_run=True).render()


def test_ids_that_the_scheme_does_not_know(
    case: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("nnunet_spine_ext"), "propagate", True)
    augment([case[0]], case[1], scheme="nnunet14", n=1, dry_run=True)
    assert "unknown to the scheme" not in caplog.text
    labels = _labels()
    labels[30:32], labels[33] = 60, 200
    mask = _write(tmp_path / "strange.nii.gz", labels)
    augment([case[0]], mask, scheme="nnunet14", config="synthseg", n=2, o=tmp_path / "a.png", size=96)
    assert "strange.nii.gz: ids 60, 200 are unknown to the scheme nnunet14" in caplog.text


def test_tissues_of_other_schemes(case: tuple[Path, Path], tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 10:20], labels[24:30, 10:20] = 49, 100
    mask = _write(tmp_path / "elsewhere" / "deep" / "m.nii.gz", labels)
    options: dict[str, Any] = {"n": 1, "dry_run": True, "scheme": "spineps"}
    sheet = augment([case[0]], mask, transform="signal_equations", **options)
    assert {"49", "60", "100"} <= set(sheet.record["record"]["samples"][0]["transforms"][0]["params"]["signals"])
    assert "spineps by its translation" in sheet.render()
    config = tmp_path / "own.json"
    entry = {"name": "signal_equations", "p": 1, "classes": {"49": "fat"}}
    config.write_text(json.dumps({"transforms": [entry, {"one_of": [{"name": "domain_transfer"}]}]}))
    written = augment([case[0]], mask, config=config, **options).record["augmentation"]["config"]["transforms"]
    assert written[0]["classes"] == {"49": "fat"}
    assert written[1]["one_of"][0]["classes"]["49"] == "marrow"
    sheet = augment([case[0]], mask, profile=["ge-1.5t"], **options)
    assert sheet.record["augmentation"]["classes"]["100"] == "disc"
    fired = {item["name"]: item["params"] for item in sheet.record["record"]["samples"][0]["transforms"]}
    assert "100" in fired["protocol_change"]["ratios"]
    untold = augment([case[0]], mask, profile=["ge-1.5t"], n=1, dry_run=True)
    assert untold.record["augmentation"]["hash"] != sheet.record["augmentation"]["hash"]
    # A scheme of which no label has a tissue: the names of vertebrae alone.
    (mask.parent / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "L5": 1}, "spine_ext": {"scheme": "instances"}})
    )
    said = augment([case[0]], mask, n=1, dry_run=True).render()
    assert "of the scheme instances, so nothing is known of tissues" in said


def test_outputs_that_cannot_be_written(case: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(SpineExtError, match=r"give -o grid\.png"):
        augment([case[0]])
    for out, code in (
        (None, "E-CONFIG-VALUE"),
        (tmp_path / "a.jpg", "E-CONFIG-VALUE"),
        (tmp_path / "file" / "a.png", "E-OUT-WRITE"),
        (tmp_path / "folder.png", "E-OUT-FILE"),
        # Its record would replace a file that has nothing to do with it.
        (tmp_path / "dataset.png", "E-OUT-FILE"),
        (tmp_path / "photo.png", "E-OUT-FILE"),
    ):
        assert _code(lambda out=out: augment([case[0]], o=out)) == code
    assert main(["-i", str(case[0]), "-o", str(tmp_path / "file" / "a.png")]) == 5
    assert (tmp_path / "photo.png").read_bytes() == b"mine"
    assert "spine_ext" in (tmp_path / "dataset.json").read_text()
    options: dict[str, Any] = {"n": 1, "o": tmp_path / "a.png", "size": 96}
    assert _code(lambda: augment([case[0]], volumes=tmp_path / "file", **options)) == "E-OUT-WRITE"


def test_records_that_do_not_fit(case: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = case
    augment([image], mask, n=2, o=tmp_path / "a.png", size=96)
    good = json.loads((tmp_path / "a.json").read_text())
    other = _write(tmp_path / "other_0000.nii.gz", _image(seed=5))

    def replay(images: list[Path], seg: Path | None, record: Any = None, **options: Any) -> Any:
        path = tmp_path / "record.json"
        path.write_text(json.dumps(good if record is None else record))
        return augment(images, seg, replay=path, o=tmp_path / "b.png", **options)

    assert _code(lambda: replay([other], mask)) == "E-AUG-RECORD"
    assert _code(lambda: replay([image], None)) == "E-AUG-RECORD"
    assert _code(lambda: replay([image], mask, {**good, "version": 2})) == "E-AUG-RECORD"
    assert _code(lambda: replay([image], mask, {**good, "record": {**good["record"], "version": 9}})) == "E-AUG-RECORD"
    assert _code(lambda: replay([image], mask, {"transforms": []})) == "E-AUG-RECORD"
    assert _code(lambda: replay([image], mask, {k: v for k, v in good.items() if k != "look"})) == "E-AUG-RECORD"
    unknown = {"name": "warp_drive", "params": {}}
    for damage in ([unknown], [{"name": "gamma", "params": {}}], [{}]):
        samples = [{**good["record"]["samples"][0], "transforms": damage}]
        broken = {**good, "record": {**good["record"], "samples": samples}}
        assert _code(lambda broken=broken: replay([image], mask, broken)) == "E-AUG-RECORD"
    assert _code(lambda: replay([image], mask, transform="gamma")) == "E-CONFIG-VALUE"
    assert _code(lambda: augment([image], replay=tmp_path / "no.json", o=tmp_path / "b.png")) == "E-AUG-RECORD"
    assert main(["-i", str(image), "--replay", str(image), "-o", str(tmp_path / "b.png")]) == 2
    for name, value in {"seed": 1, "n": 3, "strength": 2, "epoch": 0, "plane": "axial", "size": 64}.items():
        with pytest.raises(SpineExtError, match=rf"--{name}: --replay beside it") as caught:
            replay([image], mask, **{name: value})
        assert caught.value.exit_code == 2
    assert not (tmp_path / "b.png").exists()
    told = replay([other], mask, other_image=True)
    assert told.record["input"]["images"][0]["name"] == "other_0000.nii.gz"
    # What it made is a record of its own.
    augment([other], mask, replay=tmp_path / "b.json", o=tmp_path / "c.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_command_ends_as_promised(
    case: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    common = ["-i", str(case[0]), "-seg", str(case[1]), "--n", "2", "--size", "96", "-o", str(tmp_path / "a.png")]
    assert main([*common, "--transform", "gamma", "--set", "gamma=[0.7,0.8]", "mix=1"]) == 0
    assert "gamma 2" in capsys.readouterr().out
    assert main([*common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["record"]["version"] == 1
    assert main([*common, "--transform", "gama"]) == 2
    assert "did you mean 'gamma'" in capsys.readouterr().err
    # An earlier sheet may be replaced.
    assert main([*common, "-q"]) == 0


def test_every_transform_on_one_slice(case: tuple[Path, Path], tmp_path: Path) -> None:
    image = _write(tmp_path / "a.nii.gz", _image((40, 36, 1)))
    mask = _write(tmp_path / "m.nii.gz", _labels((40, 36, 1)))
    found = network_input([image], mask, scheme="nnunet14")
    for name in registry():
        plan = choose(found.context, transform=name).plan(SampleKey(0, "a", 0, 0))
        images, labels = apply(found, plan)
        assert images.shape == found.images.shape, name
        assert np.isfinite(images).all(), name
        assert labels is not None
        assert set(np.unique(labels)) <= set(range(15)), name
        assert describe(plan.samples[0]).startswith(name)


@pytest.mark.parametrize("seg", [True, False])
def test_real_images(test_data: Path, tmp_path: Path, seg: bool) -> None:
    folder = test_data / "sct-testing"
    images = sorted(folder.rglob("t2.nii.gz"))
    if not images:
        pytest.skip("no t2.nii.gz here")
    masks = sorted(images[0].parent.glob("t2_seg*.nii.gz")) if seg else []
    sheet = augment([images[0]], masks[0] if masks else None, n=4, o=tmp_path / "a.png", size=128)
    assert len(sheet.captions) == 4

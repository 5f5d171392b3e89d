"""`--tta full` and `--uncertainty` of the command: files, journal, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from model_builder import CORD, make_image, make_model
from soft_model import make_soft_model

from nnunet_spine_ext.cli.predict import main
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.inference.predict import predict


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "cord", labels=CORD)


def entry(folder: Path, case: str = "a") -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if line["case"] == case)


def test_uncertainty_lies_on_the_grid_of_the_image_in_a_folder_of_its_own(model: Path, tmp_path: Path) -> None:
    affine = np.diag([-1.2, 1.0, 1.5, 1.0])
    affine[:3, 3] = (3, -5, 8)
    upright = make_image(tmp_path / "upright.nii.gz", shape=(20, 18, 16), affine=affine)
    turned = upright.to("PIR")
    image = tmp_path / "in" / "a_0000.nii.gz"
    write_volume(turned, image)
    result = predict(image, tmp_path / "out", m=model, device="cpu", tta="full", all_views=True, uncertainty=True)
    assert result.exit_code == 0
    assert [f.name for f in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"], "nnU-Net evaluates the flat folder"
    maps = nib.load(tmp_path / "out" / "uncertainty" / "a.nii.gz")
    assert maps.shape == (*turned.array.shape, 2)
    assert maps.get_data_dtype() == np.float32
    assert np.allclose(maps.affine, turned.affine, atol=1e-4)
    entropy, information = np.moveaxis(maps.get_fdata(), -1, 0)
    assert entropy.min() >= 0
    assert entropy.max() <= 1
    assert (information <= entropy + 1e-5).all()
    assert information.max() > 0
    # Voxels that the network hesitates about are where the mask changes.
    mask = read_volume(tmp_path / "out" / "a.nii.gz").array > 0
    edge = np.zeros_like(mask)
    for axis in range(3):
        step = np.diff(mask, axis=axis)
        edge |= np.insert(step, 0, False, axis=axis) | np.insert(step, step.shape[axis], False, axis=axis)
    assert entropy[edge].mean() > entropy[~edge].mean()
    line = entry(tmp_path / "out")
    assert line["views"]["planned"] == len(line["views"]["names"]) == 17
    assert set(line["views"]["stability"]["cord"]) == {"dice", "volume_cv"}
    assert line["forward_passes"] > 17
    assert "uncertainty/a.nii.gz" in line["outputs"]
    assert json.loads((tmp_path / "out" / "qc" / "a.json").read_text())["views"] == line["views"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["views"]["stop"] is False


def test_old_maps_go_and_resume_looks_at_them(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "in" / "a_0000.nii.gz"
    make_image(image, shape=(18, 17, 16))
    options: dict[str, Any] = {"m": model, "device": "cpu", "tta": "full", "views": ("mirror",), "uncertainty": True}
    predict(image, tmp_path / "out", **options)
    assert predict(image, tmp_path / "out", resume=True, **options).skipped == ["a"]
    (tmp_path / "out" / "uncertainty" / "a.nii.gz").write_bytes(b"damaged")
    assert predict(image, tmp_path / "out", resume=True, **options).done == ["a"]
    assert predict(image, tmp_path / "out", resume=True, **(options | {"all_views": True})).done == ["a"]
    predict(image, tmp_path / "out", m=model, device="cpu", tta="none")
    assert not (tmp_path / "out" / "uncertainty" / "a.nii.gz").exists()
    line = entry(tmp_path / "out")
    assert "views" not in line
    assert line["forward_passes"] > 0


def test_the_command_takes_kinds_of_views(model: Path, tmp_path: Path) -> None:
    image = tmp_path / "in" / "a_0000.nii.gz"
    make_image(image, shape=(16, 16, 16))
    words = ["-i", str(image), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu", "-q"]
    assert main([*words, "--tta", "full", "--views", "intensity", "resolution", "--all-views"]) == 0
    names = entry(tmp_path / "out")["views"]["names"]
    assert len(names) == 10
    assert not [name for name in names if "mirror" in name]
    assert main([*words, "--views", "intensity"]) == 2
    assert main([*words, "--uncertainty"]) == 2


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"views": ("intensity",)}, "E-USE-VIEWS"),
        ({"all_views": True, "tta": "none"}, "E-USE-VIEWS"),
        ({"uncertainty": True}, "E-USE-VIEWS"),
        ({"tta": "full", "views": ("gamma",)}, "E-USE-CHOICE"),
        ({"tta": "all"}, "E-USE-CHOICE"),
        ({"tta": "full", "accumulate": "half", "crop": "off"}, "E-USE-ACCUMULATE"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    model: Path, tmp_path: Path, options: dict[str, Any], code: str
) -> None:
    make_image(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError) as caught:
        predict(tmp_path / "a.nii.gz", tmp_path / "out", m=model, **options)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_a_geometric_mean_of_linear_values_is_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "a.nii.gz")
    soft = make_soft_model(tmp_path / "soft", predict={"views": {"aggregate": "geometric"}})
    with pytest.raises(UsageError) as caught:
        predict(tmp_path / "a.nii.gz", tmp_path / "out", m=soft, tta="full", dry_run=True)
    assert caught.value.code == "E-USE-AGGREGATE"


def test_unknown_settings_of_views_name_the_nearest(tmp_path: Path) -> None:
    make_image(tmp_path / "a.nii.gz")
    wrong = make_model(tmp_path / "model", predict={"views": {"gama": [0.7]}})
    with pytest.raises(UsageError, match="did you mean 'gamma'"):
        predict(tmp_path / "a.nii.gz", tmp_path / "out", m=wrong, tta="full")


def test_soft_models_write_soft_maps_and_uncertainty(tmp_path: Path) -> None:
    make_image(tmp_path / "a.nii.gz", shape=(18, 17, 16))
    soft = make_soft_model(tmp_path / "soft")
    result = predict(tmp_path / "a.nii.gz", tmp_path / "out", m=soft, device="cpu", tta="full", uncertainty=True)
    assert result.exit_code == 0
    values = nib.load(tmp_path / "out" / "soft" / "a.nii.gz").get_fdata()
    assert 0 <= values.min() < values.max() <= 1
    assert nib.load(tmp_path / "out" / "uncertainty" / "a.nii.gz").shape == (18, 17, 16, 2)

"""Numbers and networks in post-processing: from the command to what other commands make of the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_builder import LABELS14, SIDED14, make_image, make_model, stock_predict
from spine_builder import Spine, build

from nnunet_spine_ext.cli import postprocess as command
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_json, read_volume, sha256, write_volume
from nnunet_spine_ext.core.labels import mapping, vertebra_id
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference import managers
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.inference.phase_options import PhaseOptions
from nnunet_spine_ext.inference.postprocess import postprocess
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.measure.centroids import read_poi
from nnunet_spine_ext.measure.csa_run import csa
from nnunet_spine_ext.numbering import classifier
from nnunet_spine_ext.numbering.levels import INDEX, LEVELS
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.report.build import report
from nnunet_spine_ext.report.collect import collect

LUMBAR = ("L1", "L2", "L3", "L4", "L5")
THORACIC = ("T6", "T7", "T8", "T9")
COARSE = (4.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def spines() -> dict[str, Volume]:
    """Return masks of the lumbar spine with its sacrum, and of four thoracic vertebrae that nothing tells apart."""
    return {
        "lumbar": build(Spine(levels=LUMBAR, spacing=COARSE))[0],
        "thoracic": build(Spine(levels=THORACIC, spacing=COARSE, sacrum=False))[0],
    }


@pytest.fixture
def masks(tmp_path: Path, spines: dict[str, Volume]) -> Callable[..., Path]:
    """Return a function that writes masks of some spines into a folder."""

    def write(*names: str) -> Path:
        for name in names:
            write_volume(spines[name], tmp_path / "masks" / f"{name}.nii.gz")
        return tmp_path / "masks"

    return write


def numbered(out: Path, case: str) -> list[str]:
    """Return the levels that the QC of a case states, after checking that every file says the same."""
    qc = read_json(out / "qc" / f"{case}.json")
    header = read_json(out / "centroids" / f"{case}.json")[0]
    assert header["numbered"] == qc["numbered"]
    ids = {int(k) for k in np.unique(read_volume(out / "instances" / f"{case}.nii.gz").array)} - {0, 26}
    vertebrae = sorted(k for k in ids if k < 100)
    if not qc["numbered"]:
        assert vertebrae == list(range(1, len(vertebrae) + 1))
        return []
    levels = list(qc["levels"].values())
    assert vertebrae == [vertebra_id(name) for name in levels]
    points, _ = read_poi(out / "centroids" / f"{case}.json")
    assert set(points) - {26} == ids
    return levels


# ---- what tells the level ----------------------------------------------------------------------------------------


def test_numbers_reach_the_area_of_the_cord_and_the_report(masks: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = postprocess(masks("lumbar", "thoracic"), out, scheme="nnunet14", numbering=True, snapshots=True)
    assert result.exit_code == 0
    assert numbered(out, "lumbar") == list(LUMBAR)
    assert numbered(out, "thoracic") == []
    cases = {case.name: case.numbered for case in collect(out).cases}
    assert cases == {"lumbar": True, "thoracic": False}
    assert "L3" in report(out).path.read_text()
    assert '"L1 (v20 where not numbered)"' in (out / "instances" / "labels_itksnap.txt").read_text()
    # The canal stands in for the cord, which this spine does not have.
    areas = csa(out, tmp_path / "area.csv", label=12, instances=out / "instances", perlevel=True)
    assert areas.failed["thoracic"].code == "E-CSA-UNNUMBERED"
    names = list(areas.tables["lumbar"].columns()["name"])
    assert [name for name in names if name in LUMBAR] == list(LUMBAR)


def test_what_is_not_known_is_said(masks: Callable[..., Path], tmp_path: Path) -> None:
    result = postprocess(masks("thoracic"), tmp_path / "out", scheme="nnunet14", numbering=True)
    assert [problem.code for problem in result.warnings["thoracic"]] == ["W-NUM-UNKNOWN"]
    assert result.warnings["thoracic"][0].file.endswith("thoracic.nii.gz")


def test_the_first_vertebra_is_believed(masks: Callable[..., Path], tmp_path: Path) -> None:
    folder = masks("thoracic")
    arguments = ["-i", str(folder), "-o", str(tmp_path / "out"), "--scheme", "nnunet14", "--first-vertebra"]
    assert command.main([*arguments, "t6"]) == 0
    assert numbered(tmp_path / "out", "thoracic") == list(THORACIC)
    for wrong in ("T99", "sacrum"):
        assert command.main([*arguments[:3], str(tmp_path / "none"), *arguments[4:], wrong]) == 2
    assert not (tmp_path / "none").exists()
    result = postprocess(masks("lumbar"), tmp_path / "no", scheme="nnunet14", first_vertebra="L4")
    assert result.failed["lumbar"].code == "E-NUM-GIVEN"
    assert Path(result.failed["lumbar"].file).name == "lumbar.nii.gz"


@pytest.mark.parametrize("scheme", ["instances", "verse"])
def test_other_masks_name_levels(
    masks: Callable[..., Path], tmp_path: Path, spines: dict[str, Volume], scheme: str
) -> None:
    _, instances = build(Spine(levels=THORACIC, spacing=COARSE, sacrum=False))
    ids = np.where((instances.array > 0) & (instances.array < 100), instances.array + 12, 0).astype(np.uint8)
    table = mapping("instances", scheme).table if scheme != "instances" else {}
    assert all(table.get(k, k) == k for k in (13, 14, 15, 16))
    # Another grid is no obstacle.
    levels = instances.with_array(ids).crop((slice(1, None), slice(0, None), slice(2, None)))
    write_volume(levels, tmp_path / "levels" / "thoracic.nii.gz")
    postprocess(
        masks("thoracic"), tmp_path / "out", scheme="nnunet14", levels=tmp_path / "levels", levels_scheme=scheme
    )
    assert numbered(tmp_path / "out", "thoracic") == list(THORACIC)


def test_a_scan_of_the_whole_spine_numbers_a_part_of_it(
    masks: Callable[..., Path], tmp_path: Path, spines: dict[str, Volume]
) -> None:
    folder = masks("lumbar")
    postprocess(folder, tmp_path / "whole", scheme="nnunet14", numbering=True)
    # Two vertebrae of it, in scanner coordinates of their own.
    part = spines["lumbar"].crop((slice(0, None), slice(0, None), slice(55, 100)))
    write_volume(part, tmp_path / "part" / "lumbar.nii.gz")
    alone = postprocess(tmp_path / "part", tmp_path / "alone", scheme="nnunet14", numbering=True)
    assert alone.done == ["lumbar"]
    postprocess(tmp_path / "part", tmp_path / "out", scheme="nnunet14", localizer=tmp_path / "whole" / "instances")
    found = numbered(tmp_path / "out", "lumbar")
    whole = read_volume(tmp_path / "whole" / "instances" / "lumbar.nii.gz")
    own = read_volume(tmp_path / "out" / "instances" / "lumbar.nii.gz")
    assert len(found) >= 2
    both = (own.array > 0) & (own.array < 26)
    truth = whole.array[:, :, 55:100]
    assert (truth[both] == own.array[both]).mean() > 0.98


def test_a_localizer_that_lies_elsewhere_is_named(
    masks: Callable[..., Path], tmp_path: Path, spines: dict[str, Volume]
) -> None:
    _, instances = build(Spine(levels=THORACIC, spacing=COARSE, sacrum=False))
    affine = instances.affine.copy()
    affine[0, 3] += 500
    write_volume(Volume(instances.array, affine), tmp_path / "far" / "thoracic.nii.gz")
    result = postprocess(masks("thoracic"), tmp_path / "out", scheme="nnunet14", localizer=tmp_path / "far")
    warning = result.warnings["thoracic"][0]
    assert (warning.code, warning.file) == ("W-NUM-LOCALIZER", str(tmp_path / "far" / "thoracic.nii.gz"))


def test_levels_that_lie_on_no_vertebra_are_named_with_counts(masks: Callable[..., Path], tmp_path: Path) -> None:
    _, instances = build(Spine(levels=THORACIC, spacing=COARSE, sacrum=False))
    ids = np.where((instances.array > 0) & (instances.array < 100), instances.array + 12, 0).astype(np.uint8)
    affine = instances.affine.copy()
    affine[0, 3] += 500
    write_volume(Volume(ids, affine), tmp_path / "levels" / "thoracic.nii.gz")
    out = tmp_path / "out"
    result = postprocess(masks("thoracic"), out, scheme="nnunet14", levels=tmp_path / "levels")
    warning = result.warnings["thoracic"][0]
    assert (warning.code, warning.file) == ("W-NUM-LEVELS", str(tmp_path / "levels" / "thoracic.nii.gz"))
    assert f"{np.count_nonzero(ids)} labelled voxels, which names 0 of" in warning.found
    assert result.exit_code == 0
    said = Journal(out).read()["thoracic"]
    assert (said["status"], [row["code"] for row in said["warnings"]]) == ("done", ["W-NUM-LEVELS", "W-NUM-UNKNOWN"])


def test_label_tables_name_what_the_ids_are(masks: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    tables = [out / "instances" / name for name in ("labels_itksnap.txt", "labels_slicer.ctbl")]
    result = postprocess(masks("thoracic"), out, scheme="nnunet14", numbering=True)
    assert numbered(out, "thoracic") == []
    assert all("v3" in t.read_text() for t in tables)
    assert not any("C3" in t.read_text() for t in tables)
    # Beside a case with levels both are named; who resumes gets the same.
    for resume in (False, True):
        result = postprocess(masks("lumbar"), out, scheme="nnunet14", numbering=True, resume=resume)
        assert result.exit_code == 0
        # Slicer's tables have no spaces in names.
        texts = [t.read_text().replace("_", " ") for t in tables]
        assert all("L1 (v20 where not numbered)" in text for text in texts)
        assert all("disc C3 (disc v3 where not numbered)" in text for text in texts)
        assert '"S1"' in tables[0].read_text()
    for kind in ("*.nii.gz", "instances/*.nii.gz"):
        for file in out.glob(kind):
            if "thoracic" in file.name:
                file.unlink()
    (tmp_path / "masks" / "thoracic.nii.gz").unlink()
    postprocess(masks("lumbar"), out, scheme="nnunet14", numbering=True)
    assert '"L1"' in tables[0].read_text()


def test_anomalies_can_be_ruled_out() -> None:
    options = PhaseOptions(
        enforce=True, settings=("numbering.rules.missing=2", "numbering.min_posterior=0.9")
    ).completed()
    settings = options.numbering_settings()
    assert (settings.rules.enforce, settings.rules.missing, settings.min_posterior) == (True, 2, 0.9)
    assert options.numbering
    assert options.instances


# ---- networks ----------------------------------------------------------------------------------------------------


def numbering_model(folder: Path, inputs: str) -> Path:
    """Write a small classifier with random weights."""
    import torch

    from nnunet_spine_ext.numbering.crops import CropSpec
    from nnunet_spine_ext.numbering.model import NetworkShape, NumberingModel, write_numbering_model

    torch.manual_seed(0)
    spec = CropSpec(size=(16, 16, 8), spacing=(4.0, 4.0, 8.0), inputs=inputs)  # type: ignore[arg-type]
    shape = NetworkShape(width=4, blocks=(1,))
    write_numbering_model(folder, NumberingModel(crop=spec, network=shape), 0, shape.build(spec).state_dict())
    return folder


class Knowing:
    """A classifier that is sure of the four levels."""

    def __init__(self) -> None:
        self.seen: list[Volume | None] = []

    def scores(self, image: Volume | None, instances: Volume, *_: Any) -> VertebraScores:
        self.seen.append(image)
        level = np.full((len(THORACIC), len(LEVELS)), 1e-4)
        level[np.arange(len(THORACIC)), [INDEX[name] for name in THORACIC]] = 1
        return VertebraScores(level / level.sum(axis=1, keepdims=True))


def test_a_classifier_gets_the_image_and_decides(
    masks: Callable[..., Path], tmp_path: Path, spines: dict[str, Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = numbering_model(tmp_path / "model", "image+masks")
    knowing = Knowing()
    monkeypatch.setattr(classifier, "load_classifier", lambda *_, **__: knowing)
    folder, volume = masks("thoracic"), spines["thoracic"]
    with pytest.raises(UsageError, match="E-USE-IMAGES"):
        postprocess(folder, tmp_path / "out", scheme="nnunet14", numbering_model=model)
    image = make_image(tmp_path / "scans" / "thoracic_0000.nii.gz", shape=volume.shape, affine=volume.affine)
    result = postprocess(folder, tmp_path / "out", scheme="nnunet14", numbering_model=model, images=tmp_path / "scans")
    assert result.exit_code == 0
    assert numbered(tmp_path / "out", "thoracic") == list(THORACIC)
    [seen] = knowing.seen
    assert seen is not None
    assert np.array_equal(seen.array, image.array)
    assert read_json(tmp_path / "out" / "run.json")["phase_models"]["numbering"]["folder"] == "model"


def test_real_networks_run_and_decide_about_resume(
    masks: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from nnunet_spine_ext.instances import model as models
    from nnunet_spine_ext.instances.cutouts import CutoutSpec
    from nnunet_spine_ext.instances.model import NetworkShape, load_instance_model, write_instance_model

    loaded = []
    monkeypatch.setattr(models, "load_instance_model", lambda *given: loaded.append(1) or load_instance_model(*given))

    names = numbering_model(tmp_path / "names", "masks")
    spec, shape = CutoutSpec((48, 56, 16), (3.8, 4.0, 6.6)), NetworkShape(8, (1, 1))
    torch.manual_seed(1)
    write_instance_model(tmp_path / "model", spec, shape, {0: shape.build(spec).state_dict()})
    folder = masks("thoracic")

    def run() -> list[str]:
        return postprocess(
            folder,
            tmp_path / "out",
            scheme="nnunet14",
            instance_model=tmp_path / "model",
            numbering_model=names,
            device="cpu",
            resume=True,
        ).done

    assert run() == ["thoracic"]
    assert read_json(tmp_path / "out" / "qc" / "thoracic.json")["method"] == "network"
    assert run() == []
    write_instance_model(tmp_path / "model", spec, shape, {0: shape.build(spec).state_dict()})
    assert run() == ["thoracic"]
    # The new network in the old folder, not the one that this process still holds.
    assert len(loaded) == 2


# ---- the same in prediction --------------------------------------------------------------------------------------


def test_our_prediction_and_stock_prediction_number_as_post_processing_does(
    masks: Callable[..., Path], tmp_path: Path, spines: dict[str, Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_spine_ext.inference import predictor

    mask = spines["lumbar"]
    postprocess(masks("lumbar"), tmp_path / "post", scheme="nnunet14", numbering=True)
    name = "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"
    model = make_model(tmp_path / name, labels=LABELS14, sided=SIDED14, predict={"numbering": True})
    make_image(tmp_path / "in" / "lumbar_0000.nii.gz", shape=(20, 18, 16))
    # Both networks answer with the spine, whatever the image.
    monkeypatch.setattr(managers, "segmentation_volume", lambda *_: mask)
    monkeypatch.setattr(predictor.SpinePredictor, "segment", lambda *_: mask)
    stock_predict(model, [tmp_path / "in" / "lumbar_0000.nii.gz"], tmp_path / "stock")
    predict(tmp_path / "in", tmp_path / "ours", m=model, device="cpu", numbering=True)
    for folder in ("ours", "stock"):
        assert numbered(tmp_path / folder, "lumbar") == list(LUMBAR)
        for file in ("lumbar.nii.gz", "instances/lumbar.nii.gz", "centroids/lumbar.json", "qc/lumbar.json"):
            assert sha256(tmp_path / folder / file) == sha256(tmp_path / "post" / file)

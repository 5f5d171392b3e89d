"""Masks of whole vertebrae: parting them, separating them, from the training of a model to post-processing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spine_builder import Spine, build, panoptic

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_json, read_volume, write_json, write_volume
from nnunet_spine_ext.core.labels import convert_labels
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.inference.postprocess import postprocess
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, SPINOUS
from nnunet_spine_ext.instances.interface import separate
from nnunet_spine_ext.instances.model import write_instance_model
from nnunet_spine_ext.instances.training.run import train_instances
from nnunet_spine_ext.instances.whole import classes_of_whole
from nnunet_spine_ext.measure.centroids import centroids, read_poi

LUMBAR = ("L1", "L2", "L3", "L4", "L5")
SPINES = {
    "lumbar": Spine(levels=LUMBAR, spacing=(2.0, 1.5, 1.5)),
    "sagittal": Spine(levels=("T11", "T12", *LUMBAR), spacing=(3.3, 1.0, 1.0)),
    "scoliosis": Spine(levels=("T10", "T11", "T12", *LUMBAR), spacing=(2.0, 1.5, 1.5), scoliosis=20),
    "touching": Spine(levels=LUMBAR, spacing=(2.0, 1.5, 1.5), gap_mm=0.0),
    "fused": Spine(levels=LUMBAR, spacing=(2.0, 1.5, 1.5), fused=(("L2", "L3"),)),
}
SCHEME = "whole_vertebrae"


def merged(spine: Spine, scheme: str = SCHEME) -> tuple[Volume, Volume, np.ndarray]:
    """Return a mask of whole vertebrae, that of all classes, and true instances without endplates."""
    semantic, instances = build(spine)
    whole = convert_labels(semantic.array, "nnunet14", scheme)
    truth = np.where(instances.array >= 200, 0, instances.array)
    return semantic.with_array(whole), semantic, truth


@pytest.mark.parametrize("name", SPINES)
def test_vertebrae_are_separated_though_their_parts_are_not_told_apart(name: str) -> None:
    mask, _, truth = merged(SPINES[name])
    result = separate(mask, SCHEME)
    assert panoptic(truth, result.instances.array, "vertebra")[2] > 0.95
    assert panoptic(truth, result.instances.array, "disc")[2] > 0.95
    # The mask keeps its own classes; holes are filled with them.
    changed = result.semantic.array != mask.array
    assert not mask.array[changed].any()
    assert changed.mean() < 1e-4
    assert ("W-INST-FUSED" in [w.code for w in result.warnings]) == (name == "fused")


def test_a_scheme_with_a_cord_and_no_canal_will_do() -> None:
    spine = SPINES["lumbar"]
    mask, _, truth = merged(spine, "totalsegmentator_mr")
    assert 21 in mask.array
    result = separate(mask, "totalsegmentator_mr")
    assert panoptic(truth, result.instances.array, "vertebra")[2] > 0.95
    assert 26 in result.instances.array


def test_vertebrae_below_the_end_of_the_cord_are_told_to_be_a_guess() -> None:
    mask, _, truth = merged(SPINES["lumbar"], "totalsegmentator_mr")
    # A cord ends at L1.
    end = np.argwhere(truth == 1)[:, 2].min()
    high = np.arange(mask.shape[2]) >= end
    short = mask.with_array(np.where((mask.array == 21) & ~high, 0, mask.array))
    assert 21 in short.array
    for given, said in ((mask, False), (short, True)):
        result = separate(given, "totalsegmentator_mr")
        warnings = {w.code: w for w in result.warnings}
        assert ("W-INST-CANAL" in warnings) == said
    beyond = result.qc["beyond_canal_mm3"]
    low = np.arange(mask.shape[2]) < end - 20 / mask.spacing[2]
    assert beyond == pytest.approx((mask.array[:, :, low] == 19).sum() * mask.voxel_volume, rel=0.05)
    assert f"{beyond:.0f} mm³" in warnings["W-INST-CANAL"].found


def test_bodies_lie_before_the_canal_and_spinous_processes_behind() -> None:
    mask, semantic, _ = merged(SPINES["scoliosis"])
    classes = classes_of_whole(mask, SCHEME)
    assert classes.same_grid(mask)
    bone = mask.array == 1
    for label, least in ((CORPUS, 0.97), (SPINOUS, 0.7)):
        ours, theirs = classes.array == label, (semantic.array == label) & bone
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > least
    assert not ((classes.array == CORPUS) & np.isin(semantic.array, (3, 8, 9))).any()
    assert (classes.array == ARCUS).any()
    # In any order of the axes.
    turned = classes_of_whole(mask.to("PIR"), SCHEME).to_grid_of(mask)
    assert np.array_equal(turned.array, classes.array)


def test_without_canal_and_cord_nobody_can_tell(tmp_path: Path) -> None:
    mask, _, _ = merged(Spine(levels=("L3", "L4"), spacing=(4.0, 2.0, 2.0)))
    bare = mask.with_array(np.where(np.isin(mask.array, (3, 4)), 0, mask.array))
    with pytest.raises(CaseError) as caught:
        separate(bare, SCHEME)
    assert (caught.value.code, "canal" in caught.value.fix) == ("E-INST-CANAL", True)
    write_volume(bare, tmp_path / "masks" / "bare.nii.gz")
    write_volume(mask, tmp_path / "masks" / "good.nii.gz")
    result = postprocess(tmp_path / "masks", tmp_path / "out", scheme=SCHEME)
    assert (result.exit_code, result.done) == (3, ["good"])
    error = Journal(tmp_path / "out").read()["bare"]["error"]
    assert (error["code"], Path(error["file"]).name) == ("E-INST-CANAL", "bare.nii.gz")
    # A rehearsal knows it, too.
    assert list(postprocess(tmp_path / "masks", tmp_path / "dry", scheme=SCHEME, dry_run=True).failed) == ["bare"]
    # Nothing to part is no fault.
    assert separate(bare.with_array(np.where(bare.array == 1, 0, bare.array)), SCHEME).qc["vertebrae"] == 0


# The whole way


def dataset(raw: Path, count: int = 2) -> Path:
    """Write a dataset as the converter of SPIDER does: three classes, instances beside them."""
    cases = []
    for k in range(count):
        spine = Spine(levels=("L3", "L4", "L5"), spacing=(3.0, 3.0, 3.0), lordosis=8 + 2 * k, sacrum=False)
        mask, _, _ = merged(spine)
        _, instances = build(spine)
        whole = mask.with_array(np.where(mask.array <= 3, mask.array, 3))
        cases.append(RawCase(f"c{k}", f"s{k}", [mask.with_array(mask.array.astype(np.float32))], whole, instances))
    spec = DatasetSpec(8, "Whole", {0: "T2w"}, {"vertebra": 1, "disc": 2, "canal": 3}, SCHEME)
    return write_raw_dataset(raw, spec, cases, folds=2)


def train(folder: Path, **options: Any) -> Path:
    """Train a tiny network on it."""
    tiny = (
        "cutout.size=[24, 32, 16]", "cutout.spacing=[5, 5, 6]", "network.width=2", "network.multipliers=[1, 2]",
        "epochs=1", "cutouts_per_epoch=2", "validation_cutouts=2", "fusion_cases=1", "cutout.encoding=body",
    )  # fmt: skip
    return train_instances(str(folder), preset="cpu", assignments=tiny, device="cpu", **options).folder


def test_from_a_dataset_like_spiders_to_numbered_vertebrae(nnunet_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = dataset(nnunet_folders["nnUNet_raw"])
    model = train(folder)
    scores = json.loads((model / "training" / "fold_0" / "result.json").read_text())["fusion"]
    assert scores["pq_without"] > 0.95
    assert list(scores["cases"]) == ["c0"] or list(scores["cases"]) == ["c1"]
    masks, out = folder / "labelsTr", tmp_path / "out"
    write_json(masks / "dataset.json", read_json(folder / "dataset.json"))
    result = postprocess(masks, out, instance_model=model, first_vertebra="L3", snapshots=True, bids=True)
    assert (result.exit_code, result.done) == (0, ["c0", "c1"])
    qc = read_json(out / "qc" / "c0.json")
    assert (qc["method"], list(qc["levels"].values())) == ("network", ["L3", "L4", "L5"])
    instances = read_volume(out / "instances" / "c0.nii.gz")
    assert {22, 23, 24} <= set(np.unique(instances.array))
    assert read_json(out / "dataset.json")["spine_ext"]["scheme"] == SCHEME
    # A vertebra's point is the centre of its body, not of all of it.
    points, _ = read_poi(out / "centroids" / "c0.json")
    everything = centroids(instances)
    front = next(i for i, letter in enumerate(instances.orientation) if letter in "AP")
    ahead = (points[23][front] - everything[23][front]) * (1 if "A" in instances.orientation else -1)
    assert ahead * instances.spacing[front] > 5


def test_the_scheme_is_known_by_the_names_of_the_classes(tmp_path: Path) -> None:
    mask, _, _ = merged(Spine(levels=("L3", "L4", "L5"), spacing=(4.0, 2.0, 2.0)))
    masks = tmp_path / "masks"
    write_volume(mask.with_array(np.where(mask.array > 3, 0, mask.array)), masks / "a.nii.gz")
    # A model that was trained on a dataset of SPIDER before the scheme had a name, or with another ignore label.
    named = {"background": 0, "vertebra": 1, "disc": 2, "canal": 3, "ignore": 4}
    for own in ({"spine_ext": {"scheme": "custom"}}, {}):
        write_json(masks / "dataset.json", {"labels": named, **own})
        result = postprocess(masks, tmp_path / "out", dry_run=True)
        assert f"scheme {SCHEME}" in result.title
    write_json(masks / "dataset.json", {"labels": {"background": 0, "vertebra": 2, "disc": 1, "canal": 3}})
    with pytest.raises(UsageError, match=f"known to {SCHEME}") as caught:
        postprocess(masks, tmp_path / "out")
    assert caught.value.code == "E-POST-SCHEME"


def test_ignored_voxels_are_no_cord(tmp_path: Path) -> None:
    mask, _, _ = merged(Spine(levels=("L3", "L4", "L5"), spacing=(4.0, 2.0, 2.0)))
    array = np.where(mask.array > 3, 0, mask.array)
    # Partly visible vertebrae of SPIDER: the uppermost one.
    top = np.argwhere(array == 1)[:, 2].max() - 12
    array[:, :, top:] = np.where(array[:, :, top:] == 1, 4, array[:, :, top:])
    masks, out = tmp_path / "masks", tmp_path / "out"
    write_volume(mask.with_array(array), masks / "a.nii.gz")
    write_volume(mask.with_array(np.where(array == 4, 0, array)), masks / "b.nii.gz")
    named = {"background": 0, "vertebra": 1, "disc": 2, "canal": 3, "ignore": 4}
    write_json(masks / "dataset.json", {"labels": named})
    result = postprocess(masks, out)
    assert (result.exit_code, result.done) == (0, ["a", "b"])
    warnings = [w for w in result.warnings["a"] if w.code == "W-POST-IGNORED"]
    assert f"{(array == 4).sum()} ignored voxels (id 4" in warnings[0].found
    assert "b" not in result.warnings
    for folder in (out, out / "instances"):
        found = [read_volume(folder / f"{name}.nii.gz").array for name in "ab"]
        np.testing.assert_array_equal(*found)
        assert not (found[0][array == 4]).any()
    # Without an ignore label 4 is the cord.
    del named["ignore"]
    write_json(masks / "dataset.json", {"labels": named | {"cord": 4}, "spine_ext": {"scheme": SCHEME}})
    assert "W-POST-IGNORED" not in [w.code for w in postprocess(masks, out, dry_run=True).warnings.get("a", [])]


def test_a_model_of_arches_and_processes_is_refused(tmp_path: Path) -> None:
    from test_instances_model import SMALL as SPEC
    from test_instances_model import TINY, tiny_weights

    mask, _, _ = merged(Spine(levels=("L3",), spacing=(4.0, 2.0, 2.0)))
    write_volume(mask, tmp_path / "m" / "a.nii.gz")
    write_instance_model(tmp_path / "model", SPEC, TINY, {0: tiny_weights()}, {})
    with pytest.raises(UsageError, match="encoding body") as caught:
        postprocess(tmp_path / "m", tmp_path / "out", scheme=SCHEME, instance_model=tmp_path / "model")
    assert caught.value.code == "E-INST-ENCODING"


def test_a_real_lumbar_mask_with_its_parts_merged(test_data: Path) -> None:
    place = next(path for path in test_data.rglob("semantic/ref.nii.gz"))
    semantic, instances = read_volume(place), read_volume(place.parent.parent / "matched_instance" / "ref.nii.gz")
    whole = convert_labels(semantic.array, "spineps", SCHEME)
    truth = np.where((instances.array < 100) & (whole == 1), instances.array, 0)
    found = separate(semantic.with_array(whole), SCHEME).instances.array
    assert panoptic(truth, np.where(whole == 1, found, 0), "vertebra")[2] > 0.99

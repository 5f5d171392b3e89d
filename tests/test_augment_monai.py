"""The dictionary transforms in MONAI's own pipelines: files, crops, loaders with workers, batches, records."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from augment_checks import DispatchCounter
from house import ROOT
from torch import Tensor

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.transform import registry
from nnunet_spine_ext.core.errors import UsageError

pytest.importorskip("monai", reason="MONAI is not installed: pip install 'nnunet-spine-ext[monai]'")

from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandCropByPosNegLabeld,
    RandSpatialCropd,
)
from torch.utils.data import DataLoader as PlainLoader

import nnunet_spine_ext.augment.monai as facade
from nnunet_spine_ext.augment.adapting import CACHED
from nnunet_spine_ext.augment.monai import (
    RandSpineElasticd,
    RandSpineGammaBatchd,
    RandSpineGammad,
    SpineAugmentBatchd,
    SpineAugmentd,
    monai_transform,
)

BOTH = ["image", "label"]
CASES = ["sub-01", "sub-02", "sub-03", "sub-04"]
SPACING = (3.3, 0.8, 0.9)
CROP = (8, 16, 16)
GAMMA = {"transforms": [{"name": "gamma", "p": 1.0}]}
NOISE = {"transforms": [{"name": "rician_noise", "p": 1.0, "sigma": [0.02, 0.08]}]}
ROTATE = {"transforms": [{"name": "rotate", "p": 1.0, "degrees": [15, 25]}]}


def affine_of(spacing: tuple[float, ...] = SPACING, left_right: int = 0) -> np.ndarray:
    """Return an affine whose array axis `left_right` runs to the left."""
    matrix = np.eye(4)
    directions = np.roll(np.diag([-1.0, 1.0, 1.0]), left_right, axis=1)
    matrix[:3, :3] = directions * np.array(spacing)
    matrix[:3, 3] = (12.0, -7.0, 40.0)
    return matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for case in CASES:
        labels = rng.integers(0, 15, (6, 5, 6)).repeat(3, 0).repeat(7, 1).repeat(6, 2).astype(np.uint8)
        image = (labels * 40 + rng.integers(0, 30, labels.shape)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, affine_of()), root / f"{case}_T2w.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine_of()), root / f"{case}_seg.nii.gz")
    return root


def files(folder: Path) -> list[dict[str, str]]:
    return [
        {"case": case, "image": str(folder / f"{case}_T2w.nii.gz"), "label": str(folder / f"{case}_seg.nii.gz")}
        for case in CASES
    ]


def loaded() -> list[Any]:
    return [LoadImaged(BOTH), EnsureChannelFirstd(BOTH)]


def made(config: Any = "shift", cls: Any = SpineAugmentd, **options: Any) -> Any:
    return cls("image", "label", config, **{"labels": range(15), "seed": 3, **options}).set_random_state(7)


def sample(shape: tuple[int, ...] = CROP, channels: int = 1, seed: int = 1, left_right: int = 0) -> dict[str, Any]:
    noise = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 15, (1, *shape), generator=noise)
    images = labels / 15 + 0.05 * torch.randn((channels, *shape), generator=noise)
    affine = torch.as_tensor(affine_of(left_right=left_right))
    return {
        "case": f"case{seed}",
        "image": MetaTensor(images, affine=affine, meta={"patch_index": 0}),
        "label": MetaTensor(labels, affine=affine),
    }


def collated(count: int = 3) -> dict[str, Any]:
    return list_data_collate([sample(seed=seed) for seed in range(count)])


def fired(record: str) -> list[str]:
    return [item["name"] for item in json.loads(record)["samples"][0]["transforms"]]


def plain(data: Any) -> Tensor:
    return data.as_tensor() if isinstance(data, MetaTensor) else data


# --- in pipelines


@pytest.mark.parametrize("workers", [0, 2])
def test_from_files_to_batches(folder: Path, workers: int) -> None:
    augment = made("shift", case_key="case", record_key="record", epochs=10)
    chain = Compose([*loaded(), RandSpatialCropd(BOTH, roi_size=CROP, random_size=False), augment])
    loader = DataLoader(Dataset(files(folder), chain), batch_size=2, num_workers=workers)
    augment.set_epoch(8)
    batches = list(loader)
    assert len(batches) == 2
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (2, 1, *CROP)
        assert batch["image"].dtype == torch.float32
        assert batch["image"].isfinite().all()
        np.testing.assert_allclose(batch["image"].affine[:, :3, :3], np.stack([affine_of()[:3, :3]] * 2), atol=1e-5)
        contexts = [json.loads(record)["context"] for record in batch["record"]]
        np.testing.assert_allclose([context["spacing"] for context in contexts], [SPACING] * 2, rtol=1e-4)
        assert [json.loads(record)["samples"][0]["key"]["case"] for record in batch["record"]] == batch["case"]


def test_workers_and_order_change_nothing(folder: Path) -> None:
    augment = made("shift", case_key="case")
    augment.set_epoch(30)
    chain = Compose([*loaded(), CenterSpatialCropd(BOTH, CROP), augment])
    results = []
    for items, workers, size in ((files(folder), 0, 1), (files(folder)[::-1], 2, 2)):
        loader = DataLoader(Dataset(items, chain), batch_size=size, num_workers=workers)
        results.append({case: image for b in loader for case, image in zip(b["case"], plain(b["image"]), strict=True)})
    assert sorted(results[0]) == sorted(results[1]) == CASES
    for case in CASES:
        assert torch.equal(results[0][case], results[1][case])


def test_workers_that_live_through_all_epochs_learn_the_epoch() -> None:
    augment = made(NOISE, case_key="case")
    items = [sample(seed=seed) for seed in range(4)]
    loader = DataLoader(Dataset(items, augment), batch_size=4, num_workers=2, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 0):
        augment.set_epoch(epoch)
        seen.append(torch.cat([plain(batch["image"]) for batch in loader]))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("loader", [DataLoader, PlainLoader], ids=["MONAI", "torch"])
def test_no_two_workers_draw_the_same(loader: Any) -> None:
    # With the loader of torch nobody seeds the copies of the transform that the workers get.
    items = [{"image": sample()["image"]} for _ in range(8)]
    augment = SpineAugmentd("image", config=NOISE)
    augment.set_random_state(1)
    batches = loader(Dataset(items, augment), batch_size=1, num_workers=2, collate_fn=list_data_collate)
    images = [plain(batch["image"]) for batch in batches]
    assert not any(torch.equal(one, two) for i, one in enumerate(images) for two in images[:i])


def test_the_random_state_decides_without_case_keys() -> None:
    augment = made(NOISE)
    first, second, third = (augment.set_random_state(seed)(sample())["image"] for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert not torch.equal(third, augment(sample())["image"])
    inside = Compose([made(NOISE)]).set_random_state(5)
    assert torch.equal(inside(sample())["image"], Compose([made(NOISE)]).set_random_state(5)(sample())["image"])


def test_crops_of_one_case_are_augmented_differently(folder: Path) -> None:
    augment = made(NOISE, case_key="case", record_key="record")
    augment.set_epoch(0)
    crops = RandCropByPosNegLabeld(BOTH, "label", CROP, num_samples=3)
    chain = Compose([*loaded(), crops, augment])
    draws = [json.loads(s["record"])["samples"][0]["key"]["draw"] for s in chain(files(folder)[0])]
    assert draws == [0, 1, 2]
    named = made(NOISE, case_key="case", draw_key="number", record_key="record")
    named.set_epoch(0)
    assert json.loads(named({**sample(), "number": 7})["record"])["samples"][0]["key"]["draw"] == 7


def test_it_can_be_pickled_and_copies_do_the_same() -> None:
    augment = made("shift", case_key="case")
    augment.set_epoch(25)
    augment(sample())
    copy = pickle.loads(pickle.dumps(augment))
    assert copy.epoch == 25
    assert torch.equal(copy(sample())["image"], augment(sample())["image"])


def test_spawned_workers_get_single_transforms() -> None:
    augment = RandSpineGammad("image", prob=1.0, case_key="case")
    augment.set_epoch(1)
    loader = DataLoader(Dataset([sample()], augment), batch_size=1, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(plain(next(iter(loader))["image"])[0], plain(augment(sample())["image"]))


# --- what comes out


def test_it_does_what_the_pipeline_does() -> None:
    data = sample(channels=2)
    before = {key: plain(data[key]).clone() for key in BOTH}
    augment = made("shift", case_key="case", outside=-1)
    augment.set_epoch(30)
    result = augment(data)
    pipeline = Pipeline("shift", Context(CROP, SPACING, channels=2, labels=range(15)))
    expected, labels = pipeline(before["image"][None], before["label"][None], [SampleKey(3, "case1", 30, 0)])
    assert torch.equal(plain(result["image"]), expected[0])
    assert labels is not None
    assert torch.equal(plain(result["label"]), labels[0])
    assert all(torch.equal(plain(data[key]), before[key]) for key in BOTH)


def test_metadata_affine_and_history_are_kept(folder: Path) -> None:
    data = Compose([*loaded(), CenterSpatialCropd(BOTH, CROP)])(files(folder)[0])
    result = made(ROTATE)(data)
    for key in BOTH:
        assert isinstance(result[key], MetaTensor)
        assert torch.equal(result[key].affine, data[key].affine)
        assert result[key].meta["filename_or_obj"] == data[key].meta["filename_or_obj"]
        assert result[key].applied_operations == data[key].applied_operations
        assert result[key].dtype == data[key].dtype
        assert not torch.equal(result[key], data[key])
    assert result["case"] == "sub-01"


@pytest.mark.parametrize("shape", [(20, 18), (1, 16, 16), (16, 16, 1)], ids=str)
def test_planes_and_single_slices(shape: tuple[int, ...]) -> None:
    data = sample(shape)
    result = made("shift", record_key="record")(data)
    assert result["image"].shape == data["image"].shape
    assert result["image"].isfinite().all()
    spacing = json.loads(result["record"])["context"]["spacing"]
    np.testing.assert_allclose(spacing, SPACING[: len(shape)], rtol=1e-4)


def test_arrays_and_integers_become_tensors_of_float32() -> None:
    data = {"image": np.arange(8 * 8 * 8, dtype=np.int16).reshape(1, 8, 8, 8)}
    result = SpineAugmentd("image", config=GAMMA, pixdim=(1, 1, 1))(data)
    assert isinstance(result["image"], Tensor)
    assert not isinstance(result["image"], MetaTensor)
    assert result["image"].dtype == torch.float32
    assert SpineAugmentd("image", config="none", pixdim=(1, 1, 1))(data)["image"].dtype == torch.float32


def test_labels_keep_their_type_and_outside_is_what_is_asked_for() -> None:
    data = sample()
    data["label"] = data["label"].to(torch.uint8)
    assert made(ROTATE)(data)["label"].dtype == torch.uint8
    apart = made(ROTATE, outside=-1)(data)["label"]
    assert apart.dtype == torch.int16
    assert (apart == -1).any()
    still = made(ROTATE, outside=-1, prob=0.0)(data)["label"]
    assert still.dtype == torch.int16, "whether something fires must not change the type: batches could not be made"
    data["label"] = torch.full((1, *CROP), -1)
    assert (made(ROTATE)(data)["label"] == 0).all()


def test_several_images_move_together() -> None:
    data = sample()
    data["t1"] = 2 * data["image"].half()
    data["both"] = MetaTensor(torch.cat([plain(data["image"])] * 2), affine=data["image"].affine)
    result = SpineAugmentd(["image", "t1", "both"], config=ROTATE, record_key="record")(data)
    assert result["both"].shape == (2, *CROP)
    assert [result[key].dtype for key in ("image", "t1")] == [torch.float32, torch.float16]
    torch.testing.assert_close(plain(result["t1"]).float(), 2 * plain(result["image"]), rtol=2e-3, atol=5e-3)
    assert torch.equal(result["both"][0], result["both"][1])
    assert json.loads(result["record"])["context"]["channels"] == 4


def test_missing_keys_may_be_allowed() -> None:
    data = {"image": sample()["image"], "case": "x"}
    assert "label" not in made(GAMMA, allow_missing_keys=True)(data)
    assert made(GAMMA, allow_missing_keys=True)({"case": "x"}) == {"case": "x"}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_between_the_sides_is_read_from_the_affine(axis: int) -> None:
    data = sample(left_right=axis)
    data["image"].affine = data["label"].affine = torch.as_tensor(affine_of((0.8, 0.8, 0.8), axis))
    flip = {"transforms": [{"name": "flip", "axes": [1], "axis_p": 1.0}]}
    result = made(flip, sided_pairs=[(1, 2)])(data)["label"]
    exchanged = torch.tensor([0, 2, 1, *range(3, 15)])[plain(data["label"])]
    expected = exchanged if axis == 1 else plain(data["label"])
    assert torch.equal(plain(result), expected.flip(2))


def test_prob_counts_samples() -> None:
    augment = made(GAMMA, SpineAugmentBatchd, prob=0.3, record_key="record")
    counts = [len(fired(r)) for _ in range(100) for r in augment(collated())["record"]]
    assert 0.2 < np.mean(counts) < 0.4
    assert torch.equal(made(GAMMA, prob=0.0)(sample())["image"], sample()["image"])


def test_few_pipelines_are_kept() -> None:
    augment = made("none")
    for size in range(4, 4 + CACHED + 4):
        augment(sample((4, 5, size)))
    assert len(augment._pipelines) == CACHED


# --- batches


def test_a_batch_gives_what_its_samples_give() -> None:
    one, many = made("shift", case_key="case"), made("shift", SpineAugmentBatchd, case_key="case")
    one.set_epoch(30)
    many.set_epoch(30)
    batch = many(collated())
    assert isinstance(batch["image"], MetaTensor)
    assert batch["image"].affine.shape == (3, 4, 4)
    for index in range(3):
        expected = one(sample(seed=index))
        torch.testing.assert_close(plain(batch["image"])[index], plain(expected["image"]), rtol=1e-5, atol=2e-5)
        assert torch.equal(plain(batch["label"])[index], plain(expected["label"]))


def test_samples_of_a_batch_have_their_own_spacing() -> None:
    first, second = sample(seed=1), sample(seed=2)
    for key in BOTH:
        second[key].affine = torch.as_tensor(affine_of((2.0, 2.0, 2.0)))
    augment = made(GAMMA, SpineAugmentBatchd, case_key="case", record_key="record")
    augment.set_epoch(0)
    batch = augment(list_data_collate([first, second, first]))
    spacings = [json.loads(record)["context"]["spacing"] for record in batch["record"]]
    np.testing.assert_allclose(spacings, [SPACING, (2.0, 2.0, 2.0), SPACING], rtol=1e-4)
    draws = [json.loads(record)["samples"][0]["key"]["draw"] for record in batch["record"]]
    assert draws == [0, 0, 1], "a case that comes twice in an epoch is augmented differently"
    assert not torch.equal(batch["image"][0], batch["image"][2])


def test_records_replay() -> None:
    one = made("shift", record_key="record")
    result = one(sample())
    again = made("none").replay(sample(), result["record"])
    assert torch.equal(again["image"], result["image"])
    assert torch.equal(again["label"], result["label"])
    many = made("shift", SpineAugmentBatchd, record_key="record", prob=0.6)
    batch = many(collated(8))
    assert 0 < sum(fired(record) == [] for record in batch["record"]) < 8
    again = many.replay(collated(8), [json.loads(record) for record in batch["record"]])
    assert torch.equal(plain(again["image"]), plain(batch["image"]))
    assert torch.equal(plain(again["label"]), plain(batch["label"]))
    with pytest.raises(UsageError, match="E-AUG-RECORD"):
        many.replay(collated(8), batch["record"][:2])
    with pytest.raises(UsageError, match="E-AUG-RECORD"):
        one.replay(sample(), {"version": 9, "samples": []})


def test_the_host_does_not_wait_for_the_device() -> None:
    augment = made("shift", SpineAugmentBatchd, check=False, prob=0.7)
    batch = collated()
    augment(batch)
    with DispatchCounter(batch["image"].numel()) as counter:
        for _ in range(10):
            augment(batch)
    assert not counter.syncs, dict(counter.syncs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_graphics_card() -> None:
    batch = {key: value.cuda() if key in BOTH else value for key, value in collated().items()}
    augment = made("shift", SpineAugmentBatchd, case_key="case")
    augment.set_epoch(30)
    expected = augment(collated())
    augment.set_epoch(30)
    augment(batch)
    augment.set_epoch(30)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        result = augment(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result["image"].is_cuda
    torch.testing.assert_close(plain(result["image"]).cpu(), plain(expected["image"]), rtol=1e-3, atol=1e-3)


# --- single transforms


@pytest.mark.parametrize("name", list(registry()))
def test_every_transform_has_its_own_class(name: str) -> None:
    cls = registry()[name]
    single = getattr(facade, f"RandSpine{cls.__name__}d")
    many = getattr(facade, f"RandSpine{cls.__name__}Batchd")
    assert {single.__name__, many.__name__} <= set(dir(facade))
    assert (cls.__doc__ or "").splitlines()[0] in single.__doc__
    settings = {item.name for item in dataclasses.fields(cls)} - {"p"}
    options = set(inspect.signature(SpineAugmentd).parameters)
    assert not settings & options, "a setting and an option of the same name"
    assert set(inspect.signature(single).parameters) == settings | options - {"config"}
    assert single("image").prob == cls().p
    transform = monai_transform(name, "image", "label", 1.0, labels=range(15), record_key="record")
    assert type(transform) is type(pickle.loads(pickle.dumps(transform))) is single
    for shape in (CROP, (16, 18)):
        result = transform(sample(shape))
        assert fired(result["record"]) == [name]
        assert result["image"].isfinite().all()
    result = monai_transform(name, "image", "label", 1.0, labels=range(15), batched=True)(collated())
    assert result["image"].shape == (3, 1, *CROP)


def test_settings_reach_the_transform() -> None:
    low, high = (
        RandSpineGammad("image", prob=1.0, gamma=(value, value), record_key="record")(sample()) for value in (0.5, 2.0)
    )
    params = [json.loads(r["record"])["samples"][0]["transforms"][0]["params"]["gamma"] for r in (low, high)]
    assert params == [0.5, 2.0]
    assert low["image"].mean() != high["image"].mean()
    # `spacing` is a setting of this one; that of voxels is called pixdim.
    assert RandSpineElasticd("image", prob=1.0, spacing=(20, 30), pixdim=(1, 1, 1))(sample())["image"].isfinite().all()


def test_single_transforms_of_a_chain_fire_independently() -> None:
    chain = [monai_transform(name, "image", prob=0.5, case_key="case", record_key=name) for name in ("gamma", "blur")]
    pairs = set()
    for epoch in range(24):
        data: Any = sample()
        for transform in chain:
            transform.set_epoch(epoch)
            data = transform(data)
        pairs.add((bool(fired(data["gamma"])), bool(fired(data["blur"]))))
    assert len(pairs) == 4


# --- bad input


def _changed(key: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    data = sample()
    return {**data, key: change(data[key])}


def _beside(label: MetaTensor) -> MetaTensor:
    moved = label.clone()
    moved.affine[0, 3] += 2.0
    return moved


def _nan(image: MetaTensor) -> MetaTensor:
    image[0, 3, 3, 3] = float("nan")
    return image


BAD: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "unknown key": ("E-AUG-KEY", "'image'", lambda: SpineAugmentd("imaeg", config=GAMMA)(sample())),
    "no label": ("E-AUG-KEY", "'label'", lambda: made(GAMMA)({"image": sample()["image"]})),
    "no spacing": ("E-AUG-SPACING", "give pixdim", lambda: made(GAMMA)({k: plain(v) for k, v in sample().items()})),
    "default affine": ("E-AUG-SPACING", "identity", lambda: made()(_changed("image", lambda x: MetaTensor(plain(x))))),
    "no label ids": ("E-AUG-LABELS", "labels=range", lambda: made(labels=None)),
    "label on another grid": ("E-AUG-GRID", "resample", lambda: made()(_changed("label", lambda x: x[:, 1:]))),
    "label beside": ("E-AUG-GRID", "2 mm beside", lambda: made()(_changed("label", _beside))),
    "image on another grid": (
        "E-AUG-GRID", "(8, 16, 16)",
        lambda: SpineAugmentd(["image", "t1"], config=GAMMA)({**sample(), "t1": sample((8, 16, 15))["image"]}),
    ),
    "no channel axis": ("E-AUG-SHAPE", "EnsureChannelFirstd", lambda: made()(_changed("image", lambda x: x[0, 0]))),
    "a batch as a sample": ("E-AUG-SHAPE", "(C, Z, Y, X)", lambda: made()(collated())),
    "complex": ("E-AUG-INPUT", "abs()", lambda: made()(_changed("image", lambda x: x.cfloat()))),
    "NaN": ("E-AUG-INPUT", "1 voxels that are NaN", lambda: made()(_changed("image", _nan))),
    "probabilities": ("E-AUG-INPUT", "not probabilities", lambda: made()(_changed("label", lambda x: x / 7))),
    "a text": ("E-AUG-INPUT", "a str", lambda: made()(_changed("image", lambda x: "scan.nii.gz"))),
    "no epoch": ("E-AUG-EPOCH", "set_epoch", lambda: made(case_key="case")(sample())),
    "no such case key": ("E-AUG-KEY", "'case'", lambda: _told(made(case_key="cas"))(sample())),
    "sides without affine": (
        "E-AUG-CONTEXT", "left_right_axis",
        lambda: made(sided_pairs=[(1, 2)], pixdim=(1, 1, 1))({k: plain(v) for k, v in sample().items()}),
    ),
    "spacing of another dimension": ("E-AUG-CONTEXT", "3 positive", lambda: made(pixdim=(1, 1))(sample())),
    "unknown preset": ("E-CONFIG-VALUE", "'shift'", lambda: made("shiftt")),
    "unknown setting": ("E-CONFIG-KEY", "'gamma'", lambda: RandSpineGammad("image", gama=2)),
    "p for prob": ("E-CONFIG-KEY", "say prob", lambda: RandSpineGammaBatchd("image", p=0.3)),
    "impossible range": ("E-CONFIG-RANGE", "lower bound", lambda: RandSpineGammad("image", gamma=(2, 1))),
    "unknown transform": ("E-AUG-NAME", "'gamma'", lambda: monai_transform("gama", "image")),
}  # fmt: skip


def _told(augment: Any) -> Any:
    augment.set_epoch(0)
    return augment


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    code, said, call = BAD[name]
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code
    assert said in str(caught.value)


def test_unknown_names_of_the_module_are_named() -> None:
    with pytest.raises(AttributeError, match="did you mean 'RandSpineGammad'"):
        facade.RandSpineGamad  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute"):
        facade.anything  # noqa: B018


def test_within_a_chain_the_error_is_the_cause() -> None:
    with pytest.raises(RuntimeError) as caught:
        Compose([SpineAugmentd("t2", config=GAMMA)])(sample())
    assert isinstance(caught.value.__cause__, UsageError)


def test_unchecked_nan_stays_in_its_sample() -> None:
    batch = collated()
    batch["image"][1, 0, 2, 2, 2] = float("nan")
    result = made(GAMMA, SpineAugmentBatchd, check=False)(batch)
    assert [bool(plain(image).isfinite().all()) for image in result["image"]] == [True, False, True]


# --- the documentation


def test_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    page = (ROOT / "docs" / "how-to" / "augment-elsewhere.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "augment-elsewhere.md", "exec"), names)  # noqa: S102
    copies = sorted(folder.glob("sub-01_copy-*_T2w.nii.gz"))
    assert len(copies) == 10
    assert len({nibabel.load(path).get_fdata().tobytes() for path in copies}) > 2
    np.testing.assert_allclose(nibabel.load(copies[0]).affine, affine_of(), atol=1e-5)

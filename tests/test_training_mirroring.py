"""Mirroring in training: sided labels change places exactly when the left-right axis was mirrored."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from model_builder import SIDED14
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_spine_ext.training.mirroring import SidedMirrorTransform, replace_mirroring, sided_labels

PAIRS = [(4, 5), (6, 7), (8, 9)]
SWAP = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


@pytest.fixture
def segmentation() -> torch.Tensor:
    return torch.randint(-1, 16, (1, 6, 7, 8), dtype=torch.int16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("axes", [list(a) for n in range(4) for a in itertools.combinations((0, 1, 2), n)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_change_sides_only_with_the_left_right_axis(
    segmentation: torch.Tensor, axes: list[int], axis: int
) -> None:
    transform = SidedMirrorTransform((0, 1, 2), axis, PAIRS)
    before = segmentation.clone()
    result = transform._apply_to_segmentation(segmentation, axes=axes)
    expected = before.flip([a + 1 for a in axes])
    if axis in axes:
        expected = expected.clone().apply_(lambda label: SWAP.get(int(label), int(label)))
    assert torch.equal(result, expected)
    assert result.dtype == before.dtype
    assert torch.equal(segmentation, before), "nnU-Net's cached patch must not change"


def test_twice_the_same_mirror_is_no_mirror(segmentation: torch.Tensor) -> None:
    transform = SidedMirrorTransform((0, 1, 2), 2, PAIRS)
    once = transform._apply_to_segmentation(segmentation, axes=[1, 2])
    assert torch.equal(transform._apply_to_segmentation(once, axes=[1, 2]), segmentation)


def test_image_and_labels_take_the_same_axes(segmentation: torch.Tensor) -> None:
    transform = SidedMirrorTransform((0, 1, 2), 2, PAIRS)
    # Each voxel of the image carries its label, so both must agree after any mirror.
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        result = transform(image=segmentation.float().clone(), segmentation=segmentation.clone())
        swapped = not torch.equal(result["image"].short(), result["segmentation"])
        undone = result["segmentation"].clone()
        if swapped:
            undone.apply_(lambda label: SWAP.get(int(label), int(label)))
        assert torch.equal(result["image"].short(), undone)
        seen.add(swapped)
    assert seen == {False, True}


def test_draws_are_those_of_nnunets_mirroring() -> None:
    data = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    results = []
    for transform in (MirrorTransform((0, 2)), SidedMirrorTransform((0, 2), 2, PAIRS)):
        torch.manual_seed(11)
        results.append([transform(image=data)["image"] for _ in range(10)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_it_pickles(segmentation: torch.Tensor) -> None:
    transform = pickle.loads(pickle.dumps(SidedMirrorTransform((0, 1, 2), 2, PAIRS)))
    assert torch.equal(
        transform._apply_to_segmentation(segmentation, axes=[2]),
        SidedMirrorTransform((0, 1, 2), 2, PAIRS)._apply_to_segmentation(segmentation, axes=[2]),
    )


def nnunets_chain(
    patch: tuple[int, ...], axes: tuple[int, ...] | None, *, dummy_2d: bool = False, **kwargs: Any
) -> Any:
    return nnUNetTrainer.get_training_transforms(
        patch, (-0.5, 0.5), [[1.0] * len(patch), [0.5] * len(patch)], axes, dummy_2d, **kwargs
    )


@pytest.mark.parametrize(
    ("patch", "axes", "dummy_2d", "kwargs"),
    [
        ((16, 16, 16), (0, 1, 2), False, {}),
        ((4, 16, 16), (0, 1, 2), True, {}),
        ((16, 16), (0, 1), False, {}),
        ((16, 16, 16), (0, 1, 2), False, {"use_mask_for_norm": [True], "regions": [(4, 5), 6], "ignore_label": 15}),
        ((16, 16, 16), (0, 1, 2), False, {"is_cascaded": True, "foreground_labels": [4, 5, 6]}),
    ],
    ids=["3d", "dummy-2d", "2d", "regions", "cascade"],
)
def test_it_takes_the_place_of_mirroring_in_nnunets_chain(
    patch: tuple[int, ...], axes: tuple[int, ...], dummy_2d: bool, kwargs: dict[str, Any]
) -> None:
    stock = nnunets_chain(patch, axes, dummy_2d=dummy_2d, **kwargs)
    sided = replace_mirroring(stock, len(patch) - 1, PAIRS)
    places = [k for k, t in enumerate(stock.transforms) if isinstance(t, MirrorTransform)]
    assert len(places) == 1
    for k, (old, new) in enumerate(zip(stock.transforms, sided.transforms, strict=True)):
        if k == places[0]:
            assert isinstance(new, SidedMirrorTransform)
            assert (new.allowed_axes, new.axis, new.pairs) == (axes, len(patch) - 1, PAIRS)
        else:
            assert new is old
    pickle.loads(pickle.dumps(sided))
    if not kwargs.get("is_cascaded"):
        label = torch.zeros((1, *patch), dtype=torch.int16)
        label[..., : patch[-1] // 2] = 4
        result = sided(image=torch.randn(1, *patch), segmentation=label)
        assert len(result["segmentation"]) == 2, "one target per level of deep supervision"


def test_a_chain_without_mirroring_stays_as_it_is() -> None:
    stock = nnunets_chain((16, 16, 16), None)
    assert replace_mirroring(stock, 2, PAIRS).transforms == stock.transforms


def test_sides_come_from_dataset_json() -> None:
    assert sided_labels({}) == []
    assert sided_labels({"spine_ext": {"sided_labels": SIDED14}}) == PAIRS

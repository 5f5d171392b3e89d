"""nnU-Net's changes to the masks of a previous stage, made on label maps in the workers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_spine_ext.training.cascade import ChangePreviousStage, changes_of

LABELS = [1, 2, 3]


def stock_chain(cascaded: bool = True) -> ComposeTransforms:
    return nnUNetTrainer.get_training_transforms(
        (16, 16, 16), (-0.5, 0.5), None, (0, 1, 2), False, is_cascaded=cascaded, foreground_labels=LABELS
    )


def blocks() -> torch.Tensor:
    """Return labels and masks of the previous stage (2, 20, 20, 20) with large and small pieces; a border of -1."""
    segmentation = torch.zeros(2, 20, 20, 20, dtype=torch.int16)
    segmentation[:, 3:9, 3:9, 3:9] = 1
    segmentation[:, 3:9, 11:17, 3:9] = 2
    segmentation[:, 12:14, 4:6, 4:6] = 3
    segmentation[:, 15:17, 15:17, 15:17] = 3
    segmentation[:, 0] = -1
    return segmentation


def changed(seed: int) -> torch.Tensor:
    np.random.seed(seed)  # noqa: NPY002  batchgenerators draws from numpy's global state
    torch.manual_seed(seed)
    transform = ChangePreviousStage(changes_of(stock_chain()), LABELS)
    result: torch.Tensor = transform(segmentation=blocks())["segmentation"]
    return result


def test_both_of_nnunets_changes_are_taken_over() -> None:
    changes = changes_of(stock_chain())
    assert [change.apply_probability for change in changes] == [0.4, 0.2]
    assert changes_of(stock_chain(cascaded=False)) == []


def test_masks_change_as_often_as_nnunets() -> None:
    before = blocks()
    results = [changed(seed) for seed in range(60)]
    different = [result for result in results if not torch.equal(result, before)]
    # nnU-Net fires with probabilities .4 and .2, for each label with one half: nearly one half of the samples.
    assert 15 <= len(different) <= 40
    for result in different:
        assert torch.equal(result[0], before[0]), "the labels to be learnt stay"
        assert torch.equal(result[1] < 0, before[1] < 0)
        assert set(result[1].unique().tolist()) <= {-1, 0, *LABELS}
        assert result.dtype == before.dtype


@pytest.mark.parametrize("seed", range(8))
def test_the_result_is_that_of_nnunets_channels(seed: int) -> None:
    changes = changes_of(stock_chain())
    for change in changes:
        change.apply_probability = 1.0
    ids = torch.tensor(LABELS).view(-1, 1, 1, 1)
    results = []
    for transform in (ChangePreviousStage(changes, LABELS), None):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        for change in changes:
            change.transform.channel_idx = [-3, -2, -1]
        if transform is not None:
            after = transform(segmentation=blocks())["segmentation"][1]
            results.append((after == ids).float())
            continue
        # The coins are tossed first, as there.
        parameters = [change.get_parameters() for change in changes]
        assert all(p["apply_transform"] for p in parameters)
        image = (blocks()[1] == ids).float()
        for change in changes:
            image = change.transform(image=image)["image"]
        image[:, 0] = 0
        results.append(image)
    assert torch.equal(*results)


def test_it_goes_to_worker_processes() -> None:
    transform = pickle.loads(pickle.dumps(ChangePreviousStage(changes_of(stock_chain()), LABELS)))
    assert transform(segmentation=blocks())["segmentation"].shape == (2, 20, 20, 20)


def test_two_dimensions() -> None:
    transform = ChangePreviousStage(changes_of(stock_chain()), LABELS)
    for change in transform.changes:
        change.apply_probability = 1.0
    assert transform(segmentation=blocks()[:, :, 4])["segmentation"].shape == (2, 20, 20)

"""Maps of intensities: what is applied to an image is the map, whatever else the image holds."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.curves import structure_curves
from nnunet_spine_ext.harmonize.maps import IntensityMap, through
from nnunet_spine_ext.harmonize.structures import structure_ids, structures_of


@pytest.fixture
def curved() -> IntensityMap:
    source = np.linspace(0, 1000, 33)
    return through(source, 1000 * np.sqrt(source / 1000), 1.0)


@pytest.mark.parametrize("spike", [1e3, 2e4, 1e6, 1e8, 1e12])
def test_one_bright_voxel_does_not_change_the_map_of_the_others(curved: IntensityMap, spike: float) -> None:
    array = np.random.default_rng(0).uniform(0, 1000, (20, 20, 20)).astype(np.float32)
    array[0, 0, 0] = spike
    rest = array <= 1000
    assert np.abs(curved.apply(array) - curved(array))[rest].max() < 0.2
    assert np.isfinite(curved.apply(array)).all()


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
def test_all_types_of_numbers_are_mapped_alike(curved: IntensityMap, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 200, (9, 8, 7)).astype(dtype)
    found = curved.apply(array)
    assert found.dtype == np.float32
    assert np.allclose(found, curved(array), atol=0.02)


def test_whole_numbers_beyond_32_bits(curved: IntensityMap) -> None:
    array = (np.arange(24).reshape(2, 3, 4) + 3_000_000_000).astype(np.uint32)
    assert np.allclose(curved.apply(array), curved(array), rtol=1e-6)


def test_a_structure_that_is_hardly_there_has_no_quantiles() -> None:
    image = Volume(np.random.default_rng(0).random((20, 20, 20)).astype(np.float32), np.eye(4))
    curves, voxels = structure_curves(image, {"disc": np.full(image.shape, 0.04, np.float32)})
    assert (curves, voxels) == ({}, {})
    curves, _ = structure_curves(image, {"disc": np.full(image.shape, 0.4, np.float32)})
    assert list(curves) == ["disc"]


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("intervertebral_disc", "disc"),
        ("intervertebral disc", "disc"),
        ("vertebrae_discs", "disc"),
        ("IVD_L4", "disc"),
        ("spinal_cord", "cord"),
        ("left_cord", "cord"),
        ("vertebra_corpus_border", "corpus"),
        ("vertebra_arch", "arch"),
        ("spinal_canal", "canal"),
        ("vertebra_L3", "vertebra"),
        ("L3", "vertebra"),
        ("vertebra_endplate", None),
        ("accordion", None),
    ],
)
def test_classes_of_other_datasets_are_known_by_their_names(name: str, structure: str | None) -> None:
    found = structures_of({"labels": {"background": 0, name: 1}})
    assert found == ({} if structure is None else {structure: (1,)})


def test_structures_of_our_schemes() -> None:
    assert structure_ids("nnunet14") == {
        "corpus": (10,), "arch": (1, 2, 3, 4, 5, 6, 7, 8, 9), "disc": (14,), "cord": (11,), "canal": (12,),
    }  # fmt: skip
    assert structure_ids("sct_discs") == structure_ids("custom") == {}


def test_a_dataset_has_no_structures_whose_classes_it_leaves_out() -> None:
    labels = {"background": 0, "vertebra": 1, "sacrum": 2, "cord": 3, "corpus": 10}
    found = structures_of({"labels": labels, "spine_ext": {"scheme": "nnunet14"}})
    assert found == {"corpus": (10,), "arch": (1, 2, 3)}
    assert structures_of({"spine_ext": {"scheme": "nnunet14"}}) == structure_ids("nnunet14")

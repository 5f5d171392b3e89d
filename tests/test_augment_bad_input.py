"""What users get wrong: an error that names it, before anything is trained; or what can be meant, done right."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from augment_checks import context, images, keys, label_map, pipeline

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.ranges import UNLIMITED, is_range
from nnunet_spine_ext.augment.transform import build, registry
from nnunet_spine_ext.core.errors import SpineExtError, UsageError

NAMES = tuple(registry())
NAN = float("nan")
SELECTABLE = ("gamma", "redistribute", "equalise", "unsharp_mask", "median")


def _ranges(name: str) -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(registry()[name]) if is_range(item)]


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_setting_names_the_nearest(name: str) -> None:
    for item in dataclasses.fields(registry()[name]):
        wrong = item.name + "x"
        with pytest.raises(UsageError, match="did you mean") as caught:
            build(name, {wrong: 1})
        assert wrong in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_impossible_ranges_are_refused(name: str) -> None:
    for item in _ranges(name):
        low, high = item.metadata["limits"]
        wrong: list[Any] = [
            "much", None, True, [], [1], [1, 2, 3], ["a", "b"], NAN, [NAN, 1], float("inf"), {"log": [0, 1]},
            {"normal": [0, -1]}, {"choice": []}, {"lgo": [1, 2]}, {"log": [1, 2], "choice": [1]},
        ]  # fmt: skip
        if (low, high) != UNLIMITED:
            wrong += [[high, low], low - 1, high + 1, [low, high + 1]]
        else:
            wrong += [[2, 1]]
        for value in wrong:
            with pytest.raises(UsageError) as caught:
                build(name, {item.name: value})
            assert item.name in str(caught.value), value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-0.1, 1.5, NAN, "often", None, [0, 1]])
def test_probabilities_are_numbers_from_0_to_1(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match="p"):
        build(name, {"p": value})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "gamma", "p_batch": 2.0}, "p_batch"),
        ({"name": "gamma", "channels": []}, "different channels"),
        ({"name": "gamma", "channels": [0, 0]}, "different channels"),
        ({"name": "gamma", "channels": [1]}, "channels from 0 to 0"),
        ({"name": "gamma", "channels": [-1]}, "channels from 0 to 0"),
        ({"name": "gamma", "where": []}, "no label"),
        ({"name": "gamma", "where": [99]}, r"labels \[99\]; expected labels among 0 to 3"),
        ({"name": "gamma", "where": [1, -1]}, r"labels \[-1\]"),
        ({"name": "palette", "air": 3.0}, "0 to 1"),
        ({"name": "gaussian_mixture", "air": NAN}, "0 to 1"),
        ({"name": "region_palette", "air": -1.0}, "0 to 1"),
        ({"name": "bezier", "invert": 1.5}, "0 to 1"),
        ({"name": "gaussian_mixture", "clustering": "k-means"}, "clustering"),
        ({"name": "rician_noise", "colour": "pink"}, "colour"),
        ({"name": "signal_equations", "sequences": []}, "at least one"),
        ({"name": "signal_equations", "sequences": ["t2"]}, "did you mean"),
        ({"name": "signal_equations", "classes": {"x": "cord"}}, "a label id"),
        ({"name": "signal_equations", "classes": {"1": "crod"}}, "did you mean 'cord'"),
        ({"name": "protocol_change", "classes": {"1.5": "cord"}}, "a label id"),
        ({"name": "domain_transfer", "classes": {"1": "crod"}}, "did you mean 'cord'"),
        ({"name": "domain_transfer", "bank": "gone.yaml"}, "gone.yaml"),
        ({"name": "bias_polynomial", "order": -1}, "1 to 8"),
        ({"name": "surface_coils", "axis": 5}, "an array axis from 0 to 2"),
        ({"name": "surface_coils", "side": 2}, "-1 or 1"),
        ({"name": "blur", "slice_axis": 5}, "an array axis from 0 to 2"),
        ({"name": "rotate", "axes": [7]}, "array axes from 0 to 2"),
        ({"name": "crop", "unit": "cm"}, "unit"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors_before_the_first_batch(item: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline(item)


@pytest.mark.parametrize("config", [3, None, [], ("gamma",), 0.5])
def test_a_configuration_is_a_mapping_a_file_or_a_name(config: Any) -> None:
    with pytest.raises(UsageError, match="a mapping, a file or the name of a preset"):
        Pipeline(config, context())


@pytest.mark.parametrize("text", ["- gamma\n", "transforms: [\n", "3\n", "transforms: {name: gamma}\n"])
def test_files_that_are_no_configuration_name_themselves(text: str, tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        AugmentConfig.load(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"spacing": None}, {"spacing": ("a", 1)}, {"spacing": "11"}, {"spacing": (1,)}, {"spacing": (1, -1)},
        {"shape": None}, {"shape": (4.5, 4)}, {"shape": "44"}, {"shape": (4, NAN)},
        {"source_shape": 8}, {"source_shape": (8, 3)},
        {"channels": "two"}, {"channels": 1.5}, {"channels": None},
        {"labels": None}, {"labels": 3}, {"labels": (0, 1.5)}, {"labels": ("disc",)},
        {"sided_pairs": ((1, 2, 3),)}, {"sided_pairs": ((1, 1),)}, {"sided_pairs": ((1, 2), (2, 3))},
        {"sided_pairs": (1, 2)}, {"left_right_axis": 0.5}, {"left_right_axis": -1}, {"left_right_axis": "x"},
    ],
)  # fmt: skip
def test_facts_that_are_missing_or_impossible_are_errors(facts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="E-AUG-CONTEXT"):
        Context(**{"shape": (4, 4), "spacing": (1, 1), "labels": (0, 1, 2, 3), **facts})


@pytest.mark.parametrize("name", ["flip", "rot90", "transpose"])
def test_left_and_right_need_an_axis_where_something_mirrors(name: str) -> None:
    sides = {"sided_pairs": ((1, 2),)}
    with pytest.raises(UsageError, match="left-right axis"):
        pipeline(name, facts=context(**sides))
    pipeline({"name": name, "p": 0.0}, facts=context(**sides))
    pipeline(name, facts=context(**sides, left_right_axis=0))
    # A sagittal slice has no such axis.
    pipeline(name, facts=context((24, 28), **sides))


def test_an_axis_without_sided_labels_mirrors_and_exchanges_nothing() -> None:
    image, labels = images(1), label_map(1)
    line = pipeline({"name": "flip", "axes": [1], "axis_p": 1.0}, facts=context(left_right_axis=1))
    result, moved = line(image, labels, keys(1))
    assert torch.equal(result, image.flip(3))
    assert torch.equal(moved, labels.flip(3))


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (images(1).numpy(), None),
        (images(1), label_map(1).numpy()),
        (images(1)[0], None),
        (images(1), label_map(1)[:, 0]),
        (images(1), label_map(1)[:, :0]),
        (images(1), label_map(1, (12, 20, 14))),
        (images(1).to(torch.complex64), None),
        (images(1), label_map(1).to(torch.complex64)),
        (images(2), None),
    ],
    ids=["array", "label array", "no batch", "no channel", "empty", "grid", "complex", "complex labels", "count"],
)
def test_tensors_that_do_not_fit_are_errors(image: Any, labels: Any) -> None:
    line = pipeline("gamma")
    with pytest.raises(UsageError, match="E-AUG-SHAPE"):
        line.apply(image, labels, line.plan(keys(1)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integer_images_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    image = (images(2).clamp_min(0) * 20).to(dtype)
    line = pipeline("gamma", "blur", "bias_spline", "rician_noise", "renormalise")
    result, _ = line(image, label_map(2), keys(2))
    expected, _ = line(image.float(), label_map(2), keys(2))
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("name", SELECTABLE)
def test_label_maps_of_any_type_mean_the_same(name: str, dtype: torch.dtype) -> None:
    image, labels = images(2), label_map(2).clamp_min(0)
    for known in ((0, 1, 2, 3), (0, 1, 3, 9)):
        line = pipeline({"name": name, "where": "in_labels"}, facts=context(labels=known))
        expected, _ = line(image, labels, keys(2))
        result, kept = line(image, labels.to(dtype), keys(2))
        assert torch.equal(result, expected)
        assert kept.dtype == dtype


@pytest.mark.parametrize("shape", [(1, 16, 16), (16, 1, 16), (1, 1, 1), (2, 2, 2), (1, 24), (1, 1), (3, 2)])
def test_single_slices_and_tiny_patches_work_with_every_transform(shape: tuple[int, ...]) -> None:
    facts = Context(shape, (3.0, 1.0, 1.0)[-len(shape) :], labels=range(15))
    image = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.randint(-1, 15, (2, 1, *shape), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    for name in NAMES:
        line = pipeline(name, facts=facts)
        for seed in range(2):
            result, moved = line(image, labels, keys(2, seed))
            assert result.isfinite().all(), name
            assert result.shape == image.shape
            assert set(moved.unique().tolist()) <= set(range(-1, 15))


def test_a_broken_record_is_an_error() -> None:
    record = json.loads(json.dumps(pipeline("gamma").plan(keys(1)).record))
    broken = [{}, {"version": 1}, {**record, "samples": [{}]}, {**record, "samples": 3}]
    short = json.loads(json.dumps(record))
    del short["samples"][0]["transforms"][0]["params"]["gamma"]
    for wrong in (*broken, short):
        with pytest.raises(UsageError, match="E-AUG-RECORD"):
            Plan.from_record(wrong)


def test_errors_say_what_was_found_expected_and_how_to_go_on() -> None:
    with pytest.raises(SpineExtError) as caught:
        pipeline({"name": "gamma", "where": [99]})
    error = caught.value
    assert error.code == "E-AUG-CONTEXT"
    assert all((error.file, error.found, error.expected, error.fix))

"""The pipeline: what fires, in which order, and that it depends on the sample alone."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from augment_checks import DispatchCounter, context, images, keys, label_map, pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.transform import registry
from nnunet_spine_ext.core.errors import UsageError

EVERYTHING = [name for name, transform in registry().items() if transform.stage in ("table", "field", "noise", "final")]


def _everything(**options: Any) -> Pipeline:
    facts = options.pop("facts", context())
    listed = [
        {"name": name, "p": 0.4, **({"where": {"random_labels": 0.5}} if "where" in _fields(name) else {})}
        for name in EVERYTHING
    ]
    return Pipeline({"transforms": listed, "order": "random", **options}, facts)


def _fields(name: str) -> Any:
    return registry()[name].__dataclass_fields__


def _fired(plan: Plan) -> list[list[str]]:
    return [[applied.name for applied in sample] for sample in plan.samples]


def test_the_same_keys_give_the_same_bits_and_a_record_replays() -> None:
    image, labels = images(4), label_map(4)
    line = _everything()
    for epoch in range(10):
        plan = line.plan(keys(4, epoch=epoch))
        first, _ = line.apply(image, labels, plan)
        second, _ = _everything()(image, labels, keys(4, epoch=epoch))
        replayed, _ = line.apply(image, labels, Plan.from_record(json.loads(json.dumps(plan.record))))
        assert torch.equal(first, second)
        assert torch.equal(first, replayed)


def test_neighbours_do_not_matter() -> None:
    image, labels = images(3), label_map(3)
    line = _everything()
    for epoch in range(10):
        first = keys(3, epoch=epoch)
        other = [first[0], *keys(3, seed=99, epoch=epoch)[1:]]
        assert torch.equal(line(image, labels, first)[0][0], line(image, labels, other)[0][0])


def test_removing_a_transform_leaves_the_draws_of_the_others() -> None:
    whole = [{"name": n, "p": 0.5} for n in ("gamma", "contrast", "rician_noise")]
    for seed in range(20):
        full = Pipeline({"transforms": whole}, context()).plan(keys(1, seed)).samples[0]
        part = Pipeline({"transforms": whole[1:]}, context()).plan(keys(1, seed)).samples[0]
        assert [a for a in full if a.name != "gamma"] == list(part)


def test_stages_come_in_order_whatever_the_configuration_says() -> None:
    plan = pipeline("renormalise", "rician_noise", "bias_spline", "gamma").plan(keys(1))
    assert _fired(plan) == [["gamma", "bias_spline", "rician_noise", "renormalise"]]


def test_random_order_shuffles_within_a_stage_per_sample() -> None:
    names = ("gamma", "contrast", "inverse", "sqrt")
    fixed = pipeline(*names).plan(keys(12))
    shuffled = pipeline(*names, order="random").plan(keys(12))
    assert {tuple(sample) for sample in _fired(fixed)} == {names}
    assert len({tuple(sample) for sample in _fired(shuffled)}) > 5


def test_order_of_tables_matters_and_is_kept() -> None:
    image = images(1)
    first, second = pipeline("inverse", "sqrt"), pipeline("sqrt", "inverse")
    assert not torch.allclose(first(image, None, keys(1))[0], second(image, None, keys(1))[0], atol=1e-3)


def test_probabilities_are_met() -> None:
    line = pipeline({"name": "gamma", "p": 0.3}, {"name": "sqrt", "p": 0.1})
    fired = [name for sample in _fired(line.plan(keys(4000))) for name in sample]
    assert fired.count("gamma") / 4000 == pytest.approx(0.3, abs=0.03)
    assert fired.count("sqrt") / 4000 == pytest.approx(0.1, abs=0.02)


def test_one_coin_for_a_whole_batch() -> None:
    line = pipeline({"name": "gamma", "p_batch": 0.5}, {"name": "sqrt", "p": 0.5, "p_batch": 0.6})
    fired = []
    for batch in range(300):
        own = [SampleKey(1, f"case{i}", 0, 4 * batch + i, batch) for i in range(4)]
        fired += [[name in sample for sample in _fired(line.plan(own))] for name in ("gamma", "sqrt")]
    assert all(len(set(samples)) == 1 for samples in fired[::2])
    assert any(len(set(samples)) == 2 for samples in fired[1::2])
    assert sum(any(samples) for samples in fired[::2]) / 300 == pytest.approx(0.5, abs=0.1)
    assert sum(sum(samples) for samples in fired[1::2]) / 1200 == pytest.approx(0.3, abs=0.06)
    # Without the number of a batch each sample has a coin of its own, and the same probability.
    alone = _fired(line.plan([SampleKey(1, "c", 0, i) for i in range(1000)]))
    assert sum("gamma" in sample for sample in alone) / 1000 == pytest.approx(0.5, abs=0.05)


def test_one_of_takes_one_by_weight() -> None:
    group = {"one_of": [{"name": "sqrt", "p": 0.3}, {"name": "exp", "p": 0.1}], "p": 0.5}
    fired = _fired(Pipeline({"transforms": [group]}, context()).plan(keys(2000)))
    assert {len(sample) for sample in fired} == {0, 1}
    names = [name for sample in fired for name in sample]
    assert len(names) / 2000 == pytest.approx(0.5, abs=0.05)
    assert names.count("sqrt") / len(names) == pytest.approx(0.75, abs=0.05)


def test_some_of_takes_as_many_as_asked() -> None:
    group = {"some_of": [{"name": n} for n in ("sqrt", "exp", "sin", "gamma")], "count": {"choice": [2, 3]}}
    fired = _fired(Pipeline({"transforms": [group]}, context()).plan(keys(200)))
    assert {len(sample) for sample in fired} == {2, 3}
    assert all(len(set(sample)) == len(sample) for sample in fired)


def test_channels_alone_and_one_by_one() -> None:
    facts = context(channels=3)
    image = images(2, channels=3)
    result, _ = pipeline({"name": "brightness", "channels": [0, 2]}, facts=facts)(image, None, keys(2))
    assert torch.equal(result[:, 1], image[:, 1])
    assert not torch.equal(result[:, 0], image[:, 0])
    plan = pipeline({"name": "brightness", "per_channel": True}, facts=facts).plan(keys(1))
    assert [a.params["channels"] for a in plan.samples[0]] == [[0], [1], [2]]
    assert len({a.params["factor"] for a in plan.samples[0]}) == 3


def test_a_channel_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="channels from 0 to 0"):
        pipeline({"name": "gamma", "channels": [1]})


def test_clean_samples_get_no_intensity_transform() -> None:
    line = pipeline("gamma", "rician_noise", schedule={"clean_share": 0.25})
    fired = _fired(line.plan(keys(2000)))
    assert sum(not sample for sample in fired) / 2000 == pytest.approx(0.25, abs=0.03)
    assert all(len(sample) in (0, 2) for sample in fired)


def test_the_end_of_the_training_is_clean() -> None:
    line = pipeline("gamma", schedule={"closing_clean_share": 0.1})
    assert all(_fired(line.plan(keys(20), 0.5)))
    assert not any(_fired(line.plan(keys(20), 0.95)))
    assert all(_fired(line.plan(keys(20))))


def test_strength_ramps_up() -> None:
    line = pipeline({"name": "brightness", "factor": 2.0}, "inverse", schedule={"ramp_epochs": 10})
    early, late = (line.plan([SampleKey(0, "c", epoch, i) for i in range(400)]) for epoch in (5, 10))
    factors = [
        {a.params["factor"] for s in plan.samples for a in s if a.name == "brightness"} for plan in (early, late)
    ]
    assert factors == [{1.5}, {2.0}]
    share = sum("inverse" in sample for sample in _fired(early)) / 400
    assert share == pytest.approx(0.5, abs=0.08)
    assert not any(_fired(line.plan([SampleKey(0, "c", 0, 0)])))


def test_plans_and_pipelines_pickle() -> None:
    image, labels = images(2), label_map(2)
    line = _everything()
    plan = line.plan(keys(2))
    copied_line, copied_plan = pickle.loads(pickle.dumps((line, plan)))
    assert torch.equal(copied_line.apply(image, labels, copied_plan)[0], line.apply(image, labels, plan)[0])


def test_autocast_has_no_influence() -> None:
    image, labels = images(2), label_map(2)
    line = _everything()
    plain, _ = line(image, labels, keys(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = line(image, labels, keys(2))
    assert torch.equal(plain, cast)


def test_gradients_flow_through_intensities() -> None:
    image = images(2).requires_grad_()
    names = ("gamma", "contrast", "bias_spline", "rician_noise", "renormalise")
    line = pipeline(*names)
    result, _ = line(image, label_map(2), keys(2))
    result.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.5
    with torch.no_grad():
        torch.testing.assert_close(
            line(image.detach(), label_map(2), keys(2))[0], result.detach(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (images(1), None),
        (images(2, (12, 20, 18)), None),
        (images(2, channels=2), None),
        (images(2).to(torch.complex64), None),
        (images(2), label_map(2, (12, 20, 18))),
        (images(2), label_map(1)),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(image: torch.Tensor, labels: torch.Tensor | None) -> None:
    line = pipeline("gamma")
    with pytest.raises(UsageError, match="E-AUG-SHAPE"):
        line.apply(image, labels, line.plan(keys(2)))


def test_a_record_of_another_version_or_transform_is_an_error() -> None:
    record = pipeline("gamma").plan(keys(1)).record
    with pytest.raises(UsageError, match="E-AUG-RECORD"):
        Plan.from_record({**record, "version": 99})
    record["samples"][0]["transforms"][0]["name"] = "gone"
    with pytest.raises(UsageError, match="no transform 'gone'"):
        Plan.from_record(record)


def test_one_copy_of_each_kind_and_no_read_back() -> None:
    image, labels = images(2), label_map(2)
    line = _everything()
    plan = line.plan(keys(2))
    with DispatchCounter(image.numel()) as counter:
        line.apply(image, labels, plan)
    assert not counter.syncs
    assert plan.packed.floats.ndim == plan.packed.ints.ndim == 1


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(["tissue", "constant", "air", "spike", "huge", "tiny", "offset"]))
def test_nothing_is_ever_infinite(seed: int, kind: str) -> None:
    image = images(2, (6, 12, 10), seed=seed % 7)
    spike = torch.zeros_like(image)
    spike[0, 0, 1, 2, 3] = 1e4
    hard = {
        "tissue": image, "constant": image * 0 + 3, "air": image * 0, "spike": spike, "huge": image * 1e4,
        "tiny": image * 1e-6, "offset": image + 1e4,
    }[kind]  # fmt: skip
    labels = label_map(2, (6, 12, 10))
    labels[0, 0, 0, 0, 0] = 3
    line = _everything(facts=context((6, 12, 10)))
    result, _ = line(hard, labels, keys(2, seed))
    assert result.isfinite().all()
    assert line(hard.half(), labels, keys(2, seed))[0].isfinite().all()

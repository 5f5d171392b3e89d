"""Properties over many draws; `benchmarks/augmentation_draws.py` counts the same over a hundred thousand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from augment_checks import context, images, keys, label_map, pipeline

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.transform import registry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import augmentation_draws

NAMES = tuple(augmentation_draws.pipelines())
CLASSES = {"classes": {"1": "cord", "2": "csf", "3": "disc"}}
NEED_CLASSES = ("signal_equations", "domain_transfer", "protocol_change")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_ever_infinite(name: str) -> None:
    found = augmentation_draws.count_not_finite(480, name, first=10**5)
    assert found["not_finite"] == 0, found["where"]


def test_every_transform_takes_part() -> None:
    fired = {
        item.name
        for number in range(60)
        for sample in Pipeline(augmentation_draws.everything(), augmentation_draws.context((8, 16, 16)))
        .plan(augmentation_draws.keys(number))
        .samples
        for item in sample
    }
    assert fired == set(registry())


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_bits_and_records_replay(name: str) -> None:
    assert augmentation_draws.count_equal(30, name) == {"again": 30, "replayed": 30}


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_in_the_batch_do_not_matter_to_the_last_bit(name: str) -> None:
    assert augmentation_draws.count_undisturbed(60, name) == 60


def test_a_neighbour_with_labels_and_operations_leaves_a_composed_table_alone() -> None:
    """What one needs that another does not: rows per label, a histogram, fewer nodes."""
    image, labels = images(2), label_map(2)
    line = pipeline({"name": "bezier", "p": 0.5}, {"name": "redistribute", "p": 0.5}, {"name": "equalise", "p": 0.3})
    draws = [SampleKey(0, "case", 0, i) for i in range(60)]
    alone = [key for key in draws if [a.name for a in line.plan([key]).samples[0]] == ["bezier"]]
    others = [key for key in draws if len(line.plan([key]).samples[0]) > 1]
    assert alone
    assert others
    for key in alone[:5]:
        quiet, _ = line(image, labels, [key, key])
        for other in others[:5]:
            assert torch.equal(line(image, labels, [key, other])[0][0], quiet[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_draws_what_an_uninterrupted_one_does(name: str) -> None:
    facts = augmentation_draws.context((8, 16, 16))
    image, labels = augmentation_draws.hard_batch(facts.source, 1)

    def epoch(line: Pipeline, number: int) -> list[torch.Tensor]:
        steps = [[SampleKey(5, f"c{i}", number, 8 * step + i, step) for i in range(8)] for step in range(3)]
        return [line(image, labels, own, (number + 0.5) / 6)[0] for own in steps]

    whole = Pipeline(AugmentConfig.from_dict(_scheduled(name)), facts)
    uninterrupted = [epoch(whole, number) for number in range(6)]
    resumed = pickle.loads(pickle.dumps(Pipeline(AugmentConfig.from_dict(_scheduled(name)), facts)))
    for number in (3, 4, 5):
        assert all(torch.equal(a, b) for a, b in zip(epoch(resumed, number), uninterrupted[number], strict=True))


@pytest.mark.parametrize("name", registry())
def test_the_record_of_every_transform_replays_exactly(name: str) -> None:
    item = {"name": name, **(CLASSES if name in NEED_CLASSES else {})}
    for shape in ((6, 14, 12), (14, 12)):
        facts = context(shape, channels=2)
        image, labels = images(2, shape, 2), label_map(2, shape)
        line = pipeline({**item, "per_channel": registry()[name].stage != "warp"}, facts=facts)
        for seed in range(4):
            plan = line.plan(keys(2, seed))
            text = json.dumps(plan.record, allow_nan=False)
            result, moved = line.apply(image, labels, plan)
            replay = Plan.from_record(json.loads(text))
            assert json.dumps(replay.record) == json.dumps(plan.record)
            replayed, replayed_moved = line.apply(image, labels, replay)
            assert torch.equal(result, replayed)
            assert torch.equal(moved, replayed_moved)


@pytest.mark.parametrize("kind", augmentation_draws.KINDS)
def test_hard_images_are_as_hard_as_they_say(kind: str) -> None:
    image, labels = augmentation_draws.hard_image(kind, (8, 16, 16), 3)
    assert image.isfinite().all()
    spread = float(image.max() - image.min())
    assert {"constant": spread == 0, "air": spread == 0, "tiny": 0 < spread < 1e-19}.get(kind, True)
    if kind == "single":
        assert all((labels == n).sum() <= 1 for n in range(1, 15))


def _scheduled(name: str) -> dict[str, Any]:
    config = AugmentConfig.load("shift") if name == "shift" else augmentation_draws.everything()
    schedule = {"ramp_epochs": 4, "start": 0.2, "clean_share": 0.2, "closing_clean_share": 0.2}
    return {**config.to_dict(), "schedule": schedule}


def test_draws_do_not_depend_on_the_process() -> None:
    """Python shuffles sets of texts anew in every process: no draw may follow their order."""
    script = (
        "import augmentation_draws as d, hashlib, json; "
        "line = d.pipelines()['everything'](d.context((8, 16, 16))); "
        "text = json.dumps([line.plan(d.keys(n)).record for n in range(12)]); "
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    folder = Path(augmentation_draws.__file__).parent
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1

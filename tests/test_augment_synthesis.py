"""Contrast synthesis: labels get the intensities that were drawn for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from augment_checks import context, keys, pipeline

from nnunet_spine_ext.augment.domain_bank import QUANTILES, learn, load_bank
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.tissues import DIXON, NNUNET14, TISSUES, class_of_label, draw_protocol, draw_signals
from nnunet_spine_ext.core.errors import UsageError

SHAPE = (16, 32, 32)
FACTS = context(SHAPE)
CLASSES = {"1": "cord", "2": "csf", "3": "disc"}


def _scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image with air and two unlabelled tissues, and three labelled blocks; signal 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(1, 1, *SHAPE, dtype=torch.int16)
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 12:, :], image[..., 22:, :] = 0.5, 1.0
    for label, (start, value) in enumerate(((0, 0.2), (10, 0.7), (20, 0.4)), start=1):
        labels[..., start : start + 8, 24:] = label
        image[..., start : start + 8, 24:] = value
    return image + 0.01 * torch.randn(image.shape, generator=generator), labels


def _means(image: torch.Tensor, labels: torch.Tensor) -> list[float]:
    return [image[labels == label].mean().item() for label in (1, 2, 3)]


def test_a_mixture_gives_every_label_its_drawn_mean_and_noise() -> None:
    image, labels = _scene()
    settings = {"name": "gaussian_mixture", "sd": 0.05, "texture": 0.0}
    line = pipeline(settings, facts=FACTS)
    plan = line.plan(keys(1))
    result, _ = line.apply(image, labels, plan)
    drawn = plan.samples[0][0].params["of_labels"]
    span = 1.0
    for label in (1, 2, 3):
        ((mean, sd, _),) = drawn[str(label)]
        values = result[labels == label]
        assert values.mean().item() == pytest.approx(mean * span, abs=0.03)
        assert values.std().item() == pytest.approx(sd * span, rel=0.1)


def test_a_mixture_divides_what_is_not_labelled() -> None:
    image, labels = _scene()
    settings = {"name": "gaussian_mixture", "sd": 0.0, "background": 3, "texture": 0.0, "air": 1.0}
    line = pipeline(settings, facts=FACTS)
    plan = line.plan(keys(1))
    result, _ = line.apply(image, labels, plan)
    values = [result[..., rows, :20].mean().item() for rows in (slice(0, 12), slice(12, 22), slice(22, 32))]
    drawn = [row[0] for row in plan.samples[0][0].params["of_classes"]]
    assert values == pytest.approx(drawn, abs=0.05)
    assert drawn[0] == 0


def test_labels_are_divided_where_asked() -> None:
    image, labels = _scene()
    half = image.clone()
    half[..., :8, :] += 0.5
    settings = {"name": "gaussian_mixture", "sd": 0.0, "texture": 0.0, "within": {"choice": [2, 3]}}
    line = pipeline(settings, facts=FACTS)
    for seed in range(4):
        plan = line.plan(keys(1, seed))
        drawn = plan.samples[0][0].params["of_labels"]
        result, _ = line.apply(half, labels, plan)
        assert len(drawn["1"]) in (2, 3)
        for label in (1, 2, 3):
            assert len(drawn[str(label)]) == len(drawn["1"])
            values, means = result[labels == label], [mean for mean, _, _ in drawn[str(label)]]
            assert min(means) - 0.02 < values.min()
            assert values.max() < max(means) + 0.02
    plan = line.plan(keys(1, seed=0))
    block = torch.zeros_like(image)
    block[labels == 1] = torch.where(torch.arange(int((labels == 1).sum())) % 2 == 0, 0.2, 0.9)
    block[..., 20:, :] = 1.0
    result, _ = line.apply(block, labels, plan)
    dark, bright = (result[(labels == 1) & (block == level)] for level in (0.2, 0.9))
    assert dark.std() < 1e-5
    assert bright.std() < 1e-5
    assert dark.mean().item() == pytest.approx(plan.samples[0][0].params["of_labels"]["1"][0][0], abs=0.02)


def test_texture_keeps_what_a_label_looks_like() -> None:
    image, labels = _scene()
    line = pipeline({"name": "gaussian_mixture", "sd": 0.0, "texture": 1.0}, facts=FACTS)
    result, _ = line(image, labels, keys(1))
    inside = labels == 2
    assert torch.corrcoef(torch.stack([image[inside], result[inside]]))[0, 1] > 0.99


def test_a_palette_paints_the_classes_and_keeps_the_borders() -> None:
    image, labels = _scene()
    line = pipeline({"name": "palette", "classes": 3, "texture": 0.0, "air": 1.0}, facts=FACTS)
    plan = line.plan(keys(1, seed=5))
    result, _ = line.apply(image, labels, plan)
    drawn = plan.samples[0][0].params["values"]
    air, bright = result[..., :12, :20], result[..., 22:, :20]
    assert air.mean().item() == pytest.approx(0, abs=0.05)
    assert bright.mean().item() == pytest.approx(drawn[2], abs=0.1)
    assert air.std() < 0.05


def test_redistribution_shifts_labels_and_leaves_the_background() -> None:
    image, labels = _scene()
    line = pipeline({"name": "redistribute", "gain": 1.0}, facts=FACTS)
    plan = line.plan(keys(1))
    result, _ = line.apply(image, labels, plan)
    drawn = plan.samples[0][0].params["of_labels"]
    expected = [max(0, m + drawn[str(n)][0]) for n, m in zip((1, 2, 3), _means(image, labels), strict=True)]
    assert _means(result, labels) == pytest.approx(expected, abs=0.02)
    assert torch.equal(result[labels == 0], image[labels == 0])


@pytest.mark.parametrize(
    ("sequence", "brighter"), [("t1w", "cord"), ("t2w", "csf"), ("mprage", "cord"), ("stir", "csf")]
)
def test_sequences_make_fluid_dark_or_bright(sequence: str, brighter: str) -> None:
    image, labels = _scene()
    settings = {"name": "signal_equations", "sequences": [sequence], "classes": CLASSES, "mix": 1.0}
    cord, csf, _ = _means(pipeline(settings, facts=FACTS)(image, labels, keys(1))[0], labels)
    assert (cord > csf) == (brighter == "cord")


def test_fluid_without_a_label_is_not_always_taken_for_fat() -> None:
    """In MPRAGE fat is brighter than the cord and fluid darker; around the cord there is fluid."""
    settings = {"name": "signal_equations", "sequences": ["mprage"], "mix": 1.0}

    def brightest(classes: dict[str, str]) -> list[bool]:
        plan = pipeline({**settings, "classes": classes}, facts=FACTS).plan(keys(60))
        found = [sample[0].params for sample in plan.samples]
        return [params["background"][-1] > params["signals"]["1"] for params in found]

    alone = brightest({"1": "cord"})
    assert 15 < sum(alone) < 45
    assert all(brightest({"1": "cord", "2": "csf"})), "fluid has its label: what is bright without one is fat"


def test_the_signals_of_a_protocol_are_plausible() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        t1w, t2w, ct = (draw_signals(rng, draw_protocol(rng, s)) for s in ("t1w", "t2w", "ct"))
        assert t2w["csf"] > t2w["cord"] > t2w["endplate"]
        assert t1w["csf"] < t1w["cord"]
        assert ct["bone"] == 1
        assert ct["air"] == 0
        for signals in (t1w, t2w, ct):
            assert max(signals.values()) == 1
            assert min(signals.values()) == signals["air"] == 0


def test_dixon_separates_water_and_fat() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        water, fat, opposed = (draw_signals(rng, draw_protocol(rng, s)) for s in DIXON)
        assert water["fat"] == fat["csf"] == fat["disc"] == 0
        assert fat["fat"] == 1
        assert opposed["fat"] > opposed["marrow"]
    line = pipeline({"name": "signal_equations", "sequences": list(DIXON), "classes": CLASSES}, facts=FACTS)
    assert line(*_scene(), keys(1))[0].isfinite().all()


@pytest.mark.parametrize("sequence", ["dwi", "stir", "t1w"])
def test_what_muscle_and_fat_share_is_as_bright_as_one_of_them(sequence: str) -> None:
    """Voxels between the two have the intensity of an organ: no bright rim round fat that is suppressed."""
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 8:, :], image[..., 16:, :], image[..., 24:, :] = 0.3, 0.6, 1.0
    image = image + 0.005 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    settings = {"name": "signal_equations", "sequences": [sequence], "mix": 1.0, "texture": 0.0, "classes": CLASSES}
    for seed in range(4):
        result, _ = pipeline(settings, facts=FACTS)(image, torch.zeros_like(image).short(), keys(1, seed))
        muscle, organ, fat = (result[..., rows : rows + 8, :].mean() for rows in (8, 16, 24))
        assert torch.minimum(muscle, fat) - 0.02 < organ < torch.maximum(muscle, fat) + 0.02


def test_only_the_14_classes_are_known_without_being_told() -> None:
    assert class_of_label(context(labels=range(4))) == {}
    known = class_of_label(context(labels=range(15)))
    assert known == {label: NNUNET14[label] for label in range(1, 15)}
    assert class_of_label(context(labels=range(4)), {0: "air", 2: "csf"}) == {2: "csf"}


def test_a_tissue_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'cord'"):
        pipeline({"name": "signal_equations", "classes": {"1": "crod"}})


def test_domain_transfer_gives_labels_the_median_of_the_domain() -> None:
    image, labels = _scene()
    settings = {"name": "domain_transfer", "domains": ["t1w"], "classes": CLASSES, "mix": 1.0}
    result, _ = pipeline(settings, facts=FACTS)(image, labels, keys(1))
    bank = load_bank()["t1w"]
    for label, name in ((1, "cord"), (2, "csf"), (3, "disc")):
        assert result[labels == label].median().item() == pytest.approx(bank[name][QUANTILES // 2], abs=0.04)


def test_tissues_may_come_from_domains_of_their_own() -> None:
    settings = {"name": "domain_transfer", "domains": ["t1w", "t2w"], "classes": CLASSES, "blend": 0.0}
    bank, mixed = load_bank(), 0
    for seed in range(20):
        alike, own = (
            pipeline({**settings, "per_tissue": p}, facts=FACTS).plan(keys(1, seed)).samples[0][0].params
            for p in (0.0, 1.0)
        )
        assert len(alike["domains"]) == 1
        middles = [own["quantiles"][label][QUANTILES // 2] for label in CLASSES]
        nearest = {
            min(("t1w", "t2w"), key=lambda d: abs(bank[d][tissue][QUANTILES // 2] - middle))
            for middle, tissue in zip(middles, CLASSES.values(), strict=True)
        }
        mixed += len(nearest) == 2
    assert mixed > 5


def test_the_shipped_bank_knows_every_class_of_the_scheme() -> None:
    bank = load_bank()
    assert len(bank) >= 6
    for tissues in bank.values():
        assert set(NNUNET14[1:]) | {"background"} <= set(tissues) <= set(TISSUES) | {"background"}


def test_a_bank_is_learned_from_images_and_read_back(tmp_path: Path) -> None:
    image, labels = _scene()
    learned = learn([(image[0, 0].numpy(), labels[0, 0].numpy())], {1: "cord", 2: "csf"})
    assert set(learned) == {"background", "cord", "csf"}
    assert learned["csf"][QUANTILES // 2] == pytest.approx(0.7, abs=0.05)
    path = tmp_path / "bank.yaml"
    path.write_text(f"version: 1\ndomains:\n  mine: {learned}\n")
    assert load_bank(path)["mine"]["cord"] == tuple(learned["cord"])
    plan = pipeline({"name": "domain_transfer", "bank": str(path)}, facts=FACTS).plan([SampleKey(0, "c", 0, 0)])
    assert plan.samples[0][0].params["domains"] == {"mine": 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\ndomains: {a: {cord: [0, 1]}}",
        "version: 1",
        "version: 1\ndomains: {a: [0, 1]}",
        "version: 1\ndomains: {a: {cord: [1, 0]}}",
        "version: 1\ndomains: {a: {cord: [0, x]}}",
        "version: 1\ndomains: {a: {cord: [0, 1], csf: [0, 1, 2]}}",
        "version: 1\ndomains: {a: {cord: [.nan, 1]}}",
    ],
)
def test_a_file_that_is_no_bank_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="E-AUG-BANK"):
        load_bank(path)

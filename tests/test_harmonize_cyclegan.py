"""Training of a harmonizer: losses, gradients, resumption, ablations, what the folder holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harmonizing import SIZE, BrightDiscs, settings, slices, training, training_slices
from PIL import Image
from torch import Tensor

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.harmonize.cyclegan import step
from nnunet_spine_ext.harmonize.cyclegan.data import epoch_order, split_slices
from nnunet_spine_ext.harmonize.cyclegan.networks import HarmonizerNetworks, build_networks, to_grey, to_unit
from nnunet_spine_ext.harmonize.cyclegan.regions import cut_regions, disc_windows, region_features
from nnunet_spine_ext.harmonize.cyclegan.settings import CycleGanSettings, preset_names, read_settings
from nnunet_spine_ext.harmonize.cyclegan.step import LOSSES, Aims, generate, generator_losses
from nnunet_spine_ext.harmonize.cyclegan.targets import measure_targets
from nnunet_spine_ext.harmonize.harmonizer import load_harmonizer, read_harmonizer
from nnunet_spine_ext.harmonize.radiomics import all_features, rescaled
from nnunet_spine_ext.losses.radiomics import FEATURES, RadiomicLoss


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def weights_of(folder: Path) -> bytes:
    return next(folder.glob("generator_*.safetensors")).read_bytes()


def pair(chosen: CycleGanSettings) -> tuple[Tensor, Tensor]:
    parts = training_slices(chosen)
    return to_unit(parts.source.tensor([0, 1])), to_unit(parts.target.tensor([0, 1]))


def losses(chosen: CycleGanSettings) -> tuple[HarmonizerNetworks, dict[str, Tensor]]:
    networks = build_networks(chosen, (SIZE, SIZE))
    x, y = pair(chosen)
    aims = Aims(BrightDiscs(), RadiomicLoss([0.9, 0.5, 3.0, 1.5, 0.8]), 0.2)
    return networks, generator_losses(networks, generate(networks, x, y, chosen), x, y, aims, chosen)[0]


# Settings


def test_presets_can_be_read_and_full_has_the_weights_of_the_paper() -> None:
    assert preset_names() == ["cpu", "full", "plain", "smoke"]
    full = {name: read_settings(name) for name in preset_names()}["full"]
    weights = full.weights
    assert (weights.adversarial, weights.cycle, weights.identity) == (10, 10, 10)
    assert (weights.target_dice, weights.source_dice, weights.radiomics) == (20, 10, 10)
    assert full.slices.size == (320, 320)
    assert full.radiomics.roi == (320, 120)
    assert not read_settings("plain").weights.segmented


@pytest.mark.parametrize(
    ("assignment", "word"),
    [
        ("epochs=0", "epochs"),
        ("weights.cycle=0", "cycle"),
        ("weights.radiomics=-1", "radiomics"),
        ("learning_rate=1e-9", "learning_rate"),
        ("dice_terms=[]", "dice_terms"),
        ("dice_terms=[identity, circle]", "circle"),
        ("weights.radiomic=0", "radiomics"),
        ("radiomics.final_tau=0", "final_tau"),
    ],
)
def test_impossible_settings_are_refused_by_name(assignment: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        read_settings("smoke", [assignment])


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'plain'"):
        read_settings("plane")


def test_learning_rate_is_constant_then_falls_linearly_to_its_end() -> None:
    chosen = settings("epochs=11", "learning_rate=1.0", "final_learning_rate=0.1", "decay_from=0.5")
    rates = [chosen.learning_rate_of(epoch) for epoch in range(11)]
    assert rates[:6] == [1.0] * 6
    assert rates[-1] == pytest.approx(0.1)
    assert np.diff(rates[6:]) == pytest.approx(np.full(4, np.diff(rates[6:])[0]))


# Slices


def test_nobody_is_on_both_sides_even_if_both_scanners_saw_them() -> None:
    target, source = slices("Siemens", 12, 1), slices("GE", 12, 2)
    shared = tuple(
        f.__class__(**{**f.to_dict(), "subject": g.subject}) for f, g in zip(source.facts, target.facts, strict=True)
    )
    both = source.__class__(source.images, source.masks, shared, source.spacing)
    parts = split_slices(both, target, settings())
    trained = {f.subject for f in (*parts.source.facts, *parts.target.facts)}
    held = {f.subject for f in (*parts.source_validation.facts, *parts.target_validation.facts)}
    assert trained
    assert held
    assert not trained & held


@pytest.mark.parametrize("whose", ["seen", "kept"])
def test_a_single_subject_of_its_own_goes_where_it_can(whose: str) -> None:
    target, source = slices("Siemens", 12, 1), slices("GE", 12, 2)
    train, held = target.split(settings().validation, settings().seed)
    subjects = [target.facts[k].subject for k in (train if whose == "seen" else held)]
    names = ["alone", *(subjects[k % len(subjects)] for k in range(len(source.facts) - 1))]
    facts = tuple(f.__class__(**{**f.to_dict(), "subject": n}) for f, n in zip(source.facts, names, strict=True))
    parts = split_slices(source.__class__(source.images, source.masks, facts, source.spacing), target, settings())
    side = parts.source_validation if whose == "seen" else parts.source
    assert {f.subject for f in side.facts} == {"alone"}, "the other side has the shared ones"


def test_an_epoch_shows_every_source_slice_once_and_target_slices_in_turns() -> None:
    chosen = settings("slices_per_epoch=null")
    xs, ys = epoch_order(11, 3, chosen, 0)
    assert xs.shape == ys.shape == (5, 2)
    assert len(set(xs.ravel())) == 10
    assert np.bincount(ys.ravel()).tolist() in ([3, 3, 4], [3, 4, 3], [4, 3, 3])
    assert not np.array_equal(xs, epoch_order(11, 3, chosen, 1)[0])
    assert epoch_order(1, 1, chosen, 0)[0].tolist() == [[0, 0]]


# Regions and targets


def test_features_of_a_region_are_those_of_pyradiomics_on_the_rescaled_part() -> None:
    chosen = settings().radiomics
    images = slices("Siemens", 2, 3).tensor()
    found = BrightDiscs()(images)
    windows = disc_windows(found, images, chosen)
    assert all(window.found for window in windows)
    ours = region_features(images, found, chosen)
    for k, window in enumerate(windows):
        row = all_features(rescaled(images[k, 0].numpy()[window]))
        names = ("glcm_Idmn", "glcm_Correlation", "glcm_SumEntropy", "glcm_DifferenceEntropy", "glrlm_ShortRunEmphasis")
        assert ours[k].tolist() == pytest.approx([row[name] for name in names], rel=1e-5)


@pytest.mark.parametrize("scaling", ["minmax", "robust", "none"])
def test_regions_are_scaled_one_by_one_with_a_gradient(scaling: str) -> None:
    chosen = settings(f"radiomics.scaling={scaling}").radiomics
    images = (slices("Siemens", 2, 3).tensor() * 0.5 + 20).requires_grad_()
    regions = cut_regions(images, disc_windows(None, images, chosen), chosen)
    assert regions.shape == (2, 1, 32, 16)
    if scaling == "minmax":
        assert regions.flatten(1).amin(1).tolist() == pytest.approx([0, 0], abs=1e-3)
        assert regions.flatten(1).amax(1).tolist() == pytest.approx([255, 255], abs=1e-3)
    regions.square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_constant_region_stays_finite() -> None:
    chosen = settings().radiomics
    images = torch.full((1, 1, SIZE, SIZE), 77.0, requires_grad=True)
    regions = cut_regions(images, disc_windows(None, images, chosen), chosen)
    assert regions.abs().max() == 0
    RadiomicLoss([0.9, 0.5, 3.0, 1.5, 0.8])(regions).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_targets_are_means_over_target_slices_and_stored_with_the_selection(tmp_path: Path) -> None:
    chosen = settings()
    target = slices("Siemens", 8, 2)
    targets = measure_targets(target, BrightDiscs(), chosen)
    images = target.tensor()
    every = region_features(images, target.mask_tensor().float(), chosen.radiomics).double()
    assert targets.means == pytest.approx(every.mean(0).tolist(), rel=1e-6)
    assert targets.spreads == pytest.approx(every.std(0).tolist(), rel=1e-4)
    assert targets.foreground == pytest.approx(float(BrightDiscs()(images).mean()), rel=1e-5)
    content = json.loads(targets.save(tmp_path).read_text())
    assert content["loss_features"] == list(FEATURES)
    assert content["loss_targets"] == list(targets.means)
    assert content["names"]


def test_unlabelled_slices_get_their_region_from_the_segmenter_or_the_middle() -> None:
    chosen = settings()
    target = slices("Siemens", 6, 2, labelled=False)
    assert measure_targets(target, BrightDiscs(), chosen).centred == 0
    assert measure_targets(target, None, chosen).centred == 6


# Losses


def test_all_losses_are_there_and_each_can_be_left_out() -> None:
    assert set(losses(settings())[1]) == set(LOSSES)
    for name in ("identity", "target_dice", "source_dice", "radiomics", "floor"):
        assert set(losses(settings(f"weights.{name}=0"))[1]) == set(LOSSES) - {name}
    plain = [f"weights.{name}=0" for name in ("target_dice", "source_dice", "radiomics", "floor")]
    assert set(losses(settings(*plain))[1]) == {"adversarial", "cycle", "identity"}


def test_dice_terms_are_those_of_the_papers_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity and cycle: twice for the target's segmenter and once each for the source's; harmonization: twice."""
    asked: list[tuple[Tensor, Tensor]] = []
    real = step.slice_dice_loss

    def count(found: Tensor, truth: Tensor, **options: Any) -> Tensor:
        asked.append((found, truth))
        return real(found, truth, **options)

    monkeypatch.setattr(step, "slice_dice_loss", count)
    wanted = {"identity": 2, "cycle": 2, "harmonization": 2}
    for term, calls in wanted.items():
        asked.clear()
        losses(settings(f"dice_terms=[{term}]"))
        assert len(asked) == calls
    asked.clear()
    losses(settings())
    assert len(asked) == 6


def test_the_pseudo_ground_truths_get_no_gradient_and_generators_get_one_through_the_segmenter() -> None:
    chosen = settings("generator.residual=false", "weights.floor=0")
    networks, x, y = build_networks(chosen, (SIZE, SIZE)), *pair(chosen)
    made = generate(networks, x, y, chosen)
    made.fake_y.retain_grad()
    aims = Aims(BrightDiscs(level=128), None, 0.2)
    parts, _ = generator_losses(networks, made, x, y, aims, chosen)
    # Only through the slice made of x would the truth of anatomy x have a gradient: x itself is the one term with it.
    only_x = settings("dice_terms=[harmonization]", "weights.target_dice=0", "weights.floor=0")
    alone, _ = generator_losses(networks, made, x, y, aims, only_x)
    alone["source_dice"].backward(retain_graph=True)
    assert made.fake_y.grad is None or made.fake_y.grad.abs().sum() == 0
    parts["target_dice"].backward()
    first = next(networks.to_target.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_radiomic_loss_moves_the_generator_and_the_hard_control_does_not() -> None:
    for mode, moves in (("straight-through", True), ("hard", False)):
        chosen = settings(f"radiomics.mode={mode}", "generator.residual=false")
        networks, x, y = build_networks(chosen, (SIZE, SIZE)), *pair(chosen)
        made = generate(networks, x, y, chosen)
        aims = Aims(None, RadiomicLoss([0.9, 0.5, 3.0, 1.5, 0.8], mode=mode), 0)  # type: ignore[arg-type]
        part = generator_losses(networks, made, x, y, aims, chosen)[0]["radiomics"]
        assert part.requires_grad is moves
        if moves:
            part.backward()
            assert next(networks.to_target.parameters()).grad.abs().sum() > 0  # type: ignore[union-attr]


def test_floor_acts_only_after_the_foreground_has_been_low_for_a_while() -> None:
    chosen = settings()
    networks, x, y = build_networks(chosen, (SIZE, SIZE)), *pair(chosen)
    aims = Aims(BrightDiscs(level=400), None, 0.2)
    networks.foreground.fill_(0.2)
    made = generate(networks, x, y, chosen)
    parts, share = generator_losses(networks, made, x, y, aims, chosen)
    assert float(parts["floor"].detach()) == 0
    for _ in range(10):
        networks.follow(share)
    parts, _ = generator_losses(networks, made, x, y, aims, chosen)
    assert float(parts["floor"].detach()) > 0.9


def test_scales_of_networks_and_slices_are_inverse() -> None:
    grey = torch.tensor([0.0, 100.0, 255.0])
    assert to_unit(grey).tolist() == pytest.approx([-1, 2 * 100 / 255 - 1, 1])
    assert to_grey(to_unit(grey)).tolist() == pytest.approx(grey.tolist())


# The training


def test_a_training_leaves_a_model_a_log_pictures_and_targets(tmp_path: Path) -> None:
    training(tmp_path).run()
    model = read_harmonizer(tmp_path)
    assert model.epochs == (2, 2)
    assert model.complete
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row[name]) >= 0 for row in rows for name in (*LOSSES, "judge_target", "validated_radiomics"))
    assert float(rows[0]["validated_dice"]) > 0.9
    assert (tmp_path / "radiomics.json").is_file()
    sheet = np.asarray(Image.open(tmp_path / "samples" / "epoch_0002.png"))
    assert sheet.shape[1] > 5 * SIZE
    assert sheet.std() > 10
    harmonizer = load_harmonizer(tmp_path)
    images = slices("GE", 3, 9, gain=0.6).tensor()
    out = harmonizer(images)
    assert out.shape == images.shape
    assert out.min() >= 0
    assert out.max() <= 255
    assert harmonizer(torch.rand(1, 1, 45, 70) * 255).shape == (1, 1, 45, 70)
    assert (harmonizer.method, harmonizer.size, harmonizer.spacing) == ("cyclegan", (32, 32), (4.0, 4.0))


def test_one_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    for name, assignments in (("a", ()), ("b", ()), ("c", ("seed=1",))):
        training(tmp_path / name, "epochs=1", *assignments).run()
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")
    assert weights_of(tmp_path / "a") != weights_of(tmp_path / "c")


def test_an_interrupted_training_is_usable_and_resumed_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("epochs=3", "judge_steps=2", "judge_warmup=2")
    training(tmp_path / "whole", *more).run()
    stopped = training(tmp_path / "parts", *more)
    real, calls = stopped._step, []

    def interrupt(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stopped, "_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert read_harmonizer(tmp_path / "parts").epochs == (1, 3)
    assert load_harmonizer(tmp_path / "parts")(torch.rand(1, 1, 32, 32) * 255).isfinite().all()
    again = training(tmp_path / "parts", *more)
    assert again.resume()
    assert again.epoch == 1
    again.run()
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")
    clean = [[{k: v for k, v in row.items() if k != "cpu_seconds"} for row in rows_of(tmp_path / n)]
             for n in ("parts", "whole")]  # fmt: skip
    assert clean[0] == clean[1]
    files = [sorted(p.name for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("parts", "whole")]
    assert files[0] == files[1]


def test_a_state_of_other_settings_slices_or_segmenter_is_not_continued(tmp_path: Path) -> None:
    training(tmp_path, "epochs=1").run()
    assert training(tmp_path, "epochs=1").resume()
    assert training(tmp_path, "epochs=1", "sample_slices=1").resume()
    assert not training(tmp_path, "epochs=1", "weights.cycle=5").resume()
    assert not training(tmp_path, "epochs=1", segmenter=BrightDiscs(digest="another")).resume()


def test_plain_cyclegan_and_bce_train_without_a_segmenter(tmp_path: Path) -> None:
    plain = [f"weights.{name}=0" for name in ("target_dice", "source_dice", "radiomics", "floor")]
    run = training(tmp_path, *plain, "adversarial=bce", "epochs=1", "generator.residual=false")
    assert run.networks.source_segmenter is None
    run.run()
    row = rows_of(tmp_path)[0]
    assert row["radiomics"] == row["target_dice"] == row["floor"] == ""
    assert float(row["adversarial"]) > 0


def test_discriminators_can_look_earlier_and_more_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(tmp_path, "epochs=1", "judge_steps=3", "judge_warmup=5", "judge_rate=0.5")
    real, seen = run._judge, []

    def count(fake_y: Tensor, *rest: Tensor) -> Any:
        seen.append(fake_y.requires_grad)
        return real(fake_y, *rest)

    monkeypatch.setattr(run, "_judge", count)
    before = [p.clone() for p in run.networks.to_target.parameters()]
    run._warm_up()
    assert all(torch.equal(p, q) for p, q in zip(before, run.networks.to_target.parameters(), strict=True))
    assert len(seen) == 5
    run.run()
    assert len(seen) == 5 + 5 + 2 * 3
    assert not any(seen)
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([1e-3, 5e-4])


def test_a_loss_that_needs_a_segmenter_says_so(tmp_path: Path) -> None:
    run = training(tmp_path)
    with pytest.raises(SetupError, match="segmenter"):
        type(run)(run.settings, run.slices, run.goal.__class__(None, run.goal.targets, run.goal.model), tmp_path,
                  torch.device("cpu"))  # fmt: skip


def test_divergence_stops_and_keeps_the_last_model(tmp_path: Path) -> None:
    run = training(tmp_path, "epochs=2")
    run._one_epoch()
    with torch.no_grad():
        next(run.networks.to_target.parameters()).fill_(float("nan"))
    with pytest.raises(SetupError, match="E-HARM-DIVERGED"):
        run._one_epoch()
    assert read_harmonizer(tmp_path).epochs == (1, 2)


def test_collapse_of_the_foreground_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = training(tmp_path, "epochs=1", "weights.floor=0")
    object.__setattr__(run.aims.segmenter, "level", 1000.0)
    run.run()
    assert [problem.code for problem in run.warnings] == ["W-HARM-COLLAPSE"]


def test_damaged_or_missing_weights_are_said(tmp_path: Path) -> None:
    training(tmp_path, "epochs=1").run()
    path = next(tmp_path.glob("generator_*.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SetupError, match="another content"):
        load_harmonizer(tmp_path)
    path.unlink()
    with pytest.raises(SetupError, match="no such file"):
        load_harmonizer(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format_version": 1, "kind": "other"}))
    with pytest.raises(SetupError, match="kind"):
        load_harmonizer(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(SetupError, match=r"without model\.json"):
        load_harmonizer(tmp_path)

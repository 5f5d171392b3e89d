"""What decides what contrast_agnostic says: true areas, the rater, shifts, splits, measures, choices, goals."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nnunet_spine_ext.core.volume import Volume

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load():
    """Import a module of benchmarks/, as its scripts do."""
    sys.path.insert(0, str(BENCHMARKS))

    def importing(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield importing
    sys.path.remove(str(BENCHMARKS))
    for name in [n for n in sys.modules if n.partition(".")[0] in ("softness", "generalisation", "contrast_agnostic")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def small(load):
    """A contrast that takes little time: two levels, coarse voxels."""
    contrasts = load("softness.contrasts")
    protocol = contrasts.PROTOCOLS["t2w_iso"].with_spacing((1.2, 1.2, 1.2))
    return contrasts.Contrast("small", protocol, (2.6, 5.6), (16.0, 16.0))


def cylinder(radius: float, spacing: tuple[float, float, float], levels: int = 12) -> Volume:
    """A vertical cylinder as fractions of voxels, sampled finely."""
    shape = [round(30 / spacing[0]), round(30 / spacing[1])]
    fine = [(np.arange(n * 8) + 0.5) / 8 * step - 15 for n, step in zip(shape, spacing, strict=False)]
    inside = (fine[0][:, None] ** 2 + fine[1][None] ** 2 < radius**2).astype(np.float64)
    share = inside.reshape(shape[0], 8, shape[1], 8).mean(axis=(1, 3))
    array = np.repeat(share[..., None], levels, axis=2).astype(np.float32)
    return Volume(array, np.diag([*spacing, 1.0]))


def truth_rows(levels: int = 12, angle: float = 0.0) -> list[dict[str, float]]:
    return [{"slice": k, "level": 1.5 + 2 * k / levels, "area_mm2": 78.54, "angle_deg": angle} for k in range(levels)]


def test_the_rater_follows_the_image_and_not_the_truth(load):
    rater = load("softness.rater")
    cord = cylinder(5.0, (0.6, 0.6, 3.0))
    plain = cord.with_array(100 - 60 * cord.array)
    inside = rater.hard_mask(plain, cord).array.sum() * 0.36 * 3
    assert inside == pytest.approx(cord.array.sum() * 0.36 * 3, rel=0.02)
    wider = cylinder(5.6, (0.6, 0.6, 3.0))
    shown = wider.with_array(100 - 60 * wider.array)
    drawn = rater.hard_mask(shown, cord).array.sum()
    # A blurred round border lies a little inside.
    assert drawn == pytest.approx(wider.array.sum(), rel=0.03)
    assert drawn > 1.2 * cord.array.sum()


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_rater_draws_bright_and_dark_cords_in_any_orientation(load, sign):
    rater = load("softness.rater")
    cord = cylinder(5.0, (0.8, 0.8, 0.8), levels=30)
    image = cord.with_array(100 + sign * 60 * cord.array)
    upright = rater.hard_mask(image, cord)
    turned = rater.hard_mask(image.to("PIR"), cord.to("PIR"))
    np.testing.assert_array_equal(turned.to_grid_of(upright).array, upright.array)
    assert upright.array.sum() == pytest.approx(cord.array.sum(), rel=0.03)


def test_no_rater_goes_further_than_the_reach(load):
    rater = load("softness.rater")
    cord = cylinder(5.0, (0.6, 0.6, 3.0))
    flat = cord.with_array(np.full(cord.shape, 50.0) + np.random.default_rng(0).normal(0, 5, cord.shape))
    found = rater.hard_mask(flat, cord).array > 0
    far = cylinder(5.0 + rater.REACH + 0.8, (0.6, 0.6, 3.0)).array == 0
    assert not (found & far).any()
    core = cylinder(5.0 - rater.REACH - 0.8, (0.6, 0.6, 3.0)).array == 1
    assert found[core].all()


def test_a_subject_is_the_same_again_and_its_header_hides_the_shift(load, small):
    phantoms = load("softness.phantoms")
    (first,), (again,) = phantoms.shoot(3, [small]), phantoms.shoot(3, [small])
    np.testing.assert_array_equal(first.image.array, again.image.array)
    assert first.shift == again.shift
    assert 0 < np.linalg.norm(first.shift) < 6
    (other,) = phantoms.shoot(4, [small])
    assert other.shift != first.shift
    rows = load("softness.measures").rows_between(first.slices, "six")
    measured = load("softness.measures").true_area(first.cord, rows)
    assert measured == pytest.approx(np.mean([r["area_mm2"] for r in rows]), rel=0.005)


def test_compression_flattens_the_cord_where_it_says_and_nowhere_else(load):
    phantoms = load("softness.phantoms")
    spine = phantoms.build_spine(phantoms.sample_parameters(5, anomalies="none", pathologies=False))
    flat = phantoms.compressed(spine, level=4.5, depth=0.4)
    before, after = spine.cord, flat.cord
    at = int(np.argmin(np.abs(before.level - 4.5)))
    assert after.area[at] / before.area[at] == pytest.approx(0.6 * 1.06, rel=0.01)
    away = np.abs(before.level - 4.5) > 1.8
    np.testing.assert_allclose(after.area[away], before.area[away], rtol=1e-5)
    assert (flat.sac.half_front <= spine.sac.half_front + 1e-9).all()


def test_lesions_change_the_image_inside_the_cord_and_not_its_area(load, small):
    phantoms = load("softness.phantoms")
    (sick,), (well,) = phantoms.shoot(8, [small], "lesioned"), phantoms.shoot(8, [small])
    np.testing.assert_array_equal(sick.cord.array, well.cord.array)
    assert sick.slices == well.slices
    assert sick.image.array[sick.cord.array > 0.9].std() > 1.3 * well.image.array[well.cord.array > 0.9].std()


def test_subjects_stay_on_one_side_and_folds_hold_their_contrast(load):
    data = load("softness.data")
    splits = data._splits(["s1", "s2", "s3"], 1, ["b1_noise"])
    assert len(splits) == len(data.FOLDS)
    for fold, split in zip(data.FOLDS, splits, strict=True):
        assert split["train"].count("b1_noise") == 1
        split["train"].remove("b1_noise")
        assert {c.partition("_")[0] for c in split["train"]} == {"s1", "s2"}
        assert {c.partition("_")[0] for c in split["val"]} == {"s3"}
        if fold != "all":
            assert {c.partition("_")[2] for side in split.values() for c in side} == {fold}


def test_what_is_not_known_is_ignored_in_hard_labels_too(load):
    data = load("softness.data")
    soft = Volume(np.array([[[-1.0, 0.0, 0.5, 0.51, 1.0]]], np.float32), np.eye(4))
    assert data.binarised(soft).array.ravel().tolist() == [2, 0, 0, 1, 1]


@pytest.mark.parametrize("radius", [4.0, 5.0])
def test_the_true_area_is_that_of_the_cylinder(load, radius):
    measures = load("softness.measures")
    cord = cylinder(radius, (0.5, 0.5, 5.0))
    assert measures.true_area(cord, truth_rows()) == pytest.approx(np.pi * radius**2, rel=0.003)
    tilted = measures.true_area(cord, truth_rows(angle=20.0))
    assert tilted == pytest.approx(np.pi * radius**2 * np.cos(np.deg2rad(20)), rel=0.003)
    for mode in measures.MODES:
        assert measures.mean_area(cord, range(12), mode) == pytest.approx(np.pi * radius**2, rel=0.01)


def test_slices_in_which_nothing_was_found_count_as_no_area(load):
    measures = load("softness.measures")
    cord = cylinder(5.0, (0.5, 0.5, 5.0))
    half = cord.with_array(np.where(np.arange(12) < 6, cord.array, 0).astype(np.float32))
    whole = measures.mean_area(cord, range(12), "pv")
    assert measures.mean_area(half, range(12), "pv") == pytest.approx(whole / 2, rel=0.01)
    assert measures.mean_area(cord.with_array(np.zeros_like(cord.array)), range(12), "sct") == 0


def test_masks_are_compared_and_empty_ones_are_named(load):
    measures = load("softness.measures")
    ref = cylinder(5.0, (1, 1, 1)).array >= 0.5
    found = measures.agreement(ref, ref, (1, 1, 1))
    assert (found["dice"], found["rve"], found["asd"]) == (1.0, 0.0, 0.0)
    nothing = np.zeros_like(ref)
    assert measures.agreement(ref, nothing, (1, 1, 1)) == {"dice": 0.0, "rve": None, "asd": None}
    assert measures.agreement(nothing, nothing, (1, 1, 1))["dice"] == 1.0


def test_heights_that_images_share(load):
    score = load("softness.score")
    low = Volume(np.zeros((3, 3, 10), np.float32), np.diag([1.0, 1, 2, 1]))
    shifted = np.diag([1.0, 1, -1, 1])
    shifted[2, 3] = 30.0
    high = Volume(np.zeros((3, 3, 26), np.float32), shifted)
    between = score.common_heights([low, high])
    assert between == (5.0, 18.0)
    assert score.slices_between(low, *between) == [3, 4, 5, 6, 7, 8, 9]
    assert score.slices_between(high, *between) == list(range(12, 26))


def row(arm: str, subject: str, contrast: str, area: float, *, name: str = "six", **more: object) -> dict:
    return {
        "arm": arm, "seed": 1, "set": name, "case": f"{subject}_{contrast}", "subject": subject, "contrast": contrast,
        "area": {"sct": area, "pv": area}, "truth": 80.0, "dice": 0.9, "rve": 0.0, "asd": 0.1, "above": 10, **more,
    }  # fmt: skip


def cohort(arm: str, noise: float, bias: float, dice: float = 0.9, subjects: int = 8) -> list[dict]:
    pattern = np.linspace(-1, 1, 6)
    return [
        row(arm, f"s{s}", f"c{c}", 80 + bias + noise * float(pattern[c]), dice=dice)
        for s in range(subjects)
        for c in range(6)
    ]


def test_the_spread_is_over_contrasts_of_one_subject(load):
    summary = load("softness.summary")
    rows = [row("a", "s1", c, v) for c, v in (("T1w", 78.0), ("T2w", 82.0))] + [row("a", "s2", "T1w", 60.0)]
    assert summary.spread(rows, "sct") == {(1, "s1"): pytest.approx(np.sqrt(8))}
    assert summary.figures(rows)["sct"]["std"] == pytest.approx(np.sqrt(8), abs=1e-4)


def test_a_difference_between_true_areas_is_no_error(load):
    summary = load("softness.summary")
    rows = [row("a", "s1", c, v, truth=v) for c, v in (("T1w", 78.0), ("T2w", 82.0))]
    found = summary.figures(rows)["pv"]
    assert found["std"] > 2
    assert found["std_of_error"] == 0
    assert found["error"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("noise", "bias", "dice", "reached"),
    [(0.9, 0.5, 0.9, (True, True, True)), (1.1, 0.5, 0.9, (False, True, True)), (0.9, 3.0, 0.89, (True, False, False))],
)
def test_goals_are_reached_or_missed(load, noise, bias, dice, reached):
    summary = load("softness.summary")
    rows = cohort("hard_all", 2.0, 2.0) + cohort("soft_all", noise, bias, dice)
    found = summary.summarise(rows, ["hard_all", "soft_all"])["sct"]["soft_all"]
    verdicts = tuple("reached" if value else "missed" for value in reached)
    assert tuple(found[k]["verdict"] for k in ("std_half", "error_lower", "dice_not_worse")) == verdicts


def test_nothing_is_reached_against_a_baseline_that_has_not_learned(load):
    summary = load("softness.summary")
    rows = cohort("hard_all", 2.0, 2.0, dice=0.79) + cohort("soft_all", 0.5, 0.5)
    found = summary.summarise(rows, ["hard_all", "soft_all"])
    for mode in ("sct", "pv"):
        assert {goal["verdict"] for goal in found[mode]["soft_all"].values()} == {"void"}


def test_one_voxel_in_an_empty_volume_misses_the_goal(load):
    summary = load("softness.summary")
    nothing = [
        {"arm": arm, "seed": 1, "set": "empty", "case": "n", "subject": "n", "contrast": "noise", "above": count}
        for arm, count in (("soft_all", 1), ("soft_all_dice_loss", 0), ("hard_all", 7))
    ]
    arms = ["soft_all", "soft_all_dice_loss", "hard_all"]
    for name, key in (("empty", "empty_volume"), ("cord-free", "cord_free_volume")):
        found = summary.summarise([row | {"set": name} for row in nothing], arms)[key]
        assert found["reached"] == {"soft_all": False, "soft_all_dice_loss": True}


def test_the_activation_is_chosen_on_validation_subjects_alone(load):
    summary = load("softness.summary")

    def case(name: str, clamp: float, other: float) -> dict:
        areas = {key: {"sct": v, "pv": v} for key, v in (("clamp", clamp), ("norm_relu", other), ("mask", 70.0))}
        return {"set": name, "areas": areas, "reference": {"sct": 80.0, "pv": 80.0}}

    choice, errors = summary.choose_activation([case("validation", 80.5, 83.0), case("six", 99.0, 80.0)])
    assert choice == "clamp"
    assert errors == {"clamp": 0.5, "norm_relu": 3.0}
    assert summary.choose_activation([case("validation", 90.0, 83.0)])[0] == "norm_relu"
    hard = {"set": "six", "areas": {"mask": {"sct": 1.0, "pv": 1.0}, "probability": {"sct": 1.0, "pv": 1.0}}}
    assert summary.choose_activation([hard]) == ("mask", {})


def test_models_of_one_contrast_see_no_other(load, tmp_path):
    arms = load("softness.arms")
    sets = {name: [tmp_path / f"s1_{c}.json" for c in ("T1w", "GRE-T1w", "DWI")] for name in ("six", "unseen")}
    work = arms.Work(tmp_path, "cpu", 0.5, sets, [{"name": "real"}])
    jobs = {job.name: job for job in arms.jobs_of([arms.ARMS["soft_per_contrast"], arms.ARMS["soft_all"]], [1], 1, 1)}
    assert len(jobs) == 7
    spec = work.spec_of(jobs["soft_per_contrast-T1w-1"])
    assert [Path(case).stem for case in spec["sets"]["six"]] == ["s1_T1w"]
    assert spec["sets"]["unseen"] == []
    assert spec["real"] == []
    assert len(work.spec_of(jobs["soft_all-all-1"])["sets"]["six"]) == 3


def test_arms_differ_in_labels_and_loss_only(load):
    arms = load("softness.arms")
    for arm in arms.ARMS.values():
        assert all(text.startswith("soft=") for text in arm.settings)
        assert arm.soft == bool(arm.settings)


def test_tables_and_picture_show_every_arm(load):
    summary, drawing = load("softness.summary"), load("nnunet_spine_ext.render.drawing")
    rows = cohort("hard_all", 2.0, 2.0) + cohort("soft_all", 1.0, 0.5)
    rows += [{**row("soft_all", "n", "noise", 0.0, name="empty")}]
    rows[-1].pop("area")
    text = summary.markdown(summary.table(rows, ["hard_all", "soft_all"]))
    assert text.count("\n") == 4
    widths = {line.count("|") for line in text.splitlines()}
    assert widths == {12}
    made = drawing.png(summary.picture(rows, ["hard_all", "soft_all"], "sct"), scale=1.0)
    assert made[:4] == b"\x89PNG"


def real_entry(choice="clamp"):
    """One model's answer for a pair of contrasts: `sct` hides in T1w that the map is half as high."""
    areas = {"T1w": {"sct": 70.0, "pv": 35.0}, "T2w": {"sct": 72.0, "pv": 71.0}}
    contrasts = {c: {"areas": {"clamp": own, "mask": {"sct": 1.0, "pv": 1.0}}, "slices": 3} for c, own in areas.items()}
    contrasts["T1w"] |= {"manual": 71.0, "dice": 0.4}
    group = {"group": "pair", "note": "", "contrasts": contrasts}
    return {"arm": "soft_all", "seed": 1, "choice": choice, "real": [group]}


def test_real_areas_are_reported_by_both_modes(load):
    (line,) = load("softness.summary").real_table([real_entry()])
    assert line["areas"] == {"sct": {"T1w": 70.0, "T2w": 72.0}, "pv": {"T1w": 35.0, "T2w": 71.0}}
    assert line["std"] == {"sct": round(2**0.5, 3), "pv": round(36 / 2**0.5, 3)}
    assert line["manual"] == {"T1w": 71.0}
    assert line["manual_std"] is None, "one mask has no spread"
    assert line["slices"] == {"T1w": 3, "T2w": 3}


def test_models_of_a_run_are_found_again_with_their_choice(load, tmp_path, monkeypatch):
    rescore, io = load("softness.rescore"), load("nnunet_spine_ext.core.io")
    areas = {"clamp": {"sct": 80.0, "pv": 80.0}, "norm_relu": {"sct": 60.0, "pv": 60.0}}
    row = {"set": "validation", "areas": areas, "reference": {"sct": 61.0, "pv": 61.0}}
    for name in ("soft_all-all-2", "soft_per_contrast-T1w-2"):
        folder = tmp_path / "trained" / name
        arm = name.split("-")[0]
        (folder / "nnUNet_results" / "D" / f"nnUNetTrainerSpineSoft__{arm}_2__3d_fullres").mkdir(parents=True)
        io.write_json(folder / "scores.json", {"rows": [row]})
    (tmp_path / "trained" / "soft_all-all-3").mkdir()
    monkeypatch.setattr(rescore, "Model", lambda folder, fold: folder.name)
    monkeypatch.setattr(rescore, "score_real", lambda model, group: (model, group))
    (entry,) = (rescore.scored(model, ["group"]) for model in rescore.trained(tmp_path))
    name = "nnUNetTrainerSpineSoft__soft_all_2__3d_fullres"
    assert entry == {"arm": "soft_all", "seed": 2, "choice": "norm_relu", "real": [(name, "group")]}


def test_runs_that_cannot_be_rescored_are_refused_before_anything_is_predicted(load, tmp_path, monkeypatch, capsys):
    rescore, io = load("softness.rescore"), load("nnunet_spine_ext.core.io")
    monkeypatch.setattr(rescore.real, "groups", lambda: ["group"])
    monkeypatch.setattr(rescore, "scored", lambda *_: pytest.fail("predicted"))
    monkeypatch.setattr("sys.argv", ["rescore", "--models", str(tmp_path), "--record", str(tmp_path / "new.json")])

    def refused():
        with pytest.raises(SystemExit) as stop:
            rescore.main()
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "result.json" in refused()
    io.write_json(tmp_path / "result.json", {})
    assert "no scores of a model of all contrasts" in refused()
    io.write_json(tmp_path / "trained" / "soft_all-all-2" / "scores.json", {"rows": []})
    assert "nnUNetTrainerSpineSoft__soft_all_2__3d_fullres" in refused()


def test_no_real_contrast_is_another_one_in_other_units(load, test_data, monkeypatch):
    monkeypatch.setenv("NNUNET_SPINE_TEST_DATA", str(test_data))
    read = load("nnunet_spine_ext.core.io").read_volume
    groups = load("softness.real").groups()
    assert len(groups) >= 4
    for group in groups:
        volumes = [read(Path(files["image"])) for files in group["images"].values()]
        for number, one in enumerate(volumes):
            for other in volumes[number + 1 :]:
                if one.shape == other.shape:
                    found = np.corrcoef(one.array.ravel(), other.array.ravel())[0, 1]
                    assert found < 0.999, group["name"]

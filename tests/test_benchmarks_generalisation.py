"""The parts of the generalisation benchmarks that decide what a run says: statistics, verdicts, pairing, structures."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from nnunet_spine_ext.augment.config import PRESETS, AugmentConfig
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_json, write_json

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


_SCRIPTS = ("generalisation.", "in_domain", "cross_domain", "mirroring", "training_precision")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Import a module of benchmarks/, as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def importing(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield importing
    for name in [n for n in sys.modules if n == "generalisation" or n.startswith(_SCRIPTS)]:
        del sys.modules[name]


def test_without_effects_the_interval_is_that_of_independent_values(load):
    values = np.random.default_rng(3).normal(0.01, 0.02, (6, 20))
    found = load("generalisation.crossed").crossed(values)
    plain = stats.sem(values.ravel())
    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(plain, rel=0.35)
    assert found.lower < found.mean < found.upper


def test_seeds_that_differ_widen_the_interval_however_many_cases_there_are(load):
    crossed = load("generalisation.crossed").crossed
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 0.02, (5, 1))
    values = seeds + rng.normal(0, 0.001, (5, 200))
    found = crossed(values)
    by_seed = values.mean(axis=1)
    expected = stats.t.ppf(0.95, 4) * stats.sem(by_seed)
    assert found.upper - found.mean == pytest.approx(expected, rel=0.02)


def test_the_bounds_hold_as_often_as_they_say(load):
    crossed = load("generalisation.crossed").crossed
    rng = np.random.default_rng(1)
    below = 0
    for _ in range(600):
        values = rng.normal(0, 0.01, (5, 1)) + rng.normal(0, 0.01, (1, 16)) + rng.normal(0, 0.02, (5, 16))
        below += crossed(values).lower > 0
    assert 0.02 < below / 600 < 0.08


def test_more_seeds_decide_only_what_seeds_can_decide(load):
    crossed = load("generalisation.crossed").crossed
    rng = np.random.default_rng(2)
    by_seed = crossed(rng.normal(0, 0.004, (5, 1)) + rng.normal(0, 0.0005, (5, 30)))
    needed = by_seed.seeds_for(0.004)
    assert needed is not None
    assert needed > 5
    by_case = crossed(rng.normal(0, 0.05, (1, 8)) + rng.normal(0, 0.0005, (5, 8)))
    assert by_case.seeds_for(0.004) is None


def test_one_seed_or_one_case_gives_no_interval(load):
    compare = load("generalisation.compare")
    assert compare.difference(np.zeros((1, 5)))["interval"] is None
    with pytest.raises(ValueError, match="at least two"):
        load("generalisation.crossed").crossed(np.zeros((5, 1)))


def rows_of(values: dict[str, np.ndarray], name: str = "T2w") -> list[dict]:
    return [
        {"arm": arm, "seed": s, "set": name, "case": f"c{c}", "structure": structure, "dice": float(table[s, c])}
        for arm, table in values.items()
        for s in range(table.shape[0])
        for c in range(table.shape[1])
        for structure in ("cord", "canal")
    ]


def test_differences_are_paired_over_seeds_and_cases(load):
    compare = load("generalisation.compare")
    rng = np.random.default_rng(4)
    stock = rng.uniform(0.8, 0.9, (5, 12))
    rows = rows_of({"nnunet": stock, "ours": stock + 0.01})
    rng.shuffle(rows)
    (entry,) = compare.compare(rows, ["nnunet", "ours"], ["T2w"], "nnunet")
    found = entry["differences"]["ours - nnunet"]
    assert found["mean"] == pytest.approx(0.01)
    assert found["interval"] == pytest.approx([0.01, 0.01], abs=1e-6)
    assert found["verdict"] == "decided"


@pytest.mark.parametrize(
    ("shift", "noise", "reached"),
    [(0.001, 0.0005, "met"), (-0.02, 0.0005, "missed"), (0.004, 0.01, "undecided"), (0.1, 0.01, "undecided")],
)
def test_the_claim_of_no_loss_is_met_missed_or_undecided(load, shift, noise, reached):
    script, compare = load("in_domain"), load("generalisation.compare")
    rng = np.random.default_rng(5)
    stock = rng.uniform(0.85, 0.9, (5, 16))
    ours = stock + shift + rng.normal(0, noise, (5, 1)) + rng.normal(0, noise, (5, 16))
    other = rows_of({"nnunet": stock - 0.3, "ours": ours - 0.2, "smauglab": stock - 0.25}, "T1w")
    rows = rows_of({"nnunet": stock, "ours": ours, "smauglab": stock}) + other
    table = compare.compare(rows, ["nnunet", "smauglab", "ours"], ["T2w", "T1w"], "nnunet")
    found = script.verdict(table, "T2w")
    assert found["in_domain"]["reached"] == reached
    assert not found["void"]
    assert found["ours - smauglab"]["not_below"] == 1
    assert not found["ours - smauglab"]["void"]


def test_a_run_whose_source_was_not_learned_is_void(load):
    script, compare = load("in_domain"), load("generalisation.compare")
    rows = rows_of({"nnunet": np.full((2, 3), 0.79), "ours": np.full((2, 3), 0.9)})
    found = script.verdict(compare.compare(rows, ["nnunet", "ours"], ["T2w"], "nnunet"), "T2w")
    assert found["void"]
    assert found["in_domain"]["reached"] == "void"


def test_a_peer_that_did_not_learn_its_source_says_nothing_elsewhere(load):
    script, compare = load("in_domain"), load("generalisation.compare")
    values = {"nnunet": np.full((2, 3), 0.9), "smauglab": np.full((2, 3), 0.6), "ours": np.full((2, 3), 0.9)}
    rows = rows_of(values) + rows_of(values, "T1w")
    found = script.verdict(compare.compare(rows, list(values), ["T2w", "T1w"], "nnunet"), "T2w")
    assert found["ours - smauglab"]["void"]
    assert not found["void"]


def test_networks_of_several_sources_count_once_per_volume(load):
    compare = load("generalisation.compare")
    rows = rows_of({"nnunet": np.full((2, 1), 0.4)}) + rows_of({"nnunet": np.full((2, 1), 0.6)})
    assert compare.per_case(rows, "nnunet", "T2w") == pytest.approx(np.full((2, 1), 0.5))


def test_a_folder_that_no_run_made_is_refused_and_left_alone(load, tmp_path):
    domains = load("generalisation.domains")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "precious.txt").write_text("kept")
    size = domains.Size(2, 1, 4.0, 40.0)
    with pytest.raises(SystemExit, match="choose another --out"):
        domains.make_phantoms(tmp_path, size, ["T2w"], ["T2w"], 1)
    assert (tmp_path / "tests" / "precious.txt").read_text() == "kept"


def test_relative_gain_leaves_out_domains_where_stock_finds_nothing(load):
    gains = load("cross_domain").gains
    table = [
        {"set": "T1w", "dice": {"nnunet": 0.9, "ours": 0.89}},
        {"set": "T2w", "dice": {"nnunet": 0.4, "ours": 0.6}},
        {"set": "CT", "dice": {"nnunet": 0.001, "ours": 0.5}},
    ]
    found = gains(table, "T1w", ["nnunet", "ours"])["ours"]
    assert found["relative_gain"] == pytest.approx(0.5)
    assert found["domains_in_ratio"] == 1
    assert found["absolute_gain"] == pytest.approx((0.2 + 0.499) / 2, abs=1e-4)
    assert found["in_domain_change"] == pytest.approx(-0.01)


def test_our_augmentation_is_the_preset_with_tissues(load):
    configs = load("generalisation.configs")
    config = AugmentConfig.from_dict(configs.our_augmentation())
    plain = AugmentConfig.load("shift")
    assert config.schedule == plain.schedule
    names = [transform.name for _, transform in config.flat()]
    assert names == [transform.name for _, transform in plain.flat()]
    told = [t.classes for _, t in config.flat() if hasattr(t, "classes")]
    assert told
    assert all(told)


def test_every_arm_learns_the_same_structures(load):
    domains = load("generalisation.domains")
    ids = [i for structure in domains.STRUCTURES.values() for i in structure]
    assert len(ids) == len(set(ids))
    assert set(domains.TISSUES) == {str(i) for i in domains.LABELS.values()}


@pytest.mark.parametrize(("shift", "reached"), [(0.001, True), (0.01, False), (-0.01, False)])
def test_a_difference_by_mirroring_counts_either_way(load, shift, reached):
    plain = {(f"c{c}", label): 0.7 for c in range(3) for label in ("left", "right")}
    found = load("mirroring").summarise({key: value + shift for key, value in plain.items()}, plain)
    assert found["reached"] is reached
    assert found["difference"] == pytest.approx(shift)
    assert found["by_label_mirrored_plain"]["left"] == pytest.approx([0.7 + shift, 0.7])


def test_what_an_interrupted_run_left_is_made_anew(load, tmp_path):
    domains = load("generalisation.domains")
    domains._empty(tmp_path)
    (tmp_path / "nnUNet_raw" / "half.txt").write_text("half")
    domains._empty(tmp_path)
    assert not list((tmp_path / "nnUNet_raw").iterdir())


def test_both_precisions_are_told_apart_and_timed_by_their_own_trainings(load, monkeypatch, tmp_path: Path) -> None:
    arms, script = load("generalisation.arms"), load("training_precision")
    shared = arms.Schedule(1, 1)
    own = arms.Arm("bf16", "x:Y", "python", precision="bf16")
    assert own.schedule(shared).precision == "bf16"
    assert arms.Arm("plain", "x:Y", "python").schedule(shared) == shared
    for seed, seconds in ((1, 10.0), (2, 30.0), (3, 1000.0)):
        write_json(tmp_path / "trained" / f"Dataset921_T2w-bf16-{seed}" / "scores.json", {"cpu_s": seconds})
    assert script.cpu_seconds(tmp_path, "Dataset921_T2w", "bf16", (1, 2)) == 20.0


def test_a_cpu_without_bfloat16_is_told_and_nothing_is_trained(load, monkeypatch, tmp_path: Path, capsys) -> None:
    script = load("training_precision")
    monkeypatch.setattr(script, "has_bf16", lambda _: False)
    monkeypatch.setattr(sys, "argv", ["training_precision.py", "--out", str(tmp_path / "out"), "--quick"])
    script.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["measured"] is False
    assert not (tmp_path / "out").exists()


def test_a_peer_does_not_train_in_bfloat16(load, tmp_path: Path) -> None:
    arms = load("generalisation.arms")
    peer = arms.Arm("smauglab", arms._PEER, "python")
    job = arms.Job(peer, "Dataset901_X", "plans", 1, arms.Schedule(1, 1, precision="bf16"))
    with pytest.raises(ValueError, match="smauglab trains in single precision only"):
        list(arms.run_jobs(tmp_path, [job], 1))


def test_a_run_takes_as_many_epochs_as_asked_for(load, capsys: pytest.CaptureFixture[str]) -> None:
    presets = load("generalisation.presets")
    options = presets.parser("What it does.", seeds=1)
    words = ["--out", "somewhere"]
    planned = presets.run_size(options.parse_args(words), test=2)
    longer = presets.run_size(options.parse_args([*words, "--epochs", "48"]), test=2)
    assert (longer.schedule.epochs, longer.schedule.iterations) == (48, planned.schedule.iterations)
    assert longer.size == planned.size
    assert presets.run_size(options.parse_args([*words, "--quick", "--epochs", "1"]), test=2).schedule.epochs == 1
    quick = presets.run_size(options.parse_args([*words, "--quick", "--preset", "gpu", "--test-seed", "7"]), test=2)
    assert (quick.schedule.epochs, quick.schedule.device, quick.size.train, quick.size.test_seed) == (3, "cuda", 6, 7)
    half = presets.run_size(options.parse_args([*words, "--precision", "bf16"]), test=2)
    assert (planned.schedule.precision, half.schedule.precision) == ("fp32", "bf16")
    for wrong in ("0", "-3", "many", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(SystemExit):
            options.parse_args([*words, "--epochs", wrong])
    assert "a number from 1" in capsys.readouterr().err


def test_an_arm_with_another_clean_share_has_plans_of_its_own(load, tmp_path):
    arms = load("generalisation.arms")
    write_json(tmp_path / "bench.json", {"plans_name": "bench", "spine_ext": {"augment": {"clean_share": None}}})
    (arm, whole), missing = arms.arms(sys.executable, ["ours-clean70", "ours-clean100"])
    assert (missing, whole.settings) == ([], {"augment": {"clean_share": 1.0}})
    for wrong in (
        "ours-clean",
        "ours-clean101",
        "nnunet-clean70",
        "nnunet-clip0",
        "nnunet-x",
        "nnunet-x0",
        "ours-x0.0",
        "ours-x1.5-clean70",
    ):
        with pytest.raises(SystemExit, match=f"no arm '{wrong}'"):
            arms.arms(sys.executable, [wrong])
    name = arm.plans(tmp_path, "bench")
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written == {"plans_name": name, "spine_ext": {"augment": {"clean_share": 0.7}}}
    assert arm.trainer == arms.arms(sys.executable, ["ours"])[0][0].trainer
    assert arms.arms(sys.executable, ["ours"])[0][0].plans(tmp_path, "bench") == "bench"


def test_an_arm_can_train_for_longer(load):
    arms = load("generalisation.arms")
    (plain, longer, both), missing = arms.arms(sys.executable, ["nnunet", "nnunet-x1.5", "ours-clean70-clip0-x0.5"])
    assert missing == []
    shared = arms.Schedule(epochs=12, iterations=50)
    assert plain.schedule(shared) == shared
    assert longer.schedule(shared) == replace(shared, epochs=18)
    assert (both.schedule(shared).epochs, both.name) == (6, "ours-clean70-clip0-x0.5")
    assert both.settings == {"augment": {"clean_share": 0.7}, "train": {"clip": 0.0}}


def test_a_file_is_ours_with_its_configuration(load, tmp_path):
    arms = load("generalisation.arms")
    (tmp_path / "mine.yaml").write_text("transforms: [{name: gamma, p: 1.0}]")
    (arm,), missing = arms.arms(sys.executable, [str(tmp_path / "mine.yaml")])
    assert (arm.name, missing) == ("mine", [])
    write_json(tmp_path / "bench.json", {"plans_name": "bench", "spine_ext": {"augment": {"config": "shift"}}})
    plans = read_json(tmp_path / f"{arm.plans(tmp_path, 'bench')}.json")
    found = AugmentConfig.load(plans["spine_ext"]["augment"]["config"])
    assert found == AugmentConfig.load(tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match="no such file"):
        arms.arms(sys.executable, [str(tmp_path / "nothing.yaml")])
    shutil.copy(PRESETS / "shift.yaml", tmp_path / "copy.yaml")
    (copy,), _ = arms.arms(sys.executable, [str(tmp_path / "copy.yaml")])
    assert copy.settings["augment"]["config"] == load("generalisation.configs").our_augmentation(), (
        "tissues are told alike"
    )
    for names in (["ours", "a/ours.yaml"], ["mine.yaml", "a/mine.yaml"], ["a/nnunet.yaml"]):
        (tmp_path / "a").mkdir(exist_ok=True)
        for name in (name for name in names if name != "ours"):
            shutil.copy(PRESETS / "none.yaml", tmp_path / name)
        with pytest.raises(SystemExit, match="told apart"):
            arms.arms(sys.executable, [name if name == "ours" else str(tmp_path / name) for name in names])

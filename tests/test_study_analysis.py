"""The analysis of a study finds what was planted, says what is missing, and refuses to say anything without a gap."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon
from study_cohort import (
    CASES,
    COMPONENTS,
    DROPS,
    INTERACTIONS,
    POWER,
    SHARES,
    SLOPE,
    SOURCE,
    Planted,
    make_study,
    read_rows,
    write_rows,
)

from nnunet_spine_ext.core.errors import CaseError, NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.evaluate.paired import correct
from nnunet_spine_ext.study import publishing
from nnunet_spine_ext.study.analysis import StudySummary, analyse
from nnunet_spine_ext.study.paper import SHARES as PAPER_SHARES
from nnunet_spine_ext.study.paper import sample_share
from nnunet_spine_ext.study.table_rows import percentage

TABLES = (
    "table1", "table2", "table3", "table4", "samples", "gaps", "regions", "vertebrae", "tests", "goals", "claims",
)  # fmt: skip
FIGURES = tuple(f"figure{k}" for k in range(1, 8))
BOOTSTRAP = 300


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Draw pictures small: half of the time goes into large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "_PNG_SCALE", 0.5)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a planted study that was analysed; tests read it only."""
    folder = make_study(tmp_path_factory.mktemp("study"))
    analyse(folder, bootstrap=BOOTSTRAP)
    return folder


@pytest.fixture(scope="module")
def summary(study: Path) -> StudySummary:
    """Return its summary."""
    return analyse(study, bootstrap=BOOTSTRAP)


def _rows(folder: Path, table: str) -> list[dict[str, str]]:
    return read_rows(folder / "tables" / f"{table}.csv")


def _row(folder: Path, table: str, **keys: str) -> dict[str, str]:
    return next(r for r in _rows(folder, table) if all(r[key] == value for key, value in keys.items()))


def _change(folder: Path, change: Callable[[dict[str, str]], dict[str, str] | None], name: str = "cases.csv") -> None:
    """Change the rows of a file; None takes one away."""
    rows = read_rows(folder / name)
    kept = [new for row in rows if (new := change(dict(row))) is not None]
    write_rows(folder / name, list(rows[0]), kept)


def test_planted_shares_are_found(summary: StudySummary, study: Path) -> None:
    for strategy, share in SHARES.items():
        if strategy == "none":
            continue
        found = summary.results.outcome(strategy)
        assert found is not None
        assert found.share.value == pytest.approx(share, abs=0.01)
        assert found.share.low < found.share.value < found.share.high
        row = _row(study, "table3", key=strategy)
        assert float(row["share"]) == pytest.approx(share, abs=0.01)
        assert float(row["mean_of_shares"]) == pytest.approx(share, abs=0.02)
        for scanner, drop in DROPS.items():
            assert float(row[scanner]) == pytest.approx(0.9 - drop * (1 - share), abs=0.03)
            assert found.shares[scanner].value == pytest.approx(share, abs=0.05)


def test_a_share_is_less_uncertain_than_its_parts(summary: StudySummary) -> None:
    # Subjects differ by far more (0.03) than strategies vary within them (0.004): pairing takes that out.
    found = summary.results.outcome("match")
    assert found is not None
    assert found.share.high - found.share.low < 0.02
    assert found.mean.high - found.mean.low > 0.015


def test_table_1_has_gaps_scores_and_the_mean_of_the_targets(study: Path) -> None:
    assert [row["scanner"] for row in _rows(study, "table1")] == [SOURCE, *DROPS, "mean of targets"]
    for scanner, drop in DROPS.items():
        row = _row(study, "table1", scanner=scanner)
        assert float(row["drop"]) == pytest.approx(drop, abs=0.01)
        assert float(row["quantile_distance"]) == pytest.approx(drop / SLOPE, abs=0.01)
        assert row["dice_low"] < row["dice"] < row["dice_high"]
        assert int(row["subjects"]) == 16
    mean = _row(study, "table1", role="mean")
    assert float(mean["drop"]) == pytest.approx(np.mean(list(DROPS.values())), abs=0.005)


def test_regions_and_vertebrae_have_all_metrics_with_and_without_the_best_strategy(study: Path) -> None:
    row = _row(study, "regions", strategy="None", scanner="ge-3t", region="cervical")
    assert float(row["dice"]) == pytest.approx(0.9 - 0.2 - 0.02 * 1.8, abs=0.02)
    assert (row["identified"], row["detected"], row["msd_mm"], row["subjects"]) == ("1", "1", "1", "16")
    rows = _rows(study, "vertebrae")
    assert {row["strategy"] for row in rows} == {"None", "Shift-trained"}
    assert len(rows) == 2 * 6 * 25
    assert [row["level"] for row in rows[:25]][:8] == ["C1", "C2", "C3", "C4", "C5", "C6", "C7", "T1"]


def test_components_and_interactions_are_found(summary: StudySummary, study: Path) -> None:
    for name, drop in COMPONENTS.items():
        found = next(d for d in summary.results.drops if d.place.parts == (name,))
        assert found.drop.value == pytest.approx(drop, abs=0.005)
    readings = {("resolution", "noise"): "compound", ("contrast", "bias"): "overlap"}
    for pair, extra in INTERACTIONS.items():
        found = next(d for d in summary.results.drops if set(d.place.parts) == set(pair))
        assert found.interaction.value == pytest.approx(extra, abs=0.01)
        assert found.interaction.low < found.interaction.value < found.interaction.high
        row = _row(study, "table4", component=found.title)
        assert row["reading"] == readings[pair]
        assert float(row["sum_of_parts"]) == pytest.approx(sum(COMPONENTS[part] for part in pair), abs=0.01)
    singles = [row["component"] for row in _rows(study, "table4") if row["kind"] == "single"]
    assert singles[0] == "Contrast"
    assert singles[-1] == "Intensity bias"


def test_the_power_law_is_found(summary: StudySummary) -> None:
    (curve,) = summary.results.samples
    assert curve.fit.converged
    assert [curve.fit.a.value, curve.fit.b.value, curve.fit.c.value] == pytest.approx(POWER, abs=0.03)
    assert curve.fit.converged_share == 1.0


def test_a_linear_gap_is_called_linear_and_a_bent_one_is_not(summary: StudySummary) -> None:
    found = {one.measure: one for one in summary.results.gaps}
    assert found["quantile_distance"].line is not None
    assert found["quantile_distance"].line.verdict == "a line is not contradicted"
    assert found["quantile_distance"].line.slope.value == pytest.approx(SLOPE, abs=0.02)
    assert found["quantile_distance"].pearson.value > 0.99
    assert found["quantile_distance"].spearman.value == pytest.approx(1.0)
    assert 0.9 < found["quantile_distance"].pearson_cases.value < 1.0
    assert found["feature_distance"].line is not None
    assert found["feature_distance"].line.verdict == "bends"


def test_tests_are_those_of_scipy_with_holms_correction(summary: StudySummary, study: Path) -> None:
    table: dict[tuple[str, str], dict[str, float]] = {}
    for row in read_rows(study / "cases.csv"):
        if row["factor"] == "scanner" and row["scanner"] != SOURCE:
            table.setdefault((row["strategy"], row["subject"]), {})[row["scanner"]] = float(row["dice"])
    subjects = sorted({subject for _, subject in table})
    strategies = [name for name in SHARES if name != "none"]
    raw = [
        wilcoxon(
            [np.mean(list(table[s, k].values())) - np.mean(list(table["none", k].values())) for k in subjects]
        ).pvalue
        for s in strategies
    ]
    expected = dict(zip(strategies, correct([float(p) for p in raw], "holm"), strict=True))
    for strategy in strategies:
        found = summary.results.outcome(strategy)
        assert found is not None
        assert found.test is not None
        assert found.test.p_holm == pytest.approx(expected[strategy])
        assert found.test.found.rank_biserial == 1.0
        assert len(found.tests) == len(DROPS)
        row = _row(study, "tests", strategy=found.variant.title, scanner="all targets")
        assert (row["pairs"], row["p_holm"], row["rank_biserial"]) == ("16", "<0.001", "1")
        # The larger family costs more.
        assert all(test.p_holm >= test.found.p for test in found.tests.values())


def test_p_values_match_statsmodels() -> None:
    stored = json.loads((Path(__file__).parent / "fixtures" / "oracle_statistics.json").read_text(encoding="utf-8"))
    assert correct(stored["p"], "holm") == pytest.approx(stored["corrected"]["holm"])


def test_every_file_is_there_and_equal_input_gives_equal_bytes(study: Path, tmp_path: Path) -> None:
    for name in ("cases.csv", "vertebrae.csv", "gaps.csv", "study.json"):
        shutil.copy(study / name, tmp_path / name)
    again = analyse(tmp_path, bootstrap=BOOTSTRAP)
    expected = {f"tables/{t}.{s}" for t in TABLES for s in ("csv", "md")}
    expected |= {f"figures/{f}.{s}" for f in FIGURES for s in ("svg", "png", "csv")}
    assert set(again.files) == expected | {"index.html"}
    for name in (*again.files, "summary.json"):
        assert (tmp_path / name).read_bytes() == (study / name).read_bytes(), name


def test_rows_in_another_order_give_the_same_tables(study: Path, tmp_path: Path) -> None:
    for name in ("cases.csv", "vertebrae.csv", "gaps.csv"):
        rows = read_rows(study / name)
        write_rows(tmp_path / name, list(rows[0]), rows[::-1])
    shutil.copy(study / "study.json", tmp_path / "study.json")
    analyse(tmp_path, bootstrap=BOOTSTRAP)
    for table in TABLES:
        assert (tmp_path / f"tables/{table}.csv").read_text() == (study / f"tables/{table}.csv").read_text()


def test_the_console_says_every_share_the_verdict_and_the_goals(summary: StudySummary) -> None:
    text = summary.render()
    assert "not void: the mean source-target gap without adaptation is 0.28" in text
    assert "Matching + TTA: 74.9 % [" in text
    assert "Adversarial: not run" in text
    assert "recoverable at all, by resolution: 90.0 %" in text
    assert "best: Shift-trained" in text
    statuses = {goal.key: goal.status for goal in summary.goals}
    assert statuses["match+tta"] == statuses["anchored+tta"] == statuses["shift"] == "reached"
    assert statuses["finetuned@10"] == "missed"
    assert summary.exit_code == 0
    assert all(goal.text in text for goal in summary.goals)


def test_goals_use_the_fine_tuned_column_before_the_curve(tmp_path: Path) -> None:
    make_study(tmp_path)
    rows = read_rows(tmp_path / "cases.csv")
    tuned = [
        {**row, "strategy": "finetuned", "n": "10", "dice": str(float(row["dice"]) + 0.8 * DROPS[row["scanner"]])}
        for row in rows
        if row["strategy"] == "none" and row["factor"] == "scanner" and row["scanner"] in ("ge-1.5t", "ge-3t")
    ]
    write_rows(tmp_path / "cases.csv", CASES, [*rows, *tuned])
    summary = analyse(tmp_path, bootstrap=50)
    goal = next(goal for goal in summary.goals if goal.key == "finetuned@10")
    assert goal.where == "on 2 of 5 targets"
    assert goal.value.value == pytest.approx(0.8, abs=0.01)
    row = _row(tmp_path, "table3", key="finetuned@10")
    assert (row["targets"], row["philips-3t"], row["needs"]) == ("2 of 5", "", "labels")
    # Its mean is over two scanners: it cannot be the best of five.
    best = summary.results.best()
    assert best is not None
    assert best.variant.strategy == "shift"
    data = read_rows(tmp_path / "figures" / "figure2.csv")
    assert next(r for r in data if r["strategy"] == "finetuned@10" and r["scanner"].startswith("mean"))["dice"] == ""


def test_claims_put_the_paper_beside_what_was_measured(summary: StudySummary, study: Path) -> None:
    found = {claim.subject: claim for claim in summary.claims}
    assert found["component that costs most"].agrees is False
    assert found["component that costs most"].here.startswith("contrast (0.16")
    assert found["field strength costs more than manufacturer"].here.startswith("no, difference -0.0")
    assert found["region with the lowest Dice on the targets"].agrees is True
    assert found["worst scanner"].agrees is True
    assert found["share of the gap recovered: Matching + TTA"].paper == "73.8 %"
    assert found["all 1.5 T scanners are worse than all 3 T ones"].agrees is True
    assert PAPER_SHARES["match"] == pytest.approx(0.5378, abs=1e-3)
    assert sample_share(50) == pytest.approx(0.689, abs=1e-3)
    assert len(_rows(study, "claims")) == len(summary.claims)


def test_cervical_to_lumbar_gap_is_measured_against_the_source(summary: StudySummary) -> None:
    none = summary.results.none
    expected = np.mean([1 + 4 * drop for drop in DROPS.values()])
    assert none.region_gap.value == pytest.approx(expected, rel=1e-6)
    shift = summary.results.outcome("shift")
    assert shift is not None
    assert shift.region_gap.value < none.region_gap.value


@pytest.mark.parametrize(("drop", "void"), [(0.09, True), (0.11, False)])
def test_a_small_gap_makes_the_study_void(tmp_path: Path, drop: float, void: bool) -> None:
    make_study(tmp_path, Planted(drops=dict.fromkeys(DROPS, drop), noise=0.001))
    summary = analyse(tmp_path, bootstrap=50)
    assert summary.void is void
    assert summary.exit_code == (3 if void else 0)
    assert summary.render().splitlines()[1].startswith("VOID: " if void else "not void: ")
    assert all((goal.status == "void") is void for goal in summary.goals)
    assert all(claim.agrees is None for claim in summary.claims) is void
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert ("VOID: nothing follows from this study" in page) is void
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["void"] is void


@pytest.mark.parametrize("left", ["source", "targets"])
def test_a_study_without_source_or_targets_is_void_and_writes_everything(tmp_path: Path, left: str) -> None:
    make_study(tmp_path, Planted(facts={"source": SOURCE}))
    _change(tmp_path, lambda row: row if (row["scanner"] == SOURCE) == (left == "source") else None)
    summary = analyse(tmp_path, bootstrap=50)
    assert summary.void
    assert "no score of the unadapted model" in summary.results.verdict.why
    assert all((tmp_path / name).is_file() for name in summary.files)
    if left == "targets":
        assert _row(tmp_path, "table3", key="match")["share"] == ""


def test_unstable_shares_are_said_to_be_so(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(drops={**DROPS, "philips-3t": 0.004}))
    summary = analyse(tmp_path, bootstrap=50)
    found = summary.results.outcome("match")
    assert found is not None
    assert found.shares["philips-3t"].note.startswith("unstable: gap 0.00")
    assert found.share.value == pytest.approx(0.5, abs=0.02)


def test_strategies_that_were_asked_for_and_not_run_are_shown_as_missing(tmp_path: Path) -> None:
    facts = {"unavailable": {"harmonized": "no network"}, "strategies": [*SHARES, "harmonized", "tent-of-ours"]}
    make_study(tmp_path, Planted(facts=facts))
    summary = analyse(tmp_path, bootstrap=50)
    notes = {one.variant.strategy: one.mean.note for one in summary.results.outcomes if not one.ran}
    assert notes == {
        "harmonized": "not available", "adversarial": "not run", "finetuned": "not run", "tent-of-ours": "not run",
    }  # fmt: skip
    drawn = (tmp_path / "figures" / "figure2.svg").read_text(encoding="utf-8")
    assert drawn.count(">not run<") == 3
    assert drawn.count(">not available<") == 1
    assert "not available" in (tmp_path / "tables" / "table3.md").read_text(encoding="utf-8")


def test_what_matching_did_is_told(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(subjects=7, sizes=(0, 1), done={"match": (1, 0), "none": (0, 0)}))
    analyse(tmp_path, bootstrap=50)
    told = (
        "Matching: of the target scans that were predicted, noise was reduced in 100 %, intensities were matched in "
        "0 %. Of matching, only less noise was measured."
    )
    text = (tmp_path / "tables" / "table3.md").read_text(encoding="utf-8")
    assert told in text
    assert told in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("noise was reduced") == 1, "strategies that do not match, or do not say, are not spoken of"
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["strategies"]["match"]
    assert (found["noise_reduced"], found["matched"]) == (1, 0)


def test_matching_that_did_nothing_is_told_once_for_all_strategies(tmp_path: Path) -> None:
    done = {"match": (0, 0), "match+tta": (0, 0), "none": (0, 0)}
    make_study(tmp_path, Planted(subjects=7, sizes=(0, 1), done=done))
    analyse(tmp_path, bootstrap=50)
    text = (tmp_path / "tables" / "table3.md").read_text(encoding="utf-8")
    assert text.count("Matching left all alone.") == 1
    assert "Matching, Matching + TTA: of the target scans that were predicted, noise was reduced in 0 %" in text
    assert "less noise was measured" not in text


def test_what_matching_did_is_counted_by_scan(tmp_path: Path) -> None:
    """One subject was scanned by one of the targets alone, and that scan was matched."""
    make_study(tmp_path, Planted(subjects=7, sizes=(0, 1), done={"match": (0, 0), "none": (0, 0)}))
    rows = read_rows(tmp_path / "cases.csv")
    matched = [row for row in rows if row["strategy"] == "match" and row["subject"] == "sub-000"]
    only = next(row for row in matched if row["scanner"] == "ge-3t")
    only["matched"] = "1"
    write_rows(tmp_path / "cases.csv", CASES, [row for row in rows if row is only or row not in matched])
    found = analyse(tmp_path, bootstrap=50).results.outcome("match")
    assert found is not None
    assert found.matched == pytest.approx(1 / (1 + 6 * 5))
    assert "intensities were matched in 3 %" in (tmp_path / "tables" / "table3.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.004, "less than 1 %"), (0.5, "50 %"), (0.996, "more than 99 %"), (1.0, "100 %")],
)
def test_few_are_not_none(share: float, text: str) -> None:
    assert percentage(share) == text


def test_tables_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(subjects=7, sizes=(0, 1), done={"match": (1, 0)}))
    later = ("noise_reduced", "matched")
    rows = [
        {name: value for name, value in row.items() if name not in later} for row in read_rows(tmp_path / "cases.csv")
    ]
    write_rows(tmp_path / "cases.csv", list(rows[0]), rows)
    analyse(tmp_path, bootstrap=50)
    assert "noise was reduced" not in (tmp_path / "tables" / "table3.md").read_text(encoding="utf-8")


def test_a_smoke_study_of_three_subjects_has_all_columns_and_says_too_few(study: Path, tmp_path: Path) -> None:
    make_study(tmp_path, Planted(subjects=3, sizes=(0, 1)))
    summary = analyse(tmp_path, bootstrap=50)
    for table in TABLES:
        assert list(_rows(tmp_path, table)[0]) == list(_rows(study, table)[0]), table
    row = _row(tmp_path, "table3", key="match")
    assert (row["p"], row["p_holm"]) == ("too few", "too few")
    (curve,) = summary.results.samples
    assert "too few sizes" in curve.fit.reason
    assert "too few" in summary.render()
    assert "Fewer than 6 subjects" in (tmp_path / "tables" / "table1.md").read_text(encoding="utf-8")


def test_one_subject_gets_no_interval_anywhere(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(subjects=1))
    analyse(tmp_path, bootstrap=50)
    for table in ("table1", "table2", "table3", "table4", "samples"):
        for row in _rows(tmp_path, table):
            assert all(value == "" for key, value in row.items() if key.endswith(("_low", "_high"))), (table, row)


def test_no_resamples_give_no_intervals(tmp_path: Path) -> None:
    make_study(tmp_path)
    summary = analyse(tmp_path, bootstrap=0)
    found = summary.results.outcome("match")
    assert found is not None
    assert math.isnan(found.mean.low)
    assert _row(tmp_path, "table1", scanner="ge-3t")["dice_low"] == ""


def test_several_seeds_are_averaged_and_their_spread_is_told(study: Path, tmp_path: Path) -> None:
    make_study(tmp_path, Planted(seeds=(0, 1, 2), seed_spread=0.02, noise=0.001))
    summary = analyse(tmp_path, bootstrap=50)
    row = _row(tmp_path, "table1", scanner="ge-3t")
    assert float(row["dice_seed_sd"]) == pytest.approx(0.02, abs=0.002)
    assert _row(study, "table1", scanner="ge-3t")["dice_seed_sd"] == ""
    found = summary.results.outcome("match+tta")
    assert found is not None
    assert found.share.value == pytest.approx(0.75, abs=0.01)
    assert "3 seeds" in summary.render()


def test_a_strategy_with_fewer_seeds_is_compared_over_its_own(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(seeds=(0, 1, 2), seed_spread=0.1, noise=0.001))
    # Only the worst training was adapted: against the mean of all seeds it would seem to lose.
    _change(tmp_path, lambda row: None if row["strategy"] == "tta" and row["seed"] != "0" else row)
    found = analyse(tmp_path, bootstrap=50).results.outcome("tta")
    assert found is not None
    assert found.share.value == pytest.approx(SHARES["tta"], abs=0.01)


def test_one_target_scanner_is_enough(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(drops={"ge-1.5t": 0.4}))
    summary = analyse(tmp_path, bootstrap=50)
    assert not summary.void
    assert all((tmp_path / name).is_file() for name in summary.files)
    assert _row(tmp_path, "gaps", measure="quantile_distance")["linearity"] == "too few"


def test_a_case_without_a_score_does_not_favour_a_strategy(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(spread=0.0, noise=0.0005))
    victim = "sub-003"

    def fail(row: dict[str, str]) -> dict[str, str]:
        if row["subject"] == victim and row["factor"] == "scanner":
            low = float(row["dice"]) - 0.4
            # The subject that all find hard fails under one strategy.
            return {**row, "dice": "" if row["strategy"] == "match" and row["scanner"] != SOURCE else str(low)}
        return row

    _change(tmp_path, fail)
    summary = analyse(tmp_path, bootstrap=50)
    found = summary.results.outcome("match")
    assert found is not None
    assert found.share.value == pytest.approx(SHARES["match"], abs=0.01)
    assert found.failed == len(DROPS)
    assert found.test is not None
    assert found.test.found.n == 15
    assert "predictions failed" in summary.render()


def test_failures_are_counted_once_whether_they_have_a_row_or_not(tmp_path: Path) -> None:
    make_study(tmp_path)
    columns = ("seed", "strategy", "scanner", "n", "case", "step", "reason")
    rows = [
        {
            "seed": 0,
            "strategy": "none",
            "scanner": "ge-3t",
            "n": "",
            "case": "x--case_002",
            "step": "predict",
            "reason": "?",
        },
        {
            "seed": "",
            "strategy": "harmonized",
            "scanner": "",
            "n": "",
            "case": "",
            "step": "not available",
            "reason": "?",
        },
    ]
    write_rows(tmp_path / "failures.csv", columns, rows)

    def name(row: dict[str, str]) -> dict[str, str]:
        # As the engine names cases: one name per scanner. The failed one was scored as an empty mask.
        if row["factor"] == "scanner" and row["scanner"] == "ge-3t":
            lost = row["case"] == "case_002" and row["strategy"] == "none"
            return {**row, "case": f"x--{row['case']}", "dice": "0" if lost else row["dice"]}
        return row

    _change(tmp_path, name)
    analyse(tmp_path, bootstrap=50)
    failed = {row["scanner"]: row["failed"] for row in _rows(tmp_path, "table1")}
    assert failed == {SOURCE: "0", **dict.fromkeys(DROPS, "0"), "ge-3t": "1", "mean of targets": "1"}


def test_a_scanner_on_which_everything_failed_is_said_to_have_failed(tmp_path: Path) -> None:
    make_study(tmp_path)
    _change(
        tmp_path,
        lambda row: {**row, "dice": "nan"} if row["scanner"] == "ge-3t" and row["factor"] == "scanner" else row,
    )
    summary = analyse(tmp_path, bootstrap=50)
    row = summary.results.row("ge-3t")
    assert row is not None
    assert (row.dice.note, row.failed) == ("failed", 16)
    assert not summary.void
    assert len(summary.results.none.scanners) == 4


def test_images_of_your_own_have_subjects_of_their_own(tmp_path: Path) -> None:
    planted = Planted(
        drops={"Philips+1.5": 0.3, "GE+3": 0.2}, components={}, interactions={}, sizes=(), own=True,
        shares={"none": 0.0, "match": 0.6, "tta": 0.2}, spread=0.02,
    )  # fmt: skip
    make_study(tmp_path, planted)
    for name in ("cases.csv", "vertebrae.csv", "gaps.csv"):
        _change(tmp_path, lambda row: {**row, "scanner": row["scanner"].replace(SOURCE, "Siemens+3")}, name)
    facts = {"source": "Siemens+3", "config": {"given": {"domain": "manufacturer+field_strength"}}}
    (tmp_path / "study.json").write_text(json.dumps(facts), encoding="utf-8")
    summary = analyse(tmp_path, bootstrap=BOOTSTRAP)
    assert not summary.results.cohort.crossed
    found = summary.results.outcome("match")
    assert found is not None
    # Source and target subjects differ, so the gap, and with it the share, is as uncertain as both.
    assert found.share.value == pytest.approx(0.6, abs=0.05)
    assert found.share.high - found.share.low > 0.02
    assert _rows(tmp_path, "table4") == _rows(tmp_path, "samples") == []
    assert "No components were measured" in (tmp_path / "tables" / "table4.md").read_text(encoding="utf-8")
    assert [row["scanner"] for row in _rows(tmp_path, "table1")][:3] == ["Siemens+3", "Philips+1.5", "GE+3"]
    assert "not measured in this study" in (tmp_path / "figures" / "figure3.svg").read_text(encoding="utf-8")
    assert found.test is not None
    assert found.test.found.n == 32


def test_one_person_on_two_scanners_is_not_the_whole_study(tmp_path: Path) -> None:
    drops = {"GE+1.5": 0.3, "GE+3": 0.2}
    make_study(tmp_path, Planted(drops=drops, components={}, interactions={}, sizes=(), own=True, shares={"none": 0.0}))
    traveller = {"sub-200": "sub-000"}
    _change(tmp_path, lambda row: {**row, "subject": traveller.get(row["subject"], row["subject"])})
    summary = analyse(tmp_path, bootstrap=100)
    assert not summary.results.cohort.crossed
    assert summary.results.verdict.gap.value == pytest.approx(0.25, abs=0.02)
    assert not summary.void


def test_without_vertebrae_and_gaps_the_rest_is_written(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(facts={"vertebrae": False}))
    (tmp_path / "vertebrae.csv").unlink()
    (tmp_path / "gaps.csv").unlink()
    summary = analyse(tmp_path, bootstrap=50)
    assert all((tmp_path / name).is_file() for name in summary.files)
    assert _row(tmp_path, "table2", scanner="ge-3t")["cervical"] == ""
    assert "No instance masks" in (tmp_path / "tables" / "table1.md").read_text(encoding="utf-8")
    assert "recoverable at all" not in summary.render()


def test_severities_are_kept_apart_and_pairs_find_their_parts(tmp_path: Path) -> None:
    make_study(tmp_path)
    rows = read_rows(tmp_path / "cases.csv")
    half = [
        {**row, "severity": "0.5", "dice": str(float(row["dice"]) + COMPONENTS[row["components"]] / 2)}
        for row in rows
        if row["factor"] == "component"
    ]
    write_rows(tmp_path / "cases.csv", CASES, [*rows, *half])
    summary = analyse(tmp_path, bootstrap=50)
    found = {(d.place.parts, d.place.severity): d for d in summary.results.drops}
    assert found[("resolution",), "0.5"].drop.value == pytest.approx(0.05, abs=0.005)
    assert found[("resolution",), "1"].drop.value == pytest.approx(0.10, abs=0.005)
    assert found[("resolution", "noise"), "1"].interaction.value == pytest.approx(0.05, abs=0.01)
    assert {d.place.severity for d in summary.results.headline} == {"1"}


def test_a_broken_gap_value_does_not_spoil_the_others(tmp_path: Path) -> None:
    make_study(tmp_path)
    _change(
        tmp_path, lambda row: {**row, "snr_ratio": "0" if row["scanner"] == "ge-3t" else row["snr_ratio"]}, "gaps.csv"
    )
    summary = analyse(tmp_path, bootstrap=50)
    found = next(one for one in summary.results.gaps if one.measure == "snr_ratio")
    assert found.pearson.known
    assert math.isnan(found.gaps["ge-3t"])


def _no_cases(folder: Path) -> None:
    (folder / "cases.csv").unlink()


def _only_a_head(folder: Path) -> None:
    write_rows(folder / "cases.csv", CASES, [])


def _no_dice(folder: Path) -> None:
    write_rows(folder / "cases.csv", [name for name in CASES if name != "dice"], [])


def _a_word(folder: Path) -> None:
    _change(folder, lambda row: {**row, "dice": "good"})


def _short_row(folder: Path) -> None:
    text = (folder / "cases.csv").read_text(encoding="utf-8")
    (folder / "cases.csv").write_text(text + "0,none\n", encoding="utf-8")


def _binary(folder: Path) -> None:
    (folder / "gaps.csv").write_bytes(b"\xff\xfe\x00\x01")


def _nobody_is_the_source(folder: Path) -> None:
    _change(folder, lambda row: None if row["scanner"] == SOURCE else row)
    (folder / "study.json").unlink()


@pytest.mark.parametrize(
    ("break_it", "kind", "code", "word"),
    [
        (_no_cases, NoInputError, "E-STUDY-RESULTS", "no cases.csv"),
        (_only_a_head, NoInputError, "E-STUDY-RESULTS", "no cases.csv with a row"),
        (_no_dice, CaseError, "E-STUDY-TABLE", "no column dice"),
        (_a_word, CaseError, "E-STUDY-TABLE", "'good' in line 2"),
        (_short_row, CaseError, "E-STUDY-TABLE", "2 values in line"),
        (_binary, CaseError, "E-STUDY-TABLE", "gaps.csv"),
        (_nobody_is_the_source, UsageError, "E-STUDY-SOURCE", "no source among"),
    ],
)
def test_wrong_folders_are_refused(
    tmp_path: Path, break_it: Callable[[Path], None], kind: type[SpineExtError], code: str, word: str
) -> None:
    make_study(tmp_path, Planted(subjects=2))
    break_it(tmp_path)
    with pytest.raises(kind) as caught:
        analyse(tmp_path)
    assert caught.value.code == code
    assert word in str(caught.value)


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E-STUDY-BOOTSTRAP"):
        analyse(tmp_path, bootstrap=-1)


def test_a_summary_is_json_without_nan(study: Path) -> None:
    content = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    assert content["strategies"]["match"]["share"]["value"] == pytest.approx(0.5, abs=0.01)
    assert content["strategies"]["adversarial"]["run"] is False
    assert content["strategies"]["adversarial"]["share"] == {
        "value": None,
        "low": None,
        "high": None,
        "note": "not run",
    }
    assert content["ceiling"]["share"]["value"] == pytest.approx(0.9, abs=0.01)
    assert content["best"] == "shift"


def test_a_model_that_finds_nothing_anywhere_is_void_without_a_complaint(tmp_path: Path) -> None:
    make_study(tmp_path, Planted(subjects=6))
    for name in ("cases.csv", "vertebrae.csv"):
        _change(tmp_path, lambda row: {**row, "dice": "0", "msd_mm": ""}, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = analyse(tmp_path, bootstrap=50)
    assert summary.void
    text = summary.render()
    assert "Matching: unstable: gap 0.000 [0.000, 0.000], mean Dice 0.000" in text
    assert "no better than none" in text
    found = next(claim for claim in summary.claims if claim.subject == "component that costs most")
    assert found.here.endswith("first in 0 % of resamples")
    assert "all differences are zero" in (tmp_path / "tables" / "table3.csv").read_text(encoding="utf-8")

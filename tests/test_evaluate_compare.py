"""Two or more evaluations side by side: pairs, tests, corrections, what is left out, tables, exit codes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_folders import Folders, semantic
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon
from test_evaluate_cohort import check_latex

from nnunet_spine_ext.cli.compare import main
from nnunet_spine_ext.core.errors import NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.evaluate.compare import Comparison, compare
from nnunet_spine_ext.evaluate.paired import MIN_PAIRS, compare_pairs, correct, rank_biserial, stars
from nnunet_spine_ext.evaluate.run import evaluate
from nnunet_spine_ext.evaluate.tables import CSV_COLUMNS

OPTIONS = {"nsd_tolerance_mm": 1.0, "iou_threshold": 0.5, "matching": "iou", "instance_ids": "spineps"}
VALUES = st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=MIN_PAIRS, max_size=30)


# --- the arithmetic --------------------------------------------------------------------------------------------------


@given(VALUES)
def test_wilcoxon_equals_scipy(pairs: list[tuple[float, float]]) -> None:
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    found = compare_pairs(a, b, "higher", resamples=50)
    differences = np.subtract(b, a)
    if np.count_nonzero(differences) < MIN_PAIRS:
        assert math.isnan(found.p)
        assert "differ" in found.reason
        return
    theirs = wilcoxon(differences)
    assert found.statistic == pytest.approx(theirs.statistic, abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert found.median_difference == pytest.approx(np.median(differences))
    assert found.mean_difference == pytest.approx(differences.mean())
    assert -1 <= found.rank_biserial <= 1
    assert found.ci_low <= found.ci_high


def test_pairs_that_do_not_differ_make_no_result_significant() -> None:
    # With many ties scipy approximates: five differences get p = 0.043, which no exact test could give.
    b = [0.1, 0.2, 0.3, 0.4, 0.5] + [0.0] * 11
    assert wilcoxon(b).pvalue < 0.05
    found = compare_pairs([0.0] * 16, b, "higher")
    assert math.isnan(found.p)
    assert found.reason == "5 pairs of 16 differ, fewer than 6"
    assert compare_pairs([0.0] * 16, [0.1, *b[:15]], "higher").p < 0.05


@given(VALUES)
def test_exchanging_both_sides_changes_the_sign_only(pairs: list[tuple[float, float]]) -> None:
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    one, other = compare_pairs(a, b, "lower"), compare_pairs(b, a, "lower")
    assert one.p == pytest.approx(other.p, nan_ok=True)
    assert one.rank_biserial == pytest.approx(-other.rank_biserial, nan_ok=True)
    assert one.median_difference == pytest.approx(-other.median_difference)
    assert compare_pairs(a, b, "higher").rank_biserial == pytest.approx(-one.rank_biserial, nan_ok=True)


def test_rank_biserial_by_hand() -> None:
    # Ranks 1 to 4; the second is negative: (1 + 3 + 4 - 2) / 10.
    assert rank_biserial(np.array([0.1, -0.2, 0.3, 0.4, 0.0])) == pytest.approx(0.6)
    assert rank_biserial(np.array([1.0, 2.0])) == 1.0
    assert math.isnan(rank_biserial(np.zeros(3)))


def test_failures_count_as_the_worst_values() -> None:
    a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, math.inf, math.inf]
    b = [1.5, 2.5, 3.5, 4.5, 5.5, math.inf, math.inf, 9.0]
    found = compare_pairs(a, b, "lower")
    # One failure more on each side, equally bad; the common one is no difference.
    assert found.p == pytest.approx(wilcoxon([0.5] * 5 + [99.0, 0.0, -99.0]).pvalue)
    assert math.isnan(found.mean_difference)
    assert found.median_difference == 0.5
    assert found.rank_biserial < 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_keep_their_promises(p: list[float]) -> None:
    holm, bonferroni = correct(p, "holm"), correct(p, "bonferroni")
    assert correct(p, "none") == p
    for k, value in enumerate(p):
        assert value <= holm[k] <= bonferroni[k] == min(1.0, value * len(p))
        # Written from Holm's definition: the largest corrected value of all that are not larger.
        order = sorted(p)
        steps = [min(1.0, order[i] * (len(p) - i)) for i in range(len(p)) if order[i] <= value]
        assert holm[k] == pytest.approx(max(steps))


def test_holm_by_hand_and_tests_that_were_not_made() -> None:
    assert correct([0.01, math.nan, 0.04, 0.03], "holm") == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert correct([0.01, 0.04, 0.03], "bonferroni") == pytest.approx([0.03, 0.12, 0.09])
    assert [stars(p) for p in (0.05, 0.049, 0.009, 0.0009, math.nan)] == ["", "*", "**", "***", ""]


# --- folders ---------------------------------------------------------------------------------------------------------


def fake(
    folder: Path,
    values: dict[str, dict[str, float]],
    *,
    subjects: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    facts: dict[str, dict[str, str]] | None = None,
    failed: tuple[str, ...] = (),
    scope: str = "class",
    label: str = "cord",
) -> Path:
    """Write an evaluation folder: `values` by metric and case."""
    rows = [
        f"{case},1,{label},{metric},{value!r},{scope},done,"
        for metric, of in values.items()
        for case, value in of.items()
    ]
    write_text(folder / "metrics.csv", "\n".join([",".join(CSV_COLUMNS), *rows]) + "\n")
    cases = sorted({case for of in values.values() for case in of} | set(failed))
    entries = {
        case: {
            "status": "failed" if case in failed else "done",
            "mean_over_classes": {
                metric: of[case] if math.isfinite(of[case]) else None for metric, of in values.items() if case in of
            },
            "subject": (subjects or {}).get(case, case),
            "facts": (facts or {}).get(case, {}),
        }
        for case in cases
    }
    content = {
        "cases": entries,
        "options": {**OPTIONS, **(options or {})},
        "inputs": {"cases": "cases.json" if facts else None},
    }
    write_json(folder / "summary.json", content)
    return folder


def dice(n: int = 10, gain: float = 0.0, seed: int = 0) -> dict[str, float]:
    values = np.random.default_rng(seed).uniform(0.6, 0.9, n)
    return {f"case{k:02d}": round(float(value) + gain * (1 + k % 3), 6) for k, value in enumerate(values)}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Folders of two models, the second one better, and an output folder."""
    a = fake(tmp_path / "one" / "scores", {"dice": dice(), "assd": dice()})
    b = fake(tmp_path / "two" / "scores", {"dice": dice(gain=0.02), "assd": dice(gain=-0.02)})
    return a, b, tmp_path / "out"


def table(out: Path) -> list[dict[str, str]]:
    with (out / "comparison.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def strict(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def only(result: Comparison, metric: str = "dice", scope: str = "class", group: str | None = None) -> Any:
    return next(r for r in result.rows if (r.key.metric, r.key.scope, r.group) == (metric, scope, group))


def test_the_better_model_is_found_and_said(two: tuple[Path, Path, Path]) -> None:
    a, b, out = two
    result = compare(a, [b], out)
    assert result.exit_code == 0
    assert result.names == ("one", "two")
    assert sorted(p.name for p in out.iterdir()) == [f"comparison.{end}" for end in ("csv", "json", "md", "tex")]
    row = only(result)
    before, after = list(dice().values()), list(dice(gain=0.02).values())
    assert row.tests[0].p == pytest.approx(wilcoxon(np.subtract(after, before)).pvalue)
    # Four tests: both metrics, for the class and for the mean over classes; all have the same p-value.
    assert row.corrected[0] == pytest.approx(4 * row.tests[0].p)
    assert {r.better(0) for r in result.rows} == {"b"}
    assert only(result, "assd").tests[0].rank_biserial == 1.0
    records = table(out)
    assert len(records) == 4
    assert {(r["a"], r["b"], r["better"], r["n"]) for r in records} == {("one", "two", "b", "10")}
    assert float(records[0]["median_difference"]) == pytest.approx(0.04)
    content = strict(out / "comparison.json")
    assert content == result.to_dict()
    assert content["statistics"][0]["name"] == "one"
    text = (out / "comparison.md").read_text(encoding="utf-8")
    assert "Holm correction" in text
    assert "cord, dice: two is better" in result.render()
    tex = (out / "comparison.tex").read_text(encoding="utf-8")
    check_latex(tex)
    line = next(line for line in tex.splitlines() if line.startswith("cord"))
    assert "mathbf" not in line.split(" & ")[1]
    assert r"^{**}" in line.split(" & ")[2]
    assert r"\mathbf" in line.split(" & ")[2]


def test_same_input_same_bytes(two: tuple[Path, Path, Path]) -> None:
    a, b, out = two
    compare(a, [b], out)
    first = [path.read_bytes() for path in sorted(out.iterdir())]
    compare(a, [b], out)
    assert first == [path.read_bytes() for path in sorted(out.iterdir())]


def test_three_models_share_one_correction(two: tuple[Path, Path, Path]) -> None:
    a, b, out = two
    c = fake(a.parent.parent / "three" / "scores", {"dice": dice(seed=3), "assd": dice(seed=4)})
    result = compare(a, [b, c], out, names=("base", "ours", "theirs"), metrics=("dice",), scopes=("class",))
    row = only(result)
    assert [len(row.tests), len(row.statistics)] == [2, 3]
    assert row.corrected[0] == pytest.approx(2 * row.tests[0].p)
    assert [r["b"] for r in table(out)] == ["ours", "theirs"]
    assert "## base and theirs" in (out / "comparison.md").read_text(encoding="utf-8")
    check_latex((out / "comparison.tex").read_text(encoding="utf-8"))


def test_cases_of_a_subject_are_averaged_first(tmp_path: Path) -> None:
    subjects = {f"case{k:02d}": f"s{k // 2}" for k in range(14)}
    a = fake(tmp_path / "a", {"dice": dice(14)}, subjects=subjects)
    b = fake(tmp_path / "b", {"dice": dice(14, seed=1)}, subjects=subjects)
    row = only(compare(a, [b], tmp_path / "out"))
    one, other = (np.reshape(list(dice(14, seed=seed).values()), (7, 2)).mean(axis=1) for seed in (0, 1))
    assert row.tests[0].n == 7
    assert row.tests[0].p == pytest.approx(wilcoxon(other - one).pvalue)
    by_case = only(compare(a, [b], tmp_path / "out", unit="case"))
    assert by_case.tests[0].n == 14
    write_json(tmp_path / "cases.json", {"cases": {case: {"subject": "only"} for case in subjects}})
    result = compare(a, [b], tmp_path / "out", cases=tmp_path / "cases.json")
    assert only(result).tests[0].reason == f"1 pair, at least {MIN_PAIRS} are needed"


def test_signed_errors_are_compared_by_size(tmp_path: Path) -> None:
    errors = {f"case{k}": float(k + 1) for k in range(8)}
    a = fake(tmp_path / "a", {"volume_error": {case: -value for case, value in errors.items()}})
    b = fake(tmp_path / "b", {"volume_error": {case: value / 2 for case, value in errors.items()}})
    row = only(compare(a, [b], tmp_path / "out"), "volume_error")
    assert row.tests[0].rank_biserial == 1.0
    assert row.tests[0].median_difference == pytest.approx(-2.25)
    assert row.statistics[0].mean == -4.5


def test_cases_that_one_folder_lacks(tmp_path: Path) -> None:
    a = fake(tmp_path / "a", {"dice": dice(8), "assd": dice(8)}, failed=("broken",))
    fewer = {case: value for case, value in dice(8, gain=0.01).items() if case != "case03"}
    more = fewer | {"broken": 0.5}
    b = fake(tmp_path / "b", {"dice": more, "assd": more})
    result = compare(a, [b], tmp_path / "out")
    assert result.exit_code == 3
    assert {case: problem.code for case, problem in result.summary.failed.items()} == {
        "case03": "E-COMPARE-ONLY", "broken": "E-COMPARE-ONLY",
    }  # fmt: skip
    assert "not scored in b" in result.render()
    assert only(result).tests[0].n == 7
    worst = compare(a, [b], tmp_path / "out", missing="worst")
    assert worst.exit_code == 0
    assert [p.code for p in worst.summary.warnings["case03"]] == ["W-COMPARE-ONLY"]
    row = only(worst)
    assert row.tests[0].n == 9
    values = [dice(8), dice(8, gain=0.01)]
    differences = [values[1][case] - values[0][case] for case in fewer] + [0.0 - values[0]["case03"], 0.5]
    assert row.tests[0].p == pytest.approx(wilcoxon(differences).pvalue)
    assert row.statistics[1].lowest == 0.0
    assert only(worst, "assd").statistics[1].excluded_infinite == 1
    strict(tmp_path / "out" / "comparison.json")


def test_undefined_and_infinite_values_are_left_out_and_counted(tmp_path: Path) -> None:
    a = fake(tmp_path / "a", {"assd": dice(9) | {"case00": math.nan, "case01": math.inf}})
    b = fake(tmp_path / "b", {"assd": dice(9, gain=0.01) | {"case00": math.nan, "case02": math.inf}})
    row = only(compare(a, [b], tmp_path / "out"), "assd")
    assert (row.tests[0].n, row.undefined, row.infinite) == (6, 1, 2)
    # One class only: where it is infinite, so is the mean over classes.
    assert table(tmp_path / "out")[0]["excluded_infinite"] == "2"
    worst = only(compare(a, [b], tmp_path / "out", missing="worst"), "assd")
    assert (worst.tests[0].n, worst.undefined, worst.infinite) == (8, 1, 0)


def two_classes(folder: Path, cord: dict[str, float], canal: dict[str, float]) -> Path:
    """Write an evaluation folder with one metric of two classes."""
    fake(folder, {"assd": cord})
    with (folder / "metrics.csv").open("a", encoding="utf-8") as stream:
        stream.writelines(f"{case},2,canal,assd,{value!r},class,done,\n" for case, value in canal.items())
    return folder


def test_missing_a_hard_class_does_not_improve_the_mean_over_classes(tmp_path: Path) -> None:
    easy, hard = dict.fromkeys(dice(8), 1.0), dict.fromkeys(dice(8), 5.0)
    a = two_classes(tmp_path / "a", easy, hard)
    b = two_classes(tmp_path / "b", dict.fromkeys(easy, 1.1), dict.fromkeys(hard, math.inf))
    row = only(compare(a, [b], tmp_path / "out"), "assd", "overall")
    # Only the class that both found is compared; the mean of b alone, 1.1, would beat a's 3.
    assert [one.mean for one in row.statistics] == pytest.approx([1.0, 1.1])
    assert row.tests[0].rank_biserial == -1.0
    worst = only(compare(a, [b], tmp_path / "out", missing="worst"), "assd", "overall")
    assert worst.tests[0].rank_biserial == -1.0
    assert (worst.statistics[0].mean, worst.statistics[1].excluded_infinite) == (3.0, 8)
    assert worst.better(0) == "a"


def test_the_best_value_of_a_signed_error_is_the_smallest_one(tmp_path: Path) -> None:
    # a is off by 10 in both directions, b by 1 in one: the mean of a is 0, and a is worse.
    a = fake(tmp_path / "a", {"volume_error": {f"case{k}": 10.0 * (-1) ** k for k in range(8)}})
    b = fake(tmp_path / "b", {"volume_error": {f"case{k}": 1.0 + 0.01 * k for k in range(8)}})
    result = compare(a, [b], tmp_path / "out", scopes=("class",))
    assert result.rows[0].better(0) == "b"
    text = (tmp_path / "out" / "comparison.tex").read_text(encoding="utf-8")
    assert "$0.00 \\pm" in text
    assert "\\mathbf{1.0" in text


def test_too_few_pairs_and_equal_folders_give_no_p_value(tmp_path: Path) -> None:
    one = fake(tmp_path / "a", {"dice": dice(1)})
    result = compare(one, [fake(tmp_path / "b", {"dice": dice(1, gain=0.1)})], tmp_path / "out")
    assert result.exit_code == 0
    assert math.isnan(only(result).tests[0].p)
    assert only(result).tests[0].reason == "1 pair, at least 6 are needed"
    assert "not tested: 1 pair, at least 6 are needed (2 tests)" in result.render()
    assert strict(tmp_path / "out" / "comparison.json")["tests"][0]["p"] is None
    assert table(tmp_path / "out")[0]["p"] == "nan"
    check_latex((tmp_path / "out" / "comparison.tex").read_text(encoding="utf-8"))
    same = fake(tmp_path / "c", {"dice": dice(9)})
    twin = fake(tmp_path / "d", {"dice": dice(9)})
    assert "all differences are zero (2 tests)" in compare(same, [twin], tmp_path / "out").render()


def test_every_value_of_a_fact_on_its_own(tmp_path: Path) -> None:
    facts = {f"case{k:02d}": {"manufacturer": ("GE", "Siemens")[k % 2]} for k in range(16)}
    a = fake(tmp_path / "a", {"dice": dice(16)}, facts=facts)
    b = fake(tmp_path / "b", {"dice": dice(16, gain=0.01)}, facts=facts)
    result = compare(a, [b], tmp_path / "out", by="manufacturer", scopes=("class",), correction="bonferroni")
    assert [row.group for row in result.rows] == [None, "GE", "Siemens"]
    ge = only(result, group="GE")
    assert ge.tests[0].n == 8
    assert ge.corrected[0] == pytest.approx(3 * ge.tests[0].p)
    assert "cord (GE), dice: b is better" in result.render()
    with pytest.raises(UsageError, match="did you mean 'manufacturer'"):
        compare(a, [b], tmp_path / "other", by="manufacture")
    plain = fake(tmp_path / "c", {"dice": dice(16)})
    other = fake(tmp_path / "d", {"dice": dice(16)})
    with pytest.raises(UsageError, match=r"no cases\.json"):
        compare(plain, [other], tmp_path / "other", by="manufacturer")


def test_different_metrics_and_labels_are_told(tmp_path: Path) -> None:
    a = fake(tmp_path / "a", {"dice": dice(), "iou": dice(), "mine": dice()})
    b = fake(tmp_path / "b", {"dice": dice(gain=0.1), "assd": dice()})
    result = compare(a, [b], tmp_path / "out")
    assert {row.key.metric for row in result.rows} == {"dice"}
    assert result.remarks == [
        "a alone has iou: left out.",
        "b alone has assd: left out.",
        "a has metrics that this version does not know: mine.",
    ]
    with pytest.raises(UsageError, match="which b does not have"):
        compare(a, [b], tmp_path / "other", metrics=("iou",))
    # Other classes of a folder do not enter its mean over classes either.
    more = two_classes(tmp_path / "more", dice(), dice(gain=9.0))
    result = compare(b, [more], tmp_path / "out")
    assert "more alone has the labels canal" in result.remarks[-1]
    assert only(result, "assd", "overall").statistics[1].mean == only(result, "assd").statistics[1].mean < 1
    c = fake(tmp_path / "c", {"dice": dice()}, label="canal")
    with pytest.raises(UsageError, match="E-COMPARE-NOTHING"):
        compare(a, [c], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "metric", "code"),
    [
        ({"nsd_tolerance_mm": 2.0}, "nsd", "E-COMPARE-OPTIONS"),
        ({"nsd_tolerance_mm": 2.0}, "dice", None),
        ({"matching": "overlap"}, "level_dice", "E-COMPARE-OPTIONS"),
        ({"iou_threshold": 0.3}, "pq", "E-COMPARE-OPTIONS"),
        ({"missing_distance_mm": 30.0}, "localisation_distance", "E-COMPARE-OPTIONS"),
        ({"missing_distance_mm": 30.0}, "id_rate", None),
    ],
)
def test_evaluations_made_in_another_way_are_refused(
    options: dict[str, Any], metric: str, code: str | None, tmp_path: Path
) -> None:
    a = fake(tmp_path / "a", {metric: dice()})
    b = fake(tmp_path / "b", {metric: dice(gain=0.1)}, options=options)
    if code is None:
        assert compare(a, [b], tmp_path / "out").exit_code == 0
        return
    with pytest.raises(UsageError, match=code):
        compare(a, [b], tmp_path / "out")


def test_no_common_case_is_exit_code_4(tmp_path: Path) -> None:
    a = fake(tmp_path / "a", {"dice": dice(3)})
    b = fake(tmp_path / "b", {"dice": {"x": 0.5}})
    with pytest.raises(NoInputError) as caught:
        compare(a, [b], tmp_path / "out")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"b": ["one/scores"]}, "E-COMPARE-FOLDERS"),
        ({"b": []}, "E-COMPARE-FOLDERS"),
        ({"names": ("x",)}, "E-COMPARE-NAMES"),
        ({"names": ("x", "x")}, "E-COMPARE-NAMES"),
        ({"metrics": ("dise",)}, "E-EVAL-METRIC"),
        ({"scopes": ("clas",)}, "E-COMPARE-SCOPE"),
        ({"unit": "patient"}, "E-COMPARE-RANGE"),
        ({"missing": "best"}, "E-COMPARE-RANGE"),
        ({"correction": "sidak"}, "E-COMPARE-RANGE"),
        ({"bootstrap": -1}, "E-COMPARE-RANGE"),
        ({"o": "two/scores"}, "E-OUT-INPUT"),
        ({"a": "nowhere"}, "E-COMPARE-FOLDER"),
        ({"cases": "nowhere.json"}, "E-EVAL-CASES"),
    ],
    ids=str,
)
def test_wrong_usage_starts_nothing(change: dict[str, Any], code: str, two: tuple[Path, Path, Path]) -> None:
    a, b, out = two
    base = a.parent.parent
    paths = {"a": a, "b": [b], "o": out} | {
        key: [base / one for one in value] if isinstance(value, list) else base / value
        for key, value in change.items() if key in ("a", "b", "o", "cases")
    }  # fmt: skip
    with pytest.raises(SpineExtError) as caught:
        compare(**{**change, **paths})
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert not out.exists()


def test_an_unfinished_evaluation_is_refused(two: tuple[Path, Path, Path]) -> None:
    a, b, out = two
    (b / "summary.json").unlink()
    with pytest.raises(UsageError, match="no finished evaluation"):
        compare(a, [b], out)
    fake(b, {"dice": dice()})
    write_text(b / "metrics.csv", "case,metric\na,dice\n")
    with pytest.raises(UsageError, match="no finished evaluation"):
        compare(a, [b], out)


def test_evaluate_and_compare_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = Folders(tmp_path)
    for k in range(7):
        bad = semantic()
        bad[1 : 2 + k % 2] = 0
        folders.add(f"case{k}", semantic(), bad)
    other = tmp_path / "other"
    evaluate(folders.ref, folders.pred, folders.out)
    evaluate(folders.ref, folders.ref, other)
    words = ["-a", str(folders.out), "-b", str(other), "-o", str(tmp_path / "out"), "--json", "-q"]
    assert main([*words, "--metrics", "dice", "--scopes", "class", "--names", "bad", "perfect"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["better"] for row in content["tests"] if row["n"]] == ["b", "b"]
    assert content["tests"][2]["reason"] == "no pair"  # the disc is in no mask
    (folders.pred / "case0.nii.gz").unlink()
    write_text(folders.pred / "case0.mha", "broken")
    assert evaluate(folders.ref, folders.pred, folders.out).exit_code == 3
    assert main(words) == 3
    assert list(json.loads(capsys.readouterr().out)["run"]["failed"]) == ["case0"]


def test_areas_of_the_cord_are_referred_to_the_command_that_compares_them(tmp_path: Path) -> None:
    (tmp_path / "area").mkdir()
    table = tmp_path / "area" / "csa.csv"
    table.write_text("case,subject,contrast,range,csa\na,s,T1w,C2:C3,80.0\n")
    for areas in (table.parent, table):
        with pytest.raises(UsageError, match="nnUNetv2_spine_csa_drift") as caught:
            compare(areas, [areas], tmp_path / "out")
        assert caught.value.code == "E-COMPARE-AREAS"


def test_a_file_in_place_of_its_folder_is_no_table_of_areas(tmp_path: Path) -> None:
    scores = tmp_path / "metrics.csv"
    for _ in range(2):
        with pytest.raises(UsageError, match="name its output folder") as caught:
            compare(scores, [scores], tmp_path / "out")
        assert caught.value.code == "E-COMPARE-FOLDER"
        scores.write_text("case,scope,metric,value\na,class,dice,0.9\n")

"""Subjects, intervals, groups of cases, LaTeX, several processes, and runs that do not end."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_folders import Folders, instances, save, semantic
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from nnunet_spine_ext.cli.evaluate import main
from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.evaluate import result as result_module
from nnunet_spine_ext.evaluate import statistic as statistic_module
from nnunet_spine_ext.evaluate import work
from nnunet_spine_ext.evaluate.cases import LabelSet
from nnunet_spine_ext.evaluate.prepare import Job
from nnunet_spine_ext.evaluate.scoring import Settings
from nnunet_spine_ext.evaluate.statistic import Resampling, statistic

VALUES = st.lists(st.floats(-5, 5, allow_nan=False), min_size=2, max_size=12)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


# --- intervals -------------------------------------------------------------------------------------------------------


@given(VALUES, st.integers(0, 3))
def test_interval_equals_scipy_with_one_case_per_subject(values: list[float], seed: int) -> None:
    cases = [f"case{k:02d}" for k in range(len(values))]
    found = statistic(values, cases, Resampling({}, 200, seed))
    theirs = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=200, method="percentile", vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    assert found.ci_low == pytest.approx(theirs.low, abs=1e-9)
    assert found.ci_high == pytest.approx(theirs.high, abs=1e-9)
    assert found.subjects == len(values)


def test_cases_of_a_subject_are_drawn_together() -> None:
    values = {"a1": 1.0, "a2": 3.0, "b1": 5.0, "c1": 2.0, "c2": math.nan, "d1": math.inf}
    subject_of = {case: case[0] for case in values}
    found = statistic(list(values.values()), list(values), Resampling(subject_of, 500, 7))
    members = {"a": [1.0, 3.0], "b": [5.0], "c": [2.0]}
    drawn = np.random.default_rng(7).integers(0, 3, (500, 3))
    means = [np.mean([v for k in row for v in members["abc"[k]]]) for row in drawn]
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert (found.subjects, found.n, found.excluded_undefined, found.excluded_infinite) == (3, 4, 1, 1)
    assert (found.q1, found.median, found.q3) == pytest.approx((1.75, 2.5, 3.5))


def test_one_subject_has_no_interval() -> None:
    found = statistic([1.0, 2.0], ["a1", "a2"], Resampling({"a1": "a", "a2": "a"}))
    assert (found.ci_low, found.ci_high, found.subjects) == (None, None, 1)
    assert statistic([1.0, 2.0], ["a", "b"], Resampling({}, 0)).ci_low is None
    assert statistic([1.0, 2.0]).ci_low is None


def test_large_cohorts_are_drawn_in_chunks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(30).tolist()
    cases = [str(k) for k in range(30)]
    whole = statistic(values, cases, Resampling({}, 100, 5))
    monkeypatch.setattr(statistic_module, "_CHUNK", 64)
    assert statistic(values, cases, Resampling({}, 100, 5)) == whole


# --- cases.json ------------------------------------------------------------------------------------------------------


def worse(slabs: int) -> np.ndarray:
    array = semantic()
    array[1 : 1 + slabs] = 0
    return array


def entry(subject: str, **facts: Any) -> dict[str, Any]:
    return {"subject": subject, "sources": [], "labelled": True, **facts}


def four_cases(folders: Folders, *, cases: dict[str, Any] | None = None) -> None:
    for k, name in enumerate("abcd"):
        folders.add(name, semantic(), worse(k))
    table = cases or {
        "a": entry("s1", manufacturer="Siemens", field_strength=3.0),
        "b": entry("s1", manufacturer="Siemens", field_strength=1.5),
        "c": entry("s2", manufacturer="GE", field_strength=3.0),
        "d": entry("s3", manufacturer=None),
        "elsewhere": entry("s9"),
    }
    write_json(folders.ref.parent / "cases.json", {"version": 1, "cases": table})


def test_subjects_come_from_the_dataset(folders: Folders) -> None:
    four_cases(folders)
    folders.run(metrics=("dice",))
    content = folders.summary()
    assert [content["cases"][case]["subject"] for case in "abcd"] == ["s1", "s1", "s2", "s3"]
    assert content["cases"]["b"]["facts"]["field_strength"] == "1.5"
    assert content["inputs"]["cases"] == str(folders.ref.parent / "cases.json")
    cord = content["classes"][0]["metrics"]["dice"]
    assert (cord["n"], cord["subjects"]) == (4, 3)
    assert cord["ci_low"] < cord["mean"] < cord["ci_high"]
    assert (content["options"]["bootstrap"], content["options"]["seed"]) == (1000, 0)
    assert folders.run(metrics=("dice",), seed=1).resampling.seed == 1
    none = folders.run(metrics=("dice",), bootstrap=0).to_dict()["classes"][0]["metrics"]["dice"]
    assert none["ci_low"] is None


def test_without_cases_json_every_case_is_a_subject_and_the_table_says_so(folders: Folders) -> None:
    folders.add("a", semantic(), worse(1))
    folders.add("b", semantic(), worse(2))
    folders.run(metrics=("dice",))
    assert folders.summary()["cases"]["a"]["subject"] == "a"
    assert "no cases.json: each counts as one subject" in (folders.out / "summary.md").read_text(encoding="utf-8")


def test_a_case_that_cases_json_does_not_name_is_told(folders: Folders) -> None:
    four_cases(folders, cases={"a": entry("s1")})
    result = folders.run(metrics=("dice",))
    assert result.exit_code == 0
    assert sorted(result.summary.warnings) == ["b", "c", "d"]
    assert result.summary.warnings["b"][0].code == "W-EVAL-NOSUBJECT"
    assert result.to_dict()["cases"]["b"]["subject"] == "b"


def test_groups_of_cases(folders: Folders) -> None:
    four_cases(folders)
    for name in "abcd":
        folders.add_instances(name, instances(), instances() if name != "d" else None)
    result = folders.run(metrics=("dice", "pq"), by=("manufacturer", "field_strength"))
    content = folders.summary()["by"]
    assert list(content["manufacturer"]) == ["GE", "Siemens", "unknown"]
    assert list(content["field_strength"]) == ["1.5", "3", "unknown"]
    siemens = content["manufacturer"]["Siemens"]
    assert (siemens["cases"], siemens["subjects"]) == (["a", "b"], 1)
    cord = next(line for line in siemens["classes"] if line["label"] == "cord")["metrics"]["dice"]
    assert cord["mean"] == pytest.approx((1 + 2 * 7 / 15) / 2)
    assert next(line for line in content["manufacturer"]["unknown"]["groups"])["metrics"]["pq"]["mean"] == 0.0
    text = result.render()
    assert "## By manufacturer" in text
    assert "| manufacturer | metric | GE (n = 1) | Siemens (n = 2) | unknown (n = 1) |" in text
    assert "| vertebra | pq | 1.000 (1) | 1.000 ± 0.000 (2) | 0.000 (1) |" in text


@pytest.mark.parametrize(
    ("by", "hint"), [("manufacture", "did you mean 'manufacturer'"), ("TE", "known: "), ("sources", "known: ")]
)
def test_a_key_that_no_case_has_is_wrong_usage(by: str, hint: str, folders: Folders) -> None:
    four_cases(folders)
    with pytest.raises(UsageError, match=hint) as caught:
        folders.run(by=(by,))
    assert caught.value.code == "E-EVAL-BY"
    assert not folders.out.exists()


def test_groups_need_cases_json_and_a_broken_one_is_refused(folders: Folders, tmp_path: Path) -> None:
    folders.add("a", semantic(), semantic())
    with pytest.raises(UsageError, match=r"no cases\.json"):
        folders.run(by=("manufacturer",))
    for content in ({"cases": {"a": {}}}, {"a": 1}, [], {"cases": {"a": 3}}):
        write_json(tmp_path / "mine.json", content)
        with pytest.raises(UsageError, match="E-EVAL-CASES"):
            folders.run(cases=tmp_path / "mine.json")
    with pytest.raises(UsageError, match="E-EVAL-CASES"):
        folders.run(cases=tmp_path / "nowhere.json")
    write_json(tmp_path / "mine.json", {"cases": {"a": entry("who", site="B")}})
    assert folders.run(cases=tmp_path / "mine.json", by=("site",)).groups == {"site": {"B": ["a"]}}


@pytest.mark.parametrize(
    "change",
    [{"bootstrap": -1}, {"seed": -1}, {"jobs": 0}, {"missing_distance": 0.0}, {"matching": "best"}, {"latex": "both"}],
    ids=str,
)
def test_options_outside_their_range_start_nothing(change: dict[str, Any], folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    with pytest.raises(UsageError, match="E-EVAL-RANGE"):
        folders.run(**change)
    assert not folders.out.exists()


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def check_latex(text: str) -> None:
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 0
    for part in text.split("\\begin{tabular}{")[1:]:
        columns = part.split("}")[0]
        body = part.split("\\toprule\n")[1].split("\\bottomrule")[0]
        for line in body.splitlines():
            if line != "\\midrule":
                assert line.replace("\\&", "").count("&") == len(columns) - 1, line
                assert line.endswith(r" \\")


def test_latex_tables(folders: Folders) -> None:
    four_cases(folders)
    write_json(folders.ref.parent / "dataset.json", {"labels": {"background": 0, "cord_100%": 1, "a & b": 2}})
    folders.run(metrics=("dice", "assd"), by=("manufacturer",), latex="mean")
    text = (folders.out / "summary.tex").read_text(encoding="utf-8")
    check_latex(text)
    assert r"cord\_100\%" in text
    assert r"a \& b" in text
    # GE lost two of eight slabs, the Siemens cases none and one.
    row = next(line for line in text.splitlines() if line.startswith("all classes: Dice"))
    assert row.split(" & ")[2].startswith(r"$\mathbf{0.967} \pm 0.047$")
    assert "mathbf" not in row.split(" & ")[1]
    folders.run(metrics=("dice",), latex="median")
    text = (folders.out / "summary.tex").read_text(encoding="utf-8")
    assert "Median [quartiles]" in text
    check_latex(text)
    folders.run(metrics=("dice",))
    assert not (folders.out / "summary.tex").exists()


# --- processes and runs that do not end ------------------------------------------------------------------------------


def test_several_processes_give_the_same_bytes(folders: Folders) -> None:
    four_cases(folders)
    folders.add("e", semantic(), None)
    save(folders.pred / "c.mha", semantic())
    names = ("metrics.csv", "summary.json", "summary.md")
    assert folders.run(metrics=("dice",)).exit_code == 3
    first = [(folders.out / name).read_bytes() for name in names]
    result = folders.run(metrics=("dice",), jobs=2)
    assert result.status == {"a": "done", "b": "done", "c": "failed", "d": "done", "e": "missing"}
    assert first == [(folders.out / name).read_bytes() for name in names]


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_process_that_dies_is_an_error_and_not_a_result() -> None:
    settings = Settings((), (), (), 1.0, 0.5, Deadly())  # type: ignore[arg-type]
    labels = LabelSet(None)
    nothing = work.Outcome()
    job = Job(None, None, None, None, labels, labels, settings, None)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="E-EVAL-WORKER"):
        assert list(work.outcomes(["a", "b", "c"], job, 2)) == nothing


def test_an_unexpected_error_fails_its_case_only(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    four_cases(folders)
    score_case = work.score_case

    def broken(case: str, job: Job) -> work.Outcome:
        if case == "b":
            raise MemoryError("no room")
        return score_case(case, job)

    monkeypatch.setattr(work, "score_case", broken)
    result = folders.run(metrics=("dice",))
    assert result.exit_code == 3
    assert result.status == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    assert result.summary.failed["b"].code == "E-INTERNAL"
    assert "MemoryError: no room" in result.render()


def test_an_interrupted_run_leaves_no_tables_of_an_earlier_one(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    four_cases(folders)
    folders.run(latex="mean")
    (folders.out / "notes.txt").write_text("mine")

    def interrupted(case: str, job: Job) -> work.Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "score_case", interrupted)
    assert main(["-ref", str(folders.ref), "-pred", str(folders.pred), "-o", str(folders.out)]) == 130
    assert sorted(path.name for path in folders.out.iterdir()) == ["notes.txt"]
    capsys.readouterr()


def test_summary_json_is_written_last(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    four_cases(folders)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_module, "write_text", full)
    with pytest.raises(SetupError, match="No space left on device"):
        folders.run()
    assert not (folders.out / "summary.json").exists()

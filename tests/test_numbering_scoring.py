"""Answers of several heads as one score, and the spines of the benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nnunet_spine_ext.core.config import load_config, set_by_path
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.numbering import NumberingSettings
from nnunet_spine_ext.numbering.levels import GROUPS, IDS, INDEX, LEVELS, REGION_OF
from nnunet_spine_ext.numbering.path import Evidence, best_path
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.scoring import ScoreWeights, combine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from numbering_spines import COUNTS, VIEWS, draw_case


def peaked(index: int, width: int, certainty: float = 0.9) -> np.ndarray:
    row = np.full((1, width), (1 - certainty) / (width - 1))
    row[0, index] = certainty
    return row


def test_levels_and_their_ids_are_those_of_spineps() -> None:
    assert len(LEVELS) == 26
    assert (*range(1, 20), 28, *range(20, 26)) == IDS
    assert sorted(name for group in GROUPS for name in group) == sorted(LEVELS)


def test_one_wrong_head_is_outvoted_by_two() -> None:
    right = INDEX["L3"]
    group = next(k for k, names in enumerate(GROUPS) if "L3" in names)
    wrong = peaked(INDEX["C4"], 26)
    scores = VertebraScores(peaked(right, 26), region=peaked(0, 3), group=peaked(group, 12))
    level, relative = combine(scores)
    assert relative is None
    assert LEVELS[int(level[0].argmax())] == "L3"
    level, _ = combine(VertebraScores(wrong, region=peaked(2, 3), group=peaked(group, 12)))
    order = np.argsort(-level[0])
    assert "L3" in {LEVELS[k] for k in order[:3]}


def test_no_answer_is_worth_more_than_the_share_of_errors_allows() -> None:
    certain = VertebraScores(peaked(3, 26, 1.0))
    for error in (0.02, 0.2):
        level, _ = combine(certain, ScoreWeights(error=error))
        assert np.ptp(level) == pytest.approx(np.log(1 + (1 - error) / (error / 26)))


@pytest.mark.parametrize(
    "assignment",
    [
        "weights.level=0", "weights.temperature=0", "weights.temperature=-1", "weights.error=0", "weights.error=1.5",
        "rules.gap=.nan", "rules.missing=-5", "rules.max_missing=-1", "rules.off_sacrum=-1", "anchors.error=0",
        "anchors.localizer_scatter_mm=0", "anchors.sizes=.inf", "min_posterior=85", "prior_with_scores=-1",
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(assignment: str) -> None:
    # They would give scores that are no numbers, or turn good answers into bad ones.
    content: dict[str, object] = {}
    set_by_path(content, assignment)
    with pytest.raises(UsageError, match=assignment.partition("=")[0].rpartition(".")[2]) as caught:
        load_config(NumberingSettings, content)
    assert caught.value.code == "E-CONFIG-RANGE"
    assert load_config(NumberingSettings, {"rules": {"off_sacrum": float("inf")}}).rules.off_sacrum == np.inf


def test_what_is_not_wholly_visible_counts_less() -> None:
    row = peaked(5, 26)
    whole, _ = combine(VertebraScores(row, visible=np.ones(1)))
    part, _ = combine(VertebraScores(row, visible=np.zeros(1)))
    np.testing.assert_allclose(part, 0.5 * whole)
    np.testing.assert_allclose(combine(VertebraScores(row))[0], whole)


def test_roles_are_relative_to_having_none() -> None:
    scores = VertebraScores(peaked(5, 26), relative=peaked(3, 6))
    relative = combine(scores)[1]
    assert relative is not None
    assert relative[0, 0] == 0
    assert relative[0].argmax() == 3
    assert abs(relative[0, 1]) < 1e-9


def test_the_head_for_t13_moves_t13_alone() -> None:
    plain, _ = combine(VertebraScores(peaked(5, 26)))
    moved, _ = combine(VertebraScores(peaked(5, 26), t13=np.array([[0.1, 0.9]])))
    changed = np.flatnonzero(moved[0] != plain[0])
    assert [LEVELS[k] for k in changed] == ["T13"]
    assert moved[0, INDEX["T13"]] > plain[0, INDEX["T13"]]


def test_smoothing_stays_in_the_region() -> None:
    c7 = INDEX["C7"]
    level, _ = combine(VertebraScores(peaked(c7, 26, 1.0)), ScoreWeights(smoothing=0.8))
    cervical = np.array(REGION_OF) == 0
    assert level[0, c7 - 1] > level[0, c7 + 1]
    assert np.ptp(level[0, ~cervical]) == 0


def test_rows_of_scores_keep_all_tables() -> None:
    scores = VertebraScores(np.eye(26)[:4], relative=np.eye(6)[:4], visible=np.arange(4) / 4)
    part = scores.rows(np.array([2, 3]))
    assert len(part) == 2
    assert part.relative is not None
    assert part.visible is not None
    assert part.visible.tolist() == [0.5, 0.75]
    assert part.group is None
    with pytest.raises(CaseError):
        VertebraScores(np.eye(26)[:4], relative=np.eye(6)[:3])


def test_spines_of_the_benchmark_are_valid_and_clean_ones_are_solved() -> None:
    rng = np.random.default_rng(0)
    right = []
    for counts in COUNTS:
        for view in VIEWS:
            case = draw_case(rng, counts, view, 0.0)
            assert len(case.scores) == len(case.names)
            level, relative = combine(case.scores)
            path = best_path(Evidence(level, relative))
            assert path is not None
            right.append(path.best.levels == case.names)
    assert np.mean(right) > 0.6

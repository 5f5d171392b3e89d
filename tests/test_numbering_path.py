"""The path solver against enumeration of all sequences, and its rules one by one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from level_enumeration import best_two, random_case, rank, spine

from nnunet_spine_ext.numbering.levels import INDEX, LEVELS, relative_targets
from nnunet_spine_ext.numbering.path import Evidence, LevelPath, best_path
from nnunet_spine_ext.numbering.rules import PathRules


def likes(names: list[str], strength: float = 6.0) -> np.ndarray:
    level = np.zeros((len(names), len(LEVELS)))
    for row, name in enumerate(names):
        level[row, INDEX[name]] = strength
    return level


def solve(level: np.ndarray, rules: PathRules | None = None, **more: object) -> LevelPath:
    path = best_path(Evidence(level, **more), rules)
    assert path is not None
    return path


def count_suboptimal(cases: int, seed: int) -> tuple[int, int]:
    """Return how many best and how many second-best sequences differ from enumeration."""
    rng = np.random.default_rng(seed)
    first = second = 0
    for _ in range(cases):
        evidence, rules = random_case(rng)
        levels, score, other = best_two(evidence, rules)
        path = best_path(evidence, rules)
        if path is None:
            first += bool(np.isfinite(score))
            continue
        first += path.best.levels != levels or abs(path.best.score - score) > 1e-9
        margin = score - other
        second += not (path.margin == margin or abs(path.margin - margin) < 1e-9)
    return first, second


def test_best_and_second_best_are_those_of_enumeration() -> None:
    assert count_suboptimal(1500, seed=0) == (0, 0)


@pytest.mark.slow
def test_no_sequence_of_100_000_is_suboptimal() -> None:
    assert count_suboptimal(100_000, seed=1) == (0, 0)


def test_probabilities_are_those_of_all_sequences() -> None:
    rng = np.random.default_rng(2)
    for _ in range(150):
        evidence, rules = random_case(rng)
        path = best_path(evidence, rules)
        if path is None or len(evidence.level) > 20:
            continue
        ranking = rank(evidence, rules)
        assert path.probability == pytest.approx(ranking.probability[0], abs=1e-9)
        expected = np.zeros_like(path.posterior)
        for levels, share in zip(ranking.levels, ranking.probability, strict=True):
            expected[np.arange(len(levels)), levels] += share
        np.testing.assert_allclose(path.posterior, expected, atol=1e-9)


def test_the_enumeration_itself_sees_a_wrong_answer() -> None:
    evidence, rules = Evidence(likes(["L4", "L5"])), PathRules()
    levels, score, second = best_two(evidence, rules)
    assert levels == ("L4", "L5")
    assert score == 12.0
    assert second < score


@pytest.mark.parametrize(("thoracic", "lumbar"), [(t, n) for t in (11, 12, 13) for n in (4, 5, 6)])
def test_every_count_is_found_when_the_scores_say_so(thoracic: int, lumbar: int) -> None:
    names = spine(thoracic, lumbar)
    path = solve(likes(names), sacrum_gap=0.0)
    assert list(path.best.levels) == names
    assert (path.best.thoracic, path.best.lumbar) == (thoracic, lumbar)
    assert path.margin > 0


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 24), (5, 9), (18, 24), (23, 24), (10, 12)])
def test_a_picture_may_begin_and_end_anywhere(start: int, stop: int) -> None:
    names = spine(12, 5)[start:stop]
    path = solve(likes(names))
    assert list(path.best.levels) == names


def test_above_the_sacrum_the_path_ends_in_l4_to_l6() -> None:
    nothing = np.zeros((5, len(LEVELS)))
    path = solve(nothing, sacrum_gap=0.0)
    assert path.best.levels == ("L1", "L2", "L3", "L4", "L5")
    ends = {other.levels[-1] for other in path.others[:2]}
    assert ends == {"L4", "L6"}
    assert path.posterior[-1, [INDEX["L4"], INDEX["L5"], INDEX["L6"]]].sum() > 0.999
    # The same column without a sacrum could be anywhere.
    assert solve(nothing).probability < 0.1


def test_four_lumbar_vertebrae_are_an_anomaly_only_on_a_sacrum() -> None:
    names = ["T11", "T12", "L1", "L2", "L3", "L4"]
    assert solve(likes(names), sacrum_gap=0.0).best.lumbar == 4
    cut = solve(likes(names))
    assert cut.best.levels == tuple(names)
    assert cut.best.lumbar == 0
    assert cut.best.score - solve(likes(names), sacrum_gap=0.0).best.score == pytest.approx(PathRules().four_lumbar)


def test_the_price_of_two_anomalies_is_that_of_the_pair() -> None:
    rules = PathRules()
    for counts, price in (((11, 6), rules.eleven_and_six), ((13, 4), rules.thirteen_and_four)):
        names = spine(*counts)
        path = solve(likes(names), sacrum_gap=0.0)
        assert list(path.best.levels) == names
        assert len(names) * 6.0 - path.best.score == pytest.approx(price)


def test_no_level_comes_thrice_where_t12_is_all_that_is_seen() -> None:
    path = solve(likes(["T12"] * 4))
    assert len(set(path.best.levels)) == 4


def test_enforced_counts_leave_no_anomaly() -> None:
    rules = PathRules(enforce=True)
    for counts in ((13, 5), (11, 5), (12, 6)):
        names = spine(*counts)[8:]
        path = solve(likes(names, 0.5), rules, gaps=np.zeros(len(names) - 1), sacrum_gap=0.0)
        assert "T13" not in path.best.levels
        assert "L6" not in path.best.levels
        assert path.best.levels[-1] == "L5"
        assert not ("T11" in path.best.levels and "T12" not in path.best.levels)


def test_more_vertebrae_than_levels_have_no_path() -> None:
    assert best_path(Evidence(np.zeros((27, len(LEVELS))))) is None
    assert best_path(Evidence(np.zeros((25, len(LEVELS)))), PathRules(enforce=True)) is None


def test_a_missing_vertebra_costs_its_price_or_follows_the_distance() -> None:
    names = ["L1", "L2", "L4", "L5"]
    assert solve(likes(names)).best.levels == tuple(names)
    undecided = np.zeros((4, len(LEVELS)))
    undecided[0, INDEX["L1"]] = 50.0
    assert solve(undecided).best.levels == ("L1", "L2", "L3", "L4")
    assert solve(undecided, gaps=np.array([0.1, 1.1, 0.0])).best.levels == ("L1", "L2", "L4", "L5")


def test_a_vertebra_missing_above_the_sacrum_counts() -> None:
    nothing = np.zeros((4, len(LEVELS)))
    assert solve(nothing, sacrum_gap=1.0).best.levels == ("L1", "L2", "L3", "L4")


def test_a_missing_t12_is_no_t11_spine() -> None:
    names = ["T10", "T11", "L1", "L2"]
    assert solve(likes(names), gaps=np.array([0.0, 1.0, 0.0])).best.thoracic == 12
    assert solve(likes(names), gaps=np.array([0.0, 0.0, 0.0])).best.thoracic == 11


def test_relative_heads_move_the_border_of_the_regions() -> None:
    names = [f"T{k}" for k in range(6, 13)] + ["L1", "L2", "L3"]
    level = likes(names, 0.5)
    relative = np.zeros((len(names), 6))
    roles = relative_targets(["T6", "T7", "T8", "T9", "T10", "T11", "L1", "L2", "L3", "L4"], sacrum_below=False)
    for row, role in enumerate(roles):
        relative[row, role] = 6.0 if role else 0.0
    assert solve(level).best.levels == tuple(names)
    moved = solve(level, relative=relative).best.levels
    # T6 is seen as T6, but T12 as the last thoracic one's neighbour: the row of T11 is the last one.
    assert moved[6][0] == "L"
    assert moved[5][0] == "T"


def test_roles_of_a_sequence() -> None:
    assert relative_targets(["C6", "C7", "T1", "T2"]) == [0, 1, 2, 0]
    assert relative_targets(["T11", "L1", "L4"]) == [3, 4, 5]
    assert relative_targets(["T12", "T13", "L1", "L4"], sacrum_below=False) == [0, 3, 4, 0]


def test_a_whole_spine_takes_milliseconds() -> None:
    rng = np.random.default_rng(3)
    names = spine(13, 6)
    evidence = Evidence(rng.normal(size=(26, len(LEVELS))), rng.normal(size=(26, 6)), rng.random(25), 0.0)
    assert solve(evidence.level).best.levels == tuple(names)
    begin = time.process_time()
    for _ in range(20):
        best_path(evidence)
    assert (time.process_time() - begin) / 20 < 0.02

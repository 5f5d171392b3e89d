"""The best sequence of levels for a column of vertebrae: exact dynamic programming, with what comes second.

Everything that a rule asks about is in the state (`rules`), so nothing is an approximation: best, second-best and the
probabilities over all sequences are compared with enumeration in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.levels import FIRST_L, FIRST_T, INDEX, LAST_C, LAST_L, LAST_T, LEVELS
from nnunet_spine_ext.numbering.rules import STATE_COUNT, STATE_LEVEL, STATES, PathRules, Steps, ends, steps

_ALTERNATIVES = 4
# What is so wherever the path goes on; whether T12 or T11 is the last thoracic one depends on the next vertebra.
_ROLES = {"C7": LAST_C, "T1": FIRST_T, "T13": LAST_T, "L1": FIRST_L, "L6": LAST_L}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about n vertebrae, head to tail; all scores in nats, larger is better.

    Parameters
    ----------
    level: (n, 26) score of each level; minus infinity forbids one.
    relative: (n, 6) score of each role of `levels.RELATIVE` over that of having none (column 0 is not used).
    gaps: (n-1,) how many vertebrae fit between a vertebra and the next one; NaN: unknown.
    sacrum_gap: the same between the last one and the sacrum; None: no sacrum in sight.
    """

    level: Array
    relative: Array | None = None
    gaps: Array | None = None
    sacrum_gap: float | None = None


@dataclass(frozen=True)
class Alternative:
    """One sequence: names of levels head to tail, its score in nats, the thoracic and lumbar counts it implies.

    A count is 0 where the picture does not tell.
    """

    levels: tuple[str, ...]
    score: float
    thoracic: int
    lumbar: int


@dataclass(frozen=True, eq=False)
class LevelPath:
    """The best sequence and how sure it is.

    Parameters
    ----------
    best: the sequence with the highest score.
    others: other sequences, best first; the first of them is the second-best of all sequences.
    margin: score of the best minus that of the second-best in nats; infinite when there is only one.
    probability: of the best sequence among all sequences.
    posterior: (n, 26) probability of each level for each vertebra.
    """

    best: Alternative
    others: tuple[Alternative, ...]
    margin: float
    probability: float
    posterior: Array


def best_path(evidence: Evidence, rules: PathRules | None = None) -> LevelPath | None:
    """Find the best strictly descending sequence of levels; None when no sequence is possible.

    Parameters
    ----------
    evidence: of at least one vertebra.
    """
    rules = rules or PathRules()
    table = steps(rules)
    final, lumbar = ends(rules, evidence.sacrum_gap)
    nodes = _nodes(evidence, final)
    links = [_link(table, rules, evidence, row) for row in range(len(nodes) - 1)]
    ahead, came_from = _sweep(nodes, links, table.start)
    score = float(ahead[-1].max())
    if score == -np.inf:
        return None
    behind, goes_to = _sweep_back(nodes, links)
    through = ahead + behind
    sequences = _sequences(through, came_from, goes_to, lumbar)
    total_ahead, total_behind = _totals(nodes, links, table.start)
    everything = _log_sum(total_ahead[-1], 0)
    posterior = np.zeros((len(nodes), len(LEVELS)))
    np.add.at(posterior.T, STATE_LEVEL, np.exp(total_ahead + total_behind - everything).T)
    best, others = sequences[0], sequences[1:]
    chosen = np.array([INDEX[name] for name in best.levels])
    only = np.where(chosen[:, None] == STATE_LEVEL, nodes, -np.inf)
    same = _log_sum(_totals(only, links, table.start)[0][-1], 0)
    return LevelPath(
        best=best,
        others=others,
        margin=best.score - others[0].score if others else np.inf,
        probability=float(np.exp(same - everything)),
        posterior=posterior,
    )


def _nodes(evidence: Evidence, final: Array) -> Array:
    """Scores (n, S) of the vertebrae by themselves; the end is part of the last one."""
    level = np.asarray(evidence.level, dtype=np.float64)
    if evidence.relative is not None:
        level = level.copy()
        for name, role in _ROLES.items():
            level[:, INDEX[name]] += evidence.relative[:, role]
    nodes = level[:, STATE_LEVEL]
    nodes[-1] += final
    if evidence.relative is not None and evidence.sacrum_gap is not None and evidence.sacrum_gap < 0.5:
        lowest = np.isin(STATE_LEVEL, (INDEX["L4"], INDEX["L5"]))
        nodes[-1] += np.where(lowest, evidence.relative[-1, LAST_L], 0.0)
    return nodes


def _link(table: Steps, rules: PathRules, evidence: Evidence, row: int) -> Array:
    """Scores (S, S) of the step from vertebra `row` to the next one."""
    gap = np.nan if evidence.gaps is None else evidence.gaps[row]
    distance = rules.missing * table.hidden if np.isnan(gap) else rules.gap * np.abs(table.hidden - gap)
    link = table.score - distance
    if evidence.relative is not None:
        link = link + np.where(table.last_thoracic, evidence.relative[row, LAST_T], 0.0)
    return link


def _sweep(nodes: Array, links: list[Array], start: Array) -> tuple[Array, Array]:
    """Best score (n, S) of a beginning that ends in each state, and where it came from."""
    ahead = np.empty_like(nodes)
    came_from = np.zeros(nodes.shape, dtype=np.intp)
    ahead[0] = start + nodes[0]
    for row, link in enumerate(links, start=1):
        options = ahead[row - 1][:, None] + link
        came_from[row] = options.argmax(axis=0)
        ahead[row] = options[came_from[row], np.arange(STATES)] + nodes[row]
    return ahead, came_from


def _sweep_back(nodes: Array, links: list[Array]) -> tuple[Array, Array]:
    """Best score (n, S) of what follows each state, and where it goes."""
    behind = np.zeros_like(nodes)
    goes_to = np.zeros(nodes.shape, dtype=np.intp)
    for row in range(len(nodes) - 2, -1, -1):
        options = links[row] + (behind[row + 1] + nodes[row + 1])
        goes_to[row] = options.argmax(axis=1)
        behind[row] = options[np.arange(STATES), goes_to[row]]
    return behind, goes_to


def _totals(nodes: Array, links: list[Array], start: Array) -> tuple[Array, Array]:
    """The two sweeps with sums of probabilities in the place of the best."""
    ahead, behind = np.empty_like(nodes), np.zeros_like(nodes)
    ahead[0] = start + nodes[0]
    for row, link in enumerate(links, start=1):
        ahead[row] = _log_sum(ahead[row - 1][:, None] + link, 0) + nodes[row]
    for row in range(len(nodes) - 2, -1, -1):
        behind[row] = _log_sum(links[row] + (behind[row + 1] + nodes[row + 1]), 1)
    return ahead, behind


def _log_sum(values: Array, axis: int) -> Array:
    top = values.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis=axis)


def _sequences(through: Array, came_from: Array, goes_to: Array, lumbar: Array) -> tuple[Alternative, ...]:
    """The best sequence through each state of each vertebra, without repeats, best first.

    The second-best sequence differs from the best in some vertebra, so it is the best one through another level there.
    """
    states = _trace(came_from, goes_to, *np.unravel_index([int(through.argmax())], through.shape))
    best = STATE_LEVEL[states[0]]
    differs = np.where(best[:, None] != STATE_LEVEL, through, -np.inf).reshape(-1)
    order = np.argsort(-differs, kind="stable")[: _ALTERNATIVES * 4 * len(through)]
    order = order[np.isfinite(differs[order])]
    others = _trace(came_from, goes_to, *np.unravel_index(order, through.shape))
    result = [_alternative(states[0], float(through.max()), lumbar)]
    seen = {result[0].levels}
    for row, score in zip(others, differs[order].tolist(), strict=True):
        other = _alternative(row, score, lumbar)
        if other.levels not in seen and len(result) <= _ALTERNATIVES:
            seen.add(other.levels)
            result.append(other)
    return tuple(result)


def _trace(came_from: Array, goes_to: Array, rows: Array, states: Array) -> Array:
    """Follow the best ways from states (k,) at vertebrae `rows` (k,) to both ends; returns states (k, n)."""
    count = len(came_from)
    paths = np.zeros((len(rows), count), dtype=np.intp)
    paths[np.arange(len(rows)), rows] = states
    for row in range(1, count):
        paths[:, row] = np.where(rows < row, goes_to[row - 1][paths[:, row - 1]], paths[:, row])
    for row in range(count - 2, -1, -1):
        paths[:, row] = np.where(rows > row, came_from[row + 1][paths[:, row + 1]], paths[:, row])
    return paths


def _alternative(states: Array, score: float, lumbar: Array) -> Alternative:
    levels = tuple(LEVELS[k] for k in STATE_LEVEL[states])
    thoracic = 13 if "T13" in levels else int(STATE_COUNT[states].max())
    return Alternative(levels, score, thoracic, 6 if "L6" in levels else int(lumbar[states[-1]]))

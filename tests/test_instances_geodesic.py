"""Competing fronts against Dijkstra's algorithm and against distances known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from nnunet_spine_ext.instances.geodesic import Graph, make_graph, propagate

SPACING = (3.0, 0.8, 1.1)


def _dijkstra(graph: Graph, sources: np.ndarray) -> np.ndarray:
    rows, columns, values = [], [], []
    for k in range(26):
        other = graph.neighbours(np.arange(len(graph)), k)
        inside = np.flatnonzero(other >= 0)
        rows.append(inside)
        columns.append(other[inside])
        values.append(np.full(len(inside), graph.lengths[k]))
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    table = coo_array(entries, shape=(len(graph), len(graph))).tocsr()
    return dijkstra(table, indices=sources, min_only=True)


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_dijkstra(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 17, 15)) < 0.55
    graph = make_graph(mask, SPACING)
    owner = np.full(len(graph), -1)
    sources = rng.choice(len(graph), 4, replace=False)
    owner[sources] = np.arange(4)
    reach = propagate(graph, owner)
    expected = _dijkstra(graph, sources)
    np.testing.assert_allclose(reach.cost, expected, rtol=1e-12)
    np.testing.assert_allclose(reach.length, reach.cost)
    assert (reach.owner[np.isinf(expected)] == -1).all()
    each = np.stack([_dijkstra(graph, np.array([s])) for s in sources])
    reached = reach.owner >= 0
    np.testing.assert_allclose(each[reach.owner[reached], np.flatnonzero(reached)], reach.cost[reached], rtol=1e-12)


def test_a_wall_is_walked_around() -> None:
    mask = np.ones((1, 5, 9), dtype=bool)
    mask[0, :4, 4] = False
    graph = make_graph(mask, (1.0, 1.0, 1.0))
    owner = np.full(len(graph), -1)
    owner[0] = 0
    reach = propagate(graph, owner)
    opposite = int(np.flatnonzero(graph.flat == np.ravel_multi_index((0, 0, 8), mask.shape))[0])
    assert reach.cost[opposite] == pytest.approx(8 * np.sqrt(2.0))


def test_costs_and_starts_shift_the_border() -> None:
    graph = make_graph(np.ones((1, 1, 21), dtype=bool), (1.0, 1.0, 1.0))
    owner = np.full(21, -1)
    owner[[0, 20]] = (0, 1)
    start = np.zeros(21)
    start[0] = 6.0
    assert (propagate(graph, owner, start=start).owner == 0).sum() == 7

    def slow_second(source: np.ndarray, target: np.ndarray, who: np.ndarray, way: np.ndarray) -> tuple:
        return np.where(who == 1, 3.1, 1.0), np.zeros(len(target))

    reach = propagate(graph, owner, cost=slow_second)
    assert (reach.owner == 0).sum() == 16
    assert reach.length[19] == pytest.approx(1.0)
    assert reach.cost[19] == pytest.approx(3.1)


def test_a_limit_stops_the_fronts_and_nothing_grows_from_nothing() -> None:
    graph = make_graph(np.ones((1, 1, 50), dtype=bool), (1.0, 1.0, 1.0))
    owner = np.full(50, -1)
    assert (propagate(graph, owner).owner == -1).all()
    owner[0] = 0
    assert (propagate(graph, owner, limit=10.0).owner == 0).sum() < 20

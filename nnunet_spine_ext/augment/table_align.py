"""Lines up the steps of several tables, so that as many as possible share one operation on the device.

Each table keeps its own order. A table's result does not depend on which others share an operation with it.
"""

from __future__ import annotations

from collections.abc import Sequence


def line_up(chains: Sequence[Sequence[str]]) -> list[tuple[str, dict[int, int]]]:
    """Return the kinds of operations to do one after another, each with the step (chain -> position) it is.

    Of two chains it is the shortest sequence that holds both; further chains are added to it one by one.
    """
    common: list[str] = []
    for chain in chains:
        common = _shortest(common, list(chain))
    done = [0] * len(chains)
    operations: list[tuple[str, dict[int, int]]] = []
    for kind in common:
        steps = {}
        for number, chain in enumerate(chains):
            if done[number] < len(chain) and chain[done[number]] == kind:
                steps[number] = done[number]
                done[number] += 1
        if steps:
            operations.append((kind, steps))
    return operations


def _shortest(first: list[str], second: list[str]) -> list[str]:
    """Return the shortest sequence of which both are subsequences."""
    if not first or not second:
        return first or second
    rows, columns = len(first), len(second)
    # Length for what is left of both from (i, j) on.
    length = [[rows + columns - i - j for j in range(columns + 1)] for i in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            same = first[i] == second[j]
            length[i][j] = 1 + (length[i + 1][j + 1] if same else min(length[i + 1][j], length[i][j + 1]))
    merged, i, j = [], 0, 0
    while i < rows and j < columns:
        if first[i] == second[j]:
            merged.append(first[i])
            i, j = i + 1, j + 1
        elif length[i + 1][j] <= length[i][j + 1]:
            merged.append(first[i])
            i += 1
        else:
            merged.append(second[j])
            j += 1
    return merged + first[i:] + second[j:]

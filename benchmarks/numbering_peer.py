"""Sequences of levels by SPINEPS' own solver; runs in the environment of SPINEPS (`make spineps`), never in ours.

    .oracles/spineps/bin/python benchmarks/numbering_peer.py HEADS.npz ANSWERS.json

HEADS.npz holds per spine k the tables `k.level` (n, 26), `k.region`, `k.group`, `k.relative`, `k.t13` and `k.visible`.
Both of SPINEPS' class axes are run: 26 classes, and 24 where T13 and L6 are a second T12 and L5. Its 24-class paths are
also compared with the best of all paths that its rules allow, on its own costs and on random ones.
"""

import json
import sys
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
from spineps.phase_labeling import find_vert_path_from_predictions
from spineps.utils.find_min_cost_path import find_most_probably_sequence

T11, T12, L5, CLASSES = 17, 18, 23, 24
STARTS = (0, 7, 19)


def folded(level):
    """26 classes to 24: T13 counts as T12, L6 as L5."""
    table = np.delete(level, [19, 25], axis=1)
    table[:, T12] += level[:, 19]
    table[:, L5] += level[:, 25]
    return table


def heads_of(tables, name, classes, t13_key):
    result = {}
    count = len(tables[f"{name}.level"])
    level = tables[f"{name}.level"]
    for row in range(count):
        soft = {"VERTEX": level[row]} if classes == 26 else {"VERT": folded(level)[row]}
        for key, table in (("REGION", "region"), ("VERTGRP", "group"), ("VERTREL", "relative"), (t13_key, "t13")):
            soft[key] = tables[f"{name}.{table}"][row]
        visible = tables[f"{name}.visible"][row]
        soft["FULLYVISIBLE"] = np.array([1 - visible, visible])
        result[row] = {"soft": soft}
    return result


def allowed(count, start):
    """Every 24-class path of its rules from a first class: T12 and L5 up to twice, T12 left out after T11."""
    found = set()
    for no_t12, two_t12, two_l5 in product((False, True), repeat=3):
        path = []
        for k in range(start, CLASSES):
            if k == T12 and no_t12 and T11 in path:
                continue
            path += [k] * (2 if (k == T12 and two_t12) or (k == L5 and two_l5) else 1)
        if len(path) >= count:
            found.add(tuple(path[:count]))
    return found


def cost_of(path, cost, relative):
    total = -sum(cost[row][k] for row, k in enumerate(path))
    region = [sum(k >= s for s in STARTS) - 1 for k in path]
    for row, k in enumerate(path):
        if k == STARTS[region[row]] and region[row] > 0:
            total += relative[row][2 * region[row]]
        if row + 1 < len(path) and region[row + 1] > region[row]:
            total += relative[row][2 * region[row] + 1]
    return total


def suboptimal(random, cases):
    """Random costs of thoracic and lumbar vertebrae: how many of its paths cost more than the best one."""
    worse, loss = 0, []
    for _ in range(cases):
        count = int(random.integers(6, 20))
        cost = random.random((count, CLASSES))
        relative = -0.6 * random.random((count, 6))
        total, found, _ = find_most_probably_sequence(cost, region_rel_cost=relative, allow_skip_at_region=[])
        best = min(cost_of(p, cost, relative) for start in range(CLASSES) for p in allowed(count, start))
        lost = cost_of(found, cost, relative) - best
        if abs(total - cost_of(found, cost, relative)) > 1e-6 or lost < -1e-6:
            sys.exit("the costs of this script are not those of SPINEPS")
        if lost > 1e-9:
            worse += 1
            loss.append(lost)
    return {"cases": cases, "suboptimal": worse, "mean_loss": float(np.mean(loss)) if loss else 0.0}


def main():
    tables = np.load(sys.argv[1])
    names = sorted({key.split(".")[0] for key in tables.files}, key=int)
    answers = {}
    seconds = {}
    for kind, classes, key in (("26", 26, "VT13"), ("24", 24, "VT13"), ("24 with VERTT13", 24, "VERTT13")):
        rows = []
        begin = time.process_time()
        for name in names:
            try:
                path = find_vert_path_from_predictions(heads_of(tables, name, classes, key))[2]
            except (IndexError, ValueError, AssertionError, RecursionError) as error:
                path = [type(error).__name__]
            rows.append([int(k) if not isinstance(k, str) else k for k in path])
        seconds[kind] = (time.process_time() - begin) / len(names)
        answers[kind] = rows
    result = {
        "spineps": version("spineps"),
        "seconds": seconds,
        "answers": answers,
        "random": suboptimal(np.random.default_rng(0), int(sys.argv[3]) if len(sys.argv) > 3 else 2000),
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


main()

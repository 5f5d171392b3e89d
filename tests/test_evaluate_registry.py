"""The registry: complete rows, functions that exist, a command and a page made of it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from nnunet_spine_ext.cli.evaluate import build_parser
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.evaluate.reference import reference_page
from nnunet_spine_ext.evaluate.registry import DEFAULT_METRICS, METRICS, Metric, expand, metric, select

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("row", METRICS.values(), ids=lambda row: row.name)
def test_row_is_complete(row: Metric) -> None:
    assert callable(row.resolve())
    assert row.resolve().__doc__
    assert row.definition
    assert row.bounds[0] < row.bounds[1]
    assert (row.unit in ("mm", "mL")) <= row.needs_spacing
    assert row.scope in ("class", "group", "level")
    assert row.direction in ("higher", "lower", "zero")
    assert row.edges.both_empty is not None
    assert math.isnan(row.edges.both_empty)
    assert row.long_name.isascii()
    assert row.name.isidentifier()


def test_order_and_scope_follow_the_table() -> None:
    assert [row.name for row in select(("assd", "pq", "dice"), "class")] == ["dice", "assd"]
    asked_for = {name for name in METRICS if "voxel" in name or name.startswith("msd")}
    asked_for |= {"instance_precision", "instance_recall"}
    levels = {f"level_{name}" for name in ("dice", "assd", "identified", "distance")}
    assert set(DEFAULT_METRICS) == {n for n in METRICS if not n.startswith("level")} - asked_for | levels


def test_every_metric_of_a_class_exists_for_a_level() -> None:
    for row in METRICS.values():
        if row.scope == "class" and not row.name.startswith("msd"):
            level = METRICS[f"level_{row.name}"]
            assert (level.function, level.edges, level.unit) == (row.function, row.edges, row.unit)


def test_words_stand_for_many_metrics() -> None:
    assert expand(("default", "assd_voxel", "dice")) == (*DEFAULT_METRICS, "assd_voxel")
    assert expand(("all",)) == tuple(METRICS)


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="use 'assd'") as caught:
        metric("asd")
    assert caught.value.exit_code == 2


def test_command_offers_exactly_the_registry() -> None:
    parser = build_parser()
    action = next(a for a in parser._actions if a.dest == "metrics")
    assert tuple(action.choices or ()) == (*METRICS, "default", "all")
    assert action.default == DEFAULT_METRICS
    text = parser.format_help()
    for row in METRICS.values():
        assert row.long_name in text


def test_reference_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_metrics", DOCS / "generate_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    current = generator.PAGE.read_text(encoding="utf-8") == reference_page()
    assert current, "docs/reference/metrics.md is older than the registry: python docs/generate_metrics.py"

"""One case as the page shows it: a row of the table, and the details that the page builds when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.labels import Colour
from nnunet_spine_ext.report.collect import CROSSING
from nnunet_spine_ext.report.crossing import crossing_tables
from nnunet_spine_ext.report.facts import qc_rows, sequence_problem
from nnunet_spine_ext.report.measures import Measure, Shown
from nnunet_spine_ext.report.naming import Naming, instance_naming
from nnunet_spine_ext.report.pictures import Picture
from nnunet_spine_ext.report.privacy import Redactor

_ORDER = "W-LABEL-ORDER"


def with_order_warning(one: Shown) -> Shown:
    """Add the warning about skipped or exchanged vertebra numbers, unless the run gave it already."""
    found = sequence_problem(one.drawn.vertebrae, one.case.name) if one.case.numbered else None
    if found is None or any(w.code == found.code for w in one.case.warnings):
        return one
    return replace(one, case=replace(one.case, warnings=(*one.case.warnings, found)))


def row(number: int, one: Shown, columns: Sequence[Measure]) -> dict[str, Any]:
    """Return what the table shows of a case; `number` is its place in the first order, from 0."""
    case = one.case
    return {
        "number": number,
        "name": case.name,
        "status": case.status,
        "thumbnail": one.drawn.thumbnail,
        "warnings": len(case.warnings),
        "red": any(w.code == _ORDER for w in case.warnings),
        "cells": [(m.key, m.text(number), m.notes[number] if m.notes else "") for m in columns],
    }


def details(one: Shown, redactor: Redactor) -> dict[str, Any]:
    """Return everything else about a case, for the page's script."""
    case, drawn = one.case, one.drawn
    problems = [*([case.error] if case.error else ()), *case.warnings]
    change = drawn.change
    return {
        "problems": [_problem(problem, redactor) for problem in problems],
        "notes": [redactor.text(note) for note in drawn.notes],
        "pictures": [_picture(picture) for picture in drawn.pictures],
        "facts": list(drawn.facts.items()),
        "inputs": [redactor.path(str(entry.get("file", ""))) for entry in case.inputs],
        "counted": bool(drawn.instances_ml) and not case.numbered,
        "classes": _rounded(drawn.volumes_ml),
        "instances": _rounded(drawn.instances_ml),
        "crossing": crossing_tables(case, redactor),
        "qc": qc_rows({key: value for key, value in case.qc.items() if key not in CROSSING}, redactor),
        "change": None
        if change is None
        else [[c.label, round(c.before_ml, 3), round(c.after_ml, 3), round(c.dice, 4)] for c in change.labels],
    }


def _rounded(table: Mapping[int, float]) -> dict[str, float]:
    return {str(n): round(value, 3) for n, value in table.items()}


def _problem(problem: Problem, redactor: Redactor) -> dict[str, str]:
    return {
        "severity": problem.severity,
        "code": problem.code,
        "red": "yes" if problem.code == _ORDER else "",
        "file": redactor.path(problem.file),
        "found": redactor.text(problem.found),
        "expected": redactor.text(problem.expected),
        "fix": redactor.text(problem.fix),
    }


def _picture(picture: Picture) -> dict[str, Any]:
    layers = {
        name: {"width": layer.width, "height": layer.height, "ids": layer.ids, "data": layer.data}
        for name, layer in picture.layers.items()
    }
    return {
        "plane": picture.plane,
        "width": picture.width,
        "height": picture.height,
        "margin": picture.margin,
        "base": picture.base,
        "layers": layers,
        "edges": dict(picture.edges),
        "bar": [picture.bar_mm, picture.bar_px],
        "note": picture.note,
        "marks": [[mark.x, mark.y, mark.text] for mark in picture.marks],
        "letters": picture.mark_px,
    }


def names(shown: Sequence[Shown], naming: Naming) -> dict[str, dict[str, tuple[str, str]]]:
    """Return {id: (name, colour)} of every id that occurs: classes, numbered instances, instances only counted."""
    classes: set[int] = set()
    instances: dict[bool, set[int]] = {True: set(), False: set()}
    for one in shown:
        classes.update(one.drawn.volumes_ml)
        instances[one.case.numbered].update(one.drawn.instances_ml)
        classes.update(change.label for change in (one.drawn.change.labels if one.drawn.change else ()))
        for picture in one.drawn.pictures:
            for name, layer in picture.layers.items():
                (instances[one.case.numbered] if name.endswith("instances") else classes).update(layer.ids)
    return {
        "classes": _named(classes, naming),
        "instances": _named(instances[True], instance_naming(numbered=True)),
        "counted": _named(instances[False], instance_naming(numbered=False)),
    }


def _named(ids: set[int], naming: Naming) -> dict[str, tuple[str, str]]:
    return {str(n): (naming.name(n), hex_colour(naming.colour(n))) for n in sorted(ids)}


def hex_colour(colour: Colour) -> str:
    """Return a colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)

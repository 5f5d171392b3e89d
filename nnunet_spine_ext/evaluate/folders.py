"""What several evaluation folders have in common, and what forbids comparing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.evaluate.registry import METRICS, metric
from nnunet_spine_ext.evaluate.scored import OVERALL, Key, Scored

Scope = Literal["overall", "class", "group", "level", "region"]
SCOPES: tuple[str, ...] = get_args(Scope)
# Options that decide about values: by name in summary.json, with what evaluations without the entry used.
_MATCHING = {"instance_ids": "spineps", "matching": "iou", "iou_threshold": 0.5}


def folder_names(
    folders: Sequence[Path], given: Sequence[str], *, least: int = 2, options: str = "-a and -b"
) -> tuple[str, ...]:
    """Return a name for each folder: those given, else the shortest end of its path that no other one has.

    Parameters
    ----------
    folders, given: folders, and names for them or nothing.
    least: number of folders from which on there is something to do.
    options: the options that name them, for messages.

    Raises
    ------
    UsageError: a folder twice, fewer or more names than folders, or equal names.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved) or len(resolved) < least:
        raise UsageError(
            "E-COMPARE-FOLDERS",
            found=f"{len(set(resolved))} different folder(s) in {options}",
            expected=f"at least {'two evaluations' if least == 2 else 'one folder'}, each named once",
            fix=f"check {options}",
        )
    if given:
        if len(set(given)) != len(folders) or len(given) != len(folders):
            raise UsageError(
                "E-COMPARE-NAMES",
                found=f"--names {' '.join(given)}",
                expected=f"{len(folders)} different names in the order of {options}",
                fix="correct --names",
            )
        return tuple(given)
    if len(resolved) == 1:
        return (resolved[0].name,)
    for depth in range(1, max(len(path.parts) for path in resolved)):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        # Parts that all names share say nothing: model_a/evaluation is called model_a.
        while all("/" in name for name in names) and len({name.rpartition("/")[2] for name in names}) == 1:
            names = [name.rpartition("/")[0] for name in names]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(map(str, resolved))


def chosen_keys(
    scored: Sequence[Scored], names: Sequence[str], metrics: Sequence[str], scopes: Sequence[str]
) -> tuple[list[Key], list[str]]:
    """Return what all folders have of the metrics and scopes asked for, and remarks on what some lack.

    Raises
    ------
    UsageError: an unknown metric or scope, a metric asked for that a folder lacks, or nothing in common.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(
                "E-COMPARE-SCOPE",
                found=f"--scopes {scope}",
                expected="overall, class, group, level or region",
                fix=nearest(scope, SCOPES),
            )
    asked = [metric(name).name for name in metrics]
    held = [{key.metric for key in one.values} for one in scored]
    common = set.intersection(*held)
    for name in asked:
        without = [called for called, own in zip(names, held, strict=True) if name not in own]
        if without:
            raise UsageError(
                "E-COMPARE-METRIC",
                found=f"metric {name!r}, which {', '.join(without)} does not have",
                expected=f"metrics of all folders: {', '.join(row for row in METRICS if row in common) or 'none'}",
                fix="evaluate again with this metric, or leave it out",
            )
    remarks = [
        f"{called} alone has {', '.join(sorted(own - common))}: left out."
        for called, own in zip(names, held, strict=True)
        if not asked and own - common
    ]
    remarks += [
        f"{called} has metrics that this version does not know: {', '.join(one.unknown_metrics)}."
        for called, one in zip(names, scored, strict=True)
        if one.unknown_metrics
    ]
    wanted = [
        key for key in scored[0].values if key.scope in scopes and key.metric in (asked or common)
    ]  # fmt: skip
    keys = [key for key in wanted if all(key in one.values for one in scored)]
    classes = common_classes(scored)
    # Means over classes of which none is the same say nothing about the models.
    keys = [key for key in keys if key.scope != OVERALL or key.metric in classes]
    remarks += _about_labels(scored, names, scopes, common)
    if not keys:
        raise UsageError(
            "E-COMPARE-NOTHING",
            found="no label and metric that all folders have",
            expected="evaluations of the same structures",
            fix="check the folders, --metrics and --scopes",
        )
    return sorted(keys, key=_position), remarks


def common_classes(scored: Sequence[Scored]) -> dict[str, list[Key]]:
    """Return the classes that all folders have, by metric."""
    found: dict[str, list[Key]] = {}
    for key in scored[0].values:
        if key.scope == "class" and all(key in one.values for one in scored):
            found.setdefault(key.metric, []).append(key)
    return found


def _position(key: Key) -> tuple[int, int]:
    """Scopes and metrics in the order of their tables; labels stay as the evaluation wrote them."""
    return SCOPES.index(key.scope), list(METRICS).index(key.metric)


def _about_labels(
    scored: Sequence[Scored], names: Sequence[str], scopes: Sequence[str], metrics: set[str]
) -> list[str]:
    labels = [{k.label for k in one.values if k.scope in scopes and k.metric in metrics} for one in scored]
    common = set.intersection(*labels)
    return [
        f"{called} alone has the labels {', '.join(sorted(own - common))}: left out."
        for called, own in zip(names, labels, strict=True)
        if own - common
    ]


def refuse_other_options(scored: Sequence[Scored], names: Sequence[str], keys: Sequence[Key]) -> None:
    """Raise UsageError when the folders computed one of the compared metrics in different ways."""
    used = {key.metric for key in keys}
    defaults: dict[str, object] = {}
    if any(METRICS[name].needs_instances for name in used):
        defaults |= _MATCHING
    if any(not METRICS[name].needs_instances for name in used):
        # A vertebra of one file of structures need not be that of another one.
        defaults["structures"] = "labels"
    if any(name.endswith("nsd") for name in used):
        defaults["nsd_tolerance_mm"] = 1.0
    if "localisation_distance" in used:
        defaults["missing_distance_mm"] = None
    for option, default in defaults.items():
        values = [one.options.get(option, default) for one in scored]
        if any(value != values[0] for value in values):
            told = ", ".join(f"{value} in {called}" for value, called in zip(values, names, strict=True))
            raise UsageError(
                "E-COMPARE-OPTIONS",
                found=f"different {option}: {told}",
                expected="evaluations made in the same way",
                fix="evaluate again with the same options, or choose other --metrics",
            )


def common_cases(scored: Sequence[Scored], names: Sequence[str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Return the cases that all folders scored, and the names of the folders without it for every other case."""
    every = sorted(set.union(*(set(one.cases) for one in scored)))
    without = {
        case: tuple(name for name, one in zip(names, scored, strict=True) if case not in one.cases) for case in every
    }
    return [case for case in every if not without[case]], {case: gone for case, gone in without.items() if gone}

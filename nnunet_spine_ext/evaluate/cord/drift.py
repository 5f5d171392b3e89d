"""Has the cord's area changed from one model to another: the two models' outputs on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.evaluate.agreement import Limits, limits_of_agreement
from nnunet_spine_ext.evaluate.cases import Resample, find_labels, list_masks
from nnunet_spine_ext.evaluate.cohort import read_cohort
from nnunet_spine_ext.evaluate.cord import drift_tables, pictures
from nnunet_spine_ext.evaluate.cord.analysis import (
    ALL,
    DEFAULT_DDOF,
    DEFAULT_MARGIN_MM2,
    PairRow,
    Plan,
    compare_columns,
    standard_deviation,
)
from nnunet_spine_ext.evaluate.cord.areas import is_table, read_areas
from nnunet_spine_ext.evaluate.cord.case import RangeArea
from nnunet_spine_ext.evaluate.cord.evaluation import contrast_of, make_job, measured, plan_of, prediction_maps
from nnunet_spine_ext.evaluate.cord.options import AreaOptions, Maps
from nnunet_spine_ext.evaluate.folders import folder_names
from nnunet_spine_ext.evaluate.paired import Correction, Paired, compare_pairs, correct
from nnunet_spine_ext.evaluate.prepare import prepare_output, writing
from nnunet_spine_ext.evaluate.statistic import DEFAULT_RESAMPLES, DEFAULT_SEED, finite_mean

# An image has changed when one model finds less than this share of the slices that the other one finds.
SHARED = 0.9


@dataclass(frozen=True)
class DriftRow:
    """One image in one range; areas in mm², NaN where there is none.

    Areas are means over `slices` slices. `a_slices` are those of the first model, `b_slices` those of the second,
    `both_slices` those that both have, all without slices that the reference calls unknown.
    """

    case: str
    subject: str
    contrast: str
    range: str
    a: float
    b: float
    reference: float
    slices: int
    a_slices: int
    b_slices: int
    both_slices: int

    @property
    def difference(self) -> float:
        """Area of the second model minus that of the first."""
        return self.b - self.a

    @property
    def empty(self) -> bool:
        """Whether neither model finds cord here: then nothing has changed."""
        return self.a_slices == self.b_slices == 0

    @property
    def shared(self) -> float:
        """Share of the slices of the longer one of both cords that both have; NaN where there is none."""
        longest = max(self.a_slices, self.b_slices)
        return self.both_slices / longest if longest else math.nan


@dataclass(frozen=True)
class DriftGroup:
    """All images of one contrast (or ``all``) in one range.

    `pair` compares the models over subjects, their images averaged; `limits` are those of one image. `errors` compares
    the sizes of the errors (NaN without references), `spread` the STD of each subject over its contrasts (in ``all``);
    `a_slices`, `b_slices` and `both_slices` count the slices that the first, the second and both models have.
    """

    range: str
    contrast: str
    images: int
    subjects: int
    pair: PairRow
    limits: Limits
    errors: Paired
    spread: Paired
    a_std: float
    b_std: float
    a_slices: int
    b_slices: int
    both_slices: int

    @property
    def mean_difference(self) -> float:
        """Mean of b - a over images, mm²."""
        return self.limits.bias


@dataclass
class DriftReport:
    """What changed, and where the tables are.

    The exit code is 3 when images could not be compared, or when a mean difference is above the bound that was asked
    for (or cannot be told), or with such a bound one model finds no cord in an image in which the other one does.
    """

    out: Path
    names: tuple[str, str]
    inputs: dict[str, str | None]
    options: dict[str, Any]
    rows: list[DriftRow] = field(default_factory=list)
    groups: list[DriftGroup] = field(default_factory=list)
    summary: RunSummary = field(default_factory=RunSummary)
    remarks: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    @property
    def exceeded(self) -> list[DriftGroup]:
        """Groups whose mean difference is above ``fail_above``, or not known; none when it was not asked for."""
        bound = self.options["fail_above"]
        return [] if bound is None else [g for g in self.groups if not abs(g.mean_difference) <= bound]

    @property
    def lost(self) -> list[DriftRow]:
        """Images in which one model finds cord and the other one none: no mean difference holds them."""
        return [row for row in self.rows if (row.a_slices == 0) != (row.b_slices == 0)]

    @property
    def changed(self) -> list[DriftRow]:
        """Images that differ by more than ``changed_above`` mm², the largest first; those without an area before.

        Images in which neither model finds cord have not changed. Images of which one model finds fewer slices are
        among them: their areas are only those of what both find.
        """
        bound = self.options["changed_above"]
        found = [r for r in self.rows if not r.empty and (not abs(r.difference) <= bound or r.shared < SHARED)]
        return sorted(found, key=lambda r: (math.isfinite(r.difference), -abs(r.difference), r.case))

    @property
    def exit_code(self) -> int:
        """0: compared; 3: images left out, above the bound, or with a bound and lost images; 4: nothing to compare."""
        code = self.summary.exit_code
        failed = self.exceeded or (self.lost and self.options["fail_above"] is not None)
        return EXIT_SOME_FAILED if code == EXIT_OK and failed else code

    @property
    def notes(self) -> list[str]:
        """Remarks, failures and warnings in words."""
        return [*self.remarks, *self.summary.in_words()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything that csa_drift.json holds."""
        return drift_tables.to_json(self)

    def render(self) -> str:
        """Return the tables for the console, then where the files are."""
        return f"{drift_tables.markdown(self)}\n{self.summary.render().splitlines()[-1]}; tables in {self.out}"

    def write(self) -> None:
        """Write the tables and pictures and, last, csa_drift.json."""
        write_text(self.out / "csa_drift.csv", drift_tables.image_csv(self))
        write_text(self.out / "csa_drift_tests.csv", drift_tables.group_csv(self))
        write_text(self.out / "csa_drift.md", drift_tables.markdown(self))
        self.pictures = pictures.save(self.out / pictures.FOLDER, drift_tables.drawings(self))
        write_json(self.out / "csa_drift.json", self.to_dict())


def csa_drift(
    a: str | Path,
    b: str | Path,
    o: str | Path,
    *,
    ref: str | Path | None = None,
    names: Sequence[str] = (),
    labels: str | Path | None = None,
    scheme: str | None = None,
    cord: str | None = None,
    maps: Maps = "auto",
    mode: str = "sct",
    level_range: Sequence[str] = (),
    levels: str | Path | None = None,
    discs: str | Path | None = None,
    instances: str | Path | None = None,
    resample: Resample = None,
    cases: str | Path | None = None,
    contrast: str = "contrast",
    ddof: int = DEFAULT_DDOF,
    margin: float = DEFAULT_MARGIN_MM2,
    correction: Correction = "holm",
    changed_above: float | None = None,
    fail_above: float | None = None,
    bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
    jobs: int = 1,
) -> DriftReport:
    """Compare the cord's area in two models' predictions of the same images; write csa_drift.csv, .md and .json.

    Areas are means over the slices that both predictions (and the reference) have.

    Parameters
    ----------
    a, b: folders of predictions, the older model first; o: folder for the report.
    ref: soft maps, masks or a table of areas; errors of both models are compared too.
    names: what the models are called, first that of `a`; default: their folder names.
    labels, scheme, resample, cases, bootstrap, seed, jobs: as in `evaluate`; the others: see `AreaOptions`.
    changed_above: images that differ by more are listed, mm²; None: `margin`.
    fail_above: exit code 3 when the mean difference of a contrast, or of all images, is larger, mm², or one model alone
        finds cord in an image; None: never.

    Raises
    ------
    UsageError: wrong options or folders. NoInputError: nothing to compare. SetupError: `o` cannot be written.
    """
    options = AreaOptions(
        cord, maps, mode, level_range, levels, discs, instances, resample, cases, contrast, ddof, margin, correction,
        bootstrap, seed, jobs,
    )  # fmt: skip
    bounds = {"changed_above": margin if changed_above is None else changed_above, "fail_above": fail_above}
    _check(options, bounds)
    folders = (Path(a), Path(b))
    called = folder_names(folders, names)
    out, truth = Path(o), None if ref is None else Path(ref)
    table = read_areas(truth) if truth is not None and is_table(truth) else None
    refs = None if table is not None or truth is None else list_masks(truth)
    preds, sources = zip(*(prediction_maps(folder, maps) for folder in folders), strict=True)
    known = [find_labels(truth or folder, folder, labels, scheme) for folder in (folders[0], *folders)]
    found = sorted({case for one in preds for case in one.cases})
    places = [one if one.is_dir() else one.parent for one in (*([truth] if truth else []), *folders)]
    cohort = read_cohort(found, cases, [place for one in places for place in (one, one.parent)])
    job = make_job(refs, table, preds, tuple(known), options)
    prepare_output(out, [*folders, *([truth] if truth else [])], drift_tables.FILES)
    report = DriftReport(
        out,
        (called[0], called[1]),
        {"a": sources[0], "b": sources[1], "ref": None if truth is None else str(truth), "cases": cohort.source},
        options.record() | bounds,
    )
    for case, one in measured(found, job, cohort, options, report.summary, report.remarks):
        place = (case, cohort.subject(case), contrast_of(case, cohort, contrast))
        for name, pooled in one.ranges.items():
            report.rows.append(_row(place, name, pooled))
    report.groups = compare_models(report.rows, report.names, plan_of(options, cohort))
    with writing(out):
        report.write()
    return report


def _row(place: tuple[str, str, str], name: str, found: RangeArea) -> DriftRow:
    (first, second), (a_slices, b_slices) = found.areas, found.own
    return DriftRow(*place, name, first, second, found.reference, found.slices, a_slices, b_slices, found.shared_slices)


def _check(options: AreaOptions, bounds: dict[str, float | None]) -> None:
    options.check()
    for name, value in bounds.items():
        if value is not None and not 0 <= value < math.inf:
            found = f"--{name.replace('_', '-')} {value}"
            raise UsageError("E-EVAL-RANGE", found=found, expected="0 mm² or more", fix="correct the option")


def compare_models(rows: Sequence[DriftRow], names: tuple[str, str], plan: Plan) -> list[DriftGroup]:
    """Return the comparison in every range of all images and of each contrast; p-values are corrected over all."""
    groups: list[DriftGroup] = []
    for name in dict.fromkeys(row.range for row in rows):
        mine = [row for row in rows if row.range == name]
        contrasts = (ALL, *sorted({row.contrast for row in mine if row.contrast}))
        groups += [_group(name, c, [row for row in mine if c in (ALL, row.contrast)], names, plan) for c in contrasts]
    corrected = correct([group.pair.paired.p for group in groups], plan.correction)
    return [replace(group, pair=replace(group.pair, p_corrected=p)) for group, p in zip(groups, corrected, strict=True)]


def _group(name: str, contrast: str, rows: Sequence[DriftRow], names: tuple[str, str], plan: Plan) -> DriftGroup:
    usable = [row for row in rows if math.isfinite(row.difference)]
    by_subject: dict[str, list[DriftRow]] = {}
    for row in usable:
        by_subject.setdefault(row.subject, []).append(row)
    resamples, seed = plan.resampling.resamples, plan.resampling.seed
    means = [np.array([np.mean([getattr(r, side) for r in found]) for found in by_subject.values()]) for side in "ab"]
    errors = [
        (finite_mean(abs(r.a - r.reference) for r in found), finite_mean(abs(r.b - r.reference) for r in found))
        for found in by_subject.values()
    ]
    spread = [_spreads(found, plan.ddof) for found in by_subject.values()] if contrast == ALL else []
    kept = [pair for pair in spread if all(map(math.isfinite, pair))]
    return DriftGroup(
        name,
        contrast,
        len(usable),
        len(by_subject),
        compare_columns(name, names, means[0], means[1], plan),
        limits_of_agreement(
            [row.difference for row in usable], [row.subject for row in usable], resamples=resamples, seed=seed
        ),
        _lower_is_better(errors, resamples, seed),
        _lower_is_better(kept, resamples, seed),
        finite_mean(pair[0] for pair in kept),
        finite_mean(pair[1] for pair in kept),
        sum(row.a_slices for row in rows),
        sum(row.b_slices for row in rows),
        sum(row.both_slices for row in rows),
    )


def _lower_is_better(pairs: Sequence[tuple[float, float]], resamples: int, seed: int) -> Paired:
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return compare_pairs([p[0] for p in finite], [p[1] for p in finite], "lower", resamples=resamples, seed=seed)


def _spreads(rows: Sequence[DriftRow], ddof: int) -> tuple[float, float]:
    """STD over the contrasts of a subject with either model; several images of a contrast are averaged."""
    contrasts = sorted({row.contrast for row in rows if row.contrast})
    sides = []
    for side in "ab":
        means = [np.mean([getattr(row, side) for row in rows if row.contrast == c]) for c in contrasts]
        sides.append(standard_deviation(np.array(means, dtype=np.float64), ddof))
    return sides[0], sides[1]

"""From the CSV files of a study to tables, figures, a summary and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED
from nnunet_spine_ext.core.io import json_text, write_text
from nnunet_spine_ext.study.claims import Claim, Goal, claims, goals
from nnunet_spine_ext.study.cohort import NONE, Cohort
from nnunet_spine_ext.study.figures import Figure, figures
from nnunet_spine_ext.study.measured import Study, asked_for, read_study
from nnunet_spine_ext.study.more_tables import regions, tests, vertebrae
from nnunet_spine_ext.study.page import render_page
from nnunet_spine_ext.study.publishing import (
    DEFAULT_BOOTSTRAP,
    DEFAULT_SEED,
    check_resampling,
    goal_line,
    write_figures,
    write_tables,
    writing,
)
from nnunet_spine_ext.study.results import Results, results
from nnunet_spine_ext.study.shares import Outcome
from nnunet_spine_ext.study.statistics import Estimate
from nnunet_spine_ext.study.table_rows import claims_table, fit_text, goals_table, tables
from nnunet_spine_ext.study.tables import Table

# Tables that are not among the others on the page: at its top, or too long for it.
_ELSEWHERE = ("goals", "claims", "vertebrae")


@dataclass(frozen=True)
class StudySummary:
    """What a study found, for the console and for machines."""

    folder: Path
    results: Results
    goals: tuple[Goal, ...]
    claims: tuple[Claim, ...]
    files: tuple[str, ...]

    @property
    def void(self) -> bool:
        """Whether nothing follows from the study; see `results.verdict`."""
        return self.results.verdict.void

    @property
    def exit_code(self) -> int:
        """0; 3 for a void study."""
        return EXIT_SOME_FAILED if self.void else EXIT_OK

    def render(self) -> str:
        """Return the verdict, every share with its interval, the best strategy, the goals and where the page is."""
        found = self.results
        study = found.cohort.study
        lines = [_scope(study, found)]
        lines.append(f"{'VOID' if self.void else 'not void'}: {found.verdict.why}")
        lines += [_share_line(one, len(study.targets)) for one in found.outcomes if one.variant != NONE]
        if found.ceiling is not None:
            lines.append(f"recoverable at all, by resolution: {_of_the_gap(found.ceiling.share)}")
        for words, best in (("best", found.best()), ("best without target data", found.best(needs=("nothing",)))):
            what = f"{best.variant.title}, mean Dice {best.mean.text()}{found.no_better(best)}" if best else ""
            lines.append(f"{words}: {what or 'none was run on all targets'}")
        lines += [f"fine-tuning curve, {c.scanner}: {fit_text(c.fit)}" for c in found.samples]
        lines += [goal_line(goal) for goal in self.goals]
        failed = sum(one.failed for one in found.outcomes)
        lines += [f"{failed} predictions failed (see table 1 for how they count)"] if failed else []
        return "\n".join([*lines, f"{self.folder / 'index.html'}"])

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds; equal results give equal bytes."""
        found = self.results
        best = found.best()
        return {
            "version": 1,
            "void": self.void,
            "verdict": found.verdict.why,
            "gap": found.verdict.gap.to_dict(),
            "source": found.cohort.study.source,
            "targets": list(found.cohort.study.targets),
            "subjects": len(found.cohort.subjects),
            "seeds": list(found.cohort.seeds),
            "bootstrap": found.cohort.draws.resamples,
            "paired_subjects": found.cohort.crossed,
            "strategies": {one.variant.key: one.to_dict() for one in found.outcomes},
            "best": None if best is None else best.variant.key,
            "ceiling": None if found.ceiling is None else {
                "dice": found.ceiling.dice.to_dict(), "share": found.ceiling.share.to_dict(),
                "share_by_scanner": {name: one.to_dict() for name, one in found.ceiling.shares.items()},
            },
            "components": [one.to_dict() for one in found.drops],
            "samples": [one.to_dict() for one in found.samples],
            "gaps": {one.measure: one.to_dict() for one in found.gaps},
            "goals": [one.to_dict() for one in self.goals],
            "claims": [one.to_dict() for one in self.claims],
            "files": list(self.files),
        }  # fmt: skip


def analyse(folder: str | Path, *, bootstrap: int = DEFAULT_BOOTSTRAP, seed: int = DEFAULT_SEED) -> StudySummary:
    """Write tables/, figures/, summary.json and index.html of a study; equal input gives equal bytes.

    Parameters
    ----------
    folder: with cases.csv and, where they were measured, vertebrae.csv, gaps.csv and study.json.
    bootstrap: resamples of the subjects; 0: no intervals. seed: of the resampling.

    Raises
    ------
    NoInputError: there is nothing to analyse. CaseError: a file is not what it should be. UsageError: a wrong number,
    or it cannot be told which scanner is the source. SetupError: the folder cannot be written.
    """
    check_resampling(bootstrap, seed)
    study = read_study(folder)
    found = results(Cohort(study, resamples=bootstrap, seed=seed))
    reached, stated = goals(found), claims(found)
    shown = (
        *tables(found), regions(found), vertebrae(found), tests(found), goals_table(reached), claims_table(stated)
    )  # fmt: skip
    drawn = figures(found)
    with writing(study.folder):
        names = [*write_tables(study.folder, shown), *write_figures(study.folder, drawn)]
        summary = StudySummary(study.folder, found, reached, stated, (*names, "index.html"))
        write_text(study.folder / "index.html", _page(summary, shown, drawn))
        write_text(study.folder / "summary.json", json_text(summary.to_dict(), indent=2) + "\n")
    return summary


def _scope(study: Study, found: Results) -> str:
    cohort = found.cohort
    seeds = f"{len(cohort.seeds)} seed{'s' if len(cohort.seeds) > 1 else ''}"
    return f"{len(cohort.subjects)} subjects, source {study.source}, {len(study.targets)} targets, {seeds}"


def _share_line(one: Outcome, targets: int) -> str:
    if not one.ran:
        return f"{one.variant.title}: {one.mean.note}"
    where = "" if len(one.scanners) == targets else f" ({len(one.scanners)} of {targets} targets)"
    p = f", p {one.test.text()}" if one.test is not None else ""
    return f"{one.variant.title}: {_of_the_gap(one.share)}, mean Dice {one.mean.text()}{p}{where}"


def _of_the_gap(share: Estimate) -> str:
    return f"{share.percent()} of the gap" if share.known else share.percent()


def _page(summary: StudySummary, shown: tuple[Table, ...], drawn: tuple[Figure, ...]) -> str:
    found = summary.results
    cohort, study = found.cohort, found.cohort.study
    version = asked_for(study.facts, "versions")
    words = ", ".join(f"{k} {v}" for k, v in version.items()) if isinstance(version, dict) else ""
    by_name = {table.name: table for table in shown}
    return render_page(
        title="Crossing scanners",
        subtitle=_scope(study, found),
        void=summary.void,
        why=found.verdict.why,
        goals=by_name["goals"],
        claims=by_name["claims"],
        tables=[table for table in shown if table.name not in _ELSEWHERE],
        figures=drawn,
        footer=f"{cohort.draws.resamples} resamples of the subjects.{f' Made with {words}.' if words else ''}",
    )

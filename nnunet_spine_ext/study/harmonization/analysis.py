"""From the CSV files of an evaluation to tables, figures, a summary and a page."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import EXIT_OK, EXIT_SOME_FAILED, CaseError
from nnunet_spine_ext.core.io import json_text, read_json, write_bytes, write_text
from nnunet_spine_ext.harmonize.selection import SELECTION_FILE, FeatureSelection
from nnunet_spine_ext.study.claims import Goal
from nnunet_spine_ext.study.figures import Figure
from nnunet_spine_ext.study.harmonization.arms import FULL, NONE, arm_title
from nnunet_spine_ext.study.harmonization.figures import figures
from nnunet_spine_ext.study.harmonization.goals import goals, is_void
from nnunet_spine_ext.study.harmonization.measured import read_measured
from nnunet_spine_ext.study.harmonization.page import render_page
from nnunet_spine_ext.study.harmonization.pictures import Picture, pictures, read_shown
from nnunet_spine_ext.study.harmonization.results import Results
from nnunet_spine_ext.study.harmonization.tables import ELSEWHERE, tables
from nnunet_spine_ext.study.publishing import (
    DEFAULT_BOOTSTRAP,
    DEFAULT_SEED,
    check_resampling,
    goal_line,
    write_figures,
    write_tables,
    writing,
)
from nnunet_spine_ext.study.table_rows import goals_table
from nnunet_spine_ext.study.tables import Table


@dataclass(frozen=True)
class Summary:
    """What an evaluation found, for the console and for machines; `missing`: figures that it has not, and why."""

    folder: Path
    results: Results
    goals: tuple[Goal, ...]
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def void(self) -> bool:
        """Whether nothing about segmentation follows: the segmenter does not need harmonization."""
        return is_void(self.results)[0]

    @property
    def exit_code(self) -> int:
        """0; 3 for a void evaluation."""
        return EXIT_SOME_FAILED if self.void else EXIT_OK

    def render(self) -> str:
        """Return the verdict, every method with its intervals, the goals and where the page is."""
        found = self.results
        lines = [_scope(found), f"{'VOID' if self.void else 'not void'}: {is_void(found)[1]}"]
        own = found.estimate(found.overlap(NONE, "dice", found.target))
        lines.append(f"target as it is: Dice {own.text()}")
        lines += [_line(found, arm) for arm in found.arms]
        lines += [_error_line(found, feature) for feature in found.features]
        lines += [goal_line(goal) for goal in self.goals]
        lines += self.missing
        return "\n".join([*lines, f"{self.folder / 'index.html'}"])

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds; equal results give equal bytes."""
        found = self.results
        arms = {
            arm: {
                **{n: found.estimate(found.overlap(arm, n, found.others)).to_dict() for n in ("dice", "iou", "f1")},
                "recovered": found.recovered(arm, found.others).to_dict(),
                "errors": {name: found.error(arm, name, found.others).to_dict() for name in found.features},
                "edge_correlation": found.estimate(found.geometry(arm, "edge_correlation", found.others)).to_dict(),
                "volume_change": found.estimate(found.geometry(arm, "volume_change", found.others)).to_dict(),
            }
            for arm in found.arms
        }  # fmt: skip
        return {
            "version": 1,
            "void": self.void,
            "gap": found.gap(found.others).to_dict(),
            "vendors": found.vendors,
            "segmenter": found.main,
            "subjects": len(found.subjects),
            "seeds": list(found.seeds),
            "bootstrap": found.resamples,
            "arms": arms,
            "goals": [goal.to_dict() for goal in self.goals],
            "files": list(self.files),
            "missing": list(self.missing),
        }


def analyse(folder: str | Path, *, bootstrap: int = DEFAULT_BOOTSTRAP, seed: int = DEFAULT_SEED) -> Summary:
    """Write tables/, figures/, summary.json and index.html of an evaluation; equal input gives equal bytes.

    Parameters
    ----------
    folder: with segmentation.csv and, where they were measured, radiomics.csv, geometry.csv, trainings.csv, shown/,
        radiomics.json and evaluation.json.
    bootstrap: resamples of the patients; 0: no intervals. seed: of the resampling.

    Raises
    ------
    NoInputError: there is nothing to analyse. CaseError: a file is not what it should be. UsageError: a wrong number.
    SetupError: the folder cannot be written.
    """
    check_resampling(bootstrap, seed)
    measured = read_measured(folder)
    found = Results(measured, bootstrap, seed)
    reached = goals(found)
    shown = (goals_table(reached), *tables(found))
    selection = _selection(measured.folder)
    drawn = figures(found, selection)
    # Slices of arms that an earlier configuration had may be there, too.
    kept = {arm: one for arm, one in read_shown(measured.folder).items() if arm in found.arms}
    seen = pictures(kept, found.target)
    with writing(measured.folder):
        names = [
            *write_tables(measured.folder, shown),
            *write_figures(measured.folder, drawn),
            *_write_pictures(measured.folder, seen),
        ]
        missing = _missing(selection, {picture.slug for picture in seen})
        summary = Summary(measured.folder, found, reached, (*names, "index.html"), missing)
        write_text(measured.folder / "index.html", _page(summary, shown, drawn, seen))
        write_text(measured.folder / "summary.json", json_text(summary.to_dict(), indent=2) + "\n")
    return summary


def _selection(folder: Path) -> FeatureSelection | None:
    path = folder / SELECTION_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise CaseError("E-STUDY-TABLE", file=path, found="no selection of features",
                        expected="what an evaluation writes", fix="do the evaluation again")  # fmt: skip
    return FeatureSelection.from_dict(content)


def _missing(selection: FeatureSelection | None, seen: AbstractSet[str]) -> tuple[str, ...]:
    """Return in words which figures of the paper are not there."""
    found = []
    if selection is None:
        found.append("Figures 7 and 8 are left out: no CycleGAN of this evaluation chose features.")
    absent = [number for number in ("9", "10", "12") if f"figure{number}" not in seen]
    if absent:
        found.append(f"Of figures 9, 10 and 12, {', '.join(absent)} left out: no slices to show.")
    return tuple(found)


def _scope(found: Results) -> str:
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    target = ", ".join(found.target) or "none"
    return f"{len(found.subjects)} patients, target {target}, {len(found.others)} other vendors, {seeds}"


def _line(found: Results, arm: str) -> str:
    dice = found.estimate(found.overlap(arm, "dice", found.others)).text()
    f1 = found.estimate(found.overlap(arm, "f1", found.others)).text()
    share = found.recovered(arm, found.others)
    words = f"{share.percent()} of the gap" if share.known else f"share of the gap {share.percent()}"
    return f"{arm_title(arm)}: Dice {dice}, F1 {f1}{'' if arm == NONE else f', {words}'}"


def _error_line(found: Results, feature: str) -> str:
    """Return the error of a feature with the whole method, without it with the last arm of the tables, and as it is."""
    shown = FULL if FULL in found.arms else found.arms[-1]
    own = f"{found.error(NONE, feature, found.others).text(4)} as it is"
    changed = f"{found.error(shown, feature, found.others).text(4)} with {arm_title(shown)}"
    return f"{feature}: relative error {own if shown == NONE else f'{changed}, {own}'}"


def _write_pictures(folder: Path, seen: Sequence[Picture]) -> list[str]:
    names = []
    for picture in seen:
        names.append(f"figures/{picture.slug}.png")
        write_bytes(folder / names[-1], picture.png())
    return names


def _page(summary: Summary, shown: Sequence[Table], drawn: Sequence[Figure], seen: Sequence[Picture]) -> str:
    found = summary.results
    versions = found.measured.facts.get("versions")
    words = ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    by_name = {table.name: table for table in shown}
    void, why = is_void(found)
    return render_page(
        title="Harmonizing vendors",
        subtitle=_scope(found),
        void=void,
        why=why,
        goals=by_name["goals"],
        tables=[*(t for t in shown if t.name not in ELSEWHERE), by_name["trainings"]],
        figures=drawn,
        pictures=seen,
        facts=found.measured.facts,
        footer=" ".join(
            [
                f"{found.resamples} resamples of the patients.",
                *summary.missing,
                *([f"Made with {words}."] if words else []),
            ]
        ),
    )

"""What an evaluation found, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import write_json, write_text
from nnunet_spine_ext.core.summary import RunSummary
from nnunet_spine_ext.evaluate import latex, tables
from nnunet_spine_ext.evaluate.cohort import Cohort
from nnunet_spine_ext.evaluate.markdown import markdown
from nnunet_spine_ext.evaluate.matching import Matching
from nnunet_spine_ext.evaluate.scoring import Score
from nnunet_spine_ext.evaluate.statistic import Resampling

MISSING = "E-EVAL-MISSING"
# summary.json is written last: where it is, the evaluation is complete.
FILES = ("summary.json", "metrics.csv", "summary.md", "summary.tex")


@dataclass
class EvaluationResult:
    """All scores, what happened to each case, and where the tables are.

    `matchings` maps case and group to the matched, missed and spurious instances; `remarks` concern the whole run; `by`
    lists the facts that the cases are grouped by.
    """

    out: Path
    inputs: dict[str, str | None]
    options: dict[str, Any]
    rows: list[Score] = field(default_factory=list)
    matchings: dict[str, dict[str, Matching]] = field(default_factory=dict)
    summary: RunSummary = field(default_factory=RunSummary)
    remarks: list[str] = field(default_factory=list)
    cohort: Cohort = field(default_factory=Cohort)
    resampling: Resampling = field(default_factory=lambda: Resampling({}))
    by: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """0: every reference was compared; 3: some predictions are missing or failed; 4: none was usable."""
        return self.summary.exit_code

    @property
    def status(self) -> dict[str, str]:
        """``done``, ``missing`` or ``failed`` for every reference case."""
        words = dict.fromkeys(self.summary.done, "done")
        for case, problem in self.summary.failed.items():
            words[case] = "missing" if problem.code == MISSING else "failed"
        return dict(sorted(words.items()))

    @property
    def groups(self) -> dict[str, dict[str, list[str]]]:
        """Cases that were scored, by fact and value."""
        scored = sorted({row.case for row in self.rows})
        return {key: self.cohort.groups(key, scored) for key in self.by}

    @property
    def notes(self) -> list[str]:
        """Remarks, failures and warnings in words."""
        found = [*self.remarks, *(f"{case}: {problem}" for case, problem in self.summary.failed.items())]
        found += [f"{case}: {problem}" for case, problems in self.summary.warnings.items() for problem in problems]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything that summary.json holds."""
        means = tables.case_means(self.rows)
        cases: dict[str, Any] = {}
        for case, word in self.status.items():
            mean = {name: tables.finite_or_none(value) for name, value in means.get(case, {}).items()}
            cases[case] = {
                "status": word,
                "mean_over_classes": mean,
                "instances": self._instances(case),
                "subject": self.cohort.subject(case),
                "facts": dict(self.cohort.facts.get(case, {})),
            }
        return {
            "version": 1,
            "inputs": self.inputs,
            "options": self.options,
            **tables.to_json(self.rows, self.resampling),
            "by": {key: self._by(groups) for key, groups in self.groups.items()},
            "remarks": self.remarks,
            "cases": cases,
            "run": self.summary.to_dict(),
        }

    def _by(self, groups: dict[str, list[str]]) -> dict[str, Any]:
        """Statistics of the cases of each value of one fact."""
        found = {}
        for value, cases in groups.items():
            chosen = set(cases)
            mine = [row for row in self.rows if row.case in chosen]
            subjects = {self.cohort.subject(case) for case in cases}
            content = tables.to_json(mine, self.resampling)
            del content["metrics"]
            found[value] = {"cases": cases, "subjects": len(subjects), **content}
        return found

    def _instances(self, case: str) -> dict[str, Any]:
        return {
            group: {
                "matched": {str(match.ref): match.pred for match in matching.matches},
                "missed": list(matching.missed),
                "spurious": list(matching.spurious),
            }
            for group, matching in self.matchings.get(case, {}).items()
        }

    def render(self) -> str:
        """Return the tables for the console, then failures and where the files are."""
        text = markdown(self.rows, self.status, self.notes, scopes=("class", "group"), by=self.groups)
        return f"{text}\n{self.summary.render().splitlines()[-1]}; tables in {self.out}"

    def write(self, spread: latex.Spread | None = None) -> None:
        """Write metrics.csv, summary.md, summary.tex (when a `spread` is chosen) and, last, summary.json."""
        tables.write_csv(self.out / "metrics.csv", self.rows)
        text = markdown(self.rows, self.status, self.notes, resampling=self.resampling, by=self.groups)
        write_text(self.out / "summary.md", text)
        if spread is not None:
            scored = len({row.case for row in self.rows})
            write_text(self.out / "summary.tex", latex.evaluation(self.rows, self.groups, spread, scored))
        write_json(self.out / "summary.json", self.to_dict())

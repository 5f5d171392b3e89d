"""From the scores of single steps to the CSV files of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import read_json, write_bytes
from nnunet_spine_ext.harmonize.selection import SELECTION_FILE
from nnunet_spine_ext.study.harmonization.arms import FULL
from nnunet_spine_ext.study.harmonization.assemble import Assembly
from nnunet_spine_ext.study.harmonization.measured import (
    FAILURE_COLUMNS,
    GEOMETRY_COLUMNS,
    RADIOMICS_COLUMNS,
    SEGMENTATION_COLUMNS,
    TRAINING_COLUMNS,
)
from nnunet_spine_ext.study.harmonization.trained import Model, parameters_of
from nnunet_spine_ext.study.records import write_rows
from nnunet_spine_ext.study.steps import Ledger, Outcome

_TABLES = {
    "segmentation": SEGMENTATION_COLUMNS,
    "radiomics": RADIOMICS_COLUMNS,
    "geometry": GEOMETRY_COLUMNS,
}


def collect(study: Path, made: Assembly, ledger: Ledger, outcome: Outcome) -> list[dict[str, Any]]:
    """Write the CSV files of all steps that are done, and the target's features; return the failures."""
    steps = {step.name: step for step in made.steps}
    done = [run for run in made.runs if ledger.is_done(steps[run.score]) and run.score not in outcome.left_out]
    contents = [(run.seed, read_json(study / run.scores)) for run in done]
    for name, columns in _TABLES.items():
        rows = ({"seed": seed} | row for seed, content in contents for row in content[name])
        write_rows(study / f"{name}.csv", columns, rows)
    failures = list(_failures(made, outcome))
    write_rows(study / "trainings.csv", TRAINING_COLUMNS, _trainings(study, made, ledger))
    write_rows(study / "failures.csv", FAILURE_COLUMNS, failures)
    _selection(study, made)
    return failures


def _failures(made: Assembly, outcome: Outcome) -> Iterator[dict[str, Any]]:
    reasons = {name: str(problem) for name, problem in outcome.failed.items()} | outcome.left_out
    of_step = {run.score: run for run in made.runs}
    for run in made.runs:
        of_step |= dict.fromkeys(run.model.needs if run.model is not None else (), run)
    for name, reason in reasons.items():
        facts = {"seed": of_step[name].seed, "arm": of_step[name].arm} if name in of_step else {}
        yield {**facts, "step": name, "reason": reason}


def _trainings(study: Path, made: Assembly, ledger: Ledger) -> Iterator[dict[str, Any]]:
    models: list[tuple[int, str, str, Model]] = [
        (seed, "segmenter", name, model) for (seed, name), model in made.segmenters.items()
    ]
    models += [(run.seed, "harmonizer", run.arm, run.model) for run in made.runs if run.model is not None]
    for seed, kind, name, model in models:
        if not all(ledger.is_done(step) for step in model.steps):
            continue
        seconds = [ledger.seconds(step) or 0.0 for step in model.steps]
        answers = [ledger.answer(step) for step in model.steps]
        epochs = next((a["epochs"] for a in answers if isinstance(a, dict) and "epochs" in a), "")
        sizes = parameters_of(study / model.folder)
        yield {
            "seed": seed, "kind": kind, "name": name, "parameters": sum(sizes.values()) or "",
            "epochs": epochs if isinstance(epochs, int) else "",
            "minutes": round(sum(seconds) / 60, 2) if seconds else "",
        }  # fmt: skip


def _selection(study: Path, made: Assembly) -> None:
    """Keep the features of the target beside the tables: those of the whole method, or of another CycleGAN.

    Those of an earlier configuration must not be taken for them.
    """
    (study / SELECTION_FILE).unlink(missing_ok=True)
    runs = sorted(made.runs, key=lambda run: run.arm != FULL)
    for run in runs:
        path = None if run.model is None else study / run.model.folder / SELECTION_FILE
        if path is not None and path.is_file():
            write_bytes(study / SELECTION_FILE, path.read_bytes())
            return

"""What the analyses of studies share: tables and figures as files, and the faults on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.io import write_bytes, write_text
from nnunet_spine_ext.render.drawing import png, svg
from nnunet_spine_ext.study.claims import Goal
from nnunet_spine_ext.study.figures import Figure
from nnunet_spine_ext.study.tables import Table, csv_text, markdown_text

DEFAULT_BOOTSTRAP = 2000
DEFAULT_SEED = 42
# Pixels per unit: 1920 wide.
_PNG_SCALE = 3.0


def check_resampling(bootstrap: int, seed: int) -> None:
    """Raise UsageError for a negative number of resamples or seed."""
    if bootstrap < 0 or seed < 0:
        raise UsageError(
            "E-STUDY-BOOTSTRAP",
            found=f"bootstrap {bootstrap}, seed {seed}",
            expected="numbers from 0",
            fix="correct the number",
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Write results into `folder`; raises SetupError when it cannot be written."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            "E-STUDY-WRITE",
            file=folder,
            found=f"cannot be written ({error.strerror})",
            expected="a folder that can be written",
            fix="copy the CSV files to another folder, and analyse that",
        ) from error


def write_tables(folder: Path, shown: Sequence[Table]) -> list[str]:
    """Write tables as CSV and Markdown to ``tables/``; return the names of the files."""
    names = []
    for table in shown:
        for suffix, text in (("csv", csv_text(table)), ("md", markdown_text(table))):
            names.append(f"tables/{table.name}.{suffix}")
            write_text(folder / names[-1], text)
    return names


def write_figures(folder: Path, drawn: Sequence[Figure]) -> list[str]:
    """Write figures as SVG and PNG, with their data as CSV, to ``figures/``; return the names of the files."""
    names = []
    for figure in drawn:
        drawing = figure.draw(True)
        contents: dict[str, bytes] = {
            "svg": svg(drawing).encode(),
            "png": png(drawing, scale=_PNG_SCALE),
            "csv": csv_text(figure.data).encode(),
        }
        for suffix, content in contents.items():
            names.append(f"figures/{figure.slug}.{suffix}")
            write_bytes(folder / names[-1], content)
    return names


def goal_line(goal: Goal) -> str:
    """Return a goal for the console: whether it was reached, what was measured and where."""
    where = f" ({goal.where})" if goal.where else ""
    return f"goal {goal.status}: {goal.text}: {goal.measured}{where}"

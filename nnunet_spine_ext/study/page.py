"""The page of a study: one HTML file without scripts, with everything inside, that opens from disk."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from nnunet_spine_ext.render.drawing import style_sheet, svg
from nnunet_spine_ext.study.figures import Figure
from nnunet_spine_ext.study.results import VOID_BELOW
from nnunet_spine_ext.study.tables import Table

READING = (
    "Dice is the mean over the true vertebrae of a case, each against the predicted vertebra that overlaps it most; a "
    "vertebra that was missed counts as 0. ID rate is the share of true vertebrae that carry their right name. MSD is "
    "the mean distance between surfaces in millimetres, over the vertebrae that were found. Everything is measured on "
    "the grid of the source image.",
    "The share of the gap recovered is (strategy - none) / (source - none). 0 %: nothing came back, 100 %: as good as "
    "the unadapted model on its own scanner. It can be negative, and above 100 %.",
    "Intervals are 95 % percentile bootstrap intervals over subjects. Subjects are drawn once, for all scanners and "
    "strategies, so differences and shares are those of the same subjects. They say what other subjects would "
    "change, not what another training would: several seeds say that.",
    f"A study is void unless the unadapted model loses at least {VOID_BELOW:.2f} Dice on the targets: a share of a "
    "smaller loss is chance.",
    "Numbers of the paper follow from a formula, not from images; they are shown for comparison, not as a target.",
)


def render_page(
    *, title: str, subtitle: str, void: bool, why: str, goals: Table, claims: Table, tables: Sequence[Table],
    figures: Sequence[Figure], footer: str,
) -> str:  # fmt: skip
    """Fill the template; every text is escaped, and the content policy allows no script and no address."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawings = [figure.draw(False) for figure in figures]
    rules = style_sheet(shape for drawing in drawings for shape in drawing.shapes)
    shown: list[dict[str, Any]] = [
        # Drawings escape their own texts.
        {"slug": f.slug, "title": f.title, "caption": f.caption, "drawing": Markup(svg(d, standalone=False))}  # noqa: S704
        for f, d in zip(figures, drawings, strict=True)
    ]
    return environment.get_template("study.html.j2").render(
        title=title,
        subtitle=subtitle,
        void=void,
        verdict="VOID: nothing follows from this study" if void else "Not void",
        why=why,
        goals=goals,
        claims=claims,
        tables=tables,
        figures=shown,
        reading=READING,
        footer=footer,
        marked=("reached", "missed", "yes", "no"),
        style=Markup(f"{_resource('study.css').strip()}\n{rules}"),  # noqa: S704
    )


def _resource(name: str) -> str:
    return files("nnunet_spine_ext.study").joinpath("templates", name).read_text(encoding="utf-8")

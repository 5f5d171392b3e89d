"""The page of an evaluation: one HTML file without scripts, with everything inside, that opens from disk."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from nnunet_spine_ext.render.drawing import style_sheet, svg
from nnunet_spine_ext.study.figures import Figure
from nnunet_spine_ext.study.harmonization.goals import VOID_BELOW
from nnunet_spine_ext.study.harmonization.pictures import Picture
from nnunet_spine_ext.study.tables import Table

_READING = (
    "Dice is soft: 2 Σ p r / (Σ p + Σ r) over the probabilities of a slice. F1, IoU, precision and recall are those of "
    "the mask of all pixels with a probability from 0.5 on. A slice without discs in which none is found says nothing "
    "and is left out.",
    "A value of a patient is the mean over his slices, a value of a vendor the mean over patients. Intervals are 95 % "
    "percentile bootstrap intervals over patients, as many of each vendor as there are, drawn once for all numbers: "
    "differences are those of the same patients. They say what other patients would change, not what another training "
    "would: several seeds say that.",
    "Errors of area are those of single slices, errors of the mean of a feature those of a vendor and a seed. They are "
    "averaged as sizes: too much here does not make up for too little there. The change of area rests on slices where "
    "the segmenter found discs before harmonization, and is void where segmentation is.",
    "The share of the gap recovered is (method - as it is) / (target as it is - as it is), all of the same segmenter, "
    f"which saw slices of the target alone. Without a gap of at least {VOID_BELOW:.2f} Dice nothing follows.",
    "{radiomics}; the window is the same for all methods. The relative error is |harmonized - target| / |target|, "
    "against the target slice that is nearest in level and position, of the same patient where the target scanned him, "
    "too.",
    "Edges are compared after the best change of tones is taken away: edge correlation forgives every change of "
    "contrast and brightness, however strong. It tells of anatomy that moved, came or went, not of tissues that look "
    "alike now.",
    "Numbers of the paper are of clinical images of other scanners, with intervals over slices. They are shown for "
    "comparison, not as a target.",
)


def reading(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how the numbers of an evaluation are to be read, with the settings that it was done with."""
    settings = facts.get("radiomics")
    words = "Radiomic features are those of PyRadiomics"
    if isinstance(settings, Mapping):
        rows, columns = settings["roi"]
        scales = {"minmax": "scaled to 0-255", "robust": "scaled to 0-255 by its percentiles 0.5 and 99.5"}
        words += f" with bins of {settings['bin_width']:g}, in a window of {rows} × {columns} pixels around the discs"
        words += f", {scales.get(settings['scaling'], 'on the scale of the slice')}"
    else:
        words += ", in a window around the discs"
    return tuple(text.format(radiomics=words) if text.startswith("{radiomics}") else text for text in _READING)


def render_page(
    *, title: str, subtitle: str, void: bool, why: str, goals: Table, tables: Sequence[Table],
    figures: Sequence[Figure], pictures: Sequence[Picture], facts: Mapping[str, Any], footer: str,
) -> str:  # fmt: skip
    """Fill the template; every text is escaped, and the content policy allows no script and no address."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_resource), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    drawings = [figure.draw(False) for figure in figures]
    rules = style_sheet(shape for drawing in drawings for shape in drawing.shapes)
    shown = {
        # Drawings escape their own texts.
        f.slug: {"slug": f.slug, "title": f.title, "caption": f.caption, "drawing": Markup(svg(d, standalone=False))}  # noqa: S704
        for f, d in zip(figures, drawings, strict=True)
    }
    for picture in pictures:
        data = base64.b64encode(picture.png()).decode("ascii")
        shown[picture.slug] = {
            "slug": picture.slug, "title": picture.title, "caption": picture.caption,
            "source": f"data:image/png;base64,{data}", "width": picture.pixels.shape[1],
            "height": picture.pixels.shape[0],
        }  # fmt: skip
    return environment.get_template("harmonization.html.j2").render(
        title=title,
        subtitle=subtitle,
        void=void,
        verdict="VOID: nothing about segmentation follows" if void else "Not void",
        why=why,
        goals=goals,
        tables=tables,
        figures=[shown[slug] for slug in sorted(shown, key=_place)],
        reading=reading(facts),
        footer=footer,
        marked=("reached", "missed", "yes", "no"),
        style=Markup(f"{_resource('study.css').strip()}\n{rules}"),  # noqa: S704
    )


def _place(slug: str) -> tuple[int, str]:
    """Figures of the paper by their numbers, then the others."""
    number = slug.removeprefix("figure")
    return (int(number), "") if number.isdigit() else (1000, slug)


def _resource(name: str) -> str:
    return files("nnunet_spine_ext.study").joinpath("templates", name).read_text(encoding="utf-8")

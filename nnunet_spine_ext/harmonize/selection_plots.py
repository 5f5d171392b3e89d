"""Pictures of a choice of features: the coefficients of variation, and how the best of them correlate."""

from __future__ import annotations

from pathlib import Path

from nnunet_spine_ext.core.io import write_bytes, write_text
from nnunet_spine_ext.harmonize.selection import FeatureSelection
from nnunet_spine_ext.render.drawing import Drawing, png, svg
from nnunet_spine_ext.render.ranking import Axis, Ranked, correlations, ranking

VARIATION_PLOT, CORRELATION_PLOT = "radiomics_variation", "radiomics_correlation"
_CHOSEN, _DROPPED, _BEYOND = 0, 1, 5


def variation_plot(selection: FeatureSelection, *, titled: bool = True) -> Drawing:
    """Draw the coefficient of variation of every feature that has one, from the lowest upwards (Kim et al., Fig. 7)."""
    rows = []
    for name in sorted(selection.variation, key=lambda name: selection.variation[name]):
        kind = _CHOSEN if name in selection.names else _DROPPED if name in selection.top else _BEYOND
        rows.append(Ranked(name, selection.variation[name], kind))
    series = [
        (_CHOSEN, "chosen"),
        (_DROPPED, f"correlates with a chosen one by more than {selection.limit:g}"),
        (_BEYOND, f"not among the {len(selection.top)} lowest"),
    ]
    axis = Axis("coefficient of variation")
    return ranking(rows, series, axis, f"Features of {selection.n} target slices", titled=titled)


def correlation_plot(selection: FeatureSelection, *, titled: bool = True) -> Drawing:
    """Draw the correlations of the features with the lowest variation; chosen ones are bold (Kim et al., Fig. 8)."""
    title = f"The {len(selection.top)} features that vary least, chosen ones bold"
    return correlations(selection.top, selection.correlation, title, chosen=selection.names, titled=titled)


def save_selection_plots(folder: str | Path, selection: FeatureSelection) -> tuple[Path, ...]:
    """Write both pictures as SVG and PNG into a folder, for example that of a model; return the files."""
    files = []
    for name, drawing in (
        (VARIATION_PLOT, variation_plot(selection)),
        (CORRELATION_PLOT, correlation_plot(selection)),
    ):
        vector, raster = Path(folder) / f"{name}.svg", Path(folder) / f"{name}.png"
        write_text(vector, svg(drawing))
        write_bytes(raster, png(drawing, scale=2.0))
        files += [vector, raster]
    return tuple(files)

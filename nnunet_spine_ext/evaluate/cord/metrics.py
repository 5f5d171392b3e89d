"""What is computed about the cord's area, one row each: tables and the reference page are made from these rows."""

from __future__ import annotations

from nnunet_spine_ext.evaluate.metric import INF, NAN, Edges, Metric
from nnunet_spine_ext.evaluate.registry import METRICS

_UNDEFINED = Edges(ref_empty=NAN, pred_empty=NAN, both_empty=NAN)


def _row(name: str, long_name: str, direction: str, unit: str, definition: str, equals: str) -> Metric:
    return Metric(
        name=name,
        long_name=long_name,
        scope="cord",
        direction=direction,  # type: ignore[arg-type]
        unit=unit,
        needs_spacing=True,
        function="cord.case:score_case",
        edges=_UNDEFINED,
        bounds=(-INF, INF),
        definition=definition,
        equals=equals,
    )


_ROWS = (
    _row(
        "csa_error", "CSA error", "zero", "mm²",
        "area of P minus area of R over the slices of the range that both have", "the definition",
    ),
    _row(
        "csa_absolute_error", "Absolute CSA error", "lower", "mm²", "size of `csa_error`, per image", "the definition"
    ),
    _row(
        "csa_coverage", "Coverage of the range", "higher", "",
        "share of the reference's slices in the range in which P exceeds one half somewhere; read it with the errors, "
        "which know nothing of the other slices", "the definition",
    ),
    _row(
        "csa_std", "STD of CSA across contrasts", "lower", "mm²",
        "standard deviation of one subject's areas over its contrasts, n - 1 (`--ddof 0`: n), of subjects with two or "
        "more contrasts", "numpy",
    ),
    _row(
        "soft_relative_volume_error", "Relative volume error of soft maps", "zero", "%",
        "100 (sum of shares of P - that of R) / that of R over voxels where R is known; `relative_volume_error` is "
        "that of both maps at one half", "the definition",
    ),
)  # fmt: skip
CORD_METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
EVERY_METRIC = METRICS | CORD_METRICS
# Of the registry, computed at one half.
AT_HALF = ("dice", "assd", "relative_volume_error")

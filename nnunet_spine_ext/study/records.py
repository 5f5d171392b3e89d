"""The CSV files of a study, long: one row per case, per vertebra, per gap, per failure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import write_text

KEYS = ("seed", "strategy", "scanner", "factor", "components", "severity", "n", "case", "subject", "region_of_view")
CASE_COLUMNS = (
    *KEYS, "dice", "semantic_dice", "id_rate", "msd_mm", "vertebrae", "missing", "seconds", "forward_passes",
    "noise_reduced", "matched",
)  # fmt: skip
VERTEBRA_COLUMNS = (*KEYS, "level", "region", "dice", "msd_mm", "detected", "identified")
GAP_COLUMNS = (
    "seed", "scanner", "case", "quantile_distance", "snr_ratio", "resolution_ratio", "feature_distance", "ceiling_dice",
)  # fmt: skip
FAILURE_COLUMNS = ("seed", "strategy", "scanner", "n", "case", "step", "reason")


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a CSV file with these columns; return its number of rows. Numbers have six digits, NaN is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([_text(row.get(name)) for name in columns])
        count += 1
    write_text(path, stream.getvalue())
    return count


def without_nan(value: Any) -> Any:
    """Return JSON values with None in the place of NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)

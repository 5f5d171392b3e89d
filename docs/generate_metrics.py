"""Write docs/reference/metrics.md from the registry of metrics: `python docs/generate_metrics.py`."""

from __future__ import annotations

from pathlib import Path

from nnunet_spine_ext.evaluate.reference import reference_page

PAGE = Path(__file__).resolve().parent / "reference" / "metrics.md"


if __name__ == "__main__":
    PAGE.write_text(reference_page(), encoding="utf-8")

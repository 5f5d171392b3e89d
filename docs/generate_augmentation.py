"""Write docs/reference/augmentation.md from the transforms: `python docs/generate_augmentation.py`."""

from __future__ import annotations

from pathlib import Path

from nnunet_spine_ext.augment.reference import reference_page

PAGE = Path(__file__).resolve().parent / "reference" / "augmentation.md"


if __name__ == "__main__":
    PAGE.write_text(reference_page(), encoding="utf-8")

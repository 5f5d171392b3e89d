"""Real images of one subject in several contrasts, as far as there are any; nothing here is a truth.

What can be said: how much the area that a model finds changes between contrasts of one subject, over the heights that
all of them show. Masks: those of `sct-testing` were drawn per contrast (T2w: the output of a network), those of `unf01`
are one mask under three names, so that Dice with them says little about contrasts; the tutorials have none.

`sct-testing/mt/t1w.nii.gz` is left out: its values are two thirds of those of `mt0.nii.gz`, so it is no other contrast.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def groups() -> list[dict[str, Any]]:
    """Return groups of images that exist in NNUNET_SPINE_TEST_DATA: name, note, images with masks by contrast."""
    root = os.environ.get("NNUNET_SPINE_TEST_DATA")
    if not root:
        return []
    found = []
    for name, note, table in _table(Path(root)):
        images = {
            contrast: {"image": str(image), "mask": str(mask) if mask is not None and mask.exists() else None}
            for contrast, (image, mask) in table.items()
            if image.exists()
        }
        if len(images) > 1:
            found.append({"name": name, "note": note, "images": images})
    return found


def _table(root: Path) -> list[tuple[str, str, dict[str, tuple[Path, Path | None]]]]:
    sct = root / "sct-testing"
    unf = root / "ivadomed-testing"
    anat, masks = unf / "sub-unf01" / "anat", unf / "derivatives" / "labels" / "sub-unf01" / "anat"
    tutorial = root / "sct-tutorial"
    pair = tutorial / "multi_subject" / "data" / "sub-01" / "anat"
    single = tutorial / "single_subject" / "data" / "mt"
    return [
        (
            "errsm_30 T1w T2w", "crops; the T2w mask is the output of a network",
            {
                "T1w": (sct / "t1" / "t1w.nii.gz", sct / "t1" / "t1w_seg-manual.nii.gz"),
                "T2w": (sct / "t2" / "t2.nii.gz", sct / "t2" / "t2_seg-manual.nii.gz"),
            },
        ),
        (
            "errsm_30 axial", "five slices of 17 mm; no mask for DWI, two drawn apart for the others (Dice 0.84)",
            {
                "MT-off": (sct / "mt" / "mt0.nii.gz", sct / "mt" / "mt0_seg.nii.gz"),
                "MT-on": (sct / "mt" / "mt1.nii.gz", sct / "mt" / "mt1_seg.nii.gz"),
                "DWI": (sct / "dmri" / "dwi_mean.nii.gz", None),
            },
        ),
        (
            "errsm_30 T2w T2star", "T2star: nine slices of 7.5 mm of another session, five of them at heights of T2w",
            {
                "T2w": (sct / "t2" / "t2.nii.gz", sct / "t2" / "t2_seg-manual.nii.gz"),
                "T2star": (sct / "t2s" / "t2s.nii.gz", sct / "t2s" / "t2s_seg.nii.gz"),
            },
        ),
        (
            "unf01", "one mask under three names",
            {c: (anat / f"sub-unf01_{c}.nii.gz", masks / f"sub-unf01_{c}_seg-manual.nii.gz")
             for c in ("T1w", "T2w", "T2star")},
        ),
        ("tutorial MT", "no masks", {"MT-off": (single / "mt0.nii.gz", None), "MT-on": (single / "mt1.nii.gz", None)}),
        (
            "tutorial sub-01", "no masks",
            {c: (pair / f"sub-01_acq-{n}_MTS.nii.gz", None) for c, n in (("MT-off", "MToff"), ("MT-on", "MTon"))},
        ),
    ]  # fmt: skip

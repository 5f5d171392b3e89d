"""Names of results as SPINEPS and TPTBox give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference.bids import bids_files, refuse_equal_names


@pytest.mark.parametrize(
    ("case", "folder", "stem"),
    [
        # Names that SPINEPS 2.1.3 gives for the image of the same entities.
        ("sub-7_T2w", "sub-7/anat", "sub-7_mod-T2w"),
        ("sub-7_ses-pre_acq-sag_run-2_T2w", "sub-7/ses-pre/anat", "sub-7_ses-pre_acq-sag_mod-T2w"),
        ("sub-7_sequ-3_chunk-HWS_T1w", "sub-7/anat", "sub-7_sequ-3_chunk-HWS_mod-T1w"),
        # Masks that have such a name already, from SPINEPS or from nnU-Net.
        ("sub-7_mod-T2w_seg-spine_msk", "sub-7/anat", "sub-7_mod-T2w"),
        ("sub-7_T2w_dseg", "sub-7/anat", "sub-7"),
        ("sub-7", "sub-7/anat", "sub-7"),
        ("run-1_sub-a.5_dixon", "sub-a.5/anat", "sub-a.5_mod-dixon"),
        # Any other name is the subject.
        ("scan 3_b", "sub-scan3b/anat", "sub-scan3b"),
        ("___", "sub-case/anat", "sub-case"),
    ],
)
def test_names(case: str, folder: str, stem: str) -> None:
    files = bids_files(Path("out"), case)
    assert files.vert.parent == Path("out/derivatives_seg") / folder
    tail = case.partition("run-")[2][:1]
    run = f"_run-{tail}" if tail.isdigit() else ""
    assert files.vert.name == f"{stem}_seg-vert{run}_msk.nii.gz"
    assert files.spine.name == f"{stem}_seg-spine{run}_msk.nii.gz"
    assert files.centroids.name == f"{stem}_seg-spine{run}_ctd.json"
    assert files.snapshot.name == f"{stem}_seg-spine{run}_snp.png"


def test_equal_names_are_refused() -> None:
    refuse_equal_names(["sub-1_T1w", "sub-1_T2w", "a_1", "a_2"])
    with pytest.raises(UsageError, match="a_1 and a-1") as caught:
        refuse_equal_names(["a_1", "b", "a-1"])
    assert caught.value.code == "E-OUT-BIDS"

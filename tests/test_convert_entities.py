"""Names made of entities: order, folders, odd words, and which mask belongs to which image."""

from __future__ import annotations

import itertools

import pytest

from nnunet_spine_ext.core.entities import agreement, entities_of_path, parse_entities


def test_order_of_entities_does_not_matter() -> None:
    pairs = ("sub-100007", "ses-30", "sequ-12", "acq-sag", "chunk-BWS")
    expected = {"sub": "100007", "ses": "30", "sequ": "12", "acq": "sag", "chunk": "BWS"}
    for order in itertools.permutations(pairs):
        found = parse_entities("_".join((*order, "T2w.nii.gz")))
        assert (found.values, found.suffix, found.extension) == (expected, "T2w", ".nii.gz")


@pytest.mark.parametrize(
    ("name", "values", "words", "extension"),
    [
        ("sub-1_T2w.json", {"sub": "1"}, ("T2w",), ".json"),
        ("sub-1_T2w.NII.GZ", {"sub": "1"}, ("T2w",), ".NII.GZ"),
        ("sub-1.5_T2w.mha", {"sub": "1.5"}, ("T2w",), ".mha"),
        ("sub-1.5_T2w", {"sub": "1.5"}, ("T2w",), ""),
        ("sub-unf01_T2w_labels-disc-manual.nii.gz", {"sub": "unf01", "labels": "disc-manual"}, ("T2w",), ".nii.gz"),
        ("sub-x_T2w_label-SC_seg.nii.gz", {"sub": "x", "label": "SC"}, ("T2w", "seg"), ".nii.gz"),
        ("sub-x_Chunk-HWS__T2w", {"sub": "x", "chunk": "HWS"}, ("T2w",), ""),
        ("sub-a_sub-b_T1w.nii", {"sub": "a"}, ("T1w",), ".nii"),
        ("localizer.nii.gz", {}, ("localizer",), ".nii.gz"),
        ("-_-a_b-_.nii.gz", {}, ("-", "-a", "b-"), ".nii.gz"),
        ("", {}, (), ""),
    ],
)
def test_names(name: str, values: dict[str, str], words: tuple[str, ...], extension: str) -> None:
    found = parse_entities(name)
    assert (dict(found.values), found.words, found.extension) == (values, words, extension)
    assert found.suffix == (words[-1] if words else "")


def test_numbers() -> None:
    found = parse_entities("sub-1_sequ-010_run-2b_T2w.nii.gz")
    assert (found.number("sequ"), found.number("run"), found.number("echo")) == (10, None, None)


def test_folders_fill_in_what_the_name_lacks() -> None:
    found = entities_of_path("rawdata/100/sub-7/ses-2/anat/T2w.nii.gz")
    assert (dict(found.values), found.suffix) == ({"sub": "7", "ses": "2"}, "T2w")
    assert entities_of_path("sub-7/ses-2/sub-7_ses-3_T2w.nii.gz").values["ses"] == "3"
    assert "ses" not in entities_of_path("chunk-HWS/ses/sub-7_T2w.nii.gz").values


def test_agreement_counts_what_tells_scans_apart() -> None:
    image = parse_entities("sub-1_sequ-3_chunk-HWS_T2w.nii.gz")
    beside = ("seg", "mod")

    def of(name: str) -> int | None:
        return agreement(image, parse_entities(name), beside=beside)

    assert of("chunk-HWS_sub-1_mod-T2w_seg-spine_sequ-3_msk.nii.gz") == 3
    assert of("sub-1_chunk-HWS_seg-spine_msk.nii.gz") == 2
    assert of("sub-1_sequ-2_chunk-HWS_seg-spine_msk.nii.gz") is None
    assert of("sub-1_sequ-3_chunk-HWS_run-1_seg-spine_msk.nii.gz") is None
    assert of("sub-2_sequ-3_chunk-HWS_seg-spine_msk.nii.gz") is None

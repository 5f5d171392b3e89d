"""`nnUNetv2_spine_convert spider` on spines: a lumbar map with all 14 classes, and phantoms in SPIDER's layout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from layout_spider import Series, write_spider
from nnunet_verdict import verify_with_nnunet

from nnunet_spine_ext.core import spider as numbering
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.labels import convert_labels
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.spider import spider
from nnunet_spine_ext.phantom.protocols import protocol
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject

_SPIDER_NAMES = {"t2w_sagittal": "t2", "t1w_sagittal": "t1", "t2w_iso": "t2_SPACE"}
COARSE = {"t2w_sagittal": (1.8, 1.8, 4.4), "t1w_sagittal": (1.8, 1.8, 4.4), "t2w_iso": (2.2, 2.2, 2.2)}


def _lumbar_map(folder: Path) -> tuple[Volume, Volume]:
    """Return nnunet14 and instance ids of the lumbar map: its vertebrae 2 to 8, from the top, as T11 to L5."""
    stored = read_volume(folder / "panoptica" / "semantic" / "ref.nii.gz")
    array = stored.array.copy()
    # The file has the codes of cord and canal exchanged.
    array[stored.array == 60], array[stored.array == 61] = 61, 60
    semantic = stored.with_array(convert_labels(array, "spineps", "nnunet14"))
    numbers = read_volume(folder / "panoptica" / "matched_instance" / "ref.nii.gz").array
    lookup = np.arange(int(numbers.max()) + 1, dtype=np.uint16)
    for n in range(2, 9):
        for offset in (0, 100, 200):
            lookup[offset + n] = offset + n + 16
    return semantic, semantic.with_array(lookup[numbers])


def _as_series(patient: str, semantic: Volume, instances: Volume, name: str = "t2") -> Series:
    image = semantic.with_array((40 + 30 * semantic.array.astype(np.int16)).astype(np.int16))
    return Series(patient, name, image, semantic, instances)


def _convert(tmp_path: Path, dataset_id: int, **changes: object) -> ConversionResult:
    folders = {"raw": tmp_path / "raw", "preprocessed": tmp_path / "pre"}
    return spider(tmp_path / "in", dataset_id, name=f"S{dataset_id}", **(folders | changes))  # type: ignore[arg-type]


def test_a_lumbar_map_comes_back_exactly(tmp_path: Path, test_data: Path) -> None:
    semantic, instances = _lumbar_map(test_data)
    series = [_as_series("7", semantic, instances), _as_series("11", semantic, instances)]
    write_spider(tmp_path / "in", series, {"turned_mask", "subregions"})
    truth, stored = semantic.array, read_volume(tmp_path / "in" / "masks" / "7_t2.mha").array
    assert sorted(np.unique(stored)) == [0, *range(1, 8), 100, *range(201, 208)]

    levels = _convert(tmp_path, 501, target="levels")
    assert levels.exit_code == 0, levels.render()
    back = np.array([0, *numbering.levels_to_spider().values()], dtype=np.int16)
    for case in ("7_t2", "11_t2"):
        label = read_volume(levels.folder / "labelsTr" / f"{case}.nii.gz").array
        np.testing.assert_array_equal(back[label], stored)
        kept = read_volume(levels.folder / "instancesTr" / f"{case}.nii.gz").array
        np.testing.assert_array_equal(
            kept, np.where((instances.array > 200) | (instances.array == 26), 0, instances.array)
        )
    verify_with_nnunet(levels.folder)

    alone = read_volume(_convert(tmp_path, 502, target="nnunet14").folder / "labelsTr" / "7_t2.nii.gz").array
    known = alone != 15
    np.testing.assert_array_equal(alone[known], truth[known])
    assert int((alone == 14).sum()) == int((truth == 14).sum())
    assert known.mean() > 0.5

    filled = _convert(tmp_path, 503, target="nnunet14", subregions=tmp_path / "in" / "subregions")
    np.testing.assert_array_equal(read_volume(filled.folder / "labelsTr" / "11_t2.nii.gz").array, truth)


def test_masks_as_others_made_them_are_subregions(tmp_path: Path, test_data: Path) -> None:
    """The reference with its exchanged codes, and another program's mask of the same scan with the usual ones."""
    semantic, instances = _lumbar_map(test_data)
    write_spider(tmp_path / "in", [_as_series(patient, semantic, instances) for patient in ("1", "2")])
    (tmp_path / "parts").mkdir()
    for patient, name in (("1", "ref"), ("2", "pred")):
        (tmp_path / "parts" / f"{patient}_t2.nii.gz").symlink_to(
            test_data / "panoptica" / "semantic" / f"{name}.nii.gz"
        )
    result = _convert(tmp_path, 501, target="nnunet14", subregions=tmp_path / "parts")
    # A map stands for the scan here.
    told = {row.case_id: [p.code for p in row.warnings if p.code != "W-INT-MASK"] for row in result.rows}
    assert told == {"1_t2": ["W-LABEL-EXCHANGED"], "2_t2": []}
    truth = semantic.array
    np.testing.assert_array_equal(read_volume(result.folder / "labelsTr" / "1_t2.nii.gz").array, truth)
    other = read_volume(result.folder / "labelsTr" / "2_t2.nii.gz").array
    cord, canal = (
        (2 * ((other == n) & (truth == n)).sum() / ((other == n).sum() + (truth == n).sum())) for n in (11, 12)
    )
    assert cord > 0.9
    assert canal > 0.9
    assert (other == 15).mean() < 0.01


@cache
def _scans() -> tuple[tuple[str, Scan], ...]:
    scans = []
    for patient, anomalies in enumerate(("none", "L6", "T13", "none"), start=1):
        names = list(COARSE) if patient == 1 else ["t2w_sagittal"]
        protocols = tuple(protocol(name).with_spacing(COARSE[name]) for name in names)
        request = ScanRequest(protocols, seed=21, region="lumbar", anomalies=anomalies, supersample=1)
        scans += [(str(patient), scan) for scan in scan_subject(request, patient)]
    return tuple(scans)


def _phantoms() -> list[Series]:
    return [
        Series(patient, _SPIDER_NAMES[scan.protocol.name], scan.image, scan.semantic, scan.instances)
        for patient, scan in _scans()
    ]


@pytest.mark.parametrize("quirks", [(), ("top_down", "nested", "semicolons"), ("nifti", "eight_bits", "turned_mask")])
def test_phantoms_in_spiders_layout_come_back_exactly(tmp_path: Path, quirks: tuple[str, ...]) -> None:
    series = _phantoms()
    write_spider(tmp_path / "in", series, quirks)
    (tmp_path / "lowest.csv").write_text("patient,lowest,thoracic\n2,L6,\n3,L5,13\n")
    order = "top-down" if "top_down" in quirks else "bottom-up"
    result = _convert(
        tmp_path, 501, target="levels", level_order=order, lowest_table=tmp_path / "lowest.csv", test_patients=["4"]
    )
    assert result.exit_code == 0, result.render()
    assert [row.case_id for row in result.rows] == ["1_t1", "1_t2", "1_t2_SPACE", "2_t2", "3_t2", "4_t2"]
    back = np.array([0, *numbering.levels_to_spider().values()], dtype=np.int16)
    for one in series:
        kind = "Ts" if one.patient == "4" else "Tr"
        label = read_volume(result.folder / f"labels{kind}" / f"{one.name}.nii.gz").array
        np.testing.assert_array_equal(back[label], one.mask().array)
        truth = one.instances.array
        expected = np.where((truth > 200) | np.isin(truth, (26, *range(29, 34))), 0, truth)
        canal = one.mask().array == 100
        found = read_volume(result.folder / f"instances{kind}" / f"{one.name}.nii.gz").array
        np.testing.assert_array_equal(found, np.where(canal, 0, expected))
    splits = json.loads((result.folder / "splits_final.json").read_text())
    assert len(splits) == 3
    verify_with_nnunet(result.folder)


def test_what_phantoms_teach_is_true(tmp_path: Path) -> None:
    """Of the 14 classes a converted mask says only what the phantom's own truth says."""
    series = _phantoms()
    write_spider(tmp_path / "in", series)
    result = _convert(tmp_path, 501, target="nnunet14")
    for one in series:
        label = read_volume(result.folder / "labelsTr" / f"{one.name}.nii.gz").array
        known = label != 15
        np.testing.assert_array_equal(label[known], one.semantic.array[known], err_msg=one.name)
        assert (label == 14).any()
        assert (label == 0).mean() > 0.3

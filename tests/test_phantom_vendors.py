"""Vendors: protocols as published, what is assumed, and the datasets that are made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.augment.profiles import profile_names
from nnunet_spine_ext.cli.phantom import main
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_json, read_volume
from nnunet_spine_ext.harmonize.slices import SliceSettings, read_slices, vendor_counts, weak_pairs
from nnunet_spine_ext.phantom.acquisition import draw_settings
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject
from nnunet_spine_ext.phantom.vendor_cohort import vendor_phantoms
from nnunet_spine_ext.phantom.vendors import TARGET, at_vendor, sub_voxels, vendor, vendor_names, vendors

# SBS, ST, PS, TR, TE, MFS, ETL, FA and slices, as the table prints them.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "siemens-essenza": ((4.8, 4.8), 4, (0.729, 0.875), (620, 680), (9.2, 9.2), 1.5, (3, 3), 150, 7686),
    "philips-intera": ((4.4, 5.0), 4, (0.469, 0.781), (384.1, 713.2), (8.0, 10.5), 1.5, (4, 6), 90, 2941),
    "philips-gyroscan-intera": ((4.0, 4.4), 4, (0.313, 0.742), (408.0, 1122.0), (8.0, 20.0), 1.5, (3, 6), 90, 1997),
    "philips-ingenia-cx": ((4.4, 4.4), 4, (0.313, 0.474), (400.0, 562.5), (10.0, 10.0), 3, (5, 8), 90, 604),
    "philips-ingenia": ((4.4, 4.4), 4, (0.344, 0.625), (426.5, 615.7), (10.0, 15.0), 3, (5, 7), 90, 462),
    "philips-elition-x": ((4.4, 4.4), 4, (0.329, 0.392), (522.2, 610.7), (10.0, 10.0), 3, (6, 7), 90, 135),
    "siemens-essenza-varied": ((4.8, 4.8), 4, (0.438, 0.906), (300, 799), (9.2, 9.2), 1.5, (3, 3), 150, 311),
    "siemens-amira": ((4.4, 4.4), 4, (0.664, 0.804), (500, 632), (7.9, 11.0), 1.5, (6, 6), 120, 1733),
}
MISSING = {"philips-achieva": 778, "philips-elition": 120, "siemens-avanto": 101, "public": 2195}
QUICK: dict[str, Any] = {"width": 16.0, "finest": 1.6, "region": "lumbar", "seed": 4}
PAIR = ("siemens-essenza", "philips-intera")


def scan_of(name: str, index: int = 0, **changes: Any) -> Scan:
    """Return a quick scan of a vendor."""
    request = at_vendor(ScanRequest((), seed=4, region="lumbar", width=16.0), name, index, finest=1.2)
    return scan_subject(replace(request, **changes), index)[0]


# --- the table ------------------------------------------------------------------------------------------------------


def test_protocols_are_as_published() -> None:
    assert vendor_names()[0] == TARGET
    assert set(vendor_names()) == set(PUBLISHED)
    for name, row in PUBLISHED.items():
        found = vendor(name)
        p = found.protocol
        assert p is not None
        assert (
            p.spacing_between_slices, p.slice_thickness, p.pixel_spacing, p.tr, p.te, p.field_strength, p.echo_train,
            p.flip, found.slices,
        ) == row  # fmt: skip
        assert found.scanner in profile_names()
        assert found.manufacturer.lower() == name.partition("-")[0]
    assert {name: row.slices for name, row in vendors().items() if row.protocol is None} == MISSING
    source = sum(row.slices for name, row in vendors().items() if name != TARGET)
    assert source == 11377


def test_draws_are_within_the_ranges_and_use_all_of_them() -> None:
    for name in vendor_names():
        ranges = vendor(name).protocol
        assert ranges is not None
        rng = np.random.default_rng(0)
        drawn = [vendor(name).draw(rng) for _ in range(80)]
        for span, values in (
            (ranges.pixel_spacing, [p.spacing[0] for p in drawn]), (ranges.tr, [p.tr for p in drawn]),
            (ranges.te, [p.te for p in drawn]),
            (ranges.spacing_between_slices, [p.spacing[2] for p in drawn]),
            (ranges.echo_train, [p.train / p.te for p in drawn]),
        ):  # fmt: skip
            low, high = span
            assert low - 0.05 <= min(values)
            assert max(values) <= high + 0.05
            assert max(values) - min(values) >= 0.8 * (high - low) - 0.1
        for p in drawn:
            assert p.spacing[2] * (1 - p.gap) == pytest.approx(4.0)
            assert p.contrast == "T1w"
            # Nothing is resolved finer than it is stored.
            assert min(p.resolution) >= 1


def test_noise_and_coils_are_those_of_the_assumed_scanner() -> None:
    rng = np.random.default_rng(0)
    old, new, target = (vendor(name).draw(rng) for name in ("philips-intera", "philips-ingenia", TARGET))
    # The reference has 32; half the field halves it, and the profile's own noise is 1.625 and 1.25 times as much.
    assert target.snr == pytest.approx(16)
    assert old.snr == pytest.approx(16 / 1.625)
    assert new.snr == pytest.approx(32 / 1.25)
    assert (old.g_factor, old.bias, target.g_factor, target.bias) == (1.8, 0.30, 1.0, 0.12)


def test_severity_goes_from_the_target_on_and_leaves_what_is_published() -> None:
    draws = {x: vendor("philips-intera").draw(np.random.default_rng(3), severity=x) for x in (0.0, 1.0, 2.0)}
    target = [vendor(TARGET).draw(np.random.default_rng(3), severity=x) for x in (0.0, 2.0)]
    assert target[0] == target[1]
    none, full, twice = draws.values()
    for name in ("tr", "te", "train", "gap", "field_strength"):
        assert getattr(none, name) == getattr(full, name) == getattr(twice, name)
    assert none.spacing == full.spacing == twice.spacing
    assert (none.snr, none.gain, none.bias) == (target[0].snr, target[0].gain, target[0].bias)
    assert twice.snr == pytest.approx(full.snr**2 / none.snr)
    assert twice.gain == pytest.approx(full.gain**2 / none.gain)
    assert twice.bias == pytest.approx(2 * full.bias - none.bias)
    with pytest.raises(UsageError, match="severity"):
        vendor_phantoms("nowhere", vendors=PAIR, severity=5.0)


def test_a_site_corrects_the_shading_of_its_coils_in_its_own_way() -> None:
    for name in vendor_names():
        row = vendor(name)
        low, high = row.normalised
        drawn = [
            draw_settings(row.draw(np.random.default_rng(0)), np.random.default_rng(k)).normalised for k in range(20)
        ]
        assert 0 <= low <= min(drawn) <= max(drawn) <= high <= 1
    target, old, new = (vendor(name).normalised for name in (TARGET, "philips-intera", "philips-ingenia"))
    assert old[1] < target[0] < target[1] < new[0]
    # Other phantoms draw from the whole range, as before.
    assert Protocol.__dataclass_fields__["normalised"].default == (0.15, 0.95)


def test_stored_pixels_may_be_coarser_while_acquired_ones_stay() -> None:
    fine, coarse = (vendor("philips-ingenia-cx").draw(np.random.default_rng(1), finest=f) for f in (None, 0.5))
    assert fine.spacing[0] < 0.475
    assert coarse.spacing[0] == 0.5
    assert fine.spacing[0] * fine.resolution[0] == pytest.approx(coarse.spacing[0] * coarse.resolution[0])
    assert sub_voxels(fine)[:2] == (1, 1)
    assert sub_voxels(replace(fine, spacing=(0.7, 0.7, 4.8))) == (2, 2, 3)


@pytest.mark.parametrize(
    ("name", "message"), [("siemens-esenza", "did you mean 'siemens-essenza'"), ("philips-achieva", "not published")]
)
def test_unknown_and_unpublished_vendors_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"{message}.*E-PHANTOM-VENDOR"):
        vendor_phantoms(tmp_path / "out", vendors=[name], subjects_per_vendor=1)
    assert not (tmp_path / "out").exists()


# --- scans ----------------------------------------------------------------------------------------------------------


def test_t1w_order_of_tissues_at_every_vendor() -> None:
    for name in ("siemens-essenza", "philips-intera", "philips-ingenia"):
        scan = scan_of(name)
        image, mask = scan.image.array, scan.semantic.array
        fluid, cord, marrow, disc = (float(np.median(image[mask == k])) for k in (12, 11, 10, 14))
        assert marrow > disc > fluid, name
        assert cord > fluid, name


def test_vendors_differ_and_a_healthy_one_has_no_findings() -> None:
    plain, noisy = (scan_of(name) for name in PAIR)
    assert plain.info["pathologies"] == []
    # Noise of marrow relative to its signal, less what its texture is.
    spread = [float(s.image.array[s.semantic.array == 10].std() / s.image.array[s.semantic.array == 10].mean())
              for s in (plain, noisy)]  # fmt: skip
    assert spread[1] > spread[0]
    found = [scan_subject(at_vendor(ScanRequest((), seed=4, region="lumbar", width=16.0), name, k, finest=4.0), k)[0]
             for k in range(3) for name in PAIR]  # fmt: skip
    assert not any(s.info["pathologies"] for s in found[::2])
    assert any(s.info["pathologies"] for s in found[1::2])


# --- datasets -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of two vendors, two and one spines of their own, and one that travels."""
    counts = {"siemens-essenza": 2, "philips-intera": 1}
    found = vendor_phantoms(
        tmp_path_factory.mktemp("raw"), vendors=PAIR, subjects_per_vendor=counts, travelling=1, **QUICK
    )
    assert found.folder.name == "Dataset910_SpineVendors"
    assert {name: len(cases) for name, cases in found.cases.items()} == {"siemens-essenza": 3, "philips-intera": 2}
    assert found.exit_code == 0
    assert found.done == ["phantom0001", "phantom0002", "phantom1001",
                          "phantom900001_siemens-essenza", "phantom900001_philips-intera"]  # fmt: skip
    return found.folder


def test_cases_say_vendor_subject_and_protocol(made: Path) -> None:
    rows = read_json(made / "cases.json")["cases"]
    row = rows["phantom1001"]
    assert (row["manufacturer"], row["model"], row["vendor"], row["contrast"]) == (
        "Philips", "Intera", "philips-intera", "T1w",
    )  # fmt: skip
    assert 384.1 <= row["TR"] <= 713.2
    assert 4 <= row["echo_train"] <= 6
    assert (row["flip"], row["slice_thickness"], row["field_strength"]) == (90, 4.0, 1.5)
    travellers = [name for name, row in rows.items() if row["travelling"]]
    assert len({rows[name]["subject"] for name in travellers}) == 1
    assert len({tuple(rows[name]["pathologies"]) for name in travellers}) == 1
    spacing = read_volume(made / "imagesTr" / "phantom1001_0000.nii.gz").spacing
    assert 4.4 <= spacing[2] <= 5.0
    for split in json.loads((made / "splits_final.json").read_text()):
        subjects = [{rows[case]["subject"] for case in split[side]} for side in ("train", "val")]
        assert not subjects[0] & subjects[1]


def test_slices_by_vendor_and_pairs_of_those_who_travel(made: Path) -> None:
    assert vendor_counts([made], key="vendor") == {"philips-intera": 2, "siemens-essenza": 3}
    assert vendor_counts([made]) == {"Philips": 2, "Siemens": 3}
    settings = SliceSettings(size=(192, 128), spacing=1.6)
    source, target = (read_slices([made], values=[name], settings=settings) for name in ("Philips", "Siemens"))
    assert source.masks is not None
    assert (source.masks == 1).any(axis=(1, 2)).all()
    for index, fact in enumerate(source.facts):
        if fact.subject == "phantom900001":
            chosen = target.facts[dict(weak_pairs(source, target))[index]]
            assert abs(chosen.position - fact.position) < 5
            assert chosen.subject == fact.subject


def test_a_spine_does_not_depend_on_the_others(made: Path, tmp_path: Path) -> None:
    again = vendor_phantoms(tmp_path, vendors=["philips-intera"], subjects_per_vendor=1, **QUICK)
    assert again.done == ["phantom1001"]
    name = "imagesTr/phantom1001_0000.nii.gz"
    assert (again.folder / name).read_bytes() == (made / name).read_bytes()


def test_a_second_dataset_has_other_people(tmp_path: Path) -> None:
    rest = vendor_phantoms(tmp_path, vendors=["philips-intera"], subjects_per_vendor=1, skip=500, **QUICK)
    assert rest.done == ["phantom1501"]


@pytest.mark.parametrize(
    "changes",
    [
        {"subjects_per_vendor": 0}, {"subjects_per_vendor": 1000}, {"travelling": -1}, {"skip": 999}, {"seed": -1},
        {"region": "foot"},
        {"width": 3.0}, {"finest": 0.0}, {"jobs": 0}, {"folds": 1}, {"vendors": []},
    ],
)  # fmt: skip
def test_numbers_outside_their_limits_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="E-PHANTOM-OPTION"):
        vendor_phantoms(tmp_path / "out", **{"vendors": PAIR, **changes})
    assert not (tmp_path / "out").exists()


def test_a_number_for_a_vendor_that_is_not_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"subjects_per_vendor.*E-PHANTOM-VENDOR"):
        vendor_phantoms(tmp_path, vendors=PAIR, subjects_per_vendor={"philips-ingenia": 1})


def test_the_command_makes_vendors_in_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--region", "lumbar", "--width", "10", "--supersample", "1", "--healthy"]
    assert main(["-o", str(tmp_path), "--n", "2", "--vendor", *PAIR, *quick]) == 0
    rows = read_json(tmp_path / "Dataset900_SpinePhantom" / "cases.json")["cases"]
    assert [rows[name]["vendor"] for name in ("phantom0001", "phantom0002")] == list(PAIR)
    for more in (["--scanner", "ge-3t"], ["--spacing", "1", "1", "4"], ["--protocol", "t1w_sagittal"],
                 ["--layout", "bids"]):  # fmt: skip
        assert main(["-o", str(tmp_path / "x"), "--n", "1", "--vendor", *PAIR, *more]) == 2
        assert "E-PHANTOM-OPTION" in capsys.readouterr().err

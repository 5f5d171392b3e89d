"""Magnetisation transfer, diffusion and CT of the phantom: orders of tissues, models, images, files."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_spine_ext.augment import physics
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.computed import form_ct
from nnunet_spine_ext.phantom.generate import phantom
from nnunet_spine_ext.phantom.protocols import PROTOCOLS
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject
from nnunet_spine_ext.phantom.signal import SignalTable, Texture, signal_table
from nnunet_spine_ext.phantom.tissues import TISSUE_ID, TISSUES, tissue_properties
from nnunet_spine_ext.phantom.weightings import diffusivity, hounsfield, mt_saturation

NEW = ("mt_axial", "dwi_axial", "b0_axial", "ct_sagittal")


def _table(name: str) -> SignalTable:
    return signal_table(PROTOCOLS[name], tissue_properties(PROTOCOLS[name].field_strength))


def _falls(values: dict[str, float]) -> None:
    for bright, dark in pairwise(values):
        assert values[bright] > values[dark], values


# --- models ---------------------------------------------------------------------------------------------------------


def test_no_saturation_is_a_gradient_echo() -> None:
    common = {"tr": 35.0, "te": 3.0, "flip": 9.0}
    plain = physics.gradient_echo(1.0, 876.0, 40.0, **common)
    assert float(physics.mt_gradient_echo(1.0, 876.0, 40.0, 0.0, **common)) == pytest.approx(float(plain))
    assert float(physics.mt_gradient_echo(1.0, 876.0, 40.0, 1.0, **common)) == 0


def test_mt_steady_state_is_that_of_the_simulated_pulses() -> None:
    t1, tr, angle, saturation, m = 876.0, 35.0, math.radians(9), 0.04, 1.0
    for _ in range(2000):
        m *= 1 - saturation
        signal, m = m * math.sin(angle), m * math.cos(angle)
        m = 1 - (1 - m) * math.exp(-tr / t1)
    closed = physics.mt_gradient_echo(1.0, t1, 1e9, saturation, tr=tr, te=0.0, flip=9.0)
    assert float(closed) == pytest.approx(signal, rel=1e-4)


def test_mt_ratios_are_those_of_the_table_and_fall_in_the_known_order() -> None:
    properties = tissue_properties(3.0)
    t1 = torch.from_numpy(properties.t1)
    common = {"tr": 35.0, "te": 0.0, "flip": 9.0}
    on = physics.mt_gradient_echo(1.0, t1, 1e9, torch.from_numpy(mt_saturation()), **common)
    ratio = (1 - on / physics.gradient_echo(1.0, t1, 1e9, **common)).numpy()
    names = ("cord_wm", "cord_gm", "nucleus_dark", "marrow", "blood_flow", "csf", "fat")
    values = {name: float(ratio[TISSUE_ID[name]]) for name in names}
    _falls(values)
    assert values["cord_wm"] == pytest.approx(0.50, abs=1e-6)
    assert values["fat"] == 0


def test_diffusion_weighting() -> None:
    common = {"tr": 1e5, "te": 0.0}
    assert float(physics.diffusion_spin_echo(1.0, 900.0, 75.0, 3.0, b=0.0, **common)) == pytest.approx(1.0)
    assert float(physics.diffusion_spin_echo(1.0, 900.0, 75.0, 3.0, b=800.0, **common)) == pytest.approx(math.exp(-2.4))
    values = diffusivity()
    _falls({name: values[TISSUE_ID[name]] for name in ("csf", "nucleus", "nucleus_dark", "cord_wm", "marrow")})
    assert (values > 0).all()


# --- orders of tissues ----------------------------------------------------------------------------------------------


def test_mt_darkens_white_matter_most_and_leaves_fluid_bright() -> None:
    table = _table("mt_axial")
    _falls({name: table.of(name) for name in ("fat", "csf", "cord_gm", "cord_wm", "annulus_outer", "cortical")})
    # Without the pulse, cord and fluid are about as bright: the pulse makes the contrast that outlines the cord.
    assert table.of("csf") > 1.3 * table.of("cord_wm")
    assert table.of("marrow") < table.of("cord_wm")


def test_diffusion_turns_cord_and_fluid_round() -> None:
    plain, weighted = _table("b0_axial"), _table("dwi_axial")
    _falls({name: plain.of(name) for name in ("csf", "nucleus", "cord_gm", "cord_wm", "muscle", "marrow", "fat")})
    _falls({name: weighted.of(name) for name in ("cord_wm", "nucleus", "csf", "annulus_outer", "cortical")})
    assert weighted.of("cord_wm") > 2 * max(weighted.of(name) for name in ("muscle", "marrow", "fat"))
    assert weighted.of("oedema") > 1.5 * weighted.of("marrow")


def test_hounsfield_numbers() -> None:
    values = hounsfield()
    order = (
        "cortical",
        "endplate",
        "marrow",
        "annulus_outer",
        "nucleus",
        "muscle",
        "cord_gm",
        "csf",
        "fat",
        "lung",
        "air",
    )
    _falls({name: values[TISSUE_ID[name]] for name in order})
    assert values[TISSUE_ID["air"]] == -1000
    dense, loose = (hounsfield(fat)[TISSUE_ID["marrow"]] for fat in (0.25, 0.55))
    assert 200 < dense < 230
    assert 90 < loose < 120


def test_ct_has_no_resonance_signal() -> None:
    with pytest.raises(ValueError, match="no magnetic-resonance"):
        signal_table(PROTOCOLS["ct_sagittal"], tissue_properties(3.0))


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans() -> dict[str, Scan]:
    protocols = tuple(PROTOCOLS[name].with_spacing((2.5, 2.5, 5.0)) for name in NEW)
    request = ScanRequest(protocols, seed=2, region="cervical", supersample=2, pathologies=False)
    return {scan.protocol.name: scan for scan in scan_subject(request, 0)}


def _median(scan: Scan, label: int) -> float:
    return float(np.median(scan.image.array[scan.semantic.array == label]))


def test_scans_have_the_orders_of_their_equations(scans: dict[str, Scan]) -> None:
    corpus, cord, canal = 10, 11, 12
    mt, weighted, plain, ct = (scans[name] for name in NEW)
    assert _median(mt, cord) > _median(mt, corpus)
    assert _median(weighted, cord) > 1.5 * _median(weighted, corpus)
    # The ring of fluid is as thin as a voxel here.
    fluid = float(np.quantile(plain.image.array[plain.semantic.array == canal], 0.85))
    assert fluid > _median(plain, cord) > _median(plain, corpus)
    assert 100 < _median(ct, corpus) < 350
    assert 0 < _median(ct, cord) < 80
    assert _median(ct, 14) > _median(ct, cord)


def test_facts_of_ct(scans: dict[str, Scan]) -> None:
    ct = scans["ct_sagittal"]
    assert ct.image.array.dtype == np.int16
    assert ct.image.array.min() >= -1024
    assert ct.image.array.max() <= 3071
    # Air is the darkest 1 % or more of a scan that is wider than the neck.
    assert np.quantile(ct.image.array, 0.02) == pytest.approx(-1000, abs=60)
    assert ct.info["field_strength"] is None
    assert ct.info["contrast"] == "CT"


def test_equal_seeds_equal_scans(scans: dict[str, Scan]) -> None:
    request = ScanRequest((scans["ct_sagittal"].protocol,), seed=2, region="cervical", supersample=2, pathologies=False)
    again = scan_subject(request, 0)[0]
    assert np.array_equal(again.image.array, scans["ct_sagittal"].image.array)


def _flat_ct(dose: float) -> np.ndarray:
    tissue = np.full((40, 40, 12), TISSUES.index("cord_wm"), dtype=np.uint8)
    grid = Volume(np.zeros((20, 20, 6), dtype=np.uint8), np.diag([0.8, 0.8, 2.0, 1.0]))
    texture = Texture((16, 16, 12), 2, torch.Generator().manual_seed(0), muscle_fat=0.0, flow=0.0)
    protocol = PROTOCOLS["ct_sagittal"]
    return form_ct(tissue, grid, protocol, texture, torch.Generator().manual_seed(1), dose=dose).array.astype(float)


def test_ct_noise_follows_dose_and_the_mean_stays() -> None:
    low, high = _flat_ct(1.0), _flat_ct(4.0)
    assert low.std() == pytest.approx(2 * high.std(), rel=0.05)
    assert low.mean() == pytest.approx(36, abs=2)
    assert low.std() < PROTOCOLS["ct_sagittal"].noise


def test_ct_refuses_a_map_that_does_not_fit() -> None:
    grid = Volume(np.zeros((20, 20, 6), dtype=np.uint8), np.eye(4))
    texture = Texture((16, 16, 12), 2, torch.Generator(), muscle_fat=0.0, flow=0.0)
    with pytest.raises(ValueError, match="multiple"):
        form_ct(np.zeros((41, 40, 12), np.uint8), grid, PROTOCOLS["ct_sagittal"], texture, torch.Generator())


def test_files_in_bids(tmp_path: Path) -> None:
    phantom(
        tmp_path, n=1, protocol=NEW, layout="bids", name="tree", region="cervical", spacing=(5, 5, 8), supersample=1,
        width=60,
    )  # fmt: skip
    subject = tmp_path / "tree" / "sub-phantom0001"
    stem = "sub-phantom0001"
    images = sorted(str(file.relative_to(subject)) for file in subject.rglob("*.nii.gz"))
    assert images == [
        f"anat/{stem}_flip-1_mt-on_MTS.nii.gz",
        f"ct/{stem}_ct.nii.gz",
        f"dwi/{stem}_acq-b0axial_rec-average_dwi.nii.gz",
        f"dwi/{stem}_acq-dwiaxial_rec-average_dwi.nii.gz",
    ]
    weighted = subject / "dwi" / f"{stem}_acq-dwiaxial_rec-average_dwi"
    assert weighted.with_suffix(".bval").read_text() == "800\n"
    assert weighted.with_suffix(".bvec").read_text() == "0\n0\n0\n"
    assert json.loads((subject / "anat" / f"{stem}_flip-1_mt-on_MTS.json").read_text())["MTState"] is True
    assert "MagneticFieldStrength" not in json.loads((subject / "ct" / f"{stem}_ct.json").read_text())
    assert (tmp_path / "tree" / ".bidsignore").read_text() == "*/ct/\n"

"""From tissues to images and to datasets: contrast, shading, noise, determinism, layouts, wrong options."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_spine_ext.cli.phantom import build_parser, main
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom import scan as scanning
from nnunet_spine_ext.phantom.acquisition import ScanSettings, draw_settings, form_image
from nnunet_spine_ext.phantom.bids import BidsWriter
from nnunet_spine_ext.phantom.generate import phantom
from nnunet_spine_ext.phantom.overrides import OVERRIDES
from nnunet_spine_ext.phantom.pathology import EDITS
from nnunet_spine_ext.phantom.protocols import PROTOCOLS, Protocol
from nnunet_spine_ext.phantom.signal import SignalTable, Texture, signal_table
from nnunet_spine_ext.phantom.tissues import TISSUE_ID, TISSUE_TABLE, TISSUES, marrow_fat_fraction, tissue_properties

Array = np.ndarray[Any, np.dtype[Any]]

# Small and coarse: the fields of a lumbar scan without its cost.
SMALL = {"region": "lumbar", "spacing": (3.0, 3.0, 6.0), "seed": 5, "supersample": 1}


def _table(name: str, **changes: Any) -> SignalTable:
    return signal_table(replace(PROTOCOLS[name], **changes), tissue_properties(PROTOCOLS[name].field_strength))


# --- tissues --------------------------------------------------------------------------------------------------------


def test_table_and_tuple_agree() -> None:
    assert tuple(TISSUE_TABLE) == TISSUES
    assert len(TISSUES) == 31
    assert all(TISSUES[number] == name for name, number in TISSUE_ID.items())


def test_field_strength_follows_the_table_and_between() -> None:
    low, middle, high = (tissue_properties(field) for field in (1.5, 2.1, 3.0))
    cord = TISSUE_ID["cord_wm"]
    assert low.t1[cord] == pytest.approx(745)
    assert high.t1[cord] == pytest.approx(876)
    assert low.t1[cord] < middle.t1[cord] < high.t1[cord]


def test_scatter_keeps_groups_together() -> None:
    one, other = (tissue_properties(3.0, rng=np.random.default_rng(seed)) for seed in (1, 2))
    mean = tissue_properties(3.0)
    white, grey, muscle = (TISSUE_ID[name] for name in ("cord_wm", "cord_gm", "muscle"))
    assert one.t1[white] != other.t1[white]
    assert one.t1[white] / mean.t1[white] == pytest.approx(one.t1[grey] / mean.t1[grey])
    assert one.t1[white] / mean.t1[white] != pytest.approx(one.t1[muscle] / mean.t1[muscle])
    ratios = np.array([tissue_properties(3.0, rng=np.random.default_rng(k)).t2[white] for k in range(200)])
    assert np.log(ratios).std() == pytest.approx(0.08, abs=0.015)


def test_marrow_gets_fatter_with_age() -> None:
    assert marrow_fat_fraction(25, "M") < marrow_fat_fraction(75, "M")
    assert marrow_fat_fraction(25, "F") == marrow_fat_fraction(44, "F") < marrow_fat_fraction(25, "M")
    assert marrow_fat_fraction(75, "F") > marrow_fat_fraction(25, "F")


@pytest.mark.parametrize("wrong", [{"field_strength": 0.01}, {"field_strength": 3.0, "marrow_fat": 1.5}])
def test_impossible_properties_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="outside"):
        tissue_properties(**wrong)


# --- contrast from the signal equations -----------------------------------------------------------------------------


def _assert_order(table: SignalTable, *names: str, factor: float = 1.0) -> None:
    values = [table.of(name) for name in names]
    for bright, dark, pair in zip(values, values[1:], pairwise(names), strict=False):
        assert bright >= factor * dark, (pair, dict(zip(names, values, strict=True)))


def test_t2w_turbo_spin_echo_order_and_numbers() -> None:
    table = _table("t2w_sagittal", train=0.0)
    _assert_order(table, "csf", "fat", "nucleus", "cord_gm", "cord_wm", "marrow", "nucleus_dark", "annulus_inner")
    _assert_order(table, "annulus_inner", "muscle", "ligament")
    assert table.of("cortical") < 0.001
    expected = {"csf": 0.49, "fat": 0.41, "nucleus": 0.33, "cord_gm": 0.20, "cord_wm": 0.17, "marrow": 0.155}
    for name, value in expected.items():
        assert table.of(name) == pytest.approx(value, abs=0.03), name
    assert 2.5 < table.of("csf") / table.of("cord_wm") < 4


def test_t1w_turbo_spin_echo_order_and_numbers() -> None:
    table = _table("t1w_sagittal", train=0.0)
    _assert_order(table, "fat", "marrow", "cord_gm", "cord_wm", "muscle", "csf", "ligament", "cortical")
    expected = {"fat": 0.69, "marrow": 0.42, "cord_wm": 0.30, "muscle": 0.23, "csf": 0.13, "ligament": 0.05}
    for name, value in expected.items():
        assert table.of(name) == pytest.approx(value, abs=0.03), name


def test_marrow_below_cord_in_t1w_only_with_little_fat() -> None:
    protocol = PROTOCOLS["t1w_sagittal"]
    for fat, brighter in ((0.0, False), (0.35, True)):
        table = signal_table(protocol, tissue_properties(3.0, marrow_fat=fat))
        assert (table.of("marrow") > table.of("cord_wm")) is brighter


def test_stir_nulls_fat() -> None:
    table = _table("stir_sagittal")
    _assert_order(table, "csf", "nucleus", "cord_gm", "cord_wm", "muscle", "fat")
    assert table.of("marrow") < table.of("cord_wm")
    assert table.of("fat") < 0.08
    assert table.of("oedema") > 1.5 * table.of("marrow")


def test_mprage_has_dark_fluid() -> None:
    table = _table("t1w_iso")
    _assert_order(table, "fat", "cord_wm", "csf")
    assert table.of("csf") < 0.35 * table.of("cord_wm")


def test_gradient_echo_shows_grey_matter_and_dark_marrow() -> None:
    table = _table("t2star_axial")
    assert table.of("cord_gm") > 1.08 * table.of("cord_wm")
    assert table.of("csf") > 0.9 * table.of("cord_gm")
    assert table.of("marrow") < 0.5 * table.of("cord_wm")


def test_field_changes_t2w_contrast_less_than_the_protocol() -> None:
    protocol = PROTOCOLS["t2w_sagittal"]

    def ratio(field: float, **changes: float) -> float:
        table = signal_table(replace(protocol, **changes), tissue_properties(field))  # type: ignore[arg-type]
        return table.of("csf") / table.of("cord_wm")

    assert ratio(1.5) == pytest.approx(ratio(3.0), rel=0.12)
    assert abs(ratio(3.0, te=135.0, tr=4500.0) / ratio(3.0) - 1) > 0.30


@pytest.mark.parametrize("name", [row.name for row in PROTOCOLS.values() if row.sequence != "ct"])
def test_every_protocol_gives_finite_signals(name: str) -> None:
    table = _table(name)
    assert np.isfinite(table.water).all()
    assert (table.magnitude >= 0).all()
    assert table.of("air") == 0


# --- images of a toy ------------------------------------------------------------------------------------------------


def _toy(factor: tuple[int, int, int] = (2, 2, 2)) -> tuple[Array, Volume]:
    """A trunk of 96 x 96 x 48 mm in PIR: skin, fat, muscle, a column of bodies and discs, a sac with a cord, air."""
    shape = (96, 96, 16)
    affine = np.array([[0, 0, 3.0, -22.5], [-1, 0, 0, 40], [0, -1, 0, 47.5], [0, 0, 0, 1]], dtype=float)
    fine = tuple(n * f for n, f in zip(shape, factor, strict=True))
    axes = [(np.arange(n) + 0.5) / f for n, f in zip(fine, factor, strict=True)]
    p, i = axes[0][:, None, None], axes[1][None, :, None]
    tissue = np.full(fine, TISSUE_ID["air"], dtype=np.uint8)
    body = np.broadcast_to(p < 86, fine)
    tissue[body] = TISSUE_ID["skin"]
    tissue[np.broadcast_to(p < 84, fine)] = TISSUE_ID["fat"]
    tissue[np.broadcast_to(p < 72, fine)] = TISSUE_ID["muscle"]
    column = (p > 14) & (p < 44)
    tissue[np.broadcast_to(column & (i % 32 < 22), fine)] = TISSUE_ID["marrow"]
    tissue[np.broadcast_to(column & (i % 32 >= 22), fine)] = TISSUE_ID["nucleus"]
    tissue[np.broadcast_to((p >= 46) & (p < 60) & (i >= 0), fine)] = TISSUE_ID["csf"]
    tissue[np.broadcast_to((p >= 50) & (p < 56) & (i >= 0), fine)] = TISSUE_ID["cord_wm"]
    coarse = tissue[:: factor[0], :: factor[1], :: factor[2]]
    label = np.zeros(shape, dtype=np.uint8)
    for name, number in (("marrow", 10), ("cord_wm", 11), ("csf", 12), ("nucleus", 14)):
        label[coarse == TISSUE_ID[name]] = number
    return tissue, Volume(label, affine)


def _form(protocol: Protocol, settings: ScanSettings, seed: int = 0, **texture: float) -> tuple[Volume, Array]:
    tissue, label = _toy()
    extent = [n * s for n, s in zip(label.shape, label.spacing, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    fields = Texture(extent, 1, generator, **({"muscle_fat": 0.15, "flow": 0.2} | texture))
    table = signal_table(protocol, tissue_properties(protocol.field_strength))
    image = form_image(tissue, label, protocol, table, fields, settings, generator)
    return image, tissue[::2, ::2, ::2]


EVEN = ScanSettings(normalised=1.0, shading=0.0, snr=60)


def _means(image: Volume, tissue: Array) -> dict[str, float]:
    """Mean grey value of each tissue away from its borders."""
    from scipy.ndimage import binary_erosion

    cores = {name: binary_erosion(tissue == TISSUE_ID[name]) for name in np.array(TISSUES)[np.unique(tissue)]}
    return {name: float(image.array[core].mean()) for name, core in cores.items() if core.any()}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("t2w_sagittal", ("csf", "fat", "nucleus", "marrow", "muscle", "air")),
        ("t1w_sagittal", ("fat", "marrow", "nucleus", "csf", "air")),
        ("t2w_iso", ("csf", "nucleus", "muscle", "air")),
        ("stir_sagittal", ("csf", "nucleus", "muscle", "fat")),
    ],
)
def test_images_have_the_order_of_the_equations(name: str, order: tuple[str, ...]) -> None:
    means = _means(*_form(PROTOCOLS[name], EVEN))
    values = [means[tissue] for tissue in order]
    assert values == sorted(values, reverse=True), dict(zip(order, values, strict=True))


def test_images_are_int16_on_the_grid_of_the_labels() -> None:
    image, _ = _form(PROTOCOLS["t2w_sagittal"], EVEN)
    label = _toy()[1]
    assert image.array.dtype == np.int16
    assert image.same_grid(label)
    assert image.array.min() >= 0
    assert 0.7 * EVEN.level < np.percentile(image.array, 99.5) < 1.3 * EVEN.level


def test_air_holds_rician_noise() -> None:
    settings = replace(EVEN, normalised=0.0, snr=10)
    image, tissue = _form(PROTOCOLS["t2w_sagittal"], settings)
    air = image.array[tissue == TISSUE_ID["air"]].astype(float)[2000:]
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / 2) / np.sqrt(2 - np.pi / 2), rel=0.05)


def test_coils_shade_from_back_to_front_unless_corrected() -> None:
    def slope(settings: ScanSettings) -> float:
        image, tissue = _form(PROTOCOLS["t1w_sagittal"], settings, muscle_fat=0.0)
        muscle = np.where(tissue == TISSUE_ID["muscle"], image.array, np.nan)
        return float(np.nanmean(muscle[62:70]) / np.nanmean(muscle[2:10]))

    assert slope(replace(EVEN, normalised=0.0)) > 1.8
    assert slope(EVEN) == pytest.approx(1, abs=0.2)


def test_saturation_band_darkens_what_lies_in_front() -> None:
    plain, tissue = _form(PROTOCOLS["t1w_sagittal"], EVEN)
    banded, _ = _form(PROTOCOLS["t1w_sagittal"], replace(EVEN, saturation=0.1, band_distance=4.0))
    front = np.zeros(tissue.shape, dtype=bool)
    front[:5] = True
    assert banded.array[front].mean() < 0.35 * plain.array[front].mean()
    assert banded.array[30:40].mean() == pytest.approx(plain.array[30:40].mean(), rel=0.05)


def test_fat_is_shifted_along_the_frequency_axis() -> None:
    """Water and fat part by the chemical shift: the border of fat moves, that of water does not."""
    protocol = replace(PROTOCOLS["t1w_sagittal"], bandwidth=145.0)
    edges = []
    for sign in (-1, 1):
        settings = replace(EVEN, fat_axis=0, fat_sign=sign, snr=1e4, window=0.0)
        image, _ = _form(protocol, settings, muscle_fat=0.0)
        profile = image.array[62:, :, 4:12].mean(axis=(1, 2)).astype(float)
        bright = profile > 0.75 * profile.max()
        edges.append(62 + float(np.argmax(bright)))
    assert edges[1] - edges[0] == pytest.approx(6, abs=1.5)


def test_edges_are_one_to_two_voxels_wide() -> None:
    image, _ = _form(PROTOCOLS["t2w_sagittal"], replace(EVEN, snr=1e4, window=0.6), flow=0.0)
    across = image.array[44:50, 4:18, 4:12].mean(axis=(1, 2)).astype(float)
    rise = (across - across.min()) / (across.max() - across.min())
    top = int(rise.argmax()) + 1
    low, high = np.interp((0.1, 0.9), rise[:top], np.arange(top))
    assert 0.9 < high - low < 2.0


def test_texture_of_marrow_is_correlated_over_millimetres() -> None:
    image, tissue = _form(PROTOCOLS["t1w_sagittal"], replace(EVEN, snr=200))
    marrow = image.array[18:40, 3:19, 4:12].astype(float)
    assert (tissue[18:40, 3:19, 4:12] == TISSUE_ID["marrow"]).all()
    residual = marrow - marrow.mean()

    def correlation(lag: int) -> float:
        return float((residual[lag:] * residual[: len(residual) - lag]).mean() / residual.var())

    assert 0.04 < marrow.std() / marrow.mean() < 0.25
    assert correlation(1) > 0.3
    assert correlation(8) < 0.5


def test_same_generator_same_image_and_other_seed_other_noise() -> None:
    first, second, other = (_form(PROTOCOLS["t2w_sagittal"], EVEN, seed)[0].array for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_tissue_map_must_be_a_multiple_of_the_grid() -> None:
    tissue, label = _toy()
    table = _table("t2w_sagittal")
    fields = Texture([96, 96, 48], 1, torch.Generator(), muscle_fat=0.1, flow=0.0)
    with pytest.raises(ValueError, match="no multiple"):
        form_image(tissue[:-1], label, PROTOCOLS["t2w_sagittal"], table, fields, EVEN, torch.Generator())


def test_settings_stay_in_their_ranges() -> None:
    drawn = [draw_settings(PROTOCOLS["t2w_sagittal"], np.random.default_rng(k)) for k in range(100)]
    assert 15 < np.mean([row.saturation < 1 for row in drawn]) * 100 < 55
    assert all(0 <= row.normalised <= 1 and row.snr > 5 and 0 <= row.window <= 1 for row in drawn)


# --- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t2w_sagittal", "t2w_axial"])
def test_grid_covers_the_box_in_the_stored_orientation(name: str) -> None:
    protocol = PROTOCOLS[name].with_spacing((2.0, 3.0, 4.0))
    box = np.array([[-40.0, -90.0, -150.0], [40.0, 60.0, 50.0]])
    grid = scanning.scan_grid(box, protocol, np.zeros(3))
    volume = Volume(np.zeros(grid.shape, dtype=np.uint8), grid.affine)
    assert volume.orientation == protocol.orientation
    assert volume.spacing == pytest.approx((2.0, 3.0, 4.0))
    corners = volume.world([[-0.5, -0.5, -0.5], np.array(grid.shape) - 0.5])
    assert (np.sort(corners, axis=0)[0] <= box[0] + 1e-6).all()
    assert (np.sort(corners, axis=0)[1] >= box[1] - 1e-6).all()
    assert max(size / factor for size, factor in zip(volume.spacing, grid.supersample, strict=True)) <= 1.5


def test_oblique_grid_turns_about_the_middle() -> None:
    box = np.array([[-40.0, -90.0, -150.0], [40.0, 60.0, 50.0]])
    straight, tilted = (
        scanning.scan_grid(box, PROTOCOLS["t2w_sagittal"], np.array(angles)) for angles in ((0, 0, 0), (4.0, -3.0, 2.0))
    )
    middle = (np.array(straight.shape) - 1) / 2
    for grid in (straight, tilted):
        assert grid.affine[:3, :3] @ middle + grid.affine[:3, 3] == pytest.approx(box.mean(axis=0), abs=1e-6)
    assert Volume(np.zeros(tilted.shape), tilted.affine).spacing == pytest.approx((0.86, 0.86, 3.3))
    assert straight.key != tilted.key


# --- datasets -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three lumbar spines in two contrasts as a raw dataset."""
    root = tmp_path_factory.mktemp("raw")
    summary = phantom(root, n=3, protocol=("t2w_sagittal", "t1w_sagittal"), dataset_id=901, name="Small", **SMALL)
    assert summary.exit_code == 0
    assert len(summary.done) == 6
    return root / "Dataset901_Small"


def test_raw_dataset_passes_nnunets_own_check(raw: Path) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(raw), num_processes=1)


def test_raw_dataset_holds_truth_and_facts(raw: Path) -> None:
    cases = json.loads((raw / "cases.json").read_text())["cases"]
    assert sorted(cases) == sorted(
        f"phantom{k:04d}_{name}" for k in (1, 2, 3) for name in ("t1w_sagittal", "t2w_sagittal")
    )
    row = cases["phantom0001_t1w_sagittal"]
    assert row["subject"] == "phantom0001"
    assert row["contrast"] == "T1w"
    assert row["field_strength"] == 3.0
    assert row["TR"] == pytest.approx(600, rel=0.15)
    truth = json.loads((raw / "phantomTr" / "phantom0001_t1w_sagittal.json").read_text())
    assert {"levels", "parameters", "marrow_fat_fraction"} <= set(truth)
    dataset = json.loads((raw / "dataset.json").read_text())
    assert dataset["spine_ext"]["sided_labels"] == [[4, 5], [6, 7], [8, 9]]
    assert len(dataset["labels"]) == 15


def test_contrasts_of_a_spine_share_their_labels_and_their_fold(raw: Path) -> None:
    one, other = (
        read_volume(raw / "labelsTr" / f"phantom0002_{name}.nii.gz") for name in ("t1w_sagittal", "t2w_sagittal")
    )
    assert one.same_grid(other)
    assert np.array_equal(one.array, other.array)
    for split in json.loads((raw / "splits_final.json").read_text()):
        sides = [{case.split("_")[0] for case in split[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]


def test_labels_fit_the_image(raw: Path) -> None:
    """Bright fluid around a darker cord or roots, bright fat behind: labels and image are of one anatomy."""
    for case in sorted((raw / "imagesTr").glob("*t2w*")):
        image = read_volume(case)
        label = read_volume(raw / "labelsTr" / case.name.replace("_0000", ""))
        assert image.same_grid(label)
        assert image.array[label.array == 12].mean() > 1.3 * image.array[label.array == 10].mean()


def test_equal_arguments_give_equal_bytes(raw: Path, tmp_path: Path) -> None:
    """Also for the second spine alone: fewer spines and one protocol change nothing in the rest."""
    phantom(tmp_path, n=2, protocol="t2w_sagittal", dataset_id=901, name="Small", **SMALL)
    again = tmp_path / "Dataset901_Small"
    pairs = [("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz"), ("instancesTr", ".nii.gz"), ("phantomTr", ".json")]
    for folder, suffix in pairs:
        first = (raw / folder / f"phantom0002_t2w_sagittal{suffix}").read_bytes()
        assert (again / folder / f"phantom0002{suffix}").read_bytes() == first, folder


@pytest.mark.slow
def test_several_processes_give_equal_bytes(raw: Path, tmp_path: Path) -> None:
    phantom(tmp_path, n=2, protocol="t2w_sagittal", dataset_id=901, name="Small", jobs=2, **SMALL)
    name = "phantom0002_t2w_sagittal_0000.nii.gz"
    again = tmp_path / "Dataset901_Small" / "imagesTr" / "phantom0002_0000.nii.gz"
    assert again.read_bytes() == (raw / "imagesTr" / name).read_bytes()


def test_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.phantom import making

    def stop(request: object, index: int) -> list[scanning.Scan]:
        if index:
            raise KeyboardInterrupt
        return scanning.scan_subject(request, index)  # type: ignore[arg-type]

    monkeypatch.setattr(making, "scan_subject", stop)
    for layout in ("nnunet", "bids"):
        assert main(["-o", str(tmp_path), "--n", "2", "--layout", layout, "--region", "lumbar", "--supersample", "1",
                     "--spacing", "4", "4", "8"]) == 130  # fmt: skip
        assert list(tmp_path.iterdir()) == []


def test_bids_tree(tmp_path: Path) -> None:
    summary = phantom(tmp_path, n=1, protocol=("t2w_sagittal", "t1w_sagittal"), layout="bids", name="tree", **SMALL)
    tree = tmp_path / "tree"
    subject = "sub-phantom0001"
    assert summary.done == [f"{subject}_T2w", f"{subject}_T1w"]
    sidecar = json.loads((tree / subject / "anat" / f"{subject}_T2w.json").read_text())
    assert sidecar["RepetitionTime"] == pytest.approx(3.14, rel=0.12)
    assert sidecar["Manufacturer"] == "simulated"
    image = read_volume(tree / subject / "anat" / f"{subject}_T2w.nii.gz")
    labels = tree / "derivatives" / "labels" / subject / "anat"
    semantic = read_volume(labels / f"{subject}_T2w_label-spine_dseg.nii.gz")
    fraction = read_volume(labels / f"{subject}_T2w_label-SC_probseg.nii.gz")
    assert image.same_grid(semantic)
    assert 0 <= fraction.array.min() <= fraction.array.max() <= 1
    rows = (tree / "participants.tsv").read_text().splitlines()
    assert rows[1].startswith(subject)
    for folder in (tree, tree / "derivatives" / "labels"):
        assert "BIDSVersion" in json.loads((folder / "dataset_description.json").read_text())


def test_two_protocols_of_one_contrast_have_their_own_names(tmp_path: Path) -> None:
    summary = phantom(
        tmp_path, n=1, protocol=("t2w_sagittal", "t2w_sagittal_15t"), layout="bids", region="lumbar",
        spacing=(4, 4, 8), supersample=1,
    )  # fmt: skip
    assert summary.done == ["sub-phantom0001_acq-t2wsagittal_T2w", "sub-phantom0001_acq-t2wsagittal15t_T2w"]


def test_every_protocol_has_a_suffix_that_bids_knows() -> None:
    # Of the suffixes of BIDS 1.10 those that a spine protocol may have; CT has none yet.
    known = {
        "anat": {"T1w", "T2w", "T2starw", "PDw", "PDT2", "FLAIR", "MTS", "MP2RAGE"},
        "dwi": {"dwi"},
        "ct": {"ct"},
    }
    assert all(row.suffix in known[row.folder] for row in PROTOCOLS.values())
    assert PROTOCOLS["stir_sagittal"].suffix == "T2w"
    assert PROTOCOLS["stir_sagittal"].contrast == "STIR"


@pytest.mark.parametrize(
    ("protocols", "names"),
    [
        (["stir_sagittal"], ["acq-stir_T2w"]),
        (["t2w_sagittal", "stir_sagittal"], ["acq-t2wsagittal_T2w", "acq-stirsagittal_T2w"]),
        (["t1w_iso", "t2star_axial"], ["T1w", "T2starw"]),
        (["mt_axial", "ct_sagittal"], ["flip-1_mt-on_MTS", "ct"]),
        (["dwi_axial"], ["rec-average_dwi"]),
        (["dwi_axial", "b0_axial"], ["acq-dwiaxial_rec-average_dwi", "acq-b0axial_rec-average_dwi"]),
    ],
)
def test_names_in_bids(tmp_path: Path, protocols: list[str], names: list[str]) -> None:
    writer = BidsWriter(tmp_path, [PROTOCOLS[name] for name in protocols])
    rows = [PROTOCOLS[name] for name in protocols]
    made = [f"{writer._acquisition(row)}{row.entities}{row.suffix}" for row in rows]
    assert made == names


def test_a_stir_scan_in_bids(tmp_path: Path) -> None:
    summary = phantom(tmp_path, n=1, protocol="stir_sagittal", layout="bids", name="tree", **SMALL)
    assert summary.done == ["sub-phantom0001_acq-stir_T2w"]
    sidecar = json.loads((tmp_path / "tree/sub-phantom0001/anat/sub-phantom0001_acq-stir_T2w.json").read_text())
    assert sidecar["InversionTime"] == pytest.approx(0.232, rel=0.1)
    assert sidecar["PulseSequenceType"] == "ir"


# --- wrong options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", "0"], ["--n 0", "1 to 9999"]),
        (["--protocol", "t2w_sagital"], ["t2w_sagital", "did you mean 't2w_sagittal'?"]),
        (["--protocol", "zzz"], ["zzz", "choose one of these"]),
        (["--region", "leg"], ["leg", "lumbar"]),
        (["--layout", "dicom"], ["dicom", "bids"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--oblique", "80"], ["80", "30"]),
        (["--spacing", "0", "1", "1"], ["0.2-12 mm"]),
        (["--width", "2"], ["--width 2", "10 to 600 mm"]),
        (["--supersample", "0"], ["--supersample 0"]),
        (["--folds", "1"], ["--folds 1"]),
        (["--set", "age"], ["key=value"]),
        (["--set", "shoe_size=44"], ["shoe_size", "scoliosis"]),
        (["--set", "lordose=44"], ["did you mean 'lordosis'?"]),
        (["--set", "age=old"], ["age=old", "18 to 100 (years)"]),
        (["--set", "stature=178"], ["stature=178", "1.3 to 2.2 (m)"]),
        (["--set", "kyphosis=nan"], ["kyphosis=nan"]),
        (["--set", "sex=X"], ["sex=X", "F, M"]),
        (["--set", "scoliosis_type=s"], ["thoracolumbar"]),
        (["--set", "thoracic=20"], ["11 to 13"]),
        (["--set", "lumbar=4.5"], ["lumbar=4.5"]),
        (["--set", "seed=3"], ["an override 'seed'"]),
        (["--set", "findings=fused"], ["findings=fused", "kind:level"]),
        (["--set", "findings=fused:L3:2"], ["severity from 0 to 1"]),
        (["--set", "findings=melt:L3"], ["'melt'", "missing_disc"]),
        (["--set", "findings=fused:L9"], ["'L9'"]),
        (["--anomalies", "L99"], ["L99"]),
        (["--dataset-id", "0"], ["dataset id 0"]),
        (["--layout", "bids", "--name", "a/b"], ["a/b"]),
    ],
)
def test_wrong_options_are_usage_errors(
    options: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-o", str(tmp_path / "out"), *options]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not list(tmp_path.iterdir()), "no folder is left behind"


@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_folders_on_the_way_are_taken_back_unless_they_were_there(tmp_path: Path, layout: str) -> None:
    (tmp_path / "there").mkdir()
    for folder in ("there", "there/a/b"):
        with pytest.raises(UsageError, match="L9"):
            phantom(tmp_path / folder, n=1, layout=layout, overrides=["findings=fused:L9"], **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_set_may_be_repeated() -> None:
    words = ["-o", "x", "--set", "age=40", "sex=F", "--set", "scoliosis=30"]
    assert build_parser().parse_args(words).overrides == ["age=40", "sex=F", "scoliosis=30"]
    assert build_parser().parse_args(words[:2]).overrides == []


def test_findings_on_the_command_line_reach_labels_and_truth(tmp_path: Path) -> None:
    words = ["--healthy", "--anomalies", "none", "--set", "age=40", "findings=fused:L1:0.5,missing_disc:L3"]
    assert main(["-o", str(tmp_path), "--n", "1", "--region", "lumbar", "--spacing", "2", "2", "5", *words]) == 0
    folder = tmp_path / "Dataset900_SpinePhantom"
    instances = read_volume(folder / "instancesTr" / "phantom0001.nii.gz").array
    present = set(np.unique(instances).tolist())
    assert {20, 21, 22, 23, 121, 123} <= present
    # No disc inside the fused pair L1-L2 (disc 120), only endplate where the disc L3/4 (122) is missing.
    assert not present & {120, 122, 220}
    assert 222 in present
    truth = json.loads((folder / "phantomTr" / "phantom0001.json").read_text())
    found = [(item["kind"], item["level"]) for item in truth["levels"]["pathologies"]]
    assert found == [("fused", "L1"), ("missing_disc", "L3")]
    assert truth["parameters"]["age"] == 40


def test_existing_output_is_refused_before_work_and_replaced_on_request(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="taken"):
        phantom(raw.parent, n=1, dataset_id=901, name="Other", **SMALL)
    (tmp_path / "tree").mkdir()
    with pytest.raises(UsageError, match="free name"):
        phantom(tmp_path, n=1, layout="bids", name="tree", **SMALL)
    phantom(
        tmp_path, n=1, layout="bids", name="tree", overwrite=True, region="lumbar", spacing=(4, 4, 8), supersample=1
    )
    assert (tmp_path / "tree" / "participants.tsv").is_file()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(UsageError, match="no phantom run made"):
        phantom(tmp_path, n=1, layout="bids", name="thesis", overwrite=True, **SMALL)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"
    again = phantom(tmp_path, n=1, layout="bids", name="tree", overwrite=True, region="lumbar", spacing=(4, 4, 8))
    assert again.exit_code == 0


def test_splits_reach_the_preprocessed_folder(nnunet_folders: dict[str, Path]) -> None:
    phantom(nnunet_folders["nnUNet_raw"], n=2, folds=2, dataset_id=902, name="Folds", region="lumbar",
            spacing=(4, 4, 8), supersample=1)  # fmt: skip
    splits = json.loads((nnunet_folders["nnUNet_preprocessed"] / "Dataset902_Folds" / "splits_final.json").read_text())
    assert [len(split["val"]) for split in splits] == [1, 1]


def test_render_names_the_folder_and_counts(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["-o", str(tmp_path), "--n", "1", "--region", "lumbar", "--spacing", "4", "4", "8", "--supersample", "1"]
    )
    assert code == 0
    assert "1 done" in capsys.readouterr().out


def test_the_reference_page_lists_every_override_and_finding() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "reference" / "phantom.md").read_text(encoding="utf-8")
    assert [name for name in (*OVERRIDES, *EDITS) if f"`{name}`" not in page] == []

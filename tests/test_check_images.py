"""The gatekeeper finds every catalogued fault of a file, by name, and has nothing against good files."""

from __future__ import annotations

import gzip
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import AFFINE, FILE_KINDS, MASK_KINDS, SHAPE, make_bad, make_good, metaimage, nifti, nrrd, voxels

from nnunet_spine_ext.check.facts import ImageFacts, Role, plane_of
from nnunet_spine_ext.check.images import inspect
from nnunet_spine_ext.check.rules import FILE_RULES, RULES
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume

ROOT_READS_ALL = "root may read and write everything"

# What each message has to say about the file, beyond its code.
FOUND = {
    "missing": "no such file",
    "missing_folder": "no folder 'patient'",
    "truncated_gz": "of 3712 bytes",
    "short_inside_gz": "1200 of 3712 bytes (32 %)",
    "truncated_nii": "1200 of 3712 bytes (32 %)",
    "truncated_gz_checksum": "before their checksum",
    "crc_error": "do not match their checksum",
    "trailing_garbage": "63 bytes",
    "text": "text beginning 'sub-01",
    "html": "web page",
    "text_inside_gz": "web page",
    "dicom": "DICOM",
    "nifti2": "NIfTI-2",
    "raw_named_gz": "not compressed",
    "gz_named_nii": "gzip-compressed",
    "unknown_suffix": ".dat",
    "directory": "a folder",
    "dangling_link": "elsewhere/scan.nii.gz",
    "annex_link": "git-annex",
    "annex_pointer": "git-annex",
    "lfs_pointer": "git-lfs",
    "four_d": "3 volumes",
    "two_d": "12x14",
    "rgb": "RGB",
    "complex": "complex64",
    "bool": "bool",
    "conflict": "16.31 mm",
    "bad_quaternion": "1.1446",
    "zero_pixdim": "0.6x0.7x0",
    "negative_pixdim": "-0.6x0.7x3.3",
    "nan_pixdim": "nan",
    "shear": "0.982 degrees",
    "small_shear": "0.00043",
    "tiny_voxels": "0.0006x0.0007x0.0033 mm",
    "huge_voxels": "6x7x33 mm",
    "unit_metre": "metre",
    "unit_micron": "micrometre",
    "nan": "5 NaN and 0 infinite of 1680 voxels",
    "inf": "0 NaN and 3 infinite of 1680 voxels",
    "all_nan": "1680 NaN",
    "constant": "7 in every voxel",
    "slope_nan": "nan",
    "slope_zero_inter": "scl_inter 5",
    "saturated": "11.9 %",
    "rgb_mha": "3 values per voxel",
    "mhd_without_data": "bad.raw",
    "bzip2_nrrd": "bzip2",
    "fraction_mask": "1.0001",
    "negative_mask": "-1",
}
REMEDY = {
    "missing": "sub-01_T2w.nii.gz",
    "missing_folder": "patients",
    "annex_link": "git annex get",
    "annex_pointer": "git annex get",
    "lfs_pointer": "git lfs pull",
    "dicom": "dcm2niix",
    "conflict": "--prefer",
    "raw_named_gz": ".nii;",
    "gz_named_nii": ".nii.gz",
    "mha_named_nii": ".mha",
    "shear": "resample",
    "small_shear": "copying the qform",
    "all_zero": "nnUNetv2_spine_check: --role label",
}


def test_remedies_for_all_commands_say_whose_option_they_name() -> None:
    fixes = [rule.fix for rule in RULES.values()]
    assert any("--role" in fix for fix in fixes)
    assert all("nnUNetv2_spine_check" in fix for fix in fixes if "--role" in fix)


def _build(kind: str, folder: Path) -> Path:
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip(ROOT_READS_ALL)
    return make_bad(kind, folder)


@pytest.mark.parametrize("kind", [*FILE_KINDS, *MASK_KINDS])
def test_every_fault_is_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    path = _build(kind, tmp_path)
    role: Role = "label" if kind in MASK_KINDS else "image"
    facts = inspect(path, role=role)
    expected = {**FILE_KINDS, **MASK_KINDS}[kind]
    assert [problem.code for problem in facts.problems] == ([expected] if expected else [])
    assert facts.ok == (not expected.startswith("E-"))
    for problem in facts.problems:
        assert problem.severity == ("error" if problem.code.startswith("E-") else "warning")
        assert problem.file == str(path)[:300]
        assert FOUND.get(kind, "") in problem.found
        assert REMEDY.get(kind, "") in problem.fix
        assert problem.expected
        assert problem.fix
        assert "{" not in str(problem)


def test_every_rule_has_a_builder_that_breaks_it() -> None:
    # Made below or in test_check_run.py.
    elsewhere = {"W-GEOM-PREFER", "E-IN-NOIMAGE"}
    assert set(FILE_RULES) == {*FILE_KINDS.values(), *MASK_KINDS.values()} - {""} | elsewhere


def test_a_disk_error_is_reported_and_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_good(tmp_path)

    def fail(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    facts = inspect(path)
    assert [problem.code for problem in facts.problems] == ["E-IN-UNREADABLE"]
    assert "Input/output error" in facts.problems[0].found


@pytest.mark.parametrize("place", ["access", "open"])
def test_a_refused_permission_is_reported_whoever_runs_this(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_good(tmp_path)

    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    if place == "access":
        monkeypatch.setattr(os, "access", lambda *_args: False)
    else:
        monkeypatch.setattr(Path, "open", refuse)
    (problem,) = inspect(path).problems
    assert problem.code == "E-IN-PERMISSION"
    assert "chmod" in problem.fix


@pytest.mark.parametrize("kind", [k for k, code in FILE_KINDS.items() if not code.startswith("E-")])
def test_what_passes_can_be_read_and_lies_where_the_facts_say(kind: str, tmp_path: Path) -> None:
    path = make_bad(kind, tmp_path)
    facts, volume = inspect(path), read_volume(path)
    assert facts.shape == volume.shape
    assert facts.orientation == volume.orientation
    assert facts.grid().corner_error(volume) < 1e-5
    assert facts.voxels is not None
    finite = volume.array[np.isfinite(volume.array)]
    assert (facts.voxels.minimum, facts.voxels.maximum) == (finite.min(), finite.max())


@pytest.mark.parametrize("kind", ["truncated_gz", "truncated_nii", "crc_error", "rgb", "four_d", "text", "missing"])
def test_errors_can_be_raised(kind: str, tmp_path: Path) -> None:
    path = make_bad(kind, tmp_path)
    with pytest.raises(CaseError) as caught:
        inspect(path).raise_errors()
    assert caught.value.code == FILE_KINDS[kind]
    assert str(path) in str(caught.value)
    with pytest.raises(CaseError):
        inspect(path).grid()


def test_facts_of_a_good_file(tmp_path: Path) -> None:
    facts = inspect(make_good(tmp_path))
    assert facts.problems == []
    assert facts.ok
    assert (facts.format, facts.shape, facts.dtype) == ("NIfTI-1", SHAPE, "int16")
    assert facts.spacing == pytest.approx((0.6, 0.7, 3.3))
    assert (facts.orientation, facts.plane) == ("PIR", "sagittal")
    assert facts.voxels is not None
    assert facts.voxels.count == 1680
    assert (facts.voxels.minimum, facts.voxels.maximum) == (voxels().min(), voxels().max())
    assert facts.to_dict()["problems"] == []


def test_role_decides_about_nan(tmp_path: Path) -> None:
    path = make_bad("nan", tmp_path)
    assert inspect(path, role="image").ok
    for role in ("training", "label"):
        assert [problem.code for problem in inspect(path, role=role).errors] == ["E-INT-NONFINITE"]


def test_strict_turns_warnings_into_errors_and_keeps_their_code(tmp_path: Path) -> None:
    path = make_bad("no_codes", tmp_path)
    assert inspect(path).ok
    strict = inspect(path, strict=True)
    assert not strict.ok
    assert [(p.severity, p.code) for p in strict.problems] == [("error", "W-GEOM-NOCODE")]


@pytest.mark.parametrize(("prefer", "y"), [("sform", AFFINE[1, 3]), ("qform", 0.0)])
def test_prefer_decides_between_qform_and_sform(prefer: str, y: float, tmp_path: Path) -> None:
    path = make_bad("conflict", tmp_path)
    facts = inspect(path, prefer=prefer)  # type: ignore[arg-type]
    assert [problem.code for problem in facts.problems] == ["W-GEOM-PREFER"]
    assert facts.ok
    assert facts.affine is not None
    assert facts.affine[1, 3] == pytest.approx(y)


@pytest.mark.parametrize("options", [{"role": "picture"}, {"prefer": "both"}])
def test_unknown_options_are_usage_errors(options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=next(iter(options.values()))):
        inspect(tmp_path, **options)  # type: ignore[arg-type]


def test_rounding_of_a_quaternion_near_a_half_turn_is_no_conflict(tmp_path: Path) -> None:
    # Measured on a real axial scan: single precision alone moves a corner by 0.00101 mm.
    angle = np.pi - 0.0053
    axis = np.array([0.01, 0.9999, 0.01]) / np.linalg.norm([0.01, 0.9999, 0.01])
    b, c, d = (np.sin(angle / 2) * axis).astype(np.float32).tolist()
    a = np.cos(angle / 2)
    qx, qy, qz = np.sin(angle / 2) * axis
    rotation = np.array(
        [
            [a * a + qx * qx - qy * qy - qz * qz, 2 * (qx * qy - a * qz), 2 * (qx * qz + a * qy)],
            [2 * (qx * qy + a * qz), a * a + qy * qy - qx * qx - qz * qz, 2 * (qy * qz - a * qx)],
            [2 * (qx * qz - a * qy), 2 * (qy * qz + a * qx), a * a + qz * qz - qx * qx - qy * qy],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * [0.5, 0.5, 7.5]
    array = voxels(shape=(512, 512, 2))
    shared = {"array": array, "affine": affine, "qform_code": 1, "pixdim": (1.0, 0.5, 0.5, 7.5)}
    path = tmp_path / "scan.nii"
    path.write_bytes(nifti(quaternion=(b, c, d, 0, 0, 0), **shared))  # type: ignore[arg-type]
    assert inspect(path).problems == []
    path.write_bytes(nifti(quaternion=(b, c, d, 0.5, 0, 0), **shared))  # type: ignore[arg-type]
    assert [problem.code for problem in inspect(path).problems] == ["E-GEOM-CONFLICT"]


def test_affines_agree_with_nibabel(tmp_path: Path) -> None:
    import nibabel as nib

    rng = np.random.default_rng(3)
    for number in range(12):
        quaternion = rng.normal(size=4)
        quaternion /= np.linalg.norm(quaternion) * np.sign(quaternion[0])
        fields = {
            "sform_code": 0,
            "qform_code": int(number < 10),
            "quaternion": (*quaternion[1:], *rng.normal(size=3)),
            "pixdim": (float(rng.choice([-1, 1])), 0.6, 0.7, 3.3),
            "order": "<>"[number % 2],
        }
        path = tmp_path / f"{number}.nii"
        path.write_bytes(nifti(**fields))  # type: ignore[arg-type]
        facts = inspect(path)
        assert facts.affine == pytest.approx(nib.load(path).affine, abs=1e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nii", "a.nii.gz"])
def test_formats_written_by_our_own_writer(name: str, tmp_path: Path) -> None:
    turned = AFFINE.copy()
    turned[:3, :3] = [[0.2, 0.1, 3.2], [-0.58, 0.1, 0.6], [0, -0.7, 0.3]]
    left, _, right = np.linalg.svd(turned[:3, :3] / np.linalg.norm(turned[:3, :3], axis=0))
    turned[:3, :3] = left @ right * (0.6, 0.7, 3.3)
    volume = Volume(voxels("<f4") - 100, turned)
    write_volume(volume, tmp_path / name)
    facts = inspect(tmp_path / name)
    assert facts.problems == []
    assert facts.grid().corner_error(read_volume(tmp_path / name)) < 1e-6
    assert facts.grid().same_grid(volume)
    assert facts.voxels is not None
    assert (facts.voxels.minimum, facts.voxels.maximum) == (volume.array.min(), volume.array.max())


@pytest.mark.parametrize("content", [metaimage(), metaimage(packed=True), nrrd(), nrrd("raw")])
def test_handwritten_text_headers(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / ("a.nrrd" if content.startswith(b"NRRD") else "a.mha")
    path.write_bytes(content)
    facts = inspect(path)
    assert facts.problems == []
    assert facts.orientation == "PIR"
    assert facts.grid().corner_error(Volume(voxels(), AFFINE)) < 1e-4
    assert facts.grid().corner_error(read_volume(path)) < 1e-6


def test_two_channels_of_an_nrrd_are_no_single_number_per_voxel(tmp_path: Path) -> None:
    header = nrrd("raw").split(b"\n\n")[0].decode()
    header = header.replace("dimension: 3", "dimension: 4").replace("sizes: ", "sizes: 2 ")
    header = header.replace("space directions: ", "space directions: none ")
    path = tmp_path / "a.nrrd"
    path.write_bytes(header.encode() + b"\n\n" + voxels().tobytes() * 2)
    assert [problem.code for problem in inspect(path).problems] == ["E-IN-DTYPE"]


def test_ids_of_a_mask(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, "<f4")
    array[3:5, 4, 5], array[0, 0, 0] = 26, 100
    facts = inspect(make_good(tmp_path, "mask.nii.gz", array), role="label")
    assert facts.problems == []
    assert facts.voxels is not None
    assert facts.voxels.ids == (0, 26, 100)
    given_as_image = inspect(make_good(tmp_path, "scan.nii.gz", array))
    assert [problem.code for problem in given_as_image.problems] == ["W-INT-MASK"]
    assert given_as_image.to_dict()["label_ids"] is None


def test_values_that_scaling_makes_infinite_are_no_ids(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, "<f8")
    array[0, 0, 0] = 1e300
    path = tmp_path / "huge.nii"
    path.write_bytes(nifti(array=array, slope=1e20, inter=0.0))
    for role in ("image", "label"):
        voxels = inspect(path, role=role).voxels  # type: ignore[arg-type]
        assert voxels is not None
        assert (voxels.ids, voxels.strange) == (None, (np.inf,))


def test_scaling_applies_to_the_statistics(tmp_path: Path) -> None:
    path = tmp_path / "scaled.nii"
    path.write_bytes(nifti(slope=-2.0, inter=10.0))
    facts = inspect(path)
    assert facts.voxels is not None
    assert (facts.voxels.minimum, facts.voxels.maximum) == (10 - 2 * voxels().max(), 10 - 2 * voxels().min())


@pytest.mark.parametrize(
    ("spacing", "orientation", "plane"),
    [
        ((0.6, 0.7, 3.3), "PIR", "sagittal"),
        ((4.0, 0.5, 0.5), "RAS", "sagittal"),
        ((0.5, 0.5, 7.5), "LAS", "axial"),
        ((0.5, 3.0, 0.5), "RAS", "coronal"),
        ((1.0, 1.0, 1.2), "RAS", "isotropic"),
        ((2.0, 0.5, 2.0), "RAS", "isotropic"),
    ],
)
def test_plane_is_that_of_the_largest_spacing(
    spacing: tuple[float, float, float], orientation: str, plane: str
) -> None:
    assert plane_of(spacing, orientation) == plane


def test_memory_is_bounded_even_for_a_file_that_unpacks_to_much_more(tmp_path: Path) -> None:
    array = np.zeros((512, 512, 128), "<i2")  # 64 MiB from 65 kB
    array[5, 5, 5] = 1
    path = make_good(tmp_path, "flat.nii.gz", array)
    with path.open("ab") as stream:
        stream.write(gzip.compress(bytes(32 << 20)))
    del array
    tracemalloc.start()
    facts = inspect(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [problem.code for problem in facts.problems] == ["W-IN-TRAILING", "W-INT-MASK"]
    assert peak < 16 << 20


def test_no_real_file_raises_a_false_alarm(test_data: Path) -> None:
    files = sorted(test_data.rglob("*.nii.gz"))
    assert len(files) > 50
    found = [(path, problem) for path in files for problem in inspect(path).problems]
    assert [str(problem) for _, problem in found if problem.code != "W-INT-MASK"] == []
    masks = [path.name for path, _ in found]
    assert len(masks) > 50
    scans = re.compile(r"(_ct|dwi_mean|gre|example_mr.*|mt[01]|MTS|t1w|t2|T[12]w|T2star|lumbar|t2s|uncropped)\.nii")
    assert [name for name in masks if scans.search(name)] == []


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_never_raise_and_what_passes_is_read_alike(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    good, path, passed = nifti(qform_code=1), tmp_path / "scan.nii", 0
    for _ in range(150):
        content = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(0, 352)] = rng.integers(0, 256)
        path.write_bytes(content)
        facts = inspect(path)
        if facts.ok:
            passed += 1
            assert facts.grid().corner_error(read_volume(path)) < 1e-3
    assert 20 < passed < 150


def test_facts_survive_a_process_boundary(tmp_path: Path) -> None:
    import pickle

    facts: ImageFacts = pickle.loads(pickle.dumps(inspect(make_bad("nan", tmp_path))))
    assert facts.problems[0].code == "W-INT-NONFINITE"

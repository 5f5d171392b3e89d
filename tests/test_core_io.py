"""Files come back as they were written, damaged ones are named, and nothing is ever half there."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
from pathlib import Path

import bad_inputs
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given
from hypothesis import strategies as st
from test_core_volume import turned, volume

from nnunet_spine_ext.check.images import inspect
from nnunet_spine_ext.core import io
from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.soft_labels import read_classes
from nnunet_spine_ext.core.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4")


def code_of(path: Path) -> str:
    """Return the code of the error that reading gives, which must name the file."""
    with pytest.raises(CaseError) as caught:
        io.read_volume(path)
    assert caught.value.file == str(path)
    assert caught.value.fix
    return caught.value.code


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_array_type_and_affine_come_back(suffix: str, dtype: str, tmp_path: Path) -> None:
    affine = turned((12, -33, 161), (0.47, 0.9, 4.4))
    affine[:3, 0] *= -1
    original = Volume(volume().array.astype(dtype), affine)
    path = tmp_path / "Übung 1" / f"sub 01_ä{suffix}"
    io.write_volume(original, path)
    back = io.read_volume(path)
    assert back.array.dtype == np.dtype(dtype)
    assert np.array_equal(back.array, original.array)
    assert back.corner_error(original) < 1e-4
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    mirrored=st.booleans(),
)
@example(angles=(0.0, 0.01, 180.0), spacing=(0.5, 0.5, 1.0), mirrored=False)
@example(angles=(180.0, 0.002, 0.0), spacing=(1.0, 1.0, 3.0), mirrored=True)
def test_every_reader_sees_the_same_grid(
    angles: tuple[float, ...], spacing: tuple[float, ...], mirrored: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # qform and sform must agree, else ITK, FSL and nibabel place the same file differently. A long, thin volume:
    # directions show far from the origin.
    affine = turned(angles, spacing)
    if mirrored:
        affine[:3, 0] *= -1
    original = Volume(np.zeros((300, 2, 2), np.uint8), affine)
    path = tmp_path_factory.getbasetemp() / "any.nii"
    io.write_volume(original, path)
    assert io.read_volume(path).corner_error(original) < 1e-3
    header = nib.load(path).header
    if header["qform_code"]:
        assert Volume(original.array, header.get_qform()).corner_error(original) < 1e-3
    assert header.get_zooms() == pytest.approx(spacing, rel=1e-5)
    image = sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (299, 1, 1)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert original.world(index) == pytest.approx([-x, -y, z], abs=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -33, 161), (0, 0.01, 180), (45, 0, 45)], ids=str)
def test_the_gatekeeper_finds_nothing_in_what_is_written(
    suffix: str, angles: tuple[float, float, float], tmp_path: Path
) -> None:
    original = volume(turned(angles, (0.5, 0.5, 1.0)), (90, 80, 30))
    io.write_volume(original, tmp_path / f"a{suffix}")
    facts = inspect(tmp_path / f"a{suffix}")
    assert [str(problem) for problem in facts.problems] == []
    assert Volume(original.array, facts.affine).corner_error(original) < 1e-3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_shear_survives(suffix: str, tmp_path: Path) -> None:
    affine = turned((10, 20, 30))
    affine[0, 1] += 0.3
    original = volume(affine)
    io.write_volume(original, tmp_path / f"s{suffix}")
    assert io.read_volume(tmp_path / f"s{suffix}").corner_error(original) < 1e-4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_content_gives_equal_bytes(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io.write_volume(volume(), tmp_path / f"a{suffix}")
    monkeypatch.setattr("time.time", lambda: 2e9)
    io.write_volume(volume(), tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_gzip_holds_no_time_and_no_name(tmp_path: Path) -> None:
    io.write_volume(volume(), tmp_path / "a.nii.gz")
    head = (tmp_path / "a.nii.gz").read_bytes()[:10]
    assert head[:3] == b"\x1f\x8b\x08"
    assert head[3] == 0
    assert head[4:8] == bytes(4)


def test_header_says_millimetres_and_nothing_about_the_software(tmp_path: Path) -> None:
    io.write_volume(volume(), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert header["descrip"].item() == b""
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 255], "u1"), ([-1, 9], "i2"), ([0, 40_000], "u2"), ([-70_000, 0], "i4"), ([0, 2**40], "i8")],
)
def test_wide_integers_become_the_smallest_type_that_fits(values: list[int], expected: str, tmp_path: Path) -> None:
    array = np.resize(np.array(values, np.int64), (2, 2, 2))
    for suffix in (".nii.gz", ".mha"):
        io.write_volume(Volume(array, np.eye(4)), tmp_path / f"a{suffix}")
        back = io.read_volume(tmp_path / f"a{suffix}").array
        assert back.dtype == np.dtype(expected)
        assert np.array_equal(back, array)


@pytest.mark.parametrize(("stored", "expected"), [("?", "u1"), ("f2", "f4"), ("f8", "f4")])
def test_other_types(stored: str, expected: str, tmp_path: Path) -> None:
    array = (np.arange(8).reshape(2, 2, 2) % 2).astype(stored)
    for suffix in (".nii.gz", ".nrrd"):
        io.write_volume(Volume(array, np.eye(4)), tmp_path / f"a{suffix}")
        back = io.read_volume(tmp_path / f"a{suffix}").array
        assert back.dtype == np.dtype(expected)
        assert np.array_equal(back, array)


@pytest.mark.parametrize("dtype", [">i2", ">u2", ">i4", ">f4", ">f8"])
def test_foreign_byte_order_becomes_native(dtype: str, tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "be.nii"
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    path.write_bytes(nib.Nifti1Image(array, np.eye(4), header).to_bytes())
    back = io.read_volume(path).array
    assert back.dtype.isnative
    assert back.dtype.kind == array.dtype.kind
    assert np.array_equal(back, array)


def test_scaling_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "scaled.nii"
    raw = bytearray(bad_inputs.nifti(array=bad_inputs.voxels()))
    raw[112:120] = struct.pack("<ff", 0.5, -3.0)
    path.write_bytes(raw)
    back = io.read_volume(path).array
    assert back.dtype == np.float32
    assert back == pytest.approx(bad_inputs.voxels() * 0.5 - 3)
    raw[112:120] = struct.pack("<ff", 1.0, 0.0)
    path.write_bytes(raw)
    assert io.read_volume(path).array.dtype == np.int16


def test_sform_wins_then_qform_then_voxel_sizes(tmp_path: Path) -> None:
    path = tmp_path / "codes.nii"
    sform, quaternion = bad_inputs.AFFINE, (0.0, 0.0, 0.0, 1.0, 2.0, 3.0)
    upright = np.diag([*bad_inputs.SPACING, 1.0])
    upright[:3, 3] = 1, 2, 3
    for codes, expected in (((1, 1), sform), ((2, 0), sform), ((0, 1), upright)):
        path.write_bytes(bad_inputs.nifti(sform_code=codes[0], qform_code=codes[1], quaternion=quaternion))
        assert io.read_volume(path).affine == pytest.approx(expected, abs=1e-6)
    path.write_bytes(bad_inputs.nifti(sform_code=0, qform_code=0))
    assert io.read_volume(path).spacing == pytest.approx(bad_inputs.SPACING)


def test_trailing_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    for shape in ((5, 6, 7, 1), (5, 6, 7, 1, 1)):
        nib.save(nib.Nifti1Image(volume().array.reshape(shape), np.eye(4)), tmp_path / "a.nii.gz")
        assert np.array_equal(io.read_volume(tmp_path / "a.nii.gz").array, volume().array)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7, 2), (5, 6, 7, 1, 3)])
def test_other_dimensions_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert code_of(tmp_path / "a.nii.gz") == "E-IN-DIM"


@pytest.mark.parametrize("kind", ["rgb", "complex"])
def test_colour_and_complex_nifti_are_refused(kind: str, tmp_path: Path) -> None:
    assert code_of(bad_inputs.make_bad(kind, tmp_path)) == "E-IN-DTYPE"


@pytest.mark.parametrize("kind", ["nan_sform", "flat_sform"])
def test_headers_that_place_nothing_are_refused(kind: str, tmp_path: Path) -> None:
    assert code_of(bad_inputs.make_bad(kind, tmp_path)) == "E-GEOM-AFFINE"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), "E-IN-DIM"),
        (sitk.Image([3, 4, 5], sitk.sitkComplexFloat32), "E-IN-DTYPE"),
        (sitk.Image([3, 4], sitk.sitkUInt8), "E-IN-DIM"),
        (sitk.Image([3, 4, 5, 2], sitk.sitkUInt8), "E-IN-DIM"),
    ],
    ids=["rgb", "complex", "2-D", "4-D"],
)
def test_itk_files_that_are_no_volume_are_refused(image: sitk.Image, code: str, tmp_path: Path) -> None:
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    found = code_of(tmp_path / "a.nrrd")
    # ITK writes complex numbers as two values per voxel.
    assert found == code or found == "E-IN-DIM"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_named(suffix: str, tmp_path: Path) -> None:
    io.write_volume(Volume(np.random.default_rng(0).integers(0, 999, (9, 9, 9)), np.eye(4)), tmp_path / f"a{suffix}")
    whole = (tmp_path / f"a{suffix}").read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    # The last 8 bytes of an NRRD are a checksum that ITK does not ask for.
    for content in (b"", whole[:10], whole[:60], whole[: len(whole) // 2], whole[:-20], b"\x8f" * 700, b"text\n" * 99):
        damaged.write_bytes(content)
        assert code_of(damaged) == "E-IN-UNREADABLE"


def test_damaged_checksum_is_found(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(bad_inputs.nifti(), mtime=0))
    raw[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(raw)
    assert code_of(tmp_path / "a.nii.gz") == "E-IN-UNREADABLE"


def test_header_that_asks_for_petabytes_is_damage(tmp_path: Path) -> None:
    raw = bytearray(bad_inputs.nifti())
    raw[40:56] = struct.pack("<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)
    (tmp_path / "a.nii").write_bytes(raw)
    assert code_of(tmp_path / "a.nii") == "E-IN-UNREADABLE"


def test_missing_files_folders_and_unknown_suffixes(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "a.png").write_bytes(b"x")
    assert code_of(tmp_path / "none.nii.gz") == "E-IN-MISSING"
    assert code_of(tmp_path / "folder.nii.gz") == "E-IN-MISSING"
    assert code_of(tmp_path / "a.png") == "E-IN-FORMAT"
    with pytest.raises(ValueError, match="cannot write this suffix"):
        io.write_volume(volume(), tmp_path / "a.png")


def test_compression_is_found_by_content_not_by_name(tmp_path: Path) -> None:
    plain = bad_inputs.nifti()
    members = gzip.compress(plain[:500]) + gzip.compress(plain[500:]) + bytes(512)
    for name, content in (("a.nii", gzip.compress(plain)), ("b.nii.gz", plain), ("c.nii.gz", members)):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(io.read_volume(tmp_path / name).array, bad_inputs.voxels())


def test_names() -> None:
    assert io.strip_suffix("a/b.nii.gz") == "b"
    assert io.strip_suffix(Path("a/b.c.NII.GZ")) == "b.c"
    assert io.strip_suffix("b.mha") == "b"
    assert io.strip_suffix("b.txt") == "b.txt"
    assert io.is_image("x/Y.Nrrd")
    assert not io.is_image("x.json")


def interrupted(path: Path, error: type[BaseException]) -> None:
    with io.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"half")
        raise error


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            interrupted(path, error)
        assert path.read_bytes() == b"old"
        assert leftovers(tmp_path) == []


def test_failure_before_a_first_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(tmp_path / "new" / "a.json", {"x": float("nan")})
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == []


def test_success_replaces_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 80 + ".json")
    io.write_text(path, "one\n")
    io.write_text(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert leftovers(tmp_path) == []
    assert io.sha256(path) == hashlib.sha256("zwölf\n".encode()).hexdigest()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        io.write_volume(volume(), tmp_path / "a.nii.gz")
        io.write_volume(volume(), tmp_path / "a.mha")
        io.write_json(tmp_path / "a.json", {})
    finally:
        found = os.umask(before)
    assert found == mask, "writing changed the umask of the process"
    assert {entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()} == {mode}


def test_json_takes_numpy_paths_and_letters(tmp_path: Path) -> None:
    content = {"n": np.int64(3), "x": np.float32(0.5), "b": np.bool_(True), "a": np.eye(2), "p": Path("a/b"), "u": "ä"}
    io.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "ä" in text
    assert text.endswith("\n")
    expected = {"n": 3, "x": 0.5, "b": True, "a": [[1.0, 0.0], [0.0, 1.0]], "p": str(Path("a/b")), "u": "ä"}
    assert io.read_json(tmp_path / "a.json") == expected == json.loads(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, np.nan])])
def test_json_refuses_what_json_cannot_say(value: object, tmp_path: Path) -> None:
    io.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        io.write_json(tmp_path / "a.json", {"x": value})
    with pytest.raises(TypeError, match="object is not JSON"):
        io.write_json(tmp_path / "a.json", {"x": object()})
    assert io.read_json(tmp_path / "a.json") == {"x": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"{'a': 1}"])
def test_broken_json_names_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CaseError) as caught:
        io.read_json(path)
    assert caught.value.file == str(path)
    with pytest.raises(CaseError, match="cannot be read"):
        io.read_json(tmp_path / "none.json")


def test_real_images_survive_a_round_trip(test_data: Path, tmp_path: Path) -> None:
    for name in ("tptbox/sample_mri/sub-mri_label-6_T2w.nii.gz", "totalsegmentator/example_mr_sm.nii.gz"):
        original = io.read_volume(test_data / name)
        for suffix in (".nii.gz", ".mha"):
            io.write_volume(original, tmp_path / f"a{suffix}")
            back = io.read_volume(tmp_path / f"a{suffix}")
            assert np.array_equal(back.array, original.array)
            assert back.corner_error(original) < 1e-4


def test_a_soft_label_is_read_as_any_nifti_is(tmp_path: Path) -> None:
    classes = [Volume(np.full((2, 3, 4), value, np.float32), np.diag([1.0, 2.0, 3.0, 1.0])) for value in (0.25, 1.0)]
    path = tmp_path / "soft.nii.gz"
    io.write_volumes(classes, path)
    # A file that was never compressed, under a name that says so.
    path.write_bytes(gzip.decompress(path.read_bytes()))
    stored, affine = read_classes(path)
    assert stored.shape == (2, 2, 3, 4)
    assert [set(one.ravel()) for one in stored] == [{0.25}, {1.0}]
    assert np.array_equal(affine, classes[0].affine)
    assert code_of(path) == "E-IN-DIM"

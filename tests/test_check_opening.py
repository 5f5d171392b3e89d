"""A source file is opened once, and its digest, findings and volume are those of the tools that read it alone."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from bad_inputs import FILE_KINDS, MASK_KINDS, NRRD, make_bad, make_good, metaimage, nifti, nrrd, voxels
from opened_files import count_opens

from nnunet_spine_ext.check import gzip_stream
from nnunet_spine_ext.check.images import inspect
from nnunet_spine_ext.check.opening import Opened, open_image
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Volume

TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
RAW = voxels().tobytes(order="F")


def _assert_same(opened: Opened, volume: Volume) -> None:
    assert opened.facts.ok, opened.facts.problems
    assert opened.volume is not None
    assert opened.volume.array.dtype == volume.array.dtype
    assert opened.volume.array.flags.c_contiguous
    np.testing.assert_array_equal(opened.volume.array, volume.array)
    np.testing.assert_allclose(opened.volume.affine, volume.affine, atol=1e-6)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- every format is read as nibabel or SimpleITK reads it ----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("compressed", [False, True])
def test_what_simpleitk_writes_is_read_as_simpleitk_reads_it(tmp_path: Path, suffix: str, compressed: bool) -> None:
    values = np.random.default_rng(3).integers(0, 120, (31, 40, 37))  # more than one block, more than the header
    for kind in TYPES:
        image = sitk.GetImageFromArray(values.astype(kind))
        image.SetSpacing((0.7, 1.1, 3.3))
        image.SetOrigin((10.5, -20.25, 33))
        image.SetDirection((0.955336489, -0.295520207, 0, 0.295520207, 0.955336489, 0, 0, 0, 1))
        path = tmp_path / f"{kind}{suffix}"
        sitk.WriteImage(image, str(path), compressed)
        opened = open_image(path)
        _assert_same(opened, read_volume(path))
        assert opened.sha256 == _sha256(path)
        assert [stamp.sha256 for stamp in opened.stamps] == [_sha256(stamp.path) for stamp in opened.stamps]
        assert len(opened.stamps) == (2 if suffix == ".mhd" else 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (0, 0), (2.5, 0), (1, -1024), (-0.003, 17.25), (np.nan, 3)])
def test_nifti_is_read_as_nibabel_reads_it(
    tmp_path: Path, order: str, suffix: str, kind: str, slope: float, inter: float
) -> None:
    content = nifti(array=voxels(kind), order=order, slope=slope, inter=inter)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    opened = open_image(path)
    volume = read_volume(path)
    _assert_same(opened, volume)
    assert opened.volume is not None
    assert opened.volume.array.tobytes() == volume.array.tobytes()  # also the sign of zeros


_PACKED = metaimage(packed=True)
_DETACHED = NRRD.format(encoding="raw").rstrip().encode() + b"\ndata file: voxels.raw\n"
VARIANTS: dict[str, tuple[str, bytes]] = {
    "plain": ("a.mha", metaimage()),
    "packed": ("a.mha", _PACKED),
    "big_endian": ("a.mha", metaimage().replace(b"MSB = False", b"MSB = True")),
    "element_order": ("a.mha", metaimage().replace(b"BinaryDataByteOrderMSB = False", b"ElementByteOrderMSB = True")),
    "position": ("a.mha", metaimage().replace(b"Offset", b"Position")),
    "rotation": ("a.mha", metaimage().replace(b"TransformMatrix", b"Rotation")),
    "element_size": ("a.mha", metaimage().replace(b"ElementSpacing", b"ElementSize")),
    "no_spacing": ("a.mha", metaimage().replace(b"ElementSpacing = 0.6 0.7 3.3\n", b"")),
    "windows_lines": ("a.mha", metaimage()[: -len(RAW)].replace(b"\n", b"\r\n") + RAW),
    "comment": ("a.mha", b"Comment = made = by hand\n" + metaimage()),
    "from_end": ("a.mha", metaimage(more="HeaderSize = -1\n")),
    "separate": ("a.mhd", metaimage(where="voxels.raw")),
    "separate_in_folder": ("a.mhd", metaimage(where="deep/voxels.raw")),
    "separate_packed": ("a.mhd", metaimage(where="voxels.zraw", packed=True)),
    "separate_behind_header": ("a.mhd", metaimage(where="behind.raw", more="HeaderSize = 77\n")),
    "separate_from_end": ("a.mhd", metaimage(where="behind.raw", more="HeaderSize = -1\n")),
    "nrrd": ("a.nrrd", nrrd("raw")),
    "nrrd_packed": ("a.nrrd", nrrd("gzip")),
    "nrrd_big_endian": ("a.nrrd", nrrd("raw").replace(b"endian: little", b"endian: big")),
    "nrrd_ras": ("a.nrrd", nrrd("raw").replace(b"left-posterior-superior", b"right-anterior-superior")),
    "nrrd_las": ("a.nrrd", nrrd("raw").replace(b"left-posterior-superior", b"LAS")),
    "nrrd_byte_skip": ("a.nrrd", nrrd("raw").replace(b"\n\n", b"\nbyte skip: 4\n\n1234", 1)),
    "nrrd_from_end": ("a.nrrd", nrrd("raw").replace(b"\n\n", b"\nbyte skip: -1\n\nsome text", 1)),
    "nrrd_separate": ("a.nrrd", _DETACHED),
    "nrrd_separate_packed": (
        "a.nrrd", _DETACHED.replace(b": raw", b": gzip").replace(b"voxels.raw", b"voxels.raw.gz"),
    ),
}  # fmt: skip


def _variant(folder: Path, kind: str) -> Path:
    (folder / "deep").mkdir(parents=True)
    for name in ("voxels.raw", "deep/voxels.raw"):
        (folder / name).write_bytes(RAW)
    (folder / "voxels.zraw").write_bytes(zlib.compress(RAW))
    (folder / "voxels.raw.gz").write_bytes(gzip.compress(RAW))
    (folder / "behind.raw").write_bytes(b"x" * 77 + RAW)
    name, content = VARIANTS[kind]
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("kind", VARIANTS)
def test_headers_written_by_hand_are_read_as_simpleitk_reads_them(tmp_path: Path, kind: str) -> None:
    path = _variant(tmp_path / "in", kind)
    _assert_same(open_image(path), read_volume(path))
    assert inspect(path).to_dict() == open_image(path).facts.to_dict()


@pytest.mark.parametrize("kind", [*VARIANTS, "nii", "nii.gz"])
def test_every_file_is_opened_once(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "in"
    path = _variant(folder, kind) if kind in VARIANTS else make_good(folder, f"a.{kind}")
    with count_opens(folder) as counts:
        opened = open_image(path)
    assert opened.volume is not None
    assert set(counts) == {str(stamp.path.relative_to(folder)) for stamp in opened.stamps}
    assert set(counts.values()) == {1}


def test_the_counter_sees_what_itk_opens(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(metaimage())
    with count_opens(tmp_path) as counts:
        read_volume(tmp_path / "a.mha")
    assert counts["a.mha"] >= 1


def test_a_volume_with_a_fourth_axis_of_one_is_read_in_every_format(tmp_path: Path) -> None:
    matrix = b"TransformMatrix = 0 1 0 0 0 0 -1 0 -1 0 0 0 0 0 0 1"
    content = metaimage().replace(b"NDims = 3", b"NDims = 4").replace(b"12 14 10", b"12 14 10 1")
    content = content.replace(b"TransformMatrix = 0 1 0 0 0 -1 -1 0 0", matrix)
    content = content.replace(b"15 -4 5", b"15 -4 5 0").replace(b"0.7 3.3", b"0.7 3.3 1")
    (tmp_path / "a.mha").write_bytes(content)
    opened = open_image(tmp_path / "a.mha")
    assert [problem.code for problem in opened.facts.problems] == ["W-IN-4D"]
    (tmp_path / "b.mha").write_bytes(metaimage())
    same = read_volume(tmp_path / "b.mha")
    assert opened.volume is not None
    np.testing.assert_array_equal(opened.volume.array, same.array)
    np.testing.assert_allclose(opened.volume.affine, same.affine)


# --- what is wrong with a file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*FILE_KINDS, *MASK_KINDS])
@pytest.mark.parametrize("strict", [False, True])
def test_the_findings_are_those_of_inspect(tmp_path: Path, kind: str, strict: bool) -> None:
    path = make_bad(kind, tmp_path)
    if kind == "unreadable" and os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    role: Any = "label" if kind in MASK_KINDS else "training"
    facts, opened = inspect(path, role=role, strict=strict), open_image(path, role=role, strict=strict)
    assert opened.facts.to_dict() == facts.to_dict()
    real = [problem for problem in facts.errors if problem.code.startswith("E-") and problem.code != "E-LABEL-VALUE"]
    assert (opened.volume is None) == bool(real)
    assert opened.sha256 == ("" if real else _sha256(path))


def _two_orders(content: bytes) -> bytes:
    return content.replace(b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = 0\nElementByteOrderMSB = 1")


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("a.mha", _two_orders(metaimage()), "E-IN-FORMAT", "two byte orders"),
        ("a.nrrd", nrrd("raw").replace(b"\n\n", b"\nline skip: 1\n\nhello\n", 1), "E-IN-FORMAT", "line skip"),
        ("a.mhd", metaimage(where="other.raw"), "E-IN-MISSING", "other.raw"),
        ("a.mhd", metaimage(where="LIST"), "E-IN-FORMAT", "several files"),
        ("a.mha", metaimage(more="BinaryData = False\n"), "E-IN-FORMAT", "as text"),
        ("a.mha", metaimage() + b"x", "W-IN-TRAILING", "1 bytes"),
        ("a.mha", metaimage(packed=True) + b"x", "W-IN-TRAILING", "1 bytes"),
        ("a.mha", metaimage(packed=True)[:-2] + b"xx", "E-IN-CRC", "checksum"),
        ("a.mha", metaimage(packed=True, more="CompressedDataSize = 0\n"), "E-IN-UNREADABLE", "without Compressed"),
        ("a.mha", metaimage(packed=True, more="CompressedDataSize = 99\n"), "E-IN-UNREADABLE", "noise"),
        ("a.mha", metaimage(packed=True, more="CompressedDataSize = 9999\n"), "E-IN-TRUNCATED", "of 9999 compressed"),
        ("a.nrrd", nrrd()[:-6] + b"xx" + nrrd()[-4:], "E-IN-CRC", "checksum"),
        ("a.nrrd", nrrd("raw").replace(b"endian: little\n", b""), "E-IN-UNREADABLE", "ITK does not read it"),
    ],
)
def test_faults_of_text_headers(tmp_path: Path, name: str, content: bytes, code: str, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    opened = open_image(tmp_path / name)
    (problem,) = opened.facts.problems
    assert problem.code == code
    assert words in problem.found
    assert problem.fix
    assert (opened.volume is None) == code.startswith("E-")
    assert inspect(tmp_path / name).problems == [problem]
    assert "0x" not in problem.found  # equal input, equal reports


def test_prefer_moves_the_volume(tmp_path: Path) -> None:
    path = make_bad("conflict", tmp_path)
    assert open_image(path).volume is None
    for form in ("sform", "qform"):
        opened = open_image(path, prefer=form)  # type: ignore[arg-type]
        assert opened.volume is not None
        np.testing.assert_array_equal(opened.volume.affine, nib.load(path).get_sform() if form == "sform" else
                                      nib.load(path).get_qform())  # fmt: skip


def test_unknown_options_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        open_image(make_good(tmp_path), role="picture")  # type: ignore[arg-type]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_good(tmp_path)
    read = gzip_stream.OneRead.sha256

    def grow_then_read(self: gzip_stream.OneRead) -> str:
        path.write_bytes(path.read_bytes() + b"more")
        return read(self)

    monkeypatch.setattr(gzip_stream.OneRead, "sha256", grow_then_read)
    opened = open_image(path)
    assert [problem.code for problem in opened.facts.problems] == ["E-IN-UNREADABLE"]
    assert "changed while it was read" in opened.facts.problems[0].found
    assert opened.volume is None


# --- memory ---------------------------------------------------------------------------------------------------------

# The high-water mark of this program alone: what getrusage says begins with that of the process that started it.
_MEASURE = """
import sys
from pathlib import Path
from nnunet_spine_ext.check.opening import open_image
import nibabel, numpy
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
open_image(sys.argv[1])
before = peak()
opened = open_image(sys.argv[2])
print((peak() - before) // 1024, opened.facts.problems[0].code if opened.facts.problems else "fine")
"""


def _measure(tmp_path: Path, bad: Path) -> tuple[int, str]:
    good = make_good(tmp_path / "good", f"a{bad.name[bad.name.index('.') :]}") if ".nii" in bad.name else bad
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(good), str(bad)], capture_output=True, text=True, check=True
    )
    grown, code = done.stdout.split()
    return int(grown), code


def _bomb_behind_the_voxels(folder: Path) -> Path:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    pieces = [packer.compress(nifti())]
    pieces += [packer.compress(bytes(1 << 20)) for _ in range(300)]
    (folder / "bad.nii.gz").write_bytes(b"".join([*pieces, packer.flush()]))
    return folder / "bad.nii.gz"


def _lie(folder: Path) -> Path:
    content = nifti(shape=(30000, 30000, 30000))
    (folder / "bad.nii.gz").write_bytes(gzip.compress(content))
    return folder / "bad.nii.gz"


def _large_lie(folder: Path) -> Path:
    content = nifti(shape=(1000, 1000, 1000))  # 2 GB: the system promises them, nothing fills them
    (folder / "bad.nii.gz").write_bytes(gzip.compress(content))
    return folder / "bad.nii.gz"


@pytest.mark.parametrize(
    ("build", "code"),
    [(_bomb_behind_the_voxels, "W-IN-TRAILING"), (_lie, "E-IN-TRUNCATED"), (_large_lie, "E-IN-TRUNCATED")],
)
def test_a_file_that_claims_or_unpacks_to_gigabytes_takes_little_memory(
    tmp_path: Path, build: Callable[[Path], Path], code: str
) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("the system does not say how much memory a process took")
    grown, said = _measure(tmp_path, build(tmp_path))
    assert said == code
    assert grown < 40


def test_more_voxels_than_memory_are_an_error_of_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.check import opening

    def full(*_args: Any, **_more: Any) -> None:
        raise MemoryError

    path = make_good(tmp_path)
    monkeypatch.setattr(opening.np, "empty", full)
    opened = open_image(path)
    assert opened.volume is None
    assert [problem.code for problem in opened.facts.problems] == ["E-IN-UNREADABLE"]
    assert "more than the memory" in opened.facts.problems[0].found


# --- real images ----------------------------------------------------------------------------------------------------


def test_real_images_are_read_as_the_libraries_read_them(test_data: Path) -> None:
    files = [path for path in sorted(test_data.rglob("*")) if path.name.endswith((".nii.gz", ".nii", ".mha", ".nrrd"))]
    compared = 0
    for path in files:
        if path.is_file() and path.stat().st_size < 20 << 20:
            opened = open_image(path, prefer="sform")
            if opened.volume is not None:
                _assert_same(opened, read_volume(path))
                compared += 1
    assert compared > 10

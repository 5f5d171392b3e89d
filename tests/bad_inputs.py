"""Builders of everything that can be wrong with an input: `make_bad(kind, folder)`.

`FILE_KINDS` are single files with the code that the gatekeeper gives them; `PLACE_KINDS` are datasets, folders, models
and names that other commands must refuse. Files are small (12x14x10) and made from bytes, without an image library,
so that a builder can store what a library would refuse to write.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPE = (12, 14, 10)
SPACING = (0.6, 0.7, 3.3)
# PIR, as sagittal spine scans are often stored: i to the back, j down, k to the right.
AFFINE = np.array([[0, 0, 3.3, -15], [-0.6, 0, 0, 4], [0, -0.7, 0, 5], [0, 0, 0, 1]], dtype=float)

Builder = Callable[[Path], Path]
_BUILDERS: dict[str, Builder] = {}
# Kind of file to the code of the finding; "" where the file is fine although it looks odd.
FILE_KINDS: dict[str, str] = {}
PLACE_KINDS: list[str] = []


def make_bad(kind: str, folder: Path) -> Path:
    """Build one bad input inside `folder` and return the path to hand to the function under test."""
    folder.mkdir(parents=True, exist_ok=True)
    return _BUILDERS[kind](folder)


def make_good(folder: Path, name: str = "good.nii.gz", array: np.ndarray | None = None) -> Path:
    """Write a valid image (a .nii or .nii.gz) and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return _save(folder / name, nifti(array=array))


def voxels(dtype: str = "<i2", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return reproducible values from 1 to 199, indexed [i, j, k]."""
    return np.random.default_rng(7).integers(1, 200, shape).astype(dtype)


def nifti(
    *,
    array: np.ndarray | None = None,
    datatype: int | None = None,
    data: bytes | None = None,
    shape: tuple[int, ...] | None = None,
    order: str = "<",
    affine: np.ndarray = AFFINE,
    sform_code: int = 1,
    qform_code: int = 0,
    quaternion: tuple[float, ...] = (-0.5, 0.5, -0.5, *AFFINE[:3, 3]),
    pixdim: tuple[float, ...] = (1.0, *SPACING),
    units: int = 2,
    slope: float = 1.0,
    inter: float = 0.0,
    magic: bytes = b"n+1\0",
) -> bytes:
    """Return the bytes of a NIfTI-1 file; every field may be wrong."""
    array = voxels() if array is None else array
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "u2": 512, "i8": 1024}
    shape = array.shape if shape is None else shape
    head = bytearray(352)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into(f"{order}2h", head, 70, datatype or codes[array.dtype.str[1:]], 8 * array.dtype.itemsize)
    struct.pack_into(f"{order}8f", head, 76, *pixdim, *[1.0] * (8 - len(pixdim)))
    struct.pack_into(f"{order}3f", head, 108, 352.0, slope, inter)
    head[123] = units
    struct.pack_into(f"{order}2h", head, 252, qform_code, sform_code)
    struct.pack_into(f"{order}6f", head, 256, *quaternion)
    struct.pack_into(f"{order}12f", head, 280, *np.asarray(affine)[:3].ravel())
    head[344:348] = magic
    content = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F") if data is None else data
    return bytes(head) + content


def _save(path: Path, raw: bytes) -> Path:
    path.write_bytes(gzip.compress(raw, 6, mtime=0) if path.name.endswith(".gz") else raw)
    return path


def _file(kind: str, code: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        _BUILDERS[kind], FILE_KINDS[kind] = builder, code
        return builder

    return register


def _place(kind: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        _BUILDERS[kind] = builder
        PLACE_KINDS.append(kind)
        return builder

    return register


def _content(kind: str, code: str, content: Callable[[], bytes], name: str = "bad.nii.gz") -> None:
    """Register a kind whose bytes are written as they are."""

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    _file(kind, code)(build)


def _header(kind: str, code: str, name: str = "bad.nii.gz", **fields: object) -> None:
    """Register a kind that is a NIfTI file with other header fields."""
    _file(kind, code)(lambda folder: _save(folder / name, nifti(**fields)))  # type: ignore[arg-type]


def _packed() -> bytes:
    return gzip.compress(nifti(), 6, mtime=0)


def _with(value: float, count: int, dtype: str = "<f4") -> np.ndarray:
    array = voxels(dtype)
    array.ravel()[:count] = value
    return array


# ---- the file itself -------------------------------------------------------------------------------------------


@_file("missing", "E-IN-MISSING")
def _missing(folder: Path) -> Path:
    make_good(folder, "sub-01_T2w.nii.gz")
    return folder / "sub-01_t2.nii.gz"


@_file("missing_folder", "E-IN-MISSING")
def _missing_folder(folder: Path) -> Path:
    make_good(folder / "patients")
    return folder / "patient" / "good.nii.gz"


@_file("name_too_long", "E-IN-MISSING")
def _name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300 + ".nii.gz")


_content("zero_bytes", "E-IN-EMPTY", lambda: b"")
_content("truncated_gz", "E-IN-TRUNCATED", lambda: _packed()[: len(_packed()) // 2])
_content("truncated_gz_header", "E-IN-TRUNCATED", lambda: _packed()[:60])
_content("truncated_gz_checksum", "E-IN-TRUNCATED", lambda: _packed()[:-5])
_content("short_inside_gz", "E-IN-TRUNCATED", lambda: gzip.compress(nifti()[:1200], mtime=0))
_content("truncated_nii", "E-IN-TRUNCATED", lambda: nifti()[:1200], "bad.nii")
_content("crc_error", "E-IN-CRC", lambda: _packed()[:-8] + b"\1\2\3\4" + _packed()[-4:])
_content("damaged_gz", "E-IN-CRC", lambda: _packed()[:20] + b"\xff" * 40 + _packed()[60:])
_content("trailing_garbage", "W-IN-TRAILING", lambda: _packed() + b"garbage" * 9)
_content("trailing_inside", "W-IN-TRAILING", lambda: nifti() + b"garbage" * 9, "bad.nii")
_content("zero_padding", "", lambda: _packed() + b"\0" * 512)
_content("two_members", "", lambda: gzip.compress(nifti()[:999]) + gzip.compress(nifti()[999:]))
_content("text", "E-IN-FORMAT", lambda: "sub-01 wasn’t scanned\n".encode() * 50)
_content("html", "E-IN-FORMAT", lambda: b"\n<!DOCTYPE html><html><title>Please log in</title></html>")
_content("text_inside_gz", "E-IN-FORMAT", lambda: gzip.compress(b"<html>404</html>" * 40))
_content("dicom", "E-IN-FORMAT", lambda: b"\0" * 128 + b"DICM" + b"\2\0" * 300)
_content("png", "E-IN-FORMAT", lambda: b"\x89PNG\r\n\x1a\n" + bytes(400))
_content("noise", "E-IN-FORMAT", lambda: np.random.default_rng(1).bytes(4000))
_content("nifti2", "E-IN-FORMAT", lambda: struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600))
_content("hdr_of_pair", "E-IN-FORMAT", lambda: gzip.compress(nifti(magic=b"ni1\0")[:352]))
_content("no_dimensions", "E-IN-FORMAT", lambda: gzip.compress(nifti(shape=(0, 14, 10))))
_content("raw_named_gz", "W-IN-SUFFIX", nifti)
_content("gz_named_nii", "W-IN-SUFFIX", _packed, "bad.nii")
_content("unknown_suffix", "E-IN-FORMAT", _packed, "bad.dat")
_content("lfs_pointer", "E-IN-POINTER", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
_content("annex_pointer", "E-IN-POINTER", lambda: b"/annex/objects/MD5E-s100--0123.nii.gz\n")


@_file("directory", "E-IN-FORMAT")
def _directory(folder: Path) -> Path:
    (folder / "bad.nii.gz").mkdir()
    return folder / "bad.nii.gz"


@_file("pipe", "E-IN-FORMAT")
def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.nii.gz")
    return folder / "bad.nii.gz"


@_file("dangling_link", "E-IN-POINTER")
def _dangling_link(folder: Path) -> Path:
    (folder / "bad.nii.gz").symlink_to("elsewhere/scan.nii.gz")
    return folder / "bad.nii.gz"


@_file("link_to_itself", "E-IN-MISSING")
def _link_to_itself(folder: Path) -> Path:
    (folder / "bad.nii.gz").symlink_to("bad.nii.gz")
    return folder / "bad.nii.gz"


@_file("annex_link", "E-IN-POINTER")
def _annex_link(folder: Path) -> Path:
    target = "../.git/annex/objects/Kx/2q/MD5E-s100--0123.nii.gz/MD5E-s100--0123.nii.gz"
    (folder / "bad.nii.gz").symlink_to(target)
    return folder / "bad.nii.gz"


@_file("unreadable", "E-IN-PERMISSION")
def _unreadable(folder: Path) -> Path:
    """Not readable by anybody but root: tests skip it for root."""
    path = make_good(folder, "bad.nii.gz")
    path.chmod(0)
    return path


@_file("odd_name", "")
def _odd_name(folder: Path) -> Path:
    deep = folder / ("sub folder $HOME ümläut 脊椎 " + "x" * 120) / ("y" * 120)
    return make_good(deep, "it's & <script>.nii.gz")


# ---- shape and type --------------------------------------------------------------------------------------------

_header("one_volume_4d", "W-IN-4D", array=voxels(shape=(*SHAPE, 1)))
_header("four_d", "E-IN-DIM", array=voxels(shape=(*SHAPE, 3)))
_header("vector_5d", "E-IN-DIM", array=voxels(shape=(*SHAPE, 1, 3)))
_header("two_d", "E-IN-2D", array=voxels(shape=(12, 14)))
_header("single_slice", "E-IN-2D", array=voxels(shape=(12, 14, 1)))
_header("rgb", "E-IN-DTYPE", array=voxels("u1"), datatype=128, data=bytes(3 * 12 * 14 * 10))
_header("complex", "E-IN-DTYPE", array=voxels("<c8"))
_header("bool", "E-IN-DTYPE", array=voxels("u1"), datatype=1, data=bytes(210))
_header("big_endian", "", order=">")

# ---- geometry --------------------------------------------------------------------------------------------------

_SHEARED = AFFINE @ np.array([[1, 0.02, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
_SLIGHTLY = AFFINE @ np.array([[1, 0.0005, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
_header("no_codes", "W-GEOM-NOCODE", sform_code=0)
_header("qform_only", "", sform_code=0, qform_code=1)
_header("both_forms", "", qform_code=1)
_header("conflict", "E-GEOM-CONFLICT", qform_code=1, quaternion=(-0.5, 0.5, -0.5, 0, 0, 0))
_header("conflict_turned", "E-GEOM-CONFLICT", qform_code=1, quaternion=(0.0, 0.0, 0.0, *AFFINE[:3, 3]))
_header("conflict_size", "E-GEOM-CONFLICT", qform_code=1, pixdim=(1.0, 0.6, 0.7, 3.6))
_header("bad_quaternion", "E-GEOM-CONFLICT", qform_code=1, quaternion=(0.9, -0.5, -0.5, *AFFINE[:3, 3]))
_header("only_bad_quaternion", "E-GEOM-AFFINE", sform_code=0, qform_code=1, quaternion=(0.9, 0.5, 0.5, 0, 0, 0))
_header("pixdim_differs", "W-GEOM-PIXDIM", pixdim=(1.0, 1.0, 1.0, 1.0))
_header("zero_pixdim", "E-GEOM-PIXDIM", pixdim=(1.0, 0.6, 0.7, 0.0))
_header("negative_pixdim", "E-GEOM-PIXDIM", pixdim=(1.0, -0.6, 0.7, 3.3))
_header("nan_pixdim", "E-GEOM-PIXDIM", pixdim=(1.0, float("nan"), 0.7, 3.3))
_header("zero_sform", "E-GEOM-PIXDIM", affine=np.diag([0.6, 0.7, 0.0, 1.0]))
_header("flat_sform", "E-GEOM-AFFINE", affine=AFFINE[:, [0, 0, 2, 3]], pixdim=(1.0, 0.6, 0.6, 3.3))
_header("nan_sform", "E-GEOM-AFFINE", affine=np.full((4, 4), np.nan))
_header("shear", "E-GEOM-SHEAR", affine=_SHEARED)
_header("small_shear", "E-GEOM-SHEAR", affine=_SLIGHTLY)
_header("tiny_voxels", "E-GEOM-SPACING", affine=AFFINE / 1000, pixdim=(1.0, 0.0006, 0.0007, 0.0033))
_header("huge_voxels", "E-GEOM-SPACING", affine=AFFINE * 10, pixdim=(1.0, 6.0, 7.0, 33.0))
_header("unit_metre", "E-GEOM-UNITS", units=1)
_header("unit_micron", "E-GEOM-UNITS", units=3)

# ---- intensities -----------------------------------------------------------------------------------------------

_header("nan", "W-INT-NONFINITE", array=_with(np.nan, 5))
_header("inf", "W-INT-NONFINITE", array=_with(np.inf, 3))
_header("all_nan", "E-INT-NONFINITE", array=_with(np.nan, 12 * 14 * 10))
_header("constant", "E-INT-CONSTANT", array=np.full(SHAPE, 7, "<i2"))
_header("all_zero", "E-INT-CONSTANT", array=np.zeros(SHAPE, "<f4"))
_header("slope_nan", "W-INT-SCALING", slope=float("nan"))
_header("slope_zero_inter", "W-INT-SCALING", slope=0.0, inter=5.0)
_header("slope_zero", "", slope=0.0)
_header("inter_nan", "E-INT-SCALING", inter=float("nan"))
_header("saturated", "W-INT-SATURATED", array=_with(32767, 200, "<i2"))
_header("mask_for_image", "W-INT-MASK", array=np.arange(np.prod(SHAPE)).reshape(SHAPE).astype("<i2") % 64 * 30)
_header("mask_of_255", "W-INT-MASK", array=np.where(np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3, 255, 0).astype("u1"))
_header("few_values", "", array=np.arange(np.prod(SHAPE)).reshape(SHAPE).astype("<i2") % 65 * 30)
_header("few_fractions", "", array=np.arange(np.prod(SHAPE)).reshape(SHAPE).astype("<f4") % 8 * 30.5)

# ---- MetaImage and NRRD ----------------------------------------------------------------------------------------

_META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {packed}\n"
    "TransformMatrix = 0 1 0 0 0 -1 -1 0 0\nOffset = 15 -4 5\nElementSpacing = {spacing}\nDimSize = 12 14 10\n"
    "{more}ElementType = MET_SHORT\nElementDataFile = {where}\n"
)


def metaimage(
    *, packed: bool = False, spacing: str = "0.6 0.7 3.3", where: str = "LOCAL", more: str = "", cut: int = 0
) -> bytes:
    """Return a MetaImage file with the geometry of `AFFINE`; `cut` bytes are missing at its end."""
    data = voxels().tobytes(order="F")
    if packed:
        data = zlib.compress(data)
        more = more if "CompressedDataSize" in more else f"{more}CompressedDataSize = {len(data)}\n"
    text = _META.format(packed=packed, spacing=spacing, where=where, more=more).encode()
    content = text + data if where == "LOCAL" else text
    return content[: len(content) - cut]


_content("truncated_mha", "E-IN-TRUNCATED", lambda: metaimage(cut=500), "bad.mha")
_content("truncated_packed_mha", "E-IN-TRUNCATED", lambda: metaimage(packed=True, cut=500), "bad.mha")
_content("zero_spacing_mha", "E-GEOM-PIXDIM", lambda: metaimage(spacing="0.6 0.7 0"), "bad.mha")
_content("rgb_mha", "E-IN-DTYPE", lambda: metaimage(more="ElementNumberOfChannels = 3\n"), "bad.mha")
_content("mhd_without_data", "E-IN-MISSING", lambda: metaimage(where="bad.raw"), "bad.mhd")
_content(
    "two_ndims_mha", "E-IN-FORMAT", lambda: metaimage().replace(b"NDims = 3", b"NDims = 9"), "bad.mha"
)  # makes ITK read outside its memory
_content(
    "matrix_before_ndims_mha",
    "E-IN-UNREADABLE",
    lambda: metaimage().replace(b"NDims", b"TransformMatrix = 1 0 0 0 1 0 0 0 1\nNDims"),
    "bad.mha",
)
_content("mha_named_nii", "E-IN-FORMAT", metaimage)
_content("header_without_end_mha", "E-IN-FORMAT", lambda: b"ObjectType = Image\nNDims = 3\n", "bad.mha")

NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 14 10\n"
    "space directions: (0,0.6,0) (0,0,-0.7) (-3.3,0,0)\nendian: little\nencoding: {encoding}\n"
    "space origin: (15,-4,5)\n\n"
)


def nrrd(encoding: str = "gzip", cut: int = 0) -> bytes:
    """Return a NRRD file with the geometry of `AFFINE`; `cut` bytes are missing at its end."""
    data = voxels().tobytes(order="F")
    content = NRRD.format(encoding=encoding).encode() + (gzip.compress(data, mtime=0) if encoding == "gzip" else data)
    return content[: len(content) - cut]


_content("truncated_nrrd", "E-IN-TRUNCATED", lambda: nrrd(cut=500), "bad.nrrd")
_content("bzip2_nrrd", "E-IN-FORMAT", lambda: nrrd("bzip2"), "bad.nrrd")

# ---- masks (to be looked at with role label) -------------------------------------------------------------------

MASK_KINDS = {
    "empty_mask": "W-LABEL-EMPTY",
    "fraction_mask": "E-LABEL-VALUE",
    "negative_mask": "E-LABEL-VALUE",
    "image_as_mask": "E-LABEL-VALUE",
    "nan_mask": "E-INT-NONFINITE",
}
_many = np.arange(2 * 3000, dtype="<i4").reshape(60, 10, 10)
for _kind, _array in {
    "empty_mask": np.zeros(SHAPE, "u1"),
    "fraction_mask": _with(1.0001, 3),
    "negative_mask": _with(-1, 3, "<i2"),
    "image_as_mask": _many,
    "nan_mask": _with(np.nan, 3),
}.items():
    _header(_kind, MASK_KINDS[_kind], name="mask.nii.gz", array=_array)
    del FILE_KINDS[_kind]


# ---- datasets, folders, models, names --------------------------------------------------------------------------


@_place("unknown_label_ids")
def _unknown_label_ids(folder: Path) -> Path:
    """Return a mask with the id 99 beside its image (`image.nii.gz`)."""
    make_good(folder, "image.nii.gz")
    return make_good(folder, "mask.nii.gz", _with(99, 4, "<i2") % 3 + 99 * (_with(99, 4, "<i2") == 99).astype("<i2"))


@_place("mask_on_another_grid")
def _mask_on_another_grid(folder: Path) -> Path:
    """Return a mask that lies 2 mm beside its image (`image.nii.gz`)."""
    make_good(folder, "image.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] += 2
    return _save(folder / "mask.nii.gz", nifti(array=voxels() % 2, affine=moved))


@_place("mask_of_another_shape")
def _mask_of_another_shape(folder: Path) -> Path:
    """Return a mask with one slice less than its image (`image.nii.gz`)."""
    make_good(folder, "image.nii.gz")
    return make_good(folder, "mask.nii.gz", voxels(shape=(12, 14, 9)) % 2)


@_place("missing_channel")
def _missing_channel(folder: Path) -> Path:
    """Return a prediction input folder for two channels in which case_002 has only the first."""
    for name in ("case_001_0000", "case_001_0001", "case_002_0000"):
        make_good(folder, f"{name}.nii.gz")
    return folder


@_place("same_case_twice")
def _same_case_twice(folder: Path) -> Path:
    """Return a folder in which two files give the same case id."""
    make_good(folder, "case.nii.gz")
    make_good(folder, "case.nii")
    return folder


@_place("same_case_in_capitals")
def _same_case_in_capitals(folder: Path) -> Path:
    """Return a folder in which two case ids differ by letter case only."""
    make_good(folder, "case.nii.gz")
    make_good(folder, "CASE.nii.gz")
    return folder


@_place("output_read_only")
def _output_read_only(folder: Path) -> Path:
    """Return a folder that its user may not write into (root may: tests skip it for root)."""
    output = folder / "out"
    output.mkdir()
    output.chmod(0o555)
    return output


@_place("output_is_a_file")
def _output_is_a_file(folder: Path) -> Path:
    """Return the path of a file, given as output folder."""
    (folder / "out").write_text("not a folder", encoding="utf-8")
    return folder / "out"


@_place("output_equals_input")
def _output_equals_input(folder: Path) -> Path:
    """Return an input folder, to be given as output as well."""
    make_good(folder, "case.nii.gz")
    return folder


def _model(folder: Path, *, trainer: str = "nnUNetTrainerSpine") -> Path:
    model = folder / f"{trainer}__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    labels = {"background": 0, "cord": 1}
    dataset = {"channel_names": {"0": "T2w"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    plans = {"plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": {}}}
    (model / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (model / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    return model


@_place("model_without_checkpoint")
def _model_without_checkpoint(folder: Path) -> Path:
    """Return a model folder whose only fold holds no checkpoint."""
    return _model(folder)


@_place("model_without_plans")
def _model_without_plans(folder: Path) -> Path:
    """Return a model folder without plans.json."""
    model = _model(folder)
    (model / "plans.json").unlink()
    return model


class _Foreign:
    """Pickles as a call of a function that is not on the list of allowed names."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.getcwd, ()


@_place("foreign_checkpoint")
def _foreign_checkpoint(folder: Path) -> Path:
    """Return a model folder whose checkpoint carries a call of posix.getcwd (harmless, if it ran)."""
    import torch

    model = _model(folder)
    torch.save({"network_weights": {}, "trainer_name": _Foreign()}, model / "fold_0" / "checkpoint_final.pth")
    return model


@_place("plain_pickle_checkpoint")
def _plain_pickle_checkpoint(folder: Path) -> Path:
    """Return a model folder whose checkpoint is a bare pickle with code."""
    model = _model(folder)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(pickle.dumps({"network_weights": _Foreign()}))
    return model


@_place("truncated_checkpoint")
def _truncated_checkpoint(folder: Path) -> Path:
    """Return a model folder whose checkpoint was cut short."""
    import torch

    model = _model(folder)
    path = model / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": {"w": torch.zeros(500)}, "trainer_name": "nnUNetTrainerSpine"}, path)
    path.write_bytes(path.read_bytes()[:700])
    return model


@_place("unknown_trainer")
def _unknown_trainer(folder: Path) -> Path:
    """Return a model folder whose checkpoint names a trainer that nobody has."""
    import torch

    model = _model(folder, trainer="nnUNetTrainerOfSomebodyElse")
    content = {"network_weights": {}, "trainer_name": "nnUNetTrainerOfSomebodyElse", "init_args": {}}
    torch.save(content, model / "fold_0" / "checkpoint_final.pth")
    return model

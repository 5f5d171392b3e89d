"""Headers of MetaImage (.mha, .mhd) and NRRD files: text before the voxels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.check.facts import Header
from nnunet_spine_ext.check.geometry import corner_distance, triple
from nnunet_spine_ext.check.gzip_stream import Compression
from nnunet_spine_ext.core.volume import Array

# A text header longer than this is none.
MAX_TEXT = 1 << 16
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1",
    "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16": "i2", "int16_t": "i2",
    "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2", "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4",
    "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "longlong": "i8", "long long": "i8", "long long int": "i8", "signed long long": "i8", "int64": "i8",
    "int64_t": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "unsigned long long int": "u8", "uint64": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
# What the first letters of an NRRD space say about the signs of its axes against RAS.
_NRRD_SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip


@dataclass(frozen=True)
class TextHeader:
    """A parsed text header and where its voxels are.

    `data_file` is the file that holds them, None when they follow the header; `start`: where its (compressed) data
    begin; `from_end`: the voxels are the last bytes of that file, whatever lies before them. `packed_size`: how many
    compressed bytes the header announces, -1 if it does not.
    """

    header: Header
    compression: Compression
    start: int = 0
    data_file: Path | None = None
    from_end: bool = False
    packed_size: int = -1


def is_meta(head: bytes) -> bool:
    """Whether the bytes begin a MetaImage header."""
    return re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType|TransformType)\s*=", head) is not None


def is_nrrd(head: bytes) -> bool:
    """Whether the bytes begin a NRRD header."""
    return head.startswith(b"NRRD000")


def parse_meta(head: bytes, path: Path) -> TextHeader:
    """Return the header of a MetaImage file; ValueError says what makes it unusable.

    `head` are the first `MAX_TEXT` bytes of `path`.
    """
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", position)
        line = head[position : end if end >= 0 else len(head)].decode("utf-8", errors="replace")
        key, separator, value = line.partition("=")
        if line.strip() and not separator:
            msg = f"a MetaImage header with the line {line.strip()[:60]!r}"
            raise ValueError(msg)
        fields[key.strip()] = value.strip()
        if end < 0:
            break
        position = end + 1
    if "ElementDataFile" not in fields:
        msg = "a MetaImage header without ElementDataFile"
        raise ValueError(msg)
    return _meta(fields, path, position)


def _meta(fields: dict[str, str], path: Path, end_of_text: int) -> TextHeader:
    shape = _shape(fields, "NDims", "DimSize")
    orders = {_true(fields, key) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if key in fields}
    if len(orders) > 1:
        msg = "a MetaImage header with two byte orders"
        raise ValueError(msg)
    order = ">" if True in orders else "<"
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    kind = fields.get("ElementType", "")
    dtype = np.dtype(order + _META_TYPES[kind]) if kind in _META_TYPES and channels == 1 else None
    if not _true(fields, "BinaryData", default="True"):
        msg = "voxels written as text (BinaryData = False)"
        raise ValueError(msg)
    where = fields["ElementDataFile"]
    if where.split()[:1] == ["LIST"] or "%" in where:
        msg = "voxels spread over several files"
        raise ValueError(msg)
    local = where.upper() == "LOCAL"
    skip = int(fields.get("HeaderSize", "0"))
    header = Header(
        format="MetaImage",
        shape=shape,
        dtype=dtype,
        type_name=_type_name(dtype, kind, channels),
        offset=0,
        affines=_meta_affine(fields, len(shape)),
        unit=fields.get("DistanceUnits", "").lower(),
    )
    compression: Compression = "zlib" if _true(fields, "CompressedData") else "none"
    start = (end_of_text if local else 0) + max(skip, 0)
    packed = int(fields.get("CompressedDataSize", "0")) or -1
    data_file = None if local else path.parent / where
    return TextHeader(header, compression, start, data_file, from_end=skip == -1, packed_size=packed)


def _meta_affine(fields: dict[str, str], ndim: int) -> dict[str, Array]:
    spacing = _first(fields, ("ElementSpacing", "ElementSize"), [1.0] * ndim)
    origin = _first(fields, ("Offset", "Position", "Origin"), [0.0] * ndim)
    # One row per axis: the direction in which that axis grows.
    matrix = _first(fields, ("TransformMatrix", "Rotation", "Orientation"), np.eye(ndim).ravel().tolist())
    if ndim < 3 or len(spacing) != ndim or len(origin) != ndim or len(matrix) != ndim * ndim:
        return {}
    affine = np.eye(4)
    affine[:3, :3] = np.array(matrix).reshape(ndim, ndim)[:3, :3].T * np.array(spacing[:3])
    affine[:3, 3] = origin[:3]
    return {"header": _LPS_TO_RAS @ affine}


def parse_nrrd(head: bytes, path: Path) -> TextHeader:
    """Return the header of a NRRD file; ValueError says what makes it unusable.

    `head` are the first `MAX_TEXT` bytes of `path`.
    """
    match = re.search(rb"\r?\n\r?\n", head)
    text = head[: match.start() if match else len(head)].decode("utf-8", errors="replace")
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        # `key:=value` lines are free text, `#` lines comments.
        if ": " in line and not line.startswith("#") and ":=" not in line:
            key, _, value = line.partition(": ")
            fields[key.strip().lower()] = value.strip()
    where = fields.get("data file", fields.get("datafile", ""))
    if match is None and not where:
        msg = "a NRRD header without an end"
        raise ValueError(msg)
    if where.upper().startswith("LIST") or "%" in where:
        msg = "voxels spread over several files"
        raise ValueError(msg)
    return _nrrd(fields, path, match.end() if match else 0, where)


def _nrrd(fields: dict[str, str], path: Path, end_of_text: int, where: str) -> TextHeader:
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        msg = f"voxels encoded as {encoding or 'nothing'!r}"
        raise ValueError(msg)
    if int(fields.get("line skip", fields.get("lineskip", "0"))):
        msg = "voxels behind lines of text (line skip)"
        raise ValueError(msg)
    shape = _shape(fields, "dimension", "sizes")
    kind = fields.get("type", "").lower()
    order = ">" if fields.get("endian", "").lower() == "big" else "<"
    affine, per_voxel = _nrrd_affine(fields, shape)
    dtype = np.dtype(order + _NRRD_TYPES[kind]) if kind in _NRRD_TYPES and per_voxel == 1 else None
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    header = Header(
        format="NRRD",
        shape=shape if per_voxel == 1 else shape[1:],
        dtype=dtype,
        type_name=_type_name(dtype, kind, per_voxel),
        offset=max(skip, 0),
        affines={} if affine is None else {"header": affine},
    )
    compression: Compression = "none" if encoding == "raw" else "gzip"
    start = 0 if where else end_of_text
    return TextHeader(header, compression, start, path.parent / where if where else None, from_end=skip == -1)


def _nrrd_affine(fields: dict[str, str], shape: tuple[int, ...]) -> tuple[Array | None, int]:
    """Affine in RAS+, and how many values a voxel has (an axis without a direction that comes first is no place)."""
    signs = _NRRD_SPACES.get(fields.get("space", "").lower(), (-1, -1, 1))
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    per_voxel = shape[0] if directions[:1] == ["none"] else 1
    columns = [_vector(text) for text in directions if text != "none"]
    if len(columns) < 3 or any(len(column) != 3 for column in columns[:3]):
        return None, per_voxel
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns[:3]).T
    origin = _vector(fields.get("space origin", "(0,0,0)"))
    if len(origin) == 3:
        affine[:3, 3] = origin
    return np.diag([*signs, 1.0]) @ affine, per_voxel


def itk_objection(path: Path, header: Header) -> str:
    """Return why ITK, the reference for these formats, refuses the header or reads it otherwise; nothing if it agrees.

    `path` may be a copy of the header alone.
    """
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        # The first lines name source files of ITK; the message comes last. Addresses change from run to run.
        said = str(error).split("ERROR:")[-1].replace(str(path), path.name)
        return " ".join(re.sub(r"\(0x[0-9a-f]+\)", "", said).split())[:200]
    size, count = reader.GetSize(), len(reader.GetSize())
    affine = np.eye(4)
    if count >= 3:
        directions = np.array(reader.GetDirection()).reshape(count, count)[:3, :3]
        affine[:3, :3] = directions * np.array(reader.GetSpacing()[:3])
        affine[:3, 3] = reader.GetOrigin()[:3]
    affine = _LPS_TO_RAS @ affine
    ours = header.affines.get("header", affine)
    if count >= 3 and (tuple(size[:3]) != header.shape[:3] or corner_distance(ours, affine, header.shape) > 1e-3):
        spacing = triple(reader.GetSpacing()[:3])
        return (
            f"it finds {'x'.join(map(str, size))} voxels of {spacing} mm, at another place than the header's text says"
        )
    return ""


def without_data_file(head: bytes) -> bytes:
    """Return a NRRD header whose voxels would follow it: ITK looks for a data file even where it reads no voxels."""
    return re.sub(rb"(?im)^data ?file:[^\n]*\n?", b"", head).rstrip(b"\r\n") + b"\n\n"


def _vector(text: str) -> list[float]:
    return [float(part) for part in text.strip("() ").split(",")]


def _numbers(fields: dict[str, str], key: str, kind: type, default: list[Any] | None = None) -> tuple[Any, ...]:
    if key not in fields:
        if default is not None:
            return tuple(default)
        msg = f"a header without {key}"
        raise ValueError(msg)
    values = tuple(kind(part) for part in fields[key].split())
    if kind is int and (not values or min(values) < 1):
        msg = f"a header with {key} {fields[key]!r}"
        raise ValueError(msg)
    return values


def _shape(fields: dict[str, str], count: str, sizes: str) -> tuple[int, ...]:
    """Return the shape; two fields that disagree about it make ITK read outside its memory."""
    shape = _numbers(fields, sizes, int)
    if _numbers(fields, count, int) != (len(shape),):
        msg = f"a header with {count} {fields[count]!r}, but {sizes} {fields[sizes]!r}"
        raise ValueError(msg)
    return shape


def _first(fields: dict[str, str], keys: tuple[str, ...], default: list[float]) -> tuple[float, ...]:
    key = next((key for key in keys if key in fields), keys[0])
    return _numbers(fields, key, float, default)


def _true(fields: dict[str, str], key: str, default: str = "False") -> bool:
    return fields.get(key, default).strip().lower() in ("true", "1")


def _type_name(dtype: np.dtype[Any] | None, kind: str, per_voxel: int) -> str:
    if per_voxel != 1:
        return f"{per_voxel} values per voxel"
    return dtype.name if dtype is not None else kind or "unknown type"

"""The NIfTI-1 header, read from its 348 bytes alone.

The image libraries repair or refuse a header without saying what was in it; the checks need what is stored.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from nnunet_spine_ext.check.facts import Header
from nnunet_spine_ext.core.volume import Array

HEADER_BYTES = 348
NIFTI2_BYTES = 540
_XFORM_CODES = range(6)
_UNITS = {1: "m", 2: "mm", 3: "um"}

# DT_* codes of nifti1.h: those with one plain number per voxel, and names of those without.
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {
    1: "bool (one bit)",
    32: "complex64",
    128: "RGB colour",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA colour",
}
# Single precision holds b² + c² + d² of the quaternion to about this; its first number is the root of the rest.
_QUATERNION_ROUNDING = 2.0**-23
# nibabel refuses a quaternion that is longer than one by more than rounding.
_QUATERNION_EXCESS = 3 * float(np.finfo(np.float32).eps)


def byte_order(head: bytes) -> str | None:
    """Return ``<`` or ``>`` if the bytes begin a NIfTI-1 or Analyze header, else None."""
    if len(head) < HEADER_BYTES:
        return None
    return next((order for order in "<>" if struct.unpack(f"{order}i", head[:4])[0] == HEADER_BYTES), None)


def is_nifti1(head: bytes) -> bool:
    """Whether the bytes begin a single-file NIfTI-1 image."""
    return byte_order(head) is not None and head[344:348] == b"n+1\0"


def parse_nifti(head: bytes) -> Header:
    """Return the header of a single-file NIfTI-1 image.

    Parameters
    ----------
    head: at least the first 348 bytes, for which `is_nifti1` holds.

    Raises
    ------
    ValueError: the number of dimensions, a dimension or the voxel offset makes no sense.
    """
    order = byte_order(head) or "<"
    dim = struct.unpack(f"{order}8h", head[40:56])
    if not 1 <= dim[0] <= 7:
        msg = f"a header with {dim[0]} dimensions"
        raise ValueError(msg)
    shape = tuple(dim[1 : dim[0] + 1])
    if min(shape) < 1:
        msg = f"a header with the shape {'x'.join(map(str, shape))}"
        raise ValueError(msg)
    datatype = struct.unpack(f"{order}h", head[70:72])[0]
    pixdim = struct.unpack(f"{order}8f", head[76:108])
    offset, slope, inter = struct.unpack(f"{order}3f", head[108:120])
    if not (math.isfinite(offset) and HEADER_BYTES + 4 <= offset < 2**31):
        msg = f"a header that puts the voxels at byte {offset:g}"
        raise ValueError(msg)
    return Header(
        format="NIfTI-1",
        shape=shape,
        dtype=np.dtype(order + _TYPES[datatype]) if datatype in _TYPES else None,
        type_name=_type_name(datatype),
        offset=int(offset),
        pixdim=pixdim[1:4],
        unit=_UNITS.get(head[123] & 7, ""),
        slope=slope,
        inter=inter,
        **_geometry(head, order, pixdim, shape),
    )


def _type_name(datatype: int) -> str:
    if datatype in _TYPES:
        return np.dtype(_TYPES[datatype]).name
    return _OTHER_TYPES.get(datatype, f"unknown type {datatype}")


def _geometry(head: bytes, order: str, pixdim: tuple[float, ...], shape: tuple[int, ...]) -> dict[str, Any]:
    # nibabel takes codes that the standard does not know for 0.
    qform_code, sform_code = (
        code if code in _XFORM_CODES else 0 for code in struct.unpack(f"{order}2h", head[252:256])
    )
    quaternion = struct.unpack(f"{order}6f", head[256:280])
    sform = np.eye(4)
    sform[:3] = np.array(struct.unpack(f"{order}12f", head[280:328])).reshape(3, 4)
    affines: dict[str, Array] = {"sform": sform} if sform_code > 0 else {}
    tolerance, why = 0.0, ""
    if qform_code > 0:
        qform, tolerance, why = _qform(quaternion, pixdim)
        if qform is not None:
            affines["qform"] = qform
    fallback = _assumed(pixdim, shape) if not affines and not why else None
    return {"affines": affines, "fallback": fallback, "qform_tolerance": tolerance, "bad_qform": why}


def _qform(quaternion: tuple[float, ...], pixdim: tuple[float, ...]) -> tuple[Array | None, float, str]:
    """Affine of the qform, the angle (radians) by which rounding may have turned it, and why there is none."""
    b, c, d, *origin = quaternion
    square = 1.0 - (b * b + c * c + d * d)
    if not (math.isfinite(square) and all(map(math.isfinite, origin))):
        return None, 0.0, "numbers that are not finite"
    if square < -_QUATERNION_EXCESS:
        return None, 0.0, f"a quaternion of length {math.sqrt(1 - square):.4f}, which is no rotation"
    a = math.sqrt(square) if square > _QUATERNION_EXCESS else 0.0
    # The first number follows from the others: where it is small, their rounding is magnified.
    tolerance = 2 * (max(a, math.sqrt(_QUATERNION_ROUNDING)) - math.sqrt(max(0.0, square - _QUATERNION_ROUNDING)))
    length = a * a + b * b + c * c + d * d
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = np.array(pixdim[1:4])
    if pixdim[0] < 0:
        sizes[2] = -sizes[2]
    affine = np.eye(4)
    affine[:3, :3] = rotation / length * sizes
    affine[:3, 3] = origin
    # Exact quarter and half turns have no rounding to allow for.
    exact = all(abs(v) in (0.0, 0.5, 1.0) for v in (b, c, d))
    return affine, 0.0 if exact else tolerance, ""


def _assumed(pixdim: tuple[float, ...], shape: tuple[int, ...]) -> Array:
    """Affine without any code, as nibabel (and so nnU-Net) assumes it: x to the left, the centre at the origin."""
    size = (*shape, 1, 1)[:3]
    affine = np.diag([-pixdim[1], pixdim[2], pixdim[3], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return affine

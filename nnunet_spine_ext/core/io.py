"""Checked reading and atomic writing.

Everything that is written goes through `atomic_path`: a temporary file in the same folder, fsync, replace. A file
under its final name is therefore always complete. gzip members carry no time stamp and no name: equal content gives
equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import GRID_TOLERANCE_MM, Array, Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Measured on spine images of 9 and 11 MB: a quarter of the time of level 6, files 0.6 and 1.8 % larger.
_GZIP_LEVEL = 4
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when it was opened; `sha256` is of the bytes that were read then, nothing if it was not."""

    path: Path
    size: int
    mtime_ns: int
    sha256: str


def strip_suffix(path: str | Path) -> str:
    """Return the file name without its image suffix: ``a/b.nii.gz`` gives ``b``; other names stay whole."""
    name = Path(path).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_image(path: str | Path) -> bool:
    """Whether the name ends like a volume that `read_volume` reads."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def read_volume(path: str | Path) -> Volume:
    """Read a 3-D NIfTI (.nii, .nii.gz) or ITK (.mha, .mhd, .nrrd) file.

    The array keeps the stored integer type (in native byte order) when no scaling applies, else it is float32. A
    trailing axis of length one is dropped. The affine follows the sform when its code is set, else the qform, else the
    voxel sizes (nibabel's rule); `check.images.inspect` reports when they disagree.

    Raises
    ------
    CaseError: missing file, unreadable or truncated content, more than one volume, colour or complex voxels.
    """
    path = Path(path)
    if not path.is_file():
        raise CaseError(
            "E-IN-MISSING", file=path, found="no such file", expected="an image", fix="check the path and its spelling"
        )
    name = path.name.lower()
    if not name.endswith(IMAGE_SUFFIXES):
        raise CaseError(
            "E-IN-FORMAT",
            file=path,
            found=f"a name ending in {path.suffix or 'nothing'!r}",
            expected=f"one of {', '.join(IMAGE_SUFFIXES)}",
            fix="convert the file, for example with SimpleITK",
        )
    return _read_nifti(path) if name.endswith(NIFTI_SUFFIXES) else _read_itk(path)


def _read_nifti(path: Path) -> Volume:
    return stored_volume(path, *nifti_content(path))


def nifti_content(path: Path) -> tuple[Array, Array]:
    """Return the voxels of a NIfTI as they are stored, with any number of axes, and its affine to RAS+ millimetres.

    Where one volume is expected `read_volume` is to be preferred, which checks both; `write_volumes` writes several.

    Raises
    ------
    CaseError: no such file, unreadable or truncated content.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    unreadable = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)
    try:
        image = nib.Nifti1Image.from_bytes(_bytes_of(path))
        array = np.asanyarray(image.dataobj)
    except unreadable as error:
        raise _unreadable(path, error) from error
    except (MemoryError, OverflowError) as error:
        # Four damaged bytes in the header ask for petabytes; a real volume that large fits nowhere either.
        raise _unreadable(path, ValueError("larger than the memory")) from error
    affine = image.affine
    if affine is None:
        raise _unreadable(path, ValueError("no affine"))
    return array, np.asarray(affine, dtype=np.float64)


def _bytes_of(path: Path) -> bytes:
    """Whole content, decompressed by its magic bytes (a .nii called .nii.gz is common)."""
    raw = path.read_bytes()
    if raw[:2] != _GZIP_MAGIC:
        return raw
    parts = []
    while raw[:2] == _GZIP_MAGIC:
        member = zlib.decompressobj(31)
        parts.append(member.decompress(raw))
        if not member.eof:
            msg = "compressed data end early"
            raise EOFError(msg)
        # What follows and is no further member is ignored, as ITK and nibabel do; the gatekeeper warns of it.
        raw = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _read_itk(path: Path) -> Volume:
    import SimpleITK as sitk  # noqa: N813

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        found = f"{image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()} values per voxel"
        raise CaseError(
            "E-IN-DIM", file=path, found=found, expected="one 3-D volume", fix="save each volume to a file of its own"
        )
    affine = np.eye(4)
    directions = np.asarray(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return stored_volume(path, sitk.GetArrayFromImage(image).transpose(2, 1, 0), _LPS_TO_RAS @ affine)


def stored_volume(path: Path, array: Array, affine: Array) -> Volume:
    """Return what a file stores as `read_volume` would: three axes, native byte order, at most single precision.

    Raises CaseError for complex or structured voxels, more than one volume, and an affine that is none.
    """
    if array.dtype.kind in "cV" or array.dtype.names:
        raise CaseError(
            "E-IN-DTYPE",
            file=path,
            found=f"voxels of type {array.dtype}",
            expected="one real number per voxel",
            fix="save magnitude or grey values",
        )
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise CaseError(
            "E-IN-DIM",
            file=path,
            found=f"an array of shape {array.shape}",
            expected="one 3-D volume",
            fix="save each volume to a file of its own",
        )
    # Torch and SimpleITK refuse foreign byte orders; nobody needs more than single precision.
    native = array.dtype.newbyteorder("=")
    array = array.astype(np.float32 if native.kind == "f" and native.itemsize > 4 else native, copy=False)
    try:
        return Volume(np.ascontiguousarray(array), affine)
    except ValueError as error:
        raise CaseError(
            "E-GEOM-AFFINE",
            file=path,
            found=str(error),
            expected="a finite, invertible affine",
            fix="repair the header (sform, qform, pixdim)",
        ) from error


def _unreadable(path: Path, error: Exception) -> CaseError:
    return CaseError(
        "E-IN-UNREADABLE",
        file=path,
        found=f"cannot be read ({type(error).__name__}: {error})",
        expected="a complete image file",
        fix="copy or download the file again",
    )


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, else removed.

    The temporary name starts with a dot and ends in `path`'s own suffix, so format writers accept it (.mhd: in .mha,
    because ITK would put the voxels of an .mhd into a second file, named after the temporary one).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = next((s for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), path.suffix).replace(".mhd", ".mha")
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp creates private files; results get the permissions any other new file would have.
        temporary.chmod(0o666 & ~umask())
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """Return which permissions new files and folders of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume as .nii.gz, .nii, .mha, .mhd or .nrrd; booleans become uint8, int64 the smallest type that fits.

    NIfTI files carry sform and qform (code 1) of the volume's affine, units mm, no description. A qform cannot hold
    shear and holds rotations near 180 degrees badly: where it would contradict the sform, only the sform is written.
    An .mhd holds its voxels itself, as an .mha does: one file appears at once, two cannot.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        write_bytes(path, _nifti_bytes(volume, compress=name.endswith(".gz")))
    elif name.endswith(ITK_SUFFIXES):
        _write_itk(volume, path)
    else:
        msg = f"{path}: cannot write this suffix; use one of {', '.join(IMAGE_SUFFIXES)}"
        raise ValueError(msg)


def write_volumes(volumes: Sequence[Volume], path: str | Path) -> None:
    """Write volumes on one grid as one NIfTI: 3-D if it is one volume, else 4-D (i, j, k, volume).

    Raises ValueError for no volume, for grids that differ, and for a file name that is not NIfTI's.
    """
    path = Path(path)
    if not volumes or any(not volumes[0].same_grid(volume) for volume in volumes):
        msg = f"{path}: one file holds volumes of one grid, got shapes {[v.shape for v in volumes]}"
        raise ValueError(msg)
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        msg = f"{path}: several volumes go into one of {', '.join(NIFTI_SUFFIXES)}"
        raise ValueError(msg)
    stacked = None if len(volumes) == 1 else np.stack([volume.array for volume in volumes], axis=-1)
    write_bytes(path, _nifti_bytes(volumes[0], compress=path.name.lower().endswith(".gz"), stacked=stacked))


def _storable(array: Array) -> Array:
    if array.dtype == np.bool_ or array.dtype == np.float16:
        return array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
    if array.dtype in (np.int64, np.uint64):
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        for dtype in (np.uint8, np.int16, np.uint16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return array.astype(dtype)
    return array


def _nifti_bytes(volume: Volume, *, compress: bool, stacked: Array | None = None) -> bytes:
    """Return a file with the grid of a volume; `stacked` (i, j, k, n) goes in place of its voxels."""
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError

    array = _storable(volume.array if stacked is None else stacked)
    image = nib.Nifti1Image(array, volume.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    try:
        image.set_qform(volume.affine, code=1, strip_shears=False)
        # Quaternions are stored in single precision without their real part, which near 180 degrees is lost: readers
        # that follow the qform would be off by up to 0.2 mm.
        stored = [Volume(volume.array, read()) for read in (image.get_qform, image.get_sform)]
        agree = stored[0].same_grid(stored[1], GRID_TOLERANCE_MM / 10)
    except HeaderDataError:
        agree = False
    if not agree:
        image.set_qform(None, code=0)
    content = image.to_bytes()
    return gzip.compress(content, _GZIP_LEVEL, mtime=0) if compress else content


def _write_itk(volume: Volume, path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(_storable(volume.array).transpose(2, 1, 0)))
    affine = _LPS_TO_RAS @ volume.affine
    image.SetSpacing(volume.spacing)
    image.SetDirection((affine[:3, :3] / np.asarray(volume.spacing)).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically as UTF-8 with Unix line ends."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, content: Any, *, indent: int | None = 2) -> None:
    """Write JSON atomically; see `json_text`."""
    write_text(path, json_text(content, indent=indent) + "\n")


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return content as JSON; numpy scalars and arrays and paths are accepted, NaN is not (it is not JSON).

    Raises TypeError or ValueError for what cannot be written.
    """
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    msg = f"{type(value).__name__} is not JSON"
    raise TypeError(msg)


def read_json(path: str | Path) -> Any:
    """Read JSON; raises CaseError naming the file when it is missing or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CaseError(
            "E-IN-JSON", file=path, found=f"cannot be read ({error})", expected="a JSON file", fix="restore the file"
        ) from error


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""What can be wrong with a file before its content is looked at, and what the first bytes say it is."""

from __future__ import annotations

import difflib
import os
import stat
from itertools import islice
from pathlib import Path

from nnunet_spine_ext.check.itk_header import is_meta, is_nrrd
from nnunet_spine_ext.check.nifti_header import HEADER_BYTES, NIFTI2_BYTES, byte_order, is_nifti1
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.core.errors import Problem

_ANNEX_FIX = "run `git annex get` on it, in the data set's folder"
_LFS_FIX = "run `git lfs pull` in the data set's folder"
_MAX_NAMES = 10_000

# What a file that is no image begins with: name and remedy.
_FOREIGN = (
    (b"\x89PNG", "a PNG picture", "give the volume, not a picture of it"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the volume, not a picture of it"),
    (b"%PDF", "a PDF document", "give the volume itself"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x89HDF", "an HDF5 file (MINC?)", "convert it to .nii.gz, for example with mnc2nii"),
    (b"BZh", "bzip2 data", "unpack it first with bunzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it first with unzstd"),
)


def check_path(path: Path) -> Problem | None:
    """Return what keeps a path from being opened as a regular, non-empty file; None if nothing does."""
    try:
        link = path.is_symlink()
        status = path.stat()
    except PermissionError:
        return finding("E-IN-PERMISSION", path, "its folder may not be entered", hint="ask for the permission, or copy")
    except (FileNotFoundError, NotADirectoryError):
        return _dangling(path) if _is_link(path) else _missing(path)
    except (OSError, ValueError) as error:
        # A link that points at itself, a name longer than file systems allow, a NUL character.
        reason = getattr(error, "strerror", None) or str(error)
        return finding("E-IN-MISSING", str(path)[:300], f"no file can have this path ({reason})")
    if stat.S_ISDIR(status.st_mode):
        return finding("E-IN-FORMAT", path, "a folder", hint="name the file in it")
    if not stat.S_ISREG(status.st_mode):
        return finding("E-IN-FORMAT", path, "a pipe, socket or device", hint="save it as a file first")
    if status.st_size == 0:
        return finding("E-IN-EMPTY", path, "a link to a file of 0 bytes" if link else "0 bytes")
    if not os.access(path, os.R_OK):
        return unreadable(path)
    return None


def unreadable(path: Path) -> Problem:
    """Return the finding for a file that may not be opened."""
    return finding("E-IN-PERMISSION", path, "this user may not read it", hint=f"chmod u+r, or ask {_owner(path)}")


def pointer(path: Path, head: bytes) -> Problem | None:
    """Return the finding for a text that stands in for the file (git-lfs, unlocked git-annex); None for content."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return finding("E-IN-POINTER", path, "a git-lfs pointer (the content was not fetched)", hint=_LFS_FIX)
    if head.lstrip().startswith(b"/annex/objects/"):
        return finding("E-IN-POINTER", path, "a git-annex pointer (the content was not fetched)", hint=_ANNEX_FIX)
    return None


def foreign(path: Path, head: bytes) -> Problem | None:
    """Return the finding for (decompressed) content that is no image of a known format; None if it may be one."""
    if is_nifti1(head) or is_meta(head) or is_nrrd(head):
        return None
    found, hint = _identify(head)
    return finding("E-IN-FORMAT", path, found, hint=hint)


def _identify(head: bytes) -> tuple[str, str]:
    for magic, name, hint in _FOREIGN:
        if head.startswith(magic):
            return name, hint
    if head[128:132] == b"DICM":
        return "a DICOM file", "convert the series with dcm2niix"
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it first"
    if len(head) >= 4 and int.from_bytes(head[:4], "little") == NIFTI2_BYTES:
        return "a NIfTI-2 image", "convert it to NIfTI-1, for example with nibabel.Nifti1Image.from_image"
    if byte_order(head) is not None:
        pair = head[344:347] == b"ni1"
        return "the header of a .hdr/.img pair" if pair else "an Analyze 7.5 header", "convert it to .nii.gz"
    start = head[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page (an error or login page saved under this name?)", "download the file again"
    if _is_text(head[:512]):
        first = head[:60].decode("utf-8", errors="replace").splitlines()
        return f"text beginning {(first or [''])[0][:40]!r}", "give the image itself"
    if len(head) < HEADER_BYTES:
        return f"{len(head)} bytes, fewer than a NIfTI header has", "copy or download the file again"
    return f"bytes of an unknown kind ({head[:4].hex(' ')} …)", "copy or download the file again, or convert it"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character that the end of the block cuts in two is still text.
        if error.start < len(head) - 4 or not error.start:
            return False
        text = head[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter in "\r\n\t\f" for letter in text)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False


def _dangling(path: Path) -> Problem:
    target = str(path.readlink())
    if "annex/objects" in target.replace("\\", "/"):
        return finding("E-IN-POINTER", path, "a git-annex link whose content was not fetched", hint=_ANNEX_FIX)
    return finding(
        "E-IN-POINTER", path, f"a link to {target}, which does not exist", hint="restore that file or correct the link"
    )


def _missing(path: Path) -> Problem:
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        inside = path.relative_to(folder).parts[0]
        near = _near(folder, inside)
        return finding("E-IN-MISSING", path, f"no folder {inside!r} in {folder}", hint=near)
    return finding("E-IN-MISSING", path, "no such file", hint=_near(folder, path.name))


def _near(folder: Path, name: str) -> str:
    try:
        names = sorted(entry.name for entry in islice(os.scandir(folder), _MAX_NAMES))
    except OSError:
        return ""
    lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    return f"; the nearest names in {folder} are {', '.join(lower[c] for c in close)}" if close else ""


def _owner(path: Path) -> str:
    try:
        return f"its owner {path.owner()}"
    except (OSError, KeyError, NotImplementedError):
        return "its owner"

"""The gatekeeper: one pass over a file that finds what nnU-Net's readers let pass or refuse without a name.

nnU-Net's default reader fills a truncated file with zeros, turns NaN into 0 and reads colour as channels; its other
readers fail without naming the file. `inspect` reads the header itself and streams the voxels once, in bounded memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nnunet_spine_ext.check.facts import ROLES, Header, ImageFacts, Role, empty_grid, plane_of
from nnunet_spine_ext.check.files import check_path, foreign, pointer, unreadable
from nnunet_spine_ext.check.geometry import Prefer, check_geometry
from nnunet_spine_ext.check.gzip_stream import ByteStream, OneRead
from nnunet_spine_ext.check.intensities import check_scaling, check_values
from nnunet_spine_ext.check.itk_header import (
    MAX_TEXT,
    TextHeader,
    is_meta,
    is_nrrd,
    itk_objection,
    parse_meta,
    parse_nrrd,
)
from nnunet_spine_ext.check.nifti_header import parse_nifti
from nnunet_spine_ext.check.rules import finding
from nnunet_spine_ext.check.voxels import scan
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, NIFTI_SUFFIXES

_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI = "a NIfTI image"
# What the content is, the suffix it should have, the suffixes under which it can be read.
_KINDS = {
    "nifti": (_NIFTI, ".nii", NIFTI_SUFFIXES),
    "meta": ("a MetaImage", ".mha", (".mha", ".mhd")),
    "nrrd": ("a NRRD image", ".nrrd", (".nrrd",)),
}
# Bytes after the last voxel are counted up to here: a file cannot keep the gatekeeper busy for ever.
_MAX_TRAILING = 64 << 20


def inspect(
    path: str | Path, *, role: Role = "image", strict: bool = False, prefer: Prefer | None = None
) -> ImageFacts:
    """Look at a NIfTI, MetaImage or NRRD file once, from the first byte to the last.

    Parameters
    ----------
    role: what the file is for. ``image``: prediction input, NaN is a warning; ``training``: NaN is an error;
        ``label``: a mask, with whole numbers from 0.
    strict: make every warning an error (the code stays).
    prefer: the form to follow where qform and sform disagree; without it that is an error.

    Returns
    -------
    The facts with all problems. Nothing that is wrong with the file is raised: see `ImageFacts.raise_errors`.

    Raises
    ------
    UsageError: unknown role or form.
    """
    check_options(role, prefer)
    facts = Inspection(Path(path), role, prefer).run()
    return hardened(facts) if strict else facts


def hardened(facts: ImageFacts) -> ImageFacts:
    """Return the facts with every warning turned into an error (the code stays)."""
    return replace(facts, problems=[replace(problem, severity="error") for problem in facts.problems])


def check_options(role: str, prefer: str | None) -> None:
    """Raise UsageError for an unknown role or form."""
    known = {"role": (role, ROLES), "prefer": (prefer, ("sform", "qform", None))}
    for name, (value, choices) in known.items():
        if value not in choices:
            fix = nearest(str(value), [str(choice) for choice in choices if choice])
            raise UsageError("E-CHECK-OPTION", file=name, found=repr(value), expected="a known choice", fix=fix)


class Inspection:
    """The state of one look at one file. A subclass may keep what passes by: see `opening`."""

    digest = False

    def __init__(self, path: Path, role: Role, prefer: Prefer | None) -> None:
        self.path = path
        self.role: Role = role
        self.prefer = prefer
        self.facts = ImageFacts(path, role)

    def run(self) -> ImageFacts:
        """Go from the outside of the file to its voxels; stop where going on makes no sense."""
        problem = check_path(self.path)
        if problem is not None:
            self._emit(problem)
            return self.facts
        try:
            with self.path.open("rb") as file:
                source = OneRead(file, digest=self.digest)
                self._open(source)
                self._leave(self.path, source)
        except PermissionError:
            self._emit(unreadable(self.path))
        except OSError as error:
            reason = error.strerror or str(error)
            self._emit(finding("E-IN-UNREADABLE", self.path, f"the system says: {reason}", hint="check the disk"))
        return self.facts

    def _emit(self, problem: Problem) -> None:
        self.facts.problems.append(problem)

    def _report(self, code: str, found: str, *, hint: str = "") -> None:
        self._emit(finding(code, self.path, found, hint=hint))

    def _leave(self, path: Path, source: OneRead) -> None:
        """Take leave of a file that was read as far as its content is of interest."""

    def _tap(self, header: Header, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the bytes of the voxels on."""
        return blocks

    def _objection(self, head: bytes, text: TextHeader) -> str:
        """Why ITK refuses the text header, or reads it otherwise; nothing if it does not."""
        return itk_objection(self.path, text.header)

    def _open(self, source: OneRead) -> None:
        compressed = source.peek(2) == _GZIP_MAGIC
        stream = ByteStream(source, "gzip" if compressed else "none")
        head = stream.peek(MAX_TEXT) if compressed else source.peek(MAX_TEXT)
        problem = pointer(self.path, head) or foreign(self.path, head)
        if problem is not None and stream.fault:
            self._report_fault(stream)
        elif problem is not None:
            self._emit(problem)
        elif self._name_fits(head, compressed):
            if is_meta(head) or is_nrrd(head):
                self._read_text_format(head, source)
            else:
                self._read_nifti(head, stream)

    def _name_fits(self, head: bytes, compressed: bool) -> bool:
        """Report a name that does not fit the content; whether `read_volume` can read the file all the same."""
        name = self.path.name.lower()
        suffix = next((s for s in IMAGE_SUFFIXES if name.endswith(s)), "")
        content, right, others = _KINDS["meta" if is_meta(head) else "nrrd" if is_nrrd(head) else "nifti"]
        if content == _NIFTI:
            right = ".nii.gz" if compressed else ".nii"
        elif compressed:
            self._report("E-IN-FORMAT", f"{content} inside gzip", hint="unpack it with gunzip first")
            return False
        if suffix not in others:
            ending = f"a name ending in {suffix or self.path.suffix or 'no suffix'}"
            self._report("E-IN-FORMAT", f"{content} under {ending}", hint=f"rename it to end in {right}")
            return False
        if content == _NIFTI and suffix != right:
            state = "gzip-compressed" if compressed else "not compressed"
            self._report("W-IN-SUFFIX", f"a name ending in {suffix}, but the content is {state}", hint=right)
        return True

    def _read_nifti(self, head: bytes, stream: ByteStream) -> None:
        try:
            header = parse_nifti(head)
        except ValueError as error:
            self._report("E-IN-FORMAT", str(error), hint="convert the image again; its header is damaged")
            return
        self._describe(header)
        self._read_voxels(header, stream)

    def _read_text_format(self, head: bytes, source: OneRead) -> None:
        try:
            text = (parse_nrrd if is_nrrd(head) else parse_meta)(head, self.path)
        except ValueError as error:
            self._report("E-IN-FORMAT", str(error), hint="write it again as one binary .mha or .nii.gz")
            return
        self._describe(text.header)
        target = text.data_file or self.path
        problem = check_path(target)
        if problem is not None:
            self._emit(replace(problem, file=str(self.path), found=f"its data file {target.name}: {problem.found}"))
            return
        if not self.facts.problems and (reason := self._objection(head, text)):
            self._report("E-IN-UNREADABLE", f"ITK does not read it ({reason})", hint="write it again with SimpleITK")
        elif text.data_file is None:
            self._read_data(text, source)
        else:
            with target.open("rb") as file:
                data = OneRead(file, digest=self.digest)
                self._read_data(text, data)
                self._leave(target, data)

    def _read_data(self, text: TextHeader, source: OneRead) -> None:
        size = source.status.st_size
        source.skip_to(max(0, size - text.header.byte_count) if text.from_end else text.start)
        available, stream = source.left(), ByteStream(source, text.compression)
        self._read_voxels(text.header, stream)
        if text.compression == "zlib" and self.facts.ok:
            self._check_packed_size(text, available, available - stream.behind)

    def _check_packed_size(self, text: TextHeader, available: int, used: int) -> None:
        """ITK reads as many compressed bytes as a MetaImage announces, and makes noise of what it gets."""
        announced = text.packed_size
        if announced > available:
            self._report("E-IN-TRUNCATED", f"{available} of {announced} compressed bytes")
        elif announced < used and (announced >= 0 or text.data_file is None):
            said = "without CompressedDataSize" if announced < 0 else f"with CompressedDataSize {announced}"
            found = f"a header {said} for {used} compressed bytes (ITK would read noise)"
            self._report("E-IN-UNREADABLE", found, hint="write it again with SimpleITK, from a copy that is right")

    def _describe(self, header: Header) -> None:
        """Check what the header says and keep it."""
        shape = header.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        self.facts = replace(self.facts, format=header.format, shape=shape, dtype=header.type_name)
        if header.dtype is None:
            self._report("E-IN-DTYPE", f"voxels of type {header.type_name}")
        self._check_shape(header, shape)
        if len(shape) < 3:
            return
        affine = check_geometry(self.path, header, shape[:3], prefer=self.prefer, emit=self._emit)
        if affine is not None:
            grid = empty_grid(shape[:3], affine)
            plane = plane_of(grid.spacing, grid.orientation)
            self.facts = replace(
                self.facts, affine=affine, spacing=grid.spacing, orientation=grid.orientation, plane=plane
            )
        check_scaling(self.path, header, self._emit)

    def _check_shape(self, header: Header, shape: tuple[int, ...]) -> None:
        size = "x".join(map(str, header.shape))
        if len(shape) > 3:
            volumes = math.prod(shape[3:])
            self._report("E-IN-DIM", f"{len(shape)} dimensions with {volumes} volumes ({size})")
        elif len(shape) < 3 or min(shape) == 1:
            self._report("E-IN-2D", f"the shape {size}")
        elif len(header.shape) > 3:
            self._report("W-IN-4D", f"{len(header.shape)} dimensions with one volume ({size})")

    def _read_voxels(self, header: Header, stream: ByteStream) -> None:
        """Stream to the end: statistics, then what is missing, damaged or too much."""
        stream.skip(header.offset)
        voxels = None
        if header.dtype is not None:
            blocks = stream.blocks(header.byte_count)
            voxels = scan(self._tap(header, blocks), header.dtype, scaling=header.scaling, ids=self.role == "label")
            self.facts = replace(self.facts, voxels=voxels)
        got, expected = stream.total, header.offset + header.byte_count
        extra = stream.skip(_MAX_TRAILING)
        if stream.fault in ("checksum", "damaged"):
            self._report_fault(stream)
        elif header.dtype is None:
            if stream.fault:
                self._report_fault(stream)
        elif got < expected:
            share = f"{100 * got / expected:.0f} %"
            self._report("E-IN-TRUNCATED", f"{got} of {expected} bytes ({share}) of header and voxels")
        elif stream.fault:
            self._report_fault(stream)
        else:
            if extra or stream.trailing:
                self._report("W-IN-TRAILING", f"{extra + stream.trailing} bytes after the end of the image")
            if voxels is not None:
                check_values(self.path, header, voxels, self.role, self._emit)

    def _report_fault(self, stream: ByteStream) -> None:
        if stream.fault == "truncated":
            self._report("E-IN-TRUNCATED", f"compressed data that end before their checksum ({stream.total} bytes)")
        elif stream.fault == "checksum":
            self._report("E-IN-CRC", "compressed data that do not match their checksum")
        else:
            self._report("E-IN-CRC", f"damaged compressed data ({stream.detail}) behind byte {stream.total}")

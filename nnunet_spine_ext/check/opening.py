"""One read of a source file: its SHA-256, what the gatekeeper says about it, and the volume.

The bytes pass by once: they are hashed as they are stored, decompressed, looked at, and kept. No more is decompressed
than the header announces (and a bounded look at what follows), and memory is filled only with bytes that arrive.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.check.facts import Header, ImageFacts, Role
from nnunet_spine_ext.check.geometry import Prefer
from nnunet_spine_ext.check.gzip_stream import OneRead
from nnunet_spine_ext.check.images import Inspection, check_options, hardened
from nnunet_spine_ext.check.itk_header import TextHeader, is_nrrd, itk_objection, without_data_file
from nnunet_spine_ext.core.io import FileStamp, stored_volume
from nnunet_spine_ext.core.volume import Array, Volume

# Errors about what a mask means: its voxels are intact, and whoever maps them can say more.
_READABLE = ("E-LABEL-VALUE",)


@dataclass(frozen=True)
class Opened:
    """One source, read once.

    Parameters
    ----------
    facts: what the gatekeeper found, as `images.inspect` gives it.
    volume: as `core.io.read_volume` gives it, on ``facts.affine`` (so that `prefer` is followed); None when an error
        keeps it from being used. A mask whose only fault is E-LABEL-VALUE has one: its values can be counted.
    sha256: of the file; nothing if it has an error, because it is then not read to its end.
    stamps: the files that were read: this one and, for a text header with a data file of its own, that file.
    """

    facts: ImageFacts
    volume: Volume | None
    sha256: str
    stamps: tuple[FileStamp, ...] = ()


def open_image(path: str | Path, *, role: Role = "image", strict: bool = False, prefer: Prefer | None = None) -> Opened:
    """Read a NIfTI, MetaImage or NRRD file once; see `images.inspect` for the parameters.

    Nothing that is wrong with the file is raised: ``facts.problems`` holds it.

    Raises
    ------
    UsageError: unknown role or form.
    """
    check_options(role, prefer)
    reading = _Reading(Path(path), role, prefer)
    facts = reading.run()
    volume = reading.volume()
    own = next((stamp.sha256 for stamp in reading.stamps if stamp.path == reading.path), "")
    return Opened(hardened(facts) if strict else facts, volume, own, tuple(reading.stamps))


class _Reading(Inspection):
    """An inspection that keeps the voxels and the digests."""

    digest = True

    def __init__(self, path: Path, role: Role, prefer: Prefer | None) -> None:
        super().__init__(path, role, prefer)
        self.stamps: list[FileStamp] = []
        self._header: Header | None = None
        self._content: Array | None = None

    def run(self) -> ImageFacts:
        super().run()
        if self._header is not None and self._content is None and self._usable():
            found = f"{self._header.byte_count} bytes of voxels, more than the memory"
            self._report("E-IN-UNREADABLE", found, hint="crop it, or use a machine with more memory")
        return self.facts

    def volume(self) -> Volume | None:
        """Return the voxels that passed by; None if they cannot be used."""
        header, content, affine = self._header, self._content, self.facts.affine
        self._content = None
        if header is None or header.dtype is None or content is None or affine is None or not self._usable():
            return None
        stored = content.view(header.dtype).reshape(header.shape, order="F")
        array = stored if header.scaling is None else _scaled(stored, *header.scaling)
        return stored_volume(self.path, array, affine)

    def _usable(self) -> bool:
        return all(problem.code in _READABLE for problem in self.facts.errors)

    def _leave(self, path: Path, source: OneRead) -> None:
        digest = source.sha256() if self._usable() else ""
        if source.changed():
            self._report("E-IN-UNREADABLE", f"{path.name} changed while it was read", hint="wait until it is complete")
        self.stamps.append(FileStamp(path, source.status.st_size, source.status.st_mtime_ns, digest))

    def _tap(self, header: Header, blocks: Iterator[bytes]) -> Iterator[bytes]:
        self._header = header
        try:
            # Only pages that are written to take memory: a header that lies costs nothing.
            content = np.empty(header.byte_count, dtype=np.uint8)
        except (MemoryError, ValueError, OverflowError):
            yield from blocks
            return
        position = 0
        for block in blocks:
            content[position : position + len(block)] = np.frombuffer(block, dtype=np.uint8)
            position += len(block)
            yield block
        self._content = content

    def _objection(self, head: bytes, text: TextHeader) -> str:
        # ITK opens files by name; it gets a copy of the header, so that the file itself is opened once.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / self.path.name
            detached = text.data_file is not None and is_nrrd(head)
            copy.write_bytes(without_data_file(head) if detached else head)
            return itk_objection(copy, text.header)


def _scaled(stored: Array, slope: float, inter: float) -> Array:
    """Apply scl_slope and scl_inter in double precision, as nibabel does; plane by plane, to save memory."""
    result = np.empty(stored.shape, dtype=np.float32, order="F")
    for k in range(stored.shape[-1]):
        plane = stored[..., k].astype(np.float64)
        # Not `plane * 1 + 0`: that changes the sign of zeros.
        plane = plane * slope if slope != 1 else plane
        result[..., k] = plane + inter if inter != 0 else plane
    return result

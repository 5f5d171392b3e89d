"""Bytes of a file, read once and decompressed block by block in bounded memory, with what is wrong with them.

Python's gzip and ITK differ in what they let pass; here a stream that ends early, a wrong checksum and bytes after
the end are told apart, and a highly compressed file cannot fill the memory.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal

BLOCK = 1 << 20
_MAGIC = {"gzip": b"\x1f\x8b", "zlib": b"\x78"}
# zlib's window argument: 31 reads a gzip header and checks its CRC-32 and length, 15 a zlib header and its Adler-32.
_WINDOW = {"gzip": 31, "zlib": 15}

Compression = Literal["none", "gzip", "zlib"]
Fault = Literal["", "truncated", "checksum", "damaged"]


class OneRead:
    """A file that is read forwards, once.

    Parameters
    ----------
    file: opened for reading in binary mode, at its beginning.
    digest: take the SHA-256 of all bytes on the way; what is skipped is then read too.

    Attributes
    ----------
    status: of the file when it was opened.
    """

    def __init__(self, file: BinaryIO, *, digest: bool = False) -> None:
        self.status = os.fstat(file.fileno())
        self._file = file
        self._sum = hashlib.sha256() if digest else None
        self._ahead = b""
        self._position = 0

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes (fewer only at the end) and leave them to be read."""
        while len(self._ahead) < size and (piece := self._fetch(BLOCK)):
            self._ahead += piece
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none only at the end."""
        if self._ahead:
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            piece = self._fetch(size)
        self._position += len(piece)
        return piece

    def skip_to(self, position: int) -> None:
        """Go on at a byte that was not read yet."""
        if self._sum is None:
            self._file.seek(position)
            self._ahead, self._position = b"", position
        while self._position < position and self.read(min(BLOCK, position - self._position)):
            pass

    def changed(self) -> bool:
        """Whether somebody has written to the file since it was opened."""
        now = os.fstat(self._file.fileno())
        return (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns)

    def left(self) -> int:
        """Bytes up to the end of the file."""
        return max(0, os.fstat(self._file.fileno()).st_size - self._position)

    def sha256(self) -> str:
        """Read the rest of the file; return the SHA-256 of all its bytes as hex (nothing without `digest`)."""
        if self._sum is None:
            return ""
        while self.read(BLOCK):
            pass
        return self._sum.hexdigest()

    def _fetch(self, size: int) -> bytes:
        piece = self._file.read(size)
        if self._sum is not None:
            self._sum.update(piece)
        return piece


class ByteStream:
    """Read a file through an optional decompressor.

    Parameters
    ----------
    file: positioned where the (compressed) content begins.
    compression: of the content.

    Attributes
    ----------
    total: decompressed bytes handed out so far.
    fault, detail: why the content ended early; empty while all is well.
    trailing: bytes after the end of the compressed content that belong to nothing (zero padding is allowed by gzip).
    behind: all bytes after that end.
    """

    def __init__(self, file: OneRead, compression: Compression = "none") -> None:
        self.total = 0
        self.fault: Fault = ""
        self.detail = ""
        self.trailing = self.behind = 0
        self._file = file
        self._compression = compression
        self._engine = None if compression == "none" else zlib.decompressobj(_WINDOW[compression])
        self._input = b""
        self._ahead = b""
        self._ended = False

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes (fewer only at the end) and leave them to be read."""
        while len(self._ahead) < size and (piece := self._next()):
            self._ahead += piece
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        parts, missing = [], size
        while missing > 0:
            piece = self._ahead or self._next()
            if not piece:
                break
            parts.append(piece[:missing])
            self._ahead = piece[missing:]
            missing -= len(parts[-1])
        self.total += size - missing
        return b"".join(parts)

    def blocks(self, limit: int) -> Iterator[bytes]:
        """Yield the next bytes in blocks of at most `BLOCK`, `limit` bytes in all."""
        while limit > 0:
            block = self.read(min(BLOCK, limit))
            if not block:
                return
            limit -= len(block)
            yield block

    def skip(self, size: int) -> int:
        """Read over `size` bytes; return how many there were."""
        return sum(len(block) for block in self.blocks(size))

    def _next(self) -> bytes:
        """Return some decompressed bytes, nothing at the end."""
        if self._engine is None:
            return self._file.read(BLOCK)
        while not self._ended:
            at_end = False
            if not self._input:
                self._input = self._file.read(BLOCK)
                at_end = not self._input
            try:
                # The output is bounded; with all input taken there may still be output left inside.
                piece = self._engine.decompress(self._input, BLOCK)
            except zlib.error as error:
                self._stop(error)
                return b""
            self._input = self._engine.unconsumed_tail
            if self._engine.eof:
                self._after_end(self._engine.unused_data)
            elif at_end and not piece:
                self._ended, self.fault, self.detail = True, "truncated", "the compressed data end early"
            if piece:
                return piece
        return b""

    def _stop(self, error: zlib.error) -> None:
        self._ended = True
        wrong_sum = "data check" in str(error) or "length check" in str(error)
        self.fault = "checksum" if wrong_sum else "damaged"
        self.detail = str(error).split(": ")[-1]

    def _after_end(self, rest: bytes) -> None:
        """Go on with a further gzip member, or stop and count what is left."""
        self.behind = len(rest) + self._file.left()
        rest = rest.lstrip(b"\0")
        while len(rest) < 2 and (more := self._file.read(BLOCK)):
            rest = (rest + more).lstrip(b"\0")
        if self._compression == "gzip" and rest.startswith(_MAGIC["gzip"]):
            self._engine = zlib.decompressobj(_WINDOW["gzip"])
            self._input = rest
            return
        self._ended = True
        self.trailing = len(rest) + self._file.left() if rest else 0

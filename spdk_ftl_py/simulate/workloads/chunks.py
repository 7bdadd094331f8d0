"""A trace's file as chunks of whole lines, whatever compressed it, in bounded memory. Nothing in it is trusted."""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from ...errors import TraceError, UnsupportedError
from ...text import show_line

CHUNK_BYTES: Final = 1 << 20
LINE_BYTES_MAX: Final = 1 << 16
_ZSTD_SLICE_BYTES: Final = 1024
"""Of which zstd can make at most 32 MiB."""
_ZSTD_WINDOW_BYTES_MAX: Final = 1 << 27
"""More than this takes `zstd --long`, too."""
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BLKTRACE: Final = b"\x07tae"


def chunks(path: Path) -> Iterator[bytes]:
    """Chunks of about CHUNK_BYTES, each of which ends with the end of a line. An empty file has none.

    Raises TraceError if the file can't be read, ends before its compressed data do, has a line that is longer than
    LINE_BYTES_MAX, or is not text at all; UnsupportedError without the module that zstd needs.
    """
    try:
        with path.open("rb") as file:
            rest = b""
            for piece in _sized(_decompressed(path, file)):
                data = rest + piece
                end = data.rfind(b"\n") + 1
                if end:
                    yield data[:end]
                rest = data[end:]
                if len(rest) > LINE_BYTES_MAX:
                    raise TraceError(f"{shown(path)} has a line of more than {LINE_BYTES_MAX} bytes: it is no trace")
            if rest:
                yield rest + b"\n"
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{shown(path)} can't be read: {error}{_remedy(error)}") from None


def check(path: Path) -> bool:
    """Whether the file can be read twice.

    Raises TraceError for what is no file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise TraceError(f"{shown(path)} can't be read: {error.strerror or error}") from None
    if stat.S_ISDIR(mode):
        raise TraceError(f"{shown(path)} is a directory: name one file of it")
    return stat.S_ISREG(mode)


def shown(path: Path) -> str:
    """As it may stand in a message."""
    return show_line(str(path))


def _remedy(error: Exception) -> str:
    broken = isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile))
    return ": the file is cut off or damaged, fetch it again" if broken else ""


def _decompressed(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    # peek() is one of every file that is opened so, but not in the type.
    head: bytes = getattr(file, "peek")(8)[:8]  # noqa: B009
    if head.startswith(_GZIP):
        pieces = _read(gzip.GzipFile(fileobj=file))
    elif head.startswith(_ZSTD):
        pieces = _zstd(path, file)
    else:
        pieces = _read(file)
    first = next(pieces, b"")
    if first[257:262] == b"ustar":
        raise TraceError(f"{shown(path)} is a tar archive: take the trace out of it (tar -xf FILE)")
    if first.startswith(_BLKTRACE):
        raise TraceError(f"{shown(path)} is binary: make text of it (blkparse -i FILE -o TEXT)")
    if b"\0" in first:
        raise TraceError(f"{shown(path)} is not text (nor gzip or zstd): it is no trace")
    yield first
    yield from pieces


def _read(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _sized(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Neither much smaller nor larger than CHUNK_BYTES."""
    kept: list[bytes] = []
    size = 0
    for piece in pieces:
        for first in range(0, len(piece), CHUNK_BYTES):
            part = piece[first : first + CHUNK_BYTES]
            kept.append(part)
            size += len(part)
            if size >= CHUNK_BYTES:
                yield b"".join(kept)
                kept.clear()
                size = 0
    yield b"".join(kept)


def _zstd(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    begin, failed = _zstd_module(path)
    frame = None
    while piece := file.read(_ZSTD_SLICE_BYTES):
        while piece:
            frame = frame or begin()
            try:
                data = frame.decompress(piece)
            except failed as error:
                raise TraceError(f"{shown(path)} can't be read: {error}: the file is damaged, fetch it again") from None
            if data:
                yield data
            piece = b""
            if frame.eof:
                piece, frame = frame.unused_data, None
    if frame:
        raise EOFError("compressed file ended before the end-of-stream marker was reached")


def _zstd_module(path: Path) -> tuple[Callable[[], Any], type[Exception]]:
    """What begins a frame, and its error. Python has a module for it from 3.14 on."""
    try:
        from compression import zstd

        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_BYTES_MAX.bit_length() - 1}
        return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError as error:
        raise UnsupportedError(
            f"{shown(path)} is compressed with zstd, which needs zstandard (pip install 'spdk-ftl-py[traces]'): {error}"
        ) from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)
    return decompressor.decompressobj, zstandard.ZstdError

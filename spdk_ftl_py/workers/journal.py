"""A file of records that outlives whoever writes it: records are durable once append() has returned, and what a crash
has torn is dropped. The records of one append() are one line, so they are there all or none, in whatever order their
pages reach the disk. One process has the file at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ..errors import BusyError, FtlError

Record = dict[str, Any]

_MAGIC: Final = b"spdk-ftl journal 1\n"
_CRC_DIGITS: Final = 8


class Journal:
    """Opens the file, and creates it if it is missing. Raises FtlError, BusyError if another process has it open.

    ``header`` is the first record, ``records`` are the others that were there. What they say means something only if
    begin() has found the right header. A file that does not begin like a journal is left as it is.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        """Of messages: ``campaign``."""
        self.header: Record | None = None
        self.records: list[Record] = []
        self.dropped = 0
        """Bytes of torn records at the end of the file, which are gone."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise FtlError(f"{what} {path}: {error.strerror}: give a path that can be written") from error
        try:
            self._lock()
            self._read()
        except OSError as error:
            os.close(self._descriptor)
            raise FtlError(f"{what} {path}: {error.strerror}", errno=error.errno) from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def begin(self, header: Record, remedy: str) -> None:
        """Writes the header, unless the file has one. Raises FtlError, and says what differs, if that is another."""
        if self.header is None:
            self.append(header)
            self.header = header
        elif self.header != header:
            raise FtlError(
                f"{self.what} {self.path} was begun differently ({_different(header, self.header)}): {remedy}",
                errno=errno.EEXIST,
            )

    def append(self, *records: Mapping[str, Any]) -> None:
        """Returns when they are durable. Raises FtlError; what was written in part is dropped when it is read."""
        try:
            _write(self._descriptor, _line(records))
            os.fsync(self._descriptor)
        except OSError as error:
            raise FtlError(
                f"{self.what} {self.path}: {error.strerror}: make room there, and start the same command again",
                errno=error.errno,
            ) from error

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise FtlError(f"{self.what} {self.path} is not a regular file: give another path", errno=errno.EINVAL)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{self.what} {self.path} is in use by another process: wait until that has ended"
            ) from error

    def _read(self) -> None:
        content = bytearray()
        while part := os.read(self._descriptor, 1 << 20):
            content += part
        if len(content) < len(_MAGIC) and _MAGIC.startswith(content):
            os.ftruncate(self._descriptor, 0)
            _write(self._descriptor, _MAGIC)
            os.fsync(self._descriptor)
            _sync_directory(self.path.absolute().parent)
            return
        if not content.startswith(_MAGIC):
            raise FtlError(
                f"{self.what} {self.path} is another kind of file, which is left as it is: give another path",
                errno=errno.EINVAL,
            )
        self._take(bytes(content))

    def _take(self, content: bytes) -> None:
        end, at, damaged = len(_MAGIC), len(_MAGIC), 0
        for number, line in enumerate(content[at:].splitlines(keepends=True), start=2):
            at += len(line)
            records = _records(line)
            if records is None:
                damaged = damaged or number
            elif damaged:
                # A crash tears only what was written last.
                raise FtlError(
                    f"{self.what} {self.path} is damaged in line {damaged}: restore the file, or begin with another",
                    errno=errno.EILSEQ,
                )
            else:
                self.records += records
                end = at
        if self.records:
            self.header = self.records.pop(0)
        self.dropped = len(content) - end
        if self.dropped:
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)


def _line(records: Sequence[Mapping[str, Any]]) -> bytes:
    text = json.dumps(records, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _records(line: bytes) -> list[Record] | None:
    """None: the line is torn."""
    text = line[_CRC_DIGITS + 1 : -1]
    if not line.endswith(b"\n") or line[: _CRC_DIGITS + 1] != b"%08x " % zlib.crc32(text):
        return None
    try:
        records = json.loads(text)
    except ValueError:
        return None
    return records if isinstance(records, list) and all(isinstance(each, dict) for each in records) else None


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _different(now: Record, then: Record, under: str = "") -> str:
    told = []
    for name in dict.fromkeys((*then, *now)):
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict) and before != after:
            told.append(_different(after, before, f"{under}{name}."))
        elif before != after:
            told.append(f"{under}{name}: {json.dumps(before)} then, {json.dumps(after)} now")
    return "; ".join(told)

"""Write buffer files: what an FTL had accepted when its daemon died (docs/media-layout.md, "Write buffer file").

All are in one directory, with one file for each life of an FTL: UUID.INCARNATION.wbuf. The incarnation in the
superblock says which file is valid. UUID.lock keeps two daemons from using them at the same time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...access.paths import open_directory
from ...access.users import show_user
from ...errors import BusyError, FtlError, UnsupportedError
from ..media.geometry import BLOCK_BYTES
from ..media.layout import ENTRY_FLAG_LOST, ENTRY_FLAG_TRIM, SEQ_MAX
from .held import HELD_BLOCK, HELD_RECORD, HeldWrites

log = logging.getLogger(__name__)

MAGIC: Final = b"FTLWRBUF"
VERSION: Final = 1
HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("crc", "<u4"),
        ("uuid", "V16"),
        ("slot_count", "<u4"),
        ("record_count", "<u4"),
        ("slots_offset", "<u8"),
        ("records_offset", "<u8"),
        ("data_offset", "<u8"),
        ("block_count", "<u8"),
    ]
)
SLOT: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("crc", "<u4"), ("state", "<u4")])
RECORD: Final = np.dtype(
    [("lba", "<u8"), ("seq", "<u8"), ("block_count", "<u4"), ("flags", "<u4"), ("state", "<u4"), ("reserved", "<u4")]
)
assert (HEADER.itemsize, SLOT.itemsize, RECORD.itemsize) == (72, 24, 32)
STATE_FREE, STATE_HELD = 0, 1
SLOTS_MAX: Final = 1 << 24
RECORDS_MAX: Final = 1 << 16
LOCK_ATTEMPTS: Final = 100
_NAME: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([0-9]+)\.wbuf")

_locks: dict[Path, tuple[int, int]] = {}
"""Locks of this process: lock file -> descriptor and number of users. A device that is loaded again, while the previous
one still releases its memory, is not a second owner."""


class BufferFiles:
    """The write buffer files of one FTL. Call ``acquire()``, then ``release()``."""

    def __init__(self, directory: Path, uuid: UUID) -> None:
        self.directory = directory
        self.uuid = uuid
        self._lock = directory / f"{uuid}.lock"
        self._held = False

    @classmethod
    def acquire(cls, directory: Path, uuid: UUID) -> BufferFiles:
        """Raises BusyError if another process uses them, FtlError if the directory is missing, or others have access to
        it."""
        directory = directory.absolute()
        check_directory(directory)
        files = cls(directory, uuid)
        descriptor, users = _locks.get(files._lock) or (files._locked(), 0)
        _locks[files._lock] = (descriptor, users + 1)
        files._held = True
        return files

    def release(self) -> None:
        """Idempotent. The files stay."""
        if not self._held:
            return
        self._held = False
        descriptor, users = _locks.pop(self._lock)
        if users > 1:
            _locks[self._lock] = (descriptor, users - 1)
            return
        # Removed before the lock is released: a waiting process finds that its file is no longer in place, and makes
        # another.
        self._lock.unlink(missing_ok=True)
        os.close(descriptor)

    def path(self, incarnation: int) -> Path:
        return self.directory / f"{self.uuid}.{incarnation}.wbuf"

    def remove(self, *, but: int | None = None) -> None:
        """Removes the files of all incarnations but one."""
        keep = None if but is None else self.path(but)
        for path in self.directory.glob(f"{self.uuid}.*.wbuf"):
            if path != keep:
                path.unlink(missing_ok=True)

    def read(self, incarnation: int, block_count: int) -> HeldWrites | None:
        """The held writes of one file; None if the file is missing or not valid (which is logged). Raises
        UnsupportedError for another format version, FtlError if it can't be read."""
        path = self.path(incarnation)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FtlError(f"write buffer {path}: {error.strerror}", errno=error.errno) from error
        try:
            return _read(descriptor, path, self.uuid, block_count)
        except OSError as error:
            raise FtlError(f"write buffer {path}: {error.strerror}", errno=error.errno) from error
        finally:
            os.close(descriptor)

    def _locked(self) -> int:
        for _ in range(LOCK_ATTEMPTS):
            try:
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise FtlError(f"write buffer lock {self._lock}: {error.strerror}", errno=error.errno) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(self._lock).st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                break
            except FileNotFoundError:
                pass
            os.close(descriptor)
        raise BusyError(
            f"the write buffer of FTL {self.uuid} in {self.directory} is used by another process: end the daemon that "
            "serves that FTL, or give this daemon another --buffer-dir"
        )


def check_directory(directory: Path) -> None:
    """Raises FtlError unless the directory belongs to this user, and nobody else can write to it or replace it: anybody
    who can also controls what is read."""
    descriptor = open_directory(directory, "buffer directory", "give another --buffer-dir")
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if found.st_uid != os.geteuid():
        raise FtlError(
            f"buffer directory {directory} belongs to {show_user(found.st_uid)}, not to {show_user(os.geteuid())} "
            "who runs the daemon: remove it, or give another --buffer-dir",
            errno=errno.EPERM,
        )


@dataclass(frozen=True)
class BufferFile:
    """A description of one file for users: its name and content."""

    path: Path
    uuid: UUID
    """The FTL, from the name of the file."""
    byte_count: int
    held_blocks: int | None
    """LBAs whose newest write is in the file, and not known to be durable elsewhere. None: unknown."""
    held_records: int | None
    """Trims, and lost blocks."""

    problem: str | None = None
    """Why the content is unknown."""

    @property
    def holds_nothing(self) -> bool:
        return self.held_blocks == 0 and self.held_records == 0

    def __str__(self) -> str:
        if self.problem is not None:
            return f"an unknown number of blocks in {self.path} ({self.problem})"
        trims = f" and {self.held_records} trims" if self.held_records else ""
        return f"{self.held_blocks} blocks{trims} in {self.path}"

    def to_dict(self) -> dict[str, Any]:
        """For the daemon's RPCs."""
        fields = {
            "path": str(self.path),
            "uuid": str(self.uuid),
            "bytes": self.byte_count,
            "held_blocks": self.held_blocks,
            "held_records": self.held_records,
        }
        return fields if self.problem is None else {**fields, "problem": self.problem}


def buffer_files(directory: Path, uuid: UUID | None = None) -> list[BufferFile]:
    """The files in the directory, of one FTL or of all, by name. Reads no data. Empty if the directory is missing."""
    found = []
    for path in sorted(directory.glob("*.wbuf" if uuid is None else f"{uuid}.*.wbuf")):
        named = _NAME.fullmatch(path.name)
        if named is not None:
            with contextlib.suppress(FileNotFoundError):
                found.append(_looked_at(path, UUID(named[1])))
    return found


def _looked_at(path: Path, uuid: UUID) -> BufferFile:
    """Raises FileNotFoundError."""
    byte_count = path.lstat().st_size
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return BufferFile(path, uuid, byte_count, *_count_held(descriptor, path))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except UnsupportedError:
        problem = "it has another format version"
    except OSError as error:
        problem = error.strerror or str(error)
    return BufferFile(path, uuid, byte_count, None, None, problem)


def in_use(directory: Path, uuid: UUID) -> bool:
    """Whether a process serves that FTL, this one or another."""
    path = directory / f"{uuid}.lock"
    if path in _locks:
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@dataclass(frozen=True)
class _Header:
    uuid: bytes
    block_count: int
    slot_count: int
    record_count: int
    slots_offset: int
    records_offset: int
    data_offset: int


def _read_header(descriptor: int, path: Path) -> _Header | str:
    """Why the file is not valid. Raises UnsupportedError for another format version."""
    found = os.fstat(descriptor)
    raw = os.pread(descriptor, HEADER.itemsize, 0)
    if not stat.S_ISREG(found.st_mode) or len(raw) < HEADER.itemsize:
        return "it is not a file, or its header is incomplete"
    header = np.frombuffer(raw, HEADER)[0]
    if header["magic"] != MAGIC or int(header["crc"]) != _shim.crc32c(raw[:12] + bytes(4) + raw[16:]):
        return "its header is damaged"
    if int(header["version"]) != VERSION:
        raise UnsupportedError(
            f"write buffer {path} has format version {int(header['version'])}, but this software supports {VERSION}: "
            "use the release that wrote it, or remove the file and lose what was not flushed"
        )
    numbers = {field.name: int(header[field.name]) for field in dataclasses.fields(_Header)[1:]}
    parsed = _Header(uuid=bytes(header["uuid"]), **numbers)
    ends = (
        parsed.slots_offset + parsed.slot_count * SLOT.itemsize,
        parsed.records_offset + parsed.record_count * RECORD.itemsize,
        parsed.data_offset + parsed.slot_count * BLOCK_BYTES,
    )
    if parsed.slot_count > SLOTS_MAX or parsed.record_count > RECORDS_MAX or max(ends) > found.st_size:
        return "its header is invalid"
    return parsed


def _count_held(descriptor: int, path: Path) -> tuple[int, int]:
    """LBAs and records. None for a file that no load would use."""
    header = _read_header(descriptor, path)
    if isinstance(header, str):
        return 0, 0
    slots = _table(descriptor, SLOT, header.slots_offset, header.slot_count)
    records = _table(descriptor, RECORD, header.records_offset, header.record_count)
    return len(np.unique(slots["lba"][slots["state"] != STATE_FREE])), int((records["state"] != STATE_FREE).sum())


def _read(descriptor: int, path: Path, uuid: UUID, block_count: int) -> HeldWrites | None:
    header = _read_header(descriptor, path)
    if isinstance(header, str):
        return _ignore(path, header)
    if header.uuid != uuid.bytes or header.block_count != block_count:
        return _ignore(path, "it belongs to another FTL")
    slots = _table(descriptor, SLOT, header.slots_offset, header.slot_count)
    records = _table(descriptor, RECORD, header.records_offset, header.record_count)
    held = HeldWrites()
    _take_records(held, path, records, block_count)
    _take_slots(held, path, slots, block_count, descriptor, header.data_offset)
    return held


def _ignore(path: Path, why: str) -> HeldWrites | None:
    log.error("write buffer %s: %s: writes that hosts did not flush are lost", path, why)
    return None


def _table(descriptor: int, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
    table = np.zeros(count, dtype)
    _read_into(descriptor, table.view(np.uint8), offset)
    return table


def _read_into(descriptor: int, buffer: NDArray[np.uint8], offset: int) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:].data], offset + done)
        if count == 0:
            return  # The file was cut off since: zeroes are free slots, other blocks do not match their CRC.
        done += count


def _plausible(table: NDArray[Any], block_count: int) -> NDArray[np.bool_]:
    plausible: NDArray[np.bool_] = (table["seq"] > 0) & (table["seq"] <= SEQ_MAX) & (table["lba"] < block_count)
    return plausible


def _take_records(held: HeldWrites, path: Path, table: NDArray[Any], block_count: int) -> None:
    state, flags, count = table["state"], table["flags"], table["block_count"].astype(np.uint64)
    good = (state == STATE_HELD) & _plausible(table, block_count) & (count > 0)
    good[good] = count[good] <= np.uint64(block_count) - table["lba"][good]
    good &= (flags == ENTRY_FLAG_TRIM) | (flags == ENTRY_FLAG_LOST)
    for i in map(int, np.flatnonzero((state != STATE_FREE) & ~good)):
        held.damage.append(f"write buffer {path}: record {i} is invalid")
    held.records = np.zeros(int(good.sum()), HELD_RECORD)
    for name in ("lba", "seq", "block_count", "flags"):
        held.records[name] = table[name][good]


def _take_slots(
    held: HeldWrites, path: Path, table: NDArray[Any], block_count: int, descriptor: int, data_offset: int
) -> None:
    good = (table["state"] == STATE_HELD) & _plausible(table, block_count)
    for i in map(int, np.flatnonzero((table["state"] != STATE_FREE) & ~good)):
        held.damage.append(f"write buffer {path}: slot {i} is invalid")
    index = np.flatnonzero(good)
    data = np.zeros((len(index), BLOCK_BYTES), np.uint8)
    whole = np.zeros(len(index), bool)
    for i, slot in enumerate(map(int, index)):
        _read_into(descriptor, data[i], data_offset + slot * BLOCK_BYTES)
        whole[i] = _shim.crc32c(memoryview(data[i])) == int(table["crc"][slot])
    lost = np.zeros(int((~whole).sum()), HELD_RECORD)
    for record, slot in zip(lost, table[index[~whole]], strict=True):
        # The write is lost, but its LBA is known: no older version may come back.
        record["lba"], record["seq"], record["block_count"], record["flags"] = (
            slot["lba"],
            slot["seq"],
            1,
            ENTRY_FLAG_LOST,
        )
        held.damaged[int(slot["seq"])] = (
            f"write buffer {path}: the data of LBA {int(slot['lba'])} does not match its CRC"
        )
    held.records = np.concatenate([held.records, lost])
    held.blocks = np.zeros(int(whole.sum()), HELD_BLOCK)
    for name in ("lba", "seq", "crc"):
        held.blocks[name] = table[name][index[whole]]
    held.data = data[whole]

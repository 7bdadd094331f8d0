"""The daemon's state directory: its host id, and its devices, so that the next daemon can clean up or continue."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from ..access.paths import HeldElsewhereError, lock_file, open_directory, open_file
from ..errors import BusyError, FtlError
from ..ftl.load.write_buffer_file import check_directory

STATE_ENVIRONMENT: Final = "SPDK_FTL_STATE"
STATE_FORMAT: Final = 1
STATE_BYTES_MAX: Final = 16 << 20
"""The size that a daemon reads at its start, so no larger file is written."""
STATE_BYTES_CROWDED: Final = 6 << 20
"""Above this size no more hosts are admitted. This leaves room for what must be saved: after a crash each host is in
two lists, and FTLs are created and deleted."""
RESERVE_BYTES_MIN: Final = 1 << 16
_STATE_FILE: Final = "state.json"
_RESERVE_FILE: Final = "reserve"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LOCK_FILE: Final = "lock"
_ANOTHER: Final = "give another with --state-dir"


def default_state_directory() -> Path:
    """$SPDK_FTL_STATE, else /var/lib/spdk-ftl for root, else ~/.local/state/spdk-ftl."""
    if given := os.environ.get(STATE_ENVIRONMENT):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/spdk-ftl")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "spdk-ftl"


def default_buffer_directory() -> Path:
    """A directory in the machine's memory, which outlives the process: /dev/shm/spdk-ftl-UID."""
    return Path(f"/dev/shm/spdk-ftl-{os.geteuid()}")


def make_buffer_directory(path: Path) -> Path:
    """The absolute path. Raises FtlError if it can't be created, or if others have access to it."""
    path = path.absolute()
    os.close(open_directory(path, "buffer directory", "give another with --buffer-dir", make=True))
    check_directory(path)
    return path


class StateDirectory:
    """Belongs to one daemon at a time, from open() to close()."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.host_id = uuid4()
        self.devices: list[dict[str, Any]] = []
        """The devices of the last save(); after open(), those of the earlier daemon."""
        self._bytes = 0
        self._folder: int | None = None
        """A descriptor of the directory from open() to close(). Files are opened relative to it, even if the path leads
        elsewhere by then."""
        self._lock: int | None = None
        self._is_new = False

    def open(self) -> None:
        """Creates the directory if necessary, and reads the state file.

        Raises BusyError if another daemon has it, FtlError if it can't be used or the file is damaged; then nothing has
        changed.
        """
        self._is_new = not os.path.lexists(self.path)
        try:
            self._folder = open_directory(self.path, "state directory", _ANOTHER, make=True)
            self._lock = lock_file(_LOCK_FILE, f"state directory {self.path}: its lock", directory=self._folder)
            self._load()
            with contextlib.suppress(OSError):
                self._keep_reserve()
        except HeldElsewhereError:
            self.close()
            raise BusyError(
                f"state directory {self.path} is in use by another spdk-ftl daemon: stop that daemon, or give another "
                "--state-dir"
            ) from None
        except BaseException:
            self.undo_creation()
            self.close()
            raise

    def undo_creation(self) -> None:
        """Removes the directory if open() has created it, and nothing was saved in it since."""
        # Only who has the lock may do this: another daemon may have opened the new directory first.
        if not self._is_new or self._lock is None or self._folder is None or self.devices:
            return
        with contextlib.suppress(OSError):
            for name in (_RESERVE_FILE, _STATE_FILE, _LOCK_FILE):
                self._remove(name)
            self.path.rmdir()

    def save(self, devices: list[dict[str, Any]]) -> None:
        """Replaces the state file atomically: a crash leaves the old one or the new one. Raises FtlError."""
        content = {"format": STATE_FORMAT, "host_id": str(self.host_id), "devices": devices}
        # Without indent: with many hosts this takes a tenth of the time, in which nobody is served.
        raw = (json.dumps(content) + "\n").encode()
        if len(raw) > STATE_BYTES_MAX:
            raise FtlError(
                f"state directory {self.path}: the state file would have {len(raw)} bytes, more than the "
                f"{STATE_BYTES_MAX} that a daemon reads: delete FTLs, or serve some of them with another daemon",
                errno=errno.EFBIG,
            )
        try:
            self._write(raw)
        except OSError as error:
            raise FtlError(
                f"state directory {self.path} can't be written: {error.strerror}", errno=error.errno
            ) from error
        self.devices = devices
        self._bytes = len(raw)
        with contextlib.suppress(OSError, FtlError):
            self._keep_reserve()

    @property
    def crowded(self) -> bool:
        """The state file has no room for more hosts."""
        return self._bytes > STATE_BYTES_CROWDED

    def require_room(self) -> None:
        """Call it before an action whose end has to be saved. Raises FtlError unless that is possible, even if the file
        system is full by then."""
        try:
            self._keep_reserve()
        except OSError as error:
            raise FtlError(
                f"state directory {self.path} can't be written: {error.strerror}; nothing was done: make it "
                "writable, and make room in it",
                errno=error.errno,
            ) from error

    def _write(self, raw: bytes) -> None:
        try:
            self._replace(raw)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # The reserve is for this case. If there is none, the second attempt fails like the first.
            self._remove(_RESERVE_FILE)
            self._replace(raw)

    def _replace(self, raw: bytes) -> None:
        folder, temporary = self._opened(), f"{_STATE_FILE}.new"
        try:
            # A temporary file that a crash left.
            self._remove(temporary)
            with os.fdopen(self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, _STATE_FILE, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except OSError:
            # A partial file takes up room that the next one may need.
            with contextlib.suppress(OSError):
                self._remove(temporary)
            raise

    def _opened(self) -> int:
        assert self._folder is not None
        return self._folder

    def _open(self, name: str, flags: int) -> int:
        return open_file(name, flags, f"state directory {self.path}: {name}", directory=self._opened())

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._opened())

    def _keep_reserve(self) -> None:
        """Reserves room for two versions of the next state file. A save in a full file system gives the reserve up."""
        wanted = max(RESERVE_BYTES_MIN, 2 * self._bytes)
        descriptor = self._open(_RESERVE_FILE, os.O_WRONLY | os.O_CREAT)
        try:
            there = os.fstat(descriptor).st_size
            if there < wanted:
                try:
                    os.posix_fallocate(descriptor, 0, wanted)
                except OSError:
                    os.ftruncate(descriptor, there)
                    raise
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Releases the directory. Idempotent."""
        for descriptor in (self._lock, self._folder):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._lock = self._folder = None

    def _load(self) -> None:
        path = self.path / _STATE_FILE
        try:
            with os.fdopen(self._open(_STATE_FILE, os.O_RDONLY), "rb") as file:
                raw = file.read(STATE_BYTES_MAX + 1)
        except FileNotFoundError:
            self.save([])
            return
        except OSError as error:
            raise FtlError(
                f"state file {path} can't be read: {error.strerror}: fix that, or give another --state-dir",
                errno=error.errno,
            ) from error
        try:
            content = json.loads(raw)
            if missing := [key for key in ("format", "host_id", "devices") if key not in content]:
                raise ValueError(f"{missing[0]!r} is missing")
            if content["format"] != STATE_FORMAT:
                raise ValueError(f"its format is {content['format']!r}, but this daemon supports {STATE_FORMAT}")
            self.host_id = UUID(content["host_id"])
            devices = content["devices"]
            if not isinstance(devices, list) or not all(_is_device(device) for device in devices):
                raise ValueError("a device lacks its name, uuid, target, state or params")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FtlError(
                f"state file {path} is damaged ({error}): move it away to start without its FTLs",
                errno=errno.EINVAL,
            ) from error
        self.devices = devices
        self._bytes = len(raw)


def _is_device(entry: object) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("params"), Mapping):
        return False
    if not all(isinstance(entry.get(key), str) for key in ("name", "uuid", "target", "state")):
        return False
    with contextlib.suppress(ValueError):
        UUID(entry["uuid"])
        return True
    return False

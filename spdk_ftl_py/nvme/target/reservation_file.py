"""The file in which a reservation outlives the process (PTPL). It exists while the host wants that, and only then."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from ...access.paths import open_directory, open_file
from ...errors import FtlError
from .reservation_state import ReservationState

FORMAT: Final = 1
BYTES_MAX: Final = 1 << 20
"""Far more than the largest state needs."""
WHAT: Final = "reservation file"


class ReservationFile:
    """Of one namespace. Its folder must belong to this user, and nobody else may write in it."""

    def __init__(self, path: Path, namespace: UUID, *, make_folder: bool = False) -> None:
        """namespace: whose reservation it is; a file of another namespace is refused. make_folder: creates the folder
        if it is missing."""
        self.path = path.absolute()
        self._namespace = namespace
        self._make = make_folder

    def load(self) -> ReservationState:
        """The state; an empty one if there is no file. Raises FtlError for a file that can't be read, is damaged, or
        belongs to another namespace: an FTL that forgot a reservation would let a fenced host write."""
        try:
            folder = self._folder()
        except FtlError:
            if not self.path.parent.exists():
                return ReservationState()
            raise
        try:
            with os.fdopen(open_file(self.path.name, os.O_RDONLY, self._shown, directory=folder), "rb") as file:
                raw = file.read(BYTES_MAX + 1)
        except FileNotFoundError:
            return ReservationState()
        except OSError as error:
            raise FtlError(f"{self._shown} can't be read: {error.strerror}", errno=error.errno) from error
        finally:
            os.close(folder)
        try:
            content = json.loads(raw)
            if not isinstance(content, Mapping) or content.get("format") != FORMAT:
                raise ValueError(f"it does not have format {FORMAT}")
            if content.get("namespace") != str(self._namespace):
                raise ValueError(f"it belongs to namespace {str(content.get('namespace'))[:40]}, not {self._namespace}")
            return ReservationState.from_record(content.get("reservation"))
        except (ValueError, TypeError, RecursionError) as error:
            raise FtlError(
                f"{self._shown} can't be used ({error}): repair it, or remove it, which forgets which hosts are "
                "registered and who holds the reservation",
                errno=errno.EINVAL,
            ) from error

    def save(self, state: ReservationState) -> None:
        """Durable when it returns; a crash leaves the old state or the new one. Removes the file if the state is not
        persistent. Raises FtlError; then the file has one of the two."""
        if not state.persistent:
            self.remove()
            return
        content = {"format": FORMAT, "namespace": str(self._namespace), "reservation": state.to_record()}
        raw = (json.dumps(content) + "\n").encode()
        temporary = f"{self.path.name}.new"
        folder = self._folder()
        try:
            # Left by a crash.
            _unlink(temporary, folder)
            descriptor = open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._shown, directory=folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                _unlink(temporary, folder)
            raise self._not_written(error) from error
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Durable when it returns. Idempotent. Raises FtlError."""
        if not self.path.parent.exists():
            return
        folder = self._folder()
        try:
            if any([_unlink(self.path.name, folder), _unlink(f"{self.path.name}.new", folder)]):
                os.fsync(folder)
        except OSError as error:
            raise self._not_written(error) from error
        finally:
            os.close(folder)

    @property
    def _shown(self) -> str:
        return f"{WHAT} {self.path}"

    def _folder(self) -> int:
        remedy = "give another folder"
        return open_directory(self.path.parent, f"folder of the {WHAT}", remedy, make=self._make)

    def _not_written(self, error: OSError) -> FtlError:
        return FtlError(f"{self._shown} can't be written: {error.strerror}", errno=error.errno)


def _unlink(name: str, folder: int) -> bool:
    """Whether it existed."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
        return True
    return False

"""The target's keyring: names of key files. A file is read each time its key is needed."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from ..nvme.auth.key import DhchapKey, HostKeys, KeyFile
from ..nvme.auth.psk import Psk, PskFile
from .refusals import failed


@dataclass
class KeyringEntry:
    """A named key file. A user of the entry may keep it after its removal, but it yields no key then. Implements
    KeySource."""

    name: str
    path: Path
    removed: bool = False

    def load(self) -> DhchapKey:
        """Raises ParameterError."""
        self.require()
        return KeyFile(self.path).load()

    def require(self) -> None:
        """Raises ParameterError if the entry was removed."""
        if self.removed:
            raise ParameterError(f"key {self.name} was removed from the keyring")


@dataclass
class KeyringPsk:
    """An entry whose file has a TLS key. Implements PskSource."""

    entry: KeyringEntry

    def load(self) -> Psk:
        """Raises ParameterError."""
        self.entry.require()
        return PskFile(self.entry.path).load()


class Keyring:
    def __init__(self) -> None:
        self.entries: dict[str, KeyringEntry] = {}

    def add(self, name: str, path: str) -> None:
        """Adds an entry. Raises RpcError with SPDK's answer for a name that exists, and for a file that does not exist
        or has the wrong owner or mode."""
        if name in self.entries:
            raise failed(errno.EEXIST)
        if not os.path.isabs(path):
            raise failed(errno.EPERM)
        try:
            info = os.stat(path)
        except OSError as error:
            raise failed(error.errno or errno.EIO) from error
        if info.st_mode & 0o077 or info.st_uid != os.getuid():
            raise failed(errno.EPERM)
        self.entries[name] = KeyringEntry(name, Path(path))

    def remove(self, name: str) -> None:
        """Removes an entry. Raises RpcError."""
        entry = self.entries.pop(name, None)
        if entry is None:
            raise failed(errno.ENOKEY)
        entry.removed = True

    def saved(self) -> list[dict[str, Any]]:
        """The keyring's part of framework_get_config. It has the paths of keys, but no keys."""
        return [
            {"method": "keyring_file_add_key", "params": {"name": entry.name, "path": str(entry.path)}}
            for entry in self.entries.values()
        ]

    def psk(self, name: str | None) -> KeyringPsk | None:
        """Raises KeyError for an unknown name, and ParameterError if the file cannot be used or has no TLS key."""
        if name is None:
            return None
        psk = KeyringPsk(self.entries[name])
        psk.load()
        return psk

    def host_keys(self, key: str | None, ctrlr_key: str | None) -> HostKeys | None:
        """Returns None without a host key. Raises KeyError for unknown names."""
        ctrlr_entry = None if ctrlr_key is None else self.entries[ctrlr_key]
        return None if key is None else HostKeys(self.entries[key], ctrlr_entry)

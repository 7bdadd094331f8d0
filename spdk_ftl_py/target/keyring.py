"""The target's keyring: names of key files, which are read each time a key is needed."""

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
    """What holds it goes on holding it when it is removed, but there is no key in it any more. A source of keys."""

    name: str
    path: Path
    removed: bool = False

    def load(self) -> DhchapKey:
        """Raises ParameterError."""
        self.require()
        return KeyFile(self.path).load()

    def require(self) -> None:
        """Raises ParameterError where it was removed."""
        if self.removed:
            raise ParameterError(f"key {self.name} was removed from the keyring")


@dataclass
class KeyringPsk:
    """An entry whose file has a TLS key in it. A source of them."""

    entry: KeyringEntry

    def load(self) -> Psk:
        """Raises ParameterError."""
        self.entry.require()
        return PskFile(self.entry.path).load()


class Keyring:
    def __init__(self) -> None:
        self.entries: dict[str, KeyringEntry] = {}

    def add(self, name: str, path: str) -> None:
        """Raises RpcError as SPDK answers: for names that are there, and files that are not, or not its own."""
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
        """Raises RpcError."""
        entry = self.entries.pop(name, None)
        if entry is None:
            raise failed(errno.ENOKEY)
        entry.removed = True

    def saved(self) -> list[dict[str, Any]]:
        """For framework_get_config: where keys are, and not what they are."""
        return [
            {"method": "keyring_file_add_key", "params": {"name": entry.name, "path": str(entry.path)}}
            for entry in self.entries.values()
        ]

    def psk(self, name: str | None) -> KeyringPsk | None:
        """Raises KeyError for a name that is none, ParameterError where there is no TLS key in it."""
        if name is None:
            return None
        psk = KeyringPsk(self.entries[name])
        psk.load()
        return psk

    def host_keys(self, key: str | None, ctrlr_key: str | None) -> HostKeys | None:
        """None without a host's key. Raises KeyError for names that are none."""
        ctrlr_entry = None if ctrlr_key is None else self.entries[ctrlr_key]
        return None if key is None else HostKeys(self.entries[key], ctrlr_entry)

"""Keys that the daemon and a target share, so that each recognizes the other. They are new for each subsystem, each
time it is claimed or attached, and are in files that only daemon and target can read. The TLS key is different: the
user gives it to both."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import UUID

from ..access.paths import open_directory
from ..errors import FtlError, TargetError
from ..nvme.auth.key import DhchapKey, HostKeys, KeyFile, write_key_file
from ..nvme.auth.messages import DhGroup
from ..nvme.auth.psk import PskFile, PskSource
from ..nvme.auth.response import Policy
from ..spdk.keyring import SESSION_ROLES, KeyPair, add_key_files, remove_keys, session_key_names
from ..spdk.rpc import METHOD_NOT_FOUND, TargetRpc, is_gone

POLICY: Final = Policy(dh_groups=(DhGroup.FFDHE3072, DhGroup.FFDHE2048, DhGroup.NULL))
"""A target takes the largest group that is offered. With ffdhe8192 it would not respond for 20 ms."""

log = logging.getLogger(__name__)


class SessionKeys:
    """Call share(), then drop()."""

    def __init__(self, rpc: TargetRpc, folder: Path | None, device: UUID, role: str, psk: Path | None = None) -> None:
        """folder None: no keys are shared. psk: the file with the TLS key, on both machines; None: no TLS."""
        self.pair: KeyPair | None = None
        """The names of the keys in the target's keyring, once shared."""
        self._rpc = rpc
        self._folder = folder
        self._role = role
        self._device = device
        self._psk = psk
        name, ctrlr_name, self._psk_name = session_key_names(role, device)
        self._names = KeyPair(name, ctrlr_name)

    @property
    def keys(self) -> HostKeys | None:
        """The host's key, with which it authenticates, and the controller's; None: no keys are shared."""
        return None if self._folder is None else HostKeys(*(KeyFile(path) for path in self._paths))

    @property
    def shared(self) -> HostKeys | None:
        """The keys; None if the target could not use them."""
        return None if self.pair is None or self.pair.key is None else self.keys

    @property
    def psk(self) -> PskSource | None:
        """The key for TLS."""
        return None if self._psk is None else PskFile(self._psk)

    @property
    def _files(self) -> dict[str, Path]:
        return dict(zip((str(self._names.key), str(self._names.ctrlr_key)), self._paths, strict=True))

    @property
    def _paths(self) -> tuple[Path, Path]:
        assert self._folder is not None
        return self._folder / f"{self._device}.{self._role}", self._folder / f"{self._device}.{self._role}-ctrlr"

    async def share(self) -> KeyPair | None:
        """Makes new keys, and tells the target where they are. None: the target can't use keys. Raises TargetError if
        it does not answer, if the files can't be written, or if it can't use the TLS key."""
        self.pair = None
        psk = None if self._psk is None else await self._share_psk(self._psk)
        shared = await self._share_keys()
        if shared or psk is not None:
            names = self._names if shared else KeyPair(None, None)
            self.pair = replace(names, psk=psk)
        return self.pair

    async def _share_psk(self, path: Path) -> str:
        try:
            await add_key_files(self._rpc, {self._psk_name: path})
        except TargetError as error:
            if error.rpc_code is None:
                raise
            raise TargetError(
                f"SPDK target at {self._rpc.address} can't use the TLS key {path} ({error.message}): put the same "
                "key into a file of that name on the target's machine, with mode 0600, owned by the target's user",
                rpc_code=error.rpc_code,
            ) from error
        return self._psk_name

    async def _share_keys(self) -> bool:
        """False: the target can't use the keys."""
        if self._folder is None:
            return False
        try:
            os.close(open_directory(self._folder, "key directory", "give another --state-dir", make=True))
            for path in self._paths:
                write_key_file(path, DhchapKey.generate())
        except (OSError, FtlError) as error:
            why = error.message if isinstance(error, FtlError) else os.strerror(error.errno or 0)
            raise TargetError(
                f"keys for the SPDK target at {self._rpc.address} can't be written to {self._folder}: {why}; fix "
                "that, or give --no-target-keys",
                errno=error.errno,
            ) from error
        try:
            await add_key_files(self._rpc, self._files)
        except TargetError as error:
            if error.rpc_code is None:
                raise
            await self._drop_keys()
            if error.rpc_code == METHOD_NOT_FOUND:
                log.info(
                    "SPDK target at %s has no keyring: daemon and target identify each other by NQN alone",
                    self._rpc.address,
                )
            else:
                log.warning(
                    "SPDK target at %s can't use the daemon's keys in %s, so daemon and target identify each other "
                    "by NQN alone: %s; let the target read that directory, and run it as the daemon's user; or give "
                    "--no-target-keys, which omits the keys",
                    self._rpc.address,
                    self._folder,
                    error.message,
                )
            return False
        return True

    async def drop(self) -> None:
        """Removes the keys from the target, and the files. Idempotent. Raises TargetError if the target does not
        answer."""
        self.pair = None
        try:
            if self._psk is not None:
                await remove_keys(self._rpc, [self._psk_name])
        except TargetError as error:
            if error.rpc_code is None and not is_gone(error):
                raise
        await self._drop_keys()

    async def _drop_keys(self) -> None:
        if self._folder is None:
            return
        try:
            if any(path.exists() for path in self._paths):
                await remove_keys(self._rpc, self._files)
        except TargetError as error:
            # A target that is gone no longer has a keyring.
            if error.rpc_code is None and not is_gone(error):
                raise
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


async def drop_all(rpc: TargetRpc, folder: Path | None, device: UUID, psk: str | None = None) -> None:
    """Removes all keys of a deleted FTL. Raises TargetError if the target does not answer."""
    for role in SESSION_ROLES:
        await SessionKeys(rpc, folder, device, role, psk_path(psk)).drop()


def psk_path(psk: str | None) -> Path | None:
    """The path in target_psk of bdev_ftl_create."""
    return None if psk is None else Path(psk)


def remove_stray_files(folder: Path | None, known: Collection[UUID]) -> None:
    """Removes key files of FTLs that the daemon no longer has: their target was gone when they were deleted."""
    if folder is None or folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        name = path.name.lstrip(".").partition(".")[0]
        with contextlib.suppress(OSError, ValueError):
            if UUID(name) not in known:
                path.unlink()

"""Keys of a target: names for files, which the target reads each time it needs a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from ..errors import TargetError
from .rpc import TargetRpc

SESSION_ROLES: Final = ("base", "cache", "target")
"""What the daemon connects to (base and cache), and the target, which connects to the daemon."""


def session_key_names(role: str, device: UUID) -> tuple[str, str, str]:
    """Names of the keys of one of SESSION_ROLES in the target's keyring: the host's, the controller's, the TLS key."""
    name = f"spdk-ftl-{role}-{device}"
    return name, f"{name}-ctrlr", f"{name}-psk"


@dataclass(frozen=True)
class KeyPair:
    """Names in the target's keyring: of a host's key and of a controller's (both or neither), and of a PSK for TLS."""

    key: str | None
    ctrlr_key: str | None
    psk: str | None = None

    def to_params(self) -> dict[str, str]:
        """The parameters for nvmf_subsystem_add_host and bdev_nvme_attach_controller."""
        named = {"dhchap_key": self.key, "dhchap_ctrlr_key": self.ctrlr_key, "psk": self.psk}
        return {param: name for param, name in named.items() if name is not None}


async def add_key_files(rpc: TargetRpc, files: Mapping[str, Path]) -> None:
    """Adds the files by name. Current users of an earlier key with that name keep it, new ones get the new key. Raises
    TargetError, with rpc_code if the target has no keyring (METHOD_NOT_FOUND), or can't see the files, or does not own
    them."""
    await remove_keys(rpc, files)
    for name, path in files.items():
        await rpc.call("keyring_file_add_key", {"name": name, "path": str(path)})


async def remove_keys(rpc: TargetRpc, names: Iterable[str]) -> None:
    """No error if there are none. Raises TargetError if the target does not answer."""
    for name in names:
        try:
            await rpc.call("keyring_file_remove_key", {"name": name})
        except TargetError as error:
            if error.rpc_code is None:
                raise

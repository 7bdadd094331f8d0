"""An endpoint in a target: a directory at which it serves a subsystem by vfio-user (shared memory) to one client.

A vfio-user client has no NQN, so the subsystem admits any host. The directory, which only the daemon's user and root
can enter, decides who connects.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Final

from ..errors import TargetError
from .rpc import TargetRpc

TRANSPORT: Final = "VFIOUSER"
SOCKET_NAME: Final = "cntrl"
SOCKET_PATH_MAX: Final = 107
"""Bytes in the path of a unix socket."""


class EndpointRefusedError(TargetError):
    """The target can't serve the endpoint, or the daemon can't use it."""


async def offers_vfio_user(rpc: TargetRpc) -> bool:
    """Whether the target has the transport, which is created if that is possible: only a target built for it can."""
    try:
        transports = await rpc.call("nvmf_get_transports")
        found = {str(each.get("trtype")).upper() for each in transports if isinstance(each, dict)}
        if TRANSPORT not in found:
            await rpc.call("nvmf_create_transport", {"trtype": TRANSPORT})
    except TargetError as error:
        if error.rpc_code is None:
            raise
        return False
    return True


def usable(rpc: TargetRpc, endpoint: Path) -> bool:
    """Whether target and daemon can meet there: both are on this machine, and the path is short enough for a socket."""
    return rpc.address.startswith("/") and len(os.fsencode(endpoint / SOCKET_NAME)) <= SOCKET_PATH_MAX


def listen_address(endpoint: Path) -> dict[str, str]:
    return {"trtype": TRANSPORT, "traddr": str(endpoint), "trsvcid": "0"}


def endpoints_of(subsystem: dict[str, Any]) -> list[str]:
    """The directories of a subsystem of nvmf_get_subsystems."""
    return [
        str(each.get("traddr"))
        for each in subsystem.get("listen_addresses") or ()
        if str(each.get("trtype")).upper() == TRANSPORT
    ]


async def listen(rpc: TargetRpc, nqn: str, endpoint: Path) -> None:
    """Makes the directory, with nothing of an earlier target in it, and has the target serve the subsystem there.
    Raises EndpointRefusedError, and other TargetErrors."""
    make_endpoint(endpoint)
    try:
        await rpc.call("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": listen_address(endpoint)})
    except TargetError as error:
        if error.rpc_code is None:
            raise
        raise EndpointRefusedError(
            f"SPDK target at {rpc.address} does not serve {endpoint} ({error.message})", rpc_code=error.rpc_code
        ) from error
    if not os.access(endpoint / SOCKET_NAME, os.R_OK | os.W_OK):
        raise EndpointRefusedError(
            f"SPDK target at {rpc.address} serves {endpoint}, but the daemon may not use its socket, or sees another "
            "directory"
        )


async def listen_again(rpc: TargetRpc, nqn: str, endpoint: Path) -> None:
    """Ends what is connected to the endpoint. When this returns, no I/O of an earlier daemon is outstanding."""
    await rpc.call("nvmf_subsystem_remove_listener", {"nqn": nqn, "listen_address": listen_address(endpoint)})
    await listen(rpc, nqn, endpoint)


def remove_endpoint(endpoint: Path) -> None:
    """Idempotent. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(endpoint)


def make_endpoint(endpoint: Path) -> None:
    """An empty directory. Raises EndpointRefusedError."""
    try:
        remove_endpoint(endpoint)
        endpoint.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise EndpointRefusedError(f"{endpoint}: {error.strerror}") from error

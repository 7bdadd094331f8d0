"""Private NVMe-oF subsystems of a target, through which the daemon accesses base and cache bdevs.

Adding a bdev to a subsystem claims it: from then on nobody else can write it. Only the daemon's own host NQN may
connect.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from ..errors import ClaimedError, ProtocolError, TargetError, UnsupportedError
from ..runtime.steps import Steps
from .bdevs import Bdev
from .keyring import KeyPair
from .rpc import TargetRpc
from .shared_export import endpoints_of, listen, listen_again, remove_endpoint

NQN_PREFIX: Final = "nqn.2026-11.io.spdk-ftl:"
EXPORT_MODEL: Final = "spdk-ftl-py FTL"
"""Model number of the controllers that export FTLs. It identifies them, whatever their NQN is."""
NSID: Final = 1
LISTEN_TRIES_MAX: Final = 8
_SERIAL_NUMBER_MAX: Final = 20
_LISTS: Final = ("namespaces", "hosts", "listen_addresses")


class TransportMissingError(UnsupportedError):
    """The target has no NVMe/TCP transport."""

    errno = errno.EPROTONOSUPPORT


@dataclass(frozen=True)
class BdevExport:
    """Where the daemon, and only the daemon, reaches a bdev of the target."""

    bdev_name: str
    nqn: str
    traddr: str
    trsvcid: str
    nsid: int = NSID
    endpoint: Path | None = None
    """Of vfio-user; None: NVMe/TCP, at traddr and trsvcid."""


def host_nqn(host_id: UUID) -> str:
    """The NQN under which a daemon connects; host_id is kept in its state directory."""
    return f"{NQN_PREFIX}host:{host_id}"


def bdev_nqn(role: str, device: UUID) -> str:
    """role: "base" or "cache"; device: the FTL's uuid."""
    return f"{NQN_PREFIX}{role}:{device}"


async def require_tcp_transport(rpc: TargetRpc) -> None:
    """Raises TransportMissingError, which names the command to run, if the target has no NVMe/TCP transport."""
    try:
        transports = await rpc.call("nvmf_get_transports")
    except TargetError as error:
        if error.rpc_code is None:
            raise
        transports = []
    found = {str(entry.get("trtype")).upper() for entry in transports if isinstance(entry, dict)}
    if "TCP" not in found:
        raise TransportMissingError(
            f"SPDK target at {rpc.address} has no TCP transport, which the daemon needs to reach its bdevs: "
            f"create it with `spdk-rpc -s {rpc.address} nvmf_create_transport -t TCP`"
        )


async def export_bdev(
    rpc: TargetRpc,
    steps: Steps,
    bdev: Bdev,
    *,
    nqn: str,
    hostnqn: str,
    keys: KeyPair | None = None,
    take_over: bool = False,
    endpoint: Path | None = None,
) -> BdevExport:
    """Claims bdev and exports it to hostnqn only, which must authenticate with keys, and must use TLS if they include a
    PSK; steps gets the undo. take_over: an existing export with that NQN, of an earlier connection, is used if it is as
    required, otherwise it is replaced. endpoint: the export is by vfio-user there, instead of by NVMe/TCP; hostnqn and
    keys have no meaning then.

    Raises EndpointRefusedError if that is impossible, ClaimedError if somebody else claims the bdev first, TargetError
    if the target refuses.
    """

    async def create() -> BdevExport:
        standing = None
        if take_over:
            standing = await (
                _take_over(rpc, bdev, nqn, hostnqn, keys)
                if endpoint is None
                else _take_over_endpoint(rpc, bdev, nqn, endpoint)
            )
        if standing is not None:
            return standing
        await rpc.call(
            "nvmf_create_subsystem",
            {
                "nqn": nqn,
                "serial_number": nqn.rpartition(":")[2].replace("-", "")[:_SERIAL_NUMBER_MAX],
                "model_number": "spdk-ftl private",
                "allow_any_host": endpoint is not None,
                "max_namespaces": 1,
            },
        )
        if endpoint is None:
            await _add_host(rpc, nqn, hostnqn, keys)
        try:
            await rpc.call("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {"bdev_name": bdev.name, "nsid": NSID}})
        except TargetError as error:
            if error.rpc_code is None:
                raise
            raise ClaimedError(
                f"bdev {bdev.name} can't be claimed: the SPDK target at {rpc.address} refuses to add it to a "
                f"subsystem ({error.message}): somebody else may just have claimed it"
            ) from error
        if endpoint is not None:
            await listen(rpc, nqn, endpoint)
            return BdevExport(bdev.name, nqn, "", "", endpoint=endpoint)
        return BdevExport(bdev.name, nqn, rpc.host, await _listen(rpc, nqn, secure_channel=_by_tls(keys)))

    return await steps.run(f"export {bdev.name} as {nqn}", create(), lambda: remove_export(rpc, nqn, endpoint))


def _by_tls(keys: KeyPair | None) -> bool:
    return keys is not None and keys.psk is not None


async def _add_host(rpc: TargetRpc, nqn: str, hostnqn: str, keys: KeyPair | None) -> None:
    proof = {} if keys is None else keys.to_params()
    try:
        await rpc.call("nvmf_subsystem_add_host", {"nqn": nqn, "host": hostnqn, **proof})
    except TargetError as error:
        if error.rpc_code is None or not _by_tls(keys):
            raise
        raise TargetError(
            f"SPDK target at {rpc.address} does not accept the TLS key for {nqn} ({error.message}): the target's key "
            "file must contain only the key, without a newline at the end (printf %s KEY > FILE)",
            rpc_code=error.rpc_code,
        ) from error


async def _take_over(rpc: TargetRpc, bdev: Bdev, nqn: str, hostnqn: str, keys: KeyPair | None) -> BdevExport | None:
    """The existing export, with nothing of an earlier connection left in it; None if there is none that is as required,
    in which case it is removed. Raises ClaimedError if it belongs to another daemon."""
    subsystem = next((entry for entry in await get_subsystems(rpc) if entry.get("nqn") == nqn), None)
    if subsystem is None:
        return None
    namespaces = [(entry.get("nsid"), entry.get("bdev_name")) for entry in subsystem.get("namespaces") or ()]
    hosts = [entry.get("nqn") for entry in subsystem.get("hosts") or ()]
    listeners = [
        str(entry.get("trsvcid"))
        for entry in subsystem.get("listen_addresses") or ()
        if str(entry.get("trtype")).upper() == "TCP" and entry.get("traddr") == rpc.host
    ]
    if hosts and hosts != [hostnqn]:
        raise ClaimedError(
            f"bdev {bdev.name} of the SPDK target at {rpc.address}: {nqn} belongs to another daemon "
            f"({', '.join(map(str, hosts))}): delete the FTL there first"
        )
    whole = len(namespaces) == 1 and namespaces[0][0] == NSID and namespaces[0][1] in bdev.names
    if not whole or not hosts or subsystem.get("allow_any_host") or not listeners:
        await remove_subsystem(rpc, nqn)
        return None
    # I/O of a dead daemon may still be outstanding. If its host is removed from the list, the target ends the
    # connection, and answers when nothing of it is left: no write, and no zone reset, takes effect after the FTL has
    # been read.
    await rpc.call("nvmf_subsystem_remove_host", {"nqn": nqn, "host": hostnqn})
    await _add_host(rpc, nqn, hostnqn, keys)
    if _by_tls(keys):
        # Nothing tells how the existing export was made.
        for trsvcid in listeners:
            await rpc.call(
                "nvmf_subsystem_remove_listener", {"nqn": nqn, "listen_address": _listen_address(rpc, trsvcid)}
            )
        listeners = [await _listen(rpc, nqn, secure_channel=True)]
    return BdevExport(bdev.name, nqn, rpc.host, listeners[0])


async def stands_by_tcp(rpc: TargetRpc, nqn: str) -> bool:
    """There is an export with that NQN, and it is not by vfio-user."""
    return any(each.get("nqn") == nqn and not endpoints_of(each) for each in await get_subsystems(rpc))


async def _take_over_endpoint(rpc: TargetRpc, bdev: Bdev, nqn: str, endpoint: Path) -> BdevExport | None:
    """As _take_over(), for an export by vfio-user."""
    subsystem = next((entry for entry in await get_subsystems(rpc) if entry.get("nqn") == nqn), None)
    if subsystem is None:
        return None
    others = [each for each in endpoints_of(subsystem) if each != str(endpoint)]
    if others:
        raise ClaimedError(
            f"bdev {bdev.name} of the SPDK target at {rpc.address}: {nqn} belongs to another daemon, at {others[0]}: "
            "delete the FTL there first"
        )
    namespaces = [(entry.get("nsid"), entry.get("bdev_name")) for entry in subsystem.get("namespaces") or ()]
    whole = len(namespaces) == 1 and namespaces[0][0] == NSID and namespaces[0][1] in bdev.names
    listeners = subsystem.get("listen_addresses") or ()
    if not whole or len(listeners) != 1 or not endpoints_of(subsystem) or not subsystem.get("allow_any_host"):
        await remove_subsystem(rpc, nqn)
        return None
    await listen_again(rpc, nqn, endpoint)
    return BdevExport(bdev.name, nqn, "", "", endpoint=endpoint)


async def remove_export(rpc: TargetRpc, nqn: str, endpoint: Path | None) -> None:
    """Undoes export_bdev(); no error if there is nothing to undo. endpoint: also of an earlier export."""
    await remove_subsystem(rpc, nqn)
    if endpoint is not None:
        remove_endpoint(endpoint)


async def remove_subsystem(rpc: TargetRpc, nqn: str) -> None:
    """No error if there is none."""
    subsystem = next((entry for entry in await get_subsystems(rpc) if entry.get("nqn") == nqn), None)
    if subsystem is None:
        return
    # Namespaces first: the claims must be gone when this returns.
    for namespace in subsystem.get("namespaces") or ():
        await rpc.call("nvmf_subsystem_remove_ns", {"nqn": nqn, "nsid": namespace.get("nsid")})
    await rpc.call("nvmf_delete_subsystem", {"nqn": nqn})


def _listen_address(rpc: TargetRpc, trsvcid: str) -> dict[str, str]:
    adrfam = "IPv6" if ":" in rpc.host else "IPv4"
    return {"trtype": "TCP", "adrfam": adrfam, "traddr": rpc.host, "trsvcid": trsvcid}


async def _listen(rpc: TargetRpc, nqn: str, *, secure_channel: bool = False) -> str:
    """Adds a listener on a free port. SPDK does not accept port 0, so the daemon looks for a port, and tries again if
    it was taken meanwhile."""
    for last in (False,) * (LISTEN_TRIES_MAX - 1) + (True,):
        trsvcid = str(_free_port(rpc.host))
        params: dict[str, Any] = {"nqn": nqn, "listen_address": _listen_address(rpc, trsvcid)}
        if secure_channel:
            params["secure_channel"] = True
        try:
            await rpc.call("nvmf_subsystem_add_listener", params)
        except TargetError as error:
            if error.rpc_code is None or last:
                raise
        else:
            return trsvcid
    raise AssertionError("unreachable")


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            # The target is on another machine, whose ports can't be tried from here.
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


async def get_subsystems(rpc: TargetRpc) -> list[dict[str, Any]]:
    """The result of nvmf_get_subsystems. Raises ProtocolError if it is malformed."""
    result = await rpc.call("nvmf_get_subsystems")
    if not _are_objects(result) or not all(_are_objects(each.get(key) or []) for each in result for key in _LISTS):
        raise ProtocolError(f"SPDK target at {rpc.address}: nvmf_get_subsystems did not return a list of subsystems")
    subsystems: list[dict[str, Any]] = result
    return subsystems


def _are_objects(entries: Any) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)

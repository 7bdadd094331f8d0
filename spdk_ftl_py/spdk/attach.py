"""Attaches an export of the daemon as a bdev of the target: bdev_nvme connects to it, and bdev_passthru gives it its
name."""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4, uuid5

from ..errors import TargetError
from ..runtime.steps import Steps
from .bdevs import Bdev, find_bdev
from .exports import NQN_PREFIX
from .keyring import KeyPair
from .rpc import METHOD_NOT_FOUND, TargetRpc
from .shared_look import look_for

# The target keeps the bdev while the daemon is away, or loads the FTL: it holds I/O for at least this time, then fails
# I/O until it is connected again.
CONTROLLER_LOSS_TIMEOUT_S: Final = -1
RECONNECT_DELAY_S: Final = 1
FAST_IO_FAIL_MIN_S: Final = 120
FAST_IO_FAIL_MAX_S: Final = (1 << 31) - 1

ATTACH_TIMEOUT_S: Final = 60.0
RESIZE_TIMEOUT_S: Final = 5.0
RESIZE_POLL_S: Final = 0.05
_NSID: Final = 1
_STAND_IN_BYTES: Final = 4096
_NGUID_NAMESPACE: Final = UUID("5b1d5a3e-3f0d-5c1a-9c0e-6d5c0f1a7b42")


@dataclass(frozen=True)
class ExportPath:
    """How a target reaches an export: parameters of bdev_nvme_attach_controller."""

    trid: dict[str, str]
    """Also members of the controller's trid in bdev_nvme_get_controllers."""
    loss_options: dict[str, int]
    """What the target does while the daemon is away."""


def by_tcp(traddr: str, trsvcid: str, subnqn: str, *, hold_s: float = 0.0) -> ExportPath:
    """hold_s: how long the target holds I/O while nobody serves it, if that is more than the least."""
    trid = {
        "trtype": "TCP",
        "adrfam": "IPv6" if ":" in traddr else "IPv4",
        "traddr": traddr,
        "trsvcid": trsvcid,
        "subnqn": subnqn,
    }
    return ExportPath(
        trid,
        {
            "ctrlr_loss_timeout_sec": CONTROLLER_LOSS_TIMEOUT_S,
            "reconnect_delay_sec": RECONNECT_DELAY_S,
            "fast_io_fail_timeout_sec": max(FAST_IO_FAIL_MIN_S, math.ceil(min(hold_s, FAST_IO_FAIL_MAX_S))),
        },
    )


def by_vfio_user(endpoint: Path, subnqn: str) -> ExportPath:
    """SPDK connects to an endpoint only once, so there is nothing to set for a loss."""
    return ExportPath({"trtype": "VFIOUSER", "traddr": str(endpoint), "subnqn": subnqn}, {})


class RefusedPathError(TargetError):
    """The target has answered that it can't attach the export by that path."""


@dataclass(frozen=True)
class Attachment:
    """The objects of an FTL in the target."""

    controller: str
    nvme_bdev: str
    name: str


def export_nguid(device: UUID) -> UUID:
    """The NGUID of the exported namespace. SPDK uses it as uuid of the bdev_nvme bdev, and two bdevs can't have the
    same uuid. So it differs from the FTL's uuid, which the passthru bdev gets."""
    return uuid5(_NGUID_NAMESPACE, str(device))


def controller_name(name: str, device: UUID) -> str:
    """Unique, so that an undo never hits another controller."""
    return f"{name}-{device.hex[:8]}"


def nvme_bdev_name(name: str, device: UUID) -> str:
    """The bdev of the controller, under the passthru bdev."""
    return f"{controller_name(name, device)}n{_NSID}"


def new_target_nqn() -> str:
    """The host NQN with which a target attaches an FTL. It is unique, and nobody can guess it."""
    return f"{NQN_PREFIX}target:{uuid4()}"


async def attach(
    rpc: TargetRpc,
    steps: Steps,
    *,
    name: str,
    device: UUID,
    path: ExportPath,
    alive: bool,
    hostnqn: str,
    share_keys: Callable[[], Awaitable[KeyPair | None]],
    served: Callable[[], bool],
) -> Attachment:
    """Attaches the export as bdev ``name``; the target connects as hostnqn; steps gets the undos. Objects that the
    target still has (the export was away for a while) stay as they are, with their users and keys, if a controller at
    that path may still be alive. Otherwise share_keys() makes the keys for mutual authentication. served: as
    in detach(). Raises RefusedPathError and other TargetErrors."""
    controller = controller_name(name, device)
    nvme_bdev = nvme_bdev_name(name, device)
    delete_passthru = lambda: _delete_passthru(rpc, name, nvme_bdev)  # noqa: E731
    detach_it = lambda: _detach_controller(rpc, controller, served=served())  # noqa: E731
    if not alive or not await _stands(rpc, controller, path.trid, nvme_bdev, hostnqn):
        # A passthru bdev whose base is gone comes back with its base, under the same name and uuid.
        if await attached_as(rpc, name=name, device=device):
            await _undo(rpc, "bdev_passthru_delete", name)
        await _detach_controller(rpc, controller, served=served())
        keys = await share_keys()
        # Created before its base appears. Otherwise those who look for lvol stores or raids on new bdevs would claim
        # the base, and find there what belongs on the passthru bdev.
        name_taken = await _reserve_passthru(rpc, name, nvme_bdev, device)
        attached = False
        if name_taken is None:
            steps.on_undo(f"create passthru bdev {name}", lambda: _delete_unless(lambda: attached, delete_passthru))
        bdevs = await steps.run(
            f"attach controller {controller}",
            _attach_controller(rpc, controller, path, hostnqn, keys),
            detach_it,
        )
        # SPDK reports success, but no bdevs, if their registration failed, for example because of a duplicate uuid.
        if bdevs != [nvme_bdev]:
            raise TargetError(
                f"SPDK target at {rpc.address} attached to the export of {name}, but created no bdev: check whether "
                f"another bdev has the uuid {export_nguid(device)}",
                errno=errno.EEXIST,
            )
        attached = True
        if name_taken is not None and not await attached_as(rpc, name=name, device=device):
            raise name_taken
    else:
        steps.on_undo(f"attach controller {controller}", detach_it)
    if await attached_as(rpc, name=name, device=device):
        steps.on_undo(f"create passthru bdev {name}", delete_passthru)
    else:
        try:
            await steps.run(
                f"create passthru bdev {name}", _create_passthru(rpc, name, nvme_bdev, device), delete_passthru
            )
        except _NameKeptError:
            # The reserved name may be for this bdev, which could not appear with its base because of the name. The next
            # attempt makes the base appear once more.
            await _undo(rpc, "bdev_nvme_detach_controller", controller)
            raise
    # If its base is gone, SPDK defers the creation of a passthru bdev, and reports success.
    if await find_bdev(rpc, name) is None:
        raise TargetError(f"SPDK target at {rpc.address} did not create bdev {name}: its bdev {nvme_bdev} is gone")
    return Attachment(controller, nvme_bdev, name)


async def _attach_controller(
    rpc: TargetRpc, controller: str, path: ExportPath, hostnqn: str, keys: KeyPair | None
) -> Any:
    """The names of its bdevs."""
    params: dict[str, Any] = {"name": controller, **path.trid, "hostnqn": hostnqn}
    params |= ({} if keys is None else keys.to_params()) | path.loss_options
    try:
        return await rpc.call("bdev_nvme_attach_controller", params, timeout_s=ATTACH_TIMEOUT_S)
    except TargetError as error:
        if error.rpc_code is None:
            raise
        raise RefusedPathError(error.message, rpc_code=error.rpc_code, errno=error.errno) from error


async def _delete_unless(attached: Callable[[], bool], delete: Callable[[], Awaitable[object]]) -> None:
    """What was attached has an undo of its own, which runs before that of its controller."""
    if not attached():
        await delete()


async def _reserve_passthru(rpc: TargetRpc, name: str, nvme_bdev: str, device: UUID) -> TargetError | None:
    """The bdev appears with its base. On error, the target already reserves the name: for this bdev, of an earlier
    attachment, or for somebody else's. Raises other TargetErrors."""
    try:
        await _create_passthru(rpc, name, nvme_bdev, device)
    except _NameKeptError as error:
        return error
    return None


class _NameKeptError(TargetError):
    """For a passthru bdev that does not exist now."""


async def _create_passthru(rpc: TargetRpc, name: str, nvme_bdev: str, device: UUID) -> None:
    try:
        await rpc.call("bdev_passthru_create", {"base_bdev_name": nvme_bdev, "name": name, "uuid": str(device)})
    except TargetError as error:
        if error.rpc_code != -errno.EEXIST:
            raise
        other = await find_bdev(rpc, name) or await find_bdev(rpc, str(device))
        if other is not None:
            what = f"the name {name}" if name in other.names else f"the uuid {device}"
            raise TargetError(
                f"bdev {other.name} ({other.product_name}) of the SPDK target at {rpc.address} has {what}: delete it",
                rpc_code=error.rpc_code,
                errno=errno.EEXIST,
            ) from error
        raise _NameKeptError(
            f"name {name}: the SPDK target at {rpc.address} keeps it for somebody else's passthru bdev, whose base "
            "does not exist now: choose another name; or create a bdev with that base's name (for instance with "
            f"bdev_null_create): {name} appears on it, and bdev_passthru_delete {name} frees the name",
            rpc_code=error.rpc_code,
            errno=errno.EEXIST,
        ) from error


async def _stands(rpc: TargetRpc, controller: str, path: dict[str, str], nvme_bdev: str, hostnqn: str) -> bool:
    """Whether the controller is attached to that path, as that host, with its bdev."""
    paths = await _paths_of(rpc, controller)
    if not paths:
        return False
    trid = paths[0].get("trid")
    same = isinstance(trid, dict) and all(str(trid.get(key)).lower() == path[key].lower() for key in path)
    # As another host it would be refused.
    return same and _hostnqn(paths[0]) == hostnqn and await find_bdev(rpc, nvme_bdev) is not None


async def standing_hostnqn(rpc: TargetRpc, *, name: str, device: UUID) -> str | None:
    """The host NQN with which the target has attached the FTL, whoever chose it; None: not attached. Raises
    TargetError."""
    paths = await _paths_of(rpc, controller_name(name, device))
    return _hostnqn(paths[0]) if paths else None


async def _paths_of(rpc: TargetRpc, controller: str) -> list[dict[str, Any]]:
    """The path of the controller of that name; None if there is no such controller, or it has several paths, which
    means that somebody else made it."""
    found = await rpc.call("bdev_nvme_get_controllers")
    for entry in found if isinstance(found, list) else ():
        if isinstance(entry, dict) and entry.get("name") == controller:
            paths = [path for path in entry.get("ctrlrs") or () if isinstance(path, dict)]
            return paths if len(paths) == 1 else []
    return []


def _hostnqn(path: dict[str, Any]) -> str | None:
    host = path.get("host")
    nqn = host.get("nqn") if isinstance(host, dict) else None
    return nqn if isinstance(nqn, str) else None


async def attached_as(rpc: TargetRpc, *, name: str, device: UUID) -> bool:
    """Whether the bdev of that name is the one that attach() makes."""
    return _passthru_base(await look_for(rpc, name)) == nvme_bdev_name(name, device)


async def remake_passthru(rpc: TargetRpc, *, name: str, device: UUID, block_count: int) -> None:
    """Creates the passthru bdev of attach() again when the bdev_nvme bdev under it has block_count blocks, because a
    passthru bdev keeps its size. Nobody may use it. Raises TargetError."""
    base = nvme_bdev_name(name, device)
    until = asyncio.get_running_loop().time() + RESIZE_TIMEOUT_S
    while (bdev := await find_bdev(rpc, base)) is None or bdev.block_count < block_count:
        if asyncio.get_running_loop().time() >= until:
            size = "gone" if bdev is None else f"still {bdev.block_count} blocks"
            raise TargetError(
                f"its bdev {base} is {size} {RESIZE_TIMEOUT_S:g} s after the daemon announced the new size"
            )
        await asyncio.sleep(RESIZE_POLL_S)
    await _undo(rpc, "bdev_passthru_delete", name)
    await _create_passthru(rpc, name, base, device)


async def detach_unclaimed(rpc: TargetRpc, *, name: str, device: UUID, served: bool) -> bool:
    """As detach(); False, with nothing done, if somebody in the target uses the bdev. Raises TargetError."""
    bdev = await find_bdev(rpc, name)
    if bdev is not None and bdev.claimed:
        return False
    await detach(rpc, name=name, device=device, served=served)
    return True


async def detach(rpc: TargetRpc, *, name: str, device: UUID, served: bool) -> None:
    """Undoes attach() of an earlier daemon; no error if there is nothing to undo. served: somebody serves the
    controller's queues now, if it is attached by vfio-user."""
    controller = controller_name(name, device)
    if not served:
        # Deleting what is on it would wait for its queues.
        await _reset_shared(rpc, controller)
    await _delete_passthru(rpc, name, nvme_bdev_name(name, device))
    await _undo(rpc, "bdev_nvme_detach_controller", controller)


async def _detach_controller(rpc: TargetRpc, controller: str, *, served: bool) -> None:
    """served: as in detach()."""
    if not served:
        await _reset_shared(rpc, controller)
    await _undo(rpc, "bdev_nvme_detach_controller", controller)


async def _reset_shared(rpc: TargetRpc, controller: str) -> None:
    """SPDK deletes the queues of a controller that it detaches, and its reactor does nothing else until that is done:
    for a minute and more if nobody serves them. After a reset, which fails at once because the endpoint is gone, there
    are none."""
    paths = await _paths_of(rpc, controller)
    trid = paths[0].get("trid") if paths else None
    if isinstance(trid, dict) and str(trid.get("trtype")).upper() == "VFIOUSER":
        try:
            await rpc.call("bdev_nvme_reset_controller", {"name": controller}, timeout_s=ATTACH_TIMEOUT_S)
        except TargetError as error:
            if error.rpc_code is None:
                raise


async def _delete_passthru(rpc: TargetRpc, name: str, nvme_bdev: str) -> None:
    """Also deletes a bdev whose base was removed: SPDK then has no bdev to delete, but reserves its name until the base
    comes back."""
    base = _passthru_base(await find_bdev(rpc, name))
    if base == nvme_bdev:
        await _undo(rpc, "bdev_passthru_delete", name)
    elif base is None and await find_bdev(rpc, name) is None and await find_bdev(rpc, nvme_bdev) is None:
        await _free_name(rpc, name, nvme_bdev)


async def _free_name(rpc: TargetRpc, name: str, nvme_bdev: str) -> None:
    """Frees a reserved name. Nothing shows whether the target reserves it. With a stand-in for its base the bdev
    appears if so, and can be deleted."""
    try:
        await rpc.call("bdev_null_create", {"name": nvme_bdev, "num_blocks": 1, "block_size": _STAND_IN_BYTES})
    except TargetError as error:
        if error.rpc_code == METHOD_NOT_FOUND:
            return
        raise
    try:
        if _passthru_base(await find_bdev(rpc, name)) == nvme_bdev:
            await _undo(rpc, "bdev_passthru_delete", name)
    finally:
        await _undo(rpc, "bdev_null_delete", nvme_bdev)


async def _undo(rpc: TargetRpc, method: str, name: str) -> None:
    try:
        await rpc.call(method, {"name": name}, timeout_s=ATTACH_TIMEOUT_S)
    except TargetError as error:
        # The target's own answer for an unknown name.
        if error.rpc_code is None or error.errno not in (errno.ENODEV, errno.ENOENT):
            raise


def _passthru_base(bdev: Bdev | None) -> str | None:
    passthru = bdev.driver_specific.get("passthru") if bdev is not None else None
    return passthru.get("base_bdev_name") if isinstance(passthru, dict) else None

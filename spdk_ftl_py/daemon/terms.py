"""The terms of a creation, besides the FTL's own parameters: what to do if the FTL, or its base, exists or does not."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from ..agreement import differences
from ..errors import ExistsError, FtlError, NotFoundError, ParameterError, TargetError
from ..spdk.exports import TransportMissingError
from ..text import show_name
from .device import DeviceState, ManagedDevice

POLL_S: Final = 0.05
_COMING: Final = (DeviceState.DEFERRED, DeviceState.CREATING, DeviceState.WAITING)


@dataclass(frozen=True)
class Terms:
    """The terms of one bdev_ftl_create."""

    if_absent: bool
    load_or_create: bool
    wait_s: float | None
    chosen: UUID | None
    """The uuid that a new FTL gets."""

    @classmethod
    def take(cls, params: dict[str, Any]) -> Terms:
        """Removes from params everything that does not describe the FTL. params: must be valid. The options that a
        deferred creation needs stay: load_or_create, with the uuid that the FTL must have, and wait, for a patient
        requester.

        Raises ParameterError for terms that exclude each other.
        """
        if_absent, load_or_create = params.pop("if_absent", False), params.pop("load_or_create", False)
        new, given = params.pop("new_uuid", None), params.get("uuid")
        for name, value in (("uuid", given), ("new_uuid", new)):
            if value is not None and name == "new_uuid" and not UUID(value).int:
                raise ParameterError("new_uuid is the nil UUID, which no FTL can have: choose another, or leave it out")
        given = given if given is not None and UUID(given).int else None
        if new is not None and given is not None:
            raise ParameterError("uuid loads an FTL, new_uuid creates one: give only one of them")
        if load_or_create:
            for name, why in (
                ("force", "force erases the base, load_or_create never does: give only one of them"),
                ("no_data", "an FTL made with no_data can't be loaded again: leave load_or_create out"),
            ):
                if params.get(name):
                    raise ParameterError(why)
            params["load_or_create"] = True
            if new or given:
                params["uuid"] = new or given
        chosen = new or (given if load_or_create else None)
        return cls(if_absent, load_or_create, params.get("wait"), UUID(chosen) if chosen else None)

    @property
    def asks_for_json(self) -> bool:
        """The requester expects JSON, also for a deferred creation."""
        return self.wait_s is not None

    def answer(self, device: ManagedDevice, *, changed: bool) -> dict[str, Any]:
        """The result of bdev_ftl_create."""
        online = device.state is DeviceState.ONLINE
        result: dict[str, Any] = {"name": device.name, "uuid": str(device.uuid)}
        if self.if_absent:
            result["changed"] = changed
        if self.load_or_create:
            result["loaded"] = device.how_it_came == "loaded" if device.ftl is not None else None
        if self.wait_s is not None or not changed:
            result["state"] = device.state.value
            result["waiting_for"] = None if online else device.waiting_for or device.waits_for or device.error
        return result


def may_come(error: BaseException) -> bool:
    """A patient creation waits for this: a target that does not answer, its transport, a bdev."""
    if isinstance(error, TargetError):
        # EPERM: another user's process serves its socket.
        return error.rpc_code is None and error.errno != errno.EPERM
    return isinstance(error, (NotFoundError, TransportMissingError))


def check_agrees(device: ManagedDevice, asked: Mapping[str, Any], reported: Mapping[str, Any]) -> None:
    """device exists already; reported: its properties. Raises ExistsError, which names the differences, and FtlError if
    it has failed."""
    which = f"FTL bdev {device.name} of the SPDK target at {device.target}"
    if device.state is DeviceState.DELETING:
        raise FtlError(f"{which} is being deleted: try again when it is gone", errno=errno.EBUSY)
    differ = [str(each) for each in differences(asked, reported)]
    allowed = {host["nqn"]: host for host in reported["hosts"]}
    for nqn in asked.get("hosts") or ():
        host = allowed.get(nqn)
        if host is None:
            differ.append(f"host {show_name(nqn)} may not connect")
            continue
        for key in ("dhchap_key", "dhchap_ctrlr_key", "psk"):
            if asked.get(key) != host.get(key):
                differ.append(f"host {show_name(nqn)} has {key} {host.get(key)}, requested: {asked.get(key)}")
    if asked.get("allow_any_host") and not reported["allow_any_host"]:
        differ.append("not any host may connect")
    if differ:
        raise ExistsError(
            f"{which} already exists, but differs from the request: {'; '.join(differ)}. Request what it has, change "
            "it, or delete it first; nothing was done"
        )
    if device.state is DeviceState.FAILED:
        raise FtlError(f"{which} already exists, and has failed: {device.error}: delete it first", errno=errno.EIO)


async def wait_online(
    find: Callable[[], ManagedDevice | None], name: str, wait_s: float, halting: Callable[[], bool]
) -> ManagedDevice:
    """Waits until the device is online, or time is up. find: returns the current device. Raises FtlError if it fails or
    is deleted, or if the daemon is halting."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        device = find()
        if halting():
            raise FtlError(f"FTL bdev {name}: the daemon is halting", errno=errno.ESHUTDOWN)
        if device is None or device.state is DeviceState.DELETING:
            raise NotFoundError(f"FTL bdev {name}: was deleted during the wait")
        if device.state is DeviceState.FAILED:
            raise FtlError(
                f"FTL bdev {name}: its deferred creation has failed: {device.error}: delete it, and create it again"
            )
        left_s = deadline - asyncio.get_running_loop().time()
        if device.state not in _COMING or left_s <= 0:
            return device
        await asyncio.sleep(min(POLL_S, left_s))

"""All FTLs of the daemon: what a predecessor left is taken over, RPCs are answered, all are halted."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ..errors import BusyError, FtlError
from ..spdk.saved_config import OwnFtl
from ..text import show_names
from ..version import __version__
from .base import DaemonIdentity
from .buffer_rpcs import BufferRpcs
from .config_rpcs import ConfigRpcs
from .creations import Creations
from .device import DeviceState, ManagedDevice
from .device_parts import Origin
from .devices import Devices, Key, key_of, worth_keeping
from .front import Export
from .growing import grow
from .host_rpcs import HostRpcs
from .orders import Orders
from .orphans import Orphans
from .requester import requester
from .requests import DevicesRequest, ForceableRequest, FtlRequest, ScrubRequest, takes
from .saved import SavedFtl
from .saving import StateSaver
from .scans import Scans
from .server import Method
from .session_keys import remove_stray_files
from .state import StateDirectory

_DEFAULTS_FILLED_IN: Final = {"overprovisioning": 20, "use_append": False}

log = logging.getLogger(__name__)


class Registry:
    """One name space of FTLs for each target."""

    def __init__(self, state: StateDirectory, identity: DaemonIdentity, *, socket_path: str) -> None:
        self._state = state
        self._identity = identity
        self._socket_path = socket_path
        self._devices = Devices()
        identity.own_bdevs.known = self._devices.own_ftls
        self._orphans = Orphans(identity)
        self._saver = StateSaver(state, self._devices, self._orphans, identity.sockets)
        self.creations = Creations(
            self._devices,
            self._orphans,
            self._saver,
            identity,
            require_running=self.require_running,
            is_halting=lambda: self.is_halting,
        )
        self._deletions: set[asyncio.Task[Any]] = set()
        self._halting: asyncio.Task[None] | None = None
        self.on_halted: Callable[[], None] = lambda: None
        """An RPC has halted everything: the daemon is to end."""
        self._is_up = False
        """What a predecessor has left is known."""
        self._orders = Orders(self)
        self._hosts = HostRpcs(self.find, self.find_to_change)
        self._configs = ConfigRpcs(self, identity)
        self._scans = Scans(self, identity, identity.prober)
        self._buffers = BufferRpcs(self._devices, identity.buffer_dir)
        self._started = time.monotonic()

    @property
    def methods(self) -> dict[str, Method]:
        """By RPC name, for RpcServer."""
        return {
            "bdev_ftl_create": self.creations.create,
            "bdev_ftl_delete": takes(ForceableRequest, self.delete),
            "bdev_ftl_get_stats": takes(FtlRequest, self.get_stats),
            "bdev_ftl_get_properties": takes(FtlRequest, self.get_properties),
            "bdev_ftl_scrub": takes(ScrubRequest, self.scrub),
            "bdev_ftl_grow": takes(ForceableRequest, self.grow),
            **self._hosts.methods,
            **self._orders.methods,
            "ftl_get_devices": takes(DevicesRequest, self.get_devices),
            "ftl_get_daemon": self.get_daemon,
            "ftl_halt": self.halt_on_order,
            **self._configs.methods,
            **self._scans.methods,
            **self._buffers.methods,
        }

    # --- start and halt ---

    async def start(self, saved: Sequence[SavedFtl] = ()) -> None:
        """Takes over from a predecessor: what is on media is loaded again as soon as its base bdev is there, under the
        same address, and with what still stands of it in the target; deferred creations go on waiting; what else was
        left in targets is undone. saved: FTLs of a saved configuration, as far as the predecessor does not say
        otherwise."""
        remove_stray_files(self._identity.key_dir, {UUID(record["uuid"]) for record in self._state.devices})
        for record in self._state.devices:
            deferred = record["state"] == DeviceState.DEFERRED.value
            loads = record.get("loads") is True and record["state"] != DeviceState.DELETING.value
            if not (loads or deferred) or not self.resume(record, inherited=loads):
                # As one that is being deleted: whoever reads the state file next is to undo it, and no more.
                if (record.get("params") or {}).get("no_data"):
                    log.warning("%s: was made with no_data, so it is gone", record["name"])
                self._orphans.leave_behind(record)
        self._configs.start(saved)
        targets = {each["target"] for each in self._orphans.records}
        await asyncio.gather(*(self._orphans.undo(target) for target in targets))
        self._saver.save()
        self._is_up = True

    async def halt(self, *, undo: bool = False) -> None:
        """Halts every FTL cleanly. What stands of it in its target stays there for the next daemon, as does the state
        file, and hosts see a pause. undo: it is taken out of the target. The second caller gets the end of the first.

        Raises FtlError at the end where that is not all that can be said of an FTL.
        """
        if self._halting is None:
            self._halting = asyncio.create_task(self._halt_all(undo=undo), name="halt")
        await asyncio.shield(self._halting)

    async def _halt_all(self, *, undo: bool) -> None:
        await self.creations.end()
        await asyncio.gather(*self._deletions, return_exceptions=True)
        await self._saver.end()
        kept = [device for device in self._devices.values() if worth_keeping(device)]
        failures = await asyncio.gather(*(self._halt_one(device, undo=undo) for device in self._devices.values()))
        # Of one that was halted cleanly, no host is owed anything for what it has not flushed.
        stay = [device.record() for device in kept if not _is_over(device)]
        records = [*self._orphans.records, *stay]
        self._saver.keep_sockets(stay)
        self._devices.clear()
        told = [failure for failure in failures if failure]
        try:
            self._state.save(records)
        except FtlError as error:
            told.append(error.message)
        if told:
            raise FtlError(f"not all was halted cleanly{' and undone' if undo else ''}: {'; '.join(told)}")

    async def _halt_one(self, device: ManagedDevice, *, undo: bool) -> str:
        """What could not be done."""
        if device.state is DeviceState.DEFERRED and not device.inherited:
            return ""
        undo = undo or device.no_data or not worth_keeping(device)
        failures = await (device.take_down() if undo else device.pause())
        if undo:
            what = "halted" if not failures else "not halted cleanly, or not all undone"
        else:
            what = f"{'halted' if not failures else 'not halted cleanly'}; its bdev and claims stay for the next daemon"
        log.info("%s: %s, asked for by %s", device, what, requester())
        held = device.held_in_file()
        if held is not None:
            log.warning(
                "%s: of what hosts were told is written, %s may be nowhere else: that is for the next daemon, and lost "
                "if this machine goes down before it",
                device,
                held,
            )
        return "; ".join(f"{device.name}: {step}: {failure}" for step, failure in failures)

    async def halt_on_order(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Undoes everything; the daemon ends behind the answer. Raises FtlError: what could not be done."""
        self.require_no_halt()
        if not self._is_up:
            raise BusyError("the daemon is still starting: try again")
        names = [device.name for device in self._devices.values()]
        log.info("halting, asked for by %s", requester())
        try:
            await self.halt(undo=True)
        finally:
            self.on_halted()
        return {"pid": os.getpid(), "halted": names}

    def require_no_halt(self) -> None:
        if self._halting is not None:
            raise FtlError("the daemon is halting", errno=errno.ESHUTDOWN)

    @property
    def is_halting(self) -> bool:
        return self._halting is not None

    def resume(self, record: dict[str, Any], *, inherited: bool) -> bool:
        """It waits for its base from now on. False: the record makes no sense, which was logged."""
        try:
            export = record.get("export")
            device = ManagedDevice(
                _params_given(record),
                self._identity,
                Origin(
                    UUID(record["uuid"]),
                    loads=inherited,
                    export=Export(str(export[0]), str(export[1]), int(export[2])) if export is not None else None,
                    hosts=record.get("hosts"),
                    allowed=record.get("allowed"),
                    inherited=inherited,
                    dependents=record.get("dependents"),
                    life=int(record.get("life") or 0),
                ),
            )
        except (FtlError, KeyError, IndexError, TypeError, ValueError) as error:
            log.error("%s: can't go on with it, the state file's record makes no sense: %s", record["name"], error)
            return False
        self.creations.prepare(device)
        self._devices.put(device)
        if record.get("allowed") is None:
            _warn_of_upgrade(device)
        self.creations.defer(device)
        return True

    # --- for saved configurations

    @property
    def devices(self) -> Mapping[Key, ManagedDevice]:
        return self._devices

    def orphans(self, target: str) -> list[OwnFtl]:
        return self._orphans.left_in(target)

    async def undo_orphans(self, target: str) -> None:
        await self._orphans.undo(target)

    def worth_keeping(self, device: ManagedDevice) -> bool:
        return self._devices.get(key_of(device)) is device and worth_keeping(device)

    def forget(self, key: Key) -> None:
        """What resume() did, at once behind it."""
        self.creations.forget(self._devices[key])

    def require_running(self) -> None:
        self.require_no_halt()
        self._state.require_room()

    def save(self) -> None:
        """Raises FtlError."""
        self._saver.save()

    # --- RPCs ---

    async def create(self, params: dict[str, Any]) -> Any:
        """As Creations.create()."""
        return await self.creations.create(params)

    async def delete(self, request: ForceableRequest) -> Any:
        """True, or the line that says what of it only its write buffer file has."""
        self.require_no_halt()
        device = self.find(request)
        # Either nothing is done, or it is deleted for good.
        self._state.require_room()
        # One that is being created for somebody who waits is refused by take_down().
        created = device.state is DeviceState.CREATING and device not in self.creations.watchers
        held = None if created or device.can_be_halted else device.held_in_file()
        if held is not None and not request.force:
            raise BusyError(
                f"FTL bdev {device.name} is {device.state.value}: of what hosts were told is written, {held} may be "
                f"nowhere else, and can't be made durable now; bring its base bdev {device.options.base_bdev} back, "
                "so that the daemon loads the FTL, and delete it then; or give --force: the file stays, for a load "
                f"with -u {device.uuid} before this machine goes down"
            )
        task = asyncio.ensure_future(self._delete(device))
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)
        failures = await asyncio.shield(task)
        if failures:
            left = "; ".join(f"{step}: {failure}" for step, failure in failures)
            kept = device.held_in_file()
            if kept is not None:
                left += f"; {kept} may be nowhere else: load it with -u {device.uuid} before this machine goes down"
            raise FtlError(f"FTL bdev {device.name} is deleted, but not all could be undone: {left}")
        if held is None:
            return True
        told = (
            f"FTL bdev: {device.name} deleted, and {held} kept: load it with -u {device.uuid} before this machine goes "
            "down, or they are lost"
        )
        log.warning("%s", told)
        return told

    async def _delete(self, device: ManagedDevice) -> list[tuple[str, Exception]]:
        # Also where whoever asked for it has hung up.
        failures = await self.creations.take_down(device)
        what = "deleted" if not failures else "deleted, but not all could be undone"
        log.info("%s: %s, asked for by %s", device, what, requester())
        return failures

    async def get_stats(self, request: FtlRequest) -> dict[str, Any]:
        return self.find(request).stats()

    async def get_properties(self, request: FtlRequest) -> dict[str, Any]:
        return self.find(request).properties()

    async def scrub(self, request: ScrubRequest) -> dict[str, Any]:
        """How it stands, once it is ordered or stopped."""
        self.require_no_halt()
        device = self.find(request)
        told = device.scrub(stop=request.stop)
        log.info("%s: scrub %s, asked for by %s", device, "stopped" if request.stop else "ordered", requester())
        return told

    async def grow(self, request: ForceableRequest) -> dict[str, Any]:
        """{"name", "num_blocks", "changed"} and, of one that the target has as a bdev, "target_num_blocks"."""
        device = self.find_to_change(request)
        work = grow(device, self._identity.rpc(device.target), force=request.force)
        # Whoever asked for it may have hung up: what stands in the target is not left half done.
        told = await asyncio.shield(asyncio.ensure_future(work))
        log.info("%s: %s, asked for by %s", device, "grown" if told["changed"] else "as large as its base", requester())
        return told

    def require_free(self, device: ManagedDevice, name: str) -> None:
        """Raises ExistsError where another one has that name."""
        self._devices.require_free(device, name)

    def renamed(self, device: ManagedDevice, before: str) -> None:
        """It has another name since a moment."""
        self._devices.renamed(device, before)

    def find(self, request: FtlRequest) -> ManagedDevice:
        """As Devices.find()."""
        return self._devices.find(request)

    def find_to_change(self, request: FtlRequest) -> ManagedDevice:
        """Raises NotFoundError, and where the device, or all of them, is being let go of, BusyError or FtlError."""
        self.require_no_halt()
        device = self.find(request)
        if device.state is DeviceState.DELETING:
            raise BusyError(f"FTL bdev {device.name} is being deleted")
        return device

    async def get_devices(self, request: DevicesRequest) -> list[dict[str, Any]]:
        return [device.describe() for device in self._devices.chosen(request)]

    async def get_daemon(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "socket": self._socket_path,
            "state_directory": str(self._state.path),
            "hostnqn": self._identity.hostnqn,
            "listen": self._identity.listen,
            "buffer_directory": str(self._identity.buffer_dir),
            "peer_timeout_s": self._identity.peer_timeout_s,
            "devices": len(self._devices),
            "unneeded_buffers": [each.to_dict() for each in self._buffers.unneeded()],
            "uptime_s": round(time.monotonic() - self._started, 1),
        }

    def tell(self) -> None:
        """Logs the state of every FTL."""
        log.info("%d FTLs", len(self._devices))
        for each in self._devices.values():
            told = each.describe()
            export = told.get("export")
            where = f"{export['traddr']} port {export['trsvcid']}" if export else "nowhere yet"
            log.info(
                "%s: %s since %s, on %s of the target at %s, exported at %s%s",
                each.name,
                told["state"],
                told["since"],
                told["base_bdev"],
                each.target,
                where,
                f": {told['error']}" if told["error"] else "",
            )


def _warn_of_upgrade(device: ManagedDevice) -> None:
    """Daemons before this one let every host in, and did not say so in the state file."""
    own = "only the target itself may" if not device.options.no_attach else "no host may"
    were = show_names({host.hostnqn: None for host in device.hosts.hosts})
    log.warning(
        "%s: the daemon before this one let any host connect; now %s, until others are allowed with `spdk-ftl add-host "
        "-b %s --host NQN`, or all with `spdk-ftl allow-any-host -b %s --allow-any-host`%s",
        device,
        own,
        device.name,
        device.name,
        f"; hosts that were connected (the target among them): {were}" if were else "",
    )


def _is_over(device: ManagedDevice) -> bool:
    """Halted, it is not there any more, nor anything of it."""
    return device.no_data and device.state is DeviceState.DELETING and not device.left_behind


def _params_given(record: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a record. Older daemons filled defaults into them: of these nothing tells whether they were
    given, and what an FTL has is not to be compared with what nobody has said."""
    params = dict(record["params"])
    if record.get("params_are_as_given") is not True:
        for name, default in _DEFAULTS_FILLED_IN.items():
            if params.get(name) == default:
                del params[name]
    return params

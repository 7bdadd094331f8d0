"""All FTLs of the daemon. The registry takes over from an earlier daemon, answers RPCs, and halts every FTL."""

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
from ..runtime.logs import LogLevels
from ..runtime.tasks import end_tasks
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
from .ending import HaltLimit
from .front import Export
from .growing import grow
from .halt_watch import HaltWatch
from .host_rpcs import HostRpcs
from .http_listener import Route
from .listener_rpcs import ListenerRpcs
from .log_rpcs import LogRpcs
from .metrics import PATH as METRICS_PATH
from .metrics import Metrics
from .nbd_rpcs import NbdRpcs
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
from .vfio_user_export import remove_stray_endpoints

HALT_MARGIN_S: Final = 60.0
"""For what follows when the time for a halt is over: connections end, and the target is asked."""
_DEFAULTS_FILLED_IN: Final = {"overprovisioning": 20, "use_append": False}

log = logging.getLogger(__name__)


class Registry:
    """The FTLs of one daemon. Names are unique for each target."""

    def __init__(
        self, state: StateDirectory, identity: DaemonIdentity, *, socket_path: str, logs: LogRpcs | None = None
    ) -> None:
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
        self._deletions: dict[asyncio.Task[Any], ManagedDevice] = {}
        self._halting: asyncio.Task[None] | None = None
        self.on_halting: Callable[[float, Callable[[], object]], None] = lambda most_s, moves: None
        """A halt begins. It takes so many seconds at most, and what the call returns changes while it moves on."""
        self.on_halt_status: Callable[[str], None] = lambda text: None
        """How far the halt is, in a line."""
        self.on_halted: Callable[[], None] = lambda: None
        """An RPC has halted everything: the daemon has to end."""
        self._is_up = False
        """The state that an earlier daemon left has been read."""
        self._orders = Orders(self)
        self._hosts = HostRpcs(self.find, self.find_to_change)
        self._nbd = NbdRpcs(self.find, self.find_to_change, self._devices.chosen)
        self._listeners = ListenerRpcs(self.find_to_change)
        self._configs = ConfigRpcs(self, identity)
        self._scans = Scans(self, identity, identity.prober)
        self._buffers = BufferRpcs(self._devices, identity.buffer_dir)
        self._logs = logs or LogRpcs(LogLevels())
        self._started = time.monotonic()
        self._metrics = Metrics(self._devices.values)
        self.urls: dict[str, str] = {}
        """Where the daemon listens for HTTP on TCP, by what it is for."""

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
            **self._nbd.methods,
            **self._listeners.methods,
            **self._orders.methods,
            "ftl_get_devices": takes(DevicesRequest, self.get_devices),
            "ftl_get_daemon": self.get_daemon,
            "ftl_halt": self.halt_on_order,
            **self._configs.methods,
            **self._scans.methods,
            **self._buffers.methods,
            **self._logs.methods,
        }

    @property
    def pages(self) -> dict[str, Route]:
        """What GET answers, by path."""
        return {METRICS_PATH: self._metrics.page}

    # --- start and halt ---

    async def start(self, saved: Sequence[SavedFtl] = ()) -> None:
        """Takes over from an earlier daemon. FTLs that are on media are loaded as soon as their base bdev exists, under
        the same address and with what is still in the target. Deferred creations keep waiting. Everything else that was
        left in targets is undone. saved: FTLs of a saved configuration; the state file takes precedence."""
        known = {UUID(record["uuid"]) for record in self._state.devices}
        remove_stray_files(self._identity.key_dir, known)
        remove_stray_endpoints(self._identity.endpoint_dir, known)
        for record in self._state.devices:
            deferred = record["state"] == DeviceState.DEFERRED.value
            loads = record.get("loads") is True and record["state"] != DeviceState.DELETING.value
            if not (loads or deferred) or not self.resume(record, inherited=loads):
                # Like a device that is being deleted: the next reader of the state file only undoes it.
                if (record.get("params") or {}).get("no_data"):
                    log.warning("%s: was created with no_data, so it is gone", record["name"])
                self._orphans.leave_behind(record)
        self._configs.start(saved)
        targets = {each["target"] for each in self._orphans.records}
        await asyncio.gather(*(self._orphans.undo(target) for target in targets))
        self._saver.save()
        self._is_up = True

    async def halt(self, *, undo: bool = False) -> None:
        """Halts every FTL cleanly. What the daemon made in the targets stays for the next daemon, as does the state
        file, and hosts see a pause. undo: removes it from the targets. A second caller waits for the end of the first
        call.

        Raises FtlError at the end if an FTL could not be halted, or undone.
        """
        if self._halting is None:
            watch = HaltWatch(self._devices.values, lambda text: self.on_halt_status(text))
            self.on_halting(self._identity.halt_timeout_s + HALT_MARGIN_S, watch.moves)
            self._halting = asyncio.create_task(self._halt_all(watch, undo=undo), name="halt")
        await asyncio.shield(self._halting)

    async def _halt_all(self, watch: HaltWatch, *, undo: bool) -> None:
        telling = asyncio.create_task(watch.run(), name="tell of the halt")
        try:
            await self._halt_watched(watch, undo=undo)
        finally:
            await end_tasks([telling])

    async def _halt_watched(self, watch: HaltWatch, *, undo: bool) -> None:
        limit = HaltLimit.from_now(self._identity.halt_timeout_s)
        for device in self._devices.values():
            # Also if it is being deleted, or halted for a change.
            device.halt_limit = limit
        begun: set[ManagedDevice] = set()
        kept: set[ManagedDevice] = set()
        failures: list[str] = []

        async def halt_one(device: ManagedDevice) -> None:
            if worth_keeping(device):
                kept.add(device)
            try:
                failures.append(await self._halt_one(device, undo=undo))
            finally:
                watch.halted(device)

        async def halt_those(devices: list[ManagedDevice]) -> None:
            left = [device for device in devices if device not in begun]
            begun.update(left)
            await asyncio.gather(*map(halt_one, left))

        async def end_creations() -> None:
            await self.creations.end()
            await halt_those(self._served())

        # They share the time for the halt: none waits for what may use it up.
        await asyncio.gather(
            halt_those(self._served()), end_creations(), asyncio.gather(*self._deletions, return_exceptions=True)
        )
        # Those that wait for a base, and what a deletion left.
        await halt_those(list(self._devices.values()))
        await self._saver.end()
        # After a clean halt no host has unflushed writes that could be lost.
        stay = [device.record() for device in self._devices.values() if device in kept and not _is_over(device)]
        records = [*self._orphans.records, *stay]
        self._saver.keep_sockets(stay)
        self._devices.clear()
        messages = [failure for failure in failures if failure]
        try:
            self._state.save(records)
        except FtlError as error:
            messages.append(error.message)
        if messages:
            raise FtlError(f"not everything was halted cleanly{' and undone' if undo else ''}: {'; '.join(messages)}")

    def _served(self) -> list[ManagedDevice]:
        """Those that are neither being created nor being deleted."""
        deleted = {self._devices.get(key_of(device), device) for device in self._deletions.values()}
        others = (DeviceState.DELETING, DeviceState.CREATING, DeviceState.DEFERRED)
        return [device for device in self._devices.values() if device not in deleted and device.state not in others]

    async def _halt_one(self, device: ManagedDevice, *, undo: bool) -> str:
        """What could not be done."""
        if device.state is DeviceState.DEFERRED and not device.inherited:
            return ""
        undo = undo or device.no_data or not worth_keeping(device)
        failures = await (device.take_down() if undo else device.pause())
        if undo:
            what = "halted" if not failures else "not halted cleanly, or not completely undone"
        else:
            what = f"{'halted' if not failures else 'not halted cleanly'}; its bdev and claims stay for the next daemon"
        log.info("%s: %s, asked for by %s", device, what, requester())
        held = device.held_in_file()
        if held is not None:
            log.warning(
                "%s: acknowledged writes may be only in the write buffer file, %s: the next daemon loads them; they "
                "are lost if this machine goes down before that",
                device,
                held,
            )
        return "; ".join(f"{device.name}: {step}: {failure}" for step, failure in failures)

    async def halt_on_order(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Halts and undoes everything; the daemon ends after the answer. Raises FtlError: what could not be done."""
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
        """The FTL waits for its base from now on. False: the record is invalid, which was logged."""
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
                    listeners=record.get("listeners"),
                    # Earlier daemons knew only NVMe/TCP.
                    transport=record.get("transport", "tcp" if export is not None else None),
                ),
            )
        except (FtlError, KeyError, IndexError, TypeError, ValueError) as error:
            log.error("%s: not loaded, its record in the state file is invalid: %s", record["name"], error)
            return False
        self.creations.prepare(device)
        self._devices.put(device)
        if record.get("allowed") is None:
            _warn_of_upgrade(device)
        self.creations.defer(device)
        return True

    # --- for saved configurations

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started

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
        """Undoes resume(), immediately after it."""
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
        """True, or a line that says which writes only its write buffer file holds."""
        self.require_no_halt()
        device = self.find(request)
        # The delete either does nothing, or is final.
        self._state.require_room()
        # take_down() refuses a device that is being created for a waiting caller.
        created = device.state is DeviceState.CREATING and device not in self.creations.watchers
        held = None if created or device.can_be_halted else device.held_in_file()
        if held is not None and not request.force:
            raise BusyError(
                f"FTL bdev {device.name} is {device.state.value}: acknowledged writes may be only in its write buffer "
                f"file, {held}, and can't be made durable now: bring its base bdev {device.options.base_bdev} back, "
                "wait until the daemon has loaded the FTL, and delete it then; or give --force: the file stays, for "
                f"a load with -u {device.uuid} before this machine goes down"
            )
        task = asyncio.ensure_future(self._delete(device))
        self._deletions[task] = device
        task.add_done_callback(self._deletions.pop)
        failures = await asyncio.shield(task)
        if failures:
            left = "; ".join(f"{step}: {failure}" for step, failure in failures)
            kept = device.held_in_file()
            if kept is not None:
                left += (
                    f"; acknowledged writes may be only in {kept}: load the FTL with -u {device.uuid} before this "
                    "machine goes down"
                )
            raise FtlError(f"FTL bdev {device.name} is deleted, but the daemon could not undo everything: {left}")
        if held is None:
            return True
        message = (
            f"FTL bdev: {device.name} deleted, and {held} kept: load the FTL with -u {device.uuid} before this "
            "machine goes down, or these blocks are lost"
        )
        log.warning("%s", message)
        return message

    async def _delete(self, device: ManagedDevice) -> list[tuple[str, Exception]]:
        # Also if the requester has disconnected.
        failures = await self.creations.take_down(device)
        what = "deleted" if not failures else "deleted, but not completely undone"
        log.info("%s: %s, asked for by %s", device, what, requester())
        return failures

    async def get_stats(self, request: FtlRequest) -> dict[str, Any]:
        return self.find(request).stats()

    async def get_properties(self, request: FtlRequest) -> dict[str, Any]:
        return self.find(request).properties()

    async def scrub(self, request: ScrubRequest) -> dict[str, Any]:
        """The state of the scrub, after it was ordered or stopped."""
        self.require_no_halt()
        device = self.find(request)
        status = device.scrub(stop=request.stop)
        log.info("%s: scrub %s, asked for by %s", device, "stopped" if request.stop else "ordered", requester())
        return status

    async def grow(self, request: ForceableRequest) -> dict[str, Any]:
        """{"name", "num_blocks", "changed"} and, for an FTL that is attached to the target, "target_num_blocks"."""
        device = self.find_to_change(request)
        work = grow(device, self._identity.rpc(device.target), force=request.force)
        # The requester may have disconnected: the change in the target must not be left half done.
        result = await asyncio.shield(asyncio.ensure_future(work))
        log.info(
            "%s: %s, asked for by %s",
            device,
            "grown" if result["changed"] else "is already as large as its base",
            requester(),
        )
        return result

    def require_free(self, device: ManagedDevice, name: str) -> None:
        """Raises ExistsError if another FTL has that name."""
        self._devices.require_free(device, name)

    def renamed(self, device: ManagedDevice, before: str) -> None:
        """The FTL has just been renamed."""
        self._devices.renamed(device, before)

    def find(self, request: FtlRequest) -> ManagedDevice:
        """As Devices.find()."""
        return self._devices.find(request)

    def find_to_change(self, request: FtlRequest) -> ManagedDevice:
        """Raises NotFoundError; BusyError if the device is being deleted, FtlError if the daemon is halting."""
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
            "discovery": self._identity.discovery,
            "buffer_directory": str(self._identity.buffer_dir),
            "peer_timeout_s": self._identity.peer_timeout_s,
            "devices": len(self._devices),
            "urls": self.urls,
            "unneeded_buffers": [each.to_dict() for each in self._buffers.unneeded()],
            **self._logs.describe(),
            "uptime_s": round(self.uptime_s, 1),
        }

    def tell(self) -> None:
        """Logs the state of every FTL."""
        log.info("%d FTLs", len(self._devices))
        for each in self._devices.values():
            description = each.describe()
            export = description.get("export")
            where = _where(export) if export else "nowhere yet"
            log.info(
                "%s: %s since %s, on %s of the target at %s, exported at %s%s",
                each.name,
                description["state"],
                description["since"],
                description["base_bdev"],
                each.target,
                where,
                f": {description['error']}" if description["error"] else "",
            )


def _where(export: dict[str, Any]) -> str:
    port = f" port {export['trsvcid']}" if export["trsvcid"] else f" ({export['trtype']})"
    return f"{export['traddr']}{port}"


def _warn_of_upgrade(device: ManagedDevice) -> None:
    """Earlier daemons let every host connect, and did not record that in the state file."""
    own = "only the target itself may connect" if not device.options.no_attach else "no host may connect"
    were = show_names({host.hostnqn: None for host in device.hosts.hosts})
    log.warning(
        "%s: the previous daemon let any host connect; now %s: allow a host with `spdk-ftl add-host -b %s --host "
        "NQN`, or all hosts with `spdk-ftl allow-any-host -b %s --allow-any-host`%s",
        device,
        own,
        device.name,
        device.name,
        f"; hosts that were connected (the target among them): {were}" if were else "",
    )


def _is_over(device: ManagedDevice) -> bool:
    """After the halt neither the FTL nor anything of it exists."""
    return device.no_data and device.state is DeviceState.DELETING and not device.left_behind


def _params_given(record: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a record. Earlier daemons filled in defaults, so it is unknown which of them a user had given.
    Such defaults must not be compared with what the FTL has."""
    params = dict(record["params"])
    if record.get("params_are_as_given") is not True:
        for name, default in _DEFAULTS_FILLED_IN.items():
            if params.get(name) == default:
                del params[name]
    return params

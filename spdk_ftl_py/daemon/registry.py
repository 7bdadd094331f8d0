"""All FTLs of the daemon, and the RPCs on them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ..errors import BusyError, ExistsError, FtlError, NotFoundError, ParameterError
from ..ftl.load.write_buffer_file import BufferFile, BufferFiles, buffer_files, in_use
from ..runtime.tasks import end_tasks
from ..spdk.attach import detach
from ..spdk.bdevs import find_bdev
from ..spdk.exports import bdev_nqn, remove_subsystem
from ..spdk.rpc import is_gone
from ..spdk.saved_config import OwnFtl
from ..text import show_names
from ..version import __version__
from .base import DaemonIdentity, DeferredError, UnfitError
from .checks import FtlThereError
from .config_rpcs import ConfigRpcs, normal_target
from .device import DeviceState, ManagedDevice
from .ending import PROBE_TIMEOUT_S
from .front import Export
from .growing import grow
from .host_rpcs import HostRpcs
from .orders import Orders
from .requester import requester
from .saved import SavedFtl
from .scans import Scans
from .session_keys import drop_all, remove_stray_files
from .state import StateDirectory
from .terms import POLL_S, Terms, check_agrees, is_patient, may_come, wait_online

DEFERRED_POLL_MIN_S: Final = 0.2
DEFERRED_POLL_MAX_S: Final = 2.0
DEFERRED_POLL_GROWTH: Final = 1.5
SAVE_AGAIN_S: Final = 1.0
_DEFAULTS_FILLED_IN: Final = {"overprovisioning": 20, "use_append": False}

Key = tuple[str, str]
"""Target and name."""

log = logging.getLogger(__name__)


class Registry:
    """A name space of FTLs for each target."""

    def __init__(self, state: StateDirectory, identity: DaemonIdentity, *, socket_path: str) -> None:
        self._state = state
        self._identity = identity
        identity.own_bdevs.known = self._own_ftls
        self._socket_path = socket_path
        self._devices: dict[Key, ManagedDevice] = {}
        self._watchers: dict[ManagedDevice, asyncio.Task[None]] = {}
        self._orphans: list[dict[str, Any]] = []
        """Records of deleted devices whose objects in the target could not be removed yet."""
        self._undoing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """A lock for each target, so that one creation does not repeat the undo of another after its new export."""
        self._creations: set[asyncio.Task[Any]] = set()
        self._deletions: set[asyncio.Task[Any]] = set()
        self._saving: asyncio.Task[None] | None = None
        """Retries until the state file is up to date."""
        self._halting: asyncio.Task[None] | None = None
        self.on_halted: Callable[[], None] = lambda: None
        """An RPC has halted everything: the daemon has to end."""
        self._is_up = False
        """What an earlier daemon left is known."""
        self._orders = Orders(self)
        self._hosts = HostRpcs(self.find, self.find_to_change)
        self._configs = ConfigRpcs(self, identity)
        self._scans = Scans(self, identity, identity.prober)
        self._started = time.monotonic()

    @property
    def methods(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """By RPC name, for RpcServer."""
        return {
            "bdev_ftl_create": self.create,
            "bdev_ftl_delete": self.delete,
            "bdev_ftl_get_stats": self.get_stats,
            "bdev_ftl_get_properties": self.get_properties,
            "bdev_ftl_scrub": self.scrub,
            "bdev_ftl_grow": self.grow,
            **self._hosts.methods,
            **self._orders.methods,
            "ftl_get_devices": self.get_devices,
            "ftl_get_daemon": self.get_daemon,
            "ftl_remove_buffers": self.remove_buffers,
            "ftl_halt": self.halt_on_order,
            **self._configs.methods,
            **self._scans.methods,
        }

    # --- start and halt ---

    async def start(self, saved: Sequence[SavedFtl] = ()) -> None:
        """Takes over from an earlier daemon. FTLs that are on media are loaded as soon as their base bdev exists, under
        the same address and with what is still in the target. Deferred creations keep waiting. Everything else that was
        left in targets is undone. saved: FTLs of a saved configuration; the state file takes precedence."""
        remove_stray_files(self._identity.key_dir, {UUID(record["uuid"]) for record in self._state.devices})
        for record in self._state.devices:
            deferred = record["state"] == DeviceState.DEFERRED.value
            loads = record.get("loads") is True and record["state"] != DeviceState.DELETING.value
            if not (loads or deferred) or not self.resume(record, inherited=loads):
                # Like a device that is being deleted: the next reader of the state file only undoes it.
                if (record.get("params") or {}).get("no_data"):
                    log.warning("%s: was created with no_data, so it is gone", record["name"])
                self._leave_behind(record)
        self._configs.start(saved)
        await asyncio.gather(*(self.undo_orphans(target) for target in {each["target"] for each in self._orphans}))
        self._save()
        self._is_up = True

    async def halt(self, *, undo: bool = False) -> None:
        """Halts every FTL cleanly. What the daemon made in the targets stays for the next daemon, as does the state
        file, and hosts see a pause. undo: removes it from the targets. A second caller waits for the end of the first
        call.

        Raises FtlError at the end if an FTL could not be halted, or undone.
        """
        if self._halting is None:
            self._halting = asyncio.create_task(self._halt_all(undo=undo), name="halt")
        await asyncio.shield(self._halting)

    async def _halt_all(self, *, undo: bool) -> None:
        await end_tasks([*self._watchers.values(), *self._creations])
        await asyncio.gather(*self._deletions, return_exceptions=True)
        if self._saving is not None:
            await end_tasks([self._saving])
        kept = [device for device in self._devices.values() if _worth_keeping(device)]
        failures = await asyncio.gather(*(self._halt_one(device, undo=undo) for device in self._devices.values()))
        # After a clean halt no host has unflushed writes that could be lost.
        stay = [device.record() for device in kept if not _is_over(device)]
        records = [*self._orphans, *stay]
        self._keep_sockets(stay)
        self._devices = {}
        told = [failure for failure in failures if failure]
        try:
            self._state.save(records)
        except FtlError as error:
            told.append(error.message)
        if told:
            raise FtlError(f"not everything was halted cleanly{' and undone' if undo else ''}: {'; '.join(told)}")

    async def _halt_one(self, device: ManagedDevice, *, undo: bool) -> str:
        """What could not be done."""
        if device.state is DeviceState.DEFERRED and not device.inherited:
            return ""
        undo = undo or device.no_data or not _worth_keeping(device)
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
                UUID(record["uuid"]),
                loads=inherited,
                export=Export(str(export[0]), str(export[1]), int(export[2])) if export is not None else None,
                hosts=record.get("hosts"),
                allowed=record.get("allowed"),
                inherited=inherited,
                dependents=record.get("dependents"),
                life=int(record.get("life") or 0),
            )
        except (FtlError, KeyError, IndexError, TypeError, ValueError) as error:
            log.error("%s: not loaded, its record in the state file is invalid: %s", record["name"], error)
            return False
        self._prepare(device)
        self._devices[key_of(device)] = device
        if record.get("allowed") is None:
            _warn_of_upgrade(device)
        self._defer(device)
        return True

    # --- for saved configurations

    @property
    def devices(self) -> Mapping[Key, ManagedDevice]:
        return self._devices

    def orphans(self, target: str) -> list[OwnFtl]:
        """Deleted FTLs that have left something in that target."""
        mine = [each for each in self._orphans if each["target"] == target]
        return [OwnFtl(each["name"], UUID(each["uuid"]), (each.get("export") or [None])[0]) for each in mine]

    def _own_ftls(self, target: str) -> list[OwnFtl]:
        mine = [device for device in self._devices.values() if device.target == target]
        return [OwnFtl(device.name, device.uuid, device.nqn) for device in mine]

    def worth_keeping(self, device: ManagedDevice) -> bool:
        return self._devices.get(key_of(device)) is device and _worth_keeping(device)

    def forget(self, key: Key) -> None:
        """Undoes resume(), immediately after it."""
        self._watchers.pop(self._devices.pop(key)).cancel()

    def require_running(self) -> None:
        self.require_no_halt()
        self._state.require_room()

    def save(self) -> None:
        """Raises FtlError."""
        self._save()

    def _leave_behind(self, record: dict[str, Any]) -> None:
        """The next reader of the state file only has to undo it in its target."""
        self._orphans.append({**record, "state": DeviceState.DELETING.value})

    async def undo_orphans(self, target: str) -> None:
        """What can't be undone now is retried before the next creation on that target."""
        async with self._undoing[target]:
            with contextlib.suppress(FtlError):
                # What a scan has left would keep an FTL from its base.
                await self._identity.prober.clean(self._identity.rpc(target))
            for record in [each for each in self._orphans if each["target"] == target]:
                rpc = self._identity.rpc(target)
                device = UUID(record["uuid"])
                try:
                    await rpc.call("spdk_get_version", timeout_s=PROBE_TIMEOUT_S)
                    await detach(rpc, name=record["name"], device=device)
                    for role in ("cache", "base"):
                        await remove_subsystem(rpc, bdev_nqn(role, device))
                    await drop_all(rpc, self._identity.key_dir, device, record["params"].get("target_psk"))
                except FtlError as error:
                    log.warning("%s: can't remove what is left of it in its target: %s", record["name"], error)
                    if not is_gone(error):
                        continue
                self._orphans.remove(record)

    # --- RPCs ---

    async def create(self, params: dict[str, Any]) -> Any:
        """{"name", "uuid"}, with more members as its terms require (Terms.answer), or the line that the creation is
        deferred."""
        self.require_no_halt()
        self._state.require_room()
        params["target"] = normal_target(params["target"])
        name = params["name"]
        key, asked = (params["target"], name), dict(params)
        terms = Terms.take(params)
        while terms.if_absent and (other := self._devices.get(key)) is not None:
            if other.state is DeviceState.CREATING and other not in self._watchers:
                # Another caller requests the same FTL: it is created in a moment, or not at all.
                await asyncio.sleep(POLL_S)
                self.require_running()
                continue
            await self._check_agrees(other, asked)
            return terms.answer(await self._wait_online(key, terms), changed=False)
        other = self._devices.get(key)
        if other is not None:
            raise ExistsError(
                f"name {name}: there is an FTL bdev of that name ({other.state.value}, on the SPDK target at "
                f"{other.target}): choose another, or delete it first"
            )
        device = ManagedDevice(params, self._identity, terms.chosen)
        self._check_no_twin(device.uuid)
        self._check_nqn_free(device)
        self._devices[key] = device
        task = asyncio.ensure_future(self._bring_up(device))
        self._creations.add(task)
        task.add_done_callback(self._creations.discard)
        # The requester may disconnect: the creation continues until it succeeds or fails.
        try:
            device = await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise FtlError(f"FTL bdev {name}: not created, the daemon is halting", errno=errno.ESHUTDOWN) from None
            raise
        if device.state is DeviceState.DEFERRED and not terms.asks_for_json:
            return f"FTL bdev: {name} creation deferred"
        return terms.answer(await self._wait_online(key, terms, device), changed=True)

    async def _check_agrees(self, device: ManagedDevice, asked: dict[str, Any]) -> None:
        """Raises what check_agrees() raises."""
        told = self._properties(device)
        for role, has in (("base", told["base_bdev"]), ("cache", device.params.get("cache"))):
            wanted = asked.get("base_bdev" if role == "base" else "cache")
            if wanted in (None, has):
                continue
            with contextlib.suppress(FtlError):
                # It may be another name of the same bdev.
                bdev = await find_bdev(self._identity.rpc(device.target), wanted)
                if bdev is not None and has in bdev.names:
                    asked = {**asked, "base_bdev" if role == "base" else "cache": has}
        check_agrees(device, asked, told)

    async def _wait_online(self, key: Key, terms: Terms, device: ManagedDevice | None = None) -> ManagedDevice:
        """The result for device (default: the one with that key) after the wait. Raises what wait_online() raises."""
        if device is not None and (terms.wait_s is None or device.state is not DeviceState.DEFERRED):
            return device
        return await wait_online(lambda: self._devices.get(key), key[1], terms.wait_s or 0, lambda: self.is_halting)

    def _check_no_twin(self, uuid: UUID, but: ManagedDevice | None = None) -> None:
        twin = next((each for each in self._devices.values() if each.uuid == uuid and each is not but), None)
        if twin is not None:
            raise ExistsError(
                f"uuid {uuid}: FTL bdev {twin.name} ({twin.state.value}, on the SPDK target at {twin.target}) already "
                "has it: choose another, or delete that FTL first"
            )

    def _check_nqn_free(self, device: ManagedDevice, but: ManagedDevice | None = None) -> None:
        for other in self._devices.values():
            if other.nqn == device.nqn and other is not but:
                raise ExistsError(
                    f"nqn {device.nqn}: FTL bdev {other.name} (on the SPDK target at {other.target}) already has it: "
                    "choose another with --nqn, which may contain {uuid}"
                )

    def _load_instead(self, device: ManagedDevice, error: FtlThereError) -> ManagedDevice:
        """With load_or_create, the FTL that was found on the base of device replaces it, and is loaded. Raises the
        error if that was not requested, and ExistsError if it is not the requested FTL."""
        if not device.params.get("load_or_create"):
            raise error
        wanted = device.params.get("uuid")
        if wanted is not None and UUID(wanted) != error.uuid:
            raise ExistsError(
                f"base bdev {device.params['base_bdev']} already holds an FTL, with uuid {error.uuid} instead of "
                f"{wanted}: give another base, or that uuid; nothing was done"
            ) from error
        self._check_no_twin(error.uuid, device)
        record = device.record()
        params = {name: value for name, value in record["params"].items() if name not in ("load_or_create", "uuid")}
        found = ManagedDevice(
            params,
            self._identity,
            error.uuid,
            loads=True,
            allowed=record["allowed"],
            dependents=record["dependents"],
        )
        self._check_nqn_free(found, device)
        self._prepare(found)
        self._devices[key_of(found)] = found
        if device in self._watchers:
            self._watchers[found] = self._watchers.pop(device)
        self._save()
        return found

    def _prepare(self, device: ManagedDevice) -> None:
        device.on_change = self._save
        device.on_change_behind = self._save_for_sure
        device.hosts.require_state_room = self._require_room_for_host

    async def _bring_up(self, device: ManagedDevice) -> ManagedDevice:
        """Brings the device online, or defers it. With load_or_create the result may be another device."""
        self._prepare(device)
        try:
            await self.undo_orphans(device.target)
            self._save()
            try:
                await device.bring_up()
            except FtlThereError as error:
                device = self._load_instead(device, error)
                await device.bring_up()
        except BaseException as error:
            if not self._is_deferred_by(device, error):
                del self._devices[key_of(device)]
                if device.left_behind:
                    self._leave_behind(device.record())
                self._save_for_sure()
                raise
            self._defer(device, str(error))
        try:
            self._save()
        except FtlError:
            # Otherwise the next daemon would not know it.
            await self._take_down(device)
            raise
        log.info(
            "%s: %s, asked for by %s",
            device,
            "creation deferred" if device.state is DeviceState.DEFERRED else device.how_it_came,
            requester(),
        )
        return device

    @staticmethod
    def _is_deferred_by(device: ManagedDevice, error: BaseException) -> bool:
        """The creation continues when what it waits for exists."""
        if isinstance(error, DeferredError):
            return True
        return is_patient(device.params) and may_come(error) and not device.left_behind

    async def delete(self, params: dict[str, Any]) -> Any:
        """True, or a line that says which writes only its write buffer file holds."""
        self.require_no_halt()
        device = self.find(params)
        # The delete either does nothing, or is final.
        self._state.require_room()
        # take_down() refuses a device that is being created for a waiting caller.
        created = device.state is DeviceState.CREATING and device not in self._watchers
        held = None if created or device.can_be_halted else device.held_in_file()
        if held is not None and not params.get("force"):
            raise BusyError(
                f"FTL bdev {device.name} is {device.state.value}: acknowledged writes may be only in its write buffer "
                f"file, {held}, and can't be made durable now: bring its base bdev {device.params['base_bdev']} back, "
                "wait until the daemon has loaded the FTL, and delete it then; or give --force: the file stays, for "
                f"a load with -u {device.uuid} before this machine goes down"
            )
        task = asyncio.ensure_future(self._delete(device))
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)
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
        told = (
            f"FTL bdev: {device.name} deleted, and {held} kept: load the FTL with -u {device.uuid} before this "
            "machine goes down, or these blocks are lost"
        )
        log.warning("%s", told)
        return told

    async def _delete(self, device: ManagedDevice) -> list[tuple[str, Exception]]:
        # Also if the requester has disconnected.
        failures = await self._take_down(device)
        what = "deleted" if not failures else "deleted, but not completely undone"
        log.info("%s: %s, asked for by %s", device, what, requester())
        return failures

    async def _take_down(self, device: ManagedDevice) -> list[tuple[str, Exception]]:
        # With load_or_create it may have been replaced by another one.
        device = self._devices.get(key_of(device), device)
        watcher = self._watchers.get(device)
        if watcher is not None:
            # Whether it waits for its base or is being made on it: it is undone, and then DEFERRED.
            await end_tasks([watcher])
            device = self._devices.get(key_of(device), device)
        record = device.record()
        failures = await device.take_down()
        if device.left_behind:
            self._leave_behind(record)
        del self._devices[key_of(device)]
        failure = self._save_for_sure()
        if failure is not None:
            failures = [*failures, ("remove it from the state file (the daemon keeps trying)", failure)]
        return failures

    async def get_stats(self, params: dict[str, Any]) -> dict[str, Any]:
        return self.find(params).stats()

    async def get_properties(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._properties(self.find(params))

    @staticmethod
    def _properties(device: ManagedDevice) -> dict[str, Any]:
        return {**device.properties(), "params": device.params}

    async def scrub(self, params: dict[str, Any]) -> dict[str, Any]:
        """The state of the scrub, after it was ordered or stopped."""
        self.require_no_halt()
        device = self.find(params)
        told = device.scrub(stop=bool(params.get("stop")))
        log.info("%s: scrub %s, asked for by %s", device, "stopped" if params.get("stop") else "ordered", requester())
        return told

    async def grow(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"name", "num_blocks", "changed"} and, for an FTL that is attached to the target, "target_num_blocks"."""
        device = self.find_to_change(params)
        work = grow(device, self._identity.rpc(device.target), force=bool(params.get("force")))
        # The requester may have disconnected: the change in the target must not be left half done.
        told = await asyncio.shield(asyncio.ensure_future(work))
        log.info(
            "%s: %s, asked for by %s",
            device,
            "grown" if told["changed"] else "is already as large as its base",
            requester(),
        )
        return told

    def require_free(self, device: ManagedDevice, name: str) -> None:
        """Raises ExistsError if another FTL has that name."""
        other = self._devices.get((device.target, name))
        if other is not None and other is not device:
            raise ExistsError(
                f"name {name}: there is an FTL bdev of that name ({other.state.value}, on the SPDK target at "
                f"{other.target}): choose another"
            )

    def renamed(self, device: ManagedDevice, before: str) -> None:
        """The FTL has just been renamed."""
        if self._devices.get((device.target, before)) is device:
            del self._devices[(device.target, before)]
        self._devices[key_of(device)] = device

    def find_to_change(self, params: dict[str, Any]) -> ManagedDevice:
        """Raises NotFoundError; BusyError if the device is being deleted, FtlError if the daemon is halting."""
        self.require_no_halt()
        device = self.find(params)
        if device.state is DeviceState.DELETING:
            raise BusyError(f"FTL bdev {device.name} is being deleted")
        return device

    async def get_devices(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        target = normal_target(params["target"]) if params.get("target") is not None else None
        if params.get("name") is not None:
            named = [device for device in self._named(params["name"]) if target in (None, device.target)]
            return [device.describe() for device in named or [self.find(params)]]
        return [device.describe() for device in self._devices.values() if target in (None, device.target)]

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
            "unneeded_buffers": [each.to_dict() for each in self._unneeded_buffers()],
            "uptime_s": round(time.monotonic() - self._started, 1),
        }

    # --- write buffer files that were left

    def _unneeded_buffers(self) -> list[BufferFile]:
        """Write buffer files of FTLs that neither this daemon knows, in whatever state, nor another process serves."""
        directory = self._identity.buffer_dir
        if directory is None:
            return []
        known = {device.uuid for device in self._devices.values()}
        return [each for each in buffer_files(directory) if each.uuid not in known and not in_use(directory, each.uuid)]

    async def remove_buffers(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"removed": as in get_daemon()}. Removes all requested files, or none."""
        directory = self._identity.buffer_dir
        chosen = self._unneeded_buffers()
        if params.get("uuid") is not None:
            uuid = UUID(params["uuid"])
            chosen = [each for each in chosen if each.uuid == uuid]
            if not chosen:
                raise self._no_such_buffer(uuid)
        held = [each for each in chosen if not each.holds_nothing]
        if held and not params.get("force"):
            raise BusyError(
                f"acknowledged writes may be only in these files, {'; '.join(map(str, held))}: load the FTL with "
                "bdev_ftl_create -u UUID, or give --force to lose the writes; nothing was removed"
            )
        for each in chosen:
            assert directory is not None
            files = BufferFiles.acquire(directory, each.uuid)
            try:
                files.remove()
            finally:
                files.release()
            log.info("removed a write buffer with %s, asked for by %s", each, requester())
        return {"removed": [each.to_dict() for each in chosen]}

    def _no_such_buffer(self, uuid: UUID) -> FtlError:
        owner = next((device for device in self._devices.values() if device.uuid == uuid), None)
        if owner is not None:
            return BusyError(f"write buffer of {uuid}: FTL bdev {owner.name} ({owner.state.value}) needs it")
        directory = self._identity.buffer_dir
        if directory is not None and in_use(directory, uuid):
            return BusyError(f"write buffer of {uuid}: another process serves that FTL")
        return NotFoundError(f"write buffer of {uuid}: there is none in {directory}")

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

    def find(self, params: dict[str, Any]) -> ManagedDevice:
        """The FTL named params["name"], on params["target"] if that is given. Raises NotFoundError, or ParameterError
        if only the target would make the name unique."""
        name = params["name"]
        named = self._named(name)
        if not named:
            there = ", ".join(sorted({device.name for device in self._devices.values()})) or "none"
            raise NotFoundError(f"FTL bdev {name}: no such FTL; the daemon has: {there}")
        targets = ", ".join(device.target for device in named)
        if params.get("target") is not None:
            device = self._devices.get((normal_target(params["target"]), name))
            if device is None:
                raise NotFoundError(f"FTL bdev {name}: is on the SPDK target at {targets}, not at {params['target']}")
            return device
        if len(named) > 1:
            raise ParameterError(
                f"FTL bdev {name}: each of the SPDK targets at {targets} has one: name the target with -s TARGET (the "
                "RPC's parameter target)"
            )
        return named[0]

    def _named(self, name: str) -> list[ManagedDevice]:
        return [device for device in self._devices.values() if device.name == name]

    # --- deferred creation ---

    def _defer(self, device: ManagedDevice, reason: str = "") -> None:
        """reason: what it waits for, until something else turns out to be missing."""
        device.state = DeviceState.DEFERRED
        device.waits_for = reason
        watcher = asyncio.create_task(self._create_when_there(device), name=f"wait for the base of {device.name}")
        self._watchers[device] = watcher
        watcher.add_done_callback(self._forget_watcher)

    def _forget_watcher(self, watcher: asyncio.Task[None]) -> None:
        for device in [each for each, task in self._watchers.items() if task is watcher]:
            del self._watchers[device]

    async def _create_when_there(self, device: ManagedDevice) -> None:
        rpc = self._identity.rpc(device.target)
        delay_s = DEFERRED_POLL_MIN_S
        first = device.inherited
        unfit: UnfitError | None = None
        while True:
            if unfit is not None:
                await device.seek_base(unfit)
                unfit = None
            elif not first:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * DEFERRED_POLL_GROWTH, DEFERRED_POLL_MAX_S)
            first = False
            try:
                if not device.inherited and await find_bdev(rpc, device.params["base_bdev"]) is None:
                    device.waits_for = f"base bdev {device.params['base_bdev']} does not exist yet"
                    continue
            except FtlError as error:
                log.debug("%s: deferred: %s", device.name, error)
                device.waits_for = error.message
                continue
            try:
                await self.undo_orphans(device.target)
                try:
                    await device.bring_up()
                except FtlThereError as error:
                    device = self._load_instead(device, error)
                    await device.bring_up()
            except asyncio.CancelledError:
                device.state = DeviceState.DEFERRED
                raise
            except Exception as error:
                if self._is_deferred_by(device, error):
                    log.debug("%s: deferred: %s", device.name, error)
                    device.error = device.waits_for = str(error)
                    device.state = DeviceState.DEFERRED
                    if isinstance(error, UnfitError):
                        unfit = error
                    else:
                        await device.look_elsewhere(error)
                    continue
                log.error("%s: deferred creation failed: %s", device, error)
                if device.left_behind and not _worth_keeping(device):
                    self._leave_behind(device.record())
                device.state = DeviceState.FAILED
                device.error = error.message if isinstance(error, FtlError) else f"{type(error).__name__}: {error}"
            else:
                log.info("%s: %s, asked for by %s", device, device.how_it_came, requester())
            device.changed()
            return

    def _require_room_for_host(self) -> None:
        if self._state.crowded:
            raise BusyError(
                "the FTLs of this daemon have too many hosts for its state file: delete FTLs, or serve some of them "
                "with another daemon"
            )

    def _save(self) -> None:
        records = self._records()
        self._state.save([*self._orphans, *records])
        self._keep_sockets(records)

    def _keep_sockets(self, records: list[dict[str, Any]]) -> None:
        if self._identity.sockets is not None:
            self._identity.sockets.keep_only({UUID(record["uuid"]) for record in records})

    def _save_for_sure(self) -> FtlError | None:
        """Saves what has already happened. Returns why it can't be saved now; then the daemon retries until it can."""
        try:
            self._save()
        except FtlError as error:
            if self._saving is None or self._saving.done():
                self._saving = asyncio.create_task(self._save_until_done(), name="save the state")
            return error
        return None

    async def _save_until_done(self) -> None:
        while True:
            await asyncio.sleep(SAVE_AGAIN_S)
            try:
                self._save()
            except FtlError as error:
                log.debug("%s", error.message)
            else:
                log.info("the state file is up to date again")
                return

    def _records(self) -> list[dict[str, Any]]:
        return [device.record() for device in self._devices.values() if _worth_keeping(device)]


def key_of(device: ManagedDevice) -> Key:
    return device.target, device.name


def _warn_of_upgrade(device: ManagedDevice) -> None:
    """Earlier daemons let every host connect, and did not record that in the state file."""
    own = "only the target itself may connect" if not device.params["no_attach"] else "no host may connect"
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


def _worth_keeping(device: ManagedDevice) -> bool:
    # A creation that failed after it was deferred has been undone.
    return device.state is not DeviceState.FAILED or device.ftl is not None or device.loads


def _params_given(record: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a record. Earlier daemons filled in defaults, so it is unknown which of them a user had given.
    Such defaults must not be compared with what the FTL has."""
    params = dict(record["params"])
    if record.get("params_are_as_given") is not True:
        for name, default in _DEFAULTS_FILLED_IN.items():
            if params.get(name) == default:
                del params[name]
    return params

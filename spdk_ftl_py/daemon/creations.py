"""Creates or loads FTLs, when bdev_ftl_create asks for it or once a missing dependency exists."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable
from typing import Any, Final

from ..errors import ExistsError, FtlError
from ..runtime.tasks import end_tasks
from ..runtime.waiting import Backoff
from ..spdk.bdevs import find_bdev
from .base import DaemonIdentity, DeferredError, UnfitError
from .checks import FtlThereError, load_policy
from .config_rpcs import normal_target
from .device import DeviceState, ManagedDevice
from .device_parts import Origin
from .devices import Devices, Key, key_of, worth_keeping
from .orphans import Orphans
from .requester import requester
from .saving import StateSaver
from .terms import POLL_S, Terms, check_agrees, may_come, wait_online

DEFERRED_POLL_MIN_S: Final = 0.2
DEFERRED_POLL_MAX_S: Final = 2.0
DEFERRED_POLL_GROWTH: Final = 1.5

log = logging.getLogger(__name__)


class Creations:
    """The creations of one daemon."""

    def __init__(
        self,
        devices: Devices,
        orphans: Orphans,
        saver: StateSaver,
        identity: DaemonIdentity,
        *,
        require_running: Callable[[], None],
        is_halting: Callable[[], bool],
    ) -> None:
        """require_running: raises FtlError if the daemon cannot make an FTL now."""
        self._devices = devices
        self._orphans = orphans
        self._saver = saver
        self._identity = identity
        self._require_running = require_running
        self._is_halting = is_halting
        self.watchers: dict[ManagedDevice, asyncio.Task[None]] = {}
        """One task for each deferred creation. The task waits for the missing dependency, and then continues the
        creation."""
        self._creations: set[asyncio.Task[Any]] = set()

    async def end(self) -> None:
        """Undoes the creations that are in progress. None continues."""
        await end_tasks([*self.watchers.values(), *self._creations])

    async def create(self, params: dict[str, Any]) -> Any:
        """Returns {"name", "uuid"}, with the further members that the request's terms require (Terms.answer), or the
        line that says that the creation is deferred."""
        self._require_running()
        params["target"] = normal_target(params["target"])
        if (policy := (params.get("conf") or {}).get("reloc_policy")) is not None:
            await load_policy(policy)
            self._require_running()
        name = params["name"]
        key, asked = (params["target"], name), dict(params)
        terms = Terms.take(params)
        while terms.if_absent and (other := self._devices.get(key)) is not None:
            if other.state is DeviceState.CREATING and other not in self.watchers:
                # Another caller is creating the same FTL. In a moment that succeeds or fails.
                await asyncio.sleep(POLL_S)
                self._require_running()
                continue
            await self._check_agrees(other, asked)
            return terms.answer(await self._wait_online(key, terms), changed=False)
        other = self._devices.get(key)
        if other is not None:
            raise ExistsError(
                f"name {name}: there is an FTL bdev of that name ({other.state.value}, on the SPDK target at "
                f"{other.target}): choose another, or delete it first"
            )
        device = ManagedDevice(params, self._identity, Origin(terms.chosen))
        self._devices.check_no_twin(device.uuid)
        self._devices.check_nqn_free(device)
        self._devices.put(device)
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
        """Raises what agreement.check_agrees() raises."""
        reported = device.properties()
        for role, has in (("base", reported["base_bdev"]), ("cache", device.options.cache)):
            wanted = asked.get("base_bdev" if role == "base" else "cache")
            if wanted in (None, has):
                continue
            with contextlib.suppress(FtlError):
                # The names may be aliases of one bdev.
                bdev = await find_bdev(self._identity.rpc(device.target), wanted)
                if bdev is not None and has in bdev.names:
                    asked = {**asked, "base_bdev" if role == "base" else "cache": has}
        check_agrees(device, asked, reported)

    async def _wait_online(self, key: Key, terms: Terms, device: ManagedDevice | None = None) -> ManagedDevice:
        """Waits, and returns the device that is the result for device (default: the one with that key). Raises what
        wait_online() raises."""
        if device is not None and (terms.wait_s is None or device.state is not DeviceState.DEFERRED):
            return device
        return await wait_online(lambda: self._devices.get(key), key[1], terms.wait_s or 0, self._is_halting)

    def _load_instead(self, device: ManagedDevice, error: FtlThereError) -> ManagedDevice:
        """With load_or_create: replaces device by the FTL that was found on its base, and loads that. Raises the error
        if load_or_create was not given, and ExistsError if the FTL is not the requested one."""
        if not device.options.load_or_create:
            raise error
        wanted = device.options.uuid
        if wanted is not None and wanted != error.uuid:
            raise ExistsError(
                f"base bdev {device.options.base_bdev} already holds an FTL, with uuid {error.uuid} instead of "
                f"{wanted}: give another base, or that uuid; nothing was done"
            ) from error
        self._devices.check_no_twin(error.uuid, device)
        record = device.record()
        params = {name: value for name, value in record["params"].items() if name not in ("load_or_create", "uuid")}
        found = ManagedDevice(
            params,
            self._identity,
            Origin(error.uuid, loads=True, allowed=record["allowed"], dependents=record["dependents"]),
        )
        self._devices.check_nqn_free(found, device)
        self.prepare(found)
        self._devices.put(found)
        if device in self.watchers:
            self.watchers[found] = self.watchers.pop(device)
        self._saver.save()
        return found

    def prepare(self, device: ManagedDevice) -> None:
        """From now on the daemon saves every change of the device."""
        device.on_change = self._saver.save
        device.on_change_behind = self._saver.save_for_sure
        device.hosts.require_state_room = self._saver.require_room_for_host

    async def _bring_up(self, device: ManagedDevice) -> ManagedDevice:
        """Brings the device online, or defers it. With load_or_create the result may be another device."""
        self.prepare(device)
        try:
            await self._orphans.undo(device.target)
            self._saver.save()
            try:
                await device.bring_up()
            except FtlThereError as error:
                device = self._load_instead(device, error)
                await device.bring_up()
        except BaseException as error:
            if not self._is_deferred_by(device, error):
                self._devices.drop(device)
                if device.left_behind:
                    self._orphans.leave_behind(device.record())
                self._saver.save_for_sure()
                raise
            self.defer(device, str(error))
        try:
            self._saver.save()
        except FtlError:
            # Without this record the next daemon would not know the device.
            await self.take_down(device)
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
        """The creation waits for something that may still appear."""
        if isinstance(error, DeferredError):
            return True
        return device.options.is_patient and may_come(error) and not device.left_behind

    async def take_down(self, device: ManagedDevice) -> list[tuple[str, Exception]]:
        """Halts the device, at whatever step its creation is, undoes the creation, and removes the device. Returns the
        steps that could not be undone, with their errors."""
        # With load_or_create another device may have replaced it.
        device = self._devices.get(key_of(device), device)
        watcher = self.watchers.get(device)
        if watcher is not None:
            # Whether the creation is waiting for the base or in progress: ending the task undoes it, and the device is
            # DEFERRED then.
            await end_tasks([watcher])
            device = self._devices.get(key_of(device), device)
        record = device.record()
        failures = await device.take_down()
        if device.left_behind:
            self._orphans.leave_behind(record)
        self._devices.drop(device)
        failure = self._saver.save_for_sure()
        if failure is not None:
            failures = [*failures, ("remove it from the state file (the daemon keeps trying)", failure)]
        try:
            device.reservations.forget()
        except FtlError as error:
            failures = [*failures, ("remove its reservation", error)]
        return failures

    # --- deferred creation ---

    def defer(self, device: ManagedDevice, reason: str = "") -> None:
        """Defers the creation. reason: what it waits for, until the daemon finds something else missing."""
        device.state = DeviceState.DEFERRED
        device.waits_for = reason
        watcher = asyncio.create_task(self._create_when_there(device), name=f"wait for the base of {device.name}")
        self.watchers[device] = watcher
        watcher.add_done_callback(self._forget_watcher)

    def forget(self, device: ManagedDevice) -> None:
        """Reverts defer(). Called right after it; the device is gone then."""
        self._devices.drop(device)
        self.watchers.pop(device).cancel()

    def _forget_watcher(self, watcher: asyncio.Task[None]) -> None:
        for device in [each for each, task in self.watchers.items() if task is watcher]:
            del self.watchers[device]

    async def _create_when_there(self, device: ManagedDevice) -> None:
        rpc = self._identity.rpc(device.target)
        backoff = Backoff(DEFERRED_POLL_MIN_S, DEFERRED_POLL_MAX_S, DEFERRED_POLL_GROWTH)
        first = device.inherited
        unfit: UnfitError | None = None
        while True:
            if unfit is not None:
                await device.waiting.seek_base(unfit)
                unfit = None
            elif not first:
                await backoff.pause()
            first = False
            try:
                if not device.inherited and await find_bdev(rpc, device.options.base_bdev) is None:
                    device.waits_for = f"base bdev {device.options.base_bdev} does not exist yet"
                    continue
            except FtlError as error:
                log.debug("%s: deferred: %s", device.name, error)
                device.waits_for = error.message
                continue
            try:
                await self._orphans.undo(device.target)
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
                        await device.waiting.look_elsewhere(error)
                    continue
                log.error("%s: deferred creation failed: %s", device, error)
                if device.left_behind and not worth_keeping(device):
                    self._orphans.leave_behind(device.record())
                device.state = DeviceState.FAILED
                device.error = error.message if isinstance(error, FtlError) else f"{type(error).__name__}: {error}"
            else:
                log.info("%s: %s, asked for by %s", device, device.how_it_came, requester())
            device.changed()
            return

"""ftl_save_config and ftl_load_config: save and load FTLs, and what is built on them, with the configuration of a
target."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from ..errors import ExistsError, FtlError, ParameterError
from ..runtime.waiting import until
from ..spdk.bdevs import get_bdevs
from ..spdk.saved_config import OwnFtl, divide, read_subsystems
from .base import DaemonIdentity
from .device import DeviceState, ManagedDevice
from .requester import requester
from .requests import LoadConfigRequest, SaveConfigRequest, takes
from .saved import SavedFtl, read_section, section_of
from .server import Method

FIRST_ATTEMPT_S: Final = 5.0
POLL_S: Final = 0.05

log = logging.getLogger(__name__)


def normal_target(target: str) -> str:
    """One spelling for each target: symbolic links and // resolved."""
    return os.path.realpath(target) if target.startswith("/") else target


class Devices(Protocol):
    """The part of the registry that this module needs."""

    @property
    def devices(self) -> Mapping[tuple[str, str], ManagedDevice]: ...
    def orphans(self, target: str) -> list[OwnFtl]: ...
    def worth_keeping(self, device: ManagedDevice) -> bool: ...
    def resume(self, record: dict[str, Any], *, inherited: bool) -> bool: ...
    def forget(self, key: tuple[str, str]) -> None: ...
    def require_running(self) -> None: ...
    def save(self) -> None: ...


class ConfigRpcs:
    """The RPCs on the FTLs of one registry."""

    def __init__(self, registry: Devices, identity: DaemonIdentity) -> None:
        self._registry = registry
        self._identity = identity

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "ftl_save_config": takes(SaveConfigRequest, self.save),
            "ftl_load_config": takes(LoadConfigRequest, self.load),
        }

    # --- save

    async def save(self, request: SaveConfigRequest) -> dict[str, Any]:
        """{"subsystems": […]}: the target's own subsystems, and the FTLs on that target. The daemon also remembers what
        is built on the FTLs."""
        target = self._target_to_save(request.target)
        devices = [device for device in self._registry.devices.values() if device.target == target]
        rpc = self._identity.rpc(target)
        subsystems = await read_subsystems(rpc, with_batches=request.with_batches)
        bdevs = await get_bdevs(rpc)
        known = [OwnFtl(device.name, device.uuid, device.nqn) for device in devices]
        divided = divide(subsystems, bdevs, [*known, *self._registry.orphans(target)])
        kept = [device for device in devices if self._registry.worth_keeping(device)]
        for device in kept:
            device.dependents.check_found(divided.dependents[device.uuid])
        for device in kept:
            device.dependents.found(divided.dependents[device.uuid], bdevs, whole=device.is_attached)
        self._registry.save()
        return {"subsystems": [*divided.subsystems, section_of(device.record() for device in kept)]}

    def _target_to_save(self, target: str | None) -> str:
        if target is not None:
            return normal_target(target)
        targets = sorted({device.target for device in self._registry.devices.values()})
        if len(targets) != 1:
            there = f"there are FTLs on {', '.join(targets)}" if targets else "the daemon has no FTL"
            raise ParameterError(f"no target is given, and {there}: name a target with -s")
        return targets[0]

    # --- load

    def start(self, saved: Sequence[SavedFtl]) -> None:
        """The daemon's own state file takes precedence; a contradiction is logged."""
        for ftl in saved:
            there = self._like(ftl)
            if there is None:
                try:
                    self._resume(ftl)
                    log.info("%s: from the saved configuration, on the target at %s", ftl.name, ftl.target)
                except FtlError as error:
                    log.error("%s; not loaded", error.message)
            elif not _is_same(there, ftl):
                log.error("%s; not loaded", _contradiction(ftl, there))
            elif not there.dependents.known:
                there.dependents.replace(ftl.dependents, pending=True)

    async def load(self, request: LoadConfigRequest) -> dict[str, Any]:
        """{"loaded": […], "unchanged": […]}. After an error nothing has changed."""
        saved = read_section(request.config, "the configuration", target=request.target, normal=normal_target)
        self._registry.require_running()
        there = {ftl.name: self._like(ftl) for ftl in saved}
        for ftl in saved:
            device = there[ftl.name]
            if device is not None and not _is_same(device, ftl):
                raise ExistsError(f"{_contradiction(ftl, device)}; nothing was loaded")
        resumed: list[tuple[str, str]] = []
        try:
            for ftl in saved:
                if there[ftl.name] is None:
                    self._resume(ftl)
                    resumed.append((ftl.target, ftl.name))
            self._registry.save()
        except FtlError as error:
            for key in resumed:
                self._registry.forget(key)
            raise FtlError(f"{error.message}; nothing was loaded", errno=error.errno, code=error.code) from error
        unchanged = []
        for ftl in saved:
            device = there[ftl.name]
            if device is not None:
                device.dependents.replace(ftl.dependents, pending=True)
                device.changed()
                unchanged.append(device)
        loaded = [self._registry.devices[key] for key in resumed]
        for device in loaded:
            log.info("%s: from a saved configuration, asked for by %s", device, requester())
        await _first_attempts([device for device in loaded if device.inherited])
        return {"loaded": [_tell(device) for device in loaded], "unchanged": [_tell(device) for device in unchanged]}

    def _resume(self, ftl: SavedFtl) -> None:
        """Raises ParameterError or ExistsError; then the FTL is not added."""
        if not self._registry.resume(ftl.record, inherited=not ftl.is_new):
            raise ParameterError(f"FTL bdev {ftl.name} can't be loaded: see the daemon's log")
        key = ftl.target, ftl.name
        device = self._registry.devices[key]
        for other in self._registry.devices.values():
            if other is not device and other.nqn == device.nqn:
                self._registry.forget(key)
                raise ExistsError(
                    f"FTL bdev {ftl.name} of the saved configuration has the NQN {device.nqn}, which FTL bdev "
                    f"{other.name} already has (on the SPDK target at {other.target})"
                )

    def _like(self, ftl: SavedFtl) -> ManagedDevice | None:
        """The same FTL, or else one that has its uuid, or its name on that target."""
        named = self._registry.devices.get((ftl.target, ftl.name))
        found = [each for each in self._registry.devices.values() if each is named or each.uuid == ftl.uuid]
        return min(found, key=lambda each: not _is_same(each, ftl), default=None)


def _is_same(device: ManagedDevice, ftl: SavedFtl) -> bool:
    return (device.name, device.uuid, device.target) == (ftl.name, ftl.uuid, ftl.target)


def _contradiction(ftl: SavedFtl, device: ManagedDevice) -> str:
    return (
        f"FTL bdev {ftl.name} of the saved configuration (uuid {ftl.uuid}, on the SPDK target at {ftl.target}) can't "
        f"be loaded beside FTL bdev {device.name} (uuid {device.uuid}, {device.state.value}, on the SPDK target at "
        f"{device.target}): delete that FTL first, or remove the other one from the file"
    )


async def _first_attempts(devices: Sequence[ManagedDevice]) -> None:
    """Waits a moment, until each FTL is online or says what it waits for."""
    await until(lambda: not any(map(_is_begun, devices)), timeout_s=FIRST_ATTEMPT_S, poll_s=POLL_S)


def _is_begun(device: ManagedDevice) -> bool:
    return device.state is DeviceState.CREATING or (device.state is DeviceState.DEFERRED and device.error is None)


def _tell(device: ManagedDevice) -> dict[str, Any]:
    entry = device.describe()
    base = f"base bdev {device.options.base_bdev}"
    waits = None if entry["state"] == DeviceState.ONLINE.value else entry["error"] or entry.get("waiting_for") or base
    return {"name": device.name, "uuid": str(device.uuid), "state": entry["state"], "waiting_for": waits}

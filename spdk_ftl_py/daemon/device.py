"""One FTL of the daemon: how it comes to be, step by step with undo, and its life until it is deleted."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from .. import _shim
from ..conf import FtlConf
from ..errors import BusyError, ExistsError, FtlError, MediaError, TargetError, UnsupportedError
from ..ftl import superblock
from ..ftl.blockdev import BlockPort
from ..ftl.device import DeviceState as FtlState
from ..ftl.device import FtlDevice
from ..ftl.geometry import plan
from ..ftl.nv_cache import check_cache
from ..ftl.restore import geometry_of
from ..ftl.zone import Zone
from ..nvme.host import Controller, NamespaceInfo
from ..nvme.target import NvmfTarget, Subsystem
from ..reactor import ReactorLoop
from ..spdk.attach import Attachment, attach, export_nguid
from ..spdk.bdevs import Bdev, find_bdev
from ..spdk.claims import require_unclaimed
from ..spdk.exports import NQN_PREFIX, BdevExport, bdev_nqn, export_bdev, require_tcp_transport
from ..spdk.rpc import TargetRpc
from ..steps import Steps
from .checks import check_base, check_name, find_cache, split_address

BASE_QUEUE_DEPTH: Final = 128
EXPORT_MODEL: Final = "spdk-ftl-py FTL"
EXPORT_NSID: Final = 1
HALT_STALL_S: Final = 15.0
_PROGRESS: Final = ("media_written_blocks", "reloc_read_blocks", "base_flushes", "zone_resets")
"""Counters of the core of which one moves as long as the base answers."""
_SERIAL_NUMBER_MAX: Final = 20
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}

log = logging.getLogger(__name__)


class DeviceState(enum.Enum):
    """DEFERRED ⇄ CREATING → ONLINE → DELETING, and FAILED from any of the first three; FAILED → DELETING."""

    DEFERRED = "deferred"
    """Its base bdev does not exist yet."""
    CREATING = "creating"
    ONLINE = "online"
    FAILED = "failed"
    """I/O fails; what it claimed it still has, until it is deleted."""
    DELETING = "deleting"


@dataclass(frozen=True)
class DaemonIdentity:
    """What of the daemon the devices have to know."""

    hostnqn: str
    host_id: UUID
    listen: str
    """Where FTLs are exported by default: ADDRESS[:PORT]."""


@dataclass(frozen=True)
class Export:
    """Where NVMe/TCP hosts find the FTL."""

    nqn: str
    traddr: str
    trsvcid: int
    nsid: int = EXPORT_NSID


class BaseMissingError(FtlError):
    """The base bdev does not exist: nothing is wrong, the creation waits for it."""


class ManagedDevice:
    """An FTL as bdev_ftl_create asked for it; params are validated, with defaults filled in."""

    def __init__(
        self,
        params: dict[str, Any],
        identity: DaemonIdentity,
        device: UUID | None = None,
        *,
        loads: bool = False,
        port: int = 0,
    ) -> None:
        """device, loads, port: of one that a predecessor of this daemon had: its uuid, whether it is on media already,
        and the port of its export, taken again if it is free.

        Raises ConfError or ParameterError where params break a rule that needs no target.
        """
        self.params = params
        self.name: str = params["name"]
        self.target: str = params["target"]
        given = UUID(params["uuid"]) if params.get("uuid") else None
        # As in 2020's rpc.py, the nil UUID means "a new one".
        self.uuid = device or (given if given is not None and given.int else uuid4())
        self.loads = loads or (device is None and given is not None and given.int != 0)
        """It is on the base, and loaded from there; else it is created."""
        self.conf = FtlConf.from_params(params)
        self.conf.check()
        self.listen = split_address(params.get("listen_address") or identity.listen)
        self.state = DeviceState.CREATING
        self.error: str | None = None
        self.ftl: FtlDevice | None = None
        self.export: Export | None = None
        self.attachment: Attachment | None = None
        self.cache_kind: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called after the state has changed by itself."""
        self._identity = identity
        self._port = port
        self._step_told = ""
        self._rpc = TargetRpc(self.target)
        self._steps = Steps(self.name)
        self._base: Bdev | None = None
        self._controller: Controller | None = None
        self._monitor: asyncio.Task[None] | None = None

    # --- creation ---

    async def bring_up(self) -> None:
        """Creates or loads the FTL; ONLINE afterwards.

        Raises BaseMissingError when the base bdev does not exist, or another FtlError; then everything is undone, the
        target is as it was, and the state is the caller's to set.
        """
        self.state = DeviceState.CREATING
        try:
            await self._create()
        except BaseException as error:
            failures = await self._steps.undo()
            self._forget()
            if isinstance(error, OSError):
                error = TargetError(
                    f"FTL bdev {self.name}: the connection to the SPDK target at {self.target} broke off: {error}",
                    errno=error.errno,
                )
            if failures and isinstance(error, FtlError):
                left = "; ".join(f"{name} ({failure})" for name, failure in failures)
                raise FtlError(
                    f"{error.message}. Besides, could not be undone: {left}", errno=error.errno, code=error.code
                ) from error
            raise error
        self.state = DeviceState.ONLINE
        self._monitor = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def _create(self) -> None:
        await require_tcp_transport(self._rpc)
        await check_name(self._rpc, self.name, self.uuid)
        base = await find_bdev(self._rpc, self.params["base_bdev"])
        if base is not None:
            check_base(base, self.params)
            await require_unclaimed(self._rpc, base, "base bdev")
        cache = await find_cache(self._rpc, self.params, base)
        if cache is not None:
            await require_unclaimed(self._rpc, cache, "cache bdev")
        if base is None:
            raise BaseMissingError(f"base bdev {self.params['base_bdev']} does not exist yet")
        self._base = base
        exported = await self._claim(base, "base")
        if cache is not None:
            # Held, so that nobody else writes it; its data path is the nv cache's.
            await self._claim(cache, "cache")
        reactor = ReactorLoop(self.name)
        await self._steps.run("start the reactor", reactor.start(), reactor.stop)
        media = await self._connect(reactor, exported)
        await self._check_media(reactor, media, cache)
        nvmf, port = await self._listen(reactor)
        self.ftl = ftl = await self._make(reactor, media, base)
        self.loads = True
        self._steps.on_undo("halt the FTL", self._halt_ftl)
        self._export(nvmf, port, ftl)
        self._steps.on_undo("close the export", nvmf.close)
        if not self.params["no_attach"]:
            await self._attach()

    async def _make(self, reactor: ReactorLoop, media: _shim.BlockDevice, base: Bdev) -> FtlDevice:
        num_punits = self.params.get("num_punits")
        if self.loads:
            return await FtlDevice.load(
                reactor,
                media,
                name=self.name,
                uuid=self.uuid,
                conf=self.conf,
                num_punits=num_punits,
                progress=self._report,
            )
        return await FtlDevice.create(
            reactor,
            media,
            name=self.name,
            conf=self.conf,
            uuid=self.uuid,
            num_punits=num_punits,
            optimal_open_zones=self._optimal_open_zones(base),
            progress=self._report,
        )

    def _report(self, step: str, part: float) -> None:
        self._step_told = f"{step} {part:.0%}"

    async def _claim(self, bdev: Bdev, role: str) -> BdevExport:
        return await export_bdev(
            self._rpc, self._steps, bdev, nqn=bdev_nqn(role, self.uuid), hostnqn=self._identity.hostnqn
        )

    async def _connect(self, reactor: ReactorLoop, exported: BdevExport) -> _shim.BlockDevice:
        """The base bdev as a zoned BlockDevice."""
        self._controller = controller = await Controller.connect(
            exported.traddr,
            exported.trsvcid,
            exported.nqn,
            hostnqn=self._identity.hostnqn,
            hostid=self._identity.host_id,
        )
        self._steps.on_undo("disconnect from the base", controller.close)
        namespace = _namespace(await controller.namespaces(), exported)
        media: _shim.BlockDevice = await controller.create_io_qpair(reactor, namespace, queue_depth=BASE_QUEUE_DEPTH)
        capacity = self.params.get("zone_capacity")
        if capacity is not None:
            # Whether it is new, only what is on it can tell.
            media = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=capacity, initial_state="full")
        return media

    async def _check_media(self, reactor: ReactorLoop, media: _shim.BlockDevice, cache: Bdev | None) -> None:
        """The rules that depend on what is on the base and how it is cut, before anything is written."""
        assert self._base is not None
        port = BlockPort(reactor, media, name=self._base.name)
        try:
            zones = await port.zones()
            if not self.loads and not self.params.get("force"):
                await self._check_no_ftl(port, zones)
            found = await superblock.find(port, zones, self.uuid) if self.loads and cache is not None else None
        finally:
            await port.close()
        if cache is None:
            return
        if found is not None:
            geometry = geometry_of(found[0], zones, media, name=self.name)
        else:
            geometry = plan(
                zones,
                zone_size=media.zone_size,
                max_open_zones=media.max_open_zones,
                max_active_zones=media.max_active_zones,
                lba_rsvd=self.conf.lba_rsvd,
                num_punits=self.params.get("num_punits"),
                optimal_open_zones=self._optimal_open_zones(self._base),
            )
        self.cache_kind = check_cache(
            cache.name,
            base_name=self._base.name,
            block_bytes=cache.block_bytes,
            block_count=cache.block_count,
            metadata_bytes=cache.metadata_bytes,
            metadata_interleaved=cache.metadata_interleaved,
            dif_type=cache.dif_type,
            geometry=geometry,
        )

    async def _check_no_ftl(self, port: BlockPort, zones: list[Zone]) -> None:
        assert self._base is not None
        try:
            found = await superblock.find(port, zones)
        except UnsupportedError as error:
            raise ExistsError(
                f"base bdev {self._base.name} holds an FTL already: {error.message}; or give --force to erase it"
            ) from error
        if found is not None:
            name, there = found[0].content.get("name"), found[0].uuid
            raise ExistsError(
                f"base bdev {self._base.name} holds an FTL already, {name!r} with uuid {there}: give -u {there} to "
                "load it, or --force to erase it and create a new one"
            )

    def _optimal_open_zones(self, base: Bdev) -> int:
        return int(self.params.get("optimal_open_zones") or base.optimal_open_zones)

    async def _listen(self, reactor: ReactorLoop) -> tuple[NvmfTarget, int]:
        """The export's listener, nothing behind it yet: an address that is taken is to be noticed before the FTL is
        made, which erases what is on the base."""
        nvmf = NvmfTarget(reactor)
        self._steps.on_undo("close the export", nvmf.close)
        address, port = self.listen
        if port == 0 and self._port:
            # Hosts look for it where it was.
            with contextlib.suppress(FtlError, OSError):
                return nvmf, await nvmf.listen(address, self._port)
        return nvmf, await nvmf.listen(address, port)

    def _export(self, nvmf: NvmfTarget, port: int, ftl: FtlDevice) -> None:
        subsystem = Subsystem(
            f"{NQN_PREFIX}{self.uuid}",
            serial_number=self.uuid.hex[:_SERIAL_NUMBER_MAX],
            model_number=EXPORT_MODEL,
            allow_any_host=True,
            max_io_qpairs=self.conf.max_io_channels,
        )
        subsystem.add_namespace(ftl.core, nsid=EXPORT_NSID, uuid=self.uuid, nguid=export_nguid(self.uuid).bytes)
        subsystem.add_listener(self.listen[0], port)
        nvmf.add_subsystem(subsystem)
        self.export = Export(subsystem.nqn, self.listen[0], port)

    async def _attach(self) -> None:
        assert self.export is not None
        self.attachment = await attach(
            self._rpc,
            self._steps,
            name=self.name,
            device=self.uuid,
            traddr=_ANY_ADDRESS.get(self.export.traddr, self.export.traddr),
            trsvcid=str(self.export.trsvcid),
            subnqn=self.export.nqn,
        )

    # --- life ---

    async def _watch(self) -> None:
        """Waits until the base is lost or the FTL fails; then the device is FAILED: I/O fails, it can be deleted."""
        assert self._controller is not None
        assert self.ftl is not None
        waits = [asyncio.ensure_future(event.wait()) for event in (self._controller.lost, self.ftl.failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.ftl.failed.is_set():
            reason = self.ftl.failure.message if self.ftl.failure is not None else "the FTL failed"
        else:
            assert self._base is not None
            reason = (
                f"base bdev {self._base.name}: the connection to the SPDK target at {self.target} is lost "
                f"({self._controller.lost_reason})"
            )
        log.error("%s: failed: %s", self.name, reason)
        self.state = DeviceState.FAILED
        self.error = reason
        with contextlib.suppress(FtlError):
            await self.ftl.abort(reason)
        self.on_change()

    async def _halt_ftl(self) -> None:
        """Halts the FTL. A base that answers nothing any more is cut off, which ends the halt with an error: a target
        may keep the I/O of a drive that went away for as long as it tries to have it back."""
        assert self.ftl is not None
        assert self._controller is not None
        halt = asyncio.ensure_future(self.ftl.halt())
        before = self._progress(self.ftl)
        while not (await asyncio.wait({halt}, timeout=HALT_STALL_S))[0]:
            now = self._progress(self.ftl)
            if now == before:
                # Without the connection nothing is left in flight, and the core can end what it has accepted.
                await self._controller.close()
                await self.ftl.abort(f"the base bdev has not answered for {HALT_STALL_S:g} s while halting")
                break
            before = now
        await halt

    @staticmethod
    def _progress(ftl: FtlDevice) -> list[int]:
        stats = ftl.core.stats()
        return [stats[name] for name in _PROGRESS]

    async def take_down(self) -> list[tuple[str, Exception]]:
        """Halts the FTL and lets go of everything; returns what could not be undone.

        Raises BusyError for the second caller, and while it is being created.
        """
        if self.state is DeviceState.DELETING:
            raise BusyError(f"FTL bdev {self.name} is already being deleted")
        if self.state is DeviceState.CREATING:
            raise BusyError(f"FTL bdev {self.name} is still being created: delete it when that is done")
        self.state = DeviceState.DELETING
        if self._monitor is not None:
            self._monitor.cancel()
            await asyncio.gather(self._monitor, return_exceptions=True)
        failures = await self._steps.undo()
        self._forget()
        return failures

    def _forget(self) -> None:
        self.ftl = None
        self.export = None
        self.attachment = None
        self._base = None
        self._controller = None
        self._monitor = None

    # --- what it tells ---

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""
        told: dict[str, Any] = {
            "name": self.name,
            "uuid": str(self.uuid),
            "state": self.state.value,
            "target": self.target,
            "base_bdev": self.params["base_bdev"],
            "cache": self.params.get("cache"),
            "attached": self.attachment is not None,
            "error": self.error,
        }
        if self.state is DeviceState.CREATING and self._step_told:
            told["progress"] = self._step_told
        if self.export is not None:
            told["export"] = {
                "trtype": "TCP",
                "traddr": self.export.traddr,
                "trsvcid": str(self.export.trsvcid),
                "subnqn": self.export.nqn,
                "nsid": self.export.nsid,
            }
        if self.ftl is not None:
            told["block_size"] = 4096
            told["num_blocks"] = self.ftl.block_count
            told["num_bands"] = self.ftl.geometry.band_count
            told["free_bands"] = self.ftl.stats()["free_bands"]
            if self.state is DeviceState.ONLINE and self.ftl.state is FtlState.READ_ONLY:
                told["state"] = self.ftl.state.value
                told["error"] = self.ftl.failure.message if self.ftl.failure is not None else None
        return told

    def properties(self) -> dict[str, Any]:
        """For bdev_ftl_get_properties."""
        told = self.describe()
        if self.params.get("cache") is not None:
            told["cache"] = {
                "bdev": self.params["cache"],
                "kind": self.cache_kind,
                "state": "held: claimed, not written to; writes go to the base bdev directly",
            }
        if self.ftl is not None:
            told["properties"] = self.ftl.properties()["properties"]
        else:
            told["conf"] = self.conf.to_dict()
        return told

    def stats(self) -> dict[str, Any]:
        """For bdev_ftl_get_stats. Raises BusyError where there is no FTL yet."""
        if self.ftl is None:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it has no statistics")
        return {"name": self.name, **self.ftl.stats()}

    def record(self) -> dict[str, Any]:
        """For the state file: enough to undo, to load it again, or to go on waiting for the base bdev."""
        return {
            "name": self.name,
            "uuid": str(self.uuid),
            "target": self.target,
            "state": self.state.value,
            "loads": self.loads,
            "params": self.params,
            "listen": list(self.listen),
            "export": None if self.export is None else [self.export.nqn, self.export.traddr, self.export.trsvcid],
        }


def _namespace(namespaces: list[NamespaceInfo], exported: BdevExport) -> NamespaceInfo:
    for namespace in namespaces:
        if namespace.nsid == exported.nsid:
            return namespace
    raise MediaError(f"bdev {exported.bdev_name}: the target's export of it has no namespace {exported.nsid}")

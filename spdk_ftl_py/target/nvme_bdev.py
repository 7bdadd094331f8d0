"""bdev_nvme: namespaces of remote controllers as bdevs NAMEnNSID. They reconnect by SPDK's options."""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from .. import _shim
from ..errors import ExistsError, FtlError
from ..nvme import wire
from ..nvme.auth.key import HostKeys
from ..nvme.auth.psk import PskSource
from ..nvme.host.base_controller import BaseController
from ..nvme.host.controller import Controller
from ..nvme.host.events import AsyncEvent
from ..nvme.host.io_queues import IoQpair
from ..nvme.host.namespaces import NamespaceInfo
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import end_tasks, to_its_end
from ..runtime.waiting import until
from ..vfio_user.host.controller import VfioUserController
from .bdevs import NVME_IO_TYPES, ZONED_IO_TYPES, Bdev, BdevLayer
from .decode import Params
from .refusals import EIO, failed

logger = logging.getLogger(__name__)

TCP = "TCP"
VFIO_USER = "VFIOUSER"
BDEVS_DEFAULT = 128
CONNECT_TIMEOUT_S = 10.0
QUEUE_DEPTH = 128
EMPTY_TIMEOUT_S = 10.0
EMPTY_POLL_S = 0.002


class State(enum.Enum):
    """The states that bdev_nvme_get_controllers prints."""

    ENABLED = "enabled"
    RESETTING = "resetting"
    RECONNECT_IS_DELAYED = "reconnect_is_delayed"
    FAILED = "failed"
    DELETING = "deleting"


@dataclass(frozen=True)
class ReconnectOptions:
    """Times in seconds. 0/0/0: one attempt to reset, then the controller stays failed. ctrlr_loss_timeout -1: no
    limit."""

    ctrlr_loss_timeout: int = 0
    reconnect_delay: int = 0
    fast_io_fail_timeout: int = 0

    def valid(self) -> bool:
        loss, delay, fast_fail = self.ctrlr_loss_timeout, self.reconnect_delay, self.fast_io_fail_timeout
        if loss == 0:
            return delay == 0 and fast_fail == 0
        if loss < -1 or delay == 0 or (fast_fail and fast_fail < delay):
            return False
        return loss == -1 or (delay <= loss and fast_fail <= loss)


@dataclass(eq=False)
class RemoteNamespace:
    info: NamespaceInfo
    bdev: Bdev
    gate: _shim.Gate
    """The bdev's I/O goes through this gate, and waits there while the controller is away."""
    qpair: IoQpair


class AttachedController:
    """One name of bdev_nvme_attach_controller, with its controller and bdevs."""

    def __init__(
        self,
        reactor: ReactorLoop,
        bdevs: BdevLayer,
        lock: asyncio.Lock,
        params: Params,
        options: ReconnectOptions,
        *,
        hostnqn: str,
        hostid: UUID,
        keys: HostKeys | None,
        psk: PskSource | None,
        on_removed: Callable[[], object],
    ) -> None:
        """lock: whoever changes the target holds it."""
        self.name: str = params["name"]
        self.params = params
        self.options = options
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.keys = keys
        self.psk = psk
        self.state = State.RESETTING
        self.namespaces: dict[int, RemoteNamespace] = {}
        self.controller: BaseController | None = None
        self._reactor = reactor
        self._bdevs = bdevs
        self._lock = lock
        self._on_removed = on_removed
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def path(self) -> tuple[str, str, str]:
        return self.params["traddr"], self.params["trsvcid"], self.params["subnqn"]

    @property
    def trid(self) -> dict[str, str]:
        if self.params["trtype"] == VFIO_USER:
            return {"trtype": VFIO_USER, "traddr": self.params["traddr"], "subnqn": self.params["subnqn"]}
        return {
            "trtype": "TCP", "adrfam": self.params["adrfam"], "traddr": self.params["traddr"],
            "trsvcid": self.params["trsvcid"], "subnqn": self.params["subnqn"],
        }  # fmt: skip

    # --- connecting --------------------------------------------------------------------------------------------------

    async def connect(self) -> BaseController:
        """Raises FtlError or OSError."""
        timeout_us = self.params.get("fabrics_connect_timeout_us", 0)
        timeout_s = timeout_us / 1e6 if timeout_us else CONNECT_TIMEOUT_S
        controller = await self._connect(timeout_s)
        controller.on_event = self._event
        return controller

    async def _connect(self, timeout_s: float) -> BaseController:
        if self.params["trtype"] == VFIO_USER:
            return await VfioUserController.connect(
                Path(self.params["traddr"]), subnqn=self.params["subnqn"], timeout_s=timeout_s
            )
        return await Controller.connect(
            self.params["traddr"],
            self.params["trsvcid"],
            self.params["subnqn"],
            hostnqn=self.hostnqn,
            hostid=self.hostid,
            header_digest=self.params.get("hdgst", False),
            data_digest=self.params.get("ddgst", False),
            timeout_s=timeout_s,
            keys=self.keys,
            psk=self.psk,
        )

    def _event(self, event: AsyncEvent) -> None:
        if not event.of_zones:
            self._changed.set()
            return
        namespace = self.namespaces.get(event.nsid)
        if namespace is not None:
            namespace.bdev.zones_changed(namespace.info.zones_at(event.changed_zones))

    async def adopt(self, controller: BaseController) -> list[str]:
        """Makes the bdevs of a new connection. Returns the names of new bdevs. The caller holds the target's lock."""
        self.controller = controller
        names = await self._scan(controller, fresh=True)
        self.state = State.ENABLED
        return names

    def supervise(self) -> None:
        self._supervisor = asyncio.get_running_loop().create_task(
            self._supervise(), name=f"NVMe controller {self.name}"
        )

    async def _scan(self, controller: BaseController, *, fresh: bool) -> list[str]:
        """Registers, renews and unregisters bdevs until they match the controller's namespaces."""
        infos = {info.nsid: info for info in await controller.namespaces()}
        new: list[str] = []
        for nsid, known in list(self.namespaces.items()):
            if nsid not in infos or not _same(infos[nsid], known.info):
                await self._drop(known)
        for nsid, info in sorted(infos.items()):
            if nsid in self.namespaces and not fresh:
                if info.block_count == self.namespaces[nsid].info.block_count:
                    continue
                await _emptied(self.namespaces[nsid])
            try:
                qpair = await controller.create_io_qpair(self._reactor, info, queue_depth=QUEUE_DEPTH)
            except FtlError as error:
                if controller.lost.is_set() or nsid in self.namespaces:
                    # I/O of a known namespace waits for the new queue, so the caller tries again.
                    raise
                logger.warning("namespace %d of %s gets no bdev: %s", nsid, self.params["subnqn"], error)
                continue
            if nsid in self.namespaces:
                known = self.namespaces[nsid]
                try:
                    known.gate.set_device(qpair)
                except ValueError as error:
                    logger.warning("namespace %d of %s has changed: %s", nsid, self.params["subnqn"], error)
                    await self._drop(known)
                else:
                    old, known.qpair, known.info = known.qpair, qpair, info
                    old.close()
                    # Zones may have changed while nobody received the controller's events.
                    known.bdev.zones_changed(None)
                    self._bdevs.resized(known.bdev, info.block_count)
                    continue
            gate = _shim.Gate(self._reactor.shim, qpair)
            bdev = self._make_bdev(info, gate)
            try:
                self._bdevs.register(bdev)
            except ExistsError:
                logger.warning(
                    "namespace %d of %s gets no bdev: bdev %s or UUID %s already exists",
                    nsid, self.params["subnqn"], bdev.name, bdev.alias,
                )  # fmt: skip
                qpair.close()
                continue
            self.namespaces[nsid] = RemoteNamespace(info, bdev, gate, qpair)
            new.append(bdev.name)
        return new

    def _make_bdev(self, info: NamespaceInfo, device: _shim.BlockDevice) -> Bdev:
        interleaved = info.metadata_bytes if info.metadata_interleaved else 0
        io_types = NVME_IO_TYPES | (ZONED_IO_TYPES if info.zone_size else frozenset())
        if info.metadata_bytes:
            io_types |= {"nvme_io_md"}
        return Bdev(
            f"{self.name}n{info.nsid}", "NVMe ZNS disk" if info.zone_size else "NVMe disk", "nvme", device,
            info.block_bytes + interleaved, info.block_count, io_types, _bdev_uuid(info),
            md_size=info.metadata_bytes, md_interleave=info.metadata_interleaved, dif_type=info.dif_type, numa_id=-1,
            zoned=bool(info.zone_size), zone_size=info.zone_size, max_open_zones=info.max_open_zones,
            memory_domains=("DMA",), driver_specific=lambda: self._driver_specific(info.nsid),
        )  # fmt: skip

    def _driver_specific(self, nsid: int) -> dict[str, Any]:
        controller = self.controller
        ctrlr_data: dict[str, Any] = {}
        if controller is not None:
            ctrlr_data = {
                "cntlid": controller.cntlid, "model_number": controller.model, "serial_number": controller.serial,
                "firmware_revision": controller.firmware, "subnqn": self.params["subnqn"], "multi_ctrlr": True,
                "ana_reporting": False,
            }  # fmt: skip
        path = {"trid": self.trid, "ctrlr_data": ctrlr_data, "ns_data": {"id": nsid, "can_share": True}}
        return {"nvme": [path], "mp_policy": "active_passive"}

    # --- connected ---------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while True:
            controller = self.controller
            assert controller is not None
            lost = asyncio.ensure_future(controller.lost.wait())
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait((lost, changed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
                changed.cancel()
            if controller.lost.is_set():
                if not await self._recover(controller):
                    return
                continue
            self._changed.clear()
            try:
                async with self._lock:
                    await self._scan(controller, fresh=False)
            except (FtlError, OSError) as error:
                logger.warning("reading the namespaces of controller %s again failed: %s", self.name, error)

    async def _recover(self, lost: BaseController) -> bool:
        """Reconnects. I/O waits meanwhile, for at most fast_io_fail_timeout. Returns False if it has given up: with a
        loss timeout it has removed the bdevs then; without one they stay and fail I/O."""
        for namespace in self.namespaces.values():
            namespace.gate.hold()
        fast_fail = self.options.fast_io_fail_timeout
        timer = asyncio.get_running_loop().call_later(fast_fail, self._fail_io) if fast_fail else None
        try:
            return await self._reconnect(lost)
        finally:
            if timer is not None:
                timer.cancel()

    def _fail_io(self) -> None:
        for namespace in self.namespaces.values():
            namespace.gate.fail(wire.Status.PATH_ERROR)

    async def _reconnect(self, lost: BaseController) -> bool:
        loop = asyncio.get_running_loop()
        options = self.options
        give_up_at = loop.time() + options.ctrlr_loss_timeout if options.ctrlr_loss_timeout > 0 else None
        self.state = State.RESETTING
        await lost.close()
        while True:
            try:
                controller = await self.connect()
            except (FtlError, OSError) as error:
                logger.info("controller %s: reconnecting failed: %s", self.name, error)
            else:
                try:
                    async with self._lock:
                        await self.adopt(controller)
                    return True
                except (FtlError, OSError) as error:
                    logger.info("controller %s: lost again while reconnecting: %s", self.name, error)
                    await controller.close()
                except BaseException:
                    # Whoever detaches holds the lock, and only knows the earlier controller.
                    await to_its_end(controller.close())
                    raise
            if options.reconnect_delay == 0:
                self._fail_io()
                self.state = State.FAILED
                return False
            if give_up_at is not None and loop.time() + options.reconnect_delay > give_up_at:
                await asyncio.sleep(max(0.0, give_up_at - loop.time()))
                logger.warning("controller %s: not back after %d s, removing it", self.name, options.ctrlr_loss_timeout)
                async with self._lock:
                    await self._remove()
                return False
            self.state = State.RECONNECT_IS_DELAYED
            await asyncio.sleep(options.reconnect_delay)
            self.state = State.RESETTING

    # --- removal -----------------------------------------------------------------------------------------------------

    async def _drop(self, namespace: RemoteNamespace) -> None:
        self.namespaces.pop(namespace.info.nsid, None)
        namespace.gate.fail(wire.Status.PATH_ERROR)  # otherwise waiting I/O would wait forever
        await self._bdevs.unregister(namespace.bdev)
        namespace.qpair.close()

    async def _remove(self) -> None:
        self.state = State.DELETING
        for namespace in list(self.namespaces.values()):
            await self._drop(namespace)
        if self.controller is not None:
            await self.controller.close()
        self._on_removed()

    async def detach(self) -> None:
        """Ends the controller and removes its bdevs. The caller holds the target's lock."""
        if self._supervisor is not None:
            await end_tasks([self._supervisor])
        await self._remove()


async def _emptied(namespace: RemoteNamespace) -> None:
    """Holds I/O at the gate until the old queue is empty, so that another queue can replace it. A command that is
    repeated on another queue could otherwise overtake itself. Raises FtlError if that takes too long; I/O then
    continues on the old queue."""
    gate = namespace.gate
    gate.hold()
    if await until(gate.sweep, timeout_s=EMPTY_TIMEOUT_S, poll_s=EMPTY_POLL_S):
        return
    gate.set_device(namespace.qpair)
    raise FtlError(
        f"bdev {namespace.bdev.name} has grown, but its outstanding I/O does not complete, so it keeps the old size"
    )


def _same(new: NamespaceInfo, old: NamespaceInfo) -> bool:
    """Whether a namespace that was found again is the one that the bdev stands for. The namespace may have grown."""
    if new.block_count < old.block_count:
        return False
    return (new.nguid, new.eui64, new.uuid, new.block_bytes, new.csi, new.zone_size) == (
        old.nguid, old.eui64, old.uuid, old.block_bytes, old.csi, old.zone_size,
    )  # fmt: skip


def _bdev_uuid(info: NamespaceInfo) -> UUID:
    if any(info.nguid):
        return UUID(bytes=info.nguid)
    return info.uuid if info.uuid is not None and info.uuid.int else uuid4()


class NvmeControllers:
    """All attached controllers, by name."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer, lock: asyncio.Lock) -> None:
        """lock: whoever changes the target holds it."""
        self._reactor = reactor
        self._bdevs = bdevs
        self._lock = lock
        self.controllers: dict[str, AttachedController] = {}
        self.defaults = ReconnectOptions()
        self.options: dict[str, Any] = {}
        self.hostid = uuid4()
        self.hostnqn = f"nqn.2014-08.org.nvmexpress:uuid:{self.hostid}"

    async def attach(
        self, params: Params, options: ReconnectOptions, keys: HostKeys | None = None, psk: PskSource | None = None
    ) -> list[str]:
        attached = AttachedController(
            self._reactor,
            self._bdevs,
            self._lock,
            params,
            options,
            hostnqn=params.get("hostnqn", self.hostnqn),
            hostid=self.hostid,
            keys=keys,
            psk=psk,
            on_removed=lambda: self.controllers.pop(params["name"], None),
        )
        self.controllers[attached.name] = attached  # reserves the name during the connect
        controller: BaseController | None = None
        try:
            controller = await attached.connect()
            async with self._lock:
                names = await attached.adopt(controller)
        except (FtlError, OSError) as error:
            logger.warning("attaching controller %s at %s:%s failed: %s", attached.name, *attached.path[:2], error)
            if controller is not None:
                async with self._lock:
                    await attached.detach()
            raise failed(EIO) from error
        except BaseException:
            await to_its_end(self._take_back(attached, controller))
            raise
        finally:
            if attached.state is State.RESETTING:
                self.controllers.pop(attached.name, None)
        if len(names) > params.get("max_bdevs", BDEVS_DEFAULT):
            async with self._lock:
                await attached.detach()
            raise failed(errno.ERANGE)
        attached.supervise()
        return names

    async def _take_back(self, attached: AttachedController, controller: BaseController | None) -> None:
        async with self._lock:
            await attached.detach()
        if controller is not None:
            # A controller that was not adopted yet.
            await controller.close()

    async def close(self) -> None:
        for attached in list(self.controllers.values()):
            await attached.detach()

    def saved(self) -> list[dict[str, Any]]:
        calls = [{"method": "bdev_nvme_set_options", "params": dict(self.options)}] if self.options else []
        for attached in self.controllers.values():
            params = {name: value for name, value in attached.params.items() if value is not None}
            params |= {
                "ctrlr_loss_timeout_sec": attached.options.ctrlr_loss_timeout,
                "reconnect_delay_sec": attached.options.reconnect_delay,
                "fast_io_fail_timeout_sec": attached.options.fast_io_fail_timeout,
            }
            calls.append({"method": "bdev_nvme_attach_controller", "params": params})
        return calls

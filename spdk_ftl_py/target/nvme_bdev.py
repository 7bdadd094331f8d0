"""bdev_nvme: namespaces of remote NVMe/TCP controllers as bdevs NAMEnNSID, with reconnects as SPDK's options say."""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from .. import _shim
from ..errors import ExistsError, FtlError
from ..nvme import wire
from ..nvme.host.controller import Controller, NamespaceInfo
from ..runtime.tasks import end_tasks
from . import decode
from .bdevs import Bdev
from .decode import Fields
from .emulated import NVME_IO_TYPES, ZONED_IO_TYPES
from .jsonrpc import RpcError
from .methods import EALREADY, EINVAL, EIO, ENODEV, ENOTSUP, ENXIO, Params, failed, rpc

if TYPE_CHECKING:
    from .app import Target

logger = logging.getLogger(__name__)

NQN_BYTES_MAX = 223
TRADDR_BYTES_MAX = 256
TRSVCID_BYTES_MAX = 32
BDEVS_DEFAULT = 128
CONNECT_TIMEOUT_S = 10.0
QUEUE_DEPTH = 128
ADRFAMS = {"ipv4": "IPv4", "ipv6": "IPv6"}


class State(enum.Enum):
    """As bdev_nvme_get_controllers prints it."""

    ENABLED = "enabled"
    RESETTING = "resetting"
    RECONNECT_IS_DELAYED = "reconnect_is_delayed"
    FAILED = "failed"
    DELETING = "deleting"


@dataclass(frozen=True)
class ReconnectOptions:
    """Seconds. 0/0/0: one attempt to reset, then the controller stays failed. ctrlr_loss_timeout -1: for ever."""

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
    """What the bdev's I/O goes to: waits here while the controller is away."""
    qpair: _shim.HostQpair


class AttachedController:
    """One name of bdev_nvme_attach_controller and everything behind it."""

    def __init__(self, target: Target, params: Params, options: ReconnectOptions, hostnqn: str, hostid: UUID) -> None:
        self.name: str = params["name"]
        self.params = params
        self.options = options
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.state = State.RESETTING
        self.namespaces: dict[int, RemoteNamespace] = {}
        self.controller: Controller | None = None
        self._target = target
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def path(self) -> tuple[str, str, str]:
        return self.params["traddr"], self.params["trsvcid"], self.params["subnqn"]

    @property
    def trid(self) -> dict[str, str]:
        return {
            "trtype": "TCP", "adrfam": self.params["adrfam"], "traddr": self.params["traddr"],
            "trsvcid": self.params["trsvcid"], "subnqn": self.params["subnqn"],
        }  # fmt: skip

    # --- coming ------------------------------------------------------------------------------------------------------

    async def connect(self) -> Controller:
        """Raises FtlError or OSError."""
        timeout_us = self.params.get("fabrics_connect_timeout_us", 0)
        controller = await Controller.connect(
            self.params["traddr"],
            self.params["trsvcid"],
            self.params["subnqn"],
            hostnqn=self.hostnqn,
            hostid=self.hostid,
            header_digest=self.params.get("hdgst", False),
            data_digest=self.params.get("ddgst", False),
            timeout_s=timeout_us / 1e6 if timeout_us else CONNECT_TIMEOUT_S,
        )
        controller.on_event = self._event
        return controller

    def _event(self, *_details: Any) -> None:
        self._changed.set()

    async def adopt(self, controller: Controller) -> list[str]:
        """Makes the bdevs of a fresh connection; the target's lock is held. Returns the names of those that are new."""
        self.controller = controller
        names = await self._scan(controller, fresh=True)
        self.state = State.ENABLED
        return names

    def supervise(self) -> None:
        self._supervisor = asyncio.get_running_loop().create_task(
            self._supervise(), name=f"NVMe controller {self.name}"
        )

    async def _scan(self, controller: Controller, *, fresh: bool) -> list[str]:
        """Registers, renews and unregisters bdevs until they are what the controller has."""
        infos = {info.nsid: info for info in await controller.namespaces()}
        new: list[str] = []
        for nsid, known in list(self.namespaces.items()):
            if nsid not in infos or not _same(infos[nsid], known.info):
                await self._drop(known)
        for nsid, info in sorted(infos.items()):
            if nsid in self.namespaces and not fresh:
                continue
            try:
                qpair = await controller.create_io_qpair(self._target.reactor, info, queue_depth=QUEUE_DEPTH)
            except FtlError as error:
                if controller.lost.is_set() or nsid in self.namespaces:
                    # I/O of one that is known waits for it: it is tried again.
                    raise
                logger.warning("namespace %d of %s is left out: %s", nsid, self.params["subnqn"], error)
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
                    continue
            gate = _shim.Gate(self._target.reactor.shim, qpair)
            bdev = self._make_bdev(info, gate)
            try:
                self._target.bdevs.register(bdev)
            except ExistsError:
                logger.warning(
                    "namespace %d of %s: bdev %s or UUID %s exists already, so it is left out",
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
                "subnqn": self.params["subnqn"], "multi_ctrlr": True, "ana_reporting": False,
            }  # fmt: skip
        path = {"trid": self.trid, "ctrlr_data": ctrlr_data, "ns_data": {"id": nsid, "can_share": True}}
        return {"nvme": [path], "mp_policy": "active_passive"}

    # --- staying -----------------------------------------------------------------------------------------------------

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
                async with self._target.lock:
                    await self._scan(controller, fresh=False)
            except (FtlError, OSError) as error:
                logger.warning("reading the namespaces of controller %s anew failed: %s", self.name, error)

    async def _recover(self, lost: Controller) -> bool:
        """False: given up. With a loss timeout the bdevs have been removed by then, without they stay and fail I/O.
        Until then I/O waits: for as long as fast_io_fail_timeout says."""
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

    async def _reconnect(self, lost: Controller) -> bool:
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
                    async with self._target.lock:
                        await self.adopt(controller)
                    return True
                except (FtlError, OSError) as error:
                    logger.info("controller %s: lost again while reconnecting: %s", self.name, error)
                    await controller.close()
            if options.reconnect_delay == 0:
                self._fail_io()
                self.state = State.FAILED
                return False
            if give_up_at is not None and loop.time() + options.reconnect_delay > give_up_at:
                await asyncio.sleep(max(0.0, give_up_at - loop.time()))
                logger.warning("controller %s: not back after %d s, removed", self.name, options.ctrlr_loss_timeout)
                async with self._target.lock:
                    await self._remove()
                return False
            self.state = State.RECONNECT_IS_DELAYED
            await asyncio.sleep(options.reconnect_delay)
            self.state = State.RESETTING

    # --- going -------------------------------------------------------------------------------------------------------

    async def _drop(self, namespace: RemoteNamespace) -> None:
        self.namespaces.pop(namespace.info.nsid, None)
        namespace.gate.fail(wire.Status.PATH_ERROR)  # what waits would wait for ever
        await self._target.bdevs.unregister(namespace.bdev)
        namespace.qpair.close()

    async def _remove(self) -> None:
        self.state = State.DELETING
        for namespace in list(self.namespaces.values()):
            await self._drop(namespace)
        if self.controller is not None:
            await self.controller.close()
        self._target.nvme.controllers.pop(self.name, None)

    async def detach(self) -> None:
        """The target's lock is held."""
        if self._supervisor is not None:
            await end_tasks([self._supervisor])
        await self._remove()


def _same(new: NamespaceInfo, old: NamespaceInfo) -> bool:
    """Whether a namespace found after a reconnect is still the one that a bdev stands for."""
    return (new.nguid, new.eui64, new.uuid, new.block_count, new.block_bytes, new.csi, new.zone_size) == (
        old.nguid, old.eui64, old.uuid, old.block_count, old.block_bytes, old.csi, old.zone_size,
    )  # fmt: skip


def _bdev_uuid(info: NamespaceInfo) -> UUID:
    if any(info.nguid):
        return UUID(bytes=info.nguid)
    return info.uuid if info.uuid is not None and info.uuid.int else uuid4()


class NvmeControllers:
    """All attached controllers, by name."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.controllers: dict[str, AttachedController] = {}
        self.defaults = ReconnectOptions()
        self.options: dict[str, Any] = {}
        self.hostid = uuid4()
        self.hostnqn = f"nqn.2014-08.org.nvmexpress:uuid:{self.hostid}"

    async def attach(self, params: Params, options: ReconnectOptions) -> list[str]:
        attached = AttachedController(self._target, params, options, params.get("hostnqn", self.hostnqn), self.hostid)
        self.controllers[attached.name] = attached  # reserves the name while we connect
        controller: Controller | None = None
        try:
            controller = await attached.connect()
            async with self._target.lock:
                names = await attached.adopt(controller)
        except (FtlError, OSError) as error:
            logger.warning("attaching controller %s at %s:%s failed: %s", attached.name, *attached.path[:2], error)
            if controller is not None:
                async with self._target.lock:
                    await attached.detach()
            raise failed(EIO) from error
        finally:
            if attached.state is State.RESETTING:
                self.controllers.pop(attached.name, None)
        if len(names) > params.get("max_bdevs", BDEVS_DEFAULT):
            async with self._target.lock:
                await attached.detach()
            raise failed(errno.ERANGE)
        attached.supervise()
        return names

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


# --- methods ---------------------------------------------------------------------------------------------------------

_RECONNECT_FIELDS: dict[str, decode.Decoder] = {
    "ctrlr_loss_timeout_sec": decode.int32,
    "reconnect_delay_sec": decode.uint32,
    "fast_io_fail_timeout_sec": decode.uint32,
}


def _reconnect_options(params: Params, defaults: ReconnectOptions) -> ReconnectOptions:
    options = ReconnectOptions(
        params.get("ctrlr_loss_timeout_sec", defaults.ctrlr_loss_timeout),
        params.get("reconnect_delay_sec", defaults.reconnect_delay),
        params.get("fast_io_fail_timeout_sec", defaults.fast_io_fail_timeout),
    )
    if not options.valid():
        raise failed(EINVAL)
    return options


_MULTIPATH_OPTS = Fields(
    None,
    {
        "policy": decode.choice("active_passive", "active_active"),
        "selector": decode.choice("round_robin", "queue_depth"),
        "min_io": decode.uint32,
    },
)


@rpc(
    "bdev_nvme_attach_controller",
    Fields(
        {"name": decode.string, "trtype": decode.string, "traddr": decode.string},
        {
            **dict.fromkeys(
                (
                    "adrfam", "trsvcid", "priority", "subnqn", "hostnqn", "hostaddr", "hostsvcid", "psk", "dhchap_key",
                    "dhchap_ctrlr_key",
                ),
                decode.string,
            ),
            **dict.fromkeys(
                ("prchk_reftag", "prchk_guard", "hdgst", "ddgst", "allow_unrecognized_csi", "disable_sq_flow_control"),
                decode.boolean,
            ),
            **dict.fromkeys(("num_io_queues", "max_bdevs"), decode.uint32),
            **_RECONNECT_FIELDS,
            "fabrics_connect_timeout_us": decode.uint64,
            "multipath": decode.choice("disable", "failover", "multipath"),
            "multipath_opts": _MULTIPATH_OPTS,
        },
    ),
    exclusive=False,
)  # fmt: skip
async def bdev_nvme_attach_controller(target: Target, params: Params) -> list[str]:
    nvme = target.nvme
    name = params["name"]
    if params.get("max_bdevs", BDEVS_DEFAULT) == 0:
        raise RpcError(-EINVAL, "max_bdevs cannot be zero")
    adrfam = params.get("adrfam", "ipv4")
    if adrfam.lower() not in ADRFAMS:
        raise RpcError(-EINVAL, f"Failed to parse adrfam: {adrfam}")
    for what, limit in (
        ("traddr", TRADDR_BYTES_MAX),
        ("trsvcid", TRSVCID_BYTES_MAX),
        ("subnqn", NQN_BYTES_MAX),
        ("hostnqn", NQN_BYTES_MAX),
    ):
        if len(params.get(what, "").encode()) > limit:
            raise RpcError(-EINVAL, f"{what} too long: {params[what]}")
    trsvcid = params.get("trsvcid", "4420")
    subnqn = params.get("subnqn", wire.DISCOVERY_NQN)
    existing = nvme.controllers.get(name)
    if existing is not None:
        if params.get("multipath") == "disable":
            raise RpcError(-EALREADY, f"A controller named {name} already exists and multipath is disabled")
        if (params["traddr"], trsvcid) == existing.path[:2]:
            raise RpcError(-EALREADY, f"A controller named {name} already exists with the specified network path")
        if subnqn != existing.path[2]:
            raise RpcError(
                -EINVAL, f"A controller named {name} already exists, but uses a different subnqn ({existing.path[2]})"
            )
        raise RpcError(-ENOTSUP, f"A controller named {name} already exists, and the embedded target has no multipath")
    if params["trtype"].upper() != "TCP":
        raise failed(ENODEV)
    if any(key in params for key in ("psk", "dhchap_key", "dhchap_ctrlr_key")):
        raise failed(ENOTSUP)
    if any(other.path == (params["traddr"], trsvcid, subnqn) for other in nvme.controllers.values()):
        raise failed(errno.EEXIST)
    options = _reconnect_options(params, nvme.defaults)
    if not name or not trsvcid.isdigit() or not 0 < int(trsvcid) < 65536:
        raise failed(EINVAL)
    if subnqn == wire.DISCOVERY_NQN:
        raise failed(EIO)  # it has no namespaces
    chosen = params | {"trtype": "TCP", "adrfam": ADRFAMS[adrfam.lower()], "trsvcid": trsvcid, "subnqn": subnqn}
    return await nvme.attach(chosen, options)


@rpc(
    "bdev_nvme_detach_controller",
    Fields(
        {"name": decode.string},
        dict.fromkeys(("trtype", "traddr", "adrfam", "trsvcid", "subnqn", "hostaddr", "hostsvcid"), decode.string),
    ),
)
async def bdev_nvme_detach_controller(target: Target, params: Params) -> bool:
    attached = target.nvme.controllers.get(params["name"])
    if attached is None or (attached.state is State.RESETTING and attached.controller is None):
        raise failed(ENODEV)
    given = {key: params[key] for key in ("trtype", "traddr", "adrfam", "trsvcid", "subnqn") if key in params}
    if any(value.lower() != attached.trid[key].lower() for key, value in given.items()):
        raise failed(ENXIO)
    await attached.detach()
    return True


@rpc("bdev_nvme_get_controllers", Fields(None, {"name": decode.string}), exclusive=False)
async def bdev_nvme_get_controllers(target: Target, params: Params) -> list[dict[str, Any]]:
    controllers = target.nvme.controllers
    if "name" in params and params["name"] not in controllers:
        raise RpcError(-EINVAL, f"Controller {params['name']} does not exist")
    return [
        {
            "name": attached.name,
            "ctrlrs": [
                {
                    "state": attached.state.value,
                    "trid": attached.trid,
                    "cntlid": attached.controller.cntlid,
                    "host": {
                        "nqn": attached.hostnqn, "addr": attached.params.get("hostaddr", ""),
                        "svcid": attached.params.get("hostsvcid", ""), "no_shn_notification": False,
                    },
                }
            ],
        }
        for attached in controllers.values()
        if attached.controller is not None and attached.name == params.get("name", attached.name)
    ]  # fmt: skip


@rpc(
    "bdev_nvme_set_options",
    Fields(
        None,
        {
            **_RECONNECT_FIELDS,
            **dict.fromkeys(
                (
                    "keep_alive_timeout_ms", "arbitration_burst", "low_priority_weight", "medium_priority_weight",
                    "high_priority_weight", "io_queue_requests", "transport_retry_count", "rdma_srq_size",
                    "rdma_max_cq_size", "tcp_connect_timeout_ms",
                ),
                decode.uint32,
            ),
            **dict.fromkeys(
                ("timeout_us", "timeout_admin_us", "nvme_adminq_poll_period_us", "nvme_ioq_poll_period_us"),
                decode.uint64,
            ),
            **dict.fromkeys(
                (
                    "delay_cmd_submit", "disable_auto_failback", "generate_uuids", "nvme_error_stat", "io_path_stat",
                    "allow_accel_sequence", "rdma_umr_per_io", "enable_flush",
                ),
                decode.boolean,
            ),
            **dict.fromkeys(("transport_ack_timeout", "transport_tos"), decode.uint8),
            **dict.fromkeys(("dhchap_digests", "dhchap_dhgroups"), decode.array_of(decode.string, 16)),
            "bdev_retry_count": decode.int32,
            "rdma_cm_event_timeout_ms": decode.uint16,
            "action_on_timeout": decode.choice("none", "reset", "abort"),
            "multipath_opts": _MULTIPATH_OPTS,
        },
    ),
)  # fmt: skip
async def bdev_nvme_set_options(target: Target, params: Params) -> bool:
    """Only the reconnect options mean something here; the others are taken and shown again."""
    nvme = target.nvme
    options = _reconnect_options(params, nvme.defaults)
    if nvme.controllers:
        raise RpcError(-errno.EPERM, "RPC not permitted with nvme controllers already attached")
    nvme.defaults = options
    nvme.options |= params
    return True


@rpc(
    "bdev_nvme_set_hotplug",
    Fields({"enable": decode.boolean}, {"period_us": decode.uint64}),
    decode_error=(-32602, os.strerror(errno.EINVAL)),
)
async def bdev_nvme_set_hotplug(_target: Target, _params: Params) -> bool:
    """There is no PCIe here to watch."""
    return True

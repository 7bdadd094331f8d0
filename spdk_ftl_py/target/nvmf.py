"""The exports of the target, on top of nvme/target/listener.py: transport, subsystems, namespaces of bdevs,
listeners."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from ..errors import FtlError
from ..nvme.target.listener import NvmfTarget
from ..nvme.target.peers import PeerLimits
from ..nvme.target.reservation_file import ReservationFile
from ..nvme.target.reservations import Reservations
from ..nvme.target.subsystem import Subsystem
from ..nvme.wire import AnaState
from ..runtime.reactor import ReactorLoop
from . import decode, vfio_user
from .bdevs import EXPORTED_METADATA_BYTES_MAX, NULL_UUID, BdevLayer, Descriptor
from .decode import Params
from .refusals import invalid_parameters
from .vfio_user import VfioUserEndpoints

logger = logging.getLogger(__name__)

TRANSPORT_DEFAULTS: dict[str, Any] = {
    "trtype": "TCP", "max_queue_depth": 128, "max_io_qpairs_per_ctrlr": 127, "in_capsule_data_size": 4096,
    "max_io_size": 131072, "max_aq_depth": 128, "iobuf_small_cache_size": 2**32 - 1,
    "iobuf_large_cache_size": 2**32 - 1, "dif_insert_or_strip": False, "zcopy": False, "c2h_success": True,
    "sock_priority": 0, "abort_timeout_sec": 1, "ack_timeout": 0, "data_wr_pool_size": 0,
    "disable_command_passthru": False, "kas": 100, "min_kato": 10000,
}  # fmt: skip

# SPDK's targets accept hosts without keep-alive, and any number of hosts from one address.
PEERS = PeerLimits(
    controllers_per_address=256, controllers_per_host=256, io_queues_per_address_percent=100,
    io_queues_per_host_percent=100, no_keep_alive=1,
)  # fmt: skip

TRANSPORT_OPTIONS: dict[str, decode.Decoder] = {
    **dict.fromkeys(("max_queue_depth", "kas"), decode.uint16),
    **dict.fromkeys(
        (
            "max_io_qpairs_per_ctrlr", "in_capsule_data_size", "max_io_size", "max_aq_depth", "iobuf_small_cache_size",
            "iobuf_large_cache_size", "abort_timeout_sec", "acceptor_poll_rate", "ack_timeout", "data_wr_pool_size",
            "min_kato", "io_unit_size", "num_shared_buffers", "buf_cache_size", "sock_priority", "control_msg_num",
        ),
        decode.uint32,
    ),
    **dict.fromkeys(
        (
            "dif_insert_or_strip", "zcopy", "disable_command_passthru", "c2h_success", "disable_mappable_bar0",
            "disable_adaptive_irq", "disable_shadow_doorbells",
        ),
        decode.boolean,
    ),
}  # fmt: skip


@dataclass(eq=False)
class ExportedNamespace:
    descriptor: Descriptor
    nsid: int
    uuid: UUID
    nguid: bytes
    eui64: bytes | None
    ptpl_file: str | None


@dataclass(eq=False)
class Export:
    """A subsystem as RPCs see it. Hosts connect to ``subsystem``."""

    subsystem: Subsystem
    namespaces: dict[int, ExportedNamespace] = field(default_factory=dict)
    listeners: list[dict[str, str]] = field(default_factory=list)
    hosts: dict[str, dict[str, str]] = field(default_factory=dict)
    """The names of the hosts' keys, by host NQN."""

    @property
    def nqn(self) -> str:
        return self.subsystem.nqn


class Nvmf:
    """The state of the nvmf_* methods. Subsystems may exist before there is a transport; listeners may not."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer) -> None:
        self._reactor = reactor
        self._bdevs = bdevs
        self.transports: dict[str, dict[str, Any]] = {}
        """By trtype, TCP or VFIOUSER, in the order of their creation."""
        self.exports: dict[str, Export] = {}
        self.server: NvmfTarget | None = None
        """With transport TCP."""
        self.endpoints: VfioUserEndpoints | None = None
        """With transport VFIOUSER."""

    @property
    def transport(self) -> dict[str, Any] | None:
        return self.transports.get("TCP")

    def create_transport(self, options: dict[str, Any]) -> None:
        """options: with trtype."""
        if options["trtype"] == vfio_user.TRTYPE:
            transport = self.transports[vfio_user.TRTYPE] = vfio_user.DEFAULTS | options
            self.endpoints = VfioUserEndpoints(self._reactor, transport)
            return
        transport = TRANSPORT_DEFAULTS | options
        self.server = NvmfTarget(
            self._reactor,
            max_io_bytes=transport["max_io_size"],
            in_capsule_bytes=transport["in_capsule_data_size"],
            max_queue_depth=transport["max_queue_depth"],
            max_io_qpairs_per_controller=transport["max_io_qpairs_per_ctrlr"],
            peers=PEERS,
        )
        self.transports["TCP"] = transport
        for export in self.exports.values():
            self.server.add_subsystem(export.subsystem)

    def find(self, nqn: str) -> Export:
        export = self.exports.get(nqn)
        if export is None:
            raise invalid_parameters()
        return export

    def add_subsystem(self, subsystem: Subsystem) -> None:
        if self.server is not None:
            self.server.add_subsystem(subsystem)
        self.exports[subsystem.nqn] = Export(subsystem)

    async def delete_subsystem(self, export: Export) -> None:
        """Disconnects the subsystem's hosts, closes listeners that no other subsystem uses, and closes its bdevs."""
        for address in list(export.listeners):
            await self.remove_listener(export, address)
        if self.server is not None:
            await self.server.remove_subsystem(export.nqn)
        for namespace in list(export.namespaces.values()):
            self._drop_namespace(export, namespace)
        del self.exports[export.nqn]

    def add_namespace(self, export: Export, params: Params) -> int:
        """Opens and claims the bdev. Returns the NSID. Raises FtlError; nothing has changed then."""
        layer = self._bdevs
        descriptor = layer.open(params["bdev_name"], f"namespace of {export.nqn}", write=True)
        try:
            bdev = descriptor.bdev
            if bdev.md_size and (not bdev.md_interleave or bdev.md_size > EXPORTED_METADATA_BYTES_MAX):
                raise invalid_parameters()
            layer.claim(descriptor)
            uuid = params.get("uuid", NULL_UUID)
            uuid = uuid if uuid != NULL_UUID else bdev.uuid
            nguid: bytes = params.get("nguid", b"")
            nguid = nguid if any(nguid) else bdev.uuid.bytes
            eui64: bytes | None = params.get("eui64")
            ptpl_file: str | None = params.get("ptpl_file")
            reservations = Reservations(None if ptpl_file is None else ReservationFile(Path(ptpl_file), uuid))
            reservations.restore()
            nsid = export.subsystem.add_namespace(
                bdev.device, nsid=params.get("nsid") or None, uuid=uuid, nguid=nguid, eui64=eui64,
                reservations=reservations, ana_group=params.get("anagrpid") or None,
            )  # fmt: skip
        except BaseException:
            descriptor.close()
            raise
        namespace = ExportedNamespace(descriptor, nsid, uuid, nguid, eui64, ptpl_file)
        export.namespaces[nsid] = namespace

        async def bdev_goes() -> None:
            logger.info("bdev %s was removed, and with it namespace %d of %s", bdev.name, nsid, export.nqn)
            self._drop_namespace(export, namespace)
            # Else whoever opens the bdev's file next would find it in use.
            await export.subsystem.devices_given_back()

        descriptor.on_remove = bdev_goes
        descriptor.on_resized = lambda: export.subsystem.namespace_resized(nsid)
        descriptor.on_zones_changed = lambda zones: export.subsystem.zones_changed(nsid, zones)
        return nsid

    def _drop_namespace(self, export: Export, namespace: ExportedNamespace) -> None:
        if export.namespaces.pop(namespace.nsid, None) is not None:
            export.subsystem.remove_namespace(namespace.nsid)
        namespace.descriptor.close()

    async def remove_namespace(self, export: Export, nsid: int) -> None:
        if nsid not in export.namespaces:
            raise invalid_parameters()
        self._drop_namespace(export, export.namespaces[nsid])
        await export.subsystem.devices_given_back()

    async def add_listener(self, export: Export, address: dict[str, str], *, secure_channel: bool = False) -> None:
        if address["trtype"] == vfio_user.TRTYPE:
            await self._add_endpoint(export, address)
            return
        if self.server is None or address in export.listeners:
            raise invalid_parameters()
        traddr, trsvcid = address["traddr"], int(address["trsvcid"])
        try:
            await self.server.listen(traddr, trsvcid)
            export.subsystem.add_listener(traddr, trsvcid, secure_channel=secure_channel)
        except (FtlError, OSError) as error:
            logger.warning("listening on %s:%d for %s failed: %s", traddr, trsvcid, export.nqn, error)
            raise invalid_parameters() from error
        export.listeners.append(address)

    async def _add_endpoint(self, export: Export, address: dict[str, str]) -> None:
        if self.endpoints is None or address in export.listeners:
            raise invalid_parameters()
        try:
            await self.endpoints.listen(export.subsystem, address["traddr"])
        except FtlError as error:
            logger.warning("an endpoint at %s for %s failed: %s", address["traddr"], export.nqn, error.message)
            raise invalid_parameters() from error
        export.listeners.append(address)

    async def remove_listener(self, export: Export, address: dict[str, str]) -> None:
        if address not in export.listeners:
            raise invalid_parameters()
        export.listeners.remove(address)
        if address["trtype"] == vfio_user.TRTYPE:
            if self.endpoints is not None:
                await self.endpoints.unlisten(export.subsystem, address["traddr"])
            return
        traddr, trsvcid = address["traddr"], int(address["trsvcid"])
        await export.subsystem.remove_listener(traddr, trsvcid)
        if self.server is not None:
            await self.server.unlisten(traddr, trsvcid)

    async def close(self) -> None:
        for export in list(self.exports.values()):
            await self.delete_subsystem(export)
        if self.server is not None:
            await self.server.close()
            self.server = None

    def describe(self, export: Export) -> dict[str, Any]:
        subsystem = export.subsystem
        namespaces = []
        for nsid, namespace in sorted(export.namespaces.items()):
            name = namespace.descriptor.bdev.name
            entry: dict[str, Any] = {
                "nsid": nsid,
                "bdev_name": name,
                "name": name,
                "nguid": namespace.nguid.hex().upper(),
            }
            if namespace.eui64 is not None:
                entry["eui64"] = namespace.eui64.hex().upper()
            entry["uuid"] = str(namespace.uuid)
            if subsystem.ana:
                entry["anagrpid"] = subsystem.namespaces[nsid].ana_group
            namespaces.append(entry)
        return {
            "nqn": export.nqn, "subtype": "NVMe", "listen_addresses": [dict(each) for each in export.listeners],
            "allow_any_host": subsystem.allow_any_host,
            "hosts": [{"nqn": host, **keys} for host, keys in export.hosts.items()],
            "serial_number": subsystem.serial_number, "model_number": subsystem.model_number,
            "max_namespaces": subsystem.max_namespaces, "passthrough": False, "min_cntlid": subsystem.min_cntlid,
            "max_cntlid": subsystem.max_cntlid, "dmrsl": 2097152, "wzsl": 12, "namespaces": namespaces,
        }  # fmt: skip

    def saved(self) -> list[dict[str, Any]]:
        """The part of nvmf in framework_get_config."""
        calls: list[dict[str, Any]] = []
        for transport in self.transports.values():
            known = {**TRANSPORT_OPTIONS, "trtype": decode.string}
            params = {name: value for name, value in transport.items() if name in known}
            calls.append({"method": "nvmf_create_transport", "params": params})
        for export in self.exports.values():
            subsystem = export.subsystem
            params = {
                "nqn": export.nqn, "allow_any_host": subsystem.allow_any_host, "serial_number": subsystem.serial_number,
                "model_number": subsystem.model_number, "max_namespaces": subsystem.max_namespaces,
                "min_cntlid": subsystem.min_cntlid, "max_cntlid": subsystem.max_cntlid,
                **({"ana_reporting": True} if subsystem.ana else {}),
            }  # fmt: skip
            calls.append({"method": "nvmf_create_subsystem", "params": params})
            for host, keys in export.hosts.items():
                params = {"nqn": export.nqn, "host": host, **keys}
                calls.append({"method": "nvmf_subsystem_add_host", "params": params})
            for nsid, namespace in sorted(export.namespaces.items()):
                entry: dict[str, Any] = {
                    "nsid": nsid, "bdev_name": namespace.descriptor.bdev.name, "nguid": namespace.nguid.hex().upper(),
                    "uuid": str(namespace.uuid),
                }  # fmt: skip
                if namespace.eui64 is not None:
                    entry["eui64"] = namespace.eui64.hex().upper()
                if namespace.ptpl_file is not None:
                    entry["ptpl_file"] = namespace.ptpl_file
                if subsystem.ana:
                    entry["anagrpid"] = subsystem.namespaces[nsid].ana_group
                calls.append({"method": "nvmf_subsystem_add_ns", "params": {"nqn": export.nqn, "namespace": entry}})
            for address in export.listeners:
                over_tcp = address["trtype"] == "TCP"
                secure = over_tcp and (address["traddr"], int(address["trsvcid"])) in subsystem.secure_listeners
                params = {"nqn": export.nqn, "listen_address": dict(address), "secure_channel": secure}
                calls.append({"method": "nvmf_subsystem_add_listener", "params": params})
                if not over_tcp:
                    continue
                for group in range(1, subsystem.max_namespaces + 1) if subsystem.ana else ():
                    state = subsystem.ana_state(address["traddr"], address["trsvcid"], group)
                    if state is not AnaState.OPTIMIZED:
                        params = {
                            "nqn": export.nqn, "listen_address": dict(address), "ana_state": state.name.lower(),
                            "anagrpid": group,
                        }  # fmt: skip
                        calls.append({"method": "nvmf_subsystem_listener_set_ana_state", "params": params})
        return calls

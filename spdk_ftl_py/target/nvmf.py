"""The nvmf_* RPCs: transport, subsystems, namespaces, listeners and hosts, over nvme/target/listener.py."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..errors import ExistsError, FtlError, NotFoundError
from ..nvme import wire
from ..nvme.nqn import check_nqn
from ..nvme.target.listener import NvmfTarget
from ..nvme.target.subsystem import Subsystem
from . import decode
from .bdevs import Descriptor
from .decode import Fields
from .emulated import EXPORTED_METADATA_BYTES_MAX, NULL_UUID
from .jsonrpc import RpcError
from .methods import ENODEV, INVALID_PARAMETERS, Params, failed, invalid_parameters, rpc

if TYPE_CHECKING:
    from .app import Target

logger = logging.getLogger(__name__)

TARGET_NAME = "nvmf_tgt"
SERIAL_DEFAULT = "0" * 20
MODEL_DEFAULT = "SPDK bdev Controller"
NAMESPACES_DEFAULT = 32
CNTLID_MAX = 0xFFEF
PORT_MAX = 65535

TRANSPORT_DEFAULTS: dict[str, Any] = {
    "trtype": "TCP", "max_queue_depth": 128, "max_io_qpairs_per_ctrlr": 127, "in_capsule_data_size": 4096,
    "max_io_size": 131072, "max_aq_depth": 128, "iobuf_small_cache_size": 2**32 - 1,
    "iobuf_large_cache_size": 2**32 - 1, "dif_insert_or_strip": False, "zcopy": False, "c2h_success": True,
    "sock_priority": 0, "abort_timeout_sec": 1, "ack_timeout": 0, "data_wr_pool_size": 0,
    "disable_command_passthru": False, "kas": 100, "min_kato": 10000,
}  # fmt: skip


@dataclass(eq=False)
class ExportedNamespace:
    descriptor: Descriptor
    nsid: int
    uuid: UUID
    nguid: bytes
    eui64: bytes | None


@dataclass(eq=False)
class Export:
    """A subsystem as RPCs see it; ``subsystem`` is what hosts connect to."""

    subsystem: Subsystem
    namespaces: dict[int, ExportedNamespace] = field(default_factory=dict)
    listeners: list[dict[str, str]] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    @property
    def nqn(self) -> str:
        return self.subsystem.nqn


class Nvmf:
    """What the nvmf_* methods work on. Subsystems may exist before there is a transport; listeners may not."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.transport: dict[str, Any] | None = None
        self.exports: dict[str, Export] = {}
        self.server: NvmfTarget | None = None

    def create_transport(self, options: dict[str, Any]) -> None:
        transport = TRANSPORT_DEFAULTS | options
        self.server = NvmfTarget(
            self._target.reactor,
            max_io_bytes=transport["max_io_size"],
            in_capsule_bytes=transport["in_capsule_data_size"],
            max_queue_depth=transport["max_queue_depth"],
            max_io_qpairs_per_controller=transport["max_io_qpairs_per_ctrlr"],
        )
        self.transport = transport
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
        """Disconnects its hosts, closes listeners nobody else uses, lets go of its bdevs."""
        for address in list(export.listeners):
            await self.remove_listener(export, address)
        if self.server is not None:
            await self.server.remove_subsystem(export.nqn)
        for namespace in list(export.namespaces.values()):
            self._drop_namespace(export, namespace)
        del self.exports[export.nqn]

    def add_namespace(self, export: Export, params: Params) -> int:
        """Opens and claims the bdev. Raises FtlError; nothing has changed then."""
        layer = self._target.bdevs
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
            nsid = export.subsystem.add_namespace(
                bdev.device, nsid=params.get("nsid") or None, uuid=uuid, nguid=nguid, eui64=eui64
            )
        except BaseException:
            descriptor.close()
            raise
        namespace = ExportedNamespace(descriptor, nsid, uuid, nguid, eui64)
        export.namespaces[nsid] = namespace

        async def bdev_goes() -> None:
            logger.info("bdev %s went: namespace %d of %s with it", bdev.name, nsid, export.nqn)
            self._drop_namespace(export, namespace)

        descriptor.on_remove = bdev_goes
        return nsid

    def _drop_namespace(self, export: Export, namespace: ExportedNamespace) -> None:
        if export.namespaces.pop(namespace.nsid, None) is not None:
            export.subsystem.remove_namespace(namespace.nsid)
        namespace.descriptor.close()

    def remove_namespace(self, export: Export, nsid: int) -> None:
        if nsid not in export.namespaces:
            raise invalid_parameters()
        self._drop_namespace(export, export.namespaces[nsid])

    async def add_listener(self, export: Export, address: dict[str, str]) -> None:
        if self.server is None or address in export.listeners:
            raise invalid_parameters()
        traddr, trsvcid = address["traddr"], int(address["trsvcid"])
        try:
            await self.server.listen(traddr, trsvcid)
            export.subsystem.add_listener(traddr, trsvcid)
        except (FtlError, OSError) as error:
            logger.warning("listening on %s:%d for %s failed: %s", traddr, trsvcid, export.nqn, error)
            raise invalid_parameters() from error
        export.listeners.append(address)

    async def remove_listener(self, export: Export, address: dict[str, str]) -> None:
        if address not in export.listeners:
            raise invalid_parameters()
        export.listeners.remove(address)
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
            namespaces.append(entry)
        return {
            "nqn": export.nqn, "subtype": "NVMe", "listen_addresses": [dict(each) for each in export.listeners],
            "allow_any_host": subsystem.allow_any_host, "hosts": [{"nqn": host} for host in export.hosts],
            "serial_number": subsystem.serial_number, "model_number": subsystem.model_number,
            "max_namespaces": subsystem.max_namespaces, "passthrough": False, "min_cntlid": subsystem.min_cntlid,
            "max_cntlid": subsystem.max_cntlid, "dmrsl": 2097152, "wzsl": 12, "namespaces": namespaces,
        }  # fmt: skip

    def saved(self) -> list[dict[str, Any]]:
        """framework_get_config's part."""
        calls: list[dict[str, Any]] = []
        if self.transport is not None:
            known = {**_TRANSPORT_OPTIONS, "trtype": decode.string}
            params = {name: value for name, value in self.transport.items() if name in known}
            calls.append({"method": "nvmf_create_transport", "params": params})
        for export in self.exports.values():
            subsystem = export.subsystem
            params = {
                "nqn": export.nqn, "allow_any_host": subsystem.allow_any_host, "serial_number": subsystem.serial_number,
                "model_number": subsystem.model_number, "max_namespaces": subsystem.max_namespaces,
                "min_cntlid": subsystem.min_cntlid, "max_cntlid": subsystem.max_cntlid,
            }  # fmt: skip
            calls.append({"method": "nvmf_create_subsystem", "params": params})
            for host in export.hosts:
                calls.append({"method": "nvmf_subsystem_add_host", "params": {"nqn": export.nqn, "host": host}})
            for nsid, namespace in sorted(export.namespaces.items()):
                entry: dict[str, Any] = {
                    "nsid": nsid, "bdev_name": namespace.descriptor.bdev.name, "nguid": namespace.nguid.hex().upper(),
                    "uuid": str(namespace.uuid),
                }  # fmt: skip
                if namespace.eui64 is not None:
                    entry["eui64"] = namespace.eui64.hex().upper()
                calls.append({"method": "nvmf_subsystem_add_ns", "params": {"nqn": export.nqn, "namespace": entry}})
            for address in export.listeners:
                calls.append(
                    {
                        "method": "nvmf_subsystem_add_listener",
                        "params": {"nqn": export.nqn, "listen_address": dict(address)},
                    }
                )
        return calls


# --- methods ---------------------------------------------------------------------------------------------------------

_TRANSPORT_OPTIONS: dict[str, decode.Decoder] = {
    **dict.fromkeys(("max_queue_depth", "kas"), decode.uint16),
    **dict.fromkeys(
        (
            "max_io_qpairs_per_ctrlr", "in_capsule_data_size", "max_io_size", "max_aq_depth", "iobuf_small_cache_size",
            "iobuf_large_cache_size", "abort_timeout_sec", "acceptor_poll_rate", "ack_timeout", "data_wr_pool_size",
            "min_kato", "io_unit_size", "num_shared_buffers", "buf_cache_size", "sock_priority", "control_msg_num",
        ),
        decode.uint32,
    ),
    **dict.fromkeys(("dif_insert_or_strip", "zcopy", "disable_command_passthru", "c2h_success"), decode.boolean),
}  # fmt: skip

_TGT_NAME = {"tgt_name": decode.string}


def _check_target_name(params: Params) -> None:
    if params.get("tgt_name", TARGET_NAME) != TARGET_NAME:
        raise RpcError(-32603, "Unable to find a target.")


@rpc(
    "nvmf_create_transport",
    Fields({"trtype": decode.string}, {**_TRANSPORT_OPTIONS, **_TGT_NAME}, tolerant=True),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_create_transport(target: Target, params: Params) -> bool:
    _check_target_name(params)
    trtype: str = params["trtype"]
    if trtype.upper() != "TCP":
        raise RpcError(-32602, f"Invalid transport type '{trtype}'")
    if target.nvmf.transport is not None:
        raise RpcError(-32603, f"Transport type '{trtype}' already exists")
    options = {name: params[name] for name in TRANSPORT_DEFAULTS if name in params} | {"trtype": "TCP"}
    if (
        options.get("max_io_size", 131072) % 4096
        or not 4096 <= options.get("max_io_size", 131072) <= 2**24
        or options.get("in_capsule_data_size", 4096) % 16
        or options.get("in_capsule_data_size", 4096) > 2**20
        or not 2 <= options.get("max_queue_depth", 128) <= 4096
        or not 1 <= options.get("max_io_qpairs_per_ctrlr", 127) <= 65535
    ):
        raise RpcError(-32603, f"Transport type '{trtype}' create failed")
    target.nvmf.create_transport(options)
    return True


@rpc(
    "nvmf_get_transports",
    Fields(None, {"trtype": decode.string, **_TGT_NAME}),
    decode_error=INVALID_PARAMETERS,
    exclusive=False,
)
async def nvmf_get_transports(target: Target, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    transport = target.nvmf.transport
    if "trtype" in params and (transport is None or params["trtype"].upper() != "TCP"):
        raise failed(ENODEV)
    return [] if transport is None else [dict(transport)]


@rpc(
    "nvmf_create_subsystem",
    Fields(
        {"nqn": decode.string},
        {
            "serial_number": decode.text_up_to(20), "model_number": decode.text_up_to(40), **_TGT_NAME,
            "max_namespaces": decode.uint32, "allow_any_host": decode.boolean, "ana_reporting": decode.boolean,
            "min_cntlid": decode.uint16, "max_cntlid": decode.uint16, "max_discard_size_kib": decode.uint64,
            "max_write_zeroes_size_kib": decode.uint64, "dmrsl": decode.uint32, "wzsl": decode.uint8,
            "passthrough": decode.boolean, "enable_nssr": decode.boolean,
        },
    ),
    decode_error=INVALID_PARAMETERS,
)  # fmt: skip
async def nvmf_create_subsystem(target: Target, params: Params) -> bool:
    _check_target_name(params)
    nqn, low, high = params["nqn"], params.get("min_cntlid", 1), params.get("max_cntlid", CNTLID_MAX)
    if not 1 <= low <= high <= CNTLID_MAX:
        raise RpcError(-32602, f"Invalid cntlid range [{low}-{high}]")
    try:
        if nqn in target.nvmf.exports or nqn == wire.DISCOVERY_NQN:
            raise ExistsError(f"subsystem {nqn} exists already")
        subsystem = Subsystem(
            nqn,
            serial_number=params.get("serial_number", SERIAL_DEFAULT),
            model_number=params.get("model_number", MODEL_DEFAULT),
            allow_any_host=params.get("allow_any_host", False),
            max_namespaces=params.get("max_namespaces") or NAMESPACES_DEFAULT,
            min_cntlid=low,
            max_cntlid=high,
        )
        target.nvmf.add_subsystem(subsystem)
    except FtlError as error:
        raise RpcError(-32603, f"Unable to create subsystem {nqn}") from error
    return True


@rpc("nvmf_delete_subsystem", Fields({"nqn": decode.string}, _TGT_NAME), decode_error=INVALID_PARAMETERS)
async def nvmf_delete_subsystem(target: Target, params: Params) -> bool:
    _check_target_name(params)
    await target.nvmf.delete_subsystem(target.nvmf.find(params["nqn"]))
    return True


@rpc(
    "nvmf_get_subsystems",
    Fields(None, {"nqn": decode.string, **_TGT_NAME}),
    decode_error=INVALID_PARAMETERS,
    exclusive=False,
)
async def nvmf_get_subsystems(target: Target, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    discovery = {
        "nqn": wire.DISCOVERY_NQN, "subtype": "Discovery", "listen_addresses": [], "allow_any_host": True, "hosts": [],
    }  # fmt: skip
    everything = [discovery, *(target.nvmf.describe(export) for export in target.nvmf.exports.values())]
    if "nqn" not in params:
        return everything
    found = [each for each in everything if each["nqn"] == params["nqn"]]
    if not found:
        raise failed(ENODEV)
    return found


_NAMESPACE = Fields(
    {"bdev_name": decode.string},
    {
        "nsid": decode.uint32, "ptpl_file": decode.string, "nguid": decode.hexadecimal(16),
        "eui64": decode.hexadecimal(8), "uuid": decode.uuid, "anagrpid": decode.uint32,
        "no_auto_visible": decode.boolean, "hide_metadata": decode.boolean,
    },
)  # fmt: skip


@rpc(
    "nvmf_subsystem_add_ns",
    Fields({"nqn": decode.string, "namespace": _NAMESPACE}, _TGT_NAME, tolerant=True),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_add_ns(target: Target, params: Params) -> int:
    _check_target_name(params)
    export, namespace = target.nvmf.find(params["nqn"]), params["namespace"]
    unsupported = namespace.get("no_auto_visible") or namespace.get("hide_metadata") or "ptpl_file" in namespace
    if unsupported or namespace.get("anagrpid", 0) > export.subsystem.max_namespaces:
        raise invalid_parameters()
    try:
        return target.nvmf.add_namespace(export, namespace)
    except FtlError as error:
        logger.info("adding bdev %s to %s failed: %s", namespace["bdev_name"], export.nqn, error.message)
        raise invalid_parameters() from error


@rpc(
    "nvmf_subsystem_remove_ns",
    Fields({"nqn": decode.string, "nsid": decode.uint32}, _TGT_NAME),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_remove_ns(target: Target, params: Params) -> bool:
    _check_target_name(params)
    target.nvmf.remove_namespace(target.nvmf.find(params["nqn"]), params["nsid"])
    return True


_LISTEN_ADDRESS = Fields(
    {"trtype": decode.string, "traddr": decode.string}, {"adrfam": decode.string, "trsvcid": decode.string}
)
_ADRFAMS = {4: "IPv4", 6: "IPv6"}


def _address(params: Params) -> dict[str, str]:
    """The address in the one spelling in which it is kept and shown."""
    given = params["listen_address"]
    try:
        address = ipaddress.ip_address(given["traddr"])
        port = int(given.get("trsvcid", ""))
    except ValueError:
        raise invalid_parameters() from None
    family = _ADRFAMS[address.version]
    if (
        given["trtype"].upper() != "TCP"
        or given.get("adrfam", family).lower() != family.lower()
        or not 0 < port <= PORT_MAX
        or not given["trsvcid"].isdigit()
    ):
        raise invalid_parameters()
    return {"trtype": "TCP", "adrfam": family, "traddr": str(address), "trsvcid": str(port)}


_ANA_STATES = ("optimized", "non_optimized", "inaccessible")


@rpc(
    "nvmf_subsystem_add_listener",
    Fields(
        {"nqn": decode.string, "listen_address": _LISTEN_ADDRESS},
        {
            **_TGT_NAME, "secure_channel": decode.boolean, "ana_state": decode.choice(*_ANA_STATES),
            "sock_impl": decode.string,
        },
        tolerant=True,
    ),
    decode_error=INVALID_PARAMETERS,
)  # fmt: skip
async def nvmf_subsystem_add_listener(target: Target, params: Params) -> bool:
    _check_target_name(params)
    if params.get("secure_channel", False) or params.get("ana_state", "optimized") != "optimized":
        raise invalid_parameters()  # no TLS and no ANA here
    await target.nvmf.add_listener(target.nvmf.find(params["nqn"]), _address(params))
    return True


@rpc(
    "nvmf_subsystem_remove_listener",
    Fields({"nqn": decode.string, "listen_address": _LISTEN_ADDRESS}, _TGT_NAME),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_remove_listener(target: Target, params: Params) -> bool:
    _check_target_name(params)
    await target.nvmf.remove_listener(target.nvmf.find(params["nqn"]), _address(params))
    return True


@rpc(
    "nvmf_subsystem_add_host",
    Fields(
        {"nqn": decode.string, "host": decode.string},
        {**_TGT_NAME, "dhchap_key": decode.string, "dhchap_ctrlr_key": decode.string, "psk": decode.string},
        tolerant=True,
    ),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_add_host(target: Target, params: Params) -> bool:
    _check_target_name(params)
    export, host = target.nvmf.find(params["nqn"]), params["host"]
    if any(name in params for name in ("dhchap_key", "dhchap_ctrlr_key", "psk")):
        raise invalid_parameters()  # they name entries of a keyring, which is empty here
    try:
        check_nqn(host, "host NQN")
        export.subsystem.add_host(host)
    except FtlError as error:
        raise RpcError(-32603, "Internal error") from error
    export.hosts.append(host)
    return True


@rpc(
    "nvmf_subsystem_remove_host",
    Fields({"nqn": decode.string, "host": decode.string}, {**_TGT_NAME, "timeout_ms": decode.uint64}),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_remove_host(target: Target, params: Params) -> bool:
    _check_target_name(params)
    export, host = target.nvmf.find(params["nqn"]), params["host"]
    if host not in export.hosts:
        raise RpcError(-32603, "Internal error")
    export.hosts.remove(host)
    removal = export.subsystem.remove_host(host)
    timeout_ms = params.get("timeout_ms")
    try:
        await asyncio.wait_for(removal, None if not timeout_ms else timeout_ms / 1000)
    except (asyncio.TimeoutError, NotFoundError):
        raise RpcError(-32603, "Internal error") from None
    return True


@rpc(
    "nvmf_subsystem_allow_any_host",
    Fields({"nqn": decode.string, "allow_any_host": decode.boolean}, _TGT_NAME),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_allow_any_host(target: Target, params: Params) -> bool:
    _check_target_name(params)
    subsystem = target.nvmf.find(params["nqn"]).subsystem
    subsystem.allow_any_host = params["allow_any_host"]
    if subsystem.on_discovery_change is not None:
        subsystem.on_discovery_change()
    return True


_QUERY = Fields({"nqn": decode.string}, _TGT_NAME)


@rpc("nvmf_subsystem_get_listeners", _QUERY, decode_error=INVALID_PARAMETERS, exclusive=False)
async def nvmf_subsystem_get_listeners(target: Target, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    return [{"address": dict(address)} for address in target.nvmf.find(params["nqn"]).listeners]


@rpc("nvmf_subsystem_get_controllers", _QUERY, decode_error=INVALID_PARAMETERS, exclusive=False)
async def nvmf_subsystem_get_controllers(target: Target, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    return [
        {
            "cntlid": controller.cntlid, "cntrltype": "io", "hostnqn": controller.hostnqn,
            "hostid": str(UUID(bytes=controller.hostid)), "num_io_qpairs": len(controller.io_qpairs),
        }
        for controller in target.nvmf.find(params["nqn"]).subsystem.controllers.values()
    ]  # fmt: skip


@rpc("nvmf_subsystem_get_qpairs", _QUERY, decode_error=INVALID_PARAMETERS, exclusive=False)
async def nvmf_subsystem_get_qpairs(target: Target, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    return [
        {
            "cntlid": controller.cntlid, "qid": qid, "state": "enabled", "hostnqn": controller.hostnqn,
            "listen_address": {
                "trtype": "TCP", "adrfam": _ADRFAMS[ipaddress.ip_address(controller.listener[0]).version],
                "traddr": controller.listener[0], "trsvcid": str(controller.listener[1]),
            },
        }
        for controller in target.nvmf.find(params["nqn"]).subsystem.controllers.values()
        for qid in (0, *sorted(controller.io_qpairs))
    ]  # fmt: skip

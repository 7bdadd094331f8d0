"""nvmf_*: transport, subsystems, namespaces, listeners and hosts."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any
from uuid import UUID

from ...errors import ExistsError, FtlError, NotFoundError, ParameterError
from ...nvme import wire
from ...nvme.nqn import check_nqn
from ...nvme.target.subsystem import Subsystem
from ...nvme.wire import AnaState
from ...time_limit import time_limit
from .. import decode, vfio_user
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..nvmf import TRANSPORT_DEFAULTS, TRANSPORT_OPTIONS
from ..refusals import ENODEV, INVALID_PARAMETERS, failed, invalid_parameters
from ..state import TargetState

logger = logging.getLogger(__name__)

TARGET_NAME = "nvmf_tgt"
SERIAL_DEFAULT = "0" * 20
MODEL_DEFAULT = "SPDK bdev Controller"
NAMESPACES_DEFAULT = 32
CNTLID_MAX = 0xFFEF
PORT_MAX = 65535

_TGT_NAME = {"tgt_name": decode.string}


def _check_target_name(params: Params) -> None:
    if params.get("tgt_name", TARGET_NAME) != TARGET_NAME:
        raise RpcError(-32603, "Unable to find a target.")


@rpc(
    "nvmf_create_transport",
    Fields({"trtype": decode.string}, {**TRANSPORT_OPTIONS, **_TGT_NAME}, tolerant=True),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_create_transport(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    trtype: str = params["trtype"]
    defaults = {"TCP": TRANSPORT_DEFAULTS, vfio_user.TRTYPE: vfio_user.DEFAULTS}.get(trtype.upper())
    if defaults is None:
        raise RpcError(-32602, f"Invalid transport type '{trtype}'")
    if trtype.upper() in target.nvmf.transports:
        raise RpcError(-32603, f"Transport type '{trtype}' already exists")
    options = {name: params[name] for name in defaults if name in params} | {"trtype": trtype.upper()}
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
async def nvmf_get_transports(target: TargetState, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    transports = target.nvmf.transports
    if "trtype" not in params:
        return [dict(transport) for transport in transports.values()]
    if params["trtype"].upper() not in transports:
        raise failed(ENODEV)
    return [dict(transports[params["trtype"].upper()])]


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
async def nvmf_create_subsystem(target: TargetState, params: Params) -> bool:
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
            ana=params.get("ana_reporting", False),
        )
        target.nvmf.add_subsystem(subsystem)
    except FtlError as error:
        raise RpcError(-32603, f"Unable to create subsystem {nqn}") from error
    return True


@rpc("nvmf_delete_subsystem", Fields({"nqn": decode.string}, _TGT_NAME), decode_error=INVALID_PARAMETERS)
async def nvmf_delete_subsystem(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    await target.nvmf.delete_subsystem(target.nvmf.find(params["nqn"]))
    return True


@rpc(
    "nvmf_get_subsystems",
    Fields(None, {"nqn": decode.string, **_TGT_NAME}),
    decode_error=INVALID_PARAMETERS,
    exclusive=False,
)
async def nvmf_get_subsystems(target: TargetState, params: Params) -> list[dict[str, Any]]:
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
async def nvmf_subsystem_add_ns(target: TargetState, params: Params) -> int:
    _check_target_name(params)
    export, namespace = target.nvmf.find(params["nqn"]), params["namespace"]
    unsupported = namespace.get("no_auto_visible") or namespace.get("hide_metadata")
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
async def nvmf_subsystem_remove_ns(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    await target.nvmf.remove_namespace(target.nvmf.find(params["nqn"]), params["nsid"])
    return True


_LISTEN_ADDRESS = Fields(
    {"trtype": decode.string, "traddr": decode.string}, {"adrfam": decode.string, "trsvcid": decode.string}
)
_ADRFAMS = {4: "IPv4", 6: "IPv6"}


def _address(params: Params) -> dict[str, str]:
    """The address in the spelling in which the target stores and shows it."""
    given = params["listen_address"]
    if given["trtype"].upper() == vfio_user.TRTYPE:
        return {
            "trtype": vfio_user.TRTYPE, "adrfam": vfio_user.ADRFAM, "traddr": given["traddr"],
            "trsvcid": given.get("trsvcid", ""),
        }  # fmt: skip
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


_ANA_STATES = {state.name.lower(): state for state in AnaState}


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
async def nvmf_subsystem_add_listener(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    export, secure_channel = target.nvmf.find(params["nqn"]), params.get("secure_channel", False)
    state = _ANA_STATES[params.get("ana_state", "optimized")]
    if state is not AnaState.OPTIMIZED and not export.subsystem.ana:
        raise invalid_parameters()
    address = _address(params)
    if secure_channel and export.subsystem.allow_any_host:
        raise RpcError(-32603, "Cannot establish secure channel, when 'allow_any_host' is set")
    await target.nvmf.add_listener(export, address, secure_channel=secure_channel)
    if state is not AnaState.OPTIMIZED:
        export.subsystem.set_ana_state(address["traddr"], address["trsvcid"], state)
    return True


@rpc(
    "nvmf_subsystem_listener_set_ana_state",
    Fields(
        {"nqn": decode.string, "listen_address": _LISTEN_ADDRESS, "ana_state": decode.choice(*_ANA_STATES)},
        {**_TGT_NAME, "anagrpid": decode.uint32},
    ),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_listener_set_ana_state(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    subsystem, address = target.nvmf.find(params["nqn"]).subsystem, _address(params)
    group = params.get("anagrpid") or None
    if group is not None and group > subsystem.max_namespaces:
        raise invalid_parameters()
    try:
        subsystem.set_ana_state(address["traddr"], address["trsvcid"], _ANA_STATES[params["ana_state"]], group=group)
    except FtlError as error:
        raise invalid_parameters() from error
    return True


@rpc(
    "nvmf_subsystem_remove_listener",
    Fields({"nqn": decode.string, "listen_address": _LISTEN_ADDRESS}, _TGT_NAME),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_remove_listener(target: TargetState, params: Params) -> bool:
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
async def nvmf_subsystem_add_host(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    export, host = target.nvmf.find(params["nqn"]), params["host"]
    names: dict[str, str] = {name: params[name] for name in ("dhchap_key", "dhchap_ctrlr_key", "psk") if name in params}
    try:
        keys = target.keyring.host_keys(names.get("dhchap_key"), names.get("dhchap_ctrlr_key"))
        psk = target.keyring.psk(names.get("psk"))
    except KeyError:
        raise invalid_parameters() from None
    except ParameterError as error:
        raise RpcError(-32603, "Internal error") from error
    if keys is None and "dhchap_ctrlr_key" in names:
        raise RpcError(-32603, "Internal error")  # a controller key without a host key
    try:
        check_nqn(host, "host NQN")
        export.subsystem.add_host(host, keys, psk)
    except FtlError as error:
        raise RpcError(-32603, "Internal error") from error
    export.hosts[host] = names
    return True


@rpc(
    "nvmf_subsystem_remove_host",
    Fields({"nqn": decode.string, "host": decode.string}, {**_TGT_NAME, "timeout_ms": decode.uint64}),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_remove_host(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    export, host = target.nvmf.find(params["nqn"]), params["host"]
    if host not in export.hosts:
        raise RpcError(-32603, "Internal error")
    del export.hosts[host]
    removal = export.subsystem.remove_host(host)
    timeout_ms = params.get("timeout_ms")
    try:
        async with time_limit(None if not timeout_ms else timeout_ms / 1000):
            await removal
    except (asyncio.TimeoutError, NotFoundError):
        raise RpcError(-32603, "Internal error") from None
    return True


@rpc(
    "nvmf_subsystem_allow_any_host",
    Fields({"nqn": decode.string, "allow_any_host": decode.boolean}, _TGT_NAME),
    decode_error=INVALID_PARAMETERS,
)
async def nvmf_subsystem_allow_any_host(target: TargetState, params: Params) -> bool:
    _check_target_name(params)
    target.nvmf.find(params["nqn"]).subsystem.allow_any_host = params["allow_any_host"]
    return True


_QUERY = Fields({"nqn": decode.string}, _TGT_NAME)


@rpc("nvmf_subsystem_get_listeners", _QUERY, decode_error=INVALID_PARAMETERS, exclusive=False)
async def nvmf_subsystem_get_listeners(target: TargetState, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    export = target.nvmf.find(params["nqn"])
    return [{"address": dict(address), **_ana_states(export.subsystem, address)} for address in export.listeners]


def _ana_states(subsystem: Subsystem, address: dict[str, str]) -> dict[str, Any]:
    if not subsystem.ana:
        return {}
    where = address["traddr"], address["trsvcid"] if address["trtype"] == "TCP" else 0
    groups = range(1, subsystem.max_namespaces + 1)
    states = [{"ana_group": group, "ana_state": subsystem.ana_state(*where, group).name.lower()} for group in groups]
    return {"ana_states": states}


@rpc("nvmf_subsystem_get_controllers", _QUERY, decode_error=INVALID_PARAMETERS, exclusive=False)
async def nvmf_subsystem_get_controllers(target: TargetState, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    return [
        {
            "cntlid": controller.cntlid, "cntrltype": "io", "hostnqn": controller.hostnqn,
            "hostid": str(UUID(bytes=controller.hostid)), "num_io_qpairs": len(controller.io_queues.qpairs),
        }
        for controller in target.nvmf.find(params["nqn"]).subsystem.controllers.values()
    ]  # fmt: skip


def _shown(listener: tuple[str, int]) -> dict[str, str]:
    traddr, trsvcid = listener
    if traddr.startswith("/"):
        return {
            "trtype": vfio_user.TRTYPE, "adrfam": vfio_user.ADRFAM, "traddr": traddr, "trsvcid": str(trsvcid),
        }  # fmt: skip
    family = _ADRFAMS[ipaddress.ip_address(traddr).version]
    return {"trtype": "TCP", "adrfam": family, "traddr": traddr, "trsvcid": str(trsvcid)}


@rpc("nvmf_subsystem_get_qpairs", _QUERY, decode_error=INVALID_PARAMETERS, exclusive=False)
async def nvmf_subsystem_get_qpairs(target: TargetState, params: Params) -> list[dict[str, Any]]:
    _check_target_name(params)
    return [
        {
            "cntlid": controller.cntlid, "qid": qid, "state": "enabled", "hostnqn": controller.hostnqn,
            "listen_address": _shown(controller.listener),
        }
        for controller in target.nvmf.find(params["nqn"]).subsystem.controllers.values()
        for qid in (0, *sorted(controller.io_queues.qpairs))
    ]  # fmt: skip

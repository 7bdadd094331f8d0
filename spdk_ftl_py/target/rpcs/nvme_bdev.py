"""bdev_nvme_*: attaches, detaches and lists controllers, and sets their options."""

from __future__ import annotations

import errno
import os
from typing import Any

from ...errors import ParameterError
from ...nvme import wire
from .. import decode
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..nvme_bdev import BDEVS_DEFAULT, TCP, VFIO_USER, ReconnectOptions, State
from ..refusals import EALREADY, EINVAL, EIO, ENODEV, ENOTSUP, ENXIO, failed
from ..state import TargetState

NQN_BYTES_MAX = 223
TRADDR_BYTES_MAX = 256
TRSVCID_BYTES_MAX = 32
ADRFAMS = {"ipv4": "IPv4", "ipv6": "IPv6"}

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
async def bdev_nvme_attach_controller(target: TargetState, params: Params) -> list[str]:
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
    trtype = params["trtype"].upper()
    trsvcid = params.get("trsvcid", "4420" if trtype == TCP else "")
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
        raise RpcError(
            -ENOTSUP, f"A controller named {name} already exists, and the embedded target does not support multipath"
        )
    if trtype not in (TCP, VFIO_USER):
        raise failed(ENODEV)
    try:
        keys = target.keyring.host_keys(params.get("dhchap_key"), params.get("dhchap_ctrlr_key"))
        psk = target.keyring.psk(params.get("psk"))
    except KeyError:
        raise failed(errno.ENOKEY) from None
    except ParameterError:
        raise failed(EINVAL) from None
    if any(other.path == (params["traddr"], trsvcid, subnqn) for other in nvme.controllers.values()):
        raise failed(errno.EEXIST)
    options = _reconnect_options(params, nvme.defaults)
    if not name or (trtype == TCP and (not trsvcid.isdigit() or not 0 < int(trsvcid) < 65536)):
        raise failed(EINVAL)
    if subnqn == wire.DISCOVERY_NQN:
        raise failed(EIO)  # the controller has no namespaces
    chosen = params | {"trtype": trtype, "trsvcid": trsvcid, "subnqn": subnqn}
    if trtype == TCP:
        chosen["adrfam"] = ADRFAMS[adrfam.lower()]
    return await nvme.attach(chosen, options, keys, psk)


@rpc(
    "bdev_nvme_detach_controller",
    Fields(
        {"name": decode.string},
        dict.fromkeys(("trtype", "traddr", "adrfam", "trsvcid", "subnqn", "hostaddr", "hostsvcid"), decode.string),
    ),
)
async def bdev_nvme_detach_controller(target: TargetState, params: Params) -> bool:
    attached = target.nvme.controllers.get(params["name"])
    if attached is None or (attached.state is State.RESETTING and attached.controller is None):
        raise failed(ENODEV)
    given = {key: params[key] for key in ("trtype", "traddr", "adrfam", "trsvcid", "subnqn") if key in params}
    if any(value.lower() != attached.trid.get(key, "").lower() for key, value in given.items()):
        raise failed(ENXIO)
    await attached.detach()
    return True


@rpc("bdev_nvme_get_controllers", Fields(None, {"name": decode.string}), exclusive=False)
async def bdev_nvme_get_controllers(target: TargetState, params: Params) -> list[dict[str, Any]]:
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
async def bdev_nvme_set_options(target: TargetState, params: Params) -> bool:
    """Only the reconnect options have an effect here. The method accepts the others, and save_config shows them
    again."""
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
async def bdev_nvme_set_hotplug(_target: TargetState, _params: Params) -> bool:
    """Accepted without effect: there is no PCIe bus here."""
    return True

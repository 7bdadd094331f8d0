"""Descriptions of an FTL: for ftl_get_devices, for bdev_ftl_get_properties, and for the state file."""

from __future__ import annotations

from typing import Any

from ..ftl.life import FtlState
from .device_parts import DeviceParts
from .front import Export
from .states import DeviceState


def is_read_only(device: DeviceParts) -> bool:
    return device.state is DeviceState.ONLINE and device.ftl is not None and device.ftl.state is FtlState.READ_ONLY


def state_of(device: DeviceParts) -> str:
    """As ftl_get_devices has it: that of the device, or "read_only"."""
    return FtlState.READ_ONLY.value if is_read_only(device) else device.state.value


def describe(device: DeviceParts) -> dict[str, Any]:
    """The FTL's entry in ftl_get_devices."""
    description: dict[str, Any] = {
        "name": device.name,
        "uuid": str(device.uuid),
        "state": device.state.value,
        "since": device.since.isoformat(timespec="seconds"),
        "target": device.target,
        "base_bdev": device.options.base_bdev,
        "cache": device.options.cache,
        "no_data": device.no_data,
        "attached": device.attachment is not None,
        **device.admission.describe(),
        "base_tls": device.link.tls_cipher,
        "error": device.error or device.kept_bdev.error or device.dependents.error,
        **device.dependents.describe(),
    }
    if device.state in (DeviceState.CREATING, DeviceState.WAITING, DeviceState.DELETING) and device.progress:
        description["progress"] = device.progress
    if device.state in (DeviceState.WAITING, DeviceState.DEFERRED) or device.waiting_for:
        description["waiting_for"] = device.waiting_for
    if device.export is not None:
        description["transport"] = device.front.transport.name.value
        description["export"] = _export(device, device.export)
        description["listeners"] = _listeners(device)
        description |= device.front.transport.describe()
    if device.front.gate is not None:
        description["block_size"] = 4096
        description["num_blocks"] = device.front.gate.block_count
        description["host_io"] = device.front.gate.state
    if device.ftl is not None:
        description["num_bands"] = device.ftl.geometry.band_count
        description["free_bands"] = device.ftl.stats()["free_bands"]
        if is_read_only(device):
            description["state"] = state_of(device)
            description["error"] = device.ftl.failure.message if device.ftl.failure is not None else None
    return description


def _export(device: DeviceParts, export: Export) -> dict[str, Any]:
    """Where NVMe/TCP hosts find it; the endpoint of vfio-user if only the target can reach it."""
    where = {"trtype": "TCP", "traddr": export.traddr, "trsvcid": str(export.trsvcid)}
    if not export.trsvcid:
        where = {**device.front.transport.path.trid, "trsvcid": ""}
    return {**where, "subnqn": export.nqn, "nsid": export.nsid}


def _listeners(device: DeviceParts) -> list[dict[str, Any]]:
    """The first one first."""
    assert device.export is not None
    if not device.export.trsvcid:
        return []
    first = (device.export.traddr, device.export.trsvcid), device.listeners.first
    return [
        {
            "traddr": address[0],
            "trsvcid": str(address[1]),
            "ana_state": state.name.lower(),
            "listening": address == first[0] or address in device.front.tcp.listening,
        }
        for address, state in (first, *device.listeners.more.items())
    ]


def properties(device: DeviceParts) -> dict[str, Any]:
    """The result of bdev_ftl_get_properties."""
    description = describe(device)
    description["base_names"] = device.link.names_of("base")
    if device.options.cache is not None:
        cache = device.ftl.cache if device.ftl is not None else None
        description["cache"] = {
            "bdev": device.options.cache,
            "names": device.link.names_of("cache"),
            "kind": device.cache_kind,
            "state": cache.state.value if cache is not None else "absent",
            "failure": cache.failure if cache is not None else None,
        }
    description["zone_events"] = device.link.zone_events
    if device.ftl is not None:
        description["properties"] = device.ftl.properties()["properties"]
    else:
        description["conf"] = device.conf.to_dict()
    description["params"] = device.params
    return description


def record(device: DeviceParts) -> dict[str, Any]:
    """The FTL's record in the state file: enough to undo the FTL, to load it again, or to keep waiting for its base
    bdev."""
    export = device.export or device.export_before
    # Until the deletion has ended, a new daemon loads the FTL again: accepted writes may not be durable yet.
    state = device.state_before if device.state is DeviceState.DELETING else device.state
    return {
        "name": device.name,
        "uuid": str(device.uuid),
        "target": device.target,
        "state": state.value,
        "loads": device.loads,
        "life": device.life_seen,
        "params": device.saved_params or device.params,
        "params_are_as_given": True,
        "export": None if export is None else [export.nqn, export.traddr, export.trsvcid],
        "transport": device.choice.to_record(),
        "allowed": device.admission.to_record(),
        "hosts": device.hosts.to_record(),
        "listeners": device.listeners.to_record(),
        "dependents": device.dependents.to_record(),
    }

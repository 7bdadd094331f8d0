"""Faults of real drives, for tests: ftltgt_inject_fault, zone states, power cuts and media statistics."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ... import _shim
from .. import decode
from ..bdevs import Bdev
from ..decode import DecodeError, Fields, Params
from ..methods import rpc
from ..refusals import ENODEV, refused
from ..state import TargetState

EMULATED_MODULES = ("malloc", "null", "aio", "ftltgt_zns")
OPERATIONS = {
    "read": _shim.Op.READ, "write": _shim.Op.WRITE, "append": _shim.Op.APPEND, "flush": _shim.Op.FLUSH,
    "write_zeroes": _shim.Op.WRITE_ZEROES, "deallocate": _shim.Op.DEALLOCATE, "zone_send": _shim.Op.ZONE_SEND,
    "zone_report": _shim.Op.ZONE_REPORT,
}  # fmt: skip

STATUSES = {
    "success": 0x000, "invalid_field": 0x002, "data_transfer_error": 0x004, "power_loss": 0x005,
    "internal_error": 0x006, "lba_out_of_range": 0x080, "capacity_exceeded": 0x081, "namespace_not_ready": 0x082,
    "zone_boundary": 0x1B8,
    "zone_full": 0x1B9, "zone_read_only": 0x1BA, "zone_offline": 0x1BB, "zone_invalid_write": 0x1BC,
    "too_many_active": 0x1BD, "too_many_open": 0x1BE, "invalid_zone_transition": 0x1BF, "write_fault": 0x280,
    "unrecovered_read": 0x281, "guard_check": 0x282,
}  # fmt: skip


def _status(value: Any) -> int:
    if isinstance(value, str) and value in STATUSES:
        return STATUSES[value]
    if isinstance(value, str):
        raise DecodeError("must be a number or one of " + ", ".join(STATUSES))
    number: int = decode.bounded_integer(0, 0x7FF)(value)
    return number


def _media(target: TargetState, name: str) -> tuple[Bdev, _shim.EmulatedMedia]:
    bdev = target.bdevs.find(name)
    if bdev is None:
        raise refused(f"there is no bdev {name}", ENODEV)
    if bdev.module not in EMULATED_MODULES or not isinstance(bdev.lower, _shim.EmulatedMedia):
        raise refused(f"bdev {name} ({bdev.product_name}) has no emulated media of its own: name the bdev beneath it")
    return bdev, bdev.lower


@rpc(
    "ftltgt_inject_fault",
    Fields(
        {"name": decode.string},
        {
            "op": decode.choice(*OPERATIONS), "lba": decode.uint64, "num_blocks": decode.uint64, "status": _status,
            "latency_us": decode.uint32, "skip": decode.uint32, "times": decode.uint32,
        },
    ),
)  # fmt: skip
async def ftltgt_inject_fault(target: TargetState, params: Params) -> int:
    """Returns the fault's id. num_blocks 0: anywhere. times 0: without limit. status and latency_us may be combined."""
    bdev, media = _media(target, params["name"])
    if not params.get("status") and not params.get("latency_us"):
        raise refused(f"fault on bdev {bdev.name}: has no effect: give a status, a latency_us or both")
    op = params.get("op")
    return media.inject_fault(
        op=None if op is None else OPERATIONS[op],
        lba=params.get("lba", 0),
        block_count=params.get("num_blocks", 0),
        status=params.get("status", 0),
        latency_us=params.get("latency_us", 0),
        skip=params.get("skip", 0),
        times=params.get("times", 0),
    )


@rpc("ftltgt_clear_faults", Fields({"name": decode.string}, {"id": decode.uint32}))
async def ftltgt_clear_faults(target: TargetState, params: Params) -> bool:
    _, media = _media(target, params["name"])
    media.clear_faults(params.get("id"))
    return True


@rpc(
    "ftltgt_set_zone_state",
    Fields({"name": decode.string, "zone": decode.uint32, "state": decode.choice("read_only", "offline", "full")}),
)
async def ftltgt_set_zone_state(target: TargetState, params: Params) -> bool:
    """Sets the state of a zone. full: the drive finishes the zone by itself, as drives do with a zone that was open for
    long. Hosts that asked for such events are told (Zone Descriptor Changed)."""
    bdev, media = _zoned_media(target, params)
    try:
        media.set_zone_state(params["zone"], params["state"])
    except ValueError as error:
        raise refused(f"bdev {bdev.name}: {error}") from error
    bdev.zones_changed([params["zone"]])
    return True


@rpc(
    "ftltgt_recommend_zone",
    Fields({"name": decode.string, "zone": decode.uint32, "action": decode.choice("finish", "reset", "nothing")}),
)
async def ftltgt_recommend_zone(target: TargetState, params: Params) -> bool:
    """Makes zone reports recommend an action for a zone until a host carries it out. Hosts that asked for such events
    are told."""
    bdev, media = _zoned_media(target, params)
    media.recommend(params["zone"], finish=params["action"] == "finish", reset=params["action"] == "reset")
    bdev.zones_changed([params["zone"]])
    return True


def _zoned_media(target: TargetState, params: Params) -> tuple[Bdev, _shim.EmulatedMedia]:
    bdev, media = _media(target, params["name"])
    if not bdev.zoned:
        raise refused(f"bdev {bdev.name} is not zoned")
    zones = bdev.num_blocks // bdev.zone_size
    if params["zone"] >= zones:
        raise refused(f"bdev {bdev.name} has {zones} zones, so there is no zone {params['zone']}")
    return bdev, media


@rpc("ftltgt_power_cut", Fields(None, {"name": decode.string, "seed": decode.uint64}))
async def ftltgt_power_cut(target: TargetState, params: Params) -> list[str]:
    """Cuts the power of one drive; without a name, of every emulated drive at once. Returns the names of the drives
    that are without power now."""
    names = []
    for media, name in _chosen(target, params):
        media.power_cut(params.get("seed", 1))
        names.append(name)
    return names


@rpc("ftltgt_power_on", Fields(None, {"name": decode.string}))
async def ftltgt_power_on(target: TargetState, params: Params) -> list[str]:
    names = []
    for media, name in _chosen(target, params):
        media.power_on()
        names.append(name)
    return names


def _chosen(target: TargetState, params: Params) -> list[tuple[_shim.EmulatedMedia, str]]:
    if "name" in params:
        bdev, media = _media(target, params["name"])
        return [(media, bdev.name)]
    # Virtual bdevs share the media of their base.
    return [
        (bdev.lower, bdev.name)
        for bdev in target.bdevs
        if bdev.module in EMULATED_MODULES and isinstance(bdev.lower, _shim.EmulatedMedia)
    ]


@rpc(
    "ftltgt_get_media_stats",
    Fields({"name": decode.string}, {"zones": decode.boolean}),
)
async def ftltgt_get_media_stats(target: TargetState, params: Params) -> dict[str, Any]:
    """Returns operations: completed I/Os; zone_states: the number of zones in each state; and with zones=true each
    zone."""
    bdev, media = _media(target, params["name"])
    stats: dict[str, Any] = {"name": bdev.name, "operations": media.operations}
    if bdev.zoned:
        zones = media.zone_states()
        stats["zone_states"] = dict(sorted(Counter(zone.state for zone in zones).items()))
        if params.get("zones", False):
            stats["zones"] = [
                {"zone_id": zone.start, "state": zone.state, "write_pointer": zone.write_pointer} for zone in zones
            ]
    return stats

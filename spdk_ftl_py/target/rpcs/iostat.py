"""bdev_get_iostat and bdev_reset_iostat."""

from __future__ import annotations

import time
from typing import Any

from ... import _shim
from .. import decode
from ..bdevs import Bdev
from ..decode import Fields, Params
from ..methods import rpc
from ..refusals import EINVAL, failed
from ..state import TargetState

TICK_RATE = 1_000_000_000
"""Ticks are nanoseconds."""
NONE_YET = 2**64 - 1
NAMES_MAX = 1024
THREAD_ID = 1
RESET_MODES = ("all", "maxmin", "error", "none")
NOTHING = {"operations": 0, "bytes": 0, "latency_ns": 0, "latency_ns_max": 0, "latency_ns_min": 0}
"""Copies: there are none."""


def _counters(stats: _shim.MeterStats) -> dict[str, Any]:
    counted = stats.as_dict()
    kinds = (
        ("read", "read", counted["read"]), ("write", "written", counted["write"]),
        ("unmap", "unmapped", counted["unmap"]), ("copy", "copied", NOTHING),
    )  # fmt: skip
    answer: dict[str, Any] = {}
    for verb, participle, count in kinds:
        answer[f"bytes_{participle}"] = count["bytes"]
        answer[f"num_{verb}_ops"] = count["operations"]
    for verb, _, count in kinds:
        answer[f"{verb}_latency_ticks"] = count["latency_ns"]
        answer[f"max_{verb}_latency_ticks"] = count["latency_ns_max"]
        answer[f"min_{verb}_latency_ticks"] = 0 if count["latency_ns_min"] == NONE_YET else count["latency_ns_min"]
    answer["io_error"] = {name: counted[name] for name in ("failed", "nvme_error", "aborted") if counted[name]}
    return answer


def _stats(bdev: Bdev, reset_mode: str) -> dict[str, Any]:
    assert bdev.meter is not None
    return _counters(bdev.meter.stats(reset_mode))  # type: ignore[arg-type]


@rpc(
    "bdev_get_iostat",
    Fields(
        None,
        {
            "per_channel": decode.boolean, "reset_mode": decode.choice(*RESET_MODES),
            "names": decode.array_of(decode.string, NAMES_MAX),
        },
    ),
)  # fmt: skip
async def bdev_get_iostat(target: TargetState, params: Params) -> dict[str, Any]:
    """reset_mode: what is counted anew afterwards. per_channel: of one bdev; the target's reactor is the only channel,
    and a bdev without I/O so far has none."""
    per_channel, names, reset_mode = params.get("per_channel", False), params.get("names"), params.get("reset_mode")
    if per_channel and (names is None or len(names) != 1):
        raise failed(EINVAL)
    everything = [bdev for bdev in target.bdevs if not bdev.removing]
    bdevs = everything if names is None else [target.bdevs.get(name) for name in names]
    answer: dict[str, Any] = {"tick_rate": TICK_RATE, "ticks": time.monotonic_ns()}
    if per_channel:
        (bdev,) = bdevs
        counted = _stats(bdev, reset_mode or "none")
        channels = [{"thread_id": THREAD_ID, **counted}] if any(counted.values()) else []
        return {**answer, "name": bdev.name, "channels": channels}
    bdev_answers = []
    for bdev in bdevs:
        one = {"name": bdev.name, **_stats(bdev, reset_mode or "none")}
        if bdev.module == "nvme":
            one["driver_specific"] = {}  # SPDK's bdev_nvme counts errors by status, if it is told to
        bdev_answers.append(one)
    return {**answer, "bdevs": bdev_answers}


@rpc("bdev_reset_iostat", Fields(None, {"name": decode.string, "mode": decode.choice(*RESET_MODES)}))
async def bdev_reset_iostat(target: TargetState, params: Params) -> bool:
    mode = params.get("mode", "all")
    if mode == "none":
        return True
    bdevs = [target.bdevs.get(params["name"])] if "name" in params else list(target.bdevs)
    for bdev in bdevs:
        if not bdev.removing:
            _stats(bdev, mode)
    return True

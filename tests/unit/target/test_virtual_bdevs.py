"""Error, delay and split bdevs, I/O statistics, resize and log RPCs of the embedded target. What spdk_tgt answers is in
tests/live/test_target_parity.py; here is what moves data, and what is left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py._shim import Op
from spdk_ftl_py.time_limit import time_limit
from unit.nvme.nvme_loop import until
from unit.target.target_box import NQN, Box, box

EXISTS = (-17, "File exists")
GONE = (-19, "No such device")
CLAIMED = (-1, "Operation not permitted")
BAD_ARGUMENT = (-22, "Invalid argument")
LATENCIES = {"avg_read_latency": 1, "p99_read_latency": 1, "avg_write_latency": 1, "p99_write_latency": 1}
BLOCK = b"\x5a" * 4096


def device(here: Box, name: str) -> _shim.BlockDevice:
    return here.target.bdevs.get(name).device


async def write(here: Box, name: str, lba: int = 0, data: bytes = BLOCK) -> int:
    return (await here.io(device(here, name), Op.WRITE, lba, len(data) // 4096, data))[0]


async def read(here: Box, name: str, lba: int = 0) -> bytes:
    data = bytearray(4096)
    assert await here.io(device(here, name), Op.READ, lba, 1, data) == (0, 0)
    return bytes(data)


# --- error bdevs -----------------------------------------------------------------------------------------------------


async def test_errors_are_injected_by_rpc(here: Box) -> None:
    await here.malloc("M0")
    assert await here.rpc("bdev_error_create", base_name="M0") is True
    assert await here.claimed() == {"M0"}
    inject = {"name": "EE_M0", "io_type": "write"}
    await here.rpc("bdev_error_inject_error", **inject, error_type="failure", num=2)
    assert [await write(here, "EE_M0") for _ in range(3)] == [0x006, 0x006, 0]
    await here.rpc("bdev_error_inject_error", **inject, error_type="nvme_failure", nvme_sct=2, nvme_sc=0x80)
    assert await write(here, "EE_M0") == 0x280
    await here.rpc("bdev_error_inject_error", **inject, error_type="corrupt_data", corrupt_offset=1, corrupt_value=0xFF)
    assert await write(here, "EE_M0") == 0
    assert (await read(here, "M0"))[:3] == b"\x5a\xa5\x5a"
    await here.rpc("bdev_error_inject_error", **{**inject, "io_type": "all"}, error_type="failure", num=9)
    await here.rpc("bdev_error_inject_error", **{**inject, "io_type": "clear"}, error_type="failure")
    assert await write(here, "EE_M0") == 0
    stats = (await here.rpc("bdev_get_iostat", names=["EE_M0"]))["bdevs"][0]
    assert stats["io_error"] == {"failed": 2, "nvme_error": 1}
    await here.rpc("bdev_error_delete", name="EE_M0")
    assert await here.claimed() == set()


async def test_pending_io_ends_with_its_bdev_and_holds_up_nobody(here: Box) -> None:
    """Through a delay and a raid1 on top of it."""
    await here.malloc("M0")
    await here.malloc("M1")
    await here.rpc("bdev_error_create", base_name="M0")
    await here.rpc("bdev_delay_create", base_bdev_name="EE_M0", name="D0", **LATENCIES)
    await here.rpc("bdev_raid_create", name="R", raid_level="raid1", base_bdevs=["D0", "M1"])
    inject = {"name": "EE_M0", "io_type": "write", "error_type": "pending", "num": 5}
    await here.rpc("bdev_error_inject_error", **inject)
    held = asyncio.ensure_future(write(here, "R"))
    await until(lambda: here.target.bdevs.get("M1").meter.stats().write.operations == 1)  # type: ignore[union-attr]
    assert not held.done()
    await here.rpc("bdev_malloc_delete", name="M0")
    assert await held == 0
    assert await here.names() == ["M1", "R"]
    assert await read(here, "R") == BLOCK


async def test_pending_io_does_not_hold_up_the_end_of_the_target() -> None:
    async with box() as here:
        await here.malloc("M0")
        await here.rpc("bdev_error_create", base_name="M0")
        await here.rpc("bdev_error_inject_error", name="EE_M0", io_type="write", error_type="pending")
        address = await here.subsystem(NQN, "EE_M0")
        controller = await here.connect(address)
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.target.reactor, namespace)
        held = asyncio.ensure_future(here.io(qpair, Op.WRITE, 0, 1, BLOCK))
        await asyncio.sleep(0)
        assert (await here.io(qpair, Op.READ, 0, 1, bytearray(4096)))[0] == 0  # so the write is there, too
        assert not held.done()
        async with time_limit(10):
            await here.target.nvmf.close()
        await controller.close()
        assert (await held)[0] != 0


async def test_an_error_bdev_leaves_with_its_base_for_good(here: Box) -> None:
    """As in SPDK; a delay comes again."""
    await here.malloc("M0")
    await here.malloc("M1")
    await here.rpc("bdev_error_create", base_name="M0")
    await here.rpc("bdev_delay_create", base_bdev_name="M1", name="D0", **LATENCIES)
    for name in ("M0", "M1"):
        await here.rpc("bdev_malloc_delete", name=name)
        await here.malloc(name)
    assert await here.names() == ["M0", "M1", "D0"]


# --- delay -----------------------------------------------------------------------------------------------------------


async def test_a_delay_shows_in_the_statistics(here: Box) -> None:
    await here.malloc("M0")
    await here.rpc("bdev_delay_create", base_bdev_name="M0", name="D0", **LATENCIES)
    for kind in ("avg_read", "p99_read"):
        await here.rpc("bdev_delay_update_latency", delay_bdev_name="D0", latency_type=kind, latency_us=20_000)
    assert (await here.bdev("D0"))["driver_specific"]["delay"]["avg_read_latency"] == 20_000
    assert await write(here, "D0") == 0
    assert await read(here, "D0") == BLOCK
    answer = await here.rpc("bdev_get_iostat", names=["D0", "M0"])
    delayed, base = answer["bdevs"]
    per_us = answer["tick_rate"] // 1_000_000
    assert delayed["min_read_latency_ticks"] >= 20_000 * per_us > base["max_read_latency_ticks"]
    assert delayed["write_latency_ticks"] < 20_000 * per_us
    assert delayed["num_read_ops"] == base["num_read_ops"] == 1


async def test_latencies_that_are_too_long_are_refused(here: Box) -> None:
    await here.malloc("M0")
    create = {"base_bdev_name": "M0", "name": "D0", **LATENCIES}
    refused = await here.refusal("bdev_delay_create", **{**create, "p99_read_latency": 2**63})
    assert refused == BAD_ARGUMENT
    await here.rpc("bdev_delay_create", **create)
    code, message = await here.refusal(
        "bdev_delay_update_latency", delay_bdev_name="D0", latency_type="avg_read", latency_us=2**64 - 1
    )
    assert code == -32600
    assert message.startswith("delay D0: ")


# --- splits ----------------------------------------------------------------------------------------------------------


async def test_splits_share_their_base(here: Box) -> None:
    await here.malloc("M0")
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=2) == ["M0p0", "M0p1"]
    assert await write(here, "M0p1", 3) == 0
    assert await read(here, "M0", 515) == BLOCK
    assert (await here.io(device(here, "M0p0"), Op.WRITE, 512, 1, BLOCK))[0] == 0x080
    assert await here.rpc("bdev_split_delete", base_bdev="M0") is True
    assert await here.names() == ["M0"]
    assert await here.claimed() == set()


@pytest.mark.parametrize("params", [{"split_count": 2048}, {"split_count": 2, "split_size_mb": 2**44}])
async def test_parts_without_blocks_are_refused(params: dict[str, int], here: Box) -> None:
    """SPDK divides by their size."""
    await here.malloc("M0")
    refused = await here.refusal("bdev_split_create", base_bdev="M0", **params)
    assert refused[1].endswith(f"{params['split_count']} split bdevs from 'M0': Invalid argument")
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=1) == ["M0p0"]


async def test_a_split_whose_name_is_taken_leaves_nothing(here: Box) -> None:
    await here.malloc("M0")
    await here.malloc("M0p1")
    refused = await here.refusal("bdev_split_create", base_bdev="M0", split_count=2)
    assert refused == (-32602, "Failed to create 2 split bdevs from 'M0': Cannot allocate memory")
    assert await here.names() == ["M0", "M0p1"]
    assert await here.claimed() == set()
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=1) == ["M0p0"]


async def test_a_deferred_split_whose_name_is_taken_makes_the_parts_before(here: Box) -> None:
    await here.malloc("M0p1")
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=3) == []
    await here.malloc("M0")
    assert await here.names() == ["M0p1", "M0", "M0p0"]
    assert await here.claimed() == {"M0"}
    await here.rpc("bdev_malloc_delete", name="M0")
    await here.malloc("M0")
    assert await here.names() == ["M0p1", "M0"]


async def test_a_deferred_split_that_can_not_be_is_forgotten(here: Box) -> None:
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=2048) == []
    await here.malloc("M0")
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=1) == ["M0p0"]


async def test_a_split_that_is_larger_than_the_base_has_no_parts(here: Box) -> None:
    await here.malloc("M0")
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=1, split_size_mb=64) == []
    assert await here.rpc("bdev_split_delete", base_bdev="M0") is True
    assert await here.rpc("bdev_split_create", base_bdev="M0", split_count=1) == ["M0p0"]


# --- resize ----------------------------------------------------------------------------------------------------------


async def test_hosts_see_a_null_bdev_grow(here: Box) -> None:
    await here.rpc("bdev_null_create", name="N0", num_blocks=1024, block_size=4096)
    address = await here.subsystem(NQN, "N0")
    controller = await here.connect(address)
    events: list[Any] = []
    controller.on_event = events.append
    try:
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(here.target.reactor, namespace)
        assert await here.rpc("bdev_null_resize", name="N0", new_size=8) is True
        await until(lambda: bool(events))
        assert events[0].changed_namespaces == (1,)
        (namespace,) = await controller.namespaces()
        assert namespace.block_count == 2048
        assert (await here.io(qpair, Op.READ, 2047, 1, bytearray(4096)))[0] == 0
    finally:
        await controller.close()
    assert (await here.bdev("N0"))["num_blocks"] == 2048
    saved = await here.rpc("framework_get_config", name="bdev")
    assert saved[0]["params"]["num_blocks"] == 2048
    kinds = [each["type"] for each in await here.rpc("notify_get_notifications")]
    assert kinds == ["bdev_register", "bdev_resize"]


async def test_what_is_on_a_null_bdev_keeps_its_size_as_in_spdk(here: Box) -> None:
    await here.rpc("bdev_null_create", name="N0", num_blocks=1024, block_size=4096)
    await here.rpc("bdev_error_create", base_name="N0")
    await here.rpc("bdev_null_resize", name="N0", new_size=8)
    assert (await here.bdev("EE_N0"))["num_blocks"] == device(here, "EE_N0").block_count == 1024
    assert await here.refusal("bdev_null_resize", name="N0", new_size=2**50) == (-12, "Cannot allocate memory")


# --- statistics ------------------------------------------------------------------------------------------------------


async def test_statistics_are_those_of_each_bdev_and_begin_anew(here: Box) -> None:
    await here.malloc("M0")
    await here.rpc("bdev_passthru_create", base_bdev_name="M0", name="P0")
    await write(here, "P0", data=BLOCK * 3)
    await read(here, "M0")
    everything = {each["name"]: each for each in (await here.rpc("bdev_get_iostat"))["bdevs"]}
    assert [(each["bytes_written"], each["num_read_ops"]) for each in everything.values()] == [(12288, 1), (12288, 0)]
    one = await here.rpc("bdev_get_iostat", names=["P0"], per_channel=True, reset_mode="all")
    assert (one["name"], len(one["channels"]), one["channels"][0]["num_write_ops"]) == ("P0", 1, 1)
    assert (await here.rpc("bdev_get_iostat", names=["P0"], per_channel=True))["channels"] == []
    await here.rpc("bdev_reset_iostat", name="M0", mode="maxmin")
    stats = (await here.rpc("bdev_get_iostat", names=["M0"]))["bdevs"][0]
    assert (stats["num_read_ops"], stats["max_read_latency_ticks"], stats["min_read_latency_ticks"]) == (1, 0, 0)


# --- log -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("spdk_ftl_py", "spdk_ftl_py.target.raid")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("log_as_it_was")
async def test_flags_and_levels_are_those_of_the_loggers(here: Box) -> None:
    raid = logging.getLogger("spdk_ftl_py.target.raid")
    await here.rpc("log_set_print_level", level="ERROR")
    assert await here.rpc("log_get_print_level") == "ERROR"
    assert raid.getEffectiveLevel() == logging.ERROR
    await here.rpc("log_set_flag", flag="bdev_RAID*")
    flags = await here.rpc("log_get_flags")
    assert [flag for flag, enabled in flags.items() if enabled] == ["bdev_raid", "bdev_raid0", "bdev_raid1"]
    assert raid.isEnabledFor(logging.DEBUG)
    await here.rpc("log_clear_flag", flag="bdev_raid")
    assert raid.isEnabledFor(logging.DEBUG)  # by the other flags
    await here.rpc("log_clear_flag", flag="all")
    assert not raid.isEnabledFor(logging.DEBUG)
    assert await here.refusal("log_set_flag", flag="blob") == (-32602, "invalid log flag")


async def test_the_print_level_is_that_of_the_program_until_it_is_set(here: Box) -> None:
    in_force = logging.getLogger("spdk_ftl_py").getEffectiveLevel()
    names = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARNING", logging.ERROR: "ERROR"}
    assert await here.rpc("log_get_print_level") == names[in_force]
    assert await here.rpc("log_get_level") == "NOTICE"

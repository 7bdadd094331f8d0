"""Garbage collection: devices of many shapes are overwritten many times, and every block is right at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf, Limit
from spdk_ftl_py.ftl.media.band import CLOSED, FREE, QUEUED, RESETTING
from spdk_ftl_py.ftl.policy.interface import AgeClasses, Placement
from unit.ftl.ftl_rig import FtlRig, MakeFtlRig


async def test_overwriting_the_device_many_times_keeps_every_block(rig: FtlRig) -> None:
    await rig.good("write", pattern="sequential", io_blocks=16)
    await rig.overwrite(6)
    await rig.verify()
    stats = rig.device.stats()
    assert stats["gc_moved_blocks"] > 0
    assert 1.0 < stats["write_amplification"] < 6.0
    for way in ("read", "write"):
        group = stats["gc"][way]
        assert 0 < group["ios"] < group["blocks"], "several blocks go at a time"
    assert stats["zone_faults"] == stats["lost_blocks"] == 0
    assert stats["state"] == "running"


@pytest.mark.rig(zones=102, open_zones=9)
async def test_a_device_in_many_classes_keeps_every_block_and_gets_back_to_two(rig: FtlRig) -> None:
    most = rig.device.classes_max
    assert most == 7
    old = rig.device.block_count
    rig.device.set_placement(
        Placement(
            classes=most,
            user_classes=3,
            user=AgeClasses((0, 1, 2), (old // 2, old)),
            unwritten=2,
            relocated=tuple(AgeClasses((3, 4, 5, 6), (old // 4, old // 2, old)) for _ in range(most)),
        )
    )
    await rig.good("write", pattern="sequential", io_blocks=16)
    seen: set[int] = set()
    for _ in range(4):
        await rig.overwrite(0.25)
        seen.update(rig.device._bands.streams.tolist())
    await rig.verify()
    assert len(seen) >= most - 1, "how many classes get bands at the same time depends on the event loop's turns"
    rig.device.set_placement(Placement())
    await rig.overwrite(0.5)
    await rig.verify()
    bands = rig.device.core.bands()
    assert {band.stream for band in bands if band.state == _shim.BandState.OPEN} <= {0, 1}
    assert rig.device.stats()["zone_faults"] == 0


SHAPES: dict[str, dict[str, Any]] = {
    "128 zones, 14 open": {"zones": 128, "zone_size": 64, "zone_capacity": 64, "num_punits": None},
    "four parallel units": {"zones": 260, "zone_size": 64, "zone_capacity": 60, "num_punits": 4},
    "shared stream": {"open_zones": 3},
    "shared stream, two parallel units": {"zones": 130, "open_zones": 5, "num_punits": 2},
    "few bands": {"zones": 30, "zone_size": 64, "zone_capacity": 48, "rsvd": 27},
    "least spare bands": {"zones": 26, "zone_size": 64, "zone_capacity": 60, "rsvd": 23},
    "least spare bands, shared": {"zones": 22, "zone_size": 64, "zone_capacity": 60, "rsvd": 22, "open_zones": 3},
    "little overprovisioning": {"zones": 102, "zone_size": 128, "zone_capacity": 100, "rsvd": 11},
    "bands smaller than a batch": {"zones": 66, "zone_size": 32, "zone_capacity": 20, "rsvd": 45},
    "greedy": {"policy": "greedy"},
    "no limits of open zones": {"open_zones": 0, "num_punits": None},
    "zone append": {"append": True},
    "one relocation at a time": {"relocs": 1},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_any_shape_of_device_can_be_overwritten_for_ever(shape: dict[str, Any], make_rig: MakeFtlRig) -> None:
    media = dict(shape)
    conf = FtlConf(
        lba_rsvd=media.pop("rsvd", 20),
        reloc_policy=media.pop("policy", "seed"),
        use_append=media.pop("append", False),
        max_active_relocs=media.pop("relocs", 3),
    )
    rig = await make_rig(conf=conf, **{"num_punits": 1, **media})
    await rig.overwrite(5)
    await rig.verify()
    # A zone fault would mean that the device's limits were not kept: the media enforces them.
    assert rig.device.stats()["zone_faults"] == 0
    assert rig.device.stats()["gc_moved_blocks"] > 0


@pytest.mark.rig(zones=40, zone_size=64, zone_capacity=60)
async def test_every_write_followed_by_a_flush_does_not_exhaust_the_device(rig: FtlRig) -> None:
    for _ in range(16):
        for lba in range(0, rig.device.block_count, 8):
            await rig.port.write(lba, bytes([lba % 251]) * 4096)
            await rig.port.flush()
    for lba in range(0, rig.device.block_count, 8):
        assert (await rig.port.read(lba, 1) == lba % 251).all()
    assert rig.device.stats()["zone_resets"] > 0


async def test_trimmed_blocks_read_zeroes_through_garbage_collection(rig: FtlRig) -> None:
    await rig.overwrite(1)
    for _ in range(4):
        await rig.good("trim", io_blocks=8, total_blocks=rig.device.block_count // 4)
        await rig.overwrite(1)
    await rig.good("trim", io_blocks=3, total_blocks=rig.device.block_count // 3)
    await rig.verify()
    assert (rig.load.versions() == 0).any()


@pytest.mark.rig(zones=40, zone_size=64, zone_capacity=60)
async def test_trims_alone_can_go_on_for_ever(rig: FtlRig) -> None:
    for _ in range(6):
        await rig.overwrite(0.5)
        await rig.good("trim", io_blocks=1, total_blocks=rig.device.block_count)
        await rig.port.flush()
    await rig.verify()


async def test_a_full_trim_gives_all_bands_back(rig: FtlRig) -> None:
    await rig.overwrite(2)
    await rig.good("trim", pattern="sequential", io_blocks=rig.device.core.max_io_blocks)
    assert not rig.load.versions().any()
    await rig.port.flush()
    await rig.until(lambda: rig.device.stats()["free_bands"] > rig.device.geometry.band_count * 3 // 4)
    await rig.overwrite(2)
    await rig.verify()


async def test_limits_throttle_and_let_go_again(make_rig: MakeFtlRig) -> None:
    conf = FtlConf().with_limits(low=Limit(10, 5), high=Limit(5, 4), crit=Limit(0, 3), start=Limit(100, 6))
    rig = await make_rig(conf=conf)
    await rig.overwrite(4, queue_depth=64)
    stats = rig.device.stats()
    assert stats["limits_applied"]["low"] > 0
    assert stats["limits_applied"]["start"] > 0
    await rig.verify()


@pytest.mark.rig(volatile_cache=True)
async def test_the_last_free_band_is_the_users_only_where_a_reset_waits_for_his_blocks(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    manager, bands = rig.device._manager, rig.device._bands
    manager.stop()
    for number in range(len(bands)):
        bands.ordered(number, CLOSED)
    bands.ordered(0, FREE)
    bands.ordered(1, RESETTING)

    def may_take(stream: int) -> bool:
        return manager.reserve.may_take(stream, 0, next_band_seq=manager.next_band_seq, draining=False)

    assert not may_take(_shim.STREAM_USER)
    assert may_take(_shim.STREAM_RELOC)
    await rig.port.write(0, bytes(4096))
    assert not may_take(_shim.STREAM_USER), "his blocks go to the band that relocation gets"
    # Where the reserve is in whole bands, another one was left for relocation before.
    manager.zone_ended()
    assert may_take(_shim.STREAM_USER)
    bands.ordered(1, CLOSED)
    assert not may_take(_shim.STREAM_USER)


async def test_mixed_reads_and_writes_are_right_while_bands_move(rig: FtlRig) -> None:
    await rig.overwrite(1.5)
    for seed in range(5):
        rig.media.set_schedule(seed)
        await rig.good("mixed", write_percent=50, total_blocks=2 * rig.device.block_count, io_blocks=4)
    await rig.verify()


async def test_statistics_are_json_in_spdks_shape(rig: FtlRig) -> None:
    await rig.overwrite(3)
    stats = json.loads(json.dumps(rig.device.stats()))
    for group in ("user", "cmp", "gc", "md_base", "md_nv_cache", "l2p"):
        assert set(stats[group]) == {"read", "write"}
        assert set(stats[group]["read"]) == {"ios", "blocks", "errors"}
        assert set(stats[group]["read"]["errors"]) == {"media", "crc", "other"}
        assert set(stats[group]["write"]["errors"]) == {"media", "other"}
    assert stats["user"]["write"]["blocks"] == stats["host_written_blocks"] == 3 * rig.device.block_count
    assert sum(stats["bands"].values()) == rig.device.geometry.band_count
    assert stats["free_bands"] == stats["bands"]["free"]
    properties = json.loads(json.dumps(rig.device.properties()))
    values = {entry["name"]: entry.get("value") for entry in properties["properties"]}
    assert values["num_blocks"] == rig.device.block_count
    assert values["conf"]["lba_rsvd"] == 20
    told = [band["state"] for band in values["base_device"]["bands"]]
    assert {state: told.count(state) for state in sorted(set(told))} == stats["bands"]


async def test_free_bands_are_those_that_are_told_as_free(rig: FtlRig) -> None:
    """Also where relocation has one queued, and where one has to be mended first."""
    await rig.overwrite(0.2)
    bands = rig.device._bands
    rig.device._manager.stop()
    for _ in range(2):
        number = bands.first_free()
        assert number is not None
        bands.ordered(number, QUEUED, stream=_shim.STREAM_RELOC)
        queued = bands.queued_count(_shim.STREAM_RELOC)
        broken = bands.first_free()
        assert broken is not None
        bands._add_bad(broken, {0})
        stats = rig.device.stats()
        assert stats["free_bands"] == stats["bands"]["free"] == len(bands.free())
        assert stats["bands"]["mending"] == len(list(bands.to_mend()))
        assert stats["limit_free_bands"] == stats["free_bands"] + queued
        assert sum(stats["bands"].values()) == rig.device.geometry.band_count


@pytest.mark.parametrize("policy", ["greedy", "seed"])
async def test_stats_say_which_bands_are_moved_and_why(make_rig: MakeFtlRig, policy: str) -> None:
    rig = await make_rig(conf=FtlConf(reloc_policy=policy))
    assert rig.device.stats()["moves"] == []
    await rig.start("write", total_blocks=4 * rig.device.block_count)
    await rig.until(lambda: rig.device.stats()["moves"] != [])
    stats = rig.device.stats()
    assert len(stats["moves"]) == stats["active_relocs"]
    for move in stats["moves"]:
        assert rig.device.bands[move["band"]].state == "moving"
        assert move["valid_blocks"] + move["invalid_blocks"] == rig.device.bands[move["band"]].capacity
        assert 0 <= move["left_blocks"] <= move["valid_blocks"]
        assert move["why"] in ("urgent", "threshold")
        if policy == "seed":
            # Its age is counted in blocks that hosts have written: here, about a third of what fills as many bands.
            young = move["invalid_blocks"] / (move["valid_blocks"] + 1)
            assert young < move["merit"] <= young * (move["age"] + 2) * rig.device.geometry.band_blocks
        else:
            assert move["merit"] == move["invalid_blocks"]
    limits = list(stats["limits"].values())
    assert [each["free_bands"] for each in limits] == sorted(each["free_bands"] for each in limits)
    await rig.finish()


async def test_each_band_counts_its_resets(rig: FtlRig) -> None:
    await rig.overwrite(4)
    await rig.port.flush()
    await rig.until(lambda: rig.device.bands.count("resetting") == 0)
    counted, reset = rig.device.bands.resets, rig.device.stats()["zone_resets"]
    assert reset > len(counted)
    assert counted.sum() * rig.device.geometry.punits == reset

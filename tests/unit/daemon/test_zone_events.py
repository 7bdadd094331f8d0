"""A zone that the drive itself has changed: from the drive's event, through target and daemon, to what the FTL does."""

from __future__ import annotations

import asyncio
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.gc.zone_watch import ROUND_S
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.daemon.registry_rig import Daemon, World, connected, create
from unit.nvme.nvme_loop import until

NOTICED_S = 5.0
assert NOTICED_S < ROUND_S / 10


async def fill(here: World, daemon: Daemon, block_count: int) -> None:
    controller = await connected(here, daemon)
    async with ReactorLoop("host", spin_us=0) as reactor:
        (namespace,) = await controller.namespaces()
        port = BlockPort(reactor, await controller.create_io_qpair(reactor, namespace), name="host")
        for lba in range(0, block_count, 16):
            await port.write(lba, bytes(16 * 4096))
        await port.flush()
        await port.close()
        await controller.close()


def ftl_of(daemon: Daemon) -> FtlDevice:
    ftl = daemon.managed().ftl
    assert ftl is not None
    return ftl


def closed_zone(daemon: Daemon) -> int:
    ftl = ftl_of(daemon)
    number = next(n for n, band in enumerate(ftl.core.bands()) if band.state == _shim.BandState.CLOSED and band.valid)
    zone = ftl._bands[number].zones[0]
    assert zone is not None
    return zone


def in_use(daemon: Daemon, zone: int) -> bool:
    return zone in {each for band in ftl_of(daemon)._bands for each in band.zones}


async def watched(daemon: Daemon) -> dict[str, Any]:
    stats: dict[str, Any] = await daemon.call("bdev_ftl_get_stats", name="ftl0")
    told: dict[str, Any] = stats["zone_watch"]
    return told


async def test_a_zone_that_goes_bad_is_relocated_within_seconds_of_the_drives_event(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    assert (await daemon.call("bdev_ftl_get_properties", name="ftl0"))["zone_events"] is True
    await fill(here, daemon, 4096)
    zone, other = closed_zone(daemon), 1
    await here.rpc("ftltgt_set_zone_state", name="Nvme0n1", zone=zone, state="read_only")
    await asyncio.wait_for(until(lambda: not in_use(daemon, zone)), NOTICED_S)
    told = await watched(daemon)
    assert told == {
        "rounds": 0,
        "zones_seen": told["zones_seen"],
        "events": 1,
        "logs_read": 1,
        "zones_seen_changed": 1,
        "zones_finished": 0,
        "bands_relocated": {"offline": 0, "read_only": 1, "reset_recommended": 0},
    }
    assert ftl_of(daemon).zone_map.bad_zones == [zone]
    zone, other = closed_zone(daemon), zone
    assert zone != other
    await here.rpc("ftltgt_recommend_zone", name="Nvme0n1", zone=zone, action="reset")
    await asyncio.wait_for(
        until(lambda: ftl_of(daemon).zone_watch.stats()["bands_relocated"]["reset_recommended"] == 1), NOTICED_S
    )
    assert (await watched(daemon))["events"] == 2
    await daemon.halt()


async def test_what_hosts_order_is_no_event(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    for _ in range(3):
        await fill(here, daemon, 4096)
    assert ftl_of(daemon).stats()["zone_resets"] > 0
    assert (await watched(daemon))["events"] == 0
    await daemon.halt()


async def test_an_event_that_nobody_could_hear_is_made_up_for(here: World) -> None:
    """Before the FTL serves, and while its connection is away."""
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await fill(here, daemon, 4096)
    zone = closed_zone(daemon)
    device = daemon.managed()
    # As if the event had come while the FTL was loaded.
    device.link.watch_zones(None)
    await here.rpc("ftltgt_set_zone_state", name="Nvme0n1", zone=zone, state="read_only")
    await until(lambda: device.link._zones_missed)
    assert in_use(daemon, zone)
    device.link.watch_zones(ftl_of(daemon).zones_changed)
    await asyncio.wait_for(until(lambda: not in_use(daemon, zone)), NOTICED_S)
    told = await watched(daemon)
    assert (told["events"], told["logs_read"], told["zones_seen_changed"]) == (1, 0, 64)
    zone, before = closed_zone(daemon), ftl_of(daemon)
    (export,) = [each for nqn, each in here.target.nvmf.exports.items() if uuid in nqn]
    device.link.raw, raw = None, device.link.raw
    assert (await daemon.call("bdev_ftl_get_properties", name="ftl0"))["zone_events"] is None, "as while it is away"
    device.link.raw = raw
    away = asyncio.ensure_future(export.subsystem.disconnect())
    await here.rpc("ftltgt_set_zone_state", name="Nvme0n1", zone=zone, state="read_only")
    await away
    await until(lambda: daemon.managed().ftl not in (None, before))
    await daemon.wait_for("online")
    await asyncio.wait_for(until(lambda: not in_use(daemon, zone)), NOTICED_S)
    await daemon.halt()


async def test_emulated_zones_have_no_events(here: World) -> None:
    daemon = await here.start()
    await here.rpc("bdev_malloc_create", name="M0", num_blocks=65536, block_size=4096)
    await create(here, daemon, base_bdev="M0", zone_capacity=256)
    assert (await daemon.call("bdev_ftl_get_properties", name="ftl0"))["zone_events"] is None
    await daemon.halt()

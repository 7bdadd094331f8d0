"""What a target's controllers tell of zones that the drive itself has changed: the event and log page BFh."""

from __future__ import annotations

import asyncio
import struct

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import identify, wire
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.events import AsyncEvent
from spdk_ftl_py.nvme.logs import CHANGED_ZONES_MAX
from spdk_ftl_py.nvme.wire import AdminOp, CommandError, Feature, LogPage, Property, Sqe, Status
from unit.nvme.nvme_loop import WAIT_S, Bench, RawHost, capsule, get_feature

ZONES = 600
ZONE_SIZE = 64
NSID = 2
ASKED = wire.EVENT_CONFIG_NAMESPACE | wire.EVENT_CONFIG_ZONES


def add_zoned(here: Bench, nsid: int = NSID) -> None:
    here.subsystem.add_namespace(_shim.EmulatedMedia.zns(here.reactor.shim, ZONES, ZONE_SIZE, 48), nsid=nsid)


async def enabled(here: Bench, events: int = ASKED) -> RawHost:
    """With all command sets, and an Asynchronous Event Request (cid 1) waiting."""
    host = await here.raw()
    await host.initialize()
    assert (await host.connect()).status == 0
    assert (await host.set_property(Property.CC, 0x00460001 | wire.CSS_ALL << wire.CC_CSS_SHIFT)).status == 0
    sqe = Sqe(AdminOp.SET_FEATURES, cid=90, cdw10=Feature.ASYNC_EVENT_CONFIGURATION, cdw11=events)
    assert (await host.command(sqe))[0].status == 0
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=1)))
    return host


async def log_of(
    host: RawHost, nsid: int = NSID, *, retain: bool = False, offset: int = 0, size: int = 4096
) -> tuple[int, list[int]]:
    """What it has to say of how many, and the starts. No event may come meanwhile."""
    sqe = Sqe(
        AdminOp.GET_LOG_PAGE, nsid=nsid, cid=50, cdw10=(size // 4 - 1) << 16 | retain << 15 | 0xBF, cdw12=offset,
        sgl_bytes=size,
    )  # fmt: skip
    cqe, log = await host.command(sqe)
    assert (cqe.cid, cqe.status) == (50, 0)
    count, *starts = struct.unpack(f"<{size // 8}Q", log)
    return count, [start for start in starts if start]


async def event_of(host: RawHost, cid: int = 1) -> int:
    _, pdu, _ = await host.pdu()
    cqe = wire.Cqe.unpack(pdu[8:])
    assert (cqe.cid, cqe.status) == (cid, 0)
    return cqe.result


async def test_only_a_subsystem_with_zones_says_that_it_tells_of_them(here: Bench) -> None:
    controller = await here.connect()
    assert controller.identity is not None
    assert not controller.identity.oaes & identify.OAES_ZONES
    with pytest.raises(CommandError) as refused:
        await controller.get_log_page(LogPage.CHANGED_ZONES, 4096, nsid=1)
    assert refused.value.status == Status.INVALID_LOG_PAGE
    assert not (await controller.get_log_page(LogPage.SUPPORTED, 1024))[LogPage.CHANGED_ZONES * 4]
    await controller.close()
    add_zoned(here)
    controller = await here.connect()
    assert controller.identity is not None
    assert controller.identity.oaes & identify.OAES_ZONES
    assert controller.tells_of_zones
    assert (await get_feature(controller, Feature.ASYNC_EVENT_CONFIGURATION))[0] == ASKED
    assert (await controller.get_log_page(LogPage.SUPPORTED, 1024))[LogPage.CHANGED_ZONES * 4]
    await controller.close()


async def test_an_event_is_sent_once_until_the_log_of_its_namespace_is_read(here: Bench) -> None:
    add_zoned(here)
    add_zoned(here, 3)
    host = await enabled(here)
    here.subsystem.zones_changed(NSID, [5])
    assert await event_of(host) == NSID << 32 | 0x00BFEF02
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=2)))
    here.subsystem.zones_changed(NSID, [7, 5])
    assert await log_of(host, retain=True) == (2, [5 * ZONE_SIZE, 7 * ZONE_SIZE])
    here.subsystem.zones_changed(NSID, [8])
    assert await log_of(host) == (3, [5 * ZONE_SIZE, 7 * ZONE_SIZE, 8 * ZONE_SIZE])
    assert await log_of(host) == (0, [])
    here.subsystem.zones_changed(3, [1])
    assert await event_of(host, 2) == 3 << 32 | 0x00BFEF02, "each namespace has its own"
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=3)))
    here.subsystem.zones_changed(NSID, [9])
    assert await event_of(host, 3) == NSID << 32 | 0x00BFEF02
    assert await log_of(host) == (1, [9 * ZONE_SIZE])
    assert await log_of(host, 3) == (1, [ZONE_SIZE])
    host.close()


async def test_a_log_that_is_read_in_pieces_is_cleared_by_the_last_one(here: Bench) -> None:
    add_zoned(here)
    host = await enabled(here, 0)
    here.subsystem.zones_changed(NSID, range(1, 8))
    assert await log_of(host, retain=True, size=32) == (7, [ZONE_SIZE, 2 * ZONE_SIZE, 3 * ZONE_SIZE])
    assert await log_of(host, offset=32, size=32) == (4 * ZONE_SIZE, [5 * ZONE_SIZE, 6 * ZONE_SIZE, 7 * ZONE_SIZE])
    assert await log_of(host) == (0, [])
    host.close()


async def test_more_zones_than_the_log_can_list_are_all_of_them(here: Bench) -> None:
    add_zoned(here)
    host = await enabled(here, 0)
    here.subsystem.zones_changed(NSID, range(1, CHANGED_ZONES_MAX + 1))
    count, starts = await log_of(host, retain=True)
    assert (count, starts) == (CHANGED_ZONES_MAX, [zone * ZONE_SIZE for zone in range(1, CHANGED_ZONES_MAX + 1)])
    here.subsystem.zones_changed(NSID, [CHANGED_ZONES_MAX + 1])
    here.subsystem.zones_changed(NSID, [3])
    assert await log_of(host) == (0xFFFF, [])
    here.subsystem.zones_changed(NSID, [3])
    assert await log_of(host) == (1, [3 * ZONE_SIZE])
    here.subsystem.zones_changed(NSID, None)
    assert await log_of(host) == (0xFFFF, [])
    host.close()


async def test_each_controller_hears_for_itself_and_only_if_it_asked(here: Bench) -> None:
    add_zoned(here)
    asked, silent = await enabled(here), await enabled(here, wire.EVENT_CONFIG_NAMESPACE)
    here.subsystem.zones_changed(NSID, [5])
    assert await event_of(asked) == NSID << 32 | 0x00BFEF02
    assert await log_of(asked) == (1, [5 * ZONE_SIZE])
    assert await log_of(silent) == (1, [5 * ZONE_SIZE])
    here.subsystem.add_namespace(here.media(), nsid=9)
    assert await event_of(silent) == wire.EVENT_NAMESPACE_CHANGED
    asked.close()
    silent.close()


async def test_a_log_of_what_is_no_zoned_namespace_is_refused(here: Bench) -> None:
    add_zoned(here)
    controller = await here.connect()
    for nsid, status in (
        (1, Status.INVALID_FIELD), (3, Status.INVALID_FIELD), (0, Status.INVALID_NAMESPACE),
        (wire.NSID_ALL, Status.INVALID_NAMESPACE),
    ):  # fmt: skip
        with pytest.raises(CommandError) as refused:
            await controller.get_log_page(LogPage.CHANGED_ZONES, 4096, nsid=nsid)
        assert refused.value.status == status
    with pytest.raises(CommandError) as refused:
        await controller.get_log_page(LogPage.CHANGED_ZONES, 4, offset=4100, nsid=NSID)
    assert refused.value.status == Status.INVALID_FIELD
    await controller.close()


async def test_another_namespace_of_that_id_has_changed_no_zones(here: Bench) -> None:
    add_zoned(here)
    host = await enabled(here, wire.EVENT_CONFIG_ZONES)
    here.subsystem.zones_changed(NSID, [5])
    await event_of(host)
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=2)))
    here.subsystem.remove_namespace(NSID)
    here.subsystem.zones_changed(NSID, [6])
    add_zoned(here)
    assert await log_of(host) == (0, [])
    here.subsystem.zones_changed(1, [0])
    here.subsystem.zones_changed(NSID, [6])
    assert await event_of(host, 2) == NSID << 32 | 0x00BFEF02
    host.close()


async def test_a_host_that_can_not_see_zones_hears_nothing_of_them(here: Bench) -> None:
    add_zoned(here)
    host = await here.raw()
    await host.enable()
    here.subsystem.zones_changed(NSID, [5])
    sqe = Sqe(AdminOp.GET_LOG_PAGE, nsid=NSID, cdw10=1023 << 16 | 0xBF, sgl_bytes=4096)
    assert (await host.command(sqe))[0].status == Status.INVALID_FIELD
    host.close()


async def test_our_host_reads_the_log_and_says_which_zones_they_are(here: Bench) -> None:
    add_zoned(here)
    controller: Controller = await here.connect()
    events: asyncio.Queue[AsyncEvent] = asyncio.Queue()
    controller.on_event = events.put_nowait
    namespace = (await controller.namespaces())[1]
    for zones in ([5, 3], [3], list(range(1, 520))):
        here.subsystem.zones_changed(NSID, zones)
        event = await asyncio.wait_for(events.get(), WAIT_S)
        assert (event.of_zones, event.nsid, event.log_read) == (True, NSID, True)
        assert namespace.zones_at(event.changed_zones) == (sorted(zones) if len(zones) < 512 else None)
    here.subsystem.add_namespace(here.media(), nsid=9)
    event = await asyncio.wait_for(events.get(), WAIT_S)
    assert (event.of_zones, event.changed_namespaces, event.changed_zones) == (False, (9,), ())
    await controller.close()


async def test_a_controller_that_is_enabled_again_begins_with_an_empty_log_and_no_events(here: Bench) -> None:
    add_zoned(here)
    host = await enabled(here)
    here.subsystem.zones_changed(NSID, [5])
    await event_of(host)
    await host.set_property(Property.CC, 0)
    while (await host.get_property(Property.CSTS)).result & wire.CSTS_RDY:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await host.set_property(Property.CC, 0x00460001 | wire.CSS_ALL << wire.CC_CSS_SHIFT)
    assert await log_of(host) == (0, [])
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=2)))
    here.subsystem.zones_changed(NSID, [6])
    assert await log_of(host) == (1, [6 * ZONE_SIZE]), "it has not asked for events"
    host.close()

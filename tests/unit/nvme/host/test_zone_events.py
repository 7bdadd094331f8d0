"""The host's side of zones that the drive has changed, before controllers that lie about them, or say it for ever."""

from __future__ import annotations

import asyncio
import itertools
import struct
from uuid import UUID

import pytest

from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.host.events import ZONE_EVENT_PAUSE_S, ZONE_LOG_READS, AsyncEvent
from spdk_ftl_py.nvme.host.namespaces import NamespaceInfo
from spdk_ftl_py.nvme.wire import AdminOp, Cqe, Feature, PduType, Sqe, Status
from unit.nvme.host.test_controller import Liar, changed, connect, controller_page, lying
from unit.nvme.nvme_loop import WAIT_S

ASKED = wire.EVENT_CONFIG_NAMESPACE | wire.EVENT_CONFIG_ZONES


class Teller:
    """A controller that has events of zones for every request, up to ``events``, and whatever log it is given."""

    def __init__(self, log: bytes = bytes(4096), *, events: int = 1, nsid: int = 1) -> None:
        self.log = log
        self.events = events
        self.nsid = nsid
        self.log_status: list[tuple[int, bool]] = []
        """Of the next reads of its log that fail: status and DNR."""
        self.features: list[int] = []
        self.refuses = 0
        """Bits of feature 0Bh."""
        self.reads: list[tuple[float, Sqe]] = []

    def answer(self, liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY and sqe.cdw10 == 1:
            liar.data(sqe, changed(controller_page(), 92, "<I", ASKED))
            liar.complete(sqe)
        elif sqe.opcode == AdminOp.SET_FEATURES and sqe.cdw10 == Feature.ASYNC_EVENT_CONFIGURATION:
            self.features.append(sqe.cdw11)
            liar.complete(sqe, Status.INVALID_FIELD if sqe.cdw11 & self.refuses else 0)
        elif sqe.opcode == AdminOp.ASYNC_EVENT_REQUEST and self.events:
            self.events -= 1
            liar.complete(sqe, result=self.nsid << 32 | wire.EVENT_ZONES_CHANGED)
        elif sqe.opcode == AdminOp.GET_LOG_PAGE:
            self.reads.append((asyncio.get_running_loop().time(), sqe))
            if self.log_status:
                status, final = self.log_status.pop(0)
                liar.send(PduType.CAPSULE_RESP, Cqe(sqe.cid, status, final).pack())
            else:
                liar.data(sqe, self.log)
                liar.complete(sqe)
        else:
            return False
        return True


async def heard(teller: Teller, *, count: int = 1) -> list[AsyncEvent]:
    """The first events that reach who listens to a controller."""
    async with lying(lambda liar: liar.serve(teller.answer)) as (port, _):
        controller = await connect(port)
        events: asyncio.Queue[AsyncEvent] = asyncio.Queue()
        controller.on_event = events.put_nowait
        found = [await asyncio.wait_for(events.get(), WAIT_S) for _ in range(count)]
        assert not controller.lost.is_set()
        await controller.close()
    return found


def log_page(count: int, *starts: int) -> bytes:
    return struct.pack(f"<{1 + len(starts)}Q", count, *starts).ljust(4096, b"\0")


async def test_the_log_of_the_namespace_that_the_event_names_is_read_and_cleared() -> None:
    teller = Teller(log_page(2, 640, 64), nsid=7)
    (event,) = await heard(teller)
    assert (event.nsid, event.changed_zones, event.log_read) == (7, (640, 64), True)
    assert teller.features == [ASKED]
    ((_, sqe),) = teller.reads
    assert (sqe.nsid, sqe.cdw10, sqe.cdw14) == (7, 1023 << 16 | 0xBF, wire.CSI_ZNS << 24), "not retained"


async def test_a_controller_that_refuses_events_of_zones_is_asked_for_the_others() -> None:
    teller = Teller(events=1)
    teller.refuses = wire.EVENT_CONFIG_ZONES
    async with lying(lambda liar: liar.serve(teller.answer)) as (port, _):
        controller = await connect(port)
        assert teller.features == [ASKED, wire.EVENT_CONFIG_NAMESPACE]
        assert not controller.tells_of_zones
        await controller.close()


@pytest.mark.parametrize("count", [512, 0xFFFE, 0xFFFF])
async def test_a_list_that_is_longer_than_lists_are_means_any_zone(count: int) -> None:
    (event,) = await heard(Teller(log_page(count, 64)))
    assert (event.changed_zones, event.log_read) == (None, True)


@pytest.mark.parametrize("nsid", [0, wire.NSID_ALL, wire.NSID_MAX + 1])
async def test_an_event_of_no_namespace_means_any_zone_and_no_log(nsid: int) -> None:
    teller = Teller(nsid=nsid)
    (event,) = await heard(teller)
    assert (event.nsid, event.changed_zones, event.log_read) == (nsid, None, False)
    assert teller.reads == []


async def test_a_log_that_can_not_be_read_at_once_is_read_again_since_no_other_event_would_come() -> None:
    teller = Teller(log_page(1, 64))
    teller.log_status = [(Status.INTERNAL_ERROR, False)] * (ZONE_LOG_READS - 1)
    (event,) = await heard(teller)
    assert (event.changed_zones, event.log_read) == ((64,), True)
    assert len(teller.reads) == ZONE_LOG_READS


@pytest.mark.parametrize(("final", "reads"), [(True, 1), (False, ZONE_LOG_READS)])
async def test_a_log_that_can_not_be_read_means_any_zone(final: bool, reads: int) -> None:
    teller = Teller()
    teller.log_status = [(Status.INVALID_FIELD, final)] * 10
    (event,) = await heard(teller)
    assert (event.changed_zones, event.log_read) == (None, False)
    assert len(teller.reads) == reads


async def test_a_list_that_a_read_has_cleared_without_bringing_it_means_any_zone() -> None:
    teller = Teller(log_page(0))
    teller.log_status = [(Status.TRANSIENT_TRANSPORT_ERROR, False)]
    (event,) = await heard(teller)
    assert (event.changed_zones, event.log_read) == (None, True)


async def test_a_controller_that_refuses_a_later_request_tells_of_no_zone_any_more() -> None:
    teller = Teller(log_page(1, 64))

    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.ASYNC_EVENT_REQUEST and not teller.events:
            liar.complete(sqe, Status.INVALID_FIELD)
            return True
        return teller.answer(liar, sqe)

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        controller = await connect(port)
        assert controller.tells_of_zones
        for _ in range(200):
            await asyncio.sleep(0.01)
            if not controller.tells_of_zones:
                break
        assert not controller.tells_of_zones
        assert not controller.lost.is_set()
        await controller.close()


async def test_a_controller_that_has_an_event_for_every_request_is_heard_ten_times_a_second() -> None:
    teller = Teller(events=10**6)
    await heard(teller, count=5)
    times = [time for time, _ in teller.reads]
    assert min(after - before for before, after in itertools.pairwise(times)) >= ZONE_EVENT_PAUSE_S


def zoned(**changes: int) -> NamespaceInfo:
    fields = {"nsid": 1, "block_count": 1000, "block_bytes": 4096, "metadata_bytes": 0, "dif_type": 0, "csi": 2}
    return NamespaceInfo(
        **{**fields, "zone_size": 64, **changes}, metadata_interleaved=False, nguid=b"", eui64=b"", uuid=UUID(int=1)
    )


@pytest.mark.parametrize(
    ("starts", "zones"),
    [
        ([], []),
        ([128, 0, 128], [0, 2]),
        ([14 * 64], [14]),
        ([15 * 64], None),  # what is left of the namespace is no zone
        ([64, 65], None),
        ([1 << 63], None),
        ([(1 << 64) - 64], None),
        (None, None),
    ],
)
def test_a_block_where_no_zone_starts_makes_a_list_of_any_zone(starts: list[int] | None, zones: object) -> None:
    assert zoned().zones_at(starts) == zones
    assert zoned(zone_size=0).zones_at(starts) is None

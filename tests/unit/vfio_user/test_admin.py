"""Admin commands of a controller in its client's memory."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.target.connected_hosts import ConnectedHosts
from spdk_ftl_py.nvme.wire import AdminOp, Feature, LogPage, Status
from support.vfio_user_client import CC_ENABLE, PAGE, QueuePair, VfioUserClient
from unit.vfio_user.rig import NQN, Rig


def status(client: VfioUserClient, opcode: int, prp1: int | None = None, *cdw: int, flags: int = 0) -> int:
    address = client.iova + client.allocate(PAGE) if prp1 is None else prp1
    return client.execute(client.admin, opcode, prp1=address, cdw=cdw, flags=flags, nsid=0).status


def feature(client: VfioUserClient, number: int, value: int | None = None) -> tuple[int, int]:
    opcode = AdminOp.GET_FEATURES if value is None else AdminOp.SET_FEATURES
    cqe = client.execute(client.admin, opcode, cdw=(number, value or 0))
    return cqe.status, cqe.result


async def test_identify_tells_what_is_offered(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        page = client.identify(1)
        assert page[768:1024].rstrip(b"\0") == NQN.encode()
        assert struct.unpack_from("<H", page, 78)[0] in here.subsystem.controllers
        kas, oncs, fuses = (struct.unpack_from("<H", page, at)[0] for at in (320, 520, 522))
        assert (kas, oncs, fuses) == (0, 0b1100, 0)
        assert page[1792:1804] == bytes(12)
        namespace = client.identify(0, 1)
        assert struct.unpack_from("<Q", namespace) == (1024,)
        assert namespace[31] == 0  # reservations
        assert struct.unpack_from("<I", client.identify(2)) == (1,)
        assert client.execute(client.admin, AdminOp.IDENTIFY, prp1=client.iova, cdw=(0x77,)).status == 2

    await here.enabled(look)


async def test_what_can_not_be_written_fails_the_command(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        for address in (0x1000, client.iova + len(client.memory), 2**64 - PAGE):
            assert status(client, AdminOp.IDENTIFY, address, 1) == Status.DATA_TRANSFER_ERROR
        assert client.identify(1)

    await here.enabled(look)


async def test_commands_that_are_not_offered(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        for opcode in (AdminOp.KEEP_ALIVE, AdminOp.FABRICS, 0x10, 0x7C, 0x80, 0xFF):
            assert status(client, opcode) == Status.INVALID_OPCODE
        for flags in (0x40, 0x80, 1, 2):
            assert status(client, AdminOp.IDENTIFY, None, 1, flags=flags) == Status.INVALID_FIELD

    await here.enabled(look)


async def test_features(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        assert feature(client, Feature.NUMBER_OF_QUEUES, 0x03FF03FF) == (0, 3 << 16 | 3)
        assert feature(client, Feature.ASYNC_EVENT_CONFIGURATION, 0) == (0, 0)
        assert feature(client, Feature.ASYNC_EVENT_CONFIGURATION) == (0, 0)
        for number in (Feature.KEEP_ALIVE_TIMER, Feature.RESERVATION_NOTICE_MASK, Feature.RESERVATION_PERSISTENCE):
            assert feature(client, number)[0] == Status.INVALID_FIELD
        client.create_queue(1)
        assert feature(client, Feature.NUMBER_OF_QUEUES, 0)[0] == Status.COMMAND_SEQUENCE_ERROR
        at = client.allocate(PAGE)
        client.memory[at] = 1
        cqe = client.execute(client.admin, AdminOp.SET_FEATURES, prp1=client.iova + at, cdw=(Feature.HOST_BEHAVIOR,))
        assert cqe.status == 0
        at = client.allocate(PAGE)
        client.execute(client.admin, AdminOp.GET_FEATURES, prp1=client.iova + at, cdw=(Feature.HOST_BEHAVIOR,))
        assert client.memory[at] == 1
        cqe = client.execute(client.admin, AdminOp.SET_FEATURES, prp1=0x1000, cdw=(Feature.HOST_BEHAVIOR,))
        assert cqe.status == Status.DATA_TRANSFER_ERROR

    await here.enabled(look)


async def test_log_pages(here: Rig) -> None:
    def page(client: VfioUserClient, number: int, count: int) -> tuple[int, bytes]:
        at = client.allocate(PAGE)
        cdw = (count // 4 - 1) << 16 | number
        cqe = client.execute(client.admin, AdminOp.GET_LOG_PAGE, prp1=client.iova + at, cdw=(cdw,))
        return cqe.status, client.memory[at : at + count]

    def look(client: VfioUserClient) -> None:
        assert page(client, LogPage.SMART, 512)[0] == 0
        effects = struct.unpack("<1024I", page(client, LogPage.COMMAND_EFFECTS, PAGE)[1])
        assert effects[AdminOp.CREATE_IO_SQ]
        assert not effects[AdminOp.KEEP_ALIVE]
        assert not effects[256 + wire.NvmOp.COMPARE]
        supported = struct.unpack("<256I", page(client, LogPage.SUPPORTED, 1024)[1])
        assert not supported[LogPage.RESERVATION]
        assert page(client, LogPage.RESERVATION, 64)[0] == Status.INVALID_LOG_PAGE

    await here.enabled(look)


# --- queues ----------------------------------------------------------------------------------------------------------


async def test_queues_that_are_impossible(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        cq, sq = AdminOp.CREATE_IO_CQ, AdminOp.CREATE_IO_SQ
        size, good = 15 << 16, client.iova + client.allocate(16 * PAGE)
        refused = [
            (cq, good, size | 0, 1, Status.INVALID_QUEUE_ID),
            (cq, good, size | 5, 1, Status.INVALID_QUEUE_ID),
            (cq, good, size | 0xFFFF, 1, Status.INVALID_QUEUE_ID),
            (cq, good, 0 << 16 | 1, 1, Status.INVALID_QUEUE_SIZE),
            (cq, good, 64 << 16 | 1, 1, Status.INVALID_QUEUE_SIZE),
            (cq, good, size | 1, 0, Status.INVALID_FIELD),
            (cq, good, size | 1, 3, Status.INVALID_INTERRUPT_VECTOR),
            (cq, good, size | 1, 1 | 1 << 16, Status.INVALID_INTERRUPT_VECTOR),
            (cq, good + 8, size | 1, 1, Status.PRP_OFFSET),
            (cq, 0x1000, size | 1, 1, Status.INVALID_FIELD),
            (cq, 2**64 - PAGE, size | 1, 1, Status.INVALID_FIELD),
            (sq, good, size | 1, 1 | 1 << 16, Status.COMPLETION_QUEUE_INVALID),
            (cq, good, size | 1, 1, 0),
            (cq, good, size | 1, 1, Status.INVALID_QUEUE_ID),
            (sq, good + PAGE, size | 2, 1 | 1 << 16, Status.COMPLETION_QUEUE_INVALID),
            (sq, good + PAGE, size | 1, 1 | 9 << 16, Status.COMPLETION_QUEUE_INVALID),
            (sq, good + 12, size | 1, 1 | 1 << 16, Status.PRP_OFFSET),
            (sq, 0x1000, size | 1, 1 | 1 << 16, Status.INVALID_FIELD),
            (sq, good + PAGE, size | 1, 1 | 1 << 16, 0),
            (sq, good + PAGE, size | 1, 1 | 1 << 16, Status.INVALID_QUEUE_ID),
            (AdminOp.DELETE_IO_CQ, 0, 1, 0, Status.INVALID_QUEUE_DELETION),
            (AdminOp.DELETE_IO_SQ, 0, 2, 0, Status.INVALID_QUEUE_ID),
            (AdminOp.DELETE_IO_SQ, 0, 1, 0, 0),
            (AdminOp.DELETE_IO_SQ, 0, 1, 0, Status.INVALID_QUEUE_ID),
            (AdminOp.DELETE_IO_CQ, 0, 1, 0, 0),
            (AdminOp.DELETE_IO_CQ, 0, 1, 0, Status.INVALID_QUEUE_ID),
        ]
        for opcode, address, cdw10, cdw11, expected in refused:
            assert status(client, opcode, address, cdw10, cdw11) == expected, (opcode, hex(cdw10), hex(cdw11))

    await here.enabled(look)


async def test_entries_of_another_size_are_refused(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        client.enable(wire.CC_EN | 5 << wire.CC_IOSQES_SHIFT | 5 << wire.CC_IOCQES_SHIFT)
        good = client.iova + client.allocate(PAGE)
        assert status(client, AdminOp.CREATE_IO_CQ, good, 15 << 16 | 1, 1) == Status.INVALID_QUEUE_SIZE

    await here.use(look)


async def test_a_queue_can_be_created_again(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        for round_number in range(3):
            pair = client.create_queue(1)
            data = bytes([round_number]) * PAGE
            assert client.write(pair, 3, data).status == 0
            assert client.read(pair, 3) == data
            assert client.execute(client.admin, AdminOp.DELETE_IO_SQ, cdw=(1,)).status == 0
            assert client.execute(client.admin, AdminOp.DELETE_IO_CQ, cdw=(1,)).status == 0

    await here.enabled(look)


async def test_admin_queues_outside_of_memory_are_fatal_until_the_reset(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        client.write_register(0x28, 0x1000, 8)
        client.write_register(0x30, 0x2000, 8)
        client.write_register(0x24, 31 << 16 | 31)
        client.write_register(0x14, CC_ENABLE)
        client.wait_csts(wire.CSTS_CFS | wire.CSTS_RDY, wire.CSTS_CFS)
        client.disable()
        client.enable()
        assert client.identify(1)

    await here.use(look)


@pytest.mark.parametrize("admin", [True, False])
async def test_an_impossible_doorbell_ends_the_client(here: Rig, admin: bool) -> None:
    def attack(client: VfioUserClient) -> None:
        pair = client.admin if admin else client.create_queue(1)
        client.ring(2 * pair.qid, pair.entries)
        with pytest.raises((EOFError, ConnectionError)):
            client.read_until_the_end()

    await here.enabled(attack)
    await here.enabled(lambda client: client.identify(1))


# --- events ----------------------------------------------------------------------------------------------------------


async def test_events_are_sent_and_commands_aborted(here: Rig) -> None:
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    waiting = [client.submit(client.admin, AdminOp.ASYNC_EVENT_REQUEST) for _ in range(4)]
    more = await asyncio.to_thread(client.execute, client.admin, AdminOp.ASYNC_EVENT_REQUEST)
    assert more.status == Status.ASYNC_EVENT_LIMIT
    here.subsystem.remove_namespace(1)
    event = await asyncio.to_thread(client.wait, client.admin, waiting[0])
    assert event.result == wire.EVENT_NAMESPACE_CHANGED
    abort = await asyncio.to_thread(client.execute, client.admin, AdminOp.ABORT, cdw=(waiting[1] << 16,))
    assert (abort.status, abort.result) == (0, 0)
    assert (await asyncio.to_thread(client.wait, client.admin, waiting[1])).status == Status.ABORTED_BY_REQUEST
    abort = await asyncio.to_thread(client.execute, client.admin, AdminOp.ABORT, cdw=(77 << 16 | 1,))
    assert (abort.status, abort.result) == (0, 1)
    await asyncio.to_thread(client.disable)
    await asyncio.to_thread(client.enable)
    assert not client.admin.done
    client.close()


async def test_a_new_namespace_is_served_by_queues_that_exist(here: Rig) -> None:
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    pair: QueuePair = await asyncio.to_thread(client.create_queue, 2)
    refused = await asyncio.to_thread(client.write, pair, 0, bytes(PAGE), nsid=2)
    assert refused.status == Status.INVALID_NAMESPACE
    here.subsystem.add_namespace(_shim.EmulatedMedia.conventional(here.reactor.shim, 16), nsid=2)
    assert (await asyncio.to_thread(client.write, pair, 15, b"n" * PAGE, nsid=2)).status == 0
    assert await asyncio.to_thread(client.read, pair, 15, nsid=2) == b"n" * PAGE
    client.close()


async def test_a_shutdown_in_order_is_told(here: Rig) -> None:
    def shut_down(client: VfioUserClient) -> None:
        client.create_queue(1)
        client.write_register(0x14, CC_ENABLE | wire.SHN_NORMAL << wire.CC_SHN_SHIFT)
        client.wait_csts(wire.CSTS_SHST_MASK, wire.CSTS_SHST_COMPLETE)
        (controller,) = here.subsystem.controllers.values()
        assert controller.shut_down
        assert not controller.io_queues.qpairs
        client.disable()
        client.enable()
        assert not controller.shut_down
        client.create_queue(1)

    await here.enabled(shut_down)


async def test_queues_are_renewed_without_notice(here: Rig) -> None:
    """They get flush alarms, and no command is lost."""
    here.subsystem.connected_hosts = ConnectedHosts()
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    pair: QueuePair = await asyncio.to_thread(client.create_queue, 1)
    at = client.allocate(PAGE)
    cids = [client.submit(pair, 1, nsid=1, prp1=client.iova + at, cdw=(lba, 0, 0)) for lba in range(12)]
    (host,) = here.subsystem.connected_hosts.alarm()
    await here.subsystem.renew_queues()
    for cid in cids:
        assert (await asyncio.to_thread(client.wait, pair, cid)).status == 0
    assert here.subsystem.connected_hosts.owed == [host]
    assert (await asyncio.to_thread(client.execute, pair, 0, nsid=1)).status != 0
    assert (await asyncio.to_thread(client.execute, pair, 0, nsid=1)).status == 0
    assert not here.subsystem.connected_hosts.owed
    assert (await asyncio.to_thread(client.execute, client.admin, AdminOp.DELETE_IO_SQ, cdw=(1,))).status == 0
    client.close()


async def test_memory_can_be_taken_back_while_io_runs(here: Rig) -> None:
    def run(client: VfioUserClient) -> None:
        pair = client.create_queue(1)
        cids = []
        at = client.allocate(PAGE)
        for lba in range(10):
            cids.append(client.submit(pair, 1, nsid=1, prp1=client.iova + at, cdw=(lba, 0, 0)))
        extra = 0x1000_0000
        client.map(extra, PAGE, client.fd, at)
        client.unmap(extra, PAGE)
        for cid in cids:
            assert client.wait(pair, cid).status == 0
        gone = client.execute(pair, 1, nsid=1, prp1=extra, cdw=(0, 0, 0))
        assert gone.status != 0
        # Now the one with the data; queues in it go on.
        client.unmap(client.iova, len(client.memory))
        assert client.execute(pair, 1, nsid=1, prp1=client.iova + at, cdw=(0, 0, 0)).status != 0

    await here.enabled(run)


@pytest.mark.parametrize("leaves", ["reset", "delete", "disconnect"])
async def test_a_device_that_takes_long_does_not_end_the_endpoint(here: Rig, leaves: str) -> None:
    """It serves the client, and the next one, when the device has given back the I/O."""
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    await asyncio.to_thread(client.create_queue, 1)
    (controller,) = here.subsystem.controllers.values()
    queues, tries = controller.io_queues, []

    def slow(close: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
        async def run(*arguments: int) -> None:
            tries.append(arguments)
            if len(tries) < 3:
                raise RuntimeError("a device did not complete the outstanding I/O")
            await close(*arguments)

        return run

    queues.close, queues.close_one = slow(queues.close), slow(queues.close_one)
    if leaves == "reset":
        await asyncio.to_thread(client.disable)
        assert len(tries) == 3
    elif leaves == "delete":
        deleted = await asyncio.to_thread(client.execute, client.admin, AdminOp.DELETE_IO_SQ, cdw=(1,))
        assert (deleted.status, len(tries)) == (0, 3)
    await asyncio.to_thread(client.close)
    await here.enabled(lambda other: other.write(other.create_queue(1), 0, bytes(PAGE)))
    assert len(tries) >= 3


async def test_controllers_are_described(here: Rig) -> None:
    def use(client: VfioUserClient) -> None:
        client.write(client.create_queue(1), 0, bytes(2 * PAGE))

    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    await asyncio.to_thread(use, client)
    (controller,) = here.subsystem.controllers.values()
    shown = controller.describe()
    assert (shown["num_io_qpairs"], shown["write_blocks"], shown["traddr"]) == (1, 2, str(here.directory))
    assert here.listener.describe()["controller"]["cntlid"] == controller.cntlid
    client.close()

"""Host against target: I/O queues from Connect to data and back, on every kind of namespace."""

from __future__ import annotations

import asyncio
import os
import struct
from dataclasses import replace

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import ParameterError, PathError, ProtocolError, UnsupportedError
from spdk_ftl_py.nvme.wire import Status
from support.overflow import full_event_ring
from unit.nvme.nvme_loop import WAIT_S, Bench, io, until

ZONE_OPEN = 3
REPORT_ALL = 0


@pytest.mark.rig(namespace=False)
@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("block_bytes", [512, 4096])
async def test_what_is_written_through_a_queue_is_read_through_another(
    digests: bool, block_bytes: int, here: Bench
) -> None:
    here.subsystem.add_namespace(here.media(block_bytes=block_bytes))
    controller = await here.connect(header_digest=digests, data_digest=digests)
    (namespace,) = await controller.namespaces()
    assert namespace.block_bytes == block_bytes
    first = await controller.create_io_qpair(here.reactor, namespace)
    second = await controller.create_io_qpair(here.reactor, namespace)
    data = bytearray(os.urandom(32 * block_bytes))
    back = bytearray(len(data))
    assert (await io(here.reactor, first, _shim.Op.WRITE, 7, 32, data))[0] == 0
    assert (await io(here.reactor, second, _shim.Op.READ, 7, 32, back))[0] == 0
    assert back == data
    assert (await io(here.reactor, first, _shim.Op.FLUSH))[0] == 0
    assert (await io(here.reactor, first, _shim.Op.READ, 1024, 1, back))[0] == Status.LBA_OUT_OF_RANGE
    await controller.close()


@pytest.mark.rig(namespace=False)
async def test_interleaved_metadata_travels_with_its_block(here: Bench) -> None:
    here.subsystem.add_namespace(here.media(metadata_bytes=16))
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    assert (namespace.block_bytes, namespace.metadata_bytes, namespace.metadata_interleaved) == (4096, 16, True)
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    assert (qpair.block_bytes, qpair.metadata_bytes) == (4112, 16)
    data = bytearray(os.urandom(3 * 4112))
    back = bytearray(len(data))
    assert (await io(here.reactor, qpair, _shim.Op.WRITE, 5, 3, data))[0] == 0
    assert (await io(here.reactor, qpair, _shim.Op.READ, 5, 3, back))[0] == 0
    assert back == data
    separate = replace(namespace, metadata_interleaved=False)
    with pytest.raises(UnsupportedError, match="separate metadata"):
        await controller.create_io_qpair(here.reactor, separate)
    await controller.close()


@pytest.mark.rig(namespace=False)
async def test_a_zoned_namespace_is_the_same_device_over_the_wire(here: Bench) -> None:
    here.subsystem.add_namespace(here.zns(max_open_zones=4, max_active_zones=6, max_append_blocks=16))
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    assert (qpair.zoned, qpair.zone_size, qpair.zone_capacity) == (True, 64, 48)
    assert (qpair.max_open_zones, qpair.max_active_zones, qpair.max_append_blocks) == (4, 6, 16)
    assert qpair.volatile_cache
    data = bytearray(os.urandom(4 * 4096))
    for expected in (64, 68):
        assert await io(here.reactor, qpair, _shim.Op.APPEND, 64, 4, data) == (0, expected)
    report = bytearray(64 + 64)
    done = await io(here.reactor, qpair, _shim.Op.ZONE_REPORT, 64, 0, report, zone_all=True)
    assert done[0] == 0
    assert struct.unpack_from("<Q", report)[0] == 1
    assert struct.unpack_from("<QQQ", report, 72) == (48, 64, 72)
    status, _ = await io(here.reactor, qpair, _shim.Op.WRITE, 64, 1, data)
    assert status == Status.ZONE_INVALID_WRITE
    await controller.close()


@pytest.mark.rig(namespace=False)
async def test_a_zoned_namespace_without_zones_to_report_is_refused(here: Bench) -> None:
    here.subsystem.add_namespace(here.zns())
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    with pytest.raises(ProtocolError, match="capacity of 48 blocks of 8"):
        await controller.create_io_qpair(here.reactor, replace(namespace, zone_size=8))
    assert len(await controller.namespaces()) == 1
    await controller.close()


async def test_namespaces_appear_on_queues_that_are_open_already(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    late = await controller.create_io_qpair(here.reactor, replace(namespace, nsid=5))
    block = bytearray(4096)
    assert (await io(here.reactor, late, _shim.Op.READ, 0, 1, block))[0] == Status.INVALID_NAMESPACE
    here.subsystem.add_namespace(here.media(), nsid=5)
    assert (await io(here.reactor, late, _shim.Op.READ, 0, 1, block))[0] == 0
    here.subsystem.remove_namespace(5)
    assert (await io(here.reactor, late, _shim.Op.READ, 0, 1, block))[0] == Status.INVALID_NAMESPACE
    await controller.close()


@pytest.mark.rig(max_queue_depth=8)
async def test_a_queue_is_no_deeper_than_the_controller_allows(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace, queue_depth=1000)
    port = _shim.IoPort(here.reactor.shim, qpair, 64)
    done = 0

    def count(event: _shim.Event) -> None:
        nonlocal done
        assert event.status == 0
        done += 1

    here.reactor.subscribe(port.id, count)
    for lba in range(64):
        port.submit(_shim.Op.READ, lba, 1, bytearray(4096))
    await until(lambda: done == 64)
    port.close()
    with pytest.raises(ParameterError):
        await controller.create_io_qpair(here.reactor, namespace, queue_depth=0)
    await controller.close()


@pytest.mark.rig(max_io_qpairs_per_controller=2)
async def test_queues_beyond_what_the_controller_grants_are_refused_here_and_ids_are_used_again(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    first = await controller.create_io_qpair(here.reactor, namespace)
    await controller.create_io_qpair(here.reactor, namespace)
    with pytest.raises(UnsupportedError, match="all 2 I/O queues"):
        await controller.create_io_qpair(here.reactor, namespace)
    await controller.close_io_qpair(first)
    await controller.close_io_qpair(first)
    await until(lambda: here.subsystem.io_qpair_count == 1)
    await controller.create_io_qpair(here.reactor, namespace)
    await controller.close()


async def test_a_lost_io_queue_ends_the_association_and_says_so(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    (remote,) = here.subsystem.controllers.values()
    served = remote.io_queues.qpairs[1]
    assert served is not None
    served.close()
    await asyncio.wait_for(controller.lost.wait(), WAIT_S)
    assert "I/O queue 1 was lost: the controller closed the connection" in controller.lost_reason
    await until(lambda: not qpair.connected)
    with pytest.raises(PathError):
        await controller.create_io_qpair(here.reactor, namespace)
    await controller.close()


async def test_a_lost_io_queue_is_noticed_though_its_event_was_dropped(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    (remote,) = here.subsystem.controllers.values()
    served = remote.io_queues.qpairs[1]
    assert served is not None
    async with full_event_ring(here.reactor):
        served.close()
        await until(lambda: not qpair.connected)
        assert not controller.lost.is_set()
    assert controller.lost.is_set()
    assert "I/O queue 1 was lost" in controller.lost_reason
    await controller.close()


async def test_a_queue_that_its_host_closed_is_freed_though_its_event_was_dropped(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    (remote,) = here.subsystem.controllers.values()
    served = remote.io_queues.qpairs[1]
    assert served is not None
    async with full_event_ring(here.reactor):
        await controller.close_io_qpair(qpair)
        await until(lambda: not served.connected)
        assert remote.io_queues.qpairs == {1: served}
    await until(lambda: not remote.io_queues.qpairs)
    await controller.create_io_qpair(here.reactor, namespace)
    await controller.close()


async def test_a_controller_that_is_closed_has_shut_the_remote_one_down(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    qpair = await controller.create_io_qpair(here.reactor, namespace)
    (remote,) = here.subsystem.controllers.values()
    await asyncio.gather(controller.close(), controller.close())
    assert not qpair.connected
    await until(lambda: not here.subsystem.controllers)
    assert "closed the connection" in remote.end_reason
    assert controller.lost.is_set()

"""A target's controllers: who may connect, properties, identify, logs, features, events, keep-alive, shutdown."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import uuid

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import ExistsError, FtlError, NotFoundError, ParameterError, PathError
from spdk_ftl_py.nvme import identify, wire
from spdk_ftl_py.nvme.host.events import AsyncEvent
from spdk_ftl_py.nvme.target.controller import ControllerState
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.wire import AdminOp, Cns, CommandError, Feature, LogPage, PduType, Property, Sqe, Status
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, WAIT_S, Bench, bench, capsule, get_feature, io, until

OTHER_HOST = "nqn.2026-11.io.example:other-host"


# --- who may connect ------------------------------------------------------------------------------------------------


async def test_only_hosts_on_the_list_may_connect(here: Bench) -> None:
    here.subsystem.allow_any_host = False
    with pytest.raises(CommandError, match="connect invalid host") as refused:
        await here.connect()
    assert (refused.value.status, refused.value.do_not_retry) == (Status.CONNECT_INVALID_HOST, False)
    here.subsystem.add_host(HOSTNQN)
    controller = await here.connect()
    with pytest.raises(CommandError):
        await here.connect(hostnqn=OTHER_HOST)
    await controller.close()


async def test_a_host_that_is_taken_off_the_list_is_disconnected_and_others_are_not(here: Bench) -> None:
    here.subsystem.allow_any_host = False
    here.subsystem.add_host(HOSTNQN)
    here.subsystem.add_host(OTHER_HOST)
    leaves, stays = await here.connect(), await here.connect(hostnqn=OTHER_HOST)
    (namespace,) = await leaves.namespaces()
    qpair = await leaves.create_io_qpair(here.reactor, namespace)
    await here.subsystem.remove_host(HOSTNQN)
    await asyncio.wait_for(leaves.lost.wait(), WAIT_S)
    assert (await io(here.reactor, qpair, _shim.Op.READ, 0, 1, bytearray(4096)))[0] == Status.PATH_ERROR
    assert [controller.hostnqn for controller in here.subsystem.controllers.values()] == [OTHER_HOST]
    assert len(await stays.namespaces()) == 1
    with pytest.raises(NotFoundError):
        await here.subsystem.remove_host(HOSTNQN)
    await leaves.close()
    await stays.close()


async def test_a_subsystem_is_reached_through_its_own_listeners_only(here: Bench) -> None:
    other_port = await here.target.listen("127.0.0.1", 0)
    first_port, here.port = here.port, other_port
    with pytest.raises(CommandError) as refused:
        await here.connect()
    assert (refused.value.status, refused.value.result) == (Status.CONNECT_INVALID_PARAMETERS, 1 << 16 | 256)
    assert not refused.value.do_not_retry
    here.subsystem.add_listener("127.0.0.1", other_port)
    controller = await here.connect()
    here.port = first_port
    stays = await here.connect()
    await here.subsystem.remove_listener("127.0.0.1", other_port)
    await asyncio.wait_for(controller.lost.wait(), WAIT_S)
    assert len(await stays.namespaces()) == 1
    await controller.close()
    await stays.close()


async def test_a_shared_listener_closes_with_its_last_user(here: Bench) -> None:
    assert await here.target.listen("127.0.0.1", here.port) == here.port
    await here.target.unlisten("127.0.0.1", here.port)
    controller = await here.connect()
    await here.target.unlisten("127.0.0.1", here.port)
    await asyncio.wait_for(controller.lost.wait(), WAIT_S)
    await controller.close()
    with pytest.raises(PathError):
        await here.connect()
    with pytest.raises(NotFoundError):
        await here.target.unlisten("127.0.0.1", here.port)


async def test_an_address_that_can_not_be_listened_on_is_refused(here: Bench) -> None:
    async with bench() as there:
        with pytest.raises(PathError, match="can't listen"):
            await here.target.listen("127.0.0.1", there.port)
    for traddr, trsvcid in (("nonsense", 0), ("127.0.0.1", "http"), ("127.0.0.1", 65536), ("127.0.0.1", -1)):
        with pytest.raises(ParameterError):
            await here.target.listen(traddr, trsvcid)


async def test_io_queues_beyond_a_subsystems_channels_find_it_busy_until_one_is_free(here: Bench) -> None:
    here.subsystem.max_io_qpairs = 2
    first, second = await here.connect(), await here.connect()
    (namespace,) = await first.namespaces()
    qpair = await first.create_io_qpair(here.reactor, namespace)
    await second.create_io_qpair(here.reactor, namespace)
    with pytest.raises(CommandError, match="busy") as refused:
        await first.create_io_qpair(here.reactor, namespace)
    assert not refused.value.do_not_retry
    await first.close_io_qpair(qpair)
    await until(lambda: here.subsystem.io_qpair_count == 1)
    await first.create_io_qpair(here.reactor, namespace)
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    "nqn",
    [
        "", "nqn", "nqn.2026-13.io.example:x", "nqn.2026-11.io.example", "nqn.2026-11.io..example:x",
        "iqn.2026-11.io.example:x", "nqn.2014-08.org.nvmexpress:uuid:not-a-uuid", "nqn.2026-11.io.example:" + "x" * 201,
        "nqn.2026-11.io.example:a\nb",
    ],
)  # fmt: skip
def test_a_subsystem_needs_a_name_that_nvme_knows(nqn: str) -> None:
    with pytest.raises(ParameterError):
        Subsystem(nqn)


@pytest.mark.parametrize(
    "options",
    [{"serial_number": "x" * 21}, {"serial_number": "ü"}, {"model_number": "x" * 41}, {"min_cntlid": 0},
     {"min_cntlid": 2, "max_cntlid": 1}, {"max_cntlid": 0xFFF0}, {"max_namespaces": 0}, {"max_io_qpairs": 0}],
)  # fmt: skip
def test_a_subsystem_refuses_what_does_not_fit_its_pages(options: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        Subsystem(SUBNQN, **options)  # type: ignore[arg-type]


async def test_controller_ids_stay_in_their_range_and_are_unique(here: Bench) -> None:
    narrow = Subsystem(SUBNQN + "2", allow_any_host=True, min_cntlid=7, max_cntlid=8)
    narrow.add_listener("127.0.0.1", here.port)
    here.target.add_subsystem(narrow)
    with pytest.raises(ExistsError):
        here.target.add_subsystem(narrow)
    first, second = await here.connect(subnqn=narrow.nqn), await here.connect(subnqn=narrow.nqn)
    assert {first.cntlid, second.cntlid} == {7, 8}
    with pytest.raises(CommandError, match="busy"):
        await here.connect(subnqn=narrow.nqn)
    await first.close()
    await second.close()
    await here.target.remove_subsystem(narrow.nqn)
    with pytest.raises(NotFoundError):
        await here.target.remove_subsystem(narrow.nqn)


# --- properties -----------------------------------------------------------------------------------------------------


async def test_properties_are_read_in_their_own_size_and_unknown_ones_not_at_all(here: Bench) -> None:
    host = await here.raw()
    await host.enable()
    cap = (await host.get_property(Property.CAP, 1)).result
    assert cap & 0xFFFF == 127
    assert cap & wire.Cap.CSS_NVM
    assert not cap & wire.Cap.CSS_IOCS
    assert (await host.get_property(Property.VS)).result == 0x20000
    assert (await host.get_property(Property.CC)).result == 0x00460001
    assert (await host.get_property(Property.CSTS)).result == wire.CSTS_RDY
    assert (await host.get_property(Property.CRTO)).result == 30
    for offset, size in (
        (Property.CAP, 0),
        (Property.VS, 1),
        (0x04, 0),
        (0x1000, 0),
        (0xFFFFFFFF, 1),
        (0x16, 0),
    ):
        assert (await host.get_property(offset, size)).status == Status.INVALID_FIELD
    for offset in (Property.CAP, Property.VS, Property.CSTS, Property.NSSR, 0x18, 0xFFFFFFFF):
        assert (await host.set_property(offset, 1)).status == Status.INVALID_FIELD
    host.close()


@pytest.mark.parametrize("cc", [0x00460081, 0x00460801, 0x00460011, 0x00460061, 0x0046C001])
async def test_a_configuration_that_is_not_supported_is_refused_and_changes_nothing(cc: int, here: Bench) -> None:
    host = await here.raw()
    await host.initialize()
    await host.connect()
    assert (await host.set_property(Property.CC, cc)).status == Status.INVALID_FIELD
    assert (await host.get_property(Property.CC)).result == 0
    assert (await host.get_property(Property.CSTS)).result == 0
    host.close()


async def test_admin_commands_before_enable_are_out_of_sequence(here: Bench) -> None:
    host = await here.raw()
    await host.initialize()
    await host.connect()
    cqe, _ = await host.command(Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096))
    assert cqe.status == Status.COMMAND_SEQUENCE_ERROR
    assert (await host.command(Sqe(AdminOp.KEEP_ALIVE)))[0].status == 0
    host.close()


async def test_a_reset_ends_events_and_io_queues_and_restores_features(here: Bench) -> None:
    host = await here.raw()
    cntlid = await host.enable()
    queue = await here.raw()
    await queue.initialize()
    assert (await queue.connect(qid=1, cntlid=cntlid)).status == 0
    assert (await host.command(Sqe(AdminOp.SET_FEATURES, cdw10=Feature.ARBITRATION, cdw11=5)))[0].status == 0
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=9)))
    await host.send(capsule(Sqe(0x7F, cid=10, cdw11=Property.CC, cdw12=0)))
    answers = {}
    for _ in range(2):
        _, pdu, _ = await host.pdu()
        cqe = wire.Cqe.unpack(pdu[8:])
        answers[cqe.cid] = cqe.status
    assert answers == {9: Status.ABORTED_SQ_DELETED, 10: 0}
    assert await queue.at_end()
    while (await host.get_property(Property.CSTS)).result & wire.CSTS_RDY:
        pass
    assert (await host.set_property(Property.CC, 0x00460001)).status == 0
    cqe, _ = await host.command(Sqe(AdminOp.GET_FEATURES, cdw10=Feature.ARBITRATION))
    assert (cqe.status, cqe.result) == (0, 0)
    again = await here.raw()
    await again.initialize()
    assert (await again.connect(qid=1, cntlid=cntlid)).status == 0
    for each in (host, queue, again):
        each.close()


async def test_a_shutdown_is_complete_when_the_io_queues_are_gone(here: Bench) -> None:
    host = await here.raw()
    cntlid = await host.enable()
    queue = await here.raw()
    await queue.initialize()
    assert (await queue.connect(qid=3, cntlid=cntlid)).status == 0
    assert (await host.set_property(Property.CC, 0x00464001)).status == 0
    while (await host.get_property(Property.CSTS)).result & wire.CSTS_SHST_MASK != wire.CSTS_SHST_COMPLETE:
        pass
    assert await queue.at_end()
    assert not here.subsystem.controllers[cntlid].io_queues.qpairs
    host.close()
    queue.close()


# --- identify and logs ----------------------------------------------------------------------------------------------


@pytest.mark.rig(max_io_bytes=262144, in_capsule_bytes=8192)
async def test_identify_pages_say_what_the_subsystem_is(here: Bench) -> None:
    controller = await here.connect()
    page = controller.identity
    assert page is not None
    assert (page.subnqn, page.cntlid, page.max_io_bytes, page.in_capsule_bytes) == (
        SUBNQN, controller.cntlid, 262144, 8192,
    )  # fmt: skip
    assert page.aer_limit == 4
    assert page.max_nsid == 32
    assert not page.volatile_cache
    cached = here.media(volatile_cache=True)
    here.subsystem.add_namespace(cached, nsid=9)
    assert identify.parse_controller(await controller.identify(Cns.CONTROLLER)).volatile_cache
    assert (await get_feature(controller, Feature.VOLATILE_WRITE_CACHE))[0] == 1
    assert identify.parse_nsid_list(await controller.identify(Cns.ACTIVE_NAMESPACES), 0) == [1, 9]
    assert identify.parse_nsid_list(await controller.identify(Cns.ACTIVE_NAMESPACES, nsid=1), 1) == [9]
    assert identify.parse_nsid_list(await controller.identify(Cns.CSI_ACTIVE_NAMESPACES, csi=2), 0) == []
    assert (await controller.identify(Cns.NAMESPACE, nsid=5)) == bytes(4096)
    assert (await controller.identify(Cns.INDEPENDENT_NAMESPACE, nsid=9))[14] == 1
    for cns, nsid, csi, status in (
        (Cns.NAMESPACE, 0, 0, Status.INVALID_NAMESPACE),
        (Cns.NAMESPACE, 33, 0, Status.INVALID_NAMESPACE),
        (Cns.NAMESPACE, wire.NSID_ALL, 0, Status.INVALID_NAMESPACE),
        (Cns.NAMESPACE_DESCRIPTORS, 5, 0, Status.INVALID_NAMESPACE),
        (Cns.ACTIVE_NAMESPACES, wire.NSID_ALL, 0, Status.INVALID_NAMESPACE),
        (Cns.CSI_NAMESPACE, 1, 2, Status.INVALID_FIELD),
        (Cns.CSI_CONTROLLER, 0, 2, Status.INVALID_FIELD),
        (Cns.CSI_CONTROLLER, 0, 1, Status.INVALID_FIELD),
        (0x10, 0, 0, Status.INVALID_FIELD),
    ):
        with pytest.raises(CommandError) as refused:
            await controller.identify(cns, nsid=nsid, csi=csi)
        assert refused.value.status == status, (cns, nsid, csi)
    await controller.close()


async def test_a_zoned_namespace_brings_its_command_set_and_pages(here: Bench) -> None:
    media = here.zns(max_open_zones=5, max_active_zones=6, max_append_blocks=16)
    here.subsystem.add_namespace(media, nsid=2, uuid=uuid.UUID(int=7), eui64=b"12345678")
    controller = await here.connect()
    plain, zoned = await controller.namespaces()
    assert (plain.csi, plain.zone_size) == (0, 0)
    assert (zoned.csi, zoned.zone_size, zoned.max_open_zones, zoned.max_active_zones) == (2, 64, 5, 6)
    assert (zoned.uuid, zoned.nguid, zoned.eui64) == (uuid.UUID(int=7), uuid.UUID(int=7).bytes, b"12345678")
    assert controller.max_append_bytes == 16 * 4096
    effects = await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096, csi=2)
    assert struct.unpack_from("<I", effects, 1024 + 4 * 0x7D) == (3,)
    plain_effects = await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096)
    assert struct.unpack_from("<I", plain_effects, 1024 + 4 * 0x7D) == (0,)
    assert int.from_bytes((await controller.identify(Cns.COMMAND_SETS))[:8], "little") == 0b101
    await controller.close()


async def test_a_host_that_enables_the_nvm_command_set_alone_sees_no_zoned_namespace(here: Bench) -> None:
    here.subsystem.add_namespace(here.zns())
    host = await here.raw()
    await host.enable()
    _, data = await host.command(Sqe(AdminOp.IDENTIFY, cdw10=Cns.ACTIVE_NAMESPACES, sgl_bytes=4096))
    assert identify.parse_nsid_list(data, 0) == [1]
    host.close()


async def test_log_pages_come_in_pieces_and_only_those_that_exist(here: Bench) -> None:
    controller = await here.connect()
    whole = await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096)
    assert await controller.get_log_page(LogPage.COMMAND_EFFECTS, 2048, offset=1024) == whole[1024:3072]
    assert struct.unpack_from("<H", await controller.get_log_page(LogPage.SMART, 512), 1) == (300,)
    assert (await controller.get_log_page(LogPage.FIRMWARE_SLOT, 512))[0] == 1
    assert await controller.get_log_page(LogPage.ERROR, 64) == bytes(64)
    supported = await controller.get_log_page(LogPage.SUPPORTED, 1024)
    assert [lid for lid in range(256) if supported[4 * lid]] == [0, 1, 2, 3, 4, 5, 0x80]
    for page, status in ((0x0C, Status.INVALID_LOG_PAGE), (LogPage.DISCOVERY, Status.INVALID_LOG_PAGE)):
        with pytest.raises(CommandError) as refused:
            await controller.get_log_page(page, 512)
        assert refused.value.status == status
    with pytest.raises(CommandError):
        await controller.get_log_page(LogPage.SMART, 512, offset=516)
    with pytest.raises(CommandError):
        await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096, csi=2)
    await controller.close()


# --- features -------------------------------------------------------------------------------------------------------


async def test_features_are_set_read_and_refused_as_they_should(here: Bench) -> None:
    controller = await here.connect()
    queues, _ = await get_feature(controller, Feature.NUMBER_OF_QUEUES)
    assert queues == 126 << 16 | 126
    assert await controller.set_feature(Feature.NUMBER_OF_QUEUES, 3 << 16 | 3) == 126 << 16 | 126
    await controller.set_feature(Feature.ERROR_RECOVERY, 7)
    assert (await get_feature(controller, Feature.ERROR_RECOVERY))[0] == 7
    assert (await get_feature(controller, Feature.ERROR_RECOVERY, select=1))[0] == 0
    assert (await get_feature(controller, Feature.ERROR_RECOVERY, select=3))[0] == 4
    await controller.set_feature(Feature.KEEP_ALIVE_TIMER, 60_050)
    assert (await get_feature(controller, Feature.KEEP_ALIVE_TIMER))[0] == 60_100
    assert (await get_feature(controller, Feature.TEMPERATURE_THRESHOLD))[0] == 343
    behavior = bytes([1]) + bytes(511)
    await controller.set_feature(Feature.HOST_BEHAVIOR, 0, data=behavior)
    assert (await get_feature(controller, Feature.HOST_BEHAVIOR, receive_bytes=512))[1] == behavior
    _, hostid = await get_feature(controller, Feature.HOST_IDENTIFIER, cdw11=1, receive_bytes=16)
    assert hostid == controller.hostid.bytes
    for feature, value, status in (
        (0x0D, 0, Status.INVALID_FIELD),
        (Feature.VOLATILE_WRITE_CACHE, 1, Status.INVALID_FIELD),
        (Feature.NUMBER_OF_QUEUES, 0xFFFF, Status.INVALID_FIELD),
        (Feature.POWER_MANAGEMENT, 1, Status.INVALID_FIELD),
        (Feature.HOST_IDENTIFIER, 1, Status.COMMAND_SEQUENCE_ERROR),
        (Feature.ARBITRATION | 1 << 31, 0, Status.FEATURE_NOT_SAVEABLE),
        (Feature.COMMAND_SET_PROFILE, 1, Status.INVALID_FIELD),
    ):
        with pytest.raises(CommandError) as refused:
            await controller.set_feature(feature, value)
        assert refused.value.status == status, feature
    await controller.close()


@pytest.mark.rig(namespace=False)
async def test_a_volatile_cache_can_not_be_switched_off(here: Bench) -> None:
    here.subsystem.add_namespace(here.media(volatile_cache=True))
    controller = await here.connect()
    await controller.set_feature(Feature.VOLATILE_WRITE_CACHE, 1)
    with pytest.raises(CommandError) as refused:
        await controller.set_feature(Feature.VOLATILE_WRITE_CACHE, 0)
    assert refused.value.status == Status.FEATURE_NOT_CHANGEABLE
    await controller.close()


# --- events ---------------------------------------------------------------------------------------------------------


async def test_a_host_hears_of_each_namespace_that_comes_and_goes(here: Bench) -> None:
    controller = await here.connect()
    events: asyncio.Queue[AsyncEvent] = asyncio.Queue()
    controller.on_event = events.put_nowait
    here.subsystem.add_namespace(here.media(), nsid=4)
    event = await asyncio.wait_for(events.get(), WAIT_S)
    assert (event.type, event.info, event.log_page, event.changed_namespaces) == (2, 0, 4, (4,))
    assert [namespace.nsid for namespace in await controller.namespaces()] == [1, 4]
    here.subsystem.remove_namespace(4)
    here.subsystem.remove_namespace(1)
    heard: set[int] = set()
    while heard != {1, 4}:
        heard |= set((await asyncio.wait_for(events.get(), WAIT_S)).changed_namespaces)
    assert await controller.namespaces() == []
    with pytest.raises(NotFoundError):
        here.subsystem.remove_namespace(1)
    await controller.close()


async def test_an_event_is_sent_once_until_its_log_page_is_read(here: Bench) -> None:
    host = await here.raw()
    await host.enable()
    for cid in (1, 2):
        await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=cid)))
    for nsid in (2, 3):
        here.subsystem.add_namespace(here.media(), nsid=nsid)
    _, pdu, _ = await host.pdu()
    assert wire.Cqe.unpack(pdu[8:]).result == wire.EVENT_NAMESPACE_CHANGED
    read = Sqe(AdminOp.GET_LOG_PAGE, cid=50, cdw10=1023 << 16 | 1 << 15 | 4, sgl_bytes=4096)
    retained, log = await host.command(read)
    assert retained.cid == 50
    assert struct.unpack_from("<3I", log) == (2, 3, 0)
    here.subsystem.remove_namespace(3)
    cqe, _ = await host.command(Sqe(AdminOp.GET_LOG_PAGE, cid=51, cdw10=1023 << 16 | 4, sgl_bytes=4096))
    assert cqe.cid == 51
    here.subsystem.remove_namespace(2)
    _, pdu, _ = await host.pdu()
    assert wire.Cqe.unpack(pdu[8:]).cid == 2
    host.close()


async def test_event_requests_beyond_the_limit_fail_and_waiting_ones_can_be_aborted(here: Bench) -> None:
    host = await here.raw()
    await host.enable()
    for cid in range(1, 5):
        await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=cid)))
    cqe, _ = await host.command(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=5))
    assert (cqe.cid, cqe.status) == (5, Status.ASYNC_EVENT_LIMIT)
    await host.send(capsule(Sqe(AdminOp.ABORT, cid=6, cdw10=3 << 16)))
    answers = {}
    for _ in range(2):
        kind, pdu, _ = await host.pdu()
        assert kind == PduType.CAPSULE_RESP
        cqe = wire.Cqe.unpack(pdu[8:])
        answers[cqe.cid] = (cqe.status, cqe.result)
    assert answers == {3: (Status.ABORTED_BY_REQUEST, 0), 6: (0, 0)}
    cqe, _ = await host.command(Sqe(AdminOp.ABORT, cid=7, cdw10=3 << 16 | 1))
    assert (cqe.cid, cqe.status, cqe.result) == (7, 0, 1)
    host.close()


# --- keep-alive -----------------------------------------------------------------------------------------------------


async def test_a_host_that_falls_silent_loses_its_association_and_a_faithful_one_keeps_it(here: Bench) -> None:
    faithful = await here.connect(kato_ms=300)
    silent = await here.raw()
    await silent.initialize()
    cntlid = (await silent.connect(kato_ms=200)).result & 0xFFFF
    assert (await silent.set_property(Property.CC, 0x00460001)).status == 0
    queue = await here.raw()
    await queue.initialize()
    assert (await queue.connect(qid=1, cntlid=cntlid)).status == 0
    controller = here.subsystem.controllers[cntlid]
    assert await silent.at_end()
    assert await queue.at_end()
    assert "Keep Alive" in controller.end_reason
    await until(lambda: cntlid not in here.subsystem.controllers)
    assert not faithful.lost.is_set()
    assert len(await faithful.namespaces()) == 1
    await faithful.close()
    silent.close()
    queue.close()


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_an_association_ends_with_its_admin_queue(here: Bench) -> None:
    host = await here.raw()
    cntlid = await host.enable()
    queue = await here.raw()
    await queue.initialize()
    assert (await queue.connect(qid=1, cntlid=cntlid)).status == 0
    host.close()
    assert await queue.at_end()
    await until(lambda: not here.subsystem.controllers)
    queue.close()


async def test_a_queue_id_is_free_again_when_its_queue_is_gone(here: Bench) -> None:
    host = await here.raw()
    cntlid = await host.enable()
    queue = await here.raw()
    await queue.initialize()
    assert (await queue.connect(qid=1, cntlid=cntlid)).status == 0
    twin = await here.raw()
    await twin.initialize()
    cqe = await twin.connect(qid=1, cntlid=cntlid)
    assert (cqe.status, cqe.result) == (Status.CONNECT_INVALID_PARAMETERS, 42)
    queue.close()
    await until(lambda: not here.subsystem.controllers[cntlid].io_queues.qpairs)
    assert (await twin.connect(qid=1, cntlid=cntlid)).status == 0
    twin.close()
    host.close()


async def test_a_target_that_closes_as_a_host_leaves_waits_for_the_hosts_io(here: Bench) -> None:
    here.subsystem.namespaces[1].device.inject_fault(op=_shim.Op.READ, latency_us=200_000)
    host = await here.raw()
    cntlid = await host.enable()
    queue = await here.raw()
    await queue.initialize()
    assert (await queue.connect(qid=1, cntlid=cntlid)).status == 0
    controller = here.subsystem.controllers[cntlid]
    await until(lambda: controller.io_queues.qpairs[1] is not None)
    qpair = controller.io_queues.qpairs[1]
    await queue.send(capsule(Sqe(2, nsid=1, cdw12=0, sgl_bytes=4096)))
    await until(lambda: qpair.stats().commands == 1)
    host.close()
    await until(lambda: controller.state is ControllerState.CLOSING)
    await here.target.close()
    assert (controller.state, controller.io_queues.qpairs) == (ControllerState.CLOSED, {})
    assert here.subsystem.controllers == {}
    queue.close()


async def test_closing_a_target_twice_is_closing_it_once(here: Bench) -> None:
    controller = await here.connect()
    (namespace,) = await controller.namespaces()
    await controller.create_io_qpair(here.reactor, namespace)
    await here.target.close()
    await here.target.close()
    await asyncio.wait_for(controller.lost.wait(), WAIT_S)
    with pytest.raises(FtlError):
        await controller.namespaces()
    await controller.close()
    await controller.close()


@pytest.mark.parametrize(
    "limits",
    [{"max_io_bytes": 4096}, {"max_io_bytes": 131073}, {"in_capsule_bytes": 3}, {"max_queue_depth": 1},
     {"max_io_qpairs_per_controller": 0}],
)  # fmt: skip
async def test_a_target_refuses_limits_that_it_can_not_announce(limits: dict[str, int], here: Bench) -> None:
    with pytest.raises(ParameterError):
        NvmfTarget(here.reactor, **limits)


async def test_a_namespace_needs_a_free_number_and_well_formed_identifiers(here: Bench) -> None:
    with pytest.raises(ExistsError):
        here.subsystem.add_namespace(here.media(), nsid=1)
    for options in ({"nsid": 0}, {"nsid": 33}, {"nguid": b"short"}, {"eui64": b"12345"}):
        with pytest.raises(ParameterError):
            here.subsystem.add_namespace(here.media(), **options)  # type: ignore[arg-type]
    assert here.subsystem.add_namespace(here.media()) == 2


@pytest.mark.parametrize("steps", range(6))
def test_a_listener_that_closes_as_a_host_comes_in_leaves_no_socket(steps: int) -> None:
    """A connection that is accepted, or whose task has not begun, as everything is cancelled."""

    async def work() -> None:
        async with bench(namespace=False) as here:
            with socket.socket() as host:
                host.setblocking(False)
                host.connect_ex(("127.0.0.1", here.port))
                for _ in range(steps):
                    await asyncio.sleep(0)
                await here.target.close()

    asyncio.run(work())
    gc.collect()  # a socket that nobody closed is an unraisable ResourceWarning, which fails this test

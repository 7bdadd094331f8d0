"""The host against controllers that lie, die or are slow, and what it leaves behind."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from spdk_ftl_py.errors import AuthenticationError, FtlError, ParameterError, PathError, ProtocolError
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.discovery import discover
from spdk_ftl_py.nvme.logs import DISCOVERY_ENTRY_BYTES, build_discovery
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.wire import AdminOp, CommandError, Cqe, PduType, Property, Sqe
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, WAIT_S, Bench, until


class Liar:
    """A controller's end of one connection, scripted: each command goes through ``answer`` first."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.ended_with: tuple[int, int] | None = None

    async def pdu(self) -> tuple[int, bytes, bytes]:
        start = await self.reader.readexactly(8)
        kind, _, hlen, _, plen = wire.COMMON_HEADER.unpack(start)
        head = start + await self.reader.readexactly(hlen - 8)
        data = await self.reader.readexactly(plen - hlen)
        if kind == PduType.H2C_TERM_REQ:
            self.ended_with = wire.TERM_REQ_BODY.unpack(head[8:])
            raise EOFError
        return kind, head, data

    def send(self, kind: int, body: bytes, data: bytes = b"", *, flags: int = 0, plen: int | None = None) -> None:
        hlen = wire.HEADER_BYTES.get(kind, 24)
        plen = hlen + len(data) if plen is None else plen
        self.writer.write(wire.COMMON_HEADER.pack(kind, flags, hlen, hlen if data else 0, plen) + body + data)

    def complete(self, sqe: Sqe, status: int = 0, result: int = 0) -> None:
        self.send(PduType.CAPSULE_RESP, Cqe(sqe.cid, status, result=result).pack())

    def data(self, sqe: Sqe, data: bytes, *, offset: int = 0, length: int | None = None, flags: int = 4) -> None:
        size = len(data) if length is None else length
        self.send(PduType.C2H_DATA, wire.DATA_BODY.pack(sqe.cid, 0, offset, size), data, flags=flags)

    async def serve(self, answer: Callable[[Liar, Sqe], bool]) -> None:
        """``answer`` returns True when it has dealt with the command; the rest gets the plainest truth."""
        await self.pdu()
        self.send(PduType.IC_RESP, wire.IC_BODY.pack(0, 0, 0, 131072))
        while True:
            _, head, _ = await self.pdu()
            sqe = Sqe.unpack(head[8:])
            if answer(self, sqe):
                continue
            if sqe.opcode == AdminOp.FABRICS and sqe.fctype == 1:
                self.complete(sqe, result=1)
            elif sqe.opcode == AdminOp.FABRICS and sqe.fctype == 4:
                values = {Property.CAP: 127 | 1 << 37 | 2 << 24, Property.CSTS: wire.CSTS_RDY | wire.CSTS_SHST_COMPLETE}
                self.complete(sqe, result=values.get(Property(sqe.cdw11), 0))
            elif sqe.opcode == AdminOp.IDENTIFY:
                self.data(sqe, truthful_identify(sqe))
                self.complete(sqe)
            elif sqe.opcode != AdminOp.ASYNC_EVENT_REQUEST:
                self.complete(sqe)


def controller_page() -> bytearray:
    page = bytearray(4096)
    page[77] = 5
    struct.pack_into("<H", page, 78, 1)
    page[111] = 1
    page[512], page[513] = 0x66, 0x44
    struct.pack_into("<HI", page, 514, 128, 1)
    struct.pack_into("<I", page, 1792, 4 + 256)
    return page


def namespace_page() -> bytearray:
    page = bytearray(4096)
    struct.pack_into("<QQ", page, 0, 1000, 1000)
    page[130] = 12
    return page


def truthful_identify(sqe: Sqe) -> bytes:
    match sqe.cdw10:
        case 0x00:
            return bytes(namespace_page())
        case 0x01:
            return bytes(controller_page())
        case 0x02 if sqe.nsid == 0:
            return struct.pack("<I", 1).ljust(4096, b"\0")
    return bytes(4096)


@asynccontextmanager
async def lying(serve: Callable[[Liar], Awaitable[None]]) -> AsyncIterator[tuple[int, list[Liar]]]:
    """(port, the ends of the connections made so far)."""
    before = asyncio.all_tasks()
    liars: list[Liar] = []
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        liar = Liar(reader, writer)
        liars.append(liar)
        try:
            await serve(liar)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], liars
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert asyncio.all_tasks() == before


async def connect(port: int, **options: object) -> Controller:
    return await Controller.connect("127.0.0.1", port, SUBNQN, hostnqn=HOSTNQN, **({"timeout_s": 5.0} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "body", "plen", "match"),
    [
        (PduType.IC_RESP, wire.IC_BODY.pack(1, 0, 0, 131072), None, "PFV 1"),
        (PduType.IC_RESP, wire.IC_BODY.pack(0, 8, 0, 131072), None, "CPDA 8"),
        (PduType.IC_RESP, wire.IC_BODY.pack(0, 0, 1, 131072), None, "digests 0x1"),
        (PduType.IC_RESP, wire.IC_BODY.pack(0, 0, 0, 4095), None, "MAXH2CDATA 4095"),
        (PduType.IC_RESP, wire.IC_BODY.pack(0, 0, 0, 4098), None, "MAXH2CDATA 4098"),
        (PduType.IC_RESP, wire.IC_BODY.pack(0, 0, 0, 131072), 1 << 30, "PLEN"),
        (PduType.CAPSULE_RESP, bytes(16), None, "CAPSULE_RESP"),
        (0x33, bytes(16), None, "unknown PDU type 0x33"),
        (PduType.C2H_TERM_REQ, wire.TERM_REQ_BODY.pack(1, 8), None, "invalid header field, FEI 8"),
        (PduType.C2H_TERM_REQ, wire.TERM_REQ_BODY.pack(99, 0), None, "FES 99"),
    ],
)
async def test_a_controller_with_a_bad_first_pdu_is_left(kind: int, body: bytes, plen: int | None, match: str) -> None:
    async def serve(liar: Liar) -> None:
        await liar.pdu()
        liar.send(kind, body, plen=plen)
        await liar.pdu()

    async with lying(serve) as (port, liars):
        with pytest.raises(ProtocolError, match=match):
            await connect(port)
        if kind != PduType.C2H_TERM_REQ:
            await until(lambda: liars[0].ended_with is not None)


def changed(page: bytearray, offset: int, layout: str, *values: int) -> bytes:
    struct.pack_into(layout, page, offset, *values)
    return bytes(page)


@pytest.mark.parametrize(
    ("page", "match"),
    [
        (changed(controller_page(), 78, "<H", 2), "Identify says controller 2"),
        (changed(controller_page(), 512, "B", 0x77), "SQES 0x77"),
        (changed(controller_page(), 513, "B", 0x33), "CQES 0x33"),
        (changed(controller_page(), 1792, "<I", 3), "IOCCSZ 3"),
        (changed(controller_page(), 1800, "<H", 1), "ICDOFF 1"),
    ],
)
async def test_a_controller_that_can_not_be_is_left(page: bytes, match: str) -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY and sqe.cdw10 == 1:
            liar.data(sqe, page)
            liar.complete(sqe)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        with pytest.raises(ProtocolError, match=match):
            await connect(port)


@pytest.mark.parametrize(
    ("page", "match"),
    [
        (changed(namespace_page(), 130, "B", 8), r"blocks of 2\^8"),
        (changed(namespace_page(), 130, "B", 0), r"blocks of 2\^0"),
        (changed(namespace_page(), 130, "B", 63), r"blocks of 2\^63"),
        (changed(namespace_page(), 128, "<H", 65), "65 bytes of metadata"),
        (changed(namespace_page(), 26, "B", 1), "LBA format 1"),
        (changed(namespace_page(), 0, "<Q", 0), "0 blocks"),
        (changed(namespace_page(), 8, "<Q", 1001), "capacity of 1001"),
        (changed(namespace_page(), 0, "<Q", 1 << 60), "blocks with a capacity"),
    ],
)
async def test_a_namespace_that_can_not_be_is_named(page: bytes, match: str) -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY and sqe.cdw10 == 0:
            liar.data(sqe, page)
            liar.complete(sqe)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        controller = await connect(port)
        with pytest.raises(ProtocolError, match=match):
            await controller.namespaces()
        assert not controller.lost.is_set()
        await controller.close()


async def test_a_namespace_list_that_does_not_ascend_is_refused() -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY and sqe.cdw10 == 2:
            liar.data(sqe, struct.pack("<2I", 2, 2).ljust(4096, b"\0"))
            liar.complete(sqe)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        controller = await connect(port)
        with pytest.raises(ProtocolError, match="not ascending"):
            await controller.namespaces()
        await controller.close()


def wrong_cid(liar: Liar, sqe: Sqe) -> None:
    liar.complete(Sqe(0, cid=0x4321))


def data_beyond(liar: Liar, sqe: Sqe) -> None:
    liar.data(sqe, bytes(4096))
    liar.data(sqe, bytes(8), offset=4096)


def data_out_of_order(liar: Liar, sqe: Sqe) -> None:
    liar.data(sqe, bytes(8), offset=8)


def data_of_another_length(liar: Liar, sqe: Sqe) -> None:
    liar.data(sqe, bytes(4096), length=4000)


def too_little_data(liar: Liar, sqe: Sqe) -> None:
    liar.data(sqe, bytes(2048))
    liar.complete(sqe)


def no_data(liar: Liar, sqe: Sqe) -> None:
    liar.complete(sqe)


def huge_pdu(liar: Liar, sqe: Sqe) -> None:
    liar.send(PduType.C2H_DATA, wire.DATA_BODY.pack(sqe.cid, 0, 0, 1 << 30), plen=1 << 30)


def success_in_the_middle(liar: Liar, sqe: Sqe) -> None:
    liar.data(sqe, bytes(4096), flags=wire.FLAG_SUCCESS)


def an_r2t(liar: Liar, sqe: Sqe) -> None:
    liar.send(PduType.R2T, wire.DATA_BODY.pack(sqe.cid, 1, 0, 4096))


def a_host_pdu(liar: Liar, sqe: Sqe) -> None:
    liar.send(PduType.H2C_DATA, bytes(16))


def the_end(liar: Liar, sqe: Sqe) -> None:
    liar.writer.close()


def half_a_pdu(liar: Liar, sqe: Sqe) -> None:
    liar.writer.write(wire.COMMON_HEADER.pack(PduType.CAPSULE_RESP, 0, 24, 0, 24))
    liar.writer.close()


def termination(liar: Liar, sqe: Sqe) -> None:
    liar.send(PduType.C2H_TERM_REQ, wire.TERM_REQ_BODY.pack(6, 0), bytes(24))


@pytest.mark.parametrize(
    "lie",
    [wrong_cid, data_beyond, data_out_of_order, data_of_another_length, too_little_data, no_data, huge_pdu,
     success_in_the_middle, an_r2t, a_host_pdu, the_end, half_a_pdu, termination],
)  # fmt: skip
async def test_an_answer_that_breaks_the_protocol_ends_the_association_and_every_command(
    lie: Callable[[Liar, Sqe], None],
) -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY and sqe.cdw10 == 2:
            lie(liar, sqe)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        controller = await connect(port)
        with pytest.raises((ProtocolError, PathError)):
            await controller.namespaces()
        assert controller.lost.is_set()
        assert controller.lost_reason
        with pytest.raises((ProtocolError, PathError)):
            await controller.identify(1)
        await controller.close()
        await controller.close()


async def test_data_with_the_success_flag_needs_no_completion() -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY:
            page = truthful_identify(sqe)
            liar.data(sqe, page[:1000], flags=0)
            liar.data(sqe, page[1000:], offset=1000, flags=wire.FLAG_LAST | wire.FLAG_SUCCESS)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        controller = await connect(port)
        (namespace,) = await controller.namespaces()
        assert (namespace.block_count, namespace.block_bytes) == (1000, 4096)
        await controller.close()


async def test_a_controller_that_never_answers_is_given_up() -> None:
    async def silent(liar: Liar) -> None:
        await liar.pdu()
        await liar.reader.read()

    async with lying(silent) as (port, _):
        with pytest.raises(PathError, match="did not answer within"):
            await connect(port, timeout_s=0.05)


async def test_a_keep_alive_without_answer_ends_the_association() -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        return sqe.opcode == AdminOp.KEEP_ALIVE

    def with_keep_alive(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.IDENTIFY and sqe.cdw10 == 1:
            liar.data(sqe, changed(controller_page(), 320, "<H", 1))
            liar.complete(sqe)
            return True
        return answer(liar, sqe)

    async with lying(lambda liar: liar.serve(with_keep_alive)) as (port, _):
        controller = await connect(port, kato_ms=20, timeout_s=1.0)
        await asyncio.wait_for(controller.lost.wait(), WAIT_S)
        assert "Keep Alive had no answer" in controller.lost_reason
        await controller.close()


async def test_a_controller_that_wants_authentication_is_refused() -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.FABRICS and sqe.fctype == 1:
            liar.complete(sqe, result=1 << 17 | 1)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        with pytest.raises(AuthenticationError, match="requires authentication of host"):
            await connect(port)


async def test_nobody_listening_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(PathError, match="Connection refused: check that the target listens there"):
            await connect(port)
    with pytest.raises(ParameterError, match="subsystem NQN"):
        await Controller.connect("127.0.0.1", 1, "nonsense", hostnqn=HOSTNQN)
    with pytest.raises(ParameterError, match="host NQN"):
        await Controller.connect("127.0.0.1", 1, SUBNQN, hostnqn="nonsense")
    with pytest.raises(ParameterError, match="not a port number"):
        await Controller.connect("127.0.0.1", "http!", SUBNQN, hostnqn=HOSTNQN)


async def test_a_connect_that_is_cancelled_leaves_no_task() -> None:
    async def silent(liar: Liar) -> None:
        await liar.reader.read()

    async with lying(silent) as (port, liars):
        trying = asyncio.ensure_future(connect(port))
        await until(lambda: bool(liars))
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying


async def test_more_commands_than_slots_wait_their_turn(here: Bench) -> None:
    controller = await here.connect()
    pages = await asyncio.gather(*(controller.identify(1) for _ in range(200)))
    assert len(set(map(bytes, pages))) == 1
    await controller.close()


# --- discovery ------------------------------------------------------------------------------------------------------


async def test_discovery_tells_each_host_what_it_may_connect_to(here: Bench) -> None:
    private = Subsystem(SUBNQN + "-private")
    private.add_listener("127.0.0.1", here.port)
    private.add_host(HOSTNQN)
    here.target.add_subsystem(private)
    mine = await discover("127.0.0.1", here.port, HOSTNQN)
    assert {(entry.subnqn, entry.traddr, entry.trsvcid) for entry in mine} == {
        (nqn, "127.0.0.1", str(here.port)) for nqn in (SUBNQN, private.nqn)
    }
    others = await discover("127.0.0.1", here.port, HOSTNQN + "2")
    assert [entry.subnqn for entry in others] == [SUBNQN]


async def test_a_listener_on_every_address_is_discovered_by_the_one_that_was_used(here: Bench) -> None:
    port = await here.target.listen("0.0.0.0", 0)
    here.subsystem.add_listener("0.0.0.0", port)
    (entry,) = [entry for entry in await discover("127.0.0.1", port, HOSTNQN) if entry.trsvcid == str(port)]
    assert entry.traddr == "127.0.0.1"


async def test_discovery_in_pieces_of_more_entries_than_one_log_page_read_holds(here: Bench) -> None:
    for number in range(9):
        more = Subsystem(f"{SUBNQN}-{number}", allow_any_host=True)
        more.add_listener("127.0.0.1", here.port)
        here.target.add_subsystem(more)
    assert len(await discover("127.0.0.1", here.port, HOSTNQN)) == 10


async def test_a_persistent_discovery_controller_hears_of_changes(here: Bench) -> None:
    controller = await here.connect(subnqn=wire.DISCOVERY_NQN)
    heard = asyncio.Event()
    pages: list[int] = []

    def on_event(event: object) -> None:
        pages.append(event.log_page)  # type: ignore[attr-defined]
        heard.set()

    controller.on_event = on_event
    await here.target.remove_subsystem(SUBNQN)
    await asyncio.wait_for(heard.wait(), WAIT_S)
    assert pages == [0x70]
    for command in (controller.identify(2), controller.identify(0, nsid=1), controller.get_log_page(2, 512)):
        with pytest.raises(CommandError):
            await command
    await controller.close()


@pytest.mark.rig(discovery=False)
async def test_without_discovery_its_name_is_unknown(here: Bench) -> None:
    with pytest.raises(CommandError, match="invalid parameters"):
        await discover("127.0.0.1", here.port, HOSTNQN)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (struct.pack("<QQH", 1, 1 << 40, 0), "records of format 0"),
        (struct.pack("<QQH", 1, 1, 5), "1 records of format 5"),
    ],
)
async def test_a_discovery_log_that_can_not_be_is_refused(header: bytes, match: str) -> None:
    def answer(liar: Liar, sqe: Sqe) -> bool:
        if sqe.opcode == AdminOp.GET_LOG_PAGE:
            liar.data(sqe, header.ljust(sqe.sgl_bytes, b"\0"))
            liar.complete(sqe)
            return True
        return False

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        with pytest.raises(FtlError, match=match):
            await discover("127.0.0.1", port, HOSTNQN)


async def test_a_discovery_log_that_changes_all_the_time_is_given_up() -> None:
    generation = 0

    def answer(liar: Liar, sqe: Sqe) -> bool:
        nonlocal generation
        if sqe.opcode != AdminOp.GET_LOG_PAGE:
            return False
        generation += 1
        log = build_discovery(generation, []).ljust(1024 + DISCOVERY_ENTRY_BYTES, b"\0")
        log = log[:8] + struct.pack("<Q", 1) + log[16:]
        liar.data(sqe, log[sqe.cdw12 : sqe.cdw12 + sqe.sgl_bytes])
        liar.complete(sqe)
        return True

    async with lying(lambda liar: liar.serve(answer)) as (port, _):
        with pytest.raises(ProtocolError, match="changed 5 times"):
            await discover("127.0.0.1", port, HOSTNQN)

"""HostQpair against a controller made of bytes: what it sends, and what it does not put up with."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.pdus import H2C_DATA, H2C_TERM, LAST, SUCCESS, Digests
from support.qpair_rig import Done, Peer, host_peer, joined

BOTH = Digests(True, True)
PATH_ERROR = 0x370
FIELD, SEQUENCE, HEADER_DIGEST, RANGE, LIMIT = 1, 2, 3, 4, 5


def sent(peer: Peer) -> pdus.Pdu:
    got = peer.pdus()
    assert [item.type for item in got] == [pdus.CMD]
    return got[0]


def finished(peer: Peer, ticket: int) -> Done:
    peer.settle()
    return peer.done.pop(ticket)


def fields(entry: pdus.Pdu) -> dict[str, int]:
    names = ("opcode", "flags", "cid", "nsid", "cdw2_3", "mptr", "address", "length", "type", "slba", "cdw12", "cdw13")
    return dict(zip(names, struct.unpack("<BBHIQQQI3xBQIIxxxxxxxx", entry.psh), strict=True))


SENT: dict[str, tuple[int, tuple[Any, ...], dict[str, Any], dict[str, int]]] = {
    "read": (
        _shim.Op.READ,
        (0x1_0000_0005, 2, bytearray(8192)),
        {},
        {"opcode": 2, "slba": 0x1_0000_0005, "cdw12": 1, "type": 0x5A, "length": 8192},
    ),
    "read fua": (_shim.Op.READ, (5, 1, bytearray(4096)), {"fua": True}, {"opcode": 2, "cdw12": 1 << 30}),
    "write": (
        _shim.Op.WRITE,
        (5, 1, bytes(4096)),
        {"fua": True},
        {"opcode": 1, "slba": 5, "cdw12": 1 << 30, "type": 1, "length": 4096},
    ),
    "long write": (_shim.Op.WRITE, (5, 2, bytes(8192)), {}, {"opcode": 1, "cdw12": 1, "type": 0x5A, "length": 8192}),
    "append": (_shim.Op.APPEND, (64, 1, bytes(4096)), {}, {"opcode": 0x7D, "slba": 64, "cdw12": 0, "type": 1}),
    "flush": (_shim.Op.FLUSH, (), {}, {"opcode": 0, "slba": 0, "type": 0x5A, "length": 0}),
    "write zeroes": (
        _shim.Op.WRITE_ZEROES,
        (7, 65536),
        {},
        {"opcode": 8, "slba": 7, "cdw12": 0xFFFF, "type": 0x5A, "length": 0},
    ),
    "deallocate": (_shim.Op.DEALLOCATE, (7, 9), {}, {"opcode": 9, "slba": 4 << 32, "type": 1, "length": 16}),
    "zone send": (
        _shim.Op.ZONE_SEND,
        (64,),
        {"zone_action": 4},
        {"opcode": 0x79, "slba": 64, "cdw13": 4, "length": 0},
    ),
    "zone send all": (
        _shim.Op.ZONE_SEND,
        (),
        {"zone_action": 4, "zone_all": True},
        {"opcode": 0x79, "cdw13": 0x104},
    ),
    "zone report": (
        _shim.Op.ZONE_REPORT,
        (64, 0, bytearray(4096)),
        {"zone_filter": 5, "zone_all": True},
        {"opcode": 0x7A, "slba": 64, "cdw12": 1023, "cdw13": 0x10500, "length": 4096},
    ),
}


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH], ids=["plain", "digests"])
@pytest.mark.parametrize("name", SENT)
def test_commands_are_encoded_as_the_wire_wants_them(name: str, digests: Digests) -> None:
    op, args, kwargs, expected = SENT[name]
    with host_peer(digests=digests, nsid=0x01020304, zoned=True, zone_size=64, zone_capacity=64) as (peer, _, port):
        port.submit(op, *args, **kwargs)
        entry = sent(peer)
        got = fields(entry)
        assert (got["flags"], got["nsid"], got["address"], got["mptr"]) == (0x40, 0x01020304, 0, 0)
        assert {key: got[key] for key in expected} == expected
        assert len(entry.data) == (got["length"] if got["type"] == 1 else 0)
        if name == "deallocate":
            assert struct.unpack("<IIQ", entry.data) == (0, 9, 7)


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH], ids=["plain", "digests"])
@pytest.mark.parametrize("grants", [[131072], [65536, 65536], [4, 100_000, 31_068]])
def test_r2ts_are_answered_in_pieces_of_maxh2cdata(digests: Digests, grants: list[int]) -> None:
    data = random.Random(1).randbytes(131072)
    with host_peer(digests=digests, max_h2c_data=40_000) as (peer, _, port):
        ticket = port.submit(_shim.Op.WRITE, 5, 32, data)
        cid = sent(peer).u16(10)
        received = b""
        for tag, grant in enumerate(grants):
            answers = peer.exchange(pdus.r2t(cid, 0x100 + tag, len(received), grant, digests=digests))
            assert all(item.type == H2C_DATA and item.cid == cid and item.u16(10) == 0x100 + tag for item in answers)
            assert [item.flags for item in answers] == [0] * (len(answers) - 1) + [LAST]
            for item in answers:
                assert item.u32(12) == len(received)
                assert item.u32(16) == len(item.data) <= 40_000
                received += item.data
        assert received == data
        peer.exchange(pdus.response(cid, digests=digests))
        assert finished(peer, ticket) == Done(0, 0)


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH], ids=["plain", "digests"])
@pytest.mark.parametrize("success", [False, True])
def test_read_data_may_come_in_several_pdus(digests: Digests, success: bool) -> None:
    data = random.Random(2).randbytes(131072)
    buffer = bytearray(131072)
    with host_peer(digests=digests) as (peer, _, port):
        ticket = port.submit(_shim.Op.READ, 5, 32, buffer)
        cid = sent(peer).u16(10)
        peer.exchange(pdus.c2h_data(cid, 0, data[:4], flags=0, digests=digests))
        peer.exchange(pdus.c2h_data(cid, 4, data[4:50_000], flags=0, digests=digests))
        last = pdus.c2h_data(cid, 50_000, data[50_000:], flags=LAST | (SUCCESS if success else 0), digests=digests)
        for start in range(0, len(last), 9_999):
            assert ticket not in peer.done
            peer.exchange(last[start : start + 9_999])
        if not success:
            peer.settle()
            assert ticket not in peer.done
            peer.exchange(pdus.response(cid, digests=digests))
        assert finished(peer, ticket) == Done(0, 0)
        assert buffer == data


@pytest.mark.parametrize(
    ("zslba", "dw0", "alba"),
    [
        (64, 70, 70),
        (0x1_0000_0000, 5, 0x1_0000_0005),
        (0xFFFF_FFC0, 0xFFFF_FFC1, 0xFFFF_FFC1),
        (0xFFFF_FFE0, 0x1F, 0x1_0000_001F),
        (0x5_FFFF_FFE0, 0x5_0000_001F, 0x6_0000_001F),
    ],
)
def test_an_alba_cut_to_32_bits_is_mended(zslba: int, dw0: int, alba: int) -> None:
    """SPDK passes DW0 of a completion only."""
    with host_peer(zoned=True, zone_size=128, zone_capacity=128) as (peer, _, port):
        ticket = port.submit(_shim.Op.APPEND, zslba, 1, bytes(4096))
        peer.exchange(pdus.response(sent(peer).u16(10), result=dw0))
        assert finished(peer, ticket) == Done(0, alba)


def test_an_alba_outside_the_zone_is_an_error() -> None:
    with host_peer(zoned=True, zone_size=128, zone_capacity=128) as (peer, _, port):
        ticket = port.submit(_shim.Op.APPEND, 128, 4, bytes(4 * 4096))
        cid = sent(peer).u16(10)
        peer.exchange(pdus.r2t(cid, 0, 0, 16384))
        peer.exchange(pdus.response(cid, result=253))
        assert finished(peer, ticket).status == 0x006


@pytest.mark.parametrize("kind", ["in capsule", "r2t"])
def test_a_status_is_taken_over_whatever_was_transferred(kind: str) -> None:
    with host_peer() as (peer, _, port):
        ticket = port.submit(_shim.Op.WRITE, 5, 1 if kind == "in capsule" else 8, bytes(4096 * 8))
        peer.exchange(pdus.response(sent(peer).u16(10), status=0x1BC | 0x4000))
        assert finished(peer, ticket).status == 0x1BC


@pytest.mark.parametrize("dnr", [0, 1])
def test_the_answer_says_whether_to_retry(dnr: int) -> None:
    with host_peer() as (peer, _, port):
        ticket = port.submit(_shim.Op.FLUSH)
        peer.exchange(pdus.response(sent(peer).u16(10), status=0x006 | dnr << 14))
        assert finished(peer, ticket) == Done(0x006, dnr)
        ticket = port.submit(_shim.Op.FLUSH)
        peer.exchange(pdus.response(sent(peer).u16(10)))
        assert finished(peer, ticket) == Done(0, 0)


def test_success_without_all_the_data_is_a_transfer_error() -> None:
    with host_peer() as (peer, qpair, port):
        first = port.submit(_shim.Op.READ, 5, 2, bytearray(8192))
        cid = sent(peer).u16(10)
        peer.exchange(pdus.c2h_data(cid, 0, bytes(4096), flags=LAST), pdus.response(cid))
        assert finished(peer, first).status == 0x004
        second = port.submit(_shim.Op.READ, 5, 2, bytearray(8192))
        peer.exchange(pdus.c2h_data(sent(peer).u16(10), 0, bytes(4096)))
        assert finished(peer, second).status == 0x004
        third = port.submit(_shim.Op.WRITE, 5, 2, bytes(8192))
        peer.exchange(pdus.response(sent(peer).u16(10)))
        assert finished(peer, third).status == 0x004
        assert qpair.connected


@pytest.mark.parametrize("success", [False, True])
def test_a_wrong_data_digest_fails_the_read_only(success: bool) -> None:
    with host_peer(digests=BOTH) as (peer, qpair, port):
        ticket = port.submit(_shim.Op.READ, 5, 1, bytearray(4096))
        cid = sent(peer).u16(10)
        raw = pdus.c2h_data(cid, 0, b"x" * 4096, flags=LAST | (SUCCESS if success else 0), digests=BOTH)
        peer.exchange(pdus.spoil(raw, len(raw) - 1, raw[-1] ^ 1))
        if not success:
            peer.exchange(pdus.response(cid, digests=BOTH))
        assert finished(peer, ticket).status == 0x022
        assert qpair.connected


def test_answers_in_any_order_find_their_io() -> None:
    with host_peer(queue_depth=8) as (peer, _, port):
        tickets = [port.submit(_shim.Op.READ, lba, 1, bytearray(4096)) for lba in range(20)]
        order = []
        while len(peer.done) < 20:
            for item in sorted(peer.pdus(), key=lambda item: -fields(item)["slba"]):
                order.append(fields(item)["slba"])
                peer.socket.sendall(pdus.c2h_data(item.u16(10), 0, bytes(4096)))
        assert sorted(order) == list(range(20))
        assert all(peer.done[ticket].status == 0 for ticket in tickets)


BROKEN_READ: dict[str, tuple[bytes, int, int]] = {
    "unknown type": (pdus.spoil(pdus.response(0), 0, 0x0A), FIELD, 0),
    "a pdu only hosts send": (pdus.command(pdus.sqe(0, 0)), FIELD, 0),
    "hlen": (pdus.spoil(pdus.response(0), 2, 23), FIELD, 2),
    "plen too long for a response": (pdus.spoil(pdus.response(0), 4, 28, 4), FIELD, 4),
    "plen too short": (pdus.spoil(pdus.response(0), 4, 20, 4), FIELD, 4),
    "response to an unknown cid": (pdus.response(7), FIELD, 20),
    "response to a wild cid": (pdus.response(0xFFFF), FIELD, 20),
    "data for an unknown cid": (pdus.c2h_data(7, 0, bytes(4096)), FIELD, 8),
    "r2t for a read": (pdus.r2t(0, 0, 0, 4096), FIELD, 8),
    "r2t for an unknown cid": (pdus.r2t(9, 0, 0, 4096), FIELD, 8),
    "data out of order": (pdus.c2h_data(0, 4096, bytes(4096)), FIELD, 12),
    "more data than asked for": (pdus.c2h_data(0, 0, bytes(12288)), RANGE, 16),
    "datal differs from plen": (pdus.c2h_data(0, 0, bytes(4096), datal=8192), FIELD, 16),
    "gigabytes": (pdus.spoil(pdus.c2h_data(0, 0, bytes(8), datal=0xFFFF_FFE0), 4, 0xFFFF_FFF8, 4), RANGE, 16),
    "no data": (pdus.c2h_data(0, 0, b""), FIELD, 16),
    "success without last": (pdus.c2h_data(0, 0, bytes(8192), flags=SUCCESS), FIELD, 1),
    "unexpected digest": (pdus.spoil(pdus.c2h_data(0, 0, bytes(8192)), 1, 0x0E), FIELD, 1),
}


@pytest.mark.parametrize("name", BROKEN_READ)
def test_a_controller_that_breaks_the_rules_is_left(name: str) -> None:
    raw, fes, fei = BROKEN_READ[name]
    with host_peer() as (peer, qpair, port):
        ticket = port.submit(_shim.Op.READ, 5, 2, bytearray(8192))
        sent(peer)
        last = peer.exchange(raw)[-1]
        assert (last.type, last.u16(8), last.u32(10)) == (H2C_TERM, fes, fei)
        assert peer.ended
        assert finished(peer, ticket).status == PATH_ERROR
        assert not qpair.connected
        assert [(event.kind, event.source, event.reason, event.detail) for event in peer.events] == [
            (_shim.EventKind.HOST_QPAIR_LOST, qpair.id, _shim.QpairClose.PROTOCOL_ERROR, fes)
        ]


BROKEN_WRITE: dict[str, tuple[list[bytes], int, int]] = {
    "offset not what was sent": ([pdus.r2t(0, 0, 4, 4096)], FIELD, 12),
    "more than the command has": ([pdus.r2t(0, 0, 0, 12288)], RANGE, 16),
    "nothing": ([pdus.r2t(0, 0, 0, 0)], RANGE, 16),
    "no dwords": ([pdus.r2t(0, 0, 0, 4095)], FIELD, 16),
    "asked for twice": ([pdus.r2t(0, 0, 0, 8192), pdus.r2t(0, 0, 0, 8192)], FIELD, 12),
    "data for a write": ([pdus.c2h_data(0, 0, bytes(4096))], FIELD, 8),
    "answered twice": ([pdus.response(0, status=2), pdus.response(0)], FIELD, 20),
}


@pytest.mark.parametrize("name", BROKEN_WRITE)
def test_an_r2t_that_breaks_the_rules_ends_the_queue(name: str) -> None:
    raws, fes, fei = BROKEN_WRITE[name]
    with host_peer() as (peer, qpair, port):
        ticket = port.submit(_shim.Op.WRITE, 5, 2, bytes(8192))
        sent(peer)
        for raw in raws:
            answers = peer.exchange(raw)
        last = answers[-1]
        assert (last.type, last.u16(8), last.u32(10)) == (H2C_TERM, fes, fei)
        assert not qpair.connected
        assert finished(peer, ticket).status in (PATH_ERROR, 0x002)


def test_a_second_r2t_before_the_first_is_answered_ends_the_queue() -> None:
    """We announced MAXR2T = 0. A socket that is full keeps the first one's data back."""
    with host_peer(max_h2c_data=4096) as (peer, qpair, port):
        tickets = [port.submit(_shim.Op.WRITE, 32 * i, 32, bytes(131072)) for i in range(8)]
        assert len(peer.pdus()) == 8
        for cid in range(8):
            peer.socket.sendall(pdus.r2t(cid, cid, 0, 131072))
        peer.settle()
        peer.socket.sendall(pdus.r2t(7, 7, 0, 131072))
        peer.settle()
        assert not qpair.connected
        assert {finished(peer, ticket).status for ticket in tickets} == {PATH_ERROR}
        assert [(event.reason, event.detail) for event in peer.events] == [(_shim.QpairClose.PROTOCOL_ERROR, LIMIT)]


def test_an_answer_before_all_data_are_sent_keeps_the_buffer_until_they_are() -> None:
    with host_peer(max_h2c_data=4096) as (peer, qpair, port):
        tickets = [port.submit(_shim.Op.WRITE, 32 * i, 32, bytes([i]) * 131072) for i in range(8)]
        assert len(peer.pdus()) == 8
        for cid in range(8):
            peer.socket.sendall(pdus.r2t(cid, cid, 0, 131072))
        peer.settle()
        for cid in range(8):
            peer.socket.sendall(pdus.response(cid, status=0x280))
        peer.settle()
        assert len(peer.done) < 8
        data = peer.pdus()
        assert all(item.data == bytes([item.cid]) * len(item.data) for item in data)
        assert {finished(peer, ticket).status for ticket in tickets} == {0x280}
        assert qpair.connected


def test_a_wrong_header_digest_ends_the_queue() -> None:
    with host_peer(digests=BOTH) as (peer, qpair, port):
        ticket = port.submit(_shim.Op.FLUSH)
        raw = pdus.response(sent(peer).u16(10), digests=BOTH)
        last = peer.exchange(pdus.spoil(raw, 27, raw[27] ^ 1))[-1]
        assert (last.type, last.u16(8)) == (H2C_TERM, HEADER_DIGEST)
        assert finished(peer, ticket).status == PATH_ERROR
        assert not qpair.connected


def test_the_controllers_term_req_is_reported() -> None:
    with host_peer() as (peer, qpair, port):
        ticket = port.submit(_shim.Op.FLUSH)
        sent(peer)
        peer.exchange(pdus.term_req(pdus.C2H_TERM, 5, bytes(72)))
        assert finished(peer, ticket).status == PATH_ERROR
        assert [(event.reason, event.detail) for event in peer.events] == [(_shim.QpairClose.PEER_TERMINATED, 5)]
        assert not qpair.connected


def test_the_controllers_term_req_is_the_reason_even_if_a_command_could_not_be_sent() -> None:
    with host_peer() as (peer, _, port):
        ticket = port.submit(_shim.Op.FLUSH)
        sent(peer)
        peer.socket.send(pdus.term_req(pdus.C2H_TERM, 5, bytes(72)))
        peer.socket.close()
        late = port.submit(_shim.Op.FLUSH)
        peer.settle()
        assert {peer.done.pop(each).status for each in (ticket, late)} == {PATH_ERROR}
        assert [(event.reason, event.detail) for event in peer.events] == [(_shim.QpairClose.PEER_TERMINATED, 5)]


def test_an_end_of_the_connection_is_noticed_although_nothing_is_in_flight() -> None:
    with joined(lambda reactor: _shim.EmulatedMedia.null(reactor, 64), threaded=True) as (rig, _):
        rig.read(0)
        rig.target.close()
        rig.until(lambda: any(event.kind == _shim.EventKind.HOST_QPAIR_LOST for event in rig.events))


def test_many_answers_at_once_are_passed_on_in_parts() -> None:
    """What the first of them leads to must not wait for the last one."""
    with host_peer(queue_depth=31) as (peer, _, port):
        buffers = [bytearray(4096) for _ in range(31)]
        tickets = [port.submit(_shim.Op.READ, lba, 1, buffer) for lba, buffer in enumerate(buffers)]
        commands = peer.pdus()
        for command in commands:
            peer.socket.send(pdus.c2h_data(command.u16(10), 0, bytes(4096), flags=LAST | SUCCESS))
        peer.reactor.step()
        peer.collect()
        assert 0 < len(peer.done) < len(tickets)
        peer.settle()
        assert [peer.done[ticket].status for ticket in tickets] == [0] * len(tickets)


@pytest.mark.parametrize("cut", [0, 1, 8, 23, 24, 25, 4000])
def test_a_connection_that_ends_within_a_pdu_fails_the_io(cut: int) -> None:
    with host_peer() as (peer, qpair, port):
        ticket = port.submit(_shim.Op.READ, 5, 1, bytearray(4096))
        cid = sent(peer).u16(10)
        peer.exchange(pdus.c2h_data(cid, 0, bytes(4096))[:cut])
        peer.hang_up()
        assert finished(peer, ticket).status == PATH_ERROR
        assert not qpair.connected
        later = port.submit(_shim.Op.FLUSH)
        assert finished(peer, later).status == PATH_ERROR


def test_closing_twice_reports_nothing() -> None:
    with host_peer() as (peer, qpair, port):
        ticket = port.submit(_shim.Op.FLUSH)
        peer.settle()
        qpair.close()
        qpair.close()
        assert finished(peer, ticket).status == PATH_ERROR
        assert peer.events == []


def test_a_command_without_an_answer_ends_the_connection_after_the_timeout() -> None:
    now = 10**12
    with host_peer(io_timeout_ms=1000) as (peer, qpair, port):
        peer.reactor.step(now)
        late = port.submit(_shim.Op.FLUSH)
        peer.reactor.step(now)
        peer.reactor.step(now)
        peer.reactor.step(now + 900_000_000)
        young = port.submit(_shim.Op.FLUSH)
        peer.reactor.step(now + 900_000_000)
        peer.collect()
        assert (peer.done, qpair.connected) == ({}, True)
        for _ in range(3):
            peer.reactor.step(now + 1_200_000_000)
        peer.collect()
        assert {peer.done[late].status, peer.done[young].status} == {PATH_ERROR}
        assert not qpair.connected
        assert [(event.kind, event.reason) for event in peer.events] == [
            (_shim.EventKind.HOST_QPAIR_LOST, _shim.QpairClose.TIMED_OUT)
        ]


def test_commands_that_are_answered_in_time_never_time_out() -> None:
    now = 10**12
    with host_peer(io_timeout_ms=1000) as (peer, qpair, port):
        for _ in range(20):
            ticket = port.submit(_shim.Op.FLUSH)
            peer.reactor.step(now)
            peer.reactor.step(now)
            entry = sent(peer)
            now += 700_000_000
            peer.reactor.step(now)
            peer.socket.send(pdus.response(fields(entry)["cid"]))
            for _ in range(3):
                peer.reactor.step(now)
            peer.collect()
            assert peer.done.pop(ticket).status == 0
            now += 5_000_000_000
            peer.reactor.step(now)
        assert qpair.connected

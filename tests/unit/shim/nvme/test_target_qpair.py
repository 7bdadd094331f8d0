"""TargetQpair against a host made of bytes: what is answered, what is refused and how, what ends the queue."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.pdus import (
    C2H_DATA,
    C2H_TERM,
    DDGSTF,
    HDGSTF,
    LAST,
    R2T,
    RESP,
    SGL_IN_CAPSULE,
    SGL_TRANSPORT,
    SUCCESS,
    Digests,
    command,
    spoil,
    sqe,
)  # fmt: skip
from support.qpair_rig import Peer, target_peer

BLOCKS = 256
BOTH = Digests(True, True)
FIELD, SEQUENCE, HEADER_DIGEST, RANGE, LIMIT, UNSUPPORTED = 1, 2, 3, 4, 5, 6
ZSEND = pdus.ZONE_SEND


def media(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS, volatile_cache=True)


def zns(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(reactor, 4, 64, 64, max_append_blocks=8)


def assert_terminated(peer: Peer, answers: list[pdus.Pdu], fes: int, fei: int | None = None) -> pdus.Pdu:
    """The last PDU is a C2HTermReq, then the stream ends and the event says why."""
    term = answers[-1]
    assert term.type == C2H_TERM
    assert term.u16(8) == fes
    if fei is not None:
        assert term.u32(10) == fei
    assert peer.ended
    peer.hang_up()
    closed = [event for event in peer.events if event.kind == _shim.EventKind.TARGET_QPAIR_CLOSED]
    assert [(event.reason, event.detail) for event in closed] == [(_shim.QpairClose.PROTOCOL_ERROR, fes)]
    return term


def one(answers: list[pdus.Pdu], kind: int = RESP) -> pdus.Pdu:
    assert [answer.type for answer in answers] == [kind]
    return answers[0]


def test_cids_are_echoed_whole() -> None:
    with target_peer(media) as (peer, _, _device):
        for cid in (0, 0xF00D, 0xFFFF):
            assert one(peer.exchange(command(sqe(pdus.FLUSH, cid)))).cid == cid


def test_sqhd_advances_and_wraps_with_the_queue() -> None:
    with target_peer(media, queue_size=3, sqhd=2) as (peer, _, _device):
        heads = [one(peer.exchange(command(sqe(pdus.FLUSH, 0)))).sqhd for _ in range(4)]
        assert heads == [2, 0, 1, 2]
        assert one(peer.exchange(pdus.read(0, 0, 1)), C2H_DATA).flags == LAST | SUCCESS
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 0)))).sqhd == 1


def test_without_flow_control_sqhd_stays_zero() -> None:
    with target_peer(media, flow_control=False) as (peer, _, _device):
        assert [one(peer.exchange(command(sqe(pdus.FLUSH, 0)))).sqhd for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH])
def test_a_read_without_success_flag_is_data_and_then_a_response(digests: Digests) -> None:
    with target_peer(media, digests=digests, success_flag=False) as (peer, _, _device):
        data, answer = peer.exchange(pdus.read(9, 3, 2, digests=digests))
        assert (data.type, data.flags, data.u32(12), data.u32(16), len(data.data)) == (C2H_DATA, LAST, 0, 8192, 8192)
        assert (answer.type, answer.cid, answer.status) == (RESP, 9, 0)


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH])
def test_a_write_by_r2t_takes_data_in_several_pdus(digests: Digests) -> None:
    data = random.Random(1).randbytes(131072)
    with target_peer(media, digests=digests, max_h2c_data=65536) as (peer, _, _device):
        entry = sqe(pdus.WRITE, 0x1234, slba=7, cdw12=31, sgl_length=len(data))
        grant = one(peer.exchange(command(entry, digests=digests)), R2T)
        assert (grant.cid, grant.u32(12), grant.u32(16)) == (0x1234, 0, len(data))
        for start, end in ((0, 4), (4, 40_000), (40_000, 100_000), (100_000, 131_072)):
            answers = peer.exchange(
                pdus.h2c_data(
                    0x1234, grant.u16(10), start, data[start:end], flags=LAST if end == len(data) else 0,
                    digests=digests,
                )
            )  # fmt: skip
            assert bool(answers) == (end == len(data))
        assert one(answers).status == 0
        back = one(peer.exchange(pdus.read(1, 7, 32, digests=digests)), C2H_DATA)
        assert back.data == data


@pytest.mark.parametrize("digests", [pdus.NO_DIGESTS, BOTH])
def test_pdus_may_arrive_byte_by_byte_and_many_at_once(digests: Digests) -> None:
    payload = random.Random(2).randbytes(4096)
    stream = pdus.write(1, 5, payload, digests=digests) + pdus.read(2, 5, 1, digests=digests)
    with target_peer(media, digests=digests) as (peer, _, _device):
        for byte in stream[:200]:
            assert peer.exchange(bytes([byte])) == []
        first, second = peer.exchange(stream[200:])
        assert first.status == 0
        assert second.data in (payload, bytes(4096))  # commands are not ordered among each other
        many = b"".join(pdus.read(cid, 5, 1, digests=digests) for cid in range(8))
        assert {answer.data for answer in peer.exchange(many)} == {payload}


def test_padding_before_data_is_skipped() -> None:
    payload = random.Random(3).randbytes(4096)
    raw = pdus.write(1, 5, payload)
    padded = spoil(spoil(raw[:72] + bytes(56) + raw[72:], 3, 128), 4, len(raw) + 56, 4)
    with target_peer(media) as (peer, _, _device):
        assert one(peer.exchange(padded)).status == 0
        assert one(peer.exchange(pdus.read(1, 5, 1)), C2H_DATA).data == payload


def dsm(ranges: list[tuple[int, int]], cid: int = 1, *, ad: bool = True, length: int | None = None) -> bytes:
    data = b"".join(struct.pack("<IIQ", 0, count, lba) for lba, count in ranges)
    data = data.ljust(length or 0, b"\0")
    entry = sqe(
        pdus.DSM, cid, slba=(len(ranges) - 1) | ((4 if ad else 0) << 32), sgl_type=SGL_IN_CAPSULE, sgl_length=len(data)
    )
    return command(entry, data)


def test_dsm_deallocates_every_range() -> None:
    with target_peer(media) as (peer, _, device):
        for lba in range(0, 32, 2):
            peer.exchange(pdus.write(1, lba, b"x" * 8192))
        before = device.operations
        assert one(peer.exchange(dsm([(0, 4), (8, 0), (16, 2), (30, 1)]))).status == 0
        assert device.operations == before + 3
        state = [one(peer.exchange(pdus.read(1, lba, 1)), C2H_DATA).data[:1] for lba in range(32)]
        zeroed = {0, 1, 2, 3, 16, 17, 30}
        assert state == [b"\0" if lba in zeroed else b"x" for lba in range(32)]


def test_dsm_with_256_ranges_and_longer_than_its_ranges_is_served() -> None:
    """Linux always sends 4096 bytes."""
    with target_peer(media) as (peer, _, device):
        assert one(peer.exchange(dsm([(lba, 1) for lba in range(256)]))).status == 0
        assert device.operations == 256
        assert one(peer.exchange(dsm([(0, 1)], length=4096))).status == 0


def test_dsm_may_name_each_block_once_and_no_more() -> None:
    with target_peer(media) as (peer, _, _device):
        whole = [(0, BLOCKS // 2), (BLOCKS // 2, BLOCKS // 2)]
        assert one(peer.exchange(dsm(whole))).status == 0
        assert one(peer.exchange(pdus.write(2, 0, bytes([7]) * 4096))).status == 0
        assert one(peer.exchange(dsm([*whole, (3, 1)]))).status == 0x183
        assert one(peer.exchange(pdus.read(3, 0, 1)), C2H_DATA).data == bytes([7]) * 4096


SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(("heard_every_s", "ends_within_s"), [(None, (15, 16)), (10, (60, 62))])
def test_data_that_were_asked_for_and_do_not_come_end_the_queue(
    heard_every_s: int | None, ends_within_s: tuple[int, int]
) -> None:
    """What was reserved for them is missing to others. A host that says something has longer, but not for ever."""
    with target_peer(media) as (peer, _, _device):
        now = 1_000 * SECOND_NS
        peer.reactor.step(now)
        peer.socket.send(command(sqe(pdus.WRITE, 1, sgl_length=4096)))
        peer.reactor.step(now)
        for second in range(100):
            if heard_every_s is not None and second and second % heard_every_s == 0:
                peer.socket.send(command(sqe(pdus.FLUSH, 2)))
            peer.reactor.step(now + second * SECOND_NS)
            peer.collect()
            if closed := [event for event in peer.events if event.kind == _shim.EventKind.TARGET_QPAIR_CLOSED]:
                break
        assert closed[0].reason == _shim.QpairClose.TIMED_OUT
        assert ends_within_s[0] <= second <= ends_within_s[1]


def test_a_queue_that_waits_for_nothing_never_ends_by_itself() -> None:
    with target_peer(media) as (peer, _, _device):
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 1)))).status == 0
        for hour in range(24):
            peer.reactor.step((1_000 + hour * 3600) * SECOND_NS)
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 1)))).status == 0


def test_dsm_ranges_come_by_r2t_too() -> None:
    data = struct.pack("<IIQ", 0, 1, 5)
    with target_peer(media) as (peer, _, device):
        grant = one(peer.exchange(command(sqe(pdus.DSM, 1, slba=4 << 32, sgl_length=16))), R2T)
        assert one(peer.exchange(pdus.h2c_data(1, grant.u16(10), 0, data))).status == 0
        assert device.operations == 1


def test_dsm_without_ad_does_nothing() -> None:
    with target_peer(media) as (peer, _, device):
        assert one(peer.exchange(dsm([(0, 4)], ad=False))).status == 0
        assert device.operations == 0


def test_a_bad_dsm_range_leaves_all_ranges_alone() -> None:
    with target_peer(media) as (peer, _, device):
        assert one(peer.exchange(dsm([(0, 4), (BLOCKS - 1, 2)]))).status == 0x080
        assert device.operations == 0


def test_flush_reaches_one_or_all_namespaces() -> None:
    with target_peer(media) as (peer, qpair, device):
        other = media(peer.reactor)
        qpair.set_namespace(7, other)
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 1, nsid=7)))).status == 0
        assert (device.operations, other.operations) == (0, 1)
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 1, nsid=0xFFFFFFFF)))).status == 0
        assert (device.operations, other.operations) == (1, 2)
        device.inject_fault(status=0x280)
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 1, nsid=0xFFFFFFFF)))).status == 0x280
        assert other.operations == 2
        qpair.set_namespace(7, None)
        qpair.set_namespace(1, None)
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 1, nsid=0xFFFFFFFF)))).status == 0


def test_disconnect_is_answered_and_closes_the_queue() -> None:
    with target_peer(media) as (peer, _, _device):
        answer = one(peer.exchange(command(sqe(pdus.FABRICS, 3, nsid=0x08)), command(sqe(pdus.FLUSH, 4))))
        assert (answer.cid, answer.status) == (3, 0)
        assert peer.ended
        peer.hang_up()
        assert [(event.kind, event.reason) for event in peer.events] == [
            (_shim.EventKind.TARGET_QPAIR_CLOSED, _shim.QpairClose.DISCONNECTED)
        ]


REFUSED: dict[str, tuple[bytes, int]] = {
    "write uncorrectable at a device without it": (sqe(pdus.WRITE_UNCORRECTABLE, 1), 0x001),
    "vendor opcode": (sqe(0xC0, 1), 0x001),
    "fabrics connect": (sqe(pdus.FABRICS, 1, nsid=0x01), 0x001),
    "zone append on a conventional namespace": (sqe(pdus.APPEND, 1, sgl_length=4096), 0x001),
    "zone send on a conventional namespace": (sqe(ZSEND, 1, cdw13=4), 0x001),
    "zone receive on a conventional namespace": (sqe(pdus.ZONE_RECV, 1, cdw12=1023, sgl_length=4096), 0x001),
    "prp": (sqe(pdus.READ, 1, sgl_length=4096, flags=0x00), 0x002),
    "psdt 11": (sqe(pdus.READ, 1, sgl_length=4096, flags=0xC0), 0x002),
    "fused": (sqe(pdus.READ, 1, sgl_length=4096, flags=0x41), 0x002),
    "nsid 0": (sqe(pdus.READ, 1, nsid=0, sgl_length=4096), 0x00B),
    "nsid unknown": (sqe(pdus.READ, 1, nsid=2, sgl_length=4096), 0x00B),
    "nsid broadcast": (sqe(pdus.READ, 1, nsid=0xFFFFFFFF, sgl_length=4096), 0x00B),
    "flush nsid 0": (sqe(pdus.FLUSH, 1, nsid=0), 0x00B),
    "read too short": (sqe(pdus.READ, 1, sgl_length=4095), 0x00F),
    "read too long": (sqe(pdus.READ, 1, sgl_length=8192), 0x00F),
    "read no data": (sqe(pdus.READ, 1), 0x00F),
    "read keyed sgl": (sqe(pdus.READ, 1, sgl_length=4096, sgl_type=0x40), 0x011),
    "read in capsule": (sqe(pdus.READ, 1, sgl_type=SGL_IN_CAPSULE), 0x011),
    "read beyond mdts": (sqe(pdus.READ, 1, cdw12=32, sgl_length=33 * 4096), 0x002),
    "write beyond mdts": (sqe(pdus.WRITE, 1, cdw12=0xFFFF, sgl_length=65536 * 4096), 0x002),
    "read at the end": (sqe(pdus.READ, 1, slba=BLOCKS, sgl_length=4096), 0x080),
    "read over the end": (sqe(pdus.READ, 1, slba=BLOCKS - 1, cdw12=1, sgl_length=8192), 0x080),
    "read with lba overflow": (sqe(pdus.READ, 1, slba=(1 << 64) - 1, cdw12=1, sgl_length=8192), 0x080),
    "write over the end": (sqe(pdus.WRITE, 1, slba=BLOCKS - 1, cdw12=31, sgl_length=131072), 0x080),
    "write zeroes over the end": (sqe(pdus.WRITE_ZEROES, 1, slba=1, cdw12=BLOCKS - 1), 0x080),
    "dsm too short": (sqe(pdus.DSM, 1, slba=(4 << 32) | 1, sgl_length=16), 0x00F),
    "dsm too long": (sqe(pdus.DSM, 1, slba=4 << 32, sgl_length=4100), 0x00F),
    "dsm keyed sgl": (sqe(pdus.DSM, 1, slba=4 << 32, sgl_length=16, sgl_type=0x40), 0x011),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_command_gets_its_status_and_the_queue_lives_on(name: str) -> None:
    entry, status = REFUSED[name]
    with target_peer(media) as (peer, qpair, device):
        answer = one(peer.exchange(command(entry)))
        assert (answer.status, answer.dnr, answer.cid) == (status, True, 1)
        assert device.operations == 0
        assert qpair.stats().errors == 1
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 2)))).status == 0


def test_in_capsule_data_of_a_bad_command_is_skipped() -> None:
    with target_peer(media) as (peer, _, _device):
        raw = pdus.write(1, BLOCKS, b"x" * 8192)
        first, second = peer.exchange(raw + command(sqe(pdus.FLUSH, 2)))
        assert (first.status, second.status) == (0x080, 0)


ZONED_REFUSED: dict[str, tuple[bytes, int]] = {
    "append larger than zasl": (sqe(pdus.APPEND, 1, cdw12=8, sgl_length=9 * 4096), 0x002),
    "append out of range": (sqe(pdus.APPEND, 1, slba=256, sgl_length=4096), 0x080),
    "unaligned zone send": (sqe(ZSEND, 1, slba=1, cdw13=4), 0x002),
    "zone send out of range": (sqe(ZSEND, 1, slba=256, cdw13=4), 0x080),
    "set zone descriptor": (sqe(ZSEND, 1, cdw13=0x10, sgl_length=64), 0x002),
    "unknown zone receive action": (sqe(pdus.ZONE_RECV, 1, cdw12=1023, cdw13=2, sgl_length=4096), 0x002),
    "report out of range": (sqe(pdus.ZONE_RECV, 1, slba=256, cdw12=1023, sgl_length=4096), 0x080),
    "report length differs": (sqe(pdus.ZONE_RECV, 1, cdw12=1023, sgl_length=4092), 0x00F),
    "report larger than mdts": (sqe(pdus.ZONE_RECV, 1, cdw12=0xFFFFFFFF, sgl_length=0), 0x002),
}


@pytest.mark.parametrize("name", ZONED_REFUSED)
def test_a_bad_zone_command_gets_its_status(name: str) -> None:
    entry, status = ZONED_REFUSED[name]
    with target_peer(zns) as (peer, _, _device):
        answer = one(peer.exchange(command(entry)))
        assert (answer.status, answer.dnr) == (status, True)
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 2)))).status == 0


def test_append_returns_its_address_in_both_dwords() -> None:
    with target_peer(zns) as (peer, _, _device):
        entry = sqe(pdus.APPEND, 1, slba=64, sgl_type=SGL_IN_CAPSULE, sgl_length=4096)
        assert [one(peer.exchange(command(entry, b"x" * 4096))).u64(8) for _ in range(3)] == [64, 65, 66]


def test_a_zone_report_never_shows_other_commands_data() -> None:
    with target_peer(zns) as (peer, _, _device):
        peer.exchange(pdus.write(1, 0, b"secret!!" * 512))
        assert one(peer.exchange(pdus.read(1, 0, 1)), C2H_DATA).data[:8] == b"secret!!"
        for _ in range(8):
            entry = sqe(pdus.ZONE_RECV, 1, cdw12=2047, sgl_length=8192)
            assert b"secret" not in one(peer.exchange(command(entry)), C2H_DATA).data


@pytest.mark.parametrize("by_r2t", [False, True])
def test_a_wrong_data_digest_fails_the_command_but_not_the_queue(by_r2t: bool) -> None:
    with target_peer(media, digests=BOTH) as (peer, _, device):
        if by_r2t:
            grant = one(peer.exchange(command(sqe(pdus.WRITE, 1, sgl_length=4096), digests=BOTH)), R2T)
            raw = pdus.h2c_data(1, grant.u16(10), 0, b"x" * 4096, digests=BOTH)
        else:
            raw = pdus.write(1, 0, b"x" * 4096, digests=BOTH)
        answer = one(peer.exchange(spoil(raw, len(raw) - 1, raw[-1] ^ 1)))
        assert (answer.status, answer.dnr) == (0x022, False)
        assert device.operations == 0
        assert one(peer.exchange(pdus.write(1, 0, b"y" * 4096, digests=BOTH))).status == 0


def test_a_wrong_header_digest_ends_the_queue() -> None:
    with target_peer(media, digests=BOTH) as (peer, _, _device):
        raw = command(sqe(pdus.FLUSH, 1), digests=BOTH)
        term = assert_terminated(peer, peer.exchange(spoil(raw, 75, raw[75] ^ 1)), HEADER_DIGEST)
        assert term.data == raw[:72]


FLUSH_PDU = command(sqe(pdus.FLUSH, 1))
WRITE_PDU = pdus.write(1, 0, b"x" * 4096)
MALFORMED: dict[str, tuple[bytes, int, int | None]] = {
    "unknown type": (spoil(FLUSH_PDU, 0, 0x0A), FIELD, 0),
    "ic req after connect": (spoil(FLUSH_PDU, 0, 0x00), FIELD, 0),
    "a pdu only targets send": (pdus.response(1), FIELD, 0),
    "hlen too small": (spoil(FLUSH_PDU, 2, 24), FIELD, 2),
    "hlen too large": (spoil(FLUSH_PDU, 2, 255), FIELD, 2),
    "plen shorter than the header": (spoil(FLUSH_PDU, 4, 71, 4), FIELD, 4),
    "plen zero": (spoil(FLUSH_PDU, 4, 0, 4), FIELD, 4),
    "unexpected header digest": (spoil(FLUSH_PDU, 1, HDGSTF), FIELD, 1),
    "unexpected data digest": (spoil(WRITE_PDU, 1, DDGSTF), FIELD, 1),
    "pdo within the header": (spoil(WRITE_PDU, 3, 71), FIELD, 3),
    "pdo behind the end": (spoil(spoil(WRITE_PDU, 4, 100, 4), 3, 100), FIELD, 3),
    "data without an in-capsule sgl": (
        command(sqe(pdus.WRITE, 1, sgl_type=SGL_TRANSPORT, sgl_length=4096), b"x" * 4096), FIELD, 4,
    ),
    "in-capsule sgl without data": (command(sqe(pdus.WRITE, 1, sgl_type=SGL_IN_CAPSULE, sgl_length=4096)), FIELD, 4),
    "in-capsule data longer than the sgl": (spoil(WRITE_PDU, 40, 4092, 4), FIELD, 4),
    "in-capsule offset": (spoil(WRITE_PDU, 32, 8, 8), UNSUPPORTED, 32),
    "in-capsule data beyond the limit": (pdus.write(1, 0, b"x" * 12288), LIMIT, None),
    "gigabytes in a capsule": (spoil(spoil(WRITE_PDU, 4, 0xFFFFFFFF, 4), 40, 0xFFFFFFFF - 72, 4), LIMIT, None),
    "h2c data nobody asked for": (pdus.h2c_data(1, 0, 0, b"x" * 4096), FIELD, 10),
    "h2c data with a wild ttag": (pdus.h2c_data(1, 0xFFFF, 0, b"x" * 4096), FIELD, 10),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_pdu_ends_the_queue_with_its_reason(name: str) -> None:
    raw, fes, fei = MALFORMED[name]
    with target_peer(media) as (peer, _, device):
        assert one(peer.exchange(command(sqe(pdus.FLUSH, 0x77)))).status == 0
        term = assert_terminated(peer, peer.exchange(raw), fes, fei)
        assert term.data == raw[: len(term.data)]
        assert device.operations == 1


H2C: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "wrong cccid": ({"cid": 2}, FIELD, 8),
    "datao not in sequence": ({"offset": 4096}, RANGE, None),
    "more than asked for": ({"data": b"x" * 20480}, RANGE, None),
    "more than max_h2c_data": ({"data": b"x" * 36864}, LIMIT, None),
    "datal differs from plen": ({"datal": 8192}, FIELD, 16),
    "datal zero": ({"data": b""}, FIELD, 16),
    "datal no dwords": ({"data": b"x" * 4095}, FIELD, 16),
    "last too early": ({"flags": LAST}, FIELD, 1),
}


@pytest.mark.parametrize("name", H2C)
def test_h2c_data_that_breaks_the_rules_ends_the_queue(name: str) -> None:
    changes, fes, fei = H2C[name]
    with target_peer(media, max_h2c_data=32768) as (peer, _, device):
        grant = one(peer.exchange(command(sqe(pdus.WRITE, 1, cdw12=3, sgl_length=16384))), R2T)
        fields: dict[str, Any] = {"cid": 1, "ttag": grant.u16(10), "offset": 0, "data": b"x" * 4096, "flags": 0}
        assert_terminated(peer, peer.exchange(pdus.h2c_data(**{**fields, **changes})), fes, fei)
        assert device.operations == 0


def test_h2c_data_repeated_after_the_end_ends_the_queue() -> None:
    with target_peer(media) as (peer, _, _device):
        grant = one(peer.exchange(command(sqe(pdus.WRITE, 1, sgl_length=4096))), R2T)
        raw = pdus.h2c_data(1, grant.u16(10), 0, b"x" * 4096)
        assert one(peer.exchange(raw)).status == 0
        assert_terminated(peer, peer.exchange(raw), FIELD, 10)


def test_more_commands_than_the_queue_holds_end_it() -> None:
    with target_peer(media, queue_size=4) as (peer, _, device):
        device.inject_fault(latency_us=3_600_000_000)
        assert peer.exchange(*[command(sqe(pdus.FLUSH, cid)) for cid in range(4)]) == []
        assert_terminated(peer, peer.exchange(command(sqe(pdus.FLUSH, 4))), SEQUENCE)
        device.power_cut(1)


def test_a_duplicate_cid_is_answered_twice() -> None:
    with target_peer(media) as (peer, _, _device):
        answers = peer.exchange(command(sqe(pdus.FLUSH, 5)) * 2)
        assert [answer.cid for answer in answers] == [5, 5]


def test_a_peers_term_req_closes_without_an_answer() -> None:
    with target_peer(media) as (peer, _, _device):
        assert peer.exchange(pdus.term_req(pdus.H2C_TERM, 3, bytes(24))) == []
        assert peer.ended
        assert [(event.reason, event.detail) for event in peer.events] == [(_shim.QpairClose.PEER_TERMINATED, 3)]


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 40, 71, 72, 73, 2000, 4167])
def test_a_connection_that_ends_within_a_pdu_is_closed_quietly(cut: int) -> None:
    with target_peer(media) as (peer, qpair, device):
        peer.exchange(WRITE_PDU[:cut])
        peer.hang_up()
        assert [(event.kind, event.source, event.reason) for event in peer.events] == [
            (_shim.EventKind.TARGET_QPAIR_CLOSED, qpair.id, _shim.QpairClose.PEER_CLOSED)
        ]
        assert device.operations == 0


def test_a_connection_that_ends_between_r2t_and_data_frees_everything() -> None:
    with target_peer(media) as (peer, qpair, device):
        for cid in range(7):
            peer.exchange(command(sqe(pdus.WRITE, cid, cdw12=31, sgl_length=131072)))
        peer.hang_up()
        qpair.close()
        assert device.operations == 0


def test_a_peer_that_does_not_read_cannot_make_the_target_read_on() -> None:
    """Answers fill the socket; the eighth read's slot is not free until its data are gone."""
    with target_peer(media, queue_size=8) as (peer, qpair, _device):
        for cid in range(8):
            peer.socket.sendall(pdus.read(cid, 0, 32))
        peer.settle()
        assert qpair.stats().commands == 8
        assert len([answer for answer in peer.pdus() if answer.type == C2H_DATA and len(answer.data) == 131072]) == 8
        assert one(peer.exchange(pdus.read(1, 0, 1)), C2H_DATA).type == C2H_DATA


def test_a_peer_that_neither_reads_nor_hangs_up_is_cut_off_after_a_while() -> None:
    with target_peer(media) as (peer, _, _device):
        start_ns = 10**12
        for cid in range(8):
            peer.socket.sendall(pdus.read(cid, 0, 32))
        peer.socket.sendall(b"\xff" * 8)
        for _ in range(20):
            peer.reactor.step(start_ns)
        peer.collect()
        assert peer.events == []
        peer.reactor.step(start_ns + 999_000_000)
        peer.collect()
        assert peer.events == []
        peer.reactor.step(start_ns + 1_001_000_000)
        peer.collect()
        assert [(event.reason, event.detail) for event in peer.events] == [(_shim.QpairClose.PROTOCOL_ERROR, FIELD)]


def test_noise_never_reaches_a_device() -> None:
    rng = random.Random(12)
    for _ in range(200):
        with target_peer(media) as (peer, _, device):
            raw = bytearray(WRITE_PDU)
            for _ in range(rng.randrange(1, 4)):
                raw[rng.randrange(8)] = rng.randrange(256)
            peer.exchange(bytes(raw))
            peer.hang_up()
            # Nothing, or the very write when the noise did not touch anything that matters.
            assert device.operations in (0, 1)
            assert device.operations == 0 or bytes(raw[:8]) == WRITE_PDU[:8] or raw[0] == WRITE_PDU[0]

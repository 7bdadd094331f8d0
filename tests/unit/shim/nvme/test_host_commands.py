"""Compare, Verify, Copy, Write Uncorrectable and fused pairs at a TargetQpair, against a host made of bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from spdk_ftl_py import _shim
from support import pdus
from support.pdus import C2H_DATA, FUSE_FIRST, FUSE_SECOND, R2T, RESP, SGL_IN_CAPSULE, command, sqe
from support.qpair_rig import Peer, target_peer
from unit.shim.ftl.core_bench import Bench

BLOCKS = 256
BLOCK = 4096
OK, FIELD, FAILED_FUSED, MISSING_FUSED, OUT_OF_RANGE = 0, 0x002, 0x009, 0x00A, 0x080
DIFFERS, UNREADABLE, SIZE_LIMIT, OVERLAP, UNIT = 0x285, 0x281, 0x183, 0x187, 0x014


def media(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS, volatile_cache=True)


def with_metadata(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS, metadata_bytes=64)


def zns(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(reactor, 4, 64, 64, max_append_blocks=8)


def core(reactor: _shim.Reactor) -> _shim.FtlCore:
    """Writes stay in its buffer of 32 blocks, because nobody opens a band."""
    return Bench(reactor=reactor).core


def exchange(peer: Peer, *raw: bytes, data: dict[int, bytes] | None = None) -> list[pdus.Pdu]:
    """Sends `data`, by CID, where R2Ts ask for it. Returns the other PDUs."""
    found = []
    pending = peer.exchange(*raw)
    while pending:
        answer = pending.pop(0)
        if answer.type != R2T:
            found.append(answer)
            continue
        assert data is not None
        offset, length = answer.u32(12), answer.u32(16)
        pending += peer.exchange(
            pdus.h2c_data(answer.cid, answer.u16(10), offset, data[answer.cid][offset : offset + length])
        )
    return found


def run(peer: Peer, opcode: int, lba: int, blocks: int, data: bytes = b"", *, cdw12: int = 0, nsid: int = 1) -> int:
    entry = sqe(opcode, 5, nsid=nsid, slba=lba, cdw12=cdw12 | (blocks - 1), sgl_length=len(data))
    (answer,) = exchange(peer, command(entry), data={5: data})
    assert (answer.type, answer.cid) == (RESP, 5)
    return answer.status


def read(peer: Peer, lba: int, blocks: int, *, block_bytes: int = BLOCK) -> bytes:
    (answer,) = peer.exchange(pdus.read(6, lba, blocks, block_bytes=block_bytes))
    assert answer.type == C2H_DATA, hex(answer.status)
    return answer.data


def copy(lba: int, ranges: list[tuple[int, int]], *, cdw12: int = 0, nsid: int = 1, short: int = 0) -> bytes:
    data = b"".join(struct.pack("<QQH14x", 0, source, count - 1) for source, count in ranges)[short:]
    in_capsule = len(data) <= 4096
    entry = sqe(
        pdus.COPY, 7, nsid=nsid, slba=lba, cdw12=cdw12 | (len(ranges) - 1), sgl_length=len(data),
        sgl_type=SGL_IN_CAPSULE if in_capsule else pdus.SGL_TRANSPORT,
    )  # fmt: skip
    return command(entry, data if in_capsule else b"")


def copied(peer: Peer, lba: int, ranges: list[tuple[int, int]]) -> int:
    (answer,) = peer.exchange(copy(lba, ranges))
    return answer.status


# --- Compare and Verify


@pytest.mark.parametrize("device", [media, core])
@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
def test_compare_tells_whether_the_blocks_are_as_the_host_says(device, blocks: int) -> None:  # type: ignore[no-untyped-def]
    data = random.Random(blocks).randbytes(blocks * BLOCK)
    with target_peer(device) as (peer, _, _device):
        assert run(peer, pdus.WRITE, 3, blocks, data) == OK
        assert run(peer, pdus.COMPARE, 3, blocks, data) == OK
        for place in (0, len(data) // 2, len(data) - 1):
            other = bytearray(data)
            other[place] ^= 0x10
            assert run(peer, pdus.COMPARE, 3, blocks, bytes(other)) == DIFFERS
        assert run(peer, pdus.COMPARE, 200, blocks, bytes(blocks * BLOCK)) == OK


def test_compare_is_whole_for_the_largest_command_and_for_blocks_with_metadata() -> None:
    data = random.Random(1).randbytes(131072)
    with target_peer(media) as (peer, _, _device):
        assert run(peer, pdus.WRITE, 0, 32, data) == OK
        assert run(peer, pdus.COMPARE, 0, 32, data) == OK
        assert run(peer, pdus.COMPARE, 0, 32, data[:-1] + bytes([data[-1] ^ 1])) == DIFFERS
    data = random.Random(2).randbytes(20 * (BLOCK + 64))
    with target_peer(with_metadata) as (peer, _, _device):
        assert run(peer, pdus.WRITE, 0, 20, data) == OK
        assert run(peer, pdus.COMPARE, 0, 20, data) == OK
        assert run(peer, pdus.COMPARE, 0, 20, data[:-1] + bytes([data[-1] ^ 1])) == DIFFERS


def test_a_device_with_small_reads_is_compared_and_copied_in_parts() -> None:
    data = random.Random(3).randbytes(20 * BLOCK)
    with target_peer(lambda reactor: _shim.EmulatedMedia.conventional(reactor, BLOCKS, max_io_blocks=3)) as (
        peer,
        _,
        d,
    ):
        for first in range(0, 20, 2):
            assert run(peer, pdus.WRITE, first, 2, data[first * BLOCK : (first + 2) * BLOCK]) == OK
        before = d.operations
        assert run(peer, pdus.COMPARE, 0, 20, data) == OK
        assert d.operations - before == 7
        assert run(peer, pdus.VERIFY, 0, 20) == OK
        assert copied(peer, 100, [(0, 7), (10, 1), (12, 8)]) == OK
        expected = data[: 7 * BLOCK] + data[10 * BLOCK : 11 * BLOCK] + data[12 * BLOCK : 20 * BLOCK]
        assert run(peer, pdus.COMPARE, 100, 16, expected) == OK


def test_verify_reads_and_transfers_nothing() -> None:
    with target_peer(media) as (peer, qpair, device):
        assert run(peer, pdus.VERIFY, 0, 32) == OK
        assert device.operations == 1
        device.inject_fault(status=UNREADABLE)
        assert run(peer, pdus.VERIFY, 0, 32) == UNREADABLE
        assert run(peer, pdus.VERIFY, 0, 33) == FIELD
        assert run(peer, pdus.VERIFY, BLOCKS - 1, 2) == OUT_OF_RANGE
        assert qpair.stats().read_blocks == 0


def test_more_of_them_than_lanes_wait_in_line() -> None:
    data = random.Random(4).randbytes(16 * BLOCK)
    with target_peer(media, queue_size=64) as (peer, _, _device):
        assert run(peer, pdus.WRITE, 0, 16, data) == OK
        raw = [command(sqe(pdus.VERIFY, 100 + i, slba=i, cdw12=7)) for i in range(20)]
        raw += [command(sqe(pdus.COMPARE, 200 + i, slba=0, cdw12=15, sgl_length=len(data))) for i in range(20)]
        answers = exchange(peer, *raw, data=dict.fromkeys(range(200, 220), data))
        assert sorted((answer.cid, answer.status) for answer in answers) == [
            (cid, OK) for cid in [*range(100, 120), *range(200, 220)]
        ]


def test_a_host_that_leaves_while_commands_wait_for_lanes_ends_the_queue() -> None:
    with target_peer(media, queue_size=64) as (peer, _, _device):
        peer.socket.send(b"".join(command(sqe(pdus.VERIFY, i, slba=i, cdw12=7)) for i in range(40)))
        peer.hang_up()
        assert [event.kind for event in peer.events] == [_shim.EventKind.TARGET_QPAIR_CLOSED]


def test_compare_and_verify_read_zoned_namespaces_and_copy_is_refused() -> None:
    data = random.Random(5).randbytes(2 * BLOCK)
    with target_peer(zns) as (peer, _, _device):
        assert run(peer, pdus.WRITE, 0, 2, data) == OK
        assert run(peer, pdus.COMPARE, 0, 2, data) == OK
        assert run(peer, pdus.VERIFY, 0, 2) == OK
        assert copied(peer, 64, [(0, 2)]) == 0x001
        assert run(peer, pdus.WRITE_UNCORRECTABLE, 0, 2) == 0x001


# --- Copy


@pytest.mark.parametrize("device", [media, core])
def test_copy_gathers_its_ranges(device) -> None:  # type: ignore[no-untyped-def]
    data = random.Random(6).randbytes(12 * BLOCK)
    with target_peer(device) as (peer, _, _device):
        for first in (0, 4, 8):
            assert run(peer, pdus.WRITE, first, 4, data[first * BLOCK : (first + 4) * BLOCK]) == OK
        assert copied(peer, 40, [(8, 4), (0, 1), (0, 1), (5, 2)]) == OK
        expected = data[8 * BLOCK :] + data[:BLOCK] * 2 + data[5 * BLOCK : 7 * BLOCK]
        assert read(peer, 40, 8) == expected


def test_copy_checks_everything_before_it_writes() -> None:
    with target_peer(media, queue_size=64) as (peer, qpair, device):
        before = device.operations
        cases = {
            OVERLAP: [copy(5, [(0, 6)]), copy(0, [(100, 3), (2, 1)]), copy(3, [(3, 1)])],
            OUT_OF_RANGE: [copy(BLOCKS - 1, [(0, 2)]), copy(BLOCKS, [(0, 1)]), copy(0, [(9, 1), (BLOCKS, 1)])],
            SIZE_LIMIT: [copy(0, [(0, 4097)]), copy(0, [(0, 1)] * 129), copy(0, [(100, 2000)] * 3)],
            FIELD: [copy(0, [(9, 1)], cdw12=1 << 8)],
            0x00F: [copy(0, [(9, 1), (10, 1)], short=32)],
        }
        for status, raws in cases.items():
            for raw in raws:
                (answer,) = exchange(peer, raw)
                assert answer.status == status
        assert copied(peer, (1 << 64) - 1, [(0, 1)]) == OUT_OF_RANGE
        assert copied(peer, 0, [((1 << 64) - 1, 2)]) == OUT_OF_RANGE
        assert device.operations == before
        assert qpair.stats().write_blocks == 0


def test_a_copy_that_cannot_read_says_which_range() -> None:
    with target_peer(media) as (peer, _, device):
        assert run(peer, pdus.WRITE, 0, 4, b"\1" * 4 * BLOCK) == OK
        device.inject_fault(op=_shim.Op.READ, lba=2, block_count=1, status=UNREADABLE)
        (answer,) = peer.exchange(copy(40, [(0, 2), (2, 2)]))
        assert (answer.status, answer.u32(8)) == (UNREADABLE, 1)
        assert read(peer, 40, 3) == b"\1" * 2 * BLOCK + bytes(BLOCK)


# --- Write Uncorrectable


def test_write_uncorrectable_makes_blocks_unreadable_until_they_are_written() -> None:
    data = random.Random(7).randbytes(4 * BLOCK)
    with target_peer(core) as (peer, _, _device):
        assert run(peer, pdus.WRITE, 0, 4, data) == OK
        assert run(peer, pdus.WRITE_UNCORRECTABLE, 1, 2) == OK
        assert run(peer, pdus.VERIFY, 0, 4) == UNREADABLE
        assert run(peer, pdus.COMPARE, 0, 4, data) == UNREADABLE
        assert copied(peer, 20, [(0, 1), (3, 1)]) == OK
        assert copied(peer, 20, [(0, 1), (2, 1)]) == UNREADABLE
        assert run(peer, pdus.WRITE, 1, 2, data[BLOCK : 3 * BLOCK]) == OK
        assert read(peer, 0, 4) == data


# --- fused pairs


@pytest.fixture
def fused() -> Iterator[tuple[Peer, _shim.TargetQpair]]:
    with target_peer(core, queue_size=16) as (peer, qpair, _device):
        yield peer, qpair


def half(opcode: int, cid: int, flags: int, data: bytes, *, lba: int = 3, in_capsule: bool = True) -> bytes:
    kind = SGL_IN_CAPSULE if in_capsule else pdus.SGL_TRANSPORT
    entry = sqe(
        opcode, cid, slba=lba, cdw12=max(len(data) // BLOCK, 1) - 1, sgl_type=kind, sgl_length=len(data), flags=flags
    )
    return command(entry, data if in_capsule else b"")


def both(expected: bytes, data: bytes, *, first_in: bool = True, second_in: bool = True, lba: int = 3) -> bytes:
    return half(pdus.COMPARE, 1, FUSE_FIRST, expected, in_capsule=first_in, lba=lba) + half(
        pdus.WRITE, 2, FUSE_SECOND, data, in_capsule=second_in, lba=lba
    )


@pytest.mark.parametrize("first_in", [True, False])
@pytest.mark.parametrize("second_in", [True, False])
def test_a_fused_compare_and_write(fused: tuple[Peer, _shim.TargetQpair], first_in: bool, second_in: bool) -> None:
    peer, _ = fused
    old, new = bytes(BLOCK), b"\7" * BLOCK
    answers = exchange(peer, both(old, new, first_in=first_in, second_in=second_in), data={1: old, 2: new})
    assert [(answer.cid, answer.status) for answer in answers] == [(1, OK), (2, OK)]
    answers = exchange(peer, both(old, old, first_in=first_in, second_in=second_in), data={1: old, 2: old})
    assert [(answer.cid, answer.status) for answer in answers] == [(1, DIFFERS), (2, FAILED_FUSED)]
    assert read(peer, 3, 1) == new


def test_fused_commands_without_a_partner_are_aborted(fused: tuple[Peer, _shim.TargetQpair]) -> None:
    peer, qpair = fused
    block = bytes(BLOCK)
    assert exchange(peer, half(pdus.COMPARE, 1, FUSE_FIRST, block)) == []
    answers = exchange(peer, command(sqe(pdus.FLUSH, 9, nsid=2)))
    assert [(answer.cid, answer.status) for answer in answers] == [(1, MISSING_FUSED), (9, 0x00B)]
    (answer,) = exchange(peer, half(pdus.WRITE, 2, FUSE_SECOND, block))
    assert (answer.cid, answer.status) == (2, MISSING_FUSED)
    answers = exchange(peer, half(pdus.COMPARE, 1, FUSE_FIRST, block), both(block, block))
    assert sorted((answer.cid, answer.status) for answer in answers) == [(1, OK), (1, MISSING_FUSED), (2, OK)]
    # The data of the first is still on its way when another command comes.
    (grant,) = peer.exchange(half(pdus.COMPARE, 1, FUSE_FIRST, block, in_capsule=False))
    assert [answer.cid for answer in peer.exchange(pdus.read(9, 0, 1))] == [9]
    (answer,) = peer.exchange(pdus.h2c_data(1, grant.u16(10), 0, block))
    assert (answer.cid, answer.status) == (1, MISSING_FUSED)
    assert qpair.stats().write_blocks == 1


FUSED_REFUSED = {
    "another block": (
        half(pdus.COMPARE, 1, FUSE_FIRST, bytes(BLOCK)), half(pdus.WRITE, 2, FUSE_SECOND, bytes(BLOCK), lba=4),
        [FIELD, FIELD],
    ),
    "two blocks": (
        half(pdus.COMPARE, 1, FUSE_FIRST, bytes(2 * BLOCK)), half(pdus.WRITE, 2, FUSE_SECOND, bytes(2 * BLOCK)),
        [UNIT, UNIT],
    ),
    "two reads": (
        half(pdus.READ, 1, FUSE_FIRST, b""), half(pdus.READ, 2, FUSE_SECOND, b""), [FIELD, FIELD]),
    "a first that is bad": (
        half(pdus.COMPARE, 1, FUSE_FIRST, bytes(BLOCK), lba=1 << 40), half(pdus.WRITE, 2, FUSE_SECOND, bytes(BLOCK)),
        [OUT_OF_RANGE, FAILED_FUSED],
    ),
    "a second that is bad": (
        half(pdus.COMPARE, 1, FUSE_FIRST, bytes(BLOCK)),
        half(pdus.WRITE, 2, FUSE_SECOND, bytes(BLOCK), lba=1 << 40), [FAILED_FUSED, OUT_OF_RANGE],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED_REFUSED)
def test_a_fused_pair_that_is_refused_fails_as_a_whole(fused: tuple[Peer, _shim.TargetQpair], name: str) -> None:
    peer, qpair = fused
    first, second, statuses = FUSED_REFUSED[name]
    answers = exchange(peer, first + second)
    assert [(answer.cid, answer.status) for answer in answers] == [(1, statuses[0]), (2, statuses[1])]
    assert qpair.stats().write_blocks == 0
    assert exchange(peer, both(bytes(BLOCK), bytes(BLOCK)))[1].status == OK


def test_a_wrong_digest_fails_the_whole_pair() -> None:
    digests = pdus.Digests(data=True)
    with target_peer(core, digests=digests) as (peer, qpair, _device):
        block = bytes(BLOCK)
        entry = sqe(pdus.COMPARE, 1, slba=3, sgl_type=SGL_IN_CAPSULE, sgl_length=BLOCK, flags=FUSE_FIRST)
        first = command(entry, block, digests=digests)[:-1] + b"\x55"
        entry = sqe(pdus.WRITE, 2, slba=3, sgl_type=SGL_IN_CAPSULE, sgl_length=BLOCK, flags=FUSE_SECOND)
        answers = exchange(peer, first, command(entry, b"\1" * BLOCK, digests=digests))
        assert [answer.status for answer in answers] == [0x022, FAILED_FUSED]
        assert qpair.stats().write_blocks == 0


def test_a_host_that_leaves_after_half_a_pair_ends_the_queue(fused: tuple[Peer, _shim.TargetQpair]) -> None:
    peer, _ = fused
    peer.exchange(half(pdus.COMPARE, 1, FUSE_FIRST, bytes(BLOCK)))
    peer.hang_up()
    assert _shim.EventKind.TARGET_QPAIR_CLOSED in [event.kind for event in peer.events]


def test_a_namespace_that_goes_away_fails_the_pair(fused: tuple[Peer, _shim.TargetQpair]) -> None:
    peer, qpair = fused
    block = bytes(BLOCK)
    assert exchange(peer, half(pdus.COMPARE, 1, FUSE_FIRST, block)) == []
    (grant,) = peer.exchange(half(pdus.WRITE, 2, FUSE_SECOND, block, in_capsule=False))
    qpair.set_namespace(1, None)
    answers = peer.exchange(pdus.h2c_data(2, grant.u16(10), 0, block))
    assert [(answer.cid, answer.status) for answer in answers] == [(1, 0x00B), (2, FAILED_FUSED)]


def test_devices_without_compare_write_refuse_fused_pairs() -> None:
    with target_peer(media) as (peer, _, device):
        answers = exchange(peer, both(bytes(BLOCK), bytes(BLOCK)))
        assert [answer.status for answer in answers] == [FIELD, FIELD]
        assert device.operations == 0

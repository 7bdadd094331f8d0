"""NbdConnection against a client made of bytes: what is answered, what is refused, and what ends the connection."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from spdk_ftl_py import _shim
from support.nbd_client import (
    BLOCK,
    BLOCK_STATUS,
    CACHE,
    DF,
    DISC,
    EINVAL,
    EIO,
    ENOSPC,
    ENOTSUP,
    EPERM,
    ESHUTDOWN,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    OK,
    READ,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    answers,
    nbd_peer,
    request,
    write,
)  # fmt: skip

BLOCKS: Final = 2048
MIB: Final = 1 << 20
MAX: Final = _shim.NBD_REQUEST_BYTES_MAX
WRITE_PROTECTED, NOT_READY, PATH_ERROR, CAPACITY, UNRECOVERED = 0x020, 0x082, 0x370, 0x081, 0x281


def media(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS, volatile_cache=True)


def with_small_io(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS, max_io_blocks=3)


def content(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


# --- requests and replies --------------------------------------------------------------------------------------------


def test_replies_are_byte_for_byte_those_of_the_protocol() -> None:
    data = content(BLOCK)
    with nbd_peer(media) as (peer, _, _device):
        peer.send(write(0x1122334455667788, 2 * BLOCK, data))
        peer.settle()
        peer.pull()
        assert peer.rest == struct.pack(">IIQ", 0x67446698, 0, 0x1122334455667788)
        peer.rest = b""
        peer.send(request(READ, 2**64 - 1, 2 * BLOCK, BLOCK))
        peer.settle()
        peer.pull()
        assert peer.rest == struct.pack(">IIQ", 0x67446698, 0, 2**64 - 1) + data
    with nbd_peer(media, structured_replies=True) as (peer, _, _device):
        peer.send(request(READ, 7, 3 * BLOCK, BLOCK, flags=DF), request(READ, 8, 1, BLOCK))
        peer.settle()
        peer.pull()
        ok = struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 7, 8 + BLOCK, 3 * BLOCK) + bytes(BLOCK)
        bad = struct.pack(">IHHQIIH", 0x668E33EF, 1, 0x8001, 8, 6, 22, 0)
        # Requests are not ordered among each other.
        assert peer.rest in (ok + bad, bad + ok)


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("device", [media, with_small_io])
def test_reads_return_what_was_written_whatever_its_size(
    structured: bool, device: Callable[[_shim.Reactor], Any]
) -> None:
    rng = random.Random(5)
    with nbd_peer(device, structured_replies=structured) as (peer, connection, _device):
        model = bytearray(BLOCKS * BLOCK)
        for cookie in range(40):
            length = rng.choice((1, 2, 15, 16, 17, 100, 256)) * BLOCK
            offset = rng.randrange(BLOCKS - length // BLOCK + 1) * BLOCK
            model[offset : offset + length] = data = rng.randbytes(length)
            assert [each.error for each in peer.exchange(write(cookie, offset, data))] == [OK]
            length = rng.randrange(1, 257) * BLOCK
            offset = rng.randrange(BLOCKS - length // BLOCK + 1) * BLOCK
            (answer,) = peer.exchange(peer.read(cookie, offset, length))
            assert answer.data == model[offset : offset + length]
            assert answer.structured == structured
            assert not structured or answer.offset == offset
        stats = connection.stats()
        assert (stats.requests, stats.errors) == (80, 0)


def test_requests_may_arrive_byte_by_byte_and_many_at_once() -> None:
    data = content(2 * BLOCK)
    with nbd_peer(media) as (peer, _, _device):
        stream = write(1, 0, data) + request(FLUSH, 2)
        for at, byte in enumerate(stream):
            answered = (
                peer.exchange(bytes([byte])) if at % 512 == 0 or at > len(stream) - 30 else peer.send(bytes([byte]))
            )
            if answered:
                assert at in (28 + len(data) - 1, len(stream) - 1)
        many = [write(cookie, cookie * BLOCK, content(BLOCK, cookie)) for cookie in range(300)]
        assert sorted(each.cookie for each in peer.exchange(b"".join(many))) == list(range(300))
        reads = b"".join(peer.read(cookie, cookie * BLOCK, BLOCK) for cookie in range(300))
        assert all(each.data == content(BLOCK, each.cookie) for each in peer.exchange(reads))


def test_trims_and_zeroes_read_as_zeroes() -> None:
    with nbd_peer(media) as (peer, _, device):
        peer.exchange(write(1, 0, content(64 * BLOCK)))
        for cookie, (kind, flags) in enumerate(
            ((TRIM, 0), (TRIM, FUA), (WRITE_ZEROES, 0), (WRITE_ZEROES, FUA), (WRITE_ZEROES, FAST_ZERO),
             (WRITE_ZEROES, NO_HOLE), (WRITE_ZEROES, NO_HOLE | FUA))
        ):  # fmt: skip
            at = 2 * cookie * BLOCK
            assert [each.error for each in peer.exchange(request(kind, cookie, at, BLOCK, flags=flags))] == [OK]
            (answer,) = peer.exchange(peer.read(99, at, 2 * BLOCK))
            assert answer.data == bytes(BLOCK) + content(64 * BLOCK)[at + BLOCK : at + 2 * BLOCK]
        written = device.operations
        (answer,) = peer.exchange(request(WRITE_ZEROES, 1, 0, 3 * MIB, flags=NO_HOLE))
        assert answer.error == OK
        assert device.operations - written == 3  # written as data, in pieces
        (answer,) = peer.exchange(request(WRITE_ZEROES, 2, 0, MIB, flags=NO_HOLE | FAST_ZERO))
        assert answer.error == ENOTSUP


@pytest.mark.parametrize("kind", [WRITE, TRIM, WRITE_ZEROES, WRITE_ZEROES + 100])
def test_what_is_flushed_or_written_with_fua_survives_a_power_cut(kind: int) -> None:
    """WRITE_ZEROES + 100: without a hole."""
    how = NO_HOLE if kind > 100 else 0
    kind %= 100
    with nbd_peer(media) as (peer, _, device):
        old, new = content(BLOCK, 1), content(BLOCK, 2) if kind == WRITE else bytes(BLOCK)
        data = new if kind == WRITE else b""
        survived = set()
        for safely in ("fua", "flush", "not at all"):
            for seed in range(8):
                peer.exchange(write(1, 0, old), request(FLUSH, 2))
                peer.exchange(request(kind, 3, 0, BLOCK, data=data, flags=how | (FUA if safely == "fua" else 0)))
                if safely == "flush":
                    peer.exchange(request(FLUSH, 4))
                device.power_cut(seed)
                device.power_on()
                (answer,) = peer.exchange(peer.read(5, 0, BLOCK))
                if safely == "not at all":
                    survived.add(answer.data == new)
                else:
                    assert answer.data == new, (safely, seed)
        assert False in survived, "the power cut loses nothing, so this test shows nothing"


def test_a_flush_covers_the_writes_of_other_connections() -> None:
    """What CAN_MULTI_CONN promises."""
    for seed in range(8):
        with nbd_peer(media) as (one, _, device), nbd_peer(media, beside=one, device=device) as (two, _, _device):
            assert one.exchange(write(1, 0, content(BLOCK)))[0].error == OK
            assert two.exchange(request(FLUSH, 1))[0].error == OK
            device.power_cut(seed)
            device.power_on()
            assert two.exchange(two.read(2, 0, BLOCK))[0].data == content(BLOCK)


# --- what is refused -------------------------------------------------------------------------------------------------

SIZE: Final = BLOCKS * BLOCK


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (request(READ, 1, 1, BLOCK), EINVAL),
        (request(READ, 1, 0, BLOCK - 1), EINVAL),
        (request(READ, 1, 0, 0), EINVAL),
        (request(READ, 1, SIZE, BLOCK), EINVAL),
        (request(READ, 1, SIZE - BLOCK, 2 * BLOCK), EINVAL),
        (request(READ, 1, 2**64 - BLOCK, BLOCK), EINVAL),
        (request(READ, 1, 0, MAX + BLOCK), EINVAL),
        (request(READ, 1, 0, BLOCK, flags=DF), EINVAL),  # without structured replies
        (request(READ, 1, 0, BLOCK, flags=NO_HOLE), EINVAL),
        (request(READ, 1, 0, BLOCK, flags=1 << 15), EINVAL),
        (write(1, 512, bytes(BLOCK)), EINVAL),
        (write(1, 0, bytes(BLOCK - 1)), EINVAL),
        (write(1, 0, bytes(1)), EINVAL),
        (request(WRITE, 1, 0, 0), EINVAL),
        (write(1, SIZE, bytes(BLOCK)), ENOSPC),
        (write(1, 0, bytes(MAX + BLOCK)), EINVAL),
        (write(1, 0, bytes(BLOCK), flags=DF), EINVAL),
        (request(FLUSH, 1, 0, BLOCK), EINVAL),
        (request(FLUSH, 1, BLOCK, 0), EINVAL),
        (request(FLUSH, 1, flags=NO_HOLE), EINVAL),
        (request(TRIM, 1, 0, 100), EINVAL),
        (request(TRIM, 1, SIZE, BLOCK), EINVAL),
        (request(TRIM, 1, 0, 2**32 - BLOCK), EINVAL),
        (request(WRITE_ZEROES, 1, SIZE, BLOCK), ENOSPC),
        (request(CACHE, 1, 0, BLOCK), EINVAL),
        (request(BLOCK_STATUS, 1, 0, BLOCK), EINVAL),
        (request(0xFFFF, 1, 0, BLOCK), EINVAL),
    ],
)
def test_a_bad_request_is_refused_and_the_next_one_is_served(raw: bytes, error: int) -> None:
    with nbd_peer(media) as (peer, connection, device):
        before = device.operations
        (answer,) = peer.exchange(raw)
        assert (answer.cookie, answer.error) == (1, error)
        assert device.operations == before
        assert peer.exchange(request(FLUSH, 2))[0].error == OK
        assert connection.stats().errors == 1


def test_fua_is_taken_with_every_command() -> None:
    """Some clients send it with commands that write nothing."""
    with nbd_peer(media) as (peer, _, _device):
        assert peer.exchange(request(FLUSH, 1, flags=FUA))[0].error == OK
        assert peer.exchange(peer.read(2, 0, BLOCK, flags=FUA))[0].error == OK


@pytest.mark.parametrize("kind", [WRITE, TRIM, WRITE_ZEROES])
def test_a_read_only_export_takes_no_change(kind: int) -> None:
    with nbd_peer(media, read_only=True) as (peer, _, device):
        before = device.operations
        (answer,) = peer.exchange(request(kind, 1, 0, BLOCK, data=bytes(BLOCK) if kind == WRITE else b""))
        assert answer.error == EPERM
        assert device.operations == before
        peer.exchange(peer.read(2, 0, BLOCK), request(FLUSH, 3))
        assert device.operations == before + 2


def test_what_was_not_advertised_is_refused() -> None:
    with nbd_peer(media, trim=False, write_zeroes=False) as (peer, _, _device):
        for kind in (TRIM, WRITE_ZEROES):
            assert peer.exchange(request(kind, 1, 0, BLOCK))[0].error == EINVAL
    with nbd_peer(media, fast_zero=False) as (peer, _, _device):
        assert peer.exchange(request(WRITE_ZEROES, 1, 0, BLOCK, flags=FAST_ZERO))[0].error == EINVAL


def test_an_export_keeps_the_size_that_the_client_was_told() -> None:
    with nbd_peer(media, block_count=10) as (peer, _, _device):
        assert peer.exchange(write(1, 9 * BLOCK, bytes(BLOCK)))[0].error == OK
        assert peer.exchange(write(1, 10 * BLOCK, bytes(BLOCK)))[0].error == ENOSPC


@pytest.mark.parametrize(
    ("status", "error"),
    [(WRITE_PROTECTED, EPERM), (NOT_READY, ESHUTDOWN), (CAPACITY, ENOSPC), (UNRECOVERED, EIO), (PATH_ERROR, EIO)],
)
def test_errors_of_the_device_become_errors_of_nbd(status: int, error: int) -> None:
    with nbd_peer(media) as (peer, _, device):
        device.inject_fault(status=status, times=2)
        assert peer.exchange(write(1, 0, bytes(BLOCK)))[0].error == error
        assert peer.exchange(peer.read(2, 0, BLOCK))[0].error == error
        assert peer.exchange(write(3, 0, bytes(BLOCK)))[0].error == OK


def test_an_error_in_the_middle_of_a_large_request_fails_it_once() -> None:
    with nbd_peer(with_small_io) as (peer, _, device):
        device.inject_fault(status=UNRECOVERED, lba=50, block_count=1)
        (answer,) = peer.exchange(peer.read(1, 0, 100 * BLOCK))
        assert (answer.error, answer.data) == (EIO, b"")
        assert len(peer.exchange(peer.read(2, 0, 48 * BLOCK))[0].data) == 48 * BLOCK


@pytest.mark.parametrize(
    "make",
    [
        lambda reactor: _shim.EmulatedMedia.conventional(reactor, 64, metadata_bytes=64),
        lambda reactor: _shim.EmulatedMedia.zns(reactor, 4, 64, 64),
    ],
    ids=["metadata", "zoned"],
)
def test_a_device_that_nbd_can_not_serve_is_refused(make: Callable[[_shim.Reactor], _shim.EmulatedMedia]) -> None:
    with pytest.raises(ValueError, match=r"metadata|zoned"), nbd_peer(make):
        pass


def test_blocks_of_512_bytes_are_served_as_such() -> None:
    with nbd_peer(lambda reactor: _shim.EmulatedMedia.conventional(reactor, 64, block_bytes=512)) as (peer, _, _device):
        data = content(1536)
        assert peer.exchange(write(1, 512, data))[0].error == OK
        assert peer.exchange(peer.read(2, 512, 1536))[0].data == data
        assert peer.exchange(peer.read(3, 100, 512))[0].error == EINVAL


# --- how a connection ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.0\r\nHost: nowhere.example\r\n\r\n",
        request(READ, 1, magic=0x25609514),
        bytes(28),
        bytes([255]) * 64,
        request(WRITE, 1, 0, 33 * MIB),
    ],
)
def test_nonsense_ends_the_connection(raw: bytes) -> None:
    with nbd_peer(media) as (peer, connection, _device):
        assert peer.exchange(raw) == []
        assert peer.ended
        assert peer.closes == [(_shim.NbdClose.PROTOCOL_ERROR, 0)]
        assert not connection.connected
        assert connection.drained


def test_disc_ends_the_connection_after_the_last_reply() -> None:
    with nbd_peer(media) as (peer, _, _device):
        replies = peer.exchange(write(1, 0, bytes(BLOCK)) + request(FLUSH, 2) + request(DISC, 3) + b"behind its end")
        assert sorted(each.cookie for each in replies) == [1, 2]
        assert peer.ended
        assert peer.closes == [(_shim.NbdClose.DISCONNECTED, 0)]


def test_after_disc_a_client_that_never_reads_is_not_waited_for() -> None:
    with nbd_peer(media) as (peer, connection, _device):
        peer.reactor.step(1)
        peer.send(b"".join(request(READ, cookie, 0, MAX) for cookie in range(4)), request(DISC, 9))
        now_ns = 1
        for _ in range(50):
            peer.reactor.step(now_ns := now_ns + 1000)
        assert connection.connected  # its replies fill the socket
        peer.reactor.step(now_ns + 2_000_000_000)
        assert not connection.connected


@pytest.mark.parametrize("sent", [b"", b"half", write(1, 0, bytes(BLOCK))[:-1], write(1, 0, bytes(MAX))[: 1 << 16]])
def test_a_client_that_dies_leaves_nothing_behind(sent: bytes) -> None:
    with nbd_peer(media) as (peer, connection, device):
        before = device.operations
        peer.exchange(sent)
        peer.hang_up()
        assert peer.closes == [(_shim.NbdClose.PEER_CLOSED, 0)]
        assert connection.drained
        assert device.operations == before  # half a write is none


def test_io_at_the_device_outlives_its_client() -> None:
    with nbd_peer(media) as (peer, connection, device):
        device.inject_fault(latency_us=1000)
        peer.reactor.step(1)
        peer.send(b"".join(write(cookie, cookie * BLOCK, bytes(BLOCK)) for cookie in range(20)))
        for now_ns in range(2, 20):
            peer.reactor.step(now_ns)
        peer.socket.close()
        peer.reactor.step(20)
        peer.reactor.step(21)
        assert not connection.connected
        assert not connection.drained
        peer.reactor.step(5_000_000)
        assert connection.drained


def test_a_pause_of_the_gate_is_a_pause_and_no_write_of_a_dead_client_is_done_behind_it() -> None:
    disks: list[_shim.EmulatedMedia] = []

    def gated(reactor: _shim.Reactor) -> _shim.Gate:
        disks.append(media(reactor))
        return _shim.Gate(reactor, disks[0])

    with nbd_peer(gated) as (one, dying, gate), nbd_peer(gated, beside=one, device=gate) as (two, *_):
        gate.hold()
        assert one.exchange(write(1, 0, content(BLOCK))) == []
        assert two.exchange(write(2, BLOCK, content(BLOCK))) == []
        assert gate.held == 2
        one.hang_up()
        assert not dying.connected
        assert dying.drained
        gate.set_device(disks[0])
        (answer,) = two.exchange(two.read(3, 0, 2 * BLOCK))[-1:]
        two.settle()
        assert answer.data[:BLOCK] == bytes(BLOCK)
        (answer,) = two.exchange(two.read(4, BLOCK, BLOCK))
        assert answer.data == content(BLOCK)
        gate.fail(NOT_READY)
        assert [each.error for each in two.exchange(request(FLUSH, 5))] == [ESHUTDOWN]


def test_close_is_idempotent_and_waits_for_the_device() -> None:
    with nbd_peer(media) as (peer, connection, device):
        device.inject_fault(latency_us=500)
        peer.send(write(1, 0, bytes(BLOCK)))
        peer.reactor.step()
        connection.disconnect()
        assert peer.answers() == []
        assert peer.ended
        connection.close()
        connection.close()
        assert connection.drained
        assert peer.closes == []  # the caller knows


# --- clients that take what they can ---------------------------------------------------------------------------------


def test_a_client_that_never_reads_is_read_no_further_and_holds_nobody_up() -> None:
    with nbd_peer(media) as (greedy, connection, device), nbd_peer(media, beside=greedy, device=device) as (honest, *_):
        unsent = memoryview(b"".join(greedy.read(cookie, 0, BLOCK) for cookie in range(20_000)))
        stuck = 0
        while stuck < 50:
            try:
                unsent = unsent[greedy.socket.send(unsent) :]
                stuck = 0
            except BlockingIOError:
                stuck += 1
            greedy.reactor.step()
        assert unsent, "it takes all that is sent"
        taken = connection.stats().requests
        assert taken < 1000
        before = device.operations
        assert honest.exchange(write(1, 0, bytes(BLOCK)))[0].error == OK
        assert device.operations == before + 1
        assert connection.stats().requests == taken
        # Once it reads, it is served again.
        for _ in range(8):
            greedy.pull()
            greedy.reactor.step()
        assert connection.stats().requests > taken


def test_more_requests_than_slots_wait_in_the_socket() -> None:
    with nbd_peer(media) as (peer, connection, device):
        device.inject_fault(latency_us=1000)
        peer.reactor.step(1)
        peer.send(b"".join(request(FLUSH, cookie) for cookie in range(400)))
        for now_ns in range(2, 30):
            peer.reactor.step(now_ns)
        assert connection.stats().requests == _shim.NBD_REQUESTS
        now_ns = 10_000_000
        while len(peer.rest) < 16 * 400 and now_ns < 10_000_000_000:
            peer.reactor.step(now_ns := now_ns + 1_000_000)
            peer.pull()
        assert sorted(each.cookie for each in answers(peer.rest, {})[0]) == list(range(400))


def test_a_stalled_client_that_dies_is_noticed() -> None:
    """It is not read, so its end does not show there."""
    with nbd_peer(media) as (peer, connection, device):
        device.inject_fault(latency_us=1_000_000)
        peer.reactor.step(1)
        peer.send(b"".join(request(FLUSH, cookie) for cookie in range(400)))
        for now_ns in range(2, 30):
            peer.reactor.step(now_ns)
        peer.socket.close()
        peer.reactor.step(5_000_000)
        assert not connection.connected
        peer.reactor.step(3_000_000_000)
        assert connection.drained


def test_a_threaded_reactor_sleeps_beside_a_client_that_is_not_read() -> None:
    """What such a client has sent is still in the socket, which must not wake the reactor again and again."""
    with nbd_peer(media) as (peer, connection, device):
        device.inject_fault(latency_us=400_000)
        peer.reactor.start()
        try:
            peer.socket.setblocking(True)
            peer.socket.sendall(b"".join(request(FLUSH, cookie) for cookie in range(2 * _shim.NBD_REQUESTS)))
            received = b""
            cpu_s = time.process_time()
            while len(received) < 16 * 2 * _shim.NBD_REQUESTS:
                received += peer.socket.recv(65536)
            assert time.process_time() - cpu_s < 0.2
            assert connection.stats().requests == 2 * _shim.NBD_REQUESTS
        finally:
            peer.reactor.stop()


def test_the_ends_of_a_socket_pair_are_the_peers_alone() -> None:
    """The connection has a duplicate, which goes with it."""
    ours, theirs = socket.socketpair()
    reactor = _shim.Reactor("one")
    connection = _shim.NbdConnection(reactor, ours.fileno(), media(reactor), block_count=BLOCKS)
    ours.close()
    connection.close()
    assert theirs.recv(1) == b""
    theirs.close()

"""SharedTargetQpair against a client made of bytes: commands, where their data lies, flow control, hostile clients."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import _shim
from support.shared_client import (
    APPEND,
    BASE,
    COMPARE,
    COPY,
    DSM,
    FLUSH,
    PAGE,
    READ,
    RESERVATION_REPORT,
    SGL,
    SGL_BLOCK,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
    VERIFY,
    WRITE,
    WRITE_UNCORRECTABLE,
    WRITE_ZEROES,
    ZONE_RECEIVE,
    ZONE_SEND,
    Answer,
    SharedClient,
    descriptor,
    entry,
    memfd,
    shared_client,
)  # fmt: skip

BLOCKS = 1024
OK, OPCODE, FIELD, TRANSFER, NAMESPACE, PREEMPTED = 0, 0x001, 0x002, 0x004, 0x00B, 0x01B
SGL_SEGMENT_BAD, SGL_COUNT, SGL_LENGTH, SGL_TYPE, PRP_OFFSET, RANGE = 0x00D, 0x00E, 0x00F, 0x011, 0x013, 0x080
CONFLICT, WRITE_FAULT = 0x083, 0x280
DEALLOCATE = 4 << 32


@pytest.fixture
def client() -> Iterator[SharedClient]:
    with shared_client() as made:
        yield made


def media(client: SharedClient, **options: Any) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(client.reactor, BLOCKS, volatile_cache=True, **options)


def content(pages: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(pages * PAGE)


def write(client: SharedClient, cid: int, lba: int, page: int, blocks: int = 1) -> bytes:
    """Its data in pages that follow each other; the list of PRPs is in page 200."""
    prps = client.prps(range(page, page + blocks), list_page=200)
    return entry(WRITE, cid, prps=prps, slba=lba, cdw12=blocks - 1)


def read(client: SharedClient, cid: int, lba: int, page: int, blocks: int = 1) -> bytes:
    return entry(READ, cid, prps=client.prps(range(page, page + blocks), list_page=201), slba=lba, cdw12=blocks - 1)


# --- commands --------------------------------------------------------------------------------------------------------


def test_reads_return_what_was_written_wherever_it_lies(client: SharedClient) -> None:
    """Pages in any order, an offset in the first, lists that begin anywhere and go on in further pages."""
    rng = random.Random(7)
    qpair = client.serve({1: media(client)})
    model = bytearray(BLOCKS * PAGE)
    for cid in range(60):
        blocks = rng.choice((1, 1, 2, 3, 8, 31, 32))
        lba = rng.randrange(BLOCKS - blocks)
        offset = rng.choice((0, 0, 4, 512, 4092))
        pages = rng.sample(range(100), blocks + 1)
        list_offset = rng.choice((0, 8, 4096 - 8, 4096 - 16, 4000))
        data = content(blocks, cid)
        needed = pages if offset else pages[:blocks]
        rest = [client.iova(page) for page in needed[1:]]
        second = 0 if not rest else rest[0] if len(rest) == 1 else client.prp_list(rest, 150, list_offset)
        prps = (client.iova(pages[0], offset), second)
        model[lba * PAGE : (lba + blocks) * PAGE] = data
        at = 0
        for number, page in enumerate(needed):
            start = offset if number == 0 else 0
            piece = data[at : at + PAGE - start]
            client.put(page, piece, start)
            at += len(piece)
        assert client.status(entry(WRITE, cid, prps=prps, slba=lba, cdw12=blocks - 1)) == OK
        for page in needed:
            client.put(page, b"\xa5" * PAGE)
        assert client.status(entry(READ, cid, prps=prps, slba=lba, cdw12=blocks - 1)) == OK
        found = client.get(needed[0], PAGE - offset, offset) + b"".join(client.get(page, PAGE) for page in needed[1:])
        assert found[: len(data)] == data
        assert found[len(data) :] == b"\xa5" * (len(found) - len(data))  # nothing behind it
    stats = qpair.stats()
    assert (stats.commands, stats.errors) == (120, 0)
    assert stats.bytes_in == stats.bytes_out == stats.read_blocks * PAGE
    qpair.close()


def test_an_sgl_may_have_pieces_of_any_size(client: SharedClient) -> None:
    qpair = client.serve({1: media(client)})
    data = content(3)
    client.put(0, data)
    one = descriptor(SGL_BLOCK, client.iova(0), 3 * PAGE)
    assert client.status(entry(WRITE, 1, flags=SGL, sgl=one, slba=5, cdw12=2)) == OK
    # A segment with two pieces and the address of the last one, which has three pieces.
    sizes, address, blocks = (100, 3996, 4096, 1, 4095), client.iova(10), []
    for size in sizes:
        blocks.append(descriptor(SGL_BLOCK, address, size))
        address += size + 64
    client.put(50, b"".join([*blocks[:2], descriptor(SGL_LAST_SEGMENT, client.iova(51, 64), 3 * 16)]))
    client.put(51, b"".join(blocks[2:]), 64)
    segment = descriptor(SGL_SEGMENT, client.iova(50), 3 * 16)
    assert client.status(entry(READ, 2, flags=SGL, sgl=segment, slba=5, cdw12=2)) == OK
    found, offset = b"", 0
    for size in sizes:
        found += client.get(10, size, offset)
        offset += size + 64
    assert found == data
    qpair.close()


def test_the_other_commands(client: SharedClient) -> None:
    device = media(client)
    qpair = client.serve({1: device})
    client.put(0, content(8))
    assert client.status(write(client, 1, 0, 0, 8)) == OK
    client.put(9, struct.pack("<IIQ", 0, 1, 1) + struct.pack("<IIQ", 0, 0, 9) + struct.pack("<IIQ", 0, 2, 5))
    ranges = entry(DSM, 2, prps=(client.iova(9), 0), slba=2 | DEALLOCATE)
    assert client.status(ranges) == OK
    assert client.status(entry(WRITE_ZEROES, 3, slba=3, cdw12=0)) == OK
    assert client.status(entry(FLUSH, 4)) == OK
    assert client.status(entry(FLUSH, 5, nsid=0xFFFFFFFF)) == OK
    assert client.status(read(client, 6, 0, 20, 8)) == OK
    blocks = [client.get(20 + i, PAGE) for i in range(8)]
    expected = [content(8)[i * PAGE : (i + 1) * PAGE] for i in range(8)]
    for gone in (1, 3, 5, 6):
        expected[gone] = bytes(PAGE)
    assert blocks == expected
    qpair.close()


def test_what_is_not_offered_is_an_invalid_opcode(client: SharedClient) -> None:
    qpair = client.serve({1: media(client)})
    for opcode in (COMPARE, VERIFY, COPY, RESERVATION_REPORT, 0x0D, 0x11, 0x15, 0x7F, 0x33, ZONE_SEND, APPEND):
        assert client.status(entry(opcode, 1, prps=(client.iova(0), 0))) == OPCODE, hex(opcode)
    assert client.status(entry(WRITE, 2, flags=0x01, prps=(client.iova(0), 0))) == FIELD
    assert client.status(entry(WRITE, 2, flags=0xC0, prps=(client.iova(0), 0))) == FIELD
    assert client.status(entry(WRITE, 3, nsid=2, prps=(client.iova(0), 0))) == NAMESPACE
    assert client.status(entry(READ, 4, slba=BLOCKS, prps=(client.iova(0), 0))) == RANGE
    assert client.status(entry(READ, 5, cdw12=32, prps=(client.iova(0), 0))) == FIELD  # more than max_io_bytes
    assert client.status(entry(WRITE_UNCORRECTABLE, 6)) in (OK, OPCODE)
    assert qpair.stats().errors >= 11
    qpair.close()


def test_zones(client: SharedClient) -> None:
    device = _shim.EmulatedMedia.zns(client.reactor, 4, 64, 48)
    qpair = client.serve({1: device})
    client.put(0, content(2))
    (answer,) = client.run(entry(APPEND, 1, prps=client.prps((0, 1)), slba=64, cdw12=1))
    assert (answer.status, answer.result) == (OK, 64)
    (answer,) = client.run(entry(APPEND, 2, prps=client.prps((1, 0)), slba=64, cdw12=1))
    assert (answer.status, answer.result) == (OK, 66)
    assert client.status(read(client, 3, 64, 20, 4)) == OK
    assert client.get(20, 4 * PAGE) == content(2) + content(2)[PAGE:] + content(2)[:PAGE]
    client.put(30, b"\xff" * PAGE)
    report = entry(ZONE_RECEIVE, 4, prps=(client.iova(30), 0), slba=64, cdw12=PAGE // 4 - 1)
    assert client.status(report) == OK
    assert struct.unpack("<Q", client.get(30, 8)) == (3,)
    assert struct.unpack_from("<QQQ", client.get(30, 64, 64), 8) == (48, 64, 68)
    assert not any(client.get(30, PAGE - 64 * 4, 64 * 4))
    assert client.status(entry(ZONE_SEND, 5, slba=64, cdw13=4)) == OK
    assert client.status(entry(WRITE, 6, prps=(client.iova(0), 0), slba=70)) == 0x1BC
    qpair.close()


def test_a_flush_alarm_fails_one_flush(client: SharedClient) -> None:
    alarm = _shim.FlushAlarm()
    qpair = client.serve({1: media(client)}, flush_alarm=alarm)
    assert [answer.status for answer in client.run(*(entry(FLUSH, cid) for cid in range(3)))] == [WRITE_FAULT, OK, OK]
    assert not alarm.armed
    qpair.close()


# --- bad addresses ---------------------------------------------------------------------------------------------------


def test_addresses_outside_of_all_regions_fail_the_command(client: SharedClient) -> None:
    qpair = client.serve({1: media(client)})
    end = BASE + client.size
    for address in (0, 8, BASE - PAGE, end, end + PAGE, 2**64 - PAGE, 2**63):
        assert client.status(entry(WRITE, 1, prps=(address, 0))) == TRANSFER
        assert client.status(entry(READ, 1, prps=(client.iova(0), address & ~4095), cdw12=1)) == TRANSFER
        assert client.status(entry(READ, 1, prps=(client.iova(0), address), cdw12=2)) == TRANSFER
        lists = client.prp_list([client.iova(1), address & ~4095], 7)
        assert client.status(entry(READ, 1, prps=(client.iova(0), lists), cdw12=2)) == TRANSFER
        block = descriptor(SGL_BLOCK, address, PAGE)
        assert client.status(entry(READ, 1, flags=SGL, sgl=block)) == TRANSFER
        segment = descriptor(SGL_LAST_SEGMENT, address, 16)
        assert client.status(entry(READ, 1, flags=SGL, sgl=segment)) == TRANSFER
    last = descriptor(SGL_BLOCK, end - 100, PAGE)
    assert client.status(entry(READ, 1, flags=SGL, sgl=last)) == TRANSFER
    assert client.status(entry(DSM, 1, prps=(8, 0), slba=DEALLOCATE)) == TRANSFER
    assert qpair.connected
    qpair.close()


def test_rules_of_prps_and_sgls(client: SharedClient) -> None:
    qpair = client.serve({1: media(client)})
    for prps, blocks in (
        ((client.iova(0, 2), 0), 1),
        ((client.iova(0), client.iova(1, 4)), 2),
        ((client.iova(0), client.iova(9, 4)), 3),  # a list at an odd address
        ((client.iova(0), client.prp_list([client.iova(1), client.iova(2, 8)], 9)), 3),
    ):
        assert client.status(entry(READ, 1, prps=prps, cdw12=blocks - 1)) == PRP_OFFSET
    client.put(9, struct.pack("<QQ", client.iova(1), client.iova(20, 8)), PAGE - 16)  # the next page of the list
    assert client.status(entry(READ, 1, prps=(client.iova(0), client.iova(9, PAGE - 16)), cdw12=3)) == PRP_OFFSET

    def sgl(*descriptors: bytes, kind: int = SGL_LAST_SEGMENT, length: int | None = None) -> int:
        client.put(60, b"".join(descriptors))
        first = descriptor(kind, client.iova(60), 16 * len(descriptors) if length is None else length)
        return client.status(entry(READ, 1, flags=SGL, sgl=first))

    page = descriptor(SGL_BLOCK, client.iova(0), PAGE)
    empty = descriptor(SGL_BLOCK, client.iova(0), 0)
    assert sgl(empty, page, empty) == OK
    assert sgl(page, kind=SGL_SEGMENT) == SGL_SEGMENT_BAD  # its last descriptor must be a segment
    assert sgl(page, length=0) == SGL_SEGMENT_BAD
    assert sgl(page, length=17) == SGL_SEGMENT_BAD
    assert sgl(page, descriptor(SGL_BLOCK, client.iova(0), 1)) == SGL_LENGTH
    assert sgl(descriptor(SGL_BLOCK, client.iova(0), PAGE - 1)) == SGL_LENGTH
    assert sgl(descriptor(0x10, 0, PAGE)) == SGL_TYPE  # bit bucket
    assert sgl(descriptor(SGL_SEGMENT, client.iova(60), 16)) == SGL_TYPE
    assert sgl(descriptor(SGL_SEGMENT, client.iova(60), 16), kind=SGL_SEGMENT) == SGL_COUNT  # itself, for ever
    assert sgl(*[empty] * 200, length=16 * 5000) in (SGL_COUNT, TRANSFER)
    pieces = [descriptor(SGL_BLOCK, client.iova(0, 2 * i), 1) for i in range(100)]
    assert sgl(*pieces) == SGL_COUNT  # more than iovecs
    assert client.status(entry(READ, 1, flags=SGL, sgl=descriptor(0x01, client.iova(0), PAGE))) == SGL_TYPE
    qpair.close()


def test_memory_that_the_server_may_only_read(client: SharedClient) -> None:
    client.map.map(0x1000_0000, PAGE, client.fd, client.first_data * PAGE, False)
    qpair = client.serve({1: media(client)})
    client.put(0, content(1))
    assert client.status(entry(WRITE, 1, prps=(0x1000_0000, 0))) == OK
    assert client.status(entry(READ, 2, prps=(0x1000_0000, 0))) == TRANSFER
    assert client.get(0, PAGE) == content(1)
    qpair.close()


# --- queues ----------------------------------------------------------------------------------------------------------


def test_the_queue_wraps_with_phase_and_head(client: SharedClient) -> None:
    qpair = client.serve({1: media(client)})
    cids = [cid * 131 % 65536 for cid in range(200)]
    answers = client.run(*(entry(READ, cid, prps=(client.iova(0), 0)) for cid in cids))
    assert sorted(answer.cid for answer in answers) == sorted(cids)
    assert all(answer.sqhd < client.sq_entries for answer in answers)
    assert answers[-1].sqhd == 200 % client.sq_entries
    qpair.close()


@pytest.mark.parametrize("cq_entries", [2, 3, 8])
def test_a_client_that_takes_no_completions_gets_no_more(cq_entries: int) -> None:
    """Nothing is overwritten, and nothing is lost."""
    with shared_client(sq_entries=16, cq_entries=cq_entries) as client:
        qpair = client.serve({1: media(client)})
        client.push(*(entry(READ, cid, prps=(client.iova(0), 0)) for cid in range(15)))
        client.step(50)
        assert qpair.stats().commands == cq_entries - 1
        seen = client.pop(most=1)
        for _ in range(50):
            client.step(5)
            assert qpair.stats().commands <= len(seen) + cq_entries - 1
            seen += client.pop(most=1)
        assert sorted(answer.cid for answer in seen) == list(range(15))
        qpair.close()


def test_a_queue_over_several_regions_and_pages() -> None:
    with shared_client(sq_entries=256, cq_entries=1024, data_pages=300) as client:
        client.map.unmap(BASE, client.size)
        order = [5, 3, 1, 0, 7, 6, 4, 2]  # of the file's pages, for the 8 pages of both queues
        for number, page in enumerate(order):
            client.map.map(BASE + number * PAGE, PAGE, client.fd, page * PAGE, True)
        client.map.map(client.iova(0), 300 * PAGE, client.fd, client.first_data * PAGE, True)
        assert (client.sq_pages, client.cq_pages) == (4, 4)
        qpair = client.serve({1: media(client)})
        for cid in range(200):
            at = order[cid // 64] * PAGE + cid % 64 * 64
            client.memory[at : at + 64] = entry(READ, cid, prps=(client.iova(0), 0))
        client.doorbell(0, 200)
        client.step(40)
        first = client.memory[order[4] * PAGE : order[4] * PAGE + 200 * 16]
        assert sorted(struct.unpack_from("<12xH", first, at)[0] for at in range(0, 3200, 16)) == list(range(200))
        qpair.close()


def test_a_new_queue_does_not_see_the_doorbells_of_an_old_one(client: SharedClient) -> None:
    client.doorbell(0, 9)
    client.doorbell(1, 5)
    qpair = client.serve({1: media(client)})
    client.step(5)
    assert qpair.stats().commands == 0
    assert qpair.connected
    assert client.status(entry(FLUSH, 1)) == OK
    qpair.close()


@pytest.mark.parametrize(("number", "value"), [(0, 16), (0, 0xFFFFFFFF), (1, 16), (1, 3), (1, 0x80000000)])
def test_an_invalid_doorbell_ends_the_queue(client: SharedClient, number: int, value: int) -> None:
    qpair = client.serve({1: media(client)})
    assert client.status(entry(FLUSH, 1)) == OK
    client.doorbell(number, value)
    client.step(3)
    assert not qpair.connected
    assert qpair.drained
    (event,) = [each for each in client.events if each.kind == _shim.EventKind.SHARED_QPAIR_CLOSED]
    assert (event.source, event.fault, event.detail) == (qpair.id, _shim.SharedFault.INVALID_DOORBELL, value)
    qpair.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sq_iova": BASE + 64}, "page"),
        ({"sq_iova": BASE - PAGE}, "not all of it"),
        ({"cq_iova": 0x1000_0000}, "writable"),
        ({"qid": 0}, "admin"),
        ({"qid": 512}, "qid"),
        ({"sq_entries": 1}, "sq_entries"),
        ({"cq_entries": 4097}, "cq_entries"),
        ({"max_io_bytes": 4097}, "max_io_bytes"),
    ],
)
def test_a_queue_that_cannot_be(client: SharedClient, change: dict[str, int], error: str) -> None:
    client.map.map(0x1000_0000, PAGE, client.fd, 0, False)
    values: dict[str, Any] = {
        "qid": 1, "sq_iova": client.sq_iova, "cq_iova": client.cq_iova, "sq_entries": 16, "cq_entries": 16, **change
    }  # fmt: skip
    config = _shim.SharedQpairConfig(**values)
    with pytest.raises(ValueError, match=error):
        _shim.SharedTargetQpair(client.reactor, client.map, client.bar0_fd, client.record_fd, config, {})


# --- orders ----------------------------------------------------------------------------------------------------------


def test_bars_namespaces_and_aborts(client: SharedClient) -> None:
    device = media(client)
    qpair = client.serve({1: device}, {1: (OK, CONFLICT)})
    assert client.status(read(client, 1, 0, 0)) == OK
    assert client.status(write(client, 2, 0, 0)) == CONFLICT
    qpair.set_bars(1, (CONFLICT, OK))
    assert client.status(read(client, 1, 0, 0)) == CONFLICT
    assert client.status(write(client, 2, 0, 0)) == OK
    qpair.set_bars(1, (OK, OK))
    # A flush of all namespaces is aborted between two of them.
    qpair.set_namespace(2, device)
    fault = device.inject_fault(op=_shim.Op.FLUSH, latency_us=500)
    client.push(entry(FLUSH, 3, nsid=0xFFFFFFFF))
    client.step(3)
    qpair.abort_io(1)
    while qpair.aborting:
        client.step()
    (answer,) = client.pop()
    assert answer.status == PREEMPTED
    device.clear_faults(fault)
    qpair.set_namespace(1, None)
    assert client.status(read(client, 4, 0, 0)) == NAMESPACE
    assert client.status(entry(READ, 5, nsid=2, prps=(client.iova(0), 0))) == OK
    qpair.close()


# --- memory that is taken back ---------------------------------------------------------------------------------------

EXTRA = 0x1000_0000
"""The IOVA of a region for data alone."""


def holding(client: SharedClient, kind: str, page: int) -> tuple[_shim.ErrorInjector, _shim.SharedTargetQpair]:
    """A queue whose device holds one command, with data in the extra region ("inside"), beside it or nowhere. The extra
    region has the file of the client from a page of data on."""
    client.map.map(EXTRA, 4 * PAGE, client.fd, (client.first_data + 8) * PAGE, True)
    device = _shim.ErrorInjector(client.reactor, media(client))
    device.inject(None, "pending", 1)
    qpair = client.serve({1: device})
    command = {
        "inside": entry(READ, 1, prps=(EXTRA + page * PAGE, 0)),
        "two": entry(READ, 1, prps=(client.iova(0), EXTRA + page * PAGE), cdw12=1),
        "beside": entry(READ, 1, prps=(client.iova(8 + page), 0)),
        "nowhere": entry(FLUSH, 1),
    }[kind]
    client.push(command)
    client.step(4)
    assert not client.pop()
    return device, qpair


@pytest.mark.parametrize("kind", ["beside", "nowhere"])
@pytest.mark.parametrize("threaded", [False, True])
def test_memory_that_no_command_uses_is_unmapped_at_once(client: SharedClient, kind: str, threaded: bool) -> None:
    """Whatever a device holds."""
    device, qpair = holding(client, kind, 0)
    if threaded:
        client.reactor.start()
    start = time.monotonic()
    client.map.unmap(EXTRA, 4 * PAGE)
    assert time.monotonic() - start < 0.5
    assert client.map.lingering_count == 0
    if threaded:
        client.reactor.stop()
    assert client.status(entry(READ, 2, prps=(EXTRA, 0))) == TRANSFER
    device.resume_pending()
    client.step(4)
    assert [(answer.cid, answer.status) for answer in client.pop()] == [(1, OK)]
    qpair.close()


@pytest.mark.parametrize(("kind", "page"), [("inside", 3), ("two", 1)])
def test_memory_that_a_held_command_uses_stays_until_it_is_back(client: SharedClient, kind: str, page: int) -> None:
    device, qpair = holding(client, kind, page)
    client.reactor.start()
    start = time.monotonic()
    client.map.unmap(EXTRA, 4 * PAGE)
    assert 0.9 < time.monotonic() - start < 5
    assert (client.map.region_count, client.map.lingering_count) == (1, 1)
    # The address is free, and later commands use what is there now.
    other = memfd("other", 4 * PAGE)
    client.map.map(EXTRA, 4 * PAGE, other, 0, True)
    client.push(entry(READ, 2, prps=(EXTRA, 0)))
    client.map.unmap(EXTRA, 4 * PAGE)
    client.put(8 + page, b"x" * PAGE)
    device.resume_pending()
    answers: list[Answer] = []
    while len(answers) < 2:
        answers += client.pop()
        assert time.monotonic() - start < 10
    assert {answer.cid: answer.status for answer in answers}[1] == OK
    assert client.get(8 + page, PAGE) == bytes(PAGE)
    assert client.map.lingering_count == 0
    assert not client.map.broken
    client.reactor.stop()
    qpair.close()
    os.close(other)


def test_unmapping_waits_for_a_command_that_comes_back(client: SharedClient) -> None:
    client.map.map(EXTRA, PAGE, client.fd, client.first_data * PAGE, True)
    device = media(client)
    qpair = client.serve({1: device})
    device.inject_fault(op=_shim.Op.READ, latency_us=50_000)
    client.reactor.start()
    start = time.monotonic()
    client.push(entry(READ, 1, prps=(EXTRA, 0)))
    while qpair.stats().commands == 0:
        time.sleep(0.0001)
    client.map.unmap(EXTRA, PAGE)
    assert 0.03 < time.monotonic() - start < 0.9
    assert [answer.cid for answer in client.pop()] == [1]
    assert client.map.lingering_count == 0
    client.reactor.stop()
    qpair.close()


def test_clearing_keeps_what_is_in_use(client: SharedClient) -> None:
    device, qpair = holding(client, "two", 1)
    client.map.clear()
    assert (client.map.region_count, client.map.lingering_count) == (0, 2)
    device.resume_pending()
    client.step(4)
    assert client.map.lingering_count == 0
    assert [(answer.cid, answer.status) for answer in client.pop()] == [(1, OK)]
    qpair.close()


def test_a_queue_that_is_closed_lets_go_of_memory(client: SharedClient) -> None:
    device, qpair = holding(client, "inside", 0)
    client.map.clear()
    assert client.map.lingering_count == 1
    device.abort_pending()
    qpair.close()
    assert client.map.lingering_count == 0


def naps_of_the_watch() -> int:
    """How often it went to sleep."""
    (task,) = (task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == "doorbells\n")
    (line,) = (each for each in (task / "status").read_text().splitlines() if each.startswith("voluntary_ctxt"))
    return int(line.split()[1])


@pytest.mark.parametrize("queues", [1, 8])
def test_idle_queues_sleep_and_wake(queues: int) -> None:
    """First in naps, then another thread looks for all of them."""
    with ExitStack() as stack:
        reactor = _shim.Reactor("idle")
        clients = [stack.enter_context(shared_client(reactor)) for _ in range(queues)]
        qpairs = [client.serve({1: media(client)}) for client in clients]
        reactor.start()
        for pause, rounds in ((0.0, 6000), (0.001, 6000), (0.1, 10), (0.3, 10)):
            time.sleep(pause)
            start = reactor.rounds
            time.sleep(0.05)
            assert reactor.rounds - start < rounds
            for client in clients:
                client.push(read(client, 9, 0, 0))
                began = time.monotonic()
                while not client.pop():
                    assert time.monotonic() - began < 5
        # The longer nobody rings, the seldomer that thread looks; but closely again behind the next work.
        time.sleep(1.5)
        before = naps_of_the_watch()
        time.sleep(0.2)
        assert naps_of_the_watch() - before < 30
        client = clients[0]
        client.push(read(client, 9, 0, 0))
        began = time.monotonic()
        while not client.pop():
            assert time.monotonic() - began < 5
        time.sleep(0.05)
        before = naps_of_the_watch()
        time.sleep(0.2)
        assert naps_of_the_watch() - before > 30
        # A client that makes room for completions wakes it, too.
        client.push(*(entry(READ, cid, prps=(client.iova(0), 0)) for cid in range(15)))
        time.sleep(0.05)
        assert len(client.pop(ring=False)) == 15
        client.push(*(entry(READ, cid, prps=(client.iova(0), 0)) for cid in range(9)))
        time.sleep(0.05)
        assert not client.pop(ring=False)
        client.doorbell(1, client.head)
        began = time.monotonic()
        while not client.pop():
            assert time.monotonic() - began < 5
        reactor.stop()
        for qpair in qpairs:
            qpair.close()


def test_regions_change_under_load(client: SharedClient) -> None:
    """Another thread maps and unmaps what no command uses."""
    qpair = client.serve({1: media(client)})
    client.reactor.start()
    stop = threading.Event()

    def change() -> None:
        rng = random.Random(3)
        while not stop.is_set():
            at = rng.randrange(1, 200) * PAGE
            client.map.map(at, PAGE, client.fd, 0, True)
            client.map.unmap(at, PAGE)

    thread = threading.Thread(target=change)
    thread.start()
    cid, until, answered = 0, time.monotonic() + 0.5, 0
    while time.monotonic() < until:
        while (client.tail + 1 - answered) % 16 != 15 and cid - answered < 14:
            cid += 1
            client.push(read(client, cid % 65536, 0, 0))
        for answer in client.pop():
            assert answer.status == OK
            answered += 1
    stop.set()
    thread.join()
    assert answered > 100
    client.reactor.stop()
    qpair.close()


# --- hostile clients -------------------------------------------------------------------------------------------------


def test_garbage_in_entries_lists_and_doorbells() -> None:
    for seed in range(12):
        rng = random.Random(seed)
        with shared_client(sq_entries=rng.choice((2, 16, 100)), cq_entries=rng.choice((2, 16, 300))) as client:
            zoned = _shim.EmulatedMedia.zns(client.reactor, 4, 64, 48)
            devices: dict[int, _shim.BlockDevice] = {1: media(client), 2: zoned, 3: media(client, metadata_bytes=64)}
            qpair = client.serve(devices)
            for _ in range(60):
                client.memory[: client.sq_pages * PAGE] = rng.randbytes(client.sq_pages * PAGE)
                for at in range(client.sq_entries):
                    if rng.random() < 0.8:
                        addresses = [rng.choice((client.iova(rng.randrange(256)), rng.getrandbits(64))) for _ in "12"]
                        client.memory[at * 64 : at * 64 + 64] = entry(
                            rng.choice((FLUSH, WRITE, READ, DSM, WRITE_ZEROES, ZONE_RECEIVE, ZONE_SEND, APPEND)),
                            rng.getrandbits(16),
                            nsid=rng.randrange(5),
                            flags=rng.choice((0, 0, SGL, 1)),
                            prps=(addresses[0], addresses[1]),
                            slba=rng.choice((rng.randrange(BLOCKS), rng.getrandbits(64))),
                            cdw12=rng.choice((rng.randrange(40), rng.getrandbits(32))),
                            cdw13=rng.choice((rng.randrange(6), rng.getrandbits(32))),
                        )
                client.put(rng.randrange(256), struct.pack("<512Q", *(client.iova(i % 256) for i in range(512))))
                client.put(rng.randrange(256), rng.randbytes(PAGE))
                client.doorbell(0, rng.randrange(client.sq_entries))
                if rng.random() < 0.5:
                    client.pop()
                if rng.random() < 0.02:
                    client.doorbell(rng.randrange(2), rng.getrandbits(32))
                client.step(rng.randrange(4))
            qpair.close()
            assert qpair.drained

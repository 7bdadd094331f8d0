"""Emulated conventional and null media: data, files, bad requests, volatile cache."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import Stepped, block, blocks

INVALID_OPCODE, INVALID_FIELD, DATA_LENGTH, OUT_OF_RANGE, POWER_LOSS = 0x001, 0x002, 0x00F, 0x080, 0x005


@pytest.fixture
def reactor() -> _shim.Reactor:
    return _shim.Reactor("media")


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("block_bytes", "metadata_bytes"), [(4096, 0), (512, 0), (4096, 64), (512, 8)])
def test_what_was_written_is_read_and_the_rest_is_zeroes(
    reactor: _shim.Reactor, block_bytes: int, metadata_bytes: int
) -> None:
    media = _shim.EmulatedMedia.conventional(reactor, 100, block_bytes=block_bytes, metadata_bytes=metadata_bytes)
    size = block_bytes + metadata_bytes
    assert (media.block_bytes, media.metadata_bytes, media.zoned) == (size, metadata_bytes, False)
    with Stepped(reactor, media) as io:
        assert io.write(97, blocks(1, 3, size)) == 0
        assert io.read(96, 4) == bytes(size) + blocks(1, 3, size)


@pytest.mark.parametrize("in_file", [False, True])
def test_write_zeroes_and_deallocate_of_any_alignment_clear_exactly_their_blocks(
    reactor: _shim.Reactor, tmp_path: Path, in_file: bool
) -> None:
    path = str(tmp_path / "disk") if in_file else None
    media = _shim.EmulatedMedia.conventional(reactor, 1024, block_bytes=512, path=path, max_io_blocks=1024)
    with Stepped(reactor, media) as io:
        for op in (_shim.Op.WRITE_ZEROES, _shim.Op.DEALLOCATE):
            for first, count in ((3, 1), (5, 600), (8, 1016), (0, 1024)):
                content = bytearray(blocks(0, 1024, 512))
                assert io.write(0, bytes(content)) == 0
                assert io.run(op, first, count) == 0
                content[first * 512 : (first + count) * 512] = bytes(count * 512)
                assert io.read(0, 1024) == bytes(content)


def test_deallocate_gives_memory_back(reactor: _shim.Reactor) -> None:
    block_count = 16384
    media = _shim.EmulatedMedia.conventional(reactor, block_count)
    with Stepped(reactor, media) as io:
        before = resident_bytes()
        data = bytes(range(256)) * (256 * 16)
        for lba in range(0, block_count, 256):
            assert io.write(lba, data) == 0
        assert resident_bytes() - before > 60 << 20
        assert io.run(_shim.Op.DEALLOCATE, 0, block_count) == 0
        assert resident_bytes() - before < 8 << 20


def test_a_dropped_device_frees_its_memory(reactor: _shim.Reactor) -> None:
    before = resident_bytes()
    for _ in range(3):
        media = _shim.EmulatedMedia.conventional(reactor, 16384)
        with Stepped(reactor, media) as io:
            for lba in range(0, 16384, 256):
                io.write(lba, bytes(256 * 4096))
        del io, media
    gc.collect()
    assert resident_bytes() - before < 32 << 20


@pytest.mark.parametrize(
    ("op", "lba", "block_count", "status"),
    [
        (_shim.Op.READ, 100, 1, OUT_OF_RANGE),
        (_shim.Op.READ, 99, 2, OUT_OF_RANGE),
        (_shim.Op.READ, 2**64 - 1, 1, OUT_OF_RANGE),
        (_shim.Op.WRITE, 2**64 - 1, 2, OUT_OF_RANGE),
        (_shim.Op.WRITE, 0, 17, INVALID_FIELD),
        (_shim.Op.READ, 0, 17, INVALID_FIELD),
        (_shim.Op.WRITE_ZEROES, 50, 51, OUT_OF_RANGE),
        (_shim.Op.WRITE_ZEROES, 0, 0, INVALID_FIELD),
        (_shim.Op.DEALLOCATE, 100, 1, OUT_OF_RANGE),
        (_shim.Op.APPEND, 0, 1, INVALID_OPCODE),
        (_shim.Op.ZONE_SEND, 0, 0, INVALID_OPCODE),
        (_shim.Op.ZONE_REPORT, 0, 0, INVALID_OPCODE),
        (_shim.Op.FLUSH, 0, 0, 0),
    ],
)
@pytest.mark.parametrize("kind", ["conventional", "null"])
def test_bad_requests_get_their_status(
    reactor: _shim.Reactor, kind: str, op: _shim.Op, lba: int, block_count: int, status: int
) -> None:
    if kind == "null":
        media = _shim.EmulatedMedia.null(reactor, 100)
        if block_count == 17:
            status = 0
    else:
        media = _shim.EmulatedMedia.conventional(reactor, 100, max_io_blocks=16)
    with Stepped(reactor, media) as io:
        buffer = bytearray(4096 * max(1, block_count)) if op not in (_shim.Op.FLUSH, _shim.Op.ZONE_SEND) else None
        assert io.wait(io.port.submit(op, lba, block_count, buffer)).status == status


def test_null_media_forgets_everything(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.null(reactor, 2**30)
    with Stepped(reactor, media) as io:
        assert io.write(2**30 - 1, block(1)) == 0
        assert io.read(2**30 - 1) == bytes(4096)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_count": 0}, "block_count 0"),
        ({"block_count": 2**60}, "64 TiB"),
        ({"block_count": 1, "block_bytes": 1000}, "power of two"),
        ({"block_count": 1, "block_bytes": 256}, "power of two"),
        ({"block_count": 1, "metadata_bytes": 65}, "metadata_bytes 65"),
        ({"block_count": 1, "max_io_blocks": 0}, "max_io_blocks"),
    ],
)
def test_media_that_makes_no_sense_is_refused(reactor: _shim.Reactor, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _shim.EmulatedMedia.conventional(reactor, **arguments)  # type: ignore[arg-type]


# ---- files -----------------------------------------------------------------------------------------------------


def test_a_file_keeps_its_data_and_is_sparse(reactor: _shim.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    media = _shim.EmulatedMedia.conventional(reactor, 2**18, path=str(path))
    with Stepped(reactor, media) as io:
        assert io.write(2**18 - 256, blocks(0, 255)) == 0
        assert io.write(2**18 - 1, block(5), fua=True) == 0
        assert io.flush() == 0
    del io, media
    assert path.stat().st_size == 2**30
    assert 1 << 20 <= path.stat().st_blocks * 512 < 2 << 20
    again = _shim.EmulatedMedia.conventional(reactor, 2**18, path=str(path))
    with Stepped(reactor, again) as io:
        assert io.read(2**18 - 1) == block(5)
        assert io.run(_shim.Op.DEALLOCATE, 0, 2**18) == 0
        assert io.read(2**18 - 1) == bytes(4096)
    assert path.stat().st_blocks * 512 < 64 << 10


def test_a_file_serves_one_drive_at_a_time(reactor: _shim.Reactor, tmp_path: Path) -> None:
    path = str(tmp_path / "disk")
    media = _shim.EmulatedMedia.conventional(reactor, 16, path=path)
    with pytest.raises(OSError, match="in use by another emulated drive"):
        _shim.EmulatedMedia.conventional(reactor, 16, path=path)
    del media
    _shim.EmulatedMedia.conventional(reactor, 16, path=path)


def test_a_path_that_can_not_be_used_is_named(reactor: _shim.Reactor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _shim.EmulatedMedia.conventional(reactor, 16, path=str(tmp_path / "nowhere" / "disk"))
    with pytest.raises(ValueError, match="not a regular file"):
        _shim.EmulatedMedia.conventional(reactor, 16, path="/dev/null")


def test_a_file_cut_short_behind_our_back_fails_reads_and_nothing_else(reactor: _shim.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    media = _shim.EmulatedMedia.conventional(reactor, 16, path=str(path))
    with Stepped(reactor, media) as io:
        os.truncate(path, 4096)
        assert io.read_status(4) == 0x281
        assert io.read(0) == bytes(4096)


def test_written_data_survives_kill_9(reactor: _shim.Reactor, tmp_path: Path) -> None:
    script = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from spdk_ftl_py import _shim
from unit.shim.stepped import Stepped, blocks
reactor = _shim.Reactor("victim")
media = _shim.EmulatedMedia.conventional(reactor, 64, path=sys.argv[1], volatile_cache=True)
io = Stepped(reactor, media)
assert io.write(10, blocks(1, 20)) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = str(tmp_path / "disk")
    arguments = [sys.executable, "-c", script, path, *sys.path]
    assert subprocess.run(arguments, check=False, timeout=60).returncode == -9
    media = _shim.EmulatedMedia.conventional(reactor, 64, path=path)
    with Stepped(reactor, media) as io:
        assert io.read(10, 20) == blocks(1, 20)


# ---- volatile cache --------------------------------------------------------------------------------------------


def cut_and_read(seed: int, *, volatile_cache: bool = True) -> tuple[set[int], set[int]]:
    """Of 32 blocks with durable version 1: which have version 2 after a power cut, and which neither."""
    reactor = _shim.Reactor("cut")
    media = _shim.EmulatedMedia.conventional(reactor, 64, volatile_cache=volatile_cache)
    with Stepped(reactor, media) as io:
        assert io.write(0, blocks(0, 32)) == 0
        assert io.flush() == 0
        assert io.write(0, blocks(100, 16)) == 0
        assert io.write(16, blocks(200, 16)) == 0
        assert io.write(16, blocks(116, 16)) == 0
        media.power_cut(seed)
        assert io.read_status(0) == POWER_LOSS
        media.power_on()
        found = io.read(0, 32)
    old = {i for i in range(32) if found[i * 4096 : (i + 1) * 4096] == block(i)}
    new = {i for i in range(32) if found[i * 4096 : (i + 1) * 4096] == block(100 + i)}
    return new, set(range(32)) - old - new


def test_a_power_cut_takes_any_subset_of_unflushed_blocks_and_no_other() -> None:
    kept = []
    for seed in range(40):
        new, neither = cut_and_read(seed)
        assert not neither
        assert cut_and_read(seed)[0] == new
        kept.append(len(new))
    assert min(kept) == 0
    assert max(kept) == 32
    assert any(0 < count < 32 for count in kept)


def test_without_a_volatile_cache_a_power_cut_takes_nothing_completed() -> None:
    for seed in range(10):
        assert cut_and_read(seed, volatile_cache=False) == (set(range(32)), set())


def test_an_fua_write_is_durable_at_once(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.conventional(reactor, 64, volatile_cache=True)
    with Stepped(reactor, media) as io:
        for seed in range(20):
            assert io.write(0, blocks(seed, 8)) == 0
            assert io.write(2, blocks(1000 + seed, 2), fua=True) == 0
            media.power_cut(seed)
            media.power_on()
            assert io.read(2, 2) == blocks(1000 + seed, 2)


def test_zeroing_is_as_volatile_as_writing(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.conventional(reactor, 64, volatile_cache=True)
    with Stepped(reactor, media) as io:
        outcomes = set()
        for seed in range(20):
            assert io.write(0, blocks(1, 1)) == 0
            assert io.flush() == 0
            assert io.run([_shim.Op.WRITE_ZEROES, _shim.Op.DEALLOCATE][seed % 2], 0, 1) == 0
            media.power_cut(seed)
            media.power_on()
            outcomes.add(io.read(0))
        assert outcomes == {block(1), bytes(4096)}


def test_outstanding_writes_are_torn_between_blocks_and_complete_with_power_loss(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.conventional(reactor, 64)
    with Stepped(reactor, media) as io:
        mixtures = set()
        for seed in range(30):
            assert io.write(0, blocks(0, 8)) == 0
            media.inject_fault(op=_shim.Op.WRITE, latency_us=1000, times=1)
            ticket = io.port.submit(_shim.Op.WRITE, 0, 8, blocks(100, 8))
            io.step()
            io.step()
            media.power_cut(seed)
            assert io.wait(ticket).status == POWER_LOSS
            media.power_on()
            found = io.read(0, 8)
            for i in range(8):
                assert found[i * 4096 : (i + 1) * 4096] in (block(i), block(100 + i))
            mixtures.add(found)
        assert len(mixtures) > 10


def test_what_is_hidden_is_there_once_it_has_grown() -> None:
    reactor = _shim.Reactor("grows")
    media = _shim.EmulatedMedia.conventional(reactor, 16, hidden_blocks=8, volatile_cache=True)
    assert media.block_count == 16
    with Stepped(reactor, media) as io:
        assert io.write(15, block(1)) == 0
        assert io.write(16, block(2)) == OUT_OF_RANGE
        media.grow()
        assert media.block_count == 24
        assert io.read(23) == bytes(4096)
        assert io.write(23, block(3)) == 0
        assert (io.read(15), io.read(23)) == (block(1), block(3))


def test_what_is_in_a_file_does_not_hide(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="media that grows must be in memory"):
        _shim.EmulatedMedia.conventional(_shim.Reactor("file"), 16, hidden_blocks=1, path=str(tmp_path / "file"))

"""Reading a write buffer file that somebody else may have written: every length and crc is checked."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError, UnsupportedError
from spdk_ftl_py.ftl.load.write_buffer_file import HEADER, RECORD, SLOT, BufferFiles
from unit.ftl.load.restore_rig import MakeRestoreRig
from unit.ftl.load.test_write_buffer_survives import files_in
from unit.shim.ftl.core_bench import BLOCK, UUID_OF_TESTS, Bench, content, version_of

UNRECOVERED_READ = 0x281
CRC_AT, VERSION_AT, SLOT_COUNT_AT, DATA_OFFSET_AT = 12, 8, 32, 56


def written(directory: Path) -> tuple[BufferFiles, Path, int]:
    """The file of a core that holds five blocks and a trim; its device's size."""
    files = BufferFiles(directory, UUID_OF_TESTS)
    path = files.path(1)
    with Bench(write_buffer_path=str(path)) as bench:
        for lba in range(5):
            bench.put(lba, lba + 1)
        assert bench.run(_shim.Op.DEALLOCATE, 4, 3) == 0
        return files, path, bench.block_count


def overwrite(raw: bytearray, at: int, data: bytes, *, seal: bool = True) -> None:
    raw[at : at + len(data)] = data
    if seal:
        raw[CRC_AT : CRC_AT + 4] = bytes(4)
        raw[CRC_AT : CRC_AT + 4] = _shim.crc32c(raw[: HEADER.itemsize]).to_bytes(4, "little")


def change(path: Path, at: int, data: bytes, *, seal: bool = True) -> None:
    raw = bytearray(path.read_bytes())
    overwrite(raw, at, data, seal=seal)
    path.write_bytes(raw)


def test_what_the_shim_wrote_is_read(tmp_path: Path) -> None:
    files, _, block_count = written(tmp_path)
    held = files.read(1, block_count)
    assert held is not None
    assert [(int(b["lba"]), int(b["seq"])) for b in held.blocks] == [(lba, lba + 1) for lba in range(5)]
    assert [version_of(lba, block.tobytes()) for lba, block in enumerate(held.data)] == [1, 2, 3, 4, 5]
    assert [tuple(map(int, record)) for record in held.records] == [(4, 6, 3, 1)]
    assert (held.highest_seq, held.damaged, held.damage) == (6, {}, [])


@pytest.mark.parametrize("incarnation", [0, 2])
def test_of_another_incarnation_there_is_none(incarnation: int, tmp_path: Path) -> None:
    files, _, block_count = written(tmp_path)
    assert files.read(incarnation, block_count) is None


@pytest.mark.parametrize(
    ("at", "data", "seal"),
    [
        (0, b"X", True),
        (40, b"\1", False),
        (16, b"\0", True),
        (SLOT_COUNT_AT, struct.pack("<I", 33), True),
        (SLOT_COUNT_AT, struct.pack("<I", 0xFFFFFFFF), True),
        (SLOT_COUNT_AT + 4, struct.pack("<I", 0xFFFFFFFF), True),
        (40, struct.pack("<Q", 1 << 63), True),
        (48, struct.pack("<Q", (1 << 64) - 8), True),
        (DATA_OFFSET_AT, struct.pack("<Q", (1 << 64) - 1), True),
        (64, struct.pack("<Q", 5), True),
    ],
)
def test_a_header_that_makes_no_sense_is_no_file(at: int, data: bytes, seal: bool, tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    change(path, at, data, seal=seal)
    assert files.read(1, block_count) is None


def test_a_file_cut_off_is_no_file(tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    for size in (path.stat().st_size - 1, BLOCK, 71, 0):
        os.truncate(path, size)
        assert files.read(1, block_count) is None


def test_another_format_version_is_refused_by_name(tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    change(path, VERSION_AT, struct.pack("<I", 2))
    with pytest.raises(UnsupportedError, match="format version 2"):
        files.read(1, block_count)


def test_a_block_that_does_not_match_its_crc_is_a_lost_one(tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    at = path.read_bytes().index(content(2, 3))
    change(path, at + 100, b"?", seal=False)
    held = files.read(1, block_count)
    assert held is not None
    assert [int(lba) for lba in held.blocks["lba"]] == [0, 1, 3, 4]
    assert [tuple(map(int, record)) for record in held.records] == [(4, 6, 3, 1), (2, 3, 1, 2)]
    assert list(held.damaged) == [3]


@pytest.mark.parametrize(
    ("offset", "data"),
    [(0, struct.pack("<Q", 1 << 40)), (8, bytes(8)), (8, b"\xff" * 8), (20, struct.pack("<I", 7))],
    ids=["lba", "no seq", "seq", "state"],
)
def test_a_slot_that_makes_no_sense_is_damage(offset: int, data: bytes, tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    change(path, BLOCK + 2 * SLOT.itemsize + offset, data, seal=False)
    held = files.read(1, block_count)
    assert held is not None
    assert len(held.blocks) == 4
    assert len(held.damage) == 1


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, struct.pack("<Q", 1 << 63)),
        (8, bytes(8)),
        (16, struct.pack("<I", 0xFFFFFFFF)),
        (16, bytes(4)),
        (20, struct.pack("<I", 3)),
        (24, struct.pack("<I", 9)),
    ],
    ids=["lba", "seq", "too many", "none", "flags", "state"],
)
def test_a_record_that_makes_no_sense_is_damage(offset: int, data: bytes, tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    (records_offset,) = struct.unpack_from("<Q", path.read_bytes(), 48)
    assert RECORD.itemsize == 32
    change(path, records_offset + offset, data, seal=False)
    held = files.read(1, block_count)
    assert held is not None
    assert len(held.records) == 0
    assert len(held.damage) == 1


async def test_a_load_refuses_a_damaged_block_and_with_allow_open_bands_it_reads_as_an_error(
    tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.port.write(5, content(5, 1))
    await rig.port.flush()
    await rig.port.write(5, content(5, 2))
    await rig.port.write(6, content(6, 2))
    await rig.crash()
    path = tmp_path / f"{rig.device.uuid}.1.wbuf"
    change(path, path.read_bytes().index(content(5, 2)) + 9, b"?", seal=False)
    with pytest.raises(FtlError, match="LBA 5 does not match its CRC"):
        await rig.load()
    assert [name.split(".")[-1] for name in files_in(tmp_path)] == ["wbuf"]
    await rig.load(settings={"allow_open_bands": True})
    assert rig.device.restored is not None
    assert rig.device.restored["lossy"] is True
    with pytest.raises(FtlError):
        await rig.port.read(5, 1)
    assert version_of(6, (await rig.port.read(6, 1))[0].tobytes()) == 2
    await rig.port.write(5, content(5, 3))
    assert version_of(5, (await rig.port.read(5, 1))[0].tobytes()) == 3


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_in_the_file_never_breaks_the_reader(seed: int, tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    rng = random.Random(seed)
    raw = path.read_bytes()
    tables = struct.unpack_from("<Q", raw, DATA_OFFSET_AT)[0]
    for _ in range(40):
        damaged = bytearray(raw)
        for _ in range(rng.choice([1, 3, 50])):
            at = rng.choice([rng.randrange(HEADER.itemsize), BLOCK + rng.randrange(800), rng.randrange(tables)])
            overwrite(damaged, at, rng.choice([b"\xff" * 8, bytes(8), rng.randbytes(8)]), seal=rng.random() < 0.7)
        path.write_bytes(damaged)
        try:
            held = files.read(1, block_count)
        except UnsupportedError:
            continue
        if held is None:
            continue
        assert (held.blocks["lba"] < block_count).all()
        for block, data in zip(held.blocks, held.data, strict=True):
            assert _shim.crc32c(data.tobytes()) == int(block["crc"])
        for record in held.records:
            assert int(record["lba"]) + int(record["block_count"]) <= block_count


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for directory, message in ((shared, "chmod go-w"), (link, "is a symbolic link"), (tmp_path / "no", "No such file")):
        with pytest.raises(FtlError, match=message):
            BufferFiles.acquire(directory, UUID_OF_TESTS)


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    files, path, block_count = written(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FtlError, match="symbolic links"):
        files.read(1, block_count)
    with Bench(write_buffer_path=str(path)) as bench:
        bench.put(1, 1)
        assert not path.is_symlink()

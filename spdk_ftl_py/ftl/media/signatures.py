"""Recognizes the data of others on a bdev: the magic numbers of file systems, partition tables, volume managers and
SPDK's own modules, as blkid knows them. Every part of this package that erases a bdev asks this table first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .blockdev import BlockPort
from .geometry import BLOCK_BYTES
from .layout import SUPERBLOCK_MAGIC, SUPERBLOCK_PART_MAGIC
from .zone import OFFLINE, Zone

log = logging.getLogger(__name__)

KIB: Final = 1024
SECTOR_BYTES: Final = 512
MD_MAGIC: Final = (0xA92B4EFC).to_bytes(4, "little")
SPDK_FTL: Final = "an FTL of SPDK"
LOG_ZONES: Final = 2
"""btrfs writes its first superblock to zones 0 and 1 in turn."""


@dataclass(frozen=True)
class Signature:
    """offsets: in bytes from the start of the device; negative ones from its end."""

    name: str
    magic: bytes
    offsets: Sequence[int]


def _at(name: str, magic: bytes, *offsets: int) -> Signature:
    return Signature(name, magic, offsets)


SIGNATURES: Final[tuple[Signature, ...]] = (
    # Sources: util-linux 2.40, libblkid/src/{superblocks,partitions}; SPDK v26.05, where it says SPDK. FTLs of this
    # package: the search for a superblock finds them with their name; this table covers the places where it does not
    # look.
    _at("an FTL of this package", SUPERBLOCK_MAGIC, 0),
    _at("an FTL of this package", SUPERBLOCK_PART_MAGIC, 0),
    _at("the nv cache of an FTL of this package", b"FTLNVCAC", 0, BLOCK_BYTES),
    _at("an SPDK blobstore or lvol store", b"SPDKBLOB", 0),  # lib/blob/blobstore.h
    _at("a base bdev of an SPDK raid", b"SPDKRAID", 0),  # module/bdev/raid/bdev_raid.h
    _at(SPDK_FTL, (0x1410_1683_1920_1989).to_bytes(8, "little"), 0),  # lib/ftl/ftl_sb_common.h
    _at("a LUKS volume", b"LUKS\xba\xbe", 0),
    _at("a LUKS volume", b"SKUL\xba\xbe", *(kib * KIB for kib in (16, 32, 64, 128))),
    _at("an LVM physical volume", b"LABELONE", *(sector * SECTOR_BYTES for sector in range(4))),
    _at("a member of an md raid", MD_MAGIC, 0, 4 * KIB, -8 * KIB),  # versions 1.1, 1.2, 1.0
    Signature("a member of an md raid", MD_MAGIC, range(-124 * KIB, -60 * KIB, 4 * KIB)),  # version 0.90
    _at("a bcachefs file system", bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), 4 * KIB + 24),
    _at("a bcache device", bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), 4 * KIB + 24),
    Signature("a ZFS pool", (0x00BAB10C).to_bytes(8, "little"), range(128 * KIB, 256 * KIB, KIB)),
    Signature("a ZFS pool", (0x00BAB10C).to_bytes(8, "big"), range(128 * KIB, 256 * KIB, KIB)),
    _at("a Ceph OSD", b"bluestore block device", 0),
    _at("an xfs file system", b"XFSB", 0),
    _at("a btrfs file system", b"_BHRfS_M", 64 * KIB + 64),
    _at("an f2fs file system", (0xF2F52010).to_bytes(4, "little"), KIB, 5 * KIB),
    _at("an ext2, ext3 or ext4 file system", b"\x53\xef", KIB + 0x38),
    _at("a zonefs file system", b"SFOZ", 0),
    _at("a swap area", b"SWAPSPACE2", 4 * KIB - 10, 64 * KIB - 10),
    _at("a swap area", b"SWAP-SPACE", 4 * KIB - 10, 64 * KIB - 10),
    _at("an NTFS file system", b"NTFS    ", 3),
    _at("an exFAT file system", b"EXFAT   ", 3),
    _at("a BitLocker volume", b"-FVE-FS-", 3),
    _at("a FAT file system", b"FAT32   ", 0x52),
    _at("a FAT file system", b"FAT16   ", 0x36),
    _at("a FAT file system", b"FAT12   ", 0x36),
    _at("a gfs2 file system", bytes.fromhex("01161970"), 64 * KIB),
    _at("an ocfs2 file system", b"OCFSV2", *(kib * KIB for kib in (1, 2, 4, 8))),
    _at("a jfs file system", b"JFS1", 32 * KIB),
    _at("a squashfs file system", b"hsqs", 0),
    _at("an erofs file system", (0xE0F5E1E2).to_bytes(4, "little"), KIB),
    _at("an ISO 9660 file system", b"CD001", 32 * KIB + 1),
    _at("a partition table (GPT)", b"EFI PART", SECTOR_BYTES, BLOCK_BYTES, -SECTOR_BYTES, -BLOCK_BYTES),
    _at("a partition table (MBR)", b"\x55\xaa", SECTOR_BYTES - 2),
)
"""In order of precedence: a GPT also has an MBR, and so do some file systems."""

ZONED_SIGNATURES: Final[tuple[Signature, ...]] = (_at("a btrfs file system", b"_BHRfS_M", 64),)
"""At the start of each of the first zones of a zoned device."""


async def find_foreign(port: BlockPort, zones: Sequence[Zone] = (), *, first_block: int = 0) -> str | None:
    """What is on a device, in words; None if nothing is recognized. zones: of a zoned device; unwritten parts of them
    are not read. first_block: blocks before it are ignored, as if the device began there.

    A block that can't be read counts as empty, because many drives answer with an error to reads of blocks that were
    never written. Raises MediaError if the device is gone.
    """
    area = range(first_block, port.device.block_count)
    blocks = await _read(port, _wanted(SIGNATURES, area), zones)
    for signature in SIGNATURES:
        places = (_place(offset, area) for offset in signature.offsets)
        if any(_stands(blocks, place, signature.magic) for place in places):
            return signature.name
    for zone in zones[:LOG_ZONES]:
        firsts = await _read(port, {zone.start}, zones)
        for signature in ZONED_SIGNATURES:
            if any(_stands(firsts, zone.start * BLOCK_BYTES + at, signature.magic) for at in signature.offsets):
                return signature.name
    return None


def _place(offset: int, area: range) -> int:
    return (area.start if offset >= 0 else area.stop) * BLOCK_BYTES + offset


def _wanted(signatures: Sequence[Signature], area: range) -> set[int]:
    """The blocks in which they stand. None of them crosses the end of a block."""
    places = {_place(offset, area) // BLOCK_BYTES for each in signatures for offset in each.offsets}
    return {block for block in places if block in area}


async def _read(port: BlockPort, wanted: set[int], zones: Sequence[Zone]) -> dict[int, bytes]:
    """The data of the blocks that can be read, by block."""
    found: dict[int, bytes] = {}
    unreadable = 0
    for first, count in _runs(sorted(block for block in wanted if not zones or _written(port, zones, block))):
        rows, readable = await port.read_what_can_be(first, count)
        unreadable += int(np.count_nonzero(~readable))
        found.update((first + int(i), rows[i, :BLOCK_BYTES].tobytes()) for i in np.flatnonzero(readable))
    if unreadable:
        log.warning("%s: can't read %d blocks, so whether they hold data is unknown", port.name, unreadable)
    return found


def _written(port: BlockPort, zones: Sequence[Zone], block: int) -> bool:
    index, offset = divmod(block, port.device.zone_size)
    return index < len(zones) and zones[index].state != OFFLINE and offset < zones[index].written


def _runs(blocks: list[int]) -> list[tuple[int, int]]:
    """First block and length of each run."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs


def _stands(blocks: dict[int, bytes], place: int, magic: bytes) -> bool:
    block, offset = divmod(place, BLOCK_BYTES)
    return block in blocks and blocks[block][offset : offset + len(magic)] == magic

"""What others have put on a bdev is found, wherever their magic numbers stand."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.signatures import SIGNATURES, find_foreign
from spdk_ftl_py.runtime.reactor import ReactorLoop

BLOCKS = 512
UNRECOVERED_READ = 0x281
PATH_ERROR = 0x370
PLACES = [
    pytest.param(each.name, each.magic, offset, id=f"{each.name} at {offset}")
    for each in SIGNATURES
    for offset in (each.offsets if len(each.offsets) < 10 else (each.offsets[0], each.offsets[-1]))
]


async def put(port: BlockPort, place: int, magic: bytes) -> None:
    block, offset = divmod(place, 4096)
    await port.write(block, bytes(offset) + magic + bytes(4096 - offset - len(magic)))


@pytest.mark.parametrize(("name", "magic", "offset"), PLACES)
async def test_each_signature_is_found_where_it_stands(
    reactor: ReactorLoop, name: str, magic: bytes, offset: int
) -> None:
    media = _shim.EmulatedMedia.conventional(reactor.shim, BLOCKS)
    port = BlockPort(reactor, media, name="M0")
    assert await find_foreign(port) is None
    await put(port, offset if offset >= 0 else BLOCKS * 4096 + offset, magic)
    assert await find_foreign(port) == name
    await port.close()


@pytest.mark.parametrize("block_count", [1, 2, 3, 17, 31])
async def test_a_short_device_has_only_what_fits(reactor: ReactorLoop, block_count: int) -> None:
    port = BlockPort(reactor, _shim.EmulatedMedia.conventional(reactor.shim, block_count), name="M0")
    assert await find_foreign(port) is None
    await put(port, 0, b"XFSB")
    assert await find_foreign(port) == "an xfs file system"
    await port.close()


async def test_blocks_that_can_not_be_read_hide_nothing_else(reactor: ReactorLoop) -> None:
    media = _shim.EmulatedMedia.conventional(reactor.shim, BLOCKS)
    port = BlockPort(reactor, media, name="M0")
    await put(port, 4096, b"EFI PART")
    media.inject_fault(op=_shim.Op.READ, lba=0, block_count=1, status=UNRECOVERED_READ)
    media.inject_fault(op=_shim.Op.READ, lba=BLOCKS - 2, block_count=2, status=UNRECOVERED_READ)
    assert await find_foreign(port) == "a partition table (GPT)"
    await port.close()


async def test_a_device_that_is_gone_is_an_error(reactor: ReactorLoop) -> None:
    media = _shim.EmulatedMedia.conventional(reactor.shim, BLOCKS)
    port = BlockPort(reactor, media, name="M0")
    media.inject_fault(op=_shim.Op.READ, status=PATH_ERROR)
    with pytest.raises(MediaError):
        await find_foreign(port)
    await port.close()


@pytest.mark.parametrize(
    ("zone", "magic", "offset", "name"),
    [
        (0, b"_BHRfS_M", 64, "a btrfs file system"),
        (1, b"_BHRfS_M", 64, "a btrfs file system"),
        (0, b"SFOZ", 0, "a zonefs file system"),
        (0, b"SPDKBLOB", 0, "an SPDK blobstore or lvol store"),
    ],
)
async def test_in_a_zoned_device_the_first_zones_tell(
    reactor: ReactorLoop, zone: int, magic: bytes, offset: int, name: str
) -> None:
    media = _shim.EmulatedMedia.zns(reactor.shim, 8, 64, 60, max_open_zones=4, max_active_zones=4)
    # What was not written may read as an error.
    media.inject_fault(op=_shim.Op.READ, lba=zone * 64 + 1, block_count=8 * 64 - zone * 64 - 1, status=UNRECOVERED_READ)
    port = BlockPort(reactor, media, name="Z0")
    assert await find_foreign(port, await port.zones()) is None
    await port.write(zone * 64, bytes(offset) + magic + bytes(4096 - offset - len(magic)))
    assert await find_foreign(port, await port.zones()) == name
    await port.close()

"""The control side of the nv cache: the requirements on its bdev, scrub, headers, and reading the ring after a dirty
shutdown. The shim writes the ring (shim/ftl/nv_cache.hpp). docs/durability.md describes what the cache is for.

The requirements on the bdev are the seed's (ftl_dev_init_nv_cache), except for metadata: NVMe-oF carries no separate
metadata, so it is interleaved (VSS), or there is none (headers between the blocks: non-VSS).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import NvCacheConf
from ...errors import NotFoundError, ParameterError, UnsupportedError
from ...runtime.progress import Progress
from ..load.held import HELD_BLOCK, HeldWrites
from ..media.blockdev import BlockPort, side_by_side
from ..media.geometry import BLOCK_BYTES, Geometry
from ..media.layout import FORMAT_VERSION
from .nv_cache_layout import (
    BATCH,
    BATCH_BLOCKS_MAX,
    BATCH_MAGIC,
    HEADER_BLOCKS,
    ID_BYTES,
    LBA_BITS,
    METADATA,
    METADATA_BYTES_MIN,
    METADATA_BYTES_WIDE,
    SALT,
    CacheHeader,
    phase_of,
)

log = logging.getLogger(__name__)

BANDS_MIN: Final = 2
"""A block in the cache may be overwritten once its band is closed. So one band is filled from one half of the cache,
while the other half protects another band."""

VSS: Final = "vss"
NON_VSS: Final = "non_vss"


def blocks_needed(geometry: Geometry) -> int:
    """The minimum size of the cache in blocks: two full bands, and its header."""
    return BANDS_MIN * geometry.punits * geometry.zone_capacity + 1


def check_cache(
    name: str,
    *,
    block_bytes: int,
    metadata_bytes: int = 0,
    metadata_interleaved: bool = False,
    dif_type: int = 0,
    zoned: bool = False,
) -> None:
    """Checks everything but the size: check_cache_size(). block_bytes is the data part of a block.

    Raises ParameterError or UnsupportedError that names the bdev, the fault and the remedy.
    """
    if zoned:
        raise UnsupportedError(f"cache bdev {name} is zoned: the cache overwrites in place: give a conventional bdev")
    if block_bytes != BLOCK_BYTES:
        raise ParameterError(
            f"cache bdev {name} has blocks of {block_bytes} bytes, but an FTL needs {BLOCK_BYTES}: format it with 4 "
            "KiB blocks, or give another bdev"
        )
    if metadata_bytes and not metadata_interleaved:
        raise UnsupportedError(
            f"cache bdev {name} has separate metadata ({metadata_bytes} B), which NVMe-oF can't carry: use "
            "interleaved metadata of "
            f"at least {METADATA_BYTES_MIN} B, or none"
        )
    if dif_type:
        raise ParameterError(
            f"cache bdev {name} has DIF type {dif_type}: the FTL can't use its metadata: create the bdev without DIF"
        )
    if 0 < metadata_bytes < METADATA_BYTES_MIN:
        raise ParameterError(
            f"cache bdev {name} has {metadata_bytes} B of metadata for each block: use at least {METADATA_BYTES_MIN} "
            "B, or none"
        )


def check_cache_size(name: str, *, block_count: int, metadata_bytes: int, geometry: Geometry) -> str:
    """Returns the kind of a cache that check_cache() accepts: "vss" or "non_vss". Raises ParameterError if the cache,
    or its metadata, is too small for that geometry."""
    if block_count < blocks_needed(geometry):
        needed = blocks_needed(geometry)
        raise ParameterError(
            f"cache bdev {name} has {block_count} blocks, but needs {needed} (two bands of "
            f"{geometry.punits * geometry.zone_capacity} blocks and a header): give one of at least "
            f"{-(-needed * BLOCK_BYTES >> 20)} MiB, or use fewer parallel units"
        )
    if 0 < metadata_bytes < METADATA_BYTES_WIDE and geometry.block_count > 1 << LBA_BITS:
        raise ParameterError(
            f"cache bdev {name} has {metadata_bytes} B of metadata for each block, enough for FTLs of {1 << LBA_BITS} "
            f"blocks, not of {geometry.block_count}: give a bdev with at least {METADATA_BYTES_WIDE} B, or none"
        )
    return VSS if metadata_bytes else NON_VSS


class WrongCacheError(NotFoundError):
    """The bdev holds no nv cache, or another FTL's."""


class NvCache:
    """The nv cache of one FTL. ``create()`` or ``open()`` makes it; ``start()`` gives it to the core; ``finish()`` ends
    its use with a clean header. Every method raises MediaError if the device fails."""

    def __init__(self, port: BlockPort, header: CacheHeader) -> None:
        self.header = header
        """The newest header on the device, as far as Python knows it: the core writes one for each lap."""
        self._port = port
        self._position = header.position if header.clean else header.lap * header.ring_blocks
        self._later: dict[int, NDArray[np.uint8]] = {}
        self.requests = NvCacheConf(0, 0)
        """The settings in use, after start()."""

    @classmethod
    async def create(
        cls, port: BlockPort, uuid: UUID, progress: Progress | None = None, *, scrubbed: bool = False
    ) -> NvCache:
        """Scrubs the device: nothing that was on it before remains valid. The header is durable when this returns.
        scrubbed: this method has already scrubbed the device."""
        report = progress or (lambda step, part: None)
        device = port.device
        step = max(1, device.max_io_blocks)
        firsts = range(0, device.block_count, step)
        zeroes = bytes(step * port.block_bytes)
        done = itertools.count(1)

        async def scrub(first: int) -> None:
            count = min(step, device.block_count - first)
            await port.write(first, memoryview(zeroes)[: count * port.block_bytes])
            report("cache scrub", next(done) / len(firsts))

        if not scrubbed:
            await side_by_side(scrub, firsts)
        header = CacheHeader(
            uuid=uuid,
            id=secrets.token_bytes(ID_BYTES),
            generation=0,
            block_count=device.block_count,
            metadata_bytes=device.metadata_bytes,
        )
        cache = cls(port, header)
        await cache._write_header()
        return cache

    @classmethod
    async def open(cls, port: BlockPort, uuid: UUID, stored: Mapping[str, Any]) -> NvCache:
        """Opens the cache that the superblock describes (``to_dict()``). Raises NotFoundError if the device is another
        one, UnsupportedError for another format version."""
        header = await _newest_header(port)
        if header is None:
            found = "holds no nv cache"
        elif header.uuid != uuid:
            found = f"holds the nv cache of FTL {header.uuid}"
        elif header.id.hex() != stored.get("id"):
            found = "holds an nv cache of this FTL that was given up or scrubbed since"
        elif (header.block_count, header.metadata_bytes) != (port.device.block_count, port.device.metadata_bytes):
            found = (
                f"has {port.device.block_count} blocks with {port.device.metadata_bytes} B of metadata, but had "
                f"{header.block_count} with {header.metadata_bytes} B"
            )
        else:
            return cls(port, header)
        raise WrongCacheError(f"{port.name}: the bdev {found}: give the cache bdev that FTL {uuid} was used with")

    def to_dict(self) -> dict[str, Any]:
        """The description for the superblock."""
        mode = VSS if self.header.vss else NON_VSS
        return {"id": self.header.id.hex(), "blocks": self.header.block_count, "mode": mode, "in_use": True}

    @property
    def next_seq_min(self) -> int:
        """The core's next seq must be at least this one, so that it is in the lap of the header, not before it."""
        return self.header.lap * self.header.ring_blocks if self.header.vss else 0

    async def start(self, core: _shim.FtlCore, conf: NvCacheConf) -> None:
        """From now on the core writes to the cache, and its header is not clean. The lap stays the same: recovered
        blocks may have to be found once more, so the core starts the next lap only when they are durable elsewhere."""
        await self._write_header()
        self.requests = self._requests(conf, core.stats().write_buffer_blocks)
        config = _shim.NvCacheConfig(
            id=self.header.id,
            generation=self.header.generation,
            lap=self.header.lap,
            position=self._position,
            request_blocks=self.requests.max_request_size,
            request_count=self.requests.max_request_cnt,
        )
        core.use_cache(self._port.device, config)

    def _requests(self, conf: NvCacheConf, buffer_blocks: int) -> NvCacheConf:
        """The settings that result from conf on this device: limited to what the device takes, and to what the write
        buffer can fill, because each request takes memory."""
        most = self._port.device.max_io_blocks
        blocks = max(1, min(conf.max_request_size, most if self.header.vss else min(most - 1, BATCH_BLOCKS_MAX)))
        count = min(conf.max_request_cnt, buffer_blocks, buffer_blocks // blocks + _shim.EAGER_REQUESTS)
        return NvCacheConf(count, blocks)

    async def finish(self, stats: _shim.NvCacheStats) -> None:
        """Writes the clean header. ``stats`` are the core's last ones (cache_stats()). Everything in the cache is
        durable on the base, and nothing is written to it any more."""
        position, blocks = stats.position, self.header.ring_blocks
        self.header = dataclasses.replace(
            self.header,
            generation=stats.generation,
            lap=position // blocks,
            current_address=HEADER_BLOCKS + position % blocks,
            clean=True,
        )
        await self._write_header(clean=True)

    async def _write_header(self, *, clean: bool = False) -> None:
        """The block of the older one of the two headers."""
        self.header = dataclasses.replace(self.header, generation=self.header.generation + 1, clean=clean)
        await self._port.write(self.header.generation % HEADER_BLOCKS, self.header.build())
        await self._port.flush()

    # --- after a dirty shutdown

    async def scan(self, block_count: int, progress: Progress | None = None) -> HeldWrites:
        """All valid blocks in the ring, including older versions: the newest seq wins. Their data is not kept;
        ``fetch()`` reads it again for the blocks that need it. block_count: of the FTL. A block that can't be read is
        damage, because it may have been the only copy of a write. May be repeated."""
        report = progress or (lambda step, part: None)
        if self.header.clean:
            return HeldWrites()
        ring, step = self.header.ring_blocks, max(1, self._port.device.max_io_blocks)
        firsts = range(0, ring, step)
        crcs = np.zeros(ring, np.uint32)
        found: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
        headers: dict[int, NDArray[np.uint8]] = {}
        unreadable: list[int] = []
        done = itertools.count(1)

        async def read(first: int) -> None:
            rows, readable = await self._port.read_what_can_be(HEADER_BLOCKS + first, min(step, ring - first))
            unreadable.extend(HEADER_BLOCKS + first + int(i) for i in np.flatnonzero(~readable))
            part = crcs[first : first + len(rows)]
            _shim.crc32c_rows(rows, BLOCK_BYTES, part)
            if self.header.vss:
                found.append(self._verified_rows(rows, part, first, block_count))
            else:
                for i in map(int, np.flatnonzero((rows[:, 16:32] == np.frombuffer(self.header.id, np.uint8)).all(1))):
                    headers[first + i] = rows[i].copy()
            report("cache", next(done) / len(firsts))

        await side_by_side(read, firsts)
        for place, block in headers.items():
            found += self._verified_batch(place, block, crcs, block_count)
        places = np.concatenate([np.empty(0, np.int64), *(place for place, _ in found)])
        blocks = np.concatenate([np.empty(0, HELD_BLOCK), *(entries for _, entries in found)])
        log.info("%s: %d blocks in the ring are valid", self._port.name, len(blocks))
        damage = [f"{self._port.name}: block {lba} can't be read: its data is lost" for lba in sorted(unreadable)]
        return HeldWrites(blocks=blocks, data=_Later(places, self._later), damage=damage)

    async def fetch(self) -> None:
        """Reads the data of blocks that scan() returned and the caller selected, into their arrays."""

        async def read(place: int) -> None:
            self._later[place][:] = (await self._port.read(HEADER_BLOCKS + place, 1))[0, :BLOCK_BYTES]

        await side_by_side(read, list(self._later))
        self._later.clear()

    def _verified_rows(
        self, rows: NDArray[np.uint8], crcs: NDArray[np.uint32], first: int, block_count: int
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        header = self.header
        places = np.arange(first, first + len(rows), dtype=np.int64)
        metadata = np.ascontiguousarray(rows[:, BLOCK_BYTES : BLOCK_BYTES + METADATA.itemsize]).view(METADATA)[:, 0]
        phase = metadata["phase_lba"] >> LBA_BITS
        lba = (metadata["phase_lba"] & ((1 << LBA_BITS) - 1)).astype(np.uint64)
        if header.metadata_bytes >= METADATA_BYTES_WIDE:
            high = np.ascontiguousarray(rows[:, BLOCK_BYTES + 8 : BLOCK_BYTES + 16]).view("<u8")[:, 0]
            lba |= np.where(high < 1 << 32, high, 0) << np.uint64(LBA_BITS)
        before = header.lap > 0
        good = (phase == phase_of(header.lap)) | (before & (phase == phase_of(header.lap - 1)))
        lap = np.where(phase == phase_of(header.lap), header.lap, header.lap - 1)
        salt = np.zeros(len(rows), SALT)
        salt["lba"] = lba
        salt["seq"] = lap * header.ring_blocks + places
        salt["id"] = np.void(header.id)
        salted = crcs.copy()
        _shim.crc32c_rows(salt.view(np.uint8).reshape(len(rows), SALT.itemsize), SALT.itemsize, salted)
        good &= (salted == metadata["crc"]) & (lba < block_count) & (salt["seq"] > 0)
        entries = np.zeros(int(good.sum()), HELD_BLOCK)
        entries["lba"], entries["seq"], entries["crc"] = lba[good], salt["seq"][good], crcs[good]
        return places[good], entries

    def _verified_batch(
        self, place: int, block: NDArray[np.uint8], crcs: NDArray[np.uint32], block_count: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        header = self.header
        record = np.frombuffer(block.tobytes(), BATCH)[0]
        count, position = int(record["count"]), int(record["position"])
        block[12:16] = 0
        if record["magic"] != BATCH_MAGIC or int(record["crc"]) != _shim.crc32c(block.tobytes()):
            return
        if int(record["version"]) != FORMAT_VERSION:
            raise UnsupportedError(
                f"{self._port.name}: the nv cache has format version {int(record['version'])}, but this software "
                f"supports {FORMAT_VERSION}: use the release that wrote it"
            )
        lap, ring_place = divmod(position, header.ring_blocks)
        if ring_place != place or lap not in (header.lap, header.lap - 1) or count > BATCH_BLOCKS_MAX:
            return
        end = place + 1 + count
        if end > header.ring_blocks:
            return
        self._position = max(self._position, position + 1 + count)
        listed = record["entries"][:count]
        good = (crcs[place + 1 : end] == listed["crc"]) & (listed["lba"] < block_count) & (listed["seq"] > 0)
        entries = np.zeros(int(good.sum()), HELD_BLOCK)
        for name in ("lba", "seq", "crc"):
            entries[name] = listed[name][good]
        yield place + 1 + np.flatnonzero(good), entries


class _Later:
    """Blocks by index, whose content is read later."""

    def __init__(self, places: NDArray[np.int64], wanted: dict[int, NDArray[np.uint8]]) -> None:
        self._places = places
        self._wanted = wanted

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self._wanted.setdefault(int(self._places[index]), np.zeros(BLOCK_BYTES, np.uint8))


async def owner_of(port: BlockPort) -> UUID | None:
    """The FTL whose nv cache is on the device, in use or not; None if there is none. Headers that can't be read count
    as none. Raises UnsupportedError for another format version, and MediaError if the device is gone."""
    rows, _ = await port.read_what_can_be(0, HEADER_BLOCKS)
    headers = [CacheHeader.parse(row[:BLOCK_BYTES]) for row in rows]
    return next((header.uuid for header in headers if header is not None), None)


async def _newest_header(port: BlockPort) -> CacheHeader | None:
    rows = await port.read(0, HEADER_BLOCKS)
    headers = [CacheHeader.parse(row[:BLOCK_BYTES]) for row in rows]
    return max((header for header in headers if header is not None), key=lambda each: each.generation, default=None)

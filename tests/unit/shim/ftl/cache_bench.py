"""A core_bench with an nv cache, whose ring is read as docs/media-layout.md says."""

from __future__ import annotations

import struct
from typing import Any

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, Bench, version_of
from unit.shim.stepped import Stepped

ID = bytes(range(16))
HEADERS = 2


class CacheBench(Bench):
    """A Bench with an nv cache of `ring` blocks."""

    def __init__(
        self, *, metadata_bytes: int, ring: int = 200, cache_volatile: bool = False, lap: int = 0, **options: Any
    ) -> None:
        request = {name: options.pop(name) for name in ("request_blocks", "request_count") if name in options}
        super().__init__(**options)
        self.metadata_bytes = metadata_bytes
        self.ring = ring
        self.cache = _shim.EmulatedMedia.conventional(
            self.reactor, HEADERS + ring, metadata_bytes=metadata_bytes, volatile_cache=cache_volatile
        )
        self.cache_port = Stepped(self.reactor, self.cache)
        self.ports.append(self.cache_port)
        self.cache_port.step = self.step  # type: ignore[method-assign]
        self.core.use_cache(self.cache, _shim.NvCacheConfig(id=ID, generation=0, lap=lap, **request))

    def close(self) -> None:
        self.core.close()
        self.cache_port.port.close()
        super().close()

    def stats(self) -> _shim.NvCacheStats:
        stats = self.core.cache_stats()
        assert stats is not None
        return stats

    def blocks(self) -> list[tuple[bytes, bytes]]:
        """(data, metadata) of every block of the cache."""
        size = BLOCK + self.metadata_bytes
        raw = b"".join(self.cache_port.read(lba) for lba in range(self.cache.block_count))
        return [(raw[i : i + BLOCK], raw[i + BLOCK : i + size]) for i in range(0, len(raw), size)]

    def header_lap(self) -> int:
        """What the newest header says."""
        headers = [data for data, _ in self.blocks()[:HEADERS] if data[:8] == b"FTLNVCAC"]
        for data in headers:
            assert int.from_bytes(data[12:16], "little") == _shim.crc32c(data[:12] + bytes(4) + data[16:])
            assert data[32:48] == ID
        if not headers:
            return 0
        generation, block_count, lap = max(struct.unpack_from("<QQQ", data, 48) for data in headers)
        assert block_count == self.cache.block_count
        assert generation == self.stats().generation
        return lap

    def ring_entries(self) -> dict[tuple[int, int], bytes]:
        """(lba, seq) -> data of everything in the ring that verifies: docs/media-layout.md, read once more."""
        lap = self.header_lap()
        ring = self.blocks()[HEADERS:]
        return self._vss(ring, lap) if self.metadata_bytes else self._batches(ring, lap)

    def _vss(self, ring: list[tuple[bytes, bytes]], lap: int) -> dict[tuple[int, int], bytes]:
        found = {}
        for place, (data, metadata) in enumerate(ring):
            crc, word = struct.unpack_from("<II", metadata)
            lba = word & (1 << 30) - 1
            for its_lap in (lap, lap - 1):
                seq = its_lap * len(ring) + place
                if its_lap < 0 or word >> 30 != 1 + its_lap % 3:
                    continue
                if _shim.crc32c(data + struct.pack("<QQ", lba, seq) + ID) == crc:
                    found[lba, seq] = data
        return found

    def _batches(self, ring: list[tuple[bytes, bytes]], lap: int) -> dict[tuple[int, int], bytes]:
        found = {}
        for place, (block, _) in enumerate(ring):
            if block[:8] != b"FTLNVBAT" or block[16:32] != ID:
                continue
            if int.from_bytes(block[12:16], "little") != _shim.crc32c(block[:12] + bytes(4) + block[16:]):
                continue
            position, count, phase = struct.unpack_from("<QII", block, 32)
            assert position % len(ring) == place
            assert phase == 1 + position // len(ring) % 3
            assert place + count < len(ring)
            if position // len(ring) not in (lap, lap - 1):
                continue
            for i in range(count):
                lba, seq, crc, _ = struct.unpack_from("<QQII", block, 48 + 24 * i)
                if _shim.crc32c(ring[place + 1 + i][0]) == crc:
                    found[lba, seq] = ring[place + 1 + i][0]
        return found

    def newest(self) -> dict[int, int]:
        """LBA -> version of what has the greatest seq in the ring."""
        newest: dict[int, tuple[int, int]] = {}
        for (lba, seq), data in self.ring_entries().items():
            newest[lba] = max(newest.get(lba, (0, 0)), (seq, version_of(lba, data)))
        return {lba: version for lba, (_, version) in newest.items()}

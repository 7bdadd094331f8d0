"""The nv cache of an FtlDevice, from its creation or load to its halt, and what happens if the cache fails meanwhile
(docs/durability.md, "nv cache"). A device without a cache also has a keeper, which does nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from ... import _shim
from ...conf import NvCacheConf
from ...errors import FtlError, NotFoundError, ParameterError
from ...nvme.wire import status_text
from ...runtime.progress import Progress
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks
from ..load.held import HeldSource, HeldWrites
from ..media.blockdev import BUSY_PATIENCE_S, BlockPort
from ..media.geometry import Geometry
from ..media.retention import require_retention
from ..media.superblock import Superblock
from .nv_cache import NvCache, check_cache, check_cache_size

log = logging.getLogger(__name__)

DRAINS_MAX: Final = 8
"""After so many failures in a row, the content of a failing cache can't be made durable elsewhere."""
DRAIN_INTERVAL_S: Final = 1.0
"""The delay before the next attempt to make recovered writes durable."""
SEQ_GAP: Final = 4096
"""After a dirty shutdown, a write that was outstanding may still reach the cache. Its place must not be used by a new
write."""


class CacheMissingError(NotFoundError):
    """The FTL has an nv cache, but the cache bdev is missing."""


class CacheState(enum.Enum):
    ABSENT = "absent"
    IN_USE = "in_use"
    FAILING = "failing"
    """Completions of writes are held back until the content of the cache is durable on the base, and the superblock
    says so."""
    GIVEN_UP = "given_up"
    """The device continues as if it had no cache. A load with a cache bdev starts with a new cache."""


class CacheKeeper:
    """Call ``make()`` or ``source()`` first, then ``start()``; ``finish()`` before a clean superblock, ``close()`` in
    any case."""

    def __init__(
        self,
        reactor: ReactorLoop,
        device: _shim.BlockDevice | None,
        *,
        name: str,
        bdev_name: str = "",
        patience_s: float = BUSY_PATIENCE_S,
    ) -> None:
        """bdev_name: for messages. patience_s: how long a busy device is retried, until wait_longer()."""
        self.state = CacheState.ABSENT
        self.failure: str | None = None
        self.recovering = False
        """The load reads the content of the cache, so no acknowledged write is missing."""
        self._name = name
        self._bdev_label = f"cache bdev {bdev_name}" if bdev_name else f"cache bdev of {name}"
        self._device = device
        port_name = f"nv cache of {name}"
        self._port = None if device is None else BlockPort(reactor, device, name=port_name, patience_s=patience_s)
        self._cache: NvCache | None = None
        self._core: _shim.FtlCore | None = None
        self._anew = False
        self._scrubbed = False
        self._stored: dict[str, Any] | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self._incomplete = False
        """Writes that a load recovered from a write buffer file are not in the cache, nor durable on the base yet."""
        self._completing: asyncio.Task[None] | None = None

    def wait_longer(self) -> None:
        if self._port is not None:
            self._port.patience_s = BUSY_PATIENCE_S

    async def close(self) -> None:
        """Idempotent. Call it after the core's close()."""
        await end_tasks(task for task in (self._giving_up, self._completing) if task is not None)
        if self._port is not None:
            await self._port.close()

    def check(self, geometry: Geometry) -> None:
        """Raises ParameterError or UnsupportedError if the device can't be the cache of that geometry."""
        device = self._device
        if device is not None:
            name = f"of {self._name}"
            check_cache(
                name,
                block_bytes=device.block_bytes - device.metadata_bytes,
                metadata_bytes=device.metadata_bytes,
                metadata_interleaved=True,
                zoned=device.zoned,
            )
            check_cache_size(
                name, block_count=device.block_count, metadata_bytes=device.metadata_bytes, geometry=geometry
            )

    # --- creation and load

    async def make(self, uuid: UUID, progress: Progress | None = None) -> None:
        """Creates and scrubs a new cache. Raises DataNotKeptError and MediaError."""
        if self._port is not None:
            await require_retention(self._port, 0, what=self._bdev_label, remedy="use another bdev, or none")
            self._cache = await NvCache.create(self._port, uuid, progress, scrubbed=self._scrubbed)
            self._stored = self._cache.to_dict()

    def source(self, *, without_cache: bool, scrubbed: bool = False, progress: Progress | None = None) -> HeldSource:
        """The cache as a source for restore(). Raises NotFoundError or ParameterError if the superblock describes
        another cache, or none, and MediaError if the cache can't be read. without_cache: the FTL gives the cache up.
        scrubbed: a new cache is already scrubbed."""
        self._scrubbed = scrubbed

        async def read(superblock: Superblock, geometry: Geometry) -> HeldWrites | None:
            stored = superblock.content.get("nv_cache")
            self._stored = stored if isinstance(stored, dict) else None
            self._expect(superblock, without_cache)
            if self._port is None:
                return None
            self.check(geometry)
            if self._stored is None or not self._stored.get("in_use"):
                # There was no cache, or it was given up: the content of this one is old.
                self._anew = True
                return None
            self._cache = await NvCache.open(self._port, superblock.uuid, self._stored)
            held = await self._cache.scan(geometry.block_count, progress)
            self.recovering = not held.damage and not self._stored.get("incomplete")
            # After a clean halt everything is on the base. The scan only shows where the ring continues.
            return None if superblock.clean else held

        return read

    def _expect(self, superblock: Superblock, without_cache: bool) -> None:
        stored, uuid = self._stored, superblock.uuid
        if self._port is not None and without_cache:
            raise ParameterError("a cache bdev and without_cache are given: give only one of them")
        if stored is None:
            return
        if self._port is None and without_cache:
            self.state = CacheState.GIVEN_UP
            self.failure = "the device was loaded without it"
        elif self._port is None and stored.get("in_use"):
            dirty = "" if superblock.clean else ", which may hold writes that are stored nowhere else"
            raise CacheMissingError(
                f"FTL {uuid} has an nv cache of {stored.get('blocks')} blocks ({stored.get('mode')}){dirty}: give its "
                "bdev as cache bdev, or without_cache to give the cache up"
            )
        elif self._port is None:
            self.state = CacheState.GIVEN_UP
            self.failure = "it was given up in an earlier life, and there is no cache bdev now"

    def next_seq(self, seq: int, *, clean: bool) -> int:
        """The core's next seq; ``seq`` is what it would be without a cache."""
        if self._cache is None:
            return seq
        return max(seq + (0 if clean else SEQ_GAP), self._cache.next_seq_min)

    async def fetch(self) -> None:
        """The content of blocks that are recovered from the cache."""
        if self._cache is not None:
            await self._cache.fetch()

    async def start(self, core: _shim.FtlCore, uuid: UUID, conf: NvCacheConf, progress: Progress | None = None) -> None:
        """Call it before the superblock is written, and before the first write."""
        self._core = core
        if self._anew:
            await self.make(uuid, progress)
        if self._cache is not None:
            await self._cache.start(core, conf)
            self.state = CacheState.IN_USE

    # --- life

    def failed(
        self,
        status: int,
        *,
        drain: Callable[[], Awaitable[int]],
        write_superblock: Callable[[], Awaitable[None]],
        fail: Callable[[FtlError], None],
    ) -> None:
        """Handles the shim's cache_failed. Completed writes may only be in the cache. So first everything is made
        durable on the base, then the superblock forgets the cache, and only then writes complete again. drain: returns
        the status of the flush; raises FtlError if it is pointless to continue, as after fail(), which ends the
        device."""
        if self.state is not CacheState.IN_USE:
            return
        self.state = CacheState.FAILING
        self.failure = status_text(status)
        log.error("%s: the nv cache failed (%s); the FTL continues without it", self._name, self.failure)

        async def give_up() -> None:
            assert self._core is not None
            try:
                for attempt in range(DRAINS_MAX):
                    drained = await drain()
                    if not drained:
                        break
                    log.error("%s: flush %d of the base failed: %s", self._name, attempt + 1, status_text(drained))
                else:
                    raise FtlError(f"{self._name}: the nv cache failed, and the base device can't flush")
                self.state = CacheState.GIVEN_UP
                await write_superblock()
            except FtlError as error:
                fail(error)
                return
            self._core.forget_cache()
            log.warning("%s: continues without nv cache: completed writes are durable after a flush", self._name)

        self._giving_up = asyncio.get_running_loop().create_task(give_up(), name=f"{self._name} gives up its cache")

    def lacks_recovered(self) -> None:
        """Call it before start(). A load has recovered writes that are not in the cache. Until they are durable on the
        base, the superblock says so: a load that finds no write buffer file then notifies hosts of lost writes."""
        self._incomplete = True

    def complete(self, *, drain: Callable[[], Awaitable[int]], write_superblock: Callable[[], Awaitable[None]]) -> None:
        """Makes these writes durable on the base, in the background. drain, write_superblock: as for failed()."""
        if not self._incomplete or self.state is not CacheState.IN_USE:
            return

        async def complete() -> None:
            try:
                while await drain():  # noqa: ASYNC110  (drain() is what makes it true)
                    await asyncio.sleep(DRAIN_INTERVAL_S)
                if self.state is CacheState.IN_USE:
                    self._incomplete = False
                    await write_superblock()
            except FtlError as error:
                # The device has failed, and reports that itself.
                log.warning("%s: recovered writes are not durable yet: %s", self._name, error.message)

        self._completing = asyncio.get_running_loop().create_task(complete(), name=f"{self._name} completes its cache")

    async def settled(self) -> None:
        """Returns when this object no longer writes the superblock: a failing cache has been given up, or that has
        failed as well; recovered writes are durable, or will never be."""
        tasks = {task for task in (self._giving_up, self._completing) if task is not None}
        if tasks:
            await asyncio.wait(tasks)

    @property
    def has_failed(self) -> bool:
        """Whether the cache has failed, even if the event was lost."""
        stats = self.stats()
        return stats is not None and stats.state != _shim.NvCacheState.ACTIVE

    async def finish(self) -> None:
        """Writes the clean header, after the core's close(): everything in the cache is durable on the base. If the
        cache fails now, it is given up."""
        stats = self.stats()
        if self._cache is None or stats is None or self.state is not CacheState.IN_USE:
            return
        if stats.state != _shim.NvCacheState.ACTIVE:
            self.state = CacheState.GIVEN_UP
            return
        try:
            await self._cache.finish(stats)
        except FtlError as error:
            log.error("%s: can't write its header, so the FTL gives the cache up: %s", self._name, error.message)
            self.state = CacheState.GIVEN_UP
            self.failure = error.message

    # --- descriptions

    def to_dict(self) -> dict[str, Any] | None:
        """For the superblock."""
        if self._cache is not None:
            self._stored = self._cache.to_dict()
        if self._stored is None:
            return None
        in_use = self.state in (CacheState.IN_USE, CacheState.FAILING)
        return {**self._stored, "in_use": in_use, "incomplete": self._incomplete and in_use}

    def describe(self) -> dict[str, Any] | None:
        """The result of bdev_ftl_get_properties."""
        if self._stored is None:
            return None
        stats = self.stats()
        ring = stats.ring_blocks if stats is not None else 0
        used = stats.used_blocks if stats is not None and self.state is CacheState.IN_USE else 0
        return {
            "state": self.state.value,
            "failure": self.failure,
            "mode": self._stored.get("mode"),
            "blocks": self._stored.get("blocks"),
            "used_blocks": used,
            "fill": round(used / ring, 4) if ring else 0.0,
            "lap": stats.lap if stats is not None else 0,
            **({} if self._cache is None else dataclasses.asdict(self._cache.requests)),
        }

    def stats(self) -> _shim.NvCacheStats | None:
        return None if self._core is None else self._core.cache_stats()

"""An FTL in the process of the script."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from .. import _shim
from ..conf import FtlConf
from ..errors import ExistsError, ParameterError, UnsupportedError
from ..ftl.cache.nv_cache import owner_of
from ..ftl.creation import create
from ..ftl.device import FtlDevice as RunningFtl
from ..ftl.load.pages import Pages
from ..ftl.loading import load
from ..ftl.media import superblock
from ..ftl.media.blockdev import BlockPort
from ..ftl.media.signatures import find_foreign
from ..runtime.tasks import to_its_end
from .block_device import BlockDevice

if TYPE_CHECKING:
    from ..results import FtlStats, Property

_FORCE = "use another device, or give force=True to erase it"


class FtlDevice(BlockDevice):
    """An FTL that runs on a device of the script. Make it with create() or load(); end it with halt(), or by leaving
    ``async with``. Its blocks have 4096 bytes. It must end before the ReactorLoop of its base does.

    Nothing protects the base from others, and nobody loads the FTL again after a crash: `spdk-ftl serve` does that.
    """

    def __init__(self, base: BlockDevice, ftl: RunningFtl) -> None:
        """For this package: use create() or load()."""
        # An FTL is busy while it is halted: nobody should wait for that.
        super().__init__(base.reactor, ftl.core, name=ftl.name, patience_s=0)
        self._ftl = ftl
        self._halt_turn = asyncio.Lock()

    @classmethod
    async def create(
        cls,
        base: BlockDevice,
        *,
        name: str,
        conf: FtlConf | None = None,
        uuid: UUID | None = None,
        num_punits: int | None = None,
        zone_capacity: int | None = None,
        cache: BlockDevice | None = None,
        buffer_dir: Path | None = None,
        l2p_dir: Path | None = None,
        force: bool = False,
    ) -> FtlDevice:
        """Creates a new, empty FTL. **Everything on base and cache is erased.**

        conf: its settings; default FtlConf(). uuid: default a random one. num_punits: zones of a band; default from the
        limits of the base. zone_capacity: in blocks, for emulated zones on a base that is not zoned. cache: the nv
        cache, a device without zones. buffer_dir: an existing directory, best in /dev/shm, whose files outlive the
        process with writes that were not flushed; without it these writes are lost if the process is killed. l2p_dir:
        an existing directory on a local drive, for what conf l2p_dram_limit leaves no memory for. force:
        also if base or cache hold an FTL, or recognized data.

        Raises ParameterError, ConfError or GeometryError if base, cache or conf do not fit; ExistsError if base or
        cache hold something; then nothing has changed. MediaError if the base fails; then its zones may be erased.
        """
        device = _zoned(base, zone_capacity)
        _check_reactor(base, cache)
        if not force:
            await _require_empty(base, device)
            if cache is not None:
                await _require_no_cache(cache)
        ftl = await create(
            base.reactor,
            device,
            name=name,
            conf=conf or FtlConf(),
            uuid=uuid,
            num_punits=num_punits,
            cache=None if cache is None else cache.device,
            buffer_dir=buffer_dir,
            pages=None if l2p_dir is None else Pages(l2p_dir),
            base_name=base.name,
            cache_name="" if cache is None else cache.name,
        )
        return cls(base, ftl)

    @classmethod
    async def load(
        cls,
        base: BlockDevice,
        *,
        name: str,
        uuid: UUID,
        settings: Mapping[str, Any] | None = None,
        zone_capacity: int | None = None,
        cache: BlockDevice | None = None,
        without_cache: bool = False,
        buffer_dir: Path | None = None,
        l2p_dir: Path | None = None,
    ) -> FtlDevice:
        """Loads the FTL with that uuid from the base, in the state in which it was halted or its process ended. Nothing
        is erased.

        settings: names and values of FtlConf to use from now on; others stay. zone_capacity, cache, buffer_dir,
        l2p_dir: as at the creation. without_cache: gives its nv cache up, with data that only the cache holds.

        Raises NotFoundError if that FTL is not on the base, ConfError for settings that it cannot have, and MediaError
        if necessary data cannot be read. A load may be repeated.
        """
        _check_reactor(base, cache)
        ftl = await load(
            base.reactor,
            _zoned(base, zone_capacity),
            name=name,
            uuid=uuid,
            settings=settings,
            cache=None if cache is None else cache.device,
            without_cache=without_cache,
            buffer_dir=buffer_dir,
            pages=None if l2p_dir is None else Pages(l2p_dir),
        )
        return cls(base, ftl)

    async def halt(self) -> None:
        """Writes everything accepted to the base, and marks the FTL there as halted cleanly. Idempotent.

        Raises FtlError if accepted writes could not be made durable. The FTL is halted and released in any case.
        """
        async with self._halt_turn:
            try:
                await super().close()
            finally:
                if self.state != "halted":
                    await to_its_end(self._ftl.halt())

    async def close(self) -> None:
        """Like halt()."""
        await self.halt()

    @property
    def uuid(self) -> UUID:
        return self._ftl.uuid

    @property
    def conf(self) -> FtlConf:
        return self._ftl.conf

    @property
    def state(self) -> str:
        """running; read_only: out of space for good; halting, halted; failed."""
        return self._ftl.state.value

    @property
    def failure(self) -> str | None:
        """Why it has failed, or is read_only."""
        return None if self._ftl.failure is None else self._ftl.failure.message

    def stats(self) -> FtlStats:
        """The result of bdev_ftl_get_stats, without the daemon's entries about hosts. Not available after halt()."""
        return cast("FtlStats", self._ftl.stats())

    def properties(self) -> list[Property]:
        """The properties in the result of bdev_ftl_get_properties. Not available after halt()."""
        return cast("list[Property]", self._ftl.properties()["properties"])


def _zoned(base: BlockDevice, zone_capacity: int | None) -> _shim.BlockDevice:
    """Raises ParameterError."""
    if zone_capacity is None:
        return base.device
    if base.zoned:
        raise ParameterError(f"{base.name} is zoned itself: leave zone_capacity out")
    try:
        return _shim.ZonedOverlay(base.reactor.shim, base.device, zone_capacity=zone_capacity, initial_state="full")
    except ValueError as error:
        raise ParameterError(f"{base.name}, zone_capacity {zone_capacity}: {error}") from error


def _check_reactor(base: BlockDevice, cache: BlockDevice | None) -> None:
    if cache is not None and cache.reactor is not base.reactor:
        raise ParameterError(f"{cache.name} is on another ReactorLoop than {base.name}: open both on the same one")


async def _require_empty(base: BlockDevice, device: _shim.BlockDevice) -> None:
    """Raises ExistsError. create() refuses devices that can't hold an FTL."""
    if not device.zoned or device.metadata_bytes or device.block_bytes != 4096:
        return
    port, raw = BlockPort(base.reactor, device, name=base.name), BlockPort(base.reactor, base.device, name=base.name)
    try:
        zones = await port.zones()
        try:
            found = await superblock.find(port, zones)
        except UnsupportedError as error:
            raise ExistsError(f"{base.name} already holds an FTL: {error.message}; {_FORCE}") from error
        if found is not None:
            raise ExistsError(
                f"{base.name} already holds an FTL, with uuid {found.superblock.uuid}: load() it; {_FORCE}"
            )
        foreign = await find_foreign(raw, zones if base.zoned else [])
    finally:
        await port.close()
        await raw.close()
    if foreign is not None:
        raise ExistsError(f"{base.name} holds {foreign}: {_FORCE}")


async def _require_no_cache(cache: BlockDevice) -> None:
    """Raises ExistsError. create() refuses devices that can't be a cache."""
    if cache.zoned:
        return
    port = BlockPort(cache.reactor, cache.device, name=cache.name)
    try:
        owner = await owner_of(port)
        foreign = await find_foreign(port) if owner is None else f"the nv cache of FTL {owner}"
    except UnsupportedError as error:
        raise ExistsError(f"{cache.name} already holds an nv cache: {error.message}; {_FORCE}") from error
    finally:
        await port.close()
    if foreign is not None:
        raise ExistsError(f"{cache.name} holds {foreign}: {_FORCE}")

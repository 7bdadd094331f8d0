"""Makes or loads the FTL of a device on the connected base and cache."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from ..conf import FtlConf
from ..errors import NotFoundError
from ..ftl import creation, loading
from ..ftl.cache.nv_cache_keeper import CacheMissingError
from ..ftl.device import FtlDevice
from ..ftl.load.grow import Grow
from ..ftl.load.pages import Pages
from ..ftl.load.restore import Room
from ..ftl.media.blockdev import BlockPort
from ..ftl.media.signatures import find_foreign
from ..ftl.media.zone import Zone
from ..runtime.progress import Progress
from ..runtime.reactor import ReactorLoop
from ..spdk.bdevs import Bdev
from .base import CacheAwayError
from .checks import Media, optimal_open_zones
from .requests import FtlOptions


class FtlMaker:
    """Call make() once, or load() for each life."""

    def __init__(
        self,
        device: UUID,
        options: Callable[[], FtlOptions],
        buffer_dir: Path | None,
        l2p_dir: Path | None,
        *,
        progress: Progress,
        on_lossy: Callable[[], object],
    ) -> None:
        """options: as ManagedDevice has them now, which may change them between two lives."""
        self._device = device
        self._options = options
        self._buffer_dir = buffer_dir
        self._pages = None if l2p_dir is None else Pages(l2p_dir)
        self._progress = progress
        self._on_lossy = on_lossy
        self._replaced_policies: dict[str, str] = {}
        """Why, for each that was: a policy that has failed is not tried again in each life."""

    async def load(
        self,
        reactor: ReactorLoop,
        media: Media,
        *,
        grow: bool = False,
        force: bool = False,
        without_cache: bool = False,
        cache_scrubbed: bool = False,
        life: int = 0,
        room: Room | None = None,
    ) -> FtlDevice:
        """grow: take all of the base; force: erase any data on the added part. without_cache: overrides the parameters.
        cache_scrubbed: the cache is new, and already scrubbed. life, room: as in load(). Raises what load() raises,
        and DeferredError if the cache may appear soon."""
        options = self._options()
        cache = options.cache
        if cache_scrubbed and media.cache is None:
            raise NotFoundError(f"cache bdev {cache} no longer exists: give another one")
        try:
            return await loading.load(
                reactor,
                media.base,
                name=options.name,
                uuid=self._device,
                settings=options.settings,
                num_punits=options.num_punits,
                buffer_dir=self._buffer_dir,
                pages=self._pages,
                cache=media.cache,
                without_cache=without_cache or options.without_cache,
                cache_scrubbed=cache_scrubbed,
                life=life,
                room=room,
                replaced_policies=self._replaced_policies,
                progress=self._progress,
                on_lossy=self._on_lossy,
                grow=Grow(force, functools.partial(self._foreign, reactor, media)) if grow else None,
            )
        except CacheMissingError as error:
            if cache:
                # The parameter names a cache, so it existed before.
                raise CacheAwayError(f"cache bdev {cache} does not exist: {error.message}") from error
            raise

    async def _foreign(self, reactor: ReactorLoop, media: Media, first_block: int) -> str | None:
        """Checks the whole bdev: data at its end may be after the last emulated zone."""
        port = BlockPort(reactor, media.raw_base, name=self._options().name)
        try:
            return await find_foreign(port, first_block=first_block)
        finally:
            await port.close()

    async def make(
        self, reactor: ReactorLoop, media: Media, base: Bdev, conf: FtlConf, zones: list[Zone] | None
    ) -> FtlDevice:
        """base: as the target describes it. zones: from a recent zone report. Raises what creation.create() raises."""
        options = self._options()
        return await creation.create(
            reactor,
            media.base,
            name=options.name,
            conf=conf,
            uuid=self._device,
            num_punits=options.num_punits,
            optimal_open_zones=optimal_open_zones(base, options),
            buffer_dir=self._buffer_dir,
            pages=self._pages,
            cache=media.cache,
            progress=self._progress,
            base_name=options.base_bdev,
            cache_name=options.cache or "",
            no_data=options.no_data,
            zones=zones,
            replaced_policies=self._replaced_policies,
        )

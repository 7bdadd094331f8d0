"""Finds an FTL's base or nv cache by its content, if it is not under its name in the target. Drives may exchange their
names, for example when a machine starts and finds them in another order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from ..errors import FtlError, GeometryError, NotFoundError
from ..ftl.cache.nv_cache import WrongCacheError
from ..ftl.cache.nv_cache_keeper import CacheMissingError
from ..spdk.bdevs import Bdev
from ..spdk.rpc import TargetRpc
from .base import AwayError, CacheAwayError, CacheUnfitError, DeferredError, UnfitError
from .checks import check_base
from .probing import Probed, Prober, foreign_bdevs
from .requests import FtlOptions

LOOK_MIN_S: Final = 0.2
LOOK_MAX_S: Final = 5.0
LOOK_GROWTH: Final = 1.5
AGAIN_S: Final = 30.0
"""How long a bdev that was probed, and has not changed as far as the target tells, is not probed again."""
SEEK_S: Final = 2.0
"""How long the daemon searches for a base elsewhere, after the bdev under its name turned out to be another one, before
that counts as a failure."""
PROBES_MAX: Final = 16
"""Probes in one search. The next search probes the remaining bdevs."""

log = logging.getLogger(__name__)

_Identity = tuple[str, str, str, int, int]


def as_unfit(error: FtlError) -> DeferredError | None:
    """The error of a load, as a verdict on the bdevs, for an FTL that was loaded before; None: the fault is in the FTL
    itself."""
    if isinstance(error, WrongCacheError):
        return CacheUnfitError(error.message)
    if isinstance(error, NotFoundError | GeometryError) and not isinstance(error, CacheMissingError):
        return UnfitError(error.message)
    return None


class BaseSearch:
    """The search for one FTL. Each method may be called at any time; it probes only now and then."""

    def __init__(
        self,
        rpc: TargetRpc,
        options: Callable[[], FtlOptions],
        device: UUID,
        prober: Prober,
        moved: Callable[[str, str], None],
        life: Callable[[], int],
    ) -> None:
        """options: as the device has them now. moved: gets which of them has another value, and that.
        life: the incarnation of the FTL's last life; 0: it is not known."""
        self._rpc = rpc
        self._options = options
        self._device = device
        self._prober = prober
        self._moved = moved
        self._life = life
        self.doubt: dict[str, str] = {}
        """By role ("base" or "cache"): why the daemon uses none of the bdevs that were found."""
        self._not_before: dict[_Identity, float] = {}
        self._next_s: dict[str, float] = {}
        self._delay_s: dict[str, float] = {}

    async def base(self) -> Bdev | None:
        """An unclaimed bdev that holds the FTL."""
        return await self._look("base", self._options().base_bdev, self._may_be_base, self._is_base)

    async def cache(self) -> Bdev | None:
        """An unclaimed bdev that holds the FTL's nv cache. None also if the FTL has no cache."""
        name = self._options().cache
        return None if name is None else await self._look("cache", name, _may_be_cache, self._is_cache)

    async def look_elsewhere(self, error: Exception) -> None:
        """Searches after an attempt that did not find base or cache under its name. error: of that attempt."""
        if isinstance(error, AwayError):
            self._found(base=await self.base())
        elif isinstance(error, CacheAwayError):
            self._found(cache=await self.cache())

    async def seek(self, refused: Bdev | None, took_long: Callable[[], Awaitable[None]]) -> None:
        """Returns when the base is found. refused: a bdev that a load has refused as base. took_long: called once if
        the search takes long."""
        clock = asyncio.get_running_loop().time
        if refused is not None:
            self._not_before[_identity("base", refused)] = clock() + AGAIN_S
        until: float | None = clock() + SEEK_S
        while not self._found(base=await self.base()):
            if until is not None and clock() >= until:
                until = None
                await took_long()
            await asyncio.sleep(LOOK_MIN_S)

    def _found(self, *, base: Bdev | None = None, cache: Bdev | None = None) -> bool:
        options = self._options()
        for key, name, bdev in (("base_bdev", options.base_bdev, base), ("cache", options.cache, cache)):
            if bdev is not None and name is not None and not is_named(bdev, name):
                self._moved(key, bdev.name)
        return base is not None or cache is not None

    def _may_be_base(self, bdev: Bdev) -> bool:
        try:
            check_base(bdev, zone_capacity=self._options().zone_capacity)
        except FtlError:
            return False
        return True

    def _is_base(self, probed: Probed) -> bool:
        # An older copy has the same uuid.
        return probed.uuid == self._device and (probed.incarnation or 0) >= self._life()

    def _is_cache(self, probed: Probed) -> bool:
        return probed.cache_of == self._device

    async def _look(
        self, role: str, first: str, may_be: Callable[[Bdev], bool], is_it: Callable[[Probed], bool]
    ) -> Bdev | None:
        clock = asyncio.get_running_loop().time
        if clock() < self._next_s.get(role, 0.0):
            return None
        try:
            bdevs = await foreign_bdevs(self._rpc)
        except (FtlError, OSError) as error:
            log.debug("%s: can't search the target's bdevs: %s", self._options().name, error)
            return None
        # Usually the bdev is under its name.
        bdevs.sort(key=lambda bdev: not is_named(bdev, first))
        probes, cut, those = 0, False, list[Bdev]()
        for bdev in bdevs:
            identity = _identity(role, bdev)
            if bdev.claimed or not may_be(bdev) or clock() < self._not_before.get(identity, 0.0):
                continue
            if probes == PROBES_MAX:
                cut = True
                break
            probes += 1
            if await self._is(bdev, role, is_it):
                those.append(bdev)
            else:
                self._not_before[identity] = clock() + AGAIN_S
        self._doubt(role, those)
        # Nothing tells which of two is the copy, and there may be another one among the bdevs that were not probed.
        if len(those) == 1 and not cut:
            self._delay_s.pop(role, None)
            return those[0]
        there = {_identity(role, bdev) for bdev in bdevs}
        self._not_before = {each: until for each, until in self._not_before.items() if each[0] != role or each in there}
        delay_s = self._delay_s.get(role, LOOK_MIN_S)
        self._next_s[role] = clock() + delay_s
        self._delay_s[role] = min(delay_s * LOOK_GROWTH, LOOK_MAX_S)
        return None

    def _doubt(self, role: str, those: list[Bdev]) -> None:
        if len(those) < 2:
            self.doubt.pop(role, None)
            return
        names = ", ".join(sorted(bdev.name for bdev in those))
        message = (
            f"each of the bdevs {names} may be its {role}, so the daemon uses none of them: remove the copies from "
            "the target, or delete the FTL bdev and name the right one with bdev_ftl_create -u"
        )
        if self.doubt.get(role) != message:
            self.doubt[role] = message
            log.error("%s: %s", self._options().name, message)

    async def _is(self, bdev: Bdev, role: str, is_it: Callable[[Probed], bool]) -> bool:
        capacity = self._options().zone_capacity if role == "base" else None
        try:
            return is_it(await self._prober.probe(self._rpc, bdev, zone_capacity=capacity))
        except (FtlError, OSError) as error:
            log.debug("%s: not found on bdev %s: %s", self._options().name, bdev.name, error)
            return False


def is_named(bdev: Bdev, name: str) -> bool:
    return name in bdev.names or name == bdev.uuid


def _may_be_cache(bdev: Bdev) -> bool:
    return not bdev.zoned


def _identity(role: str, bdev: Bdev) -> _Identity:
    return role, bdev.name, bdev.uuid, bdev.block_bytes, bdev.block_count

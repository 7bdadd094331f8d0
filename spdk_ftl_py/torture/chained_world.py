"""A world whose I/O takes the product's path (chain), and whose daemon outlives the loss of its base. It does in
simulated time what spdk_ftl_py/daemon does then."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Callable
from typing import Any, Final

from ..daemon.base import PASSING
from ..errors import FtlError
from ..ftl.cache.nv_cache_keeper import CacheState
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.media.blockdev import may_pass
from .chain import Chain, Loss
from .crash import Crash
from .model import Violation
from .workload import Workload
from .world import World

STEADY_BASES: Final = 0.2
"""The part of these worlds whose base has no volatile cache."""
RETURNS_MAX: Final = 40
"""The maximum number of loads until the base is back. Each may meet a busy drive or a single fault, or lose its
connection."""
RETURN_DELAY_S: Final = 0.1


class ChainedWorld(World):
    def __init__(self, seed: int, number: int, **options: Any) -> None:
        """options: as for World."""
        super().__init__(seed, number, **options)
        self._chain_rng = random.Random(f"{seed}/{number}/chain")
        self._steady = self._chain_rng.random() < STEADY_BASES
        self._chain: Chain
        self._serving = False
        """The daemon is running, and reloads the FTL when its base was lost."""
        self._return: asyncio.Task[None] | None = None
        self._powerless = False
        """The drives are without power until the daemon reconnects to them."""
        self._base_dropped = False
        """The base's connection was dropped, and the nv cache's with it. The FTL may notice either one first."""
        self._cache_dropped = False
        """The cache's connection was dropped in this life, so the FTL may give up the cache."""
        self._cache_counts = False
        """The next crash comes at a number of cache I/Os, so the cache must stay in use."""
        self._summed_up: FtlDevice | None = None

    # --- the path of I/O

    def _begin(self) -> None:
        self._chain = Chain(self._reactor, self._chain_rng, self._fronts)

    async def _create_in_shape(self) -> bool:
        self._shape = dataclasses.replace(self._shape, volatile_cache=not self._steady)
        return await super()._create_in_shape()

    def _connect(self, *, new: bool) -> None:
        media, self._nv_cache = self._chain.connect(self._media, self._cache)
        self._base = self._shape.base(self._reactor, media, new=new)

    def _work(self) -> Workload:
        device = self._chain.serve(self._device.core, self._shape.conf.write_buffer_blocks)
        self._serving = True
        self._powerless = self._base_dropped = self._cache_dropped = False
        chain = self._chain
        return Workload(
            chain.client,
            device,
            self._model,
            self._content,
            self._rng,
            apart=True,
            wrong_digests=lambda: chain.host_bits,
        )

    async def _settled(self) -> None:
        """As in the daemon: the base is there, and hosts are disconnected, with whatever they have in flight."""
        self._chain.calm_down()
        if self._powerless and self._return is None:
            # The FTL may have sent the drives nothing since the power cut, and so not have noticed it.
            self._chain.hang_up()
        while self._living() and (self._return is not None or self._needs_return):
            await self._step()
        self._serving = False
        self._workload.stop()
        self._chain.leave()
        while not self._chain.landed:
            await self._step()

    async def _kill(self, *, power_fails: bool) -> None:
        self._serving = False
        self._chain.kill(target_too=power_fails)
        if self._return is not None:
            self._return.cancel()
            await asyncio.gather(self._return, return_exceptions=True)
            self._return = None
            # A reload that was interrupted may have made connections.
            self._chain.kill(target_too=power_fails)

    @property
    def _landed(self) -> bool:
        return self._chain.landed

    # --- life

    async def _step(self) -> None:
        await super()._step()
        for name in self._chain.pump():
            text = f"the connection of the {name} was lost, although the test did not disturb it"
            self._violated(Violation("io_error", -1, text))
        if not self._serving:
            return
        if self._return is not None and self._return.done():
            self._return.result()
            self._return = None
        if self._return is None and self._needs_return:
            self._return = asyncio.ensure_future(self._come_back())
        self._workload.durable_when_acknowledged = self._device.cache.state is CacheState.IN_USE
        loss = self._chain.lose(self._media.operations)
        if loss is not None:
            self.result.stats[f"lost_{loss.value}"] += 1
        if loss in (Loss.POWER, Loss.DRIVE):
            self._cut_power(self._chain_rng.getrandbits(63))
            self._powerless = True
        if loss in (Loss.POWER, Loss.BASE):
            self._base_dropped = True
        elif loss is Loss.CACHE:
            self._cache_dropped = True

    @property
    def _needs_return(self) -> bool:
        return self._living() and (self._chain.base_lost or self._device.failed.is_set())

    async def _traffic_until(self, reached: Callable[[], bool]) -> None:
        self._chain.plan(self._media.operations, cache=not self._cache_counts)
        self._cache_counts = False
        await super()._traffic_until(lambda: reached() or not self._living())
        self._chain.calm_down()

    def _arm(self, crash: Crash) -> Callable[[], bool]:
        drives = self._drives()
        self._cache_counts = drives[crash.seed % len(drives)] is self._cache
        return super()._arm(crash)

    @property
    def _cache_is_lost(self) -> bool:
        """The cache is lost without a cause. A loss together with the base, or of the cache's own connection, is
        allowed."""
        with_base = self._powerless or self._base_dropped or self._needs_return or self._return is not None
        return super()._cache_is_lost and not (self._cache_dropped or with_base)

    def _sum_up(self) -> None:
        if self._device is not self._summed_up:
            self._summed_up = self._device
            super()._sum_up()

    async def _drop_device(self) -> None:
        await super()._drop_device()
        if self._chain.is_alive:
            # The daemon has ended its device, and could not reload it.
            self._workload.stop()
            await self._buried()

    # --- the base is lost

    async def _come_back(self) -> None:
        """Does what the daemon does: releases the base, and loads the FTL again. Host I/O is held meanwhile."""
        self._chain.hold()
        self._check_zones()
        failure = self._device.failure
        if failure is not None and not self._may_fail(failure):
            self._violated(Violation("io_error", -1, f"the device failed: {failure.message}"))
            return
        await self._device.abort("the base is lost")
        await self._let_go()
        if self._device.state is not FtlState.HALTED:
            with contextlib.suppress(FtlError):
                await self._device.halt()
        self._sum_up()
        for _ in range(RETURNS_MAX):
            self._connect(new=False)
            try:
                self._device = await self._loaded(self._alarm_for_nothing)
                break
            except PASSING:
                if not self._serving:
                    return  # killed, and what it waited for failed at the same moment
                await self._let_go()
                await asyncio.sleep(RETURN_DELAY_S)
            except FtlError as error:
                self._violated(Violation("refused", -1, f"load after the base came back: {error!r}"))
                return
        else:
            self._violated(Violation("wedged", -1, f"the base is not back after {RETURNS_MAX} loads"))
            return
        self.result.stats["returns"] += 1
        self._device_is_new()
        self._check_bands()
        floors = self._model.floors(0, self._model.block_count)
        versions = await self._versions()
        if not self._needs_return:
            self._violated(*self._model.check_read(0, floors, versions))
        self._chain.reopen(self._device.core)

    def _may_fail(self, failure: BaseException) -> bool:
        """Whether an injected fault explains the failure. A busy drive must not end the device."""
        done = self._chain.base_lost or self._powerless or self._load_helps(failure)
        return done and may_pass(failure)

    def _hosts_may_notice(self, failure: BaseException | None) -> bool:
        """Never: the daemon reloads the FTL after any failure, and holds host I/O meanwhile."""
        return False

    async def _let_go(self) -> None:
        """Closes the connections, and waits until their I/O has ended. A target does that before it accepts the host
        again."""
        self._chain.hang_up()
        self._base_dropped = False
        await self._chain.land()
        if self._powerless:
            self._powerless = False
            for media in self._drives():
                media.power_on()

    def _alarm_for_nothing(self) -> None:
        self._violated(Violation("untold", -1, "hosts are told of lost writes, although the daemon has lost none"))

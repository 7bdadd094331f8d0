"""An endpoint within the test's process, and clients of it in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.target.traits import TargetLimits
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.vfio_user.target.listener import VfioUserListener
from support.vfio_user_client import VfioUserClient

T = TypeVar("T")

NQN = "nqn.2026-11.io.spdk-ftl.test:shared"
LIMITS = TargetLimits(max_io_bytes=131072, in_capsule_bytes=0, max_queue_depth=64, max_io_qpairs=4)


class Rig:
    """A subsystem with one namespace, served at `directory`."""

    def __init__(self, reactor: ReactorLoop, directory: Path, **options: Any) -> None:
        self.reactor = reactor
        self.directory = directory
        self.subsystem = Subsystem(NQN, allow_any_host=True)
        self.media = _shim.EmulatedMedia.conventional(reactor.shim, 1024)
        self.subsystem.add_namespace(self.media)
        self.options = {"keeper": False} | options
        self.listener = self.make_listener()

    def make_listener(self) -> VfioUserListener:
        return VfioUserListener(self.reactor, self.subsystem, self.directory, LIMITS, **self.options)

    async def use(self, what: Callable[[VfioUserClient], T]) -> T:
        """A client that attaches, does that and leaves."""

        def run() -> T:
            with VfioUserClient(self.directory) as client:
                return what(client)

        return await asyncio.to_thread(run)

    async def enabled(self, what: Callable[[VfioUserClient], T]) -> T:
        """The same, with the controller enabled."""

        def run(client: VfioUserClient) -> T:
            client.enable()
            return what(client)

        return await self.use(run)


@asynccontextmanager
async def rig(directory: Path, **options: Any) -> AsyncIterator[Rig]:
    before = asyncio.all_tasks()
    reactor = ReactorLoop("vfio-user", spin_us=0)
    await reactor.start()
    here = Rig(reactor, directory / "e", **options)
    try:
        await here.listener.start()
        yield here
    finally:
        await here.listener.stop()
        await reactor.stop()
    assert not here.subsystem.controllers
    assert list((directory / "e").iterdir()) == []
    left = asyncio.all_tasks() - before
    assert not left, left

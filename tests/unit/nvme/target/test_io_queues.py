"""The set of a controller's I/O queues: which reactor each is on, and how it ends."""

from __future__ import annotations

import asyncio

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.target.connected_hosts import HostKey
from spdk_ftl_py.nvme.target.io_queues import IoQueueSet
from spdk_ftl_py.runtime.reactor import ReactorLoop


class Queue:
    """A queue without I/O. Its id is that of something else on another reactor."""

    aborting = 0

    def __init__(self, queue_id: int) -> None:
        self.id = queue_id
        self.closed = 0

    def set_namespace(self, nsid: int, device: _shim.BlockDevice | None, bars: tuple[int, int] = (0, 0)) -> None: ...
    def set_bars(self, nsid: int, bars: tuple[int, int]) -> None: ...
    def abort_io(self, nsid: int) -> None: ...
    def stats(self) -> _Stats:
        return _Stats()

    def close(self) -> None:
        self.closed += 1


class _Stats:
    def as_dict(self) -> dict[str, int]:
        return {}


class Queues(IoQueueSet[Queue]):
    """The first to close a queue has to wait until `left`, those who come later until `left_again`."""

    def __init__(self, reactor: ReactorLoop) -> None:
        super().__init__(
            reactor,
            None,
            host=HostKey("nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-000000000001", bytes(16)),
            listener=("127.0.0.1", 4420),
            most=4,
            namespaces=dict,
            spawn=lambda coroutine: None,
            live=lambda: True,
        )
        self.left = asyncio.Event()
        self.left_again = asyncio.Event()
        self._waiting = [self.left, self.left_again]

    async def _leave(self, qpair: Queue) -> None:
        await self._waiting.pop(0).wait()


async def test_two_who_close_a_queue_leave_other_reactors_alone() -> None:
    """The controller closes all queues while one is being closed because its host has left. The second to end must not
    look for the queue on the first reactor, where a core may have the same id: it would hear of nothing any more."""
    core, front = ReactorLoop("core", stepped=True), ReactorLoop("front", stepped=True)
    heard: list[str] = []
    queue = Queue(7)
    core.subscribe(7, lambda event: heard.append("core"))
    queues = Queues(core)
    queues.reserve(1)
    queues.adopt(1, queue, front)
    assert queues.reactor_of(1) is front
    first = asyncio.create_task(queues.close_one(1))
    second = asyncio.create_task(queues.close())
    await asyncio.sleep(0)
    queues.left.set()
    await first
    assert not queues.qpairs
    queues.left_again.set()
    await second
    assert 7 in core._handlers
    assert 7 not in front._handlers
    assert queue.closed >= 1


async def test_ids_are_of_all_reactors() -> None:
    """So an order that goes to the wrong reactor finds nothing there."""
    reactors = [_shim.Reactor(f"reactor-{number}", 0) for number in range(2)]
    ids = [_shim.IoPort(reactor, _shim.EmulatedMedia.null(reactor, 8)).id for reactor in reactors for _ in "ab"]
    assert len(set(ids)) == 4

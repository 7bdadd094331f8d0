"""Peers that open as much as they can: the control socket, a clean halt, and other hosts have their part."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest

from hostile.honest_host import ANSWER_S, HONEST_NQN, World, honest_host
from hostile.peers import Peer
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.wire import Status
from spdk_ftl_py.runtime.descriptors import raise_descriptor_limit

STRANGER = "nqn.2026-11.io.example:stranger"
NOFILE = 1024
DISCOVERY_ATTEMPTS = 1006
OPEN_ATTEMPTS = 1200
CLAIM_ATTEMPTS = 300
CONTROLLER_ATTEMPTS = 255
OPENING_TIMEOUT_S = 1.0
FAILURES_MAX = 2


def _open(stack: ExitStack, count: int, opened: Callable[[Peer, int], bool], world: World) -> int:
    """How many of count connections the peer had what it wanted of."""
    had = failures = 0
    for number in range(count):
        try:
            peer = stack.enter_context(Peer(world.port, timeout_s=OPENING_TIMEOUT_S))
            had += opened(peer, number)
        except (OSError, EOFError):
            failures += 1
            if failures > FAILURES_MAX:
                break
    return had


@asynccontextmanager
async def opened_by(
    world: World, count: int, how: Callable[[Peer, int], bool], *, most: int | None = None
) -> AsyncIterator[None]:
    """The attack; most: so many of count may succeed."""
    raise_descriptor_limit()
    with ExitStack() as stack:
        had = await asyncio.to_thread(_open, stack, count, how, world)
        assert most is None or had <= most, f"{had} of {count} got in"
        yield


def _discover(peer: Peer, number: int) -> bool:
    return peer.initialize().connect(wire.DISCOVERY_NQN, f"{STRANGER}{number}", kato_ms=0).status == 0


@pytest.mark.parametrize("world", [NOFILE], indirect=True, ids=["nofile"])
async def test_discovery_controllers_without_end(world: World) -> None:
    async with honest_host(world) as host:
        (await host.beside(opened_by(world, DISCOVERY_ATTEMPTS, _discover))).check()


@pytest.mark.parametrize("world", [NOFILE], indirect=True, ids=["nofile"])
async def test_connections_that_say_nothing(world: World) -> None:
    """Newcomers find room, at the cost of the oldest that said nothing."""
    async with opened_by(world, OPEN_ATTEMPTS, lambda peer, number: True):
        begin = time.monotonic()
        assert world.state() == "online"
        assert time.monotonic() - begin < ANSWER_S
        begin = time.monotonic()
        async with honest_host(world) as host:
            assert time.monotonic() - begin < ANSWER_S
            assert not (await host.measure())["io_errors"]


async def test_connections_that_say_who_they_are_and_do_not_prove_it(world: World) -> None:
    """The honest host's own name: neither it nor its next connections lack anything."""

    def claim(peer: Peer, number: int) -> bool:
        cqe = peer.initialize().connect(world.nqn, HONEST_NQN, kato_ms=600_000)
        return cqe.status == 0 and bool(cqe.result & wire.CONNECT_ATR)

    async with honest_host(world) as host:
        (await host.beside(opened_by(world, CLAIM_ATTEMPTS, claim))).check()
    async with opened_by(world, CLAIM_ATTEMPTS, claim):
        begin = time.monotonic()
        async with honest_host(world) as host:
            assert time.monotonic() - begin < ANSWER_S
            assert not (await host.measure())["io_errors"]


async def test_who_may_not_connect_gets_nothing(world: World) -> None:
    world.client.call("bdev_ftl_allow_any_host", {"name": "ftl0", "allow_any_host": False})

    def connect(peer: Peer, number: int) -> bool:
        return peer.initialize().connect(world.nqn, f"{STRANGER}{number}").status != Status.CONNECT_INVALID_HOST

    async with honest_host(world) as host:
        (await host.beside(opened_by(world, CLAIM_ATTEMPTS, connect, most=0))).check()


async def test_controllers_without_keep_alive_are_refused(world: World) -> None:
    with Peer(world.port) as peer:
        assert peer.initialize().connect(world.nqn, STRANGER, kato_ms=0).status == Status.KEEP_ALIVE_INVALID
        assert peer.connect(world.nqn, STRANGER, kato_ms=1 << 31).status == Status.KEEP_ALIVE_INVALID
        assert peer.connect(world.nqn, STRANGER, kato_ms=5_000).status == 0


@pytest.mark.parametrize(("one_nqn", "most"), [(True, 32), (False, 64)], ids=["of one host", "of one address"])
async def test_controllers_without_end(world: World, one_nqn: bool, most: int) -> None:
    def connect(peer: Peer, number: int) -> bool:
        nqn = STRANGER if one_nqn else f"{STRANGER}{number}"
        return peer.initialize().connect(world.nqn, nqn, kato_ms=600_000).status == 0

    async with honest_host(world) as host:
        (await host.beside(opened_by(world, CONTROLLER_ATTEMPTS, connect, most=most))).check()


async def test_io_queues_without_end(world: World) -> None:
    """Of one host: half of them, whatever number of controllers it spreads them over."""

    def connect(peer: Peer, number: int) -> bool:
        cqe = peer.initialize().connect(world.nqn, STRANGER)
        if cqe.status or peer.enable().status:
            return False
        for qid in range(1, 65):
            queue = stack.enter_context(Peer(world.port))
            queues.append(
                queue.initialize().connect(world.nqn, STRANGER, qid=qid, cntlid=cqe.result & 0xFFFF).status == 0
            )
        return True

    queues: list[bool] = []
    with ExitStack() as stack:
        async with honest_host(world) as host:
            (await host.beside(opened_by(world, 3, connect))).check()
            assert sum(queues) == 64
            async with honest_host(world) as other:
                assert not (await other.measure(0.2))["io_errors"]

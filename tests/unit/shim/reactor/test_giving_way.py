"""A reactor polls for a while before it sleeps, but not while a peer on its own processor has to go on first."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from support.qpair_rig import PATIENCE_S, host_options

BLOCKS = 256
SPIN_US = 600_000_000
"""Longer than any test: a reactor that polls does not sleep, however seldom it gets a turn."""
LATER_NS = 600_000_000_000
"""From now. A queue whose window began then does not become idle, however slow I/O is."""
LOCATING = 200
"""I/Os. After 128 receptions a queue knows where its peer runs."""
PAUSES = 10
ROUNDS_MIN = 100
"""Of one that polls, without a sleep. One that sleeps at once has some four."""
LOOK_S = 0.0005


@contextmanager
def one_cpu() -> Iterator[int]:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


def sleeps_of(name: str) -> Callable[[], int]:
    """How often the thread of that name has waited for something. A yield does not count, nor does what the kernel
    takes from it."""
    (task,) = (each for each in Path("/proc/self/task").iterdir() if (each / "comm").read_text().strip() == name)

    def sleeps() -> int:
        lines = (task / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))

    return sleeps


def sleeps_in_pauses(threaded: str, pair: Callable[[], tuple[socket.socket, socket.socket]]) -> list[bool]:
    """Of each pause that the other side makes: whether the side with a thread (host or target) sleeps before it has
    polled ROUNDS_MIN times. So it does not matter how much of the processor others leave. Both are on one processor;
    this thread drives the other side."""
    sides = {"host": _shim.Reactor("host", SPIN_US), "target": _shim.Reactor("target", SPIN_US)}
    thread, stepped = sides.pop(threaded), next(iter(sides.values()))
    host_reactor, target_reactor = (thread, stepped) if threaded == "host" else (stepped, thread)
    media = _shim.EmulatedMedia.null(target_reactor, BLOCKS)
    ours, theirs = pair()
    with ours, theirs:
        target = _shim.TargetQpair(
            target_reactor, ours.fileno(), queue_size=32, header_digest=False, data_digest=False, namespaces={1: media}
        )
        host = _shim.HostQpair(host_reactor, theirs.fileno(), **host_options(media))
    thread.step(time.monotonic_ns() + LATER_NS)
    load = _shim.LoadGenerator(host_reactor, host, lba_count=BLOCKS, seed=1, verify="none")
    with one_cpu() as cpu:
        thread.start(cpu)
        try:
            load.start(kind="read", queue_depth=1, time_limit_s=PATIENCE_S)

            sleeps = sleeps_of(threaded)
            until = time.monotonic() + PATIENCE_S
            while load.progress().done_ios < LOCATING:
                assert time.monotonic() < until, "the I/O does not go on"
                stepped.step()
                time.sleep(0)

            def slept() -> bool:
                slept_before, before = sleeps(), thread.rounds
                while not stepped.step():
                    time.sleep(0)
                while (now := sleeps()) == slept_before and thread.rounds < before + ROUNDS_MIN:
                    assert time.monotonic() < until, "the reactor neither sleeps nor polls"
                    time.sleep(LOOK_S)
                return now > slept_before

            return [slept() for _ in range(PAUSES)]
        finally:
            load.stop()
            thread.stop()
            while load.progress().running:
                stepped.step()
                thread.step()
            load.close()
            host.close()
            target.close()


@pytest.mark.parametrize("threaded", ["host", "target"])
def test_a_reactor_sleeps_at_once_when_its_peer_needs_its_processor(threaded: str) -> None:
    assert all(sleeps_in_pauses(threaded, tcp_pair))


@pytest.mark.parametrize("threaded", ["host", "target"])
def test_a_reactor_polls_while_it_does_not_know_where_its_peer_is(threaded: str) -> None:
    """A connection without TCP does not tell."""
    assert not any(sleeps_in_pauses(threaded, socket.socketpair))

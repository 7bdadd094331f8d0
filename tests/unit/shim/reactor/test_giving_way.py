"""A reactor polls for a while before it sleeps, but not while a peer on its own processor has to go on first."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from spdk_ftl_py import _shim
from support.qpair_rig import PATIENCE_S, host_options

BLOCKS = 256
SPIN_US = 1_000_000
LOCATING = 200
"""I/Os. After 128 receptions a queue knows where its peer runs."""
PAUSES = 5
PAUSE_S = 0.004
ROUNDS_MAX = 12
"""Of a reactor that sleeps, for each I/O."""
ROUNDS_MIN = 100
"""Of one that polls."""
ATTEMPTS = 8
"""Where other programs keep the processor busy, the kernel handles a packet elsewhere now and then, or a reactor gets
no turn."""


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


def rounds_in_pauses(threaded: str, pair: Callable[[], tuple[socket.socket, socket.socket]]) -> int:
    """The rounds of the side with a thread (host or target), for each pause that the other side makes. Both are on one
    processor; this thread drives the other side."""
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
    load = _shim.LoadGenerator(host_reactor, host, lba_count=BLOCKS, seed=1, verify="none")
    with one_cpu() as cpu:
        thread.start(cpu)
        try:
            load.start(kind="read", queue_depth=1, time_limit_s=PATIENCE_S)

            def go_on(ios: int, pause_s: float) -> None:
                wanted = load.progress().done_ios + ios
                while load.progress().done_ios < wanted:
                    assert load.progress().running, "the load ended too early"
                    stepped.step()
                    time.sleep(pause_s)

            go_on(LOCATING, 0)
            before = thread.rounds
            for _ in range(PAUSES):
                while not stepped.step():
                    time.sleep(0)
                time.sleep(PAUSE_S)
            return (thread.rounds - before) // PAUSES
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
    assert any(rounds_in_pauses(threaded, tcp_pair) <= ROUNDS_MAX for _ in range(ATTEMPTS))


def test_a_reactor_polls_while_it_does_not_know_where_its_peer_is() -> None:
    """A connection without TCP does not tell."""
    assert any(rounds_in_pauses("host", socket.socketpair) >= ROUNDS_MIN for _ in range(ATTEMPTS))

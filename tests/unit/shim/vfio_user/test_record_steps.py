"""The record of a queue: a process that serves it may be killed at every instruction.

A child serves the queue, one machine instruction after the other. Whenever that changes the shared memory, the memory
as it is then is given to another process' queue, as after a kill. Each command must be completed exactly once, with its
own status and in its own place.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from spdk_ftl_py import _shim
from support.shared_client import PAGE, READ, WRITE, Answer, SharedClient, entry, shared_client

PTRACE_TRACEME, PTRACE_SINGLESTEP, PTRACE_CONT = 0, 9, 7
RANGE: Final = 0x080
BLOCKS: Final = 64
COMMANDS: Final = 3
"""In flight, and fetched step by step. Then one more."""

pytestmark = pytest.mark.not_sanitized("a minute there, and no more found")


@pytest.fixture
def client() -> Iterator[SharedClient]:
    with shared_client(sq_entries=8, cq_entries=8, data_pages=4) as made:
        yield made


def media(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.conventional(reactor, BLOCKS)


def command(client: SharedClient, cid: int) -> bytes:
    """Every third one fails."""
    opcode = READ if cid % 2 else WRITE
    return entry(opcode, cid, prps=(client.iova(cid % 4), 0), slba=BLOCKS if cid % 3 == 2 else cid % BLOCKS)


def expected(cids: list[int]) -> list[tuple[int, int]]:
    return sorted((cid, RANGE if cid % 3 == 2 else 0) for cid in cids)


def image(client: SharedClient) -> tuple[bytes, bytes]:
    """The record and the queues. What is read in between is never torn: the child stands still."""
    record = os.pread(client.record_fd, _shim.SharedTargetQpair.record_bytes(client.sq_entries), 0)
    return record, client.memory[: client.first_data * PAGE]


def single_steps(child: int) -> Iterator[None]:
    """Ends when the child stops itself for the second time."""
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        assert libc.ptrace(PTRACE_SINGLESTEP, child, None, None) == 0, os.strerror(ctypes.get_errno())
        _, status = os.waitpid(child, 0)
        assert os.WIFSTOPPED(status), status
        if os.WSTOPSIG(status) == signal.SIGSTOP:
            return
        assert os.WSTOPSIG(status) == signal.SIGTRAP, status
        yield


def images_of(client: SharedClient, run: object) -> list[tuple[bytes, bytes]]:
    """Each state of the shared memory while a child executes run()."""
    assert callable(run)
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            run()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        os.waitpid(child, 0)
        states = [image(client)]
        for _ in single_steps(child):
            if (now := image(client)) != states[-1]:
                states.append(now)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return states


def taken_over(before: SharedClient, state: tuple[bytes, bytes], sent: int) -> list[Answer]:
    """What the client sees of all its commands if the process was killed in this state."""
    with shared_client(sq_entries=8, cq_entries=8, data_pages=4) as client:
        client.memory[: len(state[1])] = state[1]
        client.bar0[:] = before.bar0[:]
        os.pwrite(client.record_fd, state[0], 0)
        client.tail = before.tail
        client.head, client.phase, client.sqhd = before.head, before.phase, before.sqhd
        qpair = client.serve({1: media(client.reactor)})
        client.step(6)
        answers = client.pop()
        # The queue goes on, and comes round to the same places.
        for cid in range(100, 120):
            answers += client.run(command(client, cid))
        assert qpair.connected
        qpair.close()
    assert sorted((each.cid, each.status) for each in answers[:sent]) == expected(list(range(sent)))
    assert [(each.cid, each.status) for each in answers[sent:]] == [expected([cid])[0] for cid in range(100, 120)]
    return answers


def test_killed_at_any_instruction(client: SharedClient) -> None:
    """The queues wrap meanwhile."""
    qpair = client.serve({1: media(client.reactor)})
    for cid in range(6):
        client.run(command(client, cid))
    client.push(*(command(client, cid) for cid in range(COMMANDS)))
    states = images_of(client, lambda: [client.reactor.step(client.now_ns + 1 + i) for i in range(3)])
    seen = set()
    for state in states:
        answers = taken_over(client, state, COMMANDS)
        assert all(answer.sqhd < 8 for answer in answers)
        seen.add(sum(state[0][4096 + 128 * slot + 64] != 0 for slot in range(8)))
    assert seen >= {0, 1, 2}  # commands in flight
    # Each command is recorded (entry, seq, head) and completed (completion, position, two words, tail, seq).
    assert len(states) > 8 * COMMANDS
    qpair.close()


def test_killed_during_recovery(client: SharedClient) -> None:
    qpair = client.serve({1: media(client.reactor)})
    client.push(*(command(client, cid) for cid in range(COMMANDS)))
    states = images_of(client, lambda: client.reactor.step(client.now_ns + 1) and client.reactor.step(2))
    qpair.close()
    noted = [state for state in states if any(position(state[0], slot) for slot in range(8))]
    assert noted
    middle = noted[len(noted) // 2]
    client.memory[: len(middle[1])] = middle[1]
    os.pwrite(client.record_fd, middle[0], 0)

    def recover() -> None:
        again = client.serve({1: media(client.reactor)})
        for i in range(2):
            client.reactor.step(client.now_ns + 10 + i)
        os.kill(os.getpid(), signal.SIGSTOP)
        again.close()

    for state in images_of(client, recover):
        taken_over(client, state, COMMANDS)


def position(record: bytes, slot: int) -> int:
    value: int = struct.unpack_from("<Q", record, 4096 + 128 * slot + 72)[0]
    return value


# --- records that are not this queue's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (0, 1, "another queue"),
        (8, 2, "another queue"),
        (12, 16, "another queue"),
        (24, 0, "another queue"),
        (4096 + 64, 1, None),
        (4096 + 72, 9, "damaged"),
    ],
)
def test_a_record_of_another_queue_is_refused(client: SharedClient, offset: int, value: int, error: str | None) -> None:
    qpair = client.serve({1: media(client.reactor)})
    client.run(*(command(client, cid) for cid in range(3)))
    qpair.close()
    os.pwrite(client.record_fd, struct.pack("<Q", 1), 4096 + 64)
    os.pwrite(client.record_fd, struct.pack("<Q", value), offset)
    if error is None:
        client.serve({1: media(client.reactor)}).close()
        return
    with pytest.raises(ValueError, match=error):
        client.serve({1: media(client.reactor)})
    assert client.map.region_count == 1


def test_a_record_that_is_too_small_is_refused(client: SharedClient) -> None:
    os.ftruncate(client.record_fd, PAGE)
    with pytest.raises(ValueError, match="record"):
        client.serve({})

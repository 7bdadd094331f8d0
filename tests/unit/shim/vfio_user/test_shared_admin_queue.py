"""SharedAdminQueue: commands for Python, their data, and what the next process gets again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spdk_ftl_py import _shim
from support.shared_client import BASE, PAGE, SharedClient, entry, shared_client

IDENTIFY = 0x06


@pytest.fixture
def client() -> Iterator[SharedClient]:
    with shared_client(qid=0, sq_entries=8, cq_entries=8) as made:
        yield made


def told(client: SharedClient) -> int:
    count = sum(event.kind == _shim.EventKind.ADMIN_COMMAND for event in client.events)
    client.events.clear()
    return count


def test_commands_come_in_order_and_are_answered_in_any(client: SharedClient) -> None:
    queue = client.serve_admin()
    assert queue.take() is None
    sent = [entry(IDENTIFY, cid, nsid=cid, prps=(client.iova(cid), 0), slba=cid) for cid in range(5)]
    client.push(*sent)
    client.step(2)
    assert told(client) == 1
    taken = []
    while (command := queue.take()) is not None:
        taken.append(command)
    assert [command.sqe for command in taken] == sent
    client.push(entry(IDENTIFY, 9))
    client.step(2)
    assert told(client) == 1
    for cid in (3, 0, 4, 1, 2):
        assert queue.complete(taken[cid].token, cid, 0x1_0000_0000 * cid + 7, bytes([cid]) * 100)
    answers = client.pop()
    assert [(each.cid, each.status, each.result) for each in answers] == [
        (cid, cid, 0x1_0000_0000 * cid + 7) for cid in (3, 0, 4, 1, 2)
    ]
    assert client.get(4, 101) == b"\4" * 100 + b"\0"
    with pytest.raises(ValueError, match="no such command"):
        queue.complete(taken[0].token, 0, 0)
    with pytest.raises(ValueError, match="no such command"):
        queue.read_data(taken[0].token, 1)
    queue.close()
    queue.close()


def test_data_goes_both_ways_and_bad_addresses_are_told(client: SharedClient) -> None:
    queue = client.serve_admin()
    client.put(3, b"x" * PAGE)
    client.put(5, b"y" * PAGE)
    client.push(entry(0x0A, 1, prps=(client.iova(3, 100), client.iova(5))), entry(0x0A, 2, prps=(BASE - PAGE, 0)))
    client.step(2)
    good, bad = queue.take(), queue.take()
    assert good is not None
    assert bad is not None
    assert queue.read_data(good.token, 4096) == b"x" * 3996 + b"y" * 100
    assert queue.read_data(good.token, 0) == b""
    assert queue.read_data(bad.token, 1) is None
    assert not queue.complete(bad.token, 0, 0, b"z")
    assert queue.complete(bad.token, 4, 0)
    for length in (_shim.ADMIN_DATA_BYTES_MAX + 1, 1 << 40):
        with pytest.raises(ValueError, match="at most"):
            queue.read_data(good.token, length)
    assert queue.complete(good.token, 0, 0)
    assert [(each.cid, each.status) for each in client.pop()] == [(2, 4), (1, 0)]
    queue.close()
    assert queue.complete(good.token, 0, 0)  # the queue has ended: nobody waits for it
    assert queue.read_data(good.token, 1) is None


def test_the_next_process_gets_what_was_not_completed(client: SharedClient) -> None:
    queue = client.serve_admin()
    client.push(*(entry(IDENTIFY, cid) for cid in range(4)))
    client.step(2)
    taken = [queue.take() for _ in range(3)]
    assert taken[1] is not None
    assert queue.complete(taken[1].token, 0, 0)
    queue.close()
    queue = client.serve_admin()
    client.push(entry(IDENTIFY, 9))
    client.step(2)
    assert told(client) == 2
    again = []
    while (command := queue.take()) is not None:
        again.append(command.sqe[2])
        assert queue.complete(command.token, 0, 0)
    assert again == [0, 2, 3, 9]
    assert [each.cid for each in client.pop()] == [1, 0, 2, 3, 9]
    queue.close()


def test_a_client_with_many_commands_waits(client: SharedClient) -> None:
    queue = client.serve_admin()
    for turn in range(10):
        client.push(*(entry(IDENTIFY, cid) for cid in range(7)))
        client.step(2)
        for cid in range(7):
            command = queue.take()
            assert command is not None
            assert command.sqe[2] == cid
            assert queue.complete(command.token, turn, 0)
        assert len(client.pop()) == 7
        client.step()
    client.doorbell(0, 8)
    client.step(2)
    assert client.events[-1].kind == _shim.EventKind.SHARED_QPAIR_CLOSED
    assert queue.take() is None
    queue.close()

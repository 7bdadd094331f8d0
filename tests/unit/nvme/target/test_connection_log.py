"""Who came, was refused, left: what is told of it, in the log and later, and that no stranger can make it grow."""

from __future__ import annotations

import logging

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.target.connection_log import ENDED_MAX, LINES_BURST, REFUSALS_MAX, ConnectionLog
from spdk_ftl_py.nvme.wire import CommandError
from unit.nvme.nvme_loop import HOSTNQN, Bench, bench, io, until

STRANGER = "nqn.2026-11.io.example:\x1b[31m\nstranger"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return told


async def test_connects_ends_and_refusals_are_told_with_what_the_host_did(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spdk_ftl_py.nvme.target.connection_log")
    log = ConnectionLog("ftl0", remedy=lambda host: f"; `add {host}` lets it in")
    async with bench(connections=log) as here:
        here.subsystem.allow_any_host = False
        here.subsystem.add_host(HOSTNQN)
        host = await here.connect()
        assert lines(caplog) == [f"ftl0: host {HOSTNQN} at 127.0.0.1:{port_of(here)} connected"]
        (namespace,) = await host.namespaces()
        qpair = await host.create_io_qpair(here.reactor, namespace)
        assert (await io(here.reactor, qpair, _shim.Op.WRITE, 3, 2, bytearray(8192)))[0] == 0
        assert (await io(here.reactor, qpair, _shim.Op.READ, 3, 1, bytearray(4096)))[0] == 0
        (controller,) = here.subsystem.controllers.values()
        told = controller.describe()
        assert (told["hostnqn"], told["traddr"], told["num_io_qpairs"]) == (HOSTNQN, "127.0.0.1", 1)
        assert (told["commands"], told["read_blocks"], told["write_blocks"], told["errors"]) == (2, 1, 2, 0)
        assert told["bytes_in"] > 8192
        assert 0 <= told["age_s"] < 60
        (queue,) = told["qpairs"]
        assert (queue["qid"], queue["commands"], queue["write_blocks"]) == (1, 2, 2)
        raw = await here.raw()
        await raw.initialize()
        assert (await raw.connect(hostnqn=STRANGER)).status == wire.Status.CONNECT_INVALID_HOST
        shown = r"nqn.2026-11.io.example:\x1b[31m\nstranger"
        (line,) = lines(caplog)
        assert line.startswith(f"ftl0: host {shown} at 127.0.0.1:")
        assert line.endswith(f"refused: it is not in the list of allowed hosts; `add {shown}` lets it in")
        (refusal,) = log.refusals
        assert (refusal["hostnqn"], refusal["traddr"], refusal["count"]) == (STRANGER, "127.0.0.1", 1)
        raw.close()
        with pytest.raises(CommandError, match="invalid parameters"):
            await here.connect(subnqn="nqn.2026-11.io.example:no-such-subsystem")
        (line,) = lines(caplog)
        assert "refused: Connect: connect invalid parameters (1/82h)" in line
        assert log.disconnected == []
        await host.close()
        await until(lambda: bool(log.disconnected))
        (ended,) = log.disconnected
        # What queues that are gone have done counts on.
        assert (ended["hostnqn"], ended["reason"], ended["num_io_qpairs"]) == (HOSTNQN, "left in order", 0)
        assert (ended["commands"], ended["read_blocks"], ended["write_blocks"]) == (2, 1, 2)
        (line,) = lines(caplog)
        assert "disconnected: left in order; 0 s, 1 blocks read, 2 written, 0 errors" in line


def port_of(here: Bench) -> int:
    (controller,) = here.subsystem.controllers.values()
    return int(controller.describe()["trsvcid"])


async def test_a_host_that_is_taken_off_the_list_is_told_of_as_that() -> None:
    log = ConnectionLog()
    async with bench(connections=log) as here:
        here.subsystem.allow_any_host = False
        here.subsystem.add_host(HOSTNQN)
        host = await here.connect()
        await here.subsystem.remove_host(HOSTNQN)
        await until(lambda: bool(log.disconnected))
        assert log.disconnected[0]["reason"] == "it may no longer connect"
        await host.close()


def test_strangers_make_neither_the_lists_nor_the_log_grow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    log = ConnectionLog("ftl0", clock=lambda: now_s)
    for number in range(3 * REFUSALS_MAX):
        log.refused(("10.0.0.1", 1), f"nqn.{number}:" + "\n" * 200, "no")
    assert len(log.refusals) == REFUSALS_MAX
    assert log.refusals[-1]["hostnqn"].startswith(f"nqn.{3 * REFUSALS_MAX - 1}:")
    told = lines(caplog)
    assert len(told) == LINES_BURST
    assert all(len(line) < 400 for line in told)
    now_s = 10.0
    log.refused(("10.0.0.1", 1), "nqn.x", "no")
    (line,) = lines(caplog)
    assert line.endswith(f"({3 * REFUSALS_MAX - LINES_BURST} earlier lines like this were left out)")

    class Gone:
        subnqn, hostnqn, peer_address, end_reason, shut_down = "nqn.s", "nqn.h", ("::1", 5), "", False

        def describe(self) -> dict[str, float]:
            return {"age_s": 1, "read_blocks": 0, "write_blocks": 0, "errors": 0}

    # Lines of hosts that were let in are their own.
    for _ in range(ENDED_MAX + 1):
        log.ended(Gone())
    assert lines(caplog)[0] == (
        "ftl0: host nqn.h at [::1]:5 disconnected: connection lost; 1 s, 0 blocks read, 0 written, 0 errors"
    )
    assert len(log.disconnected) == ENDED_MAX


def test_a_host_that_tries_again_and_again_is_told_of_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    log = ConnectionLog()
    for port in range(1000):
        log.refused(("10.0.0.1", port), "nqn.x", "no")
    told = lines(caplog)
    assert len(told) == 10
    assert "refused, 512 times so far: no" in told[-1]
    assert [(each["count"], each["reason"]) for each in log.refusals] == [(1000, "no")]

"""ANA: a subsystem at two listeners, each of which has a state."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from spdk_ftl_py.errors import NotFoundError, ParameterError
from spdk_ftl_py.nvme import identify, wire
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.wire import AdminOp, AnaState, NvmOp, PduType, Sqe, Status
from unit.nvme.nvme_loop import SUBNQN, At, Bench, bench, capsule
from unit.nvme.target.reserving_host import Host, exchange, in_capsule

ANA_NQN = SUBNQN + "-ana"
LOG = Sqe(AdminOp.GET_LOG_PAGE, nsid=wire.NSID_ALL, cdw10=0x0C | 255 << 16, sgl_bytes=1024)
BLOCK = b"\x55" * 4096
WRITE = in_capsule(Sqe(NvmOp.WRITE, nsid=1, cid=7), BLOCK)


@dataclass
class Two:
    here: Bench
    subsystem: Subsystem
    ports: tuple[int, int]

    def host(self, listener: int) -> Host:
        """The same host, whichever listener."""
        return Host(At(self.ports[listener]), 1, subnqn=ANA_NQN)

    def set(self, listener: int, state: AnaState, **options: int) -> None:
        self.subsystem.set_ana_state("127.0.0.1", self.ports[listener], state, **options)


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    async with bench() as here:
        ports = here.port, await here.target.listen("127.0.0.1", 0)
        subsystem = Subsystem(ANA_NQN, allow_any_host=True, ana=True)
        for port in ports:
            subsystem.add_listener("127.0.0.1", port)
        here.target.add_subsystem(subsystem)
        subsystem.add_namespace(here.media())
        yield Two(here, subsystem, ports)


async def log(host: Host) -> tuple[int, dict[int, tuple[int, list[int]]]]:
    """The number of changes; state and NSIDs of each group."""
    status, page = await exchange(host.admin, LOG)
    assert status == 0
    changes, count = struct.unpack_from("<QH", page)
    groups, offset = {}, 16
    for _ in range(count):
        group, nsids, changed, state = struct.unpack_from("<IIQB", page, offset)
        assert changed == changes
        groups[group] = state, list(struct.unpack_from(f"<{nsids}I", page, offset + 32))
        offset += 32 + 4 * nsids
    assert not any(page[offset:])
    return changes, groups


async def test_the_controller_tells_of_its_groups_and_states() -> None:
    async with two() as there, there.host(0) as host:
        _, raw = await exchange(host.admin, Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096))
        page = np.frombuffer(raw, identify.CONTROLLER)[0]
        assert (page["cmic"] & 8, page["anacap"], page["oaes"] & 1 << 11) == (8, 0x47, 1 << 11)
        assert page["anagrpmax"] == page["nanagrpid"] == page["mnan"] == 32
        _, raw = await exchange(host.admin, Sqe(AdminOp.IDENTIFY, nsid=1, sgl_bytes=4096))
        assert np.frombuffer(raw, identify.NAMESPACE)[0]["anagrpid"] == 1
        assert await log(host) == (0, {1: (AnaState.OPTIMIZED, [1])})
        there.subsystem.add_namespace(there.here.media(), ana_group=1)
        there.subsystem.add_namespace(there.here.media())
        assert (await log(host))[1] == {1: (1, [1, 2]), 3: (1, [3])}
        there.set(0, AnaState.NON_OPTIMIZED, group=3)
        assert (await log(host))[1] == {1: (1, [1, 2]), 3: (2, [3])}
        # RGO: the groups alone.
        sqe = Sqe(AdminOp.GET_LOG_PAGE, nsid=wire.NSID_ALL, cdw10=0x0C | 1 << 8 | 255 << 16, sgl_bytes=1024)
        _, page = await exchange(host.admin, sqe)
        assert struct.unpack_from("<II", page, 16) == (1, 0)
        assert struct.unpack_from("<II", page, 48) == (3, 0)


async def test_io_through_an_inaccessible_listener_fails_and_takes_the_other_one() -> None:
    async with two() as there, there.host(0) as first, there.host(1) as second:
        there.set(0, AnaState.INACCESSIBLE)
        for sqe, data in ((WRITE, BLOCK), (Sqe(NvmOp.READ, nsid=1, sgl_bytes=4096), b""), (Sqe(0, nsid=1), b"")):
            assert (await exchange(first.io, sqe, data))[0] == Status.ANA_INACCESSIBLE
            assert (await exchange(second.io, sqe, data))[0] == 0
        # Neither do reservations go that way, nor does a queue that comes now.
        assert await first.register() == Status.ANA_INACCESSIBLE
        late = await first.queue(2)
        assert (await exchange(late, Sqe(NvmOp.FLUSH, nsid=1)))[0] == Status.ANA_INACCESSIBLE
        late.close()
        assert await second.register() == await second.acquire(2) == 0
        there.set(0, AnaState.OPTIMIZED)
        assert await first.may() == (True, True)


async def test_hosts_of_a_listener_hear_of_its_changes() -> None:
    async with two() as there, there.host(0) as first, there.host(1) as second:
        for host in (first, second):
            await host.admin.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=77)))
        there.set(0, AnaState.OPTIMIZED)  # as it is
        for number, state in enumerate((AnaState.INACCESSIBLE, AnaState.NON_OPTIMIZED), 1):
            there.set(0, state)
            kind, header, _ = await first.admin.pdu()
            cqe = wire.Cqe.unpack(header[8:])
            assert (kind, cqe.cid, cqe.result) == (PduType.CAPSULE_RESP, 77, wire.EVENT_ANA_CHANGED)
            assert await log(first) == (number, {1: (state, [1])})
            await first.admin.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=77)))
        # The next PDU there is the answer to this, so nothing was said.
        assert await log(second) == (0, {1: (AnaState.OPTIMIZED, [1])})


async def test_a_listener_that_comes_back_is_optimized() -> None:
    async with two() as there:
        port = there.ports[1]
        there.set(1, AnaState.INACCESSIBLE)
        await there.subsystem.remove_listener("127.0.0.1", port)
        with pytest.raises(NotFoundError):
            there.set(1, AnaState.OPTIMIZED)
        there.subsystem.add_listener("127.0.0.1", port)
        assert there.subsystem.ana_state("127.0.0.1", port, 1) is AnaState.OPTIMIZED


async def test_a_subsystem_without_ana_says_nothing_of_it(here: Bench) -> None:
    with pytest.raises(ParameterError):
        here.subsystem.set_ana_state("127.0.0.1", here.port, AnaState.INACCESSIBLE)
    async with Host(here, 1) as host:
        assert (await exchange(host.admin, LOG))[0] == Status.INVALID_LOG_PAGE
        _, raw = await exchange(host.admin, Sqe(AdminOp.IDENTIFY, cdw10=1, sgl_bytes=4096))
        page = np.frombuffer(raw, identify.CONTROLLER)[0]
        assert (page["cmic"] & 8, page["anacap"], page["oaes"] & 1 << 11) == (0, 0, 0)

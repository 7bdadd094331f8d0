"""One discovery service for subsystems of several targets: each host learns of what it may connect to, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.auth.psk import HeldPsk, Psk
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.discovery import discover, read_log
from spdk_ftl_py.nvme.host.events import AsyncEvent
from spdk_ftl_py.nvme.logs import SECTYPE_TLS13
from spdk_ftl_py.nvme.target.discovery import Catalog
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.peers import PeerLimits
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.wire import CommandError
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, WAIT_S, Bench, bench, until

FRIEND, STRANGER = HOSTNQN + "-friend", HOSTNQN + "-stranger"
PSK = Psk.generate()


@dataclass
class Service:
    """Two exports: one for any host, one for FRIEND."""

    here: Bench
    catalog: Catalog
    target: NvmfTarget
    port: int
    private: Subsystem

    async def nqns(self, hostnqn: str) -> set[str]:
        return {entry.subnqn for entry in await discover("127.0.0.1", self.port, hostnqn)}

    async def stay(self, hostnqn: str) -> tuple[Controller, asyncio.Queue[int]]:
        """A persistent connection, and the log pages of its events."""
        controller = await Controller.connect("127.0.0.1", self.port, wire.DISCOVERY_NQN, hostnqn=hostnqn)
        pages: asyncio.Queue[int] = asyncio.Queue()

        def on_event(event: AsyncEvent) -> None:
            pages.put_nowait(event.log_page)

        controller.on_event = on_event
        return controller, pages


@asynccontextmanager
async def service(peers: PeerLimits | None = None) -> AsyncIterator[Service]:
    async with bench() as here:
        private = Subsystem(SUBNQN + "-private")
        private.add_host(FRIEND)
        private.add_listener("127.0.0.1", here.port)
        here.target.add_subsystem(private)
        catalog = Catalog()
        catalog.add(here.subsystem)
        catalog.add(private)
        target = NvmfTarget(ReactorLoop("discovery"), catalog=catalog, peers=peers)
        try:
            yield Service(here, catalog, target, await target.listen("127.0.0.1", 0), private)
        finally:
            await target.close()


async def test_each_host_learns_of_what_it_may_connect_to() -> None:
    async with service() as there:
        assert await there.nqns(FRIEND) == {SUBNQN, there.private.nqn}
        assert await there.nqns(STRANGER) == {SUBNQN}
        there.here.subsystem.allow_any_host = False
        assert await there.nqns(STRANGER) == set()
        (entry,) = await discover("127.0.0.1", there.port, FRIEND)
        controller = await Controller.connect(entry.traddr, entry.trsvcid, entry.subnqn, hostnqn=FRIEND)
        await controller.close()
        # Their own ports tell the same.
        assert [entry.subnqn for entry in await discover("127.0.0.1", there.here.port, FRIEND)] == [entry.subnqn]


async def test_nothing_but_discovery_is_served() -> None:
    async with service() as there:
        with pytest.raises(CommandError, match="invalid parameters"):
            await Controller.connect("127.0.0.1", there.port, SUBNQN, hostnqn=FRIEND)


async def test_a_host_that_stays_hears_of_what_concerns_it() -> None:
    async with service() as there:
        friend, told_friend = await there.stay(FRIEND)
        stranger, told_stranger = await there.stay(STRANGER)
        assert len(await read_log(friend)) == 2
        there.private.add_listener("127.0.0.1", 4420)
        assert await asyncio.wait_for(told_friend.get(), WAIT_S) == 0x70
        assert len(await read_log(friend)) == 3
        there.catalog.remove(there.private)
        assert await asyncio.wait_for(told_friend.get(), WAIT_S) == 0x70
        assert [entry.subnqn for entry in await read_log(friend)] == [SUBNQN]
        # Of a subsystem that is gone nothing is heard any more, and the stranger has heard nothing at all.
        there.private.add_listener("127.0.0.1", 4421)
        there.catalog.remove(there.private)
        there.here.subsystem.add_listener("127.0.0.1", 4422)
        assert await asyncio.wait_for(told_stranger.get(), WAIT_S) == 0x70
        assert told_stranger.empty()
        assert len(await read_log(stranger)) == 2
        await friend.close()
        await stranger.close()


async def test_a_host_elsewhere_is_not_sent_to_itself() -> None:
    async with service() as there:
        controller, _ = await there.stay(FRIEND)
        there.private.add_listener("192.0.2.1", 4420)
        assert len(await read_log(controller)) == 3
        (ours,) = there.target._discovery.controllers.values()
        ours.local_address = "192.0.2.7"
        assert [(entry.traddr, entry.trsvcid) for entry in await read_log(controller)] == [("192.0.2.1", "4420")]
        await controller.close()


@pytest.mark.skipif(not _shim.build_info()["tls"], reason="the shim was built without OpenSSL")
async def test_an_export_with_a_secure_channel_is_told_by_tls_alone() -> None:
    async with service() as there:
        there.private.secure_listeners |= there.private.listeners
        there.private.add_host(HOSTNQN, psk=HeldPsk(PSK))
        assert await there.nqns(HOSTNQN) == {SUBNQN}
        where = ("127.0.0.1", there.port, wire.DISCOVERY_NQN)
        controller = await Controller.connect(*where, hostnqn=HOSTNQN, psk=HeldPsk(PSK))
        by_nqn = {entry.subnqn: entry for entry in await read_log(controller)}
        assert set(by_nqn) == {SUBNQN, there.private.nqn}
        assert by_nqn[there.private.nqn].sectype == SECTYPE_TLS13
        await controller.close()


async def test_nobody_takes_all_of_the_service() -> None:
    async with service(PeerLimits(discovery_per_address=2)) as there:
        controllers = [(await there.stay(STRANGER))[0] for _ in range(2)]
        with pytest.raises(CommandError, match="busy"):
            await there.stay(FRIEND)
        for controller in controllers:
            await controller.close()
        await until(lambda: not there.target._discovery.controllers)
        assert len(await there.nqns(FRIEND)) == 2

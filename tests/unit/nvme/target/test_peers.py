"""What one peer may take of a target, and that the rest is for others."""

from __future__ import annotations

import asyncio

import pytest

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.nvme import tcp, wire
from spdk_ftl_py.nvme.target.peers import HalfOpen, PeerLimits, address_of
from spdk_ftl_py.nvme.wire import AdminOp, Feature, PduType, Sqe, Status
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, Bench, RawHost, bench, capsule, connect_command

OWN = "nqn.2026-11.io.example:target"


def test_limits_are_given_by_name() -> None:
    limits = PeerLimits.parse(["controllers-per-host=3", "no_keep_alive=1"])
    assert (limits.controllers_per_host, limits.no_keep_alive) == (3, 1)
    assert limits.half_open == PeerLimits().half_open


@pytest.mark.parametrize(
    "setting",
    ["colour=3", "half-open", "half-open=", "half-open=0", "half-open=-1", "half-open=1e3", "half-open=99999999999",
     "io-queues-per-host-percent=101", "no-keep-alive=2", "kato-ms-min=700000"],
)  # fmt: skip
def test_a_limit_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(ParameterError, match="limit"):
        PeerLimits.parse([setting])


@pytest.mark.parametrize(
    ("one", "other"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1"), ("fe80::1%eth0", "fe80::2%eth1")],
)
def test_what_one_peer_has_counts_as_one_address(one: str, other: str) -> None:
    assert address_of(one) == address_of(other)


def test_other_addresses_are_others() -> None:
    peers = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "::1"]
    assert len({address_of(peer) for peer in peers}) == len(peers)


async def test_a_newcomer_takes_the_place_of_the_oldest_of_the_address_that_has_most() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    half_open = HalfOpen(PeerLimits(half_open=4, half_open_per_address=3))
    tasks = [asyncio.create_task(forever()) for _ in range(6)]
    await asyncio.sleep(0)
    for task, address in zip(tasks, "abbbab", strict=True):
        half_open.add(task, address)
    await asyncio.sleep(0)
    # The fifth was one too many for all: b had most. The sixth came to a's two and b's two.
    assert [task.cancelled() for task in tasks] == [True, True, False, False, False, False]
    assert len(half_open) == 4
    for task in tasks:
        task.cancel()
        half_open.done(task)
    assert len(half_open) == 0
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nobody_keeps_the_target_itself_out() -> None:
    limits = PeerLimits(controllers_per_address=2, controllers_per_host=2)
    async with bench(peers=limits, is_own=lambda nqn: nqn == OWN) as here:
        hosts = [await _connected(here, hostnqn=f"{HOSTNQN}{number}") for number in range(2)]
        refused = await _connected(here, status=Status.CONNECT_CONTROLLER_BUSY)
        own = [await _connected(here, hostnqn=OWN) for _ in range(3)]
        # And it takes nothing of theirs.
        hosts.pop().close()
        await asyncio.sleep(0.1)
        again = await _connected(here)
        for host in (*hosts, refused, *own, again):
            host.close()


async def test_a_host_is_offered_as_many_queues_as_it_may_have() -> None:
    async with bench(peers=PeerLimits(io_queues=32, io_queues_per_host_percent=50)) as here:
        host = await here.raw()
        await host.enable()
        cqe, _ = await host.command(Sqe(AdminOp.GET_FEATURES, cdw10=Feature.NUMBER_OF_QUEUES))
        assert cqe.result == 15 << 16 | 15
        host.close()


async def test_a_keep_alive_timeout_is_bounded_on_both_sides(here: Bench) -> None:
    for kato_ms in (0, 600_001):
        (await _connected(here, kato_ms=kato_ms, status=Status.KEEP_ALIVE_INVALID)).close()
    host = await _connected(here, kato_ms=1)
    await host.set_property(wire.Property.CC, 0x00460001)
    assert await _kato(host) == 1000
    for kato_ms in (0, 600_001):
        cqe, _ = await host.command(Sqe(AdminOp.SET_FEATURES, cdw10=Feature.KEEP_ALIVE_TIMER, cdw11=kato_ms))
        assert cqe.status == Status.KEEP_ALIVE_INVALID
    cqe, _ = await host.command(Sqe(AdminOp.SET_FEATURES, cdw10=Feature.KEEP_ALIVE_TIMER, cdw11=5))
    assert (cqe.status, await _kato(host)) == (0, 1000)
    host.close()


async def test_a_host_may_do_without_a_keep_alive_where_that_is_configured() -> None:
    async with bench(peers=PeerLimits(no_keep_alive=1)) as here:
        (await _connected(here, kato_ms=0)).close()


@pytest.mark.parametrize("limits", [PeerLimits(handshake_pdus=3), PeerLimits(handshake_bytes=128 + 72 + 1024 + 100)])
async def test_a_peer_that_talks_but_never_connects_is_cut_off(limits: PeerLimits) -> None:
    async with bench(peers=limits) as here:
        host = await here.raw()
        await host.initialize()
        with pytest.raises((EOFError, ConnectionError)):
            await _talk(host)
        # Who does connect is not counted any more.
        good = await _connected(here)
        for _ in range(8):
            await host_keeps_alive(good)
        good.close()
        host.close()


async def test_a_peer_that_is_too_fast_waits_for_its_turn(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "PACE_BURST_PDUS", 8)
    monkeypatch.setattr(tcp, "PACE_PDUS_PER_S", 1)
    monkeypatch.setattr(tcp, "OVER_PACE_PDUS_PER_S", 100)
    host = await _connected(here)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await host.send(capsule(Sqe(AdminOp.KEEP_ALIVE)) * 30)
    for _ in range(30):
        assert (await host.pdu())[0] == PduType.CAPSULE_RESP
    assert loop.time() - begin > 0.2
    host.close()


async def _talk(host: RawHost) -> None:
    for _ in range(40):
        await host.command(Sqe(AdminOp.IDENTIFY))


async def host_keeps_alive(host: RawHost) -> None:
    cqe, _ = await host.command(Sqe(AdminOp.KEEP_ALIVE))
    assert cqe.status == 0


async def _connected(here: Bench, *, status: int = 0, **changes: object) -> RawHost:
    host = await here.raw()
    await host.initialize()
    cqe, _ = await host.command(*connect_command(subnqn=SUBNQN, **changes))
    assert cqe.status == status
    return host


async def _kato(host: RawHost) -> int:
    cqe, _ = await host.command(Sqe(AdminOp.GET_FEATURES, cdw10=Feature.KEEP_ALIVE_TIMER))
    return cqe.result

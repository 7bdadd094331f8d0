"""Hosts that may have been told more than was kept: who they are, and the alarm their next Flush gives."""

from __future__ import annotations

import os
from collections import Counter
from uuid import UUID

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import BusyError, FtlError
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.target.connected_hosts import HOSTS_MAX, IDENTIFIERS_MAX, ConnectedHosts, HostKey
from spdk_ftl_py.nvme.wire import CommandError, Status
from unit.nvme.nvme_loop import Bench, RawHost, io, until

FIRST = HostKey("nqn.2026-11.io.example:first", bytes(range(16)))
ENABLED = wire.CC_EN | wire.IOSQES << wire.CC_IOSQES_SHIFT | wire.IOCQES << wire.CC_IOCQES_SHIFT
SECOND = HostKey("nqn.2026-11.io.example:second", bytes(range(1, 17)))


async def connect(here: Bench, host: HostKey) -> tuple[object, list[_shim.HostQpair]]:
    controller = await here.connect(hostnqn=host.hostnqn, hostid=UUID(bytes=host.hostid))
    (namespace,) = await controller.namespaces()
    return controller, [await controller.create_io_qpair(here.reactor, namespace) for _ in range(2)]


async def flush(here: Bench, qpair: _shim.HostQpair) -> int:
    return (await io(here.reactor, qpair, _shim.Op.FLUSH))[0]


async def test_a_host_is_known_until_it_leaves_in_order(here: Bench) -> None:
    changes: list[int] = []
    hosts = here.subsystem.connected_hosts = ConnectedHosts(lambda: changes.append(1))
    first = await here.connect(hostnqn=FIRST.hostnqn, hostid=UUID(bytes=FIRST.hostid))
    again = await here.connect(hostnqn=FIRST.hostnqn, hostid=UUID(bytes=FIRST.hostid))
    assert hosts.hosts == [FIRST]
    assert len(changes) == 1
    await first.close()
    assert hosts.hosts == [FIRST]
    await again.close()
    await until(lambda: not hosts.hosts)
    assert len(changes) == 2
    raw = await here.raw()
    await raw.initialize()
    assert (await raw.connect(hostnqn=SECOND.hostnqn, hostid=SECOND.hostid)).status == 0
    assert hosts.hosts == [SECOND]
    raw.close()
    await until(lambda: not here.subsystem.controllers)
    assert hosts.hosts == [SECOND]


async def test_newcomers_are_refused_where_the_state_file_has_no_room_for_them(here: Bench) -> None:
    hosts = here.subsystem.connected_hosts = ConnectedHosts()

    def full() -> None:
        raise BusyError("the state file is full")

    known = await here.connect(hostnqn=FIRST.hostnqn, hostid=UUID(bytes=FIRST.hostid))
    hosts.require_state_room = full
    with pytest.raises(CommandError) as busy:
        await here.connect(hostnqn=SECOND.hostnqn)
    assert (busy.value.status, busy.value.do_not_retry) == (Status.CONNECT_CONTROLLER_BUSY, False)
    # Who is in it takes no more of it.
    again = await here.connect(hostnqn=FIRST.hostnqn, hostid=UUID(bytes=FIRST.hostid))
    assert hosts.hosts == [FIRST]
    await again.close()
    await known.close()


async def test_the_first_flush_of_a_host_that_is_owed_an_alarm_fails_once_on_whichever_queue(here: Bench) -> None:
    hosts = here.subsystem.connected_hosts = ConnectedHosts()
    hosts.restore({"connected": [], "owed": [FIRST.to_record()]})
    owed, (one, two) = await connect(here, FIRST)
    other, (third, _) = await connect(here, SECOND)
    data, back = bytearray(os.urandom(4096)), bytearray(4096)
    assert (await io(here.reactor, one, _shim.Op.WRITE, 3, 1, data))[0] == 0
    assert await flush(here, third) == 0
    assert hosts.owed == [FIRST]
    assert await flush(here, two) == Status.WRITE_FAULT
    assert hosts.owed == []
    assert [await flush(here, qpair) for qpair in (one, two, third)] == [0, 0, 0]
    assert (await io(here.reactor, two, _shim.Op.READ, 3, 1, back))[0] == 0
    assert back == data
    hosts.settle()
    assert hosts.alarm_of(FIRST) is None
    await owed.close()  # type: ignore[attr-defined]
    await other.close()  # type: ignore[attr-defined]


def test_what_a_record_says_comes_back_from_it() -> None:
    hosts = ConnectedHosts()
    hosts.arrived(FIRST)
    hosts.arrived(SECOND)
    assert hosts.alarm() == [FIRST, SECOND]
    record = hosts.to_record()
    again = ConnectedHosts()
    again.restore(record)
    assert (again.hosts, again.owed) == ([FIRST, SECOND], [FIRST, SECOND])
    again.left(FIRST)
    assert (again.hosts, again.owed) == ([SECOND], [FIRST, SECOND])


@pytest.mark.parametrize(
    "record",
    [
        [["nqn", "00"]],
        {"connected": "nqn"},
        {"owed": [None]},
        {"connected": [[]]},
        {"connected": [["nqn"]]},
        {"connected": [["nqn", 1]]},
        {"owed": [["nqn", "zz"]]},
        {"owed": [["nqn", "00"]] * (2 * HOSTS_MAX + 1)},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record: object) -> None:
    with pytest.raises(ValueError):
        ConnectedHosts().restore(record)


def made_up(number: int, nqn: str = "nqn.2026-11.io.example:forged{}") -> HostKey:
    return HostKey(nqn.format(number), number.to_bytes(16, "little"))


def test_a_full_list_refuses_newcomers_and_forgets_nobody() -> None:
    hosts = ConnectedHosts()
    hosts.arrived(FIRST)
    for number in range(HOSTS_MAX - 1):
        hosts.arrived(made_up(number))
    for _ in range(2):
        with pytest.raises(BusyError, match="the list of hosts to notify of lost writes is full"):
            hosts.arrived(SECOND)
    assert len(hosts.hosts) == HOSTS_MAX
    assert hosts.hosts[0] == FIRST
    hosts.arrived(FIRST)
    hosts.left(made_up(7))
    hosts.arrived(SECOND)
    assert {FIRST, SECOND} <= set(hosts.alarm())
    assert {FIRST, SECOND} <= set(hosts.owed)


def test_alarms_that_nobody_fetches_make_no_room_and_no_record_that_is_refused() -> None:
    hosts = ConnectedHosts()
    hosts.arrived(FIRST)
    hosts.alarm()
    for number in range(HOSTS_MAX - 1):
        hosts.arrived(made_up(number))
    # Gone, and nothing of theirs is left: but the first is owed what it was owed before.
    hosts.forget(hosts.gone(()))
    assert (hosts.hosts, hosts.owed) == ([], [FIRST])
    for number in range(HOSTS_MAX - 1):
        hosts.arrived(made_up(number))
    hosts.alarm()
    hosts.forget(hosts.gone(()))
    with pytest.raises(BusyError):
        hosts.arrived(SECOND)
    # It is owed something: it is known.
    hosts.arrived(FIRST)
    again = ConnectedHosts()
    again.restore(hosts.to_record())
    assert (again.hosts, len(again.owed), again.owed[0]) == ([FIRST], HOSTS_MAX, FIRST)


def test_what_an_older_daemon_remembered_is_all_kept_though_it_is_more_than_is_now() -> None:
    many = [made_up(number).to_record() for number in range(HOSTS_MAX)]
    others = [made_up(number, "nqn.2026-11.io.example:owed{}").to_record() for number in range(HOSTS_MAX)]
    hosts = ConnectedHosts()
    hosts.restore({"connected": many, "owed": others})
    hosts.alarm()
    assert len(hosts.owed) == 2 * HOSTS_MAX
    again = ConnectedHosts()
    again.restore(hosts.to_record())
    assert len(again.owed) == 2 * HOSTS_MAX


def test_a_host_that_makes_up_identifiers_takes_no_room_from_others() -> None:
    hosts = ConnectedHosts()
    for number in range(IDENTIFIERS_MAX):
        assert hosts.crowded == (number >= IDENTIFIERS_MAX // 2)
        hosts.arrived(made_up(number, FIRST.hostnqn))
    with pytest.raises(BusyError, match="give the host a fixed identifier"):
        hosts.arrived(made_up(IDENTIFIERS_MAX, FIRST.hostnqn))
    hosts.arrived(SECOND)
    hosts.arrived(made_up(0, FIRST.hostnqn))
    assert len(hosts.hosts) == IDENTIFIERS_MAX + 1


def test_a_host_that_is_gone_and_comes_back_before_all_is_durable_is_not_forgotten() -> None:
    changes: list[int] = []
    hosts = ConnectedHosts(lambda: changes.append(1))
    third = made_up(3)
    for host in (FIRST, SECOND, third):
        hosts.arrived(host)
    gone = hosts.gone({third})
    assert list(gone) == [FIRST, SECOND]
    hosts.arrived(SECOND)  # and writes what no flush behind gone() has covered
    hosts.forget(gone)
    assert hosts.hosts == [SECOND, third]
    assert len(changes) == 4
    hosts.forget(gone)
    assert len(changes) == 4


async def test_forged_identities_do_not_evict_an_honest_host_from_those_who_are_owed_the_alarm(here: Bench) -> None:
    """1,030 of them: once they made the list forget a host, whose Flush said success after a crash."""
    hosts = here.subsystem.connected_hosts = ConnectedHosts()
    honest, (qpair, _) = await connect(here, FIRST)
    data = bytearray(os.urandom(4096))
    assert (await io(here.reactor, qpair, _shim.Op.WRITE, 3, 1, data))[0] == 0
    answers: Counter[int] = Counter()
    for number in range(1030):
        forged = made_up(number)
        raw = await here.raw()
        await raw.initialize()
        answers[(await raw.connect(hostnqn=forged.hostnqn, hostid=forged.hostid)).status] += 1
        raw.close()
        if number % 64 == 0:
            await until(lambda: len(here.subsystem.controllers) == 1)
    # A crash: what comes after it has nothing but the record.
    again = ConnectedHosts()
    again.restore(hosts.to_record())
    again.alarm()
    await honest.close()  # type: ignore[attr-defined]
    here.subsystem.connected_hosts = again
    honest, (qpair, _) = await connect(here, FIRST)
    assert await flush(here, qpair) == Status.WRITE_FAULT
    assert answers == {0: HOSTS_MAX - 1, Status.CONNECT_CONTROLLER_BUSY: 1030 - (HOSTS_MAX - 1)}
    assert await flush(here, qpair) == 0
    await honest.close()  # type: ignore[attr-defined]


async def test_a_host_whose_associations_all_shut_down_has_left_before_it_disconnects(here: Bench) -> None:
    hosts = here.subsystem.connected_hosts = ConnectedHosts()
    raws = [await here.raw() for _ in range(2)]
    for raw in raws:
        await raw.initialize()
        assert (await raw.connect(hostnqn=FIRST.hostnqn, hostid=FIRST.hostid)).status == 0
        assert (await raw.set_property(wire.Property.CC, ENABLED)).status == 0
    for raw in raws:
        assert hosts.hosts == [FIRST]
        await shut_down(raw)
    assert hosts.hosts == []
    for raw in raws:
        raw.close()
    await until(lambda: not here.subsystem.controllers)


async def test_a_host_that_enables_its_controller_again_after_a_shutdown_is_known_again(here: Bench) -> None:
    full = False

    def on_change() -> None:
        if full:
            raise FtlError("No space left on device")

    hosts = here.subsystem.connected_hosts = ConnectedHosts(on_change)
    raw = await here.raw()
    await raw.initialize()
    assert (await raw.connect(hostnqn=FIRST.hostnqn, hostid=FIRST.hostid)).status == 0
    assert (await raw.set_property(wire.Property.CC, ENABLED)).status == 0
    await shut_down(raw)
    assert hosts.hosts == []
    assert (await raw.set_property(wire.Property.CC, 0)).status == 0
    while (await raw.get_property(wire.Property.CSTS)).result & wire.CSTS_RDY:
        pass
    full = True
    assert (await raw.set_property(wire.Property.CC, ENABLED)).status == Status.INTERNAL_ERROR
    full = False
    assert (await raw.set_property(wire.Property.CC, ENABLED)).status == 0
    assert hosts.hosts == [FIRST]
    raw.close()
    await until(lambda: not here.subsystem.controllers)


async def shut_down(raw: RawHost) -> None:
    await raw.set_property(wire.Property.CC, ENABLED | wire.SHN_NORMAL << wire.CC_SHN_SHIFT)
    while (await raw.get_property(wire.Property.CSTS)).result & wire.CSTS_SHST_MASK != wire.CSTS_SHST_COMPLETE:
        pass

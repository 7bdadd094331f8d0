"""Hosts that may have been told more than was kept: who they are, and the alarm their next Flush gives."""

from __future__ import annotations

import os
from uuid import UUID

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.target.connected_hosts import HOSTS_MAX, ConnectedHosts, HostKey
from spdk_ftl_py.nvme.wire import Status
from unit.nvme.nvme_loop import Bench, RawHost, io, until

FIRST = HostKey("nqn.2026-11.io.example:first", bytes(range(16)))
ENABLED = wire.CC_EN | wire.IOSQES << wire.CC_IOSQES_SHIFT | wire.IOCQES << wire.CC_IOCQES_SHIFT
SECOND = HostKey("nqn.2026-11.io.example:second", bytes(range(1, 17)))


async def connect(here: Bench, host: HostKey) -> tuple[object, list[_shim.HostQpair]]:
    controller = await here.connect(hostnqn=host.hostnqn, hostid=UUID(bytes=host.hostid))
    (namespace,) = await controller.namespaces()
    return controller, [await controller.create_io_qpair(here.reactor, namespace) for _ in range(2)]


async def flush(here: Bench, qpair: _shim.HostQpair) -> int:
    return (await io(here.reactor, qpair, _shim.OP_FLUSH))[0]


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


async def test_the_first_flush_of_a_host_that_is_owed_an_alarm_fails_once_on_whichever_queue(here: Bench) -> None:
    hosts = here.subsystem.connected_hosts = ConnectedHosts()
    hosts.restore({"connected": [], "owed": [FIRST.to_record()]})
    owed, (one, two) = await connect(here, FIRST)
    other, (third, _) = await connect(here, SECOND)
    data, back = bytearray(os.urandom(4096)), bytearray(4096)
    assert (await io(here.reactor, one, _shim.OP_WRITE, 3, 1, data))[0] == 0
    assert await flush(here, third) == 0
    assert hosts.owed == [FIRST]
    assert await flush(here, two) == Status.WRITE_FAULT
    assert hosts.owed == []
    assert [await flush(here, qpair) for qpair in (one, two, third)] == [0, 0, 0]
    assert (await io(here.reactor, two, _shim.OP_READ, 3, 1, back))[0] == 0
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
        {"owed": [["nqn", "00"]] * (HOSTS_MAX + 1)},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record: object) -> None:
    with pytest.raises(ValueError):
        ConnectedHosts().restore(record)


def test_hosts_that_come_and_never_leave_do_not_make_the_list_grow() -> None:
    hosts = ConnectedHosts()
    for number in range(HOSTS_MAX + 10):
        hosts.arrived(HostKey(f"nqn.2026-11.io.example:{number}", bytes(16)))
    assert len(hosts.hosts) == HOSTS_MAX
    assert hosts.hosts[-1].hostnqn.endswith(f":{HOSTS_MAX + 9}")


def test_alarms_that_nobody_fetches_do_not_make_a_record_that_is_refused() -> None:
    hosts = ConnectedHosts()
    for life in range(2):
        for number in range(HOSTS_MAX):
            hosts.arrived(HostKey(f"nqn.2026-11.io.example:{life}.{number}", bytes(16)))
        hosts.alarm()
    again = ConnectedHosts()
    again.restore(hosts.to_record())
    assert again.owed == hosts.hosts


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

"""Who may connect: the list, its record, and what hosts that are not in it get to know."""

from __future__ import annotations

import asyncio

import pytest

from spdk_ftl_py.errors import BusyError, ExistsError, NotFoundError, ParameterError
from spdk_ftl_py.nvme import logs, wire
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.host.discovery import read_log
from spdk_ftl_py.nvme.target.allowed_hosts import ALLOWED_HOSTS_MAX, AllowedHost, AllowedHosts
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.wire import LogPage, Status
from unit.nvme.nvme_loop import HOSTNQN, SUBNQN, WAIT_S, Bench

OTHER = "nqn.2026-11.io.example:other-host"
TARGET = AllowedHost("nqn.2026-11.io.example:target", is_target=True)


def test_nobody_is_admitted_by_default() -> None:
    assert AllowedHosts().admit(HOSTNQN) is None
    assert AllowedHosts().admit("") is None
    assert Subsystem(SUBNQN).admit(HOSTNQN) is None


def test_what_the_list_says_of_a_host_counts_also_where_any_host_may_connect() -> None:
    hosts = AllowedHosts([TARGET], allow_any_host=True)
    assert hosts.admit(TARGET.nqn) is hosts.target
    assert hosts.admit(OTHER) == AllowedHost(OTHER)
    hosts.allow_any_host = False
    assert hosts.admit(OTHER) is None
    assert hosts.admit(TARGET.nqn) == TARGET


def test_the_list_is_of_names_that_are_some_each_once_and_not_too_many() -> None:
    changes: list[int] = []
    hosts = AllowedHosts([TARGET])
    hosts.on_change = lambda: changes.append(1)
    with pytest.raises(ExistsError, match="already allowed"):
        hosts.add(AllowedHost(TARGET.nqn))
    for wrong in ("", "host", "nqn.2026-11.io.example:a\nb", "nqn.2026-11.io.example:" + "x" * 224):
        with pytest.raises(ParameterError):
            hosts.add(AllowedHost(wrong))
    with pytest.raises(NotFoundError):
        hosts.remove(OTHER)
    assert changes == []
    for number in range(ALLOWED_HOSTS_MAX - 1):
        hosts.add(AllowedHost(f"nqn.2026-11.io.example:{number}"))
    with pytest.raises(BusyError, match="256 hosts are already allowed"):
        hosts.add(AllowedHost(OTHER))
    assert hosts.remove("nqn.2026-11.io.example:7").nqn == "nqn.2026-11.io.example:7"
    hosts.add(AllowedHost(OTHER))
    assert len(changes) == ALLOWED_HOSTS_MAX + 1


def test_what_a_record_says_comes_back_from_it() -> None:
    hosts = AllowedHosts([TARGET, AllowedHost(OTHER)], allow_any_host=True)
    again = AllowedHosts.from_record(hosts.to_record())
    assert (again.hosts, again.allow_any_host, again.target) == (hosts.hosts, True, TARGET)


@pytest.mark.parametrize(
    "record",
    [
        [],
        "nqn",
        {},
        {"hosts": {}},
        {"hosts": [HOSTNQN]},
        {"hosts": [{"nqn": 5}]},
        {"hosts": [{"nqn": "host"}]},
        {"hosts": [{"nqn": HOSTNQN}, {"nqn": HOSTNQN}]},
    ],
)
def test_a_record_that_makes_no_sense_lets_nobody_in(record: object) -> None:
    with pytest.raises((ValueError, ParameterError, ExistsError)):
        AllowedHosts.from_record(record)


async def test_every_queue_of_a_host_that_is_not_allowed_is_refused_as_invalid_host(here: Bench) -> None:
    admin = await here.raw()
    cntlid = await admin.enable()
    here.subsystem.allow_any_host = False
    for qid in (0, 1):
        raw = await here.raw()
        await raw.initialize()
        cqe = await raw.connect(qid=qid, cntlid=cntlid if qid else 0xFFFF)
        # As SPDK has it: the host may try again, it may be allowed by then.
        assert (cqe.status, cqe.do_not_retry) == (Status.CONNECT_INVALID_HOST, False)
        raw.close()
    admin.close()


async def test_discovery_says_nothing_of_what_a_host_may_not_have_and_nothing_of_its_changes(here: Bench) -> None:
    async def generation(controller: Controller) -> tuple[int, int]:
        header = await controller.get_log_page(LogPage.DISCOVERY, logs.DISCOVERY_HEADER_BYTES, nsid=0)
        return logs.parse_discovery_header(header)

    here.subsystem.allow_any_host = False
    stranger = await here.connect(subnqn=wire.DISCOVERY_NQN, hostnqn=OTHER)
    member = await here.connect(subnqn=wire.DISCOVERY_NQN)
    heard: dict[str, asyncio.Event] = {"stranger": asyncio.Event(), "member": asyncio.Event()}
    stranger.on_event = lambda _: heard["stranger"].set()
    member.on_event = lambda _: heard["member"].set()
    before = await generation(stranger)
    assert before[1] == 0
    here.subsystem.add_host(HOSTNQN)
    await asyncio.wait_for(heard["member"].wait(), WAIT_S)
    assert [entry.subnqn for entry in await read_log(member)] == [SUBNQN]
    heard["member"].clear()
    port = await here.target.listen("127.0.0.1", 0)
    here.subsystem.add_listener("127.0.0.1", port)
    await asyncio.wait_for(heard["member"].wait(), WAIT_S)
    seen = await generation(member)
    assert seen[1] == 2
    # Its answer comes behind an event that was sent before.
    assert await generation(stranger) == before
    assert not heard["stranger"].is_set()
    here.subsystem.add_host(OTHER)
    await asyncio.wait_for(heard["stranger"].wait(), WAIT_S)
    assert (await generation(stranger))[0] > before[0]
    assert await generation(member) == seen
    heard["stranger"].clear()
    await here.subsystem.remove_host(OTHER)
    here.subsystem.allow_any_host = True
    await here.target.unlisten("127.0.0.1", port)
    assert (await generation(stranger))[1] == 2
    await stranger.close()
    await member.close()

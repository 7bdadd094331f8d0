"""An FTL at several addresses: hosts find it at each, states are kept, and what is not there is waited for."""

from __future__ import annotations

import asyncio
import copy
import socket
from typing import Any

import pytest

from spdk_ftl_py.daemon import tcp_export
from spdk_ftl_py.daemon.listeners import MORE_MAX, Listeners
from spdk_ftl_py.errors import BusyError, ExistsError, FtlError, NotFoundError, ParameterError, PathError
from spdk_ftl_py.nvme.target import listener
from spdk_ftl_py.nvme.wire import AnaState, Status
from support.ports import free_port
from unit.daemon.registry_rig import Daemon, World, create
from unit.nvme.nvme_loop import At, until
from unit.nvme.target.reserving_host import Host


def nobody_listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


async def host(daemon: Daemon, address: str) -> Host:
    export = (await daemon.device())["export"]
    return Host(At(int(address.rpartition(":")[2])), 1, subnqn=export["subnqn"])


async def listeners(daemon: Daemon) -> list[tuple[str, str, bool]]:
    told = (await daemon.device())["listeners"]
    return [(f"{each['traddr']}:{each['trsvcid']}", each["ana_state"], each["listening"]) for each in told]


async def first(daemon: Daemon) -> str:
    export = (await daemon.device())["export"]
    return f"{export['traddr']}:{export['trsvcid']}"


async def add(daemon: Daemon, **params: Any) -> str:
    return str(await daemon.call("bdev_ftl_add_listener", name="ftl0", **{"listen_address": "127.0.0.1"} | params))


async def set_state(daemon: Daemon, address: str, state: str) -> None:
    await daemon.call("bdev_ftl_set_ana_state", name="ftl0", listen_address=address, ana_state=state)


async def test_hosts_use_every_listener_that_is_accessible(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    one, two = await first(daemon), await add(daemon, ana_state="inaccessible")
    assert await listeners(daemon) == [(one, "optimized", True), (two, "inaccessible", True)]
    async with await host(daemon, one) as by_one, await host(daemon, two) as by_two:
        assert (await by_one.write(), await by_two.write()) == (0, Status.ANA_INACCESSIBLE)
        await set_state(daemon, two, "non_optimized")
        assert await by_two.read() == 0
        await set_state(daemon, one, "inaccessible")
        assert (await by_one.write(), await by_two.write()) == (Status.ANA_INACCESSIBLE, 0)
        await daemon.call("bdev_ftl_remove_listener", name="ftl0", listen_address=two)
        with pytest.raises(EOFError):
            await by_two.io.receive(1)
    assert await listeners(daemon) == [(one, "inaccessible", True)]
    assert nobody_listens(int(two.rpartition(":")[2]))
    await daemon.halt()


async def test_they_are_there_again_after_a_crash(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    one, two = await first(daemon), await add(daemon)
    await set_state(daemon, one, "non_optimized")
    await set_state(daemon, two, "inaccessible")
    told, state = await listeners(daemon), daemon.die()
    await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()
    await daemon.wait_for("online")
    assert await listeners(daemon) == told
    async with await host(daemon, two) as by_two:
        assert await by_two.write() == Status.ANA_INACCESSIBLE
    await daemon.halt()


async def test_an_address_that_is_taken_keeps_nobody_from_the_others(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_export, "LISTEN_AGAIN_S", 0.01)
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    one, two = await first(daemon), await add(daemon)
    await daemon.halt()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", int(two.rpartition(":")[2])))
        thief.listen()
        daemon = await here.start()
        await daemon.wait_for("online")
        assert await listeners(daemon) == [(one, "optimized", True), (two, "optimized", False)]
        async with await host(daemon, one) as by_one:
            assert await by_one.write() == 0
    await until(lambda: bool(daemon.managed().front.tcp.listening))
    async with await host(daemon, two) as by_two:
        assert await by_two.read() == 0
    await daemon.halt()


async def test_what_can_not_be_is_refused_and_changes_nothing(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    one = await first(daemon)
    before = await listeners(daemon)
    for error, params in (
        (ExistsError, {"listen_address": one}),
        (PathError, {"listen_address": "192.0.2.1"}),
        (PathError, {"listen_address": "224.0.0.1"}),
        (PathError, {"listen_address": "[ff02::1]"}),
        (ParameterError, {"listen_address": "nowhere"}),
        (PathError, {"listen_address": f"127.0.0.1:{_port_of(here)}"}),
    ):
        with pytest.raises(error):
            await add(daemon, **params)
    nowhere = f"127.0.0.1:{free_port()}"
    for call, params in (
        ("bdev_ftl_remove_listener", {"listen_address": nowhere}),
        ("bdev_ftl_set_ana_state", {"listen_address": nowhere, "ana_state": "optimized"}),
    ):
        with pytest.raises(NotFoundError):
            await daemon.call(call, name="ftl0", **params)
    with pytest.raises(ParameterError, match="created with"):
        await daemon.call("bdev_ftl_remove_listener", name="ftl0", listen_address=one)
    with pytest.raises(BusyError, match="attached"):
        await set_state(daemon, one, "inaccessible")
    assert await listeners(daemon) == before
    await daemon.halt()


@pytest.mark.parametrize("end", ["delete", "halt"])
async def test_one_that_comes_while_the_ftl_ends_is_gone_with_it(
    here: World, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Names of addresses are resolved in a thread, and the FTL may end meanwhile."""
    daemon = await here.start()
    await create(here, daemon)
    asked, go_on = asyncio.Event(), asyncio.Event()
    real = listener.listening_socket

    async def slow(traddr: str, port: int, backlog: int) -> socket.socket:
        asked.set()
        await go_on.wait()
        return await real(traddr, port, backlog)

    monkeypatch.setattr(listener, "listening_socket", slow)
    port = free_port()
    adding = asyncio.ensure_future(add(daemon, listen_address=f"127.0.0.1:{port}"))
    await asked.wait()
    await (daemon.call("bdev_ftl_delete", name="ftl0") if end == "delete" else daemon.halt())
    go_on.set()
    with pytest.raises(BusyError, match="ended"):
        await adding
    assert nobody_listens(port)
    if end == "delete":
        await daemon.halt()


def _port_of(here: World) -> str:
    """Where the target exports the base."""
    return next(each["trsvcid"] for export in here.target.nvmf.exports.values() for each in export.listeners)


async def test_a_listener_that_can_not_be_saved_is_not_there(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await here.start()
    await create(here, daemon)
    before = await listeners(daemon)
    two = await add(daemon)
    managed = daemon.managed()

    def full() -> None:
        raise FtlError("the state directory is full")

    monkeypatch.setattr(managed, "on_change", full)
    port = free_port()
    with pytest.raises(FtlError, match="full"):
        await add(daemon, listen_address=f"127.0.0.1:{port}")
    with pytest.raises(FtlError, match="full"):
        await daemon.call("bdev_ftl_remove_listener", name="ftl0", listen_address=two)
    for address in (two, before[0][0]):
        with pytest.raises(FtlError, match="full"):
            await set_state(daemon, address, "non_optimized")
    assert await listeners(daemon) == [*before, (two, "optimized", True)]
    assert nobody_listens(port)
    monkeypatch.undo()
    await daemon.halt()


async def test_a_saved_configuration_has_them(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    one, two = await first(daemon), await add(daemon, ana_state="non_optimized")
    await set_state(daemon, one, "inaccessible")
    (section,) = [each for each in (await daemon.call("ftl_save_config"))["subsystems"] if each["subsystem"] == "ftl"]
    told = await listeners(daemon)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    attached = copy.deepcopy(section["config"])
    del attached[0]["params"]["no_attach"]
    with pytest.raises(ParameterError, match="can't be inaccessible without no_attach"):
        await daemon.call("ftl_load_config", config=attached)
    await daemon.call("ftl_load_config", config=section["config"])
    await daemon.wait_for("online")
    assert await listeners(daemon) == told == [(one, "inaccessible", True), (two, "non_optimized", True)]
    await daemon.halt()


@pytest.mark.parametrize(
    "record",
    [
        [], {"more": 1}, {"first": "optimized", "more": [["127.0.0.1", 0, "optimized"]]},
        {"first": "optimized", "more": [["127.0.0.1", 1, "change"]]}, {"first": 3, "more": []},
        {"first": "optimized", "more": [["host", 1, "optimized"]]},
        {"first": "optimized", "more": [["127.0.0.1", 1 + port, "optimized"] for port in range(MORE_MAX + 1)]},
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused(record: object) -> None:
    with pytest.raises((ValueError, ParameterError)):
        Listeners.from_record(record)
    kept = Listeners()
    kept.first, kept.more = AnaState.NON_OPTIMIZED, {("::1", 7): AnaState.INACCESSIBLE}
    again = Listeners.from_record(kept.to_record())
    assert (again.first, again.more) == (kept.first, kept.more)

"""A change that takes a new life of the FTL: its hosts notice a pause."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from spdk_ftl_py.daemon.changes import Change, Changes
from spdk_ftl_py.errors import BusyError, ConfError, FtlError, MediaError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.daemon.registry_rig import World, Writer, connected, create, gate_of
from unit.nvme.nvme_loop import until

HOST_WRITERS = 32
HOST_BLOCKS = 4


async def test_hosts_notice_nothing_but_a_pause(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    port = gate_of(daemon)
    writer = Writer(port)
    for invalid_thld in (20, 30):
        await writer.goes_on()
        before = device.ftl
        await device.change(Change("another invalid_thld", {"conf": {"invalid_thld": invalid_thld}}))
        assert device.ftl is not None
        assert device.ftl is not before
        assert (device.ftl.restored or {})["clean"], "it was not halted cleanly"
        assert device.ftl.conf.invalid_thld == invalid_thld
        assert daemon.record()["devices"][0]["params"]["conf"] == {"invalid_thld": invalid_thld}
    await writer.goes_on()
    await writer.verify()
    await port.close()
    await daemon.halt()


async def test_data_that_arrive_meanwhile_do_not_keep_it_from_being_changed(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have been received into the memory of the core that is halted."""
    monkeypatch.setattr("spdk_ftl_py.daemon.reloading.EMPTY_TIMEOUT_S", 2.0)
    daemon = await here.start()
    await create(here, daemon)
    controller = await connected(here, daemon)
    async with ReactorLoop("host", spin_us=0) as reactor:
        (namespace,) = await controller.namespaces()
        port = BlockPort(reactor, await controller.create_io_qpair(reactor, namespace), name="host")
        written = [0] * HOST_WRITERS
        ended = False

        async def write(writer: int) -> None:
            while not ended:
                number = written[writer] + 1
                content = number.to_bytes(8, "little") * 512 * HOST_BLOCKS
                await port.write(writer * HOST_BLOCKS, content)
                written[writer] = number

        writers = [asyncio.ensure_future(write(writer)) for writer in range(HOST_WRITERS)]
        for _ in range(4):
            before = list(written)
            await until(lambda: all(now > was for now, was in zip(written, before, strict=True)))  # noqa: B023
            await daemon.managed().change(Change("a new life"))
        ended = True
        await asyncio.gather(*writers)
        for writer, number in enumerate(written):
            for block in await port.read(writer * HOST_BLOCKS, HOST_BLOCKS):
                assert bytes(block) == number.to_bytes(8, "little") * 512
        await port.close()
        await controller.close()
    await daemon.halt()


async def test_one_that_can_not_be_loaded_so_is_as_it_was(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    params = dict(device.params)
    port = gate_of(daemon)
    await port.write(0, b"x" * 4096)
    with pytest.raises(ConfError):
        await device.change(Change("nonsense", {"conf": {"invalid_thld": 1000}}))
    assert device.state.value == "online"
    assert device.params == params
    maker, refused = device.maker, []

    async def load(*args: object, **once: object) -> object:
        if not refused:
            refused.append({name: value for name, value in once.items() if name not in ("life", "room")})
            raise MediaError("it is not to be")
        return await type(maker).load(maker, *args, **once)  # type: ignore[arg-type]

    monkeypatch.setattr(maker, "load", load)
    with pytest.raises(MediaError, match="it is not to be"):
        await device.change(Change("what fails", {"conf": {"invalid_thld": 20}}, {"some": "thing"}))
    assert refused == [{"some": "thing"}]
    assert bytes((await port.read(0, 1))[0]) == b"x" * 4096, "hosts wait until it runs as it was"
    await until(lambda: device.state.value == "online")
    assert device.params == params
    assert daemon.record()["devices"][0]["params"] == params
    await port.close()
    await daemon.halt()


async def test_who_asks_when_its_life_is_over_has_an_answer() -> None:
    changes = Changes()
    asked = asyncio.ensure_future(changes.ask(Change("the first")))
    await asyncio.sleep(0)
    changes.close(BusyError("it is deleted"))
    for waiting in (asked, changes.ask(Change("the second")), changes.ask(Change("the third"))):
        with pytest.raises(BusyError, match="it is deleted"):
            await asyncio.wait_for(waiting, 5)
    assert not changes.wanted.is_set()


async def test_one_at_a_time_and_none_of_what_does_not_run(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    first = asyncio.ensure_future(device.change(Change("the first")))
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="the first is in progress"):
        await device.change(Change("the second"))
    await first
    await here.remove_drive()
    await daemon.wait_for("waiting")
    with pytest.raises(BusyError, match=r"is waiting.*; the third has to wait"):
        await device.change(Change("the third"))
    await here.make_drive()
    await daemon.wait_for("online")
    await device.change(Change("the fourth"))
    changing = asyncio.ensure_future(device.change(Change("the fifth")))
    await asyncio.sleep(0)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with pytest.raises(FtlError, match="nothing was changed"):
        await changing
    await daemon.halt()


async def test_hosts_that_stay_are_owed_the_truth_of_what_they_write_behind_it(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    host = await connected(here, daemon)
    device = daemon.managed()
    (before,) = daemon.record()["devices"][0]["hosts"]["connected"]
    await device.change(Change("nothing much"))
    assert daemon.record()["devices"][0]["hosts"]["connected"] == [before]
    assert [each.to_record() for each in device.hosts.alarm()] == [before], "its Flush would say that nothing is lost"
    await host.close()
    await daemon.halt()


async def test_of_an_ftl_that_fails_while_it_is_halted_for_it_nothing_is_changed(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has accepted may be nowhere but in the buffer, or the cache that is to go."""
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    ftl = device.ftl
    assert ftl is not None
    loads: list[object] = []
    load = device.maker.load

    async def noted(*args: object, **once: object) -> object:
        loads.append({name: value for name, value in once.items() if name not in ("life", "room")})
        return await load(*args, **once)  # type: ignore[arg-type]

    async def emptied(timeout_s: float) -> bool:
        await ftl.abort("it breaks off right now")
        return True

    monkeypatch.setattr(device.maker, "load", noted)
    monkeypatch.setattr(device.front, "emptied", emptied)
    with pytest.raises(MediaError, match="it breaks off right now"):
        await device.change(Change("what gives something up", {}, {"without_cache": True}))
    await until(lambda: device.state.value == "online")
    assert loads == [{}], "it is loaded as it was"
    await daemon.halt()


async def test_hosts_stay_known_where_an_ftl_that_has_failed_is_ended(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    host = await connected(here, daemon)
    device = daemon.managed()
    (before,) = daemon.record()["devices"][0]["hosts"]["connected"]
    await device.fail("it can't be mended")
    await daemon.registry.halt()
    assert daemon.record()["devices"][0]["hosts"]["connected"] == [before]
    with contextlib.suppress(FtlError, OSError):
        await host.close()
    daemon.state.close()

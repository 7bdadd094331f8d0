"""A daemon that ends in order, and its successor: hosts, and what stands in the target, see a pause. Only on order is
it taken away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from spdk_ftl_py.daemon import device as device_module
from spdk_ftl_py.daemon import ending
from spdk_ftl_py.daemon.requester import asked_for_by
from spdk_ftl_py.errors import BusyError, FtlError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.reconnecting import ReconnectingHost
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, Writer, create, read, write
from unit.nvme.nvme_loop import until

UNDOING = {
    *("bdev_passthru_delete", "bdev_nvme_detach_controller", "nvmf_subsystem_remove_ns", "nvmf_delete_subsystem"),
    "keyring_file_remove_key",
}


async def standing(here: World) -> dict[str, Any]:
    """What others in the target, and its user, see of an FTL. Keys are made anew each time, under the same names."""
    return {
        "bdevs": sorted((bdev["name"], bdev["uuid"], bdev["claimed"]) for bdev in await here.rpc("bdev_get_bdevs")),
        "exports": sorted(await here.exports()),
        "controllers": sorted(each["name"] for each in await here.rpc("bdev_nvme_get_controllers")),
        "keys": sorted(each["name"] for each in await here.rpc("keyring_get_keys")),
    }


@asynccontextmanager
async def writing(daemon: Daemon) -> AsyncIterator[tuple[Writer, ReconnectingHost]]:
    export = (await daemon.device())["export"]
    async with ReactorLoop("host", spin_us=0) as reactor:
        host = await ReconnectingHost.connect(
            reactor, export["traddr"], export["trsvcid"], export["subnqn"], hostnqn=HOSTNQN, reconnect_delay_s=0.05,
        )  # fmt: skip
        port = BlockPort(reactor, host.device, name="host", patience_s=0)
        try:
            yield Writer(port), host
        finally:
            await port.close()
            await host.close()


async def test_what_stands_in_the_target_is_taken_over_and_hosts_go_on(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon, no_attach=False))["uuid"]
    before, export = await standing(here), (await daemon.device())["export"]
    async with writing(daemon) as (writer, host):
        for losses in (1, 2):
            await writer.goes_on()
            here.line.called.clear()
            await daemon.halt()
            assert not UNDOING & set(here.line.called)
            assert await standing(here) == before
            # It is all on media: the machine could go down now.
            assert list((here.folder / "buffers").glob("*.wbuf")) == []
            daemon = await here.start()
            device = daemon.managed()
            assert (await daemon.wait_for("online"))["export"] == export
            await until(lambda: device.attachment is not None)  # noqa: B023
            assert device.ftl is not None
            assert (device.ftl.restored or {})["clean"]
            assert "bdev_nvme_attach_controller" not in here.line.called
            await writer.goes_on()
            assert host.losses == losses
        await writer.verify()
    assert await standing(here) == before
    (bdev,) = await here.rpc("bdev_get_bdevs", name="ftl0")
    assert bdev["uuid"] == uuid
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await here.exports() == []
    await daemon.halt()


async def test_what_hosts_have_sent_is_answered_before_a_slow_base_is_let_go_of(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    async with writing(daemon) as (writer, _):
        await writer.goes_on()
        await here.rpc("ftltgt_inject_fault", name="Nvme0n1", latency_us=300_000, times=8)
        await daemon.halt()
        daemon = await here.start()
        await daemon.wait_for("online")
        ftl = daemon.managed().ftl
        assert ftl is not None
        assert (ftl.restored or {})["clean"]
        await writer.goes_on()
        await writer.verify()
    await daemon.halt()


async def test_a_base_that_hangs_keeps_nobody_from_ending_and_hosts_still_see_no_error(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    monkeypatch.setattr(device_module, "EMPTY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(ending, "HALT_STALL_S", 0.5)
    daemon = await here.start()
    await create(here, daemon)
    async with writing(daemon) as (writer, _):
        await writer.goes_on()
        await here.rpc("ftltgt_inject_fault", name="Nvme0n1", latency_us=5_000_000, times=200)
        with pytest.raises(FtlError, match=r"not everything was halted cleanly: ftl0: halt the FTL: "):
            await daemon.registry.halt()
        daemon.state.close()
        await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
        daemon = await here.start()
        await daemon.wait_for("online")
        await writer.goes_on()
        await writer.verify()
    await daemon.halt()


async def test_what_was_accepted_for_a_base_that_is_gone_is_kept_for_the_successor_and_that_is_told(
    caplog: pytest.LogCaptureFixture, here: World
) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await write(here, daemon, 5)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await daemon.halt()
    (line,) = [
        each.getMessage() for each in caplog.records if "the next daemon loads them; they are lost" in each.getMessage()
    ]
    assert f"5 blocks in {here.folder}/buffers/{uuid}" in line
    daemon = await here.start()
    # Again, of one that has never been loaded by this daemon.
    await daemon.wait_for("deferred")
    await daemon.halt()
    daemon = await here.start()
    await here.make_drive()
    await daemon.wait_for("online")
    assert await read(here, daemon, 5) == [1, 2, 3, 4, 5]
    await daemon.halt()


async def test_one_that_waits_has_its_claims_and_its_bdev_for_the_successor(here: World) -> None:
    """The target is there, and answers nothing for a moment: who ends meanwhile takes nothing away."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    before = await standing(here)
    here.line.hold()
    await asyncio.wait_for(daemon.halt(), 5)
    here.line.called.clear()
    daemon = await here.start()
    await until(lambda: bool(here.line.called))
    await daemon.halt()
    here.line.release()
    assert await standing(here) == before
    daemon = await here.start()
    await daemon.wait_for("online")
    assert await standing(here) == before
    await daemon.halt()


async def test_on_order_it_is_taken_away_and_the_daemon_is_to_end(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    before = await standing(here)
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    ended: list[str] = []
    daemon.registry.on_halted = lambda: ended.append("now")
    caplog.set_level(logging.INFO)
    with asked_for_by("pid 7, uid 0"):
        told = await daemon.call("ftl_halt")
    assert told["halted"] == ["ftl0"]
    assert ended == ["now"]
    assert "halting, asked for by pid 7, uid 0" in caplog.text
    assert await standing(here) == before
    with pytest.raises(FtlError, match="halting"):
        await daemon.call("ftl_halt")
    # The end of the process, which waits for the same.
    await daemon.halt()
    daemon = await here.start()
    await daemon.wait_for("online")
    await until(lambda: daemon.managed().attachment is not None)
    await daemon.halt()


async def test_what_can_not_be_taken_away_on_order_is_said_and_ends_the_daemon_all_the_same(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    ended: list[str] = []
    daemon.registry.on_halted = lambda: ended.append("now")
    here.line.refused |= UNDOING
    with pytest.raises(FtlError, match=r"not everything was halted cleanly and undone: ftl0.*nvmf_subsystem_remove_ns"):
        await daemon.call("ftl_halt")
    assert ended == ["now"]
    here.line.refused.clear()
    with pytest.raises(FtlError, match="not everything was halted cleanly and undone"):
        await daemon.registry.halt()
    daemon.state.close()
    daemon = await here.start()
    await daemon.wait_for("online")
    await daemon.halt(undo=True)
    assert await here.exports() == []


async def test_a_daemon_that_does_not_know_yet_what_it_has_is_not_halted_by_order(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await daemon.halt()
    daemon = here.daemon()
    with pytest.raises(BusyError, match="still starting"):
        await daemon.call("ftl_halt")
    await daemon.registry.start()
    assert (await daemon.wait_for("online"))["name"] == "ftl0"
    await daemon.halt()


async def test_what_is_kept_by_nobody_is_taken_away_each_time(here: World) -> None:
    await here.rpc("bdev_null_create", name="N0", num_blocks=16384, block_size=4096)
    before = await standing(here)
    daemon = await here.start()
    await create(here, daemon, base_bdev="N0", zone_capacity=192, no_data=True, no_attach=False)
    await daemon.halt()
    assert await standing(here) == before
    assert daemon.record()["devices"] == []


async def test_half_of_a_creation_is_taken_away_each_time(here: World) -> None:
    before = await standing(here)
    daemon = await here.start()
    here.line.hold("nvmf_subsystem_add_listener")
    creation = asyncio.ensure_future(create(here, daemon))
    await until(lambda: "nvmf_subsystem_add_listener" in here.line.called)
    await daemon.halt()
    with pytest.raises(FtlError, match="halting"):
        await creation
    here.line.release()
    assert await standing(here) == before


async def test_one_that_has_failed_stays_what_it_is_for_the_successor_to_try(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    before = await standing(here)
    await daemon.managed().fail("a test says so")
    await daemon.halt()
    assert await standing(here) == before
    daemon = await here.start()
    await daemon.wait_for("online")
    await daemon.halt()

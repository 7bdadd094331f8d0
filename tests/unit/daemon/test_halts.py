"""A halt of the daemon moves on where all can see it, and ends in time: without the L2P checkpoint if that takes too
long, and without a base that does not answer. Nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.daemon import ending, halt_watch
from spdk_ftl_py.daemon.registry import Registry
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.runtime import watchdog as watchdog_module
from spdk_ftl_py.runtime.turns import many_aside
from spdk_ftl_py.runtime.watchdog import Watchdog
from unit.daemon.registry_rig import Daemon, World, create, read, write
from unit.daemon.test_many import make_drives
from unit.nvme.nvme_loop import until
from unit.runtime.test_watchdog import Listening

MORE = "EXTEND_TIMEOUT_USEC=60000000"
BLOCKS = 40


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(tmp_path / "notify")
    yield made
    made.socket.close()


def restored(daemon: Daemon, name: str = "ftl0") -> dict[str, Any]:
    ftl = daemon.managed(name).ftl
    assert ftl is not None
    assert ftl.restored is not None
    return ftl.restored


async def slow_down(here: World, op: str, latency_us: int, name: str = "Nvme0n1", **more: Any) -> None:
    await here.rpc("ftltgt_inject_fault", name=name, op=op, latency_us=latency_us, **more)


async def test_a_checkpoint_that_takes_too_long_is_left_out_and_the_halt_is_clean(
    monkeypatch: pytest.MonkeyPatch, here: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ending, "CHECKPOINT_SHARE", 0.02)
    daemon = await here.start(halt_timeout_s=20.0)
    await create(here, daemon)
    await write(here, daemon, BLOCKS)
    ftl = daemon.managed().ftl
    assert ftl is not None
    await ftl.make_durable()
    await slow_down(here, "write", 900_000, times=1)
    await daemon.halt()
    assert "halted without L2P checkpoint: there is no time for the rest of it" in caplog.text
    assert "halted cleanly" in caplog.text
    assert list((here.folder / "buffers").glob("*.wbuf")) == []
    await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
    daemon = await here.start()
    await daemon.wait_for("online")
    assert restored(daemon)["clean"]
    assert not restored(daemon)["from_checkpoint"]
    assert await read(here, daemon, BLOCKS) == [lba + 1 for lba in range(BLOCKS)]
    await daemon.halt()


async def test_a_base_that_is_not_done_in_time_is_given_up_and_the_write_buffer_keeps_all(here: World) -> None:
    daemon = await here.start(halt_timeout_s=0.8)
    await create(here, daemon)
    await write(here, daemon, BLOCKS)
    # It answers again and again, but too slowly.
    await slow_down(here, "write", 400_000)
    await slow_down(here, "flush", 2_000_000)
    with pytest.raises(FtlError, match=r"ftl0: halt the FTL: .*was not done after 0\.8 s \(serve --halt-timeout\)"):
        await daemon.registry.halt()
    daemon.state.close()
    await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
    daemon = await here.start()
    await daemon.wait_for("online")
    assert not restored(daemon)["clean"]
    assert not restored(daemon)["lossy"]
    assert await read(here, daemon, BLOCKS) == [lba + 1 for lba in range(BLOCKS)]
    await daemon.halt()


async def test_a_halt_for_a_change_and_a_delete_have_no_more_time_than_the_halt_of_the_daemon(here: World) -> None:
    many_aside()
    drives = await make_drives(here, 3)
    daemon = await here.start(halt_timeout_s=3.0)
    for number, drive in enumerate(drives):
        await create(here, daemon, f"ftl{number}", base_bdev=drive)
        # The third needs longer than HALT_LOOK_S, and much less than there is.
        await slow_down(here, "write", 1_500_000 if number < 2 else 200_000, drive)
    changing = asyncio.ensure_future(
        daemon.call("bdev_ftl_set_property", name="ftl0", ftl_property="verify_reads", value="false")
    )
    deleting = asyncio.ensure_future(daemon.call("bdev_ftl_delete", name="ftl1"))
    clock = asyncio.get_running_loop().time
    halting = [daemon.managed("ftl0"), daemon.managed("ftl1")]
    await until(lambda: all(device.progress.startswith("halt: ") for device in halting))
    began = clock()
    healthy = daemon.managed("ftl2").ftl
    await daemon.registry.halt()
    assert clock() - began < 10
    with pytest.raises(FtlError, match="FTL bdev ftl0 has failed, or is being deleted: nothing was changed"):
        await changing
    with pytest.raises(FtlError, match=r"was not done after 3 s \(serve --halt-timeout\)"):
        await deleting
    # They have used up all of the time, but not that of the third.
    assert healthy is not None
    assert healthy.halted_cleanly
    daemon.state.close()
    for drive in drives:
        await here.rpc("ftltgt_clear_faults", name=drive)
    daemon = await here.start()
    for name in ("ftl0", "ftl2"):
        await daemon.wait_for("online", name)
    assert "ftl1" not in {record["name"] for record in daemon.record()["devices"]}
    assert (restored(daemon, "ftl2")["clean"], restored(daemon, "ftl2")["from_checkpoint"]) == (True, True)
    await daemon.halt()


def watched(registry: Registry, watchdog: Watchdog) -> None:
    """As serve() does."""
    registry.on_halting, registry.on_halt_status = watchdog.stopping, watchdog.tell_status


async def test_many_halt_side_by_side_one_hangs_and_the_service_manager_is_told(
    monkeypatch: pytest.MonkeyPatch, here: World, listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(watchdog_module, "EXTEND_EVERY_S", 0.05)
    monkeypatch.setattr(watchdog_module, "STILL_S", 1.0)
    monkeypatch.setattr(halt_watch, "TELL_EVERY_S", 0.1)
    count = 12
    drives = await make_drives(here, count)
    daemon = await here.start(halt_timeout_s=4.0)
    await asyncio.gather(*(create(here, daemon, f"ftl{i}", base_bdev=drive) for i, drive in enumerate(drives)))
    clock = asyncio.get_running_loop().time
    async with Watchdog(listening.manager()) as watchdog:
        watched(daemon.registry, watchdog)
        for number, drive in enumerate(drives):
            await slow_down(here, "write", 6_000_000 if number == 0 else 10_000, drive)
        began = clock()
        halt = asyncio.ensure_future(daemon.registry.halt())
        one = daemon.managed("ftl0")
        await until(lambda: one.progress.startswith("halt: "))
        told = (await daemon.call("ftl_get_devices", name="ftl0"))[0]
        assert (told["state"], told["waiting_for"]) == ("waiting", "the next daemon")
        assert told["progress"].startswith("halt: ")
        heard: list[str] = []
        listened_until = began + 3.0
        while clock() < listened_until:
            heard += listening.heard()
            await asyncio.sleep(0.05)
        assert heard[:2] == ["STOPPING=1", MORE]
        assert heard.count(MORE) > 3
        status = [line for line in heard if line.startswith("STATUS=")]
        assert status[0].startswith(f"STATUS=halting: 0 of {count} FTLs are halted; ftl0: ")
        # All but the one that hangs; and as nothing moves any more, it gets no more time.
        assert status[-1].startswith(f"STATUS=halting: {count - 1} of {count} FTLs are halted; ftl0: halt: ")
        listening.heard()
        with pytest.raises(FtlError, match=r"^not everything was halted cleanly: ftl0: ") as failed:
            await halt
        assert "ftl1:" not in str(failed.value)
        assert MORE not in listening.heard()
    assert clock() - began < 30
    assert f"halting: {count - 1} of {count} FTLs are halted" in caplog.text
    daemon.state.close()
    for drive in drives:
        await here.rpc("ftltgt_clear_faults", name=drive)
    daemon = await here.start()
    for number in range(count):
        await daemon.wait_for("online", f"ftl{number}")
        assert restored(daemon, f"ftl{number}")["clean"] == (number != 0)
    await daemon.halt()

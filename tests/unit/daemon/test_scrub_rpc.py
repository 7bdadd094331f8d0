"""bdev_ftl_scrub: ordered, told, stopped and refused."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from spdk_ftl_py.errors import BusyError, FtlError, NotFoundError, ParameterError
from unit.daemon.registry_rig import Daemon, World, connected, create, write


async def last_of(daemon: Daemon) -> dict[str, Any]:
    """How it stands once a round has ended."""
    while True:
        status: dict[str, Any] = (await daemon.call("bdev_ftl_get_stats", name="ftl0"))["scrub"]
        if status["last"] is not None:
            return status
        await asyncio.sleep(0.01)


async def test_an_order_is_carried_out_and_stats_and_properties_tell(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    daemon = await here.start()
    await create(here, daemon, conf={"scrub_days": 30})
    await write(here, daemon, 50)
    device = daemon.managed()
    assert device.ftl is not None
    assert await device.ftl._drains.drain() == 0
    told = await daemon.call("bdev_ftl_scrub", name="ftl0")
    assert (told["name"], told["state"], told["round"], told["ordered"]) == ("ftl0", "running", 1, True)
    status = await last_of(daemon)
    assert status["last"]["read_blocks"] == 50
    assert (status["state"], status["scrub_days"]) == ("waiting", 30)
    properties = (await daemon.call("bdev_ftl_get_properties", name="ftl0"))["properties"]
    assert {entry["name"]: entry["value"] for entry in properties}["scrub"]["last"] == status["last"]
    assert "scrub ordered, asked for by" in caplog.text
    assert (await daemon.call("bdev_ftl_scrub", name="ftl0", stop=True))["state"] == "waiting"
    await daemon.halt()


async def test_it_goes_on_behind_a_base_that_was_lost(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await write(here, daemon, 50)
    device = daemon.managed()
    assert device.ftl is not None
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="read", latency_us=400_000)
    await daemon.call("bdev_ftl_scrub", name="ftl0")
    for _ in range(50):  # soon: who has ordered it relies on it
        if device.ftl.scrub.superblocks:
            break
        await asyncio.sleep(0.01)
    assert device.ftl.scrub.status()["read_blocks"] < 50
    await device.ftl.abort("lost")
    await daemon.wait_for("waiting")
    with pytest.raises(BusyError, match=r"waiting.*can't be scrubbed now"):
        await daemon.call("bdev_ftl_scrub", name="ftl0")
    await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
    await daemon.wait_for("online")
    last = (await last_of(daemon))["last"]
    assert (last["round"], last["ordered"]) == (1, True)
    await daemon.halt()


async def test_it_is_refused_where_there_is_nothing_to_read(here: World) -> None:
    daemon = await here.start()
    with pytest.raises(NotFoundError, match="no such FTL"):
        await daemon.call("bdev_ftl_scrub", name="ftl0")
    await create(here, daemon, name="later", base_bdev="Nvme9n1")
    with pytest.raises(BusyError, match="later is deferred"):
        await daemon.call("bdev_ftl_scrub", name="later")
    await create(here, daemon, no_data=True)
    with pytest.raises(ParameterError, match="no_data"):
        await daemon.call("bdev_ftl_scrub", name="ftl0")
    controller = await connected(here, daemon)
    await controller.close()
    await daemon.halt()
    with pytest.raises(FtlError, match="halting"):
        await daemon.call("bdev_ftl_scrub", name="ftl0")

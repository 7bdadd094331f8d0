"""bdev_ftl_grow: hosts notice a pause, and that there is more; what can't be grown is refused, and goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spdk_ftl_py.errors import BusyError, ExistsError, GeometryError, MediaError, NotFoundError, ParameterError
from spdk_ftl_py.ftl.load import grow as growing
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.events import AsyncEvent
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.target.jsonrpc import RpcError
from unit.daemon.registry_rig import Daemon, World, Writer, connected, create, gate_of
from unit.nvme.nvme_loop import until

ZONES, MORE = 64, 96
ZONE_SIZE, ZONE_CAPACITY = 64, 48
ZONE_BYTES = ZONE_SIZE * 4096
EMULATED = {"base_bdev": "A0", "zone_capacity": ZONE_CAPACITY}


async def make_base(here: World, zones: int) -> None:
    """A conventional bdev of so many zones, in a file that is kept."""
    path = here.folder / "base"
    with path.open("ab") as file:
        file.truncate(zones * ZONE_BYTES)
    while True:
        try:
            await here.rpc("bdev_aio_create", name="A0", filename=str(path), block_size=4096)
            return
        except RpcError as error:
            # The drive before it goes when the last of its I/O has ended.
            if "busy" not in str(error):
                raise
        await asyncio.sleep(0.01)


async def remake_base(here: World, daemon: Daemon, zones: int) -> None:
    """As when its target starts again."""
    await here.rpc("bdev_aio_delete", name="A0")
    await daemon.wait_for("waiting")
    await make_base(here, zones)


async def blocks_in_target(here: World, name: str = "ftl0") -> int:
    return int((await here.rpc("bdev_get_bdevs", name=name))[0]["num_blocks"])


async def test_hosts_notice_a_pause_and_then_that_there_is_more(here: World) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    await create(here, daemon, **EMULATED)
    controller = await connected(here, daemon)
    events: list[AsyncEvent] = []
    controller.on_event = events.append
    (before,) = await controller.namespaces()
    port = gate_of(daemon)
    writer = Writer(port)
    await writer.goes_on()
    assert await daemon.call("bdev_ftl_grow", name="ftl0") == {
        "name": "ftl0",
        "num_blocks": before.block_count,
        "changed": False,
    }
    await remake_base(here, daemon, MORE)
    device = await daemon.wait_for("online")
    assert (device["num_blocks"], device["num_bands"]) == (before.block_count, ZONES - 2)
    await writer.goes_on()
    assert not events
    told = await daemon.call("bdev_ftl_grow", name="ftl0")
    assert told["num_blocks"] > before.block_count * 1.5
    assert told == {"name": "ftl0", "num_blocks": told["num_blocks"], "changed": True}
    await until(lambda: bool(events))
    assert (events[0].of_zones, events[0].changed_namespaces) == (False, (1,))
    device = await daemon.device()
    assert (device["state"], device["num_blocks"], device["num_bands"]) == ("online", told["num_blocks"], MORE - 2)
    async with ReactorLoop("host", spin_us=0) as reactor:
        (now,) = await controller.namespaces()
        assert now.block_count == told["num_blocks"]
        host = BlockPort(reactor, await controller.create_io_qpair(reactor, now), name="host")
        await host.write(now.block_count - 1, b"n" * 4096)
        assert bytes((await host.read(now.block_count - 1, 1))[0]) == b"n" * 4096
        await host.close()
    await writer.goes_on()
    await writer.end()
    await port.close()
    await controller.close()
    await daemon.halt()
    daemon = await here.start()
    assert (await daemon.wait_for("online"))["num_blocks"] == told["num_blocks"]
    await daemon.halt()


async def test_it_waits_for_other_changes_and_for_who_changes_its_bdev(here: World) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    await create(here, daemon, **EMULATED, no_attach=False)
    device = daemon.managed()
    for turn in (device.settings_turn, device.turn_in_target()):
        async with turn:
            growing = asyncio.ensure_future(daemon.call("bdev_ftl_grow", name="ftl0"))
            done, _ = await asyncio.wait([growing], timeout=0.3)
            assert not done
        assert not (await growing)["changed"]
    await daemon.halt()


async def test_a_queue_that_is_there_takes_the_new_blocks_only_once_they_are(here: World) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    await create(here, daemon, **EMULATED)
    controller = await connected(here, daemon)
    (before,) = await controller.namespaces()
    async with ReactorLoop("host", spin_us=0) as reactor:
        host = BlockPort(reactor, await controller.create_io_qpair(reactor, before), name="host", patience_s=0)
        await host.write(before.block_count - 1, b"o" * 4096)
        with pytest.raises(MediaError, match=r"(?i)lba out of range"):
            await host.write(before.block_count, b"n" * 4096)
        await remake_base(here, daemon, MORE)
        await daemon.wait_for("online")
        with pytest.raises(MediaError, match=r"(?i)lba out of range"):
            await host.write(before.block_count, b"n" * 4096)
        await daemon.call("bdev_ftl_grow", name="ftl0")
        await host.write(before.block_count, b"n" * 4096)
        assert bytes((await host.read(before.block_count, 1))[0]) == b"n" * 4096
        assert bytes((await host.read(before.block_count - 1, 1))[0]) == b"o" * 4096
        await host.close()
    await controller.close()
    await daemon.halt()


async def test_somebodys_data_is_erased_only_with_force_and_what_is_refused_goes_on(here: World) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    await create(here, daemon, **EMULATED)
    port = gate_of(daemon)
    await port.write(7, b"m" * 4096)
    with (here.folder / "base").open("r+b") as file:
        file.truncate(MORE * ZONE_BYTES)
        file.seek(ZONES * ZONE_BYTES + 1024 + 0x38)
        file.write(b"\x53\xef")
    await remake_base(here, daemon, MORE)
    blocks = (await daemon.wait_for("online"))["num_blocks"]
    with pytest.raises(ExistsError, match=r"holds an ext2, ext3 or ext4 .*; nothing was changed"):
        await daemon.call("bdev_ftl_grow", name="ftl0")
    assert bytes((await port.read(7, 1))[0]) == b"m" * 4096
    device = await daemon.wait_for("online")
    assert device["num_blocks"] == blocks
    with (here.folder / "base").open("rb") as file:
        file.seek(ZONES * ZONE_BYTES + 1024 + 0x38)
        assert file.read(2) == b"\x53\xef"
    told = await daemon.call("bdev_ftl_grow", name="ftl0", force=True)
    assert told["num_blocks"] > blocks
    assert bytes((await port.read(7, 1))[0]) == b"m" * 4096
    await port.close()
    await daemon.halt()


async def test_what_can_not_be_grown_is_refused(here: World) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    with pytest.raises(NotFoundError):
        await daemon.call("bdev_ftl_grow", name="ftl0")
    await create(here, daemon, **EMULATED)
    blocks = (await daemon.device())["num_blocks"]
    (bdev,) = await here.rpc("bdev_get_bdevs", name="A0")
    here.line.answers["bdev_get_bdevs"] = [{**bdev, "num_blocks": bdev["num_blocks"] - 1}]
    with pytest.raises(GeometryError, match=r"A0 has shrunk: it has 4095 blocks, but the FTL uses 4096"):
        await daemon.call("bdev_ftl_grow", name="ftl0")
    here.line.answers["bdev_get_bdevs"] = [{**bdev, "num_blocks": bdev["num_blocks"] + ZONE_SIZE - 1}]
    assert not (await daemon.call("bdev_ftl_grow", name="ftl0"))["changed"]
    here.line.answers.clear()
    await here.rpc("bdev_aio_delete", name="A0")
    await daemon.wait_for("waiting")
    with pytest.raises(BusyError, match="growing has to wait"):
        await daemon.call("bdev_ftl_grow", name="ftl0")
    # Nothing of it is given up.
    (here.folder / "base").rename(here.folder / "whole")
    with (here.folder / "whole").open("rb") as whole:
        # Its superblocks.
        (here.folder / "base").write_bytes(whole.read(2 * ZONE_BYTES))
    await make_base(here, ZONES - 1)
    device = await daemon.wait_for("failed")
    assert "has shrunk by 1 zones (64 blocks, 1 MiB) to 63" in str(device["error"])
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    await here.rpc("bdev_aio_delete", name="A0")
    (here.folder / "whole").rename(here.folder / "base")
    await make_base(here, ZONES)
    await create(here, daemon, **EMULATED, uuid=device["uuid"])
    assert (await daemon.device())["num_blocks"] == blocks
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, **EMULATED, no_data=True, force=True)
    here.line.answers["bdev_get_bdevs"] = [{**bdev, "num_blocks": 2 * bdev["num_blocks"]}]
    with pytest.raises(ParameterError, match="no_data"):
        await daemon.call("bdev_ftl_grow", name="ftl0")
    here.line.answers.clear()
    await daemon.halt()


async def test_a_base_that_is_lost_in_the_midst_is_waited_for(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    await create(here, daemon, **EMULATED)
    port = gate_of(daemon)
    await port.write(7, b"m" * 4096)
    await remake_base(here, daemon, MORE)
    blocks = (await daemon.wait_for("online"))["num_blocks"]
    make_blank, begun = growing._make_blank, []

    async def lost(*args: Any) -> None:
        begun.append(args)
        if len(begun) == 1:
            await here.rpc("bdev_aio_delete", name="A0")
        await make_blank(*args)

    monkeypatch.setattr(growing, "_make_blank", lost)
    with pytest.raises(MediaError):
        await daemon.call("bdev_ftl_grow", name="ftl0")
    monkeypatch.undo()
    await make_base(here, MORE)
    assert bytes((await port.read(7, 1))[0]) == b"m" * 4096
    assert (await daemon.wait_for("online"))["num_blocks"] == blocks
    assert (await daemon.call("bdev_ftl_grow", name="ftl0"))["num_blocks"] > blocks
    assert bytes((await port.read(7, 1))[0]) == b"m" * 4096
    await port.close()
    await daemon.halt()


async def test_the_bdev_in_the_target_grows_where_nobody_uses_it(here: World) -> None:
    await make_base(here, ZONES)
    daemon = await here.start()
    await create(here, daemon, **EMULATED, no_attach=False)
    before = await blocks_in_target(here)
    await here.rpc("bdev_passthru_create", base_bdev_name="ftl0", name="user")
    await remake_base(here, daemon, MORE)
    await daemon.wait_for("online")
    told = await daemon.call("bdev_ftl_grow", name="ftl0")
    assert told["num_blocks"] > before
    assert told["target_num_blocks"] == before == await blocks_in_target(here, "user")
    (below,) = [each for each in await here.rpc("bdev_get_bdevs") if each["name"].startswith("ftl0-")]
    await here.rpc("bdev_passthru_delete", name="user")
    # A user of a bdev need not claim it.
    here.line.answers["framework_get_subsystems"] = [{"subsystem": "ublk", "depends_on": ["bdev"]}]
    ublk = {"method": "ublk_start_disk", "params": {"bdev_name": "ftl0", "ublk_id": 1}}
    here.line.answers["framework_get_config"] = [ublk]
    assert (await daemon.call("bdev_ftl_grow", name="ftl0"))["target_num_blocks"] == before
    here.line.answers.clear()
    again = await daemon.call("bdev_ftl_grow", name="ftl0")
    assert again == {**told, "changed": False, "target_num_blocks": told["num_blocks"]}
    assert await blocks_in_target(here) == told["num_blocks"]
    assert await blocks_in_target(here, below["name"]) == told["num_blocks"]
    assert (await daemon.device())["attached"]
    resized = [each["ctx"] for each in await here.rpc("notify_get_notifications") if each["type"] == "bdev_resize"]
    assert resized == [below["name"]]
    await daemon.halt(undo=True)
    assert await here.exports() == []

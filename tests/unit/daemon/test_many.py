"""Many FTLs in one daemon: their loads stay within bounds of number and memory, and each is online when its own load
has ended, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py.daemon import device_parts, reloading
from spdk_ftl_py.daemon.load_turns import LoadTurns
from spdk_ftl_py.errors import FtlError, MediaError
from spdk_ftl_py.ftl import device as ftl_device
from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.load import restore as restore_module
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.wire import CommandError
from spdk_ftl_py.runtime.turns import many_aside
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, create, gate_of
from unit.daemon.test_orderly_restart import writing
from unit.nvme.nvme_loop import until

HANG_US = 16_000_000
STALL_S = 3.0
MIB = 1 << 20


async def make_drives(here: World, count: int) -> list[str]:
    names = [f"Many{number}n1" for number in range(count)]
    for name in names:
        await here.rpc(
            "ftltgt_zns_create", name=name, path=str(here.folder / name),
            num_zones=32, zone_size=256, zone_capacity=192, max_open_zones=14,
        )  # fmt: skip
    return names


async def make_ftls(here: World, count: int, *, checkpoints: bool = True) -> None:
    """As an earlier daemon left them, halted."""
    daemon = await here.start()
    drives = await make_drives(here, count)
    await asyncio.gather(*(create(here, daemon, f"ftl{i}", base_bdev=drive) for i, drive in enumerate(drives)))
    with pytest.MonkeyPatch.context() as patch:
        if not checkpoints:

            async def none(*_args: Any, **_options: Any) -> None:
                return None

            patch.setattr(ftl_device.checkpoint, "write", none)
        await daemon.halt()


class Counted:
    """Counts for itself what runs at the same time."""

    def __init__(self) -> None:
        self.loads: set[str] = set()
        self.merging: dict[object, int] = {}
        self.most_loads = self.most_bytes = 0
        self.hanging: set[str] = set()
        self.may_go_on = asyncio.Event()

    def count(self) -> None:
        self.most_loads = max(self.most_loads, len(self.loads - self.hanging))
        self.most_bytes = max(self.most_bytes, sum(self.merging.values()))


@contextmanager
def counted() -> Iterator[Counted]:
    here = Counted()
    load, read_bands = loading.load, restore_module._read_bands

    async def counted_load(*args: Any, **options: Any) -> Any:
        name = options["name"]
        room = options["room"]
        here.loads.add(name)
        here.count()

        async def counted_room(byte_count: int) -> None:
            here.loads.discard(name)
            await room(byte_count)
            here.loads.add(name)
            here.count()

        try:
            if name in here.hanging:
                await here.may_go_on.wait()
            return await load(*args, **(options | {"room": counted_room}))
        finally:
            here.loads.discard(name)

    async def counted_reading(reader: Any, geometry: Any, *args: Any, **options: Any) -> None:
        here.merging[reader] = restore_module.bytes_beside_l2p(geometry)
        here.count()
        try:
            await read_bands(reader, geometry, *args, **options)
        finally:
            del here.merging[reader]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", counted_load)
        patch.setattr(restore_module, "_read_bands", counted_reading)
        yield here


def states(daemon: Daemon) -> dict[str, str]:
    return {device.name: device.state.value for device in daemon.registry.devices.values()}


@pytest.mark.parametrize(("count", "checkpoints"), [(12, True), (64, False)], ids=["from checkpoints", "from bands"])
async def test_many_come_online_within_the_bounds_though_as_many_hang_as_may_load(
    here: World, count: int, checkpoints: bool
) -> None:
    await make_ftls(here, count, checkpoints=checkpoints)
    turns = LoadTurns(4, memory_mib=2, stall_s=STALL_S)
    with counted() as seen:
        seen.hanging = {f"ftl{number}" for number in range(4)}
        daemon = await here.start(loads=turns)
        await until(lambda: len(seen.loads) == 4)
        waiting: set[str] = set()

        def others_online() -> bool:
            waiting.update(device.waiting_for for device in daemon.registry.devices.values())
            return all(state == "online" for name, state in states(daemon).items() if name not in seen.hanging)

        await until(others_online)
        assert {states(daemon)[name] for name in seen.hanging} == {"creating"}
        assert any("at most 4 at a time (serve --loads)" in why for why in waiting)
        assert 1 <= seen.most_loads <= 4
        assert seen.most_bytes == 0 if checkpoints else MIB / 2 < seen.most_bytes <= 2 * MIB
        seen.may_go_on.set()
        for name in seen.hanging:
            await daemon.wait_for("online", name)
    assert turns.taken_bytes == 0
    assert not turns.running
    for device in daemon.registry.devices.values():
        assert device.ftl is not None
        assert (device.ftl.restored or {})["from_checkpoint"] == checkpoints
    await daemon.halt()


async def test_a_base_that_hangs_keeps_neither_an_order_nor_the_end_of_the_daemon_waiting(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    """The target closes queues in threads of this process, too."""
    many_aside()
    monkeypatch.setattr(reloading, "CANCELLED_S", 0.2)
    await make_ftls(here, 3)
    for number in range(2):
        await here.rpc("ftltgt_inject_fault", name=f"Many{number}n1", op="read", latency_us=HANG_US)
    clock = asyncio.get_running_loop().time
    began = clock()
    daemon = await here.start(loads=LoadTurns(1, stall_s=0.2))
    await daemon.wait_for("online", "ftl2")
    await daemon.halt()
    # Before the bases answer.
    assert clock() - began < HANG_US / 1e6
    assert {record["name"] for record in daemon.record()["devices"]} == {"ftl0", "ftl1", "ftl2"}
    for number in range(2):
        await here.rpc("ftltgt_clear_faults", name=f"Many{number}n1")
    daemon = await here.start()
    for number in range(3):
        await daemon.wait_for("online", f"ftl{number}")
    await daemon.halt()


async def test_host_io_is_held_beyond_the_peer_timeout_while_a_load_waits_its_turn_or_moves_on(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    monkeypatch.setattr(device_parts, "HOLD_LOOK_S", 0.01)
    turns = LoadTurns(1, stall_s=1000.0)
    daemon = await here.start(loads=turns)
    await create(here, daemon)
    device = daemon.managed()
    port = gate_of(daemon)
    with counted() as seen:
        seen.hanging = {"ftl0"}
        async with turns.turn(1):
            await here.remove_drive()
            await daemon.wait_for("waiting")
            await here.make_drive()
            await until(lambda: device.load_turn is not None and device.load_turn.waits)
            # All time is over.
            monkeypatch.setattr(device, "identity", dataclasses.replace(device.identity, peer_timeout_s=0.0))
            device.start_hold_timer()
            write = asyncio.ensure_future(port.write(0, bytes(4096)))
            await asyncio.sleep(0.1)
            assert (await daemon.device())["host_io"] == "holding"
        await until(lambda: "ftl0" in seen.loads)
        await asyncio.sleep(0.1)
        assert (await daemon.device())["host_io"] == "holding"
        assert not write.done()
        # It moves no more.
        turns.stall_s = 0.0
        await asyncio.sleep(0.1)
        assert (await daemon.device())["host_io"] == "holding"
        turns.hold_s = 0.0
        with pytest.raises(MediaError, match="path error"):
            await write
        assert (await daemon.device())["host_io"] == "failing"
        turns.stall_s = turns.hold_s = 1000.0
        seen.may_go_on.set()
        await daemon.wait_for("online")
    await port.write(0, bytes(4096))
    await port.close()
    await daemon.halt()


async def test_a_change_with_a_pause_does_not_wait_until_others_are_loaded(here: World) -> None:
    """Its hosts are held meanwhile."""
    turns = LoadTurns(1, stall_s=1000.0)
    daemon = await here.start(loads=turns)
    await create(here, daemon)
    async with turns.turn(1):
        await daemon.call("bdev_ftl_set_property", name="ftl0", ftl_property="verify_reads", value="false")
        assert daemon.managed().conf.verify_reads is False
        assert len(turns.running) == 1
    await daemon.halt()


async def test_a_load_for_which_memory_runs_out_is_repeated(monkeypatch: pytest.MonkeyPatch, here: World) -> None:
    def refused(*_: Any) -> None:
        raise MemoryError

    def short() -> bool:
        return "there is not enough memory to load FTL" in daemon.managed().waiting_for

    await make_ftls(here, 1)
    monkeypatch.setattr(loading, "_fill", refused)
    daemon = await here.start()
    await until(short)
    assert states(daemon)["ftl0"] in ("creating", "deferred")
    monkeypatch.undo()
    await daemon.wait_for("online")
    # The same when its base comes back.
    monkeypatch.setattr(loading, "_fill", refused)
    ftl = daemon.managed().ftl
    assert ftl is not None
    await ftl.abort("the base is away")
    await until(short)
    assert states(daemon)["ftl0"] == "waiting"
    monkeypatch.undo()
    await daemon.wait_for("online")
    await daemon.halt()


async def test_the_target_holds_its_io_for_the_peer_timeout_too(here: World) -> None:
    for peer_timeout_s, told in ((1.0, 120), (300.5, 301)):
        daemon = await here.start(peer_timeout_s=peer_timeout_s)
        await create(here, daemon, no_attach=False, force=True)
        (attached,) = (each["params"] for each in here.target.nvme.saved() if each["params"]["name"].startswith("ftl0"))
        assert attached["ctrlr_loss_timeout_sec"] == -1
        assert attached["fast_io_fail_timeout_sec"] == told
        await daemon.halt(undo=True)
        daemon = await here.start()
        await daemon.wait_for("online")
        await daemon.call("bdev_ftl_delete", name="ftl0")
        await daemon.halt()


async def test_hosts_of_a_daemon_that_loads_long_are_told_to_try_again_and_see_no_error(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    async with writing(daemon) as (writer, host):
        await writer.goes_on()
        await daemon.halt()
        with counted() as seen:
            seen.hanging = {"ftl0"}
            daemon = await here.start()
            await until(lambda: "ftl0" in seen.loads)
            address = daemon.managed().front.tcp.address
            assert address is not None
            with pytest.raises(CommandError) as refused:
                await Controller.connect(*address, daemon.managed().nqn, hostnqn=HOSTNQN, hostid=UUID(int=7))
            assert not refused.value.do_not_retry
            before = writer.number
            await asyncio.sleep(0.3)
            assert writer.number == before
            seen.may_go_on.set()
            await daemon.wait_for("online")
        await writer.goes_on()
        await writer.verify()
        assert host.losses == 1
    await daemon.halt()


async def test_an_order_to_load_waits_its_turn_tells_so_and_fails_cleanly_at_a_halt(here: World) -> None:
    await make_ftls(here, 1)
    daemon = await here.start()
    await daemon.wait_for("online")
    uuid = (await daemon.device())["uuid"]
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()
    exports = await here.exports()

    turns = LoadTurns(1, stall_s=1000.0)
    daemon = await here.start(loads=turns)
    async with turns.turn(1):
        order = asyncio.ensure_future(create(here, daemon, base_bdev="Many0n1", uuid=uuid))
        await until(lambda: "ftl0" in states(daemon) and daemon.managed().waiting_for != "")
        told = await daemon.device()
        assert told["state"] == "creating"
        why = "its turn to load: 1 FTLs are being loaded, at most 1 at a time (serve --loads), and 0 are before it"
        assert told["waiting_for"] == why
        assert (await daemon.call("bdev_ftl_get_properties", name="ftl0"))["waiting_for"] == why
        await daemon.halt()
        with pytest.raises(FtlError, match="not created, the daemon is halting"):
            await order
    assert await here.exports() == exports

    daemon = await here.start(loads=turns)
    async with turns.turn(1):
        order = asyncio.ensure_future(create(here, daemon, base_bdev="Many0n1", uuid=uuid))
        await until(lambda: "ftl0" in states(daemon) and daemon.managed().waiting_for != "")
    assert (await order)["uuid"] == uuid
    assert (await daemon.wait_for("online")).get("waiting_for") is None
    await daemon.halt()

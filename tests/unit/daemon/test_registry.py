"""The daemon's RPCs when the target, the state file, or another call gets in the way."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spdk_ftl_py.daemon.base import BaseLink
from spdk_ftl_py.daemon.requester import asked_for_by
from spdk_ftl_py.errors import BusyError, FtlError, NotFoundError, PathError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.zone import Zone
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.wire import CommandError
from unit.daemon.registry_rig import HOSTNQN, Daemon, Line, World, connected, create, read, write
from unit.nvme.nvme_loop import until

UNDOING = {"nvmf_subsystem_remove_ns", "nvmf_delete_subsystem"}


async def test_what_a_delete_could_not_undo_is_undone_before_the_next_creation(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    here.line.refused |= UNDOING
    with pytest.raises(FtlError, match="could not undo everything"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await here.claimed()
    here.line.refused.clear()
    await create(here, daemon, "ftl1", force=True)
    assert len(await here.exports()) == 1
    await daemon.call("bdev_ftl_delete", name="ftl1")
    assert await here.exports() == []
    assert daemon.record()["devices"] == []
    await daemon.halt()


async def test_what_a_failed_creation_could_not_undo_is_undone_before_the_next_one(here: World) -> None:
    daemon = await here.start()
    here.line.refused |= {"nvmf_subsystem_add_listener", *UNDOING}
    with pytest.raises(FtlError, match="could not undo"):
        await create(here, daemon)
    assert await here.claimed()
    here.line.refused.clear()
    await create(here, daemon)
    assert len(await here.exports()) == 1
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await here.exports() == []
    await daemon.halt()


async def restarted(here: World) -> Daemon:
    """The successor of a daemon that had ftl0, before its start(). Nothing stands in the target."""
    daemon = await here.start()
    await create(here, daemon)
    state = daemon.die()
    await daemon.halt(undo=True)
    daemon.put_back(state)
    return here.daemon()


@pytest.mark.parametrize("method", ["bdev_get_bdevs", "nvmf_get_transports", "nvmf_subsystem_add_listener"])
async def test_a_device_that_comes_back_can_be_deleted_at_any_time(method: str, here: World) -> None:
    daemon = await restarted(here)
    here.line.called.clear()
    here.line.hold(method)
    await daemon.registry.start()
    await daemon.wait_for("creating")
    await until(lambda: method in here.line.called)
    first = asyncio.ensure_future(daemon.call("bdev_ftl_delete", name="ftl0"))
    await asyncio.sleep(0)
    here.line.release()
    second = asyncio.ensure_future(daemon.call("bdev_ftl_delete", name="ftl0"))
    assert await first is True
    with pytest.raises(BusyError, match="already being deleted"):
        await second
    assert await daemon.call("ftl_get_devices") == []
    assert await here.exports() == []
    assert not await here.claimed()
    assert daemon.record()["devices"] == []
    await daemon.halt()


async def test_a_target_that_stalls_holds_up_nobody_who_is_on_another(tmp_path: Path, here: World) -> None:
    other = Line(tmp_path / "other.sock", here.target)
    await other.start()
    daemon = await here.start()
    await create(here, daemon, target=other.path)
    other.refused |= UNDOING
    with pytest.raises(FtlError, match="could not undo everything"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    other.refused.clear()
    other.called.clear()
    other.hold()
    with pytest.raises(FtlError, match="already claimed"):
        await create(here, daemon)
    assert other.called == []
    other.release()
    await create(here, daemon, target=other.path, force=True)
    await daemon.halt()
    await other.close()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("bdev_get_bdevs", {"no": "list"}),
        ("nvmf_get_subsystems", ["x"]),
        ("nvmf_get_subsystems", [{"namespaces": [1]}]),
    ],
)
async def test_a_target_that_answers_nonsense_does_not_keep_the_daemon_from_starting(
    method: str, answer: object, here: World
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    here.line.refused |= UNDOING
    with pytest.raises(FtlError, match="could not undo everything"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()
    here.line.refused.clear()
    daemon = here.daemon()
    here.line.answers = {method: answer}
    await daemon.registry.start()
    assert await here.claimed()
    here.line.answers.clear()
    await create(here, daemon, force=True)
    await daemon.halt()


async def test_what_a_host_did_not_flush_is_forgotten_by_a_clean_halt(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    controller = await connected(here, daemon)
    assert [nqn for nqn, _ in daemon.record()["devices"][0]["hosts"]["connected"]] == [HOSTNQN]
    await daemon.halt()
    (record,) = daemon.record()["devices"]
    assert (record["state"], record["hosts"]["connected"]) == ("waiting", [])
    await controller.close()


async def test_a_host_that_can_not_be_remembered_is_not_let_in(monkeypatch: pytest.MonkeyPatch, here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        for _ in range(2):
            with pytest.raises(CommandError) as caught:
                await connected(here, daemon)
            assert not caught.value.do_not_retry
    controller = await connected(here, daemon)
    assert [nqn for nqn, _ in daemon.record()["devices"][0]["hosts"]["connected"]] == [HOSTNQN]
    await controller.close()
    await daemon.halt()


def no_space(_devices: object) -> None:
    raise FtlError("state directory can't be written: No space left on device", errno=28)


async def test_a_creation_that_can_not_be_remembered_is_undone(monkeypatch: pytest.MonkeyPatch, here: World) -> None:
    daemon = await here.start()
    here.line.hold("nvmf_subsystem_add_listener")
    creation = asyncio.ensure_future(create(here, daemon))
    await until(lambda: "nvmf_subsystem_add_listener" in here.line.called)
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        here.line.release()
        with pytest.raises(FtlError, match="No space left"):
            await creation
    assert await daemon.call("ftl_get_devices") == []
    assert await here.exports() == []
    await create(here, daemon, force=True)
    await daemon.halt()


async def test_a_device_whose_state_can_not_be_saved_waits_for_its_base_all_the_same(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        await here.remove_drive()
        await daemon.wait_for("waiting")
        await here.make_drive()
        await daemon.wait_for("online")
    await daemon.halt()


async def test_the_port_hosts_know_is_held_while_the_base_is_waited_for(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    export = (await daemon.device())["export"]
    await here.remove_drive()
    await daemon.wait_for("waiting")
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()

    async def tried(times: int) -> None:
        here.line.called.clear()
        await until(lambda: here.line.called.count("nvmf_get_transports") >= times)

    for _ in range(3):
        await tried(2)
        with pytest.raises(CommandError) as caught:
            await Controller.connect(export["traddr"], export["trsvcid"], export["subnqn"], hostnqn=HOSTNQN)
        assert not caught.value.do_not_retry
    await here.make_drive()
    assert (await daemon.wait_for("online"))["export"] == export
    controller = await connected(here, daemon)
    await controller.close()
    await daemon.halt()
    with pytest.raises(PathError):
        await Controller.connect(export["traddr"], export["trsvcid"], export["subnqn"], hostnqn=HOSTNQN)


async def test_a_port_that_is_held_is_free_again_when_the_device_is_deleted(here: World) -> None:
    daemon = await restarted(here)
    await here.remove_drive()
    port = int(daemon.record()["devices"][0]["export"][2])
    await daemon.registry.start()
    # Deferred it is from the start; the port is taken by the first try.
    await until(lambda: daemon.managed().front.tcp.address is not None)
    assert (await daemon.wait_for("deferred"))["state"] == "deferred"
    with pytest.raises(OSError):
        socket.create_server(("127.0.0.1", port)).close()
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    socket.create_server(("127.0.0.1", port)).close()
    await daemon.halt()


async def test_hosts_of_the_export_do_not_wait_until_the_target_takes_the_bdev_again(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    state = daemon.die()
    await daemon.halt(undo=True)
    daemon.put_back(state)
    here.line.refused.add("bdev_passthru_create")
    daemon = await here.start()
    assert (await daemon.wait_for("online"))["attached"] is False
    controller = await connected(here, daemon)
    here.line.refused.clear()
    await until(lambda: daemon.managed().attachment is not None)
    assert not controller.lost.is_set()
    await controller.close()
    assert (await here.rpc("bdev_get_bdevs", name="ftl0"))[0]["name"] == "ftl0"
    await daemon.halt()


async def test_no_delete_gets_in_the_way_of_a_halt(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    halt = asyncio.ensure_future(daemon.halt())
    await asyncio.sleep(0)
    with pytest.raises(FtlError, match="halting"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    await halt
    assert [record["name"] for record in daemon.record()["devices"]] == ["ftl0"]


async def test_a_device_that_is_deleted_as_it_loses_its_base_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    """The write buffer's lock is given back with the core."""
    daemon = await here.start()
    await create(here, daemon)
    letting_go, go_on = asyncio.Event(), asyncio.Event()
    disconnect = BaseLink.disconnect

    async def slow(link: BaseLink) -> None:
        letting_go.set()
        await go_on.wait()
        await disconnect(link)

    monkeypatch.setattr(BaseLink, "disconnect", slow)
    await here.remove_drive()
    await letting_go.wait()
    deletion = asyncio.ensure_future(daemon.call("bdev_ftl_delete", name="ftl0"))
    # Longer than end_tasks() waits until it cancels again.
    await asyncio.sleep(1.0)
    go_on.set()
    assert await deletion is True
    assert list((here.folder / "buffers").glob("*.lock")) == []
    await daemon.halt()


@pytest.mark.parametrize("how", ["halt", "delete"])
async def test_a_device_whose_daemon_is_killed_as_it_ends_comes_back(how: str, here: World) -> None:
    """Hosts leave in order while it ends, ftl0 of the target among them, and that is saved."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    here.line.hold("nvmf_subsystem_remove_ns")
    work = daemon.halt(undo=True) if how == "halt" else daemon.call("bdev_ftl_delete", name="ftl0")
    ending = asyncio.ensure_future(work)
    await until(lambda: "nvmf_subsystem_remove_ns" in here.line.called)
    state = daemon.die()
    here.line.release()
    await ending
    if how == "delete":
        assert daemon.record()["devices"] == []
        await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()
    await daemon.wait_for("online")
    await daemon.halt()


async def test_a_device_comes_back_at_its_address_though_another_is_the_default_now(here: World) -> None:
    daemon = here.daemon("127.0.0.2")
    await daemon.registry.start()
    await create(here, daemon)
    export = (await daemon.device())["export"]
    assert export["traddr"] == "127.0.0.2"
    await daemon.halt()
    daemon = here.daemon("127.0.0.1")
    await daemon.registry.start()
    assert (await daemon.wait_for("online"))["export"] == export
    await daemon.halt()


async def test_a_halt_that_is_not_clean_is_a_failure_that_is_told(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    here.line.refused |= UNDOING
    with pytest.raises(FtlError, match=r"ftl0.*nvmf_subsystem_remove_ns"):
        await daemon.halt(undo=True)
    daemon.state.close()
    assert [record["state"] for record in daemon.record()["devices"]] == ["online"]
    here.line.refused.clear()
    daemon = await here.start()
    await daemon.wait_for("online")
    await daemon.halt(undo=True)
    assert await here.exports() == []


async def test_a_delete_does_not_wait_for_a_target_that_stalls_unnoticed(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    here.line.called.clear()
    here.line.hold()
    with pytest.raises(FtlError, match="undo what the daemon made in the target"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    assert here.line.called == ["spdk_get_version"]
    here.line.release()
    await create(here, daemon, "ftl1", force=True)
    assert len(await here.exports()) == 1
    assert [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs")] == ["Nvme0n1"]
    await daemon.halt()


async def test_a_creation_that_a_halt_ends_in_front_of_a_target_that_stalls_is_undone_by_the_successor(
    here: World,
) -> None:
    daemon = await here.start()
    here.line.hold("nvmf_subsystem_add_listener")
    creation = asyncio.ensure_future(create(here, daemon))
    await until(lambda: "nvmf_subsystem_add_listener" in here.line.called)
    here.line.hold()
    await daemon.halt()
    with pytest.raises(FtlError, match="halting"):
        await creation
    assert await here.claimed()
    here.line.release()
    daemon = await here.start()
    assert await here.exports() == []
    assert daemon.record()["devices"] == []
    await daemon.halt()


async def test_a_load_that_can_not_save_whom_it_owes_an_alarm_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    controller = await connected(here, daemon)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    for file in (here.folder / "buffers").glob("*.wbuf"):
        file.unlink()
    device = daemon.managed()
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        await here.make_drive()
        await until(lambda: "No space left" in device.describe().get("waiting_for", "failed: No space left"))
        assert device.describe()["state"] == "waiting"
    await daemon.wait_for("online")
    assert [nqn for nqn, _ in daemon.record()["devices"][0]["hosts"]["owed"]] == [HOSTNQN]
    await controller.close()
    await daemon.halt()


async def test_a_setting_that_is_given_at_a_load_counts_also_where_it_is_the_default(here: World) -> None:
    daemon = await here.start()
    created = await create(here, daemon, conf={"invalid_thld": 11, "max_io_channels": 7}, overprovisioning=30)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with pytest.raises(FtlError, match="lba_rsvd = 20: the FTL was created with 30"):
        await create(here, daemon, uuid=created["uuid"], overprovisioning=20)
    await create(here, daemon, uuid=created["uuid"], conf={"invalid_thld": 10})
    ftl = daemon.managed().ftl
    assert ftl is not None
    assert (ftl.conf.invalid_thld, ftl.conf.lba_rsvd, ftl.conf.max_io_channels) == (10, 30, 7)
    front = daemon.managed().front
    assert front._subsystem is not None
    assert front._subsystem.max_io_qpairs == 7
    await daemon.halt()


async def test_defaults_that_an_older_daemon_filled_in_are_not_taken_for_given(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, overprovisioning=30)
    await daemon.halt()
    state = daemon.record()
    for record in state["devices"]:
        del record["params_are_as_given"]
        record["params"] |= {"overprovisioning": 20, "use_append": False}
    daemon.put_back(json.dumps(state).encode())
    daemon = await here.start()
    await daemon.wait_for("online")
    await daemon.halt()


@pytest.mark.parametrize("state", ["waiting", "deferred"])
async def test_a_delete_that_would_lose_what_hosts_were_told_is_written_is_refused(state: str, here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await write(here, daemon, 5)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    if state == "deferred":
        await daemon.halt()
        daemon = await here.start()
        await daemon.wait_for("deferred")
    with pytest.raises(
        BusyError,
        match=rf"is {state}: acknowledged writes may be only in its write buffer file, 5 blocks in .*{uuid}\.\d+\.wbuf,"
        " and can't be made durable now.*--force",
    ):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    assert (await daemon.device())["state"] == state
    told = await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    assert "5 blocks in" in told
    assert f"-u {uuid}" in told
    assert await daemon.call("ftl_get_devices") == []
    # And they are kept, as it says.
    await here.make_drive()
    await create(here, daemon, uuid=uuid)
    assert await read(here, daemon, 5) == [1, 2, 3, 4, 5]
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    await daemon.halt()


async def test_a_delete_that_loses_nothing_needs_no_force(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    await here.make_drive()
    uuid = (await create(here, daemon, force=True))["uuid"]
    await write(here, daemon, 5)
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    assert list((here.folder / "buffers").glob(f"{uuid}.*")) == []
    await daemon.halt()


async def test_a_delete_whose_end_could_not_be_saved_is_not_begun(monkeypatch: pytest.MonkeyPatch, here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    (here.folder / "state" / "reserve").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", no_room)
        for name, params in (("bdev_ftl_delete", {}), ("bdev_ftl_create", {"base_bdev": "M0", "target": "/t.sock"})):
            with pytest.raises(FtlError, match="No space left on device; nothing was done"):
                await daemon.call(name, name="ftl0", **params)
    assert (await daemon.device())["state"] == "online"
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    await daemon.halt()


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_what_is_deleted_in_a_directory_that_fills_up_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    replace = daemon.state._replace

    def full(raw: bytes) -> None:
        if (here.folder / "state" / "reserve").exists():
            no_room()
        replace(raw)

    monkeypatch.setattr(daemon.state, "_replace", full)
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)
    daemon = await here.start()
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


async def test_a_deletion_that_can_not_be_saved_is_told_and_saved_as_soon_as_it_can(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        with pytest.raises(FtlError, match=r"is deleted, but .*the daemon keeps trying\): .*No space left"):
            await daemon.call("bdev_ftl_delete", name="ftl0")
        assert len(daemon.record()["devices"]) == 1
    await until(lambda: daemon.record()["devices"] == [])
    await daemon.halt()


async def test_a_creation_that_fails_tells_why_though_that_can_not_be_saved(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    daemon = await here.start()
    here.line.hold("bdev_get_bdevs")
    creation = asyncio.ensure_future(create(here, daemon, uuid="b286d19a-0059-4709-abcd-9f7732b1567d"))
    await until(lambda: "bdev_get_bdevs" in here.line.called)
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        here.line.release()
        with pytest.raises(FtlError, match="holds no FTL"):
            await creation
        assert [record["loads"] for record in daemon.record()["devices"]] == [True]
    await until(lambda: daemon.record()["devices"] == [])
    await daemon.halt()


async def test_a_deferred_creation_that_can_not_be_remembered_is_none(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    daemon = await here.start()
    here.line.hold("bdev_get_bdevs")
    creation = asyncio.ensure_future(create(here, daemon, base_bdev="Nvme1n1"))
    await until(lambda: "bdev_get_bdevs" in here.line.called)
    with monkeypatch.context() as patched:
        patched.setattr(daemon.state, "save", no_space)
        here.line.release()
        with pytest.raises(FtlError, match="No space left"):
            await creation
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


async def test_what_is_done_to_an_ftl_is_one_line_that_says_who_asked_for_it(
    caplog: pytest.LogCaptureFixture, here: World
) -> None:
    caplog.set_level(logging.INFO)

    def told(what: str) -> None:
        where = f"on Nvme0n1 of the target at {here.line.path}"
        lines = [record.getMessage() for record in caplog.records if what in record.getMessage()]
        assert len(lines) == 1, caplog.text
        assert f"ftl0 (uuid {uuid}, {where}): {what}" in lines[0]
        caplog.clear()

    daemon = await here.start()
    with asked_for_by("pid 7 (spdk-rpc), uid 3"):
        uuid = (await create(here, daemon))["uuid"]
        told("created, asked for by pid 7 (spdk-rpc), uid 3")
        await daemon.call("bdev_ftl_delete", name="ftl0")
        told("deleted, asked for by pid 7 (spdk-rpc), uid 3")
        await create(here, daemon, uuid=uuid)
        told("loaded, asked for by pid 7 (spdk-rpc), uid 3")
    await here.remove_drive()
    await daemon.wait_for("waiting")
    told("waiting for its base")
    await here.make_drive()
    await daemon.wait_for("online")
    told("the base is back; the daemon loaded the FTL")
    with asked_for_by("SIGTERM"):
        await daemon.halt()
    told("halted; its bdev and claims stay for the next daemon, asked for by SIGTERM")
    daemon = await here.start()
    await daemon.wait_for("online")
    await until(lambda: "loaded" in caplog.text)
    told("loaded, asked for by the daemon itself")
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with asked_for_by("pid 8, uid 0"):
        await create(here, daemon, uuid=uuid)
        caplog.clear()
    await here.make_drive()
    await daemon.wait_for("online")
    await until(lambda: "loaded" in caplog.text)
    told("loaded, asked for by pid 8, uid 0")
    await daemon.halt()


async def test_write_buffers_that_nobody_needs_are_told_and_removed_on_order(here: World) -> None:
    async def unneeded(daemon: Daemon) -> list[tuple[str, int]]:
        told = (await daemon.call("ftl_get_daemon"))["unneeded_buffers"]
        return [(each["uuid"], each["held_blocks"]) for each in told]

    def files() -> list[str]:
        return sorted(path.name for path in (here.folder / "buffers").iterdir() if path.suffix == ".wbuf")

    empty = "b286d19a-0059-4709-abcd-9f7732b1567d"
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await write(here, daemon, 5)
    assert await unneeded(daemon) == []
    with pytest.raises(BusyError, match=r"FTL bdev ftl0 \(online\) needs it"):
        await daemon.call("ftl_remove_buffers", uuid=uuid, force=True)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    assert await unneeded(daemon) == []
    with pytest.raises(BusyError, match=r"FTL bdev ftl0 \(waiting\) needs it"):
        await daemon.call("ftl_remove_buffers", uuid=uuid, force=True)
    assert await daemon.call("ftl_remove_buffers", force=True) == {"removed": []}
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    (held,) = files()
    (here.folder / "buffers" / f"{empty}.7.wbuf").write_bytes(b"no buffer")
    (here.folder / "buffers" / "notes").write_text("somebody else's")
    assert await unneeded(daemon) == sorted([(uuid, 5), (empty, 0)])
    for params in ({}, {"uuid": uuid}):
        with pytest.raises(
            BusyError,
            match=rf"acknowledged writes may be only in these files, 5 blocks in .*{held}.*nothing was removed",
        ):
            await daemon.call("ftl_remove_buffers", **params)
    assert files() == sorted([held, f"{empty}.7.wbuf"])
    assert [each["uuid"] for each in (await daemon.call("ftl_remove_buffers", uuid=empty))["removed"]] == [empty]
    with pytest.raises(NotFoundError, match="there is none in"):
        await daemon.call("ftl_remove_buffers", uuid=empty)
    removed = (await daemon.call("ftl_remove_buffers", force=True))["removed"]
    assert [(each["path"].rpartition("/")[2], each["held_blocks"]) for each in removed] == [(held, 5)]
    assert [path.name for path in (here.folder / "buffers").iterdir()] == ["notes"]
    await daemon.halt()


async def test_a_write_buffer_that_another_process_uses_is_not_unneeded(here: World) -> None:
    daemon = await here.start()
    uuid = "b286d19a-0059-4709-abcd-9f7732b1567d"
    (here.folder / "buffers" / f"{uuid}.7.wbuf").write_bytes(b"")
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(here.folder / "buffers" / f"{uuid}.lock"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert other.stdout is not None
    await other.stdout.readline()
    assert (await daemon.call("ftl_get_daemon"))["unneeded_buffers"] == []
    with pytest.raises(BusyError, match="another process serves that FTL"):
        await daemon.call("ftl_remove_buffers", uuid=uuid)
    await other.communicate(b"\n")
    assert len((await daemon.call("ftl_get_daemon"))["unneeded_buffers"]) == 1
    await daemon.call("ftl_remove_buffers")
    await daemon.halt()


async def test_a_creation_reads_the_zone_report_of_its_base_once(monkeypatch: pytest.MonkeyPatch, here: World) -> None:
    zones, reports = BlockPort.zones, list[str]()

    async def counted(self: BlockPort, progress: Callable[[float], None] | None = None) -> list[Zone]:
        reports.append(self.name)
        return await zones(self, progress)

    monkeypatch.setattr(BlockPort, "zones", counted)
    daemon = await here.start()
    await create(here, daemon)
    assert reports == ["Nvme0n1"]
    await daemon.halt(undo=True)

"""Who may connect to an FTL: the target itself, whom its user allows, and what becomes of that over restarts, upgrades
and attacks."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py.daemon.device import ManagedDevice
from spdk_ftl_py.errors import BusyError, ExistsError, FtlError, MediaError, NotFoundError, ParameterError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.connected_hosts import IDENTIFIERS_MAX, HostKey
from spdk_ftl_py.nvme.target.peers import PeerLimits
from spdk_ftl_py.nvme.wire import CommandError, Status
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.target.nvme_bdev import AttachedController
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, create
from unit.nvme.nvme_loop import WAIT_S, At, until

OTHER = "nqn.2026-11.io.example:other"


def device_of(daemon: Daemon) -> ManagedDevice:
    return daemon.managed()


async def connect(daemon: Daemon, hostnqn: str, hostid: int = 7) -> Controller:
    export = (await daemon.device())["export"]
    where = (export["traddr"], export["trsvcid"], export["subnqn"])
    return await Controller.connect(*where, hostnqn=hostnqn, hostid=UUID(int=hostid))


async def get_in(daemon: Daemon, hostnqn: str) -> None:
    await (await connect(daemon, hostnqn)).close()


async def refused(daemon: Daemon, hostnqn: str) -> None:
    with pytest.raises(CommandError) as caught:
        await connect(daemon, hostnqn)
    assert (caught.value.status, caught.value.do_not_retry) == (Status.CONNECT_INVALID_HOST, False)


async def attached_as(here: World) -> str:
    (controller,) = [each for each in await here.rpc("bdev_nvme_get_controllers") if each["name"].startswith("ftl0-")]
    return str(controller["ctrlrs"][0]["host"]["nqn"])


async def bdev_is_there(here: World) -> bool:
    return "ftl0" in [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs")]


def nqns(told: dict[str, Any]) -> list[str]:
    return [host["nqn"] for host in told["hosts"]]


async def killed(daemon: Daemon) -> None:
    """What its successor finds is what it would find of one that was killed."""
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)


async def test_only_the_target_itself_may_connect_by_default(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False, hosts=[])
    assert await bdev_is_there(here)
    told = await daemon.device()
    (target,) = told["hosts"]
    assert (target["nqn"], target["is_target"], told["allow_any_host"]) == (await attached_as(here), True, False)
    for stranger in (HOSTNQN, daemon.registry._identity.hostnqn, target["nqn"].rpartition(":")[0] + ":x"):
        await refused(daemon, stranger)
    # Not to be guessed from what is known of the FTL, and of this FTL alone.
    uuid = UUID(target["nqn"].rpartition(":")[2])
    assert (uuid.version, str(uuid) != told["uuid"]) == (4, True)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, no_attach=False, hosts=[], force=True)
    assert nqns(await daemon.device()) != [target["nqn"]]
    await daemon.halt()


async def test_without_the_target_nobody_may_connect_but_whom_the_user_names(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, hosts=[])
    assert nqns(await daemon.device()) == []
    await refused(daemon, HOSTNQN)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, hosts=[HOSTNQN, OTHER], force=True)
    await get_in(daemon, HOSTNQN)
    await get_in(daemon, OTHER)
    await refused(daemon, OTHER + "2")
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, hosts=[], allow_any_host=True, force=True)
    await get_in(daemon, OTHER + "2")
    await daemon.halt()


@pytest.mark.parametrize("restarted", [False, True])
async def test_strangers_that_take_all_places_do_not_keep_the_target_out(
    here: World, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them come from the address that the target comes from, while it is away."""
    may_come = asyncio.Event()
    may_come.set()
    connect_target = AttachedController.connect

    async def connect_later(attached: AttachedController) -> Controller:
        await may_come.wait()
        return await connect_target(attached)

    monkeypatch.setattr(AttachedController, "connect", connect_later)
    limits = PeerLimits(
        half_open_per_address=4, controllers_per_address=3, controllers_per_host=2,
        io_queues_per_host_percent=100, io_queues_per_address_percent=100,
    )  # fmt: skip
    daemon = await here.start(limits)
    await create(here, daemon, no_attach=False, hosts=[], allow_any_host=True, conf={"max_io_channels": 2})
    target = await attached_as(here)
    if restarted:
        await killed(daemon)
        daemon = await here.start(limits)
        await daemon.wait_for("online")
    front = device_of(daemon).front
    subsystem = front._subsystem
    assert subsystem is not None

    def of_target() -> list[int]:
        """I/O queues of each of its controllers."""
        return [len(each.io_queues.qpairs) for each in subsystem.controllers.values() if each.hostnqn == target]

    await until(lambda: of_target() == [1])
    async with ReactorLoop("stranger", spin_us=0) as reactor:
        strangers = [await connect(daemon, f"{OTHER}{number}") for number in range(3)]
        (namespace,) = await strangers[0].namespaces()
        may_come.clear()
        await subsystem.disconnect(lambda controller: controller.hostnqn == target)
        for stranger in strangers[:2]:
            await stranger.create_io_qpair(reactor, namespace)
        for taking in (connect(daemon, OTHER), strangers[2].create_io_qpair(reactor, namespace)):
            with pytest.raises(CommandError) as busy:
                await taking
            assert busy.value.status == Status.CONNECT_CONTROLLER_BUSY
        told = await daemon.call("bdev_ftl_get_hosts", name="ftl0")
        assert [each["reason"].partition(";")[0] for each in told["refused"]] == [
            "too many controllers",
            "too many I/O queues",
        ]
        export = (await daemon.device())["export"]
        silent = [socket.create_connection((export["traddr"], int(export["trsvcid"]))) for _ in range(4)]
        may_come.set()
        await until(lambda: of_target() == [1])
        for sock in silent:
            sock.close()
        for stranger in strangers:
            await stranger.close()
    await daemon.halt()


@pytest.mark.parametrize(
    ("hosts", "error"), [(["nqn.2026:x"], ParameterError), ([HOSTNQN, HOSTNQN], ExistsError)], ids=["no NQN", "twice"]
)
async def test_hosts_that_are_none_are_refused_before_anything_is_done(
    hosts: list[str], error: type[FtlError], here: World
) -> None:
    daemon = await here.start()
    here.line.called.clear()
    with pytest.raises(error):
        await create(here, daemon, hosts=hosts)
    assert (here.line.called, await daemon.call("ftl_get_devices")) == ([], [])
    await daemon.halt()


async def test_hosts_come_and_go_while_it_runs_and_the_list_outlives_the_daemon(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False, hosts=[HOSTNQN])
    target = await attached_as(here)
    stays = await connect(daemon, HOSTNQN)
    await refused(daemon, OTHER)
    assert await daemon.call("bdev_ftl_add_host", name="ftl0", host=OTHER) is True
    leaves = await connect(daemon, OTHER)
    await killed(daemon)
    daemon = await here.start()
    assert nqns(await daemon.wait_for("online")) == [target, HOSTNQN, OTHER]
    await stays.close()
    await leaves.close()
    stays, leaves = await connect(daemon, HOSTNQN), await connect(daemon, OTHER)
    assert await daemon.call("bdev_ftl_remove_host", name="ftl0", host=OTHER) is True
    await asyncio.wait_for(leaves.lost.wait(), WAIT_S)
    assert {host.hostnqn for host in device_of(daemon).front.present} <= {target, HOSTNQN}
    await refused(daemon, OTHER)
    await daemon.call("bdev_ftl_allow_any_host", name="ftl0", allow_any_host=True)
    await leaves.close()
    leaves = await connect(daemon, OTHER)
    await daemon.halt()
    daemon = await here.start()
    told = await daemon.wait_for("online")
    assert (nqns(told), told["allow_any_host"]) == ([target, HOSTNQN], True)
    await stays.close()
    await leaves.close()
    stays, leaves = await connect(daemon, HOSTNQN), await connect(daemon, OTHER)
    # With any host allowed, to be taken off the list changes nothing.
    await daemon.call("bdev_ftl_remove_host", name="ftl0", host=HOSTNQN)
    assert not stays.lost.is_set()
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN)
    await daemon.call("bdev_ftl_allow_any_host", name="ftl0", allow_any_host=False)
    await asyncio.wait_for(leaves.lost.wait(), WAIT_S)
    assert not stays.lost.is_set()
    # The target has been there all the time, as the same host.
    assert await attached_as(here) == target
    assert await bdev_is_there(here)
    await stays.close()
    await leaves.close()
    await daemon.halt()


async def test_the_list_is_kept_while_the_base_is_away(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=OTHER)
    await daemon.call("bdev_ftl_remove_host", name="ftl0", host=HOSTNQN)
    await killed(daemon)
    daemon = await here.start()
    await daemon.wait_for("deferred")
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=HOSTNQN + "2")
    await here.make_drive()
    assert nqns(await daemon.wait_for("online")) == [OTHER, HOSTNQN + "2"]
    await refused(daemon, HOSTNQN)
    await get_in(daemon, HOSTNQN + "2")
    await daemon.halt()


async def test_what_can_not_be_done_changes_nothing(monkeypatch: pytest.MonkeyPatch, here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    target = await attached_as(here)
    host = await connect(daemon, HOSTNQN)

    async def failing(error: type[FtlError], match: str, method: str, **params: object) -> None:
        with pytest.raises(error, match=match):
            await daemon.call(method, name="ftl0", **params)

    await failing(ExistsError, "already allowed", "bdev_ftl_add_host", host=HOSTNQN)
    await failing(ParameterError, "not of the form", "bdev_ftl_add_host", host="nqn.2026:x")
    await failing(NotFoundError, "not in the list", "bdev_ftl_remove_host", host=OTHER)
    await failing(BusyError, "is the SPDK target at .* itself", "bdev_ftl_remove_host", host=target)
    with monkeypatch.context() as patched:

        def no_space(_devices: object) -> None:
            raise FtlError("No space left on device")

        patched.setattr(daemon.state, "save", no_space)
        await failing(FtlError, "No space", "bdev_ftl_add_host", host=OTHER)
        await failing(FtlError, "No space", "bdev_ftl_remove_host", host=HOSTNQN)
        await failing(FtlError, "No space", "bdev_ftl_allow_any_host", allow_any_host=True)
    told = await daemon.device()
    assert (sorted(nqns(told)), told["allow_any_host"]) == (sorted([target, HOSTNQN]), False)
    assert not host.lost.is_set()
    await refused(daemon, OTHER)
    await host.close()
    await daemon.halt()
    await failing(FtlError, "is halting", "bdev_ftl_add_host", host=OTHER)


async def test_hosts_are_told_of_with_what_they_do(here: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    daemon = await here.start()
    await create(here, daemon)
    await refused(daemon, OTHER)
    assert f"ftl0: host {OTHER} at 127.0.0.1" in caplog.text
    assert f"; `spdk-ftl add-host -b ftl0 --host '{OTHER}'` allows it" in caplog.text
    host = await connect(daemon, HOSTNQN)
    told = await daemon.call("bdev_ftl_get_hosts", name="ftl0")
    assert json.loads(json.dumps(told)) == told
    (controller,) = told["controllers"]
    assert (controller["hostnqn"], controller["hostid"]) == (HOSTNQN, str(UUID(int=7)))
    assert [(each["hostnqn"], each["count"]) for each in told["refused"]] == [(OTHER, 1)]
    assert (told["allow_any_host"], nqns(told)) == (False, [HOSTNQN])
    await host.close()
    await until(lambda: bool(device_of(daemon).admission.connections.disconnected))
    told = await daemon.call("bdev_ftl_get_hosts", name="ftl0")
    assert [each["hostnqn"] for each in told["disconnected"]] == [HOSTNQN]
    await daemon.halt()


# --- upgrades ---------------------------------------------------------------------------------------------------------


def forget_the_list(daemon: Daemon) -> None:
    """As a daemon that let every host in has left it."""
    state = daemon.record()
    for record in state["devices"]:
        del record["allowed"]
    daemon.put_back(json.dumps(state).encode())


async def test_after_an_upgrade_the_target_keeps_its_connection_and_others_are_told_of(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=False, hosts=[OTHER])
    target = await attached_as(here)
    host = await connect(daemon, OTHER)
    await killed_without_undoing(daemon)
    forget_the_list(daemon)
    here.line.called.clear()
    daemon = await here.start()
    told = await daemon.wait_for("online")
    # As the host which the target was: that of its own choice, in an older release.
    assert told["hosts"] == [{"nqn": target, "is_target": True}]
    await until(lambda: device_of(daemon).attachment is not None)
    assert "bdev_nvme_attach_controller" not in here.line.called
    await until(lambda: target in {each.hostnqn for each in device_of(daemon).front.present})
    await refused(daemon, OTHER)
    (warning,) = [line for line in caplog.text.splitlines() if "let any host connect" in line]
    for part in ("now only the target itself may", "`spdk-ftl add-host -b ftl0 --host NQN`", OTHER):
        assert part in warning
    await daemon.call("bdev_ftl_add_host", name="ftl0", host=OTHER)
    await get_in(daemon, OTHER)
    caplog.clear()
    await host.close()
    await daemon.halt()
    daemon = await here.start()
    await daemon.wait_for("online")
    assert "let any host connect" not in caplog.text
    await daemon.halt()


async def killed_without_undoing(daemon: Daemon) -> None:
    """What stands in the target stays."""
    state = daemon.die()
    await daemon.halt()
    daemon.put_back(state)


async def test_after_an_upgrade_nobody_may_connect_to_what_is_only_exported(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    host = await connect(daemon, HOSTNQN)
    await killed(daemon)
    forget_the_list(daemon)
    daemon = await here.start()
    assert nqns(await daemon.wait_for("online")) == []
    await refused(daemon, HOSTNQN)
    (warning,) = [line for line in caplog.text.splitlines() if "let any host connect" in line]
    assert "now no host may" in warning
    assert HOSTNQN in warning
    await host.close()
    await daemon.halt()


async def test_a_controller_that_stands_for_another_host_is_made_anew(here: World) -> None:
    """Somebody attached it by hand: under that name it would never be let in."""
    daemon = await here.start()
    await create(here, daemon, no_attach=False)
    target = await attached_as(here)
    await killed_without_undoing(daemon)
    state = daemon.record()
    state["devices"][0]["allowed"]["hosts"][0] = {"nqn": OTHER, "is_target": True}
    daemon.put_back(json.dumps(state).encode())
    daemon = await here.start()
    await daemon.wait_for("online")
    await until(lambda: device_of(daemon).attachment is not None)
    assert (await attached_as(here), target != OTHER) == (OTHER, True)
    assert await bdev_is_there(here)
    await daemon.halt()


# --- who is owed an alarm ---------------------------------------------------------------------------------------------


async def forge(daemon: Daemon, host: HostKey) -> int:
    """A host connects and breaks off; the status of its Connect."""
    export = (await daemon.device())["export"]
    raw = await At(int(export["trsvcid"]), export["traddr"]).raw()
    await raw.initialize()
    status = (await raw.connect(subnqn=export["subnqn"], hostnqn=host.hostnqn, hostid=host.hostid)).status
    raw.close()
    return status


async def test_a_host_is_owed_the_alarm_however_many_identities_somebody_forges(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    """1,030 of them once made the daemon forget it: after a crash its Flush said success, and 64 acknowledged writes
    were gone."""
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    async with ReactorLoop("host", spin_us=0) as reactor:
        host = await connect(daemon, HOSTNQN)
        (namespace,) = await host.namespaces()
        port = BlockPort(reactor, await host.create_io_qpair(reactor, namespace), name="host")
        for lba in range(64):
            await port.write(lba, bytes([lba + 1]) * 4096)
        # Nobody makes room meanwhile: the base is too slow, say.
        device_of(daemon).hosts.gone = lambda present: {}  # type: ignore[method-assign,assignment]
        answers: Counter[int] = Counter()
        with monkeypatch.context() as patched:
            patched.setattr(daemon.state, "save", lambda _devices: None)  # a file for each takes its time
            for number in range(1030):
                forged = HostKey(f"nqn.2026-11.io.example:forged{number}", UUID(int=number).bytes)
                answers[await forge(daemon, forged)] += 1
        await here.remove_drive()
        await daemon.wait_for("waiting")
        for file in (here.folder / "buffers").glob("*.wbuf"):
            file.unlink()
        await here.make_drive()
        await daemon.wait_for("online")
        await port.close()
        await host.close()
        host = await connect(daemon, HOSTNQN)
        port = BlockPort(reactor, await host.create_io_qpair(reactor, namespace), name="host", patience_s=0)
        with pytest.raises(MediaError) as caught:
            await port.flush()
        assert caught.value.status == Status.WRITE_FAULT
        assert answers == {0: 1023, Status.CONNECT_CONTROLLER_BUSY: 7}
        await port.flush()
        await port.close()
        await host.close()
    await daemon.halt()


async def test_hosts_that_are_gone_make_room_once_all_they_wrote_is_durable(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = device_of(daemon)
    present = await connect(daemon, HOSTNQN, 1000)
    # With it just so many that there is to be room: of what comes later nobody is to be forgotten.
    for number in range(IDENTIFIERS_MAX // 2 - 1):
        assert await forge(daemon, HostKey(HOSTNQN, UUID(int=number).bytes)) == 0
    await until(lambda: len(device.front.present) == 1)
    assert device.ftl is not None
    flushes = device.ftl.core.stats().base_flushes
    await until(lambda: [host.hostid for host in device.hosts.hosts] == [UUID(int=1000).bytes])
    assert device.ftl.core.stats().base_flushes > flushes
    assert [bytes.fromhex(hostid) for _, hostid in daemon.record()["devices"][0]["hosts"]["connected"]] == [
        UUID(int=1000).bytes
    ]
    await present.close()
    await daemon.halt()


async def test_hosts_whose_writes_can_not_be_made_durable_are_not_forgotten(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    device = device_of(daemon)
    assert device.ftl is not None
    tried = 0

    async def fail() -> int:
        nonlocal tried
        tried += 1
        return Status.INTERNAL_ERROR

    drain, device.ftl._drains.drain = device.ftl._drains.drain, fail  # type: ignore[method-assign]
    for number in range(IDENTIFIERS_MAX // 2):
        assert await forge(daemon, HostKey(HOSTNQN, UUID(int=number).bytes)) == 0
    await until(lambda: tried > 1)
    assert len(device.hosts.hosts) == IDENTIFIERS_MAX // 2
    device.ftl._drains.drain = drain  # type: ignore[method-assign]
    await until(lambda: not device.hosts.hosts)
    await daemon.halt()


async def test_what_a_forgotten_host_wrote_outlives_the_write_buffer_and_the_power(here: World) -> None:
    """It gets no alarm any more, so nothing of it may be lost."""
    daemon = await here.start()
    # With as large a write buffer as that the base is not flushed for the sake of 64 blocks.
    await create(here, daemon, num_punits=4, overprovisioning=40)
    device = device_of(daemon)
    async with ReactorLoop("host", spin_us=0) as reactor:
        host = await connect(daemon, HOSTNQN, 5000)
        (namespace,) = await host.namespaces()
        port = BlockPort(reactor, await host.create_io_qpair(reactor, namespace), name="host")
        # What is flushed when the first band is opened shall not be what makes the others durable.
        await port.write(64, bytes(4096))
        await port.flush()
        for lba in range(64):
            await port.write(lba, bytes([lba + 1]) * 4096)
        await device.front.disconnect_hosts()
        await port.close()
        await host.close()
        for number in range(IDENTIFIERS_MAX // 2 - 1):
            assert await forge(daemon, HostKey(HOSTNQN, UUID(int=number).bytes)) == 0
        await until(lambda: not device.hosts.hosts)
        for file in (here.folder / "buffers").glob("*.wbuf"):
            file.unlink()
        await here.rpc("ftltgt_power_cut", name="Nvme0n1")
        await here.remove_drive()
        await daemon.wait_for("waiting")
        await here.make_drive()
        await daemon.wait_for("online")
        assert device.ftl is not None
        assert (device.ftl.restored or {}).get("lossy")
        assert device.hosts.owed == []
        host = await connect(daemon, HOSTNQN, 5000)
        port = BlockPort(reactor, await host.create_io_qpair(reactor, namespace), name="host")
        assert [int(block[0]) for block in await port.read(0, 64)] == list(range(1, 65))
        await port.flush()
        await port.close()
        await host.close()
    await daemon.halt()

"""Reservations of an FTL: they outlive the daemon, and nobody locks the target out."""

from __future__ import annotations

from pathlib import Path

import pytest

from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.wire import Status
from unit.daemon.registry_rig import Daemon, World, create
from unit.nvme.nvme_loop import At, until
from unit.nvme.target.reserving_host import Host

PERSIST = 3 << 30
CONFLICT = Status.RESERVATION_CONFLICT


async def host(daemon: Daemon, number: int) -> Host:
    export = (await daemon.device())["export"]
    return Host(At(int(export["trsvcid"])), number, subnqn=export["subnqn"])


def file_of(here: World, daemon: Daemon) -> Path:
    return here.folder / "state" / "reservations" / f"{daemon.managed().uuid}.json"


async def test_a_reservation_that_persists_outlives_a_killed_daemon(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    async with await host(daemon, 1) as one, await host(daemon, 2) as two:
        assert await one.register(flags=PERSIST) == await one.acquire(2) == 0
        assert await two.may() == (False, False)
        told = (await daemon.call("bdev_ftl_get_hosts", name="ftl0"))["reservation"]
        assert (told["type"], told["persistent"], told["generation"]) == ("exclusive_access", True, 1)
        (registrant,) = told["registrants"]
        assert (registrant["hostnqn"], registrant["key"], registrant["holder"]) == (one.nqn, hex(one.key), True)
        # What a kill -9 leaves is what is in the files now.
        file = file_of(here, daemon)
        state, kept = daemon.die(), file.read_bytes()
    await daemon.halt()
    daemon.put_back(state)
    assert file.read_bytes() == kept
    daemon = await here.start()
    await daemon.wait_for("online")
    async with await host(daemon, 1) as one, await host(daemon, 2) as two:
        assert await two.may() == (False, False)
        assert await one.may() == (True, True)
        assert await one.release(2) == 0
        assert await two.may() == (True, True)
    await daemon.halt()


async def test_a_reservation_without_persistence_ends_with_the_daemon(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    async with await host(daemon, 1) as one:
        assert await one.register() == await one.acquire(2) == 0
    await daemon.halt()
    daemon = await here.start()
    await daemon.wait_for("online")
    async with await host(daemon, 2) as two:
        assert await two.may() == (True, True)
    await daemon.halt()


async def test_a_deleted_ftl_comes_back_without_its_reservation(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    uuid = daemon.managed().uuid
    async with await host(daemon, 1) as one:
        assert await one.register(flags=PERSIST) == await one.acquire(2) == 0
    file = file_of(here, daemon)
    left = file.read_bytes()
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert not file.exists()
    # Nor does a file of a deletion that a crash has interrupted.
    file.write_bytes(left)
    file.chmod(0o600)
    await create(here, daemon, allow_any_host=True, uuid=str(uuid))
    assert not file.exists()
    async with await host(daemon, 2) as two:
        assert await two.may() == (True, True)
    await daemon.halt()


async def test_an_ftl_whose_reservation_is_damaged_waits_for_its_user(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    async with await host(daemon, 1) as one:
        assert await one.register(flags=PERSIST) == await one.acquire(2) == 0
    file = file_of(here, daemon)
    await daemon.halt()
    kept = file.read_bytes()
    file.write_bytes(kept[: len(kept) // 2])
    daemon = await here.start()
    await until(lambda: str(file) in daemon.managed().waits_for)
    assert daemon.managed().state.value != "online"
    file.write_bytes(kept)
    await daemon.wait_for("online")
    async with await host(daemon, 2) as two:
        assert await two.may() == (False, False)
    await daemon.halt()


async def test_no_host_locks_the_target_out_of_its_bdev(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True, no_attach=False)
    bdev = here.target.bdevs.find("ftl0")
    assert bdev is not None
    port = BlockPort(here.target.reactor, bdev.device, name="user of ftl0", patience_s=0)
    async with await host(daemon, 1) as one, await host(daemon, 2) as two:
        assert await one.register() == 0
        for kind in (1, 2):
            assert await one.acquire(kind) == CONFLICT
        for kind in (3, 4, 5, 6):
            assert await one.acquire(kind) == 0
            await port.write(0, bytes([kind]) * 4096)
            await port.flush()
            assert (await port.read(0, 1))[0][0] == kind
            assert (await two.may())[1] is False
            assert await one.release(kind) == 0
    await port.close()
    await daemon.halt()


async def test_a_reservation_that_can_not_be_removed_is_told(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, allow_any_host=True)
    async with await host(daemon, 1) as one:
        assert await one.register(flags=PERSIST) == 0
    file = file_of(here, daemon)
    file.unlink()
    file.mkdir()
    with pytest.raises(FtlError, match="remove its reservation"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    file.rmdir()
    await daemon.halt()

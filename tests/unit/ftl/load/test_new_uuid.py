"""A copy of a base that gets a uuid of its own: nothing of its data changes, the original stays what it is, and
wherever power fails the copy is one or the other."""

from __future__ import annotations

import contextlib
import itertools
from copy import deepcopy
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError, MediaError, NotFoundError
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.load.new_uuid import Renumbered, set_uuid
from spdk_ftl_py.ftl.media import superblock
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import SUPERBLOCK_ZONES
from spdk_ftl_py.ftl.media.layout import HIDDEN_UUID_VERSION, SUPERBLOCK
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.grow_rig import END, ZONES, GrowRig, grow_rig
from unit.ftl.load.restore_rig import ZONE_SIZE
from unit.shim.ftl.core_bench import BLOCK

NEW = UUID(int=0xC0B1)
BOTH = pytest.mark.parametrize("emulated", [False, True])


async def renumber(rig: GrowRig, uuid: UUID, new: UUID, *, force: bool = False) -> Renumbered:
    port = BlockPort(rig.reactor, rig.based(), name="Copy0", patience_s=0)
    try:
        return await set_uuid(port, uuid, new, force=force)
    finally:
        await port.close()


async def uuid_on(rig: GrowRig) -> UUID | None:
    port = BlockPort(rig.reactor, rig.based(), name="base")
    found = await superblock.find(port, await port.zones())
    await port.close()
    return None if found is None else found.superblock.uuid


@BOTH
async def test_the_copy_is_loaded_by_its_own_uuid_and_has_all_its_data(emulated: bool, reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=emulated) as rig:
        await rig.create()
        await rig.traffic(2000)
        before, old = await rig.versions(), rig.device.uuid
        await rig.halt()
        assert (await renumber(rig, old, NEW)).changed
        assert not (await renumber(rig, old, NEW)).changed, "run twice it is done already"
        with pytest.raises(NotFoundError, match=f"holds FTL 'ftl0' with uuid {NEW}: give that uuid to load it"):
            await rig.load(uuid=old)
        await rig.load(uuid=NEW)
        assert rig.device.uuid == NEW
        assert await rig.versions() == before
        # Over what it had, with garbage collection, and what is written in this life beside that of the lives before.
        await rig.traffic(6000)
        assert rig.device.core.stats().zone_resets > 0
        await rig.flush()
        before = await rig.versions()
        await rig.crash()
        await rig.load()
        assert await rig.check("after a crash of the copy") == before
        await rig.traffic(100)
        before = await rig.versions()
        await rig.halt()
        report = await check(rig.reactor, rig.based(), name="base", uuid=NEW)
        assert (report.ok, report.uuid, report.checkpoint) == (True, NEW, "whole"), report.damage
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["from_checkpoint"]
        assert await rig.versions() == before


@BOTH
async def test_it_may_get_another_and_that_of_the_original_back(emulated: bool, reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=emulated) as rig:
        await rig.create()
        await rig.traffic(1000)
        before, old = await rig.versions(), rig.device.uuid
        uuids = [old, NEW, uuid4(), old]
        await rig.halt()
        for was, new in itertools.pairwise(uuids):
            assert (await renumber(rig, was, new)).changed
            await rig.load(uuid=new)
            assert await rig.versions() == before
            await rig.halt()


@pytest.mark.parametrize("hidden", [True, False])
async def test_a_release_that_does_not_know_it_refuses_it(hidden: bool, reactor: ReactorLoop) -> None:
    """An FTL of an older release has no hidden uuid; with its own uuid it can go back."""
    async with grow_rig(reactor) as rig:
        old = uuid4()
        await rig.create(uuid=old, media_uuid=None if hidden else old)
        media_uuid = rig.device.media_uuid
        assert (media_uuid != old) == hidden
        await rig.halt()
        for new, version in ((NEW, HIDDEN_UUID_VERSION), (old, HIDDEN_UUID_VERSION if hidden else 2)):
            await renumber(rig, NEW if new == old else old, new)
            port = BlockPort(rig.reactor, rig.drive, name="base")
            found = await superblock.find(port, await port.zones(), new)
            assert found is not None
            (block,) = await port.read(SUPERBLOCK_ZONES[found.zone] * ZONE_SIZE + found.used - 1, 1)
            await port.close()
            record = block.view(SUPERBLOCK)[0]
            assert (record["version"], bytes(record["uuid"])) == (version, media_uuid.bytes)


@BOTH
async def test_a_copy_of_one_in_use_is_taken_with_force_only_and_has_what_was_durable(
    emulated: bool, reactor: ReactorLoop
) -> None:
    async with grow_rig(reactor, emulated=emulated) as rig:
        await rig.create()
        await rig.traffic(2000)
        await rig.flush()
        await rig.traffic(100)
        old = rig.device.uuid
        await rig.crash()
        states = rig.drive.zone_states()
        with pytest.raises(
            FtlError,
            match=r"in use when it was copied, so this copy lacks what only the write buffer.* or give --force",
        ):
            await renumber(rig, old, NEW)
        assert rig.drive.zone_states() == states
        assert (await renumber(rig, old, NEW, force=True)).changed
        lossy = []
        await rig.load(uuid=NEW, on_lossy=lambda: lossy.append(True))
        assert lossy, "its hosts are told"
        await rig.check("of a copy that was made in use")


@BOTH
async def test_wherever_power_fails_it_is_one_or_the_other(emulated: bool, reactor: ReactorLoop) -> None:
    outcomes = {True: 0, False: 0}
    for operation in range(1, 100):
        async with grow_rig(reactor, emulated=emulated) as rig:
            await rig.create()
            await rig.traffic(300)
            old, before = rig.device.uuid, await rig.versions()
            await rig.halt()
            rig.drive.cut_power_at(rig.drive.operations + operation, operation)
            done = False
            with contextlib.suppress(MediaError):
                done = (await renumber(rig, old, NEW)).changed
            rig.drive.cut_power_at(0, 0)
            rig.drive.power_on()
            renumbered = await uuid_on(rig) == NEW
            assert renumbered or not done, "what is answered is durable"
            outcomes[renumbered] += 1
            await rig.load(uuid=NEW if renumbered else old)
            assert await rig.versions() == before, f"power failed at operation {operation}"
            if done:
                break
    assert done
    assert all(outcomes.values())


async def test_a_superblock_that_rots_does_not_make_it_the_original_again(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=True) as rig:
        await rig.create()
        await rig.traffic(500)
        old = rig.device.uuid
        await rig.halt()
        await renumber(rig, old, NEW)
        somebody = BlockPort(rig.reactor, rig.drive, name="somebody")
        found = []
        for at in range(len(SUPERBLOCK_ZONES) * ZONE_SIZE):
            its = superblock.Superblock.parse((await somebody.read(at, 1))[0])
            if its is not None:
                found.append((its.generation, at))
        await somebody.write(max(found)[1], b"rot!" * (BLOCK // 4))
        await somebody.close()
        assert await uuid_on(rig) == NEW


async def test_both_run_side_by_side_with_their_write_buffers_in_one_place(
    reactor: ReactorLoop, tmp_path: Path
) -> None:
    async with grow_rig(reactor, emulated=True) as rig, grow_rig(reactor, emulated=True) as copy:
        rig.buffer_dir = copy.buffer_dir = tmp_path
        await rig.create()
        await rig.traffic(1000)
        before, old = await rig.versions(), rig.device.uuid
        await rig.halt()
        source, target = (BlockPort(reactor, each.drive, name="dd") for each in (rig, copy))
        for at in range(0, END, ZONE_SIZE):
            await target.write(at, await source.read(at, ZONE_SIZE))
        await target.flush()
        await source.close()
        await target.close()
        await rig.load()
        await renumber(copy, old, NEW)
        copy.model = deepcopy(rig.model)
        await copy.load(uuid=NEW)
        assert await copy.versions() == before
        for each in (rig, copy):
            # Not flushed: it is in the write buffer files only.
            await each.traffic(500)
        now = [await each.versions() for each in (rig, copy)]
        assert now[0] != now[1]
        for each in (rig, copy):
            await each.crash()
        for each in (rig, copy):
            await each.load()
        assert [await each.versions() for each in (rig, copy)] == now


async def test_the_copy_has_no_cache_and_leaves_that_of_the_original_alone(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor) as rig:
        cache = _shim.EmulatedMedia.conventional(reactor.shim, 4096, volatile_cache=False)
        await rig.create(cache=cache)
        await rig.traffic(500)
        before, old = await rig.versions(), rig.device.uuid
        await rig.halt()
        operations = cache.operations
        await renumber(rig, old, NEW)
        await rig.load(uuid=NEW)
        assert await rig.versions() == before
        assert cache.operations == operations
        await rig.halt()
        # One that it gets it begins anew.
        await rig.load(cache=_shim.EmulatedMedia.conventional(reactor.shim, 4096, volatile_cache=False))
        assert await rig.versions() == before


async def test_what_holds_none_or_another_is_refused(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor) as rig:
        with pytest.raises(NotFoundError, match="Copy0 holds no FTL"):
            await renumber(rig, uuid4(), NEW)
        await rig.create()
        old = rig.device.uuid
        await rig.halt()
        states = rig.drive.zone_states()
        assert len(states) == ZONES
        with pytest.raises(NotFoundError, match=f"Copy0 holds FTL 'ftl0' with uuid {old}, not "):
            await renumber(rig, uuid4(), NEW)
        assert rig.drive.zone_states() == states
        await rig.load()

"""bdev_ftl_create --if-absent, --load-or-create, --new-uuid, --wait."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from spdk_ftl_py.daemon.terms import Terms
from spdk_ftl_py.errors import ExistsError, FtlError, NotFoundError, ParameterError
from spdk_ftl_py.ftl.media.layout import SUPERBLOCK, SUPERBLOCK_MAGIC, seal
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, create, read, write
from unit.nvme.nvme_loop import until

CHOSEN = "11111111-2222-4333-8444-555555555555"
EMULATED = {"zone_capacity": 192}


async def make_late(here: World) -> None:
    await here.rpc("bdev_malloc_create", name="Late", num_blocks=16384, block_size=4096)


# --- what excludes what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"load_or_create": True, "force": True}, "never does"),
        ({"load_or_create": True, "no_data": True}, "can't be loaded"),
        ({"uuid": CHOSEN, "new_uuid": CHOSEN}, "give only one of them"),
        ({"new_uuid": str(UUID(int=0))}, "nil UUID"),
    ],
)
async def test_terms_that_exclude_each_other_are_refused(params: dict[str, Any], expected: str, here: World) -> None:
    daemon = await here.start()
    with pytest.raises(ParameterError, match=expected):
        await create(here, daemon, **params)
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


def test_of_the_parameters_nothing_is_left_that_is_not_its_own() -> None:
    params: dict[str, Any] = {"name": "ftl0", "if_absent": True, "load_or_create": False, "new_uuid": CHOSEN}
    terms = Terms.take(params)
    assert params == {"name": "ftl0"}
    assert (terms.if_absent, terms.load_or_create, terms.wait_s, terms.chosen) == (True, False, None, UUID(CHOSEN))


# --- a chosen uuid ---------------------------------------------------------------------------------------------------


async def test_an_ftl_gets_the_uuid_that_was_chosen_for_it(here: World) -> None:
    daemon = await here.start()
    assert await create(here, daemon, new_uuid=CHOSEN) == {"name": "ftl0", "uuid": CHOSEN}
    with pytest.raises(ExistsError, match=r"FTL bdev ftl0 .* already has it"):
        await create(here, daemon, "ftl1", base_bdev="Late", new_uuid=CHOSEN, **EMULATED)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await create(here, daemon, uuid=CHOSEN) == {"name": "ftl0", "uuid": CHOSEN}
    await daemon.halt()


async def test_a_chosen_uuid_is_for_a_creation_and_loads_nothing(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, new_uuid=CHOSEN)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with pytest.raises(ExistsError, match="holds an FTL"):
        await create(here, daemon, new_uuid=CHOSEN)
    await daemon.halt()


async def test_a_deferred_creation_keeps_the_uuid_that_was_chosen(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, base_bdev="Late", new_uuid=CHOSEN, **EMULATED)
    await daemon.halt()
    daemon = await here.start()
    await make_late(here)
    assert (await daemon.wait_for("online"))["uuid"] == CHOSEN
    await daemon.halt()


# --- load or create --------------------------------------------------------------------------------------------------


async def test_load_or_create_creates_where_there_is_nothing_and_loads_what_there_is(here: World) -> None:
    daemon = await here.start()
    made = await create(here, daemon, load_or_create=True, overprovisioning=25)
    assert made["loaded"] is False
    await write(here, daemon, 8)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    again = await create(here, daemon, load_or_create=True)
    assert again == {**made, "loaded": True}
    assert await read(here, daemon, 8) == list(range(1, 9))
    assert "load_or_create" not in daemon.record()["devices"][0]["params"]
    await daemon.halt()
    daemon = await here.start()
    await daemon.wait_for("online")
    assert await read(here, daemon, 8) == list(range(1, 9))
    await daemon.halt()


async def test_what_was_found_is_attached_under_its_own_uuid_and_the_attempt_leaves_nothing(here: World) -> None:
    daemon = await here.start()
    made = await create(here, daemon, no_attach=False)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    before = await here.exports()
    await create(here, daemon, no_attach=False, load_or_create=True)
    (bdev,) = await here.rpc("bdev_get_bdevs", name="ftl0")
    assert bdev["uuid"] == made["uuid"]
    assert await here.exports() == [f"nqn.2026-11.io.spdk-ftl:base:{made['uuid']}"]
    assert {host["nqn"] for host in (await daemon.device())["hosts"]} > {HOSTNQN}
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert await here.exports() == before
    await daemon.halt()


@pytest.mark.parametrize("which", ["uuid", "new_uuid"])
async def test_load_or_create_with_a_uuid_is_that_ftl_or_none(which: str, here: World) -> None:
    daemon = await here.start()
    assert (await create(here, daemon, load_or_create=True, **{which: CHOSEN}))["uuid"] == CHOSEN
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with pytest.raises(ExistsError, match=f"already holds an FTL, with uuid {CHOSEN} instead of .*"):
        await create(here, daemon, load_or_create=True, **{which: str(uuid4())})
    assert not await here.claimed()
    assert await daemon.call("ftl_get_devices") == []
    assert (await create(here, daemon, load_or_create=True, **{which: CHOSEN.upper()}))["loaded"] is True
    await daemon.halt()


async def make_disk(here: World) -> Path:
    """The file behind bdev Disk."""
    path = here.folder / "disk"
    path.write_bytes(b"")
    os.truncate(path, 16384 * 4096)
    await here.rpc("bdev_aio_create", name="Disk", filename=str(path), block_size=4096)
    return path


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def test_load_or_create_erases_nobodys_data(here: World) -> None:
    disk = await make_disk(here)
    put(disk, 510, b"\x55\xaa")
    daemon = await here.start()
    with pytest.raises(ExistsError, match="partition table"):
        await create(here, daemon, base_bdev="Disk", load_or_create=True, **EMULATED)
    await daemon.halt()


@pytest.mark.parametrize("harm", ["newer format", "checksum", "superblocks gone"])
async def test_load_or_create_creates_nothing_over_an_ftl_that_can_not_be_loaded(harm: str, here: World) -> None:
    disk = await make_disk(here)
    daemon = await here.start()
    await create(here, daemon, base_bdev="Disk", **EMULATED)
    await write(here, daemon, 8)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    content = disk.read_bytes()
    places = [at for at in range(0, len(content), 4096) if content[at : at + 8] == SUPERBLOCK_MAGIC]
    assert places
    for at in places:
        if harm == "newer format":
            # Of a version of ours that is still to come.
            record = np.frombuffer(content[at : at + 4096], SUPERBLOCK).copy()
            record["version"] += 1
            put(disk, at, seal(record).tobytes())
        elif harm == "checksum":
            put(disk, at + 100, b"\xff" * 8)
        else:
            put(disk, at, b"\0" * 4096)
    before = disk.read_bytes()
    with pytest.raises(ExistsError, match=r"holds (remains of )?an FTL"):
        await create(here, daemon, base_bdev="Disk", load_or_create=True, **EMULATED)
    assert disk.read_bytes() == before
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


async def test_a_deferred_load_or_create_loads_what_is_on_the_base_when_it_appears(here: World) -> None:
    daemon = await here.start()
    made = await create(here, daemon)
    await write(here, daemon, 4)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await here.remove_drive()
    assert await create(here, daemon, load_or_create=True) == "FTL bdev: ftl0 creation deferred"
    waiting = await daemon.device()
    assert "does not exist yet" in waiting["waiting_for"]
    # Also by a successor, which knows no more than the state file.
    await daemon.halt()
    daemon = await here.start()
    await here.make_drive()
    device = await daemon.wait_for("online")
    assert device["uuid"] == made["uuid"]
    assert await read(here, daemon, 4) == [1, 2, 3, 4]
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    assert await here.exports() == []
    assert daemon.record()["devices"] == []
    await daemon.halt()


async def test_a_deferred_load_or_create_of_another_ftl_fails_and_says_so(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await here.remove_drive()
    await create(here, daemon, load_or_create=True, uuid=CHOSEN)
    await here.make_drive()
    assert f"instead of {CHOSEN}" in (await daemon.wait_for("failed"))["error"]
    assert not await here.claimed()
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()


async def test_a_copy_of_what_the_daemon_has_is_not_loaded_beside_it(here: World) -> None:
    daemon = await here.start()
    made = await create(here, daemon)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, "ftl1", base_bdev="Late", new_uuid=made["uuid"], **EMULATED)
    with pytest.raises(ExistsError, match=r"FTL bdev ftl1 .* already has it"):
        await create(here, daemon, load_or_create=True)
    assert not await here.claimed()
    await daemon.halt()


# --- if absent -------------------------------------------------------------------------------------------------------

ASKED: dict[str, Any] = {
    "if_absent": True,
    "overprovisioning": 25,
    "conf": {"scrub_days": 7},
    "limit_low": 50,
    "num_punits": 2,
    "listen_address": "127.0.0.1",
}


async def test_if_absent_makes_it_once(here: World) -> None:
    daemon = await here.start()
    made = await create(here, daemon, **ASKED)
    assert made["changed"] is True
    again = await create(here, daemon, **ASKED)
    assert again == {**made, "changed": False, "state": "online", "waiting_for": None}
    # The name may be another of the same bdev's.
    (base,) = await here.rpc("bdev_get_bdevs", name="Nvme0n1")
    assert (await create(here, daemon, **ASKED, base_bdev=base["aliases"][0]))["changed"] is False
    await daemon.call("bdev_ftl_add_host", name="ftl0", host="nqn.2026-11.io.example:more")
    assert (await create(here, daemon, **ASKED))["changed"] is False
    await daemon.halt()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"base_bdev": "Nope"}, 'base_bdev is "Nvme0n1", requested: "Nope"'),
        ({"cache": "C0"}, 'cache is none, requested: "C0"'),
        ({"overprovisioning": 20}, "overprovisioning is 25, requested: 20"),
        ({"conf": {"scrub_days": 8}}, "conf.scrub_days is 7, requested: 8"),
        ({"limit_low": 51}, "limit_low is 50, requested: 51"),
        ({"num_punits": 3}, "num_punits is 2, requested: 3"),
        ({"no_attach": False}, "no_attach is true, requested: false"),
        ({"uuid": CHOSEN}, "uuid is .*, requested:"),
        ({"listen_address": "127.0.0.2"}, "listen_address is .*127.0.0.2"),
        ({"zone_capacity": 192}, "zone_capacity is none, requested: 192"),
        ({"hosts": [HOSTNQN, "nqn.2026-11.io.example:b"]}, "host nqn.2026-11.io.example:b may not connect"),
        ({"allow_any_host": True}, "not any host"),
        ({"secure_channel": True}, "secure_channel is false"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_if_absent_names_each_difference(change: dict[str, Any], expected: str, here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, **ASKED)
    before = daemon.record()
    with pytest.raises(ExistsError, match=expected) as refused:
        await create(here, daemon, **ASKED | change)
    assert refused.value.message.count("requested:") <= 1
    with pytest.raises(ExistsError, match="use_append is false, requested: true"):
        await create(here, daemon, **ASKED | change | {"use_append": True})
    assert daemon.record() == before
    await daemon.halt()


async def test_two_that_ask_for_it_at_the_same_time_get_the_same(here: World) -> None:
    daemon = await here.start()
    one, other = await asyncio.gather(create(here, daemon, **ASKED), create(here, daemon, **ASKED))
    assert one["uuid"] == other["uuid"]
    assert {one["changed"], other["changed"]} == {True, False}
    await daemon.halt()


async def test_nothing_is_created_by_who_waited_for_anothers_creation_while_the_daemon_halts(here: World) -> None:
    daemon = await here.start()
    here.line.hold("nvmf_get_transports")
    asking = [asyncio.ensure_future(create(here, daemon, **ASKED)) for _ in range(2)]
    await until(lambda: "nvmf_get_transports" in here.line.called)
    halting = asyncio.ensure_future(daemon.halt())
    for each in asking:
        with pytest.raises(FtlError, match="halting"):
            await each
    await halting
    assert here.line.called.count("nvmf_get_transports") == 1
    assert daemon.record()["devices"] == []


async def test_what_has_failed_is_not_what_was_asked_for(here: World) -> None:
    daemon = await here.start()
    asked = {"base_bdev": "Late", "if_absent": True, **EMULATED}
    await create(here, daemon, **asked)
    await here.rpc("bdev_malloc_create", name="Late", num_blocks=16384, block_size=512)
    await daemon.wait_for("failed")
    with pytest.raises(FtlError, match=r"has failed: .*512"):
        await create(here, daemon, **asked)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()


# --- wait ------------------------------------------------------------------------------------------------------------


async def test_who_does_not_wait_is_told_what_it_waits_for(here: World) -> None:
    daemon = await here.start()
    told = await create(here, daemon, base_bdev="Late", wait=0, **EMULATED)
    assert told == {
        "name": "ftl0",
        "uuid": (await daemon.device())["uuid"],
        "state": "deferred",
        "waiting_for": "base bdev Late does not exist yet",
    }
    assert (await create(here, daemon, base_bdev="Late", wait=0, if_absent=True, **EMULATED))["changed"] is False
    await daemon.halt()


async def test_who_waits_has_it_when_its_base_appears(here: World) -> None:
    daemon = await here.start()
    first = asyncio.ensure_future(create(here, daemon, base_bdev="Late", wait=60, **EMULATED))
    await until(lambda: len(daemon.registry.creations.watchers) == 1)
    second = asyncio.ensure_future(create(here, daemon, base_bdev="Late", wait=60, if_absent=True, **EMULATED))
    await make_late(here)
    one, other = await first, await second
    assert (one["state"], one["waiting_for"]) == ("online", None)
    assert (other["changed"], other["state"]) == (False, "online")
    await daemon.halt()


async def test_who_waits_for_one_that_fails_or_is_deleted_is_told(here: World) -> None:
    daemon = await here.start()
    for end, expected in (("fails", "deferred creation has failed: .*512"), ("is deleted", "was deleted during")):
        waiting = asyncio.ensure_future(create(here, daemon, base_bdev="Late", wait=60, **EMULATED))
        await until(lambda: len(daemon.registry.creations.watchers) == 1)
        if end == "fails":
            await here.rpc("bdev_malloc_create", name="Late", num_blocks=16384, block_size=512)
        else:
            await daemon.call("bdev_ftl_delete", name="ftl0")
        with pytest.raises(FtlError, match=expected):
            await waiting
        if end == "fails":
            await daemon.call("bdev_ftl_delete", name="ftl0")
            await here.rpc("bdev_malloc_delete", name="Late")
    await daemon.halt()


async def test_who_waits_waits_for_target_transport_and_cache_too(here: World) -> None:
    daemon = await here.start()
    await here.line.close()
    asked = {"cache": "C0", "wait": 0, "if_absent": True}
    told = await create(here, daemon, **asked)
    assert "can't be reached" in told["waiting_for"]
    here.line._serving.clear()
    here.line.answers = {"nvmf_get_transports": []}
    await here.line.start()
    await until_waits_for(daemon, "has no TCP transport")
    here.line.answers = {}
    await until_waits_for(daemon, "C0: no such bdev")
    # A successor has the same patience.
    await daemon.halt()
    daemon = await here.start()
    await until_waits_for(daemon, "C0: no such bdev")
    await here.rpc("bdev_malloc_create", name="C0", num_blocks=16384, block_size=4096)
    assert (await create(here, daemon, **asked | {"wait": 60}))["state"] == "online"
    await daemon.halt()


async def test_who_does_not_wait_is_refused_where_the_target_is_not_there(here: World) -> None:
    daemon = await here.start()
    with pytest.raises(FtlError, match="can't be reached"):
        await create(here, daemon, target="/nowhere.sock")
    with pytest.raises(NotFoundError, match="C0"):
        await create(here, daemon, cache="C0")
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


async def until_waits_for(daemon: Daemon, what: str) -> None:
    await until(lambda: what in daemon.managed().waits_for)

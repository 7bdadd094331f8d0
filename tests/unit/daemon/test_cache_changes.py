"""bdev_ftl_set_cache and bdev_ftl_remove_cache: an nv cache that comes, goes and is replaced while hosts write, and
crashes in the middle of that."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import BusyError, ClaimedError, ExistsError, FtlError, NotFoundError, ParameterError
from unit.daemon.registry_rig import WRITER_BLOCKS, Daemon, World, Writer, create, gate_of, world
from unit.nvme.nvme_loop import until

CACHE = {"num_blocks": 1024, "block_size": 4096}
VSS = {**CACHE, "md_size": 8, "md_interleave": True}
CRASHES = 6


async def make_caches(here: World, *names: str, **options: Any) -> None:
    for name in names:
        await here.rpc("bdev_malloc_create", name=name, **{**CACHE, **options})


async def set_cache(daemon: Daemon, cache: str, **params: Any) -> None:
    assert await daemon.call("bdev_ftl_set_cache", name="ftl0", cache=cache, **params) is True


async def cache_of(daemon: Daemon) -> tuple[str | None, str | None]:
    """Its bdev, and its state."""
    told = await daemon.call("bdev_ftl_get_properties", name="ftl0")
    device = {entry["name"]: entry["value"] for entry in told["properties"]}["cache_device"]
    assert (told["cache"] or {}).get("bdev") == daemon.record()["devices"][0]["params"].get("cache")
    return (told["cache"] or {}).get("bdev"), device and device["state"]


async def claimed(here: World, name: str) -> bool:
    return bool((await here.rpc("bdev_get_bdevs", name=name))[0]["claimed"])


def media_of(here: World, name: str) -> _shim.EmulatedMedia:
    bdev = here.target.bdevs.find(name)
    assert bdev is not None
    assert isinstance(bdev.lower, _shim.EmulatedMedia)
    return bdev.lower


@pytest.mark.parametrize("options", [CACHE, VSS], ids=["non-vss", "vss"])
async def test_a_cache_comes_is_replaced_and_goes_while_hosts_write(here: World, options: dict[str, Any]) -> None:
    daemon = await here.start()
    await make_caches(here, "C0", "C1", **options)
    await create(here, daemon)
    port = gate_of(daemon)
    writer = Writer(port)
    await writer.goes_on()
    for cache in ("C0", "C1", "C0"):
        await set_cache(daemon, cache)
        assert await cache_of(daemon) == (cache, "in_use")
        await writer.goes_on()
        written = (await daemon.call("bdev_ftl_get_stats", name="ftl0"))["nv_cache"]["write"]["blocks"]
        assert written > 0
        assert [await claimed(here, name) for name in ("C0", "C1")] == [cache == "C0", cache == "C1"]
    device = daemon.managed()
    before = device.ftl
    await set_cache(daemon, "C0")
    assert device.ftl is before, "it has that one already"
    for _ in range(2):
        assert await daemon.call("bdev_ftl_remove_cache", name="ftl0") is True
        assert await cache_of(daemon) == (None, "given_up")
        assert not await claimed(here, "C0")
        await writer.goes_on()
    await writer.verify()
    await port.close()
    await daemon.halt()


async def test_writes_to_the_cache_have_as_many_blocks_as_conf_says(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    uuid = (await create(here, daemon, cache="C0", conf={"nv_cache.max_request_size": 1}))["uuid"]
    device = daemon.managed()

    async def blocks_of_a_write() -> float:
        before = (await daemon.call("bdev_ftl_get_stats", name="ftl0"))["nv_cache"]["write"]
        port = gate_of(daemon)
        await port.write(0, bytes(16 * 4096))
        await port.close()
        written = (await daemon.call("bdev_ftl_get_stats", name="ftl0"))["nv_cache"]["write"]
        assert written["blocks"] - before["blocks"] == 16
        return 16 / (written["ios"] - before["ios"])

    assert await blocks_of_a_write() == 1
    # By a pause: the requests are made with the core.
    made = device.ftl
    value = {"name": "ftl0", "ftl_property": "nv_cache.max_request_size", "value": "4"}
    assert await daemon.call("bdev_ftl_set_property", **value) is True
    assert device.ftl is not made
    assert await blocks_of_a_write() == 4
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, cache="C0", uuid=uuid, conf={"nv_cache.max_request_cnt": 2})
    assert await blocks_of_a_write() == 4
    told = await daemon.call("bdev_ftl_get_properties", name="ftl0")
    in_use = {entry["name"]: entry["value"] for entry in told["properties"]}["cache_device"]
    assert (in_use["max_request_cnt"], in_use["max_request_size"]) == (2, 4)
    await daemon.halt()


async def test_what_has_completed_in_a_new_cache_survives_all_but_the_drives(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon)
    await set_cache(daemon, "C0")
    port = gate_of(daemon)
    for lba in range(WRITER_BLOCKS):
        await port.write(lba, bytes([lba + 1]) * 4096)
    await port.close()
    device = daemon.managed()
    assert device.ftl is not None
    await device.ftl.abort("lost")
    for path in (here.folder / "buffers").iterdir():
        path.unlink()
    await here.rpc("ftltgt_power_cut", seed=1)
    await here.rpc("ftltgt_power_on")
    await until(lambda: device.state.value == "online" and device.ftl is not None and not device.ftl.failed.is_set())
    port = gate_of(daemon)
    assert [int(block[0]) for block in await port.read(0, WRITER_BLOCKS)] == [lba + 1 for lba in range(WRITER_BLOCKS)]
    await port.close()
    await daemon.halt()


async def test_a_cache_that_failed_is_replaced(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0", "C1")
    await create(here, daemon, cache="C0")
    port = gate_of(daemon)
    writer = Writer(port)
    await writer.goes_on()
    await here.rpc("bdev_malloc_delete", name="C0")
    device = daemon.managed()
    await until(lambda: device.ftl is not None and device.ftl.cache.state.value == "given_up")
    await set_cache(daemon, "C1")
    await writer.goes_on()
    assert await cache_of(daemon) == ("C1", "in_use")
    assert await claimed(here, "C1")
    await writer.end()
    await port.close()
    await daemon.halt()


async def test_what_can_not_be_a_cache_is_refused_before_anything_is_done(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0", "Mine", "Others")
    await here.rpc("bdev_malloc_create", name="Small", num_blocks=300, block_size=4096)
    await here.rpc("bdev_malloc_create", name="Base", num_blocks=64 * 256, block_size=4096)
    await here.rpc("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:mine", allow_any_host=True)
    await here.rpc("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:mine", namespace={"bdev_name": "Mine"})
    other = await create(here, daemon, name="other", base_bdev="Base", cache="Others", zone_capacity=256)
    await daemon.call("bdev_ftl_delete", name="other")
    for had in (None, "C0"):
        await create(here, daemon, cache=had, force=True) if had else await create(here, daemon)
        device = daemon.managed()
        before, params = device.ftl, dict(device.params)
        for cache, error, expected in (
            ("None", NotFoundError, "None"),
            ("Nvme0n1", ParameterError, "is also the base bdev"),
            ("Small", ParameterError, "needs 385"),
            ("Mine", ClaimedError, r"nqn\.2016-06\.io\.spdk:mine"),
        ):
            with pytest.raises(error, match=expected):
                await set_cache(daemon, cache)
        assert (device.ftl, device.params) == (before, params)
        with pytest.raises(ExistsError, match=f"nv cache of FTL {other['uuid']}"):
            await set_cache(daemon, "Others")
        assert not await claimed(here, "Others")
        if had is None:
            assert (device.ftl, device.params) == (before, params)
        await set_cache(daemon, "Others", force=True)
        assert await cache_of(daemon) == ("Others", "in_use")
        await daemon.call("bdev_ftl_delete", name="ftl0")
        await here.rpc("bdev_malloc_delete", name="Others")
        await make_caches(here, "Others")
        other = await create(
            here, daemon, name="other", base_bdev="Base", cache="Others", zone_capacity=256, force=True
        )
        await daemon.call("bdev_ftl_delete", name="other")
        await here.rpc("ftltgt_zns_delete", name="Nvme0n1")
        (here.folder / "drive").unlink()
        await here.make_drive()
    await daemon.halt()


async def test_what_stands_on_an_ftl_of_the_daemon_is_no_cache_and_no_base_of_one(here: World) -> None:
    daemon = await here.start()
    await here.rpc("bdev_malloc_create", name="Base", num_blocks=64 * 256, block_size=4096)
    await create(here, daemon, no_attach=False)
    await here.rpc("bdev_passthru_create", name="Over", base_bdev_name="ftl0")
    await here.rpc("bdev_passthru_create", name="Above", base_bdev_name="Over")
    other = {"name": "other", "base_bdev": "Base", "zone_capacity": 256}
    uuid = (await here.rpc("bdev_get_bdevs", name="Above"))[0]["uuid"]
    device = daemon.managed()
    before, params = device.ftl, dict(device.params)
    for bdev in ("ftl0", "Over", "Above", uuid):
        expected = r"bdev \w+ of .* (is|is built on) FTL bdev ftl0 of this daemon"
        with pytest.raises(ParameterError, match=f"cache {expected}"):
            await set_cache(daemon, bdev)
        with pytest.raises(ParameterError, match=f"cache {expected}"):
            await create(here, daemon, **other, cache=bdev)
        with pytest.raises(ParameterError, match=f"base {expected}"):
            await create(here, daemon, **{**other, "base_bdev": bdev})
    assert (device.ftl, device.params) == (before, params)
    assert not await claimed(here, "Above")
    await here.rpc("bdev_passthru_delete", name="Above")
    await here.rpc("bdev_passthru_delete", name="Over")
    await create(here, daemon, **other)
    await daemon.halt()


async def test_a_scrub_that_fails_costs_nothing(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon)
    device = daemon.managed()
    before, params = device.ftl, dict(device.params)
    await here.rpc("ftltgt_inject_fault", name="C0", op="write", lba=512, num_blocks=1, status="write_fault")
    with pytest.raises(FtlError):
        await set_cache(daemon, "C0")
    assert (device.ftl, device.params) == (before, params)
    assert not await claimed(here, "C0")
    await here.rpc("ftltgt_clear_faults", name="C0")
    await set_cache(daemon, "C0")
    await daemon.halt()


async def test_a_cache_that_is_gone_when_it_is_to_be_used_leaves_it_without(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon)
    port = gate_of(daemon)
    await port.write(0, b"x" * 4096)
    device = daemon.managed()
    scrub = device.scrub_cache

    async def scrubbed(*args: Any, **options: Any) -> None:
        await scrub(*args, **options)
        await here.rpc("bdev_malloc_delete", name="C0")

    device.scrub_cache = scrubbed  # type: ignore[method-assign]
    with pytest.raises(NotFoundError, match="C0 no longer exists"):
        await set_cache(daemon, "C0")
    assert bytes((await port.read(0, 1))[0]) == b"x" * 4096
    await daemon.wait_for("online")
    assert await cache_of(daemon) == (None, None)
    await port.close()
    await daemon.halt()


async def test_what_fails_when_media_show_it_already_is_taken_back(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon)
    port = gate_of(daemon)
    await port.write(0, b"x" * 4096)
    device = daemon.managed()
    set_core, refused = device.front.set_core, []

    def refuse_once(core: Any) -> None:
        if not refused:
            refused.append(core)
            raise FtlError("it is not to be")
        set_core(core)

    monkeypatch.setattr(device.front, "set_core", refuse_once)
    with pytest.raises(FtlError, match="it is not to be"):
        await set_cache(daemon, "C0")
    assert bytes((await port.read(0, 1))[0]) == b"x" * 4096
    await until(lambda: device.state.value == "online")
    assert (await cache_of(daemon))[0] is None
    assert not await claimed(here, "C0")
    assert not daemon.record()["devices"][0]["params"]["without_cache"]
    await set_cache(daemon, "C0")
    assert await cache_of(daemon) == ("C0", "in_use")
    await port.close()
    await daemon.halt()


async def test_a_deletion_does_not_wait_for_the_scrub(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon)
    await here.rpc("ftltgt_inject_fault", name="C0", op="write", latency_us=300_000)
    setting = asyncio.ensure_future(daemon.call("bdev_ftl_set_cache", name="ftl0", cache="C0"))
    await until(lambda: media_of(here, "C0").operations > 2)
    assert await daemon.call("bdev_ftl_delete", name="ftl0") is True
    with pytest.raises(FtlError):
        await setting
    assert not await claimed(here, "C0")
    await daemon.halt()


async def test_one_that_does_not_run_gets_none(here: World) -> None:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    with pytest.raises(BusyError, match="waiting"):
        await set_cache(daemon, "C0")
    await daemon.halt()


# --- crashes


class Crashing:
    """Cuts the power of both drives when one of them has done so many I/Os more, and knows what the state file said
    then."""

    def __init__(self, here: World, daemon: Daemon, name: str) -> None:
        self.media = media_of(here, name)
        self._others = [media_of(here, other) for other in ("Nvme0n1", "C0")]
        self._daemon = daemon
        self._save = daemon.state.save
        self._states = [(0, daemon.die())]
        daemon.state.save = self._saved  # type: ignore[method-assign]

    def _saved(self, devices: Any) -> None:
        self._save(devices)
        self._states.append((self.media.operations, self._daemon.die()))

    def at(self, operation: int, seed: int) -> None:
        self._at = operation
        self.media.cut_power_at(operation, seed)

    def cut(self, seed: int) -> None:
        for media in self._others:
            media.power_cut(seed)

    @property
    def state(self) -> bytes:
        return [state for operations, state in self._states if operations < self._at][-1]


async def change(daemon: Daemon, what: str) -> None:
    if what == "remove":
        await daemon.call("bdev_ftl_remove_cache", name="ftl0")
    else:
        await set_cache(daemon, "C0")


async def operations_of(folder: Any, what: str, media: str) -> tuple[int, int]:
    """Of a change on that drive: from, to."""
    async with world(folder) as here:
        daemon = await begun(here, what)
        first = media_of(here, media).operations
        await change(daemon, what)
        last = media_of(here, media).operations
        await daemon.halt()
    return first, last


async def begun(here: World, what: str) -> Daemon:
    daemon = await here.start()
    await make_caches(here, "C0")
    await create(here, daemon, **({"cache": "C0"} if what == "remove" else {}))
    port = gate_of(daemon)
    for lba in range(WRITER_BLOCKS):
        await port.write(lba, bytes([lba + 1]) * 4096)
    if what == "add":
        # Without a cache no more is promised to survive a loss of power.
        await port.flush()
    await port.close()
    return daemon


@pytest.mark.parametrize("media", ["Nvme0n1", "C0"])
@pytest.mark.parametrize("what", ["add", "remove"])
async def test_a_crash_at_any_step_finds_it_as_it_was_or_changed(tmp_path: Any, what: str, media: str) -> None:
    (tmp_path / "dry").mkdir()
    first, last = await operations_of(tmp_path / "dry", what, media)
    assert last > first
    rng = random.Random(f"{what} {media}")
    found = set()
    for number in range(CRASHES):
        folder = tmp_path / str(number)
        folder.mkdir()
        # The end of it has what matters most: superblock, header.
        steps = last - first
        after = rng.randrange(steps) if number % 2 else steps - 1 - rng.randrange(min(steps, 12))
        async with world(folder) as here:
            daemon = await begun(here, what)
            crash = Crashing(here, daemon, media)
            crash.at(crash.media.operations + 1 + after, seed=number)
            changing = asyncio.ensure_future(change(daemon, what))
            await until(lambda: crash.media.operations >= crash._at or changing.done())  # noqa: B023
            crash.cut(number)
            state = crash.state
            await asyncio.wait([changing])
            changing.exception()
            if number % 3 < 2:
                # The daemon has died with them, and its buffer files.
                with contextlib.suppress(FtlError):
                    await daemon.registry.halt()
                daemon.state.close()
                for path in (here.folder / "buffers").iterdir():
                    path.unlink()
                daemon.put_back(state)
            await here.rpc("ftltgt_power_on")
            if number % 3 < 2:
                daemon = await here.start()
            device = daemon.managed()
            await until(lambda: device.state.value in ("online", "failed"))  # noqa: B023
            assert device.state.value == "online", (after, device.error)
            port = gate_of(daemon)
            assert [int(block[0]) for block in await port.read(0, WRITER_BLOCKS)] == [
                lba + 1 for lba in range(WRITER_BLOCKS)
            ], after
            await port.close()
            found.add(await cache_of(daemon))
            # And from here it can be done.
            await change(daemon, what)
            assert (await cache_of(daemon))[1] == ("given_up" if what == "remove" else "in_use")
            await daemon.halt()
    print(what, media, last - first, found)

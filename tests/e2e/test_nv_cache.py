"""An FTL with an nv cache, as processes: what has completed survives the death of the daemon, its write buffer file,
and a loss of power of both drives, in the middle of the I/O of a host that stays."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.test_peer_loss import HOSTNQN, POLL_S, WAIT_S, VerifyingHost, in_thread, kill, under_load
from spdk_ftl_py.client import DaemonClient
from support.processes import Daemon, EmbeddedTarget

ZNS = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14"
CACHES = {"vss": "name=C0,size=16M,md_size=8", "wide vss": "name=C0,size=16M,md_size=64", "non-vss": "name=C0,size=16M"}


class CachedWorld:
    def __init__(self, folder: Path, cache: str, zns: str) -> None:
        self.folder = folder
        self.buffers = folder / "buffers"
        self.start_target("--zns", zns, "--malloc", cache)
        self.start_daemon()
        self.client = DaemonClient(self.daemon.socket)
        params = {"name": "ftl0", "base_bdev": "Nvme0n1", "cache": "C0", "hosts": [HOSTNQN]}
        self.created = self.client.call("bdev_ftl_create", {**params, "target": self.target.socket})

    def start_target(self, *arguments: str) -> None:
        self.target = EmbeddedTarget(self.folder, *arguments)
        self.target.call("nvmf_create_transport", trtype="TCP")

    def start_daemon(self) -> None:
        self.daemon = Daemon(self.folder, "--buffer-dir", str(self.buffers))

    def device(self) -> dict[str, Any]:
        (device,) = self.client.call("ftl_get_devices")
        return dict(device)

    def wait_for(self, state: str) -> dict[str, Any]:
        """Another process gets there by itself; nothing announces it."""
        deadline = time.monotonic() + WAIT_S
        while (device := self.device())["state"] != state:
            assert device["state"] != "failed", f"{device}\n{self.daemon.log_tail()}"
            assert time.monotonic() < deadline, f"{device}\n{self.daemon.log_tail()}"
            time.sleep(POLL_S)
        return device

    def properties(self) -> dict[str, Any]:
        told = self.client.call("bdev_ftl_get_properties", {"name": "ftl0"})
        return {"cache": told["cache"], **{entry["name"]: entry.get("value") for entry in told["properties"]}}

    def close(self) -> None:
        self.daemon.close()
        self.target.close()


@contextmanager
def cached_world(folder: Path, cache: str, zns: str = ZNS) -> Iterator[CachedWorld]:
    world = CachedWorld(folder, cache, zns)
    try:
        yield world
    finally:
        for program in (world.daemon, world.target):
            if program.process.poll() is None:
                program.kill()


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
def test_what_has_completed_survives_the_loss_of_all_but_the_drives(folder: Path, cache: str) -> None:
    with cached_world(folder, cache) as world:
        export = world.device()["export"]
        recovered = 0

        async def body(host: VerifyingHost) -> None:
            nonlocal recovered
            for cut in range(3):
                # Nothing goes to the base any more, so what completes from here on is in the cache alone.
                world.target.call("ftltgt_inject_fault", name="Nvme0n1", op="write", latency_us=1_000_000)
                await host.moves(200)
                kill(world.daemon)
                shutil.rmtree(world.buffers)
                for name in ("Nvme0n1", "C0"):
                    world.target.call("ftltgt_power_cut", name=name, seed=cut)
                    world.target.call("ftltgt_clear_faults", name=name)
                    world.target.call("ftltgt_power_on", name=name)
                await in_thread(world.start_daemon)
                await in_thread(lambda: world.wait_for("online"))
                restored = world.properties()["restored"]
                assert (restored["clean"], restored["lossy"]) == (False, False)
                recovered += restored["recovered_blocks"]
                await host.moves()

        under_load(None, body, export)  # type: ignore[arg-type]
        assert recovered > 0
        stats = world.client.call("bdev_ftl_get_stats", {"name": "ftl0"})
        assert stats["nv_cache"]["write"]["blocks"] > 0
        assert world.properties()["cache_device"]["state"] == "in_use"
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        world.close()


def test_a_cache_bdev_that_goes_away_is_given_up_and_hosts_go_on(folder: Path) -> None:
    with cached_world(folder, CACHES["vss"]) as world:

        async def body(host: VerifyingHost) -> None:
            world.target.call("bdev_malloc_delete", name="C0")
            deadline = time.monotonic() + WAIT_S
            while (await in_thread(world.properties))["cache"]["state"] != "given_up":
                assert time.monotonic() < deadline, world.daemon.log_tail()
            await host.moves(2000)

        under_load(None, body, world.device()["export"])  # type: ignore[arg-type]
        told = world.properties()
        assert told["state"] == "running"
        assert told["cache_device"]["failure"]
        world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        # It does without the bdev; a new one is scrubbed and used from then on.
        again = {"name": "ftl0", "base_bdev": "Nvme0n1", "uuid": world.created["uuid"], "target": world.target.socket}
        world.client.call("bdev_ftl_create", again)
        assert world.properties()["cache_device"]["state"] == "given_up"
        world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        world.target.call("bdev_malloc_create", name="C1", num_blocks=4096, block_size=4096)
        world.client.call("bdev_ftl_create", {**again, "cache": "C1"})
        assert world.properties()["cache_device"]["state"] == "in_use"
        world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        world.close()


def test_a_target_that_comes_back_without_the_cache_is_waited_for_unless_that_was_given_up(folder: Path) -> None:
    zns = f"{ZNS},path={folder / 'drive'}"
    with cached_world(folder, CACHES["non-vss"], zns) as world:

        async def body(host: VerifyingHost) -> None:
            world.target.call("bdev_malloc_delete", name="C0")
            deadline = time.monotonic() + WAIT_S
            while (await in_thread(world.properties))["cache"]["state"] != "given_up":
                assert time.monotonic() < deadline, world.daemon.log_tail()
            kill(world.target)
            await in_thread(lambda: world.wait_for("waiting"))
            await in_thread(lambda: world.start_target("--zns", zns))
            await in_thread(lambda: world.wait_for("online"))
            await host.moves(200)

        under_load(None, body, world.device()["export"])  # type: ignore[arg-type]
        world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        world.target.call("bdev_malloc_create", name="C0", num_blocks=4096, block_size=4096)
        again = {"name": "ftl0", "base_bdev": "Nvme0n1", "uuid": world.created["uuid"], "target": world.target.socket}
        world.client.call("bdev_ftl_create", {**again, "cache": "C0"})
        assert world.properties()["cache_device"]["state"] == "in_use"
        kill(world.target)
        world.wait_for("waiting")
        world.start_target("--zns", zns)
        deadline = time.monotonic() + WAIT_S
        while "cache bdev C0 does not exist" not in str(world.device().get("waiting_for")):
            assert time.monotonic() < deadline, world.device()
            time.sleep(POLL_S)
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        world.close()


def test_loading_without_the_cache_asks_for_the_word(folder: Path) -> None:
    with cached_world(folder, CACHES["non-vss"]) as world:
        world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        again = {"name": "ftl0", "base_bdev": "Nvme0n1", "uuid": world.created["uuid"], "target": world.target.socket}
        for params, told in (
            (again, "has an nv cache of 4096 blocks"),
            ({**again, "without_cache": True, "cache": "C0"}, "leave out the cache bdev"),
            ({**again, "without_cache": True, "uuid": None}, "give the uuid"),
        ):
            with pytest.raises(Exception, match=told):
                world.client.call("bdev_ftl_create", {name: value for name, value in params.items() if value})
        world.client.call("bdev_ftl_create", {**again, "without_cache": True})
        assert world.properties()["cache_device"]["state"] == "given_up"
        world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        world.close()

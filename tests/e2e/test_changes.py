"""An FTL that is changed while hosts write to it, with daemon, target and rpc.py as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e.test_nv_cache import CachedWorld
from e2e.test_peer_loss import HOSTNQN, VerifyingHost, in_thread, kill, under_load
from spdk_ftl_py.client import DaemonClient
from support.processes import spdk_rpc

ZNS = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14"


class ChangingWorld(CachedWorld):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.buffers = folder / "buffers"
        self.start_target("--zns", ZNS, "--malloc", "name=C0,size=16M,md_size=8", "--malloc", "name=C1,size=16M")
        self.start_daemon()
        self.client = DaemonClient(self.daemon.socket)
        self.rpc = spdk_rpc("26.5", self.target.socket, plugin="spdk_ftl_py", SPDK_FTL_SOCK=self.daemon.socket)

    def ftl(self, *arguments: str) -> Any:
        """`spdk-ftl`, with rpc.py's flags."""
        command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments, "--socket", str(self.daemon.socket)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr + self.daemon.log_tail()
        return json.loads(done.stdout)

    def value_of(self, name: str) -> Any:
        told = self.client.call("bdev_ftl_get_properties", {"name": self.name})
        return next(entry["value"] for entry in told["properties"] if entry["name"] == name)

    name = "ftl0"


def test_settings_cache_and_name_change_under_load_and_are_kept(folder: Path) -> None:
    world = ChangingWorld(folder)
    try:
        how = ("--l2p-dram-limit", "64", "--core-mask", "[0]", "-f", "--host", HOSTNQN)
        created = world.rpc("construct_ftl_bdev", "-b", "ftl0", "-d", "Nvme0n1", *how)
        export = world.device()["export"]
        size = world.device()["num_blocks"]

        async def rpc(*arguments: str) -> Any:
            return await in_thread(lambda: world.rpc(*arguments))

        async def ftl(*arguments: str) -> Any:
            return await in_thread(lambda: world.ftl(*arguments))

        async def body(host: VerifyingHost) -> None:
            for name, value in (("limit_low", "55"), ("band_thld", "80"), ("scrub_days", "3")):
                assert await rpc("bdev_ftl_set_property", "-b", "ftl0", "-p", name, "-v", value) is True
                await host.moves()
            for cache in ("C0", "C1"):
                assert await ftl("set-cache", "-b", "ftl0", "-c", cache) is True
                await host.moves()
            # Nothing of it is in the daemon's memory alone.
            kill(world.daemon)
            await in_thread(world.start_daemon)
            await in_thread(lambda: world.wait_for("online"))
            await host.moves()
            assert (await in_thread(world.properties))["cache"]["bdev"] == "C1"
            assert await ftl("remove-cache", "-b", "ftl0") is True
            await host.moves()
            assert await ftl("rename", "-b", "ftl0", "--new-name", "other") is True
            world.name = "other"
            await host.moves()

        under_load(None, body, export)  # type: ignore[arg-type]
        for name, expected in (("limit_low", 55), ("band_thld", 80), ("scrub_days", 3)):
            assert world.value_of(name) == expected
        assert [bdev["claimed"] for bdev in world.target.call("bdev_get_bdevs") if bdev["name"] in ("C0", "C1")] == [
            False,
            False,
        ]
        (bdev,) = world.target.call("bdev_get_bdevs", name="other")
        assert bdev["uuid"] == created["uuid"]
        assert world.rpc("bdev_ftl_unmap", "-b", "other", "--lba", "3", "--num-blocks", str(size - 3)) is True
        assert world.rpc("delete_ftl_bdev", "-b", "other", "-f") is True
        loaded = world.rpc("bdev_ftl_load", "-b", "ftl0", "-d", "Nvme0n1", "-u", created["uuid"], "-f")
        assert loaded == created
        world.name = "ftl0"
        assert world.value_of("band_thld") == 80
        assert world.rpc("bdev_ftl_unload", "-b", "ftl0", "-f") is True
        world.close()
    finally:
        for program in (world.daemon, world.target):
            if program.process.poll() is None:
                program.kill()

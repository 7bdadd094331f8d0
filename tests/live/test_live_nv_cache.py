"""An nv cache on a bdev of a real spdk_tgt: with interleaved metadata, and without. The daemon is killed and its write
buffer file removed; what had completed comes back from the cache."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.test_peer_loss import HOSTNQN, POLL_S, WAIT_S, VerifyingHost, in_thread, kill, under_load
from live.spdk_target import SpdkTarget
from support.system import Daemon

CACHE_BLOCKS = 8192


@pytest.mark.parametrize("metadata_bytes", [0, 8, 64])
def test_what_has_completed_outlives_the_daemon_in_the_cache_alone(
    spdk_target: SpdkTarget, folder: Path, metadata_bytes: int
) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=64 * 256, block_size=4096)
    metadata = {"md_size": metadata_bytes, "md_interleave": True} if metadata_bytes else {}
    spdk_target.call("bdev_malloc_create", name="Cache0", num_blocks=CACHE_BLOCKS, block_size=4096, **metadata)
    before = spdk_target.state()

    def start() -> Daemon:
        return Daemon(folder, "--buffer-dir", str(folder / "buffers"))

    def told(daemon: Daemon, command: str, *arguments: str) -> Any:
        return json.loads(spdk_target.ftl(daemon, command, *arguments))

    daemon = start()
    try:
        zones = ("--zone-capacity", "192", "--optimal-open-zones", "2")
        spdk_target.ftl(
            daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Malloc0", "-c", "Cache0", *zones, "--host", HOSTNQN
        )
        export = told(daemon, "ftl_get_devices")[0]["export"]

        async def body(host: VerifyingHost) -> None:
            nonlocal daemon
            for _ in range(2):
                await host.moves(3 * CACHE_BLOCKS)
                kill(daemon)
                shutil.rmtree(folder / "buffers")
                daemon = await in_thread(start)
                deadline = time.monotonic() + WAIT_S
                while (await in_thread(partial(told, daemon, "ftl_get_devices")))[0]["state"] != "online":
                    assert time.monotonic() < deadline, daemon.log_tail()
                    await asyncio.sleep(POLL_S)
                await host.moves()

        under_load(None, body, export)  # type: ignore[arg-type]
        properties = told(daemon, "bdev_ftl_get_properties", "-b", "ftl0")
        values = {entry["name"]: entry.get("value") for entry in properties["properties"]}
        assert values["restored"]["lossy"] is False
        assert values["cache_device"]["mode"] == ("vss" if metadata_bytes else "non_vss")
        assert values["cache_device"]["lap"] > 1
        spdk_target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
        assert spdk_target.state() == before
    finally:
        if daemon.process.poll() is None:
            daemon.kill()

"""A base bdev of a real spdk_tgt that gets larger while an FTL is on it, which is grown then."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from live.spdk_target import SpdkTarget
from live.test_live import verify_through
from live.test_saved_config import CLUSTER_BYTES, USER_NQN, VOLUME, VOLUME_MIB, volume_digest
from support.drive import write_and_verify
from support.system import Daemon

MIB = 1 << 20
BEFORE, AFTER = 160 * MIB, 256 * MIB


def num_blocks(target: SpdkTarget, name: str) -> int:
    bdev = target.bdev(name)
    assert bdev is not None
    return int(bdev["num_blocks"])


def device_of(target: SpdkTarget, daemon: Daemon) -> dict[str, Any]:
    (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
    assert (device["state"], device["error"]) == ("online", None)
    return dict(device)


def test_it_grows_under_an_lvol_store_and_its_bdev_once_that_is_gone(spdk_program: str, folder: Path) -> None:
    base = folder / "base"
    with base.open("wb") as file:
        file.truncate(BEFORE)
    with Daemon(folder) as daemon, SpdkTarget(spdk_program, folder) as target:
        target.call("nvmf_create_transport", trtype="TCP")
        target.call("bdev_aio_create", name="Aio0", filename=str(base), block_size=4096)
        target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", "--zone-capacity", "256")
        target.call("bdev_lvol_create_lvstore", bdev_name="ftl0", lvs_name="lvs0", cluster_sz=CLUSTER_BYTES)
        target.call("bdev_lvol_create", lvol_name="v", lvs_name="lvs0", size_in_mib=VOLUME_MIB)
        address = "127.0.0.1", target.export(VOLUME, USER_NQN), USER_NQN
        asyncio.run(write_and_verify(*address, random_writes=2000, flush=True, timeout_s=240))
        target.call("nvmf_delete_subsystem", nqn=USER_NQN)
        digest, before = volume_digest(target), device_of(target, daemon)

        with base.open("r+b") as file:
            file.truncate(AFTER)
        target.call("bdev_aio_rescan", name="Aio0")
        assert num_blocks(target, "Aio0") == AFTER // 4096
        assert volume_digest(target) == digest
        now = device_of(target, daemon)
        assert (now["num_blocks"], now["num_bands"], now["since"]) == tuple(
            before[key] for key in ("num_blocks", "num_bands", "since")
        )

        told = json.loads(target.ftl(daemon, "bdev_ftl_grow", "-b", "ftl0"))
        assert told["changed"]
        assert told["num_blocks"] > before["num_blocks"] * 1.5
        assert told["target_num_blocks"] == num_blocks(target, "ftl0") == before["num_blocks"]
        assert device_of(target, daemon)["num_blocks"] == told["num_blocks"]
        assert volume_digest(target) == digest

        target.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
        again = json.loads(target.ftl(daemon, "bdev_ftl_grow", "-b", "ftl0"))
        assert again == {**told, "changed": False, "target_num_blocks": told["num_blocks"]}
        assert num_blocks(target, "ftl0") == told["num_blocks"]
        done = verify_through(target, random_writes=1000)
        assert done["verified"] == told["num_blocks"] // 16 * 16
        target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")

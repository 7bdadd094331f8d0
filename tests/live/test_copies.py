"""A snapshot of a base under a running FTL, on a real spdk_tgt: it gets a uuid of its own, and is loaded beside it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from live.spdk_target import SpdkTarget
from support.drive import HOST_NQN, digest, write_and_verify
from support.system import Daemon

BASE_MIB, VOLUME_MIB = 512, 160
ZONES = ("--zone-capacity", "256")
BASE, CLONE = "lvs0/base", "lvs0/clone"


def address_of(target: SpdkTarget, daemon: Daemon, name: str) -> tuple[str, str, str]:
    (device,) = [each for each in json.loads(target.ftl(daemon, "ftl_get_devices")) if each["name"] == name]
    assert (device["state"], device["error"]) == ("online", None)
    return device["export"]["traddr"], device["export"]["trsvcid"], device["export"]["subnqn"]


def test_a_snapshot_of_a_base_in_use_is_loaded_beside_it(spdk_program: str, folder: Path) -> None:
    with Daemon(folder) as daemon, SpdkTarget(spdk_program, folder) as target:
        target.call("nvmf_create_transport", trtype="TCP")
        target.call("bdev_malloc_create", name="Malloc0", num_blocks=BASE_MIB << 8, block_size=4096)
        target.call("bdev_lvol_create_lvstore", bdev_name="Malloc0", lvs_name="lvs0", cluster_sz=4 << 20)
        target.call("bdev_lvol_create", lvol_name="base", lvs_name="lvs0", size_in_mib=VOLUME_MIB)
        create = "bdev_ftl_create", "-b", "ftl0", "-d", BASE, *ZONES, "--host", HOST_NQN
        uuid = json.loads(target.ftl(daemon, *create))["uuid"]
        address = address_of(target, daemon, "ftl0")
        asyncio.run(write_and_verify(*address, random_writes=2000, flush=True, timeout_s=240))
        before = asyncio.run(digest(*address))

        target.call("bdev_lvol_snapshot", lvol_name=BASE, snapshot_name="snap")
        target.call("bdev_lvol_clone", snapshot_name="lvs0/snap", clone_name="clone")
        asyncio.run(write_and_verify(*address, random_writes=100, seed=2, flush=True, timeout_s=240))
        set_uuid = "bdev_ftl_set_uuid", "-d", CLONE, "-u", uuid
        told = json.loads(target.ftl(daemon, *set_uuid, "--force"))
        assert told["was"] == uuid
        target.ftl(daemon, "bdev_ftl_load", "-b", "ftl1", "-d", CLONE, *ZONES, "-u", told["uuid"])
        target.ftl(daemon, "bdev_ftl_add_host", "-b", "ftl1", "--host", HOST_NQN)
        assert asyncio.run(digest(*address_of(target, daemon, "ftl1"))) == before
        assert asyncio.run(digest(*address)) != before
        for name in ("ftl1", "ftl0"):
            target.ftl(daemon, "bdev_ftl_delete", "-b", name)

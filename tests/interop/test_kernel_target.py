"""An FTL on a zoned drive that Linux serves: null_blk behind nvmet-tcp, as base of the embedded target's bdev_nvme."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from interop.guest import Guest
from interop.nvme_guest import zoned_null_blk
from support.drive import HOST_NQN, write_and_verify
from support.system import Daemon, EmbeddedTarget

NQN = "nqn.2026-11.io.guest:zns"
ZONES = 28
ZONE_BLOCKS = 4 * 256


@pytest.mark.parametrize("append", [False, True], ids=["writes", "appends"])
def test_an_ftl_runs_on_the_kernels_zoned_drive(guest: Guest, folder: Path, append: bool) -> None:
    with (
        zoned_null_blk(
            guest, NQN, zone_count=ZONES, zone_size_mib=4, zone_capacity_mib=3, max_open=14, max_active=14
        ) as port,
        EmbeddedTarget(folder) as target,
        Daemon(folder) as daemon,
    ):
        target.call("nvmf_create_transport", trtype="TCP")
        names = target.call(
            "bdev_nvme_attach_controller",
            name="Kernel0",
            trtype="TCP",
            adrfam="IPv4",
            traddr="127.0.0.1",
            trsvcid=str(port),
            subnqn=NQN,
        )
        assert names == ["Kernel0n1"]
        base = target.bdev("Kernel0n1")
        assert base is not None
        assert base["zoned"] is True
        assert base["zone_size"] == ZONE_BLOCKS
        assert base["num_blocks"] == ZONES * ZONE_BLOCKS
        before = target.state()

        options = ("--force", "--num-punits", "1", "--overprovisioning", "25", *(("--use-append",) if append else ()))
        target.ftl(
            daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Kernel0n1", "--no-attach", "--host", HOST_NQN, *options
        )
        claimed = target.bdev("Kernel0n1")
        assert claimed is not None
        assert claimed["claimed"] is True
        (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
        export = device["export"]
        # More than the drive holds, so that bands are relocated and the kernel's zones reset.
        done = asyncio.run(
            write_and_verify(
                export["traddr"],
                export["trsvcid"],
                export["subnqn"],
                random_writes=device["num_blocks"] // 2,
                timeout_s=240,
            )
        )
        assert done["verified"] == done["block_count"] == device["num_blocks"]
        zones = guest.run("blkzone report $(ls -d /dev/nullb* /dev/zns 2>/dev/null | head -n 1)").output
        assert "14(fu)" in zones, "the data has to be in the kernel's zones"

        target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
        assert target.state() == before
        target.call("bdev_nvme_detach_controller", name="Kernel0")

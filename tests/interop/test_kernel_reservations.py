"""Linux's nvme-tcp host and nvme-cli reserve an FTL."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from interop.guest import Guest
from interop.nvme_guest import attached
from support.system import Daemon, EmbeddedTarget
from support.tools import lacking
from unit.nvme.nvme_loop import At
from unit.nvme.target.reserving_host import Host

KEY = 0xABCD


def another_host_may(port: int, nqn: str) -> tuple[bool, bool]:
    """Read, and write: what another host than the guest may do now."""

    async def ask() -> tuple[bool, bool]:
        async with Host(At(port), 9, subnqn=nqn) as host:
            return await host.may()

    return asyncio.run(ask())


def report(guest: Guest, disk: str) -> Any:
    return json.loads(guest.run(f"nvme resv-report /dev/{disk} --eds --output-format=json").output)


def test_nvme_cli_reserves_an_ftl_and_the_kernel_keeps_its_rights_over_a_crash(guest: Guest, folder: Path) -> None:
    if guest.run("command -v nvme", check=False).code:
        lacking("the guest has no nvme-cli: apt-get install nvme-cli")
    with EmbeddedTarget(folder, "--zns", "name=Nvme0n1,zones=48,zone_size=16M,capacity=12M,max_open=14") as target:
        target.call("nvmf_create_transport", trtype="TCP")
        daemon = Daemon(folder)
        try:
            target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", "--allow-any-host")
            (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
            port, nqn = int(device["export"]["trsvcid"]), device["export"]["subnqn"]
            with attached(guest, port, nqn) as disk:
                capabilities = json.loads(guest.run(f"nvme id-ns /dev/{disk} -o json").output)["rescap"]
                assert capabilities == 0xFF
                guest.run(
                    f"""set -e
                    nvme resv-register /dev/{disk} --nrkey={KEY:#x} --rrega=0 --cptpl=3
                    nvme resv-acquire /dev/{disk} --crkey={KEY:#x} --rtype=1 --racqa=0"""
                )
                told = report(guest, disk)
                assert (told["rtype"], told["ptpls"], told["regctl"]) == (1, 1, 1)
                assert another_host_may(port, nqn) == (True, False)
                guest.run(f"dd if=/dev/urandom of=/dev/{disk} bs=64k count=4 oflag=direct")

                daemon.kill()
                daemon = Daemon(folder)
                guest.run(f"dd if=/dev/urandom of=/dev/{disk} bs=64k count=4 oflag=direct", timeout_s=60)
                assert another_host_may(port, nqn) == (True, False)
                assert report(guest, disk) == told

                guest.run(f"nvme resv-release /dev/{disk} --crkey={KEY:#x} --rtype=1 --rrela=0")
                assert another_host_may(port, nqn) == (True, True)
                guest.run(f"nvme resv-register /dev/{disk} --crkey={KEY:#x} --rrega=1")
                assert report(guest, disk)["regctl"] == 0
                refused = guest.run(f"nvme resv-acquire /dev/{disk} --crkey={KEY:#x} --rtype=1 --racqa=0", check=False)
                assert "Reservation Conflict" in refused.output, refused.output
            target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
        finally:
            daemon.close()

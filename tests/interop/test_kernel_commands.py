"""nvme-cli sends an FTL what file systems never do: Compare, Verify, Copy, Write Uncorrectable. It reads its health."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interop.guest import Guest
from interop.nvme_guest import GUEST_HOST_NQN, attached
from support.system import Daemon, EmbeddedTarget
from support.tools import lacking

BLOCKS = 16
COMPARE, VERIFY, WRITE_UNCORRECTABLE = 1, 1 << 7, 1 << 1
COPY = 1 << 8


def test_nvme_cli_compares_verifies_copies_and_makes_blocks_unreadable(guest: Guest, folder: Path) -> None:
    if guest.run("command -v nvme", check=False).code:
        lacking("the guest has no nvme-cli: apt-get install nvme-cli")
    drive = "name=Nvme0n1,zones=48,zone_size=16M,capacity=12M,max_open=14"
    with EmbeddedTarget(folder, "--zns", drive) as target, Daemon(folder) as daemon:
        target.call("nvmf_create_transport", trtype="TCP")
        target.ftl(
            daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", "--host", GUEST_HOST_NQN
        )  # fmt: skip
        (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
        with attached(guest, int(device["export"]["trsvcid"]), device["export"]["subnqn"]) as disk:
            path = f"/dev/{disk}"

            def told(command: str) -> Any:
                return json.loads(guest.run(f"nvme {command} {path} --output-format=json").output)

            def fails(command: str, words: str) -> None:
                result = guest.run(command, check=False)
                assert result.code != 0, result.output
                assert words in result.output.lower(), result.output

            controller = told("id-ctrl")
            assert controller["oncs"] & (COMPARE | VERIFY | WRITE_UNCORRECTABLE | COPY) == 0x183
            assert controller["fuses"] == 1
            before = told("id-ns")
            assert before["nsze"] == before["ncap"] == device["num_blocks"]
            length = BLOCKS * 4096
            guest.run(f"dd if=/dev/urandom of=/tmp/sent bs={length} count=1")
            guest.run(f"dd if=/tmp/sent of={path} bs={length} oflag=direct")
            assert told("id-ns")["nuse"] == before["nuse"] + BLOCKS

            compare = f"nvme compare {path} --block-count={BLOCKS - 1} --data-size={length} --start-block="
            guest.run(f"{compare}0 --data=/tmp/sent")
            fails(f"{compare}0 --data=/dev/zero", "compare")
            guest.run(f"nvme verify {path} --start-block=0 --block-count={BLOCKS - 1}")

            half = BLOCKS // 2
            guest.run(f"nvme copy {path} --sdlba=1000 --slbs={half},0 --blocks={half - 1},{half - 1}")
            guest.run(
                f"""set -e
                dd if=/tmp/sent of=/tmp/turned bs={length // 2} skip=1 count=1
                dd if=/tmp/sent of=/tmp/turned bs={length // 2} seek=1 count=1 conv=notrunc
                {compare}1000 --data=/tmp/turned"""
            )
            fails(
                f"nvme copy {path} --sdlba=4 --slbs=0 --blocks=7", "187"
            )  # Overlapping I/O Range, by name only in later versions

            guest.run(f"nvme write-uncor {path} --start-block=3 --block-count=1")
            fails(f"nvme verify {path} --start-block=0 --block-count=7", "unrecovered")
            fails(f"dd if={path} of=/dev/null bs=4k skip=3 count=1 iflag=direct", "no data available")
            guest.run(f"dd if={path} of=/dev/null bs=4k skip=5 count=1 iflag=direct")
            guest.run(f"dd if=/tmp/sent of={path} bs={length} oflag=direct && {compare}0 --data=/tmp/sent")

            smart = told("smart-log")
            assert smart["critical_warning"] == 0
            assert (smart["avail_spare"], smart["spare_thresh"], smart["percent_used"]) == (100, 10, 0)
            assert int(smart["data_units_written"]) >= 1
            assert int(smart["host_write_commands"]) >= 3
            assert int(smart["media_errors"]) == 0
        target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")

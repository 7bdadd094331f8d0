"""Linux's nvme-tcp host on our exports: an FTL as a disk with a file system, an emulated ZNS drive as itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.guest import Guest
from interop.nvme_guest import GUEST_HOST_NQN, attached
from support.system import Daemon, EmbeddedTarget

ZNS_NQN = "nqn.2026-11.io.spdk-ftl:zns-drive"
ZONES = 48
DIGESTS = ("hdr_digest", "data_digest")
GUEST = ("--host", GUEST_HOST_NQN)


@pytest.fixture
def target(folder: Path) -> Iterator[EmbeddedTarget]:
    drive = f"name=Nvme0n1,zones={ZONES},zone_size=16M,capacity=12M,max_open=14"
    with EmbeddedTarget(folder, "--zns", drive) as target:
        target.call("nvmf_create_transport", trtype="TCP")
        yield target


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder) as daemon:
        yield daemon


@pytest.mark.parametrize("options", [(), DIGESTS], ids=["plain", "digests"])
def test_a_file_system_on_an_ftl_survives_remounts_trims_and_fsck(
    guest: Guest, target: EmbeddedTarget, daemon: Daemon, options: tuple[str, ...]
) -> None:
    target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", *GUEST)
    (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
    export = device["export"]
    port, nqn = int(export["trsvcid"]), export["subnqn"]

    with attached(guest, port, nqn, *options) as disk:
        assert int(guest.run(f"cat /sys/block/{disk}/size").output) == device["num_blocks"] * 8
        assert guest.run(f"cat /sys/block/{disk}/queue/logical_block_size").output == "4096\n"
        guest.run(
            f"""set -e
            mkfs.ext4 -F -q /dev/{disk}
            mount -t ext4 -o discard /dev/{disk} /mnt
            dd if=/dev/urandom of=/mnt/large bs=1M count=24 2>/dev/null
            for i in $(seq 200); do head -c $((i * 397)) /dev/urandom >/mnt/small.$i; done
            mkdir -p /mnt/tree && cp -a /host /bin/busybox /mnt/tree/
            cd /mnt && find . -type f | xargs sha256sum >/tmp/sums && cd /
            umount /mnt
            e2fsck -fn /dev/{disk}""",
            timeout_s=240,
        )

    # A new connection: nothing of it can come from the guest's memory.
    with attached(guest, port, nqn, *options) as disk:
        guest.run(
            f"""set -e
            mount -t ext4 -o discard /dev/{disk} /mnt
            cd /mnt && sha256sum -c /tmp/sums >/tmp/checked || (grep -v OK /tmp/checked; exit 1)
            # Overwrite, delete, trim: what is left must be what it was.
            dd if=/dev/urandom of=/mnt/large bs=64k count=200 conv=notrunc 2>/dev/null
            sha256sum large >/tmp/large
            rm small.1*; sync; fstrim /mnt
            cd / && umount /mnt
            mount -t ext4 /dev/{disk} /mnt && cd /mnt
            sha256sum -c /tmp/large
            grep -v -e small.1 -e large /tmp/sums | sha256sum -c >/tmp/checked || (grep -v OK /tmp/checked; exit 1)
            cd / && umount /mnt
            e2fsck -fn /dev/{disk}""",
            timeout_s=240,
        )
        stats = json.loads(target.ftl(daemon, "bdev_ftl_get_stats", "-b", "ftl0"))
        assert "trim" in json.dumps(stats).lower()
        guest.run(
            f"""set -e
            blkdiscard /dev/{disk}
            echo 3 >/proc/sys/vm/drop_caches
            dd if=/dev/{disk} bs=1M count=32 iflag=direct 2>/dev/null | cmp -n 33554432 - /dev/zero""",
            timeout_s=120,
        )
    target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")


def test_a_kernel_that_is_disconnected_comes_back_to_what_it_wrote(
    guest: Guest, target: EmbeddedTarget, daemon: Daemon
) -> None:
    target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", *GUEST)
    (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
    with attached(guest, int(device["export"]["trsvcid"]), device["export"]["subnqn"]) as disk:
        guest.run("dd if=/dev/urandom of=/tmp/random bs=1M count=4")
        guest.run(f"dd if=/tmp/random of=/dev/{disk} bs=64k oflag=direct")
        guest.run("for c in /sys/class/nvme/nvme*; do echo 1 >$c/reset_controller; done")
        read = f"dd if=/dev/{disk} bs=64k count=64 iflag=direct | cmp - /tmp/random"
        guest.run(f"for i in $(seq 20); do {read} && exit 0; sleep 1; done; exit 1", timeout_s=90)
    target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")


def test_an_emulated_zns_drive_is_a_zoned_block_device_to_the_kernel(guest: Guest, target: EmbeddedTarget) -> None:
    port = target.export("Nvme0n1", ZNS_NQN)
    with attached(guest, port, ZNS_NQN) as disk:
        queue = dict(
            line.split(":", 1)
            for line in guest.run(
                f"cd /sys/block/{disk}/queue; grep . zoned nr_zones chunk_sectors zone_append_max_bytes"
            ).output.splitlines()
        )
        assert queue["zoned"] == "host-managed"
        assert int(queue["nr_zones"]) == ZONES
        assert int(queue["chunk_sectors"]) == 16 * 2048
        assert int(queue["zone_append_max_bytes"]) > 0
        report = guest.run(f"blkzone report /dev/{disk}").output.splitlines()
        assert len(report) == ZONES
        assert all("cap 0x006000" in zone and "SEQ_WRITE_REQUIRED" in zone for zone in report)

        guest.run(
            f"""set -e
            dd if=/dev/urandom of=/tmp/zone bs=64k count=16 2>/dev/null
            dd if=/tmp/zone of=/dev/{disk} bs=64k oflag=direct
            dd if=/dev/{disk} bs=64k count=16 iflag=direct | cmp - /tmp/zone"""
        )
        first, second = guest.run(f"blkzone report -c 2 /dev/{disk}").output.splitlines()
        assert "wptr 0x000800" in first
        assert "2(oi)" in first
        assert "1(em)" in second
        # Not at the write pointer: the drive refuses, the kernel reports it, nothing moves.
        refused = guest.run(f"dd if=/tmp/zone of=/dev/{disk} bs=64k count=1 seek=100 oflag=direct", check=False)
        assert refused.code != 0
        guest.run(f"blkzone finish -o 0 -c 1 /dev/{disk} && blkzone open -o 0x8000 -c 1 /dev/{disk}")
        first, second = guest.run(f"blkzone report -c 2 /dev/{disk}").output.splitlines()
        assert "14(fu)" in first
        assert "3(oe)" in second
        guest.run(f"blkzone reset /dev/{disk}")
        assert all("1(em)" in zone for zone in guest.run(f"blkzone report /dev/{disk}").output.splitlines())

"""The harness itself: what the other tests here stand on."""

from __future__ import annotations

import pytest

from interop.guest import CommandFailedError, Guest
from interop.nvme_guest import attached, zoned_null_blk

NQN = "nqn.2026-11.io.spdk-ftl:loop"


def test_exit_codes_and_output_come_back(guest: Guest) -> None:
    result = guest.run("echo out; echo err >&2; echo @END 1 0; exit 3", check=False)
    assert (result.code, result.output) == (3, "out\nerr\n@END 1 0\n")
    with pytest.raises(CommandFailedError, match="no such thing"):
        guest.run("echo no such thing; false")


def test_a_command_that_hangs_is_killed_and_the_guest_goes_on(guest: Guest) -> None:
    assert guest.run("sleep 1000", timeout_s=1, check=False).code == 137
    assert guest.run("echo on").output == "on\n"


def test_orphans_that_end_while_a_request_comes_in_take_nothing_of_it(guest: Guest) -> None:
    guest.run("rm -f /tmp/enough; (while [ ! -e /tmp/enough ]; do (true &); done) &")
    try:
        for number in range(20):
            assert guest.run(f"echo {number} # {'long' * 250}").output == f"{number}\n"
    finally:
        guest.run("touch /tmp/enough")


def test_zoned_null_blk_behind_nvmet_is_reachable_from_this_machine(guest: Guest) -> None:
    with zoned_null_blk(guest, NQN, zone_count=4, zone_size_mib=16, zone_capacity_mib=12, max_open=2) as port:
        assert guest.forward(4420) == port, "a second forward of the same port is the first one"
        # The packets go guest → this machine's loopback → QEMU → the guest's nvmet: the whole way both tests need.
        with attached(guest, port, NQN) as disk:
            zones = guest.run(f"cat /sys/block/{disk}/queue/zoned; blkzone report /dev/{disk}").output.splitlines()
    assert zones[0] == "host-managed"
    assert len(zones) == 1 + 4
    assert all("cap 0x006000" in zone for zone in zones[1:])
    leftover = guest.run("ls /sys/class/nvme /sys/kernel/config/nvmet/subsystems /sys/kernel/config/nvmet/ports").output
    assert "nvme0" not in leftover
    assert NQN not in leftover

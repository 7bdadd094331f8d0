"""Linux's native multipath over two listeners of an FTL: ANA states are followed, and a lost listener costs no I/O."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from interop.guest import Guest
from interop.nvme_guest import GUEST_HOST_NQN, attached
from support.system import Daemon, EmbeddedTarget

DRIVE = "name=Nvme0n1,zones=48,zone_size=16M,capacity=12M,max_open=14"
WAIT_S = 60


def wait(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)  # another machine's doing; nothing announces it


def test_a_host_follows_the_states_of_listeners_and_outlives_one(guest: Guest, folder: Path) -> None:
    with EmbeddedTarget(folder, "--zns", DRIVE) as target, Daemon(folder) as daemon:
        target.call("nvmf_create_transport", trtype="TCP")
        target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", "--host", GUEST_HOST_NQN)
        (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
        first, nqn = int(device["export"]["trsvcid"]), device["export"]["subnqn"]
        added = target.ftl(daemon, "bdev_ftl_add_listener", "-b", "ftl0", "--listen-address", "127.0.0.1").strip('"\n ')
        second = int(added.rpartition(":")[2])

        def states() -> set[str]:
            return set(guest.run("cat /sys/class/nvme/nvme*/nvme*c*n*/ana_state", check=False).output.split())

        def set_state(port: int, state: str) -> None:
            where = ("--listen-address", f"127.0.0.1:{port}", "--ana-state", state)
            target.ftl(daemon, "bdev_ftl_set_ana_state", "-b", "ftl0", *where)

        def io() -> None:
            guest.run(
                f"""set -e
                dd if=/dev/urandom of=/tmp/random bs=64k count=8 2>/dev/null
                dd if=/tmp/random of=/dev/{disk} bs=64k oflag=direct 2>/dev/null
                dd if=/dev/{disk} bs=64k count=8 iflag=direct 2>/dev/null | cmp - /tmp/random""",
                timeout_s=90,
            )

        with attached(guest, first, nqn) as disk, attached(guest, second, nqn) as same:
            assert same == disk
            wait(lambda: states() == {"optimized"}, states)
            io()
            for port in (first, second):
                set_state(port, "inaccessible")
                wait(lambda: states() == {"optimized", "inaccessible"}, states)
                io()
                set_state(port, "optimized")
                wait(lambda: states() == {"optimized"}, states)
            set_state(first, "non_optimized")
            wait(lambda: states() == {"optimized", "non-optimized"}, states)
            io()
            target.ftl(daemon, "bdev_ftl_remove_listener", "-b", "ftl0", "--listen-address", added)
            io()
        target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")

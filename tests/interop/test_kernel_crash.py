"""A file system of a stock Linux on an FTL whose daemon, target, or both, are killed in the middle of writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from interop.guest import Guest
from interop.nvme_guest import GUEST_HOST_NQN, attached
from support.system import Daemon, EmbeddedTarget

DRIVE = "name=Nvme0n1,zones=48,zone_size=16M,capacity=12M,max_open=14,path={}/drive"
FILES_BETWEEN = 4
WAIT_S = 120.0

# Each file is written and fsynced; only then its checksum goes to the list, which is not on the FTL. So what is in the
# list was promised to be durable. A window of files is kept, so that blocks are freed, trimmed and written again.
WRITER = """
i=0
while [ ! -e /tmp/stop ]; do
    i=$((i + 1))
    head -c $((i * 791900 % 3000000 + 1)) /dev/urandom >/tmp/content
    sum=$(sha256sum </tmp/content)
    if dd if=/tmp/content of=/mnt/file.$i bs=16k conv=fsync 2>/tmp/dd; then
        echo "${sum%-}file.$i" >>/tmp/fsynced
    else
        cat /tmp/dd >>/tmp/errors
    fi
    old=$((i - 60))
    if [ $old -gt 0 ]; then
        grep -v "file.$old\\$" /tmp/fsynced >/tmp/fsynced.new; mv /tmp/fsynced.new /tmp/fsynced
        rm -f /mnt/file.$old || echo "rm file.$old" >>/tmp/errors
    fi
    echo $i >/tmp/count.new; mv /tmp/count.new /tmp/count
done
touch /tmp/stopped
"""


class System:
    """Target and daemon that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.target = self._start_target()
        self.daemon = Daemon(folder)

    def _start_target(self) -> EmbeddedTarget:
        target = EmbeddedTarget(self._folder, "--zns", DRIVE.format(self._folder))
        target.call("nvmf_create_transport", trtype="TCP")
        return target

    def kill_and_restart(self, who: str) -> None:
        if who != "daemon":
            self.target.kill()
        if who != "target":
            self.daemon.kill()
            self.daemon = Daemon(self._folder)
        if who != "daemon":
            self.target = self._start_target()

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.target.close)
            stack.callback(self.daemon.close)


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    system = System(folder)
    try:
        yield system
    finally:
        system.close()


@contextmanager
def writing(guest: Guest) -> Iterator[None]:
    """The writer, until the body has ended and the writer its last file."""
    guest.run("rm -f /tmp/stop /tmp/stopped /tmp/errors /tmp/fsynced /tmp/count*; touch /tmp/errors /tmp/fsynced")
    guest.run(f"cat >/tmp/writer <<'EOF'\n{WRITER}\nEOF\nsetsid sh /tmp/writer </dev/null >/dev/null 2>&1 &")
    try:
        yield
    finally:
        guest.run("touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.1; done", timeout_s=WAIT_S)


def files_written(guest: Guest) -> int:
    return int(guest.run("cat /tmp/count 2>/dev/null || echo 0").output)


def wait_for_files(guest: Guest, count: int, daemon: Daemon) -> None:
    """Until the writer has written so many more."""
    wanted = files_written(guest) + count
    deadline = time.monotonic() + WAIT_S
    while (written := files_written(guest)) < wanted:
        errors = guest.run("cat /tmp/errors").output
        assert not errors, f"{errors}\n{daemon.log_tail()}"
        assert time.monotonic() < deadline, f"{written} files of {wanted} after {WAIT_S} s\n{daemon.log_tail()}"
        time.sleep(0.2)  # another machine's doing; nothing announces it


@pytest.mark.parametrize(("who", "kills"), [("daemon", 4), ("target", 2), ("both", 2)])
def test_a_file_system_notices_nothing_of_a_kill_and_every_fsynced_file_is_there(
    guest: Guest, system: System, who: str, kills: int
) -> None:
    how = ("--no-attach", "--host", GUEST_HOST_NQN)
    system.target.ftl(system.daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", *how)
    (device,) = json.loads(system.target.ftl(system.daemon, "ftl_get_devices"))
    port, nqn = int(device["export"]["trsvcid"]), device["export"]["subnqn"]
    guest.run("dmesg -c >/dev/null")

    with attached(guest, port, nqn, "keep_alive_tmo=5") as disk:
        guest.run(f"mkfs.ext4 -F -q /dev/{disk} && mount -t ext4 -o discard /dev/{disk} /mnt", timeout_s=WAIT_S)
        with writing(guest):
            for _ in range(kills):
                wait_for_files(guest, FILES_BETWEEN, system.daemon)
                system.kill_and_restart(who)
                wait_for_files(guest, FILES_BETWEEN, system.daemon)
        assert guest.run("cat /tmp/errors").output == ""
        guest.run(f"umount /mnt && e2fsck -fn /dev/{disk}", timeout_s=WAIT_S)

    # A new connection: nothing of it can come from the guest's memory.
    with attached(guest, port, nqn) as disk:
        checked = guest.run(
            f"""set -e
            echo 3 >/proc/sys/vm/drop_caches
            mount -t ext4 /dev/{disk} /mnt
            cd /mnt && sha256sum -c /tmp/fsynced >/tmp/checked || (grep -v OK /tmp/checked; exit 1)
            cd / && umount /mnt
            wc -l </tmp/checked""",
            timeout_s=WAIT_S,
        ).output
        assert int(checked) > FILES_BETWEEN
    # The kernel counts what it had to tell the file system; a lost connection alone it only mentions.
    console = guest.run("dmesg").output
    errors = [line for line in console.splitlines() if "I/O error" in line or "EXT4-fs error" in line]
    assert not errors, f"{errors}\n{system.daemon.log_tail()}"
    system.target.ftl(system.daemon, "bdev_ftl_delete", "-b", "ftl0")

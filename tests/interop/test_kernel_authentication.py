"""Linux's nvme-tcp host proves with DH-HMAC-CHAP who it is: CONFIG_NVME_HOST_AUTH.

Debian 12's 6.1 has "# CONFIG_NVME_AUTH is not set" in its config, so these tests run a guest of their own with the
kernel of Debian 13 (6.12, "CONFIG_NVME_HOST_AUTH=y"): interop/kernel.py gets it.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from interop.guest import Guest
from interop.nvme_guest import GUEST_HOST_NQN, attached, connect_arguments
from spdk_ftl_py.nvme.auth.key import DhchapKey, write_key_file
from spdk_ftl_py.nvme.auth.messages import HashId
from support.system import Daemon, EmbeddedTarget

ZNS = "name=Nvme0n1,zones=48,zone_size=16M,capacity=12M,max_open=14"
SAID_S = 30.0


class World:
    """A daemon with an FTL that the guest may have with its key, and both proofs' keys as they are now."""

    def __init__(self, folder: Path, target: EmbeddedTarget, daemon: Daemon) -> None:
        self._folder, self._target, self._daemon = folder, target, daemon
        self.key = self.new_key("host.key")
        self.ctrlr_key = self.new_key("ctrlr.key", HashId.SHA384)
        files = ("--dhchap-key", str(folder / "host.key"), "--dhchap-ctrlr-key", str(folder / "ctrlr.key"))
        target.ftl(
            daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", "--host", GUEST_HOST_NQN, *files
        )
        (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
        self.port, self.nqn = int(device["export"]["trsvcid"]), str(device["export"]["subnqn"])

    def new_key(self, name: str, transform: HashId = HashId.SHA256) -> str:
        key = DhchapKey.generate(transform)
        write_key_file(self._folder / name, key)
        return key.format()

    def hosts(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._target.ftl(self._daemon, "bdev_ftl_get_hosts", "-b", "ftl0"))
        return answer

    def authentication(self) -> str:
        (controller,) = self.hosts()["controllers"]
        return str(controller["authentication"])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        folder = Path(path)
        with EmbeddedTarget(folder, "--zns", ZNS) as target:
            target.call("nvmf_create_transport", trtype="TCP")
            with Daemon(folder) as daemon:
                yield World(folder, target, daemon)


@contextmanager
def working(guest: Guest, world: World, *options: str) -> Iterator[tuple[str, str]]:
    """(name of its disk, path of its controller in sysfs) of the guest's kernel, connected; the disk does its work."""
    with attached(guest, world.port, world.nqn, *options) as disk:
        works(guest, disk)
        controller = disk[: disk.index("n", len("nvme"))]
        yield disk, f"/sys/class/nvme/{controller}"


def works(guest: Guest, disk: str) -> None:
    guest.run(
        f"""set -e
        [ -b /dev/{disk} ]
        dd if=/dev/urandom of=/tmp/random bs=64k count=8 2>/dev/null
        dd if=/tmp/random of=/dev/{disk} bs=64k oflag=direct 2>/dev/null
        dd if=/dev/{disk} bs=64k count=8 iflag=direct 2>/dev/null | cmp - /tmp/random""",
        timeout_s=60,
    )


def refused(guest: Guest, world: World, *options: str) -> tuple[str, str]:
    """It does not connect. (What its kernel says, why the daemon says it was refused, if it does.)"""
    before = {(each["reason"], each["count"]) for each in world.hosts()["refused"]}
    arguments = connect_arguments(world.port, world.nqn, *options)
    answer = guest.run(f"dmesg -c >/dev/null; echo -n '{arguments}' >/dev/nvme-fabrics", check=False)
    assert answer.code != 0
    assert not world.hosts()["controllers"]
    new = [each["reason"] for each in world.hosts()["refused"] if (each["reason"], each["count"]) not in before]
    return guest.run("dmesg").output, "; ".join(new)


def said(guest: Guest, pattern: str) -> str:
    """All that its kernel has said, when it has said that."""
    deadline = time.monotonic() + SAID_S
    while not re.search(pattern, log := guest.run("dmesg").output):
        assert time.monotonic() < deadline, log
        time.sleep(0.2)  # nothing announces it
    return log


def test_a_kernel_with_its_key_gets_in_and_proves_itself_again_with_another(proving_guest: Guest, world: World) -> None:
    """By way of sysfs. Our I/O queues take no second proof, which the kernel only notes: they go on."""
    with working(proving_guest, world, f"dhchap_secret={world.key}") as (disk, path):
        assert world.authentication() == "sha256, ffdhe3072, one way"
        world.key = world.new_key("host.key")
        proving_guest.run(f"dmesg -c >/dev/null; echo '{world.key}' >{path}/dhchap_secret")
        log = said(proving_guest, "qid 1: authentication failed")
        assert "qid 0: authenticated with hash hmac(sha256) dhgroup ffdhe3072" in log
        assert proving_guest.run(f"cat {path}/state").output == "live\n"
        works(proving_guest, disk)
        assert "error recovery" not in proving_guest.run("dmesg").output


@pytest.mark.parametrize("options", [(), ("hdr_digest", "data_digest")], ids=["plain", "digests"])
def test_a_kernel_that_wants_our_proof_has_it(proving_guest: Guest, world: World, options: tuple[str, ...]) -> None:
    keys = f"dhchap_secret={world.key}", f"dhchap_ctrl_secret={world.ctrlr_key}"
    with working(proving_guest, world, *keys, *options):
        assert world.authentication() == "sha256, ffdhe3072, both ways"


def test_a_kernel_without_the_keys_does_not_get_in(proving_guest: Guest, world: World) -> None:
    wrong = DhchapKey.generate().format()
    log, _ = refused(proving_guest, world)
    assert "qid 0: no key" in log
    log, reason = refused(proving_guest, world, f"dhchap_secret={wrong}")
    assert "qid 0: authentication failed" in log
    assert "the host has another key" in reason
    # It is the kernel that does not believe us, and it closes the connection.
    log, _ = refused(proving_guest, world, f"dhchap_secret={world.key}", f"dhchap_ctrl_secret={wrong}")
    assert "qid 0: controller authentication failed" in log


def test_a_kernel_that_proves_itself_again_with_a_wrong_key_is_out(proving_guest: Guest, world: World) -> None:
    with working(proving_guest, world, f"dhchap_secret={world.key}") as (disk, path):
        wrong = DhchapKey.generate().format()
        proving_guest.run(f"dmesg -c >/dev/null; echo '{wrong}' >{path}/dhchap_secret")
        said(proving_guest, "Removing ctrl")
        assert proving_guest.run(f"[ -b /dev/{disk} ]", check=False).code != 0
        assert not world.hosts()["controllers"]

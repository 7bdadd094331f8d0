"""kill -9 of a real spdk_tgt and of the daemon beside it: what hosts were told is there, and I/O goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from live.spdk_target import SpdkTarget
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture.hosts import HOST_NQN as LOAD_NQN
from spdk_ftl_py.torture.hosts import MIXES, Hosts
from spdk_ftl_py.under_test.restartable import DaemonUnderTest, Restartable
from support.drive import HOST_NQN, digest, write_and_verify
from support.system import Daemon, EmbeddedTarget

DRIVE_NQN = "nqn.2026-11.io.spdk-ftl:drive"
CONCAT_NQN = "nqn.2026-11.io.spdk-ftl:concat-of-ftl0"
DRIVE = "name=Drive0,zones=64,zone_size=2M,capacity=1536K,max_open=14,max_active=14"
FILE_BYTES = 96 << 20
BACK_TIMEOUT_MS = 60_000
HOSTS = 2
HOST_TIMEOUT_S = 120.0
LOAD_S = 0.5


class Target(Restartable[SpdkTarget]):
    @property
    def spdk(self) -> SpdkTarget:
        return self.now


@contextmanager
def running(program: str, folder: Path, configure: Callable[[SpdkTarget], None]) -> Iterator[Target]:
    """A real target that can be killed, and is started again by its user with the same configuration."""

    def start() -> SpdkTarget:
        spdk = SpdkTarget(program, folder)
        try:
            spdk.call("nvmf_create_transport", trtype="TCP")
            configure(spdk)
        except BaseException:
            spdk.close()
            raise
        return spdk

    target = Target(start)
    try:
        yield target
    finally:
        target.stop()


@pytest.fixture
def daemons(folder: Path) -> Iterator[DaemonUnderTest]:
    """One after the other, with the same state."""
    daemons = DaemonUnderTest(folder)
    yield daemons
    daemons.stop()


@pytest.fixture
def zns_drive(folder: Path) -> Iterator[EmbeddedTarget]:
    """An emulated ZNS drive behind NVMe/TCP, as a drive in another box would be: it outlives the target."""
    with EmbeddedTarget(folder, "--zns", DRIVE) as box:
        box.call("nvmf_create_transport", trtype="TCP")
        yield box


def attacher(box: EmbeddedTarget) -> Callable[[SpdkTarget], None]:
    port = box.export("Drive0", DRIVE_NQN)
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port), "subnqn": DRIVE_NQN}

    def attach(target: SpdkTarget) -> None:
        assert target.call("bdev_nvme_attach_controller", name="Nvme0", **address) == ["Nvme0n1"]

    return attach


def export_of(target: SpdkTarget, daemon: Daemon) -> tuple[str, str, str]:
    (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
    export: dict[str, Any] = device["export"]
    return export["traddr"], export["trsvcid"], export["subnqn"]


def wait_for_ftl0(target: SpdkTarget) -> None:
    assert target.call("bdev_get_bdevs", name="ftl0", timeout=BACK_TIMEOUT_MS)[0]["name"] == "ftl0"


def under_load(address: tuple[str, str, str], crash: Callable[[], None], *, seed: int, times: int = 2) -> None:
    """Hosts that stay connected write, read and trim while somebody is killed and started again, each time they
    flush and read every block; whatever is not as it must be fails the test."""

    async def work() -> None:
        reactor = ReactorLoop("live hosts")
        await reactor.start()
        try:
            hosts = await Hosts.connect(reactor, *address, count=HOSTS, seed=seed, timeout_s=HOST_TIMEOUT_S)
            rng = random.Random(seed)
            try:
                for _ in range(times):
                    hosts.start(rng.choice(MIXES[:3]), rng)
                    await asyncio.sleep(LOAD_S)
                    await asyncio.to_thread(crash)
                    await asyncio.wait_for(hosts.flush_all(), HOST_TIMEOUT_S)
                    await asyncio.sleep(LOAD_S)
                    await asyncio.wait_for(hosts.stop(), HOST_TIMEOUT_S)
                    await asyncio.wait_for(hosts.verify(rng), HOST_TIMEOUT_S)
                    assert not hosts.violations, [str(violation) for violation in hosts.violations[:10]]
                    assert hosts.blocks_verified >= hosts.block_count
            finally:
                await hosts.close()
        finally:
            await reactor.stop()

    asyncio.run(work())


@pytest.mark.embedded
def test_what_was_flushed_to_a_file_is_there_when_the_target_was_killed(spdk_program: str, folder: Path) -> None:
    base = folder / "base"
    with base.open("wb") as file:
        file.truncate(FILE_BYTES)

    def configure(target: SpdkTarget) -> None:
        target.call("bdev_aio_create", name="Aio0", filename=str(base), block_size=4096)

    with running(spdk_program, folder, configure) as target, Daemon(folder) as daemon:
        zones = ("--zone-capacity", "256", "--num-punits", "2")
        target.spdk.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", *zones, "--host", HOST_NQN)
        address = export_of(target.spdk, daemon)
        done = asyncio.run(write_and_verify(*address, random_writes=5000, flush=True, timeout_s=240))
        before = asyncio.run(digest(*address))
        target.kill_and_restart()
        wait_for_ftl0(target.spdk)
        assert export_of(target.spdk, daemon) == address
        assert asyncio.run(digest(*address)) == before
        assert done["verified"] == done["block_count"]
        target.spdk.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")


@pytest.mark.embedded
def test_hosts_notice_nothing_of_a_killed_target_whose_drive_lives_on(
    spdk_program: str, folder: Path, zns_drive: EmbeddedTarget
) -> None:
    with running(spdk_program, folder, attacher(zns_drive)) as target, Daemon(folder) as daemon:
        allowed = [word for number in range(HOSTS) for word in ("--host", LOAD_NQN.format(number))]
        target.spdk.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", *allowed)
        under_load(export_of(target.spdk, daemon), target.kill_and_restart, seed=1)
        wait_for_ftl0(target.spdk)
        target.spdk.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")


@pytest.mark.embedded
def test_hosts_notice_nothing_of_a_killed_daemon(
    spdk_program: str, folder: Path, zns_drive: EmbeddedTarget, daemons: DaemonUnderTest
) -> None:
    with running(spdk_program, folder, attacher(zns_drive)) as target:
        allowed = [word for number in range(HOSTS) for word in ("--host", LOAD_NQN.format(number))]
        target.spdk.ftl(daemons.now, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", *allowed)
        under_load(export_of(target.spdk, daemons.now), daemons.kill_and_restart, seed=3)
        wait_for_ftl0(target.spdk)
        target.spdk.ftl(daemons.now, "bdev_ftl_delete", "-b", "ftl0")


def test_the_targets_own_bdev_goes_on_when_the_daemon_was_killed(
    spdk_program: str, folder: Path, zns_drive: EmbeddedTarget, daemons: DaemonUnderTest
) -> None:
    """I/O from within the target: hosts stay connected to its own nvmf export of a concat on ftl0."""
    with running(spdk_program, folder, attacher(zns_drive)) as target:
        spdk = target.spdk
        spdk.ftl(daemons.now, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
        spdk.call("bdev_raid_create", name="Concat0", raid_level="concat", strip_size_kb=64, base_bdevs=["ftl0"])
        port = spdk.export("Concat0", CONCAT_NQN)
        under_load(("127.0.0.1", str(port), CONCAT_NQN), daemons.kill_and_restart, seed=2)
        spdk.call("nvmf_delete_subsystem", nqn=CONCAT_NQN)
        spdk.call("bdev_raid_delete", name="Concat0")
        spdk.ftl(daemons.now, "bdev_ftl_delete", "-b", "ftl0")
        assert spdk.bdev("ftl0") is None

"""A base in a real spdk_tgt that fails, is slow, or loses zones: what hosts see of it, and what is lost."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.test_peer_loss import HOSTNQN, VerifyingHost, in_thread, under_load
from live.spdk_target import SpdkTarget
from live.test_live import check
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl.gc.zone_watch import ROUND_S
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.drive import HOST_NQN, write_and_verify
from support.system import Daemon, EmbeddedTarget

MALLOC_BLOCKS = 96 * 256
ZONES = ("--zone-capacity", "256", "--num-punits", "2")
EVERY = 0xFFFFFFFF
"""As many I/Os as bdev_error can be told to fail: more than there are."""
ERROR_S = 30.0
POLL_S = 0.25
BACK_TIMEOUT_S = 60.0
LATENCIES = ("avg_read", "p99_read", "avg_write", "p99_write")

DRIVE_NQN = "nqn.2026-11.io.spdk-ftl:drive"
ZONE_SIZE, ZONE_CAPACITY = 512, 384
PUNITS = 3
SPARE_ZONES = 2
DRIVE = f"name=Drive0,zones={2 + 31 * PUNITS + SPARE_ZONES},zone_size=2M,capacity=1536K,max_open=14,max_active=14"
NOTICED_TIMEOUT_S = ROUND_S + 30.0
READ_BLOCKS = 256


class Ftl:
    """The FTL ftl0 in the real target, and what its daemon tells of it."""

    def __init__(self, target: SpdkTarget, daemon: Daemon, base: str, *options: str) -> None:
        self.daemon = daemon
        self._target = target
        self._client = DaemonClient(daemon.socket)
        hosts = ("--host", HOST_NQN, "--host", HOSTNQN)
        target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", base, *hosts, *options)

    def device(self) -> dict[str, Any]:
        (device,) = self._client.call("ftl_get_devices")
        return dict(device)

    @property
    def address(self) -> tuple[str, str, str]:
        export = self.device()["export"]
        return export["traddr"], export["trsvcid"], export["subnqn"]

    def stats(self) -> dict[str, Any] | None:
        """None while it waits for its base."""
        try:
            return dict(self._client.call("bdev_ftl_get_stats", {"name": "ftl0"}))
        except FtlError:
            return None

    def property(self, name: str) -> Any:
        properties = self._client.call("bdev_ftl_get_properties", {"name": "ftl0"})["properties"]
        return {entry["name"]: entry.get("value") for entry in properties}[name]

    def nothing_was_given_up(self) -> None:
        """So far; as far as it can say so now."""
        stats = self.stats()
        if stats is not None:
            assert (stats["zone_faults"], stats["lost_blocks"]) == (0, 0), self.daemon.log_tail()

    async def states_for(self, seconds: float) -> set[str]:
        """The states it is in meanwhile."""
        states = set()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states.add((await in_thread(self.device))["state"])
            await in_thread(self.nothing_was_given_up)
            await asyncio.sleep(POLL_S)
        return states

    async def online(self) -> None:
        """Nothing announces it."""
        deadline = time.monotonic() + BACK_TIMEOUT_S
        while (device := await in_thread(self.device))["state"] != "online":
            assert device["state"] != "failed", f"{device}\n{self.daemon.log_tail()}"
            assert time.monotonic() < deadline, f"{device}\n{self.daemon.log_tail()}"
            await asyncio.sleep(POLL_S)

    def delete(self) -> None:
        self._target.ftl(self.daemon, "bdev_ftl_delete", "-b", "ftl0")


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder) as daemon:
        yield daemon


@pytest.fixture
def malloc(spdk_target: SpdkTarget) -> SpdkTarget:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=MALLOC_BLOCKS, block_size=4096)
    return spdk_target


def checked_clean(target: SpdkTarget, base: str, *options: str) -> None:
    checked = check(target, base, *options)
    assert checked.returncode == 0, checked


# --- bdev_error


@pytest.mark.parametrize("io_type", ["all", "write", "read"])
def test_a_base_that_fails_for_half_a_minute_is_a_pause(malloc: SpdkTarget, daemon: Daemon, io_type: str) -> None:
    """Hosts get no error, no zone and no block is given up. SPDK says "internal error", without DNR."""
    base = "EE_Malloc0"
    malloc.call("bdev_error_create", base_name="Malloc0")
    ftl = Ftl(malloc, daemon, base, *ZONES)
    blocks = ftl.device()["num_blocks"]

    def inject(what: str, number: int) -> None:
        malloc.call("bdev_error_inject_error", name=base, io_type=what, error_type="failure", num=number)

    async def body(host: VerifyingHost) -> None:
        await host.moves(2 * blocks)
        assert (await in_thread(ftl.stats))["gc_moved_blocks"] > 0
        inject(io_type, EVERY)
        try:
            states = await ftl.states_for(ERROR_S)
        finally:
            inject("clear", 0)
        host.check()
        # Without reads, or with a flush in doubt, nothing is decided either: the FTL is loaded again, when it can be.
        assert states == ({"online"} if io_type == "write" else {"online", "waiting"}), daemon.log_tail()
        if io_type == "write":
            assert (await in_thread(ftl.stats))["core"]["busy_answers"] > 0
        await ftl.online()
        await host.moves(blocks)
        assert host.host.losses == 0

    export = ftl.device()["export"]
    under_load(None, body, export)  # type: ignore[arg-type]
    ftl.nothing_was_given_up()
    assert ftl.device()["state"] == "online"
    assert ftl.property("bad_zones") == []
    restored = ftl.property("restored")
    assert restored is None or restored["lossy"] is False
    ftl.delete()
    checked_clean(malloc, base, "--zone-capacity", "256")


# --- bdev_delay


def test_a_base_that_is_slow_is_only_slow(malloc: SpdkTarget, daemon: Daemon) -> None:
    quick = {f"{which}_latency": 0 for which in LATENCIES}
    malloc.call("bdev_delay_create", base_bdev_name="Malloc0", name="Delay0", **quick)
    ftl = Ftl(malloc, daemon, "Delay0", *ZONES)
    blocks = ftl.device()["num_blocks"]

    def delay(seconds: float) -> None:
        for which in LATENCIES:
            latency_us = int(seconds * 1e6)
            malloc.call(
                "bdev_delay_update_latency", delay_bdev_name="Delay0", latency_type=which, latency_us=latency_us
            )

    async def body(host: VerifyingHost) -> None:
        await host.moves(2 * blocks)
        for latency_s, moved in ((0.2, 200), (3.0, 30)):
            delay(latency_s)
            assert await ftl.states_for(8.0) == {"online"}
            await host.moves(moved)
        delay(0.0)
        await host.moves(blocks)
        assert host.host.losses == 0

    created = ftl.device()
    under_load(None, body, created["export"])  # type: ignore[arg-type]
    ftl.nothing_was_given_up()
    now = ftl.device()
    assert (now["state"], now["since"]) == ("online", created["since"]), "it was never away"
    ftl.delete()
    checked_clean(malloc, "Delay0", "--zone-capacity", "256")


# --- zones


@asynccontextmanager
async def reading(traddr: str, port: int | str, nqn: str) -> AsyncIterator[BlockPort]:
    """Namespace 1, for a host of its own."""
    reactor = ReactorLoop("live reader")
    await reactor.start()
    try:
        controller = await Controller.connect(traddr, port, nqn, hostnqn=HOST_NQN)
        try:
            qpair = await controller.create_io_qpair(reactor, (await controller.namespaces())[0])
            reader = BlockPort(reactor, qpair, name="live reader")
            try:
                yield reader
            finally:
                await reader.close()
        finally:
            await controller.close()
    finally:
        await reactor.stop()


async def digests(reader: BlockPort, first: int, count: int) -> list[bytes | None]:
    """Of each block; None where it can't be read."""
    found: list[bytes | None] = []
    for lba in range(first, first + count, READ_BLOCKS):
        blocks, readable = await reader.read_what_can_be(lba, min(READ_BLOCKS, first + count - lba))
        found += [
            hashlib.sha256(block).digest() if good else None for block, good in zip(blocks, readable, strict=True)
        ]
    return found


@pytest.fixture
def zns_drive(folder: Path) -> Iterator[EmbeddedTarget]:
    """An emulated ZNS drive behind NVMe/TCP, as a drive in another box would be."""
    with EmbeddedTarget(folder, "--zns", DRIVE) as box:
        box.call("nvmf_create_transport", trtype="TCP")
        yield box


def settled(ftl: Ftl) -> None:
    """Relocation is at rest."""
    started = -1
    deadline = time.monotonic() + BACK_TIMEOUT_S
    while (stats := ftl.stats()) is None or stats["active_relocs"] or stats["relocs_started"] != started:
        assert time.monotonic() < deadline, stats
        started = stats["relocs_started"] if stats is not None else -1
        time.sleep(1.0)


def test_of_zones_that_wear_out_nothing_is_lost_but_what_an_offline_one_held(
    spdk_target: SpdkTarget, zns_drive: EmbeddedTarget, daemon: Daemon
) -> None:
    """Takes a round of zone reports, two minutes: nobody writes those zones, or reads them, so nothing else tells."""
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    port = zns_drive.export("Drive0", DRIVE_NQN)
    path = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port), "subnqn": DRIVE_NQN}
    assert spdk_target.call("bdev_nvme_attach_controller", name="Nvme0", **path) == ["Nvme0n1"]
    ftl = Ftl(spdk_target, daemon, "Nvme0n1", "--num-punits", str(PUNITS))
    address, blocks = ftl.address, ftl.device()["num_blocks"]
    assert len(ftl.property("base_device")["bands"]) == 31
    assert ftl.property("spare_zones") == SPARE_ZONES
    asyncio.run(write_and_verify(*address, random_writes=blocks // 4, flush=True, timeout_s=240))
    settled(ftl)

    async def whole() -> list[bytes | None]:
        async with reading(*address) as host:
            return await digests(host, 0, blocks)

    before = asyncio.run(whole())
    lba_of = {digest: lba for lba, digest in enumerate(before)}
    assert len(lba_of) == blocks, "each block is like no other"
    closed = [band for band in ftl.property("base_device")["bands"] if band["state"] == "closed"]
    worn, gone = sorted(closed, key=lambda band: band["validity"])[-2:]
    read_only, offline = int(worn["zones"][1]), int(gone["zones"][1])

    async def in_force_in(zone: int) -> set[int]:
        async with reading("127.0.0.1", port, DRIVE_NQN) as drive:
            there = await digests(drive, zone * ZONE_SIZE, ZONE_CAPACITY)
        return {lba_of[digest] for digest in there if digest in lba_of}

    kept, lost = asyncio.run(in_force_in(read_only)), asyncio.run(in_force_in(offline))
    assert min(len(kept), len(lost)) > ZONE_CAPACITY // 4
    zns_drive.call("ftltgt_set_zone_state", name="Drive0", zone=read_only, state="read_only")
    zns_drive.call("ftltgt_set_zone_state", name="Drive0", zone=offline, state="offline")

    deadline = time.monotonic() + NOTICED_TIMEOUT_S
    while ftl.property("bad_zones") != sorted((read_only, offline)):
        assert time.monotonic() < deadline, daemon.log_tail()
        time.sleep(POLL_S)
    stats = ftl.stats()
    assert stats is not None
    assert (stats["zone_faults"], stats["lost_blocks"], stats["spare_zones"]) == (2, len(lost), 0), daemon.log_tail()
    assert stats["zone_watch"]["bands_relocated"] == {"offline": 1, "read_only": 1, "reset_recommended": 0}
    assert stats["zone_watch"]["events"] == 0, "SPDK neither asks the drive for them nor has them itself"
    assert ftl.device()["state"] == "online"
    zones = [zone for band in ftl.property("base_device")["bands"] for zone in band["zones"]]
    assert not {read_only, offline} & set(zones)

    after = asyncio.run(whole())
    assert {lba for lba, digest in enumerate(after) if digest is None} == lost
    assert [digest for lba, digest in enumerate(after) if lba not in lost] == [
        digest for lba, digest in enumerate(before) if lba not in lost
    ]
    # What is written again is there again.
    done = asyncio.run(write_and_verify(*address, random_writes=blocks // 4, flush=True, seed=2, timeout_s=240))
    assert done["verified"] == done["block_count"] == blocks
    ftl.delete()
    checked_clean(spdk_target, "Nvme0n1")

"""An FTL whose base is an error bdev or a delay bdev of the embedded target."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spdk_ftl_py.errors import ClaimedError
from unit.daemon.registry_rig import WRITER_BLOCKS, World, Writer, create, gate_of

LATENCIES = {"avg_read_latency": 0, "p99_read_latency": 0, "avg_write_latency": 0, "p99_write_latency": 0}
SLOW_US = 30_000


async def make_base(here: World) -> None:
    await here.rpc("bdev_malloc_create", name="M0", num_blocks=64 * 256, block_size=4096)


async def errors_of(here: World) -> dict[str, int]:
    errors: dict[str, int] = (await here.rpc("bdev_get_iostat", names=["EE_M0"]))["bdevs"][0]["io_error"]
    return errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error_type": "failure"}, "failed"),
        ({"error_type": "nvme_failure", "nvme_sct": 2, "nvme_sc": 0x80}, "nvme_error"),
    ],
    ids=["general", "write-fault"],
)
async def test_writes_that_the_base_fails_lose_nothing(error: dict[str, Any], kind: str, here: World) -> None:
    await make_base(here)
    await here.rpc("bdev_error_create", base_name="M0")
    daemon = await here.start()
    await create(here, daemon, base_bdev="EE_M0", zone_capacity=192)
    with pytest.raises(ClaimedError):
        await create(here, daemon, "ftl1", base_bdev="EE_M0", zone_capacity=192)
    port = gate_of(daemon)
    writer = Writer(port)
    await writer.goes_on()
    for failures in (1, 2):
        expected = (await errors_of(here)).get(kind, 0) + failures
        inject = {"name": "EE_M0", "io_type": "write", "num": failures, **error}
        await here.rpc("bdev_error_inject_error", **inject)
        for _ in range(200):
            if (await errors_of(here)).get(kind, 0) == expected:
                break
            await writer.goes_on()
            await port.flush()
        assert (await errors_of(here))[kind] == expected
        await writer.goes_on()
    await port.flush()
    await writer.verify()
    before = [bytes(block) for block in await port.read(0, WRITER_BLOCKS)]
    await port.close()
    await daemon.halt()
    daemon = await here.start()
    await daemon.wait_for("online")
    port = gate_of(daemon)
    assert [bytes(block) for block in await port.read(0, WRITER_BLOCKS)] == before
    await port.close()
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert not (await here.rpc("bdev_get_bdevs", name="EE_M0"))[0]["claimed"]
    await daemon.halt()


async def test_a_slow_base_shows_in_the_latency_of_flushes(here: World) -> None:
    await make_base(here)
    await here.rpc("bdev_delay_create", base_bdev_name="M0", name="D0", **LATENCIES)
    daemon = await here.start()
    await create(here, daemon, base_bdev="D0", zone_capacity=192)
    port = gate_of(daemon)
    clock = asyncio.get_running_loop().time

    async def seconds() -> float:
        began = clock()
        await port.write(0, bytes(4096))
        await port.flush()
        return clock() - began

    await seconds()
    fast = min([await seconds() for _ in range(5)])
    for kind in ("avg_write", "p99_write"):
        await here.rpc("bdev_delay_update_latency", delay_bdev_name="D0", latency_type=kind, latency_us=SLOW_US)
    slow = min([await seconds() for _ in range(5)])
    assert slow >= SLOW_US / 1e6 > fast
    await port.close()
    await daemon.halt()


async def test_pending_writes_are_a_pause_for_the_ftl(here: World) -> None:
    await make_base(here)
    await here.rpc("bdev_error_create", base_name="M0")
    daemon = await here.start()
    await create(here, daemon, base_bdev="EE_M0", zone_capacity=192)
    port = gate_of(daemon)
    inject = {"name": "EE_M0", "io_type": "write", "error_type": "pending", "num": 1000}
    await here.rpc("bdev_error_inject_error", **inject)
    await port.write(3, b"\x07" * 4096)
    flush = asyncio.ensure_future(port.flush())
    meter = here.target.bdevs.get("M0").meter
    assert meter is not None
    written = meter.stats().write.operations
    await asyncio.sleep(0.05)  # long for a flush
    assert not flush.done()
    assert meter.stats().write.operations == written
    await here.rpc("bdev_error_resume_pending", name="EE_M0")
    await flush
    assert meter.stats().write.operations > written
    assert (await port.read(3, 1))[0][0] == 7
    await port.close()
    await daemon.halt()

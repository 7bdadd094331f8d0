"""The SMART data of an FTL."""

from __future__ import annotations

import dataclasses

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.daemon.smart import smart_of
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.nvme.logs import Smart, build_smart
from spdk_ftl_py.nvme.wire import Status
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import ftl_rig

BLOCK = 4096


async def test_traffic_errors_and_the_end_of_room_are_in_the_smart_log(reactor: ReactorLoop) -> None:
    async with ftl_rig(reactor) as rig:
        assert smart_of(rig.device) == Smart()
        await rig.port.write(0, bytes(8 * BLOCK))
        await rig.port.flush()
        await rig.port.read(0, 4)
        assert smart_of(rig.device) == Smart(
            bytes_read=4 * BLOCK, bytes_written=8 * BLOCK, read_commands=1, write_commands=1
        )
        # Until the write buffer no longer has the block.
        await rig.good("write", pattern="sequential", io_blocks=8)
        await rig.port.flush()
        address = int(rig.device.core.l2p(3, 1)[0])
        rig.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=0x281)
        with pytest.raises(MediaError):
            await rig.port.read(3, 1)
        smart = smart_of(rig.device)
        assert (smart.degraded, smart.read_only, smart.warnings) == (True, False, 0b100)
        assert smart.media_errors >= 1
        rig.media.clear_faults()
        rig.device.life.run_out_of_space(MediaError("no room", status=Status.CAPACITY_EXCEEDED))
        assert smart_of(rig.device).warnings == 0b1100
        with pytest.raises(MediaError, match="no room"):
            await rig.device.halt()


async def test_percentage_used_is_known_only_with_a_rating(reactor: ReactorLoop) -> None:
    async with ftl_rig(reactor) as rig:
        rig.device.bands.wear.add_counted({5: 307})
        rig.device.bands.count_resets()
        assert smart_of(rig.device).percent_used == 0
        assert rig.device.wear_told()["percent_used"] is None
        for rated, used, told in ((1000, 30, 30), (300, 102, 102), (10, 3070, 255)):
            await rig.device.set_conf(dataclasses.replace(rig.device.conf, rated_resets=rated))
            assert smart_of(rig.device).percent_used == used
            assert build_smart(smart_of(rig.device))[5] == told
        assert rig.device.stats()["wear"]["resets_most"] == 307

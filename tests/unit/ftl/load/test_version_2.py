"""Media of the last release, without any running checkpoint: media_v2.json has what each zone of a small drive holds
after a crash and after a halt, and the version of each LBA that was found there."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.ftl.load.restore_rig import MakeRestoreRig, Model, RestoreRig
from unit.shim.ftl.core_bench import BLOCK

MEDIA = json.loads(Path(__file__).with_name("media_v2.json").read_text(encoding="ascii"))


async def put(rig: RestoreRig, zones: list[dict[str, Any]], zone_size: int) -> None:
    port = BlockPort(rig.reactor, rig.base, name="base")
    for number, zone in enumerate(zones):
        start = number * zone_size
        data = zlib.decompress(base64.b85decode(zone["data"])).ljust(zone["written"] * BLOCK, b"\0")
        for offset in range(zone["written"]):
            await port.write(start + offset, data[offset * BLOCK : (offset + 1) * BLOCK])
        if zone["full"]:
            await port.zone_action(_shim.ZoneAction.FINISH, start)
    await port.close()


@pytest.mark.parametrize("how", ["crash", "halt"])
async def test_media_of_the_last_release(make_rig: MakeRestoreRig, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    media = MEDIA[how]
    for name in ("zone_size", "zone_capacity"):
        monkeypatch.setattr(f"unit.ftl.load.restore_rig.{name.upper()}", media[name])
    rig = await make_rig(zones=len(media["zones"]), open_zones=0)
    await put(rig, media["zones"], media["zone_size"])
    uuid = UUID(media["uuid"])
    await rig.load(uuid=uuid, num_punits=1, settings={"running_checkpoint": 5})
    assert rig.device.restored is not None
    assert rig.device.restored["from_checkpoint"] is (how == "halt")
    assert rig.device.restored["damage"] == []
    assert await rig.versions() == media["versions"]
    # It goes on with running checkpoints.
    rig.model = Model(rig.device.block_count)
    rig.model.version = max(media["versions"])
    rig.model.restart(media["versions"])
    rig.device.checkpointing.pause_s = 0
    await rig.traffic(1500)
    assert rig.device.checkpointing.turns > 0
    await rig.flush()
    await rig.crash()
    port = BlockPort(rig.reactor, rig.base, name="base")
    found = await restore(port, uuid)
    await port.close()
    assert found.from_turn
    await rig.load(num_punits=1)
    await rig.check("with a running checkpoint")

"""The reboot drill (support/reboot.py) on a real spdk_tgt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from live.spdk_target import SpdkTarget
from support.reboot import ORDERS, Order, drill, save_by_command, save_by_plugin

FILE_BYTES = 96 << 20
CLUSTER_BYTES = 1 << 20
VOLUME_MIB = 16


class RealRig:
    """Two files as bases. On ftl0 a raid with a superblock, an lvol store on that, and a volume of it, which is
    exported: all but the export comes back by itself when ftl0 appears. On ftl1 a raid without a superblock, exported:
    nothing does. (An export of ftl0 itself, or of a passthru on it, is what v26.05 refuses in its own target.)"""

    ftls: Final = {name: ("-d", base, "--zone-capacity", "256") for name, base in (("ftl0", "Aio0"), ("ftl1", "Aio1"))}

    def __init__(self, program: str) -> None:
        self._program = program

    def start(self, folder: Path, config: Path | None) -> SpdkTarget:
        self._folder = folder
        return SpdkTarget(self._program, folder, *(() if config is None else ("-c", str(config))))

    def make_bases(self, target: Any) -> None:
        for name in ("Aio0", "Aio1"):
            with (self._folder / name).open("wb") as file:
                file.truncate(FILE_BYTES)
            target.call("bdev_aio_create", name=name, filename=str(self._folder / name), block_size=4096)

    def stand_on_them(self, target: Any) -> Sequence[str]:
        target.call(
            "bdev_raid_create", name="r0", raid_level="concat", strip_size_kb=64, base_bdevs=["ftl0"], superblock=True
        )
        target.call("bdev_lvol_create_lvstore", bdev_name="r0", lvs_name="lvs0", cluster_sz=CLUSTER_BYTES)
        target.call("bdev_lvol_create", lvol_name="v", lvs_name="lvs0", size_in_mib=VOLUME_MIB)
        target.call("bdev_raid_create", name="r1", raid_level="concat", strip_size_kb=64, base_bdevs=["ftl1"])
        return "lvs0/v", "r1"


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_everything_is_back(order: Order, spdk_program: str, folder: Path) -> None:
    drill(RealRig(spdk_program), folder, order, save_by_command)


def test_everything_is_back_from_what_spdks_own_command_saved(spdk_program: str, folder: Path) -> None:
    (order,) = (each for each in ORDERS if each.forgets)
    drill(RealRig(spdk_program), folder, order, save_by_plugin)

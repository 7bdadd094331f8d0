"""The reboot drill (support/reboot.py) on the embedded target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from support.reboot import ORDERS, Order, drill, save_by_command, save_by_plugin
from support.system import EmbeddedTarget


class EmbeddedRig:
    """Two ZNS drives in files. A passthru bdev on ftl0 is exported, and ftl1 itself."""

    ftls: Final = {"ftl0": ("-d", "Nvme0n1"), "ftl1": ("-d", "Nvme1n1", "--overprovisioning", "30")}

    def start(self, folder: Path, config: Path | None) -> EmbeddedTarget:
        if config is not None:
            return EmbeddedTarget(folder, "-c", str(config))
        shape = "zones=64,zone_size=1M,capacity=768K,max_open=14"
        drives = [f"name=Nvme{number}n1,{shape},path={folder}/drive{number}" for number in (0, 1)]
        return EmbeddedTarget(folder, *(each for drive in drives for each in ("--zns", drive)))

    def make_bases(self, target: Any) -> None:
        """They are there already."""

    def stand_on_them(self, target: Any) -> Sequence[str]:
        target.call("bdev_passthru_create", name="p0", base_bdev_name="ftl0")
        return "p0", "ftl1"


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
def test_everything_is_back(order: Order, folder: Path) -> None:
    drill(EmbeddedRig(), folder, order, save_by_command)


def test_everything_is_back_from_what_spdks_own_command_saved(folder: Path) -> None:
    (order,) = (each for each in ORDERS if each.forgets)
    drill(EmbeddedRig(), folder, order, save_by_plugin)

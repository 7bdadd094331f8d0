"""The provisioning script of docs/ on a real spdk_tgt: there with an lvol store, and its own export of a volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from live.spdk_target import MEMORY_MIB
from support.processes import free_port
from support.provision import in_order, provision


@pytest.mark.timeout(400)
def test_the_script_of_the_docs_brings_a_volume_on_an_lvol_store_back(spdk_program: str, folder: Path) -> None:
    core = min(os.sched_getaffinity(0))
    told = provision(
        folder,
        SPDK_TGT=spdk_program,
        SPDK_TGT_OPTIONS=f"--no-huge -s {MEMORY_MIB} --no-pci -m [{core}] --disable-cpumask-locks",
        PORT=str(free_port()),
    )
    assert in_order(
        told,
        "made by the same line, run again: False",
        "== an lvol store on it",
        "write: 2048 blocks of a namespace of 16384",
        "== a reboot",
        '"state": "online"',
        "verify: 2048 blocks of a namespace of 16384",
        "== done",
    ), told

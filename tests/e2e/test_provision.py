"""The provisioning script of docs/ on the embedded target."""

from __future__ import annotations

from pathlib import Path

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.usage import commands_of
from support.provision import in_order, provision


def test_the_script_of_the_docs_makes_an_ftl_that_survives_a_reboot(folder: Path) -> None:
    told = provision(folder)
    assert in_order(
        told,
        "== a drive",
        '"changed": true',
        "made by the same line, run again: False",
        "write: 2048 blocks",
        "verify: 2048 blocks",
        "== a reboot",
        '"changed": false',
        '"state": "online"',
        "verify: 2048 blocks",
        "== done",
    ), told
    assert ("grow: left out" in told) != ("grow" in commands_of(cli.build_parser()))
    assert not in_order(told, "store0")

"""What must work with every interpreter: it installs, imports, and makes, verifies and deletes an FTL.

The whole suite runs with one interpreter (`tox`); `tox -e full` runs it with all of them.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

import spdk_ftl_py
from e2e.ftl_world import RELEASE, ZNS, ftl_world
from spdk_ftl_py import _shim
from support.drive import HOST_NQN, write_and_verify

MODULES = [
    module.name
    for module in pkgutil.walk_packages(spdk_ftl_py.__path__, f"{spdk_ftl_py.__name__}.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_the_shim_computes() -> None:
    assert _shim.crc32c(b"123456789") == 0xE3069283


def test_the_command_is_installed_and_says_its_version() -> None:
    command = Path(sysconfig.get_path("scripts")) / "spdk-ftl"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"spdk-ftl {spdk_ftl_py.__version__}\n"


def test_an_ftl_is_created_verified_and_deleted_by_spdk_rpc() -> None:
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as folder, ftl_world(Path(folder), "--zns", ZNS) as world:
        before = world.snapshot()
        rpc = world.client(RELEASE)
        created = rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--host", HOST_NQN)
        assert created["name"] == "ftl0"
        export = world.devices()["ftl0"]["export"]
        asyncio.run(write_and_verify(export["traddr"], export["trsvcid"], export["subnqn"]))
        assert rpc("bdev_ftl_delete", "-b", "ftl0") is True
        assert world.snapshot() == before

"""What must work with every interpreter: it installs, imports, and makes, verifies and deletes an FTL.

The whole suite runs with one interpreter (`tox`); `tox -e full` runs it with all of them.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

import spdk_ftl_py
from e2e.ftl_world import RELEASE, ZNS, ftl_world
from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.target.features import Features
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


def test_what_a_host_has_set_outlives_the_process() -> None:
    """Before Python 3.11 str() of an IntEnum is its name, and the keys of JSON must be numbers."""

    def fresh() -> Features:
        return Features(
            hostid=bytes(16),
            io_queues=4,
            kato_ms=0,
            kato_granularity_ms=100,
            volatile_cache=lambda: True,
            discovery=False,
        )

    record = json.loads(json.dumps(fresh().to_record()))
    assert all(key.isdigit() for key in record["values"])
    features = fresh()
    features.restore(record)
    assert features.to_record() == record


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

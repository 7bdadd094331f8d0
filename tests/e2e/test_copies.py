"""docs/provisioning.md, "A copy of a base", with daemon and target as processes of their own."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e.ftl_world import FtlWorld, ftl_world
from support.drive import HOST_NQN, digest, write_and_verify

BASE_BYTES = 64 << 20
ZONES = ("--zone-capacity", "256")


def spdk_ftl(world: FtlWorld, *arguments: str, code: int = 0) -> Any:
    """What it prints, as JSON; of one that fails, its last line on stderr."""
    command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments, "-s", str(world.target.socket)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1] if code else json.loads(done.stdout)


def address_of(world: FtlWorld, name: str) -> tuple[str, str, str]:
    export = world.devices()[name]["export"]
    return export["traddr"], export["trsvcid"], export["subnqn"]


def digest_of(world: FtlWorld, name: str) -> str:
    return asyncio.run(digest(*address_of(world, name)))


def test_a_copy_and_its_original_side_by_side(folder: Path) -> None:
    base, copy = folder / "base.img", folder / "copy.img"
    with base.open("wb") as file:
        file.truncate(BASE_BYTES)
    with ftl_world(folder) as world:
        world.call("bdev_aio_create", name="Base0", filename=str(base), block_size=4096)
        host = ("--host", HOST_NQN)
        uuid = world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Base0", *ZONES, *host)["uuid"]
        asyncio.run(write_and_verify(*address_of(world, "ftl0"), random_writes=2000, flush=True))
        before = digest_of(world, "ftl0")
        world.rpc("bdev_ftl_delete", "-b", "ftl0")
        shutil.copy(base, copy)
        world.call("bdev_aio_create", name="Copy0", filename=str(copy), block_size=4096)
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Base0", *ZONES, *host, "-u", uuid)

        command = "set-uuid", "--socket", str(world.daemon.socket), "-d", "Copy0", "-u"
        told = spdk_ftl(world, *command, uuid)
        assert told == {"bdev": "Copy0", "name": "ftl0", "uuid": told["uuid"], "was": uuid}
        # Again, now as a command of spdk-rpc.
        again = world.rpc("bdev_ftl_set_uuid", "-d", "Copy0", "-u", uuid, "--new-uuid", told["uuid"])
        assert again == told
        error = spdk_ftl(world, *command, uuid, code=1)
        assert f"bdev Copy0 holds FTL 'ftl0' with uuid {told['uuid']}, not {uuid}" in error
        spdk_ftl(world, *command, "x", code=2)

        world.rpc("bdev_ftl_load", "-b", "ftl1", "-d", "Copy0", *ZONES, "-u", told["uuid"])
        world.rpc("bdev_ftl_add_host", "-b", "ftl1", "--host", HOST_NQN)
        assert digest_of(world, "ftl1") == before
        asyncio.run(write_and_verify(*address_of(world, "ftl0"), random_writes=100, flush=True, seed=2))
        assert digest_of(world, "ftl0") != before
        assert digest_of(world, "ftl1") == before
        for name in ("ftl0", "ftl1"):
            world.rpc("bdev_ftl_delete", "-b", name)
        report = spdk_ftl(world, "check", "Copy0", *ZONES, "--json")
        assert (report["result"], report["uuid"]) == ("clean", told["uuid"])

"""SPDK's own save_config and load_config of each release, with our plugin: what one prints, the other takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from e2e.ftl_world import FtlWorld, ftl_world
from support.processes import daemon_process, target_process

DRIVE = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14"


def test_what_the_plugin_saves_it_loads_into_an_empty_target(folder: Path, release: str) -> None:
    saved = folder / "saved.json"
    with ftl_world(folder, "--zns", f"{DRIVE},path={folder}/drive") as world:
        client = world.client(release)
        made = client("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
        world.call("bdev_passthru_create", name="p0", base_bdev_name="ftl0")
        document = client("save_config")
        assert [each["subsystem"] for each in document["subsystems"]] == ["keyring", "bdev", "nvmf", "ftl"]
        assert "io.spdk-ftl" not in json.dumps(document["subsystems"][:-1])
        assert "ftl0" not in json.dumps(document["subsystems"][:-1])
        assert [each["subsystem"] for each in client("save_config", "-s", "bdev")["subsystems"]] == ["keyring", "bdev"]
        one_line = client.run("save_config", "-i", "-1").stdout
        assert (json.loads(one_line), one_line.count("\n")) == (document, 1)
        saved.write_text(one_line)
    # Nothing of the daemon is left, and nothing of the target but the drive.
    shutil.rmtree(folder / "state")
    with target_process(folder) as target, daemon_process(folder) as daemon:
        world = FtlWorld(folder, target, daemon)
        client = world.client(release)
        answer = client("load_config", "-j", str(saved))
        assert [each["uuid"] for each in answer["loaded"]] == [made["uuid"]]
        world.wait_for_state("ftl0", "online")
        assert world.call("bdev_get_bdevs", name="p0", timeout=60_000)[0]["product_name"] == "passthru"
        assert client("save_config") == document

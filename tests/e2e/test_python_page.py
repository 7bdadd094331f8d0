"""docs/python.md: each of its examples, run as a user would, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from support.python_page import Example, examples

RUN_S = 120
COMPLAINT = re.compile("Traceback|Warning|Exception ignored")
TELLS = {
    "Provision from a script": "ftl0 is online: ",
    "Many calls at once": "ftl0: online, write amplification 0.0\n",
    "Drive I/O to an export": "64 of ",
    "An FTL in ten lines": "b'any block, in any order   ",
    "Settings": "conf band_thld = 0: must be 1..100",
    "Export it": "nvme connect -t tcp -a 127.0.0.1 -s ",
    "Errors": "-19: ",
}
"""How the output of each begins."""


def run(example: Example, folder: Path, *arguments: str, socket: str) -> subprocess.CompletedProcess[str]:
    script = folder / f"{example.name}.py"
    script.write_text(example.text, encoding="utf-8")
    paths = [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "SPDK_FTL_SOCK": socket},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


def run_all(world: FtlWorld, folder: Path) -> None:
    socket = str(world.daemon.socket)
    for example in examples():
        done = run(example, folder, str(world.target.socket), "Nvme0n1", socket=socket)
        where = f"docs/python.md:{example.line}, {example.section}"
        assert (done.returncode, done.stderr) == (0, ""), (
            f"{where}\n{done.stdout}{done.stderr}\n{world.daemon.log_tail()}"
        )
        assert done.stdout.startswith(TELLS[example.section]), f"{where}\n{done.stdout}"


def test_every_example_of_the_page_runs(folder: Path, tmp_path: Path) -> None:
    assert [example.section for example in examples()] == list(TELLS)
    with ftl_world(folder, "--zns", ZNS) as world:
        run_all(world, tmp_path)
        # What was provisioned is there, and is not made again.
        first = examples()[0]
        uuid = world.devices()["ftl0"]["uuid"]
        done = run(first, tmp_path, str(world.target.socket), "Nvme0n1", socket=str(world.daemon.socket))
        assert done.returncode == 0, done.stderr
        assert world.devices()["ftl0"]["uuid"] == uuid


def test_provisioning_without_a_daemon_ends_with_one_line(tmp_path: Path) -> None:
    first = examples()[0]
    done = run(first, tmp_path, "/nowhere.sock", "Nvme0n1", socket=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"-111: spdk-ftl daemon at {tmp_path}/none is not running (no such socket): start it")
    assert done.stderr.count("\n") == 1


def test_an_ftl_takes_ten_lines() -> None:
    (example,) = [each for each in examples() if "ten lines" in each.section]
    assert len([line for line in example.text.splitlines() if line.strip()]) <= 10

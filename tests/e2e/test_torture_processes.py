"""`spdk-ftl torture --processes` as a user runs it: kill -9 of daemon and target, and hosts that notice nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CRASHES = 7
RUN_S = 240.0
START_S = 60.0
END_S = 3.0


def torture(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Its temporary files go to folder, where its processes can be told by their command line."""
    with (folder / "torture.log").open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "spdk_ftl_py.cli", "torture", "--processes", "--plain"),
                *("--json", str(folder / "t.json"), *arguments),
            ],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def result(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "t.json").read_text())
    return read


def processes_in(folder: Path) -> list[str]:
    """Command lines of what runs there."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("spdk-ftl-torture-")]


@pytest.mark.parametrize(
    "options",
    [(), ("--use-append",), ("--cache", "non-vss"), ("--transport", "vfio-user")],
    ids=["writes", "appends", "cache", "vfio-user"],
)
def test_no_kill_costs_a_write_or_an_error(folder: Path, options: tuple[str, ...]) -> None:
    process = torture(folder, "--crashes", str(CRASHES), "--seed", "11", *options)
    assert process.wait(RUN_S) == 0, (folder / "torture.log").read_text()
    told = result(folder)
    assert told["violations"] == 0
    assert told["crashes"] == CRASHES
    assert told["blocks_verified"] >= 4 * told["capacity_blocks"]
    assert told["seed"] == 11
    lost = {"both killed, write buffer lost"} if "--cache" in options else set()
    ended = {"daemon ended in order", "daemon killed as it halts"}
    assert set(told["kinds"]) == {"daemon killed", "target killed", "both killed"} | ended | lost
    assert told["connections_lost"] >= 2 * told["hosts"]
    deadline = time.monotonic() + END_S
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)  # keepers of endpoints have been told to end
    assert processes_in(folder) == []
    assert left_in(folder) == []


def test_an_interrupt_leaves_no_process_and_no_file(folder: Path) -> None:
    process = torture(folder, "--crashes", "1000")
    try:
        deadline = time.monotonic() + START_S
        while len(processes_in(folder)) < 3:  # itself, target, daemon
            assert process.poll() is None, (folder / "torture.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # a wait for other processes; nothing announces them
        process.send_signal(signal.SIGINT)
        told = (folder / "torture.log").read_text() if process.wait(START_S) == 130 else ""
        assert "interrupted after " in told, (folder / "torture.log").read_text()
        assert "the same from the beginning: spdk-ftl torture --processes --seed " in told
    finally:
        process.kill()
        process.wait()
    assert processes_in(folder) == []
    assert left_in(folder) == []
    assert result(folder)["violations"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--processes", "--every", "3"), "--every"),
        (("--processes", "--world", "3"), "--world"),
        (("--processes", "--cache", "vss"), "--cache"),
        (("--keep",), "--keep"),
        (("--transport", "vfio-user"), "--transport"),
        (("--processes", "--crashes", "0"), "--crashes"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: tuple[str, ...], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spdk_ftl_py.cli", "torture", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr

"""`spdk-ftl demo` as a user runs it: small and quick, and when something goes wrong half-way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "spdk_ftl_py.cli", "demo"]
SMALL = ["--size", "512M", "--time", "8"]
DEADLINE_S = 120
FIELDS = (
    "verified_blocks",
    "verify_errors",
    "host_written_blocks",
    "media_written_blocks",
    "write_amplification",
    "gc_moved_blocks",
    "random_write_iops",
    "random_read_iops",
    "sequential_write_mib_s",
    "elapsed_s",
)


@pytest.fixture
def temporary(folder: Path) -> Path:
    """Where the demo has its temporary directory; TMPDIR of it."""
    place = folder / "t"
    place.mkdir()
    return place


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary)}


def demo(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        env=environment(temporary),
        cwd=temporary,  # not the checkout: the package under test is the installed one
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_demo_verifies_everything_and_leaves_nothing_behind(temporary: Path) -> None:
    report = temporary / "report.json"
    done = demo(temporary, *SMALL, "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads(report.read_text())
    assert not set(FIELDS) - set(values)
    assert values["verify_errors"] == 0
    assert values["verified_blocks"] >= values["capacity_blocks"]
    assert values["host_written_blocks"] >= 3 * values["capacity_blocks"]
    assert values["media_written_blocks"] > values["host_written_blocks"]
    assert values["gc_moved_blocks"] > 0
    assert values["target_as_before"] is True
    assert "write amplification" in done.stdout
    assert sorted(path.name for path in temporary.iterdir()) == ["report.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100M"], "argument --size: 100M: must be a multiple of 16M, 512M to"),
        (["--size", "lots"], "lots"),
        (["--time", "nan"], "argument --time: "),
        (["--time", "inf"], "argument --time: "),
        (["--writes", "0"], "argument --writes: "),
        (["--time", "-1"], "argument --time: "),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(arguments: list[str], message: str, temporary: Path) -> None:
    done = demo(temporary, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(temporary.iterdir())


def test_a_report_that_can_not_be_written_is_told_before_anything_starts(temporary: Path) -> None:
    done = demo(temporary, "--json", str(temporary))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"--json {temporary}: Is a directory: give a file that can be written" in done.stderr
    assert not list(temporary.iterdir())


@contextmanager
def running_demo(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    demo = subprocess.Popen(
        [*DEMO, "--size", "512M", "--writes", "400", "--time", "600"],
        env=environment(temporary),
        cwd=temporary,  # not the checkout: the package under test is the installed one
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield demo
    finally:
        with contextlib.suppress(ProcessLookupError):
            demo.kill()
        demo.wait()
        if demo.stdout is not None:
            demo.stdout.close()


def wait_for_line(demo: subprocess.Popen[str], text: str) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if text in line:
            return
    raise AssertionError(f"the demo ended before it said {text!r}")


def children_of(pid: int) -> dict[str, int]:
    """{subcommand: pid} of the demo's programs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # Bytes: others may have any name, and any arguments.
            parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if parent == pid and b"spdk_ftl_py.cli" in words:
                found[words[words.index(b"spdk_ftl_py.cli") + 1].decode()] = int(entry.name)
    return found


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process of the demo is still there"
        os.sched_yield()


@pytest.mark.parametrize("victim", ["target", "serve"])
def test_a_program_that_dies_half_way_ends_the_demo_with_its_name(victim: str, temporary: Path) -> None:
    with running_demo(temporary) as demo:
        wait_for_line(demo, "sequential write")
        children = children_of(demo.pid)
        assert set(children) == {"target", "serve"}
        os.kill(children[victim], signal.SIGKILL)
        out, _ = demo.communicate(timeout=DEADLINE_S)
        assert demo.returncode == 1, out
        assert f"spdk-ftl {victim} ended with exit code -9" in out
        assert_gone(list(children.values()))
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_stops_its_programs(number: signal.Signals, temporary: Path) -> None:
    with running_demo(temporary) as demo:
        wait_for_line(demo, "sequential write")
        children = children_of(demo.pid)
        demo.send_signal(signal.SIGUSR1)
        demo.send_signal(number)
        demo.send_signal(signal.SIGTERM)  # out of impatience; two SIGINTs could become one
        out, _ = demo.communicate(timeout=DEADLINE_S)
        assert demo.returncode == 130, out
        assert "interrupted" in out
        assert_gone(list(children.values()))
    assert not list(temporary.iterdir())

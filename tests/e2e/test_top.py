"""`spdk-ftl top` in a real terminal of 80 by 24 (tmux): it lives with its daemon, and leaves the terminal as it was."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import POLL_S, WAIT_S, ZNS, FtlWorld, ftl_world
from support.drive import HOST_NQN, write_at_random
from support.processes import daemon_process
from support.tools import need

WIDTH, HEIGHT = 80, 24
NAME = "ftl.a:B_9-c"


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    need("tmux")


class Terminal:
    """A tmux of its own, with a shell."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        where = os.environ.get("PYTHONPATH")
        # Some shells export the size that the terminal had when they started.
        stale = {"COLUMNS": "40", "LINES": "10"}
        environment = {**os.environ, **stale, "LC_ALL": "C.UTF-8", "PS1": "$ ", "TERM": "xterm-256color"}
        if where:
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, where.split(os.pathsep)))
        size = ("-x", str(WIDTH), "-y", str(HEIGHT))
        command = ["tmux", "-S", self._socket, "-f", "/dev/null", "new-session", "-d", *size, "sh"]
        subprocess.run(command, check=True, env=environment, cwd=folder, timeout=WAIT_S)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait(self, wanted: str | Callable[[str], bool]) -> str:
        """The screen, as soon as it has that text, or is as wanted."""
        deadline = time.monotonic() + WAIT_S
        while True:
            shown = self.screen
            if wanted in shown if isinstance(wanted, str) else wanted(shown):
                return shown
            assert time.monotonic() < deadline, f"{wanted} is not on the screen:\n{shown}"
            time.sleep(POLL_S)

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    terminal = Terminal(folder)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS) as world:
        world.rpc("bdev_ftl_create", "-b", NAME, "-d", "Nvme0n1", "--host", HOST_NQN)
        yield world


def top(terminal: Terminal, world: FtlWorld, *arguments: str) -> None:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "top", "--interval", "0.2", "--socket", world.daemon.socket]
    # What is typed must not hold what the test waits for.
    terminal.type("clear; stty -a > before; " + shlex.join([*command, *arguments]), "Enter")


def test_it_shows_an_ftl_at_work_and_outlives_its_daemon(folder: Path, terminal: Terminal, world: FtlWorld) -> None:
    top(terminal, world)
    terminal.wait("q quit")
    assert f">{NAME}" in terminal.wait("online")
    export = world.devices()[NAME]["export"]
    where = export["traddr"], export["trsvcid"], export["subnqn"]
    asyncio.run(write_at_random(*where, times=1))
    terminal.type("1")
    shown = terminal.wait(lambda screen: "hosts get" in screen and "nv cache" in screen)
    assert "0 free" not in shown
    assert len(shown.splitlines()) <= HEIGHT
    assert max(map(len, shown.splitlines())) <= WIDTH
    terminal.type("?")
    terminal.wait("p50, p99   50 % and 99 % of them")
    terminal.type("?", "p")
    terminal.wait("PAUSED")
    terminal.type("p", "Escape")
    terminal.wait("p99")
    terminal.resize(100, 30)
    terminal.wait(lambda screen: "q quit" in screen.splitlines()[-1] and len(screen.splitlines()) == 30)
    terminal.resize(WIDTH, HEIGHT)
    world.daemon.kill()
    assert NAME in terminal.wait("the daemon does not answer")
    with daemon_process(folder):
        terminal.wait(lambda screen: "does not answer" not in screen and "online" in screen)
        terminal.type("q")
        terminal.wait(lambda screen: "q quit" not in screen)


def test_the_terminal_is_as_before_however_it_ends(folder: Path, terminal: Terminal, world: FtlWorld) -> None:
    for key, code in (("q", 0), ("C-c", 130)):
        top(terminal, world, NAME)
        terminal.wait("hosts get")
        terminal.type(key)
        terminal.wait(lambda screen: "hosts get" not in screen)
        terminal.type(f"echo $? > code; stty -a > after; mv after after.{key}", "Enter")
        deadline = time.monotonic() + WAIT_S
        while not (folder / f"after.{key}").exists():
            assert time.monotonic() < deadline, terminal.screen
            time.sleep(POLL_S)
        assert (folder / "code").read_text() == f"{code}\n"
        assert (folder / f"after.{key}").read_text() == (folder / "before").read_text()

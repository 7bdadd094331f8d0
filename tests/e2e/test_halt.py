"""A daemon that ends for good: `spdk-ftl halt`, and `serve --undo-on-exit`. test_peer_loss.py has what hosts see of one
that leaves everything where it is."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import ZNS, FtlWorld
from support.processes import Daemon, target_process

CREATE = ("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "-c", "C0")


@pytest.fixture
def arguments() -> tuple[str, ...]:
    """Of the daemon."""
    return ()


@pytest.fixture
def world(folder: Path, arguments: tuple[str, ...]) -> Iterator[FtlWorld]:
    drives = "--zns", ZNS, "--malloc", "name=C0,size=64M", "--malloc", "name=M0,size=64M"
    with target_process(folder, *drives) as target, Daemon(folder, *arguments) as daemon:
        world = FtlWorld(folder, target, daemon)
        world.tcp()
        yield world


def halt(world: FtlWorld) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spdk_ftl_py.cli", "halt", "--socket", world.daemon.socket],
        cwd=world.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def end_by_signal(world: FtlWorld, number: signal.Signals) -> None:
    world.daemon.process.send_signal(number)
    assert world.daemon.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("arguments", [("--undo-on-exit",)])
def test_a_daemon_that_is_to_undo_leaves_the_target_as_it_was(number: signal.Signals, world: FtlWorld) -> None:
    before = world.snapshot()
    world.rpc(*CREATE)
    world.rpc("bdev_ftl_create", "-b", "ftl1", "-d", "M0", "--zone-capacity", "192")
    end_by_signal(world, number)
    assert world.snapshot() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_not_leaves_it_for_the_next(number: signal.Signals, world: FtlWorld) -> None:
    empty = world.snapshot()
    world.rpc(*CREATE)
    before = world.target.state()
    end_by_signal(world, number)
    assert world.target.state() == before
    assert "its bdev and claims stay for the next daemon" in world.daemon.log()
    # Who has changed his mind needs a daemon for it.
    with Daemon(world.folder) as world.daemon:
        assert halt(world).returncode == 0
    assert world.snapshot() == empty


def test_an_order_to_halt_ends_the_daemon_and_leaves_the_target_as_it_was(world: FtlWorld) -> None:
    before = world.snapshot()
    uuid = world.rpc(*CREATE)["uuid"]
    done = halt(world)
    assert (done.returncode, done.stdout) == (0, "halted, and removed from the target: ftl0\n"), done.stderr
    # It is gone when that returns: the next one can begin.
    assert world.daemon.process.poll() == 0
    assert world.snapshot() == before
    with Daemon(world.folder) as world.daemon:
        assert world.wait_for_state("ftl0", "online")["uuid"] == uuid


def test_what_could_not_be_undone_is_told_and_the_next_daemon_goes_on(world: FtlWorld) -> None:
    before = world.snapshot()
    world.rpc(*CREATE)
    world.target.process.send_signal(signal.SIGSTOP)
    done = halt(world)
    world.target.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert "ftl0: undo what the daemon made in the target: " in done.stderr
    assert world.daemon.process.poll() == 1
    with Daemon(world.folder) as world.daemon:
        world.wait_for_state("ftl0", "online")
        assert halt(world).returncode == 0
    assert world.snapshot() == before


def test_without_a_daemon_there_is_nobody_to_halt(world: FtlWorld) -> None:
    world.daemon.close()
    done = halt(world)
    assert done.returncode == 1
    assert world.daemon.socket in done.stderr

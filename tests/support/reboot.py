"""The reboot drill (ci/reboot-drill): five orders in which target and daemon are killed and started again, from what
was saved; then everything is to be as it was, with what stands on the FTL and its data.

What differs between targets is a Rig's: how one is started, and what can be put on ftl0 in it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from support.drive import digest, write_and_verify
from support.system import Daemon

USER_NQN: Final = "nqn.2016-06.io.spdk:user"
"""With a number behind it: of exports that are the target's user's."""
BACK_S: Final = 90.0
POLL_S: Final = 0.1
BLOCKS: Final = 4096
RANDOM_WRITES: Final = 500


class Rig(Protocol):
    """ftls: by name, the arguments of bdev_ftl_create that say on what."""

    ftls: Mapping[str, Sequence[str]]

    def start(self, folder: Path, config: Path | None) -> Any:
        """A target; with config: from what was saved, and from nothing else."""

    def make_bases(self, target: Any) -> None: ...

    def stand_on_them(self, target: Any) -> Sequence[str]:
        """Puts what it can on the FTLs; the names of the bdevs on top, which are exported."""


@dataclass(frozen=True)
class Order:
    """What is killed, what is started first, and what the daemon has beside the file."""

    name: str
    kills_target: bool = True
    kills_daemon: bool = True
    daemon_first: bool = False
    with_file: bool = False
    forgets: bool = False
    """The state directory is empty, and memory is: write buffers are gone, as behind a loss of power."""


ORDERS: Final = (
    Order("both killed, target first"),
    Order("both killed, daemon first", daemon_first=True, with_file=True),
    Order("both killed, daemon first, its state lost", daemon_first=True, with_file=True, forgets=True),
    Order("target killed", kills_daemon=False),
    Order("daemon killed", kills_target=False),
)


def save_by_command(target: Any, daemon: Daemon) -> str:
    return command(daemon, "save-config", "-s", target.socket)


def save_by_plugin(target: Any, daemon: Daemon) -> str:
    return str(target.ftl(daemon, "save_config"))


def command(daemon: Daemon, *arguments: str) -> str:
    """`spdk-ftl …`; it has to succeed, and what it printed is the answer."""
    done = subprocess.run(
        [sys.executable, "-m", "spdk_ftl_py.cli", *arguments, "--socket", daemon.socket],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"spdk-ftl {' '.join(arguments)}\n{done.stdout}{done.stderr}\n{daemon.log_tail()}"
    return done.stdout


def drill(rig: Rig, folder: Path, order: Order, save: Callable[[Any, Daemon], str]) -> None:
    """One order. Raises AssertionError where something is not back."""
    config = folder / "saved.json"
    daemon = Daemon(folder)
    target = rig.start(folder, None)
    try:
        target.call("nvmf_create_transport", trtype="TCP")
        rig.make_bases(target)
        for name, base in rig.ftls.items():
            target.ftl(daemon, "bdev_ftl_create", "-b", name, *base)
        addresses = [export(target, bdev, number) for number, bdev in enumerate(rig.stand_on_them(target))]
        for seed, address in enumerate(addresses):
            asyncio.run(write_and_verify(*address, blocks=BLOCKS, random_writes=RANDOM_WRITES, flush=True, seed=seed))
        before, exports = digests(addresses), exported(target)
        config.write_text(save(target, daemon))
        config.chmod(0o600)
        if order.kills_daemon:
            daemon.kill()
        if order.kills_target:
            target.kill()
        if order.forgets:
            for name in ("state", "buffers"):
                shutil.rmtree(folder / name)
        again = ("--config", str(config)) if order.with_file else ()
        if order.kills_daemon and order.daemon_first:
            daemon = Daemon(folder, *again)
        if order.kills_target:
            target = rig.start(folder, config)
        if order.kills_daemon and not order.daemon_first:
            daemon = Daemon(folder, *again)
        wait_until_back(target, daemon, exports)
        assert digests(addresses) == before
        # It works on, and would come back once more from the same file.
        for address in addresses:
            asyncio.run(write_and_verify(*address, blocks=1024, flush=True, seed=9))
        assert json.loads(save(target, daemon)) == json.loads(config.read_text())
    finally:
        target.close()
        daemon.close()


def export(target: Any, bdev: str, number: int) -> tuple[str, int, str]:
    """Where hosts find it."""
    nqn = f"{USER_NQN}{number}"
    return "127.0.0.1", target.export(bdev, nqn), nqn


def digests(addresses: Sequence[tuple[str, int, str]]) -> list[str]:
    return [asyncio.run(digest(*address)) for address in addresses]


def exported(target: Any) -> list[Any]:
    """All exports that are not the daemon's: whole, as the target tells them."""
    return [
        {key: each.get(key) for key in ("nqn", "listen_addresses", "namespaces")}
        for each in target.call("nvmf_get_subsystems")
        if each["nqn"].startswith(USER_NQN)
    ]


def wait_until_back(target: Any, daemon: Daemon, exports: list[Any]) -> None:
    """Nothing announces it."""
    deadline = time.monotonic() + BACK_S
    while True:
        devices = json.loads(command(daemon, "devices", "--json"))
        states = {
            (each["state"], each["attached"], each["error"], each.get("dependents", {}).get("pending"))
            for each in devices
        }
        found = exported(target)
        if states == {("online", True, None, False)} and found == exports:
            return
        assert time.monotonic() < deadline, f"not back: {devices}\n{found}\n{exports}\n{daemon.log_tail()}"
        time.sleep(POLL_S)

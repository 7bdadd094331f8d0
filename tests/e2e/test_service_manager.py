"""Started by a service manager: the sockets it hands over are served, those of exports stay its own while no daemon
runs."""

from __future__ import annotations

import errno
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import FtlError
from support.processes import Daemon, EmbeddedTarget, free_port, target_process
from support.service_manager import Manager, service_manager

pytestmark = pytest.mark.started

WAIT_S = 60.0
POLL_S = 0.05
ZNS = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14"


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    with service_manager(folder) as made:
        yield made


@pytest.fixture
def target(folder: Path) -> Iterator[EmbeddedTarget]:
    with target_process(folder, "--zns", ZNS) as process:
        process.call("nvmf_create_transport", trtype="TCP")
        yield process


def create(daemon: Daemon, target: EmbeddedTarget, **more: Any) -> int:
    """Its port."""
    params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": target.socket, "no_attach": True, **more}
    DaemonClient(daemon.socket).call("bdev_ftl_create", params)
    [device] = DaemonClient(daemon.socket).call("ftl_get_devices")
    return int(device["export"]["trsvcid"])


def steal(port: int) -> int:
    """The error that whoever tries to have it gets; 0: he has it."""
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            thief.bind(("127.0.0.1", port))
            thief.listen()
        except OSError as error:
            return error.errno or -1
    return 0


def wait_online(daemon: Daemon) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while True:
        [device] = DaemonClient(daemon.socket).call("ftl_get_devices")
        if device["state"] == "online":
            return dict(device)
        assert time.monotonic() < deadline, f"{device}\n{daemon.log_tail()}"
        time.sleep(POLL_S)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_nobody_can_have_the_port_of_an_export_while_no_daemon_runs(
    manager: Manager, target: EmbeddedTarget, end: signal.Signals
) -> None:
    discovery = free_port()
    options = ("--discovery", f"127.0.0.1:{discovery}")
    daemon = manager.start(*options)
    port = create(daemon, target)
    manager.wait_for("FDSTORE=1")
    # With the FTL's reactor, and another time.
    for _ in range(2):
        manager.told.clear()
        manager.wait_for("WATCHDOG=1")
    daemon.process.send_signal(end)
    daemon.process.wait(WAIT_S)
    daemon.close()
    manager.catch_up()
    assert steal(port) == steal(discovery) == errno.EADDRINUSE
    # A host that comes meanwhile waits in line.
    with socket.create_connection(("127.0.0.1", port)), manager.start(*options) as successor:
        device = wait_online(successor)
        assert int(device["export"]["trsvcid"]) == port
        assert steal(port) == steal(discovery) == errno.EADDRINUSE
    manager.catch_up()
    assert {name for name, _ in manager.kept} == {"discovery", f"export-{device['uuid']}"}


def test_without_a_manager_the_port_of_a_dead_daemon_can_be_had(folder: Path, target: EmbeddedTarget) -> None:
    """So that the test above says something."""
    daemon = Daemon(folder)
    port = create(daemon, target)
    daemon.kill()
    assert steal(port) == 0
    with Daemon(folder) as successor:
        wait_online(successor)


def test_the_port_of_a_deleted_ftl_is_given_up(manager: Manager, target: EmbeddedTarget) -> None:
    with manager.start() as daemon:
        port = create(daemon, target)
        manager.wait_for("FDSTORE=1")
        DaemonClient(daemon.socket).call("bdev_ftl_delete", {"name": "ftl0"})
        manager.wait_for("FDSTOREREMOVE=1")
        assert manager.kept == []
        assert steal(port) == 0


def test_a_socket_that_is_kept_for_no_ftl_is_given_up(manager: Manager, folder: Path, target: EmbeddedTarget) -> None:
    """The FTL was deleted by a daemon that no manager had started."""
    with manager.start() as daemon:
        port = create(daemon, target)
        manager.wait_for("FDSTORE=1")
    (folder / "state" / "state.json").unlink()
    with manager.start():
        manager.wait_for("FDSTOREREMOVE=1")
        assert manager.kept == []
        assert steal(port) == 0


def test_a_halt_tells_how_far_it_is_and_asks_for_time(manager: Manager, target: EmbeddedTarget) -> None:
    daemon = manager.start("--loads", "2", "--load-memory", "64", "--halt-timeout", "50")
    create(daemon, target)
    manager.wait_for("READY=1")
    manager.catch_up()
    manager.told.clear()
    target.call("ftltgt_inject_fault", name="Nvme0n1", op="write", latency_us=300_000)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(WAIT_S) == 0
    daemon.close()
    manager.catch_up()
    told = [line for line in manager.told if line != "WATCHDOG=1"]
    assert told[:2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=60000000"]
    assert told[2].startswith("STATUS=halting: 0 of 1 FTLs are halted; ftl0: ")
    target.call("ftltgt_clear_faults", name="Nvme0n1")
    with manager.start() as successor:
        wait_online(successor)
        given = DaemonClient(successor.socket).call("bdev_ftl_get_properties", {"name": "ftl0"})
        (restored,) = (each["value"] for each in given["properties"] if each["name"] == "restored")
        assert restored["from_checkpoint"]


def test_orders_that_come_while_no_daemon_runs_wait_for_the_next(manager: Manager, folder: Path) -> None:
    path = folder / "daemon.sock"
    manager.listen_unix("control", path)
    manager.listen_unix("monitor", folder / "monitor.sock")
    with manager.start():
        manager.wait_for("READY=1")
        assert DaemonClient(str(path)).call("ftl_get_daemon")["socket"] == str(path)
    manager.wait_for("STOPPING=1")
    # It is the manager's, and there was no lock to take.
    assert path.is_socket()
    assert not Path(f"{path}.lock").exists()
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(WAIT_S)
        early.connect(str(path))
        body = b'{"jsonrpc": "2.0", "id": 1, "method": "ftl_get_devices"}'
        early.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with manager.start():
            assert b"200 OK" in early.recv(4096)
            with pytest.raises(FtlError, match="is the socket for monitoring"):
                DaemonClient(str(folder / "monitor.sock")).call("bdev_ftl_delete", {"name": "ftl0"})
            assert DaemonClient(str(folder / "monitor.sock")).call("ftl_get_devices") == []

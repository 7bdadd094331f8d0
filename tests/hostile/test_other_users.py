"""Another user of the same machine, without rights: he tries to read, write, call, hijack, squat and lead elsewhere.
Everything is refused, and nothing has changed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.daemon.server import RpcServer
from spdk_ftl_py.errors import DaemonError, FtlError
from support.other_user import GID, UID, as_other_user, attempt, impostor_at, impostor_at_port, tree
from support.processes import Daemon, EmbeddedTarget, ProgramError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

DRIVE = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14"
WAIT_S = 60.0
POLL_S = 0.05
REFUSED = {"EACCES", "EPERM"}


class Machine:
    """A target and a daemon of root's with one FTL. Everybody may look into the folder; public is like /tmp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        self.public = folder / "public"
        self.public.mkdir()
        self.public.chmod(0o1777)
        self.monitor = folder / "monitor.sock"
        self.target = self.start_target()
        self.daemon = self.start_daemon()
        params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": self.target.socket}
        self.client = DaemonClient(self.daemon.socket)
        self.client.call("bdev_ftl_create", params)

    def start_target(self) -> EmbeddedTarget:
        # In public, as /var/tmp/spdk.sock is.
        config = self.folder / "target.json"
        bdev = {"method": "nvmf_create_transport", "params": {"trtype": "TCP"}}
        config.write_text(json.dumps({"subsystems": [{"subsystem": "nvmf", "config": [bdev]}]}))
        drive = f"{DRIVE},path={self.folder / 'drive'}"
        return PublicTarget(self.public, "--zns", drive, "--config", str(config), log_folder=self.folder)

    def start_daemon(self) -> Daemon:
        return Daemon(self.folder, "--monitor-socket", str(self.monitor))

    def device(self) -> dict[str, Any]:
        return dict(self.client.call("ftl_get_devices")[0])

    def wait_until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while not holds(device := self.device()):
            assert time.monotonic() < deadline, f"{device}\n{self.daemon.log_tail()}"
            time.sleep(POLL_S)
        return device

    def kept(self) -> dict[str, Any]:
        """What is on disk and in memory, of which nothing may change."""
        return {name: tree(self.folder / name) for name in ("state", "buffers")}

    def close(self) -> None:
        self.daemon.close()
        self.target.close()


class PublicTarget(EmbeddedTarget):
    """Its log stays out of where everybody can write."""

    def __init__(self, public: Path, *arguments: str, log_folder: Path) -> None:
        self._log_folder = log_folder
        super().__init__(public, *arguments)


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    # Umasks are no protection.
    umask = os.umask(0)
    try:
        made = Machine(folder)
    finally:
        os.umask(umask)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def unchanged(machine: Machine) -> Iterator[Machine]:
    """The machine, which has to be as before at the end, and in order."""
    before = machine.kept()
    assert {"state/keys", "state/state.json"} <= {f"state/{name}" for name in before["state"]}
    assert any(name.endswith(".wbuf") for name in before["buffers"])
    yield machine
    assert machine.kept() == before
    assert machine.device()["state"] == "online"


# --- read, write, call -----------------------------------------------------------------------------------------------


def attempts_on(path: str) -> dict[str, str]:
    """All that can be tried with one path."""
    return {
        "read": attempt(lambda: os.close(os.open(path, os.O_RDONLY))),
        "list": attempt(lambda: os.listdir(path)),
        "write": attempt(lambda: os.close(os.open(path, os.O_WRONLY))),
        "truncate": attempt(lambda: os.truncate(path, 0)),
        "chmod": attempt(lambda: os.chmod(path, 0o777)),
        "chown": attempt(lambda: os.chown(path, UID, GID)),
        "remove": attempt(lambda: os.unlink(path)),
        "rename": attempt(lambda: os.rename(path, f"{path}.gone")),
        "replace": attempt(lambda: os.symlink("/etc/passwd", f"{path}/new")),
        "connect": attempt(lambda: socket.socket(socket.AF_UNIX).connect(path)),
    }


def test_nothing_can_be_read_or_written(unchanged: Machine) -> None:
    folder = unchanged.folder
    paths = [path for name in ("state", "buffers") for path in (folder / name, *sorted((folder / name).rglob("*")))]
    locks = sorted(folder.rglob("*.lock"))
    sockets = [Path(unchanged.daemon.socket), unchanged.monitor, Path(unchanged.target.socket)]
    assert len(locks) >= 4
    tried = as_other_user(lambda: {str(path): attempts_on(str(path)) for path in {*paths, *locks, *sockets}})
    assert len(tried) > 12
    assert not [
        (path, what, got)
        for path, all_of_it in tried.items()
        for what, got in all_of_it.items()
        # That it is no directory, or no socket, keeps him out as well.
        if got not in {*REFUSED, "ENOTDIR", "EINVAL", "EISDIR"}
    ]
    assert all(all_of_it["read"] in {*REFUSED, "ENXIO"} for all_of_it in tried.values() if "read" in all_of_it)


def test_sockets_are_closed_to_others_whatever_the_umask(unchanged: Machine) -> None:
    for path in (unchanged.daemon.socket, unchanged.monitor, unchanged.target.socket):
        assert oct(Path(path).stat().st_mode & 0o777) == "0o600"


def ask(path: str, method: str) -> tuple[str, dict[str, Any]]:
    """The status line's code and the reply, as whoever speaks HTTP gets it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(path)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode()
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        raw = b""
        while chunk := sock.recv(1 << 16):
            raw += chunk
    head, _, reply = raw.partition(b"\r\n\r\n")
    return head.split()[1].decode(), json.loads(reply)


@pytest.mark.parametrize("which", ["control", "monitor"])
def test_a_socket_that_somebody_has_opened_to_all_takes_no_orders(unchanged: Machine, which: str) -> None:
    path = unchanged.daemon.socket if which == "control" else str(unchanged.monitor)
    os.chmod(path, 0o666)
    status, reply = as_other_user(lambda: ask(path, "ftl_get_devices"))
    assert status == "403"
    assert reply["error"]["code"] == -13
    assert f"takes no orders from user {UID}" in reply["error"]["message"]
    assert "result" not in reply
    assert f", uid {UID} may not call it" in unchanged.daemon.log_tail()
    assert "refused: pid " in unchanged.daemon.log_tail()
    assert ask(path, "ftl_get_devices")[0] == "200"


def test_members_of_the_group_may_watch_and_change_nothing(folder: Path) -> None:
    folder.chmod(0o755)
    control, monitor = folder / "daemon.sock", folder / "monitor.sock"
    group = 65531
    options = ("--monitor-socket", str(monitor), "--monitor-group", str(group))
    with Daemon(folder, *options):
        assert (oct(monitor.stat().st_mode & 0o777), monitor.stat().st_gid) == ("0o660", group)

        def member() -> Any:
            return [
                ask(str(monitor), "ftl_get_devices"),
                ask(str(monitor), "ftl_remove_buffers"),
                attempt(lambda: ask(str(control), "ftl_get_devices")),
            ]

        seen, changed, ordered = as_other_user(member, gid=group)
        assert seen == ["200", {"jsonrpc": "2.0", "id": 1, "result": []}]
        assert "ftl_remove_buffers changes something" in changed[1]["error"]["message"]
        assert ordered == "EACCES"
        assert as_other_user(lambda: attempt(lambda: ask(str(monitor), "ftl_get_devices"))) == "EACCES"


def test_members_of_the_socket_group_may_give_orders(folder: Path) -> None:
    folder.chmod(0o755)
    control = folder / "daemon.sock"
    group = 65531
    with Daemon(folder, "--socket-group", str(group)):
        assert (oct(control.stat().st_mode & 0o777), control.stat().st_gid) == ("0o660", group)
        status, reply = as_other_user(lambda: ask(str(control), "ftl_remove_buffers"), gid=group)
        assert (status, reply["result"]) == ("200", {"removed": []})
        assert as_other_user(lambda: attempt(lambda: ask(str(control), "ftl_remove_buffers"))) == "EACCES"
        # Open to all, it is still theirs alone.
        control.chmod(0o666)
        assert as_other_user(lambda: ask(str(control), "ftl_remove_buffers"))[0] == "403"
        assert as_other_user(lambda: ask(str(control), "ftl_remove_buffers"), gid=group)[0] == "200"
        others = [7, 8, group]
        assert as_other_user(lambda: ask(str(control), "ftl_remove_buffers"), groups=others)[0] == "200"
        assert as_other_user(lambda: ask(str(control), "ftl_remove_buffers"), groups=others[:2])[0] == "403"


# --- hijack ----------------------------------------------------------------------------------------------------------


def test_a_false_daemon_is_told_nothing(unchanged: Machine) -> None:
    path = unchanged.public / "spdk-ftl.sock"
    with impostor_at(path) as impostor:
        client = DaemonClient(str(path), timeout_s=0.5)
        with pytest.raises(DaemonError, match=rf"is served by user {UID}, pid \d+, .*nothing was sent.*--daemon-user"):
            client.call("bdev_ftl_add_host", {"name": "ftl0", "host": "nqn.2026-11.io.example:secret"})
        command = [sys.executable, "-m", "spdk_ftl_py.cli", "devices", "--socket", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"is served by user {UID}" in done.stderr
        assert set(impostor.close()) == set(b"c")


def test_a_daemon_of_the_user_that_was_named_is_believed(machine: Machine) -> None:
    """So that the test above says something: now the request is sent."""
    path = machine.public / "spdk-ftl.sock"
    with impostor_at(path) as impostor:
        with pytest.raises(DaemonError, match="no reply within"):
            DaemonClient(str(path), timeout_s=0.5, user=str(UID)).call("ftl_get_devices")
        assert b"ftl_get_devices" in impostor.close()


def test_a_false_target_at_the_path_of_a_dead_one_is_told_nothing(machine: Machine) -> None:
    before = machine.kept()["state"]
    path = Path(machine.target.socket)
    machine.target.close()
    # Its path is free, and anybody's.
    assert not path.exists()
    with impostor_at(path) as impostor:
        impostor.wait_for_caller()
        device = machine.device()
        assert device["state"] != "failed"
        params = {"name": "ftl1", "base_bdev": "Nvme0n1", "target": str(path)}
        with pytest.raises(FtlError, match=rf"served by user {UID}, pid \d+, but only .*--target-user"):
            machine.client.call("bdev_ftl_create", params)
        assert set(impostor.close()) == set(b"c")
    machine.target = machine.start_target()
    machine.wait_until(lambda device: device["state"] == "online")
    assert set(machine.kept()["state"]) == set(before)


def test_whoever_has_the_port_of_a_dead_daemon_is_no_export(machine: Machine) -> None:
    port = int(machine.device()["export"]["trsvcid"])
    before = tree(machine.folder / "drive")
    machine.daemon.kill()
    with impostor_at_port(port) as impostor:
        machine.daemon = machine.start_daemon()
        device = machine.wait_until(lambda device: bool(device["error"]))
        assert device["state"] == "deferred"
        assert f"port {port} of 127.0.0.1" in device["error"]
        assert tree(machine.folder / "drive") == before
        impostor.close()
    assert machine.wait_until(lambda device: device["state"] == "online")["export"]["trsvcid"] == str(port)


# --- squat -----------------------------------------------------------------------------------------------------------


def refusal(folder: Path, **paths: Path) -> str:
    """What `serve` says, and that it ends there."""
    defaults = {"socket": folder / "s.sock", "state_dir": folder / "s.state", "buffer_dir": folder / "s.buffers"}
    chosen = {**defaults, **paths}
    options = [part for name, path in chosen.items() for part in (f"--{name.replace('_', '-')}", str(path))]
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    return done.stderr.strip().splitlines()[-1]


def squat(path: Path, kind: str) -> None:
    """As the other user."""

    def work() -> None:
        if kind == "directory":
            path.mkdir(mode=0o777)
        elif kind == "open file":
            path.write_text("")
            path.chmod(0o666)
        elif kind == "fifo":
            os.mkfifo(path, 0o666)
        elif kind == "dead socket":
            socket.socket(socket.AF_UNIX).bind(str(path))

    as_other_user(work)


TAKEN = (
    ("state_dir", "directory", ""),
    ("state_dir", "open file", ""),
    ("buffer_dir", "directory", ""),
    ("buffer_dir", "fifo", ""),
    ("socket", "open file", ""),
    ("socket", "open file", ".lock"),
    ("socket", "fifo", ".lock"),
)


def test_a_path_that_somebody_has_taken_is_refused_and_names_him(unchanged: Machine) -> None:
    for number, (option, kind, suffix) in enumerate(TAKEN):
        path = unchanged.public / f"taken{number}"
        squat(Path(f"{path}{suffix}"), kind)
        before = tree(unchanged.public)
        said = refusal(unchanged.folder, **{option: path})
        assert f"user {UID}" in said, said
        assert f"--{option.replace('_', '-')}" in said, said
        assert tree(unchanged.public) == before


def test_a_dead_socket_of_somebody_is_replaced_by_root_alone(folder: Path) -> None:
    """Root can, and the log says whose it was; another user is told whose it is."""
    folder.chmod(0o1777)
    path = folder / "daemon.sock"
    squat(path, "dead socket")

    def victim() -> str:
        try:
            asyncio.run(RpcServer(path, {}).start())
        except FtlError as error:
            return error.message
        return "started"

    told = as_other_user(victim, uid=UID - 1)
    assert f", of user {UID}" in told, told
    Path(f"{path}.lock").unlink()
    with Daemon(folder) as daemon:
        assert f"daemon.sock, of user {UID}, which a dead daemon left" in daemon.log_tail()


def test_a_listener_at_the_path_of_the_socket_is_refused_and_named(unchanged: Machine) -> None:
    path = unchanged.public / "taken"
    with impostor_at(path) as impostor:
        said = refusal(unchanged.folder, socket=path)
        assert "is listening there already" in said
        assert f"of user {UID}" in said
        assert set(impostor.close()) <= set(b"c")


def test_the_targets_path_that_somebody_has_taken_is_refused_and_names_him(unchanged: Machine) -> None:
    path = unchanged.public / "t"
    with impostor_at(path), pytest.raises(ProgramError, match=f"of user {UID}"):
        other_target(unchanged, path)
    for kind in ("open file", "fifo"):
        squat(Path(f"{path}.lock"), kind)
        with pytest.raises(ProgramError, match=f"user {UID}"):
            other_target(unchanged, path)
        Path(f"{path}.lock").unlink()


def other_target(machine: Machine, path: Path) -> None:
    from support.system import Program

    Program(machine.folder, "other", "listening on", "target", "-r", str(path))


def test_a_directory_in_one_that_somebody_can_replace_is_refused(unchanged: Machine) -> None:
    his = unchanged.public / "his"
    squat(his, "directory")
    ours = his / "ours"
    ours.mkdir(mode=0o700)
    for option, path in (("state_dir", ours), ("buffer_dir", ours), ("socket", ours / "s")):
        assert f"belongs to user {UID}" in refusal(unchanged.folder, **{option: path})


# --- lead elsewhere --------------------------------------------------------------------------------------------------


def test_links_are_not_followed(unchanged: Machine) -> None:
    precious = unchanged.folder / "precious"
    precious.mkdir()
    (precious / "file").write_text("years of work")
    (precious / "directory").mkdir(mode=0o700)
    before = tree(precious)
    for option, suffix in (("state_dir", ""), ("buffer_dir", ""), ("socket", ""), ("socket", ".lock")):
        for to in ("file", "directory", "nothing"):
            path = unchanged.public / f"{option}-{to}"
            link = Path(f"{path}{suffix}")
            as_other_user(functools.partial(link.symlink_to, precious / to))
            said = refusal(unchanged.folder, **{option: path})
            assert f"user {UID}" in said, said
            assert tree(precious) == before
            link.unlink()


def test_a_link_at_the_targets_lock_is_not_followed(unchanged: Machine) -> None:
    path, precious = unchanged.public / "t", unchanged.folder / "precious"
    as_other_user(lambda: Path(f"{path}.lock").symlink_to(precious))
    with pytest.raises(ProgramError, match="symbolic link"):
        other_target(unchanged, path)
    assert not precious.exists()


@pytest.mark.parametrize("name", ["lock", "state.json", "state.json.new", "reserve", "keys"])
def test_links_that_were_left_in_the_state_directory_are_not_followed(folder: Path, name: str) -> None:
    """He had the directory before it was taken from him."""
    state, precious = folder / "s.state", folder / "precious"
    state.mkdir(mode=0o700)
    precious.mkdir(mode=0o700)
    (precious / "file").write_text("years of work")
    (precious / f"{uuid4()}.base").write_text("somebody's key")
    (state / name).symlink_to(precious if name == "keys" else precious / "file")
    before = tree(precious)
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "serve", "--socket", str(folder / "s.sock")]
    command += ["--state-dir", str(state), "--buffer-dir", str(folder / "s.buffers")]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None
        ready = served.stdout.readline()
        # What is made anew each time, or not needed yet, is no reason not to start.
        assert bool(ready) == (name in {"state.json.new", "reserve", "keys"})
    finally:
        served.terminate()
        served.communicate(timeout=WAIT_S)
    assert tree(precious) == before

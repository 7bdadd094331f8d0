"""Where the client looks for the daemon, and what it says where there is none."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spdk_ftl_py import client as client_module
from spdk_ftl_py.access import unix_sockets
from spdk_ftl_py.client import DaemonClient, default_socket
from spdk_ftl_py.errors import DaemonError, ParameterError
from support.other_user import UID, as_other_user


@pytest.fixture(autouse=True)
def no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPDK_FTL_SOCK", "SPDK_FTL_DAEMON_USER", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_default_is_never_in_a_directory_of_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_sockets, "own_uid", lambda: 0)
    assert default_socket() == "/run/spdk-ftl/spdk-ftl.sock"
    monkeypatch.setattr(unix_sockets, "own_uid", lambda: 1000)
    with pytest.raises(ParameterError, match="no place for the control socket"):
        default_socket()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_socket() == "/run/user/1000/spdk-ftl/spdk-ftl.sock"
    monkeypatch.setenv("SPDK_FTL_SOCK", "/x")
    assert default_socket() == "/x"


def test_a_script_with_the_path_of_before_is_told_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SOCKET_BEFORE", str(tmp_path / "before"))
    monkeypatch.setattr(client_module, "SOCKET_OF_ROOT", str(tmp_path / "root"))
    with pytest.raises(DaemonError, match=r"now it is /run/spdk-ftl/spdk-ftl.sock for root, \$XDG_RUNTIME_DIR"):
        DaemonClient(str(tmp_path / "before")).call("ftl_get_daemon")
    with pytest.raises(DaemonError) as refused:
        DaemonClient(str(tmp_path / "other")).call("ftl_get_daemon")
    assert "of an earlier version" not in refused.value.message
    (tmp_path / "before").touch()
    with pytest.raises(DaemonError, match=f"a daemon of an earlier version may have {tmp_path}/before: restart it"):
        DaemonClient(str(tmp_path / "other")).call("ftl_get_daemon")
    (tmp_path / "root").touch()
    with pytest.raises(DaemonError, match=f"root's daemon has {tmp_path}/root"):
        DaemonClient(str(tmp_path / "other")).call("ftl_get_daemon")


def test_a_user_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="there is no user 'no-such-user'"):
        DaemonClient("/x", user="no-such-user")
    monkeypatch.setenv("SPDK_FTL_DAEMON_USER", "no-such-user")
    with pytest.raises(ParameterError, match="there is no user 'no-such-user'"):
        DaemonClient("/x")


def test_the_client_waits_longer_than_the_daemon_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def post(_self: DaemonClient, _body: bytes, timeout_s: float) -> bytes:
        waited.append(timeout_s)
        return b'{"result": true}'

    monkeypatch.setattr(DaemonClient, "_post", post)
    client = DaemonClient(str(tmp_path / "x"), timeout_s=60)
    client.call("bdev_ftl_create", {"wait": 300})
    client.call("bdev_ftl_create", {"name": "ftl0"})
    assert waited == [360, 60]


@pytest.mark.parametrize("says_why", [True, False])
def test_the_socket_of_a_target_is_not_taken_for_the_daemons(tmp_path: Path, says_why: bool) -> None:
    """SPDK's server hangs up on what it can't parse, with an answer or (v26.05) without."""
    path = str(tmp_path / "t")

    def serve() -> None:
        for _ in range(3):  # the first to see whether anybody listens
            connection, _ = listener.accept()
            with connection:
                received = connection.recv(1 << 16)
                if received.startswith(b"{"):
                    asked.append(json.loads(received)["method"])
                    connection.sendall(b'{"jsonrpc":"2.0","id":1,"result":{"version":"SPDK v26.05"}}\n')
                elif received and says_why:
                    connection.sendall(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}\n')

    asked: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(
            DaemonError,
            match=(
                "the RPC socket of an SPDK target, not the control socket of a spdk-ftl daemon: give the target's "
                "socket with -s"
            ),
        ):
            DaemonClient(path).call("ftl_get_daemon")
        serving.join()
    assert asked == ["spdk_get_version"]


def test_a_daemon_that_dies_over_a_call_is_no_target(tmp_path: Path) -> None:
    path = str(tmp_path / "d")

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            connection.close()
        listener.close()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    serving = threading.Thread(target=serve)
    serving.start()
    with pytest.raises(DaemonError, match="broke off: "):
        DaemonClient(path).call("ftl_get_daemon")
    serving.join()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which others can get to, unlike what pytest makes."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        yield Path(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("mode", "directory", "told"),
    [
        (
            0o600,
            0o755,
            ["only user root (uid 0) (mode 0600)", "serve --socket-group GROUP", "SocketGroup", "--monitor"],
        ),
        (0o660, 0o755, ["only user root (uid 0) and the members of group 65000 (mode 0660)", "join group 65000"]),
        (0o600, 0o700, ["may not enter the directory", ", of user root (uid 0)", "SPDK_FTL_SOCK"]),
    ],
)
def test_who_may_not_use_the_socket_is_told_who_may(folder: Path, mode: int, directory: int, told: list[str]) -> None:
    path = folder / "d"

    def call() -> str:
        with pytest.raises(DaemonError) as refused:
            DaemonClient(str(path)).call("ftl_get_daemon")
        return refused.value.message

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.chown(path, 0, 65000)
        path.chmod(mode)
        folder.chmod(directory)
        import requests  # noqa: F401 (the other user may not read where it is)

        message = as_other_user(call)
    assert message.startswith(f"spdk-ftl daemon at {path} can't be reached: user {UID} may not ")
    for text in told:
        assert text in message
    assert "start it with" not in message

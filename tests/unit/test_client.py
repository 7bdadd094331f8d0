"""Where the client looks for the daemon, and what it says where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from spdk_ftl_py import client as client_module
from spdk_ftl_py.access import unix_sockets
from spdk_ftl_py.client import DaemonClient, default_socket
from spdk_ftl_py.errors import DaemonError, ParameterError


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
    assert "of a version before" not in refused.value.message
    (tmp_path / "before").touch()
    with pytest.raises(DaemonError, match=f"a daemon of a version before may have {tmp_path}/before: restart it"):
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

"""What a service manager hands over: taken once, by the process that is meant, and not where it makes no sense."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.runtime import service_manager
from spdk_ftl_py.runtime.service_manager import ServiceManager


@contextmanager
def handed_over(monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket) -> Iterator[dict[str, str]]:
    """The environment; the first descriptor is where these are."""
    first = 900
    for index, sock in enumerate(sockets):
        os.dup2(sock.fileno(), first + index)
        sock.close()
    monkeypatch.setattr(service_manager, "FIRST_DESCRIPTOR", first)
    try:
        yield {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "OTHER": "stays"}
    finally:
        for index in range(len(sockets)):
            # Those that were taken are closed by now.
            try:
                os.close(first + index)
            except OSError:
                continue


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_sockets_are_taken_by_name_and_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    with handed_over(monkeypatch, listening(), listening(), listening()) as environment:
        environment["LISTEN_FDNAMES"] = "control:export-a:export-a"
        manager = ServiceManager(environment)
        assert environment == {"OTHER": "stays"}
        [control] = manager.take("control")
        assert not control.get_inheritable()
        assert manager.take("control") == []
        taken = manager.take_all("export-")
        assert list(taken) == ["export-a"]
        for each in (control, *taken.values()):
            each.close()
        manager.close()


@pytest.mark.parametrize("pid", ["", "1", "x"])
def test_those_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch, pid: str) -> None:
    with handed_over(monkeypatch, listening()) as environment:
        environment["LISTEN_PID"] = pid
        manager = ServiceManager(environment)
        assert manager.take("unknown") == []
        os.fstat(900)
        assert environment == {"OTHER": "stays"}


@pytest.mark.parametrize("count", ["x", "-1", "5000", "1e3"])
def test_a_number_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    with handed_over(monkeypatch) as environment, pytest.raises(ParameterError, match=r"\$LISTEN_FDS is"):
        ServiceManager(environment | {"LISTEN_FDS": count})


def test_what_does_not_listen_or_is_no_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        handed_over(monkeypatch, socket.socket(socket.AF_UNIX)) as environment,
        pytest.raises(ParameterError, match="unknown that the service manager hands over does not listen"),
    ):
        ServiceManager(environment)
    with (
        handed_over(monkeypatch) as environment,
        pytest.raises(ParameterError, match="is not a socket"),
    ):
        ServiceManager(environment | {"LISTEN_FDS": "1"})


def test_without_a_manager_nobody_is_told() -> None:
    manager = ServiceManager({})
    assert not manager.is_there
    assert not manager.notify("READY=1")
    manager.forget("export-a")
    manager.forget_others("export-", [])
    manager.close()


def test_a_manager_that_has_gone_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not manager.notify("READY=1")
    assert f"can't reach the service manager at {tmp_path}/gone to send READY=1" in caplog.text


def test_an_abstract_address_is_one() -> None:
    name = f"spdk-ftl-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        assert ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).notify("READY=1", "STATUS=x")
        assert receiver.recv(100) == b"READY=1\nSTATUS=x"

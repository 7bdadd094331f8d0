"""The sockets of the daemon: which there are, where, and what is answered at which."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.daemon import control_sockets as module
from spdk_ftl_py.daemon.control_sockets import ControlSockets, SocketOptions
from spdk_ftl_py.errors import FtlError, ParameterError
from spdk_ftl_py.runtime.service_manager import ServiceManager

READING = {
    "bdev_ftl_get_hosts",
    "bdev_ftl_get_properties",
    "bdev_ftl_get_stats",
    "bdev_ftl_nbd_get",
    "ftl_get_daemon",
    "ftl_get_devices",
}
PARAMS: dict[str, dict[str, Any]] = {
    "bdev_ftl_create": {"name": "a", "base_bdev": "b", "target": "/t"},
    "bdev_ftl_add_host": {"name": "a", "host": "nqn.2026-11.io.example:h"},
    "bdev_ftl_remove_host": {"name": "a", "host": "nqn.2026-11.io.example:h"},
    "bdev_ftl_allow_any_host": {"name": "a", "allow_any_host": True},
    "bdev_ftl_add_listener": {"name": "a", "listen_address": "127.0.0.1"},
    "bdev_ftl_remove_listener": {"name": "a", "listen_address": "127.0.0.1:1"},
    "bdev_ftl_set_ana_state": {"name": "a", "listen_address": "127.0.0.1:1", "ana_state": "optimized"},
    "bdev_ftl_scan": {"target": "/t"},
    "bdev_ftl_load": {"name": "a", "base_bdev": "b", "uuid": "b286d19a-0059-4709-abcd-9f7732b1567d", "target": "/t"},
    "bdev_ftl_unmap": {"name": "a", "lba": 0, "num_blocks": 1},
    "bdev_ftl_set_property": {"name": "a", "ftl_property": "p", "value": "v"},
    "bdev_ftl_set_cache": {"name": "a", "cache": "c"},
    "bdev_ftl_rename": {"name": "a", "new_name": "b"},
    "bdev_ftl_set_uuid": {"base_bdev": "b", "uuid": "b286d19a-0059-4709-abcd-9f7732b1567d", "target": "/t"},
    "bdev_ftl_nbd_start": {"name": "a", "socket_path": "/s"},
    "ftl_get_daemon": {},
    "ftl_get_devices": {},
    "ftl_halt": {},
    "ftl_load_config": {"config": []},
    "ftl_remove_buffers": {},
    "ftl_save_config": {},
    "ftl_set_log_level": {"level": "info"},
}


def test_what_only_reads_is_said_by_the_schemas() -> None:
    """One that is new changes something until somebody says that it does not."""
    assert {name for name in schema.methods() if schema.load(name).reads_only} == READING


async def test_at_the_monitor_socket_nothing_is_changed(tmp_path: Path) -> None:
    called: list[str] = []

    def method(name: str) -> Any:
        async def note(_params: dict[str, Any]) -> Any:
            called.append(name)
            return name

        return note

    def ask(path: Path) -> dict[str, str]:
        answers = {}
        for name in schema.methods():
            try:
                answers[name] = DaemonClient(str(path)).call(name, PARAMS.get(name, {"name": "a"}))
            except FtlError as error:
                answers[name] = f"{error.errno}: {error.message}"
        return answers

    options = SocketOptions(tmp_path / "control", monitor=tmp_path / "monitor")
    sockets = ControlSockets(options, ServiceManager({}))
    await sockets.start({name: method(name) for name in schema.methods()})
    try:
        at_control = await asyncio.to_thread(ask, tmp_path / "control")
        assert at_control == {name: name for name in schema.methods()}
        called.clear()
        at_monitor = await asyncio.to_thread(ask, tmp_path / "monitor")
        assert set(called) == READING
        for name, answer in at_monitor.items():
            if name not in READING:
                assert answer.startswith(f"{errno.EACCES}: {name} changes something")
                assert str(tmp_path / "control") in answer
        assert (tmp_path / "monitor").stat().st_mode & 0o777 == 0o600
    finally:
        await sockets.close()
        await sockets.close()
    assert {path.name for path in tmp_path.iterdir()} == {"control.lock", "monitor.lock"}


async def test_at_the_monitor_socket_no_target_is_called(tmp_path: Path) -> None:
    """Who may only look on would choose which."""
    called: list[dict[str, Any]] = []

    async def note(params: dict[str, Any]) -> None:
        called.append(params)

    def ask(path: Path, **params: Any) -> Any:
        return DaemonClient(str(path)).call("bdev_ftl_get_stats", {"name": "a", "target": "/t", **params})

    sockets = ControlSockets(SocketOptions(tmp_path / "control", monitor=tmp_path / "monitor"), ServiceManager({}))
    await sockets.start({"bdev_ftl_get_stats": note})
    try:
        with pytest.raises(FtlError, match="which does not reach a target's own FTL") as caught:
            await asyncio.to_thread(ask, tmp_path / "monitor", engine="native")
        assert (caught.value.errno, called) == (errno.EACCES, [])
        await asyncio.to_thread(ask, tmp_path / "monitor")
        await asyncio.to_thread(ask, tmp_path / "control")
        assert [params.get("engine") for params in called] == ["daemon", None]
    finally:
        await sockets.close()


async def test_a_monitor_socket_that_can_not_be_had_leaves_no_control_socket(tmp_path: Path) -> None:
    (tmp_path / "monitor").write_text("mine")
    sockets = ControlSockets(SocketOptions(tmp_path / "control", monitor=tmp_path / "monitor"), ServiceManager({}))
    with pytest.raises(FtlError, match=r"not a socket.*give --monitor-socket"):
        await sockets.start({})
    assert not (tmp_path / "control").exists()


async def test_the_directory_is_made_where_it_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_directory", lambda: tmp_path / "run")
    sockets = ControlSockets(SocketOptions(), ServiceManager({}))
    assert sockets.path == tmp_path / "run" / "spdk-ftl.sock"
    assert not (tmp_path / "run").exists()
    await sockets.start({})
    assert sockets.path.is_socket()
    await sockets.close()
    # Elsewhere a directory that is not there is a mistake.
    sockets = ControlSockets(SocketOptions(tmp_path / "no" / "s"), ServiceManager({}))
    with pytest.raises(FtlError, match=r"No such file or directory.*--socket"):
        await sockets.start({})


def test_groups_and_paths_that_make_no_sense_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(ParameterError, match=match):
            ControlSockets(SocketOptions(tmp_path / "s", **options), ServiceManager({}))

    refused("--socket-group: there is no group", group="no-such-group")
    refused("--monitor-group: there is no group", monitor=tmp_path / "m", monitor_group="no-such-group")
    refused("--monitor-group: give --monitor-socket too", monitor_group=str(os.getegid()))
    refused("is the path of the control socket", monitor=tmp_path / "s")
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    refused("run it as root or as a member of the group", group="4000000")


class Given(ServiceManager):
    def __init__(self, *sockets: tuple[str, socket.socket]) -> None:
        super().__init__({})
        self._given = list(sockets)


def listening(path: Path, mode: int = 0o600) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(mode)
    listener.listen()
    listener.setblocking(False)
    return listener


async def test_a_socket_that_is_handed_over_stays(tmp_path: Path) -> None:
    for name, socket_options in (
        ("control", SocketOptions()),
        ("control", SocketOptions(tmp_path / "s")),
        # Without FileDescriptorName= it has the unit's.
        ("spdk-ftl.socket", SocketOptions(tmp_path / "s")),
    ):
        sockets = ControlSockets(socket_options, Given((name, listening(tmp_path / "s"))))
        assert sockets.path == tmp_path / "s"
        await sockets.start({})
        await sockets.close()
        assert [path.name for path in tmp_path.iterdir()] == ["s"]
        (tmp_path / "s").unlink()


def test_one_that_is_another_than_asked_for_is_refused(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as given, pytest.raises(ParameterError, match="leave --socket out"):
        ControlSockets(SocketOptions(tmp_path / "other"), Given(("control", given)))
    with (
        socket.create_server(("127.0.0.1", 0)) as given,
        pytest.raises(ParameterError, match="needs one unix socket with a path"),
    ):
        ControlSockets(SocketOptions(tmp_path / "other"), Given(("control", given)))


@pytest.mark.parametrize(("mode", "believed", "warned"), [(0o600, False, 0), (0o660, True, 0), (0o666, False, 1)])
async def test_the_group_that_a_unit_lets_in_is_believed(
    tmp_path: Path, mode: int, believed: bool, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    sockets = ControlSockets(SocketOptions(), Given(("control", listening(tmp_path / "s", mode))))
    await sockets.start({})
    assert sockets._servers[0].trust.group == (os.getegid() if believed else None)
    assert len([line for line in caplog.messages if "is open to everybody" in line]) == warned
    await sockets.close()

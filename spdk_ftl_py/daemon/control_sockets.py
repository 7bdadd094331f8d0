"""The daemon's unix sockets: the control socket, and optionally a monitor socket, which can't change anything."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import schema
from ..access.unix_sockets import SOCKET_NAME, make_run_directory, run_directory
from ..access.users import gid_of
from ..errors import FtlError, ParameterError
from ..runtime.service_manager import ServiceManager
from .http_listener import Route
from .native_options import DAEMON, ENGINE, NATIVE
from .server import Method, RpcServer

CONTROL: Final = "control"
MONITOR: Final = "monitor"
"""FileDescriptorName= of the sockets that a service manager hands over."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SocketOptions:
    """The options of the command line."""

    control: Path | None = None
    """None: the default."""
    group: str | None = None
    monitor: Path | None = None
    monitor_group: str | None = None


class ControlSockets:
    """start(), then close()."""

    def __init__(self, options: SocketOptions, manager: ServiceManager) -> None:
        """Raises ParameterError."""
        self._groups = {
            name: None if group is None else _gid(option, group)
            for name, option, group in (
                (CONTROL, "--socket-group", options.group),
                (MONITOR, "--monitor-group", options.monitor_group),
            )
        }
        self._given: dict[str, socket.socket] = {}
        self._makes_directory = False
        self.path = self._path(CONTROL, options.control, "--socket", manager) or self._default()
        self._monitor = self._path(MONITOR, options.monitor, "--monitor-socket", manager)
        if options.monitor_group is not None and self._monitor is None:
            raise ParameterError("--monitor-group: give --monitor-socket too")
        if self._monitor == self.path:
            raise ParameterError(f"--monitor-socket {self.path}: is the path of the control socket: give another one")
        self._servers: list[RpcServer] = []
        self._pages: Mapping[str, Route] | None = None

    async def start(self, methods: Mapping[str, Method], pages: Mapping[str, Route] | None = None) -> None:
        """pages: what GET answers, by path; they change nothing. Raises BusyError or FtlError; then nothing is
        left."""
        self._pages = pages
        if self._makes_directory:
            make_run_directory(self.path.parent)
        try:
            await self._start(CONTROL, self.path, methods, "--socket")
            if self._monitor is not None:
                reading = {name: self._reading(name, method) for name, method in methods.items()}
                await self._start(MONITOR, self._monitor, reading, "--monitor-socket")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Idempotent."""
        while self._servers:
            await self._servers.pop().close()

    async def _start(self, name: str, path: Path, methods: Mapping[str, Method], option: str) -> None:
        listener = self._given.get(name)
        group = self._groups[name]
        server = RpcServer(path, methods, pages=self._pages, group=group, option=option, listener=listener)
        await server.start()
        self._servers.append(server)

    def _reading(self, name: str, method: Method) -> Method:
        rpc = schema.load(name)
        if not rpc.reads_only:
            return self._refuse(name)
        return self._of_daemon(name, method) if any(each.name == ENGINE for each in rpc.parameters) else method

    def _of_daemon(self, name: str, method: Method) -> Method:
        """A user of the monitor socket must not make the daemon call any socket that this user names as a target."""

        async def ask(params: dict[str, Any]) -> Any:
            if params.get(ENGINE) == NATIVE:
                raise FtlError(
                    f"{name}: {self._monitor} is the socket for monitoring, which does not reach a target's own FTL: "
                    f"use the control socket, {self.path}",
                    errno=errno.EACCES,
                )
            return await method({**params, ENGINE: DAEMON})

        return ask

    def _refuse(self, name: str) -> Method:
        async def refuse(_params: dict[str, Any]) -> Any:
            raise FtlError(
                f"{name} changes something, and {self._monitor} is the socket for monitoring: use the control "
                f"socket, {self.path}",
                errno=errno.EACCES,
            )

        return refuse

    def _path(self, name: str, given: Path | None, option: str, manager: ServiceManager) -> Path | None:
        """The path; None: neither the option nor the service manager names one."""
        path = None if given is None else given.absolute()
        taken = manager.take(name)
        if not taken:
            named = None if path is None else manager.take_unix(str(path))
            taken = [] if named is None else [named]
        if not taken:
            return path
        if len(taken) > 1 or taken[0].family != socket.AF_UNIX or not str(taken[0].getsockname()).startswith("/"):
            raise ParameterError(
                f"the service manager hands over {len(taken)} sockets named {name}, but the daemon needs one unix "
                "socket with a path: see its .socket unit (FileDescriptorName=)"
            )
        there = Path(taken[0].getsockname())
        if path not in (None, there):
            raise ParameterError(f"{option} {path}: the service manager hands over {there}: leave {option} out")
        self._given[name] = taken[0]
        self._look_at(name, there)
        return there

    def _look_at(self, name: str, path: Path) -> None:
        """The service manager sets the mode. If it admits a group, the daemon trusts that group."""
        try:
            found = path.stat()
        except OSError as error:
            raise FtlError(
                f"{path}, handed over by the service manager: {error.strerror}", errno=error.errno
            ) from error
        if found.st_mode & stat.S_IWOTH:
            log.warning(
                "%s, handed over by the service manager, is open to everybody (mode %04o): the daemon refuses calls "
                "of other users; to close the socket, set SocketMode=0600 in its unit",
                path,
                stat.S_IMODE(found.st_mode),
            )
        elif found.st_mode & stat.S_IWGRP and self._groups[name] is None:
            self._groups[name] = found.st_gid

    def _default(self) -> Path:
        self._makes_directory = True
        return run_directory() / SOCKET_NAME


def _gid(option: str, group: str) -> int:
    try:
        gid = gid_of(group)
    except ParameterError as error:
        raise ParameterError(f"{option}: {error.message}") from None
    if os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        raise ParameterError(
            f"{option} {group}: the user who runs the daemon is not in that group: run it as root or as a member of "
            "the group"
        )
    return gid

"""The embedded target, the daemon and stock clients as separate processes; what tests/e2e works with.

>>> with target_process(folder, "--malloc", "name=M0,size=1G") as target, daemon_process(folder) as daemon:
...     rpc = spdk_rpc("26.5", target.socket, plugin="spdk_ftl_py", SPDK_FTL_SOCK=daemon.socket)
...     rpc("bdev_ftl_create", "-b", "ftl0", "-d", "M0", "--zone-capacity", "1024")

folder: of the fixture of that name, because paths of sockets must be short.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.spdk_clients import RELEASES, SpdkRpc, spdk_rpc
from support.system import Daemon, EmbeddedTarget, Program, ProgramError

__all__ = [
    "RELEASES",
    "Daemon",
    "EmbeddedTarget",
    "Program",
    "ProgramError",
    "RawRpc",
    "SpdkRpc",
    "daemon_process",
    "free_port",
    "spdk_rpc",
    "target_process",
]

ANSWER_TIMEOUT_S = 60.0


@contextmanager
def target_process(folder: Path, *arguments: str) -> Iterator[EmbeddedTarget]:
    """``spdk-ftl target``, ready; ended as a user would end it."""
    with EmbeddedTarget(folder, *arguments) as target:
        yield target


@contextmanager
def daemon_process(folder: Path) -> Iterator[Daemon]:
    """``spdk-ftl serve``, ready."""
    with Daemon(folder) as daemon:
        yield daemon


class RawRpc:
    """A bare connection to a target's RPC socket, for what no client would send."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_TIMEOUT_S)
        self.sock.connect(path)
        self._received = ""
        self._next_id = 0

    def __enter__(self) -> RawRpc:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> Any:
        """The next reply; None when the target closed the connection."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._received)
            except ValueError:
                pass
            else:
                self._received = self._received[end:].lstrip()
                return value
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._received, f"half an answer: {self._received!r}"
                return None
            self._received += data.decode()

    def call(self, method: str, params: Any = None) -> Any:
        """The result, or the error object (told apart by its "code")."""
        self._next_id += 1
        request: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "id": self._next_id}
        if params is not None:
            request["params"] = params
        self.send(json.dumps(request).encode())
        reply = self.answer()
        assert reply is not None, f"the target closed the connection on {method}"
        assert reply["id"] == self._next_id
        return reply.get("result", reply.get("error"))

"""Client of the daemon: JSON-RPC 2.0 over HTTP on the daemon's unix control socket."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .access.paths import show_owner
from .access.peers import Trust, peer_of
from .access.unix_sockets import PATH_BYTES_MAX, RUN_DIRECTORY, RUNTIME_ENVIRONMENT, SOCKET_NAME, run_directory
from .access.users import own_uid, show_group, show_user, uid_of
from .errors import (
    JSONRPC_INVALID_PARAMS,
    BusyError,
    DaemonError,
    ExistsError,
    FtlError,
    NoDaemonError,
    NotFoundError,
    ParameterError,
    UnsupportedError,
)
from .rpcs.blocking import DaemonRpcs

SOCKET_ENVIRONMENT = "SPDK_FTL_SOCK"
USER_ENVIRONMENT = "SPDK_FTL_DAEMON_USER"
SOCKET_DEFAULT = f"{RUN_DIRECTORY}/{SOCKET_NAME} for root, ${RUNTIME_ENVIRONMENT}/spdk-ftl/{SOCKET_NAME} for others"
"""The default socket, in words."""
SOCKET_OF_ROOT = f"{RUN_DIRECTORY}/{SOCKET_NAME}"
SOCKET_BEFORE = "/var/tmp/spdk-ftl.sock"
"""The default of earlier versions. Any user can create this path first, so the client does not use it."""

CONNECT_TIMEOUT_S = 5.0
# Creating an FTL resets the zones of the whole device. The daemon itself limits each step.
REPLY_TIMEOUT_S = 600.0
REPLY_BYTES_MAX = 64 << 20
PORT_MAX = 65535
_KEY = re.compile(r"(DHHC-1|NVMeTLSkey-1):[^\"\s]*")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}")
CHUNK_BYTES = 64 << 10

_KINDS: Mapping[int, type[FtlError]] = {
    JSONRPC_INVALID_PARAMS: ParameterError,
    -errno.ENODEV: NotFoundError,
    -errno.EEXIST: ExistsError,
    -errno.EBUSY: BusyError,
    -errno.ENOTSUP: UnsupportedError,
}
"""The exception for each code of a failed RPC; for any other code it is FtlError."""


def default_socket() -> str:
    """Returns $SPDK_FTL_SOCK if it is set, else /run/spdk-ftl/spdk-ftl.sock for root and
    $XDG_RUNTIME_DIR/spdk-ftl/spdk-ftl.sock for other users. Raises ParameterError for other users without
    XDG_RUNTIME_DIR."""
    return os.environ.get(SOCKET_ENVIRONMENT) or str(run_directory() / SOCKET_NAME)


def target_address(text: str) -> str:
    """Converts the value of -s to the form that RPCs take: an absolute path, or HOST:PORT. Raises ParameterError if it
    is neither."""
    wanted = "give the path of the SPDK target's RPC socket, or HOST:PORT"
    if not text:
        raise ParameterError(f"-s: an empty address: {wanted}")
    if "/" in text or ":" not in text:
        path = os.path.abspath(text)
        size = len(os.fsencode(path))
        if size > PATH_BYTES_MAX:
            raise ParameterError(
                f"-s: {text!r} is a path of {size} bytes: the path of a unix socket has at most {PATH_BYTES_MAX} "
                "bytes: use a shorter one"
            )
        return path
    if _HOST_PORT.fullmatch(text) is None or int(text.rpartition(":")[2]) not in range(1, PORT_MAX + 1):
        raise ParameterError(f"-s: {text!r} is not an address: {wanted} (an IPv6 address in brackets)")
    return text


class DaemonSocket:
    """The address of a daemon, the users that the client trusts to serve it, and the form of calls and replies. It
    holds no connection."""

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float | None = None,
        user: str | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        """socket_path: of the daemon; default_socket() by default. timeout_s: for one call, on top of the time that the
        call tells the daemon to wait; 600 s by default. user: who may serve the socket, beside the calling user and
        root; $SPDK_FTL_DAEMON_USER by default. log: receives each request and response, at the level and in the form of
        SPDK's client, without keys. Raises ParameterError if there is no such user, or no default socket."""
        self._log = log
        user = user or os.environ.get(USER_ENVIRONMENT)
        self._trust = Trust(uid_of(user) if user else None)
        self.socket_path = os.path.abspath(socket_path or default_socket())
        self.timeout_s = timeout_s if timeout_s is not None else REPLY_TIMEOUT_S

    def _request(self, method: str, params: Mapping[str, Any] | None) -> tuple[bytes, float]:
        """Returns the request to send, and the time limit for the reply, in seconds."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params or {})}
        if self._log is not None:
            self._log.debug("call('%s') to the %s", method, self._who)
            self._log.info("Requests:\n%s\n", _without_keys(request))
        # The time that the call tells the daemon to wait does not count as silence.
        wait = (params or {}).get("wait")
        return json.dumps(request).encode(), self.timeout_s + (wait if isinstance(wait, int) else 0)

    def _result(self, body: bytes) -> Any:
        """Returns the result in a reply. Raises FtlError if the reply is an error."""
        reply = self._decode(body)
        if self._log is not None:
            self._log.info("response:\n%s\n", _without_keys(reply))
        if "error" in reply:
            error = reply["error"]
            code = error.get("code") if isinstance(error, dict) else None
            if not isinstance(code, int) or not isinstance(error.get("message"), str):
                raise DaemonError(f"{self._who}: malformed JSON-RPC error in its reply")
            errno = -code if -4096 < code < -1 else None
            raise _KINDS.get(code, FtlError)(error["message"], errno=errno, code=code)
        if "result" not in reply:
            raise DaemonError(f"{self._who}: its reply has neither result nor error")
        return reply["result"]

    @property
    def _who(self) -> str:
        return f"spdk-ftl daemon at {self.socket_path}"

    def _answers_as_target(self) -> bool:
        """Whether the server understands JSON-RPC without HTTP around it. A target drops a message that it cannot
        parse, and closes the connection."""
        question = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version"}).encode()
        with contextlib.suppress(OSError, DaemonError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.connect(self.socket_path)
            self._check_server(connection)
            connection.sendall(question)
            return connection.recv(CHUNK_BYTES).lstrip()[:1] == b"{"
        return False

    def _no_reply(self, timeout_s: float) -> DaemonError:
        return DaemonError(
            f"{self._who}: no reply within {timeout_s:g} s; the call may still take effect: see `spdk-ftl devices`"
        )

    def _too_large(self) -> DaemonError:
        return DaemonError(f"{self._who}: its reply is larger than {REPLY_BYTES_MAX} bytes")

    def _broke_off(self, error: Exception) -> DaemonError:
        """The error for a connection that broke off. Connects once more to find out what kind of server it is; the
        connection and the answer may each take CONNECT_TIMEOUT_S."""
        if self._answers_as_target():
            return DaemonError(
                f"{self.socket_path} seems to be the RPC socket of an SPDK target, not the control socket of a "
                "spdk-ftl daemon: give the target's socket with -s, and the daemon's with --socket or "
                f"${SOCKET_ENVIRONMENT} (default: {SOCKET_DEFAULT})",
                errno=errno.EPROTO,
            )
        return DaemonError(
            f"{self._who} broke off: {error}; see its log, and `spdk-ftl devices` for the state of the FTLs"
        )

    def _not_connected(self, error: OSError) -> DaemonError:
        """The error for a failed connect()."""
        if isinstance(error, PermissionError):
            return DaemonError(f"{self._who} can't be reached: {self._who_may()}", errno=errno.EACCES)
        kind = DaemonError
        if isinstance(error, FileNotFoundError):
            state, kind = "is not running (no such socket)", NoDaemonError
        elif isinstance(error, ConnectionRefusedError):
            state, kind = "is not running (nobody listens on its socket)", NoDaemonError
        else:
            state = f"can't be reached ({error.strerror or error})"
        return kind(
            f"{self._who} {state}: start it with `spdk-ftl serve`, or name its socket in ${SOCKET_ENVIRONMENT}"
            f"{self._elsewhere()}"
        )

    def _who_may(self) -> str:
        """Who may use the socket, and how other users get access."""
        path = Path(self.socket_path)
        me = show_user(own_uid())
        try:
            found = os.lstat(path)
        except OSError:
            return (
                f"{me} may not enter the directory {path.parent}{show_owner(path.parent)}: run this as its user, or "
                f"name the socket of another daemon in ${SOCKET_ENVIRONMENT}{self._elsewhere()}"
            )
        may = [show_user(found.st_uid), "root"] if found.st_uid else [show_user(found.st_uid)]
        mode = stat.S_IMODE(found.st_mode)
        if mode & stat.S_IWGRP:
            group = show_group(found.st_gid)
            return (
                f"{me} may not use that socket, only {', '.join(may)} and the members of {group} (mode {mode:04o}): "
                f"run this as one of them, or join {group} and log in again"
            )
        return (
            f"{me} may not use that socket, only {' and '.join(may)} (mode {mode:04o}): run this as that user, or "
            "admit a group with `spdk-ftl serve --socket-group GROUP` (under systemd: SocketMode=0660 and "
            "SocketGroup=GROUP in spdk-ftl.socket); users who only monitor get --monitor-socket and --monitor-group"
        )

    def _elsewhere(self) -> str:
        """Other places where a daemon may listen."""
        if self.socket_path == SOCKET_BEFORE:
            return f" (this was the default of earlier versions; now it is {SOCKET_DEFAULT})"
        if self.socket_path != SOCKET_OF_ROOT and os.path.exists(SOCKET_OF_ROOT):
            return f" (root's daemon has {SOCKET_OF_ROOT})"
        if os.path.exists(SOCKET_BEFORE):
            return f" (a daemon of an earlier version may have {SOCKET_BEFORE}: restart it)"
        return ""

    def _check_server(self, connection: socket.socket) -> None:
        """Called before anything is sent. Raises DaemonError if the server belongs neither to the calling user, nor to
        root, nor to the given user."""
        peer = peer_of(connection)
        if peer is not None and self._trust.includes(peer):
            return
        whose = "a process that has ended" if peer is None else str(peer)
        raise DaemonError(
            f"{self._who}: its socket is served by {whose}, but only {self._trust} is trusted; nothing was sent. If "
            f"the daemon runs as that user, give --daemon-user or ${USER_ENVIRONMENT}; otherwise find out which "
            "process has taken the path",
            errno=errno.EPERM,
        )

    def _decode(self, body: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            raise DaemonError(f"{self._who}: its reply is not JSON: {body[:80]!r}") from None
        if not isinstance(reply, dict):
            raise DaemonError(f"{self._who}: its reply is not a JSON-RPC object")
        return reply


class DaemonClient(DaemonSocket, DaemonRpcs):
    """Calls the daemon. There is a method for each RPC of docs/rpc.md, and call() for all of them. Each call opens one
    HTTP connection, so the object needs no close, and threads may share it.

    >>> daemon = DaemonClient()
    >>> [device["name"] for device in daemon.ftl_get_devices()]

    Every method raises what call() raises.
    """

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Returns the result of one RPC.

        Raises NoDaemonError if no daemon is running. Raises DaemonError if the client cannot reach the daemon, if
        another user serves its socket (nothing is sent then), or if the connection breaks off (then it is unknown
        whether the call took effect). Raises FtlError with the daemon's message, errno and code if the daemon refuses
        the call; by its code this is ParameterError (-32602), NotFoundError (-19), ExistsError (-17), BusyError (-16)
        or UnsupportedError (-95).
        """
        return self._result(self._post(*self._request(method, params)))

    def _post(self, body: bytes, timeout_s: float) -> bytes:
        import requests

        from .checked_session import CheckedAdapter

        self._check_listening()
        url = f"http+unix://{quote(self.socket_path, safe='')}/"
        try:
            with requests.Session() as session:
                session.mount("http+unix://", CheckedAdapter(self._check_server))
                # Proxies in the environment do not apply to a unix socket.
                session.trust_env = False
                headers = {"Content-Type": "application/json", "Connection": "close"}
                timeout = (CONNECT_TIMEOUT_S, timeout_s)
                with session.post(url, data=body, headers=headers, timeout=timeout, stream=True) as response:
                    received = bytearray()
                    for chunk in response.iter_content(CHUNK_BYTES):
                        received += chunk
                        if len(received) > REPLY_BYTES_MAX:
                            raise self._too_large()
                    return bytes(received)
        except requests.exceptions.ReadTimeout:
            raise self._no_reply(timeout_s) from None
        except requests.exceptions.RequestException as error:
            raise self._broke_off(error) from None

    def _check_listening(self) -> None:
        """Checks that a process listens. With requests, only the error text would tell this from a connection that
        broke off."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            try:
                probe.connect(self.socket_path)
            except OSError as error:
                raise self._not_connected(error) from None


def _without_keys(message: Mapping[str, Any]) -> str:
    """The message for a log. It shows a key as the path of its file, and masks what is not a path, as it may be the key
    itself."""
    return _KEY.sub(r"\1:...", json.dumps(message, indent=2))

"""Writes a line for each order that the daemon gets: who gave it, what it was, for which FTL, and how it ended.

A line is one JSON object of printable ASCII. It goes to the log under ``spdk_ftl_py.audit``, or to a file instead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import pwd
import re
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Final

from .. import schema
from ..access.paths import check_parents, open_file
from ..access.peers import Peer, command_of
from ..errors import FtlError
from ..runtime.logs import AUDIT, logger_name
from ..text import show_line, show_name

ERROR_SHOWN_MAX: Final = 400
VALUE_SHOWN_MAX: Final = 256
NAME_SHOWN_MAX: Final = 64
ENTRIES_SHOWN_MAX: Final = 8
DEPTH_SHOWN_MAX: Final = 2
HIDDEN: Final = "(hidden)"
_SECRETS: Final = ("DHHC-1", "NVMETLSKEY")
"""Beginnings of keys in their usual forms. A user may give a key where the path of its file belongs."""
_SECRET_NAMES: Final = ("key", "psk", "secret", "password")
_KEYS: Final = re.compile(r"(DHHC-1|NVMeTLSkey-1):[^\"\s]*", re.IGNORECASE)
_COMPLAIN_EVERY_S: Final = 60.0

log = logging.getLogger(logger_name(AUDIT))


class Order:
    """One order, from its arrival to its end."""

    def __init__(self, method: str, params: object, peer: Peer | None, socket_path: str) -> None:
        self._started = time.monotonic()
        self._method = method
        self._params = params
        self._peer = peer
        self._socket_path = socket_path

    def ended(self, error: FtlError | None = None, *, result: str = "") -> None:
        """Writes the line. result: of an order that ended without an answer or an FtlError."""
        line = {**_who(self._peer), "socket": show_line(self._socket_path), "method": self._method}
        params = self._params if isinstance(self._params, Mapping) else {}
        name = params.get("name")
        if isinstance(name, str):
            line["ftl"] = _name(name)
        line["params"] = shown_params(self._method, params)
        if error is None:
            line["result"] = result or "ok"
        else:
            line["result"], line["code"] = "error", error.to_jsonrpc()["code"]
            line["error"] = _without_secrets(show_line(error.message, ERROR_SHOWN_MAX))
        line["duration_s"] = round(time.monotonic() - self._started, 3)
        log.info("%s", json.dumps(line))


def is_order(method: str) -> bool:
    """Whether the RPC changes something."""
    return not schema.load(method).reads_only


def shown_params(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Without secrets, with bounds on everything. Parameters that the RPC does not have are shown by name only."""
    known = {parameter.name for parameter in schema.load(method).parameters}
    shown = {}
    for name, value in list(params.items())[:64]:
        shown[_name(name)] = _shown(value, name) if name in known else HIDDEN
    return shown


def _shown(value: Any, name: str, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        # A name such as psk stands for the path of a file, which is no secret.
        secret = any(word in name.lower() for word in _SECRET_NAMES) and not value.startswith("/")
        return HIDDEN if secret else _without_secrets(show_line(value, VALUE_SHOWN_MAX))
    if depth >= DEPTH_SHOWN_MAX or not isinstance(value, list | dict):
        return f"({len(value)} entries)" if isinstance(value, list | dict) else HIDDEN
    more = {"...": len(value)} if len(value) > 4 * ENTRIES_SHOWN_MAX else {}
    if isinstance(value, dict):
        some = list(value.items())[: 4 * ENTRIES_SHOWN_MAX]
        return {_name(str(key)): _shown(each, str(key), depth + 1) for key, each in some} | more
    entries = [_shown(each, name, depth + 1) for each in value[:ENTRIES_SHOWN_MAX]]
    return entries if len(value) <= ENTRIES_SHOWN_MAX else [*entries, f"... ({len(value)} entries)"]


def _name(name: str) -> str:
    return _without_secrets(show_name(name, NAME_SHOWN_MAX))


def without_keys(text: str) -> str:
    """For the log: a message may repeat what somebody has given, such as a key for the name of a host."""
    return _KEYS.sub(rf"\1:{HIDDEN}", text)


def _without_secrets(text: str) -> str:
    return HIDDEN if any(each in text.upper() for each in _SECRETS) else text


def _who(peer: Peer | None) -> dict[str, Any]:
    """The user and process at the other end of the socket."""
    if peer is None:
        return {"uid": None, "pid": None}
    user = f"uid {peer.uid}"
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(peer.uid).pw_name
    process = command_of(peer.pid).strip()[1:-1]
    return {"uid": peer.uid, "user": show_name(user), "pid": peer.pid, "process": show_line(process, 64)}


def audit_to_file(path: Path) -> logging.Handler:
    """From now on appends lines to that file, instead of the log. If the file was moved away, it is created anew, so
    logrotate needs no copytruncate and no signal. Raises FtlError if the file can't be written."""
    path = path.absolute()
    handler = _AuditFile(path)
    handler.setFormatter(_Lines())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)
    return handler


def audit_to_log(handler: logging.Handler | None = None) -> None:
    """Undoes audit_to_file()."""
    if handler is not None:
        log.removeHandler(handler)
        handler.close()
    log.propagate = True
    log.setLevel(logging.NOTSET)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        return f'{{"time": "{at}", {record.getMessage()[1:]}'


class _AuditFile(logging.handlers.WatchedFileHandler):
    """Mode 0600; refuses a file or directory that another user could replace."""

    def __init__(self, path: Path) -> None:
        self._complained = -_COMPLAIN_EVERY_S
        try:
            super().__init__(path, encoding="ascii")
        except OSError as error:
            raise FtlError(
                f"audit log {path} can't be opened: {error.strerror}: give another with --audit-log, in a directory "
                "that the daemon's user can write to",
                errno=error.errno,
            ) from error

    def _open(self) -> IO[str]:  # type: ignore[override]
        path = Path(self.baseFilename)
        what = f"audit log {path}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = open_file(path, flags, what)
        try:
            check_parents(path, what, "give another with --audit-log")
        except FtlError:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "a", encoding="ascii", buffering=1)

    def handleError(self, record: logging.LogRecord) -> None:
        """If a line can't be written, the order is carried out even so, and the log has the line."""
        error = sys.exc_info()[1]
        logging.getLogger(__name__).error("%s (not in the audit log)", record.getMessage())
        if time.monotonic() - self._complained >= _COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            logging.getLogger(__name__).error("audit log %s can't be written: %s", self.baseFilename, error)

    def emit(self, record: logging.LogRecord) -> None:
        # The base class handles an error of the write, but not of the attempt to open a moved file anew.
        try:
            super().emit(record)
        except (OSError, FtlError):
            self.handleError(record)

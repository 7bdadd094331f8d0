"""The process that does the work. It is started by WorkerProcess, gets requests over a socket, and ends with it."""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from ..errors import FtlError
from .identity import FILE, Identity, difference, identity

END_S: Final = 5.0
"""How long work may take to end in order when it is not wanted any more."""
_ERROR_LENGTH_MAX: Final = 2000

Message = dict[str, Any]


def main(descriptor: int) -> None:
    connection = Connection(descriptor)
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    # Work has the main thread, because only that one can handle signals.
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    loaded: Identity = {}
    try:
        while True:
            _serve(requests.get(), loaded, lambda message: connection.send_bytes(json.dumps(message).encode()))
    except (KeyboardInterrupt, OSError):
        # Nobody waits for answers. Threads of user code must not hold the process up.
        os._exit(1)


def _receive(connection: Connection, requests: queue.SimpleQueue[Message]) -> None:
    try:
        while True:
            requests.put(json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_S)
        os._exit(1)


def _serve(request: Message, loaded: Identity, send: Callable[[Message], None]) -> None:
    """loaded: of code beside the package, what it was when it was first asked for."""
    asked = request["identity"]
    here = {**identity(name for name in asked if name not in loaded), **loaded}
    if told := difference(asked, here):
        send({"refused": told})
        return
    loaded.update({name: here[name] for name in asked if not name.startswith(FILE)})
    for key, argument in request["tasks"]:
        began = time.monotonic()
        message: Message = {"key": key}
        try:
            message["value"] = resolved(request["function"])(argument)
            json.dumps(message)
        except Exception as error:  # any exception is the answer to this task
            message = {"key": key, "error": _told(error)}
        send({**message, "seconds": time.monotonic() - began})
    send({"end": True})


def resolved(name: str) -> Callable[[Any], Any]:
    """The function ``module:name``. Raises ImportError or AttributeError."""
    module, _, function = name.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


def _told(error: Exception) -> str:
    """One line. Where an error comes from is told of those that nobody raises on purpose."""
    text = " ".join(str(error).split())
    if isinstance(error, FtlError):
        return text[:_ERROR_LENGTH_MAX]
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})" if where is not None else ""
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:_ERROR_LENGTH_MAX] + place

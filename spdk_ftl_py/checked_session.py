"""HTTP over a unix socket. The client checks the server before it sends anything, on the same connection that it then
uses."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from requests_unixsocket import adapters

Check = Callable[[socket.socket], None]


class CheckedAdapter(adapters.UnixAdapter):  # type: ignore[misc]
    """An adapter for requests.Session.mount(). An exception that check raises leaves the request unchanged."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self._check = check

    def get_connection(self, url: Any, proxies: Any = None) -> _Pool:
        return _Pool(url, self._check)


class _Pool(adapters.UnixHTTPConnectionPool):  # type: ignore[misc]
    def __init__(self, url: Any, check: Check) -> None:
        super().__init__(url)
        self._check = check

    def _new_conn(self) -> _Connection:
        return _Connection(self.socket_path, self.timeout, self._check)


class _Connection(adapters.UnixHTTPConnection):  # type: ignore[misc]
    def __init__(self, url: Any, timeout: Any, check: Check) -> None:
        super().__init__(url, timeout)
        self._check = check

    def connect(self) -> None:
        super().connect()
        self._check(self.sock)

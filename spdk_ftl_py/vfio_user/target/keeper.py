"""The keeper: a small process that has an endpoint, and outlives the daemon that serves it.

It has the sockets, the client's connection, the descriptors of memory and records, and the registers. It does no I/O.
A daemon connects to the socket ``keeper`` beside ``cntrl``, receives all of this, and serves the queues. When the
daemon dies, the next one goes on. Without a daemon, the keeper executes what needs no controller: see endpoint.Nobody.

It imports neither the shim nor asyncio nor numpy, because there may be one for each FTL.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ...access.owned_socket import OwnedSocket
from ...access.peers import Trust, peer_of
from ...errors import FtlError
from .client_state import ClientState, Queue, Region
from .endpoint import Endpoint, accepted
from .link import Content, Link
from .registers import QUEUES_MAX, Step

CLIENT_SOCKET: Final = "cntrl"
DAEMON_SOCKET: Final = "keeper"
ALONE_S: Final = 60.0
"""The keeper ends when it has had neither a client nor a daemon for this time."""
REFUSED_S: Final = 5.0
"""How long a second daemon has to read that it is one."""
LOOK_S: Final = 20.0
"""How often the keeper checks that its directory still exists."""
LINES_KEPT: Final = 16
"""Lines of the log that the keeper holds for the next daemon."""
END_MESSAGE: Final = b'{"op": "end"}'
"""A daemon that does not take over the endpoint sends this."""
HAND_OVER_VERSION: Final = 1
"""To be changed when daemons can no longer take over from older keepers."""
CLIENT_BACKLOG: Final = 16


class _Timer:
    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class SmallLoop:
    """As much of an event loop as an endpoint needs."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._callbacks: dict[int, dict[int, Callable[[], Any]]] = {}
        self._timers: list[tuple[float, int, _Timer]] = []
        self._count = 0
        self.running = True

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self._add(fd, selectors.EVENT_READ, lambda: callback(*args))

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self._add(fd, selectors.EVENT_WRITE, lambda: callback(*args))

    def remove_reader(self, fd: Any) -> None:
        self._remove(fd, selectors.EVENT_READ)

    def remove_writer(self, fd: Any) -> None:
        self._remove(fd, selectors.EVENT_WRITE)

    def _add(self, fd: Any, event: int, callback: Callable[[], Any]) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        callbacks = self._callbacks.setdefault(number, {})
        known = bool(callbacks)
        callbacks[event] = callback
        self._watch(number, known=known)

    def _remove(self, fd: Any, event: int) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        callbacks = self._callbacks.get(number)
        if callbacks is not None and callbacks.pop(event, None) is not None:
            self._watch(number, known=True)

    def _watch(self, number: int, *, known: bool) -> None:
        callbacks = self._callbacks[number]
        if not callbacks:
            del self._callbacks[number]
            self._selector.unregister(number)
        elif known:
            self._selector.modify(number, sum(callbacks))
        else:
            self._selector.register(number, sum(callbacks))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> _Timer:
        timer = _Timer(callback, args)
        self._count += 1
        heapq.heappush(self._timers, (time.monotonic() + delay, self._count, timer))
        return timer

    def run(self) -> None:
        """Until running is False."""
        while self.running:
            timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
            for key, events in self._selector.select(timeout):
                for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                    callback = self._callbacks.get(key.fd, {}).get(event)
                    if events & event and callback is not None:
                        callback()
            while self._timers and self._timers[0][0] <= time.monotonic():
                timer = heapq.heappop(self._timers)[2]
                if timer.callback is not None:
                    timer.callback(*timer.args)


class _Daemon:
    """The backend while a daemon is connected: it is asked by messages."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def came(self, client: ClientState) -> None:
        record = {"op": "client", "number": client.number, "registers": client.registers.to_record(), "note": {}}
        self._link.send(record, client.bar0)

    def map(self, ticket: int, region: Region) -> None:
        self._link.send({"op": "map", "ticket": ticket, **region.to_record()}, region.descriptor)

    def unmap(self, ticket: int, region: Region) -> None:
        self._link.send({"op": "unmap", "ticket": ticket, **region.to_record()})

    def step(self, ticket: int, step: Step, client: ClientState) -> None:
        registers = client.registers.to_record()
        self._link.send({"op": "step", "ticket": ticket, "step": step.value, "registers": registers})

    def gone(self, ticket: int, client: ClientState) -> None:
        self._link.send({"op": "gone", "ticket": ticket})

    def hand_over(self, client: ClientState) -> None:
        """Everything that there is of a client."""
        record = {"op": "client", "number": client.number, "registers": client.registers.to_record()}
        self._link.send({**record, "note": client.note}, client.bar0)
        for region in client.regions.values():
            self._link.send({"op": "map", **region.to_record()}, region.descriptor)
        for queue in client.queues.values():
            self._link.send({"op": "queue", **queue.to_record()}, queue.descriptor)


class Keeper:
    """Made when both sockets can be listened on; run() serves until it has to end."""

    def __init__(self, directory: Path, loop: SmallLoop, *, alone_s: float = ALONE_S) -> None:
        """Raises FtlError, such as BusyError if another process listens there."""
        remedy = "give the endpoint another directory"
        self._sockets = [OwnedSocket(directory / CLIENT_SOCKET, "vfio-user socket", remedy, backlog=CLIENT_BACKLOG)]
        try:
            self._listening = _listen_to_daemons(directory, remedy)
        except BaseException:
            self._sockets[0].close()
            raise
        self._directory = directory
        self._loop = loop
        self._alone_s = alone_s
        self._identity = _identity(directory)
        self._cap = 0
        self._link: Link | None = None
        self._daemon_pid = 0
        self._served = False
        """The daemon has got everything."""
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._alone_since = time.monotonic()
        self._endpoint = Endpoint(loop, self._sockets[0].socket, lambda: self._cap, self._log)
        self._endpoint.on_idle = self._note_the_time
        self._listen()
        loop.call_later(min(LOOK_S, alone_s), self._look)

    # --- life -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the client's connection, and removes the sockets."""
        self._endpoint.close()
        self._listening.close()
        with contextlib.suppress(OSError):
            if _identity(self._directory) == self._identity:
                (self._directory / DAEMON_SOCKET).unlink()
        for each in self._sockets:
            each.close()
        # The last: a daemon that waits for the end may use the directory again.
        if self._link is not None:
            self._link.close()

    def _look(self) -> None:
        if self._link is not None or self._endpoint.client is not None:
            self._note_the_time()
        gone = _identity(self._directory) != self._identity
        if gone or time.monotonic() - self._alone_since >= self._alone_s:
            self._loop.running = False
            return
        self._loop.call_later(min(LOOK_S, self._alone_s), self._look)

    def _note_the_time(self) -> None:
        self._alone_since = time.monotonic()

    def _log(self, line: str) -> None:
        if self._link is not None:
            self._link.send({"op": "log", "line": line})
        else:
            self._lines.append(line)

    # --- the daemon -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        sock = accepted(self._loop, self._listening, self._listen)
        if sock is None:
            return
        peer = peer_of(sock)
        if peer is None or not Trust().includes(peer):
            sock.close()
            return
        if self._link is not None:
            # Its daemon may have ended before this one connected, with messages on their way that come before the end.
            self._link.catch_up()
        if self._link is not None:
            refused = Link(self._loop, sock, lambda content, descriptor: None, lambda reason: None)
            refused.send({"op": "busy", "pid": self._daemon_pid})
            # Closing a socket with something unread resets the connection: the other side may miss the answer.
            self._loop.call_later(REFUSED_S, refused.close)
            return
        self._daemon_pid, self._served = peer.pid, False
        self._link = Link(self._loop, sock, self._on_message, self._on_lost)

    def _on_lost(self, reason: str) -> None:
        self._link = None
        self._note_the_time()
        self._endpoint.set_backend(None)
        self._log(f"the daemon was lost: {reason}")

    def _on_message(self, content: Content, descriptor: int) -> None:
        client = self._endpoint.client
        of_client = client is not None and content.get("client") == client.number
        try:
            match content["op"]:
                case "serve" if not self._served:
                    self._served = True
                    self._serve(int(content["cap"]), int(content["version"]))
                case "done":
                    self._endpoint.done(int(content["ticket"]), int(content["error"]))
                case "keep" if of_client and client is not None:
                    note, queues = dict(content["note"]), [Queue.from_record(each) for each in content["queues"]]
                    if any(not 0 <= queue.qid < QUEUES_MAX for queue in queues):
                        raise ValueError("queue id")
                    client.note = note
                    for qid in content["dropped"]:
                        client.drop_queue(int(qid))
                    for queue in queues:
                        # The descriptor is of the one with a submission queue.
                        client.put_queue(queue.with_record(descriptor) if queue.sq_entries else queue)
                        descriptor = -1 if queue.sq_entries else descriptor
                case "fail" if of_client and client is not None:
                    client.registers.fail()
                case "drop" if of_client:
                    self._endpoint.drop(str(content["reason"]))
                case "end":
                    self._loop.running = False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _serve(self, cap: int, version: int) -> None:
        assert self._link is not None
        if version != HAND_OVER_VERSION:
            # Of another version of this package, which does not know what we have.
            self._link.send({"op": "other version", "version": HAND_OVER_VERSION})
            return
        self._cap = cap
        daemon, client = _Daemon(self._link), self._endpoint.client
        if client is not None:
            daemon.hand_over(client)
        self._link.send({"op": "ready"})
        while self._lines:
            self._log(self._lines.popleft())
        self._endpoint.set_backend(daemon)


def _listen_to_daemons(directory: Path, remedy: str) -> socket.socket:
    """The lock of the client's socket is held, so a socket that is there is stale. Raises FtlError."""
    path = directory / DAEMON_SOCKET
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        umask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(umask)
        listening.listen(CLIENT_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise FtlError(f"socket {path} can't be created: {error.strerror}: {remedy}", errno=error.errno) from error
    return listening


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(directory)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _fork() -> int:
    """Returns in a child with a session of its own: a descriptor to call _ready() with. The parent ends when the child
    is ready, or ends with the child's exit status if the child ends before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        if os.read(reading, 1):
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF or errno.EIO)
    os.close(reading)
    os.setsid()
    return writing


def _ready(writing: int) -> None:
    """Whoever waits for the parent reads the end of its stderr only when the child has let go of that too."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    os.chdir("/")
    os.write(writing, b"1")
    os.close(writing)


def main(arguments: list[str]) -> int:
    """``python -m spdk_ftl_py.vfio_user.target.keeper DIRECTORY``: returns when the keeper listens, and leaves it as a
    process of its own. On failure: a line on stderr, and the errno as exit status.

    The fork comes first: the kernel tells peers the pid of the process that has called listen().
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    directory = Path(arguments[0]).absolute()
    writing = _fork()
    loop = SmallLoop()
    try:
        keeper = Keeper(directory, loop)
    except FtlError as error:
        print(error.message, file=sys.stderr)
        return error.errno or errno.EIO
    _ready(writing)

    def stop(*_: object) -> None:
        loop.running = False

    signal.signal(signal.SIGTERM, stop)
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    loop.add_reader(reading, os.read, reading, 64)
    try:
        loop.run()
    finally:
        keeper.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

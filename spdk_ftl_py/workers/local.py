"""Processes of this machine that do the work, as many at a time as are wanted."""

from __future__ import annotations

import os
import queue
import threading
from typing import Final

from .work import Answered, Ended, Event, Request, drained
from .worker_process import WorkerDied, WorkerEnded, WorkerProcess, WorkerRefused, not_started

_END_S: Final = 15.0
_START_AGAIN_S: Final = 1.0
"""After a process could not be started."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


class LocalWorkers:
    """Each process has a thread that gives it one chunk after the other, and starts it again when it has died."""

    def __init__(self, processes: int) -> None:
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._running: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(processes)]
        for thread in self._threads:
            thread.start()

    def capacity(self) -> int:
        return len(self._threads)

    def submit(self, request: Request) -> None:
        self._requests.put(request)

    def events(self, timeout: float) -> list[Event]:
        return drained(self._events, timeout)

    def close(self) -> None:
        with self._lock:
            self._closing.set()
            for process in self._running:
                process.kill()
        for _ in self._threads:
            self._requests.put(None)
        for thread in self._threads:
            thread.join(_END_S)

    def _work(self) -> None:
        process: WorkerProcess | None = None
        while (request := self._requests.get()) is not None:
            try:
                if process is None and (process := self._started()) is None:
                    return
                for answer in process.run(request):
                    self._events.put(Answered(request.chunk, answer))
                ended = Ended(request.chunk, where=process.name)
            except WorkerRefused as error:
                ended = Ended(request.chunk, refused=str(error), where="this machine")
            except WorkerDied as error:
                died, lost = ("", str(error)) if isinstance(error, WorkerEnded) else (str(error), "")
                ended = Ended(request.chunk, died=died, lost=lost, where=process.name if process else "this machine")
                self._end(process)
                process = None
            except OSError as error:
                ended = Ended(request.chunk, lost=not_started(error), where="this machine")
                self._closing.wait(_START_AGAIN_S)
            if self._closing.is_set():
                break
            self._events.put(ended)
        self._end(process)

    def _started(self) -> WorkerProcess | None:
        """None: nobody wants it any more."""
        with self._lock:
            if self._closing.is_set():
                return None
            process = WorkerProcess()
            self._running.add(process)
            return process

    def _end(self, process: WorkerProcess | None) -> None:
        if process is None:
            return
        with self._lock:
            self._running.discard(process)
        process.close()

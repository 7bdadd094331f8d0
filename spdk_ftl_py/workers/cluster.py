"""A Dask cluster that does the work. (Dask is an extra: this module can be imported without it.)

Each chunk is a Dask task, which starts a process of its own on its worker: so it does not matter how many threads or
processes the worker has, and a chunk that needs too much memory, or crashes, takes no worker with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import logging
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ..errors import FtlError, UnsupportedError
from .identity import Identity, difference, identity
from .work import Answer, Answered, Ended, Event, Request, Told, drained
from .worker_process import WorkerDied, WorkerEnded, WorkerProcess, WorkerRefused, WorkerUnwanted, not_started

CONNECT_S: Final = 15.0
FIRST_WORKER_S: Final = 60.0
"""How long a cluster without a worker is waited for."""
_LOOK_S: Final = 1.0
_START_AGAIN_S: Final = 1.0
_RESULT_S: Final = 30.0
"""How long a result may take from a worker."""
_AT_ONCE: Final = 2
"""Chunks for each thread of a worker: it has the next one when one is done."""
_ENDING: Final = ("closing", "closed", "failed")
"""States of a worker whose results nobody gets."""
_LOGGERS: Final = ("distributed", "distributed.client", "distributed.core", "distributed.batched")


def run_chunk(values: dict[str, Any]) -> dict[str, Any]:
    """Runs on a Dask worker. Returns the answers as far as there are any, and how the work ended.

    Dask does not end a task that runs: so this looks whether the worker still wants it, and ends its process if not.
    """
    worker = importlib.import_module("distributed").get_worker()
    key, where = worker.get_current_task(), str(worker.address)
    answers: list[dict[str, Any]] = []
    ended = {"died": "", "lost": "", "refused": ""}
    try:
        process = WorkerProcess()
    except OSError as error:
        # Not at once, so that those who can start one get the most.
        time.sleep(_START_AGAIN_S)
        return {"answers": [], **ended, "lost": f"{where}: {not_started(error)}", "where": where}
    try:
        for answer in process.run(Request.from_dict(0, values), lambda: _is_wanted(worker, key)):
            answers.append({"key": answer.key, "value": answer.value, "error": answer.error, "seconds": answer.seconds})
    except WorkerRefused as error:
        ended["refused"] = str(error)
    except WorkerDied as error:
        # What ends a worker may reach its processes first.
        lost = isinstance(error, WorkerEnded) or not _is_wanted(worker, key)
        ended["lost" if lost else "died"] = f"{where}, {error}"
    except WorkerUnwanted:
        ended["lost"] = f"{where} was told to give a chunk up"
    finally:
        process.close()
    return {"answers": answers, **ended, "where": where}


def _is_wanted(worker: Any, key: Any) -> bool:
    """By its worker: not once the command has cancelled it, or is gone (kill -9, too), nor if the worker ends."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled" and worker.status.name not in _ENDING


async def worker_identity(names: Sequence[str]) -> Identity:
    """Runs on a Dask worker. Files may be large, and its event loop must go on."""
    return await asyncio.to_thread(identity, names)


class DaskWorkers:
    """code: what workers must have; None: this package. Raises UnsupportedError without Dask, FtlError if nothing
    answers at the address.

    A worker gets work only after it has said what it has. Work of a worker that is lost is given again, by Dask
    itself where another worker is left that may have it.
    """

    def __init__(self, address: str, code: Identity | None = None) -> None:
        try:
            self._distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise UnsupportedError(f"--scheduler needs Dask (pip install 'spdk-ftl-py[dask]'): {error}") from None
        self._address = address
        self._package = identity()
        self._more = {name: value for name, value in (code or {}).items() if name not in self._package}
        """What workers must have beside the package."""
        self._what = "this very package" + (", the same policies and the same traces" if self._more else "")
        self._events: queue.SimpleQueue[Event | int] = queue.SimpleQueue()
        """A number: a chunk whose future is done."""
        self._waiting: list[Request] = []
        """Nobody was there to take it."""
        self._futures: dict[int, Any] = {}
        self._may_run: dict[int, frozenset[str]] = {}
        """The workers that each chunk was offered to."""
        self._threads: dict[str, int] = {}
        """Of the workers that run our code."""
        self._refused: dict[str, str] = {}
        self._had_some = False
        """When it was last looked at."""
        self._looked_at = -_LOOK_S
        self._prefix = f"spdk-ftl-{uuid.uuid4().hex[:12]}-"
        with _quiet():
            try:
                self._client = self._distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise FtlError(
                    f"scheduler {address} does not answer ({' '.join(str(error).split()) or type(error).__name__}): "
                    "is `dask scheduler` running there?",
                    errno=errno.ECONNREFUSED,
                ) from error
        try:
            # Dask gives work of a lost worker to another one without a word.
            self._client.subscribe_topic("all", self._heard)
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    # --- Workers

    def capacity(self) -> int:
        if time.monotonic() - self._looked_at >= _LOOK_S:
            self._look()
        # With no worker left, a chunk waits for the next one.
        return max(1, _AT_ONCE * sum(self._threads.values()))

    def submit(self, request: Request) -> None:
        if not self._threads:
            self._waiting.append(request)
            return
        chunk = request.chunk
        future = self._client.submit(
            run_chunk,
            request.to_dict(),
            key=f"{self._prefix}{chunk}",
            workers=sorted(self._threads),
            allow_other_workers=False,
            pure=False,
        )
        self._futures[chunk] = future
        self._may_run[chunk] = frozenset(self._threads)
        future.add_done_callback(lambda done: self._events.put(chunk))

    def events(self, timeout: float) -> list[Event]:
        found: list[Event] = []
        for event in drained(self._events, timeout):
            if isinstance(event, int):
                found += self._results(event)
            else:
                found.append(event)
        return found

    def close(self) -> None:
        with _quiet(), contextlib.suppress(Exception):
            self._client.cancel(list(self._futures.values()), force=True)
            self._client.close(timeout=CONNECT_S)

    # --- results

    def _results(self, chunk: int) -> Iterator[Event]:
        future = self._futures.pop(chunk, None)
        self._may_run.pop(chunk, None)
        if future is None:
            return
        if future.status != "finished":
            yield Ended(chunk, lost=self._why(future), where=self._address)
            return
        try:
            result = future.result(timeout=_RESULT_S)
        except Exception as error:  # as many kinds as a cluster has ways to fail
            if self._client.status != "running":
                raise self._gone() from error
            future.cancel()
            yield Ended(chunk, lost=f"a result has got lost ({_shown(error)})", where=self._address)
            return
        where = result["where"]
        for answer in result["answers"]:
            yield Answered(chunk, Answer(where=where, **answer))
        if result["refused"]:
            # Its package was changed since it was asked.
            self._refuse(where, result["refused"])
        yield Ended(chunk, died=result["died"], lost=result["lost"] or result["refused"], where=where)

    def _why(self, future: Any) -> str:
        if self._client.status != "running":
            raise self._gone()
        if future.status == "error":
            error = future.exception()
            return f"the cluster has given a chunk up ({_shown(error)})"
        return "the scheduler has lost a chunk"

    def _gone(self) -> FtlError:
        return FtlError(f"scheduler {self._address} is gone: start it, and then this command again", errno=errno.EPIPE)

    def _heard(self, event: tuple[float, Any]) -> None:
        """Called by Dask's own thread."""
        _, message = event
        if not isinstance(message, dict) or message.get("action") != "remove-worker":
            return
        lost = [*message.get("processing-tasks", ()), *message.get("lost-computed-tasks", ())]
        ours = sorted({int(str(key).removeprefix(self._prefix)) for key in lost if str(key).startswith(self._prefix)})
        if ours:
            chunks = f"{len(ours)} chunk{'s' if len(ours) > 1 else ''}"
            self._events.put(Told(f"worker {message.get('worker')} is gone: {chunks} of it given again"))

    # --- the workers' code

    def _look(self) -> None:
        """Asks workers that are new what they run, and takes back what only workers that are gone may run."""
        self._looked_at = time.monotonic()
        if self._client.status != "running":
            raise self._gone()
        try:
            threads: dict[str, int] = self._client.nthreads()
            new = [address for address in threads if address not in self._threads and address not in self._refused]
            if new:
                self._ask(new, threads)
        except (OSError, TimeoutError) as error:
            raise self._gone() from error
        self._threads = {address: count for address, count in self._threads.items() if address in threads}
        self._refused = {address: why for address, why in self._refused.items() if address in threads}
        if threads and self._refused.keys() >= threads.keys():
            raise self._none_has_the_same()
        if self._had_some and not self._threads:
            self._events.put(Told(f"{self._address} has no workers any more: waiting for some"))
        self._had_some = bool(self._threads)
        if self._threads:
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                self.submit(request)
        for chunk, workers in list(self._may_run.items()):
            if self._threads and not workers & self._threads.keys():
                self._futures.pop(chunk).cancel()
                del self._may_run[chunk]
                self._events.put(Ended(chunk, lost="all workers that had it are gone", where=self._address))

    def _ask(self, new: list[str], threads: dict[str, int]) -> None:
        """Another package may not even have what the second question needs."""
        same = self._same(self._package, self._client.run(identity, workers=new, on_error="return"))
        if self._more and same:
            told = self._client.run(worker_identity, list(self._more), workers=same, on_error="return")
            same = self._same(self._more, told)
        for address in same:
            self._threads[address] = threads[address]

    def _same(self, here: Identity, told: dict[str, Identity | BaseException]) -> list[str]:
        """Those that have the same. The others are refused."""
        found = []
        for address, answer in told.items():
            if type(answer) is OSError or isinstance(answer, self._distributed.comm.CommClosedError):
                # It could not be reached: it has gone, or is asked again. Its own errors are more special.
                continue
            if isinstance(answer, BaseException):
                self._refuse(address, _shown(answer))
            elif why := difference(here, answer):
                self._refuse(address, why)
            else:
                found.append(address)
        return found

    def _refuse(self, address: str, why: str) -> None:
        self._threads.pop(address, None)
        if address in self._refused:
            return
        self._refused[address] = why
        text = f"worker {address} is refused, because it has something else ({why})"
        self._events.put(Told(f"{text}: install {self._what} there, and start the worker again"))

    def _none_has_the_same(self) -> FtlError:
        """Nobody can go on, and those that are started again are compared with what there was at the start."""
        address, why = next(iter(self._refused.items()))
        return FtlError(
            f"no worker of {self._address} has the same code: {address}: {why}: install {self._what} on all "
            "workers, and start them again",
            errno=errno.ESTALE,
        )

    def _wait_for_workers(self) -> None:
        until = time.monotonic() + FIRST_WORKER_S
        while True:
            self._look()
            if self._threads:
                return
            if time.monotonic() > until:
                raise FtlError(
                    f"{self._address} has no workers: start some (dask worker {self._address})", errno=errno.ENODEV
                )
            time.sleep(_LOOK_S)


def _shown(error: BaseException) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask logs what is told here as an error."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

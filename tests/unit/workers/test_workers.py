"""Processes and a Dask cluster do the work, and go on when one of them dies."""

from __future__ import annotations

import errno
import itertools
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.errors import FtlError, UnsupportedError
from spdk_ftl_py.workers import cluster
from spdk_ftl_py.workers import local as local_module
from spdk_ftl_py.workers.cluster import DaskWorkers
from spdk_ftl_py.workers.giving import DEATHS_MAX
from spdk_ftl_py.workers.identity import identity
from spdk_ftl_py.workers.local import LocalWorkers
from spdk_ftl_py.workers.spread import Hooks, spread
from spdk_ftl_py.workers.work import Answer, Ended, Request, Task, Workers
from spdk_ftl_py.workers.worker_process import WorkerProcess
from support.quick_work import SQUARE


def results(workers: Workers, arguments: list[Any], size: int = 2) -> tuple[dict[int, Answer], list[str]]:
    tasks = iter([Task(key, argument) for key, argument in enumerate(arguments)])
    answers: list[Answer] = []
    told: list[str] = []
    spread(workers, SQUARE, lambda: next(tasks, None), Hooks(answers.extend, told.append), size=lambda _: size)
    found = {answer.key: answer for answer in answers}
    assert len(found) == len(answers) == len(arguments)
    return found, told


def gone(pid: int) -> bool:
    try:
        # A zombie is gone, too: where nobody takes care of orphans it stays.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begun(gate: Path) -> int:
    """The process that waits at the gate."""
    file = gate.with_name(f"{gate.name}.pid")
    until(file.exists)
    return int(file.read_text())


@pytest.fixture
def local() -> Iterator[LocalWorkers]:
    workers = LocalWorkers(2)
    yield workers
    workers.close()


def test_processes_answer_fail_and_die_without_harm_to_others(local: LocalWorkers, tmp_path: Path) -> None:
    once, error = {"die": str(tmp_path / "once")}, {"raise": "no\nway"}
    found, told = results(local, [3, once, error, 5, {"always": "die"}, 6, 7, {"refuse": "size = 0: must be more"}])
    assert [found[key].value for key in (0, 1, 3, 5, 6)] == [9, "done", 25, 36, 49]
    assert found[2].error.startswith("ValueError: no way (")
    assert "quick_work.py:" in found[2].error
    assert found[7].error == "size = 0: must be more"
    assert "3 workers have died of it; the last one: process " in found[4].error
    assert "was ended by SIGKILL (kill -9, or no memory was left)" in found[4].error
    # Nothing of it is silent.
    assert any(text.endswith("given again: number 1") for text in told)
    assert sum("SIGKILL" in text for text in told) == 3


def test_a_process_that_is_ended_in_order_was_not_the_tasks_fault(local: LocalWorkers, tmp_path: Path) -> None:
    found, told = results(local, [{"end": str(tmp_path / "ended"), "times": DEATHS_MAX}, 3])
    assert (found[0].value, found[1].value) == ("done", 9)
    assert sum("was ended by SIGTERM: given again: number" in text for text in told) == DEATHS_MAX


def test_a_process_that_cannot_be_started_was_not_the_tasks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = iter(range(DEATHS_MAX))

    def start() -> WorkerProcess:
        if next(fails, None) is not None:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return WorkerProcess()

    monkeypatch.setattr(local_module, "WorkerProcess", start)
    monkeypatch.setattr(local_module, "_START_AGAIN_S", 0.01)
    workers = LocalWorkers(1)
    try:
        found, told = results(workers, [3])
    finally:
        workers.close()
    assert found[0].value == 9
    why = "a process can't be started (Resource temporarily unavailable): make room, or run fewer at a time"
    assert told == [f"{why}: given again: number 0"] * DEATHS_MAX


def test_closing_ends_what_is_running(tmp_path: Path) -> None:
    workers = LocalWorkers(1)
    workers.submit(Request(1, SQUARE, [Task(0, {"wait": str(tmp_path / "never")})], identity()))
    pid = begun(tmp_path / "never")
    workers.close()
    assert gone(pid)
    workers.close()


def test_a_process_ends_with_who_has_started_it(tmp_path: Path) -> None:
    """As with a worker of Dask that is killed."""
    program = (
        f"import sys; sys.path[:] = {[os.path.abspath(part) for part in sys.path]!r}\n"
        "from spdk_ftl_py.workers.identity import identity\n"
        "from spdk_ftl_py.workers.work import Request, Task\n"
        "from spdk_ftl_py.workers.worker_process import WorkerProcess\n"
        f"list(WorkerProcess().run(Request(1, {SQUARE!r}, [Task(0, {{'wait': sys.argv[1]}})], identity())))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "never")])
    pid = begun(tmp_path / "never")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(pid))


def test_a_process_with_other_code_is_refused(local: LocalWorkers) -> None:
    local.submit(Request(1, SQUARE, [Task(0, 1)], {**identity(), "shim": "0"}))
    (event,) = local.events(30)
    assert isinstance(event, Ended)
    assert event.refused == f"shim {identity()['shim']} instead of 0"


def test_files_that_work_needs_are_looked_at_each_time(local: LocalWorkers, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("1")
    code = identity([f"file {trace}", "module support.quick_work"])
    local.submit(Request(1, SQUARE, [Task(0, 2)], code))
    until(lambda: any(isinstance(event, Ended) and not event.refused for event in local.events(30)))
    trace.write_text("2")
    local.submit(Request(2, SQUARE, [Task(0, 2)], code))
    (event,) = local.events(30)
    assert isinstance(event, Ended)
    assert event.refused.startswith(f"file {trace} ")


# --- Dask ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dask() -> Iterator[Any]:
    distributed = pytest.importorskip(
        "distributed", reason="DASK IS NOT INSTALLED, so --scheduler is not tested: pip install 'spdk-ftl-py[dask]'"
    )
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        # Any port: None is 8787, which another cluster on this machine may have.
        dashboard_address="127.0.0.1:0",
    ) as made:
        yield made


def test_a_cluster_answers_fails_and_goes_on_without_a_worker(dask: Any, tmp_path: Path) -> None:
    workers = DaskWorkers(dask.scheduler_address)
    try:
        once, error = {"die": str(tmp_path / "once")}, {"raise": "no way"}
        found, told = results(workers, [3, once, error, 5])
        assert [found[key].value for key in (0, 1, 3)] == [9, "done", 25]
        assert found[2].error.startswith("ValueError: no way (")
        assert {answer.where.partition("://")[0] for answer in found.values()} == {"tcp"}
        assert any("SIGKILL" in text and text.endswith("given again: number 1") for text in told)
    finally:
        workers.close()
        workers.close()


def test_what_a_cluster_loses_was_not_the_tasks_fault(
    dask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = DaskWorkers(dask.scheduler_address)
    try:
        found, told = results(workers, [{"end": str(tmp_path / "ended"), "times": DEATHS_MAX}])
        assert found[0].value == "done"
        assert sum("was ended by SIGTERM: given again: number 0" in text for text in told) == DEATHS_MAX
        # Somebody else cancels it, or restarts the scheduler.
        workers.submit(Request(90, SQUARE, [Task(0, {"wait": str(tmp_path / "never")})], identity()))
        begun(tmp_path / "never")
        workers._futures[90].cancel()
        ended = workers.events(30)
        assert ended == [Ended(90, lost="the scheduler has lost a chunk", where=dask.scheduler_address)]
        # As Dask does it when four workers have died that had it.
        monkeypatch.setattr(cluster, "run_chunk", operator.truediv)
        workers.submit(Request(91, SQUARE, [Task(0, 1)], identity()))
        (event,) = workers.events(30)
        assert isinstance(event, Ended)
        assert event.lost.startswith("the cluster has given a chunk up (TypeError: ")
        assert not event.died
    finally:
        workers.close()


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_what_a_cluster_computes_ends_with_the_command(dask: Any, tmp_path: Path, how: str) -> None:
    workers = DaskWorkers(dask.scheduler_address)
    try:
        workers.submit(Request(1, SQUARE, [Task(0, {"wait": str(tmp_path / "never")})], identity()))
        pid = begun(tmp_path / "never")
        if how == "killed":
            # All that a scheduler sees of that: the connection ends.
            workers._client.close()
    finally:
        workers.close()
    until(lambda: gone(pid))


def test_a_lost_worker_is_told_and_its_work_given_again(dask: Any, tmp_path: Path) -> None:
    workers = DaskWorkers(dask.scheduler_address)
    gate = tmp_path / "gate"

    def lose_one(text: str) -> None:
        told.append(text)
        gate.touch()

    told: list[str] = []
    answers: list[Answer] = []
    tasks = iter([Task(key, {"wait": str(gate)}) for key in range(2)])
    try:
        workers.capacity()
        lost = False
        right = workers.events

        def events(timeout: float) -> Any:
            nonlocal lost
            if not lost and (tmp_path / "gate.pid").exists():
                lost = True
                address = next(iter(workers._threads))
                workers._client.retire_workers([address], close_workers=False)
            return right(timeout)

        workers.events = events  # type: ignore[method-assign]
        spread(workers, SQUARE, lambda: next(tasks, None), Hooks(answers.extend, lose_one))
    finally:
        gate.touch()
        workers.close()
    assert sorted(answer.key for answer in answers) == [0, 1]
    assert any("is gone: " in text for text in told), told


def test_workers_with_other_code_get_nothing(dask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cluster.difference
    monkeypatch.setattr(cluster, "difference", lambda here, there: right({**here, "version": "9.9"}, there))
    with pytest.raises(FtlError) as refused:
        DaskWorkers(dask.scheduler_address)
    assert f"version {identity()['version']} instead of 9.9: install this very package on all" in refused.value.message


def test_workers_without_a_policy_or_with_another_trace_get_nothing(dask: Any, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("1")
    with pytest.raises(FtlError) as refused:
        DaskWorkers(dask.scheduler_address, {**identity(), "module no_such_policy": "1234"})
    assert refused.value.message.endswith(
        ": module no_such_policy missing instead of 1234: install this very package, the same policies and the same "
        "traces on all workers, and start them again"
    )
    workers = DaskWorkers(dask.scheduler_address, code := identity([f"file {trace}", "module support.quick_work"]))
    try:
        # It changes while the command runs.
        trace.write_text("2")
        workers.submit(Request(1, SQUARE, [Task(0, 1)], code))
        told: list[Any] = []
        until(lambda: told.extend(workers.events(1)) or any(isinstance(event, Ended) for event in told))
        assert told[-1].lost.startswith(f"file {trace} ")
        assert not told[-1].died
        # All of them have another one by now, and any that is started would be compared with the first one.
        chunks = itertools.count(2)

        def another() -> bool:
            workers.submit(Request(next(chunks), SQUARE, [Task(0, 1)], code))
            workers.events(0.2)
            return workers.capacity() < 0

        with pytest.raises(FtlError, match=r"no worker of .* has the same code"):
            until(another)
    finally:
        workers.close()


def test_no_scheduler_and_no_dask_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    with pytest.raises(FtlError, match=r"scheduler tcp://127\.0\.0\.1:1 does not answer .*is `dask scheduler` running"):
        DaskWorkers("tcp://127.0.0.1:1")


def test_without_dask_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(UnsupportedError, match=r"--scheduler needs Dask \(pip install 'spdk-ftl-py\[dask\]'\)"):
        DaskWorkers("tcp://127.0.0.1:1")

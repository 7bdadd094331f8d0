"""A program that is forked (support/forks.py) is for a test as one that is started: compared here in all respects.

What differs: all programs of one forking process have the same seed of hash(), and code and data at the same addresses;
a fork shares memory with it. Stacks that go up to the very first frame (faulthandler) show two of fork_server.py.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli import main
from spdk_ftl_py.client import DaemonClient
from support import forks
from support.forks import KINDS, Forks, Kind, forking, started, why_not
from support.processes import Daemon, EmbeddedTarget, ProgramError, spdk_rpc

PROBE = Path(__file__).parents[1] / "support" / "fork_probe.py"
MODULE = Kind("-m", "fork_probe")
STRING = Kind("-c", "from fork_probe import main; main()", modules=("fork_probe",))
STRINGS = pytest.mark.skipif(sys.version_info >= (3, 13), reason="-c is not forked with this Python")
PROBES = pytest.mark.parametrize("kind", [pytest.param(MODULE, id="-m"), pytest.param(STRING, marks=STRINGS, id="-c")])
WAIT_S = 60.0


@pytest.fixture(autouse=True, scope="module")
def can_be_forked() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(forks.CHOSEN, raising=False)
        if reason := why_not():
            pytest.skip(reason)


@pytest.fixture
def probe(folder: Path) -> Path:
    (folder / "modules").mkdir()
    (folder / "modules" / "fork_probe.py").symlink_to(PROBE)
    (folder / "empty").mkdir()
    return folder


def command(kind: Kind, *arguments: str) -> list[str]:
    return [sys.executable, kind.option, kind.value, *arguments]


def surroundings(probe: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(probe / "modules"), "PYTHONUNBUFFERED": "", **more}


class Both:
    """Runs programs of one kind twice: started and forked."""

    def __init__(self, forks: Forks) -> None:
        self.forks = forks

    def __call__(self, run: Callable[[], Any]) -> Any:
        """What run() returns, which starts one program, and has to return the same in both cases."""
        with started():
            expected = run()
        if not self.forks.forked:
            run()  # the first of its kind, which is started, too
        before = self.forks.forked
        found = run()
        assert self.forks.forked == before + 1, self.forks.refused
        assert found == expected
        return found


@pytest.fixture
def both(kind: Kind) -> Iterator[Both]:
    with forking([kind]) as entered:
        yield Both(entered)


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(re.sub("0x[0-9a-f]+", "ADDRESS", done.stdout))
    return told


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param(MODULE, {}, id="-m"),
        pytest.param(STRING, {}, marks=STRINGS, id="-c"),
        pytest.param(MODULE, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, id="locale"),
        pytest.param(MODULE, {"PYTHONSAFEPATH": "1", "PYTHONDEVMODE": "1"}, id="safe path"),
        pytest.param(
            MODULE, {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default", "PYTHONHASHSEED": "1"}, id="unbuffered"
        ),
        pytest.param(MODULE, {"PYTHONIOENCODING": "latin-1:replace", "PYTHONOPTIMIZE": "1"}, id="encoding"),
    ],
)
def test_python_and_the_kernel_say_the_same_of_it(probe: Path, kind: Kind, more: dict[str, str]) -> None:
    words = ("report", "--word", "ä€\udc80", "")

    def run(folder: Path, sock: str) -> subprocess.CompletedProcess[str]:
        environment = surroundings(probe, SPDK_FTL_SOCK=sock, **more)
        return subprocess.run(
            command(kind, *words), cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    with started():
        expected = report(run(probe / "empty", "the same"))
    with forking([kind]) as entered:
        run(probe, "another")
        run(probe, "another")  # forks it, and the forking process is not of the environment and folder that count
        found = report(run(probe / "empty", "the same"))
        assert (entered.refused, entered.forked) == ([], 2)
    assert {name: (expected[name], found[name]) for name in expected if found[name] != expected[name]} == {}
    assert list(found) == list(expected)


ENDINGS = {
    "a number": "import sys; print('out'); sys.exit(3)",
    "words": "import sys; sys.exit('words')",
    "an error": "1 / 0",
    "errors of errors": "try: {}[1]\nexcept KeyError as error: raise OSError(2, 'no') from error",
    "an interruption": "raise KeyboardInterrupt",
    "at once": "import os; print('lost'); os._exit(7)",
    "an abort": "import os; os.abort()",
    "by itself": "import os; os.kill(os.getpid(), 15)",
    "at exit": "import atexit; atexit.register(print, 'last'); print('first', end=' ')",
    "in a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.02), print('late'))).start()",
    "an error in a thread": "import threading; threading.Thread(target=lambda: 1 / 0, name='T').start()",
    "a warning": "import warnings; warnings.warn('look')",
    "a log": "import logging; logging.error('look')",
    "output closed": "import os; os.close(1); print('nowhere')",
    "a pipe without a reader": "import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')",
    "input": "import sys; print(sys.stdin.read(), sys.stdin.readline())",
    "a child": "import subprocess; print(subprocess.run('echo $0; exit 4', shell=True).returncode)",
    "a fork": "import os; os.fork() or os._exit(0); print(os.wait()[1])",
    "a file not closed": "open('/dev/null')",
    "random": "import random, uuid; print(len({random.random(), uuid.uuid4()}))",
}


@PROBES
def test_it_ends_in_the_same_way(probe: Path, kind: Kind, both: Both) -> None:
    environment = surroundings(probe)
    for ending in ENDINGS if kind is STRING else ("a number", "errors of errors", "an interruption", "at exit"):

        def run(ending: str = ending) -> tuple[Any, ...]:
            line = command(kind, "run", ENDINGS[ending])
            done = subprocess.run(line, env=environment, cwd=probe, capture_output=True, input=b"some\nlines\n")
            return done.returncode, done.stdout, re.sub(rb"0x[0-9a-f]+", b"", done.stderr)

        print(ending, both(run))


@PROBES
def test_signals_do_the_same(probe: Path, kind: Kind, both: Both) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGPIPE):

        def run(number: int = number) -> tuple[Any, ...]:
            code = "import time; print('waits', flush=True); time.sleep(60)" if number != signal.SIGPIPE else (
                "import signal; print('waits', flush=True); signal.sigtimedwait([], 0.02)"
            )  # fmt: skip
            with subprocess.Popen(
                command(kind, "run", code),
                env=surroundings(probe), cwd=probe, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            ) as process:  # fmt: skip
                assert process.stdout is not None
                assert process.stdout.readline() == b"waits\n"
                os.kill(process.pid, number)
                _, errors = process.communicate(timeout=WAIT_S)
                return process.returncode, errors

        both(run)


@PROBES
def test_a_terminal_is_one(probe: Path, kind: Kind, both: Both) -> None:
    def run() -> tuple[str, ...]:
        ours, theirs = pty.openpty()
        try:
            code = "import sys; print([(s.isatty(), s.line_buffering) for s in (sys.stdin, sys.stdout, sys.stderr)])"
            subprocess.run(
                command(kind, "run", code), env=surroundings(probe), cwd=probe,
                stdin=theirs, stdout=theirs, stderr=theirs, check=True,
            )  # fmt: skip
            return os.ttyname(theirs).rpartition("/")[0], os.read(ours, 4096).decode()
        finally:
            os.close(ours)
            os.close(theirs)

    assert "[(True, True), (True, True), (True, True)]" in both(run)[1]


@pytest.mark.parametrize("case", ["missing", "a file", "relative", "removed", "it has such a module", "none given"])
def test_the_folder_means_the_same(probe: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind("-m", "fork_probe", modules=("json",))
    (probe / "file").touch()
    (probe / "other").mkdir()
    (probe / "other" / "json.py").touch()
    folder = {"missing": "missing", "a file": "file", "relative": "empty", "it has such a module": "other"}.get(case)
    gone = probe / "gone"

    def run() -> Any:
        monkeypatch.chdir(probe)
        if case == "removed":
            gone.mkdir()
            monkeypatch.chdir(gone)
            gone.rmdir()
        code = "import json, os, sys; print(json, os.getcwd(), sys.path)"
        line = command(kind, "run", code)
        try:
            done = subprocess.run(line, env=surroundings(probe), cwd=folder, capture_output=True, check=False)
        except OSError as error:
            return repr(error), error.filename
        finally:
            monkeypatch.chdir(probe)
        return done.returncode, done.stdout, done.stderr

    with started():
        expected = run()
    with forking([kind]) as entered:
        for _ in range(2):
            subprocess.run(command(kind, "run", ""), env=surroundings(probe), cwd=probe, check=True)
        assert entered.forked == 1
        assert run() == expected
        assert entered.forked == (2 if case in ("relative", "none given") else 1)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("print('said')", "an import says b'said"),
        ("import os; os.environ.get('SPDK_FTL_SOCK')", "SPDK_FTL_SOCK is read by an import"),
        ("import os; dict(os.environ)", "an import reads the whole environment"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "threads"),
        ("import sys; sys.exit('no dependency')", "no dependency"),
    ],
)
def test_imports_that_a_fork_could_not_repeat_are_done_by_the_program(probe: Path, module: str, reason: str) -> None:
    (probe / "modules" / "special.py").write_text(module)
    kind = Kind("-m", "fork_probe", modules=("special",))

    def run() -> tuple[Any, ...]:
        line = command(kind, "run", "import special")
        done = subprocess.run(line, env=surroundings(probe), cwd=probe, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    with started():
        expected = run()
    with forking([kind]) as entered:
        assert [run() for _ in range(3)] == [expected] * 3
        assert entered.forked == 0
        assert [reason in said for _, said in entered.refused] == [True, True]


def test_what_is_not_started_plainly_is_not_forked(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = command(MODULE, "run", "")

    def run(**options: Any) -> None:
        arguments = options.pop("args", line)
        subprocess.run(arguments, **{"env": surroundings(probe), "cwd": probe, "check": True, **options})

    def ignored() -> None:
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        run()
        signal.signal(signal.SIGUSR2, before)

    def blocked() -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        run()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def masked() -> None:
        before = os.umask(0o7)
        run()
        os.umask(before)

    def limited() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        run()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with forking([MODULE]) as entered:
        run()
        run()
        assert entered.forked == 1
        for options in (
            {"start_new_session": True},
            {"pass_fds": [1]},
            {"close_fds": False},
            {"restore_signals": False},
            {"umask": 0},
            {"preexec_fn": lambda: None},
            {"executable": sys.executable},
            {"env": surroundings(probe, OTHER="1")},
            {"env": surroundings(probe, PYTHONOPTIMIZE="1")},
            {"args": [sys.executable, "-W", "error", *line[1:]]},
            {"args": [*line, "x" * 20000]},
        ):
            run(**options)
        for other in (ignored, blocked, masked, limited):
            other()
        with started():
            run()
        assert entered.forked == 1
        run()
        assert entered.forked == 2


def test_a_forking_process_that_is_killed_is_not_missed(probe: Path) -> None:
    killed: set[int] = set()
    with forking([MODULE]) as entered:
        for _ in range(4):
            done = subprocess.run(
                command(MODULE, "run", "print(1)"), env=surroundings(probe), cwd=probe, capture_output=True, check=True
            )
            assert done.stdout == b"1\n"
            for pid in entered.pids():
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        assert entered.forked == 1
    # Other children of this process may be forking processes of other tests.
    assert killed
    for pid in killed:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def of_proc(pid: int) -> dict[str, Any]:
    """What the kernel says of a program of ours that is ready."""
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    names = ("Name", "Umask", "Threads", "SigBlk", "SigIgn", "SigCgt", "PPid", "NoNewPrivs", "CoreDumping")
    links = {number.name: os.readlink(number) for number in (place / "fd").iterdir()}
    return {
        "cmdline": (place / "cmdline").read_bytes(),
        "environ": sorted((place / "environ").read_bytes().split(b"\0")),
        "folder": os.readlink(place / "cwd"),
        "program": os.readlink(place / "exe"),
        "status": {name: status[name] for name in names},
        "limits": (place / "limits").read_text(),
        "stat": (place / "stat").read_text().rpartition(")")[2].split()[1:6],
        "descriptors": {number: re.sub(r":\[\d+\]", "", link) for number, link in links.items()},
        "threads": sorted((task / "comm").read_text() for task in (place / "task").iterdir()),
    }


@pytest.fixture
def all_kinds() -> Iterator[Forks]:
    """Those of the other tests, if they have them: that they run already saves the time of imports."""
    with forks.forking_anyway() as entered, started(False):
        yield entered


def forked(run: Callable[[], Any], all_kinds: Forks, programs: int) -> Any:
    """What run() returns when it has forked that many."""
    before = all_kinds.forked
    found = run()
    if all_kinds.forked != before + programs:  # the first of them were started
        before = all_kinds.forked
        found = run()
    assert all_kinds.forked == before + programs, all_kinds.refused
    return found


def test_daemons_and_targets_are_the_same_and_import_what_forks_have(folder: Path, all_kinds: Forks) -> None:
    imports = {"PYTHONPROFILEIMPORTTIME": "1"}

    def pair(target: EmbeddedTarget, daemon: Daemon) -> list[dict[str, Any]]:
        found = [of_proc(each.process.pid) for each in (target, daemon)]
        assert DaemonClient(daemon.socket).call("ftl_get_daemon")["pid"] == daemon.process.pid
        target.kill()
        assert target.process.returncode == -signal.SIGKILL
        return found

    def run() -> list[dict[str, Any]]:
        with EmbeddedTarget(folder) as target, Daemon(folder) as daemon:
            found = pair(target, daemon)
        assert daemon.process.returncode == 0
        return found

    logs: dict[str, str] = {}
    with started(), pytest.MonkeyPatch.context() as patch:
        patch.setenv(*imports.popitem())
        with EmbeddedTarget(folder) as target, Daemon(folder) as daemon:

            def rpc(plugin: str | None, *arguments: str) -> str:
                client = spdk_rpc("26.5", target.socket, plugin=plugin, SPDK_FTL_SOCK=daemon.socket)
                return str(client.run(*arguments).stderr)

            def cli(*arguments: str) -> str:
                line = [sys.executable, "-m", forks.CLI, *arguments]
                return subprocess.run(line, capture_output=True, text=True, cwd=folder, check=False).stderr

            plan = {"targets": [{"address": target.socket, "ftls": []}]}
            (folder / "plan").write_text(json.dumps(plan))
            logs["devices"] = cli("devices", "--socket", daemon.socket)
            logs["apply"] = cli("apply", "plan", "--socket", daemon.socket, "--check")
            logs["torture"] = cli("torture", "--plain", "--crashes", "1")
            logs["check"] = cli("check", "Nvme0n1", "--target", target.socket)
            logs["spdk_ftl_py"] = rpc("spdk_ftl_py", "ftl_get_devices")
            logs["ftltgt"] = rpc("ftltgt", "bdev_get_bdevs")
            logs[""] = rpc(None, "bdev_get_bdevs")
            expected = pair(target, daemon)
        logs["serve"], logs["target"] = daemon.log(), target.log()
    for each in expected:
        each["environ"].remove(b"PYTHONPROFILEIMPORTTIME=1")
    assert forked(run, all_kinds, 2) == expected

    # Of what is imported by importlib.import_module(), Python does not tell that time.
    by_name = {"spdk_ftl_py.plugin", "ftltgt", *(module for module, _ in main._MODULES)}
    as_devices = {"status", "create", "delete", "properties"}
    for kind in KINDS:
        if kind.word not in as_devices:
            imported = {line.rpartition("|")[2].strip() for line in logs[kind.word].splitlines()}
            assert set(kind.modules) <= imported | by_name, (kind, logs[kind.word][-1000:])


def test_programs_that_do_not_get_ready_are_told_of_in_the_same_words(folder: Path, all_kinds: Forks) -> None:
    for options in (("--nonsense",), ("--config", "missing")):

        def run(options: tuple[str, ...] = options) -> str:
            (folder / "daemon.log").unlink(missing_ok=True)
            with pytest.raises(ProgramError) as told:
                Daemon(folder, *options)
            return re.sub(r"^\S+ \S+ ", "", str(told.value), flags=re.MULTILINE)  # time

        with started():
            expected = run()
        assert forked(run, all_kinds, 1) == expected
        assert options[-1] in expected

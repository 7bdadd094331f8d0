"""Programs of ours without the price of their start: forked from a process that has imported what they import.

More than half of the CPU of tests/e2e was imports: of each daemon, target and command anew. A program that is forked is
as much a process of its own as one that is started, and a child of the test. fork_server.py gives it everything as the
test and Python would; tests/e2e/test_forks.py compares the two in all respects, and says in which they differ.

What can't be the same is started: what is not in KINDS, the first of each kind in a run (so every run has seen that
each starts from nothing), what is started otherwise than plainly, whose environment differs by more than MAY_DIFFER, or
whose limits, signals and so on are not those of the forking process. Tests of a start itself are marked `started`.

tests/conftest.py has it on for tests/e2e, interop and mutation. SPDK_FTL_TEST_FORKS=0 turns it off. Linux only.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.spdk_clients import PROGRAM

CHOSEN: Final = "SPDK_FTL_TEST_FORKS"
SERVER: Final = Path(__file__).with_name("fork_server.py")
CLI: Final = "spdk_ftl_py.cli"
CLI_MODULE: Final = "spdk_ftl_py.cli.main"
CLIENT_MODULE: Final = "spdk_ftl_py.checked_session"
MAY_DIFFER: Final = ("SPDK_FTL_SOCK", "PYTEST_CURRENT_TEST")
"""Variables that differ between programs of one forking process, which has seen that no import reads them."""
PR_SET_CHILD_SUBREAPER: Final = 36
CHARACTERS_MAX: Final = 16 << 10
"""Of arguments and environment. fork_server.py takes 128 KiB."""
ANSWER_BYTES_MAX: Final = 64 << 10
INHERITED: Final = (
    *("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("NoNewPrivs", "Seccomp", "Cpus_allowed"),
)
"""Lines of /proc/PID/status that a program has from whoever starts it."""
LIMITS: Final = tuple(getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_"))


@dataclass(frozen=True)
class Kind:
    """Programs that import the same."""

    option: str
    """Of Python: -m or -c."""
    value: str
    """What is behind it."""
    word: str = ""
    """What has to be among the arguments, if anything; with -m, the first of them."""
    modules: tuple[str, ...] = ()
    """What each of them imports."""

    def has(self, arguments: Sequence[str]) -> bool:
        if list(arguments[:3]) != [sys.executable, self.option, self.value]:
            return False
        return not self.word or self.word in (arguments[3:4] if self.option == "-m" else arguments[3:])


def _cli(word: str, *modules: str) -> Kind:
    return Kind("-m", CLI, word, (CLI_MODULE, *modules))


KINDS: Final = (
    _cli("serve", "spdk_ftl_py.daemon.command", "spdk_ftl_py.daemon.serving"),
    _cli("target", "spdk_ftl_py.target.command", "spdk_ftl_py.target.app"),
    _cli("check", "spdk_ftl_py.daemon.check_command"),
    _cli("apply", "spdk_ftl_py.cli.apply_command", CLIENT_MODULE),
    _cli(
        "torture",
        *("spdk_ftl_py.torture.command", "rich.console", "spdk_ftl_py.demo.screen"),
        *(f"spdk_ftl_py.torture.{name}" for name in ("campaign_command", "processes", "report", "run")),
    ),
    *(
        _cli(word, "spdk_ftl_py.cli.commands", CLIENT_MODULE)
        for word in ("devices", "status", "create", "delete", "properties")
    ),
    Kind("-c", PROGRAM, "spdk_ftl_py", ("spdk.spdk_rpc", "spdk_ftl_py.plugin", CLIENT_MODULE)),
    Kind("-c", PROGRAM, "ftltgt", ("spdk.spdk_rpc", "ftltgt")),
    Kind("-c", PROGRAM, "", ("spdk.spdk_rpc",)),
)
"""The first that has a program counts."""


def why_not() -> str:
    """Why programs are not forked here; empty if they are."""
    if os.environ.get(CHOSEN) == "0":
        return f"{CHOSEN}=0"
    if sys.platform != "linux":
        return "not Linux"
    probe = Kind("-m", "keyword")
    with forking([probe]) as forks:
        for _ in range(2):
            subprocess.run([sys.executable, probe.option, probe.value], capture_output=True, check=False)
    return forks.refused[0][1].splitlines()[-1] if forks.refused else ""


class Refused(Exception):
    """This program can't be forked, but started."""


class _Server:
    """A forking process, for one kind and one environment."""

    def __init__(self, kind: Kind, environment: Mapping[str, str], folder: str) -> None:
        """folder: an empty one, in which imports find nothing. Raises Refused."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        orders, give = os.pipe()
        os.write(give, marshal.dumps((kind.option, kind.value, kind.modules, MAY_DIFFER)))
        os.close(give)
        self.inherited = inherited()
        self._errors, errors = os.pipe()
        try:
            self.process = _Popen(
                [sys.executable, str(SERVER), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=orders,
                stderr=errors,
                cwd=folder,
                env=environment,
            )
        finally:
            theirs.close()
            os.close(orders)
            os.close(errors)
        if not (answer := self._channel.recv(ANSWER_BYTES_MAX)):
            said = self._said()
            self.close()
            raise Refused(said)
        self._tops = frozenset(marshal.loads(answer)[1])
        self._first = environment.get("PYTHONPATH", "").partition(os.pathsep)[0]

    def _said(self) -> str:
        with open(self._errors, closefd=False) as errors:
            return errors.read().strip()

    def check_folder(self, folder: int) -> None:
        """Python also looks for modules in the folder, and first. Raises Refused if it would find others there."""
        if os.readlink(f"/proc/self/fd/{folder}") == self._first:
            return
        if found := {name.partition(".")[0] for name in os.listdir(folder)} & self._tops:
            raise Refused(f"the folder has {', '.join(sorted(found))}")

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """Returns the pid. Raises Refused; nothing of the program has run then."""
        encoded = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        payload = marshal.dumps(([os.fsencode(each) for each in arguments], encoded))
        answer = b""
        try:
            # For a moment: whoever loses his parent meanwhile, and that is the program, gets this process as parent.
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(self._channel, [payload], descriptors)
                answer = self._channel.recv(ANSWER_BYTES_MAX)
            finally:
                _prctl(PR_SET_CHILD_SUBREAPER, 0)
        except OSError:
            if answer:
                raise
        pid, _, said = answer.decode().partition(" ")
        if said != "ready":
            if pid:
                os.waitpid(int(pid), 0)
            raise Refused(said or self._said() or "the forking process has ended")
        return int(pid)

    def close(self) -> None:
        self._channel.close()
        self.process.wait()
        os.close(self._errors)


class Forks:
    """The forking processes of this process. Threads may share them."""

    def __init__(self, kinds: Sequence[Kind] = KINDS) -> None:
        self._kinds = kinds
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._empty = tempfile.TemporaryDirectory(prefix="spdk-ftl-forks-")
        self._servers: dict[tuple[Any, ...], _Server | Refused | None] = {}
        """None: one program of it was started."""
        self.refused: list[tuple[Kind, str]] = []
        """Of kinds that can be forked: what was started, and why. Not the first of each."""
        self.forked = 0

    def close(self) -> None:
        for server in self._servers.values():
            if isinstance(server, _Server):
                server.close()
        self._servers.clear()
        self._empty.cleanup()

    def pids(self) -> list[int]:
        """Of the forking processes."""
        return [server.process.pid for server in self._servers.values() if isinstance(server, _Server)]

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str, standard: Sequence[int]
    ) -> int | None:
        """Returns the pid of the program, a child of this process; None if it has to be started."""
        kind = next((kind for kind in self._kinds if kind.has(arguments)), None)
        if kind is None or os.getpid() != self._owner:
            return None
        paths = environment.get("PYTHONPATH")
        if paths is not None and not all(os.path.isabs(path) for path in paths.split(os.pathsep)):
            return None  # what they mean depends on the folder
        fixed = frozenset(item for item in environment.items() if item[0] not in MAY_DIFFER)
        try:
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None  # whoever starts it says what is wrong with it
        try:
            with self._lock:
                if (kind, fixed) not in self._servers:
                    self._servers[kind, fixed] = None
                    return None
                try:
                    return self._fork(kind, fixed, place, arguments, environment, standard)
                except Refused as error:
                    self.refused.append((kind, str(error)))
                    return None
        finally:
            os.close(place)

    def _fork(  # type: ignore[no-untyped-def]
        self, kind, fixed, place, arguments, environment, standard
    ) -> int:
        if not os.fstat(place).st_nlink or not os.access(f"/proc/self/fd/{place}", os.X_OK):
            raise Refused("the folder is gone, or can't be entered")
        if not all(os.path.exists(f"/proc/self/fd/{descriptor}") for descriptor in standard):
            raise Refused("a standard stream is closed")
        server = self._servers[kind, fixed]
        if server is None:
            try:
                server = self._servers[kind, fixed] = _Server(kind, environment, self._empty.name)
            except Refused as error:
                self._servers[kind, fixed] = error
                raise
        if isinstance(server, Refused):
            raise server
        if inherited() != server.inherited:
            raise Refused("another process than before starts it")
        server.check_folder(place)
        if sum(map(len, (*arguments, *environment, *environment.values()))) > CHARACTERS_MAX:
            raise Refused("too many arguments")
        try:
            pid = server.fork(arguments, environment, [place, *standard])
        except Refused as error:
            server.close()
            self._servers[kind, fixed] = error
            raise
        self.forked += 1
        return pid


def inherited() -> tuple[Any, ...]:
    """What programs have from the thread that starts them. Python gives them SIGPIPE and SIGXFSZ as they were."""
    lines = dict(line.split(":", 1) for line in Path("/proc/thread-self/status").read_text().splitlines())
    return (
        *(lines.get(name) for name in INHERITED),
        *(resource.getrlimit(limit) for limit in LIMITS),
        os.getpriority(os.PRIO_PROCESS, 0),
        os.getsid(0),
        os.getpgid(0),
        Path("/proc/self/oom_score_adj").read_text(),
        Path("/proc/self/cgroup").read_text(),
    )


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


_Popen = subprocess.Popen
_forks: Forks | None = None
_paused = False


class ForkingPopen(_Popen):  # type: ignore[type-arg]
    """As subprocess.Popen, but forking() may have what it starts forked."""

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, *more
    ) -> None:  # fmt: skip
        plain = (
            executable is None and preexec_fn is None and close_fds and not pass_fds and not shell and restore_signals
            and not isinstance(args, str | bytes | os.PathLike)
            and all(each is None or each is False or each == -1 for each in more)  # of users, umask, session, group
        )  # fmt: skip
        if plain and _forks is not None and not _paused:
            environment = {
                os.fsdecode(name): os.fsdecode(value) for name, value in (os.environ if env is None else env).items()
            }
            given = ((0, p2cread), (1, c2pwrite), (2, errwrite))
            pid = _forks.fork(
                [os.fsdecode(each) for each in args],
                environment,
                os.fsdecode(cwd) if cwd is not None else ".",
                [number if descriptor == -1 else descriptor for number, descriptor in given],
            )
            if pid is not None:
                self.pid = pid
                self._child_created = True
                self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
                return
        super()._execute_child(
            args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, *more
        )  # fmt: skip


@contextmanager
def forking(kinds: Sequence[Kind] = KINDS) -> Iterator[Forks]:
    """While it is entered, subprocess forks what can be forked. What was entered before is out of use meanwhile."""
    global _forks
    outer, _forks = _forks, Forks(kinds)
    subprocess.Popen = ForkingPopen  # type: ignore[misc]
    try:
        yield _forks
    finally:
        _forks.close()
        _forks = outer
        if outer is None:
            subprocess.Popen = _Popen  # type: ignore[misc]


@contextmanager
def forking_anyway() -> Iterator[Forks]:
    """As forking(), but what was entered before stays in use."""
    if _forks is not None:
        yield _forks
        return
    with forking() as entered:
        yield entered


@contextmanager
def started(really: bool = True) -> Iterator[None]:
    """While it is entered, every program is started, if really."""
    global _paused
    before, _paused = _paused, really
    try:
        yield
    finally:
        _paused = before

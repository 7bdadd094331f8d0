"""`spdk-ftl serve` ends at once where a setting can't work: with what, why and the remedy, and without a trace."""

from __future__ import annotations

import errno
import gc
import logging
import mmap
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.daemon import preflight
from spdk_ftl_py.daemon.export_sockets import ExportSockets
from spdk_ftl_py.daemon.preflight import (
    NewDirectories,
    check_apart,
    check_buffer_directory,
    check_l2p_directory,
    check_listen,
)
from spdk_ftl_py.daemon.state import StateDirectory
from spdk_ftl_py.errors import BusyError, FtlError
from spdk_ftl_py.runtime.service_manager import ServiceManager
from support.ports import free_port

ELSEWHERE = "192.0.2.1"
"""For documentation (RFC 5737): no machine has it."""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    loggers = [(each, each.level) for each in (logging.getLogger(), logging.getLogger("asyncio"))]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    for each, level in loggers:
        each.setLevel(level)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


OTHERS = ("--discovery", "--metrics", "--web")
"""Options with addresses besides --listen."""


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class Case:
    """One start. folder: in which everything is, unless an option says otherwise."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
        self.folder, self.monkeypatch, self.taken = folder, monkeypatch, taken

    def fails_in(self, module: Any, name: str, number: int) -> None:
        def fail(*_args: object, **_more: object) -> None:
            raise OSError(number, os.strerror(number))

        self.monkeypatch.setattr(module, name, fail)


def port_in_use(case: Case) -> list[str]:
    return ["--listen", f"127.0.0.1:{case.taken}"]


def taken_by_other(option: str) -> Callable[[Case], list[str]]:
    """At the end of the start, when there is something to undo: an audit log, directories, other sockets."""

    def make(case: Case) -> list[str]:
        before = ["--discovery", f"127.0.0.1:{free_port()}"] if option != "--discovery" else []
        before += ["--metrics", "0"] if option == "--web" else []
        return [*before, "--audit-log", str(case.folder / "audit"), option, f"127.0.0.1:{case.taken}"]

    return make


def port_of_another_option(option: str) -> Callable[[Case], list[str]]:
    def make(_case: Case) -> list[str]:
        port = free_port()
        return ["--listen", f"127.0.0.1:{port}", option, f"0.0.0.0:{port}"]

    return make


def both_at(one: str, two: str) -> Callable[[Case], list[str]]:
    def make(_case: Case) -> list[str]:
        port = free_port()
        return [one, f"127.0.0.1:{port}", two, f"0.0.0.0:{port}"]

    return make


def port_of_root(case: Case) -> list[str]:
    case.fails_in(socket.socket, "bind", errno.EACCES)
    return ["--listen", "127.0.0.1:420"]


def no_ipv6(case: Case) -> list[str]:
    case.fails_in(socket.socket, "bind", errno.EAFNOSUPPORT)
    return ["--listen", "[::1]"]


def full(case: Case) -> list[str]:
    case.fails_in(os, "posix_fallocate", errno.ENOSPC)
    return []


def unmappable(case: Case) -> list[str]:
    case.fails_in(mmap, "mmap", errno.ENODEV)
    return []


def no_file(name: str, number: int) -> Callable[[Case], list[str]]:
    """A file whose name begins so can't be made."""

    def make(case: Case) -> list[str]:
        real = os.open

        def refuse(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if flags & os.O_CREAT and str(path).startswith(name):
                raise OSError(number, os.strerror(number))
            return real(path, flags, *args, **more)

        case.monkeypatch.setattr(os, "open", refuse)
        return []

    return make


def few_files(case: Case) -> list[str]:
    case.monkeypatch.setattr(preflight, "raise_descriptor_limit", lambda: 100)
    return []


def a_file(option: str) -> Callable[[Case], list[str]]:
    def make(case: Case) -> list[str]:
        (case.folder / "file").touch()
        return [option, str(case.folder / "file")]

    return make


def below_a_file(option: str) -> Callable[[Case], list[str]]:
    def make(case: Case) -> list[str]:
        (case.folder / "file").touch()
        return [option, str(case.folder / "file" / "x")]

    return make


def open_to_all(option: str) -> Callable[[Case], list[str]]:
    def make(case: Case) -> list[str]:
        (case.folder / "open").mkdir()
        (case.folder / "open").chmod(0o777)
        return [option, str(case.folder / "open" / "x")]

    return make


def same_socket(case: Case) -> list[str]:
    (case.folder / "link").symlink_to(case.folder)
    return ["--monitor-socket", str(case.folder / "link" / "s")]


def damaged_state(case: Case) -> list[str]:
    (case.folder / "old").mkdir(mode=0o700)
    (case.folder / "old" / "state.json").write_text("{")
    (case.folder / "old" / "state.json").chmod(0o600)
    return ["--state-dir", str(case.folder / "old")]


def bad_config(case: Case) -> list[str]:
    (case.folder / "config").write_text("{")
    return ["--config", str(case.folder / "config")]


CASES: dict[str, tuple[Callable[[Case], list[str]], tuple[str, ...]]] = {
    "address of another machine": (
        lambda _: ["--listen", f"{ELSEWHERE}:4420"],
        (f"--listen {ELSEWHERE}:4420: no network interface", "ip address", "network-online.target"),
    ),
    "address of many machines": (lambda _: ["--listen", "224.0.0.1"], ("--listen 224.0.0.1: ", "several machines")),
    "port in use": (port_in_use, ("another program listens at port", "none for a free one")),
    "port of root": (port_of_root, ("--listen 127.0.0.1:420: only root", "4420", "CAP_NET_BIND_SERVICE")),
    "no IPv6": (no_ipv6, ("--listen [::1]: this machine has no IPv6", "IPv4")),
    **{
        f"{option} of another machine": (
            lambda _, option=option: [option, f"{ELSEWHERE}:8009"],
            (f"{option} {ELSEWHERE}:8009: ", "choose another address"),
        )
        for option in OTHERS
    },
    **{
        f"{option} of many machines": (
            lambda _, option=option: [option, "224.0.0.1:8009"],
            (f"{option} 224.0.0.1:8009: ", "an address of several machines", "choose another address"),
        )
        for option in OTHERS
    },
    **{
        f"{option} in use": (taken_by_other(option), (f"{option} 127.0.0.1:", "in use", "choose another"))
        for option in OTHERS
    },
    **{
        f"{option} at the exports' port": (
            port_of_another_option(option),
            ("--listen 127.0.0.1:", f"{option} 0.0.0.0:", "takes that port"),
        )
        for option in OTHERS
    },
    "metrics where discovery is": (both_at("--discovery", "--metrics"), ("--metrics 0.0.0.0:", "in use")),
    "web where metrics are": (both_at("--metrics", "--web"), ("--web 0.0.0.0:", "in use")),
    "buffers full": (full, ("buffer directory", "is full", "--buffer-dir")),
    "buffers read-only": (
        no_file(".probe", errno.EROFS),
        ("buffer directory", "Read-only file system", "--buffer-dir"),
    ),
    "buffers not mappable": (unmappable, ("buffer directory", "No such device", "tmpfs")),
    "buffers a file": (a_file("--buffer-dir"), ("is not a directory", "--buffer-dir")),
    "buffers below a file": (below_a_file("--buffer-dir"), ("buffer directory", "Not a directory", "--buffer-dir")),
    "state a file": (a_file("--state-dir"), ("is not a directory", "--state-dir")),
    "state open to all": (open_to_all("--state-dir"), ("can be written by everybody", "chmod o-w", "--state-dir")),
    "state read-only": (no_file("lock", errno.EROFS), ("state directory", "Read-only file system", "make room")),
    "state full": (no_file("state.json", errno.ENOSPC), ("state directory", "No space left", "can't be written")),
    "state damaged": (damaged_state, ("is damaged", "move it away")),
    "too few files": (few_files, ("limit of open files is 100", "needs 128", "LimitNOFILE=")),
    "socket a file": (a_file("--socket"), ("is a file, not a socket", "--socket")),
    "socket without directory": (
        lambda case: ["--socket", str(case.folder / "no" / "s")],
        ("No such file", "--socket"),
    ),
    "socket in reach of all": (open_to_all("--socket"), ("can be written by everybody", "--socket")),
    "monitor a file": (a_file("--monitor-socket"), ("is a file, not a socket", "--monitor-socket")),
    "both sockets one": (same_socket, ("--monitor-socket", "is the path of the control socket")),
    "no such group": (lambda _: ["--socket-group", "no-such"], ("--socket-group: there is no group", "existing one")),
    "no such monitor group": (
        lambda case: ["--monitor-socket", str(case.folder / "m"), "--monitor-group", "no-such"],
        ("--monitor-group: there is no group",),
    ),
    "group of no socket": (lambda _: ["--monitor-group", "0"], ("--monitor-group: give --monitor-socket too",)),
    "no such user": (lambda _: ["--target-user", "no-such"], ("--target-user: there is no user", "existing one")),
    "no such configuration": (lambda case: ["--config", str(case.folder / "no")], ("configuration", "No such file")),
    "configuration malformed": (bad_config, ("configuration", "is not JSON")),
    "audit log without directory": (
        lambda case: ["--audit-log", str(case.folder / "no" / "f")],
        ("audit log", "No such file", "--audit-log"),
    ),
    "audit log a directory": (lambda case: ["--audit-log", str(case.folder)], ("audit log", "--audit-log")),
}


@pytest.mark.parametrize("name", CASES)
def test_a_setting_that_can_not_work_ends_the_start(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, said = CASES[name]
    with monkeypatch.context() as patch:
        options = prepare(Case(tmp_path, patch, taken))
        before = tree(tmp_path)
        defaults = {"--socket": "s", "--state-dir": "new/state", "--buffer-dir": "new/buffers"}
        for option, where in defaults.items():
            if option not in options:
                options += [option, str(tmp_path / where)]
        code = cli.main(["serve", *options])
    told = capsys.readouterr()
    assert (code, told.out) == (1, "")
    (line,) = [line for line in told.err.splitlines() if line.startswith("spdk-ftl: ")]
    for part in said:
        assert part in line
    assert tree(tmp_path) == before or set(tree(tmp_path)) - set(before) <= {"old/lock", "old/reserve"}


def test_nothing_of_a_start_that_failed_lives_on(tmp_path: Path, taken: int) -> None:
    """Otherwise nanobind reports leaks on stderr, below the one line that tells the reason."""
    options = [f"--{option}={tmp_path / option}" for option in ("socket", "state-dir", "buffer-dir")]
    assert cli.main(["serve", *options, "--discovery", f"127.0.0.1:{taken}"]) == 1
    assert gc.get_freeze_count() == 0


def test_an_address_that_the_service_manager_keeps_is_not_in_use(taken: int) -> None:
    class Kept(ExportSockets):
        def has(self, traddr: str, port: int) -> bool:
            return (traddr, port) == ("127.0.0.1", taken)

    check_listen(f"127.0.0.1:{taken}", Kept(ServiceManager({})))
    with pytest.raises(FtlError, match="another program listens"):
        check_listen(f"127.0.0.1:{taken}", ExportSockets(ServiceManager({})))


def test_a_port_that_ipv4_has_is_free_for_ipv6() -> None:
    """As one that an SPDK target has at 0.0.0.0."""
    with socket.create_server(("127.0.0.1", 0)) as other, suppress(OSError):
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
        check_listen(f"[::]:{other.getsockname()[1]}", ExportSockets(ServiceManager({})))


@pytest.mark.parametrize(
    ("listen", "other", "apart"),
    [
        ("127.0.0.1", ("127.0.0.1", 8009), True),
        ("127.0.0.1:8009", ("127.0.0.1", 8009), False),
        ("127.0.0.1:8009", ("127.0.0.2", 8009), True),
        ("0.0.0.0:8009", ("127.0.0.2", 8009), False),
        ("0.0.0.0:8009", ("::", 8009), True),
        ("[::1]:8009", ("::", 8009), False),
        ("127.0.0.1:8009", ("127.0.0.1", 0), True),
    ],
)
def test_exports_have_a_port_of_their_own(listen: str, other: tuple[str, int], apart: bool) -> None:
    with nullcontext() if apart else pytest.raises(FtlError, match="--web x takes that port"):
        check_apart(listen, {"--web x": other})


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
def test_an_address_of_this_machine_is_fine(listen: str) -> None:
    check_listen(listen, ExportSockets(ServiceManager({})))


@pytest.mark.parametrize(("kind", "warned"), [("tmpfs", 0), ("ext4", 1), ("", 0)])
def test_buffers_on_a_disk_are_warned_of(
    kind: str, warned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preflight, "_file_system", lambda _device: kind)
    check_buffer_directory(tmp_path)
    assert len([text for text in caplog.messages if "is on a disk (ext4)" in text]) == warned
    assert tree(tmp_path) == []


def test_the_kind_of_a_file_system_is_known() -> None:
    assert preflight._file_system(os.stat("/dev/shm").st_dev) == "tmpfs"
    assert preflight._file_system(os.makedev(4095, 1)) == ""


def test_directories_are_removed_only_if_they_are_new_and_empty(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for keep in (False, True):
        with suppress(ZeroDivisionError), NewDirectories(tmp_path / "a" / "b", tmp_path / "old") as made:
            (tmp_path / "a" / "b").mkdir(parents=True)
            if keep:
                made.keep()
            raise ZeroDivisionError
        assert tree(tmp_path) == (["a", "a/b", "old"] if keep else ["old"])


def test_a_state_directory_that_another_daemon_has_made_stays(tmp_path: Path) -> None:
    """Both saw that there was none."""
    first, second = StateDirectory(tmp_path / "s"), StateDirectory(tmp_path / "s")
    first.open()
    second._is_new = True
    with pytest.raises(BusyError):
        second.open()
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"lock", "reserve", "state.json"}
    # Nor does one go that has FTLs by now.
    first.devices = [{}]
    first.undo_creation()
    assert (tmp_path / "s" / "state.json").exists()
    first.devices = []
    first.undo_creation()
    first.close()
    assert not (tmp_path / "s").exists()


def test_the_l2p_directory_is_one_of_this_user_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(0o700)
    check_l2p_directory(tmp_path / "mine")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("mine")
    for name in ("open", "file", "link", "missing"):
        with pytest.raises(FtlError, match=f"L2P directory .*{name}.*give another with --l2p-dir"):
            check_l2p_directory(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "mine", "open"]

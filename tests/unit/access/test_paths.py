"""Directories, files and locks that nobody else can get at: what is refused, and what the refusal says."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from spdk_ftl_py.access import paths, unix_sockets
from spdk_ftl_py.access.paths import HeldElsewhereError, lock_file, open_directory, open_file
from spdk_ftl_py.errors import FtlError, ParameterError
from support.descriptors import open_descriptors, opened_since

WHAT, REMEDY = "state directory", "give another with --state-dir"


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, what we own is somebody else's to this code."""

    def become() -> None:
        monkeypatch.setattr(paths, "own_uid", lambda: os.geteuid() + 1)
        monkeypatch.setattr(paths, "ROOT", -1)

    return become


def opened(path: Path, *, make: bool = False) -> None:
    os.close(open_directory(path, WHAT, REMEDY, make=make))


def test_a_directory_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        opened(tmp_path / "a" / "b", make=True)
    finally:
        os.umask(umask)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a").stat().st_mode & 0o022 == 0


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FtlError, match=f"state directory {tmp_path}/no can't be used: No such file") as refused:
        opened(tmp_path / "no")
    assert refused.value.message.endswith(REMEDY)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702])
def test_a_directory_that_others_can_write_to_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(FtlError, match=rf"mode {mode:04o}\).*`chmod go-w {folder}`"):
        opened(folder, make=True)
    folder.chmod(0o755)
    opened(folder)


def test_a_link_to_a_directory_is_refused_and_its_end_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FtlError, match=f"is a symbolic link.*give {tmp_path}/real itself") as refused:
        opened(tmp_path / "link", make=True)
    assert refused.value.errno == errno.ELOOP
    opened(tmp_path / "real")


def test_a_link_to_nothing_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FtlError, match="symbolic link"):
        opened(tmp_path / "link", make=True)
    assert not (tmp_path / "real").exists()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(FtlError, match="is not a directory"):
        opened(tmp_path / "f", make=True)


def test_a_directory_of_somebody_else_is_refused_and_he_is_named(tmp_path: Path, stranger: Callable[[], None]) -> None:
    stranger()
    with pytest.raises(FtlError, match=rf"belongs to user .*{os.geteuid()}.*`chown {os.geteuid() + 1} {tmp_path}`"):
        opened(tmp_path)


def test_a_parent_that_everybody_can_write_to_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    parent = tmp_path / "p"
    ours = parent / "x" / "d"
    ours.mkdir(parents=True, mode=0o700)
    parent.chmod(0o777)
    with pytest.raises(FtlError, match=f"its directory {parent} can be written by everybody.*`chmod o-w {parent}`"):
        opened(ours)
    parent.chmod(0o1777)
    opened(ours)


def test_a_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        os.close(open_file(tmp_path / "f", os.O_WRONLY | os.O_CREAT, "f"))
    finally:
        os.umask(umask)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_links_pipes_and_files_of_others_are_no_files_of_ours(tmp_path: Path, stranger: Callable[[], None]) -> None:
    (tmp_path / "f").write_text("")
    (tmp_path / "f").chmod(0o600)
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError) as refused:
        open_file(tmp_path / "link", os.O_RDWR, "link")
    assert refused.value.errno == errno.ELOOP
    with pytest.raises(FtlError, match="the pipe is not a file"):
        open_file(tmp_path / "pipe", os.O_RDONLY, "the pipe")
    (tmp_path / "f").chmod(0o602)
    with pytest.raises(FtlError, match="the file is open to others"):
        open_file(tmp_path / "f", os.O_RDWR, "the file")
    (tmp_path / "f").chmod(0o644)
    os.close(open_file(tmp_path / "f", os.O_RDWR, "the file"))
    stranger()
    with pytest.raises(FtlError, match="the file belongs to user"):
        open_file(tmp_path / "f", os.O_RDWR, "the file")


def test_a_lock_is_had_once_and_not_where_others_could_have_it(tmp_path: Path) -> None:
    held = lock_file(tmp_path / "lock", "the lock")
    with pytest.raises(HeldElsewhereError):
        lock_file(tmp_path / "lock", "the lock")
    os.close(held)
    # Whoever can open it can lock it.
    (tmp_path / "lock").chmod(0o604)
    with pytest.raises(FtlError, match="the lock is open to others"):
        lock_file(tmp_path / "lock", "the lock")
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(FtlError, match="the lock: is a symbolic link"):
        lock_file(tmp_path / "lock", "the lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_refused_lock_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "lock").touch(mode=0o644)
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(FtlError):
            lock_file(tmp_path / "lock", "the lock")
    assert not opened_since(before)


# --- sockets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_a_socket_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        unix_sockets.bind(str(tmp_path / "own")).close()
        unix_sockets.bind(str(tmp_path / "group"), unix_sockets.GROUP_MODE, os.getegid()).close()
    finally:
        assert os.umask(before) == umask
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "group").stat().st_mode & 0o777 == 0o660


def test_a_socket_has_its_mode_from_the_first_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects before a chmod is in."""
    modes = []

    class Watched(socket.socket):
        def bind(self, address: str) -> None:  # type: ignore[override]
            super().bind(address)
            modes.append(os.stat(address).st_mode & 0o777)

    monkeypatch.setattr(unix_sockets.socket, "socket", Watched)
    umask = os.umask(0)
    try:
        unix_sockets.bind(str(tmp_path / "s"), unix_sockets.GROUP_MODE, os.getegid()).close()
    finally:
        os.umask(umask)
    assert modes == [0o600]


def test_where_sockets_are_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_sockets, "own_uid", lambda: 0)
    assert unix_sockets.run_directory() == Path("/run/spdk-ftl")
    monkeypatch.setattr(unix_sockets, "own_uid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert unix_sockets.run_directory() == Path("/run/user/1000/spdk-ftl")


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_there_is_no_default_that_anybody_could_have_first(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setattr(unix_sockets, "own_uid", lambda: 1000)
    if value is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    with pytest.raises(ParameterError, match=r"\$XDG_RUNTIME_DIR is not set.*--socket or \$SPDK_FTL_SOCK"):
        unix_sockets.run_directory()


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o755), (1000, 0o700)])
def test_the_run_directory_is_entered_by_others_only_where_it_is_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, mode: int
) -> None:
    monkeypatch.setattr(unix_sockets, "own_uid", lambda: uid)
    unix_sockets.make_run_directory(tmp_path / "run")
    unix_sockets.make_run_directory(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == mode


def test_a_socket_is_put_nowhere_where_another_could_take_its_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(FtlError, match=f"its directory {tmp_path} can be written by others"):
        unix_sockets.check_place(tmp_path / "s", "control socket", "give another with --socket")
    tmp_path.chmod(0o1777)
    unix_sockets.check_place(tmp_path / "s", "control socket", "give another with --socket")

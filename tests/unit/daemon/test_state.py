"""The daemon's state directory: one owner, atomic file, damage is named."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from spdk_ftl_py.daemon.state import StateDirectory
from spdk_ftl_py.errors import BusyError, FtlError

HOST_ID = "67e599fc-ba48-4ccf-9468-3b29db8a59ae"


def device(name: str = "ftl0") -> dict:
    return {"name": name, "uuid": str(uuid4()), "target": "/t.sock", "state": "deferred", "params": {"name": name}}


def test_what_was_saved_is_there_for_the_successor(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "new" / "state")
    first.open()
    records = [device("ftl0"), device("ftl1")]
    first.save(records)
    first.close()
    second = StateDirectory(tmp_path / "new" / "state")
    second.open()
    assert second.devices == records
    assert second.host_id == first.host_id
    second.close()


def test_a_second_daemon_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first, second = StateDirectory(tmp_path), StateDirectory(tmp_path)
    first.open()
    with pytest.raises(BusyError, match="in use by another spdk-ftl daemon"):
        second.open()
    first.close()
    first.close()
    second.open()
    second.close()


def test_state_is_for_its_owner_only(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.open()
    state.close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "state.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 1}',
        b'{"format": 2, "host_id": "x", "devices": []}',
        b'{"format": 1, "host_id": "x", "devices": []}',
        b"[" * 100_000,
        json.dumps({"format": 1, "host_id": HOST_ID, "devices": [{"name": "ftl0"}]}).encode(),
        json.dumps({"format": 1, "host_id": HOST_ID, "devices": [{**device(), "uuid": "x"}]}).encode(),
    ],
)
def test_a_damaged_state_file_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    state = StateDirectory(tmp_path)
    with pytest.raises(FtlError, match=r"state\.json is damaged .*move it away"):
        state.open()
    assert path.read_bytes() == content
    path.unlink()
    state.open()
    state.close()


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(tmp_path)
    state.open()
    records = [device()]
    state.save(records)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(FtlError, match="No space left"):
            state.save([])
    state.close()
    state.open()
    assert state.devices == records
    state.close()


def test_a_path_that_can_not_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FtlError, match="--state-dir"):
        StateDirectory(tmp_path / "file" / "state").open()


def full(state: StateDirectory, *, room: bool) -> Callable[[bytes], None]:
    """What save() does in a file system without room but for what the reserve takes up, or without any."""
    replace = state._replace

    def attempt(raw: bytes) -> None:
        if not room or (state.path / "reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(raw)

    return attempt


def test_a_full_file_system_takes_one_more_state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(tmp_path)
    state.open()
    assert (tmp_path / "reserve").stat().st_size == 65536
    records = [device(f"ftl{i}") for i in range(200)]
    state.save(records)
    assert (tmp_path / "reserve").stat().st_size >= 2 * (tmp_path / "state.json").stat().st_size
    monkeypatch.setattr(state, "_replace", full(state, room=True))
    state.save(records[1:])
    state.close()
    monkeypatch.undo()
    state.open()
    assert state.devices == records[1:]
    state.close()


def test_what_could_not_be_recorded_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(tmp_path)
    state.open()
    state.require_room()
    (tmp_path / "reserve").unlink()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(FtlError, match="No space left on device; nothing was done"):
            state.require_room()
        assert (tmp_path / "reserve").stat().st_size == 0
    state.require_room()
    assert (tmp_path / "reserve").stat().st_size == 65536
    state.close()


def test_a_save_that_fails_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(tmp_path)
    state.open()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        with pytest.raises(FtlError, match="No space left"):
            state.save([])
    assert not (tmp_path / "state.json.new").exists()
    state.close()


def with_hosts(name: str, count: int) -> dict:
    hosts = [[f"nqn.2026-11.io.example:{'x' * 180}{number:04}", "00" * 16] for number in range(count)]
    return device(name) | {"hosts": {"connected": hosts, "owed": []}}


def test_nothing_is_written_that_the_next_start_would_not_read(tmp_path: Path) -> None:
    """The hosts of 13 FTLs made a file that no daemon started with."""
    state = StateDirectory(tmp_path)
    state.open()
    state.save([with_hosts(f"ftl{number}", 1024) for number in range(13)])
    with pytest.raises(FtlError, match="delete FTLs"):
        state.save([with_hosts(f"ftl{number}", 1024) for number in range(70)])
    state.close()
    successor = StateDirectory(tmp_path)
    successor.open()
    assert len(successor.devices) == 13
    successor.close()


def test_a_state_file_has_room_for_two_lists_where_hosts_are_still_let_in(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.open()
    devices = [with_hosts(f"ftl{number}", 1024) for number in range(28)]
    state.save(devices[:20])
    assert not state.crowded
    state.save(devices)
    assert state.crowded
    for each in devices:
        each["hosts"]["owed"] = each["hosts"]["connected"]
    state.save(devices)
    state.close()

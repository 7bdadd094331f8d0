"""The daemon's state directory: one owner, atomic file, damage is named."""

from __future__ import annotations

import json
import os
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

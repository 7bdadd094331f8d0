"""A journal keeps what was appended, and nothing that is torn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdk_ftl_py.errors import BusyError, FtlError
from spdk_ftl_py.workers.identity import difference, identity
from spdk_ftl_py.workers.journal import Journal

HEADER = {"kind": "test", "grid": {"a": [1, 2], "b": [3]}}


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    with Journal(path, "journal") as journal:
        return ([journal.header] if journal.header is not None else []) + journal.records, journal.dropped


def write(path: Path, *records: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)
    with Journal(path, "journal") as journal:
        for record in records:
            journal.append(record)


RECORDS = [{"n": 1}, {"text": "ä\n"}, {"nested": {"list": [1, 2.5, None]}}]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, *RECORDS)
    assert read(path) == (RECORDS, 0)
    with Journal(path, "journal") as journal:
        journal.append({"n": 4})
    assert read(path) == ([*RECORDS, {"n": 4}], 0)


@settings(max_examples=50)
@given(cut=st.integers(0, 200), junk=st.binary(max_size=30))
def test_a_torn_end_is_dropped_wherever_it_is(tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "torn"
    write(path, *RECORDS)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = min(cut, len(whole))
    # Behind a file whose beginning is torn nothing was written.
    torn = whole[:cut] + (junk if cut > len(lines[0]) else b"")
    path.write_bytes(torn)
    complete = sum(len(b"".join(lines[: number + 1])) <= cut for number in range(1, len(lines)))
    found, dropped = read(path)
    assert found == RECORDS[: len(found)]
    assert complete <= len(found) <= complete + 1  # the junk may be what was cut off
    assert bool(dropped) == (path.stat().st_size < len(torn)) or len(torn) < len(lines[0])
    with Journal(path, "journal") as journal:
        journal.append({"n": 9})
    assert read(path) == ([*found, {"n": 9}], 0)


def test_damage_before_the_end_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, *RECORDS)
    content = bytearray(path.read_bytes())
    content[content.index(b"nested") - 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(FtlError, match=r"journal .*/j is damaged in line 3: restore the file"):
        read(path)
    assert path.read_bytes() == content


def test_another_kind_of_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("my thesis")
    with pytest.raises(FtlError, match="is another kind of file, which is left as it is: give another path"):
        read(path)
    assert path.read_text() == "my thesis"
    with pytest.raises(FtlError, match="Is a directory: give a path that can be written"):
        read(tmp_path)
    with pytest.raises(FtlError, match="No such file or directory"):
        read(tmp_path / "a" / "b")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FtlError, match="is not a regular file"):
        read(tmp_path / "fifo")


def test_one_has_it_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "j", "journal"),
        pytest.raises(BusyError, match="is in use by another process"),
    ):
        read(tmp_path / "j")
    assert read(tmp_path / "j") == ([], 0)


def test_another_header_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "sweep") as journal:
        journal.begin(HEADER, "give another")
        journal.begin(HEADER, "give another")
    with Journal(tmp_path / "j", "sweep") as journal:
        journal.begin(HEADER, "give another")
        with pytest.raises(FtlError) as refused:
            journal.begin({**HEADER, "grid": {"a": [1], "b": [3]}}, "give another")
    told = r"was begun differently (grid.a: [1, 2] then, [1] now): give another"
    assert refused.value.message.endswith(told)


def test_code_is_known_by_version_sources_and_shim() -> None:
    here = identity()
    assert list(here) == ["version", "sources", "shim"]
    assert here["shim"] != "missing"
    assert difference(here, identity()) == ""
    assert difference(here, {**here, "shim": "5"}) == f"shim 5 instead of {here['shim']}"
    assert "sources none instead of" in difference(here, {"version": here["version"]})


def test_more_than_the_package_is_known_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, large = tmp_path / "t.csv", tmp_path / "large"
    file.write_text("1")
    names = [f"file {file}", f"file {tmp_path}", "file /no/such", "module spdk_ftl_py.text", "module no.such", "other"]
    first = identity(names)
    assert [first.get(name) for name in names[1:]] == ["no regular file", "missing", first[names[3]], "missing", None]
    assert len(first[names[3]]) == 16
    file.write_text("2")
    assert difference(first, identity(first)) == f"{names[0]} {identity(names)[names[0]]} instead of {first[names[0]]}"
    # As a large file: its size, its ends and what lies between count.
    monkeypatch.setattr("spdk_ftl_py.workers.identity.WHOLE_BYTES_MAX", 1 << 10)
    monkeypatch.setattr("spdk_ftl_py.workers.identity._SAMPLE_BYTES", 16)
    content = bytes(1 << 14)
    found = set()
    for changed in (content, content + b"\0", b"1" + content[1:], content[1:] + b"1", content[1:-400] + b"1" * 401):
        large.write_bytes(changed)
        found.add(identity([f"file {large}"])[f"file {large}"])
    assert len(found) == 5


def test_the_records_of_one_append_are_there_all_or_none(tmp_path: Path) -> None:
    """Whatever page of it the disk has lost: what was durable before still counts."""
    path = tmp_path / "j"
    write(path, HEADER, {"n": 1})
    before = path.stat().st_size
    with Journal(path, "journal") as journal:
        journal.append(*({"n": number} for number in range(2, 9)))
    whole = path.read_bytes()
    for hole in range(before, len(whole)):
        path.write_bytes(whole[:hole] + bytes(1) + whole[hole + 1 :])
        assert read(path)[0] == [HEADER, {"n": 1}]


def test_what_is_appended_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "j", []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr("spdk_ftl_py.workers.journal.os.fsync", noted)
    write(path, HEADER)
    assert synced[-1] == path.stat().st_size

"""Whether files of results can be written is known before long work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from spdk_ftl_py import outputs, pictures
from spdk_ftl_py.errors import FtlError


def test_a_check_leaves_no_trace(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.write_text("results of yesterday")
    link.symlink_to(new)
    for path in (old, new, link, None, "-"):
        outputs.check(path)
    assert old.read_text() == "results of yesterday"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "old"]


def test_a_check_says_why_a_file_can_not_be_written(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "no" / "file")
    for path in (tmp_path, tmp_path / "no" / "file", link, tmp_path / ("x" * 300)):
        with pytest.raises(FtlError, match=r"--json .*: give a file that can be written"):
            outputs.check(path)


def test_a_check_does_not_end_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    try:
        outputs.check(pipe)
        os.write(writer, b"x")
        assert os.read(reader, 2) == b"x"
    finally:
        os.close(reader)
        os.close(writer)


def test_json_goes_to_a_file_or_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs.write_json(tmp_path / "r.json", {"ä": 1})
    outputs.write_json("-", {"ä": 1})
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(capsys.readouterr().out) == {"ä": 1}
    with pytest.raises(FtlError, match=r"--json .*: Is a directory: give a file that can be written"):
        outputs.write_json(tmp_path, {})


def test_a_plot_has_a_format_that_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("p.svg", "p.SVG", "p", "p.png"):
        pictures.check(tmp_path / name)
    with pytest.raises(FtlError, match=r"no format \.txt: use the suffix \.svg"):
        pictures.check(tmp_path / "p.txt")
    assert not list(tmp_path.iterdir())


def test_two_results_in_one_file_are_refused_whatever_its_names_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "journal")
    outputs.check_distinct({"--json": "-", "--plot": "-", "--out": tmp_path / "a", "--campaign": None})
    with pytest.raises(FtlError, match=r"--json .*link: the journal of --out is the same file: give another one"):
        outputs.check_distinct({"the journal of --out": tmp_path / "journal", "--json": str(tmp_path / "link")})

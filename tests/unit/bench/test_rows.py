"""The file of results: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spdk_ftl_py.bench.rows import Goal, load, row, save
from spdk_ftl_py.bench.statistics import Sample
from spdk_ftl_py.errors import FtlError

ONE = row("a/fresh/write-qd1", "iops", Sample.of([2.0]), Sample.of([1.0]), Sample.of([0.5]), Goal(0.4))
OTHER = row("a/fresh/read-qd1", "iops", Sample.of([4.0]), Sample.of([1.0]), Sample.of([0.25]), Goal(0.4))


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    save(file, [ONE, OTHER], {"command": "python bench/run.py", "date": "2026-11-29"})
    assert load(file) == [ONE, OTHER]
    document = json.loads(file.read_text())
    assert document["command"] == "python bench/run.py"
    assert document["machine"]["cores"] >= 1
    first = document["rows"][0]
    assert {key: first[key] for key in ("name", "metric", "raw", "ftl", "ratio", "goal", "met")} == {
        "name": "a/fresh/write-qd1", "metric": "iops", "raw": 2.0, "ftl": 1.0, "ratio": 0.5, "goal": ">= 0.4",
        "met": True,
    }  # fmt: skip


def test_an_update_keeps_rows_that_were_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    save(file, [ONE, OTHER], {})
    again = row(ONE.name, ONE.metric, Sample.of([2.0]), Sample.of([0.2]), Sample.of([0.1]), Goal(0.4))
    save(file, [again], {}, update=True)
    assert load(file) == [again, OTHER]
    save(file, [ONE], {})
    assert load(file) == [ONE]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 99, "rows": []}',
        '{"format": 1}',
        '{"format": 1, "rows": [5]}',
        '{"format": 1, "rows": [{"name": 5, "metric": "iops"}]}',
        '{"format": 1, "rows": [{"name": "a", "metric": "iops", "ratio": "much"}]}',
        '{"format": 1, "rows": [{"name": "a", "metric": "iops"}]}',
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "b.json"
    file.write_text(text)
    with pytest.raises(FtlError, match=r"b\.json: is not a result of the bench"):
        load(file)


def test_a_file_that_is_missing_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FtlError, match="No such file"):
        load(tmp_path / "b.json")
    with pytest.raises(FtlError, match="No such file"):
        save(tmp_path / "none" / "b.json", [ONE], {})

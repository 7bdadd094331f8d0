"""Results as a file, and as a picture."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.errors import FtlError, ParameterError, UnsupportedError
from spdk_ftl_py.pictures import pyplot
from spdk_ftl_py.simulate.sweep import plot, results

ROWS = [
    results.row(
        {"policy": "greedy", "reserved": 10, "workload": "zipf:0.9, é", "seed": 1},
        {
            "wa": 2.5,
            "policy": "greedy",
            "seed": 7,
            "wear": {"max": 3, "worst": None},
            "over_time": [1, 2.5],
            "ok": True,
        },
        "",
    ),
    results.row({"policy": "a:B", "reserved": 20, "workload": "uniform", "seed": 1}, {"wa": 3, "late": "x"}, ""),
    results.row({"policy": "bad", "reserved": 20, "workload": "uniform", "seed": 1}, None, "ValueError: no, 'way'"),
]
COLUMNS = {
    "policy": ["greedy", "a:B", "bad"],
    "reserved": [10, 20, 20],
    "workload": ["zipf:0.9, é", "uniform", "uniform"],
    "seed": [1, 1, 1],
    "wa": [2.5, 3, None],
    "result.seed": [7, None, None],
    "wear.max": [3, None, None],
    "wear.worst": [None, None, None],
    "over_time": ["[1, 2.5]", None, None],
    "ok": [True, None, None],
    "late": [None, "x", None],
    "error": [None, None, "ValueError: no, 'way'"],
}


def test_csv_has_what_the_simulations_gave(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    results.write(ROWS, path)
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(COLUMNS)
    for name, values in COLUMNS.items():
        texts = ["" if value is None else "true" if value is True else str(value) for value in values]
        assert [each[name] for each in found] == texts
    assert [each.name for each in tmp_path.iterdir()] == ["r.csv"]


def test_parquet_has_what_the_simulations_gave(tmp_path: Path) -> None:
    parquet = pytest.importorskip(
        "pyarrow.parquet", reason="PYARROW IS NOT INSTALLED, so Parquet is not tested: pip install spdk-ftl-py[parquet]"
    )
    path = tmp_path / "r.parquet"
    results.write(ROWS, path)
    table = parquet.read_table(path)
    assert table.to_pydict() == COLUMNS
    kinds = {name: str(table.schema.field(name).type) for name in ("policy", "reserved", "wa", "ok")}
    assert kinds == {"policy": "string", "reserved": "int64", "wa": "double", "ok": "bool"}
    mixed = [{**each, "wa": value} for each, value in zip(ROWS, (1, "x", None), strict=True)]
    results.write(mixed, path)
    assert parquet.read_table(path)["wa"].to_pylist() == ["1", "x", None]


def test_what_can_not_be_written_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match=r"must end in \.csv or \.parquet"):
        results.suffix(Path("results.xlsx"))
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(FtlError, match=r"results .*/r\.csv: Is a directory: give --out a path that can be written"):
        results.write(ROWS, tmp_path / "r.csv")
    assert [each.name for each in tmp_path.iterdir()] == ["r.csv"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    results.check(tmp_path / "r.csv")
    with pytest.raises(UnsupportedError, match=r"needs pyarrow \(pip install 'spdk-ftl-py\[parquet\]'\)"):
        results.check(tmp_path / "r.parquet")


def wa(policy: str, reserved: int, workload: str, value: float | None, **others: Any) -> dict[str, Any]:
    point = {"policy": policy, "reserved": reserved, "workload": workload, **others}
    return results.row(point, None if value is None else {plot.WA: value}, "" if value is not None else "failed")


PLOTTED = [
    wa("greedy", 20, "uniform", 2.0, bands=64, seed=1),
    wa("greedy", 20, "uniform", 3.0, bands=64, seed=2),
    wa("greedy", 10, "uniform", 5.0, bands=64, seed=1),
    wa("sepbit", 10, "zipf:0.9", 1.5, bands=1024, seed=1),
    wa("sepbit", 20, "zipf:0.9", None, bands=1024, seed=1),
]


def test_a_line_is_a_policy_and_what_else_varies_and_the_mean_of_seeds() -> None:
    assert plot.lines(PLOTTED, ["policy", "reserved", "seed", "bands"]) == {
        "uniform": {"greedy, bands 64": [(10, 5.0), (20, 2.5)]},
        "zipf:0.9": {"sepbit, bands 1024": [(10, 1.5)]},
    }


def test_the_picture_names_workloads_and_policies(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="MATPLOTLIB IS NOT INSTALLED: pip install 'spdk-ftl-py[plot]'")
    path = tmp_path / "p.svg"
    plot.draw(PLOTTED, ["policy"], path)
    text = path.read_text()
    assert all(f">{name}<" in text for name in ("uniform", "zipf:0.9", "greedy", "sepbit", "reserved (%)"))
    with pytest.raises(FtlError, match="nothing to plot"):
        plot.draw(PLOTTED[-1:], [], path)
    with pytest.raises(FtlError, match=r"plot .*p\.tape: "):
        plot.draw(PLOTTED, [], tmp_path / "p.tape")


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"a plot needs matplotlib \(pip install 'spdk-ftl-py\[plot\]'\)"):
        pyplot()

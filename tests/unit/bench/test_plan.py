"""Which workloads are measured, and what their rows say."""

from __future__ import annotations

import pytest

from spdk_ftl_py.bench import script
from spdk_ftl_py.bench.client import Window
from spdk_ftl_py.bench.existing import address_of, allowed, chosen
from spdk_ftl_py.bench.measured import Measured
from spdk_ftl_py.bench.perf import possible, window_of
from spdk_ftl_py.bench.plan import FULL, QUICK, RATIO_GOALS, selected
from spdk_ftl_py.bench.results import gc_rows, rows_of
from spdk_ftl_py.bench.table import lines_of
from spdk_ftl_py.bench.workloads import WORKLOADS
from spdk_ftl_py.errors import FtlError, ParameterError, UnsupportedError

PERF = """\
TCP (addr:127.0.0.1 subnqn:nqn.2026-11.io.spdk-ftl:raw) NSID 1 from core 1: 275493.48 1076.15 116.07 32.06 347.30
========================================================
Total                                          :  275493.48    1076.15     116.07      32.06     347.30

Summary latency data for TCP (addr:127.0.0.1 subnqn:nqn.2026-11.io.s from core 1:
=================================================================================
  1.00000% :   102.400us
 50.00000% :   111.065us
 90.00000% :   121.305us
 99.00000% :   222.129us
 99.90000% :   288.295us
 99.99000% :   343.434us
"""


def _window(iops: float, **more: float) -> Window:
    latency = {"p50": 100.0, "p99": 200.0, "p999": 300.0, "p9999": 400.0, **more}
    return Window(int(iops), int(iops), int(iops), 0, 0, 1.0, latency, {"client": 1.0, "target": 2.0, "daemon": 3.0})


def _measured(name: str, *ftl: Window, raw: float = 100_000) -> Measured:
    return Measured(WORKLOADS[name], [_window(raw)] * len(ftl), list(ftl), [2.0] * len(ftl))


def test_a_pattern_without_a_section_is_of_a_fresh_ftl() -> None:
    found = selected(FULL, ["write-qd1", "gc/read-*"])
    names = {f"{section.name}/{workload.name}" for section in found for workload in section.workloads}
    assert names == {
        "fresh/write-qd1", "gc/read-qd1", "gc/read-qd32", "gc/read-qd128", "gc/read-beside-writes",
    }  # fmt: skip


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="fresh/write-qd5: no such workload"):
        selected(FULL, ["write-qd1", "write-qd5"])


def test_quick_has_every_goal() -> None:
    (fresh,) = (section for section in QUICK if section.name == "fresh")
    assert set(RATIO_GOALS) <= {workload.name for workload in fresh.workloads}
    (gc,) = (section for section in QUICK if section.name == "gc")
    assert {"write-qd1", "write-qd32", "write-qd128", "read-beside-writes"} <= {each.name for each in gc.workloads}


def test_only_a_plain_fresh_ftl_is_judged_by_the_ratio() -> None:
    for section in FULL:
        measured = {each.name: Measured(each, [_window(100)], [_window(90)]) for each in section.workloads}
        judged = {row.name.rpartition("/")[2] for row in rows_of("t/tcp", section, measured) if row.goal}
        expected = {each.name for each in section.workloads} & set(RATIO_GOALS) if section.name == "fresh" else set()
        assert judged == expected


def test_goals_under_relocation_are_judged_by_the_fresh_ftl_and_by_p50() -> None:
    fresh = {name: _measured(name, _window(90_000, p99=200.0)) for name in ("write-qd32", "read-beside-writes")}
    gc = {
        "write-qd32": _measured("write-qd32", _window(40_000, p50=100.0, p999=1100.0)),
        "read-beside-writes": _measured("read-beside-writes", _window(80_000, p99=250.0)),
        "write-qd1": _measured("write-qd1", _window(10_000)),
    }
    rows = {(row.name, row.metric): row for row in gc_rows("t/tcp", fresh, gc)}
    media = rows["t/tcp/gc/write-qd32", "media_writes_to_fresh"]
    assert media.ratio == pytest.approx(80_000 / 90_000)
    assert media.met
    tail = rows["t/tcp/gc/write-qd32", "p99_9_to_p50"]
    assert (tail.ratio, tail.met) == (11.0, False)
    reads = rows["t/tcp/gc/read-beside-writes", "p99_to_fresh"]
    assert (reads.ratio, reads.met) == (1.25, True)
    alone = rows["t/tcp/gc/write-qd1", "media_writes_to_fresh"]
    assert (alone.met, alone.why) == (False, "the fresh FTL was not measured in this run")


def test_a_table_leaves_out_what_nothing_was_measured_of() -> None:
    (section,) = selected(FULL, ["write-qd1"])
    rows = list(rows_of("t/tcp", section, {"write-qd1": _measured("write-qd1", _window(85_000), _window(86_000))}))
    text = "\n".join(lines_of(rows))
    assert "raw" in text
    assert ">= 0.85 met" in text
    alone = list(
        rows_of("ftl0", section, {"write-qd1": Measured(WORKLOADS["write-qd1"], [], [_window(5)])}, goals=False)
    )
    assert "raw" not in "\n".join(lines_of(alone))


def test_the_output_of_spdk_nvme_perf() -> None:
    window = window_of(PERF, WORKLOADS["write-qd32"])
    assert window.iops == 275493
    assert window.latency_us == {
        "mean": 116.07, "min": 32.06, "max": 347.3, "p50": 111.065, "p90": 121.305, "p99": 222.129, "p999": 288.295,
        "p9999": 343.434,
    }  # fmt: skip
    with pytest.raises(FtlError, match="no line Total"):
        window_of("", WORKLOADS["write-qd32"])
    with pytest.raises(FtlError, match="no p999, p9999"):
        window_of(PERF.replace("99.9", "98.9"), WORKLOADS["write-qd32"])


def test_what_spdk_nvme_perf_cannot_do_is_left_out() -> None:
    assert possible("gc", WORKLOADS["mix-qd32"])
    assert not possible("fresh", WORKLOADS["mix-qd32"])
    assert not possible("fresh", WORKLOADS["fsync-qd1"])
    assert not possible("gc", WORKLOADS["read-beside-writes"])


def test_without_write_nothing_is_written_to_an_existing_ftl() -> None:
    assert not any(workload.writes for workload in allowed(None, write=False))
    assert any(workload.writes for workload in allowed(None, write=True))
    assert [each.name for each in allowed(chosen("read-qd1,read-qd*"), write=False)][:2] == ["read-qd1", "read-qd32"]
    with pytest.raises(ParameterError, match="--write allows writes"):
        allowed(chosen("read-beside-writes"), write=False)


def test_an_ftl_without_a_tcp_export_cannot_be_measured() -> None:
    with pytest.raises(UnsupportedError, match="ftl0 has no NVMe/TCP export"):
        address_of({"name": "ftl0", "state": "deferred", "export": None}, "nqn.2026-11.io.example:host")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nonsense"],
        ["--seconds", "0"],
        ["--seconds", "x"],
        ["--repeats", "0"],
        ["--base-mib", "1"],
        ["--cores", "0"],
        ["--cores", "0,1,999999"],
        ["--perf", "/nowhere/perf"],
        ["--target", "other"],
        ["surplus"],
    ],
)
def test_wrong_usage_of_the_script_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script.main("", arguments)
    assert ended.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_a_real_target_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for given, said in (("", "set SPDK_TGT"), ("/nowhere/spdk_tgt", "SPDK_TGT=/nowhere/spdk_tgt is not a program")):
        monkeypatch.setenv("SPDK_TGT", given)
        with pytest.raises(SystemExit):
            script.main("", ["--target", "spdk_tgt", "--list"])
        assert said in capsys.readouterr().err


def test_the_list_needs_no_target(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SPDK_TGT", raising=False)
    assert script.main("", ["--list", "--quick"]) == 0
    assert "gc/write-qd32" in capsys.readouterr().out.splitlines()

"""The goals of vfio-user: what is compared, and that nothing else is taken for it. No process is started."""

from __future__ import annotations

from typing import Any

import pytest

from spdk_ftl_py.bench import script
from spdk_ftl_py.bench.bed import FTL
from spdk_ftl_py.bench.measured import Timing
from spdk_ftl_py.bench.plan import FULL, QUICK, SHARED, SHARED_GOALS, Section
from spdk_ftl_py.bench.shared import (
    PLANS,
    SharedBed,
    check_shared,
    longer,
    measure_shared,
    parameters,
    shared_rows,
)
from spdk_ftl_py.bench.workloads import WORKLOADS
from spdk_ftl_py.errors import FtlError

BASE = {"listen_addresses": [{"trtype": "VFIOUSER", "traddr": "/dev/shm/x.base"}]}


def _section(sections: tuple[Section, ...] = FULL) -> Section:
    (found,) = (section for section in sections if section.variant == SHARED)
    return found


class Fake(SharedBed):
    """Answers what it is told, and notes what was asked for."""

    def __init__(self, latency_us: dict[str, float], moved: int = 0) -> None:
        self.done: list[str] = []
        self._latency_us = latency_us
        self._moves = moved
        self._moved = 0

    def renew(self) -> int:
        self.done.append("new")
        self._moved = 0
        return 1000

    def renew_filled(self) -> None:
        self.renew()
        self.done.append("fill")

    def run(self, bdev: str, workload: Any, seconds: int) -> dict[str, Any]:
        self.done.append(bdev)
        if bdev == FTL:
            self._moved += self._moves
        latency = self._latency_us[bdev]
        return {"latency_us": {"mean": latency, "p50": 1.0}, "mib_s": 1000 / latency, "cpu_us_daemon": 1.5}

    def moved_blocks(self) -> int:
        return self._moved


def test_every_goal_has_a_workload_and_every_workload_a_goal() -> None:
    for sections in (FULL, QUICK):
        names = [workload.name for workload in _section(sections).workloads]
        assert {(name, PLANS[name].metric) for name in names} == set(SHARED_GOALS)
        assert set(names) == set(PLANS)


def test_neighbours_are_compared_and_each_goal_is_a_row() -> None:
    bed = Fake({FTL: 10.0, "tcpn1": 20.0, "vfio-usern1": 5.0})
    rows = {row.name: row for row in shared_rows("e", measure_shared(bed, _section(), Timing(0.3, 3), lambda _: None))}
    read, write = rows["e/fresh/read-qd1"], rows["e/fresh/write-qd1"]
    assert (read.raw, read.ftl, read.ratio, read.met, read.repeats) == (20.0, 10.0, 0.5, True, 3)
    assert (write.ratio, write.met) == (0.5, True)
    large = rows["e/fresh/seq-write"]
    assert (large.raw, large.ftl, large.ratio, large.met) == (200.0, 100.0, 0.5, False)
    cpu = rows["e/fresh/write-qd128"]
    assert (cpu.raw, cpu.ftl, cpu.ratio, cpu.met) == (None, 1.5, None, False)
    assert not any(row.why for row in rows.values())


def test_reads_are_of_one_filled_ftl_and_each_window_of_writes_of_a_new_one() -> None:
    bed = Fake({FTL: 1.0, "tcpn1": 1.0, "vfio-usern1": 1.0})
    section = _section().where(lambda _, workload: workload.name in ("read-qd1", "seq-write"))
    measure_shared(bed, section, Timing(1, 2), lambda _: None)
    reads, writes = bed.done[:6], bed.done[6:]
    assert reads == ["new", "fill", "tcpn1", FTL, FTL, "tcpn1"]
    assert writes == ["vfio-usern1", "new", FTL, "new", FTL, "vfio-usern1"]


def test_a_row_tells_of_relocation() -> None:
    bed = Fake({FTL: 1.0, "tcpn1": 1.0, "vfio-usern1": 1.0}, moved=7)
    rows = shared_rows("e", measure_shared(bed, _section(), Timing(1, 2), lambda _: None))
    assert {row.why for row in rows} == {"relocation moved 14 blocks meanwhile"}


def test_a_hop_that_is_not_shared_is_not_measured() -> None:
    device = {"transport": "vfio-user", "attached": True}
    check_shared(device, [{"listen_addresses": []}, BASE])
    tcp = {"listen_addresses": [{"trtype": "TCP"}]}
    with pytest.raises(FtlError, match="not attached by vfio-user, but by tcp"):
        check_shared({**device, "transport": "tcp"}, [BASE])
    for subsystems, said in (([tcp], "by TCP"), ([tcp, BASE], "by TCP, VFIOUSER"), ([], "by nothing")):
        with pytest.raises(FtlError, match=said):
            check_shared(device, subsystems)


def test_parameters_of_the_load() -> None:
    assert parameters("b", WORKLOADS["seq-write"], 2, 100) == {
        "name": "b", "rw": "write", "pattern": "sequential", "io_size": 131072, "queue_depth": 16, "seconds": 2,
        "num_blocks": 100, "verify": False,
    }  # fmt: skip
    assert parameters("b", WORKLOADS["read-qd1"], 1, 100)["verify"] is True


def test_a_range_that_was_not_written_gets_more_time() -> None:
    assert longer(1, 100, 400) == 5
    assert longer(5, 399, 400) == 7
    assert longer(1, 1, 10**6) > 60


def test_spdk_nvme_perf_has_no_part_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main("", ["--list", "--target", "embedded"]) == 0
    assert "fresh+vfio-user/read-qd1" in capsys.readouterr().out.splitlines()
    assert script.main("", ["--list", "--target", "embedded", "--perf", "true"]) == 0
    assert "vfio-user" not in capsys.readouterr().out

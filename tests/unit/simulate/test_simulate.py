"""What `spdk-ftl simulate` computes and prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.errors import FtlError, ParameterError
from spdk_ftl_py.simulate import command, engine
from spdk_ftl_py.simulate.command import lines_of
from spdk_ftl_py.simulate.engine import model, simulate
from spdk_ftl_py.simulate.spec import Spec, blocks_of
from spdk_ftl_py.simulate.sweep.sweep import Sweep

SMALL = Spec(bands=64, band_blocks=256, writes="2x")


def test_the_model_is_that_of_the_literature() -> None:
    assert model(0.8) == pytest.approx(2.69, abs=0.01)
    assert model(0.5) == pytest.approx(1.26, abs=0.01)
    with pytest.raises(ParameterError):
        model(1.0)


def test_a_result_depends_only_on_its_spec() -> None:
    def without_time(result: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in result.items() if name not in ("elapsed_s", "writes_per_s")}

    first, again = simulate(SMALL), simulate(SMALL)
    assert without_time(first) == without_time(again)
    other = simulate(dataclasses.replace(SMALL, seed=2))
    assert other["relocated"] != first["relocated"]
    assert Spec.from_dict(json.loads(json.dumps(first))["spec"]) == SMALL


def test_numbers_of_a_result_belong_together() -> None:
    told: list[float] = []
    result = simulate(SMALL, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert result["host_writes"] == 2 * result["block_count"]
    assert result["media_writes"] == result["host_writes"] + result["relocated"]
    assert result["write_amplification_whole"] == pytest.approx(
        result["media_writes"] / result["host_writes"], abs=1e-4
    )
    points = result["write_amplification_over_time"]
    assert points[-1]["writes"] == 2
    assert len(points) == 100
    half = [point["write_amplification"] for point in points[50:]]
    assert result["write_amplification"] == pytest.approx(sum(half) / len(half), abs=0.01)
    # A band is reset for each that is filled.
    filled = result["media_writes"] / SMALL.band_blocks
    assert result["wear"]["resets"] == pytest.approx(filled, abs=SMALL.bands)
    assert result["gc"]["moves"] == pytest.approx(result["wear"]["resets"], abs=SMALL.bands)


def test_writes_in_sequence_relocate_nothing() -> None:
    result = simulate(dataclasses.replace(SMALL, workload="seq"))
    assert result["write_amplification"] < 1.01


def test_the_longest_wait_is_one_of_the_writes_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(simulation: Any) -> Iterator[NDArray[np.uint64]]:
        count = simulation._spec.block_count
        yield np.arange(count, dtype=np.uint64)
        yield np.random.default_rng(1).integers(0, count, 2 * count).astype(np.uint64)

    monkeypatch.setattr(engine._Simulation, "_fill", busy)
    latency = simulate(dataclasses.replace(SMALL, writes="4"))["latency"]
    # Of four writes, the 99.9th percentile is the longest, rounded up.
    assert latency["wait_us_max"] <= latency["wait_us_p999"] <= 2 * latency["wait_us_max"] + 4
    whole = simulate(dataclasses.replace(SMALL, writes="2x"))["latency"]
    assert whole["wait_us_max"] > latency["wait_us_max"]


def test_it_takes_the_memory_that_the_pages_name() -> None:
    result = simulate(dataclasses.replace(SMALL, reserved=20, writes="1"))
    blocks = SMALL.bands * SMALL.band_blocks
    # 4 TiB are 2^30 blocks.
    assert result["memory_bytes"] / blocks == pytest.approx(7.2, rel=1e-4)
    assert "4 TiB, in 7.2 GiB" in command.EPILOG


def test_a_shared_stream_costs_writes_where_some_blocks_are_hot() -> None:
    spec = dataclasses.replace(SMALL, workload="zipf:0.99", writes="4x")
    apart, shared = simulate(spec), simulate(dataclasses.replace(spec, shared=True))
    assert shared["write_amplification"] > 1.2 * apart["write_amplification"]


@pytest.mark.parametrize(("bands", "band_blocks", "most"), [(64, 256, 3.02), (1024, 1024, 1.9)])
def test_sepbit_keeps_its_classes_apart_where_bands_are_enough_for_that(
    bands: int, band_blocks: int, most: float
) -> None:
    """As long as classes lent their blocks to each other, 1024 bands had 2.03. 64 have little space to keep free."""
    spec = Spec(bands=bands, band_blocks=band_blocks, policy="sepbit", workload="zipf:0.99", writes="2x")
    assert simulate(spec)["write_amplification"] < most


def test_more_reserve_costs_fewer_writes() -> None:
    little, much = (simulate(dataclasses.replace(SMALL, reserved=percent)) for percent in (15, 40))
    assert much["write_amplification"] < 0.7 * little["write_amplification"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bands": 1}, "bands = 1: must be 2 to"),
        ({"reserved": 0}, "reserved = 0: must be 1 to 99"),
        ({"band_blocks": 255, "zones": 2}, "no multiple of 2 zones"),
        ({"bands": 1 << 20, "band_blocks": 1 << 14}, "use fewer or smaller bands"),
        ({"writes": "10"}, ""),
        ({"writes": "ten"}, "a multiple of the capacity such as 10x"),
        ({"policy": "x"}, "reloc_policy"),
        ({"precondition": "x"}, "fill, none"),
        ({"zones": 4, "open_zones": 8}, "bands of 4 zones need 13"),
        ({"bands": 10}, "spare bands"),
        ({"workload": "x"}, "workload"),
    ],
)
def test_impossible_specs_say_what_to_change(values: dict[str, Any], told: str) -> None:
    spec = dataclasses.replace(SMALL, **values)
    if told:
        with pytest.raises(FtlError, match=told):
            simulate(spec)
    else:
        simulate(spec)


def test_a_spec_from_json_is_checked() -> None:
    with pytest.raises(ParameterError, match="no 'colour'"):
        Spec.from_dict({"colour": 5})
    with pytest.raises(ParameterError, match="must be of type int"):
        Spec.from_dict({"bands": True})


def test_writes_are_multiples_or_blocks() -> None:
    assert (blocks_of("10x", 100), blocks_of("0.25x", 100), blocks_of("7", 100)) == (1000, 25, 7)
    for nonsense in ("", "x", "0", "0x", "-1x", "1e3", "٣x", "9999999999x"):
        with pytest.raises(ParameterError, match="writes"):
            blocks_of(nonsense, 100)


def test_workload_and_writes_are_judged_by_the_simulated_device(capsys: pytest.CaptureFixture[str]) -> None:
    # A hundred blocks of a device of 4 TiB; of a small one less than half a block.
    tiny = "part:0-0.0000001:uniform"
    arguments = ["simulate", "--workload", tiny]
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    assert parser.parse_args(arguments).workload == tiny
    with pytest.raises(SystemExit) as ended:
        cli.main([*ARGUMENTS, "--workload", tiny])
    assert ended.value.code == 2
    assert "there is no block in it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args(["simulate", "--workload", "part:0.5-0.5:uniform"])
    assert "there is no block in it" in capsys.readouterr().err
    # As many writes as a device of one block may get.
    assert parser.parse_args(["simulate", "--writes", "999999999x"]).writes == "999999999x"
    with pytest.raises(SystemExit):
        cli.main([*ARGUMENTS, "--bands", "4096", "--band-blocks", "1000000", "--writes", "999999999x"])
    assert "10x or less often" in capsys.readouterr().err


ARGUMENTS = ("simulate", "--bands", "64", "--band-blocks", "256", "--writes", "1x")


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.json"
    assert cli.main([*ARGUMENTS, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    table = capsys.readouterr().out
    assert f"{result['write_amplification']:.3f} in the last" in table
    assert cli.main([*ARGUMENTS, "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["write_amplification"] == result["write_amplification"]
    assert set(again) >= {"write_amplification", "host_writes", "media_writes", "elapsed_s", "writes_per_s"}


def test_the_command_says_what_it_could_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--json", str(tmp_path / "no" / "s.json")]) == 1
    assert "give a file that can be written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", "--bands", "10"])
    assert ended.value.code == 2
    assert "spare bands" in capsys.readouterr().err


@pytest.mark.parametrize("sweep", [[], ["--sweep", "reserved=20,30"]])
@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_that_can_not_be_written_is_told_before_anything_is_simulated(
    option: str,
    sweep: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if option == "--plot":
        pytest.importorskip("matplotlib")
    monkeypatch.setattr(engine, "simulate", None)
    monkeypatch.setattr(Sweep, "run", None)
    assert cli.main([*ARGUMENTS, *sweep, option, str(tmp_path / "no" / "s.svg")]) == 1
    assert "give a file that can be written" in capsys.readouterr().err


def test_the_command_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "s.svg"
    assert cli.main([*ARGUMENTS, "--plot", str(file)]) == 0
    assert "write amplification" in file.read_text()


def test_what_was_malformed_in_a_trace_is_told(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    line = "128166372003061629,hm,0,Write,4096,4096,413\n"
    trace.write_text(line * 20 + "nonsense\n" + line * 20)
    found = simulate(Spec(bands=40, band_blocks=64, workload=f"msr:{trace}", writes="1x"))
    assert found["host_writes"] == 40
    assert (found["trace"]["requests"], found["trace"]["malformed"]) == (40, 1)
    assert any("1 malformed; the first is line 21: " in row for row in lines_of(found))
    assert simulate(Spec(bands=40, band_blocks=64, writes="1x"))["trace"] is None

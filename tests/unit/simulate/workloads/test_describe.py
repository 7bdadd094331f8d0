"""What is said of a workload is true."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdk_ftl_py.errors import ParameterError, TraceError
from spdk_ftl_py.simulate.workloads import describe as module
from spdk_ftl_py.simulate.workloads.base import READ, TRIM, WRITE, Requests
from spdk_ftl_py.simulate.workloads.describe import describe, describe_text

ROWS = st.lists(
    st.tuples(
        st.sampled_from([WRITE, TRIM, READ]), st.integers(0, 40) | st.integers(10**9, 10**9 + 9), st.integers(1, 9)
    ),
    min_size=1,
    max_size=40,
)


class Given:
    """A workload of these batches."""

    name = "given"

    def __init__(self, *batches: list[tuple[int, int, int]]) -> None:
        self._batches = batches

    def requests(self, seed: int) -> Iterator[Requests]:
        for batch in self._batches:
            op, lba, blocks = zip(*batch, strict=True)
            yield Requests(np.array(op, np.uint8), np.array(lba, np.uint64), np.array(blocks, np.uint32), None)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(ROWS, min_size=1, max_size=4))
def test_it_counts_like_a_plain_loop(batches: list[list[tuple[int, int, int]]]) -> None:
    last: dict[int, int] = {}
    counts: Counter[int] = Counter()
    distances = []
    now = 0
    for op, lba, blocks in (row for batch in batches for row in batch):
        for block in range(lba, lba + blocks):
            if op == TRIM:
                last.pop(block, None)
            elif op == WRITE:
                now += 1
                if block in last:
                    distances.append(now - last[block])
                last[block] = now
                counts[block] += 1
    found = describe(Given(*batches))
    assert found.write_blocks == now
    assert found.footprint_blocks == len(counts)
    assert found.rewrites == len(distances)
    assert found.requests == sum(len(batch) for batch in batches)
    assert found.highest_block == max(lba + blocks for batch in batches for _, lba, blocks in batch)
    hottest = sum(count for _, count in counts.most_common(round(len(counts) * 0.2)))
    assert found.hot_share == pytest.approx(hottest / now if now else 0)
    for name, distance in found.rewrite_distance.items():
        exact = sorted(distances)[max(0, -(-len(distances) * int(name[1:]) // 100) - 1)]
        assert exact <= distance + 1
        assert distance <= exact * 1.05


def test_uniform_writes_are_rewritten_after_the_device_on_average() -> None:
    found = json.loads(describe_text("uniform", block_count=20_000, as_json=True))
    assert found["write_blocks"] >= 200_000
    assert found["footprint_blocks"] == pytest.approx(20_000, rel=0.001)
    # Geometrically distributed, but for those that the end cuts off.
    assert found["rewrite_distance"]["p50"] == pytest.approx(20_000 * np.log(2), rel=0.15)
    assert 0.2 < found["hot_share"] < 0.35


def test_seq_is_rewritten_after_exactly_the_device() -> None:
    found = json.loads(describe_text("seq", block_count=4096, as_json=True))
    assert set(found["rewrite_distance"].values()) == {int(4096 * 2 ** (1 / 16))}


def test_a_trace_is_told_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text(
        "1,W,0,4096,100\n1,R,8192,8192,200\n2,W,0,1,1\nx\n1,W,0,4096,1000100\n1,W,4503599627370496,4096,1000100\n"
    )
    text = describe_text(f"alibaba:{file}:device=1")
    assert text.splitlines()[0] == "requests      4, 1.25 blocks on average"
    assert "footprint     2 blocks" in text
    assert "rewritten     1 blocks, after p10 1, p50 1" in text
    assert "duration      1.0 s" in text
    assert "lines         1 passed over, 1 malformed" in text
    with pytest.raises(ParameterError, match="repeat=forever has no end"):
        describe_text(f"alibaba:{file}:device=1:repeat=forever")
    with pytest.raises(TraceError, match="fit=fold"):
        describe_text(f"alibaba:{file}:device=1", block_count=100)


def test_what_writes_nothing_has_an_end() -> None:
    assert "written       0 blocks" in describe_text("read:1:uniform", block_count=100)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES_MAX", 1 << 20)
    file = tmp_path / "trace"
    file.write_text("".join(f"1,W,{number << 30},1,1\n" for number in range(100)))
    with pytest.raises(ParameterError, match="describe a part of it, or use fit=pack"):
        describe_text(f"alibaba:{file}")
    assert "footprint     100 blocks" in describe_text(f"alibaba:{file}:fit=pack", block_count=1 << 16)

"""Synthetic workloads have the distributions that they are named for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.simulate.workloads import base
from spdk_ftl_py.simulate.workloads.base import BATCH, BATCH_BLOCKS, READ, TRIM, WRITE, Requests
from spdk_ftl_py.simulate.workloads.bijection import Bijection
from spdk_ftl_py.simulate.workloads.parse import AROUND, SYNTHETIC, check, parse
from spdk_ftl_py.simulate.workloads.zipf import Zipf

BLOCKS = 10_000


def batches(spec: str, requests: int, *, seed: int = 1, block_count: int = BLOCKS) -> Iterator[Requests]:
    got = 0
    for batch in parse(spec, block_count).requests(seed):
        yield batch
        got += len(batch)
        if got >= requests:
            return


def joined(spec: str, requests: int, *, seed: int = 1, block_count: int = BLOCKS) -> Requests:
    parts = list(batches(spec, requests, seed=seed, block_count=block_count))
    op, lba, blocks = (np.concatenate([getattr(part, name) for part in parts]) for name in ("op", "lba", "blocks"))
    assert all(part.time_ns is None for part in parts)
    return Requests(op, lba, blocks, None)


def counts(requests: Requests, block_count: int = BLOCKS) -> NDArray[np.int64]:
    return np.bincount(requests.lba.astype(np.int64), minlength=block_count)


def probabilities_of(zipf: Zipf) -> NDArray[np.float64]:
    """Of all ranks."""
    weights = np.arange(1, zipf.count + 1, dtype=np.float64) ** -zipf.theta
    return np.asarray(weights / weights.sum())


def chi_square(observed: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """In standard deviations from its mean."""
    expected = probabilities * observed.sum()
    square = float((((observed - expected) ** 2) / expected).sum())
    freedom = len(observed) - 1
    return (square - freedom) / (2 * freedom) ** 0.5


# --- distributions ---------------------------------------------------------------------------------------------------


def test_uniform_writes_each_lba_as_often() -> None:
    requests = joined("uniform", 1_000_000)
    assert not requests.op.any()
    assert (requests.blocks == 1).all()
    assert abs(chi_square(counts(requests), np.full(BLOCKS, 1 / BLOCKS))) < 4


@pytest.mark.parametrize("theta", [0, 0.2, 0.8, 0.99, 1, 1.0000001, 1.2, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_zipf_is_exact(theta: float, count: int) -> None:
    zipf = Zipf(theta, count)
    ranks = zipf.ranks(np.random.default_rng(3), 200_000)
    observed = np.bincount(ranks.astype(np.int64), minlength=count)
    assert len(observed) == count
    if count == 1:
        return
    probabilities = probabilities_of(zipf)
    # The test wants some of each.
    rare = probabilities * 200_000 < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        probabilities = np.append(probabilities[~rare], probabilities[rare].sum())
    assert abs(chi_square(observed, probabilities)) < 4


def test_zipf_of_a_large_device_has_the_first_rank_as_often_as_it_should() -> None:
    count = 1 << 36
    ranks = Zipf(0.99, count).ranks(np.random.default_rng(3), 400_000)
    # The sum of k**-theta, by Euler and Maclaurin.
    total = sum(k**-0.99 for k in range(1, 1000)) + (count**0.01 - 1000**0.01) / 0.01 + (1000**-0.99 + count**-0.99) / 2
    assert np.count_nonzero(ranks == 0) / 400_000 == pytest.approx(1 / total, rel=0.03)
    assert ranks.max() < count
    assert ranks.max() > count // 2


def test_the_hottest_blocks_of_zipf_are_the_same_for_all_seeds_and_lie_anywhere() -> None:
    hottest = [np.argsort(-counts(joined("zipf:1.2", 200_000, seed=seed)))[:20] for seed in (1, 2)]
    assert set(hottest[0][:10]) == set(hottest[1][:10])
    where = np.sort(hottest[0])
    assert np.count_nonzero(np.diff(where) < 3) < 3
    assert where[0] < BLOCKS // 3
    assert where[-1] > 2 * BLOCKS // 3


def test_seeds_make_the_difference_and_nothing_else_does() -> None:
    for spec in ("uniform", "zipf:0.9", "drift:1", "trim:0.1:(0.5*size:1-8:uniform+hotcold:0.1:0.9)"):
        first, again, other = (next(parse(spec, BLOCKS).requests(seed)) for seed in (1, 1, 2))
        for name in ("op", "lba", "blocks"):
            assert np.array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(first.lba, other.lba)


def test_one_workload_can_be_run_twice_at_a_time() -> None:
    workload = parse("seq", BLOCKS)
    one, other = workload.requests(1), workload.requests(1)
    next(one)
    next(one)
    assert next(other).lba[0] == 0


def test_hot_blocks_get_their_share() -> None:
    observed = counts(joined("hotcold:0.2:0.8", 1_000_000))
    hot = observed[: BLOCKS // 5]
    assert hot.sum() / observed.sum() == pytest.approx(0.8, abs=0.005)
    assert abs(chi_square(hot, np.full(len(hot), 1 / len(hot)))) < 4
    cold = observed[BLOCKS // 5 :]
    assert abs(chi_square(cold, np.full(len(cold), 1 / len(cold)))) < 4


def test_cold_blocks_are_never_written_if_the_hot_ones_get_all() -> None:
    observed = counts(joined("hotcold:0.5:1", 200_000))
    assert not observed[BLOCKS // 2 :].any()
    assert observed[: BLOCKS // 2].all()
    assert counts(joined("hotcold:1:0.3", 200_000)).all()


def test_seq_writes_one_block_after_the_other_and_begins_anew() -> None:
    requests = joined("seq", 2 * BATCH)
    assert np.array_equal(requests.lba, np.arange(2 * BATCH) % BLOCKS)
    larger = joined("size:64:seq", BLOCKS)
    assert np.array_equal(larger.lba[:BLOCKS], np.arange(BLOCKS) * 64 % BLOCKS)
    assert larger.blocks[BLOCKS // 64] == BLOCKS % 64


def test_what_drifts_keeps_its_skew_and_changes_its_hottest_blocks() -> None:
    requests = joined("drift:1.2:10:0.2", 400_000)
    quarters = np.split(requests.lba[:400_000].astype(np.int64), 4)
    early, late = (np.bincount(quarter, minlength=BLOCKS) for quarter in (quarters[0], quarters[3]))
    probabilities = probabilities_of(Zipf(1.2, BLOCKS))
    for observed in (early, late):
        assert observed.max() / observed.sum() == pytest.approx(probabilities[0], rel=0.1)
    assert np.argmax(early) != np.argmax(late)
    # What is cold stays cold: four fifths of the LBAs, whoever is hot.
    place = Bijection(BLOCKS)(np.arange(BLOCKS, dtype=np.uint64)).astype(np.int64)
    cold = place[BLOCKS // 5 :]
    assert early[cold].sum() / early.sum() == pytest.approx(probabilities[BLOCKS // 5 :].sum(), rel=0.1)


def test_the_drift_changes_places_exactly_as_often_as_it_should() -> None:
    # Each fiftieth of the device: the hottest LBA of each 200 requests.
    requests = joined("drift:4:0.02:1", 2 * BATCH)
    runs = requests.lba[: 600 * 200].reshape(600, 200).astype(np.int64)
    hottest = [int(np.argmax(np.bincount(run, minlength=BLOCKS))) for run in runs]
    assert len(set(hottest)) > 550
    assert all(np.count_nonzero(run == lba) > 150 for run, lba in zip(runs, hottest, strict=True))


def test_a_mix_has_its_shares() -> None:
    requests = joined("0.7*size:2:uniform+0.3*seq", 500_000)
    sequential = requests.lba[requests.blocks == 1]
    assert len(sequential) / len(requests) == pytest.approx(0.3, abs=0.005)
    assert np.array_equal(sequential, np.arange(len(sequential)) % BLOCKS)
    assert np.count_nonzero(joined("uniform+uniform+size:3:uniform", 300_000).blocks == 3) / 300_000 == pytest.approx(
        1 / 3, rel=0.1
    )
    assert (joined("0*seq+uniform", 10).blocks == 1).all()


def test_trims_and_reads_have_their_shares() -> None:
    requests = joined("trim:0.2:read:0.5:uniform", 500_000)
    share = np.bincount(requests.op, minlength=3) / len(requests)
    assert share[TRIM] == pytest.approx(0.2, abs=0.005)
    assert share[READ] == pytest.approx(0.8 * 0.5, abs=0.005)
    assert share[WRITE] == pytest.approx(0.8 * 0.5, abs=0.005)
    assert (joined("trim:1:seq", 10).op == TRIM).all()


def test_requests_are_aligned_to_their_size() -> None:
    requests = joined("size:8:zipf:0.9", 200_000)
    assert (requests.blocks == 8).all()
    assert not (requests.lba % np.uint64(8)).any()
    sizes = joined("size:1-16:uniform", 200_000).blocks
    assert abs(chi_square(np.bincount(sizes, minlength=17)[1:], np.full(16, 1 / 16))) < 6


def test_a_part_of_the_device() -> None:
    observed = counts(joined("part:0.25-0.5:uniform", 200_000))
    assert observed[BLOCKS // 4 : BLOCKS // 2].all()
    assert observed[BLOCKS // 4 : BLOCKS // 2].sum() == observed.sum()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 1000, 1025, 100_000])
@pytest.mark.parametrize("key", [0, 12345678901234567])
def test_the_bijection_is_one(count: int, key: int) -> None:
    image = Bijection(count, key)(np.arange(count, dtype=np.uint64))
    assert np.array_equal(np.sort(image), np.arange(count))


def test_numbers_of_neighbours_are_no_neighbours() -> None:
    image = Bijection(1 << 20)(np.arange(1 << 14, dtype=np.uint64)).astype(np.int64)
    assert np.count_nonzero(np.abs(np.diff(image)) < 1 << 10) < 200
    # Each 64th of the device has its share.
    observed = np.bincount(image >> 14, minlength=64)
    assert observed.min() > 150
    assert observed.max() < 400


# --- what is promised of all of them ---------------------------------------------------------------------------------

LEAVES = st.sampled_from(["uniform", "seq", "zipf:0.9", "zipf:1", "drift:1.1", "drift:0.5:0.1:0.5", "hotcold:0.1:0.9"])
SHARES = st.sampled_from(["0", "0.3", "1", ".5", "1e-3"])
SPECS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("trim:{}:{}".format, SHARES, inner.map("({})".format)),
        st.builds("read:{}:{}".format, SHARES, inner.map("({})".format)),
        st.builds(
            "size:{}:{}".format, st.sampled_from(["1", "7", "1-9", "65536", "3-65536"]), inner.map("({})".format)
        ),
        st.builds("part:{}:{}".format, st.sampled_from(["0-1", "0.5-1"]), inner.map("({})".format)),
        st.builds("{}+{}".format, inner, inner),
        st.builds("0.25*({})+0.75*({})".format, inner, inner),
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None)
@given(spec=SPECS)
def test_a_text_that_means_something_for_some_device_is_accepted(spec: str) -> None:
    try:
        parse(spec, 1 << 20)
    except ParameterError as error:
        # Others are just as impossible on a larger one.
        assert "there is no block in it" in error.message  # noqa: PT017
    else:
        check(spec)


@settings(max_examples=25, deadline=None)
@given(spec=SPECS, block_count=st.sampled_from([2, 3, 17, 4096, (1 << 32) + 5, 1 << 40]), seed=st.integers(0, 1 << 64))
def test_every_request_lies_within_the_device(spec: str, block_count: int, seed: int) -> None:
    try:
        workload = parse(spec, block_count)
    except ParameterError as error:
        assert "there is no block in it" in error.message  # noqa: PT017
        return
    assert workload.name == spec
    for batch in itertools.islice(workload.requests(seed), 2):
        assert batch.lba.dtype == np.uint64
        assert batch.op.dtype == np.uint8
        assert batch.blocks.dtype == np.uint32
        assert 0 < len(batch) <= BATCH
        assert len(batch.op) == len(batch.blocks) == len(batch.lba)
        assert int(batch.blocks.min()) >= 1
        assert int(batch.blocks.sum(dtype=np.uint64)) <= max(BATCH_BLOCKS, int(batch.blocks[0]))
        assert int((batch.lba + batch.blocks).max()) <= block_count
        assert int(batch.op.max()) <= READ


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "a workload is missing: there are uniform"),
        ("unifrom", "there is no workload 'unifrom': there are uniform"),
        ("uniform:1", "':' does not belong there"),
        ("zipf", "must be zipf:THETA"),
        ("zipf:", "'' in zipf:THETA: must be a number from 0 to 4"),
        ("zipf:-1", "must be a number from 0 to 4"),
        ("zipf:nan", "must be a number from 0 to 4"),
        ("zipf:1_0", "must be a number from 0 to 4"),
        ("zipf:5", "must be a number from 0 to 4"),
        ("hotcold:0.5", "must be hotcold:F:P"),
        ("hotcold:2:0.5", "'2' in hotcold:F:P: must be a number from 0 to 1"),
        ("drift:1:0.1:0.2:0.3", "':' does not belong there"),
        ("trim:0.1", "a workload is missing: must be trim:SHARE:WORKLOAD"),
        ("trim:0.1:", "a workload is missing: there are"),
        ("size:0:uniform", "'0' in size: must be a whole number of blocks from 1 to 65536"),
        ("size:8-4:uniform", "the second number must be at least the first"),
        ("size:99999999999999999999:uniform", "must be a whole number of blocks"),
        ("part:0.5:uniform", "must be part:FROM-TO:WORKLOAD"),
        ("part:0.5-0.5:uniform", "there is no block in it"),
        ("0.5*uniform", "a weight, but no mix"),
        ("0*uniform+0*seq", "the weights of a mix are all 0"),
        ("-1*uniform+seq", "must be a number from 0"),
        ("uniform+", "a workload is missing"),
        ("(uniform", "a ( without its )"),
        ("uniform)", "')' does not belong there"),
        ("(" * 100 + "uniform" + ")" * 100, "nested more than 16 deep"),
        ("trim:0:" * 100 + "uniform", "nested more than 16 deep"),
        ("uniform+msr:x.csv", "A trace can't be part of a mix"),
        ("u" * 5000, "a workload of 5000 characters"),
    ],
)
def test_what_means_nothing_is_refused(spec: str, says: str) -> None:
    with pytest.raises(ParameterError) as refused:
        parse(spec, BLOCKS)
    assert says in refused.value.message
    assert len(refused.value.message) < 1000


@settings(max_examples=200, deadline=None)
@given(spec=st.text(alphabet="uniformsqzpfhtcld:+*()0123456789.-e ", max_size=30))
def test_any_text_is_a_workload_or_refused(spec: str) -> None:
    try:
        next(parse(spec, BLOCKS).requests(1))
    except ParameterError as error:
        assert error.message  # noqa: PT017


@pytest.mark.parametrize("block_count", [0, -1, (1 << 52) + 1])
def test_a_device_has_a_sensible_size(block_count: int) -> None:
    with pytest.raises(ParameterError, match="blocks: must be 1 to"):
        parse("uniform", block_count)


def test_the_workloads_of_the_page_are_some() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "policies.md").read_text(encoding="utf-8")
    rows = page.split("### Synthetic workloads")[1].split("### Traces")[0]
    specs = [spec for spec in re.findall(r"`([^`]+)`", rows) if not re.search(r"[A-Z]|--", spec)]
    assert len(specs) >= 4
    for spec in specs:
        parse(spec, BLOCKS)
    usages = {*SYNTHETIC, *AROUND}
    assert {usage.partition(":")[0] for usage in usages} <= set(re.findall(r"`([a-z]+)", rows))


def test_the_numbers_of_operations_stay() -> None:
    assert (base.WRITE, base.TRIM, base.READ) == (0, 1, 2)

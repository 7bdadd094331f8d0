"""What a load knows of the age of bands."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py.ftl.load import checkpoint, history
from spdk_ftl_py.ftl.media.band import BAND_ROW
from unit.ftl.load.restore_rig import RestoreRig


def test_the_checkpoint_keeps_classes_and_ages() -> None:
    next_seq = 1 << 40
    ages = np.array([0, 1, 255, 256, 12345, next_seq - 1])
    rows = np.zeros(len(ages), BAND_ROW)
    rows["stream"] = [0, 1, 7, 3, 2, 5]
    rows["opened_seq"] = next_seq - ages
    rows["data_seq"] = next_seq - ages[::-1]
    known = history.unpacked(history.packed(rows, next_seq), next_seq)
    assert known is not None
    assert known.classes.tolist() == rows["stream"].tolist()
    for found, was in ((known.opened_seqs, ages), (known.data_seqs, ages[::-1])):
        assert np.all(np.abs(next_seq - found.astype(np.int64) - was) * 128 <= was)
    assert history.unpacked(np.zeros(3, np.uint32), next_seq) is None, "an older release wrote it"
    longer = known.longer(8, next_seq)
    assert longer.data_seqs[6:].tolist() == [next_seq] * 2


async def test_bands_of_an_older_release_have_an_age_by_their_order(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create()
    await rig.traffic(900)
    # As releases without history wrote it.
    monkeypatch.setattr(checkpoint, "packed", lambda account, next_seq: np.zeros(len(account), np.uint32))
    core, count = rig.device.core, rig.device.geometry.band_count
    await rig.halt()
    before, next_seq = core.band_rows(0, count).view(BAND_ROW).copy(), core.next_seq
    await rig.load()
    assert rig.device.restored["from_checkpoint"]
    after = rig.device.core.band_rows(0, count).view(BAND_ROW)
    same = (before["seq"] == after["seq"]) & (before["valid"] > 0) & (after["unwritten"] == 0)
    assert same.sum() > 5
    was, now = before[same]["opened_seq"].astype(np.int64), after[same]["opened_seq"].astype(np.int64)
    assert np.median(np.abs(now - was)) * 8 <= next_seq
    by_age = after[same][np.argsort(after[same]["seq"])]
    assert (np.diff(by_age["opened_seq"].astype(np.int64)) > 0).all()
    assert (by_age["opened_seq"] <= by_age["data_seq"]).all()
    assert (by_age["data_seq"] <= next_seq).all()
    # sepbit counts what class 0 lived.
    assert {*by_age["stream"].tolist()} == {1}
    assert history.estimated(np.array([0, (1 << 64) - 1], np.uint64), 1, 1).opened_seqs.tolist() == [1, 1]


@pytest.mark.parametrize("clean", [True, False])
async def test_a_loaded_band_is_about_as_old_as_it_was(rig: RestoreRig, clean: bool) -> None:
    await rig.create()
    await rig.traffic(900)
    core, count = rig.device.core, rig.device.geometry.band_count
    if clean:
        await rig.halt()
    before, next_seq = core.band_rows(0, count).view(BAND_ROW).copy(), core.next_seq
    if not clean:
        await rig.flush()
        await rig.crash()
    await rig.load()
    after = rig.device.core.band_rows(0, count).view(BAND_ROW)
    same = (before["seq"] == after["seq"]) & (before["valid"] > 0) & (after["unwritten"] == 0)
    assert same.sum() > 5
    before, after = before[same], after[same]
    was, now = before["data_seq"].astype(np.int64), after["data_seq"].astype(np.int64)
    assert np.all(np.abs(now - was) * 64 <= next_seq if clean else np.abs(now - was) * 8 <= next_seq)
    if clean:
        assert after["stream"].tolist() == before["stream"].tolist()
        assert {*before["stream"].tolist()} == {0, 1}
    opened = np.abs(after["opened_seq"].astype(np.int64) - before["opened_seq"].astype(np.int64))
    # Without checkpoint it is a guess: a band may be queued long before it is opened.
    assert np.all(opened * 64 <= next_seq) if clean else np.median(opened) * 8 <= next_seq

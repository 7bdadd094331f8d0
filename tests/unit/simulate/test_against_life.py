"""The simulator and a live FTL have the same write amplification."""

from __future__ import annotations

import pytest

from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.simulate.engine import simulate
from spdk_ftl_py.simulate.spec import Spec
from unit.simulate.live_ftl import live_write_amplification

CLOSE = 0.03


@pytest.mark.parametrize(("policy", "bands", "zones"), [("greedy", 96, 1), ("cost_benefit", 64, 2)])
def test_the_simulator_agrees_with_a_live_ftl(policy: str, bands: int, zones: int) -> None:
    live, band_blocks = live_write_amplification(
        bands=bands, zones=zones, zone_blocks=512, conf=FtlConf(reloc_policy=policy), before=1.5, counted=1, seed=1
    )
    spec = Spec(bands=bands, zones=zones, band_blocks=band_blocks, policy=policy, writes="3x")
    simulated = simulate(spec)["write_amplification"]
    assert simulated == pytest.approx(live, rel=CLOSE)

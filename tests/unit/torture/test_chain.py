"""Worlds whose I/O goes as PDUs from the host to the drive, and what they notice."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture import chain
from spdk_ftl_py.torture.chained_world import ChainedWorld
from spdk_ftl_py.torture.connection import Connection, Terms
from spdk_ftl_py.torture.content import Content
from spdk_ftl_py.torture.model import Model
from spdk_ftl_py.torture.options import Options
from spdk_ftl_py.torture.result import WorldResult
from spdk_ftl_py.torture.run import is_chained, run_world
from spdk_ftl_py.torture.workload import MIXES, Workload

TERMS = Terms(
    queue_depth=8,
    header_digest=False,
    data_digest=False,
    in_capsule_bytes=8192,
    max_h2c_data=4096,
    success_flag=True,
    send_buffer_bytes=0,
    host_first=False,
)


def lived(crashes: int = 20, **options: int | bool | str) -> WorldResult:
    return run_world(Options(chain=True, **options), 0, crashes)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"cache": "vss", "faults": True}, {"use_append": True}], ids=str)
def test_the_same_seed_is_the_same_run(options: dict[str, bool | str]) -> None:
    first, second = (lived(6, seed=20261128, **options) for _ in range(2))
    assert first == second
    assert first.violations == []


def test_everything_is_lost_now_and_then_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "LOSSES", (4,))
    stats: Counter[str] = Counter()
    for seed in range(2):
        result = lived(seed=seed, cache="non-vss")
        assert result.violations == [], f"seed {seed}"
        stats += result.stats
    assert min(stats[f"lost_{loss.value}"] for loss in chain.Loss) > 0
    assert stats["returns"] > 5


def test_a_daemon_that_loses_what_it_has_accepted_with_its_base_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = ChainedWorld._let_go

    async def let_go_of_all(world: ChainedWorld) -> None:
        await let_go(world)
        for path in world._buffer_dir.path.iterdir():
            path.unlink()

    monkeypatch.setattr(chain, "LOSSES", (4,))
    monkeypatch.setattr(ChainedWorld, "_let_go", let_go_of_all)
    result = lived(seed=1)
    assert {violation.kind for violation in result.violations} & {"lost", "older", "resurrected", "untold"}


def test_a_host_whose_repeated_writes_are_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that forgets what waits at its gate."""

    def forget(self: chain.Chain, core: _shim.BlockDevice) -> None:
        assert self._gate is not None
        self._gate.fail(0x370)
        self._gate.set_device(core)

    monkeypatch.setattr(chain, "LOSSES", (4,))
    monkeypatch.setattr(chain.Chain, "reopen", forget)
    assert "io_error" in {violation.kind for violation in lived(seed=1).violations}


def test_a_third_of_the_worlds_are_chained_unless_it_is_said() -> None:
    chained = sum(is_chained(Options(seed=seed), world) for seed in range(30) for world in range(10))
    assert 70 < chained < 130
    assert all(is_chained(Options(chain=True), world) for world in range(20))
    assert not any(is_chained(Options(chain=False), world) for world in range(20))
    assert Options(chain=False).replay(3, 20).endswith(" --no-chain")
    assert Options(chain=True).replay(3, 20).endswith(" --chain")
    assert "chain" not in Options().replay(3, 20)


async def test_changes_of_a_host_behind_a_queue_never_overlap() -> None:
    async with ReactorLoop("apart", stepped=True) as reactor:
        media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
        model = Model(64)
        workload = Workload(reactor, media, model, Content(1), random.Random(1), apart=True)
        workload._mix = dataclasses.replace(MIXES[2], hot=1.0)
        for _ in range(200):
            # Nothing is answered: the reactor does not get on.
            workload.pump()
        changes = [io for io in workload._outstanding.values() if io.change]
        blocks = [lba for io in changes for lba in range(io.lba, io.lba + io.block_count)]
        assert len(changes) > 1
        assert len(blocks) == len(set(blocks))
        workload.stop()
        media.power_cut(1)
        workload.close()


@pytest.mark.parametrize("hard", [False, True])
async def test_what_was_sent_arrives_behind_a_soft_loss_only(hard: bool) -> None:
    reactor = ReactorLoop("loss", stepped=True)
    media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
    connection = Connection(reactor, media, TERMS, max_io_bytes=65536)
    port = _shim.IoPort(reactor.shim, connection.device, 8)
    port.submit(_shim.OP_WRITE, 3, 1, np.full(4096, 7, np.uint8))
    for _ in range(2):
        reactor.shim.step()  # its host has sent it, and the target has not looked yet
    connection.drop(hard=hard)
    while not connection.landed:
        reactor.shim.step()
    statuses = [event.b for event in reactor.shim.events() if event.kind == _shim.EV_IO_DONE]
    assert statuses == [0x370], "its host does not know"
    assert media.operations == (0 if hard else 1)
    port.close()
    connection.close()

"""Worlds whose I/O goes as PDUs from the host to the drive, and what they notice."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FlushDoubtError, MediaError, PathError
from spdk_ftl_py.ftl.life import FtlState
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

    def seen() -> bool:
        return min(stats[f"lost_{loss.value}"] for loss in chain.Loss) > 0 and stats["returns"] > 5

    # What a seed comes to depends on the version of asyncio.
    for seed in range(6):
        if seen():
            break
        result = lived(seed=seed, cache="non-vss")
        assert result.violations == [], f"seed {seed}"
        stats += result.stats
    assert seen(), stats


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


@pytest.mark.parametrize(
    "failure", [FlushDoubtError("spurious", status=0x006), MediaError("spurious", status=0x302)], ids=str
)
def test_a_device_that_fails_for_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch, failure: MediaError) -> None:
    """Though the daemon gets over it, and no host sees anything but a pause."""
    step = ChainedWorld._step

    async def step_and_fail(world: ChainedWorld) -> None:
        await step(world)
        if world._serving and world.result.crashes and world._device.state is FtlState.RUNNING:
            world._device.failing.fail_with_core(failure)

    monkeypatch.setattr(chain, "LOSSES", (0,))
    monkeypatch.setattr(ChainedWorld, "_step", step_and_fail)
    (violation,) = lived(seed=1).violations
    assert (violation.kind, violation.detail) == ("io_error", "the device failed: spurious")


@pytest.mark.parametrize("whose", ["host", "base"])
def test_a_connection_that_is_lost_for_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    step = ChainedWorld._step

    async def step_and_drop(world: ChainedWorld) -> None:
        await step(world)
        connection = {"host": world._chain._host, "base": world._chain._base}[whose]
        if world._serving and world.result.crashes and connection is not None and not connection.lost:
            connection.drop(hard=False)
            connection.harmed = False

    monkeypatch.setattr(chain, "LOSSES", (0,))
    monkeypatch.setattr(ChainedWorld, "_step", step_and_drop)
    violation = lived(seed=1).violations[0]
    assert violation.kind == "io_error"
    assert violation.detail == f"the connection of the {whose} was lost, although the test did not disturb it"


def test_a_kill_in_the_moment_in_which_a_load_fails_ends_that_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.12 wait_for() loses a cancellation that comes as its result does (seen: --faults --seed 413544410
    --world 0, for ever)."""
    loaded, lost = ChainedWorld._loaded, 0

    async def fail_instead(*arguments: Any) -> Any:
        nonlocal lost
        try:
            return await loaded(*arguments)
        except asyncio.CancelledError:
            lost += 1
            raise PathError("the connection was lost") from None

    monkeypatch.setattr(ChainedWorld, "_loaded", fail_instead)
    assert lived(20, seed=413544410, faults=True).violations == []
    assert lost > 0


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


async def test_a_host_repeats_no_more_than_had_a_wrong_digest() -> None:
    """Transient transport error is also what a busy drive may answer, which no host ever sees."""
    async with ReactorLoop("digests", stepped=True) as reactor:
        media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
        flipped = 0
        workload = Workload(
            reactor, media, Model(64), Content(1), random.Random(1), apart=True, wrong_digests=lambda: flipped
        )

        async def read(answers: int) -> bool:
            """With so many wrong ones: whether it succeeded."""
            media.inject_fault(op=_shim.Op.READ, status=0x022, times=answers)
            workload.read(3, 1)
            while not workload.wait():  # noqa: ASYNC110
                await asyncio.sleep(0)
            media.clear_faults()
            return not workload.failed

        flipped = 1
        assert await read(1)
        flipped = 3
        assert await read(2)
        assert not await read(1)
        workload.stop()
        workload.close()


@pytest.mark.parametrize("hard", [False, True])
async def test_what_was_sent_arrives_behind_a_soft_loss_only(hard: bool) -> None:
    reactor = ReactorLoop("loss", stepped=True)
    media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
    connection = Connection(reactor, media, TERMS, max_io_bytes=65536)
    port = _shim.IoPort(reactor.shim, connection.device, 8)
    port.submit(_shim.Op.WRITE, 3, 1, np.full(4096, 7, np.uint8))
    for _ in range(2):
        reactor.shim.step()  # its host has sent it, and the target has not looked yet
    connection.drop(hard=hard)
    while not connection.landed:
        reactor.shim.step()
    statuses = [event.status for event in reactor.shim.events() if event.kind == _shim.EventKind.IO_DONE]
    assert statuses == [0x370], "its host does not know"
    assert media.operations == (0 if hard else 1)
    port.close()
    connection.close()

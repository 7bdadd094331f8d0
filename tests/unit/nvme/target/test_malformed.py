"""Malformed PDUs and capsules in every state of a connection, before a target in this process, which the sanitizers can
watch: it refuses what it must, nothing of them is left, and an honest host beside them sees none of it. tests/hostile
has the same before a daemon.

1,200 of them, or $SPDK_FTL_MALFORMED_PDUS. SPDK_FTL_MALFORMED=SEED:NUMBER does one connection again; what fails says
which.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from hostile.malformed import Assault, assail_together, assaults
from hostile.seeds import chosen_pdus, chosen_seed
from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.auth.key import DhchapKey, HeldKey, HostKeys
from unit.nvme.nvme_loop import SUBNQN, bench, until

PROVING_NQN = "nqn.2026-11.io.example:proving"
BLOCKS = 16384
HONEST_BLOCKS = 4096
THREADS = 2
QUICK_PDUS = 1200


async def test_malformed_pdus_and_capsules_change_nothing_for_others(caplog: pytest.LogCaptureFixture) -> None:
    seed, only = chosen_seed()
    pdus = chosen_pdus(QUICK_PDUS)
    keys = HostKeys(HeldKey(DhchapKey.generate()), HeldKey(DhchapKey.generate()))
    with caplog.at_level(logging.ERROR):
        async with bench(namespace=False) as here:
            here.subsystem.add_namespace(here.media(BLOCKS))
            here.subsystem.add_host(PROVING_NQN, keys)
            honest = await here.connect()
            (namespace,) = await honest.namespaces()
            qpair = await honest.create_io_qpair(here.reactor, namespace)
            load = _shim.LoadGenerator(here.reactor.shim, qpair, lba_count=HONEST_BLOCKS, seed=1)
            ended = asyncio.Event()
            here.reactor.subscribe(
                load.id, lambda event: ended.set() if event.kind == _shim.EventKind.LOAD_DONE else None
            )
            load.start("mixed", io_blocks=1, queue_depth=2, time_limit_s=3600, write_percent=50)
            with assaults(THREADS, lambda: Assault(here.port, SUBNQN, keys=keys, claimed=PROVING_NQN)) as threads:
                if only is not None:
                    await asyncio.to_thread(threads[0].connection, seed, only)
                else:
                    await assail_together(threads, seed, pdus)
                tried = {state: sum(each.sent[state] for each in threads) for state in threads[0].states}
            print(tried)
            load.stop()
            await asyncio.wait_for(ended.wait(), 30)
            progress = load.progress()
            assert (progress.io_errors, progress.verify_errors) == (0, 0)
            assert progress.done_ios > 0
            here.reactor.unsubscribe(load.id)
            load.close()
            await until(
                lambda: list(here.subsystem.controllers.values()) == [here.subsystem.controllers[honest.cntlid]]
            )
            await until(lambda: not len(here.target._half_open))
            assert here.subsystem.io_qpair_count == 1
            await honest.close()
    assert not caplog.records, [record.getMessage() for record in caplog.records]
    assert only is not None or all(tried.values()), tried

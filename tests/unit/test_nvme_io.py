"""Host against target: I/O queues from Connect to data and back, on every kind of namespace."""

from __future__ import annotations

import os

import pytest

from spdk_ftl_py import _shim
from unit.nvme_loop import bench, io, run


@pytest.mark.parametrize("digests", [False, True])
def test_what_is_written_through_a_queue_is_read_through_another(digests: bool) -> None:
    async def work() -> None:
        async with bench() as here:
            controller = await here.connect(header_digest=digests, data_digest=digests)
            (namespace,) = await controller.namespaces()
            first = await controller.create_io_qpair(here.reactor, namespace)
            second = await controller.create_io_qpair(here.reactor, namespace)
            data = bytearray(os.urandom(32 * 4096))
            back = bytearray(len(data))
            assert (await io(here.reactor, first, _shim.OP_WRITE, 7, 32, data))[0] == 0
            assert (await io(here.reactor, second, _shim.OP_READ, 7, 32, back))[0] == 0
            assert back == data
            await controller.close()

    run(work())

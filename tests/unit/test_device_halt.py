"""Halting ends, one way or the other."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.device import DeviceState
from unit.ftl_rig import FtlRig, run_rig

INVALID_NAMESPACE = 0x00B


def test_halting_ends_with_an_error_where_the_base_can_not_flush_any_more() -> None:
    """So it is when the base bdev was deleted in the target and nothing has been written since."""

    async def body(rig: FtlRig) -> None:
        await rig.good("write", total_blocks=10)
        rig.media.inject_fault(op=_shim.OP_FLUSH, status=INVALID_NAMESPACE)
        with pytest.raises(MediaError, match="can't flush, so what was accepted is not durable") as raised:
            await rig.device.halt()
        assert raised.value.status == INVALID_NAMESPACE
        assert rig.device.state is DeviceState.HALTED

    run_rig(body)

"""The one table of what errors mean, and how DNR gets to it."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import Stepped

CAPACITY_EXCEEDED = 0x081
CLASSES = {
    _shim.ErrorClass.NONE: [0x000],
    _shim.ErrorClass.GONE: [0x005, 0x00B, 0x301, 0x370],
    _shim.ErrorClass.BUSY: [
        *(0x004, 0x006, 0x007, 0x008, 0x01B, 0x020, 0x021, 0x022, 0x024, 0x081, 0x082, 0x083, 0x1BD, 0x1BE, 0x300),
        *(0x302, 0x303, 0x360, 0x371),
    ],
    _shim.ErrorClass.BLOCK: [0x280, 0x281, 0x282, 0x283, 0x2FF],
    _shim.ErrorClass.ZONE: [0x1B8, 0x1B9, 0x1BA, 0x1BB, 0x1BC, 0x1BF],
    _shim.ErrorClass.MISTAKE: [0x001, 0x002, 0x00F, 0x011, 0x080, 0x101, 0x1FF],
    _shim.ErrorClass.COMMAND: [0x3FF, 0x400, 0x7FF],
}


@pytest.mark.parametrize(("kind", "statuses"), CLASSES.items())
def test_a_status_has_a_class(kind: int, statuses: list[int]) -> None:
    assert [_shim.error_class(status) for status in statuses] == [kind] * len(statuses)


def test_an_error_of_a_flush_is_in_doubt_unless_it_says_that_nothing_was_done() -> None:
    """Nor does "do not retry" say that."""
    in_doubt = {0x004, 0x006, 0x081, 0x1BD, 0x1BE}
    assert in_doubt <= {status for status in CLASSES[_shim.ErrorClass.BUSY] if _shim.perhaps_media(status)}
    for status in range(0x800):
        kind = _shim.error_class(status)
        doubt = status in in_doubt or kind in (_shim.ErrorClass.BLOCK, _shim.ErrorClass.ZONE, _shim.ErrorClass.COMMAND)
        for final in (False, True):
            expected = _shim.ErrorClass.DOUBT if doubt else _shim.error_class(status, final)
            assert _shim.error_class(status, final, _shim.Op.FLUSH) == expected, hex(status)


def test_do_not_retry_makes_a_busy_device_one_that_refuses_and_changes_nothing_else() -> None:
    """But for a base without room: no zone of it is to blame."""
    for status in range(0x800):
        kind = _shim.error_class(status)
        expected = _shim.ErrorClass.COMMAND if kind == _shim.ErrorClass.BUSY and status != CAPACITY_EXCEEDED else kind
        assert _shim.error_class(status, do_not_retry=True) == expected, hex(status)


@pytest.mark.parametrize(("status", "asked", "set_"), [(0x006, False, 0), (0x006, True, 1), (0x280, False, 1)])
def test_the_bit_of_an_answer_comes_with_its_event(status: int, asked: bool, set_: int) -> None:
    reactor = _shim.Reactor("test")
    media = _shim.EmulatedMedia.conventional(reactor, 64)
    with Stepped(reactor, media) as io:
        media.inject_fault(op=_shim.Op.FLUSH, status=status, do_not_retry=asked, times=1)
        done = io.wait(io.port.submit(_shim.Op.FLUSH))
        assert (done.status, done.result) == (status, set_)
        assert io.wait(io.port.submit(_shim.Op.FLUSH)).result == 0

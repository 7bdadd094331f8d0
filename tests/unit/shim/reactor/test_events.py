"""What Python reads of an event: the fields of its kind, by name."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim


def events_of_a_write() -> list[_shim.Event]:
    reactor = _shim.Reactor("events")
    port = _shim.IoPort(reactor, _shim.EmulatedMedia.conventional(reactor, 8), 4)
    port.submit(_shim.Op.WRITE, 0, 1, bytes(_shim.BLOCK_BYTES))
    for _ in range(100):
        reactor.step()
    events = reactor.events()
    port.close()
    return events


def test_an_event_has_the_fields_of_its_kind() -> None:
    (event,) = events_of_a_write()
    assert event.kind is _shim.EventKind.IO_DONE
    assert (event.status, event.result) == (0, 0)
    assert isinstance(event.ticket, int)


@pytest.mark.parametrize("field", ["band", "punit", "reason", "by_flush", "filling_band", "failed_punit"])
def test_a_field_that_a_kind_does_not_have_is_no_attribute(field: str) -> None:
    (event,) = events_of_a_write()
    with pytest.raises(AttributeError, match=f"EventKind.IO_DONE has no field '{field}'"):
        getattr(event, field)


def test_an_event_shows_its_kind_and_its_fields() -> None:
    (event,) = events_of_a_write()
    assert repr(event) == (
        f"Event(EventKind.IO_DONE, source={event.source}, ticket={event.ticket}, status=0, result=0)"
    )


def test_what_a_load_tells_can_be_had_as_a_dict_down_to_its_numbers() -> None:
    reactor = _shim.Reactor("load")
    load = _shim.LoadGenerator(reactor, _shim.EmulatedMedia.conventional(reactor, 8), lba_count=8, seed=1)
    told = load.progress().as_dict()
    assert told["latency_ns"] == load.progress().latency_ns.as_dict()
    assert told["mismatch"] == dict.fromkeys(("older", "newer", "wrong_lba", "zeroes", "garbage"), 0)
    assert told["mismatches"] == []
    load.close()

"""Emulated zoned media: reports, limits, appends, files, and what a power cut leaves of a zone.

That every sequence of commands does what ZNS says is test_zone_table_model.py's business.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from unit.shim.stepped import (
    ZSA_CLOSE,
    ZSA_FINISH,
    ZSA_OPEN,
    ZSA_RESET,
    ZSA_SET_EXTENSION,
    Completion,
    Stepped,
    block,
    blocks,
)

INVALID_FIELD, OUT_OF_RANGE, POWER_LOSS = 0x002, 0x080, 0x005
BOUNDARY, FULL, READ_ONLY, OFFLINE, INVALID_WRITE = 0x1B8, 0x1B9, 0x1BA, 0x1BB, 0x1BC
TOO_MANY_ACTIVE, TOO_MANY_OPEN, INVALID_TRANSITION = 0x1BD, 0x1BE, 0x1BF
NO_WRITE_POINTER = 2**64 - 1
FINISHED_BY_CONTROLLER, FINISH_RECOMMENDED, RESET_RECOMMENDED = 1, 2, 4

ZONE_SIZE, ZONE_CAPACITY = 16, 12


@pytest.fixture
def reactor() -> _shim.Reactor:
    return _shim.Reactor("zns")


def states(media: _shim.EmulatedMedia) -> list[str]:
    return [state for _, state, _ in media.zone_states()]


def test_properties(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(
        reactor, 8, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=3, max_active_zones=5, max_append_blocks=7
    )
    assert (media.block_count, media.zone_size, media.zone_capacity) == (128, 16, 12)
    assert (media.max_open_zones, media.max_active_zones, media.max_append_blocks) == (3, 5, 7)
    assert (media.zoned, media.volatile_cache) == (True, True)


@pytest.mark.parametrize(
    ("geometry", "limits", "message"),
    [
        ((0, 16, 12), {}, "zone_count and zone_size|block_count 0"),
        ((8, 0, 0), {}, "block_count 0"),
        ((8, 16, 17), {}, "zone_capacity 17 must be within 1..zone_size"),
        ((8, 16, 0), {}, "zone_capacity 0"),
        ((2**31, 2**40, 1), {}, "64 TiB"),
        ((8, 16, 12), {"max_open_zones": 3, "max_active_zones": 2}, "must not exceed max_active_zones"),
    ],
)
def test_a_geometry_that_makes_no_sense_is_refused(
    reactor: _shim.Reactor, geometry: tuple[int, int, int], limits: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _shim.EmulatedMedia.zns(reactor, *geometry, **limits)  # type: ignore[arg-type]


def test_every_status_of_a_wrong_write(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY, max_append_blocks=4)
    with Stepped(reactor, media) as io:
        assert io.write(1, block(0)) == INVALID_WRITE
        assert io.write(0, blocks(0, 10)) == 0
        assert io.write(9, block(0)) == INVALID_WRITE
        assert io.write(12, block(0)) == INVALID_WRITE
        assert io.write(10, blocks(0, 3)) == BOUNDARY
        assert io.append(0, blocks(0, 3)).status == BOUNDARY
        assert io.append(0, blocks(0, 5)).status == INVALID_FIELD
        assert io.append(3, block(0)).status == INVALID_FIELD
        assert io.append(64, block(0)).status == OUT_OF_RANGE
        assert io.write(10, blocks(0, 2)) == 0
        assert io.write(12, block(0)) == FULL
        assert io.append(0, block(0)).status == FULL
        media.set_zone_state(1, "read_only")
        media.set_zone_state(2, "offline")
        assert [io.write(16, block(0)), io.append(16, block(0)).status] == [READ_ONLY] * 2
        assert [io.write(32, block(0)), io.append(32, block(0)).status] == [OFFLINE] * 2
        assert io.read_status(32) == OFFLINE
        assert io.read_status(16) == 0
        assert io.write(64, block(0)) == OUT_OF_RANGE
        assert io.run(_shim.Op.DEALLOCATE, 0, 12) == 0
        assert io.read(9) == block(9)


def test_appends_land_one_after_the_other_and_say_where(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:
        assert io.append(16, blocks(0, 3)) == Completion(0, 16)
        assert io.append(16, blocks(3, 1)) == Completion(0, 19)
        assert io.append(16, blocks(4, 8)) == Completion(0, 20)
        assert states(media)[1] == "full"
        assert io.read(16, 12) == blocks(0, 12)


def test_outstanding_appends_in_any_order_never_overlap(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 1, 64, 64)
    media.set_schedule(3)
    with Stepped(reactor, media) as io:
        tickets = [io.port.submit(_shim.Op.APPEND, 0, 2, blocks(2 * i, 2)) for i in range(32)]
        landed = {i: io.wait(ticket).result for i, ticket in enumerate(tickets)}
        assert sorted(landed.values()) == list(range(0, 64, 2))
        assert list(landed.values()) != list(range(0, 64, 2))
        for i, alba in landed.items():
            assert io.read(alba, 2) == blocks(2 * i, 2)


def test_the_least_recently_written_implicit_zone_makes_room_and_explicit_ones_never_do(
    reactor: _shim.Reactor,
) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=3, max_active_zones=6)
    with Stepped(reactor, media) as io:
        assert io.zone_send(0, ZSA_OPEN) == 0
        for zone in (1, 2, 1, 3):
            assert io.append(zone * 16, block(0)).status == 0
        assert states(media)[:4] == ["explicitly_open", "implicitly_open", "closed", "implicitly_open"]
        assert [io.zone_send(zone * 16, ZSA_OPEN) for zone in (1, 3)] == [0, 0]
        assert io.append(4 * 16, block(0)).status == TOO_MANY_OPEN
        assert io.zone_send(2 * 16, ZSA_OPEN) == TOO_MANY_OPEN
        assert io.zone_send(0, ZSA_CLOSE) == 0
        assert states(media)[:5] == ["closed", "explicitly_open", "closed", "explicitly_open", "empty"]
        for zone in (4, 5):
            assert io.append(zone * 16, block(0)).status == 0
        assert io.append(6 * 16, block(0)).status == TOO_MANY_ACTIVE
        assert io.zone_send(6 * 16, ZSA_OPEN) == TOO_MANY_ACTIVE
        assert io.zone_send(0, ZSA_FINISH) == 0
        assert io.append(6 * 16, block(0)).status == 0


def test_a_reset_makes_a_zone_read_zeroes_and_writable_again(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:
        assert io.write(16, blocks(0, 12)) == 0
        assert io.read(14, 20) == bytes(2 * 4096) + blocks(0, 12) + bytes(6 * 4096)
        assert io.zone_send(16, ZSA_RESET) == 0
        assert io.read(16, 12) == bytes(12 * 4096)
        assert io.write(16, blocks(20, 1)) == 0
        assert io.read(16, 2) == block(20) + bytes(4096)


def test_zone_actions_that_make_no_sense(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:
        assert io.zone_send(0, ZSA_SET_EXTENSION) == INVALID_FIELD
        assert [io.zone_send(0, action) for action in (0, 6, 0x11, 0xFF)] == [INVALID_FIELD] * 4
        assert io.zone_send(1, ZSA_OPEN) == INVALID_FIELD
        assert io.zone_send(64, ZSA_OPEN) == OUT_OF_RANGE
        assert io.zone_send(0, ZSA_CLOSE) == INVALID_TRANSITION
        assert io.zone_send(0, ZSA_FINISH) == 0
        assert io.zone_send(0, ZSA_OPEN) == INVALID_TRANSITION


def test_reports_from_anywhere_filtered_partial_and_short(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:
        io.append(16, blocks(0, 5))
        io.zone_send(32, ZSA_OPEN)
        io.append(48, block(0))
        io.zone_send(48, ZSA_CLOSE)
        io.zone_send(64, ZSA_FINISH)
        media.set_zone_state(5, "read_only")
        media.set_zone_state(6, "offline")
        count, zones = io.report()
        assert count == 8
        assert [(zone.state, zone.write_pointer) for zone in zones] == [
            ("empty", 0),
            ("implicitly_open", 21),
            ("explicitly_open", 32),
            ("closed", 49),
            ("full", NO_WRITE_POINTER),
            ("read_only", NO_WRITE_POINTER),
            ("offline", NO_WRITE_POINTER),
            ("empty", 112),
        ]
        assert {(zone.kind, zone.attributes, zone.capacity) for zone in zones} == {(2, 0, 12)}
        assert [zone.start for zone in zones] == list(range(0, 128, 16))

        count, zones = io.report(37)
        assert (count, [zone.start for zone in zones]) == (6, [32, 48, 64, 80, 96, 112])
        assert [io.report(0, zones=3, partial=partial)[0] for partial in (False, True)] == [8, 3]
        assert len(io.report(0, zones=3)[1]) == 3
        assert [io.report(0, zones=0, partial=partial) for partial in (False, True)] == [(8, []), (0, [])]
        for zone_filter, starts in enumerate([[0, 112], [16], [32], [48], [64], [80], [96]], start=1):
            count, zones = io.report(0, zone_filter=zone_filter)
            assert (count, [zone.start for zone in zones]) == (len(starts), starts)
        assert io.report(0, zones=1, zone_filter=1)[0] == 2
        assert io.report(0, zones=1, zone_filter=1, partial=True)[0] == 1


def test_reports_that_make_no_sense(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:

        def status(lba: int = 0, *, action: int = 0, zone_filter: int = 0) -> int:
            ticket = io.port.submit(
                _shim.Op.ZONE_REPORT, lba, buffer=bytearray(128), zone_action=action, zone_filter=zone_filter
            )
            return io.wait(ticket).status

        assert status(127) == 0
        assert status(128) == OUT_OF_RANGE
        assert status(zone_filter=8) == INVALID_FIELD
        assert [status(action=action) for action in (1, 2)] == [INVALID_FIELD] * 2


def test_only_what_a_drive_does_by_itself_can_be_set(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY)
    with pytest.raises(ValueError, match="must be 'read_only', 'offline' or 'full'"):
        media.set_zone_state(0, "empty")
    with pytest.raises(ValueError, match="zone 0 is not active"):
        media.set_zone_state(0, "full")
    with pytest.raises(ValueError, match="no zone 8"):
        media.set_zone_state(8, "offline")
    with pytest.raises(ValueError, match="no zone 0"):
        _shim.EmulatedMedia.conventional(reactor, 16).set_zone_state(0, "offline")


def test_a_drive_that_finishes_a_zone_says_so_until_its_reset(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY, max_active_zones=1)
    with Stepped(reactor, media) as io:

        def zone(number: int) -> tuple[str, int]:
            reported = io.report()[1][number]
            return reported.state, reported.attributes

        assert io.write(0, blocks(0, 5)) == 0
        media.set_zone_state(0, "full")
        assert zone(0) == ("full", FINISHED_BY_CONTROLLER)
        assert io.write(5, blocks(5, 1)) == 0x1B9
        assert io.read(0, 6) == blocks(0, 5) + bytes(4096), "what is in it stays"
        assert io.write(16, blocks(0, 1)) == 0, "it is not active any more"
        assert io.zone_send(0, ZSA_RESET) == 0
        assert zone(0) == ("empty", 0)
        assert io.zone_send(16, ZSA_FINISH) == 0
        assert zone(1) == ("full", 0), "that was the host"


def test_a_finish_by_the_drive_may_be_lost_with_its_power(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY)
    found = set()
    with Stepped(reactor, media) as io:
        for seed in range(20):
            assert io.zone_send(0, ZSA_RESET) == 0
            assert io.write(0, blocks(0, 5)) == 0
            assert io.flush() == 0
            media.set_zone_state(0, "full")
            media.power_cut(seed)
            media.power_on()
            reported = io.report()[1][0]
            found.add((reported.state, reported.attributes))
            assert io.read(0, 5) == blocks(0, 5)
    assert found == {("full", FINISHED_BY_CONTROLLER), ("closed", 0)}


def test_a_drive_recommends_until_it_is_done(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:

        def attributes() -> list[int]:
            return [zone.attributes for zone in io.report()[1][:3]]

        for start in (0, 16):
            assert io.write(start, blocks(0, 2)) == 0
        media.recommend(0, finish=True)
        media.recommend(1, finish=True, reset=True)
        media.recommend(2, reset=True)
        assert attributes() == [FINISH_RECOMMENDED, FINISH_RECOMMENDED | RESET_RECOMMENDED, RESET_RECOMMENDED]
        media.recommend(2)
        assert io.zone_send(0, ZSA_FINISH) == 0
        assert io.write(18, blocks(2, ZONE_CAPACITY - 2)) == 0
        assert attributes() == [0, RESET_RECOMMENDED, 0]
        assert io.zone_send(16, ZSA_RESET) == 0
        assert attributes() == [0, 0, 0]
        with pytest.raises(ValueError, match="no zone 8"):
            media.recommend(8, reset=True)


# ---- files -----------------------------------------------------------------------------------------------------


def in_file(reactor: _shim.Reactor, path: Path, zone_count: int = 8) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(reactor, zone_count, ZONE_SIZE, ZONE_CAPACITY, path=str(path), max_open_zones=4)


def test_a_file_keeps_data_and_zones_and_open_zones_come_back_closed(reactor: _shim.Reactor, tmp_path: Path) -> None:
    media = in_file(reactor, tmp_path / "drive")
    with Stepped(reactor, media) as io:
        io.write(0, blocks(0, 5))
        io.zone_send(16, ZSA_OPEN)
        io.write(32, blocks(10, 12))
        io.write(48, blocks(30, 2))
        io.zone_send(48, ZSA_FINISH)
        io.write(64, blocks(40, 2))
        io.zone_send(64, ZSA_RESET)
        media.set_zone_state(5, "read_only")
    del io, media
    again = in_file(reactor, tmp_path / "drive")
    assert again.zone_states()[:6] == [
        (0, "closed", 5),
        (16, "empty", 16),
        (32, "full", 44),
        (48, "full", 50),
        (64, "empty", 64),
        (80, "read_only", 80),
    ]
    with Stepped(reactor, again) as io:
        assert io.read(0, 80) == (
            blocks(0, 5) + bytes(27 * 4096) + blocks(10, 12) + bytes(4 * 4096) + blocks(30, 2) + bytes(30 * 4096)
        )
        assert io.write(5, block(5)) == 0


def test_written_zones_survive_kill_9(reactor: _shim.Reactor, tmp_path: Path) -> None:
    script = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from spdk_ftl_py import _shim
from unit.shim.stepped import Stepped, blocks
reactor = _shim.Reactor("victim")
media = _shim.EmulatedMedia.zns(reactor, 8, 16, 12, path=sys.argv[1], max_open_zones=4)
io = Stepped(reactor, media)
assert io.write(16, blocks(1, 7)) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "drive"), *sys.path]
    assert subprocess.run(arguments, check=False, timeout=60).returncode == -9
    media = in_file(reactor, tmp_path / "drive")
    assert media.zone_states()[1] == (16, "closed", 23)
    with Stepped(reactor, media) as io:
        assert io.read(16, 8) == blocks(1, 7) + bytes(4096)


def test_files_of_another_geometry_or_damaged_are_refused(reactor: _shim.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "drive"
    zones = tmp_path / "drive.zones"
    in_file(reactor, path)
    good = zones.read_bytes()
    with pytest.raises(ValueError, match=r"drive\.zones belongs to a drive of another geometry.*Remove both"):
        in_file(reactor, path, 9)
    with pytest.raises(ValueError, match="another geometry"):
        _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY - 1, path=str(path))
    for offset, value in ((64 + 3 * 16 + 8, 0x7), (64 + 3 * 16, ZONE_CAPACITY + 1)):
        damaged = bytearray(good)
        damaged[offset] = value
        zones.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged at zone 3"):
            in_file(reactor, path)
    zones.unlink()
    with pytest.raises(ValueError, match="has data but no"):
        in_file(reactor, path)
    zones.write_bytes(good)
    assert states(in_file(reactor, path)) == ["empty"] * 8


def test_a_file_that_is_no_drive_is_refused_as_it_was(reactor: _shim.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("years of work")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"precious has data but no .*precious\.zones"):
            in_file(reactor, path)
        assert path.read_text() == "years of work"
        assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_reset_interrupted_by_kill_9_is_completed(reactor: _shim.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "drive"
    media = in_file(reactor, path)
    with Stepped(reactor, media) as io:
        io.write(16, blocks(0, 12))
    del io, media
    with open(tmp_path / "drive.zones", "r+b") as zones:
        os.pwrite(zones.fileno(), b"\x01", 64 + 1 * 16 + 8)  # "empty" is there, the write pointer not yet
    media = in_file(reactor, path)
    assert media.zone_states()[1] == (16, "empty", 16)
    with Stepped(reactor, media) as io:
        assert io.read(16, 12) == bytes(12 * 4096)


# ---- power -----------------------------------------------------------------------------------------------------


def test_a_power_cut_takes_a_suffix_of_what_was_not_flushed(reactor: _shim.Reactor) -> None:
    kept = set()
    for seed in range(60):
        media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY)
        with Stepped(reactor, media) as io:
            io.write(0, blocks(0, 3))
            io.write(16, blocks(20, 12))
            assert io.flush() == 0
            io.write(3, blocks(3, 6))
            io.write(32, blocks(40, 12))
            media.power_cut(seed)
            assert io.read_status(0) == POWER_LOSS
            media.power_on()
            found = [(state, pointer - start) for start, state, pointer in media.zone_states()]
            assert found[1] == ("full", 12)
            assert found[0][0] == "closed"
            assert 3 <= found[0][1] <= 9
            assert found[2][0] == {0: "empty", 12: "full"}.get(found[2][1], "closed")
            for zone, tag in ((0, 0), (1, 20), (2, 40)):
                written = found[zone][1]
                expected = blocks(tag, written) + bytes((ZONE_SIZE - written) * 4096)
                assert io.read(zone * 16, ZONE_SIZE) == expected
                if found[zone][0] != "full":
                    assert io.write(zone * 16 + written, block(tag + written)) == 0
            kept.add((found[0][1], found[2][1]))
    assert {written for written, _ in kept} == set(range(3, 10))
    assert {0, 12} < {written for _, written in kept}
    assert len(kept) > 15  # zones lose independently of one another


def test_fua_and_resets_are_durable_at_once(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY)
    with Stepped(reactor, media) as io:
        for seed in range(20):
            io.write(0, blocks(0, 3))
            assert io.write(3, blocks(3, 2), fua=True) == 0
            assert io.append(0, block(5)).status == 0
            media.power_cut(seed)
            media.power_on()
            assert io.read(0, 5) == blocks(0, 5)
            assert io.zone_send(0, ZSA_RESET) == 0
            media.power_cut(seed)
            media.power_on()
            assert media.zone_states()[0] == (0, "empty", 0)
            assert io.read(0, 6) == bytes(6 * 4096)


def test_a_finish_is_lost_or_kept(reactor: _shim.Reactor) -> None:
    outcomes = set()
    for seed in range(40):
        media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY)
        with Stepped(reactor, media) as io:
            io.write(0, blocks(0, 3), fua=True)
            io.zone_send(0, ZSA_FINISH)
            media.power_cut(seed)
            media.power_on()
            outcomes.add(media.zone_states()[0][1])
            assert io.read(0, 4) == blocks(0, 3) + bytes(4096)
            io.zone_send(0, ZSA_FINISH)
            io.flush()
            media.power_cut(seed)
            media.power_on()
            assert states(media)[0] == "full"
    assert outcomes == {"full", "closed"}


def test_without_a_volatile_cache_nothing_completed_is_lost(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY, volatile_cache=False)
    with Stepped(reactor, media) as io:
        io.write(0, blocks(0, 7))
        io.zone_send(16, ZSA_FINISH)
        for seed in range(10):
            media.power_cut(seed)
            media.power_on()
            assert media.zone_states()[:2] == [(0, "closed", 7), (16, "full", 16)]


def test_outstanding_writes_leave_their_first_blocks_and_actions_happen_or_not(reactor: _shim.Reactor) -> None:
    lengths, resets = set(), set()
    for seed in range(40):
        media = _shim.EmulatedMedia.zns(reactor, 4, ZONE_SIZE, ZONE_CAPACITY, volatile_cache=False)
        with Stepped(reactor, media) as io:
            io.write(16, blocks(0, 12))
            media.inject_fault(latency_us=1000)
            tickets = [
                io.port.submit(_shim.Op.WRITE, 0, 8, blocks(0, 8)),
                io.port.submit(_shim.Op.APPEND, 32, 4, blocks(50, 4)),
                io.port.submit(_shim.Op.ZONE_SEND, 16, zone_action=ZSA_RESET),
                io.port.submit(_shim.Op.WRITE, 49, 1, block(0)),
            ]
            io.step()
            io.step()
            media.power_cut(seed)
            assert [io.wait(ticket).status for ticket in tickets] == [POWER_LOSS] * 4
            media.power_on()
            media.clear_faults()
            written = [pointer - start for start, _, pointer in media.zone_states()]
            assert io.read(0, 12) == blocks(0, written[0]) + bytes((12 - written[0]) * 4096)
            assert io.read(32, 12) == blocks(50, written[2]) + bytes((12 - written[2]) * 4096)
            assert written[1] in (0, 12)
            assert written[3] == 0
            lengths.add(written[0])
            resets.add(written[1])
    assert lengths == set(range(9))
    assert resets == {0, 12}


def test_open_zones_are_closed_after_a_power_cut_and_their_resources_free(reactor: _shim.Reactor) -> None:
    media = _shim.EmulatedMedia.zns(reactor, 8, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=2, max_active_zones=2)
    with Stepped(reactor, media) as io:
        for seed in range(5):
            assert [io.zone_send(zone * 16, ZSA_OPEN) for zone in (0, 1, 2)] == [0, 0, TOO_MANY_ACTIVE]
            media.power_cut(seed)
            assert io.zone_send(0, ZSA_OPEN) == POWER_LOSS
            media.power_on()
            assert states(media)[:2] == ["empty", "empty"]


def test_zones_that_are_hidden_are_there_once_it_has_grown() -> None:
    reactor = _shim.Reactor("grows")
    media = _shim.EmulatedMedia.zns(reactor, 3, 8, 6, hidden_zones=2)
    with Stepped(reactor, media) as io:
        assert io.write(8, blocks(0, 2)) == 0
        assert io.write(24, block(1)) == OUT_OF_RANGE
        assert [start for start, _, _ in media.zone_states()] == [0, 8, 16]
        assert io.report()[0] == 3
        with pytest.raises(ValueError, match="no zone 3"):
            media.set_zone_state(3, "offline")
        media.grow()
        assert (media.block_count, io.report()[0], len(io.report(partial=True)[1])) == (40, 5, 5)
        assert media.zone_states()[1:] == [(8, "implicitly_open", 10), *((at, "empty", at) for at in (16, 24, 32))]
        assert io.write(32, block(1)) == 0

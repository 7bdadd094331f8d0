"""Promise 1, the daemon's side: what hosts were told is written outlives the process, in the write buffer's file."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError, MediaError
from spdk_ftl_py.ftl import creation
from unit.ftl.load.restore_rig import CONF, MakeRestoreRig, RestoreRig
from unit.shim.ftl.core_bench import BLOCK, content


def files_in(directory: Path) -> list[str]:
    return sorted(path.name.split(".", 1)[1] for path in directory.iterdir())


async def killed_during_traffic(rig: RestoreRig, drive: Any, operations: int) -> None:
    """The process is gone after so many more media operations."""
    until = drive.operations + operations
    traffic = asyncio.ensure_future(rig.traffic(6000))
    while drive.operations < until and not traffic.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    await rig.crash()
    await traffic
    rig.model.acknowledged_survives()


async def killed_during_load(rig: RestoreRig, drive: Any, operations: int) -> bool:
    """False: it had ended before. Of a process that is killed nothing is tidied up: the files are as they were."""
    assert rig.buffer_dir is not None
    until = drive.operations + operations
    load = asyncio.ensure_future(rig.load())
    while drive.operations < until and not load.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    if load.done():
        await load
        return False
    left = {path: path.read_bytes() for path in rig.buffer_dir.iterdir() if path.suffix == ".wbuf"}
    load.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await load
    for path in rig.buffer_dir.iterdir():
        path.unlink()
    for path, data in left.items():
        path.write_bytes(data)
    return True


@pytest.mark.parametrize("volatile_cache", [True, False])
@pytest.mark.parametrize("seed", range(2))
async def test_every_acknowledged_write_and_trim_survives_kills_also_in_the_load(
    seed: int, volatile_cache: bool, tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path, seed=seed, volatile_cache=volatile_cache)
    drive = rig.base
    await rig.create()
    # Slow, so that there is always something in the buffer.
    drive.inject_fault(op=_shim.Op.WRITE, latency_us=1000)
    recovered = killed_loads = 0
    incarnation = rig.device.incarnation
    for crash in range(12):
        await killed_during_traffic(rig, drive, rig.rng.randrange(1, 400))
        # Every other time early enough that no load gets through.
        early = crash % 2 == 1
        for _ in range(rig.rng.randrange(1 if early else 0, 4)):
            killed_loads += await killed_during_load(rig, drive, rig.rng.randrange(1, 20 if early else 250))
            if rig.device.incarnation != incarnation:
                break
        else:
            await rig.load()
        incarnation = rig.device.incarnation
        assert rig.device.restored is not None
        assert rig.device.restored["lossy"] is False
        recovered += rig.device.restored["recovered_blocks"]
        await rig.check(f"seed {seed}, crash {crash}")
        assert files_in(tmp_path) == sorted([f"{rig.device.incarnation}.wbuf", "lock"])
    assert recovered > 0
    assert killed_loads > 0


async def until_loaded(rig: RestoreRig, drive: Any) -> int:
    """Loads, which may be ended by a kill, a loss of the base's power, or both. How often it was."""
    rng = rig.rng
    ended = 0
    for _ in range(rng.randrange(4)):
        incarnation = rig.device.incarnation
        operations = rng.randrange(1, 250)
        kind = rng.choice(["kill", "power", "both"])
        try:
            if kind == "power":
                drive.cut_power_at(drive.operations + operations, rng.randrange(1 << 32))
                await rig.load()
            else:
                await killed_during_load(rig, drive, operations)
        except MediaError:
            ended += 1
        drive.cut_power_at(0, 0)
        if rig.device.incarnation != incarnation:
            # It was loaded before it was hit: the next crash is as good in a device nobody uses.
            await rig.crash()
        if kind != "kill":
            drive.power_cut(rng.randrange(1 << 32))
        drive.power_on()
    await rig.load()
    return ended


@pytest.mark.parametrize("options", [{}, {"use_append": True}], ids=["writes", "appends"])
@pytest.mark.parametrize("seed", range(3))
async def test_every_acknowledged_write_and_trim_survives_the_loss_of_the_bases_cache(
    seed: int, options: dict[str, Any], tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path, seed=seed)
    drive = rig.base
    await rig.create(conf=replace(CONF, **options))
    recovered = ended = moved = trims = 0
    for crash in range(10):
        drive.cut_power_at(drive.operations + rig.rng.randrange(20, 1200), rig.rng.randrange(1 << 32))
        await rig.traffic(6000)
        core = rig.device.core.stats()
        moved, trims = moved + core.reloc_moved_blocks, trims + core.media_trim_blocks
        await rig.crash()
        rig.model.acknowledged_survives()
        drive.power_on()
        ended += await until_loaded(rig, drive)
        assert rig.device.restored is not None
        assert rig.device.restored["lossy"] is False
        recovered += rig.device.restored["recovered_blocks"]
        await rig.check(f"seed {seed}, crash {crash}")
    assert recovered > 0
    assert moved > 0
    assert trims > 0


async def test_a_kill_at_any_step_of_the_load_loses_nothing(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    await rig.create()
    for lba in range(40):
        await rig.port.write(lba, content(lba, 1))
    await rig.port._submit(_shim.Op.DEALLOCATE, 3, 5)
    await rig.crash()
    expected = [0 if 3 <= lba < 8 else 1 for lba in range(40)]
    for step in range(1, 1000):
        # In the last of its operations it writes; in the first it reads zone by zone.
        if not await killed_during_load(rig, drive, step if step > 60 else 1 + step % 7):
            break
    assert (await rig.versions())[:40] == expected
    assert step > 60


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_durable_before_a_load_stays_so_until_what_was_recovered_is(
    seed: int, tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path, seed=seed)
    drive = rig.base
    """The band that has the durable versions looks empty, since newer ones are held: it is not reset for that."""
    await rig.create()
    for lba in range(24):
        await rig.port.write(lba, content(lba, 1))
    await rig.port.flush()
    await rig.crash()
    await rig.load()
    for lba in range(24):
        await rig.port.write(lba, content(lba, 2))
    await rig.crash()
    drive.cut_power_at(drive.operations + rig.rng.randrange(60, 160), rig.rng.randrange(1 << 32))
    with contextlib.suppress(MediaError):
        await rig.load()
        for _ in range(1000):
            await asyncio.sleep(0)
    await rig.crash()
    # The machine lost power: no file is left.
    drive.power_cut(seed)
    drive.power_on()
    for name in files_in(tmp_path):
        (tmp_path / f"{rig.device.uuid}.{name}").unlink()
    await rig.load()
    assert set((await rig.versions())[:24]) <= {1, 2}


async def test_trims_and_overwrites_in_the_buffer_count_in_order(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    for lba in range(10):
        await rig.port.write(lba, content(lba, 1))
    await rig.port.flush()
    await rig.port._submit(_shim.Op.DEALLOCATE, 0, 10)
    await rig.port.write(4, content(4, 2))
    await rig.port.write(4, content(4, 3))
    await rig.port._submit(_shim.Op.DEALLOCATE, 5, 100)
    await rig.port.write(6, content(6, 4))
    for _ in range(3):
        await rig.crash()
        await rig.load()
        assert (await rig.versions())[:10] == [0, 0, 0, 0, 3, 0, 4, 0, 0, 0]
    await rig.halt()
    await rig.load()
    assert (await rig.versions())[:10] == [0, 0, 0, 0, 3, 0, 4, 0, 0, 0]
    assert rig.device.restored is not None
    assert rig.device.restored["recovered_blocks"] == rig.device.restored["recovered_records"] == 0


async def test_a_halt_leaves_no_file(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    assert files_in(tmp_path) == ["1.wbuf", "lock"]
    await rig.port.write(1, content(1, 1))
    await rig.halt()
    assert files_in(tmp_path) == []
    await rig.load()
    assert rig.device.restored is not None
    assert (rig.device.restored["clean"], rig.device.restored["lossy"]) == (True, False)
    assert files_in(tmp_path) == [f"{rig.device.incarnation}.wbuf", "lock"]


async def test_a_failed_creation_leaves_no_file(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    drive.inject_fault(op=_shim.Op.WRITE, status=0x280)
    with pytest.raises(MediaError):
        await rig.create()
    assert files_in(tmp_path) == []


async def test_without_the_file_a_load_after_a_crash_is_lossy(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.port.write(1, content(1, 1))
    await rig.crash()
    (tmp_path / f"{rig.device.uuid}.1.wbuf").unlink()
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["lossy"] is True
    await rig.crash()
    # An older life's file does not count.
    await rig.load(buffer_dir=None)
    assert rig.device.restored["lossy"] is True


async def test_a_lossy_load_is_told_before_a_repeated_one_would_not_know(
    tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    told: list[int] = []
    refused = 0
    for step in range(40, 200, 2):
        await rig.create()
        await rig.port.write(1, content(1, 1))
        await rig.crash()
        (tmp_path / f"{rig.device.uuid}.1.wbuf").unlink()
        told.clear()
        drive.cut_power_at(drive.operations + step, step)
        with contextlib.suppress(MediaError):
            await rig.load(on_lossy=lambda: told.append(1))
        drive.cut_power_at(0, 0)
        await rig.crash()
        drive.power_on()
        before = len(told)
        await rig.load(on_lossy=lambda: told.append(2))
        assert told, step
        refused += before == 1 and told == [1]
        await rig.halt()
    assert refused, "in some the second load did not know"


async def test_a_file_of_another_life_does_not_count_and_is_removed(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.port.write(1, content(1, 1))
    await rig.crash()
    first = tmp_path / f"{rig.device.uuid}.1.wbuf"
    old = first.read_bytes()
    await rig.load()
    await rig.port.write(1, content(1, 2))
    await rig.port.flush()
    await rig.crash()
    first.write_bytes(old)
    await rig.load()
    assert (await rig.versions())[1] == 2
    assert files_in(tmp_path) == [f"{rig.device.incarnation}.wbuf", "lock"]


async def test_a_file_that_a_killed_load_left_behind_is_not_that_of_the_load_after_it(
    tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(0o700)
    elsewhere.mkdir(0o700)
    rig = await make_rig(buffer_dir=here)
    drive = rig.base
    await rig.create()
    for lba in range(5):
        await rig.port.write(lba, content(lba, 1))
    await rig.crash()
    for operations in range(1, 1000):
        assert await killed_during_load(rig, drive, operations)
        if len(files_in(here)) == 2:
            break
    # Another machine, which has no part of the write buffer.
    rig.buffer_dir = elsewhere
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["lossy"] is True
    assert (await rig.versions())[:5] == [0] * 5
    await rig.port.write(9, content(9, 2))
    await rig.crash()
    rig.buffer_dir = here
    await rig.load()
    assert rig.device.restored["lossy"] is True
    assert (await rig.versions())[:10] == [0] * 10


async def test_a_superblock_that_is_not_durable_yet_makes_no_file_superfluous(
    tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    for flushes, seed in itertools.product(range(4), range(8)):
        await rig.create()
        await rig.port.write(1, content(1, 1))
        await rig.crash()
        # The first ends at any of its flushes, the second at its first: neither superblock is durable.
        for skip in (flushes, 0):
            drive.inject_fault(op=_shim.Op.FLUSH, status=0x006, do_not_retry=True, skip=skip)
            with contextlib.suppress(MediaError):
                await rig.load()
                await rig.crash()
            drive.clear_faults()
        drive.power_cut(seed)
        drive.power_on()
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["lossy"] is False
        assert (await rig.versions())[1] == 1
        await rig.crash()


async def test_loads_that_are_killed_leave_one_file_each_at_most_behind(
    tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    await rig.create()
    await rig.port.write(1, content(1, 1))
    await rig.crash()
    most = 0
    for operations in range(1, 1000):
        if not await killed_during_load(rig, drive, operations):
            break
        most = max(most, len(files_in(tmp_path)))
    assert most == 2, "the one that counts, and the one of the load that was killed last"


async def test_a_smaller_buffer_takes_what_a_larger_one_held(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    # All at once: of what is written one by one most is on media by the end.
    await asyncio.gather(*(rig.port.write(lba, content(lba, 1)) for lba in range(20)))
    held = rig.device.core.stats().write_buffer_used
    await rig.crash()
    await rig.load(settings={"write_buffer_size": 8 * BLOCK})
    assert rig.device.restored is not None
    assert rig.device.restored["recovered_blocks"] == held > 8
    assert (await rig.versions())[:20] == [1] * 20
    await rig.traffic(300)


async def test_a_full_directory_is_an_error_that_names_the_file(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, limit[1]))
    try:
        with pytest.raises(FtlError, match=r"can't create the write buffer file .*wbuf"):
            await rig.create()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, previous)
    assert files_in(tmp_path) == []


async def test_a_creation_whose_buffer_can_not_be_made_erases_nothing(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o777)
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    await rig.create()
    await rig.traffic(500)
    versions = await rig.versions()
    await rig.halt()
    before = drive.zone_states()
    with pytest.raises(FtlError, match="chmod go-w"):
        await creation.create(rig.reactor, drive, name="ftl1", conf=CONF, buffer_dir=everybodys)
    assert drive.zone_states() == before
    await rig.load()
    assert await rig.versions() == versions


async def test_another_process_can_not_use_the_same_buffer(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    program = (
        "import pathlib, sys, uuid; from spdk_ftl_py.ftl.load.write_buffer_file import BufferFiles; "
        "BufferFiles.acquire(pathlib.Path(sys.argv[1]), uuid.UUID(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(rig.device.uuid)]
    # Elsewhere than in the checkout, whose package has no extension.
    options = {"check": False, "capture_output": True, "text": True, "cwd": "/"}
    refused = await asyncio.to_thread(subprocess.run, command, **options)
    assert refused.returncode == 1
    assert "used by another process" in refused.stderr
    await rig.halt()
    assert (await asyncio.to_thread(subprocess.run, command, **options)).returncode == 0

"""Memory of a client: what may be mapped, and files that shrink while they are in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from spdk_ftl_py import _shim
from support.qpair_rig import joined
from support.shared_client import BASE, FLUSH, PAGE, READ, WRITE, entry, memfd, shared_client

TOP = 2**64


@pytest.fixture
def fd() -> Iterator[int]:
    made = memfd("client", 16 * PAGE)
    yield made
    os.close(made)


@pytest.mark.parametrize(
    ("iova", "size", "offset"),
    [
        (1, PAGE, 0),
        (0, PAGE - 1, 0),
        (0, 0, 0),
        (0, PAGE, 1),
        (TOP - PAGE, PAGE, 0),
        (TOP - PAGE, 2 * PAGE, 0),
        (0, TOP - PAGE, 0),
        (0, 17 * PAGE, 0),
        (0, PAGE, 16 * PAGE),
        (0, PAGE, TOP - PAGE),
    ],
)
def test_what_is_no_region_is_refused(fd: int, iova: int, size: int, offset: int) -> None:
    memory = _shim.DmaMap()
    with pytest.raises(ValueError):
        memory.map(iova, size, fd, offset, True)
    assert memory.region_count == 0


def test_regions_do_not_overlap(fd: int) -> None:
    memory = _shim.DmaMap()
    memory.map(4 * PAGE, 4 * PAGE, fd, 0, True)
    for iova, pages in ((4, 4), (0, 5), (7, 1), (7, 5), (0, 16), (5, 1)):
        with pytest.raises(ValueError, match="overlaps"):
            memory.map(iova * PAGE, pages * PAGE, fd, 0, True)
    memory.map(8 * PAGE, PAGE, fd, 0, True)
    memory.map(0, 4 * PAGE, fd, 0, True)
    for iova, pages in ((4, 3), (5, 4), (16, 1)):
        with pytest.raises(ValueError, match="none like that"):
            memory.unmap(iova * PAGE, pages * PAGE)
    memory.unmap(4 * PAGE, 4 * PAGE)
    memory.map(5 * PAGE, 2 * PAGE, fd, 0, True)
    assert memory.region_count == 3
    memory.clear()
    assert memory.region_count == 0


@pytest.mark.not_sanitized("it takes too long there")
def test_there_are_only_so_many(fd: int) -> None:
    memory = _shim.DmaMap()
    for number in range(_shim.DMA_REGIONS_MAX):
        memory.map(number * PAGE, PAGE, fd, 0, False)
    with pytest.raises(ValueError, match="already"):
        memory.map(TOP // 2, PAGE, fd, 0, False)
    assert memory.region_count == _shim.DMA_REGIONS_MAX
    memory.clear()
    memory.map(TOP // 2, PAGE, fd, 0, False)


def test_only_files_in_memory() -> None:
    """A file system that does not answer would stop the reactor."""
    memory = _shim.DmaMap()
    with open("/dev/zero", "rb") as device, pytest.raises(ValueError, match="in memory"):
        memory.map(0, PAGE, device.fileno(), 0, False)
    with tempfile.TemporaryFile(dir=os.getcwd()) as file:
        file.truncate(PAGE)
        if os.fstat(file.fileno()).st_dev != os.stat("/dev/shm").st_dev:
            with pytest.raises(ValueError, match="in memory"):
                memory.map(0, PAGE, file.fileno(), 0, False)
    with pytest.raises(OSError, match="shared memory"):
        memory.map(0, PAGE, -1, 0, False)
    shared = memfd("read only", PAGE)
    only = os.open(f"/proc/self/fd/{shared}", os.O_RDONLY)
    with pytest.raises(OSError, match="shared memory"):
        memory.map(0, PAGE, only, 0, True)
    memory.map(0, PAGE, only, 0, False)
    os.close(only)
    os.close(shared)


@pytest.mark.parametrize("what", ["data", "list", "queues", "all"])
@pytest.mark.parametrize("opcode", [READ, WRITE])
def test_a_file_that_shrinks_ends_the_queue_and_nothing_else(opcode: int, what: str) -> None:
    with shared_client() as client, shared_client(client.reactor) as other:
        device = _shim.EmulatedMedia.conventional(client.reactor, 1024)
        qpair, healthy = client.serve({1: device}), other.serve({1: device})
        lists = client.prp_list([client.iova(1), client.iova(2)], 100)
        command = entry(opcode, 1, prps=(client.iova(0), lists), cdw12=2)
        assert client.status(command) == 0
        kept = {"data": 1, "list": 100, "queues": -client.first_data, "all": -client.first_data}[what]
        if what == "data":
            # The list must still be there.
            lists = client.prp_list([client.iova(1), client.iova(2)], 0)
            command = entry(opcode, 1, prps=(client.iova(3), lists), cdw12=2)
        if what == "queues":
            os.ftruncate(client.fd, 0)
            client.doorbell(0, (client.tail + 1) % 16)
        else:
            client.push(command)
            os.ftruncate(client.fd, (client.first_data + kept) * PAGE)
        client.step(10)
        assert not qpair.connected
        assert client.map.broken
        (event,) = [each for each in client.events if each.kind == _shim.EventKind.SHARED_QPAIR_CLOSED]
        assert (event.source, event.fault) == (qpair.id, _shim.SharedFault.BROKEN_MEMORY)
        assert other.status(entry(FLUSH, 1)) == 0
        assert not other.map.broken
        qpair.close()
        healthy.close()
        os.ftruncate(client.fd, client.size)  # for the test's own mapping


@pytest.mark.parametrize("opcode", [READ, WRITE])
def test_a_connection_to_a_drive_outlives_a_client_that_shrinks_its_file(opcode: int) -> None:
    """There system calls find the memory missing: no signal is raised."""

    def drive(reactor: _shim.Reactor) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.conventional(reactor, 64)

    with joined(drive) as (rig, _), shared_client(rig.reactor) as client:
        qpair = client.serve({1: rig.host})
        command = entry(opcode, 1, prps=client.prps(range(20), list_page=100), cdw12=19)
        assert client.status(command) == 0
        client.push(command)
        client.step()
        os.ftruncate(client.fd, (client.first_data + 5) * PAGE)
        client.step(20)
        os.ftruncate(client.fd, client.size)
        assert client.map.broken
        assert not qpair.connected
        assert rig.host.connected
        assert rig.read(3, 1)
        qpair.close()


def test_bar0_may_shrink_too() -> None:
    with shared_client() as client:
        os.close(client.bar0_fd)
        client.bar0_fd = memfd("bar0", 2 * PAGE)
        qpair = client.serve({1: _shim.EmulatedMedia.conventional(client.reactor, 16)})
        client.step()
        os.ftruncate(client.bar0_fd, PAGE)
        client.step(2)
        assert not qpair.connected
        assert client.events[-1].fault == _shim.SharedFault.BROKEN_MEMORY
        qpair.close()


ELSEWHERE = """
import mmap, os, signal, sys
{before}
from spdk_ftl_py import _shim
fd = os.memfd_create("mine")
os.ftruncate(fd, 4096)
_shim.DmaMap().map(0, 4096, fd, 0, True)
own = mmap.mmap(fd, 4096)
{access}
print("alive")
"""
SHRINK = "os.ftruncate(fd, 0); own[0]"
KILL = "os.kill(os.getpid(), signal.SIGBUS)"


@pytest.mark.not_sanitized("there it is the sanitizer's handler")
@pytest.mark.parametrize(
    ("before", "access", "code", "text"),
    [
        ("", SHRINK, -signal.SIGBUS, ""),
        ("", KILL, -signal.SIGBUS, ""),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", SHRINK, -signal.SIGBUS, ""),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", KILL, 0, "alive"),
        ("signal.signal(signal.SIGBUS, lambda *_: print('handled'))", KILL, 0, "handled\nalive"),
        ("import faulthandler; faulthandler.enable()", SHRINK, -signal.SIGBUS, "Bus error"),
    ],
)
def test_other_bus_errors_are_as_before(before: str, access: str, code: int, text: str) -> None:
    script = ELSEWHERE.format(before=before, access=access)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert ("alive" in done.stdout) == (code == 0)


def test_a_region_that_a_queue_lies_in_stays_mapped() -> None:
    with shared_client() as client:
        qpair = client.serve({1: _shim.EmulatedMedia.conventional(client.reactor, 16)})
        client.map.clear()
        assert client.status(entry(FLUSH, 1)) == 0
        assert client.status(entry(READ, 1, prps=(BASE, 0))) == 0x004
        qpair.close()

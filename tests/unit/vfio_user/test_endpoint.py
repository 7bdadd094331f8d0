"""What an endpoint answers, what it refuses, and that a fault ends one client and not the endpoint."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spdk_ftl_py.errors import BusyError, FtlError
from spdk_ftl_py.runtime.waiting import until
from spdk_ftl_py.vfio_user import wire
from spdk_ftl_py.vfio_user.target import endpoint
from spdk_ftl_py.vfio_user.target.client_state import REGIONS_MAX
from spdk_ftl_py.vfio_user.target.keeper import SmallLoop
from spdk_ftl_py.vfio_user.wire import Command
from support.descriptors import open_descriptors, opened_since
from support.vfio_user_client import PAGE, Connection, VfioUserClient, VfioUserError
from unit.vfio_user.rig import Rig

VERSION = wire.pack_version(wire.MINOR)


def test_messages_are_no_longer_than_spdk_takes() -> None:
    assert wire.PAYLOAD_BYTES_MAX == 4096


async def test_a_device_is_described(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        call = client.connection.call
        info, _ = call(Command.DEVICE_GET_INFO, wire.DEVICE_INFO.pack(16, 0, 0, 0))
        assert wire.DEVICE_INFO.unpack(info) == (16, 3, 9, 5)
        sizes = []
        for index in range(wire.REGION_COUNT):
            answer, fds = call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(PAGE, 0, index, 0, 0, 0))
            sizes.append(wire.RegionInfo.unpack(answer).size)
            assert len(fds) == (index == 0)
            for fd in fds:
                os.close(fd)
        assert sizes == [8192, 0, 0, 0, 0, 0, 0, 4096, 0]
        for index in range(wire.IRQ_TYPE_COUNT):
            answer, _ = call(Command.DEVICE_GET_IRQ_INFO, wire.IRQ_INFO.pack(16, 0, index, 0))
            assert wire.IRQ_INFO.unpack(answer) == (16, 0, index, 0)

    await here.use(look)
    mode = stat.S_IMODE(os.stat(here.directory / "cntrl").st_mode)
    assert (mode, stat.S_IMODE(os.stat(here.directory).st_mode)) == (0o600, 0o700)


async def test_pci_configuration_is_that_of_an_nvme_drive(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        def read(offset: int, size: int) -> int:
            access = wire.REGION_ACCESS.pack(offset, wire.CONFIG_REGION, size)
            answer, _ = client.connection.call(Command.REGION_READ, access)
            return int.from_bytes(answer[16:], "little")

        def write(offset: int, size: int, value: int) -> None:
            access = wire.REGION_ACCESS.pack(offset, wire.CONFIG_REGION, size)
            client.connection.call(Command.REGION_WRITE, access + value.to_bytes(size, "little"))

        assert read(0x09, 3) == 0x010802
        write(4, 2, 0x404)
        assert read(4, 2) == 0x404
        write(0x10, 4, 0xFFFFFFFF)
        assert read(0x10, 4) == 0xFFFFE004  # 8 KiB, 64 bits
        write(0, 4, 0)
        assert read(0, 4) == 0x00101B36

    await here.use(look)


async def test_a_client_can_not_change_the_size_of_bar0(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        for size in (0, 1 << 20):
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(client.bar0_fd, size)

    await here.use(look)


async def test_doorbells_can_be_written_by_messages(here: Rig) -> None:
    def look(client: VfioUserClient) -> None:
        client.write_register(0x1010, 0x1234)
        assert struct.unpack_from("<I", client.doorbells, 0x10) == (0x1234,)
        assert client.read_register(0x1010) == 0x1234

    await here.use(look)


# --- what is refused, and the client stays ---------------------------------------------------------------------------


def access(command: int, region: int, offset: int, count: int) -> Callable[[VfioUserClient], object]:
    data = bytes(count) if command == Command.REGION_WRITE and count < 4000 else b""
    return lambda client: client.connection.call(command, wire.REGION_ACCESS.pack(offset, region, count) + data)


def map_of(
    iova: int, size: int, offset: int = 0, flags: int = 3, argsz: int = 32
) -> Callable[[VfioUserClient], object]:
    payload = wire.DMA_MAP.pack(argsz, flags, offset, iova, size)
    return lambda client: client.connection.call(Command.DMA_MAP, payload, (client.fd,))


REFUSED: dict[str, tuple[Callable[[VfioUserClient], object], int]] = {
    "region": (access(Command.REGION_READ, 3, 0, 4), errno.EINVAL),
    "no-region": (access(Command.REGION_READ, 99, 0, 4), errno.EINVAL),
    "end": (access(Command.REGION_READ, 0, 8190, 4), errno.EINVAL),
    "far-end": (access(Command.REGION_READ, 7, 2**64 - 2, 4), errno.EINVAL),
    "across": (access(Command.REGION_WRITE, 0, 4092, 8), errno.EINVAL),
    "nothing": (access(Command.REGION_READ, 0, 0, 0), errno.EINVAL),
    "too-much": (access(Command.REGION_READ, 7, 0, 4096), errno.EINVAL),
    "no-page": (map_of(0x1234, PAGE), errno.EINVAL),
    "no-size": (map_of(0, 0), errno.EINVAL),
    "round": (map_of(2**64 - PAGE, 2 * PAGE), errno.EINVAL),
    "offset-round": (map_of(0, PAGE, 2**64 - PAGE), errno.EINVAL),
    "behind-file": (map_of(0, PAGE, 1 << 40), errno.EINVAL),
    "no-read": (map_of(0, PAGE, flags=2), errno.EINVAL),
    "flags": (map_of(0, PAGE, flags=7), errno.EINVAL),
    "argsz": (map_of(0, PAGE, argsz=31), errno.EINVAL),
    "twice": (lambda client: client.map(client.iova + PAGE, PAGE, client.fd), errno.EEXIST),
    "no-fd": (
        lambda client: client.connection.call(Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, 0, PAGE)),
        errno.ENOTSUP,
    ),
    "unmapped": (lambda client: client.unmap(0, PAGE), errno.EINVAL),
    "half": (lambda client: client.unmap(client.iova, PAGE), errno.EINVAL),
    "interrupts": (
        lambda client: client.connection.call(Command.DEVICE_SET_IRQS, wire.IRQ_SET.pack(20, 0, 0, 0, 1)),
        errno.EINVAL,
    ),
    "no-command": (lambda client: client.connection.call(99), errno.ENOTSUP),
    "ours": (lambda client: client.connection.call(Command.DMA_READ, bytes(16)), errno.ENOTSUP),
    "region-index": (
        lambda client: client.connection.call(Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, 9, 0, 0, 0)),
        errno.EINVAL,
    ),
}


async def test_what_can_not_be_done_is_answered_with_an_error(here: Rig) -> None:
    def refusals(client: VfioUserClient) -> None:
        for name, (attempt, number) in REFUSED.items():
            with pytest.raises(VfioUserError) as caught:
                attempt(client)
            assert caught.value.errno == number, name
        client.enable()
        assert client.identify(1)

    await here.use(refusals)


def pipe_end() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


async def test_a_client_has_a_limited_number_of_regions(here: Rig) -> None:
    def attempt(client: VfioUserClient) -> None:
        for number in range(1, REGIONS_MAX):
            client.map(number * PAGE, PAGE, client.fd)
        with pytest.raises(VfioUserError, match="No space"):
            client.map(REGIONS_MAX * PAGE, PAGE, client.fd)
        client.unmap(PAGE, PAGE)
        client.map(REGIONS_MAX * PAGE, PAGE, client.fd)

    await here.use(attempt)


@pytest.mark.parametrize("make", [pipe_end, lambda: os.open("/dev/zero", os.O_RDWR), lambda: os.open("/", os.O_RDONLY)])
async def test_memory_has_to_be_in_a_file(here: Rig, make: Callable[[], int]) -> None:
    def attempt(client: VfioUserClient) -> None:
        fd = make()
        try:
            with pytest.raises(VfioUserError, match="Invalid"):
                client.map(0, PAGE, fd)
        finally:
            os.close(fd)

    await here.use(attempt)


async def test_memory_that_can_only_be_read_is_not_mapped_for_writing(here: Rig, folder: Path) -> None:
    (folder / "file").write_bytes(bytes(PAGE))

    def attempt(client: VfioUserClient) -> None:
        fd = os.open(folder / "file", os.O_RDONLY)
        try:
            with pytest.raises(VfioUserError):
                client.map(0, PAGE, fd)
            # It has left nothing behind.
            with pytest.raises(VfioUserError):
                client.unmap(0, PAGE)
        finally:
            os.close(fd)

    await here.use(attempt)


# --- faults ----------------------------------------------------------------------------------------------------------


def raw(data: bytes, fds: int = 0, *, agreed: bool = True) -> Callable[[Path], None]:
    """A client that sends this, and has to be disconnected."""

    def run(directory: Path) -> None:
        connection = Connection(directory)
        try:
            if agreed:
                connection.call(Command.VERSION, VERSION)
            connection.send_raw(data, (0,) * fds)
            with pytest.raises((EOFError, ConnectionError)):
                connection.receive()
        finally:
            connection.close()

    return run


FAULTS: dict[str, Callable[[Path], None]] = {
    "no-version": raw(wire.pack_command(1, Command.DEVICE_RESET), agreed=False),
    "version-twice": raw(wire.pack_command(1, Command.VERSION, VERSION)),
    "other-major": raw(wire.pack_command(1, Command.VERSION, wire.VERSION.pack(1, 0)), agreed=False),
    "short-version": raw(wire.pack_command(1, Command.VERSION, b"\0"), agreed=False),
    "size-0": raw(wire.HEADER.pack(1, Command.DEVICE_RESET, 0, 0, 0)),
    "size-max": raw(wire.HEADER.pack(1, Command.DEVICE_RESET, 2**32 - 1, 0, 0)),
    "reply": raw(wire.pack_command(1, Command.DEVICE_RESET, flags=wire.TYPE_REPLY)),
    "error": raw(wire.pack_command(1, Command.DEVICE_RESET, flags=wire.ERROR)),
    "short-map": raw(wire.pack_command(1, Command.DMA_MAP, bytes(31)), 1),
    "two-fds": raw(wire.pack_command(1, Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, 0, PAGE)), 2),
    "many-fds": raw(wire.pack_command(1, Command.DEVICE_RESET), 9),
    "very-many-fds": raw(wire.pack_command(1, Command.DEVICE_RESET), 200),
    "short-write": raw(wire.pack_command(1, Command.REGION_WRITE, wire.REGION_ACCESS.pack(0, 0, 4) + b"abc")),
    "short-read": raw(wire.pack_command(1, Command.REGION_READ, bytes(15))),
}


async def test_a_fault_ends_the_client_and_the_next_one_is_served(here: Rig) -> None:
    before = open_descriptors()
    for attack in FAULTS.values():
        await asyncio.to_thread(attack, here.directory)
    await here.enabled(lambda client: client.identify(1))
    assert await until(lambda: not opened_since(before), poll_s=0.01, timeout_s=10)


async def test_clients_that_leave_at_any_byte_leave_nothing(here: Rig) -> None:
    message = wire.pack_command(1, Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, 0, PAGE))

    def leave(bytes_sent: int) -> None:
        connection = Connection(here.directory)
        connection.call(Command.VERSION, VERSION)
        if bytes_sent:
            connection.send_raw(message[:bytes_sent], (0,))
        connection.close()

    await asyncio.to_thread(leave, 0)
    before = open_descriptors()
    for count in range(len(message)):
        await asyncio.to_thread(leave, count)
    await here.enabled(lambda client: client.identify(1))
    assert await until(lambda: not opened_since(before), poll_s=0.01, timeout_s=10)


@pytest.mark.parametrize("data", [b"", b"\x01", wire.pack_command(1, Command.VERSION, VERSION) + b"\x01"])
async def test_a_slow_client_does_not_keep_others_out(here: Rig, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(endpoint, "MESSAGE_TIMEOUT_S", 0.05)
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(here.directory / "cntrl"))
    with slow:
        slow.send(data)
        await asyncio.to_thread(lambda: [slow.settimeout(10), _drain(slow)])
        await here.enabled(lambda client: client.identify(1))


def _drain(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


async def test_a_second_client_is_refused(here: Rig) -> None:
    def two(client: VfioUserClient) -> None:
        other = Connection(here.directory)
        with pytest.raises((EOFError, ConnectionError)):
            other.call(Command.VERSION, VERSION)
        other.close()
        client.enable()

    await here.use(two)


async def test_replies_are_left_out_on_request(here: Rig) -> None:
    def quiet(client: VfioUserClient) -> None:
        head = wire.REGION_ACCESS.pack(0x1000, 0, 4)
        client.connection.send(Command.REGION_WRITE, head + b"\x01\0\0\0", flags=wire.NO_REPLY)
        assert client.read_register(0x1000) == 1

    await here.use(quiet)


async def test_pipelined_messages_are_answered_in_their_order(here: Rig) -> None:
    def pipeline(client: VfioUserClient) -> None:
        reads = [wire.pack_command(n, Command.REGION_READ, wire.REGION_ACCESS.pack(8 * n, 0, 8)) for n in range(100)]
        client.connection.send_raw(b"".join(reads))
        assert [client.connection.receive()[0].message_id for _ in reads] == list(range(100))

    await here.use(pipeline)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(
        st.tuples(st.integers(0, 20), st.binary(max_size=64), st.sampled_from([0, 0, 0, wire.NO_REPLY, 1])), max_size=8
    )
)
def test_nothing_that_is_sent_harms_the_endpoint(
    messages: list[tuple[int, bytes, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a controller behind it: messages of any content, with descriptors."""
    before = open_descriptors()

    async def run() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"\0vfu-{os.getpid()}")
        listening.listen()
        listening.setblocking(False)
        served = endpoint.Endpoint(asyncio.get_running_loop(), listening, lambda: 1, lambda line: None)
        client = socket.socket(socket.AF_UNIX)
        client.connect(listening.getsockname())
        await asyncio.sleep(0)
        fd = os.memfd_create("client")
        os.ftruncate(fd, PAGE)
        try:
            client.send(wire.pack_command(0, Command.VERSION, VERSION))
            for command, payload, flags in messages:
                socket.send_fds(client, [wire.pack_command(1, command, payload, flags)], [fd])
                for _ in range(4):
                    await asyncio.sleep(0)
        except OSError:
            pass
        finally:
            client.close()
            for _ in range(4):
                await asyncio.sleep(0)
            served.close()
            listening.close()
            os.close(fd)
        assert served.client is None

    asyncio.run(run())
    assert not opened_since(before)


# --- life ------------------------------------------------------------------------------------------------------------


class _Full(socket.socket):
    """Of a process that has no descriptor left for a connection, the first few times."""

    refusals = 2
    attempts = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@pytest.mark.parametrize("asynchronous", [True, False], ids=["asyncio", "keeper"])
async def test_without_descriptors_it_tries_again_after_a_pause(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr(endpoint, "ACCEPT_AGAIN_S", 0.05)
    with _Full(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(folder / "full"))
        listening.listen()
        listening.setblocking(False)
        client.connect(str(folder / "full"))
        lines: list[str] = []
        loop = asyncio.get_running_loop() if asynchronous else SmallLoop()
        here = endpoint.Endpoint(loop, listening, lambda: 0, lines.append)
        before = time.monotonic()
        if isinstance(loop, SmallLoop):
            loop.call_later(0.3, setattr, loop, "running", False)
            loop.run()
        else:
            assert await until(lambda: here.client is not None, poll_s=0.01, timeout_s=10)
            assert time.monotonic() - before >= 0.1
        assert here.client is not None
        assert listening.attempts == 3
        here.close()


async def test_a_directory_in_use_is_refused(here: Rig) -> None:
    other = here.make_listener()
    with pytest.raises(BusyError, match="listening there already"):
        await other.start()
    await here.enabled(lambda client: client.identify(1))


async def test_a_directory_that_others_write_to_is_refused(here: Rig, folder: Path) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    here.directory = folder / "open"
    with pytest.raises(FtlError, match="can be written by others"):
        await here.make_listener().start()


async def test_connected_is_told(here: Rig) -> None:
    changes: list[bool] = []
    here.listener.changed = lambda: changes.append(here.listener.connected)
    await here.enabled(lambda client: client.disable())
    await here.enabled(lambda client: None)
    # It is not connected a moment before that is told.
    await until(lambda: len(changes) == 4, poll_s=0.01, timeout_s=10)
    assert changes == [True, False, True, False]


async def test_stop_ends_the_client(here: Rig) -> None:
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await here.listener.stop()
    with pytest.raises((EOFError, ConnectionError)):
        client.read_register(0)
    client.close()


async def test_the_subsystem_ends_the_client(here: Rig) -> None:
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    await here.subsystem.disconnect()
    assert not here.subsystem.controllers
    client.close()
    await here.enabled(lambda again: again.identify(1))


async def test_a_file_that_gets_shorter_ends_the_client_and_no_more(here: Rig) -> None:
    def attack(client: VfioUserClient) -> None:
        client.enable()
        pair = client.create_queue(1)
        assert client.write(pair, 0, bytes(PAGE)).status == 0
        at = client.allocate(PAGE)
        os.ftruncate(client.fd, at)
        client.memory = mmap.mmap(client.fd, at)
        client.submit(pair, 1, nsid=1, prp1=client.iova + at)
        with pytest.raises((EOFError, ConnectionError)):
            client.read_until_the_end()

    await here.use(attack)
    await here.enabled(lambda client: client.identify(1))

"""NBD with the clients that people have: Debian's nbdinfo, nbdcopy, qemu-io and fio; and what a crash leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from support.nbd_client import BLOCK, FLUSH, FUA, READ, TRIM, WRITE, WRITE_ZEROES, NbdClient
from support.processes import EmbeddedTarget, daemon_process, spdk_rpc
from support.tools import need

TIMEOUT_S = 120
SIZE = 16 << 20
"""Bytes of the FTL that the tests write."""


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    need("nbdinfo", "nbdcopy", "qemu-io", "fio")


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS) as world:
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach")
        yield world


def run(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def command(world: FtlWorld, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "spdk_ftl_py.cli", "nbd", "ftl0", "--control-socket", world.daemon.socket),
        *("--socket", str(world.folder / "ftl0.nbd"), "--json", *arguments),
    ]


@contextmanager
def serving(world: FtlWorld, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`spdk-ftl nbd`, and what it prints when it serves."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options: dict[str, Any] = {"text": True, "cwd": world.folder, **pipes}
    with subprocess.Popen(command(world, *arguments), **options) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.kill()


def clients_agree(uri: str, folder: Path, size: int) -> None:
    """Each of the clients does I/O to the first bytes, and verifies it."""
    told = json.loads(run("nbdinfo", "--json", uri))
    (export,) = told["exports"]
    assert told["structured"] is True
    assert (export["block_size_minimum"], export["block_size_maximum"]) == (4096, 1 << 20)
    assert all(export[f"can_{what}"] for what in ("flush", "fua", "trim", "zero", "multi_conn", "fast_zero", "df"))

    image, copy = folder / "image", folder / "copy"
    image.write_bytes(os.urandom(size // 2) + bytes(size // 4) + os.urandom(size // 4))
    run("nbdcopy", "--flush", str(image), uri)
    run("nbdcopy", uri, str(copy))
    with image.open("rb") as one, copy.open("rb") as two:
        assert one.read() == two.read(size)
    copy.unlink()

    script = (
        "write -P 5 0 1M",
        "write -z 4k 8k",
        "write -z -u 64k 64k",
        "discard 256k 64k",
        "write -f -P 7 2M 2M",
        "flush",
    )
    reads = (
        "read -P 5 0 4k",
        "read -P 0 4k 8k",
        "read -P 5 12k 52k",
        "read -P 0 64k 64k",
        "read -P 0 256k 64k",
        "read -P 7 2M 2M",
    )
    told_by_qemu = run("qemu-io", "-f", "raw", *(part for each in (*script, *reads) for part in ("-c", each)), uri)
    assert "failed" not in told_by_qemu.lower()

    report = run(
        *("fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k", f"--size={size}"),
        *("--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--output-format=json"),
        cwd=folder,
    )
    (job,) = json.loads(report[report.index("{") :])["jobs"]
    assert job["error"] == 0
    assert job["read"]["io_bytes"] == job["write"]["io_bytes"] == size


def test_an_ftl_is_served_to_every_client_until_the_command_is_interrupted(world: FtlWorld) -> None:
    with serving(world) as (process, export):
        clients_agree(export["uri"], world.folder, SIZE)
        again = subprocess.run(
            command(world), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=world.folder
        )
        assert again.returncode == 1
        assert "FTL bdev ftl0 is already served by NBD, at" in again.stderr
        assert world.rpc("bdev_ftl_nbd_get")[0]["errors"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    assert world.rpc("bdev_ftl_nbd_get") == []
    assert not list(world.folder.glob("ftl0.nbd*"))


def read_until_the_end(client: NbdClient) -> None:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            client.ok(READ, 0, BLOCK)


@pytest.mark.parametrize("how", ["killed", "deleted", "daemon killed"])
def test_command_and_export_end_together(world: FtlWorld, how: str) -> None:
    path = world.folder / "ftl0.nbd"
    with serving(world, "--read-only") as (process, export):
        assert export["read_only"] is True
        client = NbdClient.connect(path)
        if how == "killed":
            process.kill()
        elif how == "deleted":
            world.rpc("bdev_ftl_delete", "-b", "ftl0")
        else:
            world.daemon.kill()
        read_until_the_end(client)
        client.close()
        assert process.wait(TIMEOUT_S) == (-signal.SIGKILL if how == "killed" else 1)
        why = process.stderr.read() if process.stderr else ""
        if how == "killed":
            (ended,) = world.rpc("bdev_ftl_nbd_get")
            assert (ended["state"], ended["reason"]) == ("ended", "the process that started it has ended")
        else:
            assert ("the export has ended: " in why) or ("daemon" in why), why
    if how == "daemon killed":
        # What it left is replaced.
        assert path.exists()
        with daemon_process(world.folder):
            world.wait_for_state("ftl0", "online")
            with serving(world):
                NbdClient.connect(path).close()
    assert not path.exists() or how == "daemon killed"


@pytest.mark.parametrize("safely", ["flush", "fua", "not at all"])
def test_what_was_flushed_over_nbd_survives_machine_and_drive(folder: Path, safely: str) -> None:
    """kill -9 of the daemon, with its write buffer file gone as after a reboot, and a power cut of the drive. Without a
    flush something is lost: else this test would show nothing."""
    flags = FUA if safely == "fua" else 0
    data = os.urandom(64 * BLOCK)
    with ftl_world(folder, "--zns", ZNS) as world:
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach")
        start = ("bdev_ftl_nbd_start", "-b", "ftl0", "--socket-path", str(folder / "ftl0.nbd"))
        world.rpc(*start)
        client = NbdClient.connect(folder / "ftl0.nbd")
        client.ok(WRITE, 256 * BLOCK, data=os.urandom(8 * BLOCK))
        client.ok(FLUSH)
        for block in range(64):
            client.ok(WRITE, block * BLOCK, data=data[block * BLOCK : (block + 1) * BLOCK], flags=flags)
        client.ok(TRIM, 256 * BLOCK, 4 * BLOCK, flags=flags)
        client.ok(WRITE_ZEROES, 260 * BLOCK, 4 * BLOCK, flags=flags)
        if safely == "flush":
            # By another connection: it covers all.
            other = NbdClient.connect(folder / "ftl0.nbd")
            other.ok(FLUSH)
            other.close()
        world.daemon.kill()
        client.close()
        shutil.rmtree(folder / "buffers")
        world.call("ftltgt_power_cut")
        world.call("ftltgt_power_on")
        with daemon_process(folder):
            world.wait_for_state("ftl0", "online")
            world.rpc(*start)
            client = NbdClient.connect(folder / "ftl0.nbd")
            kept = client.ok(READ, 0, 64 * BLOCK) + client.ok(READ, 256 * BLOCK, 8 * BLOCK)
            client.close()
            assert (kept == data + bytes(8 * BLOCK)) is (safely != "not at all")


def test_bdevs_of_the_embedded_target_are_served(target: EmbeddedTarget, folder: Path) -> None:
    rpc = spdk_rpc("26.9", target.socket, plugin="spdk_ftl_py.target.rpc_plugin")
    target.call("bdev_malloc_create", name="M0", num_blocks=SIZE // BLOCK, block_size=BLOCK)
    export = rpc("ftltgt_nbd_start", "M0", str(folder / "m0.nbd"))
    clients_agree(export["uri"], folder, SIZE)
    assert target.call("bdev_get_bdevs", name="M0")[0]["claimed"] is True
    assert [each["name"] for each in rpc("ftltgt_nbd_get")] == ["M0"]
    with contextlib.suppress(FileNotFoundError):
        assert (folder / "m0.nbd").stat().st_mode & 0o777 == 0o600
    rpc("ftltgt_nbd_stop", "M0")
    assert not list(folder.glob("m0.nbd*"))

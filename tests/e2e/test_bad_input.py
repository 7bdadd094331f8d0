"""Every line of the issue's "Bad input": an error that names the thing and the remedy, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.ftl_world import RELEASE, ZNS, FtlWorld, ftl_world
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import DaemonError, FtlError
from support.processes import daemon_process, spdk_rpc, target_process

INVALID_PARAMS = -32602
BLOCKS = 16384


@pytest.fixture(scope="module")
def shared() -> Iterator[FtlWorld]:
    """One pair of processes for all of them: that is what "nothing left behind" means."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path, ftl_world(Path(path), "--zns", ZNS) as world:
        for name, more in {
            "M0": {},
            "M512": {"block_size": 512},
            "Mmd": {"md_size": 8, "md_interleave": True},
            "Mz": {},
            "Mp": {},
            "Ms": {},
            "C0": {},
            "Csmall": {"num_blocks": 128},
            "C512": {"block_size": 512},
            "Cdif": {"md_size": 8, "md_interleave": True, "dif_type": 1},
            "Csep": {"md_size": 8, "md_interleave": False},
        }.items():
            world.call("bdev_malloc_create", **{"name": name, "num_blocks": BLOCKS, "block_size": 4096, **more})
        world.call("bdev_zone_block_create", name="Z0", base_bdev="Mz", zone_capacity=1024, optimal_open_zones=4)
        world.call("bdev_passthru_create", name="P0", base_bdev_name="Mp")
        world.call("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:cnode1", serial_number="1")
        world.call("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:cnode1", namespace={"bdev_name": "Ms"})
        yield world


CASES: dict[str, tuple[str, int, list[str]]] = {
    "an unknown cache bdev": ("-d Nvme0n1 -c Nope", -19, ["cache bdev Nope", "no such bdev", "C0"]),
    "a base with blocks of 512 B": ("-d M512 --zone-capacity 1024", INVALID_PARAMS, ["M512", "512", "4096"]),
    "a base with metadata": ("-d Mmd --zone-capacity 1024", -95, ["Mmd", "8 B of metadata", "without metadata"]),
    "a conventional base": ("-d M0", INVALID_PARAMS, ["M0 is not zoned", "--zone-capacity"]),
    "zones emulated on a zoned base": ("-d Nvme0n1 --zone-capacity 64", INVALID_PARAMS, ["leave out --zone-capacity"]),
    "a zone_block base": ("-d Z0", -95, ["Z0 is a zone_block bdev", "its base bdev Mz", "--zone-capacity 1024"]),
    "zones larger than the base": ("-d M0 --zone-capacity 20000", -22, ["M0", "less than one zone", "smaller zones"]),
    "a base below a passthru bdev": (
        "-d Mp --zone-capacity 1024",
        -1,
        ["base bdev Mp", "already claimed (exclusive_write)", "bdev P0", "use another bdev"],
    ),
    "a base in a subsystem": (
        "-d Ms --zone-capacity 1024",
        -1,
        ["base bdev Ms", "already claimed (exclusive_write)", "nqn.2016-06.io.spdk:cnode1 (namespace 1)"],
    ),
    "a claimed cache": ("-d Nvme0n1 -c Mp", -1, ["cache bdev Mp", "already claimed", "bdev P0"]),
    "a name the target has": ("-b M0 -d Nvme0n1", -17, ["name M0", "choose another"]),
    "a malformed uuid": ("-d Nvme0n1 -u 1234", INVALID_PARAMS, ["uuid (-u)", '"1234"', "must be a UUID such as"]),
    "a cache that is too small": (
        "-d Nvme0n1 -c Csmall",
        INVALID_PARAMS,
        ["Csmall", "128 blocks", "needs", "two bands"],
    ),
    "a cache with blocks of 512 B": ("-d Nvme0n1 -c C512", INVALID_PARAMS, ["C512", "512", "4096"]),
    "a cache with DIF": ("-d Nvme0n1 -c Cdif", INVALID_PARAMS, ["Cdif", "DIF", "without DIF"]),
    "a cache with separate metadata": ("-d Nvme0n1 -c Csep", -95, ["Csep", "separate metadata", "interleaved"]),
    "a cache that is the base": ("-d Nvme0n1 -c Nvme0n1", INVALID_PARAMS, ["Nvme0n1", "also the base bdev", "another"]),
    "invalid_thld of 100": ("-d Nvme0n1 --conf invalid_thld=100", INVALID_PARAMS, ["invalid_thld", "100", "0 to 99"]),
    "overprovisioning of 0": ("-d Nvme0n1 --overprovisioning 0", INVALID_PARAMS, ["overprovisioning", "1 to 99"]),
    "overprovisioning of 100": ("-d Nvme0n1 --overprovisioning 100", INVALID_PARAMS, ["overprovisioning", "1 to 99"]),
    "an empty write buffer": ("-d Nvme0n1 --conf write_buffer_size=0", INVALID_PARAMS, ["32768 to 1073741824"]),
    "a write buffer of 7 blocks": (
        "-d Nvme0n1 --conf write_buffer_size=28672",
        INVALID_PARAMS,
        ["write_buffer_size", "28672", "32768 to 1073741824"],
    ),
    "bands that are too small for a write buffer": (
        "-d M0 --zone-capacity 14 --num-punits 1",
        INVALID_PARAMS,
        ["a band holds", "larger zones"],
    ),
    "a write buffer of part blocks": (
        "-d Nvme0n1 --conf write_buffer_size=50000",
        INVALID_PARAMS,
        ["write_buffer_size", "50000", "multiple of 4096"],
    ),
    "a limit over 100": ("-d Nvme0n1 --limit crit:101", INVALID_PARAMS, ["limit_crit", "101", "0 to 100"]),
    "thresholds that do not descend": (
        "-d Nvme0n1 --limit-threshold crit:3,high:2",
        INVALID_PARAMS,
        ["limit-threshold high = 2", "start > low > high > crit"],
    ),
    "a threshold beyond the free bands": (
        "-d Nvme0n1 --limit-threshold start:1000",
        INVALID_PARAMS,
        ["limit-threshold start = 1000", "throttled for ever"],
    ),
    "too few spare bands": ("-d Nvme0n1 --overprovisioning 1", INVALID_PARAMS, ["lba_rsvd = 1", "raise lba_rsvd"]),
    "more punits than open zones": ("-d Nvme0n1 --num-punits 14", -22, ["num_punits"]),
    "a listen address that is none": (
        "-d Nvme0n1 --listen-address no.such",
        INVALID_PARAMS,
        ["no.such", "ADDRESS:PORT"],
    ),
    "a port that is none": ("-d Nvme0n1 --listen-address 127.0.0.1:70000", INVALID_PARAMS, ["at most 65535"]),
    "an address of somebody else": ("-d Nvme0n1 --listen-address 192.0.2.1", -99, ["192.0.2.1", "choose another"]),
}


@pytest.mark.parametrize("case", CASES)
def test_creation_is_refused_and_nothing_is_left_behind(shared: FtlWorld, case: str) -> None:
    arguments, code, expected = CASES[case]
    before = shared.snapshot()
    name = () if "-b " in arguments else ("-b", "ftl0")
    error = shared.rpc.fails("bdev_ftl_create", *name, *arguments.split())
    assert shared.snapshot() == before
    assert shared.devices() == {}
    assert error["code"] == code, error
    for text in expected:
        assert text in error["message"]


def test_an_unknown_limit_is_refused_with_the_list(shared: FtlWorld) -> None:
    for option in ("--limit", "--limit-threshold"):
        done = shared.rpc.run("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", option, "most:5")
        assert done.returncode == 2
        assert "unknown limit 'most'; known: crit, high, low, start" in done.stderr
    client = DaemonClient(shared.daemon.socket)
    params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": shared.target.socket, "limit_most": 5}
    with pytest.raises(FtlError, match=r'unknown parameter "limit_most"; known: .*limit_start'):
        client.call("bdev_ftl_create", params)


@pytest.mark.parametrize("method", ["bdev_ftl_delete", "bdev_ftl_get_stats", "bdev_ftl_get_properties"])
def test_an_ftl_that_is_none_is_named(shared: FtlWorld, method: str) -> None:
    error = shared.rpc.fails(method, "-b", "nope")
    assert error == {"code": -19, "message": "FTL bdev nope: no such FTL; the daemon has: none"}


def test_the_sockets_of_target_and_daemon_are_told_apart(shared: FtlWorld) -> None:
    """Each given for the other, to rpc.py with the plugin and to spdk-ftl."""
    rpc = spdk_rpc(RELEASE, shared.target.socket, plugin="spdk_ftl_py", SPDK_FTL_SOCK=shared.target.socket)
    error = rpc.fails("bdev_ftl_get_stats", "-b", "ftl0")
    assert ("seems to be the RPC socket of an SPDK target, not the control socket of a spdk-ftl daemon") in error[
        "message"
    ]
    params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": shared.daemon.socket}
    with pytest.raises(FtlError, match="it seems to be the control socket of a spdk-ftl daemon"):
        DaemonClient(shared.daemon.socket).call("bdev_ftl_create", params)
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "check", "Nvme0n1", "-s", shared.daemon.socket]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=shared.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "it seems to be the control socket of a spdk-ftl daemon" in done.stderr


@pytest.mark.parametrize("wrong", ["128", "200", "256", "1024"])
def test_a_wrong_zone_capacity_is_told_with_the_right_one(shared: FtlWorld, wrong: str) -> None:
    made = shared.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "M0", "--zone-capacity", "250", "--force")
    shared.rpc("bdev_ftl_delete", "-b", "ftl0")
    how = ("-d", "M0", "--zone-capacity", wrong)
    if wrong == "256":  # which holds all that it held
        shared.rpc("bdev_ftl_create", "-b", "ftl0", *how, "-u", made["uuid"])
        shared.rpc("bdev_ftl_delete", "-b", "ftl0")
        return
    error = shared.rpc.fails("bdev_ftl_create", "-b", "ftl0", *how, "-u", made["uuid"])
    assert "(for emulated zones: --zone-capacity 250)" in error["message"]


def test_a_target_that_does_not_run_is_named(shared: FtlWorld) -> None:
    nobody = str(shared.folder / "nobody.sock")
    done = spdk_rpc(RELEASE, nobody, plugin="spdk_ftl_py", SPDK_FTL_SOCK=shared.daemon.socket).run(
        "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"
    )
    assert done.returncode == 1
    assert "Is SPDK application running?" in done.stdout
    params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": nobody}
    with pytest.raises(FtlError, match=r"nobody\.sock can't be reached .* check that it is running") as caught:
        DaemonClient(shared.daemon.socket).call("bdev_ftl_create", params)
    assert caught.value.jsonrpc_code == -111
    assert shared.devices() == {}


def test_a_daemon_that_does_not_run_is_named_with_what_to_start(shared: FtlWorld) -> None:
    nobody = str(shared.folder / "nobody.sock")
    rpc = spdk_rpc(RELEASE, shared.target.socket, plugin="spdk_ftl_py", SPDK_FTL_SOCK=nobody)
    error = rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
    assert "is not running" in error["message"]
    assert "start it with `spdk-ftl serve`" in error["message"]
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "devices", "--socket", nobody]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=shared.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "start it with `spdk-ftl serve`" in done.stderr


def test_a_daemon_that_died_leaves_a_socket_that_a_new_one_takes_over(folder: Path) -> None:
    with daemon_process(folder) as daemon:
        daemon.process.kill()
        daemon.process.wait()
        assert Path(daemon.socket).is_socket()
        with pytest.raises(DaemonError, match="nobody listens on its socket"):
            DaemonClient(daemon.socket).call("ftl_get_daemon")
    with daemon_process(folder) as daemon:
        assert DaemonClient(daemon.socket).call("ftl_get_daemon")["devices"] == 0
    assert not Path(daemon.socket).exists()


@pytest.mark.started
def test_a_second_daemon_is_refused(folder: Path) -> None:
    with daemon_process(folder) as daemon:
        for state, expected in ((folder / "other", "control socket"), (folder / "state", "state directory")):
            socket = daemon.socket if state.name == "other" else str(folder / "other.sock")
            command = [
                sys.executable,
                "-m",
                "spdk_ftl_py.cli",
                "serve",
                "--socket",
                socket,
                "--state-dir",
                str(state),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith(f"spdk-ftl: {expected}")
        assert DaemonClient(daemon.socket).call("ftl_get_daemon")["devices"] == 0


def test_a_target_without_tcp_transport_is_told_what_to_call(folder: Path) -> None:
    with ftl_world(folder, "--zns", ZNS, tcp=False) as world:
        before = world.snapshot()
        error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
        assert "nvmf_create_transport -t TCP" in error["message"]
        assert world.target.socket in error["message"]
        assert world.snapshot() == before


def test_a_target_that_dies_half_way_fails_the_creation_and_no_more(folder: Path) -> None:
    with daemon_process(folder) as daemon:
        with target_process(folder, "--zns", ZNS) as target:
            world = FtlWorld(folder, target, daemon)
            world.tcp()
            # The creation gets as far as its first zone report, and no further.
            world.call("ftltgt_inject_fault", name="Nvme0n1", op="zone_report", latency_us=600_000_000)
            outcome: list[Any] = []

            def create() -> None:
                params = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": target.socket}
                try:
                    outcome.append(DaemonClient(daemon.socket).call("bdev_ftl_create", params))
                except FtlError as error:
                    outcome.append(error)

            creation = threading.Thread(target=create)
            creation.start()
            world.wait_until_claimed("Nvme0n1")
            target.kill()
            creation.join(90)
            assert not creation.is_alive()
        assert isinstance(outcome[0], FtlError)
        assert not isinstance(outcome[0], DaemonError)
        with target_process(folder, "--zns", ZNS) as target:
            world = FtlWorld(folder, target, daemon)
            world.tcp()
            assert world.devices() == {}
            before = world.snapshot()
            world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
            world.rpc("bdev_ftl_delete", "-b", "ftl0")
            assert world.snapshot() == before


def test_a_failing_drive_undoes_the_creation(folder: Path) -> None:
    with ftl_world(folder, "--zns", ZNS) as world:
        before = world.snapshot()
        for op in ("zone_report", "write"):
            world.call("ftltgt_inject_fault", name="Nvme0n1", op=op, status="internal_error")
            error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
            assert error["code"] < 0
            assert world.snapshot() == before
            assert world.devices() == {}
            world.call("ftltgt_clear_faults", name="Nvme0n1")
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")

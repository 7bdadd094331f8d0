"""The embedded target driven by stock spdk-rpc: every RPC with each release, details with one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.nvme.auth.key import DhchapKey, write_key_file
from support.processes import EmbeddedTarget, RawRpc, SpdkRpc, free_port, spdk_rpc, target_process

NQN = "nqn.2026-11.io.spdk-ftl.test:a"
HOST = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
COMMAND = (sys.executable, "-m", "spdk_ftl_py.cli", "target")
UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def rpc(target: EmbeddedTarget) -> SpdkRpc:
    return spdk_rpc("26.5", target.socket)


def bdev(rpc: SpdkRpc, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = rpc("bdev_get_bdevs", "-b", name)
    assert len(found) == 1
    return found[0]


def test_every_rpc_works_with_every_client_release(target: EmbeddedTarget, release: str, folder: Path) -> None:
    rpc, port = spdk_rpc(release, target.socket), str(free_port())
    (folder / "disk").write_bytes(bytes(1 << 20))
    write_key_file(folder / "key", DhchapKey.generate())
    listener = f"{NQN} -t tcp -f ipv4 -a 127.0.0.1 -s {port}"
    rpc.script(
        "spdk_get_version",
        "rpc_get_methods",
        "framework_wait_init",
        f"bdev_malloc_create 4 4096 -b M0 -u {UUID}",
        "bdev_malloc_create 4 4096 -b Mmd -m 64 -i",
        "bdev_null_create N0 4 4096",
        f"bdev_aio_create {folder}/disk A0 4096",
        "bdev_zone_block_create -b Z0 -n N0 -z 256 -o 4",
        "bdev_passthru_create -b A0 -p P0",
        "bdev_malloc_create 4 4096 -b M1",
        "bdev_null_create N1 1 4096",
        "bdev_null_resize N1 4",
        "bdev_error_create M1",
        "bdev_error_inject_error EE_M1 write corrupt_data -n 2 -q 1 -o 5 -v 7",
        "bdev_error_inject_error EE_M1 all failure",
        "bdev_error_inject_error EE_M1 clear failure",
        "bdev_delay_create -b EE_M1 -d D1 -r 1 -t 2 -w 3 -n 4",
        "bdev_delay_update_latency D1 p99_read 5",
        "bdev_split_create D1 2 -s 2",
        "bdev_raid_create -n R1 -r raid1 -b 'D1p0 D1p1'",
        "bdev_raid_create -n R0 -z 64 -r 0 -b N1",
        "bdev_raid_get_bdevs all",
        "bdev_wait_for_examine",
        "bdev_get_iostat",
        "log_get_flags",
        "log_set_flag bdev_raid",
        "log_clear_flag bdev_raid",
        "log_set_level DEBUG",
        "log_get_level",
        "log_set_print_level DEBUG",
        "log_get_print_level",
        "nvmf_create_transport -t TCP",
        "nvmf_get_transports",
        f"nvmf_create_subsystem {NQN} -s SERIAL -d MODEL -m 4",
        f"nvmf_subsystem_add_ns {NQN} M0 -n 2 -u 21111111-2222-3333-4444-555555555555"
        " -g 31111111222233334444555555555555",
        f"nvmf_subsystem_add_listener {listener}",
        f"nvmf_subsystem_get_listeners {NQN}",
        f"keyring_file_add_key k0 {folder}/key",
        "keyring_get_keys",
        f"nvmf_subsystem_add_host {NQN} {HOST} --dhchap-key k0 --dhchap-ctrlr-key k0",
        f"nvmf_subsystem_remove_host {NQN} {HOST}",
        "keyring_file_remove_key k0",
        f"nvmf_subsystem_allow_any_host {NQN} {'-e' if release == '25.5' else '--allow-any-host'}",
        "bdev_nvme_set_options -r 4",
        f"bdev_nvme_attach_controller -b X -t tcp -f ipv4 -a 127.0.0.1 -s {port} -n {NQN} -l 10 -o 1",
        "bdev_nvme_get_controllers",
        f"nvmf_subsystem_get_controllers {NQN}",
        f"nvmf_subsystem_get_qpairs {NQN}",
        "bdev_get_bdevs -b Xn2 -t 1000",
        "bdev_passthru_create -b Xn2 -p ftl0",
        "nvmf_get_subsystems",
        "notify_get_types",
        "notify_get_notifications -i 0 -n 100",
    )
    printed = rpc("bdev_get_bdevs")
    claims = {each["name"]: each.get("claim_type") for each in printed}
    assert claims == {
        "M0": "exclusive_write",
        "Mmd": None,
        "N0": "exclusive_write",
        "N1": "exclusive_write",
        "M1": "exclusive_write",
        "EE_M1": "exclusive_write",
        "D1": "exclusive_write",
        "D1p0": "exclusive_write",
        "D1p1": "exclusive_write",
        "R0": None,
        "R1": None,
        "A0": "exclusive_write",
        "Z0": None,
        "P0": None,
        "Xn2": "exclusive_write",
        "ftl0": None,
    }
    assert bdev(rpc, "Xn2")["uuid"] == "31111111-2222-3333-4444-555555555555"
    saved = rpc("save_config")
    assert [subsystem["subsystem"] for subsystem in saved["subsystems"]] == ["keyring", "bdev", "nvmf"]
    rpc.script(
        "bdev_passthru_delete ftl0",
        "bdev_nvme_detach_controller X",
        f"nvmf_subsystem_remove_ns {NQN} 2",
        f"nvmf_subsystem_remove_listener {listener}",
        f"nvmf_delete_subsystem {NQN}",
        "bdev_passthru_delete P0",
        "bdev_raid_delete R1",
        "bdev_raid_delete R0",
        "bdev_split_delete D1",
        "bdev_delay_delete D1",
        "bdev_error_delete EE_M1",
        "bdev_malloc_delete M1",
        "bdev_null_delete N1",
        "bdev_zone_block_delete Z0",
        "bdev_aio_delete A0",
        "bdev_null_delete N0",
        "bdev_malloc_delete Mmd",
        "bdev_malloc_delete M0",
    )
    assert rpc("bdev_get_bdevs") == []
    rpc("spdk_kill_instance", "SIGUSR1")
    rpc("spdk_kill_instance", "SIGHUP")
    assert target.process.wait(30) == 0
    assert not Path(target.socket).exists()


def test_the_ftltgt_plugin_works_with_every_client_release(target: EmbeddedTarget, release: str) -> None:
    rpc = spdk_rpc(release, target.socket, plugin="ftltgt")
    created = rpc(
        *("ftltgt_zns_create", "Zns0", "--size", "8M", "--zone-size", "1M", "--zone-capacity", "768K"),
        *("--max-open-zones", "3", "--max-active-zones", "5", "--uuid", UUID),
    )
    assert created == "Zns0"
    drive = bdev(rpc, "Zns0")
    assert (drive["product_name"], drive["zoned"], drive["num_blocks"]) == ("NVMe ZNS disk", True, 2048)
    assert (drive["zone_size"], drive["max_open_zones"], drive["optimal_open_zones"]) == (256, 3, 0)
    assert drive["uuid"] == UUID
    assert rpc("ftltgt_inject_fault", "Zns0", "--op", "read", "--status", "unrecovered_read", "--times", "2") >= 0
    assert rpc("ftltgt_clear_faults", "Zns0") is None
    rpc("ftltgt_set_zone_state", "Zns0", "3", "offline")
    stats = rpc("ftltgt_get_media_stats", "Zns0", "--zones")
    assert stats["zone_states"] == {"empty": 7, "offline": 1}
    assert stats["zones"][3]["state"] == "offline"
    assert rpc("ftltgt_power_cut", "Zns0") == ["Zns0"]
    assert rpc("ftltgt_power_on") == ["Zns0"]
    rpc("ftltgt_zns_delete", "Zns0")
    assert rpc("bdev_get_bdevs") == []


def test_the_plugin_of_the_installed_package_is_the_same(target: EmbeddedTarget) -> None:
    rpc = spdk_rpc("26.9", target.socket, plugin="spdk_ftl_py.target.rpc_plugin")
    assert rpc("ftltgt_zns_create", "Zns0", "--num-zones", "4", "--zone-size", "1M") == "Zns0"


def test_the_plugin_knows_dry_runs_and_server_mode(target: EmbeddedTarget, release: str) -> None:
    rpc = spdk_rpc(release, target.socket, plugin="ftltgt")
    arguments = ("ftltgt_zns_create", "Zns0", "--num-zones", "4", "--zone-size", "1M")
    dry = rpc.run(*arguments, global_options=("--dry-run",))
    assert dry.returncode == 0
    assert "null" not in dry.stdout
    assert '"num_zones": 4' in dry.stdout
    assert rpc("bdev_get_bdevs") == []
    served = rpc.run(global_options=("--server",), stdin=f"-s {target.socket} {' '.join(arguments)}\n")
    assert served.stdout.splitlines() == ["Zns0", "**STATUS=0"], served.stderr


def test_refusals_are_what_spdk_answers(rpc: SpdkRpc, target: EmbeddedTarget) -> None:
    rpc("bdev_malloc_create", "4", "4096", "-b", "M0", "-u", UUID)
    assert rpc.fails("bdev_get_bdevs", "-b", "nosuch") == {"code": -19, "message": "No such device"}
    assert rpc.fails("bdev_get_bdevs", "-b", "nosuch", "-t", "20") == {"code": -110, "message": "Connection timed out"}
    assert rpc.fails("bdev_malloc_create", "4", "4096", "-b", "M0")["code"] == -17
    assert rpc.fails("bdev_malloc_create", "4", "4096", "-b", "M1", "-u", UUID)["code"] == -17
    assert rpc.fails("bdev_null_delete", "M0")["code"] == -19
    rpc("nvmf_create_subsystem", NQN, "-a")
    duplicate = rpc.fails("nvmf_create_subsystem", NQN, "-a")
    assert duplicate == {"code": -32603, "message": f"Unable to create subsystem {NQN}"}
    refused = {"code": -32602, "message": "Invalid parameters"}
    address = ("-t", "tcp", "-f", "ipv4", "-a", "127.0.0.1", "-s", str(free_port()))
    assert rpc.fails("nvmf_subsystem_add_listener", NQN, *address) == refused  # no transport yet
    rpc("nvmf_create_transport", "-t", "TCP")
    again = {"code": -32603, "message": "Transport type 'TCP' already exists"}
    assert rpc.fails("nvmf_create_transport", "-t", "TCP") == again
    rpc("nvmf_subsystem_add_listener", NQN, *address)
    assert rpc.fails("nvmf_subsystem_add_listener", NQN, *address) == refused
    rpc("nvmf_subsystem_add_ns", NQN, "M0")
    assert rpc.fails("nvmf_subsystem_add_ns", NQN, "M0") == refused
    assert rpc.fails("bdev_passthru_create", "-b", "M0", "-p", "P0")["code"] == -1


def test_a_bdev_is_waited_for_and_found_when_it_comes(rpc: SpdkRpc, target: EmbeddedTarget) -> None:
    with RawRpc(target.socket) as waiting:
        waiting.send(b'{"jsonrpc":"2.0","id":7,"method":"bdev_get_bdevs","params":{"name":"late","timeout":60000}}')
        rpc("bdev_malloc_create", "4", "4096", "-b", "late")
        reply = waiting.answer()
    assert reply["id"] == 7
    assert reply["result"][0]["name"] == "late"


def test_a_saved_configuration_makes_the_same_target(folder: Path) -> None:
    port = str(free_port())
    with target_process(folder, "--zns", "name=Zns0,zones=8,zone_size=1M,capacity=768K,max_open=4") as first:
        rpc = spdk_rpc("26.9", first.socket)
        rpc.script(
            "bdev_malloc_create 4 4096 -b M0",
            "bdev_passthru_create -b M0 -p P0",
            "nvmf_create_transport -t TCP",
            f"nvmf_create_subsystem {NQN} -a",
            f"nvmf_subsystem_add_ns {NQN} P0",
            f"nvmf_subsystem_add_listener {NQN} -t tcp -f ipv4 -a 127.0.0.1 -s {port}",
        )
        saved = json.dumps(rpc("save_config"))
        before = (rpc("bdev_get_bdevs"), rpc("nvmf_get_subsystems"))
    (folder / "saved.json").write_text(saved)
    with target_process(folder, "-c", str(folder / "saved.json")) as second:
        rpc = spdk_rpc("26.9", second.socket)
        assert (rpc("bdev_get_bdevs"), rpc("nvmf_get_subsystems")) == before
    with target_process(folder) as third:
        rpc = spdk_rpc("25.5", third.socket)
        done = rpc.run("load_config", stdin=saved)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (rpc("bdev_get_bdevs"), rpc("nvmf_get_subsystems")) == before


@pytest.mark.started
def test_a_live_socket_is_refused_by_name_and_a_dead_one_taken_over(folder: Path, target: EmbeddedTarget) -> None:
    done = subprocess.run(
        [*COMMAND, "-r", target.socket], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert target.socket in done.stderr
    assert "running process" in done.stderr
    assert "Traceback" not in done.stderr
    target.kill()
    assert Path(target.socket).exists()
    with target_process(folder) as successor:
        assert spdk_rpc("26.9", successor.socket)("bdev_get_bdevs") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--zns", "name=Z,zones=4"), "zone_size"),
        (("--zns", "name=Z,zones=4,zone_size=3M"), "power of two"),
        (("--zns", "name=Z,zones=4,size=4M,zone_size=1M"), "either zones"),
        (("--zns", "name=Z,zones=4,zone_size=1M,capacity=2M"), "capacity=2M is not between one block and zone_size=1M"),
        (("--zns", "name=Z,zones=4,zone_size=1M,speed=9"), "speed"),
        (("--zns", "name=Z,zones=0,zone_size=1M"), "zones must be at least 1"),
        (("--zns", "name=Z,zones=4,zone_size=1M,uuid=u"), "uuid=u is not a UUID"),
        (("--zns", "name=Z,zones=4,zone_size=1M,path=no/such"), "no/such: No such file or directory"),
        (("--malloc", "name=M,size=many"), "many"),
        (
            ("--malloc", "name=M,size=1M", "--malloc", "name=M,size=2M"),
            "name=M,size=2M: --malloc name=M,size=1M already has that name",
        ),
        (("-c", "nosuch.json"), "nosuch.json"),
    ],
)
def test_wrong_options_are_named(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [*COMMAND, "-r", str(folder / "t.sock"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    state = ("path=no/such", "nosuch.json")  # of the machine
    assert done.returncode == (1 if arguments[1].endswith(state) else 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "t.sock").exists()


@pytest.mark.parametrize("release", ["26.5", "26.9"])
def test_a_batch_of_builtin_and_plugin_commands_is_answered(target: EmbeddedTarget, release: str) -> None:
    rpc = spdk_rpc(release, target.socket, plugin="ftltgt")
    commands = "bdev_malloc_create 4 4096 -b M0\nftltgt_zns_create Zns0 --num-zones 4 --zone-size 1M\n"
    done = rpc.run(global_options=("--batch-mode",), stdin=commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["name"] for each in rpc("bdev_get_bdevs")] == ["M0", "Zns0"]


def test_a_target_outlives_the_one_whose_namespace_it_attached(folder: Path) -> None:
    (folder / "far").mkdir()
    with target_process(folder / "far", "--malloc", "name=M0,size=4M") as far, target_process(folder) as near:
        far.call("nvmf_create_transport", trtype="TCP")
        port = far.export("M0", NQN)
        rpc = spdk_rpc("26.5", near.socket)
        where = ("-t", "tcp", "-f", "ipv4", "-a", "127.0.0.1", "-s", str(port), "-n", NQN)
        rpc("bdev_nvme_attach_controller", "-b", "Far", *where, "-l", "1", "-o", "1")
        rpc("bdev_passthru_create", "-b", "Farn1", "-p", "P0")
        far.kill()
        with RawRpc(near.socket) as raw:
            # No RPC waits for a controller to go: one that waits for a bdev that never comes sets the pace.
            while raw.call("bdev_nvme_get_controllers"):
                assert raw.call("bdev_get_bdevs", {"name": "nosuch", "timeout": 50})["code"] == -110
        assert rpc("bdev_get_bdevs") == []
        near.close()
        assert near.process.returncode == 0

"""One script of RPCs, sent to a real spdk_tgt and to the embedded target: results and refusals must be the same.

Left out of the comparison: what names the machine or the run (random UUIDs, ports), and the fields of attached
controllers that stem from a controller's own Identify data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from live.spdk_target import SpdkTarget
from spdk_ftl_py.target.rpcs.logs import FLAGS as LOG_FLAGS
from support.processes import RawRpc, free_port, target_process

Script = list[tuple[str, Any]]

NQN = "nqn.2026-11.io.spdk-ftl.test:a"
OTHER = NQN + "2"
HOST = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"
UUID = "11111111-2222-3333-4444-555555555555"
UUIDS = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
KEPT_OF_NVME_BDEVS = (
    "name", "product_name", "block_size", "num_blocks", "uuid", "claimed", "claim_type", "zoned", "memory_domains",
)  # fmt: skip


def bdev_script(folder: Path) -> Script:
    malloc = {"num_blocks": 1024, "block_size": 4096}
    return [
        ("rpc_get_methods", {"bogus": True}),
        ("nosuch", None),
        ("bdev_get_bdevs", None),
        ("bdev_get_bdevs", {"name": "x"}),
        ("bdev_get_bdevs", {"name": "x", "timeout": 1}),
        ("bdev_get_bdevs", {"name": 3}),
        ("bdev_get_bdevs", []),
        ("bdev_malloc_create", malloc),
        ("bdev_malloc_create", {**malloc, "name": "M1", "uuid": UUID}),
        ("bdev_malloc_create", {**malloc, "name": "M1"}),
        ("bdev_malloc_create", {**malloc, "name": "M2", "uuid": UUID}),
        ("bdev_malloc_create", {**malloc, "num_blocks": 0}),
        ("bdev_malloc_create", {**malloc, "block_size": 100}),
        ("bdev_malloc_create", {**malloc, "block_size": 0}),
        ("bdev_malloc_create", {**malloc, "num_blocks": "10"}),
        ("bdev_malloc_create", {**malloc, "num_blocks": 10.5}),
        ("bdev_malloc_create", {**malloc, "uuid": "zz"}),
        ("bdev_malloc_create", {**malloc, "md_size": 7}),
        ("bdev_malloc_create", {**malloc, "dif_type": 1}),
        ("bdev_malloc_create", {**malloc, "name": "Mmd", "md_size": 64, "md_interleave": True}),
        ("bdev_malloc_create", {**malloc, "name": "Msep", "md_size": 8}),
        ("bdev_malloc_create", {**malloc, "name": "Mdif", "md_size": 8, "md_interleave": True, "dif_type": 1}),
        ("bdev_null_create", {**malloc, "name": "N0"}),
        ("bdev_null_create", {**malloc, "name": "N1", "block_size": 512, "md_size": 8}),
        ("bdev_null_create", malloc),
        ("bdev_aio_create", {"name": "A0", "filename": str(folder / "disk"), "block_size": 4096}),
        ("bdev_aio_create", {"name": "A1", "filename": str(folder / "disk")}),
        ("bdev_aio_create", {"name": "A1", "filename": str(folder / "nosuch"), "block_size": 4096}),
        (
            "bdev_zone_block_create",
            {"name": "Z0", "base_bdev": "Malloc0", "zone_capacity": 100, "optimal_open_zones": 4},
        ),
        ("bdev_zone_block_create", {"name": "Z0", "base_bdev": "M1", "zone_capacity": 100, "optimal_open_zones": 4}),
        ("bdev_zone_block_create", {"name": "Z1", "base_bdev": "M1", "zone_capacity": 0, "optimal_open_zones": 4}),
        ("bdev_zone_block_create", {"name": "Z2", "base_bdev": "later", "zone_capacity": 256, "optimal_open_zones": 1}),
        ("bdev_zone_block_create", {"name": "Z3"}),
        ("bdev_passthru_create", {"name": "P0", "base_bdev_name": "M1"}),
        ("bdev_passthru_create", {"name": "P0", "base_bdev_name": "M1"}),
        ("bdev_passthru_create", {"name": "P1", "base_bdev_name": "Malloc0"}),
        ("bdev_passthru_create", {"name": "P2", "base_bdev_name": "later2"}),
        ("bdev_get_bdevs", {"name": "P2"}),
        ("bdev_malloc_create", {**malloc, "name": "later"}),
        ("bdev_malloc_create", {**malloc, "name": "later2"}),
        ("bdev_get_bdevs", None),
        ("bdev_get_bdevs", {"name": UUID}),
        ("notify_get_types", None),
        ("notify_get_notifications", None),
        ("notify_get_notifications", {"id": "x"}),
        ("bdev_malloc_delete", {"name": "nosuch"}),
        ("bdev_malloc_delete", {"name": "A0"}),
        ("bdev_malloc_delete", {}),
        ("bdev_malloc_delete", {"name": "M1"}),
        ("bdev_malloc_delete", {"name": "Malloc0"}),
        ("bdev_get_bdevs", {"name": "Z0"}),
        ("bdev_malloc_create", {**malloc, "name": "M1", "uuid": UUID}),
        ("bdev_get_bdevs", {"name": "P0"}),
        ("bdev_passthru_delete", {"name": "P0"}),
        ("bdev_passthru_delete", {"name": "P0"}),
        ("bdev_aio_delete", {"name": "A0"}),
        ("bdev_null_delete", {"name": "N1"}),
        ("bdev_zone_block_delete", {"name": "Z2"}),
        ("bdev_malloc_delete", {"name": UUID}),
        ("bdev_wait_for_examine", None),
        ("bdev_wait_for_examine", {}),
        ("notify_get_notifications", None),
    ]


def virtual_script() -> Script:
    malloc = {"num_blocks": 1024, "block_size": 4096}
    latencies = {
        "avg_read_latency": 100, "p99_read_latency": 200, "avg_write_latency": 300, "p99_write_latency": 400,
    }  # fmt: skip
    inject = {"name": "EE_M0", "io_type": "read", "error_type": "failure"}
    raid0 = {"name": "R0", "raid_level": "raid0", "strip_size_kb": 64, "base_bdevs": ["N0", "N1"]}
    examined = ("bdev_wait_for_examine", None)

    def get(name: str) -> tuple[str, Any]:
        return "bdev_get_bdevs", {"name": name}

    return [
        *(("bdev_malloc_create", {**malloc, "name": f"M{i}", "uuid": UUID[:-1] + str(i)}) for i in range(4)),
        *(("bdev_null_create", {**malloc, "name": f"N{i}"}) for i in range(2)),
        ("bdev_null_create", {"name": "N512", "num_blocks": 1500, "block_size": 512}),
        ("bdev_malloc_create", {**malloc, "name": "Mmd", "md_size": 64, "md_interleave": True}),
        ("bdev_malloc_create", {**malloc, "name": "Mdif", "md_size": 8, "md_interleave": True, "dif_type": 1}),
        examined,
        # errors
        ("bdev_error_create", {}),
        ("bdev_error_create", {"base_name": "M0", "uuid": UUID[:-1] + "9"}),
        ("bdev_error_create", {"base_name": "M0"}),
        ("bdev_error_create", {"base_name": "later"}),
        ("bdev_error_create", {"base_name": "Mdif"}),
        examined,
        get("EE_M0"),
        get("M0"),
        get("EE_later"),
        get("EE_Mdif"),
        ("bdev_error_create", {"base_name": "EE_M0"}),
        get("EE_EE_M0"),
        ("bdev_error_inject_error", inject),
        ("bdev_error_inject_error", {**inject, "name": "M0"}),
        ("bdev_error_inject_error", {**inject, "name": "nosuch"}),
        ("bdev_error_inject_error", {**inject, "io_type": "compare"}),
        ("bdev_error_inject_error", {**inject, "error_type": "corrupt_data"}),
        ("bdev_error_inject_error", {**inject, "error_type": "corrupt_data", "corrupt_value": 256}),
        ("bdev_error_inject_error", {**inject, "error_type": "nvme_failure"}),
        ("bdev_error_inject_error", {**inject, "nvme_sct": 2}),
        ("bdev_error_inject_error", {**inject, "io_type": "clear"}),
        ("bdev_error_resume_pending", {"name": "M0"}),
        ("bdev_error_resume_pending", {"name": "nosuch"}),
        ("bdev_error_resume_pending", {"name": "EE_M0"}),
        ("bdev_error_delete", {"name": "M0"}),
        ("bdev_error_delete", {"name": "nosuch"}),
        ("bdev_error_delete", {"name": "EE_Mdif"}),
        ("bdev_error_delete", {"name": "EE_EE_M0"}),
        ("bdev_malloc_create", {**malloc, "name": "later"}),
        examined,
        get("EE_later"),
        ("bdev_malloc_delete", {"name": "later"}),
        ("bdev_malloc_create", {**malloc, "name": "later"}),
        examined,
        get("EE_later"),
        # delays
        ("bdev_delay_create", {"name": "D0", "base_bdev_name": "EE_M0", **latencies}),
        get("D0"),
        ("bdev_delay_create", {"name": "D0", "base_bdev_name": "M1", **latencies}),
        ("bdev_delay_create", {"name": "D1", "base_bdev_name": "EE_M0", **latencies}),
        ("bdev_delay_create", {"name": "D1", "base_bdev_name": "M1", **latencies}),
        ("bdev_delay_create", {"name": "D2", "base_bdev_name": "M1", **latencies, "p99_read_latency": 1}),
        ("bdev_delay_create", {"name": "D2", "base_bdev_name": "M1"}),
        ("bdev_delay_create", {"name": "D3", "base_bdev_name": "later3", **latencies, "uuid": UUID[:-1] + "8"}),
        get("D3"),
        ("bdev_malloc_create", {**malloc, "name": "later3"}),
        examined,
        get("D3"),
        ("bdev_delay_update_latency", {"delay_bdev_name": "D0", "latency_type": "avg_read", "latency_us": 700}),
        ("bdev_delay_update_latency", {"delay_bdev_name": "D0", "latency_type": "mean", "latency_us": 700}),
        ("bdev_delay_update_latency", {"delay_bdev_name": "EE_M0", "latency_type": "avg_read", "latency_us": 700}),
        ("bdev_delay_update_latency", {"delay_bdev_name": "nosuch", "latency_type": "avg_read", "latency_us": 700}),
        get("D0"),
        ("bdev_delay_delete", {"name": "M0"}),
        ("bdev_delay_delete", {"name": "nosuch"}),
        # splits
        ("bdev_split_create", {"base_bdev": "M1", "split_count": 0}),
        ("bdev_split_create", {"base_bdev": "M1"}),
        ("bdev_split_create", {"base_bdev": "M1", "split_count": 2}),
        ("bdev_split_create", {"base_bdev": "M1", "split_count": 2}),
        ("bdev_split_create", {"base_bdev": "M2", "split_count": 8, "split_size_mb": 1}),
        ("bdev_split_create", {"base_bdev": "Mmd", "split_count": 8, "split_size_mb": 1}),
        ("bdev_split_create", {"base_bdev": "M0", "split_count": 2}),
        ("bdev_split_create", {"base_bdev": "later4", "split_count": 2}),
        get("M1"),
        get("M1p1"),
        get("M2p3"),
        ("bdev_malloc_create", {**malloc, "name": "later4"}),
        examined,
        get("later4p0"),
        ("bdev_split_delete", {"base_bdev": "nosuch"}),
        ("bdev_split_delete", {"base_bdev": "later4"}),
        examined,
        get("later4p0"),
        ("bdev_malloc_delete", {"name": "M2"}),
        get("M2p0"),
        ("bdev_malloc_create", {**malloc, "name": "M2"}),
        examined,
        get("M2p0"),
        # raids
        ("bdev_raid_get_bdevs", {}),
        ("bdev_raid_get_bdevs", {"category": "some"}),
        ("bdev_raid_get_bdevs", {"category": "all"}),
        ("bdev_raid_create", {"name": "R0"}),
        ("bdev_raid_create", {**raid0, "raid_level": "raid6"}),
        ("bdev_raid_create", {**raid0, "raid_level": "raid5f"}),
        ("bdev_raid_create", {**raid0, "base_bdevs": []}),
        ("bdev_raid_create", {**raid0, "base_bdevs": ["N0", ""]}),
        ("bdev_raid_create", {**raid0, "base_bdevs": ["N0", "N0"]}),
        ("bdev_raid_create", {**raid0, "base_bdevs": ["N0", "N512"]}),
        ("bdev_raid_create", {**raid0, "base_bdevs": ["N0", "M0"]}),
        ("bdev_raid_create", {**raid0, "strip_size_kb": 3}),
        ("bdev_raid_create", {**raid0, "strip_size_kb": 0}),
        ("bdev_raid_create", {**raid0, "strip_size_kb": 1}),
        ("bdev_raid_create", {**raid0, "name": "N1"}),
        ("bdev_raid_create", {**raid0, "name": "x" * 64}),
        ("bdev_raid_create", {**raid0, "raid_level": "raid1"}),
        ("bdev_raid_create", {"name": "R1", "raid_level": "raid1", "base_bdevs": ["M2"]}),
        ("bdev_raid_get_bdevs", {"category": "all"}),
        ("bdev_raid_create", raid0),
        ("bdev_raid_create", raid0),
        ("bdev_raid_create", {"name": "R1", "raid_level": "1", "base_bdevs": ["M2", "M3"], "uuid": UUID[:-1] + "7"}),
        (
            "bdev_raid_create",
            {"name": "Rc", "raid_level": "concat", "strip_size_kb": 4, "base_bdevs": ["M1p0", "M1p1", "later5"]},
        ),
        examined,
        ("bdev_raid_get_bdevs", {"category": "all"}),
        ("bdev_raid_get_bdevs", {"category": "configuring"}),
        get("R0"),
        get("R1"),
        get("N0"),
        get("Rc"),
        ("bdev_malloc_create", {**malloc, "num_blocks": 100, "name": "later5", "uuid": UUID[:-1] + "6"}),
        examined,
        get("Rc"),
        ("bdev_null_resize", {"name": "N0", "new_size": 8}),
        get("R0"),
        ("bdev_null_resize", {"name": "N1", "new_size": 6}),
        examined,
        get("R0"),
        ("bdev_raid_delete", {"name": "nosuch"}),
        ("bdev_raid_delete", {}),
        ("bdev_malloc_delete", {"name": "later5"}),  # a concat can't do without a member
        examined,
        ("bdev_raid_get_bdevs", {"category": "all"}),
        get("Rc"),
        get("M1p0"),
        ("bdev_raid_delete", {"name": "Rc"}),
        get("M1p0"),
        ("bdev_malloc_delete", {"name": "M3"}),  # a raid1 can
        examined,
        ("bdev_raid_get_bdevs", {"category": "online"}),
        get("R1"),
        ("bdev_malloc_delete", {"name": "M2"}),
        examined,
        ("bdev_raid_get_bdevs", {"category": "all"}),
        ("bdev_raid_delete", {"name": "R0"}),
        examined,
        ("bdev_raid_get_bdevs", {"category": "all"}),
        get("N0"),
        # resize
        ("bdev_null_resize", {"name": "nosuch", "new_size": 8}),
        ("bdev_null_resize", {"name": "M1", "new_size": 8}),
        ("bdev_null_resize", {"name": "N1", "new_size": 5}),
        ("bdev_null_resize", {"name": "N1"}),
        ("bdev_null_resize", {"name": "N512", "new_size": 0}),
        ("bdev_null_resize", {"name": "N512", "new_size": 1}),
        get("N512"),
        get("N1"),
        # statistics
        ("bdev_reset_iostat", {"name": "nosuch"}),
        ("bdev_reset_iostat", {"mode": "some"}),
        ("bdev_reset_iostat", {"name": "nosuch", "mode": "none"}),
        ("bdev_reset_iostat", {"name": "M0"}),
        ("bdev_reset_iostat", None),
        ("bdev_get_iostat", None),
        ("bdev_get_iostat", {"names": ["M0", "D0"], "reset_mode": "maxmin"}),
        ("bdev_get_iostat", {"names": ["M0", "nosuch"]}),
        ("bdev_get_iostat", {"names": ["M0"], "per_channel": True}),
        ("bdev_get_iostat", {"names": ["M0", "M1"], "per_channel": True}),
        ("bdev_get_iostat", {"per_channel": True}),
        ("bdev_get_iostat", {"reset_mode": "some"}),
        ("bdev_malloc_delete", {"name": "M0"}),  # with the error bdev on it, and the delay on that
        get("D0"),
        ("bdev_get_bdevs", None),
        ("notify_get_notifications", None),
        ("framework_get_config", {"name": "bdev"}),
    ]


def log_script() -> Script:
    return [
        ("log_get_level", None),
        ("log_get_level", {}),
        ("log_set_level", {"level": "DEBUG"}),
        ("log_set_level", {"level": "debug"}),
        ("log_set_level", {}),
        ("log_get_level", None),
        ("log_set_print_level", {"level": "WARNING"}),
        ("log_get_print_level", None),
        ("log_set_print_level", {"level": "LOUD"}),
        ("log_set_print_level", {"level": "NOTICE"}),
        ("log_get_print_level", None),
        ("log_set_flag", {"flag": "nosuch"}),
        ("log_set_flag", {}),
        ("log_set_flag", {"flag": "vbdev_delay"}),
        ("log_set_flag", {"flag": "BDEV_r*"}),
        ("log_get_flags", None),
        ("log_get_flags", {}),
        ("log_clear_flag", {"flag": "nosuch"}),
        ("log_clear_flag", {"flag": "bdev_raid?"}),
        ("log_get_flags", None),
        ("log_set_flag", {"flag": "all"}),
        ("log_clear_flag", {"flag": "ALL"}),
        ("log_get_flags", None),
    ]


def nvmf_script(port: int) -> Script:
    malloc = {"num_blocks": 1024, "block_size": 4096}
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    path = {"subnqn": OTHER, **address}
    attach = "bdev_nvme_attach_controller"

    def add_ns(nqn: str = NQN, **namespace: Any) -> tuple[str, Any]:
        return "nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": namespace}

    def listen(nqn: str = NQN, **changed: Any) -> tuple[str, Any]:
        return "nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": {**address, **changed}}

    return [
        ("nvmf_get_subsystems", None),
        ("nvmf_get_transports", None),
        ("nvmf_create_subsystem", {"nqn": NQN, "serial_number": "SN1", "allow_any_host": True}),
        listen(),
        ("nvmf_create_transport", {"trtype": "no such transport"}),
        ("nvmf_create_transport", {}),
        ("nvmf_create_transport", {"trtype": "TCP"}),
        ("nvmf_create_transport", {"trtype": "TCP"}),
        ("nvmf_get_transports", {"trtype": "tcp"}),
        ("nvmf_get_transports", {"trtype": "RDMA"}),
        ("nvmf_get_transports", {"tgt_name": "x"}),
        ("nvmf_create_subsystem", {"nqn": NQN}),
        ("nvmf_create_subsystem", {"nqn": "bad"}),
        ("nvmf_create_subsystem", {"nqn": OTHER, "foo": 1}),
        ("nvmf_create_subsystem", {"nqn": OTHER, "serial_number": "x" * 21}),
        ("nvmf_create_subsystem", {"nqn": OTHER, "min_cntlid": 5, "max_cntlid": 2}),
        ("nvmf_create_subsystem", {"nqn": OTHER, "max_namespaces": 2, "min_cntlid": 2, "max_cntlid": 20}),
        listen(),
        listen(),
        listen(OTHER),
        listen("nqn.2026-11.io.spdk-ftl.test:none"),
        listen(traddr="192.0.2.1"),
        listen(foo=1),
        listen(trtype="RDMA"),
        listen(trsvcid="0"),
        listen(trsvcid="99999"),
        ("nvmf_subsystem_get_listeners", {"nqn": NQN}),
        ("nvmf_subsystem_remove_listener", {"nqn": NQN, "listen_address": {**address, "trsvcid": "1"}}),
        ("bdev_malloc_create", {**malloc, "name": "M1", "uuid": UUID}),
        ("bdev_malloc_create", {**malloc, "name": "M2"}),
        ("bdev_malloc_create", {**malloc, "name": "Msep", "md_size": 8}),
        ("bdev_malloc_create", {**malloc, "name": "Mmd", "md_size": 64, "md_interleave": True}),
        add_ns(bdev_name="M1"),
        add_ns(bdev_name="M1"),
        add_ns(bdev_name="M2", nsid=1),
        add_ns(bdev_name="M2", nsid=99),
        add_ns(bdev_name="M2", foo=1),
        add_ns(bdev_name="M2", nguid="ABC"),
        add_ns(bdev_name="nosuch"),
        add_ns(bdev_name="Msep"),
        add_ns(nsid=3),
        add_ns(OTHER, bdev_name="M1"),
        add_ns(bdev_name="Mmd"),
        add_ns(OTHER, bdev_name="M2", nguid="ABCDEF0123456789ABCDEF0123456789", eui64="0011223344556677"),
        ("bdev_get_bdevs", {"name": "M1"}),
        ("bdev_passthru_create", {"name": "P0", "base_bdev_name": "M1"}),
        ("nvmf_subsystem_add_host", {"nqn": OTHER, "host": HOST}),
        ("nvmf_subsystem_add_host", {"nqn": OTHER, "host": HOST}),
        ("nvmf_subsystem_add_host", {"nqn": OTHER, "host": "x"}),
        ("nvmf_subsystem_remove_host", {"nqn": OTHER, "host": HOST + "y"}),
        ("nvmf_get_subsystems", None),
        ("nvmf_get_subsystems", {"nqn": "x"}),
        ("nvmf_subsystem_allow_any_host", {"nqn": OTHER, "allow_any_host": True}),
        ("nvmf_subsystem_allow_any_host", {"nqn": OTHER}),
        (attach, {"name": "Y", **path}),
        (attach, {"name": "Y", **path}),
        (attach, {"name": "Y2", **path, "foo": 1}),
        (attach, {"name": "Y2", **path, "adrfam": "xx"}),
        (attach, {"name": "Y2", **path, "subnqn": "nqn.2026-11.io.spdk-ftl.test:none"}),
        (attach, {"name": "Y2", **path, "hostnqn": "y" * 300}),
        ("bdev_get_bdevs", {"name": "Yn1"}),
        ("bdev_passthru_create", {"name": "PY", "base_bdev_name": "Yn1"}),
        ("bdev_nvme_get_controllers", {"name": "z"}),
        ("bdev_nvme_set_options", {"ctrlr_loss_timeout_sec": 3}),
        ("bdev_nvme_set_options", {"bdev_retry_count": 3}),
        ("bdev_nvme_detach_controller", {"name": "z"}),
        ("bdev_nvme_detach_controller", {"name": "Y", "foo": 1}),
        ("bdev_nvme_detach_controller", {"name": "Y", "traddr": "192.0.2.1", "trtype": "TCP"}),
        ("bdev_nvme_detach_controller", {"name": "Y"}),
        ("bdev_get_bdevs", {"name": "PY"}),
        ("bdev_malloc_delete", {"name": "M2"}),
        ("nvmf_get_subsystems", {"nqn": OTHER}),
        ("nvmf_subsystem_remove_ns", {"nqn": NQN, "nsid": 9}),
        ("nvmf_subsystem_remove_ns", {"nqn": NQN, "nsid": 1, "foo": 1}),
        ("nvmf_subsystem_remove_ns", {"nqn": NQN, "nsid": 1}),
        ("bdev_get_bdevs", {"name": "M1"}),
        ("nvmf_subsystem_remove_listener", {"nqn": NQN, "listen_address": address}),
        ("nvmf_delete_subsystem", {"nqn": NQN, "foo": 1}),
        ("nvmf_delete_subsystem", {"nqn": NQN}),
        ("nvmf_delete_subsystem", {"nqn": NQN}),
        ("nvmf_delete_subsystem", {"nqn": OTHER}),
        ("nvmf_get_subsystems", None),
        ("notify_get_notifications", None),
    ]


def keyring_script(folder: Path) -> Script:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "1", "subnqn": NQN}
    attach = {"name": "C0", **address}
    host = {"nqn": NQN, "host": HOST}
    return [
        ("keyring_get_keys", None),
        ("keyring_get_keys", {"bogus": 1}),
        ("keyring_file_add_key", {"name": "k0", "path": str(folder / "key")}),
        ("keyring_file_add_key", {"name": "k0", "path": str(folder / "key")}),
        ("keyring_file_add_key", {"name": "k1", "path": "key"}),
        ("keyring_file_add_key", {"name": "k1", "path": str(folder / "absent")}),
        ("keyring_file_add_key", {"name": "k1", "path": str(folder / "open")}),
        ("keyring_file_add_key", {"name": "k1"}),
        ("keyring_file_add_key", {"name": "k1", "path": 5}),
        ("keyring_file_remove_key", {"name": "k1"}),
        ("keyring_file_remove_key", {"name": "k0", "bogus": 1}),
        ("nvmf_create_subsystem", {"nqn": NQN}),
        ("nvmf_subsystem_add_host", {**host, "dhchap_key": "k1"}),
        ("nvmf_subsystem_add_host", {**host, "dhchap_key": "k0", "dhchap_ctrlr_key": "k1"}),
        ("nvmf_subsystem_add_host", {**host, "dhchap_ctrlr_key": "k0"}),
        ("nvmf_subsystem_add_host", {**host, "dhchap_key": "k0"}),
        ("nvmf_get_subsystems", {"nqn": NQN}),
        ("nvmf_subsystem_remove_host", host),
        ("bdev_nvme_attach_controller", {**attach, "dhchap_key": "k1"}),
        ("bdev_nvme_attach_controller", {**attach, "dhchap_key": "k0", "dhchap_ctrlr_key": "k1"}),
        ("keyring_file_remove_key", {"name": "k0"}),
        ("keyring_file_remove_key", {"name": "k0"}),
        ("keyring_get_keys", None),
        ("nvmf_subsystem_add_host", {**host, "dhchap_key": "k0"}),
    ]


class Normaliser:
    """Makes the answers of two runs comparable: UUIDs by order of appearance, no ports."""

    def __init__(self, port: int) -> None:
        self._port = str(port)
        self._uuids: dict[str, str] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, dict):
            if str(value.get("product_name", "")).startswith("NVMe"):
                value = {key: value[key] for key in KEPT_OF_NVME_BDEVS if key in value}
            if value.get("product_name") == "Raid Volume":
                # Those of its members, even where these do not show them.
                value = {key: each for key, each in value.items() if key != "memory_domains"}
            if value.get("product_name") == "passthru":
                value = {key: each for key, each in value.items() if key != "supported_io_types"}
            return {key: self(each) for key, each in value.items()}
        if isinstance(value, list) and value and "ctx" in value[0]:
            # SPDK sends them as its threads get round to it.
            return sorted((each["type"], each["ctx"]) for each in value)
        if isinstance(value, list):
            # A target that was built with fsdev tells of that, too.
            return [self(each) for each in value if not str(each).startswith("fsdev_")]
        if isinstance(value, str):
            return "PORT" if value == self._port else UUIDS.sub(lambda found: self._name(found[0]), value)
        return value

    def _name(self, uuid: str) -> str:
        key = uuid.replace("-", "").lower()
        return self._uuids.setdefault(key, f"UUID-{len(self._uuids)}")


def answers(path: str, script: Script, port: int) -> list[tuple[str, Any, Any]]:
    normalise = Normaliser(port)
    with RawRpc(path) as rpc:
        return [
            (method, normalise(params), normalise(rpc.call(method, params)))
            for method, params in script
        ]  # fmt: skip


def compare(real: list[tuple[str, Any, Any]], ours: list[tuple[str, Any, Any]]) -> None:
    differences = [
        f"{method} {params}\n  spdk_tgt: {expected}\n  embedded: {got}"
        for (method, params, expected), (_, _, got) in zip(real, ours, strict=True)
        if expected != got
    ]
    assert not differences, "\n".join(differences)


def test_bdevs_are_made_shown_refused_and_deleted_alike(spdk_target: SpdkTarget, folder: Path) -> None:
    (folder / "disk").write_bytes(bytes(1 << 20))
    script = bdev_script(folder)
    real = answers(spdk_target.socket, script, 0)
    spdk_target.close()  # it would go on polling while we measure nothing
    with target_process(folder) as embedded:
        compare(real, answers(embedded.socket, script, 0))


def _told_alike(answer: Any) -> Any:
    """Without what only one of the targets has: times, modules, and the order and defaults of a saved configuration."""
    if isinstance(answer, dict) and "ticks" in answer:
        return {name: value for name, value in answer.items() if name not in ("tick_rate", "ticks")}
    if isinstance(answer, dict) and "vbdev_delay" in answer:
        return {flag: enabled for flag, enabled in answer.items() if flag in LOG_FLAGS}
    if isinstance(answer, list) and {"method": "bdev_wait_for_examine"} in answer:
        kinds = ("bdev_error_create", "bdev_delay_create", "bdev_split_create", "bdev_raid_create")
        return sorted(str(call) for call in answer if call["method"] in kinds)
    return answer


def test_virtual_bdevs_are_made_shown_refused_and_deleted_alike(spdk_target: SpdkTarget, folder: Path) -> None:
    real = answers(spdk_target.socket, virtual_script(), 0)
    real += answers(spdk_target.socket, log_script(), 0)
    spdk_target.close()
    with target_process(folder) as embedded:
        ours = answers(embedded.socket, virtual_script(), 0)
        ours += answers(embedded.socket, log_script(), 0)
    compare(
        [(method, params, _told_alike(answer)) for method, params, answer in real],
        [(method, params, _told_alike(answer)) for method, params, answer in ours],
    )


def test_exports_and_controllers_are_made_shown_refused_and_deleted_alike(
    spdk_target: SpdkTarget, folder: Path
) -> None:
    port = free_port()
    real = answers(spdk_target.socket, nvmf_script(port), port)
    spdk_target.close()
    port = free_port()
    with target_process(folder) as embedded:
        compare(real, answers(embedded.socket, nvmf_script(port), port))


def test_keys_are_named_refused_and_forgotten_alike(spdk_target: SpdkTarget, folder: Path) -> None:
    for name, mode in (("key", 0o600), ("open", 0o640)):
        (folder / name).write_text("DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:")
        (folder / name).chmod(mode)
    script = keyring_script(folder)
    real = answers(spdk_target.socket, script, 0)
    spdk_target.close()
    with target_process(folder) as embedded:
        compare(real, answers(embedded.socket, script, 0))

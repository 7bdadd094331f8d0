"""One script of RPCs, sent to a real spdk_tgt and to the embedded target: results and refusals must be the same.

Left out of the comparison: what names the machine or the run (random UUIDs, ports), and the fields of attached
controllers that stem from a controller's own Identify data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from live.spdk_target import SpdkTarget
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

"""What of a saved configuration is the daemon's, what stands on FTLs, and what of that a target has already."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.spdk.attach import export_nguid
from spdk_ftl_py.spdk.bdevs import Bdev, _bdev
from spdk_ftl_py.spdk.saved_config import Call, Divided, OwnFtl, calls_of, divide, missing

UUID0 = UUID("209910f4-c9a2-45e6-8d45-201775a170b5")
UUID1 = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
LVOL = "6e6ca7f4-3b4a-4b86-9a3e-0d3e0a3c3d11"
FTL0 = OwnFtl("ftl0", UUID0)
FTL1 = OwnFtl("ftl1", UUID1)
USER = "nqn.2016-06.io.spdk:user"


def call(method: str, **params: Any) -> Call:
    return {"method": method, "params": params}


def bdev(name: str, kind: str = "Malloc disk", *aliases: str, **details: Any) -> Bdev:
    entry = {"name": name, "aliases": aliases, "block_size": 4096, "num_blocks": 1, "product_name": kind}
    return _bdev({**entry, "driver_specific": details}, "")


def private(ftl: OwnFtl, base: str) -> list[Call]:
    """As the daemon makes it, and v26.05 saves it."""
    nqn = f"nqn.2026-11.io.spdk-ftl:base:{ftl.device}"
    key = f"spdk-ftl-base-{ftl.device}"
    return [
        call(
            "nvmf_create_subsystem", nqn=nqn, allow_any_host=False, serial_number="S", model_number="spdk-ftl private"
        ),
        call("nvmf_subsystem_add_host", nqn=nqn, host="nqn.2026-11.io.spdk-ftl:host:1", dhchap_key=key),
        call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"nsid": 1, "bdev_name": base}),
        call("nvmf_subsystem_add_listener", nqn=nqn, listen_address={"trtype": "TCP", "trsvcid": "4420"}),
    ]


def attached(ftl: OwnFtl) -> list[Any]:
    attach = call("bdev_nvme_attach_controller", name=ftl.controller, trtype="TCP", subnqn=ftl.subnqn)
    return [[attach], call("bdev_passthru_create", base_bdev_name=ftl.nvme_bdev, name=ftl.name, uuid=str(ftl.device))]


def bdevs_of(ftl: OwnFtl) -> list[Bdev]:
    passthru = {"name": ftl.name, "base_bdev_name": ftl.nvme_bdev}
    return [
        bdev(ftl.nvme_bdev, "NVMe disk", str(export_nguid(ftl.device)), nvme=[{"trid": {"subnqn": ftl.subnqn}}]),
        bdev(ftl.name, "passthru", str(ftl.device), passthru=passthru),
    ]


def keys(ftl: OwnFtl) -> list[Call]:
    names = [f"spdk-ftl-{role}-{ftl.device}{end}" for role in ("base", "target") for end in ("", "-ctrlr")]
    return [call("keyring_file_add_key", name=name, path=f"/state/keys/{name}") for name in names]


def document(*on_bdevs: Any, nvmf: tuple[Call, ...] = (), ftls: tuple[OwnFtl, ...] = (FTL0,)) -> list[dict[str, Any]]:
    """Of a target with FTLs and a subsystem of its user."""
    return [
        {"subsystem": "scheduler", "config": None},
        {
            "subsystem": "keyring",
            "config": [
                call("keyring_file_add_key", name="ftl0", path="/etc/key"),
                *(key for ftl in ftls for key in keys(ftl)),
            ],
        },
        {
            "subsystem": "bdev",
            "config": [
                call("bdev_set_options", bdev_io_pool_size=65535),
                call("bdev_aio_create", name="Aio0", filename="/drive"),
                *(each for ftl in ftls for each in attached(ftl)),
                *on_bdevs,
                {"method": "bdev_wait_for_examine"},
            ],
        },
        {
            "subsystem": "nvmf",
            "config": [
                call("nvmf_create_transport", trtype="TCP"),
                *(each for ftl in ftls for each in private(ftl, "Aio0")),
                call("nvmf_create_subsystem", nqn=USER, allow_any_host=True, serial_number="ftl0"),
                *nvmf,
                call("nvmf_subsystem_add_listener", nqn=USER, listen_address={"trtype": "TCP", "trsvcid": "4421"}),
            ],
        },
    ]


def methods(divided: Divided) -> list[str]:
    return [each["method"] for each in calls_of(divided.subsystems)]


REST = [
    "keyring_file_add_key",
    "bdev_set_options",
    "bdev_aio_create",
    "bdev_wait_for_examine",
    "nvmf_create_transport",
    "nvmf_create_subsystem",
    "nvmf_subsystem_add_listener",
]


def test_what_the_daemon_made_is_taken_out_and_nothing_else() -> None:
    before = document()
    divided = divide(before, [bdev("Aio0"), *bdevs_of(FTL0)], [FTL0])
    assert methods(divided) == REST
    assert divided.dependents == {UUID0: []}
    assert [each["subsystem"] for each in divided.subsystems] == ["scheduler", "keyring", "bdev", "nvmf"]
    assert divided.subsystems[0]["config"] is None
    # Of the batch nothing is left, not even an empty one.
    assert [] not in divided.subsystems[2]["config"]
    assert before == document()


def test_what_is_of_an_ftl_that_is_not_known_stays() -> None:
    there = [bdev("Aio0"), *bdevs_of(FTL0), *bdevs_of(FTL1)]
    both = document(ftls=(FTL0, FTL1))
    assert methods(divide(both, there, [FTL1])) == methods(divide(document(), there, []))
    assert divide(both, there, []).subsystems == both


def test_an_export_of_ftl0_moves_and_its_subsystem_stays() -> None:
    add = call("nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 3, "bdev_name": "ftl0"})
    shown = call("nvmf_ns_add_host", nqn=USER, nsid=3, host="nqn.2026-11.io.example:host")
    other = call("nvmf_ns_add_host", nqn=USER, nsid=4, host="nqn.2026-11.io.example:host")
    divided = divide(document(nvmf=(add, shown, other)), [bdev("Aio0"), *bdevs_of(FTL0)], [FTL0])
    assert divided.dependents == {UUID0: [add, shown]}
    assert methods(divided) == [*REST[:-1], "nvmf_ns_add_host", REST[-1]]


def test_what_stands_on_what_stands_on_it_moves() -> None:
    """An lvol in a store on a raid on ftl0, exported by the lvol's name or alias: nothing but the bdevs tells of it."""
    raid = call("bdev_raid_create", name="r0", raid_level="raid0", base_bdevs=["ftl0"])
    limit = call("bdev_set_qos_limit", name="r0", rw_ios_per_sec=1000)
    by_name = call("nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 1, "bdev_name": LVOL})
    by_alias = call("nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 2, "bdev_name": "lvs0/v"})
    there = [
        bdev(LVOL, "Logical Volume", "lvs0/v", lvol={"lvol_store_uuid": "s", "base_bdev": "r0"}),
        bdev("r0", "Raid Volume", raid={"base_bdevs_list": [{"name": "ftl0"}]}),
        bdev("Aio0"),
        *bdevs_of(FTL0),
    ]
    divided = divide(document(limit, raid, nvmf=(by_name, by_alias)), there, [FTL0])
    assert divided.dependents == {UUID0: [limit, raid, by_name, by_alias]}
    assert methods(divided) == REST


def test_what_is_made_by_a_call_that_moves_moves_without_its_bdev() -> None:
    """A raid that lacks a base is no bdev yet."""
    raid = call("bdev_raid_create", name="r0", raid_level="raid1", base_bdevs=["ftl0", "Gone0"])
    upper = call("bdev_passthru_create", name="p0", base_bdev_name="r0")
    disk = call("vhost_create_blk_controller", ctrlr="vhost.0", dev_name="p0")
    slower = call("vhost_controller_set_coalescing", ctrlr="vhost.0", delay_base_us=5)
    other = call("vhost_controller_set_coalescing", ctrlr="vhost.1", delay_base_us=5)
    divided = divide(document(upper, raid, disk, slower, other), [bdev("Aio0"), *bdevs_of(FTL0)], [FTL0])
    assert divided.dependents == {UUID0: [upper, raid, disk, slower]}
    assert other in calls_of(divided.subsystems)


def test_a_call_that_needs_two_ftls_is_there_for_each() -> None:
    raid = call("bdev_raid_create", name="r0", raid_level="raid0", base_bdevs=["ftl0", "ftl1"])
    there = [bdev("Aio0"), *bdevs_of(FTL0), *bdevs_of(FTL1)]
    divided = divide(document(raid, ftls=(FTL0, FTL1)), there, [FTL0, FTL1])
    assert divided.dependents == {UUID0: [raid], UUID1: [raid]}


def test_somebody_elses_bdev_of_that_name_is_left_alone() -> None:
    """The FTL waits for its base, and in the target somebody has taken its name."""
    passthru = call("bdev_passthru_create", name="ftl0", base_bdev_name="Aio0")
    add = call("nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 1, "bdev_name": "ftl0"})
    there = [bdev("Aio0"), bdev("ftl0", "passthru", passthru={"name": "ftl0", "base_bdev_name": "Aio0"})]
    saved = document(passthru, nvmf=(add,), ftls=())
    divided = divide(saved, there, [FTL0])
    assert divided.subsystems == saved
    assert divided.dependents == {UUID0: []}


def test_another_way_to_the_export_moves() -> None:
    """A controller that somebody else attached in that target to the daemon's export."""
    attach = call("bdev_nvme_attach_controller", name="Mine", trtype="TCP", subnqn=FTL0.subnqn)
    divided = divide(document([attach]), [bdev("Aio0"), *bdevs_of(FTL0)], [FTL0])
    assert divided.dependents == {UUID0: [attach]}


def test_a_batch_keeps_what_stays() -> None:
    stays = call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr="0000:00:01.0")
    goes = attached(FTL0)[0][0]
    saved = [{"subsystem": "bdev", "config": [[stays, goes], []]}]
    assert divide(saved, [], [FTL0]).subsystems == [{"subsystem": "bdev", "config": [[stays], []]}]


@pytest.mark.parametrize(
    "saved",
    [
        {},
        [5],
        [{"config": []}],
        [{"subsystem": "bdev", "config": {}}],
        [{"subsystem": "bdev", "config": [5]}],
        [{"subsystem": "bdev", "config": [{"params": {}}]}],
        [{"subsystem": "bdev", "config": [[{"method": "m", "params": []}, {"method": "m", "params": [1]}]]}],
    ],
)
def test_what_is_no_saved_configuration_is_refused(saved: Any) -> None:
    with pytest.raises(ParameterError):
        divide(saved, [], [FTL0])


# --- what a target lacks ---

ADD = call("nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 1, "bdev_name": "lvs0/v"})
FULL = call(
    "nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 1, "bdev_name": LVOL, "uuid": LVOL, "no_auto_visible": False}
)
VOLUME = bdev(LVOL, "Logical Volume", "lvs0/v")


def test_nothing_is_missing_of_what_the_target_tells_itself() -> None:
    raid = call("bdev_raid_create", name="r0", base_bdevs=["ftl0"])
    assert missing([raid, FULL], [FULL, raid], []) == []
    assert missing([raid, FULL], [FULL], []) == [raid]
    assert missing([{"method": "bdev_wait_for_examine"}], [{"method": "bdev_wait_for_examine"}], []) == []


def test_a_call_that_says_less_and_by_another_name_is_there() -> None:
    assert missing([ADD], [FULL], [VOLUME]) == []
    assert missing([ADD], [FULL], []) == [ADD]


@pytest.mark.parametrize("change", [{"nsid": 2}, {"bdev_name": "lvs0/w"}, {"anagrpid": 1}, {"nsid": "1"}])
def test_a_call_that_says_something_else_is_missing(change: dict[str, Any]) -> None:
    other = call("nvmf_subsystem_add_ns", nqn=USER, namespace={**FULL["params"]["namespace"], **change})
    assert missing([other], [FULL], [VOLUME]) == [other]


def test_a_bdev_that_is_there_is_not_made_again() -> None:
    """SPDK saves no raid that has a superblock."""
    raid = call("bdev_raid_create", name="r0", base_bdevs=["ftl0"], superblock=True)
    assert missing([raid], [], [bdev("r0", "Raid Volume")]) == []
    subsystem = call("nvmf_create_subsystem", nqn=USER, name="r0")
    assert missing([subsystem], [], [bdev("r0")]) == [subsystem]


def test_a_uuid_is_the_same_in_any_case() -> None:
    upper = call("nvmf_subsystem_add_ns", nqn=USER, namespace={"nsid": 1, "uuid": LVOL.upper()})
    assert missing([upper], [FULL], []) == []

"""`--engine native`: what the daemon checks of the target's own FTL, and when it is the target's that is meant."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.daemon.native_options import FINDERS, MAKERS, PARAMETERS
from spdk_ftl_py.errors import (
    ClaimedError,
    ExistsError,
    FtlError,
    GeometryError,
    NotFoundError,
    ParameterError,
    TargetError,
    UnsupportedError,
)
from spdk_ftl_py.spdk import native_ftl
from spdk_ftl_py.spdk.exports import TransportMissingError
from spdk_ftl_py.spdk.saved_config import calls_of
from support.native_ftl import PROPERTIES, TargetWithFtl
from support.spdk_ftl_rpcs import GROUP, RPCS, STATS
from unit.daemon.registry_rig import Daemon, World, create

GIB_BLOCKS = (1 << 30) // 4096
UUID0 = "b286d19a-0059-4709-abcd-9f7732b1567d"
NIL = "00000000-0000-0000-0000-000000000000"


async def make_malloc(here: World, name: str, gib: int, **params: Any) -> None:
    """Of pages that are zero no memory is used."""
    await here.rpc("bdev_malloc_create", **{"name": name, "num_blocks": gib * GIB_BLOCKS, "block_size": 4096} | params)


async def with_ftl(here: World) -> TargetWithFtl:
    """The target has an FTL of its own from now on, and a base and a cache for it."""
    target = TargetWithFtl(here.target)
    here.line.target = target  # type: ignore[assignment]
    await make_malloc(here, "B0", 20)
    await make_malloc(here, "C0", 5)
    return target


async def native(here: World, daemon: Daemon, **params: Any) -> Any:
    given = {"name": "n0", "base_bdev": "B0", "cache": "C0", "engine": "native", "target": here.line.path} | params
    return await daemon.call("bdev_ftl_create", **{name: value for name, value in given.items() if value is not None})


async def state_of(here: World) -> Any:
    return await here.rpc("bdev_get_bdevs"), await here.rpc("nvmf_get_subsystems"), await here.rpc("keyring_get_keys")


async def test_the_target_makes_it_and_the_daemon_keeps_nothing_of_it(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    before, record = await state_of(here), daemon.record() if (here.folder / "state/state.json").exists() else None
    told = await native(here, daemon, overprovisioning=15, l2p_dram_limit=64, core_mask="[0]", fast_shutdown=False)
    assert set(told) == {"name", "uuid"}
    assert target.called == [
        (
            "bdev_ftl_create",
            {
                "name": "n0", "base_bdev": "B0", "cache": "C0", "overprovisioning": 15, "l2p_dram_limit": 64,
                "core_mask": "[0]", "fast_shutdown": False,
            },
        )
    ]  # fmt: skip
    # Of the look at base and cache nothing has stayed.
    assert here.line.called.count("nvmf_create_subsystem") == 2
    assert await state_of(here) == before
    assert await daemon.call("ftl_get_devices") == []
    assert (daemon.record() if record is not None else None) == record
    await daemon.halt(undo=True)
    assert [method for method, _ in target.called] == ["bdev_ftl_create"]


async def test_a_load_erases_nothing(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    assert await native(here, daemon, uuid=UUID0) == {"name": "n0", "uuid": UUID0}
    await daemon.call("bdev_ftl_unload", name="n0", target=here.line.path)
    loaded = {"name": "n0", "base_bdev": "B0", "cache": "C0", "uuid": UUID0, "target": here.line.path}
    assert (await daemon.call("bdev_ftl_load", **loaded, engine="native"))["uuid"] == UUID0
    made = {"name": "n0", "base_bdev": "B0", "cache": "C0", "uuid": UUID0}
    assert target.called == [
        ("bdev_ftl_create", made), ("bdev_ftl_delete", {"name": "n0"}), ("bdev_ftl_create", made)
    ]  # fmt: skip
    await daemon.call("delete_ftl_bdev", name="n0", target=here.line.path)
    # SPDK would take it for a creation.
    with pytest.raises(ParameterError, match="nil UUID"):
        await daemon.call("bdev_ftl_load", **{**loaded, "uuid": NIL}, engine="native")
    assert len(target.called) == 4
    await native(here, daemon, uuid=NIL)
    assert "uuid" not in target.called[-1][1]
    await daemon.halt()


async def test_a_target_without_an_ftl_says_so_in_one_line(here: World) -> None:
    daemon = await here.start()
    await make_malloc(here, "B0", 20)
    await make_malloc(here, "C0", 5)
    before = await state_of(here)
    has_none = r"^SPDK target at \S+ has no FTL of its own \(no method bdev_ftl_create\): leave out --engine native.*$"
    for base in ("B0", "Nvme0n1", "nope"):
        with pytest.raises(UnsupportedError, match=has_none):
            await native(here, daemon, base_bdev=base)
    for method, params in RPCS.items():
        if method in FINDERS:
            with pytest.raises(UnsupportedError, match=has_none):
                await daemon.call(method, **params[0], engine="native", target=here.line.path)
    assert await state_of(here) == before
    await daemon.halt()


BDEVS: list[tuple[dict[str, Any], type[FtlError], str]] = [
    ({"base_bdev": "nope"}, NotFoundError, "base bdev nope: no such bdev"),
    ({"cache": "nope"}, NotFoundError, "cache bdev nope: no such bdev"),
    ({"base_bdev": "Nvme0n1"}, UnsupportedError, r"base bdev Nvme0n1 is zoned .*2022.*leave out --engine native"),
    ({"cache": "Nvme0n1"}, UnsupportedError, "cache bdev Nvme0n1 is zoned"),
    ({"base_bdev": "Z0"}, UnsupportedError, "base bdev Z0 is zoned"),
    ({"base_bdev": "C0", "cache": "B0"}, GeometryError, "base bdev C0 has 5.00 GiB: .* at least 20 GiB"),
    ({"cache": "Small"}, GeometryError, "cache bdev Small has 4.00 GiB: .* at least 5 GiB"),
    ({"cache": "B0"}, ParameterError, "cache bdev B0 is also the base bdev"),
    ({"base_bdev": "B512"}, ParameterError, "base bdev B512 has blocks of 512 B"),
    ({"cache": "B512"}, ParameterError, "cache bdev B512 has blocks of 512 B"),
    ({"base_bdev": "Md64"}, UnsupportedError, "base bdev Md64 has 64 B of metadata"),
    ({"cache": "Md8"}, UnsupportedError, "cache bdev Md8 has 8 B of separate metadata.*or with 64 B of separate"),
    ({"cache": "Inter64"}, UnsupportedError, "cache bdev Inter64 has 64 B of interleaved metadata"),
    ({"cache": "Dif64"}, UnsupportedError, r"cache bdev Dif64 .*DIF type 1"),
    ({"base_bdev": "P0base"}, ClaimedError, "base bdev P0base .* already claimed .* by passthru bdev P0"),
    ({"cache": "P0base"}, ClaimedError, "cache bdev P0base .* already claimed .* by passthru bdev P0"),
    ({"name": "C0"}, ExistsError, r"name C0: .* has a bdev of that name \(Malloc disk\)"),
    ({"uuid": UUID0}, ExistsError, f"uuid {UUID0}: bdev Named .* already has it"),
    (
        {"cache": "Md64"},
        UnsupportedError,
        "cache bdev Md64 has separate metadata.*give --force if the data is not needed",
    ),
]


async def test_what_spdk_would_not_take_is_refused_with_the_reason_before_anything_is_done(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    await make_malloc(here, "Small", 4)
    await make_malloc(here, "B512", 160, block_size=512)
    await make_malloc(here, "Md64", 20, md_size=64)
    await make_malloc(here, "Md8", 20, md_size=8)
    await make_malloc(here, "Inter64", 20, md_size=64, md_interleave=True)
    await make_malloc(here, "Dif64", 20, md_size=64, dif_type=1)
    await make_malloc(here, "P0base", 20)
    await make_malloc(here, "Named", 1, uuid=UUID0)
    await make_malloc(here, "Z0base", 20)
    await here.rpc("bdev_passthru_create", base_bdev_name="P0base", name="P0")
    await here.rpc("bdev_zone_block_create", name="Z0", base_bdev="Z0base", zone_capacity=512, optimal_open_zones=1)
    before = await state_of(here)
    for params, error, message in BDEVS:
        with pytest.raises(error, match=message):
            await native(here, daemon, **params)
    assert target.called == []
    assert await state_of(here) == before
    # With separate metadata of the right size, and nobody's by word.
    assert (await native(here, daemon, cache="Md64", force=True))["name"] == "n0"
    await daemon.halt()


async def test_what_is_the_daemons_is_not_the_targets(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and uuids of FTLs that the target may not have as bdevs, and bdevs that stand on them."""
    monkeypatch.setattr(native_ftl, "BASE_GIB_MIN", 0)
    daemon = await here.start()
    target = await with_ftl(here)
    await make_malloc(here, "M0", 10)
    uuid = (await create(here, daemon, "ftl0", no_attach=False, base_bdev="M0", zone_capacity=1 << 16))["uuid"]
    await daemon.call(
        "bdev_ftl_create", name="ftl1", base_bdev="later", zone_capacity=512, target=here.line.path, no_attach=True
    )
    for params, error, message in (
        ({"name": "ftl1"}, ExistsError, r"name ftl1: the daemon has an FTL bdev of that name \(deferred"),
        ({"uuid": uuid}, ExistsError, "it is not the target's own"),
        ({"base_bdev": "ftl0"}, ParameterError, "base bdev ftl0 .* is FTL bdev ftl0 of this daemon"),
        ({"cache": "ftl0"}, ParameterError, "cache bdev ftl0 .* is FTL bdev ftl0 of this daemon"),
        ({"base_bdev": "M0"}, ClaimedError, "already claimed"),
    ):
        with pytest.raises(error, match=message):
            await native(here, daemon, **params)
    assert target.called == []
    await daemon.halt(undo=True)


async def test_what_is_left_of_an_ftl_that_was_deleted_is_in_nobodys_way(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_ftl, "BASE_GIB_MIN", 0)
    daemon = await here.start()
    await with_ftl(here)
    await make_malloc(here, "M0", 0, num_blocks=16384)
    await create(here, daemon, base_bdev="M0", zone_capacity=256)
    here.line.refused.add("nvmf_delete_subsystem")
    with pytest.raises(FtlError, match="could not undo everything"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    here.line.refused.clear()
    assert (await native(here, daemon, base_bdev="M0", force=True))["name"] == "n0"
    assert await here.exports() == []
    await daemon.halt()


FOREIGN = {
    "an FTL of SPDK": (0, (0x1410_1683_1920_1989).to_bytes(8, "little")),
    "an xfs file system": (0, b"XFSB"),
    "a partition table (GPT)": (4096, b"EFI PART"),
}


@pytest.mark.parametrize("role", ["base", "cache"])
async def test_what_holds_somebodys_data_is_erased_only_by_force(here: World, role: str) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    image = here.folder / "image"
    for what, (offset, magic) in FOREIGN.items():
        with image.open("wb") as file:
            file.truncate(20 << 30)
            file.seek(offset)
            file.write(magic)
        await here.rpc("bdev_aio_create", name="A0", filename=str(image), block_size=4096)
        before = await state_of(here)
        given = {"base_bdev": "A0"} if role == "base" else {"cache": "A0"}
        with pytest.raises(ExistsError) as caught:
            await native(here, daemon, **given)
        expected = f"{role} bdev A0 holds {what}: use another bdev, or give --force to erase it"
        assert caught.value.message == expected
        assert target.called == []
        assert await state_of(here) == before
        await here.rpc("bdev_aio_delete", name="A0")
    await here.rpc("bdev_aio_create", name="A0", filename=str(image), block_size=4096)
    await native(here, daemon, **given, force=True)
    assert "force" not in target.called[0][1]
    await daemon.halt()


async def test_an_ftl_of_the_daemon_is_told_by_its_name(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("BASE_GIB_MIN", "CACHE_GIB_MIN"):
        monkeypatch.setattr(native_ftl, bound, 0)
    daemon = await here.start()
    target = await with_ftl(here)
    for name in ("M0", "M1", "M2"):
        await make_malloc(here, name, 0, num_blocks=16384)
    made = await create(here, daemon, base_bdev="M0", zone_capacity=256, cache="M1")
    await daemon.call("bdev_ftl_delete", name="ftl0")
    told = f"base bdev M0 holds an FTL of the daemon, 'ftl0' with uuid {made['uuid']}"
    with pytest.raises(ExistsError, match=told):
        await native(here, daemon, base_bdev="M0", cache="M2")
    with pytest.raises(ExistsError, match=f"cache bdev M1 holds the nv cache of FTL {made['uuid']} of the daemon"):
        await native(here, daemon, base_bdev="M2", cache="M1")
    # Nor is it loaded by the target, which goes by its cache, and would write over the base.
    for base, cache, told in (("M0", "M2", "base bdev M0 holds an FTL of"), ("M2", "M1", "cache bdev M1 holds the nv")):
        with pytest.raises(ExistsError, match=rf"{told} .*, not the FTL to be loaded: give the bdevs"):
            await native(here, daemon, base_bdev=base, cache=cache, uuid=UUID0)
    assert target.called == []
    await daemon.halt()


async def test_without_a_transport_nobody_can_look_and_force_is_asked_for(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    here.line.answers["nvmf_get_transports"] = []
    with pytest.raises(TransportMissingError, match=r"nvmf_create_transport -t TCP`; or give --force"):
        await native(here, daemon)
    assert target.called == []
    assert (await native(here, daemon, force=True))["name"] == "n0"
    await daemon.halt()


def strange_ones(method: str, native: str) -> list[tuple[str, Any]]:
    """Every parameter of ours that SPDK's has not, with a value that is none of its defaults."""
    values = {"string": "x", "integer": 1, "boolean": True, "array": ["nqn.2026-11.io.example:h"], "object": {}}
    taken = (*PARAMETERS[native], "target", "engine", *(("force",) if native == "bdev_ftl_create" else ()))
    uuids = {"new_uuid": UUID0}
    return [
        (each.name, uuids.get(each.name, each.choices[0] if each.choices else values[each.type]))
        for each in schema.load(method).parameters
        if each.name not in taken
    ]


async def test_what_our_engine_alone_has_is_refused_by_its_name(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    methods = daemon.methods
    seen = 0
    for method, its in {**MAKERS, **FINDERS}.items():
        needed = {"name": "n0", "base_bdev": "B0", "cache": "C0", "uuid": UUID0} if method in MAKERS else {"name": "n0"}
        if method in FINDERS and "n0" not in target._bdevs:
            await native(here, daemon)
            target.called.clear()
        for name, value in strange_ones(method, its):
            flags = schema.load(method).parameter(name).flags
            with pytest.raises(ParameterError) as caught:
                await methods[method](
                    {**needed, "lba": 0, "num_blocks": 1, "target": here.line.path, "engine": "native", name: value}
                    if method == "bdev_ftl_unmap"
                    else {**needed, "target": here.line.path, "engine": "native", name: value}
                )
            shown = f"{name} ({flags[0]})" if flags else name
            assert f"{method}: {shown}: SPDK's own FTL has no such option" in caught.value.message
            seen += 1
    assert seen > 40
    assert target.called == []
    for params, message in (
        ({"cache": None}, r"cache \(-c\) is missing: SPDK's own FTL needs a cache bdev"),
        ({"l2p_dram_limit": 0}, "at least 1 MiB"),
    ):
        with pytest.raises(ParameterError, match=message):
            await native(here, daemon, **{"name": "n1", **params})
    await daemon.halt()


async def test_an_error_of_the_target_is_told_in_its_own_words_and_leaves_nothing(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    before = await state_of(here)
    target.fails = "Operation not permitted"
    with pytest.raises(TargetError) as caught:
        await native(here, daemon)
    assert "Failed to create FTL bdev: Operation not permitted (code -32603)" in caught.value.message
    assert "the target's log" in caught.value.message
    assert (caught.value.rpc_code, caught.value.to_jsonrpc()["code"]) == (-32603, -errno.EIO)
    assert await state_of(here) == before
    assert await daemon.call("ftl_get_devices") == []
    target.fails = None
    await native(here, daemon)
    for method, params, code in (
        ("bdev_ftl_unmap", {"lba": 1, "num_blocks": 1}, -22),
        # Its -1 is SPDK's word for any failure, so it is told as ours for the same.
        ("bdev_ftl_set_property", {"ftl_property": "band_thld", "value": "80"}, -1),
        ("bdev_ftl_set_property", {"ftl_property": "superblock_version", "value": "4"}, -1),
    ):
        with pytest.raises(TargetError, match=rf"refused {method}: .*\(code {code}\)") as caught:
            await daemon.call(method, name="n0", target=here.line.path, **params)
        assert (caught.value.rpc_code, caught.value.to_jsonrpc()["code"]) == (code, code if code < -1 else -errno.EIO)
    await daemon.halt()


async def test_a_bdev_that_goes_meanwhile_is_deferred_by_the_target_which_says_so(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    gone = {"name": "n0", "base_bdev": "B0", "cache": "gone"}
    here.line.answers["bdev_ftl_create"] = await target.dispatch("bdev_ftl_create", gone)
    assert await native(here, daemon) == "FTL bdev: n0 creation deferred"
    assert await daemon.call("ftl_get_devices") == []
    await daemon.halt()


# --- the other methods


@pytest.mark.parametrize("engine", [{}, {"engine": "native"}], ids=["by name", "insisted"])
async def test_the_targets_own_is_found_by_its_name(here: World, engine: dict[str, Any]) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    await native(here, daemon)
    target.called.clear()
    at: dict[str, Any] = {"name": "n0", "target": here.line.path, **engine}
    stats = await daemon.call("bdev_ftl_get_stats", **at)
    assert stats == {"name": "n0", **dict.fromkeys(STATS, GROUP)}
    assert await daemon.call("bdev_ftl_get_properties", **at) == {"name": "n0", "properties": PROPERTIES}
    assert await daemon.call("bdev_ftl_set_property", **at, ftl_property="verbose_mode", value="true") is True
    assert await daemon.call("bdev_ftl_unmap", **at, lba=1024, num_blocks=2048) is True
    assert await daemon.call("bdev_ftl_delete", **at, fast_shutdown=True) is True
    assert target.called == [
        ("bdev_ftl_get_stats", {"name": "n0"}),
        ("bdev_ftl_get_properties", {"name": "n0"}),
        ("bdev_ftl_set_property", {"name": "n0", "ftl_property": "verbose_mode", "value": "true"}),
        ("bdev_ftl_unmap", {"name": "n0", "lba": 1024, "num_blocks": 2048}),
        ("bdev_ftl_delete", {"name": "n0", "fast_shutdown": True}),
    ]
    with pytest.raises(
        NotFoundError, match="no FTL of its own of that name; it has: none" if engine else "no such FTL"
    ):
        await daemon.call("bdev_ftl_delete", **at)
    await daemon.halt()


async def test_the_daemons_comes_first_and_either_can_be_insisted_on(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    # Each would refuse the name of the other, but who asks the target itself is not asked by the daemon.
    await create(here, daemon, "ftl0")
    await target.dispatch("bdev_ftl_create", {"name": "ftl0", "base_bdev": "B0", "cache": "C0"})
    target.called.clear()
    at = {"name": "ftl0", "target": here.line.path}
    assert "host_written_blocks" in await daemon.call("bdev_ftl_get_stats", **at)
    assert "host_written_blocks" in await daemon.call("bdev_ftl_get_stats", **at, engine="daemon")
    assert target.called == []
    assert "host_written_blocks" not in await daemon.call("bdev_ftl_get_stats", **at, engine="native")
    assert await daemon.call("bdev_ftl_delete", **at, engine="daemon") is True
    with pytest.raises(NotFoundError, match="no such FTL"):
        await daemon.call("bdev_ftl_delete", **at, engine="daemon")
    assert [method for method, _ in target.called] == ["bdev_ftl_get_stats"]
    assert await daemon.call("bdev_ftl_delete", **at) is True
    assert target.called[-1] == ("bdev_ftl_delete", {"name": "ftl0"})
    await daemon.halt()


async def test_without_a_target_only_the_daemons_is_meant(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    await native(here, daemon)
    target.called.clear()
    with pytest.raises(NotFoundError, match="no such FTL"):
        await daemon.call("bdev_ftl_delete", name="n0")
    with pytest.raises(ParameterError, match=r"no SPDK target is given.*-s TARGET"):
        await daemon.call("bdev_ftl_delete", name="n0", engine="native")
    # Nor is a bdev that is no FTL one, nor one of a target that is not there.
    for name, path in (("C0", here.line.path), ("n0", str(here.folder / "nowhere"))):
        with pytest.raises(NotFoundError, match="no such FTL"):
            await daemon.call("bdev_ftl_delete", name=name, target=path)
    with pytest.raises(TargetError, match="can't be reached"):
        await daemon.call("bdev_ftl_delete", name="n0", target=str(here.folder / "nowhere"), engine="native")
    assert target.called == []
    await daemon.halt()


async def test_what_spdks_ftl_does_not_have_is_told_so(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    await native(here, daemon)
    target.called.clear()
    host = {"host": "nqn.2026-11.io.example:h"}
    for method, params in {
        "bdev_ftl_scrub": {}, "bdev_ftl_grow": {}, "bdev_ftl_rename": {"new_name": "n1"},
        "bdev_ftl_set_cache": {"cache": "B0"}, "bdev_ftl_remove_cache": {}, "bdev_ftl_add_host": host,
        "bdev_ftl_remove_host": host, "bdev_ftl_allow_any_host": {"allow_any_host": True},
        "bdev_ftl_add_listener": {"listen_address": "127.0.0.1"},
        "bdev_ftl_remove_listener": {"listen_address": "127.0.0.1:1"},
        "bdev_ftl_set_ana_state": {"listen_address": "127.0.0.1:1", "ana_state": "optimized"},
    }.items():  # fmt: skip
        with pytest.raises(
            UnsupportedError, match=f"own FTL of the SPDK target at .*, which does not support {method}"
        ):
            await daemon.call(method, name="n0", target=here.line.path, **params)
        with pytest.raises(NotFoundError):
            await daemon.call(method, name="n1", target=here.line.path, **params)
    assert target.called == []
    await daemon.halt()


async def test_a_halting_daemon_makes_none(here: World) -> None:
    daemon = await here.start()
    target = await with_ftl(here)
    await native(here, daemon)
    await daemon.halt()
    for work in (native(here, daemon, name="n1"), daemon.call("bdev_ftl_delete", name="n0", target=here.line.path)):
        with pytest.raises(FtlError) as caught:
            await work
        assert caught.value.errno == errno.ESHUTDOWN
    assert len(target.called) == 1


# --- saved configurations


async def test_a_saved_configuration_has_it_as_the_target_tells_it(here: World) -> None:
    daemon = await here.start()
    await with_ftl(here)
    made = await native(here, daemon)
    await create(here, daemon, no_attach=False)
    document = await daemon.call("ftl_save_config", target=here.line.path)
    expected = {
        "method": "bdev_ftl_create",
        "params": {
            "name": "n0", "overprovisioning": 20, "l2p_dram_limit": 2048, "uuid": made["uuid"], "fast_shutdown": True,
            "base_bdev": "B0", "cache": "C0",
        },
    }  # fmt: skip
    (bdevs,) = (each["config"] for each in document["subsystems"] if each["subsystem"] == "bdev")
    assert bdevs[-1] == expected
    assert [call for call in calls_of(document["subsystems"]) if call["method"] == "bdev_ftl_create"] == [expected]
    (section,) = (each["config"] for each in document["subsystems"] if each["subsystem"] == "ftl")
    assert {call["params"]["name"] for call in section} == {"ftl0"}
    # What the daemon loads is its own, whatever a file says.
    entry = {"method": "ftl_create_bdev", "params": {**section[0]["params"], "name": "ftl9", "engine": "native"}}
    with pytest.raises(ParameterError, match="engine belongs to bdev_ftl_create"):
        await daemon.call("ftl_load_config", config=[entry])
    await daemon.halt(undo=True)

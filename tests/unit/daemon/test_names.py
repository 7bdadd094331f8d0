"""Names are those of one target: the daemon may have an ftl0 on each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spdk_ftl_py.errors import ExistsError, NotFoundError, ParameterError
from unit.daemon.registry_rig import HOSTNQN, Daemon, Line, World, create

EMULATED = {"zone_capacity": 192}


@pytest.fixture
def other(tmp_path: Path) -> str:
    """Where a second target is: the embedded one by a socket of its own, which makes it another to the daemon."""
    return str(tmp_path / "other.sock")


async def two(here: World, path: str) -> tuple[Daemon, Line]:
    """A daemon with an ftl0 on the drive, and one that waits for its base, on a target with another address."""
    second = Line(Path(path), here.target)
    await second.start()
    daemon = await here.start()
    await create(here, daemon)
    await create(here, daemon, target=second.path, base_bdev="Late", **EMULATED)
    return daemon, second


async def test_two_targets_may_have_an_ftl_of_the_same_name(other: str, here: World) -> None:
    daemon, second = await two(here, other)
    states = {device["target"]: device["state"] for device in await daemon.call("ftl_get_devices", name="ftl0")}
    assert states == {here.line.path: "online", second.path: "deferred"}
    (there,) = await daemon.call("ftl_get_devices", name="ftl0", target=second.path)
    assert there["state"] == "deferred"
    with pytest.raises(ExistsError, match="there is an FTL bdev of that name"):
        await create(here, daemon, target=second.path, base_bdev="Later", **EMULATED)
    assert await daemon.call("bdev_ftl_delete", name="ftl0", target=second.path) is True
    assert (await daemon.device())["target"] == here.line.path
    await daemon.halt()
    await second.close()


async def test_a_name_that_two_targets_have_is_refused_with_their_addresses(other: str, here: World) -> None:
    daemon, second = await two(here, other)
    for method, params in (
        ("bdev_ftl_get_stats", {}),
        ("bdev_ftl_get_properties", {}),
        ("bdev_ftl_get_hosts", {}),
        ("bdev_ftl_scrub", {}),
        ("bdev_ftl_add_host", {"host": HOSTNQN}),
        ("bdev_ftl_remove_host", {"host": HOSTNQN}),
        ("bdev_ftl_allow_any_host", {"allow_any_host": True}),
        ("bdev_ftl_delete", {}),
    ):
        with pytest.raises(ParameterError, match="each of the SPDK targets") as refused:
            await daemon.call(method, name="ftl0", **params)
        assert here.line.path in refused.value.message
        assert second.path in refused.value.message
        assert "-s TARGET" in refused.value.message
    assert (await daemon.call("bdev_ftl_get_stats", name="ftl0", target=here.line.path))["name"] == "ftl0"
    with pytest.raises(NotFoundError, match="not at /nowhere"):
        await daemon.call("bdev_ftl_get_stats", name="ftl0", target="/nowhere")
    await daemon.halt()
    await second.close()


async def test_a_successor_has_both(other: str, here: World) -> None:
    daemon, second = await two(here, other)
    await daemon.halt()
    assert [record["name"] for record in daemon.record()["devices"]] == ["ftl0", "ftl0"]
    daemon = await here.start()
    assert len(await daemon.call("ftl_get_devices")) == 2
    await daemon.call("bdev_ftl_delete", name="ftl0", target=second.path)
    assert len(daemon.record()["devices"]) == 1
    await daemon.halt()
    await second.close()


async def test_another_spelling_of_a_target_is_no_other_target(tmp_path: Path, here: World) -> None:
    os.symlink(here.line.path, tmp_path / "link.sock")
    daemon = await here.start()
    await create(here, daemon)
    with pytest.raises(ExistsError, match="there is an FTL bdev of that name"):
        await create(here, daemon, target=str(tmp_path / "link.sock"))
    assert (await daemon.call("bdev_ftl_get_stats", name="ftl0", target=str(tmp_path / "link.sock")))["name"] == "ftl0"
    await daemon.halt()

"""Which transport a target uses for its FTL, and what follows from that for the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py.agreement import differences
from spdk_ftl_py.cli.device_list import address_of
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.daemon.device_parts import DeviceParts
from spdk_ftl_py.daemon.requests import FtlOptions
from spdk_ftl_py.daemon.transports import Choice, TransportName
from spdk_ftl_py.daemon.vfio_user_export import endpoint_of, remove_stray_endpoints
from spdk_ftl_py.errors import FtlError, ParameterError
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.daemon.registry_rig import World, create

DEVICE = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
FOLDER = endpoint_of(Path("/state/vfio"), DEVICE)


def options(**params: Any) -> FtlOptions:
    return FtlOptions.of({"name": "ftl0", "base_bdev": "b", "target": "/var/tmp/spdk.sock", **params})


class Endpoint:
    """An endpoint without its client: what a daemon does with its listener."""

    made: list[Endpoint]
    fails = False

    def __init__(self, _reactor: ReactorLoop, subsystem: Subsystem, folder: Path) -> None:
        self.subsystem = subsystem
        self.folder = folder
        self.connected = False
        self.alive = True
        self.done: list[str] = []
        self.changed: Callable[[], object] | None = None
        self.made.append(self)

    async def start(self) -> None:
        if self.fails:
            raise FtlError(f"{self.folder} is in use")
        self.done.append("started")

    async def stop(self, *, keep: bool = False) -> None:
        self.done.append("kept" if keep else "ended")

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> list[Endpoint]:
    made: list[Endpoint] = []
    monkeypatch.setattr(Endpoint, "made", made, raising=False)
    monkeypatch.setattr(DeviceParts, "_make_listener", lambda _self, *args: Endpoint(*args))
    return made


# --- the choice


@pytest.mark.parametrize(
    ("params", "why_not"),
    [
        ({}, None),
        ({"no_attach": True}, "with no_attach the target does not attach the FTL"),
        ({"secure_channel": True}, "TLS"),
        ({"target_psk": "/k"}, "TLS"),
        ({"target": "10.0.0.1:5260"}, "10.0.0.1:5260 may be on another machine"),
    ],
)
def test_auto_is_vfio_user_where_that_is_possible(params: dict[str, Any], why_not: str | None) -> None:
    assert Choice(options(**params), TransportName.AUTO, FOLDER, None).by_vfio_user is (why_not is None)
    assert Choice(options(**params), TransportName.TCP, FOLDER, None).by_vfio_user is False
    asked = options(transport="vfio-user", **params)
    if why_not is None:
        assert Choice(asked, TransportName.TCP, FOLDER, None).may_fall_back is False
        return
    with pytest.raises(ParameterError, match=why_not):
        Choice(asked, TransportName.AUTO, FOLDER, None)


def test_a_path_that_no_socket_can_have_is_told_before_anything_is_done() -> None:
    longest = Path("/" + "d" * 86) / FOLDER.name
    assert len(str(longest / "keeper")) == 107
    assert Choice(options(), TransportName.AUTO, longest, None).by_vfio_user
    too_long = Path("/" + "d" * 87) / FOLDER.name
    assert not Choice(options(), TransportName.AUTO, too_long, None).by_vfio_user
    with pytest.raises(ParameterError, match=r"is 1 bytes too long for a unix socket .*--state-dir"):
        Choice(options(transport="vfio-user"), TransportName.TCP, too_long, None)


def test_the_daemons_option_is_for_ftls_for_which_nothing_else_is_asked() -> None:
    assert Choice(options(), TransportName.VFIO_USER, FOLDER, None).by_vfio_user
    assert not Choice(options(no_attach=True), TransportName.VFIO_USER, FOLDER, None).by_vfio_user
    assert not Choice(options(transport="tcp"), TransportName.VFIO_USER, FOLDER, None).by_vfio_user
    with pytest.raises(ParameterError):
        Choice(options(secure_channel=True), TransportName.VFIO_USER, FOLDER, None)


def test_a_restart_does_not_change_the_choice() -> None:
    for before in ("tcp", "vfio-user"):
        for default in TransportName:
            assert Choice(options(), default, FOLDER, before).to_record() == before


@pytest.mark.parametrize(
    ("asked", "has", "agrees"),
    [
        (None, "vfio-user", True), ("auto", "vfio-user", True), ("auto", "tcp", True), ("tcp", "tcp", True),
        ("vfio-user", "tcp", False), ("tcp", "vfio-user", False),
    ],
)  # fmt: skip
def test_what_auto_has_led_to_is_no_difference(asked: str | None, has: str, agrees: bool) -> None:
    reported = {"base_bdev": "b", "uuid": "u", "name": "ftl0", "transport": has, "params": {}}
    found = [str(each) for each in differences({"base_bdev": "b", "transport": asked}, reported)]
    assert found == ([] if agrees else [f'transport is "{has}", requested: "{asked}"'])


# --- the export


async def test_a_target_that_cannot_use_vfio_user_uses_tcp(
    here: World, endpoints: list[Endpoint], caplog: pytest.LogCaptureFixture
) -> None:
    here.line.refused_trtypes.add("VFIOUSER")
    daemon = await here.start(transport=TransportName.AUTO)
    await create(here, daemon, no_attach=False, hosts=[])
    device = await daemon.device()
    assert (device["attached"], device["transport"], device["export"]["trtype"]) == (True, "tcp", "TCP")
    assert "so from now on it has to use NVMe/TCP" in caplog.text
    (endpoint,) = endpoints
    assert endpoint.done == ["started", "ended"]
    assert not endpoint.folder.exists()
    await daemon.halt()
    # It stays with that.
    daemon = await here.start(transport=TransportName.AUTO)
    assert (await daemon.wait_for("online"))["export"] == device["export"]
    await daemon.halt(undo=True)
    assert endpoints == [endpoint]


async def test_vfio_user_that_was_asked_for_and_is_impossible_fails_and_leaves_nothing(
    here: World, endpoints: list[Endpoint]
) -> None:
    here.line.refused_trtypes.add("VFIOUSER")
    daemon = await here.start()
    with pytest.raises(FtlError, match="refused bdev_nvme_attach_controller"):
        await create(here, daemon, no_attach=False, hosts=[], transport="vfio-user")
    (endpoint,) = endpoints
    assert endpoint.done == ["started", "ended"]
    assert not endpoint.folder.exists()
    assert not await here.claimed()
    assert [bdev["name"] for bdev in await here.rpc("bdev_get_bdevs")] == ["Nvme0n1"]
    await daemon.halt()


async def test_an_endpoint_that_is_in_use_is_a_reason_to_use_tcp(
    here: World, endpoints: list[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "fails", True)
    daemon = await here.start()
    await create(here, daemon, no_attach=False, transport="auto")
    assert (await daemon.device())["transport"] == "tcp"
    await daemon.call("bdev_ftl_delete", name="ftl0")
    with pytest.raises(FtlError, match="is in use"):
        await create(here, daemon, no_attach=False, transport="vfio-user", name="ftl1", force=True)
    await daemon.halt()


def test_endpoints_of_ftls_that_are_gone_are_removed(tmp_path: Path) -> None:
    mine = endpoint_of(tmp_path, DEVICE)
    for folder in (mine, endpoint_of(tmp_path, UUID(int=7)), tmp_path / "strange"):
        folder.mkdir()
        (folder / "cntrl").touch()
    remove_stray_endpoints(tmp_path, [DEVICE])
    assert list(tmp_path.iterdir()) == [mine]
    remove_stray_endpoints(tmp_path / "missing", ())
    remove_stray_endpoints(None, ())


def test_a_list_of_devices_shows_how_the_target_reaches_them() -> None:
    export = {"trtype": "VFIOUSER", "traddr": "/state/vfio/u", "trsvcid": "", "subnqn": "n", "nsid": 1}
    assert address_of({"transport": "vfio-user", "export": export}) == "vfio-user"


def test_what_only_creation_decides_is_no_difference_while_nobody_can_be_asked() -> None:
    asked = {"base_bdev": "b", "conf": {"running_checkpoint": 0}}
    for has, expected in ((None, []), (0, []), (15, ["conf.running_checkpoint is 15, requested: 0"])):
        reported = {
            "base_bdev": "b",
            "uuid": "u",
            "name": "ftl0",
            "params": {},
            "conf": FtlConf(running_checkpoint=has).to_dict(),
        }
        assert [str(each) for each in differences(asked, reported)] == expected

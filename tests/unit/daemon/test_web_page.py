"""What `serve --web` answers: the bands as they are, a bounded history, and files that can do no harm. tests/e2e has
the page in a browser."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import time
import weakref
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest

from spdk_ftl_py.daemon.http_listener import Reply
from spdk_ftl_py.daemon.web import history as history_module
from spdk_ftl_py.daemon.web.bands import BandsView
from spdk_ftl_py.daemon.web.history import COLUMNS, History
from spdk_ftl_py.daemon.web.page import POLICY, WebPage
from spdk_ftl_py.errors import BusyError
from spdk_ftl_py.ftl.media.band import CLOSED, FREE, MENDING, OPEN, REPORTED_STATES, Band
from spdk_ftl_py.ftl.policy.interface import Placement
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.daemon.registry_rig import HOSTNQN, Daemon, World, connected, create, write
from unit.ftl.ftl_rig import ftl_rig
from unit.ftl.gc.band_rig import bands_of, rows_of

MANY: Final = 65_536
TURN_S: Final = 0.02
NAME: Final = "f.t-L:_9"


# --- bands


def unpacked(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """As band_map.js does it: the header, and the columns by name."""
    length = int(np.frombuffer(body, "<u4", 1)[0])
    header = json.loads(body[4 : 4 + length])
    at, columns = 4 + length, {}
    for name, kind in header["columns"]:
        assert at % np.dtype(kind).itemsize == 0, "a typed array has to begin at a multiple of its items"
        columns[name] = np.frombuffer(body, kind, header["rows"], at)
        at += columns[name].nbytes
    assert at == len(body)
    return header, columns


def a_view(count: int = 4, **more: Any) -> tuple[BandsView, Any]:
    """Of bands without a core."""
    zone = {"zones": [2], "zone_blocks": 100}
    bands = bands_of([Band(i, **{**zone, "zones": [2 + i]}) for i in range(count)])  # type: ignore[arg-type]
    geometry = SimpleNamespace(band_blocks=100, punits=1, shared_stream=False)
    ftl: Any = SimpleNamespace(
        bands=bands, geometry=geometry, zone_map=bands.zone_map, uuid="u", incarnation=3, next_band_seq=9,
        placement=Placement(), **more,
    )  # fmt: skip
    return BandsView(ftl), ftl


def test_after_the_first_answer_only_changed_bands_are_told() -> None:
    view, ftl = a_view()
    header, columns = unpacked(view.answer(ftl, ""))
    assert (header["whole"], header["bands"], header["next_seq"]) == (True, 4, 9)
    assert columns["band"].tolist() == [0, 1, 2, 3]
    again, none = unpacked(view.answer(ftl, header["cursor"]))
    assert (again["whole"], again["rows"], none["band"].size) == (False, 0, 0)

    ftl.bands.refresh(rows_of([Band(2, [4], 100, CLOSED, seq=7, valid=60, written=100, stream=1)]))
    ftl.bands.wear.add([3])
    ftl.bands.count_resets()
    changed, columns = unpacked(view.answer(ftl, again["cursor"]))
    assert columns["band"].tolist() == [1, 2]
    assert columns["resets"].tolist() == [1, 0]
    assert (columns["seq"][1], columns["valid"][1], columns["capacity"][1], columns["stream"][1]) == (7, 60, 100, 1)
    assert [REPORTED_STATES[code] for code in columns["state"]] == [FREE, CLOSED]
    # Another page has an older cursor, and misses nothing.
    assert unpacked(view.answer(ftl, header["cursor"]))[1]["band"].tolist() == [1, 2]
    assert unpacked(view.answer(ftl, changed["cursor"]))[1]["band"].tolist() == []


@pytest.mark.parametrize("cursor", ["", "u.2.1", "v.3.1", "u.3.99", "u.3.-1", "u.3.x", "1", "u.3." + "9" * 400])
def test_a_cursor_of_another_life_gets_all_bands(cursor: str) -> None:
    view, ftl = a_view()
    header, columns = unpacked(view.answer(ftl, cursor))
    assert header["whole"]
    assert len(columns["band"]) == 4


def test_the_page_knows_which_classes_are_those_of_hosts() -> None:
    view, ftl = a_view()
    header, _ = unpacked(view.answer(ftl, ""))
    assert (header["classes"], header["user_classes"]) == (2, 1)
    # Another policy places blocks.
    ftl.placement = dataclasses.replace(ftl.placement, classes=6, user_classes=2)
    header, _ = unpacked(view.answer(ftl, header["cursor"]))
    assert (header["classes"], header["user_classes"]) == (6, 2)


def test_a_free_band_with_a_failed_zone_is_mending() -> None:
    view, ftl = a_view()
    ftl.bands.refresh(rows_of([Band(0, [2], 100, bad_punits={0}), Band(1, [3], 100, OPEN, seq=8, written=5)]))
    states = [REPORTED_STATES[code] for code in unpacked(view.answer(ftl, ""))[1]["state"]]
    assert states == [MENDING, OPEN, FREE, FREE]
    assert ftl.bands.counts() == {FREE: 2, MENDING: 1, OPEN: 1}


def test_many_bands_take_a_turn_of_the_event_loop_at_most() -> None:
    view, ftl = a_view(MANY)
    rows = rows_of([Band(i, [2 + i], 100, CLOSED, seq=i, valid=50, written=100) for i in range(0, MANY, 64)])
    took = []
    for _ in range(5):
        began = time.thread_time()
        whole = view.answer(ftl, "")
        took.append(time.thread_time() - began)
    assert min(took) < TURN_S
    assert len(whole) < 28 * MANY
    cursor = unpacked(whole)[0]["cursor"]
    ftl.bands.refresh(rows)
    began = time.thread_time()
    part = view.answer(ftl, cursor)
    assert time.thread_time() - began < TURN_S
    assert len(part) < 32 * 1024


async def test_the_bands_of_an_ftl_at_work_are_those_of_the_device(reactor: ReactorLoop) -> None:
    async with ftl_rig(reactor) as rig:
        device = rig.device
        view = BandsView(device)
        known = {name: values.copy() for name, values in unpacked(view.answer(device, ""))[1].items()}
        cursor = ""
        for _ in range(4):
            await rig.overwrite(1)
            header, columns = unpacked(view.answer(device, cursor))
            cursor = header["cursor"]
            for name in known:
                known[name][columns["band"]] = columns[name]
        for band in device.bands:
            assert REPORTED_STATES[known["state"][band.index]] == band.reported_state
            assert (known["seq"][band.index], known["valid"][band.index]) == (band.seq, band.valid)
            assert band.zones == [header["first_zone"] + band.index * header["punits"]]
        assert known["resets"].sum() * device.geometry.punits == device.stats()["zone_resets"] > 0
        assert header["next_seq"] > known["seq"].max()


def test_a_view_does_not_keep_an_ftl_that_has_ended() -> None:
    """Each reload makes a new FtlDevice; the old one has an L2P, which may take GiB."""

    class Like:
        def __init__(self, ftl: Any) -> None:
            self.__dict__.update(vars(ftl))

    ftl: Any = Like(a_view()[1])
    views: weakref.WeakKeyDictionary[Any, BandsView] = weakref.WeakKeyDictionary()
    views[ftl] = BandsView(ftl)
    unpacked(views[ftl].answer(ftl, ""))
    ended = weakref.ref(ftl)
    del ftl
    gc.collect()
    assert (ended(), len(views)) == (None, 0)


# --- the past


class Counting:
    """A device whose hosts write 100 blocks between two calls; it may be away."""

    uuid = "u"

    def __init__(self) -> None:
        self.written = 0
        self.away = False

    def stats(self) -> dict[str, Any]:
        if self.away:
            raise BusyError("it has no statistics")
        self.written += 100
        group = {"ios": self.written, "blocks": self.written}
        return {
            "uuid": "u", "user": {"read": group, "write": group}, "media_written_blocks": 3 * self.written,
            "gc_moved_blocks": self.written, "throttled_ms": 0, "free_bands": 7, "user_share": 40,
        }  # fmt: skip


async def test_the_history_has_rates_and_a_bound() -> None:
    device = Counting()
    past = History(lambda: [device])  # type: ignore[list-item]
    for i in range(3 * history_module._ROWS_MAX):
        await past.take(5.0 * i, 1e9 + 5.0 * i)
    told = past.describe("u")
    assert len(told["rows"]) == history_module._ROWS_MAX
    row = dict(zip(told["columns"], told["rows"][-1], strict=True))
    assert told["columns"] == COLUMNS
    assert (row["write_iops"], row["write_amplification"], row["free_bands"], row["user_share"]) == (20, 3, 7, 40)
    assert row["read_p99_us"] is None
    assert told["rows"][-1][0] - told["rows"][-2][0] == told["interval_s"]
    assert json.loads(json.dumps(told))["rows"]


async def test_the_history_has_a_gap_while_an_ftl_is_away_and_ends_with_it() -> None:
    device = Counting()
    devices = [device]
    past = History(lambda: devices)  # type: ignore[return-value,arg-type]
    for i in range(6):
        device.away = i in (2, 3)
        await past.take(5.0 * i, 5.0 * i)
    assert [row[0] for row in past.describe("u")["rows"]] == [5.0, 25.0]
    devices.clear()
    await past.take(100.0, 100.0)
    assert past.describe("u")["rows"] == []
    assert past.describe("nobody")["rows"] == []


# --- what the page gets


class Routes:
    """A listener that only remembers."""

    def __init__(self, page: WebPage) -> None:
        self.routes: dict[str, Any] = {}
        page.add_to(self)  # type: ignore[arg-type]

    def add(self, path: str, route: Any) -> None:
        self.routes[path] = route

    async def get(self, path: str, **query: str) -> Reply:
        reply: Reply = await self.routes[path](query)
        assert reply.headers["Content-Security-Policy"] == POLICY
        return reply

    async def json(self, path: str, **query: str) -> Any:
        reply = await self.get(path, **query)
        assert reply.content_type == "application/json"
        return json.loads(reply.body)


def page_of(daemon: Daemon) -> Routes:
    return Routes(WebPage(daemon.registry))


async def test_the_state_is_that_of_the_rpcs_and_names_no_host(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await write(here, daemon, 30)
    page = page_of(daemon)
    (device,) = await daemon.call("ftl_get_devices")
    host = await connected(here, daemon)
    state = await page.json("/api/state")
    assert HOSTNQN not in json.dumps(state)
    assert state["ftls"][0]["hosts_connected"] == 1
    await host.close()
    assert state["chosen"] == device["uuid"]
    stats = await daemon.call("bdev_ftl_get_stats", name="ftl0")
    for key in ("host_written_blocks", "write_amplification", "free_bands", "limits", "moves", "bands", "user"):
        assert state["stats"][key] == stats[key], key
    assert (await page.json("/api/state", ftl="nonsense"))["chosen"] == device["uuid"]
    header, columns = unpacked((await page.get("/api/bands", ftl=device["uuid"])).body)
    assert header["bands"] == device["num_bands"] == len(columns["band"])
    assert (await page.get("/api/bands", ftl="nonsense")).status == 404
    assert (await page.json("/api/history", ftl=device["uuid"]))["rows"] == []
    await daemon.halt()


async def test_an_ftl_that_waits_says_why_and_has_no_bands(here: World) -> None:
    daemon = await here.start()
    page = page_of(daemon)
    assert (await page.json("/api/state"))["chosen"] is None
    await daemon.call("bdev_ftl_create", name="ftl0", base_bdev="Nowhere0", target=here.line.path)
    state = await page.json("/api/state")
    assert (state["ftls"][0]["state"], state["stats"]) == ("deferred", None)
    assert "Nowhere0" in state["ftls"][0]["waiting_for"]
    assert (await page.get("/api/bands", ftl=state["chosen"])).status == 204
    await daemon.halt()


FORBIDDEN: Final = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\b|new Function"
)


async def test_the_files_are_safe_and_complete(here: World) -> None:
    """No script or style within the page, nothing from elsewhere, and nothing that makes HTML of text."""
    daemon = await here.start()
    page = page_of(daemon)
    served = {path: (await page.get(path)).body.decode() for path in page.routes if not path.startswith("/api/")}
    html = served["/"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html)
    for path, text in served.items():
        assert not re.search(FORBIDDEN, text), path
        links = re.findall(r"https?://[^\"')\s]+", text)
        assert [each for each in links if each != "http://www.w3.org/2000/svg"] == [], path
        for name in re.findall(r"(?:src|href)=\"([^\"#]+)\"|from \"\./([^\"]+)\"|url\(([^)]+)\)", text):
            assert f"/{''.join(name)}" in served, (path, name)
    # Each element that the script asks for is there.
    asked = set(re.findall(r"\b(?:by|put)\(\"([\w-]+)\"", served["/app.js"]))
    assert asked
    assert asked <= set(re.findall(r"\bid=\"([\w-]+)\"", html))
    await daemon.halt()

"""Each order has one line: who, what, on which FTL, and how it ended. No secret is in it, and no second line."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.daemon.audit import ENTRIES_SHOWN_MAX, HIDDEN, audit_to_file, audit_to_log, shown_params
from spdk_ftl_py.daemon.server import RpcServer
from spdk_ftl_py.errors import FtlError, NotFoundError

LOGGER = "spdk_ftl_py.audit"
KEY = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"
PSK = "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:"
SECRET = "c2VjcmV0IHdpdGhvdXQgYSBwcmVmaXg"


async def done(params: dict[str, Any]) -> Any:
    return params


async def refused(params: dict[str, Any]) -> Any:
    raise NotFoundError(f"FTL bdev {params['name']}: no such FTL")


async def broken(_params: dict[str, Any]) -> Any:
    raise ZeroDivisionError(KEY)


async def endless(_params: dict[str, Any]) -> Any:
    await asyncio.Event().wait()


METHODS = {
    "bdev_ftl_create": done,
    "bdev_ftl_add_host": done,
    "bdev_ftl_delete": refused,
    "bdev_ftl_unload": broken,
    "ftl_halt": endless,
    "ftl_get_devices": done,
}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[RpcServer]:
    server = RpcServer(folder / "s", METHODS)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(server: RpcServer, method: str, params: Any, *, wait: bool = True) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    reader, writer = await asyncio.open_unix_connection(server.socket_path)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    reply = (await reader.read()).partition(b"\r\n\r\n")[2] if wait else b"null"
    if wait:
        writer.close()
        await writer.wait_closed()
    return json.loads(reply)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    yield
    audit_to_log()


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    told = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert all(text.isascii() and text.isprintable() for text in told)
    return [json.loads(text) for text in told]


async def test_a_line_says_who_has_ordered_what_and_how_it_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as server:
        await ask(server, "bdev_ftl_add_host", {"name": "ftl0", "host": "nqn.2026-11.com.example:a", "psk": "/etc/psk"})
        await ask(server, "bdev_ftl_delete", {"name": "ftl1"})
        await ask(server, "bdev_ftl_unload", {"name": "ftl2"})
        await ask(server, "bdev_ftl_delete", {"name": "ftl3", "colour": "red"})
        # What only looks on, and what is no RPC, is no order.
        await ask(server, "ftl_get_devices", {})
        await ask(server, "no_such", {})
    added, unknown, failed, malformed = lines(caplog)
    assert added["uid"] == os.geteuid()
    assert added["user"]
    assert (added["pid"], added["socket"]) == (os.getpid(), str(server.socket_path))
    assert added["process"] == Path("/proc/self/comm").read_text().strip()
    assert (added["method"], added["ftl"], added["result"]) == ("bdev_ftl_add_host", "ftl0", "ok")
    assert added["params"] == {"name": "ftl0", "host": "nqn.2026-11.com.example:a", "psk": "/etc/psk"}
    assert 0 <= added["duration_s"] < 60
    assert (unknown["result"], unknown["code"], unknown["ftl"]) == ("error", -19, "ftl1")
    assert unknown["error"] == "FTL bdev ftl1: no such FTL"
    assert failed["result"] == "internal error (ZeroDivisionError)"
    assert (malformed["code"], malformed["params"]) == (-32602, {"name": "ftl3", "colour": HIDDEN})


async def test_an_order_that_the_end_of_the_daemon_cuts_off_has_a_line_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spdk_ftl_py.daemon.server._HALT_TIMEOUT_S", 0.01)
    arrived = asyncio.Event()

    async def waiting(_params: dict[str, Any]) -> Any:
        arrived.set()
        await asyncio.Event().wait()

    monkeypatch.setitem(METHODS, "ftl_halt", waiting)
    async with serving(tmp_path) as server:
        task = asyncio.create_task(ask(server, "ftl_halt", {}))
        await arrived.wait()
    with pytest.raises((json.JSONDecodeError, ConnectionError)):
        await task
    (line,) = lines(caplog)
    assert line["result"] == "no answer"


async def test_no_secret_and_no_line_end_gets_into_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hostile = 'ftl0\n{"method": "forged"}\u2028\x1b[2J\u202e'
    async with serving(tmp_path) as server:
        for params in (
            {"name": "ftl0", "host": "nqn.a", "dhchap_key": KEY, "psk": PSK},
            {"name": "ftl0", "host": PSK},
            {"name": "ftl0", "host": "nqn.a", "dhchap_key": SECRET},
            {"name": "ftl0", "key": KEY, KEY: 5},
            {"name": hostile, "host": hostile, hostile: hostile},
            {"name": KEY.lower()},
            [KEY],
            KEY,
        ):
            await ask(server, "bdev_ftl_add_host", params)
            await ask(server, "bdev_ftl_delete", params)
    assert len(lines(caplog)) == 16
    whole = "\n".join(record.getMessage() for record in caplog.records)
    assert "must be the absolute path of a key file" in whole
    for secret in (KEY[10:40], PSK[16:40], SECRET):
        assert secret not in whole
    text = "\n".join(record.getMessage() for record in caplog.records if record.name == LOGGER)
    for secret in (KEY[10:40], PSK[16:40], KEY.lower()[10:40]):
        assert secret not in text
    assert text.count("\n") == 15


def test_it_has_bounds() -> None:
    config = [{"method": "bdev_ftl_create", "params": {"name": "a" * 9999, "psk": "secret"}}] * 1000
    shown = shown_params("ftl_load_config", {"config": config, "target": "/t" * 5000})
    assert len(json.dumps(shown)) < 4000
    assert "secret" not in json.dumps(shown)
    assert len(shown["config"]) == ENTRIES_SHOWN_MAX + 1
    wide = {f"n{number}": "x" for number in range(5000)}
    assert len(json.dumps(shown_params("bdev_ftl_create", {"name": "a", "conf": wide, **wide}))) < 6000
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    assert len(json.dumps(shown_params("ftl_load_config", {"config": deep}))) < 100


async def test_a_file_has_the_lines_instead_of_the_log_and_may_be_rotated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit"
    path.write_text("earlier\n")
    path.chmod(0o600)
    handler = audit_to_file(path)
    async with serving(tmp_path) as server:
        # The level of the log does not matter.
        logging.getLogger().setLevel(logging.ERROR)
        await ask(server, "bdev_ftl_create", {"name": "a", "base_bdev": "b", "target": "/t"})
        path.rename(tmp_path / "audit.1")
        await ask(server, "bdev_ftl_delete", {"name": "b"})
    audit_to_log(handler)
    earlier, first = (tmp_path / "audit.1").read_text().splitlines()
    (second,) = path.read_text().splitlines()
    assert earlier == "earlier"
    assert [json.loads(each)["ftl"] for each in (first, second)] == ["a", "b"]
    assert json.loads(first)["time"].endswith("+00:00")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lines(caplog) == []
    assert logging.getLogger(LOGGER).handlers == []


async def test_an_order_is_carried_out_where_its_line_can_not_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = audit_to_file(folder / "audit")
    async with serving(tmp_path) as server:
        (folder / "audit").unlink()
        folder.rmdir()
        for _ in range(2):
            answer = await ask(server, "bdev_ftl_create", {"name": "a", "base_bdev": "b", "target": "/t"})
            assert answer["result"]["name"] == "a"
    audit_to_log(handler)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len([text for text in told if text.endswith("(not in the audit log)") and '"bdev_ftl_create"' in text]) == 2
    assert len([text for text in told if "can't be written" in text]) == 1


def test_a_file_that_others_could_read_or_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "everybody").mkdir()
    (tmp_path / "everybody").chmod(0o777)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    for name in ("open", "link", "pipe", "socket", "everybody/audit", "missing/audit", "."):
        with pytest.raises(FtlError, match="audit log"):
            audit_to_file(tmp_path / name)
        assert logging.getLogger(LOGGER).propagate
    assert os.listdir(tmp_path / "everybody") in ([], ["audit"])

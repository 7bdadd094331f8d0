"""The typed methods of the clients: none is missing, and what they send is what the schemas say."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.async_client import AsyncDaemonClient
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import (
    BusyError,
    ExistsError,
    FtlError,
    NotFoundError,
    ParameterError,
    UnsupportedError,
)
from support.generators import generator

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = (DaemonClient, AsyncDaemonClient)
CODE = re.compile(r"(?<![\w-])-\d+")
_UUID = "b286d19a-0059-4709-abcd-9f7732b1567d"


class Calls:
    """What a client would have sent, with an answer for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any = True) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.answer = answer
        monkeypatch.setattr(DaemonClient, "_post", lambda _self, body, _timeout_s: self._reply(body))

        async def post(_self: AsyncDaemonClient, body: bytes, _timeout_s: float) -> bytes:
            return self._reply(body)

        monkeypatch.setattr(AsyncDaemonClient, "_post", post)

    def _reply(self, body: bytes) -> bytes:
        request = json.loads(body)
        self.sent.append((request["method"], request["params"]))
        return json.dumps({"result": self.answer} if not isinstance(self.answer, dict) else self.answer).encode()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture(params=CLIENTS, ids=lambda client: client.__name__)
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A typed method of either client, by its name."""

    def run(method: str, **params: Any) -> Any:
        result = getattr(request.param("/x"), method)(**params)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    return run


def test_the_modules_are_those_of_the_schemas() -> None:
    made = generator("generate_client")
    for name, text in made.generate().items():
        assert (made.PACKAGE / name).read_text(encoding="utf-8") == text, "run python docs/generate_client.py"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("method", schema.methods())
def test_every_rpc_is_a_method_with_all_its_parameters(client: type, method: str) -> None:
    rpc = schema.load(method)
    function = getattr(client, method)
    assert inspect.iscoroutinefunction(function) == (client is AsyncDaemonClient)
    declared = {name: each for name, each in inspect.signature(function).parameters.items() if name != "self"}
    assert {name: each.default is inspect.Parameter.empty for name, each in declared.items()} == {
        each.name: each.required for each in rpc.parameters
    }
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in declared.values())
    for each in rpc.parameters:
        assert re.search(rf"^ *{each.name}: ", function.__doc__, re.MULTILINE), each.name


def test_an_rpc_that_the_generator_does_not_know_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator("generate_client")
    for path in made.SCHEMAS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "ftl_new.json").write_bytes((made.SCHEMAS / "ftl_halt.json").read_bytes())
    (tmp_path / "bdev_ftl_scan.json").unlink()
    monkeypatch.setattr(made, "SCHEMAS", tmp_path)
    with pytest.raises(ValueError, match=r"differ: bdev_ftl_scan, ftl_new$"):
        made.generate()


@pytest.mark.parametrize("method", schema.methods())
def test_docstrings_name_the_codes_that_the_reference_names(method: str) -> None:
    section = (ROOT / "docs" / "rpc.md").read_text(encoding="utf-8").split(f"\n## {method}\n")[1].split("\n## ")[0]
    # A paragraph, or a table.
    told = re.sub(r"^.*?rrors(\.\*\*|\*\*)\s*|\n\n.*", "", section, flags=re.DOTALL) if "rrors" in section else ""
    doc = getattr(DaemonClient, method).__doc__
    raises = doc.partition("Raises FtlError: ")[2]
    if "As of" in told.partition("\n")[0]:
        assert re.match(r"as bdev_ftl_\w+\(\)", raises)
    else:
        assert set(CODE.findall(raises)) == set(CODE.findall(told))


def test_values_become_those_of_json(calls: Calls, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    call(
        "bdev_ftl_create",
        name="ftl0",
        base_bdev="Nvme0n1",
        target=Path("run/spdk.sock"),
        new_uuid=UUID(_UUID),
        hosts=("nqn.2026-11.com.example:a", "nqn.2026-11.com.example:b"),
        psk=Path("psk"),
        conf={"scrub_days": 0},
        limit_crit=0,
        use_append=False,
        force=True,
        if_absent=False,
    )
    ((method, params),) = calls.sent
    assert method == "bdev_ftl_create"
    assert params == {
        "name": "ftl0",
        "base_bdev": "Nvme0n1",
        "target": "/run/spdk.sock",
        "new_uuid": _UUID,
        "hosts": ["nqn.2026-11.com.example:a", "nqn.2026-11.com.example:b"],
        "psk": "/psk",
        "conf": {"scrub_days": 0},
        "limit_crit": 0,
        "use_append": False,
        "force": True,
    }
    schema.load(method).check(params)


def test_text_is_sent_as_it_is(calls: Calls, call: Callable[..., Any]) -> None:
    """A relative path among it, and a host where hosts should be: the daemon says what is wrong."""
    params = {"name": "a", "base_bdev": "b", "target": "spdk.sock", "hosts": "nqn.2026-11.com.example:a"}
    call("bdev_ftl_create", **params)
    assert calls.sent == [("bdev_ftl_create", params)]


def test_what_is_left_out_is_not_sent(calls: Calls, call: Callable[..., Any]) -> None:
    call("bdev_ftl_allow_any_host", name="a", allow_any_host=False)
    call("ftl_remove_buffers")
    call("ftl_get_daemon")
    assert calls.sent == [
        ("bdev_ftl_allow_any_host", {"name": "a", "allow_any_host": False}),
        ("ftl_remove_buffers", {}),
        ("ftl_get_daemon", {}),
    ]


def test_an_unknown_keyword_is_a_type_error(calls: Calls, call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="nam"):
        call("bdev_ftl_delete", nam="ftl0")
    assert calls.sent == []


def test_a_deferred_creation_has_the_form_of_any_other(calls: Calls, call: Callable[..., Any]) -> None:
    calls.answer = "FTL bdev: ftl0 creation deferred"
    for method in ("bdev_ftl_create", "bdev_ftl_load"):
        told = call(method, name="ftl0", base_bdev="Nvme0n1", target="/t", uuid=_UUID)
        assert told == {"name": "ftl0", "state": "deferred", "waiting_for": "base bdev Nvme0n1"}


@pytest.mark.parametrize(
    ("code", "kind", "errno"),
    [
        (-32602, ParameterError, 22),
        (-19, NotFoundError, 19),
        (-17, ExistsError, 17),
        (-16, BusyError, 16),
        (-95, UnsupportedError, 95),
        (-28, FtlError, 28),
        (-1, FtlError, 5),
        (-32601, FtlError, 5),
    ],
)
def test_errors_have_the_code_of_the_rpc(
    code: int, kind: type[FtlError], errno: int, calls: Calls, call: Callable[..., Any]
) -> None:
    calls.answer = {"error": {"code": code, "message": "no FTL of that name"}}
    with pytest.raises(FtlError) as refused:
        call("bdev_ftl_get_stats", name="ftl0")
    assert (type(refused.value), refused.value.code, refused.value.errno) == (kind, code, errno)
    assert refused.value.message == "no FTL of that name"

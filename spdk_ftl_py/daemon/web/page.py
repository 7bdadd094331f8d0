"""The answers of `spdk-ftl serve --web`: the files of the page, and the data that the page requests.

Everybody who can reach the address may read them, so they name no host: a host without a key needs only an allowed NQN
to connect. docs/web.md describes the page, docs/security.md who can reach it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from ...errors import NotFoundError
from ...ftl.device import FtlDevice
from ...runtime.turns import Turns
from ...version import __version__
from ..device import ManagedDevice
from ..http_listener import HttpListener, Query, Reply
from .bands import BandsView
from .history import History

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("app", "band_map", "charts", "format", "rates")
    },
}
_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_TOLD: Final = (
    *("name", "uuid", "state", "since", "target", "base_bdev", "cache", "no_data", "error", "progress"),
    *("waiting_for", "block_size", "num_blocks", "num_bands", "free_bands"),
)
"""Of what ftl_get_devices answers."""
_NOT_SHOWN: Final = ("core", "cmp", "l2p", "md_base", "md_nv_cache")
"""Of what bdev_ftl_get_stats answers."""


class Source(Protocol):
    """The part of the registry that the page needs."""

    @property
    def devices(self) -> Mapping[Any, ManagedDevice]: ...

    @property
    def uptime_s(self) -> float: ...


class WebPage:
    """add_to() a listener, start(), then close()."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._history = History(lambda: source.devices.values())
        self._views: WeakKeyDictionary[FtlDevice, BandsView] = WeakKeyDictionary()
        self._files = {path: _file(*each) for path, each in _FILES.items()}

    def add_to(self, listener: HttpListener) -> None:
        for path, reply in self._files.items():
            listener.add(path, _always(reply))
        listener.add("/api/state", self.state)
        listener.add("/api/history", self.history)
        listener.add("/api/bands", self.bands)

    def start(self) -> None:
        self._history.start()

    async def close(self) -> None:
        """Idempotent."""
        await self._history.close()

    # --- what the page asks for

    async def state(self, query: Query) -> Reply:
        """The daemon, its FTLs, and all about one of them: query ftl, its UUID; by default the first one."""
        devices = sorted(self._source.devices.values(), key=lambda each: (each.name, each.target))
        chosen = self._chosen(query, devices)
        turns, descriptions = Turns(), []
        for each in devices:
            descriptions.append(_description(each))
            await turns()
        told = {
            "daemon": {"pid": os.getpid(), "version": __version__, "uptime_s": round(self._source.uptime_s, 1)},
            "ftls": descriptions,
            "chosen": None if chosen is None else str(chosen.uuid),
            "stats": None if chosen is None else _stats(chosen),
        }
        return _reply(json.dumps(told, separators=(",", ":")).encode(), _JSON)

    async def history(self, query: Query) -> Reply:
        """What the FTL did before: query ftl, its UUID."""
        told = self._history.describe(query.get("ftl", ""))
        return _reply(json.dumps(told, separators=(",", ":")).encode(), _JSON)

    async def bands(self, query: Query) -> Reply:
        """The bands of the FTL with the UUID ftl, packed; query since: the cursor of the last answer. Status 204 if it
        is not loaded, 404 if there is none."""
        device = next((each for each in self._source.devices.values() if str(each.uuid) == query.get("ftl")), None)
        if device is None:
            return _reply(b"There is no FTL with that UUID.\n", "text/plain; charset=utf-8", status=404)
        if device.ftl is None:
            return _reply(b"", _BINARY, status=204)
        view = self._views.get(device.ftl)
        if view is None:
            view = self._views[device.ftl] = BandsView(device.ftl)
        return _reply(view.answer(device.ftl, query.get("since", "")), _BINARY)

    def _chosen(self, query: Query, devices: Iterable[ManagedDevice]) -> ManagedDevice | None:
        known = {str(each.uuid): each for each in devices}
        return known.get(query.get("ftl", "")) or next(iter(known.values()), None)


def _description(device: ManagedDevice) -> dict[str, Any]:
    told = device.describe()
    hosts = sum(1 for _ in device.front.controllers())
    return {**{key: told[key] for key in _TOLD if key in told}, "hosts_connected": hosts}


def _stats(device: ManagedDevice) -> dict[str, Any] | None:
    if device.ftl is None:
        return None
    cache = device.ftl.cache
    return {
        **{key: value for key, value in device.stats().items() if key not in _NOT_SHOWN},
        "cache_state": cache.state.value,
        "reloc_policy": device.conf.reloc_policy,
        "invalid_thld": device.conf.invalid_thld,
        "max_active_relocs": device.conf.max_active_relocs,
    }


def _file(name: str, content_type: str) -> Reply:
    """Raises NotFoundError: the package was installed without it."""
    try:
        body = (resources.files(__package__) / "files" / name).read_bytes()
    except OSError as error:
        raise NotFoundError(f"--web: the package lacks its file daemon/web/files/{name}: install it again") from error
    return _reply(body, content_type)


def _reply(body: bytes, content_type: str, *, status: int = 200) -> Reply:
    return Reply(body, content_type, status, {"Content-Security-Policy": POLICY})


def _always(reply: Reply) -> Any:
    async def route(_query: Query) -> Reply:
        return reply

    return route

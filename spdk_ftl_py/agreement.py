"""Whether an FTL matches a request: the parameters of bdev_ftl_create compared with the result of
bdev_ftl_get_properties.

Both sides use it: the daemon for --if-absent, `spdk-ftl apply` before it changes anything. Hosts are not compared here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from .conf import given_settings

NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"
_SETTING_NAMES: Final = {"lba_rsvd": "overprovisioning"}
_SWITCHES: Final = ("no_attach", "no_data", "secure_channel")


@dataclass(frozen=True)
class Difference:
    """name: of the parameter; of one in conf, ``conf.NAME``. has and wanted: JSON-able."""

    name: str
    has: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.name} is {_shown(self.has)}, requested: {_shown(self.wanted)}"


def differences(asked: Mapping[str, Any], reported: Mapping[str, Any]) -> list[Difference]:
    """asked: valid parameters of bdev_ftl_create; reported: of bdev_ftl_get_properties.

    Base, cache, target_psk, no_attach, no_data and secure_channel are always compared, everything else only if it is
    given.
    """
    return [
        *_bdevs(asked, reported),
        *_identity(asked, reported),
        *_settings(asked, reported),
        *_shape(asked, reported),
    ]


def reported_conf(reported: Mapping[str, Any]) -> dict[str, Any]:
    """The conf in the result of bdev_ftl_get_properties, for an FTL in any state."""
    return dict(reported_property(reported, "conf") or reported.get("conf") or {})


def reported_property(reported: Mapping[str, Any], name: str) -> Any:
    """None if the FTL can't be asked."""
    return next((each["value"] for each in reported.get("properties") or () if each["name"] == name), None)


def _bdevs(asked: Mapping[str, Any], reported: Mapping[str, Any]) -> Iterator[Difference]:
    base = reported["base_bdev"]
    if asked["base_bdev"] not in (base, *reported.get("base_names", ())):
        yield Difference("base_bdev", base, asked["base_bdev"])
    cache = reported.get("cache")
    # In bdev_ftl_get_properties this is a table that describes the cache.
    name = cache.get("bdev") if isinstance(cache, Mapping) else cache
    names = cache.get("names", ()) if isinstance(cache, Mapping) else ()
    if asked.get("cache") not in (name, *names):
        yield Difference("cache", name, asked.get("cache"))


def _identity(asked: Mapping[str, Any], reported: Mapping[str, Any]) -> Iterator[Difference]:
    for name in ("uuid", "new_uuid"):
        wanted = str(asked.get(name) or NIL_UUID).lower()
        if wanted not in (NIL_UUID, reported["uuid"]):
            yield Difference(name, reported["uuid"], wanted)
    if asked.get("nqn") is not None:
        nqn = asked["nqn"].replace("{name}", reported["name"]).replace("{uuid}", reported["uuid"])
        export = reported.get("export") or {}
        # There is no NQN before the export exists; it will be made from this.
        has = export.get("subnqn", (reported.get("params") or {}).get("nqn"))
        if has not in (nqn, asked["nqn"]):
            yield Difference("nqn", has, nqn)


def _settings(asked: Mapping[str, Any], reported: Mapping[str, Any]) -> Iterator[Difference]:
    conf, given = reported_conf(reported), given_settings(asked)
    # These options applied to an earlier load.
    given.pop("allow_open_bands", None)
    for limit, parts in given.pop("limits", {}).items():
        has = (conf.get("limits") or {}).get(limit, {})
        for part, suffix in (("limit", ""), ("thld", "_threshold")):
            if part in parts and parts[part] != has.get(part):
                yield Difference(f"limit_{limit}{suffix}", has.get(part), parts[part])
    for part, wanted in given.pop("nv_cache", {}).items():
        has = (conf.get("nv_cache") or {}).get(part)
        if wanted != has:
            yield Difference(f"conf.nv_cache.{part}", has, wanted)
    inside = asked.get("conf") or {}
    for name, wanted in given.items():
        # Creation decides on some settings, and an FTL that is not up can't be asked.
        undecided = name in conf and conf[name] is None
        if wanted != conf.get(name) and not undecided:
            shown_name = f"conf.{name}" if name in inside else _SETTING_NAMES.get(name, name)
            yield Difference(shown_name, conf.get(name), wanted)


def _shape(asked: Mapping[str, Any], reported: Mapping[str, Any]) -> Iterator[Difference]:
    params: Mapping[str, Any] = reported.get("params") or {}
    for name in _SWITCHES:
        has, wanted = bool(reported.get(name, params.get(name))), bool(asked.get(name))
        if has != wanted:
            yield Difference(name, has, wanted)
    transport = asked.get("transport")
    # What "auto" led to is as it should be, whatever it is.
    if transport not in (None, "auto", reported.get("transport", params.get("transport"))):
        yield Difference("transport", reported.get("transport", params.get("transport")), transport)
    if asked.get("target_psk") != params.get("target_psk"):
        yield Difference("target_psk", params.get("target_psk"), asked.get("target_psk"))
    punits = reported_property(reported, "num_punits")
    known = {**params, "num_punits": params.get("num_punits") if punits is None else punits}
    # Without it, zones are the base's own.
    if asked.get("zone_capacity") not in (None, known.get("zone_capacity")):
        yield Difference("zone_capacity", known.get("zone_capacity"), asked["zone_capacity"])
    # These apply to a creation: for an FTL that was loaded without them they are unknown.
    for name in ("num_punits", "optimal_open_zones"):
        if asked.get(name) is not None and known.get(name) not in (None, asked[name]):
            yield Difference(name, known[name], asked[name])
    yield from _address(asked, reported, params)


def _address(asked: Mapping[str, Any], reported: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Difference]:
    wanted = asked.get("listen_address")
    if wanted is None:
        return
    host, port = split_host(wanted)
    export = reported.get("export")
    has: str | None = params.get("listen_address")
    if isinstance(export, Mapping) and export["trsvcid"]:
        traddr, trsvcid = str(export["traddr"]), str(export["trsvcid"])
        has = f"[{traddr}]:{trsvcid}" if ":" in traddr else f"{traddr}:{trsvcid}"
    has_host, has_port = split_host(has or "")
    if _same_host(has_host, host) and port in ("", "0", has_port):
        return
    yield Difference("listen_address", has, wanted)


def split_host(address: str) -> tuple[str, str]:
    """ADDRESS[:PORT] or [IPV6][:PORT] as host and port; port "" if there is none."""
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.lstrip(":")
    host, _, port = address.partition(":")
    return host, port


def _same_host(one: str, other: str) -> bool:
    try:
        return ip_address(one) == ip_address(other)
    except ValueError:
        return one == other


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=True)

"""What an RPC asks for, once its schema has passed the parameters: built at the door, and passed on from there.

Parameters as JSON has them stay where they are told to others or kept: in the state file, in a saved configuration, in
bdev_ftl_get_properties, and in what the target's own FTL is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar
from uuid import UUID

from ..conf import given_settings
from .server import Method

_UUIDS: Final = ("uuid", "new_uuid")

T = TypeVar("T", bound="Request")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parameters of one RPC, by the names that its schema has for them."""

    @classmethod
    def of(cls: type[T], params: Mapping[str, Any]) -> T:
        """params: as the schema has passed them, with its defaults."""
        values = {each.name: params[each.name] for each in fields(cls) if params.get(each.name) is not None}
        return cls(**{name: UUID(value) if name in _UUIDS else value for name, value in values.items()})


def takes(kind: type[T], method: Callable[[T], Awaitable[Any]]) -> Method:
    """method, of which the parameters are built here."""

    async def taken(params: dict[str, Any]) -> Any:
        return await method(kind.of(params))

    return taken


# --- an FTL that is there ---


@dataclass(frozen=True, kw_only=True)
class FtlRequest(Request):
    """Of one FTL. Without a target its name has to be the only one."""

    name: str
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class ForceableRequest(FtlRequest):
    """bdev_ftl_delete, bdev_ftl_grow."""

    force: bool = False


@dataclass(frozen=True, kw_only=True)
class ScrubRequest(FtlRequest):
    stop: bool = False


@dataclass(frozen=True, kw_only=True)
class UnmapRequest(FtlRequest):
    lba: int
    num_blocks: int


@dataclass(frozen=True, kw_only=True)
class PropertyRequest(FtlRequest):
    ftl_property: str
    value: str


@dataclass(frozen=True, kw_only=True)
class CacheRequest(ForceableRequest):
    cache: str


@dataclass(frozen=True, kw_only=True)
class RenameRequest(FtlRequest):
    new_name: str


@dataclass(frozen=True, kw_only=True)
class HostRequest(FtlRequest):
    host: str


@dataclass(frozen=True, kw_only=True)
class NewHostRequest(HostRequest):
    dhchap_key: str | None = None
    """A key file, as the next two are."""
    dhchap_ctrlr_key: str | None = None
    psk: str | None = None


@dataclass(frozen=True, kw_only=True)
class AnyHostRequest(FtlRequest):
    allow_any_host: bool


# --- the daemon, its targets and their bdevs ---


@dataclass(frozen=True, kw_only=True)
class DevicesRequest(Request):
    name: str | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuffersRequest(Request):
    uuid: UUID | None = None
    """None: of every FTL that the daemon does not have."""
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class ScanRequest(Request):
    target: str
    base_bdev: str | None = None
    zone_capacity: int | None = None


@dataclass(frozen=True, kw_only=True)
class NewUuidRequest(Request):
    target: str
    base_bdev: str
    uuid: UUID
    new_uuid: UUID | None = None
    zone_capacity: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class SaveConfigRequest(Request):
    target: str | None = None
    with_batches: bool = False


@dataclass(frozen=True, kw_only=True)
class LoadConfigRequest(Request):
    config: list[Any]
    target: str | None = None


# --- an FTL that is to be ---


@dataclass(frozen=True)
class FtlOptions:
    """What bdev_ftl_create says of an FTL, for as long as the daemon has it. A change makes new ones of it."""

    name: str
    target: str
    """Normal: see config_rpcs.normal_target()."""
    base_bdev: str
    cache: str | None = None
    uuid: UUID | None = None
    """As given, so that it may be nil: "a new one", as in 2020's rpc.py."""
    load_or_create: bool = False
    force: bool = False
    wait_s: int | None = None
    without_cache: bool = False
    no_data: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the conf, as FtlConf.from_dict() takes them."""
    zone_capacity: int | None = None
    """Blocks: zones are emulated on a conventional base."""
    optimal_open_zones: int | None = None
    num_punits: int | None = None
    listen_address: str | None = None
    nqn: str | None = None
    no_attach: bool = False
    secure_channel: bool = False
    target_psk: str | None = None
    """A key file."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> FtlOptions:
        """params: of bdev_ftl_create, from an RPC or from the state file. Raises KeyError or ValueError where they have
        passed no schema."""
        return cls(
            name=params["name"],
            target=params["target"],
            base_bdev=params["base_bdev"],
            cache=params.get("cache"),
            uuid=UUID(params["uuid"]) if params.get("uuid") else None,
            load_or_create=bool(params.get("load_or_create")),
            force=bool(params.get("force")),
            wait_s=params.get("wait"),
            without_cache=bool(params.get("without_cache")),
            no_data=bool(params.get("no_data")),
            settings=given_settings(params),
            zone_capacity=params.get("zone_capacity"),
            optimal_open_zones=params.get("optimal_open_zones"),
            num_punits=params.get("num_punits"),
            listen_address=params.get("listen_address"),
            nqn=params.get("nqn"),
            no_attach=bool(params.get("no_attach")),
            secure_channel=params.get("secure_channel") is True,
            target_psk=params.get("target_psk"),
        )

    @property
    def loads_uuid(self) -> UUID | None:
        """Of the FTL that is on the base already; None: a new one is made, or whichever is found there."""
        return self.uuid if self.uuid is not None and self.uuid.int else None

    @property
    def is_patient(self) -> bool:
        """The requester knows that not everything exists yet."""
        return self.wait_s is not None


@dataclass(frozen=True)
class HostOptions:
    """Who may connect to a new FTL. Later on only Admission knows."""

    hosts: tuple[str, ...] = ()
    allow_any_host: bool = False
    dhchap_key: str | None = None
    """A key file, as the next two are; each is for all of these hosts."""
    dhchap_ctrlr_key: str | None = None
    psk: str | None = None

    @classmethod
    def taken_from(cls, params: dict[str, Any]) -> HostOptions:
        """Out of the parameters of bdev_ftl_create: what is kept of them says nothing of hosts."""
        return cls(
            hosts=tuple(params.pop("hosts", None) or ()),
            allow_any_host=bool(params.pop("allow_any_host", False)),
            dhchap_key=params.pop("dhchap_key", None),
            dhchap_ctrlr_key=params.pop("dhchap_ctrlr_key", None),
            psk=params.pop("psk", None),
        )

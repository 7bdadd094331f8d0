"""The parameters of RPCs as dataclasses. The daemon builds them as soon as the schema has checked the JSON.

JSON parameters remain where they are stored or passed to others: in the state file, in a saved configuration, in
bdev_ftl_get_properties, and in requests to the target's own FTL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from ..conf import given_settings

if TYPE_CHECKING:
    # Not for torture and checks, which would import a whole HTTP server with it.
    from .server import Method

_UUIDS: Final = ("uuid", "new_uuid")

T = TypeVar("T", bound="Request")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parameters of one RPC, named as in its schema."""

    @classmethod
    def of(cls: type[T], params: Mapping[str, Any]) -> T:
        """params: checked by the schema, with its defaults filled in."""
        values = {each.name: params[each.name] for each in fields(cls) if params.get(each.name) is not None}
        return cls(**{name: UUID(value) if name in _UUIDS else value for name, value in values.items()})


def takes(kind: type[T], method: Callable[[T], Awaitable[Any]]) -> Method:
    """Wraps method so that it takes JSON parameters."""

    async def taken(params: dict[str, Any]) -> Any:
        return await method(kind.of(params))

    return taken


# --- an existing FTL ---


@dataclass(frozen=True, kw_only=True)
class FtlRequest(Request):
    """A request about one FTL. Without a target, the FTL's name has to be unique."""

    name: str
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class ForceableRequest(FtlRequest):
    """The parameters of bdev_ftl_delete and bdev_ftl_grow."""

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
    """The path of a key file, as are the next two."""
    dhchap_ctrlr_key: str | None = None
    psk: str | None = None


@dataclass(frozen=True, kw_only=True)
class ListenerRequest(FtlRequest):
    listen_address: str


@dataclass(frozen=True, kw_only=True)
class NewListenerRequest(ListenerRequest):
    ana_state: str = "optimized"


@dataclass(frozen=True, kw_only=True)
class AnaStateRequest(ListenerRequest):
    ana_state: str


@dataclass(frozen=True, kw_only=True)
class AnyHostRequest(FtlRequest):
    allow_any_host: bool


@dataclass(frozen=True, kw_only=True)
class NbdStartRequest(FtlRequest):
    socket_path: str
    read_only: bool = False
    follow: bool = False


# --- the daemon, its targets and their bdevs ---


@dataclass(frozen=True, kw_only=True)
class DevicesRequest(Request):
    name: str | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class BuffersRequest(Request):
    uuid: UUID | None = None
    """None: the buffer of every FTL that the daemon does not have."""
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


# --- a new FTL ---


@dataclass(frozen=True)
class FtlOptions:
    """The options that bdev_ftl_create gives an FTL. The daemon keeps them as long as it has the FTL. A change makes a
    new object."""

    name: str
    target: str
    """The target's normalized address: see config_rpcs.normal_target()."""
    base_bdev: str
    cache: str | None = None
    uuid: UUID | None = None
    """As given. The nil UUID means "a new one", as in 2020's rpc.py."""
    load_or_create: bool = False
    force: bool = False
    wait_s: int | None = None
    without_cache: bool = False
    no_data: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the conf, as FtlConf.from_dict() takes them."""
    zone_capacity: int | None = None
    """In blocks. If given, zones are emulated on a conventional base."""
    optimal_open_zones: int | None = None
    num_punits: int | None = None
    listen_address: str | None = None
    nqn: str | None = None
    no_attach: bool = False
    transport: str | None = None
    """How the target reaches the FTL: auto, tcp or vfio-user; None: as the daemon's option says."""
    secure_channel: bool = False
    target_psk: str | None = None
    """The path of a key file."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> FtlOptions:
        """params: of bdev_ftl_create, from an RPC or from the state file. Raises KeyError or ValueError for params that
        no schema has checked and that are wrong."""
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
            transport=params.get("transport"),
            secure_channel=params.get("secure_channel") is True,
            target_psk=params.get("target_psk"),
        )

    @property
    def loads_uuid(self) -> UUID | None:
        """The UUID of the FTL to load from the base. None: the daemon makes a new FTL, or loads whichever it finds
        there."""
        return self.uuid if self.uuid is not None and self.uuid.int else None

    @property
    def is_patient(self) -> bool:
        """The requester knows that not everything exists yet."""
        return self.wait_s is not None


@dataclass(frozen=True)
class HostOptions:
    """Which hosts may connect to a new FTL. Once the FTL exists, Admission has this."""

    hosts: tuple[str, ...] = ()
    allow_any_host: bool = False
    dhchap_key: str | None = None
    """The path of a key file, as are the next two. Each key is for all of these hosts."""
    dhchap_ctrlr_key: str | None = None
    psk: str | None = None

    @classmethod
    def taken_from(cls, params: dict[str, Any]) -> HostOptions:
        """Takes the host options out of the parameters of bdev_ftl_create, so that what the daemon keeps of them does
        not mention hosts."""
        return cls(
            hosts=tuple(params.pop("hosts", None) or ()),
            allow_any_host=bool(params.pop("allow_any_host", False)),
            dhchap_key=params.pop("dhchap_key", None),
            dhchap_ctrlr_key=params.pop("dhchap_ctrlr_key", None),
            psk=params.pop("psk", None),
        )

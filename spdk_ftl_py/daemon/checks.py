"""The checks of bdev_ftl_create before it changes anything: names, base and cache bdevs, listen address."""

from __future__ import annotations

import asyncio
import functools
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from uuid import UUID

from .. import _shim
from ..conf import FtlConf
from ..errors import ExistsError, GeometryError, ParameterError, UnsupportedError
from ..ftl.cache.nv_cache import check_cache, check_cache_size, owner_of
from ..ftl.creation import CREATION_PATIENCE_S
from ..ftl.media import superblock
from ..ftl.media.blockdev import BUSY_PATIENCE_S, BlockPort
from ..ftl.media.geometry import BLOCK_BYTES, Geometry, plan
from ..ftl.media.layout import (
    BATCH_MAGIC,
    CHECKPOINT_MAGIC,
    SUMMARY_MAGIC,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_PART_MAGIC,
)
from ..ftl.media.signatures import find_foreign
from ..ftl.media.superblock_content import geometry_of
from ..ftl.media.zone import OFFLINE, Zone
from ..ftl.policy.registry import find_class, is_shipped
from ..runtime.progress import Progress
from ..runtime.reactor import ReactorLoop
from ..spdk.attach import attached_as
from ..spdk.bdevs import Bdev, get_bdev, get_bdevs
from ..spdk.rpc import TargetRpc
from .requests import FtlOptions

REMAINS_ZONES: Final = 16
REMAINS_BLOCKS: Final = 8
"""Number of blocks of each of the first zones that are searched for remains of an FTL."""
PORT_MAX: Final = 65535
_MAGICS: Final = (SUPERBLOCK_MAGIC, SUPERBLOCK_PART_MAGIC, BATCH_MAGIC, SUMMARY_MAGIC, CHECKPOINT_MAGIC)


def zone_size_of(zone_capacity: int) -> int:
    """The zone size of emulated zones: as in bdev_zone_block_create, the capacity rounded up to a power of two."""
    return 1 << (zone_capacity - 1).bit_length()


async def load_policy(name: str) -> None:
    """Imports the policy that an order names, before anything is changed. Raises ConfError."""
    if not is_shipped(name):
        # Somebody else's module: it may take its time.
        await asyncio.to_thread(find_class, name)


async def check_name(rpc: TargetRpc, name: str, device: UUID, *, before: str | None = None) -> None:
    """Raises ExistsError if the target has another bdev with that name or uuid. before: the current name, for a
    rename."""
    now = name if before is None else before
    ours = await attached_as(rpc, name=now, device=device)
    for bdev in await get_bdevs(rpc):
        if ours and bdev.name == now:
            continue
        if name in bdev.names:
            raise ExistsError(
                f"name {name}: the SPDK target at {rpc.address} has a bdev of that name ({bdev.product_name}): "
                "choose another, or delete that bdev first"
            )
        if str(device) in (bdev.uuid.lower(), *(alias.lower() for alias in bdev.aliases)):
            raise ExistsError(
                f"uuid {device}: bdev {bdev.name} of the SPDK target at {rpc.address} already has it: choose another"
            )


def check_base(bdev: Bdev, *, zone_capacity: int | None) -> None:
    """Raises an error that names the remedy if the bdev cannot carry an FTL. zone_capacity: in blocks, if zones are to
    be emulated on it."""
    name = f"base bdev {bdev.name}"
    under = bdev.zone_block_base
    if under is not None:
        capacity = bdev.driver_specific.get("zoned_block", {}).get("zone_capacity", bdev.zone_size)
        raise UnsupportedError(
            f"{name} is a zone_block bdev, whose zones can't be used over NVMe-oF. Delete it (bdev_zone_block_delete "
            f"{bdev.name}) and give its base bdev {under} with --zone-capacity {capacity}: the FTL emulates the zones"
        )
    if bdev.block_bytes != BLOCK_BYTES:
        raise ParameterError(
            f"{name} has blocks of {bdev.block_bytes} B: an FTL needs blocks of {BLOCK_BYTES} B: format the device "
            "with them, or use another bdev"
        )
    if bdev.metadata_bytes or bdev.dif_type:
        raise UnsupportedError(
            f"{name} has {bdev.metadata_bytes} B of metadata per block (DIF type {bdev.dif_type}): an FTL needs a "
            "base bdev without metadata: format the device without it, or use another bdev"
        )
    if bdev.zoned and zone_capacity is not None:
        raise ParameterError(
            f"{name} is zoned itself: leave out --zone-capacity, which emulates zones on a conventional bdev"
        )
    if not bdev.zoned and zone_capacity is None:
        raise ParameterError(
            f"{name} is not zoned ({bdev.product_name}): use a zoned bdev, or emulate zones with --zone-capacity BLOCKS"
        )
    if bdev.zoned and not bdev.nvme_io:
        raise UnsupportedError(
            f"{name} ({bdev.product_name}) passes no NVMe commands, so its zones can't be used over NVMe-oF: use the "
            "bdev_nvme bdev itself"
        )
    if zone_capacity is not None and zone_size_of(zone_capacity) > bdev.block_count:
        raise GeometryError(
            f"{name} has {bdev.block_count} blocks, less than one zone of {zone_size_of(zone_capacity)} "
            f"(--zone-capacity {zone_capacity}, rounded up to a power of two): use smaller zones"
        )


async def find_cache(rpc: TargetRpc, name: str | None, base: Bdev | None, *, base_name: str) -> Bdev | None:
    """Returns the cache bdev, or None if no cache is wanted. Checks everything but its size, which depends on the
    geometry. base_name: the given name of the base, which may not exist.

    Raises ParameterError, UnsupportedError or NotFoundError. A missing cache is an error even if the creation would be
    deferred.
    """
    if name is None:
        return None
    require_two_bdevs(name, base_name)
    cache = await get_bdev(rpc, name, role="cache bdev")
    require_two_bdevs(cache.name, base.name if base is not None else base_name)
    check_cache(
        cache.name,
        block_bytes=cache.block_bytes,
        metadata_bytes=cache.metadata_bytes,
        metadata_interleaved=cache.metadata_interleaved,
        dif_type=cache.dif_type,
        zoned=cache.zoned,
    )
    return cache


def require_two_bdevs(cache: str, base: str) -> None:
    """Raises ParameterError if both are the same bdev."""
    if cache == base:
        raise ParameterError(f"cache bdev {cache} is also the base bdev: give another one")


def check_cache_size_of(cache: Bdev, geometry: Geometry) -> str:
    """Returns the kind of a bdev that find_cache() has found. Raises ParameterError."""
    return check_cache_size(
        cache.name, block_count=cache.block_count, metadata_bytes=cache.metadata_bytes, geometry=geometry
    )


@dataclass(frozen=True)
class Media:
    """Base and cache as block devices of the daemon."""

    base: _shim.BlockDevice
    """With its zones, including emulated ones."""
    raw_base: _shim.BlockDevice
    """The whole bdev, without emulated zones."""
    cache: _shim.BlockDevice | None


@dataclass(frozen=True)
class Seen:
    """The result of check_media()."""

    cache_kind: str | None
    zones: list[Zone] | None
    """The zones in the base's zone report; None if no report was needed."""


async def check_media(
    reactor: ReactorLoop,
    media: Media,
    *,
    base: Bdev,
    cache: Bdev | None,
    options: FtlOptions,
    conf: FtlConf,
    loads: UUID | None,
    progress: Progress,
) -> Seen:
    """Checks the rules that depend on the content of the bdevs and on the zones of the base, before anything is
    written.

    loads: the FTL that must be on the base. Otherwise base and cache must not hold anybody's data, unless options have
    "force".
    """
    if loads is not None and cache is None:
        # Nothing is erased: the load itself finds out whether the FTL exists.
        return Seen(None, None)
    patience_s = CREATION_PATIENCE_S if loads is None else BUSY_PATIENCE_S
    port = BlockPort(reactor, media.base, name=base.name, patience_s=patience_s)
    try:
        zones = await port.zones(functools.partial(progress, "zone report"))
        if loads is None and not options.force:
            await _check_no_ftl(port, zones, base.name)
            if options.load_or_create:
                await _check_no_remains(port, zones, base.name)
            raw_zones = zones if base.zoned else []
            await _check_nobodys(reactor, media.raw_base, raw_zones, f"base bdev {base.name}", patience_s)
        found = await superblock.find(port, zones, loads) if loads is not None and cache is not None else None
    finally:
        await port.close()
    if cache is None:
        return Seen(None, zones)
    if found is not None:
        geometry = geometry_of(found.superblock, zones, media.base, name=options.name)
    else:
        geometry = plan(
            zones,
            zone_size=media.base.zone_size,
            max_open_zones=media.base.max_open_zones,
            max_active_zones=media.base.max_active_zones,
            lba_rsvd=conf.lba_rsvd,
            num_punits=options.num_punits,
            optimal_open_zones=optimal_open_zones(base, options),
        )
    kind = check_cache_size_of(cache, geometry)
    if media.cache is not None and not options.force and (loads is None or _begins_anew(found)):
        await check_cache_is_nobodys(reactor, media.cache, cache.name, loads, patience_s)
    return Seen(kind, zones)


def _begins_anew(found: superblock.Found | None) -> bool:
    """The FTL had no cache, or has given it up, so it scrubs the cache that it gets now."""
    cache = found.superblock.content.get("nv_cache") if found is not None else None
    return found is not None and not (isinstance(cache, dict) and cache.get("in_use"))


class FtlThereError(ExistsError):
    """The base already holds an FTL, which can be loaded."""

    def __init__(self, message: str, uuid: UUID) -> None:
        super().__init__(message)
        self.uuid = uuid


async def _check_no_ftl(port: BlockPort, zones: list[Zone], base_name: str) -> None:
    try:
        found = await superblock.find(port, zones)
    except UnsupportedError as error:
        raise ExistsError(
            f"base bdev {base_name} already holds an FTL: {error.message}; or erase it with --force"
        ) from error
    if found is not None:
        name, there = found.superblock.content.get("name"), found.superblock.uuid
        raise FtlThereError(
            f"base bdev {base_name} already holds an FTL, {name!r} with uuid {there}: give -u {there} to load it, or "
            "--force to erase it and create a new one",
            there,
        )


async def _check_no_remains(port: BlockPort, zones: list[Zone], base_name: str) -> None:
    """A user who requests a load must not get an empty FTL because the superblocks of the old one are damaged. Raises
    ExistsError."""
    for zone in zones[:REMAINS_ZONES]:
        count = min(zone.written, REMAINS_BLOCKS)
        if zone.state == OFFLINE or not count:
            continue
        blocks, _ = await port.read_what_can_be(zone.start, count)
        if any(block.tobytes().startswith(_MAGICS) for block in blocks):
            raise ExistsError(
                f"base bdev {base_name} holds remains of an FTL without a valid superblock, so it can't be loaded: "
                "look at it with `spdk-ftl check`; if its data is not needed, create a new FTL without "
                "--load-or-create"
            )


async def check_cache_is_nobodys(
    reactor: ReactorLoop,
    device: _shim.BlockDevice,
    name: str,
    loads: UUID | None,
    patience_s: float = BUSY_PATIENCE_S,
) -> None:
    """Raises ExistsError if the cache bdev holds data other than the cache of the FTL that is loaded."""
    port = BlockPort(reactor, device, name=name, patience_s=patience_s)
    try:
        owner = await owner_of(port)
    except UnsupportedError as error:
        raise ExistsError(
            f"cache bdev {name} already holds an nv cache: {error.message}; or give another bdev, or --force to erase "
            "it"
        ) from error
    finally:
        await port.close()
    if owner is None:
        await _check_nobodys(reactor, device, [], f"cache bdev {name}", patience_s)
    elif owner != loads:
        raise ExistsError(
            f"cache bdev {name} holds the nv cache of FTL {owner}: load that FTL with -u {owner} -c {name}, use "
            "another bdev, or give --force to erase the cache"
        )


async def _check_nobodys(
    reactor: ReactorLoop, device: _shim.BlockDevice, zones: list[Zone], what: str, patience_s: float
) -> None:
    port = BlockPort(reactor, device, name=what, patience_s=patience_s)
    try:
        found = await find_foreign(port, zones)
    finally:
        await port.close()
    if found is not None:
        raise ExistsError(f"{what} holds {found}: use another bdev, or give --force to erase it")


def optimal_open_zones(base: Bdev, options: FtlOptions) -> int:
    return options.optimal_open_zones or base.optimal_open_zones


_ADDRESS: Final = re.compile(r"(?:\[([^]]+)\]|([^:]+))(?::([0-9]{1,5}))?")


def split_address(address: str) -> tuple[str, int]:
    """HOST[:PORT] or [IPv6][:PORT] as host and port; port 0 if none is given. Raises ParameterError."""
    matched = _ADDRESS.fullmatch(address)
    try:
        if matched is None:
            raise ValueError
        host = str(ip_address(matched[1] or matched[2]))
        port = int(matched[3] or 0)
        if port > PORT_MAX:
            raise ValueError
    except ValueError:
        raise ParameterError(
            f"listen address {address!r}: must be ADDRESS or ADDRESS:PORT, an IPv4 address or an IPv6 address in "
            f"brackets, with a port of at most {PORT_MAX}"
        ) from None
    return host, port

"""Determines what is on an unclaimed bdev of a target: an FTL, or the nv cache of one. Everything that this needs in
the target is undone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from .. import _shim
from ..errors import MediaError, PathError, UnsupportedError
from ..ftl.cache.nv_cache import owner_of
from ..ftl.media import superblock
from ..ftl.media.blockdev import BlockPort
from ..ftl.media.geometry import BLOCK_BYTES
from ..ftl.media.superblock import Found
from ..nvme.host.controller import Controller
from ..runtime.reactor import ReactorLoop
from ..runtime.steps import Steps
from ..runtime.tasks import to_its_end
from ..spdk.bdevs import Bdev, get_bdevs
from ..spdk.claims import require_unclaimed
from ..spdk.exports import EXPORT_MODEL, NQN_PREFIX, export_bdev, host_nqn, remove_subsystem, require_tcp_transport
from ..spdk.rpc import TargetRpc
from ..time_limit import time_limit
from .checks import zone_size_of

T = TypeVar("T")
Work = Callable[[ReactorLoop, _shim.BlockDevice], Awaitable[T]]
PROBE_S: Final = 10.0
"""How long a bdev may take to answer."""
QUEUE_DEPTH: Final = 16
_ZONES_MIN: Final = 2
_GUESS_BLOCKS_MAX: Final = 1 << 15


@dataclass(frozen=True)
class Probed:
    """What is on a bdev. If there is nothing, every member is None."""

    bdev: str
    uuid: UUID | None = None
    """UUID of the FTL."""
    name: str | None = None
    incarnation: int | None = None
    """Incarnation of its last life."""
    clean: bool | None = None
    format_version: int | None = None
    block_count: int | None = None
    zone_capacity: int | None = None
    """As at the creation; None: the zones are the bdev's own."""
    has_cache: bool = False
    cache_of: UUID | None = None
    """UUID of the FTL whose nv cache is on the bdev."""
    damage: str | None = None
    """The newest superblock is damaged; the values are those of the one before."""

    def to_dict(self) -> dict[str, Any]:
        """For bdev_ftl_scan."""
        if self.uuid is None:
            return {"bdev": self.bdev, "cache_of": None if self.cache_of is None else str(self.cache_of)}
        return {
            "bdev": self.bdev,
            "name": self.name,
            "uuid": str(self.uuid),
            "num_blocks": self.block_count,
            "clean": self.clean,
            "format_version": self.format_version,
            "zone_capacity": self.zone_capacity,
            "has_cache": self.has_cache,
            "damage": self.damage,
        }


class Prober:
    """probe(), for one bdev of a target at a time. If a daemon was killed during a probe, the next one removes what is
    left of it, before its first probe() or by clean()."""

    def __init__(self, host_id: UUID) -> None:
        """host_id: the daemon's."""
        self.nqn: Final = f"{NQN_PREFIX}scan:{host_id}"
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._cleaned: set[str] = set()

    async def clean(self, rpc: TargetRpc) -> None:
        """Once for each target. Raises TargetError."""
        if rpc.address not in self._cleaned:
            async with self._locks[rpc.address]:
                await remove_subsystem(rpc, self.nqn)
                self._cleaned.add(rpc.address)

    async def probe(self, rpc: TargetRpc, bdev: Bdev, *, zone_capacity: int | None = None) -> Probed:
        """zone_capacity: of emulated zones; determined by the probe if it is not given.

        Raises ClaimedError; UnsupportedError for a bdev that can't hold an FTL or nv cache, or for an FTL of another
        format version; PathError or MediaError if the bdev can't be read.
        """
        why = why_unfit(bdev)
        if why is not None:
            raise UnsupportedError(f"bdev {bdev.name} {why}")
        return await self.visit(rpc, bdev, lambda reactor, media: look_at(reactor, media, bdev, zone_capacity))

    async def visit(self, rpc: TargetRpc, bdev: Bdev, work: Work[T]) -> T:
        """Runs work on a bdev that can be exported, while nobody else has it. Raises what probe() raises, except for
        the kind of the bdev, and what work raises."""
        await self.clean(rpc)
        async with self._locks[rpc.address]:
            await require_tcp_transport(rpc)
            await require_unclaimed(rpc, bdev, "bdev")
            steps = Steps(f"scan {bdev.name}")
            try:
                async with time_limit(PROBE_S):
                    return await self._visit(rpc, steps, bdev, work)
            except (TimeoutError, asyncio.TimeoutError):
                raise PathError(f"bdev {bdev.name} does not answer within {PROBE_S:g} s") from None
            finally:
                # steps.undo() alone would continue after the caller was cancelled.
                if await to_its_end(steps.undo()):
                    self._cleaned.discard(rpc.address)

    async def _visit(self, rpc: TargetRpc, steps: Steps, bdev: Bdev, work: Work[T]) -> T:
        # A name that nobody can guess, so that nobody else can access the media in that moment.
        host_id = uuid4()
        exported = await export_bdev(rpc, steps, bdev, nqn=self.nqn, hostnqn=host_nqn(host_id))
        reactor = ReactorLoop("scan", spin_us=0)
        await steps.run("start the reactor", reactor.start(), reactor.stop)
        controller = await Controller.connect(
            exported.traddr, exported.trsvcid, exported.nqn, hostnqn=host_nqn(host_id), hostid=host_id
        )
        steps.on_undo("disconnect", controller.close)
        namespace = next((each for each in await controller.namespaces() if each.nsid == exported.nsid), None)
        if namespace is None:
            raise MediaError(f"bdev {bdev.name}: the target's export of it has no namespace {exported.nsid}")
        media = await controller.create_io_qpair(reactor, namespace, queue_depth=QUEUE_DEPTH)
        return await work(reactor, media)


async def look_at(
    reactor: ReactorLoop, media: _shim.BlockDevice, bdev: Bdev, zone_capacity: int | None = None
) -> Probed:
    """The result of probe(). Raises UnsupportedError, MediaError."""
    if bdev.zoned:
        return _probed(bdev, await _find(reactor, media, bdev), None)
    if not bdev.metadata_bytes:
        capacity = zone_capacity or await find_capacity(reactor, media, bdev)
        if capacity is not None and has_zones(bdev, capacity):
            found = await _find(reactor, media, bdev, capacity)
            if found is not None:
                return _probed(bdev, found, capacity)
    port = BlockPort(reactor, media, name=bdev.name)
    try:
        return Probed(bdev.name, cache_of=await owner_of(port))
    finally:
        await port.close()


async def _find(
    reactor: ReactorLoop, media: _shim.BlockDevice, bdev: Bdev, zone_capacity: int | None = None
) -> Found | None:
    if zone_capacity is not None:
        media = emulated(reactor, media, zone_capacity)
    port = BlockPort(reactor, media, name=bdev.name)
    try:
        return await superblock.find(port, await port.zones())
    finally:
        await port.close()


def has_zones(bdev: Bdev, capacity: int) -> bool:
    """Whether the bdev has room for the superblocks in emulated zones of that capacity."""
    return bdev.block_count >= _ZONES_MIN * zone_size_of(capacity)


def emulated(reactor: ReactorLoop, media: _shim.BlockDevice, zone_capacity: int) -> _shim.ZonedOverlay:
    """The base with the zones of the FTL on it."""
    return _shim.ZonedOverlay(reactor.shim, media, zone_capacity=zone_capacity, initial_state="full")


async def find_capacity(reactor: ReactorLoop, media: _shim.BlockDevice, bdev: Bdev) -> int | None:
    """Superblocks start at the beginning of the bdev, whatever its zones are, and each describes the zones."""
    guess = min(_GUESS_BLOCKS_MAX, 1 << max(0, (bdev.block_count // _ZONES_MIN).bit_length() - 1))
    found = await _find(reactor, media, bdev, guess) if bdev.block_count >= _ZONES_MIN * guess else None
    geometry = None if found is None else found.superblock.content.get("geometry")
    capacity = geometry.get("zone_capacity") if isinstance(geometry, Mapping) else None
    if not isinstance(capacity, int) or not 0 < capacity <= bdev.block_count:
        return None
    return capacity


def _probed(bdev: Bdev, found: Found | None, zone_capacity: int | None) -> Probed:
    if found is None:
        return Probed(bdev.name)
    content = found.superblock.content
    geometry, cache = content.get("geometry"), content.get("nv_cache")
    return Probed(
        bdev.name,
        uuid=found.superblock.uuid,
        name=_text(content.get("name")),
        incarnation=found.superblock.incarnation,
        clean=found.superblock.clean,
        format_version=_number(content.get("format")),
        block_count=_number(geometry.get("block_count")) if isinstance(geometry, Mapping) else None,
        zone_capacity=zone_capacity,
        has_cache=isinstance(cache, Mapping) and bool(cache.get("in_use")),
        damage=found.damage,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def why_unfit(bdev: Bdev) -> str | None:
    """Why the bdev can't hold, or give access to, an FTL or nv cache."""
    if bdev.block_bytes != BLOCK_BYTES:
        return f"has blocks of {bdev.block_bytes} B: FTLs and nv caches have {BLOCK_BYTES} B"
    if bdev.zone_block_base is not None:
        return f"is a zone_block bdev: look at its base bdev {bdev.zone_block_base}"
    if bdev.zoned and not bdev.nvme_io:
        return f"({bdev.product_name}) passes no NVMe commands, so its zones can't be read"
    return None


async def foreign_bdevs(rpc: TargetRpc) -> list[Bdev]:
    """All bdevs of the target except FTLs of this daemon: reading those might wait for the very base that is searched
    for. Raises TargetError."""
    bdevs = await get_bdevs(rpc)
    ours = {bdev.name for bdev in bdevs if _is_of_export(bdev)}
    return [bdev for bdev in bdevs if bdev.name not in ours and _passthru_base(bdev) not in ours]


def _is_of_export(bdev: Bdev) -> bool:
    paths = bdev.driver_specific.get("nvme")
    for path in paths if isinstance(paths, list) else ():
        data = path.get("ctrlr_data") if isinstance(path, Mapping) else None
        if isinstance(data, Mapping) and str(data.get("model_number")).strip() == EXPORT_MODEL:
            return True
    return False


def _passthru_base(bdev: Bdev) -> str | None:
    passthru = bdev.driver_specific.get("passthru")
    return passthru.get("base_bdev_name") if isinstance(passthru, Mapping) else None

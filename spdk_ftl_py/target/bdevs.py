"""The bdev layer: names and aliases, opens, claims, registration, removal and notifications, by SPDK's rules.

Everything here runs on the asyncio loop. The shim moves the data: a Bdev holds the BlockDevice that serves it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from .. import _shim
from ..errors import ClaimedError, ExistsError, NotFoundError
from ..runtime.reactor import ReactorLoop
from ..time_limit import time_limit

logger = logging.getLogger(__name__)

NOTIFICATIONS_MAX = 1024
NOTIFICATION_TYPES = ("bdev_register", "bdev_unregister", "bdev_resize")
CLAIM_EXCLUSIVE_WRITE = "exclusive_write"
EXPORTED_METADATA_BYTES_MAX = 64
NULL_UUID = UUID(int=0)
"""Clients pass this UUID to pass none."""

IO_TYPES = (
    "read", "write", "unmap", "flush", "reset", "nvme_admin", "nvme_io", "nvme_io_md", "write_zeroes", "zcopy",
    "get_zone_info", "zone_management", "zone_append", "compare", "compare_and_write", "abort", "seek_hole",
    "seek_data", "copy", "nvme_iov_md", "nvme_nssr", "write_uncorrectable",
)  # fmt: skip
"""In SPDK's order. A bdev reports the same types as SPDK's bdev of the same kind, so that clients see no difference."""

NVME_IO_TYPES = frozenset(
    ("read", "write", "unmap", "flush", "reset", "nvme_admin", "nvme_io", "write_zeroes", "compare", "abort", "copy")
)
ZONED_IO_TYPES = frozenset(("get_zone_info", "zone_management", "zone_append"))

RemoveCallback = Callable[[], Awaitable[None]]
ResizeCallback = Callable[[], None]
ZonesCallback = Callable[[Collection[int] | None], None]
ExamineCallback = Callable[["Bdev"], None]


@dataclass(eq=False)
class Bdev:
    """A named block device. num_blocks counts blocks of block_size bytes, including interleaved metadata.

    device serves the I/O of the bdev's users. While the bdev is registered, it is a meter in front of the device that
    the module made, which is in ``lower`` then."""

    name: str
    product_name: str
    module: str
    device: _shim.BlockDevice
    block_size: int
    num_blocks: int
    io_types: frozenset[str]
    uuid: UUID = field(default_factory=uuid4)
    driver_specific: Callable[[], dict[str, Any]] = dict
    md_size: int = 0
    md_interleave: bool = False
    dif_type: int = 0
    dif_is_head_of_md: bool = False
    dif_pi_format: int = 0
    numa_id: int | None = None
    zoned: bool = False
    zone_size: int = 0
    max_open_zones: int = 0
    optimal_open_zones: int = 0
    hints: dict[str, int] = field(default_factory=dict)  # preferred_write_alignment …
    memory_domains: tuple[str, ...] = ()
    before_removal: Callable[[], None] | None = None  # called while the users still have the bdev open
    destroy: RemoveCallback | None = None  # releases the lower layer, after the last user has closed the bdev
    # the claim of the bdev layer itself
    claim: Descriptor | None = None
    descriptors: list[Descriptor] = field(default_factory=list)
    removing: bool = False
    lower: _shim.BlockDevice | None = None
    meter: _shim.Meter | None = None

    @property
    def alias(self) -> str:
        return str(self.uuid)

    def zones_changed(self, zones: Collection[int] | None) -> None:
        """Tells everybody who has opened the bdev that the drive has changed these zones by itself. zones: zone
        numbers; None: any zone may have changed. SPDK's bdev layer has no such event."""
        for descriptor in list(self.descriptors):
            if descriptor.on_zones_changed is not None:
                descriptor.on_zones_changed(zones)

    def info(self) -> dict[str, Any]:
        """The bdev's entry in bdev_get_bdevs, with names and order as in SPDK v26.05."""
        info: dict[str, Any] = {
            "name": self.name, "aliases": [self.alias], "product_name": self.product_name,
            "block_size": self.block_size, "num_blocks": self.num_blocks,
        }  # fmt: skip
        for hint in (
            "preferred_write_alignment", "preferred_write_granularity", "optimal_write_size",
            "preferred_unmap_alignment", "preferred_unmap_granularity",
        ):  # fmt: skip
            info[hint] = self.hints.get(hint, 0)
        info["uuid"] = self.alias
        if self.numa_id is not None:
            info["numa_id"] = self.numa_id
        if self.md_size:
            info |= {"md_size": self.md_size, "md_interleave": self.md_interleave, "dif_type": self.dif_type}
            if self.dif_type:
                info["dif_is_head_of_md"] = self.dif_is_head_of_md
                info["enabled_dif_check_types"] = {"reftag": self.dif_type in (1, 2), "apptag": False, "guard": True}
                info["dif_pi_format"] = self.dif_pi_format
        info["assigned_rate_limits"] = dict.fromkeys(
            ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec"), 0
        )
        info["claimed"] = self.claim is not None
        if self.claim is not None:
            info["claim_type"] = CLAIM_EXCLUSIVE_WRITE
        info["zoned"] = self.zoned
        if self.zoned:
            info |= {
                "zone_size": self.zone_size,
                "max_open_zones": self.max_open_zones,
                "optimal_open_zones": self.optimal_open_zones,
            }
        info["supported_io_types"] = {io_type: io_type in self.io_types for io_type in IO_TYPES}
        if self.memory_domains:
            info["memory_domains"] = [{"dma_device_type": domain} for domain in self.memory_domains]
        info["driver_specific"] = self.driver_specific()
        return info


@dataclass(eq=False)
class Descriptor:
    """One open of a bdev. When the bdev is removed, the layer awaits on_remove, which must end with close()."""

    bdev: Bdev
    owner: str
    write: bool
    on_remove: RemoveCallback | None = None
    on_zones_changed: ZonesCallback | None = None
    on_resized: ResizeCallback | None = None

    def close(self) -> None:
        """Closes the descriptor and releases its claim. Idempotent."""
        if self.bdev.claim is self:
            self.bdev.claim = None
        if self in self.bdev.descriptors:
            self.bdev.descriptors.remove(self)
        self.on_remove = self.on_zones_changed = self.on_resized = None


class Notifications:
    """The ring behind notify_get_notifications: the last 1024 notifications, numbered without end."""

    def __init__(self) -> None:
        self._ring: deque[dict[str, Any]] = deque(maxlen=NOTIFICATIONS_MAX)
        self._next_id = 0

    def send(self, kind: str, context: str) -> None:
        self._ring.append({"type": kind, "ctx": context, "id": self._next_id})
        self._next_id += 1

    def get(self, first_id: int, count_max: int) -> list[dict[str, Any]]:
        first_kept = self._next_id - len(self._ring)
        start = max(first_id, first_kept) - first_kept
        return list(self._ring)[start : start + count_max]


class BdevLayer:
    """All bdevs of the target, by name and by alias."""

    def __init__(self, reactor: ReactorLoop) -> None:
        self._reactor = reactor
        self.notifications = Notifications()
        self._bdevs: dict[str, Bdev] = {}
        self._aliases: dict[str, Bdev] = {}
        self._examiners: list[ExamineCallback] = []
        self._arrivals: set[asyncio.Future[None]] = set()

    def __iter__(self) -> Iterator[Bdev]:
        return iter(list(self._bdevs.values()))

    def find(self, name: str) -> Bdev | None:
        """Finds a bdev by name or alias, also one that is being removed: as in SPDK, its name is still taken."""
        return self._bdevs.get(name) or self._aliases.get(name)

    def get(self, name: str) -> Bdev:
        bdev = self.find(name)
        if bdev is None or bdev.removing:
            raise NotFoundError("No such device")
        return bdev

    async def wait_for(self, name: str, timeout_s: float) -> Bdev:
        """Returns the bdev as soon as it exists. Raises NotFoundError: at once with timeout 0, otherwise with
        ETIMEDOUT."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            bdev = self.find(name)
            if bdev is not None and not bdev.removing:
                return bdev
            if timeout_s <= 0:
                raise NotFoundError("No such device")
            arrival: asyncio.Future[None] = loop.create_future()
            self._arrivals.add(arrival)
            try:
                async with time_limit(deadline - loop.time()):
                    await arrival
            except asyncio.TimeoutError:
                raise NotFoundError("Connection timed out", errno=errno.ETIMEDOUT) from None
            finally:
                self._arrivals.discard(arrival)

    def add_examiner(self, examiner: ExamineCallback) -> None:
        """Registers a callback for each new bdev. Virtual bdevs that waited for their base use it."""
        self._examiners.append(examiner)

    def register(self, bdev: Bdev) -> None:
        """Registers a bdev. Raises ExistsError if the name or UUID is another bdev's name or alias; nothing has changed
        then."""
        if self.find(bdev.name) is not None or self.find(bdev.alias) is not None or bdev.name == bdev.alias:
            raise ExistsError("File exists")
        bdev.lower = bdev.device
        bdev.device = bdev.meter = _shim.Meter(self._reactor.shim, bdev.lower)
        self._bdevs[bdev.name] = bdev
        self._aliases[bdev.alias] = bdev
        self.notifications.send("bdev_register", bdev.name)
        for examiner in self._examiners:
            examiner(bdev)
        for arrival in self._arrivals:
            if not arrival.done():
                arrival.set_result(None)

    def resized(self, bdev: Bdev, num_blocks: int) -> None:
        """The bdev's device now has that many blocks. Namespaces and RAIDs on it follow, and so notify their own users;
        other bdevs on top keep their size, as in SPDK."""
        if bdev.num_blocks != num_blocks:
            bdev.num_blocks = num_blocks
            if bdev.meter is not None:
                bdev.meter.resize(num_blocks)
            self.notifications.send("bdev_resize", bdev.name)
            for descriptor in list(bdev.descriptors):
                if descriptor.on_resized is not None:
                    descriptor.on_resized()

    def open(
        self,
        name: str,
        owner: str,
        *,
        write: bool,
        on_remove: RemoveCallback | None = None,
    ) -> Descriptor:
        """Opens a bdev. Raises NotFoundError, or ClaimedError for a write open of a claimed bdev."""
        bdev = self.get(name)
        if write and bdev.claim is not None:
            raise ClaimedError("Operation not permitted")
        descriptor = Descriptor(bdev, owner, write, on_remove)
        bdev.descriptors.append(descriptor)
        return descriptor

    def claim(self, descriptor: Descriptor) -> None:
        """Gives this descriptor exclusive write access. Raises ClaimedError if another descriptor has it."""
        if descriptor.bdev.claim is not None:
            raise ClaimedError("Operation not permitted")
        descriptor.bdev.claim = descriptor

    async def unregister(self, bdev: Bdev) -> None:
        """Removes everything built on the bdev (namespaces, virtual bdevs), and then the bdev itself."""
        if bdev.removing:
            raise NotFoundError("No such device")
        bdev.removing = True
        if bdev.before_removal is not None:
            bdev.before_removal()
        while bdev.descriptors:
            descriptor = bdev.descriptors[-1]
            try:
                if descriptor.on_remove is not None:
                    await descriptor.on_remove()
            except Exception:
                logger.exception("%s could not release bdev %s", descriptor.owner, bdev.name)
            finally:
                descriptor.close()
        del self._bdevs[bdev.name]
        del self._aliases[bdev.alias]
        self.notifications.send("bdev_unregister", bdev.name)
        if bdev.destroy is not None:
            await bdev.destroy()
        # Frees media in a file for others at once, not at Python's next collection.
        bdev.lower = bdev.meter = None
        del bdev.device

    async def unregister_by_name(self, name: str, module: str) -> str:
        """Unregisters a bdev of that module, by name or alias. Returns the bdev's name. Raises NotFoundError if there
        is none, or if another module has it."""
        bdev = self.get(name)
        if bdev.module != module:
            raise NotFoundError("No such device")
        await self.unregister(bdev)
        return bdev.name

    async def close(self) -> None:
        """Unregisters all bdevs, upper ones before their bases."""
        while self._bdevs:
            bdev = next(iter(reversed(self._bdevs.values())))
            if bdev.removing:
                await asyncio.sleep(0)
                continue
            await self.unregister(bdev)

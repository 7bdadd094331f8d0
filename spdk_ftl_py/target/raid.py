"""bdev_raid: raid0, raid1 and concat, with SPDK's rules for members that are missing, fail, grow or go away.

A raid is ``configuring`` until all its members exist, then ``online``, and ``offline`` when it has lost more members
than its level can do without. Superblocks and rebuilds are not supported.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from .. import _shim
from ..errors import FtlError, NotFoundError
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import end_tasks
from ..runtime.waiting import until
from .bdevs import NULL_UUID, Bdev, BdevLayer, Descriptor
from .refusals import EEXIST, EINVAL, failed

logger = logging.getLogger(__name__)

LEVELS = {"raid0": "raid0", "0": "raid0", "raid1": "raid1", "1": "raid1", "concat": "concat"}
MEMBERS_MIN = {"raid0": 1, "raid1": 2, "concat": 1}
NAME_BYTES_END = 64
UINT32_END = 2**32
RELEASE_TIMEOUT_S = 5.0
RELEASE_POLL_S = 0.005
OPTIONAL_IO_TYPES = ("flush", "reset", "unmap")


class State(enum.Enum):
    """The states that bdev_raid_get_bdevs prints."""

    ONLINE = "online"
    CONFIGURING = "configuring"
    OFFLINE = "offline"


@dataclass(eq=False)
class Slot:
    """The place of a member."""

    name: str | None
    uuid: UUID | None = None
    descriptor: Descriptor | None = None
    data_size: int = 0  # blocks
    leaves: bool = False

    @property
    def configured(self) -> bool:
        return self.descriptor is not None


@dataclass(eq=False)
class Raid:
    name: str
    level: str
    strip_size_kb: int
    uuid: UUID | None
    slots: list[Slot]
    operational: int
    state: State = State.CONFIGURING
    bdev: Bdev | None = None
    device: _shim.Striped | _shim.Mirror | None = None
    layout: dict[str, Any] = field(default_factory=dict)  # what all members have in common: block size, metadata

    @property
    def discovered(self) -> int:
        return sum(slot.configured for slot in self.slots)

    def info(self) -> dict[str, Any]:
        return {
            "uuid": str(self.uuid or NULL_UUID), "strip_size_kb": self.strip_size_kb, "state": self.state.value,
            "raid_level": self.level, "superblock": False, "num_base_bdevs": len(self.slots),
            "num_base_bdevs_discovered": self.discovered, "num_base_bdevs_operational": self.operational,
            "base_bdevs_list": [
                {
                    "name": slot.name, "uuid": str(slot.uuid or NULL_UUID), "is_configured": slot.configured,
                    "data_offset": 0, "data_size": slot.data_size,
                }
                for slot in self.slots
            ],
        }  # fmt: skip


def _layout(bdev: Bdev) -> dict[str, Any]:
    return {
        "block_size": bdev.block_size, "md_size": bdev.md_size, "md_interleave": bdev.md_interleave,
        "dif_type": bdev.dif_type, "dif_is_head_of_md": bdev.dif_is_head_of_md, "dif_pi_format": bdev.dif_pi_format,
    }  # fmt: skip


class Raids:
    """All raids of the target, whatever their state."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer, lock: asyncio.Lock) -> None:
        """lock: whoever changes the target holds it."""
        self._reactor = reactor
        self._bdevs = bdevs
        self._lock = lock
        self._tasks: set[asyncio.Task[None]] = set()
        self.raids: dict[str, Raid] = {}
        bdevs.add_examiner(self._examine)

    # --- creation ----------------------------------------------------------------------------------------------------

    async def create(self, name: str, level: str, strip_size_kb: int, members: list[str], uuid: UUID | None) -> None:
        """Members that do not exist yet are waited for. Raises FtlError; nothing has changed then."""
        if len(name.encode()) >= NAME_BYTES_END:
            raise failed(EINVAL)
        if name in self.raids:
            raise failed(EEXIST)
        power_of_two = strip_size_kb > 0 and strip_size_kb & (strip_size_kb - 1) == 0
        fits = strip_size_kb == 0 if level == "raid1" else power_of_two
        if not fits or level not in MEMBERS_MIN or len(members) < MEMBERS_MIN[level]:
            raise failed(EINVAL)
        raid = Raid(name, level, strip_size_kb, uuid, [Slot(member) for member in members], len(members))
        self.raids[name] = raid
        for slot in raid.slots:
            try:
                self._configure(raid, slot)
            except NotFoundError:
                logger.info("raid %s: waits for bdev %s", name, slot.name)
            except FtlError as error:
                logger.warning("raid %s: bdev %s: %s", name, slot.name, error.message)
                await self.delete(raid)
                raise

    def _examine(self, bdev: Bdev) -> None:
        for raid in list(self.raids.values()):
            if raid.state is not State.CONFIGURING:
                continue
            for slot in raid.slots:
                if not slot.configured and (slot.name == bdev.name or slot.uuid == bdev.uuid):
                    slot.name = bdev.name
                    try:
                        self._configure(raid, slot)
                    except FtlError as error:
                        logger.warning("raid %s: bdev %s: %s", raid.name, bdev.name, error.message)
                    break

    def _configure(self, raid: Raid, slot: Slot) -> None:
        """Opens and claims the member. If it is the last one, the raid goes online. Raises NotFoundError if the member
        does not exist, and FtlError if it can't be one."""
        assert slot.name is not None
        descriptor = self._bdevs.open(slot.name, f"raid {raid.name}", write=True)
        try:
            bdev = descriptor.bdev
            if slot.uuid is not None and slot.uuid != bdev.uuid:
                raise failed(EINVAL)
            self._bdevs.claim(descriptor)
            if bdev.dif_type and raid.level != "raid0":
                raise failed(EINVAL)
            if raid.layout and raid.layout != _layout(bdev):
                raise failed(EINVAL)
            slot.uuid, slot.descriptor = bdev.uuid, descriptor
            slot.data_size = slot.data_size or bdev.num_blocks
            raid.layout = _layout(bdev)
            if raid.discovered == raid.operational:
                self._go_online(raid)
        except BaseException:
            slot.descriptor = None
            descriptor.close()
            raise
        descriptor.on_remove = lambda: self._member_goes(raid, slot)
        descriptor.on_resized = lambda: self._member_resized(raid)

    def _go_online(self, raid: Raid) -> None:
        bases = [slot.descriptor.bdev for slot in raid.slots if slot.descriptor is not None]
        data_bytes = bases[0].block_size - (bases[0].md_size if bases[0].md_interleave else 0)
        strip = raid.strip_size_kb * 1024 % UINT32_END // data_bytes
        if strip == 0 and raid.level != "raid1":
            raise failed(EINVAL)
        devices = [base.device for base in bases]
        sizes = _data_sizes(raid.level, [base.num_blocks for base in bases], strip)
        try:
            if raid.level == "raid1":
                device: _shim.Mirror | _shim.Striped = _shim.Mirror(self._reactor.shim, devices, sizes[0])
            else:
                device = _shim.Striped(self._reactor.shim, devices, sizes, strip if raid.level == "raid0" else 0)
        except ValueError as error:
            logger.warning("raid %s: %s", raid.name, error)
            raise failed(EINVAL) from error
        uuid = raid.uuid or uuid4()
        bdev = Bdev(
            raid.name, "Raid Volume", "raid", device, num_blocks=device.block_count, io_types=_io_types(bases),
            uuid=uuid, memory_domains=tuple(domain for base in bases for domain in base.memory_domains),
            driver_specific=lambda: {"raid": raid.info()}, destroy=lambda: self._destruct(raid), **raid.layout,
        )  # fmt: skip
        self._bdevs.register(bdev)
        raid.bdev, raid.device, raid.uuid, raid.state = bdev, device, uuid, State.ONLINE
        for slot, size in zip(raid.slots, sizes, strict=True):
            slot.data_size = size
        if isinstance(device, _shim.Mirror):
            self._reactor.subscribe(device.id, lambda _event: self._member_failed(raid))

    # --- members that fail, go or grow -------------------------------------------------------------------------------

    def _member_failed(self, raid: Raid) -> None:
        task = asyncio.get_running_loop().create_task(self._remove_failed(raid), name=f"raid {raid.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove_failed(self, raid: Raid) -> None:
        async with self._lock:
            device = raid.device
            if not isinstance(device, _shim.Mirror) or raid.state is not State.ONLINE:
                return
            for index in device.gone():
                slot = raid.slots[index]
                if slot.configured:
                    logger.warning("raid %s continues without bdev %s, which has failed", raid.name, slot.name)
                    await self._remove_member(raid, slot)

    async def _member_goes(self, raid: Raid, slot: Slot) -> None:
        """A member was removed from the target."""
        if raid.state is not State.ONLINE:
            self._free(raid, slot)
            if raid.state is State.OFFLINE and raid.discovered == 0:
                self.raids.pop(raid.name, None)
        elif raid.level == "raid1":
            await self._remove_member(raid, slot)
        else:
            slot.leaves = True
            raid.operational -= 1
            await self._go_offline(raid)

    async def _remove_member(self, raid: Raid, slot: Slot) -> None:
        """Of a raid1 that is online. It goes offline with its last member."""
        device = raid.device
        assert isinstance(device, _shim.Mirror)
        if not slot.configured or raid.state is not State.ONLINE:
            return
        device.remove(raid.slots.index(slot))
        self._free(raid, slot)
        raid.operational -= 1
        if not await until(device.release, timeout_s=RELEASE_TIMEOUT_S, poll_s=RELEASE_POLL_S):
            logger.warning("raid %s: a member was removed, and still has outstanding I/O", raid.name)
        if raid.operational == 0:
            await self._go_offline(raid)
        elif raid.bdev is not None:
            raid.bdev.io_types = _io_types([each.descriptor.bdev for each in raid.slots if each.descriptor is not None])

    def _member_resized(self, raid: Raid) -> None:
        """As in SPDK, a raid0 or raid1 grows with the smallest of its members, and a concat does not grow."""
        if raid.state is not State.ONLINE or raid.bdev is None or raid.device is None or raid.level == "concat":
            return
        blocks = min(slot.descriptor.bdev.num_blocks for slot in raid.slots if slot.descriptor is not None)
        if isinstance(raid.device, _shim.Striped):
            strip = raid.strip_size_kb * 1024 % UINT32_END // (raid.device.block_bytes - raid.device.metadata_bytes)
            blocks -= blocks % strip
        if blocks <= raid.slots[0].data_size:
            return
        raid.device.resize(blocks)
        for slot in raid.slots:
            slot.data_size = blocks
        self._bdevs.resized(raid.bdev, raid.device.block_count)

    # --- end ---------------------------------------------------------------------------------------------------------

    async def delete(self, raid: Raid) -> None:
        for slot in raid.slots:
            slot.leaves = True
        if raid.state is State.ONLINE:
            await self._go_offline(raid)
        else:
            for slot in raid.slots:
                self._free(raid, slot)
            self.raids.pop(raid.name, None)

    async def _go_offline(self, raid: Raid) -> None:
        raid.state = State.OFFLINE
        if raid.bdev is not None and not raid.bdev.removing:
            await self._bdevs.unregister(raid.bdev)

    async def _destruct(self, raid: Raid) -> None:
        """The raid's bdev is gone. Of an offline raid, members that do not leave stay claimed until it is deleted."""
        if isinstance(raid.device, _shim.Mirror):
            self._reactor.unsubscribe(raid.device.id)
        raid.bdev = raid.device = None
        ends = raid.state is State.ONLINE  # the whole target
        raid.state = State.OFFLINE
        for slot in raid.slots:
            if ends or slot.leaves:
                self._free(raid, slot)
        if raid.discovered == 0:
            self.raids.pop(raid.name, None)

    def _free(self, raid: Raid, slot: Slot) -> None:
        descriptor, slot.descriptor = slot.descriptor, None
        slot.name = None
        if raid.state is not State.CONFIGURING:
            slot.uuid = None
        if descriptor is not None:
            descriptor.close()

    async def close(self) -> None:
        """Ends its tasks. The bdevs end with the layer."""
        await end_tasks(self._tasks)

    # --- what is told of them ----------------------------------------------------------------------------------------

    def saved(self) -> list[dict[str, Any]]:
        """Only those that are online, as in SPDK."""
        entries: list[dict[str, Any]] = []
        for raid in self.raids.values():
            if raid.state is State.ONLINE:
                params: dict[str, Any] = {"name": raid.name, "uuid": str(raid.uuid)}
                if raid.strip_size_kb:
                    params["strip_size_kb"] = raid.strip_size_kb
                params["raid_level"] = raid.level
                params["base_bdevs"] = [slot.name or f"removed_base_bdev_{i}" for i, slot in enumerate(raid.slots)]
                entries.append({"method": "bdev_raid_create", "params": params})
        return entries


def _data_sizes(level: str, sizes: list[int], strip: int) -> list[int]:
    """The blocks that are used of each member."""
    if level == "concat":
        return [size - size % strip for size in sizes]
    smallest = min(sizes)
    return [smallest - (smallest % strip if level == "raid0" else 0)] * len(sizes)


def _io_types(bases: list[Bdev]) -> frozenset[str]:
    common = frozenset(each for each in OPTIONAL_IO_TYPES if all(each in base.io_types for base in bases))
    return common | {"read", "write", "write_zeroes"}

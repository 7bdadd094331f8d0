"""The bdevs of a target as one dataclass, whatever a release calls its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import NotFoundError, ProtocolError, TargetError
from .rpc import ENODEV_CODE, MESSAGE_MAX, UNCHANGED, Repeated, TargetRpc

TEXT_MAX: Final = 1024
ZONE_BLOCK_PRODUCT: Final = "zone_block"


@dataclass(frozen=True)
class Bdev:
    """What bdev_get_bdevs says of one bdev. Lengths in blocks unless named otherwise; 0 zones: no limit."""

    name: str
    aliases: tuple[str, ...]
    uuid: str
    product_name: str
    block_bytes: int
    """The data part of a block: interleaved metadata is not counted."""
    block_count: int
    metadata_bytes: int
    metadata_interleaved: bool
    dif_type: int
    claimed: bool
    claim_type: str
    zoned: bool
    zone_size: int
    max_open_zones: int
    max_active_zones: int
    optimal_open_zones: int
    nvme_io: bool
    """Whether NVMe commands, including zone management, pass through to it."""
    driver_specific: Mapping[str, Any]

    @property
    def names(self) -> frozenset[str]:
        """All names under which it can be opened."""
        return frozenset((self.name, *self.aliases))

    @property
    def zone_block_base(self) -> str | None:
        """The bdev under a zone_block bdev; "" if the target does not tell; None for other bdevs."""
        details = self.driver_specific.get("zoned_block")
        if not isinstance(details, Mapping):
            return "" if self.product_name == ZONE_BLOCK_PRODUCT else None
        base = details.get("base_bdev")
        return base if isinstance(base, str) else ""


async def get_bdevs(rpc: TargetRpc) -> list[Bdev]:
    """All bdevs of the target."""
    return [_bdev(entry, rpc.address) for entry in _entries(await rpc.call("bdev_get_bdevs"), rpc.address)]


class RepeatedLook:
    """get_bdevs() again and again, for what mostly does not change."""

    def __init__(self) -> None:
        self._call = Repeated("bdev_get_bdevs")
        self._by_name: dict[str, Bdev] = {}

    async def by_name(self, rpc: TargetRpc) -> Mapping[str, Bdev]:
        """All bdevs of the target by all their names."""
        result = await rpc.call_again(self._call)
        if result is not UNCHANGED:
            try:
                bdevs = [_bdev(entry, rpc.address) for entry in _entries(result, rpc.address)]
            except ProtocolError:
                self._call.answer = b""
                raise
            self._by_name = {name: bdev for bdev in bdevs for name in (bdev.name, *bdev.aliases)}
        return self._by_name


async def find_bdev(rpc: TargetRpc, name: str) -> Bdev | None:
    """The bdev with that name or alias; None if there is none."""
    try:
        found = _entries(await rpc.call("bdev_get_bdevs", {"name": name}), rpc.address)
    except TargetError as error:
        if error.rpc_code == ENODEV_CODE:
            return None
        raise
    return _bdev(found[0], rpc.address) if found else None


async def get_bdev(rpc: TargetRpc, name: str, *, role: str = "bdev") -> Bdev:
    """As find_bdev(); raises NotFoundError, which lists the existing bdevs."""
    bdev = await find_bdev(rpc, name)
    if bdev is None:
        there = ", ".join(other.name for other in (await get_bdevs(rpc))[:16]) or "none"
        raise NotFoundError(f"{role} {name}: no such bdev in the SPDK target at {rpc.address}; it has: {there}")
    return bdev


def _entries(result: Any, address: str) -> list[Mapping[str, Any]]:
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise ProtocolError(f"SPDK target at {address}: bdev_get_bdevs did not return a list of bdevs")
    return result


def _bdev(entry: Mapping[str, Any], address: str) -> Bdev:
    try:
        metadata_bytes = _number(entry.get("md_size"))
        interleaved = bool(entry.get("md_interleave", False)) and metadata_bytes > 0
        zoned = bool(entry.get("zoned", False))
        io_types = entry.get("supported_io_types") or {}
        return Bdev(
            name=_text(entry["name"]),
            aliases=tuple(_text(alias) for alias in entry.get("aliases") or ()),
            uuid=_text(entry.get("uuid")),
            product_name=_text(entry.get("product_name")),
            block_bytes=_number(entry["block_size"]) - (metadata_bytes if interleaved else 0),
            block_count=_number(entry["num_blocks"]),
            metadata_bytes=metadata_bytes,
            metadata_interleaved=interleaved,
            dif_type=_number(entry.get("dif_type")),
            claimed=bool(entry.get("claimed", False)),
            claim_type=_text(entry.get("claim_type")),
            zoned=zoned,
            zone_size=_number(entry.get("zone_size")) if zoned else 0,
            max_open_zones=_number(entry.get("max_open_zones")) if zoned else 0,
            max_active_zones=_number(entry.get("max_active_zones")) if zoned else 0,
            optimal_open_zones=_number(entry.get("optimal_open_zones")) if zoned else 0,
            nvme_io=bool(io_types.get("nvme_io", False)),
            driver_specific=entry.get("driver_specific") or {},
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        reason = str(error)[:MESSAGE_MAX]
        raise ProtocolError(f"SPDK target at {address}: bdev_get_bdevs returned a malformed bdev: {reason}") from error


def _number(value: Any) -> int:
    """None is 0. Raises ValueError, TypeError, OverflowError."""
    number = int(0 if value is None else value)
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{value!r} is out of range")
    return number


def _text(value: Any) -> str:
    """None is "". Raises ValueError, TypeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a string")
    if len(value) > TEXT_MAX:
        raise ValueError(f"{value[:40]!r}... is too long")
    return value

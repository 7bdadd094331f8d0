"""Grows an FTL by a load: it takes the zones that were added to the base, on request (docs/provisioning.md, "Grow")."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ... import _shim
from ...errors import ExistsError
from ...runtime.turns import aside
from ..media.band import FREE
from ..media.blockdev import BlockPort, side_by_side
from ..media.geometry import BLOCK_BYTES
from ..media.growth import conf_of, grown
from ..media.layout import is_checkpoint_block, parse_batch_header, parse_summary_block
from ..media.zone import EMPTY, Zone
from .restored import LoadedBand, Restored

log = logging.getLogger(__name__)

ZONES_TOLD_MAX: Final = 4
ITEM_BLOCKS: Final = 64
"""Entries that are copied in about 1 us."""


async def _nobodys(first_block: int) -> str | None:
    return None


@dataclass(frozen=True)
class Grow:
    """A requested growth. A load without one leaves zones alone that its superblock does not name."""

    force: bool = False
    """Also if the added part holds somebody's data."""
    find_foreign: Callable[[int], Awaitable[str | None]] = _nobodys
    """What others have put on the base from that block on, in words. For a base with emulated zones: real zones show
    whether they were written."""


async def plan_growth(port: BlockPort, found: Restored, grow: Grow, settings: Mapping[str, Any]) -> Restored:
    """``found`` on the whole base; unchanged if the base has not grown. Writes nothing.

    Raises GeometryError and ConfError if the larger geometry is not possible, ExistsError if the added part holds data.
    """
    zones = await port.zones()
    old = found.geometry
    growth = await aside(len(zones), functools.partial(grown, old, zones, lba_rsvd=found.conf.lba_rsvd))
    if growth is None:
        return found
    new = growth.geometry
    conf = conf_of(found.conf, settings, old, new)
    if not grow.force:
        await _check_nobodys(
            port, [zones[index] for index in growth.taken if index >= old.zone_count], grow, old.block_end
        )
    log.info(
        "%s: growing from %d blocks on %d bands to %d on %d: the base has %d zones instead of %d",
        port.name, old.block_count, old.band_count, new.block_count, new.band_count, new.zone_count, old.zone_count,
    )  # fmt: skip
    free = LoadedBand(FREE, 0, [0] * new.punits)
    taken = [zones[index].start for index in growth.taken if zones[index].state != EMPTY]
    before_superblock = set(taken)
    growing = functools.partial(
        found.table.grown,
        new.block_count,
        port.device.block_count,
        zone_size=new.zone_size,
        zone_capacity=new.zone_capacity,
    )
    return dataclasses.replace(
        found,
        geometry=new,
        conf=conf,
        bands=[*found.bands, *[free] * (new.band_count - old.band_count)],
        counts=None,
        table=await aside(old.block_count // ITEM_BLOCKS, growing),
        zones_to_reset=[start for start in found.zones_to_reset if start not in before_superblock],
        zones_to_take=taken,
        history=found.history.longer(new.band_count, found.next_seq),
    )


async def _check_nobodys(port: BlockPort, new: list[Zone], grow: Grow, first_block: int) -> None:
    if isinstance(port.device, _shim.ZonedOverlay):
        foreign = await grow.find_foreign(first_block)
        if foreign is not None:
            raise ExistsError(
                f"{port.name}: the added part of the base bdev, from block {first_block} on, holds {foreign}; nothing "
                "was changed: save it elsewhere, or give --force to erase it"
            )
        return
    written = [zone.index for zone in new if zone.state != EMPTY]
    if written:
        shown = ", ".join(map(str, written[:ZONES_TOLD_MAX])) + (", …" if len(written) > ZONES_TOLD_MAX else "")
        raise ExistsError(
            f"{port.name}: {len(written)} of the added zones of the base bdev ({shown}) contain data that this FTL did "
            "not write; nothing was changed: save it elsewhere, or give --force to erase it"
        )


async def take_zones(port: BlockPort, found: Restored) -> None:
    """Erases the zones that a growth adds, durably. Once the superblock names them, a load reads them: so they must not
    contain anything that looks like data of this FTL, such as the remains of an earlier growth, if the base was
    restored from a copy since. Raises MediaError; then only these zones have changed."""
    if not found.zones_to_take:
        return
    await port.reset_zones(found.zones_to_take)
    if isinstance(port.device, _shim.ZonedOverlay):
        # There a reset does not erase anything. First blocks are last: if this is interrupted, they still tell that
        # there are remains.
        await side_by_side(functools.partial(_erase_remains, port, found), found.zones_to_take)
        await port.flush()
        await side_by_side(functools.partial(_make_blank, port), found.zones_to_take)
    await port.flush()


async def _erase_remains(port: BlockPort, found: Restored, start: int) -> None:
    """Overwrites what a zone has of this FTL, but for its first block: remains may have greater band seqs than what is
    written to it next."""
    geometry, uuid = found.geometry, found.superblock.media_uuid
    summary, _ = await port.read_what_can_be(start + geometry.data_blocks, geometry.summary_blocks)
    first, _ = await port.read_what_can_be(start, 1)
    if (
        parse_batch_header(first[0], uuid) is None
        and not is_checkpoint_block(first[0], uuid, start)
        and all(parse_summary_block(block, uuid) is None for block in summary)
    ):
        return
    await port.write(start, first)
    step = max(1, port.device.max_io_blocks)
    for offset in range(1, geometry.zone_capacity, step):
        await port.write(start + offset, bytes(min(step, geometry.zone_capacity - offset) * BLOCK_BYTES))
    await port.zone_action(_shim.ZoneAction.RESET, start)


async def _make_blank(port: BlockPort, start: int) -> None:
    """Makes a load see a zone without remains as one that was never written: its first block is all zeroes."""
    first, readable = await port.read_what_can_be(start, 1)
    if readable[0] and not first.any():
        return
    await port.write(start, bytes(BLOCK_BYTES))
    await port.zone_action(_shim.ZoneAction.RESET, start)

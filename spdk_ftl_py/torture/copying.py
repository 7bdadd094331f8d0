"""Gives an FTL another UUID between two lives, as for a copy of its base. Power may fail meanwhile."""

from __future__ import annotations

import random
from typing import Final
from uuid import UUID

from .. import _shim
from ..errors import FtlError, MediaError
from ..ftl.load.new_uuid import set_uuid
from ..ftl.media import superblock
from ..ftl.media.blockdev import BlockPort
from ..runtime.reactor import ReactorLoop
from .model import Violation
from .result import WorldResult
from .shape import Shape

COPYING_WORLDS: Final = 0.4
COPIES: Final = 0.8
"""In such a world, the part of the loads after a clean halt before which the UUID changes."""
CRASHED: Final = 0.5
"""The part of those changes during which power fails."""
OPERATIONS_MAX: Final = 12
"""The maximum number of drive I/Os until power fails."""


def random_uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)


class Copying:
    """Uses a random generator of its own, so that worlds without copies stay the same."""

    def __init__(self, rng: random.Random, uuid: UUID, media_uuid: UUID) -> None:
        self.media_uuid: Final = media_uuid
        """The UUID in the FTL's records."""
        self.uuid = uuid
        """The FTL's current UUID."""
        self._rng = rng
        self._wanted = rng.random() < COPYING_WORLDS

    async def before_load(
        self, reactor: ReactorLoop, media: _shim.EmulatedMedia, shape: Shape, result: WorldResult
    ) -> list[Violation]:
        """The drives must have power, and nobody may use them."""
        if not self._wanted or self._rng.random() >= COPIES:
            return []
        new, was = random_uuid(self._rng), self.uuid
        port = BlockPort(reactor, shape.base(reactor, media, new=False), name="copy", patience_s=0)
        if self._rng.random() < CRASHED:
            media.cut_power_at(media.operations + self._rng.randint(1, OPERATIONS_MAX), self._rng.getrandbits(63))
        done, refused = False, ""
        try:
            done = (await set_uuid(port, was, new)).changed
        except MediaError:
            pass  # no power, or a fault of the drive
        except FtlError as error:
            refused = error.message
        finally:
            await port.close()
        media.cut_power_at(0, 0)
        media.power_on()
        # A new base, as a later process would have: the emulation's state in memory is gone.
        port = BlockPort(reactor, shape.base(reactor, media, new=False), name="copy", patience_s=0)
        try:
            found = await superblock.find(port, await port.zones())
        except MediaError:
            return []  # the load meets the same fault
        finally:
            await port.close()
        there = None if found is None else found.superblock.uuid
        if there not in (was, new) or (done and there != new) or (refused and there != was):
            text = f"uuid {was} was to become {new} ({'done' if done else refused or 'power failed'}), {there} is there"
            return [Violation("identity", -1, text)]
        if there == new:
            self.uuid = new
            result.copies += 1
        return []

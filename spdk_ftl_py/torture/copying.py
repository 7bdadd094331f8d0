"""Between two lives an FTL gets another uuid, as the copy of a base does, and power fails meanwhile."""

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
"""Part of the loads, in such a world, before which it happens, where the FTL was halted cleanly."""
CRASHED: Final = 0.5
"""Part of those amid which power fails."""
OPERATIONS_MAX: Final = 12
"""Of the drive, until it does."""


def random_uuid(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)


class Copying:
    """Chooses by a generator of its own: worlds in which nothing is copied are what they were."""

    def __init__(self, rng: random.Random, uuid: UUID) -> None:
        self.origin: Final = uuid
        """What the FTL's records have."""
        self.uuid = uuid
        """The FTL's."""
        self._rng = rng
        self._wanted = rng.random() < COPYING_WORLDS

    async def before_load(
        self, reactor: ReactorLoop, media: _shim.EmulatedMedia, shape: Shape, result: WorldResult
    ) -> list[Violation]:
        """The drives have power, and nobody is on them."""
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
        # As somebody who comes later: what was emulated is gone with the one before.
        port = BlockPort(reactor, shape.base(reactor, media, new=False), name="copy", patience_s=0)
        try:
            found = await superblock.find(port, await port.zones())
        except MediaError:
            return []  # the load has the same trouble
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

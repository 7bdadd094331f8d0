"""How often each zone of the base was reset since the FTL was created. The superblock keeps the counts."""

from __future__ import annotations

import base64
import binascii
import logging
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_COUNT: Final = np.dtype("<u4")
_SATURATED: Final = int(np.iinfo(_COUNT).max)


class ZoneWear:
    """Counts by zone number. A reset that failed counts as well: the base may have carried it out.

    A load that was not preceded by a clean halt finds the counts of the newest superblock. unsaved says how many resets
    that one does not know, so it is the most that can be lost.
    """

    def __init__(self, zone_count: int, stored: object = None) -> None:
        """stored: what to_dict() has returned, for the same zones or for the first of them; with other content all
        counts start at 0, because the counts are no reason to refuse an FTL."""
        self.counts = np.zeros(zone_count, _COUNT)
        """Read-only for others."""
        # One item of a numpy array takes several times as long.
        self._one = self.counts.data
        self.unsaved = 0
        """Resets since the last to_dict()."""
        found = _parse(stored, zone_count)
        self.counts[: len(found)] = found

    def add(self, zones: Iterable[int]) -> None:
        """Each of these zones was reset once."""
        for zone in zones:
            self._one[zone] = min(self._one[zone] + 1, _SATURATED)
            self.unsaved += 1

    def most(self, zones: Iterable[int]) -> int:
        """The count of the most worn one of these zones; 0 if there are none."""
        return max([self._one[zone] for zone in zones], default=0)

    def add_counted(self, resets: Mapping[int, int]) -> None:
        """Each of these zones was reset so many times."""
        for zone, times in resets.items():
            self.counts[zone] = min(int(self.counts[zone]) + times, _SATURATED)
            self.unsaved += times

    def to_dict(self) -> dict[str, Any]:
        """JSON-able. Bytes of the same weight are next to each other, so that the high ones, which hardly differ, take
        no space: about a byte for each zone, and less after compression."""
        self.unsaved = 0
        planes = self.counts.view(np.uint8).reshape(-1, _COUNT.itemsize).T
        return {"resets": base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()}

    def to_short_dict(self) -> dict[str, Any]:
        """For a superblock zone that is too small for to_dict(): the lowest count stands for all."""
        return {"least": int(self.counts.min(initial=_SATURATED)) if len(self.counts) else 0}


def _parse(stored: object, zone_count: int) -> NDArray[np.uint32]:
    """At most zone_count of them."""
    if stored is None:
        return np.zeros(0, _COUNT)
    try:
        if not isinstance(stored, dict):
            raise TypeError(f"{type(stored).__name__} instead of an object")
        if "resets" not in stored:
            return np.full(zone_count, stored["least"], _COUNT)
        unpack = zlib.decompressobj()
        planes = unpack.decompress(base64.b64decode(stored["resets"], validate=True), zone_count * _COUNT.itemsize + 1)
        if not unpack.eof or len(planes) % _COUNT.itemsize or len(planes) > zone_count * _COUNT.itemsize:
            raise ValueError("they are of another length")
        columns = np.frombuffer(planes, np.uint8).reshape(_COUNT.itemsize, -1)
        return np.ascontiguousarray(columns.T).view(_COUNT).reshape(-1)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error, zlib.error) as error:
        log.warning("the superblock's counts of zone resets are invalid (%s): counting from 0", error)
        return np.zeros(0, _COUNT)

"""Which zone is in which band of a running device, which zones are spare, and which were given up.

ZoneMap is the only owner of that. A geometry describes the zones as they were when the device was created or loaded.
Whoever changes the map also tells the core (gc/mending.py).
"""

from __future__ import annotations

from .geometry import SUPERBLOCK_ZONES, Geometry


class ZoneMap:
    """Zones, by number."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self.first_zone = self._first = len(SUPERBLOCK_ZONES)
        """Of the first band, unless it was replaced."""
        self._changed: dict[int, list[int | None]] = {}
        """Zones of bands that differ from the geometry."""
        self._replaced: dict[int, int | None] = dict(geometry.replaced)
        self._places = {zone: divmod(was - self._first, geometry.punits) for was, zone in geometry.replaced.items()}
        """Zones that replace others, with their band and punit."""
        self._spares = list(geometry.spare_zones)
        self._bad = set(geometry.bad_zones)
        self.incomplete = [number for number, zones in enumerate(geometry.bands) if None in zones]
        """Bands that already lacked zones when the geometry was loaded."""
        for number in self.incomplete:
            missing = [punit for punit, zone in enumerate(geometry.bands[number]) if zone is None]
            self._replaced.update({self._nominal(number, punit): None for punit in missing})

    def _nominal(self, number: int, punit: int) -> int:
        """The zone that would be in this place if no zone had failed."""
        return self._first + number * self._geometry.punits + punit

    # --- zones in bands

    def of_band(self, number: int) -> list[int | None]:
        """The zones of a band, by punit; None where one is missing."""
        return list(self._changed.get(number) or self._geometry.bands[number])

    def bands(self) -> tuple[tuple[int | None, ...], ...]:
        """The zones of all bands, by punit."""
        bands = self._geometry.bands
        if not self._changed:
            return bands
        return tuple(tuple(self._changed.get(number, zones)) for number, zones in enumerate(bands))

    def place(self, zone: int) -> tuple[int, int] | None:
        """The band and punit of a zone; None if the zone is in no band."""
        number, punit = self._places.get(zone) or divmod(zone - self._first, self._geometry.punits)
        if not 0 <= number < len(self._geometry.bands) or self.of_band(number)[punit] != zone:
            return None
        return number, punit

    def put(self, number: int, punit: int, zone: int | None) -> None:
        """Puts a zone into a band, and removes the zone in that place. None: the band lacks a zone there from now
        on."""
        zones = self.of_band(number)
        zones[punit] = zone
        self._changed[number] = zones
        nominal = self._nominal(number, punit)
        if zone == nominal:
            self._replaced.pop(nominal, None)
        else:
            self._replaced[nominal] = zone
        if zone is not None:
            self._places[zone] = (number, punit)

    @property
    def replaced(self) -> list[list[int | None]]:
        """Pairs of [the zone by the geometry, the zone in its place or None], in ascending order."""
        return [[was, now] for was, now in sorted(self._replaced.items())]

    @property
    def missing_count(self) -> int:
        """Zones that failed and could not be replaced."""
        return sum(1 for zone in self._replaced.values() if zone is None)

    # --- zones in no band

    @property
    def spare_count(self) -> int:
        return len(self._spares)

    @property
    def spares(self) -> tuple[int, ...]:
        return tuple(self._spares)

    def swap(self, number: int, punit: int, spare: int) -> int:
        """Puts a spare zone into a band. The zone in that place, which is returned, is a spare from now on."""
        zone = self.of_band(number)[punit]
        assert zone is not None
        self._spares.remove(spare)
        self.put(number, punit, spare)
        self._spares.append(zone)
        return zone

    def take_spare(self) -> int | None:
        return self._spares.pop(0) if self._spares else None

    def give_up(self, zone: int) -> None:
        """The zone is not used again."""
        self._bad.add(zone)

    def lose_spare(self, zone: int) -> bool:
        """A spare zone is no longer usable. Returns False if the zone is not a spare."""
        if zone not in self._spares:
            return False
        self._spares.remove(zone)
        self.give_up(zone)
        return True

    @property
    def bad_zones(self) -> list[int]:
        """Zones that were given up."""
        return sorted(self._bad)

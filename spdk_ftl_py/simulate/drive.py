"""The geometry of a simulated drive."""

from __future__ import annotations

from ..conf import FtlConf
from ..errors import ParameterError
from ..ftl.media.geometry import OPEN_BANDS_SHARED, OPEN_BANDS_SPLIT, SUPERBLOCK_OPEN_ZONES, SUPERBLOCK_ZONES, Geometry
from .spec import Spec


class SimGeometry(Geometry):
    """Bands that hold as many blocks of data as they have: headers and summaries take no room."""

    @property
    def zone_blocks(self) -> int:
        return self.zone_capacity


def geometry_of(spec: Spec) -> tuple[Geometry, FtlConf]:
    """With the conf, whose limits are set. Raises ParameterError if no FTL is possible on it."""
    if spec.open_zones:
        needed = (OPEN_BANDS_SHARED if spec.shared else OPEN_BANDS_SPLIT) * spec.zones + SUPERBLOCK_OPEN_ZONES
        if spec.open_zones < needed:
            raise ParameterError(
                f"open_zones = {spec.open_zones}: bands of {spec.zones} zones need {needed}: use fewer zones in a "
                "band, or share one stream"
            )
    first = len(SUPERBLOCK_ZONES)
    zone_count = first + spec.bands * spec.zones
    geometry = SimGeometry(
        zone_size=spec.band_blocks // spec.zones,
        zone_capacity=spec.band_blocks // spec.zones,
        zone_count=zone_count,
        punits=spec.zones,
        bands=tuple(tuple(range(zone, zone + spec.zones)) for zone in range(first, zone_count, spec.zones)),
        spare_zones=(),
        bad_zones=(),
        replaced={},
        shared_stream=spec.shared,
        open_zones_limit=spec.open_zones,
        batch_blocks=2,
        block_count=spec.block_count,
    )
    return geometry, spec.conf().check_geometry(geometry)

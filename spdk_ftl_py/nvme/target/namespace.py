"""A namespace of a target: a BlockDevice as hosts see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from ... import _shim
from ...errors import ParameterError
from ...runtime.reactor import ReactorLoop
from .. import wire
from ..identify import NamespaceTraits
from .reservations import Reservations


class Namespace:
    """A BlockDevice under an NSID, with its identifiers."""

    def __init__(
        self, nsid: int, device: _shim.BlockDevice, uuid: UUID | None, nguid: bytes, eui64: bytes,
        reservations: Reservations | None = None, ana_group: int = 0,
        elsewhere: Mapping[ReactorLoop, _shim.BlockDevice] | None = None,
    ) -> None:  # fmt: skip
        """ana_group: 0 if the subsystem does not report ANA. elsewhere: the device on further reactors."""
        self.nsid = nsid
        self.reservations = reservations or Reservations()
        self.device = device
        self._elsewhere = dict(elsewhere or {})
        self.uuid = uuid
        self.nguid = nguid
        self.eui64 = eui64
        data_bytes = device.block_bytes - device.metadata_bytes
        if data_bytes < 512 or data_bytes & (data_bytes - 1):
            raise ParameterError(
                f"namespace {nsid}: the device has blocks of {data_bytes} bytes, but NVMe needs a power of two, 512 "
                "at least"
            )
        self.traits = NamespaceTraits(
            block_count=device.block_count,
            data_bytes=data_bytes,
            metadata_bytes=device.metadata_bytes,
            nguid=nguid,
            eui64=eui64,
            uuid=uuid,
            csi=wire.CSI_ZNS if device.zoned else wire.CSI_NVM,
            deallocated_reads_zeroes=device.deallocated_reads_zeroes,
            zone_size=device.zone_size,
            max_open_zones=device.max_open_zones,
            max_active_zones=device.max_active_zones,
            max_append_bytes=device.max_append_blocks * device.block_bytes,
            reservations_persist=self.reservations.can_persist,
            thin=device.thin,
            compare_write_blocks=device.compare_write_blocks,
            ana_group=ana_group,
        )

    def device_on(self, reactor: ReactorLoop) -> _shim.BlockDevice:
        """What I/O queues of that reactor are served by."""
        return self._elsewhere.get(reactor, self.device)

    def measure(self) -> bool:
        """Takes over the current size of the device. False: the size has not changed."""
        resized = self.device.block_count != self.traits.block_count
        self.traits = replace(self.traits, block_count=self.device.block_count)
        return resized

    @property
    def ana_group(self) -> int:
        return self.traits.ana_group

    @property
    def csi(self) -> int:
        return self.traits.csi

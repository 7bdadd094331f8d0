"""bdevs on top of one other: passthru, delay and zone_block. Their configuration outlives their base. When a bdev with
the base's name appears, they are created on it again."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from .. import _shim
from ..errors import FtlError, NotFoundError, ParameterError
from ..runtime.reactor import ReactorLoop
from .bdevs import Bdev, BdevLayer, Descriptor
from .refusals import EEXIST, EINVAL, failed

logger = logging.getLogger(__name__)

# The namespaces in which SPDK's modules hash the UUID of the base. A virtual bdev has the same UUID here and in SPDK.
PASSTHRU_NAMESPACE = UUID("7e25812e-c8c0-4d3f-8599-16d790555b85")
DELAY_NAMESPACE = UUID("4009b574-6430-4f1b-bc40-ace811091027")
ZONE_BLOCK_NAMESPACE = UUID("5f3f485a-d6bb-4443-9de7-023683b77389")
ZONE_BLOCK_IO_TYPES = frozenset(("read", "write", "write_zeroes", "zone_management", "zone_append"))
ZONE_CAPACITY_MAX = 2**63


LATENCIES = ("avg_read", "p99_read", "avg_write", "p99_write")
LATENCY_US_MAX = 10**12
"""More than a week. SPDK's arithmetic overflows somewhere beyond."""


def derived_uuid(namespace: UUID, name: bytes) -> UUID:
    """A version 5 UUID of raw bytes. The standard library accepts only text before Python 3.12."""
    return UUID(bytes=hashlib.sha1(namespace.bytes + name).digest()[:16], version=5)


@dataclass(eq=False)
class VirtualConfig:
    """The parameters of a create RPC. They are kept until the bdev is deleted by name."""

    module: str
    name: str
    base_name: str
    uuid: UUID | None = None
    zone_capacity: int = 0
    optimal_open_zones: int = 0
    latencies_us: dict[str, int] = field(default_factory=dict)  # of a delay, by LATENCIES


def _passthru_bdev(config: VirtualConfig, base: Bdev, _reactor: ReactorLoop) -> Bdev:
    uuid = config.uuid if config.uuid is not None else derived_uuid(PASSTHRU_NAMESPACE, base.uuid.bytes)
    return Bdev(
        config.name, "passthru", "passthru", base.device, base.block_size, base.num_blocks, base.io_types, uuid,
        md_size=base.md_size, md_interleave=base.md_interleave, dif_type=base.dif_type,
        dif_is_head_of_md=base.dif_is_head_of_md, dif_pi_format=base.dif_pi_format, numa_id=base.numa_id,
        memory_domains=base.memory_domains,
        driver_specific=lambda: {"passthru": {"name": config.name, "base_bdev_name": base.name}},
    )  # fmt: skip


def _delay_bdev(config: VirtualConfig, base: Bdev, reactor: ReactorLoop) -> Bdev:
    uuid = config.uuid if config.uuid is not None else derived_uuid(DELAY_NAMESPACE, base.uuid.bytes)
    device = _shim.Delay(
        reactor.shim, base.device, **{f"{kind}_us": latency_us for kind, latency_us in config.latencies_us.items()}
    )
    return Bdev(
        config.name, "delay", "delay", device, base.block_size, base.num_blocks, base.io_types, uuid,
        md_size=base.md_size, md_interleave=base.md_interleave, dif_type=base.dif_type,
        dif_is_head_of_md=base.dif_is_head_of_md, dif_pi_format=base.dif_pi_format, numa_id=base.numa_id,
        memory_domains=base.memory_domains, driver_specific=lambda: {"delay": _delay_params(config, base, uuid)},
    )  # fmt: skip


def _delay_params(config: VirtualConfig, base: Bdev, uuid: UUID) -> dict[str, Any]:
    return {
        "name": config.name, "base_bdev_name": base.name, "uuid": str(uuid),
        **{f"{kind}_latency": config.latencies_us[kind] for kind in LATENCIES},
    }  # fmt: skip


def _zone_block_bdev(config: VirtualConfig, base: Bdev, reactor: ReactorLoop) -> Bdev:
    if base.zoned:
        raise failed(EEXIST)  # as SPDK answers
    if config.zone_capacity > ZONE_CAPACITY_MAX:
        raise failed(EINVAL)
    zone_size = 1 << (config.zone_capacity - 1).bit_length()
    zones = base.num_blocks // zone_size
    if zones == 0:
        raise failed(EINVAL)
    try:
        device = _shim.ZonedOverlay(
            reactor.shim,
            base.device,
            zone_capacity=config.zone_capacity,
            initial_state="full",
            zone_commands=False,
        )
    except ValueError as error:
        raise failed(EINVAL) from error
    details = {
        "name": config.name, "base_bdev": base.name, "zone_capacity": config.zone_capacity,
        "optimal_open_zones": config.optimal_open_zones,
    }  # fmt: skip
    return Bdev(
        config.name, "zone_block", "zone_block", device, base.block_size, zones * zone_size, ZONE_BLOCK_IO_TYPES,
        derived_uuid(ZONE_BLOCK_NAMESPACE, base.uuid.bytes), md_size=base.md_size, md_interleave=base.md_interleave,
        dif_type=base.dif_type, dif_is_head_of_md=base.dif_is_head_of_md, dif_pi_format=base.dif_pi_format,
        numa_id=base.numa_id, zoned=True, zone_size=zone_size, optimal_open_zones=config.optimal_open_zones,
        driver_specific=lambda: {"zoned_block": dict(details)},
    )  # fmt: skip


_BUILDERS = {"passthru": _passthru_bdev, "delay": _delay_bdev, "zone_block": _zone_block_bdev}


class VirtualBdevs:
    """The configurations, and the bdevs built from them."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer) -> None:
        self._reactor = reactor
        self._bdevs = bdevs
        self.configs: dict[tuple[str, str], VirtualConfig] = {}  # by module and name
        bdevs.add_examiner(self._examine)

    def _examine(self, bdev: Bdev) -> None:
        for config in list(self.configs.values()):
            if config.base_name != bdev.name:
                continue
            try:
                self._build(config)
            except FtlError as error:
                logger.warning("%s bdev %s on %s: %s", config.module, config.name, bdev.name, error.message)
                if config.module == "zone_block":
                    del self.configs[config.module, config.name]

    def create(self, config: VirtualConfig) -> None:
        """Stores the configuration, and creates the bdev if its base exists. A missing base is no error: the bdev is
        created when the base appears. As in SPDK, a passthru or delay that fails for another reason keeps its
        configuration, so its name stays taken; a zone_block does not."""
        self.configs[config.module, config.name] = config
        try:
            self._build(config)
        except NotFoundError:
            logger.info("%s bdev %s: deferred until bdev %s exists", config.module, config.name, config.base_name)
        except FtlError:
            if config.module == "zone_block":
                del self.configs[config.module, config.name]
            raise

    def _build(self, config: VirtualConfig) -> None:
        layer = self._bdevs
        base_descriptor = layer.open(config.base_name, config.name, write=True)
        try:
            bdev = _BUILDERS[config.module](config, base_descriptor.bdev, self._reactor)
            layer.claim(base_descriptor)
            self._connect(bdev, base_descriptor)
            layer.register(bdev)
        except BaseException:
            base_descriptor.close()
            raise

    def _connect(self, bdev: Bdev, base_descriptor: Descriptor) -> None:
        layer = self._bdevs

        async def base_goes() -> None:
            if not bdev.removing:
                await layer.unregister(bdev)

        async def let_go() -> None:
            base_descriptor.close()

        base_descriptor.on_remove = base_goes
        if bdev.module == "passthru":
            base_descriptor.on_zones_changed = bdev.zones_changed
        bdev.destroy = let_go

    async def delete(self, name: str, module: str) -> None:
        """Deletes a bdev. Raises NotFoundError if no bdev has that name. As in SPDK, a deferred one does not count."""
        deleted = await self._bdevs.unregister_by_name(name, module)
        self.configs.pop((module, deleted), None)

    def set_latency(self, name: str, kind: str, latency_us: int) -> None:
        """Raises NotFoundError if there is no delay of that name (an alias does not count), and ParameterError if the
        latency is too long."""
        config, bdev = self.configs.get(("delay", name)), self._bdevs.find(name)
        if config is None or bdev is None or not isinstance(bdev.lower, _shim.Delay):
            raise NotFoundError("No such device")
        if latency_us > LATENCY_US_MAX:
            raise ParameterError(f"delay {name}: {latency_us} us is longer than {LATENCY_US_MAX} us")
        bdev.lower.set_latency(kind, latency_us)  # type: ignore[arg-type]
        config.latencies_us[kind] = latency_us

    def saved(self) -> list[dict[str, Any]]:
        """The part of virtual bdevs in framework_get_config: zone_block first, then passthru, as SPDK prints them.
        Deferred ones are left out."""
        entries: list[dict[str, Any]] = []
        for config in self.configs.values():
            if config.module == "zone_block" and self._bdevs.find(config.name) is not None:
                params: dict[str, Any] = {
                    "base_bdev": config.base_name, "name": config.name, "zone_capacity": config.zone_capacity,
                    "optimal_open_zones": config.optimal_open_zones,
                }  # fmt: skip
                entries.append({"method": "bdev_zone_block_create", "params": params})
        for config in self.configs.values():
            if config.module == "passthru" and (bdev := self._bdevs.find(config.name)) is not None:
                params = {"base_bdev_name": config.base_name, "name": config.name, "uuid": bdev.alias}
                entries.append({"method": "bdev_passthru_create", "params": params})
        for config in self.configs.values():
            if config.module == "delay" and (bdev := self._bdevs.find(config.name)) is not None:
                entries.append({"method": "bdev_delay_create", "params": bdev.driver_specific()["delay"]})
        return entries

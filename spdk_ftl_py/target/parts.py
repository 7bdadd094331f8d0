"""bdevs that are parts of one other: error bdevs (all of it, with injected errors) and splits."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from .. import _shim
from ..errors import FtlError, NotFoundError
from ..runtime.reactor import ReactorLoop
from .bdevs import Bdev, BdevLayer, Descriptor
from .refusals import EEXIST, EINVAL, ENODEV, ENOENT, ENOMEM, failed
from .virtual import derived_uuid

logger = logging.getLogger(__name__)

PART_NAMESPACE = UUID("976b899e-3e1e-4d71-ab69-c2b08e9df8b8")
"""In which SPDK hashes the base's UUID and the blocks of a part."""
NOT_IN_PARTS = frozenset(("nvme_admin", "nvme_io", "nvme_io_md"))
MIB = 1024 * 1024
UINT64_END = 2**64


def _part(
    base: Bdev, device: _shim.BlockDevice, name: str, product_name: str, module: str, offset: int, num_blocks: int
) -> Bdev:
    """A bdev of some of the base's blocks. driver_specific is the caller's."""
    uuid = derived_uuid(PART_NAMESPACE, base.uuid.bytes + struct.pack("<QQ", offset, num_blocks))
    return Bdev(
        name, product_name, module, device, base.block_size, num_blocks, base.io_types - NOT_IN_PARTS, uuid,
        md_size=base.md_size, md_interleave=base.md_interleave, dif_type=base.dif_type,
        dif_is_head_of_md=base.dif_is_head_of_md, numa_id=base.numa_id,
    )  # fmt: skip


@dataclass(eq=False)
class ErrorConfig:
    base_name: str
    uuid: UUID | None
    """As given and saved. The bdev does not get it, as in SPDK v26.05."""


class ErrorBdevs:
    """The configurations of bdev_error_create, and the bdevs EE_… built from them."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer) -> None:
        self._reactor = reactor
        self._bdevs = bdevs
        self._configs: list[ErrorConfig] = []
        bdevs.add_examiner(self._examine)

    def _examine(self, bdev: Bdev) -> None:
        for config in list(self._configs):
            if config.base_name == bdev.name:
                try:
                    self._build(config)
                except FtlError as error:
                    logger.warning("error bdev on %s: %s", bdev.name, error.message)

    def create(self, base_name: str, uuid: UUID | None) -> None:
        """A missing base is no error: the bdev is created when the base appears. Raises FtlError; nothing has changed
        then."""
        if any(config.base_name == base_name for config in self._configs):
            raise failed(EEXIST)
        config = ErrorConfig(base_name, uuid)
        self._configs.append(config)
        try:
            self._build(config)
        except NotFoundError:
            logger.info("error bdev EE_%s: deferred until bdev %s exists", base_name, base_name)
        except FtlError:
            self._configs.remove(config)
            raise

    def _build(self, config: ErrorConfig) -> None:
        name = f"EE_{config.base_name}"
        descriptor = self._bdevs.open(config.base_name, name, write=False)
        try:
            base = descriptor.bdev
            self._bdevs.claim(descriptor)
            device = _shim.ErrorInjector(self._reactor.shim, base.device)
            bdev = _part(base, device, name, "Error Injection Disk", "error", 0, base.num_blocks)
            bdev.driver_specific = lambda: {"error_disk": {"base_bdev": base.name}}
            bdev.before_removal = device.abort_pending
            self._connect(bdev, descriptor)
            self._bdevs.register(bdev)
        except BaseException:
            descriptor.close()
            raise

    def _connect(self, bdev: Bdev, descriptor: Descriptor) -> None:
        base_name = descriptor.bdev.name

        async def base_goes() -> None:
            if not bdev.removing:
                await self._bdevs.unregister(bdev)

        async def let_go() -> None:
            # As in SPDK, the configuration does not outlive the bdev.
            self._configs[:] = [config for config in self._configs if config.base_name != base_name]
            descriptor.close()

        descriptor.on_remove = base_goes
        bdev.destroy = let_go

    def find(self, name: str) -> _shim.ErrorInjector:
        """Raises NotFoundError, or RpcError with ENODEV if another module has the bdev."""
        device = self._bdevs.get(name).lower
        if not isinstance(device, _shim.ErrorInjector):
            raise failed(ENODEV)
        return device

    async def delete(self, name: str) -> None:
        await self._bdevs.unregister_by_name(name, "error")

    def abort_pending(self) -> None:
        """For the end of the target: nothing may wait for I/O that is held."""
        for bdev in self._bdevs:
            if isinstance(bdev.lower, _shim.ErrorInjector):
                bdev.lower.abort_pending()

    def saved(self) -> list[dict[str, Any]]:
        """Deferred ones too, as in SPDK."""
        entries: list[dict[str, Any]] = []
        for config in self._configs:
            params = {"base_name": config.base_name}
            if config.uuid is not None:
                params["uuid"] = str(config.uuid)
            entries.append({"method": "bdev_error_create", "params": params})
        return entries


@dataclass(eq=False)
class SplitConfig:
    base_name: str
    count: int
    size_mb: int
    descriptor: Descriptor | None = None
    parts: list[Bdev] = field(default_factory=list)


class SplitBdevs:
    """The configurations of bdev_split_create, and their parts."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer) -> None:
        self._reactor = reactor
        self._bdevs = bdevs
        self._configs: dict[str, SplitConfig] = {}  # by the base's name
        bdevs.add_examiner(self._examine)

    def _examine(self, bdev: Bdev) -> None:
        config = self._configs.get(bdev.name)
        if config is not None and config.descriptor is None:
            try:
                self._build(config)
            except FtlError as error:
                logger.warning("splitting bdev %s: %s", bdev.name, error.message)
                if not config.parts:
                    self._forget(config)

    async def create(self, base_name: str, count: int, size_mb: int) -> list[str]:
        """Returns the names of the parts; none if the base does not exist yet, in which case they are created with it.
        Raises FtlError; nothing has changed then."""
        if count == 0:
            raise failed(EINVAL)
        if base_name in self._configs:
            raise failed(EEXIST)
        config = self._configs[base_name] = SplitConfig(base_name, count, size_mb)
        try:
            self._build(config)
        except NotFoundError:
            logger.info("splits of bdev %s: deferred until it exists", base_name)
        except FtlError:
            await self._take_down(config)
            raise
        return [part.name for part in config.parts]

    def _build(self, config: SplitConfig) -> None:
        """Raises FtlError. Parts that were made before the error are in config.parts, and stay as long as it does."""
        descriptor = self._bdevs.open(config.base_name, f"splits of {config.base_name}", write=False)
        descriptor.on_remove = lambda: self._take_down(config)
        config.descriptor = descriptor
        base = descriptor.bdev
        if config.size_mb:
            size, rest = divmod(config.size_mb * MIB % UINT64_END, base.block_size)
        else:
            size, rest = base.num_blocks // config.count, 0
        if rest or size == 0:
            raise failed(EINVAL)
        try:
            for number in range(min(config.count, base.num_blocks // size)):
                if base.claim is not descriptor:
                    self._bdevs.claim(descriptor)
                self._add(config, descriptor, number * size, size)
        except FtlError as error:
            raise failed(ENOMEM) from error  # SPDK's answer, whatever the reason is

    def _add(self, config: SplitConfig, descriptor: Descriptor, offset: int, num_blocks: int) -> None:
        base, name = descriptor.bdev, f"{config.base_name}p{len(config.parts)}"
        device = _shim.Split(self._reactor.shim, base.device, offset=offset, block_count=num_blocks)
        bdev = _part(base, device, name, "Split Disk", "split", offset, num_blocks)
        bdev.driver_specific = lambda: {"split": {"base_bdev": base.name, "offset_blocks": offset}}

        async def gone() -> None:
            config.parts.remove(bdev)
            if not config.parts:
                self._forget(config)

        bdev.destroy = gone
        config.parts.append(bdev)
        try:
            self._bdevs.register(bdev)
        except FtlError:
            config.parts.remove(bdev)
            raise

    async def _take_down(self, config: SplitConfig) -> None:
        for part in list(config.parts):
            if not part.removing:
                await self._bdevs.unregister(part)
        self._forget(config)

    def _forget(self, config: SplitConfig) -> None:
        if self._configs.get(config.base_name) is config:
            del self._configs[config.base_name]
        if config.descriptor is not None:
            config.descriptor.close()

    async def delete(self, base_name: str) -> None:
        """Deletes all parts of that bdev."""
        config = self._configs.get(base_name)
        if config is None:
            raise failed(ENOENT)
        await self._take_down(config)

    def saved(self) -> list[dict[str, Any]]:
        """Deferred ones too, as in SPDK."""
        return [
            {
                "method": "bdev_split_create",
                "params": {
                    "base_bdev": config.base_name, "split_count": config.count, "split_size_mb": config.size_mb,
                },
            }
            for config in self._configs.values()
        ]  # fmt: skip

"""The requirements of an FTL on its base device."""

from __future__ import annotations

from typing import Final

from .. import _shim
from ..conf import FtlConf
from ..errors import ConfError, ParameterError
from .media.geometry import BATCH_BLOCKS_MIN, BLOCK_BYTES

APPEND_BLOCKS_MAX: Final = 1 << 32
"""SPDK passes on only 32 bits of the address of an append."""


def check_base(name: str, base: _shim.BlockDevice, conf: FtlConf, *, used_blocks: int | None = None) -> None:
    """used_blocks: the part of the device that the FTL uses, from its start; None: all of it.

    Raises ParameterError and, if conf asks for more than the device can do, ConfError.
    """
    blocks = base.block_count if used_blocks is None else used_blocks
    if not base.zoned:
        raise ParameterError(
            f"{name}: the base bdev is not zoned: use a zoned bdev, or give --zone-capacity to emulate zones"
        )
    if base.block_bytes - base.metadata_bytes != BLOCK_BYTES or base.metadata_bytes:
        raise ParameterError(
            f"{name}: the base bdev has blocks of {base.block_bytes - base.metadata_bytes} bytes and "
            f"{base.metadata_bytes} B of metadata: an FTL needs blocks of {BLOCK_BYTES} bytes without metadata: "
            "format the device like that"
        )
    if conf.use_append and not base.max_append_blocks:
        raise ConfError("conf use_append = True: the base bdev does not support zone append: leave use_append out")
    if conf.use_append and base.max_append_blocks < BATCH_BLOCKS_MIN:
        raise ConfError(
            f"conf use_append = True: the base bdev takes appends of {base.max_append_blocks} block, but a batch is "
            f"one append of at least {BATCH_BLOCKS_MIN} blocks, a header and data: leave use_append out"
        )
    if conf.use_append and blocks > APPEND_BLOCKS_MAX:
        raise ConfError(
            f"conf use_append = True: the base bdev has {blocks} blocks, but SPDK reports only 32 bits of the address "
            "of an append: leave use_append out"
        )

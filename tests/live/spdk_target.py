"""A real spdk_tgt, as spdk_ftl_py.testing starts it."""

from __future__ import annotations

from spdk_ftl_py.under_test.spdk_tgt import MEMORY_MIB, STOP_TIMEOUT_S, SpdkTarget, SpdkTargetError

__all__ = ["MEMORY_MIB", "STOP_TIMEOUT_S", "SpdkTarget", "SpdkTargetError"]

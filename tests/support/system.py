"""The programs of a system under test: those of spdk_ftl_py.testing, by the names that our own tests have for them."""

from __future__ import annotations

from spdk_ftl_py.under_test.programs import (
    RPC_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Daemon,
    EmbeddedTarget,
    Program,
    ProgramError,
    TargetClient,
    surroundings,
)

__all__ = [
    "RPC_TIMEOUT_S",
    "STOP_TIMEOUT_S",
    "Daemon",
    "EmbeddedTarget",
    "Program",
    "ProgramError",
    "TargetClient",
    "surroundings",
]

"""Programs that tests need, and that a machine may lack (README, "test packages")."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRE_ENV = "SPDK_FTL_REQUIRE_INTEROP"
"""1: a missing program is a failure, as in CI. Else the test skips."""


def need(*programs: str) -> None:
    """Skips the test, or fails it, if one of these is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        lacking(f"not installed: {', '.join(missing)} (README has the packages of the tests)")


def lacking(reason: str) -> NoReturn:
    """Skips the test, or fails it."""
    if os.environ.get(REQUIRE_ENV) == "1":
        pytest.fail(f"{REQUIRE_ENV}=1, but {reason}", pytrace=False)
    pytest.skip(reason)

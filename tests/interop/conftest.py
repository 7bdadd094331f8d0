"""One guest per session. Where there can be none, tests skip loudly, or fail with SPDK_FTL_REQUIRE_INTEROP=1."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from interop.guest import Guest
from interop.kernel import KernelUnavailableError

REQUIRE_ENV = "SPDK_FTL_REQUIRE_INTEROP"


@pytest.fixture(scope="session")
def guest() -> Iterator[Guest]:
    try:
        machine = Guest()
    except KernelUnavailableError as error:
        if os.environ.get(REQUIRE_ENV) == "1":
            pytest.fail(f"{REQUIRE_ENV}=1, but there is no guest: {error}", pytrace=False)
        pytest.skip(f"NO INTEROP TESTED, there is no guest: {error}")
    with machine:
        yield machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    machine = getattr(item, "funcargs", {}).get("guest")
    if report.failed and isinstance(machine, Guest):
        report.sections.append(("guest console", machine.console_tail()))
    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the paths of sockets may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        yield Path(path)

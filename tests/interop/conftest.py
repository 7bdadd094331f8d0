"""One guest for all tests, and another one behind a test that it hung in.

Where there can be none, tests skip loudly, or fail with SPDK_FTL_REQUIRE_INTEROP=1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from interop.guest import Guest
from interop.kernel import Kernel, KernelUnavailableError, fetch_kernel, fetch_kernel_with_host_auth
from support.tools import lacking


def boot(kernel: Callable[[], Kernel] = fetch_kernel) -> Guest:
    try:
        return Guest(kernel())
    except KernelUnavailableError as error:
        lacking(f"there is no guest: {error}")


@pytest.fixture(scope="session")
def guests() -> Iterator[list[Guest]]:
    """The guest that runs, if one does."""
    running: list[Guest] = []
    yield running
    for machine in running:
        machine.close()


@pytest.fixture
def guest(guests: list[Guest]) -> Guest:
    if guests and guests[0].is_broken:
        guests.pop().close()
    if not guests:
        guests.append(boot())
    return guests[0]


@pytest.fixture(scope="module")
def proving_guest() -> Iterator[Guest]:
    """One whose kernel can prove with DH-HMAC-CHAP who it is. That of a later release no machine has to have."""
    try:
        kernel = fetch_kernel_with_host_auth()
    except KernelUnavailableError as error:
        pytest.skip(f"LINUX AND DH-HMAC-CHAP NOT TESTED: {error}")
    with boot(lambda: kernel) as machine:
        yield machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    arguments = getattr(item, "funcargs", {})
    machine = arguments.get("guest") or arguments.get("proving_guest")
    if report.failed and isinstance(machine, Guest):
        report.sections.append(("guest console", machine.console_tail()))
    return report


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the paths of sockets may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        yield Path(path)

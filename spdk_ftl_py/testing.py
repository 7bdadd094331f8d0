"""A pytest plugin: an SPDK target, the daemon and an FTL as fixtures of your tests (docs/testing-your-project.md).

A project that wants it says so in the conftest.py of its root::

    pytest_plugins = ["spdk_ftl_py.testing"]

It is no entry point of pytest's: then it would be loaded, and its fixtures would be there, in every project of an
environment that has this package.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from .errors import ParameterError
from .under_test.options import FtlOptions
from .under_test.programs import ProgramError
from .under_test.restartable import DaemonUnderTest, FtlUnderTest, TargetUnderTest
from .under_test.spdk_tgt import SpdkTargetError

__all__ = [
    "DaemonUnderTest",
    "FtlOptions",
    "FtlUnderTest",
    "ProgramError",
    "SpdkTargetError",
    "TargetUnderTest",
    "ftl",
    "ftl_daemon",
    "ftl_folder",
    "ftl_options",
    "spdk_target",
]

PROGRAM_ENVIRONMENT: Final = "SPDK_TGT"
"""A real spdk_tgt for the tests: a path, or a name on PATH."""
LOG_LINES: Final = 60
LOGS: Final = ("target", "spdk_tgt", "daemon")
_FOLDER: Final = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "spdk_ftl(zones, zone_mib, max_open, hosts, create): the FTL that the fixtures of spdk_ftl_py.testing make",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """A test that fails shows the end of the logs of its programs."""
    report: pytest.TestReport = (yield).get_result()
    folder = item.stash.get(_FOLDER, None)
    if folder is None or not report.failed:
        return
    for name in LOGS:
        log = folder / f"{name}.log"
        if log.exists():
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((f"log of the {name}", "\n".join(lines)))


@pytest.fixture
def ftl_options(request: pytest.FixtureRequest) -> FtlOptions:
    """The options of the marker ``spdk_ftl``: those of the test, then of its class, then of its module."""
    given: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("spdk_ftl"))):
        if marker.args:
            pytest.fail("spdk_ftl(…): give the options by name, such as spdk_ftl(zones=128)", pytrace=False)
        given.update(marker.kwargs)
    try:
        return FtlOptions.of(given)
    except ParameterError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def ftl_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for sockets, logs and drives of this test alone. Unlike tmp_path it is short enough for the paths of
    sockets, and removed with all that is in it when the test ends."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        request.node.stash[_FOLDER] = folder
        yield folder


@pytest.fixture
def spdk_target(ftl_folder: Path, ftl_options: FtlOptions) -> Iterator[TargetUnderTest]:
    """A target with the base bdev ``Nvme0n1``: the embedded one, or the spdk_tgt that SPDK_TGT names."""
    given = os.environ.get(PROGRAM_ENVIRONMENT)
    program = shutil.which(given) if given else None
    if given and program is None:
        pytest.fail(f"{PROGRAM_ENVIRONMENT}={given} is not a program", pytrace=False)
    target = TargetUnderTest(ftl_folder, ftl_options, program and str(Path(program).absolute()))
    yield target
    target.stop()


@pytest.fixture
def ftl_daemon(ftl_folder: Path) -> Iterator[DaemonUnderTest]:
    """The daemon, with control socket, state and write buffers of this test alone."""
    daemon = DaemonUnderTest(ftl_folder)
    yield daemon
    daemon.stop()


@pytest.fixture
def ftl(spdk_target: TargetUnderTest, ftl_daemon: DaemonUnderTest, ftl_options: FtlOptions) -> FtlUnderTest:
    """The FTL ``ftl0`` on the target's base bdev."""
    return FtlUnderTest.create(spdk_target, ftl_daemon, ftl_options)

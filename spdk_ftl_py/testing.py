"""A pytest plugin: an SPDK target, the daemon and an FTL as fixtures of your tests (docs/testing-your-project.md).

A project loads it in the conftest.py of its root::

    pytest_plugins = ["spdk_ftl_py.testing"]

It is not an entry point of pytest. Otherwise pytest would load it in every project of an environment that has this
package.
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
        "spdk_ftl(zones, zone_mib, max_open, hosts, create): options of the FTL that spdk_ftl_py.testing makes",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Adds the last lines of the programs' logs to the report of a test that fails."""
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
    """The options of the marker ``spdk_ftl``. Those of the test override those of its class and of its module."""
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
    """A folder for the sockets, logs and drives of this test. Unlike that of tmp_path, its path is short enough for
    sockets. The fixture removes the folder when the test ends."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        request.node.stash[_FOLDER] = folder
        yield folder


@pytest.fixture
def spdk_target(ftl_folder: Path, ftl_options: FtlOptions) -> Iterator[TargetUnderTest]:
    """A target with an NVMe/TCP transport and the base bdev ``Nvme0n1``: the embedded target, or the spdk_tgt that the
    environment variable SPDK_TGT names."""
    given = os.environ.get(PROGRAM_ENVIRONMENT)
    program = shutil.which(given) if given else None
    if given and program is None:
        pytest.fail(f"{PROGRAM_ENVIRONMENT}={given} is not a program", pytrace=False)
    target = TargetUnderTest(ftl_folder, ftl_options, program and str(Path(program).absolute()))
    yield target
    target.stop()


@pytest.fixture
def ftl_daemon(ftl_folder: Path) -> Iterator[DaemonUnderTest]:
    """The daemon ``spdk-ftl serve``, with its own control socket, state and write buffers."""
    daemon = DaemonUnderTest(ftl_folder)
    yield daemon
    daemon.stop()


@pytest.fixture
def ftl(spdk_target: TargetUnderTest, ftl_daemon: DaemonUnderTest, ftl_options: FtlOptions) -> FtlUnderTest:
    """The FTL ``ftl0``, which the daemon has created on the target's base bdev."""
    return FtlUnderTest.create(spdk_target, ftl_daemon, ftl_options)

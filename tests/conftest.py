"""For all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["support.async_tests"]


@pytest.fixture(autouse=True, scope="session")
def away_from_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that tests start look for the package in their working directory first, and the one in the checkout has
    no extension when it is the installed one that is tested."""
    before = os.getcwd()
    if path := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in path.split(os.pathsep))
    os.chdir(tmp_path_factory.mktemp("away"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_the_foreground() -> None:
    """A shell starts what runs in the background with these ignored, and so would be the programs that tests start."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """SPDK_FTL_FIRST_SEED=1, for slow builds: of what is tried with one seed after another only the first."""
    if not os.environ.get("SPDK_FTL_FIRST_SEED"):
        return
    others = [item for item in items if isinstance(item, pytest.Function) and _seed(item) > 0]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def _seed(item: pytest.Function) -> int:
    return int(item.callspec.params.get("seed", 0)) if hasattr(item, "callspec") else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """`--dist loadscope`: one worker has all tests of tests/interop, and so there is one guest; every other test is a
    scope of its own. (The marks of `--dist loadgroup` have no effect with pytest 9.2 and xdist 3.8.)
    """
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class OneGuest(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "guest" if nodeid.startswith("tests/interop/") else nodeid

    return OneGuest(config, log)

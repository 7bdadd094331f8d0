"""For all tests."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import forks, sanitized

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["support.async_tests"]

FORKED = tuple(Path(__file__).parent / name for name in ("e2e", "interop", "mutation"))
"""Tests whose programs are forked, where they can be."""
_forking = contextlib.ExitStack()


def pytest_report_header(config: pytest.Config) -> str | None:
    given = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if not any(path in (folder, *folder.parents) or folder in path.parents for path in given for folder in FORKED):
        return None
    why_not = forks.why_not()
    how = f"each is started ({why_not})" if why_not else f"forked where they can be; {forks.CHOSEN}=0 starts each"
    return f"programs of tests/e2e, interop and mutation: {how}"


def pytest_collection_finish() -> None:
    """The garbage collector no longer looks at what pytest has collected, which is there until the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Around a test and its fixtures, those of its module among them."""
    fork = any(folder in item.path.parents for folder in FORKED) and item.get_closest_marker("started") is None
    if fork and os.environ.get(forks.CHOSEN) != "0":
        _forking.enter_context(forks.forking_anyway())
    with forks.started(not fork):
        return (yield)


def pytest_unconfigure() -> None:
    _forking.close()


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        sanitized.OPTION,
        choices=[part.value for part in sanitized.Part],
        help="only the tests of one of the two runs of `tox -e asan`, or only those that neither has",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    part, place = sanitized.part_of(config), sanitized.place_of(collection_path)
    return True if part is not None and place is not None and not part.takes_file(place) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """SPDK_FTL_FIRST_SEED=1, for slow builds: of what is tried with one seed after another only the first."""
    others: list[pytest.Item] = []
    if os.environ.get("SPDK_FTL_FIRST_SEED"):
        others = [item for item in items if _seed(item) > 0]
    if (part := sanitized.part_of(config)) is not None:
        others += sanitized.left_out(part, items, [_seed(item) for item in items])
    if others:
        config.hook.pytest_deselected(items=others)
        dropped = set(others)
        items[:] = [item for item in items if item not in dropped]
    for item in items if sanitized.runs_sanitized() else ():
        if (mark := item.get_closest_marker(sanitized.MARK)) is not None:
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


def _seed(item: pytest.Item) -> int:
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

"""Which messages a program logs, and in what form."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.runtime.logs import JournalFormatter, LogLevels, goes_to_journal, log_to_stderr, logger_name

SUBJECTS = ("ftl", "ftl.gc", "ftl.gc.manager", "audit")


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("asyncio"), *map(logging.getLogger, map(logger_name, SUBJECTS))]
    before = [(each, each.level) for each in loggers]
    yield
    for each, level in before:
        each.setLevel(level)


def shown(subject: str, level: int) -> bool:
    return logging.getLogger(logger_name(subject)).isEnabledFor(level)


def test_a_subject_is_a_part_of_the_package_and_what_is_in_it() -> None:
    levels = LogLevels.parse(["warning", "ftl.gc=debug", "audit=info"], level="debug")
    levels.apply()
    assert not shown("ftl", logging.INFO)
    assert shown("ftl", logging.WARNING)
    assert shown("ftl.gc.manager", logging.DEBUG)
    assert shown("audit", logging.INFO)
    assert not logging.getLogger("asyncio").isEnabledFor(logging.INFO)


def test_levels_change_and_return_to_what_they_were() -> None:
    levels = LogLevels.parse(["info", "ftl=error"])
    levels.apply()
    levels.set("debug")
    levels.set("debug", "ftl.gc")
    assert (levels.level, levels.subjects) == ("debug", {"ftl": "error", "ftl.gc": "debug"})
    assert shown("ftl.gc", logging.DEBUG)
    levels.set("default", "ftl.gc")
    levels.set("default")
    assert (levels.level, levels.subjects) == ("info", {"ftl": "error"})
    assert not shown("ftl.gc", logging.WARNING)
    levels.set("default", "ftl")
    assert shown("ftl.gc", logging.INFO)
    assert not shown("ftl.gc", logging.DEBUG)
    with pytest.raises(ParameterError, match="there is no such subject"):
        levels.set("debug", "ftl.no_such")


@pytest.mark.parametrize("setting", ["", "x", "=info", "ftl=", "os=debug", "ftl.gc.manager.x=debug", "Ftl=debug"])
def test_what_is_no_level_or_no_subject_is_refused(setting: str) -> None:
    with pytest.raises(ParameterError):
        LogLevels.parse([setting])


def test_the_journal_is_what_systemd_says_it_is(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as file, (tmp_path / "other").open("w") as other:
        found = (tmp_path / "journal").stat()
        environment = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert goes_to_journal(environment, file.fileno())
        assert not goes_to_journal(environment, other.fileno())
        assert not goes_to_journal({}, file.fileno())
        assert not goes_to_journal({"JOURNAL_STREAM": "x:y"}, file.fileno())
        assert not goes_to_journal(environment, 1 << 20)


def test_each_line_has_its_priority_in_the_journal() -> None:
    formatter = JournalFormatter("%(levelname).1s %(name)s: %(message)s")

    def lines(level: int, message: str, error: bool = False) -> list[str]:
        made = logging.LogRecord("x", level, "f", 1, message, (), sys.exc_info() if error else None)
        return formatter.format(made).split("\n")

    for level, priority in ((50, 3), (40, 3), (30, 4), (20, 6), (10, 7)):
        (line,) = lines(level, "a\n<0>b")
        assert line.startswith(f"<{priority}>")
        # A stranger's line end makes no second line with a priority of its own.
        assert line.endswith("x: a\\n<0>b")
    try:
        raise ValueError("a\n<0>b")
    except ValueError:
        told = lines(logging.ERROR, "all is lost", error=True)
    assert len(told) > 3
    assert all(line.startswith("<3>") for line in told)


@pytest.mark.parametrize("is_journal", [True, False])
def test_stderr_has_the_form_that_fits_it(is_journal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        found = (tmp_path / "log").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + (not is_journal)}")
        log_to_stderr("%(message)s", LogLevels("info"))
        logging.getLogger("x").warning("so")
        logging.getLogger("x").debug("not this")
    (line,) = (tmp_path / "log").read_text().splitlines()
    if is_journal:
        assert line == "<4>so"
    else:
        assert line[:2] == "20"
        assert line.endswith(" so")
